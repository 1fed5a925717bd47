"""Locks on the files of an upload that can be resumed, or that comes in pieces; and on parts of any
file.

Lives here: the locks, and waiting for one no longer than is said. Lives elsewhere: what is done
while one is held (resumable.py, piece_table.py, request_numbers.py).

A lock is held for one step, and never while the network is waited for. It belongs to the open file,
not to the process: sessions of one process and of several exclude each other in the same way, and
what a process held is free when it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpwire.errors import Busy, LeaseLost

PATIENCE = 5.0
"""Seconds that a lock is waited for: who holds it longer was stopped, or its disk hangs."""
_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.02
_RANGE = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, process."""
_NO_LOCKS = {errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a file system says that it has no locks of a file's parts: NFS without its lock service, with
``local_lock=flock``, or FUSE."""


class TakenOver(LeaseLost):
    """Another session goes on with the upload: this one must not touch its files any more."""


def try_lock(fd: int) -> bool:
    """Lock an open file, unless somebody else has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int) -> None:
    """Lock an open file. Raises Busy when it can't be had in time."""
    _wait_for(lambda: try_lock(fd))


def unlock(fd: int) -> None:
    """Give back the lock of an open file."""
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
    """Lock one byte of an open file, unless somebody else has, or there are no such locks."""
    try:
        return _ask(fd, "F_OFD_SETLK", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, at) is not None
    except (BlockingIOError, PermissionError):  # which of them is the system's choice
        return False


@contextmanager
def range_locked(fd: int, at: int, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of one byte of an open file. Raises Busy when it can't be had in time."""
    _wait_for(lambda: try_range(fd, at, shared=shared))
    try:
        yield
    finally:
        unlock_range(fd, at)


def unlock_range(fd: int, at: int, count: int = 1) -> None:
    """Give back the locks of some bytes of an open file, those that it has of them."""
    _ask(fd, "F_OFD_SETLK", fcntl.F_UNLCK, at, count)


def is_range_locked(fd: int, at: int) -> bool:
    """Whether another open file has the lock of one byte."""
    return _ask(fd, "F_OFD_GETLK", fcntl.F_WRLCK, at) not in (None, fcntl.F_UNLCK)


def _ask(fd: int, operation: str, kind: int, at: int, count: int = 1) -> int | None:
    """The kind of lock that is told; None where there are none of a file's parts."""
    number = getattr(fcntl, operation, None)  # macOS has none
    if number is None:
        return None
    try:
        told = fcntl.fcntl(fd, number, _RANGE.pack(kind, os.SEEK_SET, at, count, 0))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return int(_RANGE.unpack(told)[0])
