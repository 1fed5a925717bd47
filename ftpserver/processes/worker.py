"""A worker: a process that serves connections which the server above it has accepted.

Lives here: a worker's life, and what the server has it do.
Lives elsewhere: what sessions share in any process (serving/service.py), asking the server for them
(proxies.py), the server's side (supervisor.py), forking (forkserver.py).

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
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver.audit.writer import Audit
from ftpserver.database import open_to_serve
from ftpserver.net.descriptors import raise_descriptor_limit
from ftpserver.processes.forkserver import Born
from ftpserver.processes.messages import (
    MAX_SIZE,
    ApplySettings,
    AskSessions,
    AskStats,
    Birth,
    Bye,
    Drain,
    Drop,
    FoundBanned,
    GiveWay,
    Kick,
    Kicked,
    Ready,
    Retire,
    Serve,
    ServerAnswers,
    ServerSays,
    SessionsNow,
    StatsNow,
    Stop,
)
from ftpserver.processes.proxies import (
    RemoteChanges,
    RemoteConnections,
    RemoteCounts,
    RemoteFailures,
    RemoteLines,
    RemoteProbes,
    RemoteQueue,
    RemoteThrottle,
    RemoteTransfers,
)
from ftpserver.processes.rpc import Peer, PeerGone
from ftpserver.processes.shared_rate import SharedPaces
from ftpserver.serving.heartbeat import Heartbeat
from ftpserver.serving.listeners import Handed
from ftpserver.serving.service import Service
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    from ftpserver.settings.table import Settings


def main(born: Born) -> None:
    """Be a worker until it is time to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server alone ends it
    raise_descriptor_limit()
    Worker(born).run()


class Worker:
    """A worker. Its service has the sessions of the connections that it was handed."""

    def __init__(self, born: Born) -> None:
        birth = msgspec.msgpack.decode(born.note, type=Birth)
        ours, page = born.descriptors
        self._asked_to_end = threading.Event()
        self._retiring = False
        self._leaving = False
        self._stack = ExitStack()
        self.server = Peer(
            socket.socket(fileno=ours),
            hears=ServerSays,
            answers=ServerAnswers,
            handle=self._hear,
            max_size=MAX_SIZE,
            max_descriptors=1,
            on_end=self._server_gone,
            name="server",
        )
        self._connections = RemoteConnections(self.server, self._end_when_done)
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
            files=RemoteLines(self.server),
            failures=RemoteFailures(self.server),
        )
        service = Service(
            settings,
            engine,
            ledger,
            audit,
            counting=self._connections,
            throttle=RemoteThrottle(self.server),
            probes=RemoteProbes(self.server),
            counts=RemoteCounts(self.server),
            transfers=RemoteTransfers(self.server),
            queue=RemoteQueue(self.server),
            changes=RemoteChanges(self.server),
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
            case ApplySettings(settings):
                self.service.apply_settings(
                    pickle.loads(settings)
                )  # of the server, which has all rights
            case AskStats():
                return StatsNow(self.service.stats())
            case AskSessions():
                return SessionsNow(self.service.session_infos())
            case Kick(session, user):
                return Kicked(self._kicked(session, user))
        return None

    def _serve(self, said: Serve, request: socket.socket) -> None:
        self._connections.numbers[request] = said.number
        if said.spared and said.address is not None:
            self.service.limits.spare(said.address[0])
        address = "" if said.address is None else said.address
        try:
            self._handed.process_request(request, address)
        except Exception:  # no more threads
            self._handed.handle_error(request, address)
            self._handed.shutdown_request(request)

    def _drop(self, number: int) -> None:
        for request, one in list(self._connections.numbers.items()):
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
