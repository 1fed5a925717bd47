"""How many bytes of small files go in one request of many.

Lives here: the rule alone; it has a clock and does no I/O. Lives elsewhere: what is collected, and
sent (get_files.py), the limits of the protocol (ftpwire/messages.py).

A request of many files has nothing to show before its end, so it should not take long: not more
than a second, on whatever link. How many bytes that is shows from what the last ones took.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpwire.messages import MOST_BYTES
from ftpwire.pacing import Pace

FIRST = 64 * 1024
LEAST = 1024
MOST_EACH = 64 * 1024
"""Bytes of a file that goes with others. A larger one costs little for itself."""
_SHORT_SECONDS = 0.25
"""Of one that is answered so soon there may be more the next time."""
_LONG_SECONDS = 1.0
"""One that takes longer was too much."""


class RunSize:
    """The bytes of the next request of many small files, of one connection.

    Args:
        pace: The limit that the bytes of the connection keep to, if there is one: a request has no
            more than what that lets through in a second.

    Attributes:
        limit: Bytes of its files, at most.
    """

    def __init__(
        self, pace: Pace | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pace = pace
        self._clock = clock
        self._size = FIRST
        self._answered_at = clock()
        self.limit = self._kept()

    def sent(self) -> float:
        """When a request is sent: what `answered` wants to know."""
        return self._clock()

    def answered(self, sent_at: float, size: int | None = None) -> None:
        """A request has its whole answer. Answers come in the order of the requests: where several
        were unanswered, it took the time since the one before it.

        Args:
            size: Bytes of its files; None: about ``limit``.
        """
        now = self._clock()
        self.took(now - max(sent_at, self._answered_at), size)
        self._answered_at = now

    def took(self, seconds: float, size: int | None = None) -> None:
        """So long a request took. See `answered`."""
        if seconds > _LONG_SECONDS:
            self._size = max(LEAST, self._size // 2)
        elif seconds < _SHORT_SECONDS and (size is None or size * 2 >= self.limit):
            # one that was far smaller says nothing of one that is twice as large
            self._size = min(MOST_BYTES, self._size * 2)
        self.limit = self._kept()

    def _kept(self) -> int:
        # the rate may be changed while a transfer runs
        return self._size if self._pace is None else max(LEAST, min(self._size, self._pace.rate))
