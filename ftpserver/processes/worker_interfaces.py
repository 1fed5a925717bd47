"""What a server and its workers ask each other.

Lives here: the interfaces that only these two have. Where a worker asks for what any process's
sessions count by, it has a stand-in of that interface itself (accounts/, audit/).
Lives elsewhere: how they travel (interfaces.py, rpc.py), the server's side (supervisor.py,
handing.py), the worker's side (worker.py).

A worker is no less trusted than the server: it has the accounts file and the key as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

import msgspec

from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.turns import wait_for
from ftpserver.interfaces import Carried, apart, asked, told
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings.table import Settings

MAX_SIZE = 32 * 1024 * 1024
"""Bytes of one message: a batch of lines for the audit log has a thousand paths, at most."""


class ChildNote(msgspec.Struct, frozen=True):
    """What a worker is told when it is forked.

    Attributes:
        node, run, incarnation: As in the ledger.
    """

    node: str
    run: str
    incarnation: str


class Client(msgspec.Struct, frozen=True):
    """What is known of a connection's client.

    Attributes:
        address: Where it comes from; None for a Unix socket.
        known: Somebody has logged in from there lately.
    """

    address: tuple[str, int] | None
    known: bool


class WorkerForServer(Protocol):
    """A worker, for the server."""

    @told
    def offer(self, number: int) -> None:
        """A connection is to be served by whoever claims it first, under the number of its
        session."""

    @asked
    def apply_settings(self, settings: Settings) -> None:
        """Other settings hold from now on."""

    @told
    def drain(self) -> None:
        """No more connections come: send those away that are idle."""

    @told
    def drop(self, number: int) -> None:
        """End a connection that has not logged in, to make room for another."""

    @told
    def give_way(self, token: str) -> None:
        """End the transfer of this token: another one needs its place."""

    @told
    def retire(self) -> None:
        """No more connections come: end with the last one."""

    @told
    def stop(self, grace: float) -> None:
        """End. Told again with another grace time.

        Args:
            grace: Seconds that running transfers get.
        """

    @asked
    def stats(self) -> Stats:
        """How much goes on."""

    @asked
    def session_infos(self) -> list[SessionInfo]:
        """Who is connected."""

    @asked
    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Returns their numbers; none if they aren't here."""


class ServerForWorker(Protocol):
    """The server, for a worker."""

    @told
    def ready(self) -> None:
        """The worker can serve."""

    @asked
    def claim(self, number: int) -> Carried[Client]:
        """Have a connection that was offered, whose descriptor comes along. It is the worker's from
        then on. Raises NotFound: another one has it."""

    @told
    def logged_in(self, number: int, host: str) -> None:
        """A connection's client has said who it is."""

    @told
    def closed(self, number: int) -> None:
        """A connection was closed."""

    @told
    def busy(self, sessions: int) -> None:
        """So many of its sessions are busy from now on; see `Busyness`. Told where the server
        decides how many workers there are."""

    @told
    def penalize(self, host: str, offence: Offence) -> None:
        """A connection has ended without a log-in, in a way that costs its address something."""

    @told
    def heard_of_ban(self, network: str, until: int) -> None:
        """An address is banned, until so many seconds since 1970."""

    @told
    def measure_soon(self, account_id: int) -> None:
        """There are trees in an account's trash that weren't counted."""

    @asked
    def make_disk_room(self, account_id: int, size: int) -> Future[bool]:
        """Give up trash of all accounts until the disk has room for so many bytes; whether it
        has."""

    @told
    def bye(self, stats: Stats) -> None:
        """All sessions of the worker have ended, and so does it. ``stats``: the last ones."""


@apart
class AuditLines(Protocol):
    """The server's audit log, for the lines of a worker."""

    @told
    def append(self, lines: bytes, count: int, share: str | None) -> None:
        """Have whole lines written; see `Audit.append`."""


@apart
class ServerQueue(Protocol):
    """The server's queue of passwords, for the `Queueing` of a worker."""

    @asked
    def enter(self, host: str) -> Future[str]:
        """A turn, when it is there; returns a token to give it back by. Raises Busy."""

    @told
    def leave(self, token: str) -> None:
        """Give a turn back."""

    @contextmanager
    def turn(self, host: str, *, known: bool, seconds: float | None = None) -> Iterator[None]:
        """Wait for a turn, and have it. Raises Busy. The server knows itself who is spared."""
        entered = self.enter(host)
        try:
            wait_for(entered, seconds)
            yield
        finally:
            entered.add_done_callback(self._give_back)  # also when it comes too late

    def _give_back(self, entered: Future[str]) -> None:
        if entered.exception() is None:
            self.leave(entered.result())


@apart
class ServerTransfers(Protocol):
    """The server's counts of running transfers, for the `TransferCounting` of a worker."""

    @asked
    def begin_here(self, account_id: int, name: str) -> str:
        """Count one more transfer; returns a token to give back. Raises TooMany."""

    @told
    def tell_idle(self, token: str, idle: bool) -> None:
        """Say whether a transfer has moved no bytes for a while."""

    @told
    def leave(self, token: str) -> None:
        """Count one less. Can be called twice."""

    def begin(self, account_id: int, name: str, give_way: Callable[[str], None]) -> str:
        """The same as `begin_here`: the server tells the worker which one is to give way."""
        return self.begin_here(account_id, name)
