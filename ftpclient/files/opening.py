"""Opening a remote file: what each mode does, and the checks before.

Lives here: the modes.
Lives elsewhere: the file objects (reader.py, writer.py), the verbs that they use (client.py).
"""

from __future__ import annotations

from functools import partial
from typing import Literal, Protocol

from ftpclient.arguments import Replace
from ftpclient.connection.connection import Connection
from ftpclient.connection.driver import Trusted
from ftpclient.connection.interrupt import Interrupt, wait_for
from ftpclient.errors import public
from ftpclient.files.reader import RawReader, Reader
from ftpclient.files.writer import StreamUpload, Writer
from ftpclient.transfer.calls import check_digest
from ftpclient.transfer.ranges import Piece
from ftpclient.transfer.report import Listener
from ftpclient.transfer.retry import Patience
from ftpwire import paths
from ftpwire.errors import (
    AlreadyExists,
    Forbidden,
    IsADirectory,
    NotADirectory,
    NotFound,
    SourceChanged,
)
from ftpwire.messages import Entry, Hashed
from ftpwire.paths import RemotePath

WriteMode = Literal["wb", "xb", "ab"]

MODE = 0o644
"""Permission bits of a new file."""


class Verbs(Protocol):
    """The parts of a `Client` that this module uses."""

    retry_for: float
    retries: int | None

    @property
    def connection(self) -> Connection: ...

    def find(self, path: bytes, *, follow: bool = False) -> Entry | None: ...

    def hash(self, path: bytes) -> Hashed: ...

    def fetch_range(self, path: bytes, offset: int, length: int) -> Piece: ...

    def write(
        self,
        path: bytes,
        data: memoryview,
        *,
        overwrite: Replace = "always",
        mode: int | None = None,
        parents: bool = False,
    ) -> int: ...

    def connection_apart(self, interrupt: Interrupt, words: str) -> Connection: ...

    def connection_beside(self, interrupt: Interrupt, like: Trusted) -> Connection: ...


def open_to_read(client: Verbs, path: RemotePath, name: str | bytes) -> Reader:
    """Open a file for reading. Raises NotFound, IsADirectory, NotRegular, Forbidden, …"""

    def fetch(offset: int, length: int) -> Piece:
        return client.fetch_range(path, offset, length)

    def ask_digest() -> bytes | None:
        return client.hash(path).digest if client.connection.verify else None

    def check(path: RemotePath, expected: bytes | None, digest: bytes) -> None:
        check_digest(path, expected, digest, client.connection)

    raw = RawReader(fetch, path, name, ask_digest=ask_digest, check=check)
    return Reader(raw)


def open_to_write(
    client: Verbs,
    path: RemotePath,
    name: str | bytes,
    mode: WriteMode,
    *,
    parents: bool = False,
    autocommit: bool = True,
) -> Writer:
    """Open a file for writing. What cannot succeed raises here, before anything is written.

    Raises:
        IsADirectory, Forbidden, ConnectionLost
        AlreadyExists: The path exists, with ``xb``.
        NotFound, NotADirectory: The parent is missing, or is not a directory.
    """
    check_names_a_file(name)
    there = _look(client, path, follow=mode != "xb")
    if mode == "xb" and there is not None:
        raise AlreadyExists(f"{paths.show(path)}: already exists")
    if there is not None and there.type == "dir":
        raise IsADirectory(f"{paths.show(path)}: is a directory")
    if there is None and not parents:
        _check_directory(client, paths.parent_of(path))
    target = _Target(client, path, mode, there, parents)
    position = there.size if there is not None and mode == "ab" else 0
    return Writer(target, name, mode, position=position, autocommit=autocommit)


def mode_of(there: Entry | None) -> int:
    """Return the permission bits for a file to write: those of the file that it replaces."""
    return MODE if there is None or there.type != "file" else there.mode & 0o777


def check_names_a_file(name: str | bytes) -> None:
    """Raise IsADirectory if a path can only name a directory."""
    typed = paths.from_text(name) if isinstance(name, str) else name
    if typed.endswith(b"/"):
        raise IsADirectory(f"{paths.show(typed)}: a directory: give a file name")


def _check_directory(client: Verbs, path: RemotePath) -> None:
    """Raise NotFound or NotADirectory unless there is a directory."""
    try:
        found = client.find(path, follow=True)
    except Forbidden:
        return  # unknown: the upload will show it
    if found is None:
        raise NotFound(f"{paths.show(path)}: no such file or directory")
    if found.type != "dir":
        raise NotADirectory(f"{paths.show(path)}: not a directory")


def _look(client: Verbs, path: RemotePath, *, follow: bool) -> Entry | None:
    try:
        return client.find(path, follow=follow)
    except Forbidden:
        return None  # a drop box reveals nothing: the upload will show it


class _Target:
    """The target of a writer's bytes."""

    def __init__(
        self,
        client: Verbs,
        path: RemotePath,
        mode: WriteMode,
        there: Entry | None,
        parents: bool,
    ) -> None:
        self._client = client
        self._path = path
        self._appends = mode == "ab"
        self._parents = parents
        self._there = there if self._appends else None
        self._before: Reader | None = None
        is_new = mode == "xb" or (self._appends and there is None)
        self._overwrite: Replace = "never" if is_new else "always"
        self._mode = mode_of(there)

    def before(self) -> Reader | None:
        if self._there is None:
            return None
        self._before = open_to_read(self._client, self._path, self._path)
        return self._before

    def check_unchanged(self) -> None:
        if self._before is None:
            return
        now = self._client.find(self._path, follow=True)
        raw = self._before.raw
        if now is None or (now.size, now.mtime_ns) != (raw.size, raw.mtime_ns):
            changed = SourceChanged(f"{paths.show(self._path)}: changed while it was appended to")
            raise public(changed, self._path)

    def store(self, data: memoryview) -> None:
        self._client.write(
            self._path, data, overwrite=self._overwrite, mode=self._mode, parents=self._parents
        )

    def stream(self) -> StreamUpload:
        client, interrupt = self._client, Interrupt()
        patience = Patience(
            client.retry_for, client.retries, Listener(), partial(wait_for, interrupt=interrupt)
        )
        try:
            words = f"Client.open {paths.show(self._path)}"
            connection = client.connection_apart(interrupt, words)
        except BaseException:
            interrupt.close()
            raise
        return StreamUpload(
            connection,
            interrupt,
            partial(client.connection_beside, interrupt, Trusted(connection.context, None)),
            patience,
            self._path,
            overwrite=self._overwrite,
            mode=self._mode,
            parents=self._parents,
        )
