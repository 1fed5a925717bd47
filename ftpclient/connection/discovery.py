"""Discovery: ask the local network which servers there are.

Lives here: whom to ask, collecting the answers. Lives elsewhere: the format of the datagrams
(ftpwire/discovery.py), the command (cli/commands/discover.py), which keys are trusted
(known_hosts.py).

Anybody on the network can answer anything. What was found is checked and made printable, and is
there to be shown: nothing of it is remembered, and a fingerprint learned here pins no key.
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
"""Seconds after which it is asked once more: a datagram may get lost."""
_MOST = 1000
"""Servers that are taken: nobody can fill our memory with invented ones."""
_MOST_ADDRESSES = 16
_LOOPBACK = "127.255.255.255"
_EVERYBODY = "255.255.255.255"
_SIOCGIFBRDADDR = 0x8919
_IFREQ = struct.Struct("=16s24s")
"""Linux's struct ifreq: the interface's name, and what is asked about it."""


@dataclass
class Found:
    """A server that has answered. All texts are safe to print.

    Attributes:
        addresses: Where answers came from, those of this machine alone at the end.
        version: Name and version of its software.
        fingerprint: Of its key, as it says; None when it speaks without TLS.
    """

    name: str
    port: int
    version: str
    fingerprint: str | None
    addresses: list[str] = field(default_factory=list)

    @property
    def endpoints(self) -> list[str]:
        """Where to connect to, as HOST:PORT: this machine's own address only if there is no other.

        Somebody who repeats what a server tells shows up here, and doesn't replace the server.
        """
        outer = [one for one in self.addresses if not ip_address(one).is_loopback]
        return [ServerAddress(one, self.port).endpoint for one in outer or self.addresses]

    def add(self, address: str) -> None:
        """It answered from here, too."""
        if address in self.addresses or len(self.addresses) >= _MOST_ADDRESSES:
            return
        self.addresses.append(address)
        self.addresses.sort(key=lambda one: ip_address(one).is_loopback)  # stable


def discover(
    timeout: float, *, port: int = DEFAULT_PORT, targets: Iterable[str] | None = None
) -> list[Found]:
    """The servers that answer within the time, by name.

    Args:
        timeout: Seconds. All of them pass: nobody knows how many servers there are.
        port: The UDP port that they listen at.
        targets: Addresses to ask; None for everybody in reach.
    """
    deadline = time.monotonic() + timeout
    found: dict[Announcement, Found] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("", 0))
        sock.setblocking(False)
        asked = sorted(set(broadcast_addresses(sock)) if targets is None else set(targets))
        nonce = os.urandom(discovery.NONCE_SIZE)
        for wait_until in (min(deadline, time.monotonic() + _AGAIN), deadline):
            _ask(sock, discovery.question(nonce), asked, port)
            for told, address in _answers(sock, nonce, wait_until):
                if told in found or len(found) < _MOST:
                    found.setdefault(told, _shown(told)).add(address)
    return sorted(found.values(), key=lambda one: (one.name, ip_address(one.addresses[0])))


def _ask(sock: socket.socket, question: bytes, addresses: Iterable[str], port: int) -> None:
    for address in addresses:
        try:
            sock.sendto(question, (address, port))
        except OSError:
            continue  # no way to that network, or a firewall: the others may have one


def _answers(
    sock: socket.socket, nonce: bytes, deadline: float
) -> Iterator[tuple[Announcement, str]]:
    """What comes until then, with the address that it comes from."""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            return
        try:
            datagram, (address, *_) = sock.recvfrom(discovery.SIZE + 1)
            yield discovery.announcement_of(datagram, nonce), address
        except OSError:
            continue  # somebody asked has said that nobody listens there
        except ProtocolError:
            continue  # no answer to us, whatever it is


def _shown(told: Announcement) -> Found:
    return Found(printable(told.name), told.port, printable(told.software), told.fingerprint)


def broadcast_addresses(sock: socket.socket) -> list[str]:
    """Where everybody hears it, on each network that this machine is in, and on itself."""
    return [_LOOPBACK, *(_of_interfaces(sock) if sys.platform == "linux" else [_EVERYBODY])]


def _of_interfaces(sock: socket.socket) -> Iterator[str]:
    import fcntl

    for _, name in socket.if_nameindex():
        request = _IFREQ.pack(name.encode(), b"")
        try:
            reply = fcntl.ioctl(sock, _SIOCGIFBRDADDR, request)
        except OSError:
            continue  # it has no IPv4 address
        address = socket.inet_ntoa(reply[20:24])
        if address != "0.0.0.0":  # to one neighbour only, or to ourselves
            yield address
