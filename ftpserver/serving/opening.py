"""The beginning of a connection: its first byte, TLS, and HELLO.

Lives here: what comes before the first request. Lives elsewhere: requests (session.py), TLS itself
(ftpwire/tls.py), PROXY headers (proxied.py).
"""

from __future__ import annotations

import math
import socket
import ssl
import struct
from collections.abc import Sequence

from ftpserver.accounts.session_limits import most_sessions
from ftpserver.net.proxy_protocol import SIGNATURE
from ftpserver.serving.exchange import DATA_SIZE, Exchange
from ftpserver.settings.table import Settings
from ftpwire import SOFTWARE, frames, messages
from ftpwire.channel import Channel
from ftpwire.errors import BadMagic, BadMessage, ConnectionLost, VersionMismatch
from ftpwire.frames import Kind
from ftpwire.messages import Hello
from ftpwire.tls import HANDSHAKE_RECORD, TlsError, TlsPipe

FEATURES = [
    *(messages.PIECES, messages.ALIVE, messages.KEPT, messages.ALONE),
    *(messages.IF_SAME, messages.HOLES, messages.TRASH, messages.MANY_FILES),
    messages.LIST_PREFIX,
]
MAX_REQUESTS = 4096
"""Requests that a client may send ahead of their replies."""
MAX_UNANSWERED = 64 * 1024 * 1024
"""Bytes of such requests, with their DATA."""

_RECORD = struct.Struct(">BHH")
"""Type, version, and length of a TLS record (RFC 8446, section 5.1)."""
_MOST_IN_RECORD = 2**14 + 256
FIRST_HEAD = frames.HEADER_SIZE
"""Bytes that contain the length of a first record or frame. They fit into the receive buffer of
any socket, and so can be waited for there."""


def first_byte(connection: socket.socket, channel: Channel, deadline: float) -> int:
    """Return the connection's first byte, without removing it from the input.

    Raises:
        ConnectionLost: The connection was closed before it.
        TimedOut: It didn't come before the deadline.
    """
    while True:
        try:
            data = connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            channel.wait(read=True, deadline=deadline)
            continue
        except OSError as error:
            raise ConnectionLost(f"connection lost: {error.strerror}") from None
        if not data:
            raise ConnectionLost("closed before the first byte")
        return data[0]


def start_tls(
    channel: Channel, first: int, context: ssl.SSLContext | None, deadline: float
) -> None:
    """Do the TLS handshake, unless the server is plain. Raises if the client expects otherwise."""
    _check_first_byte(first, tls=context is not None)
    if context is None:
        return
    channel.tls = TlsPipe(context, server_side=True)
    channel.handshake(deadline, hold=True)


def _check_first_byte(first: int, *, tls: bool) -> None:
    if first == SIGNATURE[0]:
        raise BadMessage("a PROXY header, from an address that isn't in proxy-from")
    if tls and first != HANDSHAKE_RECORD:
        raise BadMagic("this server speaks TLS only")
    if not tls and first == HANDSHAKE_RECORD:
        raise BadMagic("this server speaks without TLS")


def first_size(head: bytes, *, tls: bool) -> int | None:
    """Return the size of a connection's first TLS record, or without TLS of its first frame.

    Args:
        head: What has come of it, up to `FIRST_HEAD` bytes.

    Returns:
        The size in bytes; None if ``head`` is too short.

    Raises:
        ProtocolError: It isn't a record or a frame, or is too large.
        TlsError: The same for a TLS record.
    """
    if not head:
        return None
    _check_first_byte(head[0], tls=tls)
    if not tls:
        reader = frames.FrameReader()
        reader.feed(head)
        header = reader.next_header()
        return None if header is None else frames.HEADER_SIZE + header.size
    if len(head) < _RECORD.size:
        return None
    size: int = _RECORD.unpack_from(head)[2]
    if not 0 < size <= _MOST_IN_RECORD:
        raise TlsError(f"TLS handshake failed: a first record of {size} bytes")
    return _RECORD.size + size


def say_hello(exchange: Exchange, settings: Settings) -> None:
    """Read the client's HELLO, adopt its limits, and reply."""
    deadline = exchange.login_deadline
    header = exchange.stream.header(deadline)
    payload = exchange.stream.payload(header, deadline)
    if header.kind != Kind.REQUEST:
        raise BadMagic("the first frame is not a HELLO")
    theirs = messages.decode_hello(payload)
    version = _common_version(theirs.versions or [theirs.version])
    most = max(1024, theirs.max_data or frames.DEFAULT_MAX_DATA)
    exchange.file_size = min(frames.MAX_DATA, most)
    exchange.data_size = min(DATA_SIZE, most)
    exchange.page_size = max(1024, min(frames.MAX_CONTROL, theirs.max_control or 4096))
    ours = Hello(
        version=version,
        software=SOFTWARE,
        features=FEATURES,
        max_control=frames.MAX_CONTROL,
        max_data=frames.MAX_DATA,
        max_requests=MAX_REQUESTS,
        max_unanswered=MAX_UNANSWERED,
        stall_ms=math.ceil(settings.stall * 1000),
        versions=list(messages.VERSIONS),
        max_sessions=most_sessions(settings),
    )
    reply = messages.encode_hello(ours)
    exchange.channel.queue(frames.frame(Kind.REPLY, header.request_id, reply))


def _common_version(theirs: list[int]) -> int:
    """Return the highest protocol version that both sides speak. Raises VersionMismatch."""
    common = set(theirs) & set(messages.VERSIONS)
    if not common:
        raise VersionMismatch(
            f"the client speaks protocol version {_either(theirs)}, "
            f"this server version {_either(messages.VERSIONS)}",
            messages.VERSIONS,
        )
    return max(common)


def _either(versions: Sequence[int]) -> str:
    return " or ".join(str(one) for one in sorted(versions))
