"""The PROXY protocol, version 2: what a proxy sends before a connection's first byte.

Lives here: parsing its header, bytes in, address out. Does no I/O.
Lives elsewhere: which addresses may send one (settings/table.py), waiting for it
(serving/proxied.py).

The format is HAProxy's (proxy-protocol.txt, section 2.2): a signature, a version and a command, a
family, a length; then two addresses with their ports, and fields that are skipped here.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from ftpwire.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""The beginning of a header. No TLS record and no frame begins with it."""
HEAD_SIZE = 16
"""Bytes of the first part, which contains the length of the rest."""
MOST = 4096
"""Most bytes of the rest: addresses, and what proxies add about certificates."""

_HEAD = struct.Struct(">12sBBH")
_VERSION = 2
_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = 0, 1, 2, 3
_UNSPECIFIED, _STREAM = 0, 1
_INET_ADDRESSES = struct.Struct(">4s4sHH")
_INET6_ADDRESSES = struct.Struct(">16s16sHH")
_UNIX_SIZE = 216

Address = tuple[str, int] | tuple[str, int, int, int]
"""An address as returned by ``accept``."""


class BadProxyHeader(ProtocolError):
    """The bytes are not a header of PROXY protocol version 2."""

    code = "proxy-header"


def rest_of(head: bytes) -> int:
    """Return the number of bytes that follow the first `HEAD_SIZE` ones.

    Raises:
        BadProxyHeader: They are not the beginning of a header.
    """
    signature, version, _, size = _HEAD.unpack(head)
    if signature != SIGNATURE:
        raise BadProxyHeader("no header of PROXY protocol version 2")
    if version >> 4 != _VERSION:
        raise BadProxyHeader(f"PROXY protocol version {version >> 4}, not 2")
    if size > MOST:
        raise BadProxyHeader(f"a PROXY header of {size} bytes; at most {MOST}")
    return int(size)


def source_in(header: bytes) -> Address | None:
    """Return the client's address from a whole header.

    Returns:
        None if the connection is the proxy's own, e.g. a health check, or if the proxy doesn't name
        an IP address.

    Raises:
        BadProxyHeader: It is not a header, or not whole.
    """
    _, command, kind, _ = _HEAD.unpack_from(header)
    if len(header) != HEAD_SIZE + rest_of(header[:HEAD_SIZE]):
        raise BadProxyHeader("a PROXY header of another size than it announces")
    command &= 0x0F
    if command == _LOCAL:
        return None  # whatever the family is
    if command != _PROXY:
        raise BadProxyHeader(f"unknown PROXY command {command}")
    return _source(kind >> 4, kind & 0x0F, header[HEAD_SIZE:])


def _source(family: int, transport: int, addresses: bytes) -> Address | None:
    if (family, transport) == (_UNSPEC, _UNSPECIFIED):
        return None
    if transport != _STREAM:
        raise BadProxyHeader(f"unknown PROXY transport {transport}")
    if family == _INET:
        source, _, port, _ = _unpack(_INET_ADDRESSES, addresses)
        return str(IPv4Address(source)), port
    if family == _INET6:
        source, _, port, _ = _unpack(_INET6_ADDRESSES, addresses)
        return str(IPv6Address(source)), port, 0, 0
    if family == _UNIX and len(addresses) >= _UNIX_SIZE:
        return None
    raise BadProxyHeader(f"unknown PROXY address family {family}")


def _unpack(form: struct.Struct, addresses: bytes) -> tuple[bytes, bytes, int, int]:
    if len(addresses) < form.size:
        raise BadProxyHeader("a PROXY header too short for its addresses")
    source, target, source_port, target_port = form.unpack_from(addresses)
    return source, target, source_port, target_port
