"""Framing: cut a byte stream into frames, however the network cut or glued it.

Lives here: the header's layout, the kinds, the size limits, truncation. Does no I/O.
Lives elsewhere: what a payload means (messages.py), sockets and TLS (channel.py).

A frame is a header (payload length u32, kind u8, request id u32, big-endian) and its payload. DATA
payloads may be large, and belong into the receiver's own buffer: the reader gives the number of
remaining bytes, hands out those that it has buffered, and the caller reports those that it received
directly.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from ftpwire.errors import FrameTooBig, TruncatedFrame, UnknownKind

HEADER = struct.Struct(">IBI")
HEADER_SIZE = HEADER.size

MAX_CONTROL_BEFORE_LOGIN = 4 * 1024
"""Largest payload, in bytes, of any frame before log-in."""
MAX_CONTROL = 128 * 1024
"""Largest payload of a control frame after log-in, in bytes."""
MAX_DATA = 4 * 1024 * 1024
"""Largest payload of a DATA frame, in bytes."""
DEFAULT_MAX_DATA = 512 * 1024
"""Largest payload of a DATA frame, in bytes, for a peer that does not name one."""

_SMALL_BUFFER = 8 * 1024
_LARGE_BUFFER = 256 * 1024


class Kind(enum.IntEnum):
    """The kinds of frames. The numbers are part of the protocol."""

    REQUEST = 1
    REPLY = 2
    ERROR = 3
    DATA = 4
    END = 5
    CANCEL = 6
    NOTICE = 7


_KINDS = frozenset(Kind)
_DATA = int(Kind.DATA)


class Header(NamedTuple):
    """One frame's header: payload length in bytes, kind, and the request it belongs to."""

    size: int
    kind: int
    request_id: int


pack_header = HEADER.pack


def frame(kind: Kind, request_id: int, payload: bytes = b"") -> bytes:
    """Return one whole frame."""
    return HEADER.pack(len(payload), kind, request_id) + payload


class FrameReader:
    """Cuts a byte stream into frames. Does no I/O, and never allocates memory on a peer's
    announcement alone.

    Usage: receive into ``writable()``, call ``received(n)``, then take frames: ``next_header()``,
    and for that frame ``payload()`` (whole, for a control frame) or ``take()`` until ``remaining``
    is 0. The returned views are valid until the next call of ``writable()``.

    Args:
        max_control: Largest payload of a control frame to accept, in bytes.
        max_data: Largest payload of a DATA frame to accept, in bytes.
    """

    def __init__(self, max_control: int = MAX_CONTROL_BEFORE_LOGIN, max_data: int = 0) -> None:
        self.max_control = max_control
        self.max_data = max_data
        self._buffer = bytearray(_SMALL_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.remaining = 0
        """Payload bytes of the current frame that were not taken yet."""

    @property
    def buffered(self) -> int:
        """Number of bytes that were received and not taken yet."""
        return self._end - self._start

    def allow(self, max_control: int, max_data: int) -> None:
        """Set the limits, from the next frame on."""
        self.max_control = max_control
        self.max_data = max_data

    def writable(self) -> memoryview:
        """Return free space to receive into; never empty.

        The buffer grows only when it was filled, up to what a control frame may need.
        """
        if self._start == self._end:
            self._start = self._end = 0
        size = len(self._buffer)
        if self._end == size:
            if self._start == 0:
                self._replace(min(max(size * 4, _SMALL_BUFFER), self._largest()))
            else:
                self._replace(size)
        elif self._start > size // 2:
            self._replace(size)
        return self._view[self._end :]

    def header_space(self) -> memoryview:
        """Return free space for one header at most: the start of `writable`."""
        return self.writable()[:HEADER_SIZE]

    def received(self, count: int) -> None:
        """Report that ``count`` bytes were received into ``writable()``."""
        self._end += count

    def feed(self, data: bytes) -> None:
        """Take bytes that were received elsewhere. The buffer grows as needed."""
        free = len(self._buffer) - self._end
        if free < len(data):
            self._replace(max(len(self._buffer), self.buffered + len(data)))
        self._view[self._end : self._end + len(data)] = data
        self._end += len(data)

    def shrink(self) -> None:
        """Release memory if nothing is buffered; to be called before a long wait."""
        if self._start == self._end and len(self._buffer) > _SMALL_BUFFER:
            self._start = self._end = 0
            self._replace(_SMALL_BUFFER)

    def next_header(self) -> Header | None:
        """Return the next frame's header if it is complete, else None. Its payload must be taken
        next.

        Raises:
            FrameTooBig: It announces more than the limit for its kind.
            UnknownKind: No frame of that kind exists.
        """
        if self.remaining:
            raise RuntimeError("the current frame's payload was not taken")
        if self._end - self._start < HEADER_SIZE:
            return None
        size, kind, request_id = HEADER.unpack_from(self._buffer, self._start)
        if kind == _DATA:
            if size > self.max_data:
                raise FrameTooBig(f"a DATA frame of {size} bytes; at most {self.max_data}")
        elif kind not in _KINDS:
            raise UnknownKind(f"a frame of unknown kind {kind}")
        elif size > self.max_control:
            raise FrameTooBig(f"a control frame of {size} bytes; at most {self.max_control}")
        self._start += HEADER_SIZE
        self.remaining = size
        return Header(size, kind, request_id)

    def payload(self) -> memoryview | None:
        """Return the current frame's whole payload if it is buffered, else None."""
        size = self.remaining
        start = self._start
        if self._end - start < size:
            return None
        self._start = start + size
        self.remaining = 0
        return self._view[start : start + size]

    def take(self, limit: int) -> memoryview:
        """Return up to ``limit`` buffered bytes of the current payload."""
        start = self._start
        size = min(limit, self.remaining, self._end - start)
        self._start = start + size
        self.remaining -= size
        return self._view[start : start + size]

    def bypassed(self, count: int) -> None:
        """Report that ``count`` payload bytes were received into the caller's own buffer."""
        if count > self.remaining or self.buffered:
            raise RuntimeError("more bytes bypassed the reader than the frame has left")
        self.remaining -= count

    def has_cancel(self, request_id: int) -> bool:
        """Return True if a CANCEL of that request is among the complete buffered frames."""
        at = self._start + self.remaining
        while at + HEADER_SIZE <= self._end:
            size, kind, found = HEADER.unpack_from(self._buffer, at)
            if kind == Kind.CANCEL and found == request_id:
                return True
            at += HEADER_SIZE + size
        return False

    def go_idle(self) -> None:
        """Release all memory if nothing is buffered; ``writable`` allocates it again."""
        if self._start == self._end:
            self._start = self._end = 0
            self._buffer = bytearray()
            self._view = memoryview(self._buffer)

    def close(self) -> None:
        """Report that the peer has closed.

        Raises:
            TruncatedFrame: It closed in the middle of a frame.
        """
        if self.remaining or self.buffered:
            raise TruncatedFrame("the connection ended inside a frame")

    def _largest(self) -> int:
        return max(_SMALL_BUFFER, min(_LARGE_BUFFER, 2 * (self.max_control + HEADER_SIZE)))

    def _replace(self, size: int) -> None:
        """Move the buffered bytes to the front of a new buffer of ``size`` bytes."""
        old = self._view[self._start : self._end]
        count = len(old)
        buffer = bytearray(max(size, count + 1))
        buffer[:count] = old
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._start, self._end = 0, count
