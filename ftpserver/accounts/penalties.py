"""Penalties: addresses whose connections end without a log-in are refused for a time.

Lives here: the penalty for each offence, and which addresses are refused. Lives elsewhere: noticing
offences (serving/session.py), when penalties apply (limits.py), failed log-ins, which lead to bans
(bans.py).

As PerSourcePenalties of OpenSSH: seconds add up, and pass; above some sum, connections are refused
until all of them have passed. They are kept in the memory of the process that accepts connections.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum

from ftpserver.accounts.bans import Ban
from ftpserver.clock import RUN
from ftpserver.net.addresses import source_of

ENFORCED_FROM = 15.0
"""The sum, in seconds, from which connections are refused."""
LONGEST = 600.0
"""The largest sum, in seconds."""
MAX_SOURCES = 10_000
"""The most addresses remembered; those whose penalty ends first are forgotten first."""


class Offence(Enum):
    """Offences of an unauthenticated connection. The values are sent between processes."""

    NO_LOGIN = "no-login"
    """It sent something, and ended without a log-in."""
    PROTOCOL = "protocol"
    """It broke the protocol."""
    TOO_LATE = "too-late"
    """The time for a log-in had passed."""
    TOO_MUCH = "too-much"
    """It sent too many requests, or file bytes."""
    CRASH = "crash"
    """Its process had to be killed (--isolation process)."""


SECONDS = {
    Offence.NO_LOGIN: 1.0,
    Offence.PROTOCOL: 5.0,
    Offence.TOO_LATE: 10.0,
    Offence.TOO_MUCH: 10.0,
    Offence.CRASH: 90.0,
}
REASON = "connections without a log-in"


class Penalties:
    """The penalties of all addresses. Safe to use from many threads.

    ``_lock`` guards ``_until`` and ``_enforced``.

    Args:
        clock: A clock in seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._enforced: set[str] = set()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, host: str, offence: Offence) -> None:
        """Add the penalty for an offence to an address."""
        source = source_of(host)
        with self._lock:
            now = self._clock()
            if source not in self._until and len(self._until) >= MAX_SOURCES:
                self._forget_some(now)
            until = max(now, self._until.get(source, now)) + SECONDS[offence]
            self._until[source] = until = min(until, now + LONGEST)
            if until - now >= ENFORCED_FROM:
                self._enforced.add(source)

    def refuses(self, host: str) -> bool:
        """Return True if connections from there are refused now."""
        return bool(self._enforced) and self.left(host) > 0

    def left(self, host: str) -> float:
        """Return for how many seconds connections from there are still refused; 0 for none."""
        source = source_of(host)
        with self._lock:
            now = self._clock()
            if source not in self._enforced or not self._holds(source, now):
                return 0.0
            return self._until[source] - now

    def _holds(self, source: str, now: float) -> bool:
        """Return True if a penalty hasn't ended; forget one that has."""
        if self._until.get(source, now) > now:
            return True
        self._until.pop(source, None)
        self._enforced.discard(source)
        return False

    def _forget_some(self, now: float) -> None:
        """Forget what has ended, and a tenth of the rest if that isn't enough."""
        self._forget_past(now)
        if len(self._until) >= MAX_SOURCES:
            soonest = sorted(self._until, key=self._until.__getitem__)[: MAX_SOURCES // 10]
            for source in soonest:
                del self._until[source]
                self._enforced.discard(source)

    def _forget_past(self, now: float) -> None:
        for source in list(self._until):
            self._holds(source, now)

    def all(self) -> Sequence[Ban]:
        """Return the penalties in force, as bans."""
        with self._lock:
            now = self._clock()
            self._forget_past(now)
            left = {source: self._until[source] - now for source in self._enforced}
        moment = RUN.now()
        return [Ban(one, None, 0, int(moment + seconds), REASON) for one, seconds in left.items()]

    def lift(self, source: str) -> Sequence[Ban]:
        """Forget the penalties of an address, and return those that were in force."""
        lifted = [one for one in self.all() if one.address == source]
        with self._lock:
            self._until.pop(source, None)
            self._enforced.discard(source)
        return lifted

    def tidy(self) -> None:
        """Forget what has passed."""
        with self._lock:
            self._forget_past(self._clock())
