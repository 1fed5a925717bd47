"""Parking: sessions whose clients ask for nothing wait in one selector, without a thread.

Lives here: the selector's thread, the pool of threads that serve those who have something to do,
and handing sessions to and fro.
Lives elsewhere: when a session has nothing to do, and going on with it (session.py), the first
thread of each connection (listeners.py).

A session belongs to one thread at a time: its own, this one's while it is parked, or one of the
pool's. What wakes a parked one is its socket (input, an end, or somebody who has it end by shutting
its input down), the end of its idle time, or the server's stop.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ftpserver.session import Session

logger = logging.getLogger("ftpd.parking")

_LOOK_SECONDS = 1.0
"""From one look for sessions whose idle time is over to the next."""


class Parked(NamedTuple):
    """A session without a thread, and what is to be done when it has ended."""

    session: Session
    on_end: Callable[[], None]


class Parking:
    """Where sessions wait. ``run`` is its thread; `park` and `close` are for all threads.

    Args:
        threads: Most sessions that were parked and are served at the same time; the others wait
            for their turn, first come, first served.
        stop_fd: Readable once the server stops: nobody is parked from then on.
    """

    def __init__(self, threads: int, stop_fd: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "session")
        self._selector = selectors.DefaultSelector()
        self._selector.register(stop_fd, selectors.EVENT_READ, None)
        self._stop_fd = stop_fd
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._selector.register(self._read, selectors.EVENT_READ, None)
        self._arrivals: deque[Parked] = deque()  # safe between threads
        self._there: dict[int, Parked] = {}
        """By their descriptors. Only ``run`` touches it."""
        self._lock = threading.Lock()
        self._over = False
        """No more arrivals are looked at. Guarded by ``_lock``."""

    def __len__(self) -> int:
        """How many sessions are parked."""
        return len(self._there) + len(self._arrivals)

    def park(self, session: Session, on_end: Callable[[], None]) -> None:
        """Take a session over from its thread, which doesn't touch it any more."""
        parked = Parked(session, on_end)
        with self._lock:
            if not self._over:
                self._arrivals.append(parked)
                self._nudge()
                return
        self._serve(parked)  # it sees that the server stops

    def _nudge(self) -> None:
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is awake, or about to be

    def run(self) -> None:
        """Watch the parked sessions until the server stops; then have all of them end."""
        looked = time.monotonic()
        stopping = False
        while not stopping:
            for key, _ in self._selector.select(_LOOK_SECONDS):
                if key.data is not None:
                    self._wake(key.data)
                elif key.fd == self._stop_fd:
                    stopping = True
                else:
                    os.read(self._read, 4096)
            while self._arrivals:
                self._watch(self._arrivals.popleft())
            now = time.monotonic()
            if now - looked >= _LOOK_SECONDS:
                looked = now
                for parked in [one for one in self._there.values() if one.session.is_overdue(now)]:
                    self._wake(parked)
        with self._lock:
            self._over = True
        for parked in [*self._there.values(), *self._arrivals]:
            self._wake(parked)

    def _watch(self, parked: Parked) -> None:
        fd = parked.session.request.fileno()
        self._there[fd] = parked
        self._selector.register(fd, selectors.EVENT_READ, parked)

    def _wake(self, parked: Parked) -> None:
        fd = parked.session.request.fileno()
        if self._there.pop(fd, None) is not None:
            self._selector.unregister(fd)
        self._pool.submit(self._serve, parked)

    def _serve(self, parked: Parked) -> None:
        """Go on with a session, for as long as it has something to do."""
        session, on_end = parked
        try:
            session.resume()
        except Exception:
            logger.exception("%s: the session failed", session)
        if session.parked:
            self.park(session, on_end)
        else:
            on_end()

    def close(self) -> None:
        """Give everything back, after ``run`` has returned and the sessions have ended."""
        self._pool.shutdown(wait=False)
        self._selector.close()
        os.close(self._read)
        os.close(self._write)
