"""Parking: sessions whose clients ask for nothing wait in one selector, without a thread.

Lives here: the selector, what wakes a session, the clock that handles timeouts.
Lives elsewhere: the threads that wait at the selector and serve woken sessions (thread_pool.py),
when a session has nothing to do, and resuming it (session.py), the first thread of each connection
(listeners.py).

A session belongs to one thread at a time: its first thread, or one of the pool's; while it is
parked, to none. The thread that removes it from ``_there`` owns it. A parked session is woken by
its socket (input, the connection's end, or another thread that shuts its input down to end it), by
the idle timeout, or by the server's stop.
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
"""Seconds between two checks for sessions that have exceeded the idle timeout."""
_TICK_SECONDS = 0.005
"""Seconds between two checks for threads that take long, while any work."""
_TICKS = 20
"""Ticks without work after which the clock stops until there is work."""
_REST_SECONDS = 2.0
"""Seconds without a request after which a session closes its open files and directories."""
_MOST_OPEN = 4000
"""Parked sessions that may have something open. Beyond that, those parked longest close it."""
_OPEN_SHARE = 8
"""The share of all descriptors that these may take: one of this many."""
_LEAVE_SECONDS = 30.0
"""Seconds after which ending sessions are no longer waited for."""
_FEW = 4
"""Sessions that may keep their threads between two requests: this few don't get in each other's
way, and save a hand-over."""


class Parkable(Protocol):
    """A session, as far as this module knows it.

    Attributes:
        parked: True while the session waits without a thread.
        gave_way: True if it is parked because others waited for its thread: its client may have
            sent more requests already.
        at_rest: True if it has nothing open.
    """

    request: socket.socket
    parked: bool
    gave_way: bool
    at_rest: bool

    def resume(self) -> None:
        """Go on until the session is idle again or has ended."""

    def go_idle(self) -> None:
        """Close what is open."""

    def is_overdue(self, now: float) -> bool:
        """Return whether the session has exceeded the idle timeout."""

    def close(self, why: str) -> None:
        """End the session, and tell its client why."""


@dataclass(eq=False)
class Parked:
    """A session without a thread.

    Attributes:
        on_end: Called when the session has ended.
        since: When it was parked, on ``time.monotonic()``.
    """

    session: Parkable
    on_end: Callable[[], None]
    since: float


class Parking:
    """The parked sessions of a process. ``run`` is the clock; other methods are for all threads.

    Args:
        threads: Most sessions that were parked and are served at the same time, not counting those
            that take long. The others wait, first come, first served.
        stop_fd: Readable once the server stops. No session is parked from then on.
        before_wait: Called by a thread before it waits for sessions to serve.
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
        """Guards the fields below, and what is registered in the selector."""
        self._there: dict[int, Parked] = {}
        """The parked sessions, by descriptor."""
        self._open: dict[int, Parked] = {}
        """Those of them that have something open, in the order in which they were parked."""
        self._over = False
        """True once no session is parked any more."""

    def __len__(self) -> int:
        """The number of parked sessions."""
        return len(self._there)

    @property
    def has_waiting(self) -> bool:
        """True if a session that has something to do waits for a thread."""
        return self._pool.has_waiting

    def is_calm(self, sessions: int) -> bool:
        """Return whether one of ``sessions`` may keep its thread while it waits for a request."""
        return sessions - len(self._there) <= _FEW and self._pool.has_capacity

    def will_block(self) -> None:
        """Announce that the calling session's thread is going to wait: others go on without it."""
        self._pool.will_block()

    # coming and going --------------------------------------------------------------------

    def park(self, session: Parkable, on_end: Callable[[], None]) -> None:
        """Take over a session from its thread, which doesn't touch it afterwards."""
        # Once it is registered, any thread may serve and end it: nothing after `_watch` uses it,
        # unless `_watch` has refused it.
        parked = Parked(session, on_end, time.monotonic())
        with self._lock:
            over = self._over
            if not over:
                over = not self._watch(parked)
        if over:
            self._serve(parked)  # the session notices that the server stops, or that it is to end
        elif not self._pool.is_attended:
            self._pool.attend()

    def _watch(self, parked: Parked) -> bool:
        """Register a session. If that fails, tell the session to end, and return False."""
        session = parked.session
        fd = session.request.fileno()
        try:
            self._selector.register(fd, selectors.EVENT_READ, parked)
        except OSError as error:  # no memory, or the system's limit of watches for a user
            logger.error("%s: the session cannot be parked: %s", session, error)
            session.close("the server has too many sessions")
            return False
        self._there[fd] = parked
        if not session.at_rest:
            self._open[fd] = parked
        return True

    def _take(self, parked: Parked) -> bool:
        """Return whether the calling thread owns the session now; False if another one does."""
        fd = parked.session.request.fileno()
        with self._lock:
            # The descriptor alone doesn't prove it: it may be another session's by now.
            if self._there.get(fd) is not parked:
                return False
            del self._there[fd]
            self._open.pop(fd, None)
            self._selector.unregister(fd)
            return True

    def _look(self, seconds: float | None = None) -> Sequence[Work]:
        """Wait until parked sessions have something to do. Returns the work of serving them."""
        found = []
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._end()
            elif self._take(key.data):
                found.append(partial(self._serve, key.data))
        if found and self._clock_rests:
            self._nudge()  # perhaps the pool has no thread for them: the clock has to `relieve`
        return found

    def _serve(self, parked: Parked) -> None:
        """Serve a session for as long as it has something to do and no other waits."""
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
            # It isn't registered: this thread has to submit it whatever happens, or it is lost.
            try:
                for work in self._look(0.0):  # sessions with input, perhaps unnoticed, come first
                    self._pool.submit(work)
            finally:
                self._pool.submit(partial(self._serve, parked))
        else:
            self.park(session, on_end)

    def _rest(self, parked: Parked) -> None:
        """Make a parked session close what it has open."""
        if self._take(parked):  # else it has been woken since, and needs what it has open
            try:
                parked.session.go_idle()
            except Exception:
                logger.exception("%s: its open files could not be closed", parked.session)
            self.park(parked.session, parked.on_end)

    def _end(self) -> None:
        """End all parked sessions because the server stops. Can be called twice."""
        # ``_over`` is set under the lock: a session is either in ``there`` below, or finds it set
        # when it is to be parked.
        with self._lock:
            self._over = True
            there = list(self._there.values())
        for parked in there:
            if self._take(parked):
                self._pool.submit(partial(self._serve, parked))
        self._pool.close()

    # the clock ---------------------------------------------------------------------------

    def run(self) -> None:
        """Enforce timeouts until the server stops, then end all parked sessions."""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_open = min(_MOST_OPEN, descriptors // _OPEN_SHARE)
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop_fd, selectors.EVENT_READ)
            selector.register(self._read, selectors.EVENT_READ)
            looked, ticks = time.monotonic(), 0
            while True:
                ticks = ticks + 1 if self._pool.is_watched else 0
                self._clock_rests = ticks > _TICKS
                # Set before the second check: a thread that begins to work after that check sees
                # that the clock rests, and wakes it (`_nudge`).
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
        """Wait until all sessions that were parked have ended, all at the same time."""
        until = time.monotonic() + _LEAVE_SECONDS
        while not self._pool.is_watched and time.monotonic() < until:
            time.sleep(_TICK_SECONDS)
            self._pool.relieve()

    def _nudge(self) -> None:
        self._clock_rests = False
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full: the clock is awake, or about to be

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
        """Close all descriptors, after ``run`` has returned and the sessions have ended."""
        self._pool.close()
        self._pool.wait_for_looks()
        self._selector.close()
        os.close(self._read)
        os.close(self._write)
