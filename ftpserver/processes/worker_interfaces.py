"""The requests between a server and its workers.

Lives here: the interfaces that only these two have. For what the sessions of any process are
counted by, a worker has a proxy of that very interface (accounts/, audit/).
Lives elsewhere: how requests are sent (interfaces.py, rpc.py), the server's side (supervisor.py,
handing.py), the worker's side (worker.py).

A worker is trusted as much as the server: it has the accounts database and the key as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

import msgspec

from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.turns import wait_for
from ftpserver.interfaces import Carried, namespaced, notification, request
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings.table import Settings

MAX_SIZE = 32 * 1024 * 1024
"""Most bytes of one message: a batch of lines for the audit log has up to a thousand paths."""


class ChildNote(msgspec.Struct, frozen=True):
    """The note that a worker is forked with.

    Attributes:
        node, run, incarnation: As in the ledger.
    """

    node: str
    run: str
    incarnation: str


class Client(msgspec.Struct, frozen=True):
    """The client of a connection.

    Attributes:
        address: Its address and port; None on a Unix socket.
        known: True if a user has logged in from that address lately.
    """

    address: tuple[str, int] | None
    known: bool


class WorkerForServer(Protocol):
    """A worker, as the server sees it."""

    @notification
    def offer(self, number: int) -> None:
        """Offer a connection, by the number of its session. The first worker that claims it serves
        it."""

    @request
    def apply_settings(self, settings: Settings) -> None:
        """Use other settings from now on."""

    @notification
    def drain(self) -> None:
        """Close idle sessions; no further connections come."""

    @notification
    def drop(self, number: int) -> None:
        """End a connection that has not logged in, in favour of another."""

    @notification
    def give_way(self, token: str) -> None:
        """End the transfer of this token, whose slot another transfer needs."""

    @notification
    def retire(self) -> None:
        """End with the last connection; no further ones come."""

    @notification
    def stop(self, grace: float) -> None:
        """End all sessions and the process. Sent again if the grace time changes.

        Args:
            grace: Seconds that running transfers get.
        """

    @request
    def stats(self) -> Stats:
        """Return the worker's figures."""

    @request
    def session_infos(self) -> list[SessionInfo]:
        """Return the worker's sessions."""

    @request
    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all sessions of a user. Returns their numbers, none if not found."""


class ServerForWorker(Protocol):
    """The server, as a worker sees it."""

    @notification
    def ready(self) -> None:
        """Note that the worker can serve."""

    @request
    def claim(self, number: int) -> Carried[Client]:
        """Claim a connection that was offered. Its descriptor is sent along; from then on it is the
        worker's. Raises NotFound if it is another worker's."""

    @notification
    def logged_in(self, number: int, host: str) -> None:
        """Note that a connection's client has logged in."""

    @notification
    def closed(self, number: int) -> None:
        """Note that a connection was closed."""

    @notification
    def busy(self, sessions: int) -> None:
        """Note the number of the worker's busy sessions; see `Busyness`. Sent only if the server
        decides how many workers there are."""

    @notification
    def penalize(self, host: str, offence: Offence) -> None:
        """Count the end of a connection without a log-in against its address."""

    @notification
    def heard_of_ban(self, network: str, until: int) -> None:
        """Note that a network is banned until a time, in seconds since 1970."""

    @notification
    def measure_soon(self, account_id: int) -> None:
        """Count the uncounted trees in an account's trash soon."""

    @request
    def free_disk_space(self, account_id: int, size: int) -> Future[bool]:
        """Delete trash of all accounts until the disk has ``size`` bytes free. Returns whether it
        has."""

    @notification
    def bye(self, stats: Stats) -> None:
        """Note that the worker ends, after all its sessions. ``stats``: its last figures."""


@namespaced
class AuditLines(Protocol):
    """The server's audit log, as a worker writes to it."""

    @notification
    def append(self, lines: bytes, count: int, share: str | None) -> None:
        """Write whole lines; see `Audit.append`."""


@namespaced
class ServerQueue(Protocol):
    """The server's queue of password checks, for the `Queueing` of a worker."""

    @request
    def enter(self, host: str) -> Future[str]:
        """Wait for a turn. Returns a token by which to give it back. Raises Busy."""

    @notification
    def leave(self, token: str) -> None:
        """Give a turn back."""

    @contextmanager
    def turn(self, host: str, *, known: bool, seconds: float | None = None) -> Iterator[None]:
        """Return a context with a turn. Raises Busy. The server itself knows trusted addresses."""
        entered = self.enter(host)
        try:
            wait_for(entered, seconds)
            yield
        finally:
            entered.add_done_callback(self._give_back)  # also if the turn comes too late

    def _give_back(self, entered: Future[str]) -> None:
        if entered.exception() is None:
            self.leave(entered.result())


@namespaced
class ServerTransfers(Protocol):
    """The server's counts of running transfers, for the `TransferCounting` of a worker."""

    @request
    def begin_here(self, account_id: int, name: str) -> str:
        """Count another transfer. Returns a token by which to end that. Raises TooMany."""

    @notification
    def report_idle(self, token: str, idle: bool) -> None:
        """Report whether a transfer has moved no bytes for a while."""

    @notification
    def leave(self, token: str) -> None:
        """Stop counting a transfer. Can be called twice."""

    def begin(self, account_id: int, name: str, give_way: Callable[[str], None]) -> str:
        """As `begin_here`: the server tells the worker which transfer is to give way."""
        return self.begin_here(account_id, name)
