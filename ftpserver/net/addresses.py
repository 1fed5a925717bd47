"""Addresses of peers, as limits, bans and networks know them.

Lives here: a socket's address as text, and what counts as one place. Lives elsewhere: what is
decided with it (accounts/limits.py, accounts/bans.py, accounts/accounts.py), how a peer is shown
(serving/session.py).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

LOCAL = "local"
"""A peer of this machine that came without an address, through a Unix socket."""
_IPV6_PREFIX = 64
"""Bits of an IPv6 address that tell whose it is: a provider gives each customer all the rest."""


def host_of(address: object) -> str:
    """A peer's IP address as text, IPv4 as such also where it came in IPv6's clothes.

    Args:
        address: As ``accept`` gave it.
    """
    if not isinstance(address, tuple) or not address:
        return LOCAL
    return _text(str(address[0]))


@lru_cache(maxsize=1024)
def place_of(host: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 network of 64 bits."""
    if host == LOCAL:
        return host
    parsed = _parse(host)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)


def is_in(host: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether an address lies in one of the networks; this machine's own users do."""
    if host == LOCAL:
        return True
    parsed = _parse(host)
    return any(parsed in network for network in networks)


@lru_cache(maxsize=1024)  # the same peers come again, and reading an address takes a while
def _text(host: str) -> str:
    return str(_parse(host))


def _parse(host: str) -> IPv4Address | IPv6Address:
    parsed = ip_address(host.partition("%")[0])  # fe80::1%eth0: the zone is ours, not the peer's
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def peer_uid(connection: socket.socket) -> int | None:
    """The user id at the other end of a Unix socket (SO_PEERCRED, unix(7)); None if not known."""
    option = getattr(socket, "SO_PEERCRED", None)
    if connection.family != socket.AF_UNIX or option is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
