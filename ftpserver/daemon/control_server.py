"""The server's side of the control socket, which serves `ftpd status` and similar commands.

Lives here: the socket, its threads, and the handler of each request.
Lives elsewhere: requests, replies, and the client's side (control.py); the work itself (server.py,
serving/account_watch.py).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver.admin.trash_work import TrashWork
from ftpserver.clock import RUN
from ftpserver.daemon import registry
from ftpserver.daemon.control import (
    PATIENCE,
    SOCKET,
    BanInfo,
    Bans,
    Control,
    DiscoveryInfo,
    Ended,
    Entry,
    Failure,
    Report,
    Sessions,
    Status,
    Stopping,
    TrashEmptied,
    TrashInfo,
    TrashRestored,
)
from ftpserver.daemon.trash_answers import TrashAnswers
from ftpserver.errors import SettingsError, StateError
from ftpserver.interfaces import Dispatcher
from ftpserver.net.private_socket import PrivateSocket
from ftpwire import SOFTWARE, paths
from ftpwire.errors import CommandError, FtpError, Internal, NotFound, TooMany

if TYPE_CHECKING:
    from ftpserver.accounts.bans import Ban
    from ftpserver.daemon.discovery import Discovery
    from ftpserver.daemon.server import FtpServer

logger = logging.getLogger("ftpd.control")

_MAX_REQUEST = 64 * 1024
"""The largest request in bytes."""
_BREATHER = 0.25
"""Seconds to wait after an accept that failed, so that the thread doesn't spin."""


class ControlSocket(PrivateSocket, ThreadingMixIn, UnixStreamServer):
    """Serves requests to a running server, in threads of its own.

    Args:
        discovery: A function that returns the server's discovery, or None if it has none.

    Raises:
        OSError: The socket cannot be made.
    """

    daemon_threads = False  # stop() waits for them
    name = SOCKET

    def __init__(self, server: FtpServer, discovery: Callable[[], Discovery | None]) -> None:
        self.server = server
        self.discovery = discovery
        self._connections: set[socket.socket] = set()
        self._over = threading.Event()
        super().__init__(server.settings.state, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="control")
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. If no descriptor is left, wait a moment instead of spinning."""
        try:
            return super().get_request()
        except OSError:
            self._over.wait(_BREATHER)
            raise  # serve_forever goes on

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, which `stop` ends and waits for."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, after its thread has ended or could not be started."""
        super().shutdown_request(request)
        self._connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a request failed, and go on with the others."""
        logger.exception("a control request failed")

    def stop(self) -> None:
        """Finish the requests that were received, and remove the socket."""
        self._over.set()
        registry.remove(self.server.settings.root.absolute())
        self.shutdown()
        self._unlink()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RD)  # ends threads that wait for a request
            except OSError:
                pass  # it has ended by itself
        self.server_close()  # waits for the threads
        self._thread.join()
        os.close(self._directory)


def start_control(
    server: FtpServer, discovery: Callable[[], Discovery | None]
) -> ControlSocket | None:
    """Open the control socket. If that is impossible, log it; the server works without."""
    try:
        control = ControlSocket(server, discovery)
    except OSError as error:
        logger.warning(
            "no control socket; ftpd status and similar commands cannot reach this server: %s",
            error,
        )
        return None
    registry.add(server.settings.root.absolute())
    return control


class _Handler(StreamRequestHandler):
    """Handles one request."""

    server: ControlSocket
    timeout = PATIENCE

    def handle(self) -> None:
        try:
            line = self.rfile.readline(_MAX_REQUEST)
            if not line:
                return  # only a check whether a server runs: see control.is_running()
            commands = Commands(self.server.server, self.server.discovery())
            self.wfile.write(msgspec.json.encode(answer(commands, line)) + b"\n")
        except OSError as error:
            logger.info("the client of a control request is gone: %s", error)
            return
        commands.finish()


def answer(commands: Control, line: bytes) -> Any:
    """Carry out the request in a line, and return the reply; a `Failure` if there is no other."""
    dispatcher = Dispatcher({Control: commands}, msgspec.json.Decoder)
    try:
        question = dispatcher.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failure("bad-message", f"{SOFTWARE} doesn't know this command: {error}")
    try:
        return dispatcher.call(question, [])
    except FtpError as error:
        return Failure(error.code, paths.printable(str(error)))
    except SettingsError as error:
        problems = list(map(paths.printable, error.problems))
        return Failure(CommandError.code, paths.printable(str(error)), problems)
    except StateError as error:
        return Failure(CommandError.code, paths.printable(str(error)))
    except Exception:
        logger.exception("control request %s failed", type(question).__name__)
        return Failure(Internal.code, "internal error: see the server's log")


class Commands:
    """Handles one request to a running server. Implements `Control`."""

    def __init__(self, server: FtpServer, discovery: Discovery | None) -> None:
        self._server = server
        self._discovery = discovery
        self._at_last: Callable[[], None] | None = None

    def finish(self) -> None:
        """Do what must wait until the reply is sent."""
        if self._at_last is not None:
            self._at_last()

    def status(self) -> Status:
        server = self._server
        stats, path = server.serving.stats(), server.settings.unix
        service = server.service
        return Status(
            software=SOFTWARE,
            process=os.getpid(),
            state="stopping" if service.stopping else "draining" if service.draining else "running",
            address=paths.printable(server.address),  # a path may not be valid UTF-8
            unix=None if path is None else paths.printable(str(path.absolute())),
            fingerprint=server.fingerprint,
            since=RUN.by_system(server.started),
            sessions=stats.sessions,
            unauthenticated=stats.unauthenticated,
            transfers=stats.transfers,
            bytes_in=stats.bytes_in,
            bytes_out=stats.bytes_out,
            accounts=len(server.accounts),
            discovery=_discovery_info(self._discovery),
            workers=[] if server.supervisor is None else server.supervisor.workers,
            trouble=[paths.printable(one) for one in server.trouble],
            warnings=[paths.printable(one) for one in server.warnings],
            trash=_trash_info(server),
        )

    def sessions(self) -> Sessions:
        return Sessions(self._server.serving.session_infos(), self._server.silent)

    def kick(self, session: int | None = None, user: str | None = None) -> Ended:
        return Ended(self._server.serving.kick(session, user), self._server.silent)

    def bans(self) -> Bans:
        return Bans([_ban_info(one) for one in self._server.service.limits.bans()])

    def unban(self, subject: str | None = None) -> Bans:
        limits = self._server.service.limits
        if subject is not None:
            lifted = list(limits.unban(subject))
        else:
            lifted = []
            for ban in limits.bans():
                try:
                    lifted += limits.unban(ban.subject)
                except NotFound:
                    continue  # lifted with an earlier ban, which was of the whole address
        return Bans([_ban_info(one) for one in lifted])

    def reload(self) -> Report:
        return Report(self._server.reload())

    def drain(self, seconds: float | None = None) -> Stopping:
        return self._stopping("drain", lambda: self._server.drain(seconds))

    def stop(self, grace: float | None = None) -> Stopping:
        return self._stopping("stop", lambda: self._server.ask_to_stop(grace))

    def _stopping(self, what: str, act: Callable[[], None]) -> Stopping:
        """Return the reply, and run ``act`` once it is sent: after that the process may end."""
        logger.info("asked to %s", what)
        self._at_last = act
        return Stopping(os.getpid())

    def entry(self, host: str, account: str) -> Entry:
        limits, too_many = self._server.service.limits, None
        try:
            limits.check_cap(self._server.accounts.get(account))
        except TooMany as error:
            too_many = str(error)
        ban = limits.ban_of(host, account)
        return Entry(
            limits.turned_away(host),
            too_many,
            limits.crowd(host),
            None if ban is None else str(ban),
        )

    def restore_trash(
        self, account: str, operation: str, target: bytes | None = None, force: bool = False
    ) -> TrashRestored:
        return self._trash.restore_trash(account, operation, target, force)

    def empty_trash(self, account: str | None = None, before: int | None = None) -> TrashEmptied:
        return self._trash.empty_trash(account, before)

    @property
    def _trash(self) -> TrashAnswers:
        service = self._server.service
        work = TrashWork(
            *(service.accounts, service.ledger, service.ownership),
            lambda: service.settings,
            stopping=lambda: service.stopping,
        )
        return TrashAnswers(work)


def _trash_info(server: FtpServer) -> TrashInfo | None:
    try:
        size, operations, evicted = server.trash.totals()
    except StateError as error:
        logger.warning("the status of the trash cannot be read: %s", error)
        return None
    return TrashInfo(size, operations, evicted)


def _discovery_info(found: Discovery | None) -> DiscoveryInfo | None:
    if found is None:
        return None
    return DiscoveryInfo(found.port, found.answered, found.limited, found.dropped)


def _ban_info(ban: Ban) -> BanInfo:
    until = round(RUN.by_system(ban.until))
    return BanInfo(ban.subject, ban.address, ban.account, ban.failures, until, ban.reason)
