"""How much to put into one request of many small files.

Lives here: only the rules, for bytes of files, items, and the request's own length. They have a
clock and do no I/O.
Lives elsewhere: collecting and sending (get_files.py, put_files.py), the limits of the protocol
(ftpwire/messages.py).

A request of many files shows no progress before its end, so it should take at most a second on any
link. How many bytes that is, is estimated from the previous requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpwire.messages import MAX_BYTES, MAX_ITEMS, MAX_REQUEST_SIZE
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


class RunBudget:
    """The contents of a request that is being collected, and whether more fits into it.

    An item is a file, or a directory that the request names. In an empty request everything fits
    that a message can have at all: a single file may be larger than the limit of bytes.

    Args:
        size: Limits the bytes of the files.
        overhead: Maximum size of an item in the request in bytes, without its name or path.

    Attributes:
        data: Size of the files together, in bytes.
    """

    def __init__(self, size: RunSize, overhead: int) -> None:
        self._size = size
        self._overhead = overhead
        self.clear()

    def clear(self) -> None:
        """Begin another request."""
        self.data = 0
        self._items = 0
        self._length = 0
        """Maximum size of the request itself, in bytes."""

    def fits(self, items: int, text: int, data: int = 0) -> bool:
        """Return whether more items fit.

        Args:
            text: Size of their names and paths together, in bytes.
            data: Size of the files among them.
        """
        return not self._items or (
            self.data + data <= self._size.limit
            and self._items + items <= MAX_ITEMS
            and self._length + text + items * self._overhead <= MAX_REQUEST_SIZE
        )

    def add(self, text: int, data: int = 0) -> None:
        """Note an item that was added. The parameters are those of `fits`."""
        self._items += 1
        self._length += text + self._overhead
        self.data += data
