"""Collecting the changes of a tree until it is quiet.

Lives here: the times. Lives elsewhere: finding changes (tree_changes.py), what is done then
(cli/watching.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpclient.sync.tree_changes import Changes

QUIET_SECONDS = 1.0
"""Seconds without a change after which a tree counts as quiet."""
LONGEST_SECONDS = 10.0
"""Seconds after the first change at which it is no longer waited for."""


class Collector:
    """Changes that were not processed yet.

    Args:
        clock: As ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes = Changes()
        self._first: float | None = None
        self._last = 0.0

    def add(self, changes: Changes) -> None:
        """Add changes that were just found; none if there are none."""
        if not changes:
            return
        self._changes.add(changes)
        self._last = self._clock()
        if self._first is None:
            self._first = self._last

    def keep(self, changes: Changes) -> None:
        """Add changes that could not be processed, for when others are found."""
        self._changes.add(changes)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the changes are to be processed, at least 0; None if none were found."""
        if self._first is None:
            return None
        due = min(self._last + QUIET_SECONDS, self._first + LONGEST_SECONDS)
        return max(0.0, due - self._clock())

    def take(self) -> Changes:
        """Return all changes, and start again."""
        changes, self._changes = self._changes, Changes()
        self._first = None
        return changes
