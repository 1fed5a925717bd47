"""Sources that go once they have arrived: --remove-source.

Lives here: what has to be so before one goes; directories that became empty; asking the server.
Lives elsewhere: when something has arrived (file_upload.py, file_download.py).

A file goes after the other side has it for good, and only if it still is what was transferred: so a
process that ends at any time has lost nothing. What a link leads to stays; the link itself goes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Asked, Call
from ftpclient.transfer.listing import find
from ftpclient.transfer.placing import unlink
from ftpwire import beneath, paths
from ftpwire.errors import (
    CommandError,
    ConnectionLost,
    Forbidden,
    FtpError,
    InvalidPath,
    NotEmpty,
    NotFound,
    SourceChanged,
)
from ftpwire.messages import IF_SAME, Entry, FileType, Found, Remove, Stat
from ftpwire.paths import RemotePath

_PROBE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_STAYS = "changed meanwhile: it was transferred, and stays"
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY, errno.EINVAL)


def remove_sent(source: bytes, info: os.stat_result) -> None:
    """Remove a local file or link that was sent. One that is gone already is no matter.

    Args:
        info: What was sent. Where a link leads to that, the link goes.

    Raises:
        OSError: It can't be removed.
        SourceChanged: It is something else by now.
    """
    directory, name = os.path.split(source)
    above = os.open(directory or b".", beneath.OPEN_DIRECTORY)
    try:
        there = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISLNK(there.st_mode) and not stat.S_ISLNK(info.st_mode):
            there = os.stat(name, dir_fd=above)
        if not _is_same(there, info):
            raise SourceChanged(f"{paths.show(source)}: {_STAYS}")
        os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        pass
    finally:
        os.close(above)


def _is_same(there: os.stat_result, sent: os.stat_result) -> bool:
    if not os.path.samestat(there, sent):
        return False
    if stat.S_ISDIR(sent.st_mode):
        return True  # its contents have gone, or stay
    return (there.st_size, there.st_mtime_ns) == (sent.st_size, sent.st_mtime_ns)


class Apart:
    """Refuses to move from a directory into itself: the server may be on this machine, or what it
    serves mounted here. What has arrived would be what is removed."""

    def __init__(self) -> None:
        self._known: set[tuple[bytes, RemotePath]] = set()

    def check(self, connection: Connection, here: bytes, there: RemotePath) -> None:
        """Look once whether a local directory, if it is there, is one on the server.

        Raises:
            OSError, CommandError: Above all `InvalidPath`: it is.
        """
        if (here, there) not in self._known:
            _check_apart(connection, here, there)
            self._known.add((here, there))


def _check_apart(connection: Connection, here: bytes, there: RemotePath) -> None:
    name = paths.PARTIAL_PREFIX + os.urandom(8).hex().encode() + paths.PARTIAL_SUFFIX
    try:
        above = os.open(here or b".", beneath.OPEN_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        is_same = _appears(connection, above, name, paths.child(there, name))
    finally:
        os.close(above)
    if is_same:
        raise InvalidPath(
            f"{paths.show(here or b'.')} here is {paths.show(there)} on the server: "
            "nothing can be moved from one to the other"
        )


def _appears(connection: Connection, above: int, name: bytes, there: RemotePath) -> bool:
    """Whether the server has what is made in a directory here."""
    try:
        os.close(os.open(name, _PROBE, 0o600, dir_fd=above))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False  # then nothing can be removed from it, nor come into it
        raise
    try:
        return find(connection, there) is not None
    except Forbidden:
        return False  # it is never told what is there
    finally:
        unlink(above, name)


def remove_empty(directory: bytes) -> None:
    """Remove a local directory, unless something is in it. Raises OSError."""
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise


class Fetched(msgspec.Struct, frozen=True):
    """A remote file or link that is here for good.

    Attributes:
        path: Where it was on the server.
        digest: Of a file.
        target: Of a link.
    """

    path: RemotePath
    type: FileType
    size: int
    mtime_ns: int
    digest: bytes | None = None
    target: bytes | None = None

    def is_still(self, entry: Entry) -> bool:
        """Whether this is what is there."""
        if entry.type != self.type or entry.mtime_ns != self.mtime_ns:
            return False
        if entry.type == "link":
            return entry.target == self.target
        return entry.size == self.size and entry.digest in (None, self.digest)


Failed = Callable[[RemotePath, FtpError], None]
"""Hears what could not be removed from the server, and why."""


def remove_fetched(connection: Connection, fetched: list[Fetched], failed: Failed) -> None:
    """Have the server remove what was fetched, if it still is what was: all at once.

    Raises:
        ConnectionLost: Some of it may be there still.
    """
    looks = [_look(connection, one.path) for one in fetched]
    for one, look in zip(fetched, looks, strict=True):
        try:
            named = there = connection.result(look)
            if named.entry.type == "link" and one.type == "file":
                # it was named, and leads to the file that was meant: what goes is the link
                there = connection.result(_look(connection, one.path, follow=True))
            if not one.is_still(there.entry):
                raise SourceChanged(f"{paths.show(one.path)}: {_STAYS}")
        except NotFound:
            continue
        except CommandError as error:
            failed(one.path, error)
            continue
        request = Remove(one.path)
        if IF_SAME in connection.server.features:  # else it may be replaced before it is removed
            request = Remove(one.path, False, named.entry.size, named.entry.mtime_ns)
        connection.submit(_Removal(one.path, failed), request)


def _look(connection: Connection, path: RemotePath, *, follow: bool = False) -> Asked[Found]:
    """Ask what is at a path."""
    look = Asked[Found]()
    connection.submit(look, Stat(path, follow=follow, digest=True))
    return look


def remove_empty_there(connection: Connection, directory: RemotePath, failed: Failed) -> None:
    """Have the server remove a directory, unless something is in it."""
    connection.submit(_Removal(directory, failed), Remove(directory))


class _Removal(Call):
    """One removal on its way. Whoever was quicker, and what came into a directory, is no matter."""

    def __init__(self, path: RemotePath, failed: Failed) -> None:
        super().__init__()
        self._path = path
        self._failed = failed

    def on_done(self) -> None:
        quiet = (NotFound, NotEmpty, ConnectionLost)
        error = self.error
        if isinstance(error, SourceChanged):
            error = SourceChanged(f"{paths.show(self._path)}: {_STAYS}")
        if error is not None and not isinstance(error, quiet):
            self._failed(self._path, error)
