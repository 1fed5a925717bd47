"""Addresses of peers, as limits, bans and networks know them.

Lives here: a socket's address as text, and what counts as one place. Lives elsewhere: what is
decided with it (accounts/limits.py, accounts/bans.py, accounts/accounts.py), how a peer is shown
(serving/session.py).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ftpwire.peers import peer_credentials

LOCAL = "local"
"""A peer of this machine that came without an address, through a Unix socket. With ``:UID``, where
the kernel tells whose it is: then one user's failures are no other's."""
_IPV6_PREFIX = 64
"""Bits of an IPv6 address that tell whose it is: a provider gives each customer all the rest."""

_LINK_LOCAL = IPv6Network("fe80::/10")


def host_of(address: object, connection: socket.socket | None = None) -> str:
    """A peer's IP address as text, IPv4 as such also where it came in IPv6's clothes.

    Args:
        address: As ``accept`` gave it.
        connection: To ask for the user, where there is no address.
    """
    if not isinstance(address, tuple) or not address:
        uid = None if connection is None else peer_uid(connection)
        return LOCAL if uid is None else f"{LOCAL}:{uid}"
    host = str(address[0])
    if len(address) > 3 and address[3] and "%" not in host:
        return _text(host) + "%" + _interface(address[3])
    return _text(host)


def is_local(host: str) -> bool:
    """Whether a host stands for a user of this machine."""
    return host == LOCAL or host.startswith(f"{LOCAL}:")


def _interface(index: int) -> str:
    """The name of a network interface; its number where that isn't known."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """What has one share: an IPv4 address, an IPv6 network of 64 bits, or all link-local addresses
    of an interface, of which a single machine may have as many as it likes."""
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
    """What is banned together: as `network_of`, but a link-local address alone. All machines of a
    local network are in the same /64 there."""
    if not is_local(host):
        parsed = _parse(host)
        if isinstance(parsed, IPv6Address) and parsed in _LINK_LOCAL:
            return str(parsed) + _zone_of(host)
    return network_of(host)


def _zone_of(host: str) -> str:
    """``%eth0``, where an address has it."""
    return "".join(host.partition("%")[1:])


def is_in(host: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether an address lies in one of the networks; this machine's own users do."""
    if is_local(host):
        return True
    parsed = _parse(host)
    return any(parsed in network for network in networks)


@lru_cache(maxsize=1024)  # the same peers come again, and reading an address takes a while
def _text(host: str) -> str:
    parsed = _parse(host)
    is_local = isinstance(parsed, IPv6Address) and parsed in _LINK_LOCAL
    return str(parsed) + (_zone_of(host) if is_local else "")


def _parse(host: str) -> IPv4Address | IPv6Address:
    parsed = ip_address(host.partition("%")[0])  # fe80::1%eth0: the zone is ours, not the peer's
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def peer_uid(connection: socket.socket) -> int | None:
    """The user id at the other end of a Unix socket (SO_PEERCRED, unix(7)); None if not known."""
    if connection.family != socket.AF_UNIX:
        return None
    try:
        found = peer_credentials(connection)
    except OSError:
        return None  # closed meanwhile
    return None if found is None else found.uid
