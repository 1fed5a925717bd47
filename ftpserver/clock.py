"""The time of one run of the server, unaffected by changes of the system's clock.

Lives here: seconds since 1970 that advance evenly from the start of the server, and detecting a
jump of the system's clock. Lives elsewhere: durations within one process (time.monotonic), the
clock of the database, by which nodes compare their leases (schema.py).

What lasts for a period (a ban, an upload that waits for a resume) is compared with `Clock.now`, so
it lasts exactly that long. What ends on a date (a token, an account) is created and compared with
`Clock.latest`: setting the clock back does not prolong it, until the server is restarted. Nothing
is removed before `Clock.earliest` has reached its date. Dates written while the clock was ahead are
not corrected afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_SECONDS = 10.0
"""The smallest change of the system's clock that is reported."""


def _ticks() -> float:
    """Return seconds that also pass while the machine is suspended, if the system counts these."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock:
    """Seconds since 1970, starting from the system's clock as it was when this one was made.

    Args:
        wall: The system's clock, which may be set.
        ticks: A clock that cannot be set and only moves forward.
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
        """How far the system's clock was ahead of this one at the last check, in seconds."""

    @property
    def began(self) -> float:
        """The reading of the system's clock at tick 0. Clocks of one machine with the same value
        show the same time."""
        return self._began

    def follow(self, began: float) -> None:
        """Show the same time as the clock of another process, given its ``began``."""
        self._began = began

    def now(self) -> float:
        """Return the time by this clock."""
        return self._began + self._ticks()

    def latest(self) -> float:
        """Return the time by this clock or the system's, the later of the two."""
        return max(self._wall(), self.now())

    def earliest(self) -> float:
        """Return the time by this clock or the system's, the earlier of the two."""
        return min(self._wall(), self.now())

    def by_system(self, moment: float) -> float:
        """Convert a time of this clock to what the system's clock shows at that moment."""
        return moment - self.now() + self._wall()

    def take_jump(self) -> float:
        """Return the seconds by which the system's clock was set forward (negative: back) since the
        last call; 0.0 if it was not set."""
        ahead = self._wall() - self.now()
        jump = ahead - self._ahead
        if abs(jump) < JUMP_SECONDS:
            return 0.0
        self._ahead = ahead
        return jump


RUN = Clock()
"""The clock of this process. All processes of one server have the same: the server sends its
``began`` to the fork server, which starts the others (processes/forkserver.py)."""
