"""Workers that die at their start again and again: when to try the next one.

Lives here: counting them, and how long to wait. Lives elsewhere: starting workers (supervisor.py),
going on without them (growing.py).
"""

from __future__ import annotations

SHORT_LIFE = 5.0
"""Seconds. A worker that lived for less, or never became ready, counts as having died at its
start."""
_FIRST_PAUSE = 0.4
"""Seconds until the next try, at first."""
LONGEST_PAUSE = 300.0
"""Most seconds until the next try. An administrator or time removes what keeps workers from
starting, and each try costs a process and lines in the log."""


class ShortLives:
    """Counts workers in a row that have died at their start. Not safe for threads by itself.

    Attributes:
        count: Workers in a row that have died at their start.
        reason: The cause of the last one's death, for display; empty if it isn't known.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""

    def ended(self, lived: float, *, served: bool) -> None:
        """Note that a worker has ended.

        Args:
            lived: Seconds that it lived.
            served: True if it was ready to serve.
        """
        self.count = 0 if served and lived >= SHORT_LIFE else self.count + 1

    def failed(self, reason: str) -> None:
        """Note that a worker could not even be started."""
        self.count += 1
        self.reason = reason

    def pause(self, *, known: int = 1, first: float = _FIRST_PAUSE) -> float:
        """Return the seconds until the next try.

        Args:
            known: The number of workers in a row after which there is no pause yet.
            first: The pause after one more; each further one doubles it.
        """
        beyond = self.count - known
        return min(LONGEST_PAUSE, first * 2.0 ** min(16, beyond - 1)) if beyond > 0 else 0.0
