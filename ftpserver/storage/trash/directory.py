"""The trash of a home: a directory with one directory for each operation.

Lives here: finding it, the names of operations, opening one alone. Lives elsewhere: what is in an
index (index.py), putting things into an operation (operation.py).

Who puts things into an operation holds its index shared (a flock); who takes things out, measures
what is in it, or gives it up, holds it alone, and looks afterwards whether the operation is still
there.
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

from ftpserver.storage.open_home import OpenHome, give_to_owner
from ftpserver.storage.trash.index import UNDONE, Contents, Line, decode, encode
from ftpserver.storage.trash.names import INDEX_NAME, is_name
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import Busy, Expired, Forbidden
from ftpwire.streams import write_all

logger = logging.getLogger("ftpd.trash")

_OPEN = OPEN_DIRECTORY | os.O_NOFOLLOW
_PLAINLY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # nobody writes into a pipe of that name
_INDEX = os.O_RDWR | os.O_APPEND | _PLAINLY
MOST_WRITTEN = 32 * 1024 * 1024
"""Bytes of an index to which nothing is added any more: what comes is another operation."""
MOST_READ = 3 * MOST_WRITTEN
"""Bytes of an index that are read: what took things out of it adds lines, too. A larger one is not
the server's work, and would take any amount of memory."""
PATIENCE = 5.0
"""Seconds that somebody is waited for who holds an operation."""
_AGAIN = 0.02
"""Seconds after which a lock is tried again that others hold."""


def open_trash(home: OpenHome, *, make: bool = False) -> int | None:
    """A handle of a home's trash; None where it has none, or something else has its name.

    Args:
        make: Make it when missing.

    Raises:
        OSError: It can't be opened, or made.
        Forbidden: Something else has its name, and it is to be made.
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
            f"nothing can go to the trash: what is called {paths.show(paths.TRASH)} in this home "
            "is no directory, and the server's administrator has to rename it"
        ) from None
    try:
        give_to_owner(home.fd, fd)
        home.sync_dir(home.fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_gone(name: str) -> Expired:
    """The error about an operation that isn't there."""
    return Expired(f"{name}: this operation isn't in the trash any more")


def names_in(trash: int) -> list[str]:
    """The names of the operations in an open trash, the oldest first."""
    found = map(os.fsencode, os.listdir(trash))
    return sorted(name.decode() for name in found if is_name(name))


class Opened:
    """An operation's directory that is held: its descriptors, and what its index says.

    Attributes:
        name: Of the operation.
        fd: Its directory.
        index_fd: Its index; everything is appended to it. -1: there is none.
        durable: Sync the index before what it announces is done.
    """

    def __init__(self, name: str, fd: int, index_fd: int, durable: bool) -> None:
        self.name = name
        self.fd = fd
        self.index_fd = index_fd
        self.durable = durable

    def contents(self) -> Contents:
        """What its index says."""
        return Contents.of(decode(self.content()))

    def content(self, at: int = 0) -> bytes:
        """Its index from a byte on."""
        return _read_from(self.index_fd, at)

    @property
    def is_full(self) -> bool:
        """Whether nothing may be added to it any more."""
        return self.size >= MOST_WRITTEN

    def is_undone(self, seen: int) -> bool:
        """Whether it was undone as a whole.

        Args:
            seen: So many bytes of its index don't say it.
        """
        return UNDONE in self.content(seen)

    @property
    def size(self) -> int:
        """The bytes of its index."""
        return os.fstat(self.index_fd).st_size

    def append(self, lines: Iterable[Line], *, sync: bool = True) -> None:
        """Append lines, by one write; durably if ``sync``. What a crash has torn stays a line of
        its own, which nobody can read."""
        content = encode(lines)
        if _ends_torn(self.index_fd):
            content = b"\n" + content
        write_all(self.index_fd, content)
        if sync and self.durable:
            os.fdatasync(self.index_fd)

    def close(self) -> None:
        """Give the descriptors back, and let others hold it. Can be called twice."""
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
            "an index in the trash has %d bytes, more than the server writes: only the first %d "
            "are read (ftpd check names it)",
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
    """Open the index of an open operation, to read it; -1: there is none, because a crash came
    before it was durable, or something else has its name. Raises OSError."""
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
    """What the index of an open operation says, up to `MOST_READ` bytes; nothing where there is
    none. Nobody is kept away: it is only ever added to. Raises OSError."""
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
    """Open an operation and hold it: alone, unless ``shared``.

    Args:
        make: Make it when missing. Whoever needs that to be durable syncs the trash.
        patience: Seconds that others are waited for who hold it.

    Raises:
        Expired: There is none, or it was given up just now.
        Busy: Others hold it for too long.
    """
    raw = name.encode()
    deadline = time.monotonic() + patience
    while True:
        made = make and _make(trash, raw)
        try:
            fd = os.open(raw, _OPEN, dir_fd=trash)
        except FileNotFoundError:
            if make:  # it was given up just now
                continue
            raise is_gone(name) from None
        opened = Opened(name, fd, -1, home.durable)
        try:
            if made:
                give_to_owner(trash, fd)
            try:
                opened.index_fd = os.open(INDEX_NAME, _INDEX | os.O_CREAT, 0o600, dir_fd=fd)
            except FileNotFoundError:  # it was given up just now
                opened.close()
                continue
            info = os.fstat(opened.index_fd)
            # just made; a user may have put another name of a file here that isn't his
            if not info.st_size and info.st_nlink == 1:
                give_to_owner(fd, opened.index_fd)
            _hold(opened.index_fd, shared, deadline)
            if _is_named(trash, raw, fd):
                return opened
        except BaseException:
            opened.close()
            raise
        opened.close()


def _make(trash: int, raw: bytes) -> bool:
    """Make an operation's directory; False where it is there."""
    try:
        os.mkdir(raw, 0o700, dir_fd=trash)
    except FileExistsError:
        return False
    return True


def _hold(index: int, shared: bool, deadline: float) -> None:
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(index, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(
                    "this operation is in use by another session: try again in a moment",
                    retry_after=1,
                ) from None
            time.sleep(_AGAIN)  # flock can't wait with a limit


def _is_named(trash: int, raw: bytes, fd: int) -> bool:
    try:
        there = os.stat(raw, dir_fd=trash, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(there.st_mode) and os.path.samestat(there, os.fstat(fd))


@contextmanager
def looking(trash: int, name: str) -> Iterator[Opened]:
    """Open an operation to look at it. It isn't held: what is told of it may be gone by then.

    Raises:
        Expired: There is none.
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
    """Hold an operation alone. Raises Expired, Busy.

    Args:
        patience: Seconds that others are waited for who hold it.
    """
    opened = open_operation(home, trash, name, patience=patience)
    try:
        yield opened
    finally:
        opened.close()


def exists(trash: int, name: bytes) -> bool:
    """Whether something has a name in an open directory."""
    try:
        os.stat(name, dir_fd=trash, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
