"""Parking: sessions whose clients ask for nothing wait in one selector, without a thread.

Lives here: the selector's thread, and handing sessions to and fro between it and the pool of
threads that serve those who have something to do.
Lives elsewhere: these threads (pool.py), when a session has nothing to do, and going on with it
(session.py), the first thread of each connection (listeners.py).

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
from typing import TYPE_CHECKING, NamedTuple

from ftpserver.pool import Pool

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
        threads: Most sessions that were parked and are served at the same time, those apart that
            take long; the others wait for their turn, first come, first served.
        stop_fd: Readable once the server stops: nobody is parked from then on.
    """

    def __init__(self, threads: int, stop_fd: int) -> None:
        self._pool = Pool(threads, "session")
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

    @property
    def is_full(self) -> bool:
        """Whether the next session that has something to do would have to wait for a thread."""
        return self._pool.is_full

    @property
    def has_waiting(self) -> bool:
        """Whether a session that has something to do waits for a thread."""
        return self._pool.has_waiting

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
                self._pool.relieve()
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
        self._serve_soon(parked)

    def _serve_soon(self, parked: Parked) -> None:
        self._pool.submit(lambda: self._serve(parked))

    def _serve(self, parked: Parked) -> None:
        """Go on with a session, for as long as it has something to do and nobody else waits."""
        session, on_end = parked
        try:
            session.resume()
        except Exception:
            logger.exception("%s: the session failed", session)
        if not session.parked:
            on_end()
        elif session.gave_way:
            self._serve_soon(parked)  # behind those who wait
        else:
            self.park(session, on_end)

    def close(self) -> None:
        """Give everything back, after ``run`` has returned and the sessions have ended."""
        self._pool.close()
        self._selector.close()
        os.close(self._read)
        os.close(self._write)
