"""Quiet: that the sessions of a process have nothing to do for a while, after they had.

Lives here: when that is. Lives elsewhere: who looks (daemon/server.py, processes/worker.py, in the
rounds of account_watch.py), what is done then (processes/malloc.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

_QUIET_SECONDS = 3.0
"""Without a byte in either direction: pauses within one command are shorter."""
_WORTH_BYTES = 256 * 1024
"""Received and sent since the last time: log-ins and listings leave nothing that is worth it."""
_FEW = 64
"""Connections: of more, Python's collector would have so many objects to look at that whoever comes
meanwhile notices."""


class Quiet:
    """Calls something once after each time that a process was at work. For one thread.

    Args:
        connections: Those that there are; others may change it at any time.
        moved: Asked for the bytes received and sent so far.
        on_quiet: Called when nothing has moved for a while.
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
        """The bytes so far when it was called last."""
        self._seen = 0
        """The bytes so far in the round before."""
        self._since = math.inf
        """The first round with so many, on ``time.monotonic()``."""

    def look(self, now: float) -> None:
        """One round.

        Args:
            now: On ``time.monotonic()``.
        """
        moved = sum(self._moved())
        if moved != self._seen:
            self._seen, self._since = moved, now
        elif moved - self._before >= _WORTH_BYTES and now - self._since >= _QUIET_SECONDS:
            if len(self._connections) <= _FEW:
                self._before = moved
                self._on_quiet()
