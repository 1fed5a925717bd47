"""The trash of a home: a directory with one directory for each operation.

Lives here: opening the trash, the names of operations, opening and locking an operation. Lives
elsewhere: what is in an index (index.py), adding to an operation (operation.py).

The lock of an operation is a flock of its index. A session that adds items holds it shared. A
session that takes items out, measures them or purges the operation holds it exclusively. Once it
has the lock, each checks that the operation still has its name: it may have been purged meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from ftpserver.storage.flock import flock_until
from ftpserver.storage.open_home import OpenHome, give_to_owner
from ftpserver.storage.trash.index import UNDONE, Contents, Line, decode, encode
from ftpserver.storage.trash.names import INDEX_NAME, is_name
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import Busy, Expired, Forbidden
from ftpwire.streams import write_all

logger = logging.getLogger("ftpd.trash")

_OPEN = OPEN_DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK: opening a FIFO that a user put there must not wait for a writer
_PLAINLY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_INDEX = os.O_RDWR | os.O_APPEND | _PLAINLY
MOST_WRITTEN = 32 * 1024 * 1024
"""Size in bytes at which an index is full: further items go to another operation."""
MOST_READ = 3 * MOST_WRITTEN
"""Most bytes of an index that are read. It is more than `MOST_WRITTEN`, because taking items out
adds lines, too. The server writes no larger one, and reading it could take any amount of memory."""
PATIENCE = 5.0
"""Seconds to wait for another session that holds an operation."""


def open_trash(home: OpenHome, *, make: bool = False) -> int | None:
    """Open a home's trash. Return None if it has none, or if its name belongs to something else.

    Args:
        make: True to make the trash if it is missing.

    Raises:
        OSError: The trash cannot be opened or made.
        Forbidden: ``make`` is true, and its name belongs to something other than a directory.
    """
    try:
        return os.open(paths.TRASH, _OPEN, dir_fd=home.fd)
    except (FileNotFoundError, NotADirectoryError):
        if not make:
            return None
    with suppress(FileExistsError):
        os.mkdir(paths.TRASH, 0o700, dir_fd=home.fd)
    try:
        fd = os.open(paths.TRASH, _OPEN, dir_fd=home.fd)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise Forbidden(
            f"the trash cannot be used: {paths.show(paths.TRASH)} in this home is not a directory; "
            "the server's administrator has to rename it"
        ) from None
    try:
        give_to_owner(home.fd, fd)
        home.sync_dir(home.fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_gone(name: str) -> Expired:
    """Return the error for an operation that isn't in the trash."""
    return Expired(f"{name}: this operation is no longer in the trash")


def names_in(trash: int) -> list[str]:
    """Return the names of the operations in an open trash, the oldest first."""
    found = map(os.fsencode, os.listdir(trash))
    return sorted(name.decode() for name in found if is_name(name))


def operations_in(home: OpenHome) -> list[str]:
    """Return the names of the operations in a home's trash, the oldest first. Raises OSError."""
    trash = open_trash(home)
    if trash is None:
        return []
    try:
        return names_in(trash)
    finally:
        os.close(trash)


class Opened:
    """An open operation, locked or not: its descriptors, and access to its index.

    Attributes:
        name: The operation's name.
        fd: The descriptor of its directory.
        index_fd: The descriptor of its index, which is only appended to; -1: there is none.
        durable: True to sync the index before the renames that its lines announce.
    """

    def __init__(self, name: str, fd: int, index_fd: int, durable: bool) -> None:
        self.name = name
        self.fd = fd
        self.index_fd = index_fd
        self.durable = durable

    def contents(self) -> Contents:
        """Read and parse the index."""
        return Contents.of(decode(self.content()))

    def content(self, at: int = 0) -> bytes:
        """Return the bytes of the index from offset ``at`` on."""
        return _read_from(self.index_fd, at)

    @property
    def is_full(self) -> bool:
        """True if nothing more may be added to the operation."""
        return self.size >= MOST_WRITTEN

    def is_undone(self, seen: int) -> bool:
        """Return whether the operation was undone as a whole.

        Args:
            seen: The number of bytes at the start of the index that are known not to say so.
        """
        return UNDONE in self.content(seen)

    @property
    def size(self) -> int:
        """The size of the index in bytes."""
        return os.fstat(self.index_fd).st_size

    def append(self, lines: Iterable[Line], *, sync: bool = True) -> None:
        """Append lines by one write; durably if ``sync``. The torn rest of a line that a crash left
        is ended first: it stays a line of its own, which readers skip."""
        content = encode(lines)
        if _ends_torn(self.index_fd):
            content = b"\n" + content
        write_all(self.index_fd, content)
        if sync and self.durable:
            os.fdatasync(self.index_fd)

    def close(self) -> None:
        """Close the descriptors, which releases the lock. Can be called twice."""
        for fd in (self.index_fd, self.fd):
            if fd >= 0:
                os.close(fd)
        self.index_fd = self.fd = -1


def _read_from(fd: int, at: int = 0) -> bytes:
    if fd < 0:
        return b""
    size = os.fstat(fd).st_size
    if size > MOST_READ:
        logger.warning(
            "an index in the trash has %d bytes, more than the server writes: read only the first "
            "%d (ftpd check names it)",
            *(size, MOST_READ),
        )
        size = MOST_READ
    chunks = []
    while at < size:
        chunk = os.pread(fd, size - at, at)
        if not chunk:
            break
        chunks.append(chunk)
        at += len(chunk)
    return b"".join(chunks)


def open_index(operation: int) -> int:
    """Open the index of an open operation for reading. Return -1 if there is none, because a crash
    came before it was durable, or if its name belongs to something else. Raises OSError."""
    try:
        fd = os.open(INDEX_NAME, os.O_RDONLY | _PLAINLY, dir_fd=operation)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        return -1
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def read_index(operation: int) -> bytes:
    """Return the content of an open operation's index, up to `MOST_READ` bytes; empty if there is
    none. No lock is needed: an index is only ever appended to. Raises OSError."""
    fd = open_index(operation)
    try:
        return _read_from(fd)
    finally:
        if fd >= 0:
            os.close(fd)


def _ends_torn(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def open_operation(
    home: OpenHome,
    trash: int,
    name: str,
    *,
    make: bool = False,
    shared: bool = False,
    patience: float = PATIENCE,
) -> Opened:
    """Open an operation and lock it.

    Args:
        make: True to make it if it is missing. A caller that needs this durable syncs the trash.
        shared: True for a shared lock, False for an exclusive one.
        patience: Seconds to wait for other sessions that hold the lock.

    Raises:
        Expired: There is no such operation, or it was just purged.
        Busy: Other sessions held the lock for longer than ``patience``.
    """
    raw = name.encode()
    deadline = time.monotonic() + patience
    while True:
        made = make and _make(trash, raw)
        try:
            fd = os.open(raw, _OPEN, dir_fd=trash)
        except FileNotFoundError:
            if make:  # purged since _make(): make it again
                continue
            raise is_gone(name) from None
        opened = Opened(name, fd, -1, home.durable)
        try:
            if made:
                give_to_owner(trash, fd)
            try:
                opened.index_fd = os.open(INDEX_NAME, _INDEX | os.O_CREAT, 0o600, dir_fd=fd)
            except FileNotFoundError:  # purged after it was opened: open or make the next one
                opened.close()
                continue
            info = os.fstat(opened.index_fd)
            # only an index that was just made changes owner. A hard link that a user put here may
            # name a file of another user
            if not info.st_size and info.st_nlink == 1:
                give_to_owner(fd, opened.index_fd)
            _hold(opened.index_fd, shared, deadline)
            # only now is it sure to stay: a purge renames the operation while it holds the lock
            if _is_named(trash, raw, fd):
                return opened
        except BaseException:
            opened.close()
            raise
        opened.close()


def _make(trash: int, raw: bytes) -> bool:
    """Make an operation's directory. Return False if it exists."""
    try:
        os.mkdir(raw, 0o700, dir_fd=trash)
    except FileExistsError:
        return False
    return True


def _hold(index: int, shared: bool, deadline: float) -> None:
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not flock_until(index, how, deadline):
        raise Busy(
            "this operation is in use by another session: try again in a moment", retry_after=1
        )


def _is_named(trash: int, raw: bytes, fd: int) -> bool:
    try:
        there = os.stat(raw, dir_fd=trash, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(there.st_mode) and os.path.samestat(there, os.fstat(fd))


@contextmanager
def looking(trash: int, name: str) -> Iterator[Opened]:
    """Open an operation for reading, without a lock: what is read may change at any time.

    Raises:
        Expired: There is no such operation.
    """
    try:
        fd = os.open(name, _OPEN, dir_fd=trash)
    except FileNotFoundError:
        raise is_gone(name) from None
    opened = Opened(name, fd, -1, False)
    try:
        opened.index_fd = open_index(fd)
        yield opened
    finally:
        opened.close()


@contextmanager
def alone(home: OpenHome, trash: int, name: str, *, patience: float = PATIENCE) -> Iterator[Opened]:
    """Open an operation and hold its lock exclusively within the context. Raises Expired, Busy.

    Args:
        patience: Seconds to wait for other sessions that hold the lock.
    """
    opened = open_operation(home, trash, name, patience=patience)
    try:
        yield opened
    finally:
        opened.close()


def exists(trash: int, name: bytes) -> bool:
    """Return whether a name exists in an open directory."""
    try:
        os.stat(name, dir_fd=trash, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
