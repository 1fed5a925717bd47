"""Bandwidth limits: how long to wait so that bytes go no faster than a rate.

Lives here: the arithmetic. Does no I/O and doesn't sleep. Lives elsewhere: waiting (channel.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.1
"""So much of a second's bytes may go at once."""
_SMALLEST = 1024


class Pace:
    """A rate in bytes a second, for one connection or shared by several in one thread each.

    ``_lock`` guards ``_free_at``.

    Args:
        rate: Bytes a second, at least 1. It may be changed at any time.
        within: Another pace to keep as well, of all connections of somebody together.
    """

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        within: Pace | None = None,
    ) -> None:
        self.rate = max(1, rate)
        self._within = within
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    @property
    def most(self) -> int:
        """The most bytes to move at once, so that the flow is even."""
        own = max(_SMALLEST, int(self.rate * BURST_SECONDS))
        return own if self._within is None else min(own, self._within.most)

    def spend(self, count: int) -> None:
        """Say that ``count`` bytes went."""
        with self._lock:
            start = max(self._free_at, self._clock() - BURST_SECONDS)
            self._free_at = start + count / self.rate
        if self._within is not None:
            self._within.spend(count)

    def delay(self) -> float:
        """Seconds to wait before more bytes may go."""
        own = max(0.0, self._free_at - self._clock())
        return own if self._within is None else max(own, self._within.delay())
