"""Connections that have not logged in, and addresses that are spared their limits.

Lives here: how many there are, which are dropped. Lives elsewhere: when it is asked (limits.py).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

from ftpserver.net.addresses import place_of
from ftpserver.settings.table import Startups

_SPARED_SECONDS = 3600.0
_MAX_SPARED = 4096


class Strangers:
    """Connections that have not logged in; dropped at random when there are many of them.

    ``_lock`` guards the counts.

    Args:
        draw: A random number from 0 to 1.
    """

    def __init__(self, limits: Startups, draw: Callable[[], float] = random.random) -> None:
        self.limits = limits
        self._draw = draw
        self._lock = threading.Lock()
        self._all: dict[Hashable, str] = {}
        self._by_place: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def count(self, host: str) -> int:
        """How many there are from an address."""
        return self._by_place[place_of(host)]

    def take(self, connection: Hashable, host: str, *, spared: bool) -> bool:
        """Count a new one, unless it is dropped.

        Args:
            spared: Only what came from the same address counts against it.
        """
        place = place_of(host)
        with self._lock:
            there = self._by_place[place] if spared else len(self._all)
            if self._is_dropped(there):
                return False
            self._all[connection] = place
            self._by_place[place] += 1
            return True

    def _is_dropped(self, there: int) -> bool:
        begin, rate, full = self.limits
        if there < begin:
            return False
        if there >= full:
            return True
        percent = rate + (100 - rate) * (there - begin) / (full - begin)
        return self._draw() * 100 < percent

    def leave(self, connection: Hashable) -> None:
        """It has logged in, or gone. Can be called twice."""
        with self._lock:
            place = self._all.pop(connection, None)
            if place is not None:
                self._by_place[place] -= 1
                if not self._by_place[place]:
                    del self._by_place[place]


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
