"""Discovery: the datagrams by which servers are found on a local network.

Lives here: the format of a question and of an answer; what is wrong with one. Does no I/O.
Lives elsewhere: answering (ftpserver/daemon/discovery.py), asking
(ftpclient/connection/discovery.py).

A question has no secrets and proves nothing, and neither has an answer: whoever is on the network
can send either. So a question is padded until no answer is larger: whoever forges a sender can't
have a server send more than was sent to it. And what an answer tells is shown, never trusted.
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
"""Bytes of a question, and most bytes of an answer; fits any link without being cut."""
NONCE_SIZE = 16
MAX_NAME = 64
"""Longest name of a server, in characters."""

_QUESTION, _ANSWER = 1, 2
_HEADER = struct.Struct(f">4sBB{NONCE_SIZE}s")
"""Magic, version, question or answer, and a nonce: the answer repeats the question's."""

_Text = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class Announcement(msgspec.Struct, frozen=True):
    """What a server tells about itself.

    Attributes:
        run: Drawn at each start. Tells one server with two addresses from two servers.
        name: For people; nothing says that it is true.
        port: TCP, at the address that the answer came from.
        software: Name and version.
        fingerprint: Of the server's key; None when it speaks without TLS. To compare, not to trust.
    """

    run: Annotated[bytes, Meta(min_length=8, max_length=8)]
    name: _Text
    port: Annotated[int, Meta(ge=1, le=65535)]
    software: _Text
    fingerprint: Annotated[str, Meta(pattern=r"^SHA256:[A-Za-z0-9+/]{43}\Z")] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Announcement).decode


def question(nonce: bytes) -> bytes:
    """Ask whoever hears it."""
    return _HEADER.pack(MAGIC, VERSION, _QUESTION, nonce).ljust(SIZE, b"\0")


def answer(nonce: bytes, told: Announcement) -> bytes:
    """Answer the question with that nonce.

    Raises:
        ValueError: It would be larger than the question.
    """
    datagram = _HEADER.pack(MAGIC, VERSION, _ANSWER, nonce) + _encode(told)
    if len(datagram) > SIZE:
        raise ValueError(f"an answer of {len(datagram)} bytes; at most {SIZE}")
    return datagram


def nonce_of(datagram: bytes) -> bytes:
    """The nonce of a question.

    Raises:
        BadMagic, VersionMismatch, BadMessage: It is none that has to be answered.
    """
    if len(datagram) != SIZE:
        raise BadMessage(f"a question has {SIZE} bytes, not {len(datagram)}")
    return _nonce(datagram, _QUESTION)


def announcement_of(datagram: bytes, nonce: bytes) -> Announcement:
    """What an answer to the question with that nonce tells. The texts are as they came.

    Raises:
        BadMagic, VersionMismatch, BadMessage: It is no answer to that question.
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
        raise VersionMismatch(f"version {version}; {VERSION} is spoken here")
    if found != kind:
        raise BadMessage(f"a datagram of kind {found}, not {kind}")
    assert isinstance(nonce, bytes)
    return nonce
