"""Listeners: socketserver's servers, one class for each kind of socket; a thread per connection.

Lives here: a connection's thread, accepting connections and refusing them, the TCP and the Unix
listener, the address that the settings name.
Lives elsewhere: what a listener needs of its server (host.py), what all sessions share
(service.py), what a session does (session.py), sessions that have nothing to do (parking.py),
connections that other processes serve (processes/supervisor.py, isolation/supervisor.py).

A listener knows nothing of accounts or files. The ``server`` of its sessions is the service.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
from contextlib import suppress
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any

from ftpserver.errors import StateError
from ftpserver.net.addresses import host_of
from ftpserver.net.stoppable import Stoppable
from ftpserver.serving.session import Session
from ftpwire import beneath

if TYPE_CHECKING:
    from ftpserver.serving.host import Host
    from ftpserver.serving.service import Service
    from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd")

_RUNNING_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BREATHER = 0.1
"""Seconds that accepting pauses when descriptors or memory have run out, so as not to spin."""
_SWAPPED = "another user can write to this directory: use one that only this user can write to"
_LONGEST_PATH = 107
"""Most bytes of a Unix socket's path: sun_path without its NUL (unix(7))."""


class Connections(ThreadingMixIn):
    """Serves each connection of a service in a thread of its own.

    Args:
        service: The ``server`` of its sessions.
    """

    daemon_threads = True
    block_on_close = False  # the service does its own drain, with a limit
    service: Service

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own. From here on the service waits for it."""
        self.service.connections.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Run the session. A session that has nothing to do after a while is parked."""
        try:
            # socketserver's types want the listener itself for the last argument
            session = Session(request, client_address, self.service)  # type: ignore[arg-type]
        except Exception:
            self.handle_error(request, client_address)
        else:
            if session.parked and self.service.parking is not None:
                # From here on other threads own the session and its socket: nothing here uses them.
                self.service.parking.park(session, lambda: self.shutdown_request(request))
                return
        finally:
            self.service.turns.go_idle()  # this thread ends: it must not keep the turn
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that is no longer used."""
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended
        request.close()
        self.service.forget_connection(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection could not be served, e.g. for want of threads, and go on."""
        logger.exception("a connection from %s could not be served", client_address or "here")


class Handed(Connections, BaseServer):
    """Serves connections that another process or a supervisor has accepted."""

    def __init__(self, service: Service) -> None:
        self.service = service
        super().__init__("the server", Session)

    def take(self, request: socket.socket, client_address: Any) -> None:
        """Serve a connection. If that fails, close it and log why."""
        try:
            self.process_request(request, client_address)
        except Exception:  # e.g. too many threads
            self.handle_error(request, client_address)
            self.shutdown_request(request)


class Listener(Stoppable, Connections, TCPServer):
    """Accepts connections for a server. Serves them, or passes them to the server's supervisor."""

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, host: Host, address: Any) -> None:
        self._host = host
        self.service = host.service
        super().__init__(address, Session, bind_and_activate=False)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection. If descriptors have run out, wait a moment before the next try."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _RUNNING_SHORT:
                logger.error("cannot accept: %s", os.strerror(error.errno or 0))
                select.select([self.service.stop_fd], [], [], _BREATHER)
            raise  # serve_forever goes on

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether to keep a connection. A refused one is closed before it costs a thread."""
        return self._host.admit(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection. One from a proxy waits first until its client is known."""
        if not self.service.limits.is_proxy(host_of(client_address)):
            self._serve(request, client_address)
            return
        self.service.connections.add(request)
        self._host.proxied.wait_for_header(
            request,
            client_address,
            lambda address: self._serve_proxied(request, client_address, address),
            lambda: self.shutdown_request(request),
        )

    def _serve_proxied(self, request: Any, proxy: Any, client_address: Any) -> None:
        """Serve a connection of a proxy. It counts for the client's address, not the proxy's."""
        if client_address != proxy:
            self.service.limits.unauthenticated.leave(request)
            if not self._host.admit(request, client_address):
                self.shutdown_request(request)
                return
        self._serve(request, client_address)

    def _serve(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in this process or another one."""
        supervisor = self._host.supervisor
        if supervisor is not None:
            supervisor.serve(request, client_address)
        else:
            super().process_request(request, client_address)


class TcpListener(Listener):
    """Listens on a network address.

    Args:
        dual: True to accept IPv4 connections on an IPv6 address as well.
        given: A socket that listens already, opened by another program.

    Raises:
        OSError: The address cannot be bound.
    """

    def __init__(
        self,
        host: Host,
        family: int,
        address: tuple[str, int],
        *,
        dual: bool = False,
        given: socket.socket | None = None,
    ) -> None:
        self.address_family = family
        super().__init__(host, address)
        if given is not None:
            self.socket.close()
            self.socket = given
            return
        try:
            if dual:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self.server_bind()
            self.server_activate()
        except BaseException:
            self.server_close()
            raise


class UnixListener(Listener, UnixStreamServer):
    """Listens on a Unix socket, for users of this machine.

    The socket appears under its name at once and with its mode: it is bound under another name, and
    renamed. A socket left behind by a killed server is replaced, if no server listens on it.

    Raises:
        StateError: The path cannot be used.
    """

    address_family = socket.AF_UNIX
    server_address: str
    allow_reuse_address = False

    def __init__(self, host: Host, path: Path, mode: int) -> None:
        self.path = path.absolute()
        self._identity: tuple[int, int] | None = None
        if len(os.fsencode(self.path)) + 4 > _LONGEST_PATH:
            raise StateError(f"--unix {path}: longer than {_LONGEST_PATH - 4} bytes")
        super().__init__(host, str(self.path) + ".new")
        try:
            self._make_way()
            with suppress(OSError):  # Linux creates the name with this mode, less the umask
                os.fchmod(self.socket.fileno(), mode)
            self.server_bind()
            made = _set_mode(self.server_address, mode)
            self.server_activate()
            os.rename(self.server_address, self.path)
            if _identity(os.lstat(self.path)) != made:
                raise StateError(f"--unix {path}: {_SWAPPED}")
            self._identity = made
        except OSError as error:
            self.server_close()
            raise StateError(f"--unix {path}: {(error.strerror or str(error)).lower()}") from error
        except BaseException:
            self.server_close()
            raise
        self.server_address = str(self.path)

    def _make_way(self) -> None:
        """Remove the socket of an earlier server. Raises StateError if it is in use."""
        Path(self.server_address).unlink(missing_ok=True)
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise StateError(f"--unix {self.path}: exists and is not a socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                return  # no server listens
        raise StateError(f"--unix {self.path}: another server listens on it")

    def server_close(self) -> None:
        """Close the socket, and remove its name if it still is this socket's."""
        super().server_close()
        try:
            if self._identity == _identity(os.lstat(self.path)):
                os.unlink(self.path)
        except FileNotFoundError:
            pass


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _set_mode(path: str, mode: int) -> tuple[int, int]:
    """Set the mode of a socket that was just bound, through a handle: a file that replaces it
    meanwhile keeps its own mode. Returns the socket's identity. Raises StateError, OSError."""
    if beneath.O_PATH == os.O_RDONLY:  # this system has no handles of sockets
        os.chmod(path, mode, follow_symlinks=False)
        return _identity(os.lstat(path))
    fd = os.open(path, beneath.OPEN_ANY | os.O_NOFOLLOW)
    try:
        info = os.fstat(fd)
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
            raise StateError(f"--unix {path}: {_SWAPPED}")
        if stat.S_IMODE(info.st_mode) != mode:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        return _identity(info)
    finally:
        os.close(fd)


def tcp_listener(host: Host, settings: Settings, given: socket.socket | None) -> TcpListener:
    """Listen on the settings' address, or on a socket that another program has opened.

    Raises:
        StateError: There is no such address.
        OSError: The address cannot be bound.
    """
    if given is not None:
        return TcpListener(host, given.family, given.getsockname()[:2], given=given)
    family, address = _address(settings)
    return TcpListener(host, family, address, dual=settings.host is None)


def _address(settings: Settings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and address to bind: without a host, all interfaces of both families."""
    if settings.host is None:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", settings.port)
        return socket.AF_INET, ("0.0.0.0", settings.port)
    host = settings.host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StateError(f"--host {settings.host}: {error.strerror}") from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))
