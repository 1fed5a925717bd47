"""PROXY protocol version 2: what a header says, and what is none."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpserver.net.addresses import host_of
from ftpserver.net.proxy_protocol import (
    HEAD_SIZE,
    MOST,
    SIGNATURE,
    BadProxyHeader,
    rest_of,
    source_in,
)


def header(kind: int, rest: bytes, *, command: int = 0x21, size: int | None = None) -> bytes:
    size = len(rest) if size is None else size
    return SIGNATURE + struct.pack(">BBH", command, kind, size) + rest


def inet(source: str, port: int, more: bytes = b"") -> bytes:
    """The addresses of a TCP connection over IPv4."""
    target = socket.inet_aton("192.0.2.1")
    return socket.inet_aton(source) + target + struct.pack(">HH", port, 1234) + more


def inet6(source: str, port: int, more: bytes = b"") -> bytes:
    target = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    start = socket.inet_pton(socket.AF_INET6, source)
    return start + target + struct.pack(">HH", port, 1234) + more


TLV = b"\x04\x00\x03\x00\x00\x00"


@pytest.mark.parametrize(
    ("whole", "source"),
    [
        (header(0x11, inet("198.51.100.7", 4711)), ("198.51.100.7", 4711)),
        (header(0x11, inet("198.51.100.7", 1, TLV)), ("198.51.100.7", 1)),
        (header(0x21, inet6("2001:db8::7", 65535)), ("2001:db8::7", 65535, 0, 0)),
        (header(0x21, inet6("::ffff:198.51.100.7", 5)), ("::ffff:c633:6407", 5, 0, 0)),
        (header(0x31, bytes(216)), None),
        (header(0x00, b""), None),
        (header(0x00, b"whatever"), None),
        (header(0x00, b"", command=0x20), None),
        (header(0x11, inet("198.51.100.7", 4711), command=0x20), None),
        (header(0xFF, b"?", command=0x20), None),
    ],
    ids=[
        *("inet", "with-a-field", "inet6", "mapped", "unix", "unknown", "unknown-with-more"),
        *("local", "local-with-addresses", "local-of-any-family"),
    ],
)
def test_a_header_says_whose_a_connection_is(whole, source):
    assert rest_of(whole[:HEAD_SIZE]) == len(whole) - HEAD_SIZE
    assert source_in(whole) == source


def test_an_ipv4_address_in_ipv6_counts_as_such():
    assert host_of(source_in(header(0x21, inet6("::ffff:198.51.100.7", 5)))) == "198.51.100.7"


@pytest.mark.parametrize(
    "whole",
    [
        header(0x11, inet("198.51.100.7", 1), command=0x11),
        header(0x11, inet("198.51.100.7", 1), command=0x31),
        header(0x11, inet("198.51.100.7", 1), command=0x22),
        header(0x12, inet("198.51.100.7", 1)),
        header(0x10, inet("198.51.100.7", 1)),
        header(0x13, inet("198.51.100.7", 1)),
        header(0x41, inet("198.51.100.7", 1)),
        header(0x01, inet("198.51.100.7", 1)),
        header(0x11, inet("198.51.100.7", 1)[:-1]),
        header(0x21, inet6("2001:db8::7", 1)[:-1]),
        header(0x31, bytes(215)),
        header(0x11, b""),
        header(0x11, inet("198.51.100.7", 1), size=13),
        header(0x11, inet("198.51.100.7", 1), size=MOST + 1),
        b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 1234\r\n",
        b"\x16\x03\x01" + bytes(20),
    ],
    ids=[
        *("version-1", "version-3", "command", "datagram", "no-transport", "transport", "family"),
        *("no-family", "short", "short-6", "short-unix", "empty", "cut", "too-long", "text", "tls"),
    ],
)
def test_what_is_no_header(whole):
    with pytest.raises(BadProxyHeader):
        rest_of(whole[:HEAD_SIZE])
        source_in(whole)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=64))
def test_any_address_comes_through(address, port, more):
    form, kind = (inet, 0x11) if address.version == 4 else (inet6, 0x21)
    source = source_in(header(kind, form(str(address), port, more)))
    assert source is not None and source[1] == port
    assert host_of((str(address), port)) == host_of(source)


@given(st.binary(min_size=HEAD_SIZE, max_size=300), st.booleans())
def test_nothing_else_is_raised(data, signed):
    """Whatever comes: it is a header, or BadProxyHeader."""
    whole = SIGNATURE + data[len(SIGNATURE) :] if signed else data
    try:
        size = rest_of(whole[:HEAD_SIZE])
        source = source_in(whole)
    except BadProxyHeader:
        return
    assert len(whole) == HEAD_SIZE + size and signed
    assert source is None or host_of(source)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80))
def test_every_kind_of_header_is_answered(command, kind, rest):
    try:
        source_in(header(kind, rest, command=command))
    except BadProxyHeader:
        assert (command, kind) != (0x20, kind)
    else:
        assert command in (0x20, 0x21)
