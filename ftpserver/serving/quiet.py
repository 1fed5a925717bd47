"""Quiet: finding the moment when the sessions of a process are idle after they were at work.

Lives here: when that is. Lives elsewhere: the regular checks (daemon/server.py,
processes/worker.py, in the rounds of account_watch.py), what is done then (processes/malloc.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

_QUIET_SECONDS = 3.0
"""Seconds without a byte in either direction. Pauses within one command are shorter."""
_WORTH_BYTES = 256 * 1024
"""Bytes that must have moved since the last time: less leaves too little memory to free."""
_FEW = 64
"""Most connections. With more, Python's garbage collector would take so long that clients notice
it."""


class Quiet:
    """Calls a function once after each time that a process was at work. For one thread.

    Args:
        connections: The current connections. Other threads may change the collection at any time.
        moved: Returns the bytes received and sent so far.
        on_quiet: Called when no byte has moved for a while.
    """

    def __init__(
        self,
        connections: Collection[object],
        moved: Callable[[], tuple[int, int]],
        on_quiet: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._moved = moved
        self._on_quiet = on_quiet
        self._before = 0
        """The bytes so far when ``on_quiet`` was last called."""
        self._seen = 0
        """The bytes so far in the previous round."""
        self._since = math.inf
        """The time of the first round with that count, on ``time.monotonic()``."""

    def look(self, now: float) -> None:
        """Do one round.

        Args:
            now: The time on ``time.monotonic()``.
        """
        moved = sum(self._moved())
        if moved != self._seen:
            self._seen, self._since = moved, now
        elif moved - self._before >= _WORTH_BYTES and now - self._since >= _QUIET_SECONDS:
            if len(self._connections) <= _FEW:
                self._before = moved
                self._on_quiet()
