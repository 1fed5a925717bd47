"""Shared paces: one rate for all sessions of an account, in whichever processes they are.

Lives here: a page of memory that the processes of a server share; it holds how far each account has
used up its rate. Lives elsewhere: the arithmetic (ftpwire/pacing.py), rates (accounts/limits.py).

No process asks before it sends: it adds what it has sent to the page, under a lock that the system
releases when a process is killed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpwire.pacing import BURST_SECONDS, Pace

SLOTS = 4096
"""Accounts that can use a rate at the same time."""
_SLOT = struct.Struct("=qd")
"""An account's id, and when its next byte may be sent, on ``time.monotonic()``."""
_SIZE = SLOTS * _SLOT.size


def make_page() -> int:
    """Return the descriptor of a new page, to pass to all processes."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("paces", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, _SIZE)
    return fd


class SharedPaces:
    """The page as mapped by this process. For many threads.

    ``_lock`` excludes threads, the file's lock other processes. The latter belongs to a process and
    not to a descriptor, so it works between processes that share the same open file.

    Args:
        fd: A descriptor from `make_page`; it belongs to this object from now on.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._lock = threading.Lock()
        self._page = mmap.mmap(fd, _SIZE)

    def pace(self, account_id: int, rate: int) -> Pace:
        """Return the pace that all sessions of an account keep, in all processes.

        Args:
            rate: Bytes per second.
        """
        return _SharedPace(self, account_id, rate, self._clock)

    def close(self) -> None:
        """Unmap the page. Its paces cannot be used any more."""
        self._page.close()
        os.close(self._fd)

    def spend(self, account_id: int, seconds: float) -> float:
        """Use up ``seconds`` of an account's rate. Returns when its next byte may be sent."""
        with self._locked():
            now = self._clock()
            at = self._find(account_id, now)
            if at is None:  # thousands of accounts at once: then they are a little too fast
                return now + seconds
            found, free_at = _SLOT.unpack_from(self._page, at)
            before = free_at if found == account_id else 0.0
            free_at = max(before, now - BURST_SECONDS) + seconds
            _SLOT.pack_into(self._page, at, account_id, free_at)
            return free_at

    def free_at(self, account_id: int) -> float:
        """Return when an account's next byte may be sent."""
        with self._locked():
            at = self._find(account_id, self._clock())
            found, free_at = (0, 0.0) if at is None else _SLOT.unpack_from(self._page, at)
            return free_at if found == account_id else 0.0

    def _find(self, account_id: int, now: float) -> int | None:
        """Return the offset of an account in the page, or else of a slot that is free again."""
        free = None
        for step in range(SLOTS):
            at = (account_id + step) % SLOTS * _SLOT.size
            found, free_at = _SLOT.unpack_from(self._page, at)
            if found == account_id:
                return at
            if free is None and free_at < now - BURST_SECONDS:
                free = at
            if not found:  # no account has ever used this slot, or one after it
                break
        return free

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The thread lock comes first: to the file's lock all threads of a process are one.
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)


class _SharedPace(Pace):
    """An account's pace, kept in the page."""

    def __init__(
        self, paces: SharedPaces, account_id: int, rate: int, clock: Callable[[], float]
    ) -> None:
        super().__init__(rate, clock)
        self._paces = paces
        self._account_id = account_id

    def spend(self, count: int) -> None:
        self._free_at = self._paces.spend(self._account_id, count / self.rate)

    def delay(self) -> float:
        self._free_at = self._paces.free_at(self._account_id)
        return super().delay()
