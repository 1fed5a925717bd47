"""Addresses of clients, as limits, bans and networks see them.

Lives here: a socket's address as text, and which addresses count together. Lives elsewhere: what is
decided by them (accounts/limits.py, accounts/bans.py, accounts/accounts.py), how an address is
displayed (serving/session.py).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ftpwire.peers import peer_credentials

LOCAL = "local"
"""The host of a client on a Unix socket, which has no address. If the kernel names its user,
``:UID`` follows: so the failures of one user don't count against another."""
_IPV6_PREFIX = 64
"""Bits of an IPv6 address that identify its owner: providers give each customer all the rest."""

_LINK_LOCAL = IPv6Network("fe80::/10")


def host_of(address: object, connection: socket.socket | None = None) -> str:
    """Return a client's IP address as text. An IPv4 address mapped into IPv6 is returned as IPv4.

    Args:
        address: As returned by ``accept``.
        connection: The connection, to find its user if there is no address.
    """
    if not isinstance(address, tuple) or not address:
        uid = None if connection is None else peer_uid(connection)
        return LOCAL if uid is None else f"{LOCAL}:{uid}"
    host = str(address[0])
    if len(address) > 3 and address[3] and "%" not in host:
        return _text(host) + "%" + _interface(address[3])
    return _text(host)


def is_local(host: str) -> bool:
    """Return whether a host stands for a user of this machine."""
    return host == LOCAL or host.startswith(f"{LOCAL}:")


def _interface(index: int) -> str:
    """Return the name of a network interface; its number if the name isn't known."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """Return the network for which connections are counted: an IPv4 address, an IPv6 /64, or all
    link-local addresses of an interface, of which one machine may have any number."""
    if is_local(host):
        return host
    parsed = _parse(host)
    if isinstance(parsed, IPv6Address):
        if parsed in _LINK_LOCAL:
            return str(_LINK_LOCAL) + _zone_of(host)
        return str(ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)


@lru_cache(maxsize=1024)
def source_of(host: str) -> str:
    """Return the network that is banned as one: as `network_of`, but a link-local address by
    itself. There, all machines of a local network are in the same /64."""
    if not is_local(host):
        parsed = _parse(host)
        if isinstance(parsed, IPv6Address) and parsed in _LINK_LOCAL:
            return str(parsed) + _zone_of(host)
    return network_of(host)


def _zone_of(host: str) -> str:
    """Return the zone of an address, as ``%eth0``, if it has one."""
    return "".join(host.partition("%")[1:])


def is_in(host: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Return whether an address is in one of the networks. Users of this machine always are."""
    if is_local(host):
        return True
    parsed = _parse(host)
    return any(parsed in network for network in networks)


@lru_cache(maxsize=1024)  # the same clients come again, and parsing an address takes a while
def _text(host: str) -> str:
    parsed = _parse(host)
    is_local = isinstance(parsed, IPv6Address) and parsed in _LINK_LOCAL
    return str(parsed) + (_zone_of(host) if is_local else "")


def _parse(host: str) -> IPv4Address | IPv6Address:
    parsed = ip_address(host.partition("%")[0])  # fe80::1%eth0: the zone is this machine's
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user id at the other end of a Unix socket (SO_PEERCRED, unix(7)), or None."""
    if connection.family != socket.AF_UNIX:
        return None
    try:
        found = peer_credentials(connection)
    except OSError:
        return None  # closed meanwhile
    return None if found is None else found.uid
