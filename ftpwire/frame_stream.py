"""Frames as they come in on a channel: a header, then its payload, whole or moved elsewhere.

Lives here: waiting for the next header or payload with a deadline, moving payloads, and how long a
peer may take in the middle of one.
Lives elsewhere: cutting the stream into frames (frames.py), sockets and TLS (channel.py), what
frames mean (messages.py, and both ends' protocols).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpwire.channel import Channel, Ready, Sink, TimedOut
from ftpwire.errors import BadMessage
from ftpwire.frames import HEADER_SIZE, FrameReader, Header, Kind

STEADY = 64 * 1024
"""Bytes that have to move within the stall time, or the peer is too slow."""


class Steady:
    """Waits for a peer in the middle of a frame: for some time in all, until enough has moved.

    A deadline for each byte would let a peer hold a thread for ever with a byte a minute.

    Args:
        wait: Waits for the channel until a deadline; see `Channel.wait`.
    """

    __slots__ = ("_channel", "_left", "_moved", "_seconds", "_wait")

    def __init__(self, channel: Channel, seconds: float, wait: Callable[..., Ready]) -> None:
        self._channel = channel
        self._wait = wait
        self._seconds = self._left = seconds
        self._moved = channel.bytes_in + channel.bytes_out

    def wait(self, *, read: bool = False, write: bool = False) -> None:
        """Until something can be moved. Raises TimedOut."""
        moved = self._channel.bytes_in + self._channel.bytes_out
        if moved - self._moved >= STEADY:
            self._moved, self._left = moved, self._seconds
        began = time.monotonic()
        self._wait(read=read, write=write, deadline=began + self._left)
        self._left -= time.monotonic() - began


class FrameStream:
    """The frames that come in on a channel. For one thread.

    Args:
        stall: How many seconds a peer may take, in the middle of a payload, to move `STEADY` bytes.
        deadline: Until when, on ``time.monotonic()``, a frame has to come that is waited for from
            now on, where the caller doesn't say.
        wait: Waits for the channel, as `Channel.wait` does; None: that.

    Attributes:
        reader: Cuts the stream, and holds what came and wasn't taken.
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
        """The next frame's header, waited for until a deadline on ``time.monotonic()``.

        Args:
            exactly: Take nothing behind it from the socket: its payload is moved elsewhere.

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
        """The payload of a frame of control, whole. The deadline is for all of it.

        Raises:
            BadMessage: It is a frame of DATA.
        """
        if header.kind == Kind.DATA:
            raise BadMessage("file bytes outside an upload")
        while (payload := self.reader.payload()) is None:
            if deadline is None:
                deadline = self._deadline()
            self._receive(deadline)
        return payload

    def _receive(self, deadline: float, limit: int | None = None) -> None:
        """Receive something, waiting for it. The deadline also ends a peer that always has a
        little more to send."""
        if time.monotonic() > deadline:
            raise TimedOut("the peer did not finish in time")
        while not self._channel.fill(self.reader, limit):
            self._wait(read=True, deadline=deadline)

    def into(self, sink: Sink) -> None:
        """Move what is left of the payload into a sink's buffers, without a copy in between."""
        steady = None
        while not self._channel.move_payload(self.reader, sink):
            steady = steady or self.steady()
            steady.wait(read=True)

    def append_to(self, data: bytearray) -> None:
        """Append what is left of the payload."""
        reader, steady = self.reader, None
        while reader.remaining:
            if piece := reader.take(reader.remaining):
                data += piece
            elif not self._channel.fill(reader):
                steady = steady or self.steady()
                steady.wait(read=True)

    def discard(self) -> None:
        """Pass over what is left of the payload."""
        reader, steady = self.reader, None
        while reader.remaining:
            if not reader.take(reader.remaining) and not self._channel.fill(reader):
                steady = steady or self.steady()
                steady.wait(read=True)

    def go_idle(self) -> None:
        """Give back the memory that isn't needed now."""
        self.reader.go_idle()

    def steady(self) -> Steady:
        """Waits, from now on, in the middle of a payload."""
        return Steady(self._channel, self._stall(), self._wait)
