"""What the service of a worker is given: counters, allowances and a log that ask the server.

Lives here: the implementations of its interfaces that turn each call into a question, or a word.
Lives elsewhere: the interfaces (serving/service.py, accounts/, audit/writer.py), the answers
(handler.py), the worker (worker.py).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from ftpserver.accounts.turns import wait_for
from ftpserver.audit.allowances import FailureAllowances
from ftpserver.audit.files import Chunk
from ftpserver.processes.messages import (
    AskTurn,
    BeginningTransfer,
    ChangingPassword,
    Closed,
    Entered,
    Entering,
    Leaving,
    Lines,
    LoggedIn,
    MayTell,
    PasswordChanged,
    Penalized,
    Probed,
    Probing,
    Registering,
    TellFailure,
    TransferEnded,
    TransferIdle,
    TurnOver,
)
from ftpserver.processes.rpc import Carried, Peer, PeerGone

if TYPE_CHECKING:
    from ftpserver.accounts.penalties import Offence


class RemoteConnections:
    """The server has accepted them, and counts them.

    Args:
        on_closed: Called when one was closed.

    Attributes:
        numbers: Those that the server has given the connections that are open. A thread touches
            only its own.
    """

    def __init__(self, server: Peer, on_closed: Callable[[], None]) -> None:
        self._server = server
        self._on_closed = on_closed
        self.numbers: dict[socket.socket, int] = {}

    def number(self, request: socket.socket) -> int:
        """The number that the server has given the connection."""
        return self.numbers[request]

    def logged_in(self, request: socket.socket, host: str) -> None:
        """The connection doesn't count as a stranger's any more."""
        _tell(self._server, LoggedIn(self.numbers[request], host))

    def penalize(self, host: str, offence: Offence) -> None:
        """The server counts it, because it accepts."""
        _tell(self._server, Penalized(host, offence))

    def closed(self, request: socket.socket) -> None:
        """The server has to know."""
        number = self.numbers.pop(request, None)
        if number is not None:
            _tell(self._server, Closed(number))
        self._on_closed()


class RemoteThrottle:
    """How many may register is the server's to say."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    def take(self, host: str) -> None:
        """Count one. Raises Busy."""
        self._server.ask(Registering(host))


class RemoteCounts:
    """How many sessions each account has is known to the server."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    def enter(self, account_id: int, name: str, *, capped: bool) -> str:
        """Count one more. Raises TooMany."""
        asked = Entering(account_id, name, capped)
        return self._server.ask(asked, Entered).token

    def leave(self, token: str) -> None:
        """Count one less."""
        _tell(self._server, Leaving(token))


class RemoteTransfers:
    """How many transfers of each account are running is known to the server."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    def begin(self, account_id: int, name: str, give_way: Callable[[str], None]) -> str:
        """Count one more; the server tells this process when it is to give way. Raises TooMany."""
        return self._server.ask(BeginningTransfer(account_id, name), Entered).token

    def tell_idle(self, token: str, idle: bool) -> None:
        """Say whether one has moved no bytes for a while."""
        _tell(self._server, TransferIdle(token, idle))

    def leave(self, token: str) -> None:
        """Count one less."""
        _tell(self._server, TransferEnded(token))


class RemoteProbes:
    """Tries with an invitation are counted by the server."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    def take(self, invitation_id: str) -> None:
        """Count one. Raises Busy."""
        self._server.ask(Probing(invitation_id))

    def give_back(self, invitation_id: str) -> None:
        """One made an account."""
        _tell(self._server, Probed(invitation_id))


class RemoteQueue:
    """Passwords wait in the server's queue, with those of the other workers."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    @contextmanager
    def turn(self, host: str, *, spared: bool, seconds: float | None = None) -> Iterator[None]:
        """Wait for a turn, and have it. Raises Busy. The server knows itself who is spared."""
        asked = self._server.ask_later(AskTurn(host))
        try:
            wait_for(asked, seconds)
            yield
        finally:
            asked.add_done_callback(self._give_back)  # also when it comes too late

    def _give_back(self, asked: Future[Carried]) -> None:
        if asked.exception() is None:
            _tell(self._server, TurnOver(asked.result().message.token))


class RemoteChanges:
    """Which passwords are being changed is known to the server."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    @contextmanager
    def one(self, account_id: int, name: str) -> Iterator[None]:
        """Change an account's password meanwhile. Raises Busy."""
        self._server.ask(ChangingPassword(account_id, name))
        try:
            yield
        finally:
            _tell(self._server, PasswordChanged(account_id))


class RemoteFailures:
    """How many failures are recorded is the server's to say.

    It isn't asked more often than a server with one worker would say yes: a flood costs it little.
    """

    def __init__(self, server: Peer) -> None:
        self._server = server
        self._mine = FailureAllowances()

    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Whether another one may be recorded."""
        if not self._mine.take(account_id, guess, size):
            return False
        try:
            return self._server.ask(TellFailure(account_id, guess, size), MayTell).granted
        except PeerGone:
            return False  # and this process is at its end


class RemoteLines:
    """The audit log's files are the server's: what is written goes there."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Have lines written; returns how many could not be."""
        count = sum(chunk.records for chunk in chunks)
        try:
            for chunk in chunks:
                self._server.tell(Lines(*chunk))
                count -= chunk.records
        except PeerGone:
            pass  # and this process is at its end
        return count

    def close(self) -> None:
        """Nothing is open here."""


def _tell(server: Peer, message: msgspec.Struct) -> None:
    try:
        server.tell(message)
    except PeerGone:
        pass  # and this process is at its end
