"""Frames that arrive on a channel: a header, then its payload, whole or moved elsewhere.

Lives here: waiting for the next header or payload with a deadline, moving payloads, and how slow a
peer may be in the middle of one.
Lives elsewhere: cutting the stream into frames (frames.py), sockets and TLS (channel.py), what
frames mean (messages.py, and the protocols of both sides).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpwire.channel import Channel, Ready, Sink, TimedOut
from ftpwire.errors import BadMessage
from ftpwire.frames import HEADER_SIZE, FrameReader, Header, Kind

STEADY = 64 * 1024
"""Bytes that must move within the stall time; a slower peer is timed out."""


class Steady:
    """Waits for a peer in the middle of a frame. The stall time covers all waits together, until
    `STEADY` bytes have moved.

    With a new deadline for each byte, a peer could hold a thread forever with one byte per minute.

    Args:
        channel: The channel to wait for.
        seconds: The stall time.
        wait: Function that waits for the channel; see `Channel.wait`.
    """

    __slots__ = ("_channel", "_left", "_moved", "_seconds", "_wait")

    def __init__(self, channel: Channel, seconds: float, wait: Callable[..., Ready]) -> None:
        self._channel = channel
        self._wait = wait
        self._seconds = self._left = seconds
        self._moved = channel.bytes_in + channel.bytes_out

    def wait(self, *, read: bool = False, write: bool = False) -> None:
        """Wait until something can be moved. Raises TimedOut."""
        moved = self._channel.bytes_in + self._channel.bytes_out
        if moved - self._moved >= STEADY:
            self._moved, self._left = moved, self._seconds
        began = time.monotonic()
        self._wait(read=read, write=write, deadline=began + self._left)
        self._left -= time.monotonic() - began


class FrameStream:
    """The frames that arrive on a channel. For one thread.

    Args:
        stall: Function that returns how many seconds a peer may take, in the middle of a payload,
            to move `STEADY` bytes.
        deadline: Function that returns the deadline, on ``time.monotonic()``, for a frame that is
            waited for from now on, if the caller gives none.
        wait: Function that waits for the channel; None for `Channel.wait`.

    Attributes:
        reader: Cuts the stream, and holds what was received but not taken.
    """

    __slots__ = ("_channel", "_deadline", "_stall", "_wait", "reader")

    def __init__(
        self,
        channel: Channel,
        stall: Callable[[], float],
        deadline: Callable[[], float],
        wait: Callable[..., Ready] | None = None,
    ) -> None:
        self.reader = FrameReader()
        self._channel = channel
        self._stall = stall
        self._deadline = deadline
        self._wait = channel.wait if wait is None else wait

    def header(self, deadline: float | None = None, *, exactly: bool = False) -> Header:
        """Return the next frame's header, waiting until a deadline on ``time.monotonic()``.

        Args:
            deadline: None for the default one.
            exactly: True to receive nothing after it from the socket, because its payload is moved
                elsewhere.

        Raises:
            TimedOut, ConnectionLost, ProtocolError
        """
        reader = self.reader
        while (header := reader.next_header()) is None:
            if deadline is None:
                deadline = self._deadline()
            self._receive(deadline, HEADER_SIZE - reader.buffered if exactly else None)
        return header

    def payload(self, header: Header, deadline: float | None = None) -> memoryview:
        """Return the whole payload of a control frame. The deadline is for all of it.

        Raises:
            BadMessage: It is a DATA frame.
        """
        if header.kind == Kind.DATA:
            raise BadMessage("file bytes outside an upload")
        while (payload := self.reader.payload()) is None:
            if deadline is None:
                deadline = self._deadline()
            self._receive(deadline)
        return payload

    def _receive(self, deadline: float, limit: int | None = None) -> None:
        """Receive something, waiting for it. Raises TimedOut after the deadline, even if the peer
        keeps sending a little."""
        if time.monotonic() > deadline:
            raise TimedOut("the peer did not finish in time")
        while not self._channel.fill(self.reader, limit):
            self._wait(read=True, deadline=deadline)

    def into(self, sink: Sink) -> None:
        """Move the rest of the payload into a sink's buffers, without an extra copy."""
        steady = None
        while not self._channel.move_payload(self.reader, sink):
            steady = steady or self.steady()
            steady.wait(read=True)

    def append_to(self, data: bytearray) -> None:
        """Append the rest of the payload."""
        reader, steady = self.reader, None
        while reader.remaining:
            if piece := reader.take(reader.remaining):
                data += piece
            elif not self._channel.fill(reader):
                steady = steady or self.steady()
                steady.wait(read=True)

    def discard(self) -> None:
        """Discard the rest of the payload."""
        reader, steady = self.reader, None
        while reader.remaining:
            if not reader.take(reader.remaining) and not self._channel.fill(reader):
                steady = steady or self.steady()
                steady.wait(read=True)

    def go_idle(self) -> None:
        """Release the memory that is not needed now."""
        self.reader.go_idle()

    def steady(self) -> Steady:
        """Return a `Steady` whose time starts now, for waits in the middle of a payload."""
        return Steady(self._channel, self._stall(), self._wait)
