"""Unauthenticated connections, and networks that are exempt from their limits.

Lives here: how many there are, which are dropped for new ones, the reason for refusing one, and
which of them get a process next.
Lives elsewhere: when the rules apply (admission.py, isolation/newcomers.py).
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
"""A network may have 1/SHARE of the unauthenticated connections that are allowed in all."""
_MOMENT = 1.0
"""Seconds before a connection can be dropped for another."""
_Connections = dict[str, dict[Hashable, float]]
"""Connections by network, each with the time since when it counts; the oldest first."""
_NONE: dict[Hashable, float] = {}
_START_SECONDS = 1.0
"""Seconds after which a process counts as started, if its first reply isn't reported before."""
_KNOWN_SECONDS = 3600.0
_MAX_KNOWN = 4096


class RefusedConnection(msgspec.Struct, frozen=True):
    """The reason why connections from an address are refused.

    Attributes:
        by: ``penalty`` or ``connections``.
    """

    by: str
    reason: str


class UnauthenticatedConnections:
    """The connections that have not logged in, with a limit.

    Above the limit, the oldest connection of the network that has the most is dropped for a new
    one. Each network has a share, so that none takes all; beyond it, its own oldest is dropped. No
    connection is dropped for another of its network in its first moment.

    ``_lock`` guards all attributes.

    Args:
        limits: The limits; may be replaced while the server runs.
        draw: Returns a random number from 0 to 1.
        clock: A clock in seconds; only differences count.
    """

    def __init__(
        self,
        limits: Startups,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.on_dropped: Callable[[Hashable], None] = lambda connection: None
        """Called with each connection that is dropped, once it no longer counts."""
        self._draw = draw
        self._clock = clock
        self._lock = threading.Lock()
        self._where: dict[Hashable, tuple[_Connections, str]] = {}
        self._common: _Connections = {}
        self._own: _Connections = {}
        """The connections from networks with a recent log-in."""

    def __len__(self) -> int:
        return len(self._where)

    def count(self, host: str) -> int:
        """Return how many connections the network of an address has."""
        network = network_of(host)
        with self._lock:
            return len(self._common.get(network, ())) + len(self._own.get(network, ()))

    def take(self, connection: Hashable, host: str, *, known: bool, trusted: bool = False) -> bool:
        """Count a new connection, if the limits allow it. Return True if it was counted.

        Args:
            known: True if a user has logged in from its network lately: then only connections of
                that network count against it.
            trusted: True if its network may have all connections instead of a share.
        """
        network = network_of(host)
        with self._lock:
            now = self._clock()
            has_capacity, dropped = self._capacity(network, now, known=known, trusted=trusted)
            if not has_capacity:
                return False
            if dropped is not None:
                self._forget(dropped)
            networks = self._own if known else self._common
            networks.setdefault(network, {})[connection] = now
            self._where[connection] = networks, network
        if dropped is not None:
            # outside the lock, as the callback may call `leave`
            self.on_dropped(dropped)
        return True

    def has_capacity(self, host: str, *, known: bool, trusted: bool = False) -> bool:
        """Return True if `take` would count a new one, without doing so."""
        with self._lock:
            return self._capacity(network_of(host), self._clock(), known=known, trusted=trusted)[0]

    def share(self, trusted: bool) -> int:
        """Return how many connections a network may have."""
        full = self.limits.full
        return full if trusted else -(-full // SHARE)

    def _capacity(
        self, network: str, now: float, *, known: bool, trusted: bool
    ) -> tuple[bool, Hashable | None]:
        """Return whether another one is allowed, and the connection to drop for it, if any.

        The caller holds the lock."""
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
        """Return True if one must be dropped for the next: at random, more often as they grow."""
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
        """Stop counting a connection that has logged in or closed. Can be called twice."""
        with self._lock:
            self._forget(connection)

    def _forget(self, connection: Hashable) -> None:
        networks, network = self._where.pop(connection, (self._common, ""))
        _drop_from(networks, network, connection)


def _by_size(there: dict[Hashable, float]) -> tuple[int, float]:
    """Order networks by their number of connections; if equal, by age of the oldest."""
    return len(there), -next(iter(there.values()))


def _oldest(there: dict[Hashable, float], before: float) -> Hashable | None:
    """Return the oldest connection, if it came before a time."""
    for connection, since in there.items():
        return connection if since <= before else None
    return None


class _Ring:
    """Networks that take turns, and the connections of each that are being started."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[str, dict[Hashable, bool]] = OrderedDict()
        """The waiting connections of each network, the oldest first, and whether each is trusted.
        The network whose turn it is comes first."""
        self.started: _Connections = {}

    def next(self, at_once: int, *, alone: bool) -> tuple[str, Hashable] | None:
        """Return the network and the connection to start now; None if none may start."""
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
    """Connections that have sent something, and which of them get a process next.

    A process takes processor time until its first reply: for the fork, and for most of the TLS
    handshake. So networks take turns, and each has at most one connection being started. Only a
    network that is alone may have more; even then one start stays free for the first connection of
    the next network.

    A trusted network takes turns like any other, so it cannot delay them; but as many users are
    behind it, it may have more than one start. Networks with a recent log-in take turns only with
    each other, and have as many starts of their own.

    ``_lock`` guards all attributes.

    Args:
        at_once: The number of starts at the same time; more would only share the same processors.
        clock: A clock in seconds; only differences count.
    """

    def __init__(self, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = max(2, at_once)
        self._clock = clock
        self._lock = threading.Lock()
        self._common, self._own = _Ring(), _Ring()
        self._where: dict[Hashable, tuple[_Ring, str]] = {}

    def wait(self, connection: Hashable, host: str, *, known: bool, trusted: bool = False) -> None:
        """Add a connection to those that wait for a start."""
        network = network_of(host)
        ring = self._own if known else self._common
        with self._lock:
            ring.waiting.setdefault(network, {})[connection] = trusted
            self._where[connection] = ring, network

    def take(self) -> list[Hashable]:
        """Return the connections to start now. They count as being started until `leave`."""
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
        """Stop counting a connection: it has its first reply, or is closed. Can be called twice.

        Returns:
            True if it counted.
        """
        with self._lock:
            return self._forget(connection)

    def due(self) -> float | None:
        """Return the time when the oldest start stops counting; None if no connection waits."""
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
        """Return True if all connections, waiting and being started, are of one network."""
        return (
            sum(len(ring.waiting.keys() | ring.started) for ring in (self._own, self._common)) < 2
        )

    def _expire(self, before: float) -> None:
        """Stop counting starts from before a time. The caller holds the lock."""
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
    """Remove a connection of a network. Return True if it was there."""
    there = networks.get(network, {})
    if one not in there:
        return False
    del there[one]
    if not there:
        del networks[network]
    return True


class KnownNetworks:
    """Networks from which a user has logged in lately. ``_lock`` guards ``_until``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, host: str) -> None:
        with self._lock:
            network = network_of(host)
            self._until[network] = self._clock() + _KNOWN_SECONDS
            self._until.move_to_end(network)
            if len(self._until) > _MAX_KNOWN:
                self._until.popitem(last=False)

    def __contains__(self, host: str) -> bool:
        with self._lock:
            return self._until.get(network_of(host), 0.0) > self._clock()
