"""Connections that have not logged in, and addresses that are spared their limits.

Lives here: how many there are, which are dropped, what is said where none is taken.
Lives elsewhere: when it is asked (limits.py).
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

import msgspec

from ftpserver.net.addresses import place_of
from ftpserver.settings.table import Startups

SHARE = 4
"""A place may have one in so many of the connections that may be there without a log-in."""
_MOMENT = 1.0
"""Seconds that each of them has, before it makes room for another."""
_Places = dict[str, dict[Hashable, float]]
"""Connections by their places, each since when, the oldest first."""
_NONE: dict[Hashable, float] = {}
_SPARED_SECONDS = 3600.0
_MAX_SPARED = 4096


class TurnedAway(msgspec.Struct, frozen=True):
    """Why no connection is taken from an address.

    Attributes:
        by: ``penalty`` or ``connections``.
    """

    by: str
    reason: str


class Strangers:
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
        place = place_of(host)
        with self._lock:
            return len(self._common.get(place, ())) + len(self._own.get(place, ()))

    def take(self, connection: Hashable, host: str, *, spared: bool, trusted: bool = False) -> bool:
        """Count a new one, unless there is no room for it.

        Args:
            spared: Only what came from the same place counts against it.
            trusted: Its place may have all there are, instead of a share.
        """
        place = place_of(host)
        with self._lock:
            now = self._clock()
            has_room, dropped = self._room(place, now, spared=spared, trusted=trusted)
            if not has_room:
                return False
            if dropped is not None:
                self._forget(dropped)
            places = self._own if spared else self._common
            places.setdefault(place, {})[connection] = now
            self._where[connection] = places, place
        if dropped is not None:
            self.on_dropped(dropped)
        return True

    def has_room(self, host: str, *, spared: bool, trusted: bool = False) -> bool:
        """Whether `take` would count a new one. Nothing is done."""
        with self._lock:
            return self._room(place_of(host), self._clock(), spared=spared, trusted=trusted)[0]

    def share(self, trusted: bool) -> int:
        """How many a place may have."""
        full = self.limits.full
        return full if trusted else -(-full // SHARE)

    def _room(
        self, place: str, now: float, *, spared: bool, trusted: bool
    ) -> tuple[bool, Hashable | None]:
        """Whether there is room for another one, and which one has to make it."""
        places = self._own if spared else self._common
        mine = places.get(place, _NONE)
        if len(mine) >= self.share(trusted):
            dropped = _oldest(mine, now - _MOMENT)
            return dropped is not None, dropped
        if spared or not self._is_crowded():
            return True, None
        most = max(places.values(), key=_by_size)
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
        places, place = self._where.pop(connection, (self._common, ""))
        there = places.get(place)
        if there is not None:
            there.pop(connection, None)
            if not there:
                del places[place]


def _by_size(there: dict[Hashable, float]) -> tuple[int, float]:
    """More of them is more; of as many, those with the oldest."""
    return len(there), -next(iter(there.values()))


def _oldest(there: dict[Hashable, float], before: float) -> Hashable | None:
    """The oldest one, if it came before then."""
    for connection, since in there.items():
        return connection if since <= before else None
    return None


class Spared:
    """Addresses from which somebody has logged in lately. ``_lock`` guards ``_until``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, host: str) -> None:
        with self._lock:
            place = place_of(host)
            self._until[place] = self._clock() + _SPARED_SECONDS
            self._until.move_to_end(place)
            if len(self._until) > _MAX_SPARED:
                self._until.popitem(last=False)

    def __contains__(self, host: str) -> bool:
        with self._lock:
            return self._until.get(place_of(host), 0.0) > self._clock()
