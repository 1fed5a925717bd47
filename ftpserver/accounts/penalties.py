"""Penalties: addresses that open connections and don't log in are refused for a time.

Lives here: what costs how much, and who is refused. Lives elsewhere: what a connection has done
(serving/session.py), when it is asked (limits.py), failed log-ins, which count for bans (bans.py).

As PerSourcePenalties of OpenSSH: seconds add up, and pass; from some sum on, connections are
refused until all of them have passed. They are kept in the memory of the process that accepts.
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
"""Seconds that have to add up until connections are refused."""
LONGEST = 600.0
"""Seconds that can add up."""
MAX_SOURCES = 10_000
"""Addresses that are remembered; those whose penalty ends first go first."""


class Offence(Enum):
    """What a connection that has not logged in can have done. The values travel."""

    NO_LOGIN = "no-login"
    """It sent something, and ended."""
    PROTOCOL = "protocol"
    """It broke the protocol."""
    TOO_LATE = "too-late"
    """The time for log-ins was over."""
    TOO_MUCH = "too-much"
    """It asked too much, or sent file bytes."""
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
    """Safe to use from many threads. ``_lock`` guards ``_until`` and ``_enforced``.

    Args:
        clock: Seconds, of which only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._enforced: set[str] = set()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, host: str, offence: Offence) -> None:
        """Count what a connection from there has done."""
        source = source_of(host)
        with self._lock:
            now = self._clock()
            if source not in self._until and len(self._until) >= MAX_SOURCES:
                self._make_room(now)
            until = max(now, self._until.get(source, now)) + SECONDS[offence]
            self._until[source] = until = min(until, now + LONGEST)
            if until - now >= ENFORCED_FROM:
                self._enforced.add(source)

    def refuses(self, host: str) -> bool:
        """Whether connections from there are refused now."""
        return bool(self._enforced) and self.left(host) > 0

    def left(self, host: str) -> float:
        """Seconds for which connections from there are still refused; 0 when they are not."""
        source = source_of(host)
        with self._lock:
            now = self._clock()
            if source not in self._enforced or not self._holds(source, now):
                return 0.0
            return self._until[source] - now

    def _holds(self, source: str, now: float) -> bool:
        """Whether it isn't over. What is over is forgotten."""
        if self._until.get(source, now) > now:
            return True
        self._until.pop(source, None)
        self._enforced.discard(source)
        return False

    def _make_room(self, now: float) -> None:
        """Forget what is over, and a tenth of the rest if that isn't enough."""
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
        """Those in force."""
        with self._lock:
            now = self._clock()
            self._forget_past(now)
            left = {source: self._until[source] - now for source in self._enforced}
        moment = RUN.now()
        return [Ban(one, None, 0, int(moment + seconds), REASON) for one, seconds in left.items()]

    def lift(self, source: str) -> Sequence[Ban]:
        """Forget the penalties of an address; returns those that were in force."""
        lifted = [one for one in self.all() if one.address == source]
        with self._lock:
            self._until.pop(source, None)
            self._enforced.discard(source)
        return lifted

    def tidy(self) -> None:
        """Forget what has passed."""
        with self._lock:
            self._forget_past(self._clock())
