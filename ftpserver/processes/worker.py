"""A worker: a process that serves connections which its server has accepted.

Lives here: a worker's life, and the server's requests to it.
Lives elsewhere: what sessions share in any process (serving/service.py), the requests
(worker_interfaces.py), the server's side (supervisor.py), forking (forkserver.py).

Sessions, their threads, parking and the database are the same as in a server without workers. A
worker ends when the server requests it, or as soon as the server is gone: never by a signal that
was meant for all processes of a group.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from ftpserver.accounts.registration import Probing, Throttling
from ftpserver.accounts.session_counts import SessionCounting
from ftpserver.accounts.turns import Changing
from ftpserver.audit.allowances import FailureAllowances, FailureLimiting
from ftpserver.audit.writer import Audit
from ftpserver.database import open_to_serve
from ftpserver.interfaces import Carried, later, make_proxy
from ftpserver.net.descriptors import raise_descriptor_limit
from ftpserver.processes.forkserver import ChildArguments
from ftpserver.processes.malloc import keep_what_is_there, return_what_is_free
from ftpserver.processes.rpc import Endpoint, EndpointGone
from ftpserver.processes.shared_rate import SharedPaces
from ftpserver.processes.worker_interfaces import (
    MAX_SIZE,
    AuditLines,
    ChildNote,
    Client,
    ServerForWorker,
    ServerQueue,
    ServerTransfers,
    WorkerForServer,
)
from ftpserver.serving.busyness import Busyness
from ftpserver.serving.heartbeat import Heartbeat
from ftpserver.serving.listeners import Handed
from ftpserver.serving.quiet import Quiet
from ftpserver.serving.service import Service
from ftpserver.settings.table import AUTO
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import FtpError, NotFound

if TYPE_CHECKING:
    from ftpserver.accounts.penalties import Offence
    from ftpserver.audit.files import Chunk
    from ftpserver.serving.stats import SessionInfo, Stats
    from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd.workers")

_DISK_SPACE_SECONDS = 40.0
"""Seconds for which a worker waits for the server to free disk space: more than that takes."""


def main(arguments: ChildArguments) -> None:
    """Be a worker until its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the server ends it
    raise_descriptor_limit()
    Worker(arguments).run()


class Worker(WorkerForServer):
    """A worker. Its service has the sessions of the connections that it has claimed.

    The endpoint's reader calls the methods of `WorkerForServer`: none of them waits.
    """

    def __init__(self, arguments: ChildArguments) -> None:
        note = msgspec.msgpack.decode(arguments.note, type=ChildNote)
        ours, page = arguments.descriptors
        self._end_requested = threading.Event()
        self._retiring = False
        self._leaving = False
        self._claims: dict[int, bool] = {}
        """The claims that the server hasn't answered, by number; True if the connection is to be
        dropped. Only the endpoint's reader changes it."""
        self._stack = ExitStack()
        self._endpoint = Endpoint(
            socket.socket(fileno=ours),
            targets={WorkerForServer: self},
            max_size=MAX_SIZE,
            max_descriptors=1,
            on_end=self._server_gone,
            name="server",
        )
        self._server = make_proxy(ServerForWorker, self._endpoint)
        self._connections = _Connections(self._server, self._end_when_done)
        self.service = self._open(arguments.settings, note, SharedPaces(page))
        self.service.tls_context = arguments.tls_context
        self.service.limits.report_bans(self._server.heard_of_ban)
        self.service.park_idle()
        self._handed = Handed(self.service)
        self._busyness = Busyness(self.service.sessions)
        self._busy = 0
        """The number of busy sessions that was last reported to the server."""
        self._grows = arguments.settings.workers == AUTO  # else the number of workers is fixed
        service = self.service
        self._quiet = Quiet(service.connections, service.moved, return_what_is_free)
        service.watcher.on_look = self._look

    def _open(self, settings: Settings, note: ChildNote, paces: SharedPaces) -> Service:
        engine, _ = open_to_serve(settings.state)
        self._stack.callback(engine.dispose)
        self._stack.callback(paces.close)
        keep = settings.staging_seconds
        ledger = Ledger(engine, note.node, note.incarnation, keep, note.run, state=settings.state)
        ledger.on_unmeasured = self._server.measure_soon
        ledger.on_disk_full = self._free_disk_space
        server = self._endpoint
        audit = Audit(
            settings.state,
            size=settings.audit_size,
            files=_Lines(make_proxy(AuditLines, server)),
            failures=_Failures(make_proxy(FailureLimiting, server)),
        )
        service = Service(
            settings,
            engine,
            ledger,
            audit,
            counting=self._connections,
            throttle=make_proxy(Throttling, server),
            probes=make_proxy(Probing, server),
            counts=make_proxy(SessionCounting, server),
            transfers=make_proxy(ServerTransfers, server),
            queue=make_proxy(ServerQueue, server),
            changes=make_proxy(Changing, server),
            make_pace=paces.pace,
        )
        self._stack.callback(service.close)
        return service

    def _free_disk_space(self, account_id: int, size: int) -> bool:
        """Let the server free disk space. Returns False also if that takes too long."""
        try:
            return self._server.free_disk_space(account_id, size).result(_DISK_SPACE_SECONDS)
        except TimeoutError:
            return False

    # its life ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the end."""
        service = self.service
        heartbeat = Heartbeat(service.ledger, service.limits.sessions, stop_fd=service.stop_fd)
        heartbeat.start()
        service.start()
        self._endpoint.start()
        self._server.ready()
        keep_what_is_there()
        self._end_requested.wait()
        service.stopping = True
        service.end_sessions()
        service.stop()
        heartbeat.stop()
        service.audit.close()
        self._server.bye(service.stats())
        self._leaving = True
        self._endpoint.close()
        self._stack.close()

    def _server_gone(self) -> None:
        """End this process at once: without the server its sessions end, and are repaired, as after
        a crash."""
        if not self._leaving:
            os._exit(1)

    def _end_when_done(self) -> None:
        if self._retiring and not (self._claims or self.service.connections):
            self._end_requested.set()

    def _look(self, now: float) -> None:
        """In each round of the account watcher, report the number of busy sessions if changed."""
        self._quiet.look(now)
        if not self._grows:
            return
        busy = self._busyness.look(now)
        if busy != self._busy:
            self._busy = busy
            self._server.busy(busy)

    # connections -------------------------------------------------------------------------

    def offer(self, number: int) -> None:
        if self._end_requested.is_set():
            return  # another worker gets it
        self._claims[number] = False
        claimed = later(self._server.claim)(number)
        claimed.add_done_callback(lambda done: self._claimed(number, done))

    def _claimed(self, number: int, done: Future[Carried[Client]]) -> None:
        try:
            self._serve(number, *done.result())
            if self._claims[number]:
                self.drop(number)
        except (NotFound, EndpointGone):
            pass  # another worker has it
        except (FtpError, OSError) as error:  # no free descriptor: it was closed on its way
            logger.error("a connection could not be taken: %s", error)
            self._server.closed(number)
        finally:
            del self._claims[number]
            self._end_when_done()

    def _serve(self, number: int, client: Client, descriptors: list[int]) -> None:
        request = socket.socket(fileno=descriptors.pop())
        self._connections.numbers[request] = number
        if client.known and client.address is not None:
            self.service.limits.spare(client.address[0])
        address = "" if client.address is None else client.address
        self._handed.take(request, address)

    def drop(self, number: int) -> None:
        if number in self._claims:  # this may come before the reply to the claim
            self._claims[number] = True
        for request, one in list(self._connections.numbers.items()):
            if one == number:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has just ended

    # other requests of the server --------------------------------------------------------

    def apply_settings(self, settings: Settings) -> None:
        self.service.apply_settings(settings)

    def drain(self) -> None:
        self.service.draining = True

    def give_way(self, token: str) -> None:
        self.service.give_way(token)

    def retire(self) -> None:
        self._retiring = True
        self._end_when_done()

    def stop(self, grace: float) -> None:
        self.service.grace = grace
        self._end_requested.set()

    def stats(self) -> Stats:
        return self.service.stats()

    def session_infos(self) -> list[SessionInfo]:
        return self.service.session_infos()

    def kick(self, session: int | None, user: str | None) -> list[int]:
        try:
            return self.service.kick(session, user)
        except NotFound:
            return []  # another worker has it


class _Connections:
    """The numbers of this worker's connections. The server has accepted and counts them.

    Args:
        on_closed: Called when a connection was closed.

    Attributes:
        numbers: The server's numbers of the open connections. A thread uses only its own.
    """

    def __init__(self, server: ServerForWorker, on_closed: Callable[[], None]) -> None:
        self._server = server
        self._on_closed = on_closed
        self.numbers: dict[socket.socket, int] = {}

    def number(self, request: socket.socket) -> int:
        """Return the number that the server has given the connection."""
        return self.numbers[request]

    def logged_in(self, request: socket.socket, host: str) -> None:
        """Let the server stop counting it as an unauthenticated connection."""
        self._server.logged_in(self.numbers[request], host)

    def penalize(self, host: str, offence: Offence) -> None:
        """Let the server count the offence, because it is the one that accepts."""
        self._server.penalize(host, offence)

    def closed(self, request: socket.socket) -> None:
        """Report a closed connection to the server."""
        number = self.numbers.pop(request, None)
        if number is not None:
            self._server.closed(number)
        self._on_closed()


class _Failures:
    """Asks the server how many failures may be recorded in the audit log.

    It asks at most as often as a server with one worker would permit: a flood costs the server
    little.
    """

    def __init__(self, server: FailureLimiting) -> None:
        self._server = server
        self._mine = FailureAllowances()

    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Return whether another failure may be recorded."""
        try:
            return self._mine.take(account_id, guess, size) and self._server.take(
                account_id, guess, size
            )
        except EndpointGone:
            return False  # this process is about to end, too


class _Lines:
    """Sends lines to the audit log, whose files belong to the server."""

    def __init__(self, server: AuditLines) -> None:
        self._server = server

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Send lines to the server."""
        for chunk in chunks:
            self._server.append(*chunk)
        return 0

    def close(self) -> None:
        """Do nothing: no file is open here."""
