"""Removing sources after they have arrived: --remove-source.

Lives here: the checks before a source is removed; removing directories that became empty; removing
on the server.
Lives elsewhere: when a file has arrived (file_upload.py, file_download.py).

A file is removed only after the other side has synced it to disk, and only if it has not changed
since: so nothing is lost if the process is killed at any time. A link is removed itself, its target
stays.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call, UnaryCall
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
_STAYS = "changed meanwhile; it was transferred, but not removed"
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY, errno.EINVAL)


def remove_sent(source: bytes, info: os.stat_result) -> None:
    """Remove a local file or link that was sent. It is no error if it does not exist any more.

    Args:
        info: The state of what was sent. If the source is a link to it, the link is removed.

    Raises:
        OSError: It cannot be removed.
        SourceChanged: It has changed since.
    """
    directory, name = os.path.split(source)
    above = os.open(directory or b".", beneath.OPEN_DIRECTORY)
    try:
        there = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISLNK(there.st_mode) and not stat.S_ISLNK(info.st_mode):
            there = os.stat(name, dir_fd=above)
        if not _is_same(there, info):
            raise SourceChanged(f"{paths.show(source)}: {_STAYS}")
        os.unlink(name, dir_fd=above)  # by the handle in which it was compared
    except FileNotFoundError:
        pass
    finally:
        os.close(above)


def _is_same(there: os.stat_result, sent: os.stat_result) -> bool:
    if not os.path.samestat(there, sent):
        return False
    if stat.S_ISDIR(sent.st_mode):
        return True  # its contents are dealt with by themselves
    return (there.st_size, there.st_mtime_ns) == (sent.st_size, sent.st_mtime_ns)


class Apart:
    """Refuses to move a directory into itself.

    The server may be on this machine, or its files may be mounted here. Then removing the source
    would remove what has just arrived.
    """

    def __init__(self) -> None:
        self._known: set[tuple[bytes, RemotePath]] = set()

    def check(self, connection: Connection, here: bytes, there: RemotePath) -> None:
        """Check once whether a local directory, if it exists, is the given remote one.

        Raises:
            InvalidPath: It is.
            OSError, CommandError: It could not be found out.
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
            "cannot move from one to the other"
        )


def _appears(connection: Connection, above: int, name: bytes, there: RemotePath) -> bool:
    """Return whether a file created in a local directory appears on the server."""
    try:
        os.close(os.open(name, _PROBE, 0o600, dir_fd=above))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False  # then nothing can be removed from it or written into it
        raise
    try:
        return find(connection, there) is not None
    except Forbidden:
        return False  # the server never shows what exists there
    finally:
        unlink(above, name)


def remove_empty(directory: bytes) -> None:
    """Remove a local directory unless it has entries. Raises OSError."""
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise


class Fetched(msgspec.Struct, frozen=True):
    """A remote file or link that has arrived and was synced to disk.

    Attributes:
        path: The remote path.
        digest: The digest of a file.
        target: The target of a link.
    """

    path: RemotePath
    type: FileType
    size: int
    mtime_ns: int
    digest: bytes | None = None
    target: bytes | None = None

    def is_still(self, entry: Entry) -> bool:
        """Return whether an entry still equals this."""
        if entry.type != self.type or entry.mtime_ns != self.mtime_ns:
            return False
        if entry.type == "link":
            return entry.target == self.target
        return entry.size == self.size and entry.digest in (None, self.digest)


Failed = Callable[[RemotePath, FtpError], None]
"""Called with a path that could not be removed from the server, and the error."""


def remove_fetched(connection: Connection, fetched: list[Fetched], failed: Failed) -> None:
    """Remove files and links from the server, all at once, unless they have changed since.

    Raises:
        ConnectionLost: Some of them may still exist.
    """
    looks = [_look(connection, one.path) for one in fetched]
    for one, look in zip(fetched, looks, strict=True):
        try:
            named = there = connection.result(look)
            if named.entry.type == "link" and one.type == "file":
                # the source is a link to this file: remove the link
                there = connection.result(_look(connection, one.path, follow=True))
            if not one.is_still(there.entry):
                raise SourceChanged(f"{paths.show(one.path)}: {_STAYS}")
        except NotFound:
            continue
        except CommandError as error:
            failed(one.path, error)
            continue
        request = Remove(one.path)
        if IF_SAME in connection.server.features:  # the server compares again as it removes
            request = Remove(one.path, False, named.entry.size, named.entry.mtime_ns)
        connection.submit(_Removal(one.path, failed), request)


def _look(connection: Connection, path: RemotePath, *, follow: bool = False) -> UnaryCall[Found]:
    """Request the entry at a path."""
    look = UnaryCall[Found]()
    connection.submit(look, Stat(path, follow=follow, digest=True))
    return look


def remove_empty_there(connection: Connection, directory: RemotePath, failed: Failed) -> None:
    """Remove a remote directory unless it has entries."""
    connection.submit(_Removal(directory, failed), Remove(directory))


class _Removal(Call):
    """A removal being requested. Not an error: it is gone already, or a directory is not empty."""

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
