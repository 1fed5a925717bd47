"""How many bytes of small files to put into one request of many files.

Lives here: only the rule; it has a clock and does no I/O.
Lives elsewhere: collecting and sending (get_files.py, put_files.py), the limits of the protocol
(ftpwire/messages.py).

A request of many files shows no progress before its end, so it should take at most a second on any
link. How many bytes that is, is estimated from the previous requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpwire.messages import MAX_BYTES
from ftpwire.pacing import Pace

FIRST = 64 * 1024
LEAST = 1024
MOST_EACH = 64 * 1024
"""Maximum size in bytes of a file that is sent with others. A larger one is efficient alone."""
_SHORT_SECONDS = 0.25
"""After a reply within this time, the next request may be larger."""
_LONG_SECONDS = 1.0
"""After a reply later than this, the next request is smaller."""


class RunSize:
    """The size of the next request of many small files on one connection.

    Args:
        pace: The rate limit of the connection, if any: a request is at most what it lets through
            in a second.

    Attributes:
        limit: Maximum number of bytes of its files.
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
        """Return the time at which a request is sent, for `answered`."""
        return self._clock()

    def answered(self, sent_at: float, size: int | None = None) -> None:
        """Note that a request was replied to completely.

        Replies arrive in the order of the requests. If several were pending, the time since the
        previous reply counts.

        Args:
            size: The size of its files in bytes; None: about ``limit``.
        """
        now = self._clock()
        self.took(now - max(sent_at, self._answered_at), size)
        self._answered_at = now

    def took(self, seconds: float, size: int | None = None) -> None:
        """Adapt the limit to the time that a request took. See `answered`."""
        if seconds > _LONG_SECONDS:
            self._size = max(LEAST, self._size // 2)
        elif seconds < _SHORT_SECONDS and (size is None or size * 2 >= self.limit):
            # a much smaller request says nothing about one that is twice as large
            self._size = min(MAX_BYTES, self._size * 2)
        self.limit = self._kept()

    def _kept(self) -> int:
        # the rate limit may change while a transfer runs
        return self._size if self._pace is None else max(LEAST, min(self._size, self._pace.rate))
