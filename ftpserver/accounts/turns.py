"""Turns: how many passwords are hashed at once, the queue for that, and one change at a time.

Lives here: the queue of one server, and the accounts whose password is being changed.
Lives elsewhere: hashing (passwords.py), when a turn is needed (limits.py), requests for a turn to
the server's process from a worker (processes/worker_interfaces.py).

Both are in the memory of the server's process, for all of its workers. Turns of a worker are
released when it ends, for whatever reason.
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

from ftpserver.interfaces import namespaced, notification, request
from ftpserver.net.addresses import network_of
from ftpwire.errors import Busy

TOO_MANY = "too many log-ins at the moment: try again shortly"
_LONGEST = 30.0
"""The longest turn of a worker, in seconds, so that a stopped worker doesn't block others."""
_Result = TypeVar("_Result")
_WAITING_SHARE = 2
"""A network without a recent log-in may have 1/_WAITING_SHARE of the waiting turns."""


def _too_many() -> Busy:
    return Busy(TOO_MANY, retry_after=1)


class Queueing(Protocol):
    """The queue for turns to hash a password."""

    def turn(
        self, host: str, *, known: bool, seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Wait for a turn, and hold it. Raises Busy if too many wait already or it took too long.

        Args:
            known: True if a user has logged in from there lately.
            seconds: The longest wait; None for no limit.
        """


@namespaced
class Changing(Protocol):
    """The record of password changes in progress."""

    @contextmanager
    def one(self, account_id: int, name: str) -> Iterator[None]:
        """Hold an account's password change. Raises Busy if another session is changing it.

        Args:
            name: The account's name, for the message.
        """
        self.begin(account_id, name)
        try:
            yield
        finally:
            self.end(account_id)

    @request
    def begin(self, account_id: int, name: str) -> None:
        """Begin the change of an account's password. Raises Busy if another one is in progress."""

    @notification
    def end(self, account_id: int) -> None:
        """End the change of an account's password."""


def wait_for(began: Future[_Result], seconds: float | None) -> _Result:
    """Wait for a turn to begin. Raises Busy if it took too long."""
    try:
        return began.result(seconds)
    except TimeoutError:
        raise _too_many() from None


@dataclass(eq=False)
class Turn:
    """A turn in the queue.

    Attributes:
        token: The token by which it is released.
        since: When it began, by ``time.monotonic()``.
        began: Done once the turn begins, by the thread that released a turn.
    """

    network: str
    worker: int | None
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    began: Future[None] = field(default_factory=Future)
    since: float = 0.0


class Queue:
    """The passwords that are being checked, and those that wait; first come, first served.

    ``_lock`` guards all attributes. It is never held while waiting, nor while futures are set.

    Args:
        at_once: The number of turns at the same time.
        waiting: The most turns that may wait.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self.at_once = at_once
        self._most = waiting
        self._lock = threading.Lock()
        self._by_network: Counter[str] = Counter()
        self._waiting: dict[str, Turn] = {}
        self._running: dict[str, Turn] = {}

    def __len__(self) -> int:
        return self._by_network.total()

    @contextmanager
    def turn(self, host: str, *, known: bool, seconds: float | None = None) -> Iterator[None]:
        """Wait for a turn, and hold it; see `Queueing`."""
        mine = self.enter(host, known=known)
        try:
            wait_for(mine.began, seconds)
            yield
        finally:
            self.leave(mine.token)

    def enter(self, host: str, *, known: bool, worker: int | None = None) -> Turn:
        """Enter the queue. The turn must be released by `leave`.

        A network without a recent log-in may take only a part of the queue, so that one cannot fill
        it; for one with a recent log-in, the queue is twice as long.

        Args:
            worker: The worker that the turn is for, and whose end releases it; None for this
                process.

        Raises:
            Busy: Too many wait already.
            Busy: Too many wait already.
        """
        turn = Turn(network_of(host), worker)
        most = self.at_once + self._most * (2 if known else 1)
        mine = most if known else self.at_once + self._most // _WAITING_SHARE
        with self._lock:
            if self._by_network.total() >= most or self._by_network[turn.network] >= mine:
                raise _too_many()
            self._by_network[turn.network] += 1
            self._waiting[turn.token] = turn
            next_ones = self._advance()
        # outside the lock: a future's callbacks run here
        _begin(next_ones)
        return turn

    def leave(self, token: str) -> None:
        """Release a turn, running or waiting. Can be called twice."""
        with self._lock:
            self._remove(token)
            next_ones = self._advance()
        _begin(next_ones)

    def mark_dead(self, worker: int) -> None:
        """Release the turns of a worker that has ended."""
        with self._lock:
            for turn in [*self._waiting.values(), *self._running.values()]:
                if turn.worker == worker:
                    self._remove(turn.token)
            next_ones = self._advance()
        _begin(next_ones)

    def _remove(self, token: str) -> None:
        """Remove a turn from the queue. The caller holds the lock."""
        turn = self._waiting.pop(token, None) or self._running.pop(token, None)
        if turn is not None:
            self._by_network[turn.network] -= 1
            if not self._by_network[turn.network]:
                del self._by_network[turn.network]

    def _advance(self) -> list[Turn]:
        """Start the next turns, and return them. The caller holds the lock."""
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
    """The password changes in progress. ``_lock`` guards ``_changing``.

    Each change hashes twice; many at once for one account would delay the log-ins of others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changing: dict[int, int | None] = {}
        """The accounts, each with the worker that changes it; None for this process."""

    def begin(self, account_id: int, name: str, worker: int | None = None) -> None:
        """Begin a change, maybe in a worker. Raises Busy if another one is in progress."""
        with self._lock:
            if account_id in self._changing:
                raise Busy(f"{name}: another session is changing the password", retry_after=1)
            self._changing[account_id] = worker

    def end(self, account_id: int) -> None:
        """End the change of an account's password."""
        with self._lock:
            self._changing.pop(account_id, None)

    def mark_dead(self, worker: int) -> None:
        """End the changes of a worker that has ended."""
        with self._lock:
            self._changing = {
                one: owner for one, owner in self._changing.items() if owner != worker
            }
