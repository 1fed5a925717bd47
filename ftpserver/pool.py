"""A pool of threads that is fair to whoever waits for one.

Lives here: how many threads there are, and who is next. Lives elsewhere: what they do (parking.py).

First come, first served. What takes long (a transfer) keeps its thread and doesn't count towards
the bound: otherwise as many slow clients as there are threads would shut out all others. Threads
with nothing to do for a while end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("ftpd.pool")

Work = Callable[[], None]

_LONG_SECONDS = 1.0
"""Whoever has worked for so long isn't waited for by somebody who has waited for so long."""
_REST_SECONDS = 10.0
"""Without work, after which a thread ends."""


class Pool:
    """Runs what it is given, in threads. All methods are for all threads.

    ``_state`` guards all fields; it is never held while something runs.

    Args:
        most: Threads at the same time, those apart whose work takes long.
        name: Of its threads.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._state = threading.Condition()
        self._waiting: deque[tuple[float, Work]] = deque()
        self._busy: dict[threading.Thread, float] = {}
        """Since when each thread has been at its work, on ``time.monotonic()``."""
        self._resting = 0
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether the next work would have to wait for a thread."""
        with self._state:
            return self._resting <= len(self._waiting) and self._count >= self._most

    @property
    def has_waiting(self) -> bool:
        """Whether somebody waits for a thread."""
        with self._state:
            return len(self._waiting) > self._resting

    @property
    def _count(self) -> int:
        return len(self._busy) + self._resting

    def submit(self, work: Work) -> None:
        """Have it run as soon as there is a thread, after all that came before it."""
        with self._state:
            self._waiting.append((time.monotonic(), work))
            if self._resting >= len(self._waiting):
                self._state.notify()
            elif self._count < self._most:
                self._start()

    def relieve(self) -> None:
        """Add threads for those who wait only because others take long. To be called often."""
        with self._state:
            long_ago = time.monotonic() - _LONG_SECONDS
            long = sum(since <= long_ago for since in self._busy.values())
            left_waiting = sum(since <= long_ago for since, _ in self._waiting)
            for _ in range(min(left_waiting, self._most + long - self._count)):
                self._start()

    def close(self) -> None:
        """Let the threads end, when they have done what waits. They aren't waited for."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._busy[thread] = time.monotonic()
        try:
            thread.start()
        except RuntimeError:  # the system gives no more: `relieve` tries again
            del self._busy[thread]
            logger.error("can't start a thread: %d sessions wait for one", len(self._waiting))

    def _run(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Work | None:
        """What is to be done next, once there is something; None ends the thread."""
        me = threading.current_thread()
        with self._state:
            del self._busy[me]
            if not self._waiting and not self._closed:
                self._resting += 1
                self._state.wait_for(lambda: self._waiting or self._closed, _REST_SECONDS)
                self._resting -= 1
            if not self._waiting:
                return None
            now = time.monotonic()
            self._busy[me] = now
            return self._waiting.popleft()[1]
