"""Connections that have not logged in, and addresses that are spared their limits.

Lives here: how many there are, which are dropped, what is said where none is taken, and which of
them get a process next.
Lives elsewhere: when it is asked (limits.py, isolation/newcomers.py).
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any

import msgspec

from ftpserver.net.addresses import network_of
from ftpserver.settings.table import Startups

SHARE = 4
"""A place may have one in so many of the connections that may be there without a log-in."""
_MOMENT = 1.0
"""Seconds that each of them has, before it makes room for another."""
_Places = dict[str, dict[Hashable, float]]
"""Connections by their places, each since when, the oldest first."""
_NONE: dict[Hashable, float] = {}
_START_SECONDS = 1.0
"""That a process is counted as being started, if nobody hears of its first answer before."""
_SPARED_SECONDS = 3600.0
_MAX_SPARED = 4096


class TurnedAway(msgspec.Struct, frozen=True):
    """Why no connection is taken from an address.

    Attributes:
        by: ``penalty`` or ``connections``.
    """

    by: str
    reason: str


class UnauthenticatedConnections:
    """Connections that have not logged in. When there are many of them, the oldest one of the place
    that has the most makes room.

    Each place has a share, so that none takes all. A connection is given a moment before it makes
    room for another of the same place.

    ``_lock`` guards all of them.

    Args:
        draw: A random number from 0 to 1.
        clock: Seconds, of which only differences count.
    """

    def __init__(
        self,
        limits: Startups,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.on_dropped: Callable[[Hashable], None] = lambda connection: None
        """Called with each connection that has to make room. It isn't counted any more."""
        self._draw = draw
        self._clock = clock
        self._lock = threading.Lock()
        self._where: dict[Hashable, tuple[_Places, str]] = {}
        self._common: _Places = {}
        self._own: _Places = {}
        """Those from spared places."""

    def __len__(self) -> int:
        return len(self._where)

    def count(self, host: str) -> int:
        """How many there are from a place."""
        network = network_of(host)
        with self._lock:
            return len(self._common.get(network, ())) + len(self._own.get(network, ()))

    def take(self, connection: Hashable, host: str, *, known: bool, trusted: bool = False) -> bool:
        """Count a new one, unless there is no room for it.

        Args:
            known: Only what came from the same place counts against it.
            trusted: Its place may have all there are, instead of a share.
        """
        network = network_of(host)
        with self._lock:
            now = self._clock()
            has_room, dropped = self._room(network, now, known=known, trusted=trusted)
            if not has_room:
                return False
            if dropped is not None:
                self._forget(dropped)
            networks = self._own if known else self._common
            networks.setdefault(network, {})[connection] = now
            self._where[connection] = networks, network
        if dropped is not None:
            self.on_dropped(dropped)
        return True

    def has_room(self, host: str, *, known: bool, trusted: bool = False) -> bool:
        """Whether `take` would count a new one. Nothing is done."""
        with self._lock:
            return self._room(network_of(host), self._clock(), known=known, trusted=trusted)[0]

    def share(self, trusted: bool) -> int:
        """How many a place may have."""
        full = self.limits.full
        return full if trusted else -(-full // SHARE)

    def _room(
        self, network: str, now: float, *, known: bool, trusted: bool
    ) -> tuple[bool, Hashable | None]:
        """Whether there is room for another one, and which one has to make it."""
        networks = self._own if known else self._common
        mine = networks.get(network, _NONE)
        if len(mine) >= self.share(trusted):
            dropped = _oldest(mine, now - _MOMENT)
            return dropped is not None, dropped
        if known or not self._is_crowded():
            return True, None
        most = max(networks.values(), key=_by_size)
        dropped = _oldest(most, now - _MOMENT)
        if dropped is None and self._common_count() >= self.limits.full:
            if len(most) <= len(mine) + 1:
                return False, None
            dropped = _oldest(most, now)
        return True, dropped

    def _common_count(self) -> int:
        return sum(map(len, self._common.values()))

    def _is_crowded(self) -> bool:
        """Whether one of them has to make room for the next: by chance, and ever more often."""
        begin, rate, full = self.limits
        if len(self._where) < begin:
            return False
        there = self._common_count()
        if there < begin:
            return False
        if there >= full:
            return True
        percent = rate + (100 - rate) * (there - begin) / (full - begin)
        return self._draw() * 100 < percent

    def leave(self, connection: Hashable) -> None:
        """It has logged in, or gone. Can be called twice."""
        with self._lock:
            self._forget(connection)

    def _forget(self, connection: Hashable) -> None:
        networks, network = self._where.pop(connection, (self._common, ""))
        _drop_from(networks, network, connection)


def _by_size(there: dict[Hashable, float]) -> tuple[int, float]:
    """More of them is more; of as many, those with the oldest."""
    return len(there), -next(iter(there.values()))


def _oldest(there: dict[Hashable, float], before: float) -> Hashable | None:
    """The oldest one, if it came before then."""
    for connection, since in there.items():
        return connection if since <= before else None
    return None


class _Ring:
    """Places that take turns, and what each of them has started."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, dict[Hashable, bool]] = OrderedDict()
        """The connections of each place, the oldest first, and whether it is trusted; the place
        whose turn it is at the front."""
        self.started: _Places = {}

    def next(self, at_once: int, *, alone: bool) -> tuple[str, Hashable] | None:
        """Which connection is to be started now, and of which place."""
        running = sum(map(len, self.started.values()))
        if running >= at_once:
            return None
        for network, there in self.waiting.items():
            connection, trusted = next(iter(there.items()))
            if network not in self.started:
                return network, connection
            if (alone or trusted) and running < at_once - 1:
                return network, connection
        return None


class Starts:
    """Connections that have said something, and which of them get a process next.

    The start of one costs processor time until it has given its first answer: the fork, and most of
    the TLS handshake. So places take turns, and each has at most one started at a time. Only a
    place beside which there is no other has more; the last one of those that may be started at
    once stays free even then, for the first connection of the next place.

    A trusted place takes its turns as any other, so that it can't hold these up; but it may
    have more than one started, since many users are behind it. Spared places take turns with each
    other alone, and have as many starts besides.

    ``_lock`` guards all of them.

    Args:
        at_once: As many are started at the same time: more would only share the same processors.
        clock: Seconds, of which only differences count.
    """

    def __init__(self, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = max(2, at_once)
        self._clock = clock
        self._lock = threading.Lock()
        self._common, self._own = _Ring(), _Ring()
        self._where: dict[Hashable, tuple[_Ring, str]] = {}

    def wait(self, connection: Hashable, host: str, *, known: bool, trusted: bool = False) -> None:
        """Count a connection among those that are to be started."""
        network = network_of(host)
        ring = self._own if known else self._common
        with self._lock:
            ring.waiting.setdefault(network, {})[connection] = trusted
            self._where[connection] = ring, network

    def take(self) -> list[Hashable]:
        """The connections that are to be started now. They count as such until `leave`."""
        taken = []
        with self._lock:
            now = self._clock()
            self._expire(now - _START_SECONDS)
            for ring in (self._own, self._common):
                while (found := ring.next(self._at_once, alone=self._is_alone())) is not None:
                    network, connection = found
                    _drop_from(ring.waiting, network, connection)
                    if network in ring.waiting:
                        ring.waiting.move_to_end(network)
                    ring.started.setdefault(network, {})[connection] = now
                    taken.append(connection)
        return taken

    def leave(self, connection: Hashable) -> bool:
        """It waits no more, or has given its first answer, or has ended. Can be called twice.

        Returns:
            Whether it counted.
        """
        with self._lock:
            return self._forget(connection)

    def due(self) -> float | None:
        """When the next start doesn't count any more, by the clock; None: nothing waits for it."""
        with self._lock:
            if not self._common.waiting and not self._own.waiting:
                return None
            began = [
                since
                for ring in (self._own, self._common)
                for there in ring.started.values()
                for since in there.values()
            ]
            return min(began) + _START_SECONDS if began else None

    def _is_alone(self) -> bool:
        """Whether all that waits or is started is of one place."""
        return (
            sum(len(ring.waiting.keys() | ring.started) for ring in (self._own, self._common)) < 2
        )

    def _expire(self, before: float) -> None:
        for ring in (self._own, self._common):
            late = [
                connection
                for there in ring.started.values()
                for connection, since in there.items()
                if since <= before
            ]
            for connection in late:
                self._forget(connection)

    def _forget(self, connection: Hashable) -> bool:
        ring, network = self._where.pop(connection, (self._common, ""))
        return _drop_from(ring.waiting, network, connection) or _drop_from(
            ring.started, network, connection
        )


def _drop_from(
    networks: MutableMapping[str, dict[Hashable, Any]], network: str, one: Hashable
) -> bool:
    """Whether it was there."""
    there = networks.get(network, {})
    if one not in there:
        return False
    del there[one]
    if not there:
        del networks[network]
    return True


class Spared:
    """Addresses from which somebody has logged in lately. ``_lock`` guards ``_until``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, host: str) -> None:
        with self._lock:
            network = network_of(host)
            self._until[network] = self._clock() + _SPARED_SECONDS
            self._until.move_to_end(network)
            if len(self._until) > _MAX_SPARED:
                self._until.popitem(last=False)

    def __contains__(self, host: str) -> bool:
        with self._lock:
            return self._until.get(network_of(host), 0.0) > self._clock()
