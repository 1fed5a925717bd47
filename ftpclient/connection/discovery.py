"""Discovery: finding the servers on the local network.

Lives here: which addresses to ask, collecting the answers.
Lives elsewhere: the format of the datagrams (ftpwire/discovery.py), the command
(cli/commands/discover.py), trusted keys (known_hosts.py).

Any machine on the network can send any answer. What was found is checked and made printable, to be
shown only: it is not remembered, and a fingerprint from here is never trusted.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from ftpclient.connection.addresses import DEFAULT_PORT, ServerAddress
from ftpwire import discovery
from ftpwire.discovery import Announcement
from ftpwire.errors import ProtocolError
from ftpwire.paths import printable

_AGAIN = 0.2
"""Seconds after which the question is repeated, because a datagram may get lost."""
_MOST = 1000
"""Most servers to accept, so that invented ones cannot fill the memory."""
_MOST_ADDRESSES = 16
_LOOPBACK = "127.255.255.255"
_EVERYBODY = "255.255.255.255"
_SIOCGIFBRDADDR = 0x8919
_IFREQ = struct.Struct("=16s24s")
"""Linux's struct ifreq: the interface's name, and the requested value."""


@dataclass
class Found:
    """A server that has answered. All texts are safe to print.

    Attributes:
        name: The server's name for display.
        port: Its TCP port.
        version: Name and version of its software.
        fingerprint: Fingerprint of its key, as it claims; None if it speaks without TLS.
        addresses: Addresses that answers came from; loopback addresses are last.
    """

    name: str
    port: int
    version: str
    fingerprint: str | None
    addresses: list[str] = field(default_factory=list)

    @property
    def endpoints(self) -> list[str]:
        """The addresses to connect to as HOST:PORT; a loopback address only if there is no other.

        A machine that repeats a server's answer is listed here, but does not replace the server.
        """
        outer = [one for one in self.addresses if not ip_address(one).is_loopback]
        return [ServerAddress(one, self.port).endpoint for one in outer or self.addresses]

    def add(self, address: str) -> None:
        """Add an address that it answered from."""
        if address in self.addresses or len(self.addresses) >= _MOST_ADDRESSES:
            return
        self.addresses.append(address)
        self.addresses.sort(key=lambda one: ip_address(one).is_loopback)  # stable


def discover(
    timeout: float, *, port: int = DEFAULT_PORT, targets: Iterable[str] | None = None
) -> list[Found]:
    """Return the servers that answer within the time, sorted by name.

    Args:
        timeout: Seconds to wait. All of them pass, because the number of servers is unknown.
        port: UDP port of the servers.
        targets: Addresses to ask; None for all machines on the local networks.
    """
    deadline = time.monotonic() + timeout
    found: dict[Announcement, Found] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("", 0))
        sock.setblocking(False)
        addresses = sorted(set(broadcast_addresses(sock)) if targets is None else set(targets))
        nonce = os.urandom(discovery.NONCE_SIZE)
        for wait_until in (min(deadline, time.monotonic() + _AGAIN), deadline):
            _ask(sock, discovery.question(nonce), addresses, port)
            for announcement, address in _answers(sock, nonce, wait_until):
                if announcement in found or len(found) < _MOST:
                    found.setdefault(announcement, _shown(announcement)).add(address)
    return sorted(found.values(), key=lambda one: (one.name, ip_address(one.addresses[0])))


def _ask(sock: socket.socket, question: bytes, addresses: Iterable[str], port: int) -> None:
    for address in addresses:
        try:
            sock.sendto(question, (address, port))
        except OSError:
            continue  # no route to that network, or a firewall: the others may still work


def _answers(
    sock: socket.socket, nonce: bytes, deadline: float
) -> Iterator[tuple[Announcement, str]]:
    """Yield the answers until the deadline, each with the address that it comes from."""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            return
        try:
            datagram, (address, *_) = sock.recvfrom(discovery.SIZE + 1)
            yield discovery.announcement_of(datagram, nonce), address
        except OSError:
            continue  # an ICMP error: no server listens at one of the addresses
        except ProtocolError:
            continue  # not an answer to this question


def _shown(announcement: Announcement) -> Found:
    return Found(
        printable(announcement.name),
        announcement.port,
        printable(announcement.software),
        announcement.fingerprint,
    )


def broadcast_addresses(sock: socket.socket) -> list[str]:
    """Return the broadcast addresses of all networks of this machine, and of the loopback."""
    return [_LOOPBACK, *(_of_interfaces(sock) if sys.platform == "linux" else [_EVERYBODY])]


def _of_interfaces(sock: socket.socket) -> Iterator[str]:
    import fcntl

    for _, name in socket.if_nameindex():
        request = _IFREQ.pack(name.encode(), b"")
        try:
            reply = fcntl.ioctl(sock, _SIOCGIFBRDADDR, request)
        except OSError:
            continue  # the interface has no IPv4 address
        address = socket.inet_ntoa(reply[20:24])
        if address != "0.0.0.0":  # a point-to-point or loopback interface
            yield address
