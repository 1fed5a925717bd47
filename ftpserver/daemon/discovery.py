"""Discovery: a running server answers datagrams that ask who is there.

Lives here: the datagram socket, whom it answers and how often, what is counted.
Lives elsewhere: the format of the datagrams (ftpwire/discovery.py), asking (ftpclient).

A UDPServer with a thread of its own. A datagram costs one receive, and at most one send: there is
no state for each client but a bounded table of who was answered lately.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from socketserver import DatagramRequestHandler, UDPServer
from typing import TYPE_CHECKING, Any

from ftpserver.net.stoppable import Stoppable
from ftpwire import SOFTWARE, discovery
from ftpwire.errors import ProtocolError
from ftpwire.paths import printable

if TYPE_CHECKING:
    from ftpserver.daemon.server import FtpServer
    from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd.discovery")

_BREATHER = 0.1
"""Seconds of rest after a receive that failed: waiting doesn't spin."""
_RATE, _BURST = 50.0, 100.0
"""Answers a second to all together, and how many at once."""
_ADDRESS_RATE, _ADDRESS_BURST = 4.0, 20.0
"""The same for one address. One `ftp discover` asks each address of ours twice."""
_MAX_ADDRESSES = 1024
_LOOPBACK_BROADCAST = "127.255.255.255"


class Allowance:
    """How many answers there may be, by time.

    Args:
        rate: That come back in a second.
        burst: That there are at most.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._clock = clock
        self._when = clock()

    def take(self) -> bool:
        """Use one up; False when none is left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._when) * self._rate)
        self._when = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Allowances:
    """Who may be answered: limited for each address, and for all of them together.

    The addresses can be forged. So the table of them is bounded, and the one that was quiet for
    the longest time makes room; what all together get stays the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Allowance(_RATE, _BURST, clock)
        self._each: OrderedDict[str, Allowance] = OrderedDict()

    def take(self, address: str) -> bool:
        """Whether this address is answered now."""
        own = self._each.pop(address, None) or Allowance(_ADDRESS_RATE, _ADDRESS_BURST, self._clock)
        self._each[address] = own
        if len(self._each) > _MAX_ADDRESSES:
            self._each.popitem(last=False)
        return own.take() and self._all.take()  # who asks too often takes nothing from the others

    def __len__(self) -> int:
        return len(self._each)


class Discovery(Stoppable, UDPServer):
    """Answers who asks for servers, as long as its server accepts connections.

    Attributes:
        answered: Questions that were answered.
        dropped: Datagrams that were no question, or came from where nobody can connect from.
        limited: Questions that came too often.

    Raises:
        OSError: The port can't be used.
    """

    allow_reuse_address = True  # several servers of one machine hear the same broadcast
    max_packet_size = discovery.SIZE + 1  # one more tells that a datagram was larger

    def __init__(self, server: FtpServer, address: str) -> None:
        self._server = server
        self._run = os.urandom(8)
        self._over = threading.Event()
        self._local_only = ip_address(address).is_loopback
        self._allowances = Allowances()
        self.answered = self.dropped = self.limited = 0
        super().__init__((self._heard_at(), server.settings.discovery_port), _Handler)
        try:
            self._sender = self._make_sender(address)
        except BaseException:
            self.server_close()
            raise
        self._thread = threading.Thread(target=self.serve_forever, name="discovery")
        self._thread.start()

    def _heard_at(self) -> str:
        """Where to listen: a socket at one address would hear no broadcast to its network."""
        on_linux = sys.platform == "linux"  # elsewhere nobody can listen at a broadcast address
        return _LOOPBACK_BROADCAST if self._local_only and on_linux else ""

    def _make_sender(self, address: str) -> socket.socket:
        """What answers come from: clients connect to where their answer came from."""
        if ip_address(address).is_unspecified:
            return self.socket  # the system takes the address that is nearest to the client
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sender.bind((address, 0))
        except BaseException:
            sender.close()
            raise
        return sender

    @property
    def port(self) -> int:
        """The UDP port."""
        return int(self.server_address[1])

    # answering ---------------------------------------------------------------------------

    def get_request(self) -> tuple[Any, Any]:
        """Receive one datagram; when that fails, wait a moment instead of spinning."""
        try:
            datagram, client = self.socket.recvfrom(self.max_packet_size)
        except OSError:
            self._over.wait(_BREATHER)
            raise  # serve_forever goes on
        return (datagram, self._sender), client

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a datagram is answered. Nothing is logged: that would be for anybody to fill."""
        host = client_address[0]
        try:
            discovery.nonce_of(request[0])
        except ProtocolError:
            self.dropped += 1
            return False
        if self._local_only and not ip_address(host).is_loopback:
            self.dropped += 1
            return False
        service = self._server.service
        if service.draining or service.stopping:
            return False
        if not self._allowances.take(host):
            self.limited += 1
            return False
        return True

    def announcement(self) -> discovery.Announcement:
        """What is told."""
        return discovery.Announcement(
            run=self._run,
            name=name_of(self._server.settings),
            port=int(self._server.server_address[1]),
            software=SOFTWARE,
            fingerprint=self._server.fingerprint,
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An answer that couldn't be sent: whoever asked is gone, or out of reach."""
        logger.debug("%s could not be answered", client_address[0], exc_info=True)

    def stop(self) -> None:
        """Answer nobody any more."""
        self._over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_close(self) -> None:
        """Give the sockets back."""
        super().server_close()
        if hasattr(self, "_sender"):
            self._sender.close()


class _Handler(DatagramRequestHandler):
    """One question, one answer."""

    server: Discovery

    def handle(self) -> None:
        nonce = discovery.nonce_of(self.rfile.read())
        self.wfile.write(discovery.answer(nonce, self.server.announcement()))
        self.server.answered += 1


def name_of(settings: Settings) -> str:
    """What the server is called: by its settings, or as its machine."""
    name = settings.name or socket.gethostname().partition(".")[0] or "ftpd"
    return printable(name)[: discovery.MAX_NAME]


def start_discovery(server: FtpServer) -> Discovery | None:
    """Answer from now on, if the settings say so. Where it is impossible, there is a warning."""
    if not server.settings.discoverable:
        return None
    address = _address(server)
    if address is None:
        logger.warning("not discoverable: that takes IPv4, where this server doesn't listen")
        return None
    try:
        started = Discovery(server, address)
    except OSError as error:
        port = server.settings.discovery_port
        logger.warning("not discoverable: UDP port %d: %s", port, error.strerror or error)
        return None
    logger.info("discoverable on UDP port %d as %s", started.port, name_of(server.settings))
    return started


def _address(server: FtpServer) -> str | None:
    """The IPv4 address that clients can connect to, 0.0.0.0 for all; None where there is none."""
    host = str(server.server_address[0])
    if not host:
        return None
    address = ip_address(host.partition("%")[0])
    if address.version == 6:
        return "0.0.0.0" if address.is_unspecified else None  # :: takes both families
    return host
