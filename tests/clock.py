"""A clock that a test moves, for code that is given its clock."""

from __future__ import annotations


class Clock:
    """Returns the same time until a test changes `now`.

    Args:
        now: The time at first, in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
