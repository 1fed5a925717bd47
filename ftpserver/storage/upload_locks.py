"""Locks on the files of resumable uploads and of uploads in pieces; and locks on parts of any file.

Lives here: the locks, and waiting for one with a limit. Lives elsewhere: what is done while one is
held (resumable.py, piece_table.py, request_numbers.py).

A lock is held for one step, and never while waiting for the network. It belongs to the open file,
not to the process. So sessions exclude each other in the same way within one process and across
several, and the kernel releases the locks of a process that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpserver.storage.flock import try_flock
from ftpwire.errors import Busy, LeaseLost

PATIENCE = 5.0
"""Seconds to wait for a lock. A process that holds it longer was stopped, or its disk hangs."""
_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.02
_RANGE = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, process."""
_NO_LOCKS = {errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of a file system without byte-range locks: NFS without its lock service or with
``local_lock=flock``, or FUSE."""


class TakenOver(LeaseLost):
    """Another session has taken the upload over: this one must not change its files any more."""


def try_lock(fd: int) -> bool:
    """Lock an open file. False: another one holds the lock."""
    return try_flock(fd, fcntl.LOCK_EX)


def lock(fd: int) -> None:
    """Lock an open file. Raises Busy if the lock isn't free in time."""
    _wait_for(lambda: try_lock(fd))


def unlock(fd: int) -> None:
    """Release the lock of an open file."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def _wait_for(take: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = _FIRST_PAUSE
    while not take():
        if time.monotonic() >= deadline:
            raise Busy("another session is uploading the same file")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


# parts of a file -----------------------------------------------------------------------------


def try_range(fd: int, at: int, *, shared: bool = False) -> bool:
    """Lock one byte of an open file. False: another open file holds it, or the file system has no
    such locks."""
    try:
        return _ask(fd, "F_OFD_SETLK", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, at) is not None
    except (BlockingIOError, PermissionError):  # systems differ in which of them they raise
        return False


@contextmanager
def range_locked(fd: int, at: int, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of one byte of an open file. Raises Busy if it isn't free in time."""
    _wait_for(lambda: try_range(fd, at, shared=shared))
    try:
        yield
    finally:
        unlock_range(fd, at)


def unlock_range(fd: int, at: int, count: int = 1) -> None:
    """Release the locks of some bytes of an open file, as far as it holds them."""
    _ask(fd, "F_OFD_SETLK", fcntl.F_UNLCK, at, count)


def is_range_locked(fd: int, at: int) -> bool:
    """Return whether another open file holds the lock of one byte."""
    return _ask(fd, "F_OFD_GETLK", fcntl.F_WRLCK, at) not in (None, fcntl.F_UNLCK)


def _ask(fd: int, operation: str, kind: int, at: int, count: int = 1) -> int | None:
    """Call fcntl(2) for a range; return the type of lock in its answer, None without such locks."""
    number = getattr(fcntl, operation, None)  # macOS has none
    if number is None:
        return None
    try:
        answer = fcntl.fcntl(fd, number, _RANGE.pack(kind, os.SEEK_SET, at, count, 0))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return int(_RANGE.unpack(answer)[0])
