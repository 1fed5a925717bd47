"""A worker: a process that serves connections which the server above it has accepted.

Lives here: a worker's life, and what its sessions need to have asked or told above.
Lives elsewhere: what sessions share in any process (serving/service.py), the server's side
(supervisor.py), forking (forkserver.py).

Sessions, their threads, parking and the database are the same as where a server serves by itself.
A worker ends when it is told to, or as soon as the server is gone: never by a signal that was
meant for all processes of a group.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver.accounts.turns import wait_for
from ftpserver.audit.writer import Audit, Chunk, FailureAllowances
from ftpserver.database import open_to_serve
from ftpserver.net.descriptors import raise_descriptor_limit
from ftpserver.processes.brokering import Colleagues
from ftpserver.processes.forkserver import Born
from ftpserver.processes.messages import (
    MAX_SIZE,
    AskSessions,
    AskStats,
    AskTurn,
    BeginningTransfer,
    Birth,
    Bye,
    ChangingPassword,
    Closed,
    Drain,
    Drop,
    Entered,
    Entering,
    Follow,
    FoundBanned,
    GiveWay,
    Kick,
    Kicked,
    Leaving,
    Lines,
    LoggedIn,
    MayTell,
    PasswordChanged,
    Penalized,
    Probed,
    Probing,
    Ready,
    Registering,
    Retire,
    Serve,
    ServerAnswers,
    ServerSays,
    SessionsNow,
    StatsNow,
    Stop,
    TellFailure,
    TransferEnded,
    TransferIdle,
    TurnOver,
)
from ftpserver.processes.rpc import Carried, Peer, PeerGone
from ftpserver.processes.shared_rate import SharedPaces
from ftpserver.serving.heartbeat import Heartbeat
from ftpserver.serving.listeners import Handed
from ftpserver.serving.service import Service
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    from ftpserver.accounts.penalties import Offence
    from ftpserver.settings.table import Settings

_QUESTIONS_AT_ONCE = 64
"""Most of them are answered at once; who has lent a piece waits for it, and who takes over."""


def main(born: Born) -> None:
    """Be a worker until it is time to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server alone ends it
    raise_descriptor_limit()
    Worker(born).run()


class Worker:
    """A worker. It has a service, whose sessions are those of the connections that it was handed.

    ``_numbers`` has the numbers of the connections that are open; a thread touches only its own.
    """

    def __init__(self, born: Born) -> None:
        birth = msgspec.msgpack.decode(born.note, type=Birth)
        ours, page = born.descriptors
        self._asked_to_end = threading.Event()
        self._retiring = False
        self._leaving = False
        self._numbers: dict[socket.socket, int] = {}
        self._pool = ThreadPoolExecutor(_QUESTIONS_AT_ONCE, "question")
        self._stack = ExitStack()
        self.server = Peer(
            socket.socket(fileno=ours),
            hears=ServerSays,
            answers=ServerAnswers,
            handle=self._hear,
            pool=self._pool,
            max_size=MAX_SIZE,
            max_descriptors=1,
            on_end=self._server_gone,
            name="server",
        )
        self._colleagues = Colleagues(born.number, self.server)
        self.service = self._open(born.settings, birth, SharedPaces(page))
        self.service.tls_context = born.tls_context
        self.service.limits.tell_bans(lambda place, until: self._tell(FoundBanned(place, until)))
        self.service.park_idle()
        self._handed = Handed(self.service)

    def _open(self, settings: Settings, birth: Birth, paces: SharedPaces) -> Service:
        engine, _ = open_to_serve(settings.state)
        self._stack.callback(engine.dispose)
        self._stack.callback(paces.close)
        keep = settings.staging_seconds
        ledger = Ledger(
            engine, birth.node, birth.incarnation, keep, birth.run, state=settings.state
        )
        audit = Audit(
            settings.state,
            size=settings.audit_size,
            files=_Lines(self.server),
            failures=_Failures(self.server),
        )
        service = Service(
            settings,
            engine,
            ledger,
            audit,
            owners=self._colleagues.owners,
            counting=_Connections(self),
            throttle=_Throttle(self.server),
            probes=_Probes(self),
            counts=_Counts(self),
            transfers=_Transfers(self),
            queue=_Queue(self),
            changes=_Changes(self),
            make_pace=paces.pace,
        )
        self._stack.callback(service.close)
        return service

    # its life ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until it is time to end."""
        service = self.service
        heartbeat = Heartbeat(service.ledger, service.limits.sessions, stop_fd=service.stop_fd)
        heartbeat.start()
        service.start()
        self.server.start()
        self.server.tell(Ready())
        self._asked_to_end.wait()
        service.stopping = True
        service.end_sessions()
        service.stop()
        heartbeat.stop()
        service.audit.close()
        self._tell(Bye(service.stats()))
        self._leaving = True
        self.server.close()
        self._pool.shutdown(wait=False)
        self._stack.close()

    def _server_gone(self) -> None:
        """Nobody has this process any more: its sessions end as in a crash, and are repaired so."""
        if not self._leaving:
            os._exit(1)

    def _tell(self, message: msgspec.Struct) -> None:
        try:
            self.server.tell(message)
        except PeerGone:
            pass  # and this process is at its end

    # what the server says ----------------------------------------------------------------

    def _hear(self, said: Any, descriptors: list[int]) -> Any:
        match said:
            case Serve():
                self._serve(said, socket.socket(fileno=descriptors.pop()))
            case Stop(grace):
                self.service.grace = grace
                self._asked_to_end.set()
            case Drop(number):
                self._drop(number)
            case GiveWay(token):
                self.service.give_way(token)
            case Drain():
                self.service.draining = True
            case Retire():
                self._retiring = True
                self._end_when_done()
            case Follow(settings):
                self.service.apply_settings(
                    pickle.loads(settings)
                )  # of the server, which has all rights
            case AskStats():
                return StatsNow(self.service.stats())
            case AskSessions():
                return SessionsNow(self.service.session_infos())
            case Kick(session, user):
                return Kicked(self._kicked(session, user))
            case _:
                return self._colleagues.handle(said)
        return None

    def _serve(self, said: Serve, request: socket.socket) -> None:
        self._numbers[request] = said.number
        if said.spared and said.address is not None:
            self.service.limits.spare(said.address[0])
        address = "" if said.address is None else said.address
        try:
            self._handed.process_request(request, address)
        except Exception:  # no more threads
            self._handed.handle_error(request, address)
            self._handed.shutdown_request(request)

    def _drop(self, number: int) -> None:
        for request, one in list(self._numbers.items()):
            if one == number:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has just ended

    def _kicked(self, session: int | None, user: str | None) -> list[int]:
        try:
            return self.service.kick(session, user)
        except NotFound:
            return []  # another worker has it

    def _end_when_done(self) -> None:
        if self._retiring and not self.service.connections:
            self._asked_to_end.set()


class _Connections:
    """The server has accepted them, and counts them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def number(self, request: socket.socket) -> int:
        """The number that the server has given the connection."""
        return self._worker._numbers[request]

    def logged_in(self, request: socket.socket, host: str) -> None:
        """The connection doesn't count as a stranger's any more."""
        self._worker._tell(LoggedIn(self._worker._numbers[request], host))

    def penalize(self, host: str, offence: Offence) -> None:
        """The server counts it, because it accepts."""
        self._worker._tell(Penalized(host, offence))

    def closed(self, request: socket.socket) -> None:
        """The server has to know."""
        number = self._worker._numbers.pop(request, None)
        if number is not None:
            self._worker._tell(Closed(number))
        self._worker._end_when_done()


class _Throttle:
    """How many may register is the server's to say."""

    def __init__(self, server: Peer) -> None:
        self._server = server

    def take(self, host: str) -> None:
        """Count one. Raises Busy."""
        self._server.ask(Registering(host))


class _Counts:
    """How many sessions each account has is known to the server."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def enter(self, account_id: int, name: str, *, capped: bool) -> str:
        """Count one more. Raises TooMany."""
        asked = Entering(account_id, name, capped)
        return self._worker.server.ask(asked, Entered).token

    def leave(self, token: str) -> None:
        """Count one less."""
        self._worker._tell(Leaving(token))


class _Transfers:
    """How many transfers of each account are running is known to the server."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def begin(self, account_id: int, name: str, give_way: Callable[[str], None]) -> str:
        """Count one more; the server tells this process when it is to give way. Raises TooMany."""
        return self._worker.server.ask(BeginningTransfer(account_id, name), Entered).token

    def tell_idle(self, token: str, idle: bool) -> None:
        """Say whether one has moved no bytes for a while."""
        self._worker._tell(TransferIdle(token, idle))

    def leave(self, token: str) -> None:
        """Count one less."""
        self._worker._tell(TransferEnded(token))


class _Probes:
    """Tries with an invitation are counted by the server."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def take(self, invitation_id: str) -> None:
        """Count one. Raises Busy."""
        self._worker.server.ask(Probing(invitation_id))

    def give_back(self, invitation_id: str) -> None:
        """One made an account."""
        self._worker._tell(Probed(invitation_id))


class _Queue:
    """Passwords wait in the server's queue, with those of the other workers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @contextmanager
    def turn(self, host: str, *, spared: bool, seconds: float | None = None) -> Iterator[None]:
        """Wait for a turn, and have it. Raises Busy. The server knows itself who is spared."""
        asked = self._worker.server.ask_later(AskTurn(host))
        try:
            wait_for(asked, seconds)
            yield
        finally:
            asked.add_done_callback(self._give_back)  # also when it comes too late

    def _give_back(self, asked: Future[Carried]) -> None:
        if asked.exception() is None:
            self._worker._tell(TurnOver(asked.result().message.token))


class _Changes:
    """Which passwords are being changed is known to the server."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @contextmanager
    def one(self, account_id: int, name: str) -> Iterator[None]:
        """Change an account's password meanwhile. Raises Busy."""
        self._worker.server.ask(ChangingPassword(account_id, name))
        try:
            yield
        finally:
            self._worker._tell(PasswordChanged(account_id))


class _Failures:
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


class _Lines:
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
