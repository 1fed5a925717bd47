"""Shared paces: one rate for all sessions of an account, whichever processes they are in.

Lives here: a page of memory that the processes of a server share, with how far each account has
used up its rate. Lives elsewhere: the arithmetic (ftpwire/pacing.py), rates (accounts/limits.py).

Nobody is asked for leave to send: whoever has sent adds it up in the page, under a lock that the
system takes back when a process is killed.
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
"""Accounts whose sessions keep a rate at the same time."""
_SLOT = struct.Struct("=qd")
"""An account's id, and when its next byte may go, on ``time.monotonic()``."""
_SIZE = SLOTS * _SLOT.size


def make_page() -> int:
    """The descriptor of a new page, for all processes to be given."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("paces", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, _SIZE)
    return fd


class SharedPaces:
    """This process's hold on the page. For many threads.

    ``_lock`` keeps threads apart, the file's lock processes: that one is a process's, not a
    descriptor's, so that it works between processes that were handed the same descriptor.

    Args:
        fd: From `make_page`; it belongs to this from now on.
    """

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._lock = threading.Lock()
        self._page = mmap.mmap(fd, _SIZE)

    def pace(self, account_id: int, rate: int) -> Pace:
        """What the sessions of an account keep, here and in all other processes.

        Args:
            rate: Bytes a second.
        """
        return _SharedPace(self, account_id, rate, self._clock)

    def close(self) -> None:
        """Give the memory back; no pace can be used any more."""
        self._page.close()
        os.close(self._fd)

    def spend(self, account_id: int, seconds: float) -> float:
        """Use up so many seconds of an account's rate; returns when its next byte may go."""
        with self._locked():
            now = self._clock()
            at = self._find(account_id, now)
            if at is None:  # thousands at once: then they are a little too fast
                return now + seconds
            found, free_at = _SLOT.unpack_from(self._page, at)
            before = free_at if found == account_id else 0.0
            free_at = max(before, now - BURST_SECONDS) + seconds
            _SLOT.pack_into(self._page, at, account_id, free_at)
            return free_at

    def free_at(self, account_id: int) -> float:
        """When an account's next byte may go."""
        with self._locked():
            at = self._find(account_id, self._clock())
            found, free_at = (0, 0.0) if at is None else _SLOT.unpack_from(self._page, at)
            return free_at if found == account_id else 0.0

    def _find(self, account_id: int, now: float) -> int | None:
        """Where an account is in the page; else where nobody is that matters any more."""
        free = None
        for step in range(SLOTS):
            at = (account_id + step) % SLOTS * _SLOT.size
            found, free_at = _SLOT.unpack_from(self._page, at)
            if found == account_id:
                return at
            if free is None and free_at < now - BURST_SECONDS:
                free = at
            if not found:  # from here on nobody ever was
                break
        return free

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)


class _SharedPace(Pace):
    """An account's pace that lies in the page."""

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
