"""Turns: how many passwords are hashed at once, who waits for that, and one change at a time.

Lives here: the queue of one server, and the accounts whose password is being changed.
Lives elsewhere: hashing (passwords.py), when a turn is needed (limits.py), asking the server's
process for one from a worker (processes/worker_interfaces.py).

Both are in the memory of the server's process, for all of its workers. What a worker holds is
given back when it ends, however it does.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ftpserver.interfaces import apart, asked, told
from ftpserver.net.addresses import network_of
from ftpwire.errors import Busy

TOO_MANY = "too many log in just now: try again in a moment"
_LONGEST = 30.0
"""Seconds that a turn of a worker lasts at most: one that was stopped in it holds up no other."""
_Result = TypeVar("_Result")
_WAITING_SHARE = 2
"""A stranger's address may have one in so many of those that wait."""


def _too_many() -> Busy:
    return Busy(TOO_MANY, retry_after=1)


class Queueing(Protocol):
    """Where turns at hashing a password are given out."""

    def turn(
        self, host: str, *, known: bool, seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Wait for a turn, and have it. Raises Busy: too many wait already, or it took too long.

        Args:
            known: Somebody has logged in from there lately.
            seconds: To wait, at most.
        """


@apart
class Changing(Protocol):
    """Where it is known which passwords are being changed."""

    @contextmanager
    def one(self, account_id: int, name: str) -> Iterator[None]:
        """Change an account's password meanwhile. Raises Busy: another session does.

        Args:
            name: Of the account, for the message.
        """
        self.begin(account_id, name)
        try:
            yield
        finally:
            self.end(account_id)

    @asked
    def begin(self, account_id: int, name: str) -> None:
        """An account's password is being changed from now on. Raises Busy: it is already."""

    @told
    def end(self, account_id: int) -> None:
        """It is not any more."""


def wait_for(began: Future[_Result], seconds: float | None) -> _Result:
    """Wait until it is one's turn. Raises Busy: it took too long."""
    try:
        return began.result(seconds)
    except TimeoutError:
        raise _too_many() from None


@dataclass(eq=False)
class Turn:
    """A place in the queue.

    Attributes:
        token: To give it back.
        since: When it began, on ``time.monotonic()``.
        began: Done as soon as it is its turn, by the thread that gave its own turn back.
    """

    network: str
    worker: int | None
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    began: Future[None] = field(default_factory=Future)
    since: float = 0.0


class Queue:
    """Passwords that are checked, and those that wait for it; first come, first served.

    ``_lock`` guards all of it. It is never held while waiting, nor while others are told.

    Args:
        at_once: Checked at the same time.
        waiting: Most that may wait.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self.at_once = at_once
        self._most = waiting
        self._lock = threading.Lock()
        self._by_place: Counter[str] = Counter()
        self._waiting: dict[str, Turn] = {}
        self._running: dict[str, Turn] = {}

    def __len__(self) -> int:
        return self._by_place.total()

    @contextmanager
    def turn(self, host: str, *, known: bool, seconds: float | None = None) -> Iterator[None]:
        """Wait for a turn, and have it; see `Queueing`."""
        mine = self.enter(host, known=known)
        try:
            wait_for(mine.began, seconds)
            yield
        finally:
            self.leave(mine.token)

    def enter(self, host: str, *, known: bool, worker: int | None = None) -> Turn:
        """Take a place in the queue, to be given back by `leave`.

        A stranger's address may take only a part of the queue, so that one can't fill it; where
        somebody has logged in lately, it is twice as long.

        Args:
            worker: Who is asking, to be given back with its end; None: this process.

        Raises:
            Busy: Too many wait already.
        """
        turn = Turn(network_of(host), worker)
        most = self.at_once + self._most * (2 if known else 1)
        mine = most if known else self.at_once + self._most // _WAITING_SHARE
        with self._lock:
            if self._by_place.total() >= most or self._by_place[turn.network] >= mine:
                raise _too_many()
            self._by_place[turn.network] += 1
            self._waiting[turn.token] = turn
            next_ones = self._advance()
        _begin(next_ones)
        return turn

    def leave(self, token: str) -> None:
        """Give a turn back, or a place among those that wait. Can be called twice."""
        with self._lock:
            self._remove(token)
            next_ones = self._advance()
        _begin(next_ones)

    def mark_dead(self, worker: int) -> None:
        """Give back what a worker had that has ended."""
        with self._lock:
            for turn in [*self._waiting.values(), *self._running.values()]:
                if turn.worker == worker:
                    self._remove(turn.token)
            next_ones = self._advance()
        _begin(next_ones)

    def _remove(self, token: str) -> None:
        turn = self._waiting.pop(token, None) or self._running.pop(token, None)
        if turn is not None:
            self._by_place[turn.network] -= 1
            if not self._by_place[turn.network]:
                del self._by_place[turn.network]

    def _advance(self) -> list[Turn]:
        """Those that have their turn from now on."""
        now, begun = time.monotonic(), []
        for turn in list(self._running.values()):
            if turn.worker is not None and now - turn.since > _LONGEST:
                self._remove(turn.token)
        while self._waiting and len(self._running) < self.at_once:
            turn = self._waiting.pop(next(iter(self._waiting)))
            self._running[turn.token] = turn
            turn.since = now
            begun.append(turn)
        return begun


def _begin(turns: list[Turn]) -> None:
    for turn in turns:
        turn.began.set_result(None)


class Changes(Changing):
    """The accounts whose password is being changed. ``_lock`` guards ``_changing``.

    Each change takes two turns at hashing, and many at once would make the log-ins of others wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changing: dict[int, int | None] = {}
        """The accounts, and the worker that each is changed in."""

    def begin(self, account_id: int, name: str, worker: int | None = None) -> None:
        """The same, by a worker."""
        with self._lock:
            if account_id in self._changing:
                raise Busy(
                    f"{name}: another session is changing the password just now", retry_after=1
                )
            self._changing[account_id] = worker

    def end(self, account_id: int) -> None:
        """It is not any more."""
        with self._lock:
            self._changing.pop(account_id, None)

    def mark_dead(self, worker: int) -> None:
        """A worker has ended, and what it was changing with it."""
        with self._lock:
            self._changing = {one: its for one, its in self._changing.items() if its != worker}
