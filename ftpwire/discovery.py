"""Discovery: the datagrams that find servers on a local network.

Lives here: the formats of a question and an answer, and the errors for invalid ones. Does no I/O.
Lives elsewhere: answering (ftpserver/daemon/discovery.py), asking
(ftpclient/connection/discovery.py).

Questions and answers have no secrets and prove nothing: any machine on the network can send them.
So a question is padded until no answer is larger than it, and a forged sender address cannot make a
server send more than it received. And the contents of an answer are shown, but never trusted.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec
from msgspec import Meta

from ftpwire.errors import BadMagic, BadMessage, VersionMismatch

MAGIC = b"FTPd"
VERSION = 1
SIZE = 512
"""Size of a question, and largest size of an answer, in bytes; no link fragments it."""
NONCE_SIZE = 16
MAX_NAME = 64
"""Longest name of a server, in characters."""

_QUESTION, _ANSWER = 1, 2
_HEADER = struct.Struct(f">4sBB{NONCE_SIZE}s")
"""Magic, version, question or answer, and a nonce, which the answer repeats."""

_Text = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class Announcement(msgspec.Struct, frozen=True):
    """A server's description of itself.

    Attributes:
        run: Random bytes of this start of the server. They distinguish one server with two
            addresses from two servers.
        name: Name for display; not verified.
        port: TCP port, at the address that the answer came from.
        software: Name and version.
        fingerprint: Fingerprint of the server's key; None if it speaks without TLS. For comparison
            only, not a reason for trust.
    """

    run: Annotated[bytes, Meta(min_length=8, max_length=8)]
    name: _Text
    port: Annotated[int, Meta(ge=1, le=65535)]
    software: _Text
    fingerprint: Annotated[str, Meta(pattern=r"^SHA256:[A-Za-z0-9+/]{43}\Z")] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Announcement).decode


def question(nonce: bytes) -> bytes:
    """Return a question to all servers that receive it."""
    return _HEADER.pack(MAGIC, VERSION, _QUESTION, nonce).ljust(SIZE, b"\0")


def answer(nonce: bytes, announcement: Announcement) -> bytes:
    """Return the answer to the question with this nonce.

    Raises:
        ValueError: The answer would be larger than the question.
    """
    datagram = _HEADER.pack(MAGIC, VERSION, _ANSWER, nonce) + _encode(announcement)
    if len(datagram) > SIZE:
        raise ValueError(f"an answer of {len(datagram)} bytes; at most {SIZE}")
    return datagram


def nonce_of(datagram: bytes) -> bytes:
    """Return the nonce of a question.

    Raises:
        BadMagic, VersionMismatch, BadMessage: It is no question that needs an answer.
    """
    if len(datagram) != SIZE:
        raise BadMessage(f"a question has {SIZE} bytes, not {len(datagram)}")
    return _nonce(datagram, _QUESTION)


def announcement_of(datagram: bytes, nonce: bytes) -> Announcement:
    """Return the contents of the answer to the question with this nonce. The texts are not escaped.

    Raises:
        BadMagic, VersionMismatch, BadMessage: It is not an answer to that question.
    """
    if len(datagram) > SIZE:
        raise BadMessage(f"an answer of more than {SIZE} bytes")
    if _nonce(datagram, _ANSWER) != nonce:
        raise BadMessage("the answer to another question")
    try:
        return _decode(datagram[_HEADER.size :])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(f"not an answer: {error}") from None


def _nonce(datagram: bytes, kind: int) -> bytes:
    if len(datagram) < _HEADER.size:
        raise BadMessage(f"a datagram of {len(datagram)} bytes")
    magic, version, found, nonce = _HEADER.unpack_from(datagram)
    if magic != MAGIC:
        raise BadMagic("not a datagram of ftpd")
    if version != VERSION:
        raise VersionMismatch(f"version {version}; this side speaks {VERSION}")
    if found != kind:
        raise BadMessage(f"a datagram of kind {found}, not {kind}")
    assert isinstance(nonce, bytes)
    return nonce
