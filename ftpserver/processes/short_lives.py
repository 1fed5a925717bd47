"""Workers that die right at their start, again and again: when the next one is tried.

Lives here: counting them, and how long to wait. Lives elsewhere: starting workers (supervisor.py),
going on without them (growing.py).
"""

from __future__ import annotations

SHORT_LIFE = 5.0
"""A worker that lived no longer than so many seconds, or that never could serve, died at its start.
"""
_FIRST_PAUSE = 0.4
LONGEST_PAUSE = 300.0
"""Seconds until the next try, at most. What keeps workers from starting is mended by somebody or by
time, and each try costs a process and lines in the log."""


class ShortLives:
    """How many in a row have died at their start. The caller takes care of threads.

    Attributes:
        count: That.
        reason: What the last one died of, for people, where that is known.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""

    def ended(self, lived: float, *, served: bool) -> None:
        """One has ended.

        Args:
            lived: Seconds.
            served: It was ready to serve.
        """
        self.count = 0 if served and lived >= SHORT_LIFE else self.count + 1

    def failed(self, reason: str) -> None:
        """One could not even be started."""
        self.count += 1
        self.reason = reason

    def pause(self, *, known: int = 1, first: float = _FIRST_PAUSE) -> float:
        """Seconds until the next one is to be tried.

        Args:
            known: So many in a row make no pause.
            first: The pause after one more; each that follows is twice as long.
        """
        beyond = self.count - known
        return min(LONGEST_PAUSE, first * 2.0 ** min(16, beyond - 1)) if beyond > 0 else 0.0
