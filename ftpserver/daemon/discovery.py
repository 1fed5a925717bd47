"""Discovery: a running server answers datagrams from clients that look for servers.

Lives here: the datagram socket, the limits on answers, the counters.
Lives elsewhere: the format of the datagrams (ftpwire/discovery.py), the client's side (ftpclient).

It is a UDPServer with a thread of its own. A datagram costs one receive, and at most one send. The
only state per client is in a bounded table of recent addresses.
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
"""Seconds to wait after a receive that failed, so that the thread doesn't spin."""
_RATE, _BURST = 50.0, 100.0
"""Answers per second to all addresses together, and the most at once."""
_ADDRESS_RATE, _ADDRESS_BURST = 4.0, 20.0
"""The same for one address. One `ftp discover` sends two requests to each address of the server."""
_MAX_ADDRESSES = 1024
"""Most addresses that are remembered."""
_LOOPBACK_BROADCAST = "127.255.255.255"


class Allowance:
    """A token bucket that limits answers.

    Args:
        rate: Tokens that are added per second.
        burst: The most tokens that it holds.
        clock: Returns the time in seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._clock = clock
        self._when = clock()

    def take(self) -> bool:
        """Take one token. Return False if none is left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._when) * self._rate)
        self._when = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Allowances:
    """Limits answers, for each address and for all of them together.

    Addresses can be forged. So the table of them is bounded, and the address that was quiet for the
    longest time is forgotten first; the limit for all of them doesn't depend on the table.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Allowance(_RATE, _BURST, clock)
        self._each: OrderedDict[str, Allowance] = OrderedDict()

    def take(self, address: str) -> bool:
        """Return whether this address may be answered now, and count the answer."""
        own = self._each.pop(address, None) or Allowance(_ADDRESS_RATE, _ADDRESS_BURST, self._clock)
        self._each[address] = own
        if len(self._each) > _MAX_ADDRESSES:
            self._each.popitem(last=False)
        # in this order: a flood from one address doesn't use up the tokens of all
        return own.take() and self._all.take()

    def __len__(self) -> int:
        return len(self._each)


class Discovery(Stoppable, UDPServer):
    """Answers clients that look for servers, as long as its server accepts connections.

    Attributes:
        answered: Requests that were answered.
        dropped: Datagrams that were not requests, or came from addresses that cannot connect.
        limited: Requests that were ignored because too many came.

    Raises:
        OSError: The port cannot be used.
    """

    allow_reuse_address = True  # several servers on one machine receive the same broadcast
    max_packet_size = discovery.SIZE + 1  # one byte more, to notice datagrams that are too large

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
        """Return the address to listen at. A socket at one of the machine's addresses would receive
        no broadcasts."""
        on_linux = sys.platform == "linux"  # other systems cannot listen at a broadcast address
        return _LOOPBACK_BROADCAST if self._local_only and on_linux else ""

    def _make_sender(self, address: str) -> socket.socket:
        """Return the socket that answers are sent from: clients connect to the address that their
        answer came from."""
        if ip_address(address).is_unspecified:
            return self.socket  # the system chooses the address that is nearest to the client
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
        """Receive one datagram. If that fails, wait a moment instead of spinning."""
        try:
            datagram, client = self.socket.recvfrom(self.max_packet_size)
        except OSError:
            self._over.wait(_BREATHER)
            raise  # serve_forever goes on
        return (datagram, self._sender), client

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether to answer a datagram. Nothing is logged: anyone could fill the log."""
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
        """Return the answer's content."""
        return discovery.Announcement(
            run=self._run,
            name=name_of(self._server.settings),
            port=int(self._server.server_address[1]),
            software=SOFTWARE,
            fingerprint=self._server.fingerprint,
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that an answer couldn't be sent: the client is gone, or cannot be reached."""
        logger.debug("%s: the answer could not be sent", client_address[0], exc_info=True)

    def stop(self) -> None:
        """Stop answering, and wait until the thread has ended."""
        self._over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_close(self) -> None:
        """Close the sockets."""
        super().server_close()
        if hasattr(self, "_sender"):
            self._sender.close()


class _Handler(DatagramRequestHandler):
    """Answers one request."""

    server: Discovery

    def handle(self) -> None:
        nonce = discovery.nonce_of(self.rfile.read())
        self.wfile.write(discovery.answer(nonce, self.server.announcement()))
        self.server.answered += 1


def name_of(settings: Settings) -> str:
    """Return the server's name: that in its settings, else the machine's."""
    name = settings.name or socket.gethostname().partition(".")[0] or "ftpd"
    return printable(name)[: discovery.MAX_NAME]


def start_discovery(server: FtpServer) -> Discovery | None:
    """Start discovery, if the settings say so. If that is impossible, log a warning."""
    if not server.settings.discoverable:
        return None
    address = _address(server)
    if address is None:
        logger.warning(
            "not discoverable: discovery needs IPv4, which this server doesn't listen on"
        )
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
    """Return the IPv4 address that clients can connect to, 0.0.0.0 for all; None if there is
    none."""
    host = str(server.server_address[0])
    if not host:
        return None
    address = ip_address(host.partition("%")[0])
    if address.version == 6:
        return "0.0.0.0" if address.is_unspecified else None  # :: accepts IPv4 as well
    return host
