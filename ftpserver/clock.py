"""The time of one run of the server, however the system's clock is set meanwhile.

Lives here: seconds since 1970 that go on evenly from the start on, and noticing a jump of the
system's clock. Lives elsewhere: durations within one process (time.monotonic), the clock of the
database, by which nodes compare their leases (schema.py).

What lasts for some time (a ban, an upload that waits for a resume) is compared with `Clock.now`:
it lasts as long as it should. What ends on a date (a token, an account) is made and compared with
`Clock.latest`: a clock that is set back makes it last no longer, until the server is started again.
Nothing is removed before `Clock.earliest` has come. What has been made while the clock was ahead
has the dates that it showed then, and keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_SECONDS = 10.0
"""So far is the system's clock set at least when it is worth a word."""


def _ticks() -> float:
    """Seconds that also pass while the machine is suspended, where the system counts these."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock:
    """Seconds since 1970, by the system's clock as it was at first.

    Args:
        wall: The system's clock, which may be set.
        ticks: Seconds that only ever pass.
    """

    def __init__(
        self,
        wall: Callable[[], float] = lambda: time.time(),
        ticks: Callable[[], float] = _ticks,
    ) -> None:
        self._wall = wall
        self._ticks = ticks
        self._began = wall() - ticks()
        self._ahead = 0.0
        """How far the system's clock was ahead of this one when that was last looked at."""

    @property
    def began(self) -> float:
        """What makes it this clock: processes of one machine with the same have the same time."""
        return self._began

    def follow(self, began: float) -> None:
        """Become the clock of another process, by its ``began``."""
        self._began = began

    def now(self) -> float:
        """The time by this clock."""
        return self._began + self._ticks()

    def latest(self) -> float:
        """The later one of this clock and the system's."""
        return max(self._wall(), self.now())

    def earliest(self) -> float:
        """The earlier one of the two."""
        return min(self._wall(), self.now())

    def by_system(self, moment: float) -> float:
        """A moment of this clock, as the system's clock is going to show it."""
        return moment - self.now() + self._wall()

    def take_jump(self) -> float:
        """Seconds by which the system's clock was set forward (or back) since the last call; 0.0
        when it was not."""
        ahead = self._wall() - self.now()
        jump = ahead - self._ahead
        if abs(jump) < JUMP_SECONDS:
            return 0.0
        self._ahead = ahead
        return jump


RUN = Clock()
"""That of this process. Processes of one server have the same: the server tells its own to the
process that the others are forked from (processes/forkserver.py)."""
