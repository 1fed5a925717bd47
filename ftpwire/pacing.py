"""Rate limits: how long to wait so that bytes do not exceed a rate.

Lives here: the arithmetic. Does no I/O and doesn't sleep.
Lives elsewhere: waiting (channel.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.1
"""The bytes of this many seconds may be moved at once."""
_SMALLEST = 1024


class Pace:
    """A rate in bytes per second, for one connection, or shared by several, each in its own thread.

    ``_lock`` guards ``_free_at``.

    Args:
        rate: Bytes per second, at least 1. It may be changed at any time.
        within: A second limit to keep, e.g. that of all connections of a user together.
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
        """The most bytes to move at once, which keeps the flow even."""
        own = max(_SMALLEST, int(self.rate * BURST_SECONDS))
        return own if self._within is None else min(own, self._within.most)

    def spend(self, count: int) -> None:
        """Report that ``count`` bytes were moved."""
        with self._lock:
            start = max(self._free_at, self._clock() - BURST_SECONDS)
            self._free_at = start + count / self.rate
        if self._within is not None:
            self._within.spend(count)

    def delay(self) -> float:
        """Return the number of seconds to wait before more bytes may be moved."""
        own = max(0.0, self._free_at - self._clock())
        return own if self._within is None else max(own, self._within.delay())
