"""Parking: sessions whose clients ask for nothing wait in one selector, without a thread.

Lives here: the selector, what wakes a session, the clock that sees to the rest.
Lives elsewhere: the threads that look into the selector and go on with who is woken
(thread_pool.py), when a session has nothing to do, and going on with it (session.py), the first
thread of each connection (listeners.py).

A session belongs to one thread at a time: its own, nobody's while it is parked, or one of the
pool's. Who takes it out of ``_there`` has it. What wakes a parked one is its socket (input, an end,
or somebody who has it end by shutting its input down), the end of its idle time, or the server's
stop.
"""

from __future__ import annotations

import logging
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ftpserver.serving.thread_pool import Pool, Work

logger = logging.getLogger("ftpd.parking")

_LOOK_SECONDS = 1.0
"""From one look for sessions whose idle time is over to the next."""
_TICK_SECONDS = 0.005
"""From one look for threads that take long to the next, while any work."""
_TICKS = 20
"""Without work, after which the clock stops, until there is work."""
_REST_SECONDS = 2.0
"""Without a request, after which a session gives back what it has open."""
_MOST_OPEN = 4000
"""Parked sessions that have something open: of more, those that are parked longest give it back."""
_OPEN_SHARE = 8
"""The part of all descriptors that they may have."""
_LEAVE_SECONDS = 30.0
"""After which nobody who takes leave is looked after any more."""
_FEW = 4
"""As many sessions may keep their threads between two requests: they don't get into each other's
way, and save a hand-over."""


class Parkable(Protocol):
    """A session, as far as this module knows it.

    Attributes:
        parked: It waits without a thread.
        gave_way: It does that because others waited for its thread, and may have more to do.
        at_rest: It has nothing open.
    """

    request: socket.socket
    parked: bool
    gave_way: bool
    at_rest: bool

    def resume(self) -> None:
        """Go on, until there is nothing to do again, or the end."""

    def go_idle(self) -> None:
        """Give back what is open."""

    def is_overdue(self, now: float) -> bool:
        """Whether it was idle for too long."""

    def close(self, why: str) -> None:
        """End it, and tell its client why."""


@dataclass(eq=False)
class Parked:
    """A session without a thread.

    Attributes:
        on_end: What is to be done when it has ended.
        since: When it was parked, on ``time.monotonic()``.
    """

    session: Parkable
    on_end: Callable[[], None]
    since: float


class Parking:
    """Where sessions wait. ``run`` is its clock; the other methods are for all threads.

    Args:
        threads: Most sessions that were parked and are served at the same time, those apart that
            take long; the others wait for their turn, first come, first served.
        stop_fd: Readable once the server stops: nobody is parked from then on.
        before_wait: Called by a thread that waits for sessions to be served.
    """

    def __init__(self, threads: int, stop_fd: int, before_wait: Callable[[], None]) -> None:
        self._pool = Pool(threads, "session", self._look, before_wait)
        self._stop_fd = stop_fd
        self._selector = selectors.DefaultSelector()
        self._selector.register(stop_fd, selectors.EVENT_READ, None)
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._most_open = 0
        self._clock_rests = False
        self._lock = threading.Lock()
        """Guards what follows, and what is registered."""
        self._there: dict[int, Parked] = {}
        """By their descriptors."""
        self._open: dict[int, Parked] = {}
        """Those of them that have something open yet, in the order of their times."""
        self._over = False
        """Nobody is parked any more."""

    def __len__(self) -> int:
        """How many sessions are parked."""
        return len(self._there)

    @property
    def has_waiting(self) -> bool:
        """Whether a session that has something to do waits for a thread."""
        return self._pool.has_waiting

    def is_calm(self, sessions: int) -> bool:
        """Whether one of so many may keep its thread for a moment, waiting for a request."""
        return sessions - len(self._there) <= _FEW and self._pool.has_room

    def will_block(self) -> None:
        """Called by a session's thread that is going to wait for something: others needn't."""
        self._pool.will_block()

    # coming and going --------------------------------------------------------------------

    def park(self, session: Parkable, on_end: Callable[[], None]) -> None:
        """Take a session over from its thread, which doesn't touch it any more."""
        parked = Parked(session, on_end, time.monotonic())
        with self._lock:
            over = self._over
            if not over:
                over = not self._watch(parked)
        if over:
            self._serve(parked)  # it sees that the server stops, or that it is to end
        elif not self._pool.is_attended:
            self._pool.attend()

    def _watch(self, parked: Parked) -> bool:
        """Whether it can be; the session is told to end when it can't."""
        session = parked.session
        fd = session.request.fileno()
        try:
            self._selector.register(fd, selectors.EVENT_READ, parked)
        except OSError as error:  # no memory, or more than the system watches for a user
            logger.error("%s: the session can't be parked: %s", session, error)
            session.close("the server has too many sessions")
            return False
        self._there[fd] = parked
        if not session.at_rest:
            self._open[fd] = parked
        return True

    def _take(self, parked: Parked) -> bool:
        """Whether the session is the caller's from now on; else it is somebody else's already."""
        fd = parked.session.request.fileno()
        with self._lock:
            if self._there.get(fd) is not parked:
                return False
            del self._there[fd]
            self._open.pop(fd, None)
            self._selector.unregister(fd)
            return True

    def _look(self, seconds: float | None = None) -> Sequence[Work]:
        """Wait until parked sessions have something to do. Returns how to go on with them."""
        found = []
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._end()
            elif self._take(key.data):
                found.append(partial(self._serve, key.data))
        if found and self._clock_rests:
            self._nudge()  # it may be that none of the threads has room for them
        return found

    def _serve(self, parked: Parked) -> None:
        """Go on with a session, for as long as it has something to do and nobody else waits."""
        if self._clock_rests:
            self._nudge()
        session, on_end = parked.session, parked.on_end
        try:
            session.resume()
        except Exception:
            logger.exception("%s: the session failed", session)
        if not session.parked:
            on_end()
        elif session.gave_way:
            try:
                for work in self._look(0.0):  # they come first, even if nobody else has looked
                    self._pool.submit(work)
            finally:
                self._pool.submit(partial(self._serve, parked))
        else:
            self.park(session, on_end)

    def _rest(self, parked: Parked) -> None:
        """Have a session that is parked give back what it has open."""
        if self._take(parked):
            try:
                parked.session.go_idle()
            except Exception:
                logger.exception("%s: it could not be put to rest", parked.session)
            self.park(parked.session, parked.on_end)

    def _end(self) -> None:
        """Have all parked sessions end: the server stops. Can be called twice."""
        with self._lock:
            self._over = True
            there = list(self._there.values())
        for parked in there:
            if self._take(parked):
                self._pool.submit(partial(self._serve, parked))
        self._pool.close()

    # the clock ---------------------------------------------------------------------------

    def run(self) -> None:
        """See to it that nobody waits too long, until the server stops; then have all end."""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_open = min(_MOST_OPEN, descriptors // _OPEN_SHARE)
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop_fd, selectors.EVENT_READ)
            selector.register(self._read, selectors.EVENT_READ)
            looked, ticks = time.monotonic(), 0
            while True:
                ticks = ticks + 1 if self._pool.is_watched else 0
                self._clock_rests = ticks > _TICKS
                # whoever begins to work after this was looked at sees that the clock rests
                rests = self._clock_rests and self._pool.is_watched
                events = selector.select(_LOOK_SECONDS if rests else _TICK_SECONDS)
                self._clock_rests = False
                for key, _ in events:
                    if key.fd == self._stop_fd:
                        self._end()
                        self._see_off()
                        return
                    os.read(self._read, 4096)
                    ticks = 0
                self._pool.relieve()
                now = time.monotonic()
                self._put_to_rest(now)
                if now - looked >= _LOOK_SECONDS:
                    looked = now
                    self._wake_overdue(now)

    def _see_off(self) -> None:
        """Have all sessions that were parked take their leave at the same time."""
        until = time.monotonic() + _LEAVE_SECONDS
        while not self._pool.is_watched and time.monotonic() < until:
            time.sleep(_TICK_SECONDS)
            self._pool.relieve()

    def _nudge(self) -> None:
        self._clock_rests = False
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is awake, or about to be

    def _put_to_rest(self, now: float) -> None:
        due = []
        with self._lock:
            beyond = len(self._open) - self._most_open
            for number, parked in enumerate(self._open.values()):
                if number >= beyond and parked.since > now - _REST_SECONDS:
                    break
                due.append(parked)
            for parked in due:
                del self._open[parked.session.request.fileno()]
        for parked in due:
            self._pool.submit(partial(self._rest, parked))

    def _wake_overdue(self, now: float) -> None:
        with self._lock:
            there = list(self._there.values())
        for parked in there:
            if parked.session.is_overdue(now) and self._take(parked):
                self._pool.submit(partial(self._serve, parked))

    def close(self) -> None:
        """Give everything back, after ``run`` has returned and the sessions have ended."""
        self._pool.close()
        self._pool.wait_for_looks()
        self._selector.close()
        os.close(self._read)
        os.close(self._write)
