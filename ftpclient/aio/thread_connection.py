"""A transfer thread's view of a connection that an event loop drives.

Lives here: the two queues between that thread and the loop, and a Connection on top of them.
Lives elsewhere: the loop's side (connection.py), the transfers (ftpclient/transfer/upload.py and
others, which do not see the difference).

A transfer reads directories and files, hashes, writes and renames. All of that would block a loop,
so it has a thread. It sends whole units of frames to the loop, and receives frames from it
undecoded. So replies are checked by the same code as in the other client.

Each counter that both threads use is written by only one of them: ``fed`` and ``sent`` by the loop,
``taken`` and ``posted`` by the transfer. The queues are deques, whose single operations are atomic.
A waiting side is woken after a change of these.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol

from ftpclient.aio.write_units import Sender, WriteUnit
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.client_id import Operation
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.protocol import Call, ClientProtocol
from ftpclient.transfer.calls import Discard
from ftpwire import frames, messages
from ftpwire.channel import Incoming, Ready, TimedOut
from ftpwire.errors import Cancelled, ConnectionLost, FtpError
from ftpwire.frames import Kind
from ftpwire.messages import Put, PutFiles, PutPiece, RequestBase, Sent
from ftpwire.pacing import Pace

_POST_AT = 64 * 1024
_POSTED_AHEAD = 1024 * 1024
"""Most bytes that a transfer may post before the loop has sent them."""
_FULL = 4 * 1024 * 1024
"""Bytes that wait for a transfer when the loop stops reading."""
_DRAINED = 1024 * 1024
_CHUNK = 512 * 1024
_STRAIGHT = 64 * 1024
"""Smallest DATA payload, in bytes, that is received directly into a transfer's own chunks."""
_POOL = 8


class Carrier(Protocol):
    """The loop's side: a connection that carries those of threads."""

    def post(self, sender: Sender) -> None:
        """Add a sender that has something to send."""

    def wake_later(self, channel: ThreadChannel) -> None:
        """Wake a thread later, once for everything that has arrived for it."""

    def stop_reading(self, reader: object) -> None:
        """Stop reading until ``read_on``, because ``reader`` has not taken what has arrived."""

    def read_on(self, reader: object) -> None:
        """Withdraw ``stop_reading``: the reader has taken it."""

    def end(self, error: FtpError) -> None:
        """End the connection. All waiting tasks and threads get the error."""

    def abandon(self, channel: ThreadChannel) -> None:
        """Release a thread's connection; its requests have been cancelled."""


class Forward(Call):
    """A thread's request on the loop's side. Its replies are handed over undecoded."""

    def __init__(self, channel: ThreadChannel, request: RequestBase, call: Call) -> None:
        super().__init__()
        self.channel = channel
        self.request_id = call.request_id
        self.cost = call.cost
        self.streams = call.streams
        self.reads_only = call.reads_only
        self._may_get_ready = isinstance(request, Put)
        self.abandoned = False
        """True if the thread no longer waits for it; what still arrives is discarded."""

    def on_frame(self, size: int) -> None:
        if self.abandoned:
            return
        self.channel.feed(frames.pack_header(size, Kind.DATA, self.request_id))
        self.sink = self.channel if size >= _STRAIGHT else None

    def on_data(self, data: memoryview) -> None:
        if not self.abandoned:
            self.channel.feed(data)

    def on_notice(self, notice: messages.Notice) -> None:
        self._hand_over(Kind.NOTICE, messages.encode(notice))

    def _hand_over(self, kind: int, payload: bytes | memoryview) -> None:
        if not self.abandoned:
            self.channel.feed(frames.pack_header(len(payload), kind, self.request_id))
            self.channel.feed(payload)

    def on_control(self, kind: int, payload: memoryview) -> bool:
        self._hand_over(kind, payload)
        if kind != Kind.REPLY:
            return kind in (Kind.END, Kind.ERROR)
        if self._may_get_ready:
            return not isinstance(messages.decode_reply(payload), messages.Ready)
        return not self.streams

    def abandon(self) -> None:
        """Discard everything that still arrives for it."""
        self.abandoned = self.is_dropped = True
        self.sink = Discard() if self.sink is not None else None


class ThreadChannel(Incoming):
    """A channel to the loop: units are sent to it, and bytes received from it.

    Args:
        look: Function to call before and after every wait of the transfer; may raise.
    """

    def __init__(
        self, carrier: Carrier, loop: asyncio.AbstractEventLoop, look: Callable[[], None]
    ) -> None:
        self.pace: Pace | None = None
        """Always None: a transfer with a rate limit has a connection of its own."""
        self.ended: FtpError | None = None
        self._carrier = carrier
        self._loop = loop
        self._look = look
        self._woken = threading.Event()
        self.sender = Sender(self._on_sent)
        self._local: list[WriteUnit] = []
        self._current: WriteUnit | None = None
        self._local_size = 0
        self._post_is_due = False
        self.posted = self.sent = 0
        self.ahead = _POSTED_AHEAD
        """Most bytes that may be posted and not sent before the transfer waits."""
        self.chunks: deque[tuple[memoryview, bytearray | None]] = deque()
        self._pool: deque[bytearray] = deque(maxlen=_POOL)
        self._filling: bytearray | None = None
        self._handed = self._filled = 0
        self._small = bytearray()
        """Small pieces, until they are handed over together."""
        self._rest: memoryview | None = None
        self._rest_of: bytearray | None = None
        self.fed = self.taken = 0
        self.full = False
        """True while the loop does not read because the transfer has to take more first."""

    # the transfer's thread: sending ------------------------------------------------------

    def begin(
        self, call: Call, request: RequestBase, operation: Operation | None, *, opens: bool
    ) -> None:
        """Start a unit: what is queued next is a request of an operation."""
        self._current = WriteUnit(call=call, opens=opens, request=request, operation=operation)
        self._local.append(self._current)

    def conclude(self, *, cancels: int | None = None, closes: bool) -> None:
        """Mark that what is queued next ends an upload, or cancels a request."""
        if self._current is None or (cancels is not None and not closes):
            self._current = WriteUnit()
            self._local.append(self._current)
        self._current.closes = closes
        self._current.cancels = cancels

    def seal(self) -> None:
        """End the current unit: what is queued next belongs to another one."""
        self._current = None

    def queue(self, *pieces: bytes | memoryview) -> bool:
        """Append to the output. Return True if it should be flushed."""
        if self._current is None:
            self._current = WriteUnit()
            self._local.append(self._current)
        data = self._current.data
        for piece in pieces:
            data += piece
            self._local_size += len(piece)
        return self._local_size >= _POST_AT

    def try_send(self, view: memoryview) -> int:
        """Send bytes without copying them. They must not change until all are sent."""
        assert self._current is not None
        self._current.piece = view
        self._local_size += len(view)
        self.try_flush()
        return len(view)

    @property
    def has_output(self) -> bool:
        return bool(self._local)

    def try_flush(self) -> bool:
        if self._local:
            self.posted += self._local_size
            self._local_size = 0
            # no lock: this thread only appends, and only the loop takes units
            self.sender.units.extend(self._local)
            self._local = []
            self._current = None
            if not self._post_is_due:
                self._post_is_due = True
                self.call_in_loop(self._post)
        return self.posted - self.sent <= self.ahead

    def call_in_loop(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the loop soon."""
        self._loop.call_soon_threadsafe(function, *args)

    # the transfer's thread: receiving and waiting ----------------------------------------

    def wait(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready:
        while True:
            self._woken.clear()  # before the checks: news after them must end the wait below
            self._look()
            if self.full and self.fed - self.taken < _DRAINED:
                self._let_it_read()
            readable = read and (self.has_input or self.ended is not None)
            writable = write and self.posted - self.sent <= self.ahead
            if readable or writable:
                return Ready(readable, writable)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._woken.wait(left):
                raise TimedOut("the server did not answer in time")

    def _let_it_read(self) -> None:
        self.full = False
        self.call_in_loop(self._carrier.read_on, self)

    @property
    def has_input(self) -> bool:
        """True if bytes can be received."""
        return self._rest is not None or bool(self.chunks)

    def receive_into(self, view: memoryview) -> int:
        ended = self.ended  # before the chunks: what arrived before the end is returned first
        got = 0
        while got < len(view):
            if self._rest is None:
                if not self.chunks:
                    break
                self._rest, self._rest_of = self.chunks.popleft()
            piece = self._rest[: len(view) - got]
            view[got : got + len(piece)] = piece
            got += len(piece)
            self._rest = self._rest[len(piece) :]
            if not self._rest:
                self._rest = None
                if self._rest_of is not None:
                    self._pool.append(self._rest_of)
        if not got and isinstance(ended, ConnectionLost):
            raise ended  # whether this is an error depends on what is unanswered
        self.taken += got
        if self.full and self.fed - self.taken < _DRAINED:
            self._let_it_read()
        return got

    def rearm(self) -> None:
        """Do nothing: every wait checks the interrupt."""

    def close(self) -> None:
        """Do nothing: the socket belongs to the loop."""

    def abort(self) -> None:
        """Do nothing: the socket belongs to the loop."""

    def cut(self) -> None:
        """End the wait of the transfer."""
        self.wake()

    # any thread --------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake the transfer, so that it checks for news."""
        self._woken.set()

    # the loop ----------------------------------------------------------------------------

    def _post(self) -> None:
        self._post_is_due = False
        self._carrier.post(self.sender)

    def _on_sent(self, unit: WriteUnit) -> None:
        self.sent += unit.size
        self._carrier.wake_later(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Hand bytes over to the transfer."""
        if self._handed != self._filled:
            self.hand_over()  # to keep the order
        self._small += data
        self._count(len(data))

    def _count(self, count: int) -> None:
        self.fed += count
        self._carrier.wake_later(self)
        if self.fed - self.taken >= _FULL:
            self.full = True
            self._carrier.stop_reading(self)

    def buffer(self) -> memoryview:
        """Return free space for bytes that are received directly from the network (a Sink)."""
        if self._small:
            self.hand_over()  # to keep the order
        if self._filling is None:
            try:
                self._filling = self._pool.pop()
            except IndexError:
                self._filling = bytearray(_CHUNK)
            self._handed = self._filled = 0
        return memoryview(self._filling)[self._filled :]

    def filled(self, count: int) -> None:
        """Report that ``count`` bytes of ``buffer()`` were filled."""
        assert self._filling is not None
        self._filled += count
        if self._filled == len(self._filling):
            self.hand_over()
        self._count(count)

    def write(self, data: memoryview) -> None:
        """Take bytes that were received into another buffer."""
        self.feed(data)

    def hand_over(self) -> None:
        """Hand over what was filled so far."""
        if self._small:
            small, self._small = self._small, bytearray()
            self.chunks.append((memoryview(small), None))
        buffer = self._filling
        if buffer is None or self._handed == self._filled:
            return
        whole = self._filled == len(buffer)
        view = memoryview(buffer)[self._handed : self._filled]
        self.chunks.append((view, buffer if whole else None))
        self._handed = self._filled
        if whole:
            self._filling = None


class ThreadConnection(Connection):
    """A connection for one transfer's thread, on top of one that a loop drives for many.

    Cancelling or closing it cancels its own requests, and does not affect others.
    """

    channel: ThreadChannel

    def __init__(
        self,
        carrier: Carrier,
        loop: asyncio.AbstractEventLoop,
        address: ServerAddress,
        protocol: ClientProtocol,
        *,
        context: ssl.SSLContext | None,
        interrupt: Interrupt | None,
    ) -> None:
        channel = ThreadChannel(carrier, loop, self.check)
        super().__init__(address, channel, protocol, context=context, interrupt=interrupt)
        self._carrier = carrier
        self._open_upload: Call | None = None

    # sending -----------------------------------------------------------------------------

    def introduction(self, request: RequestBase, operation: Operation | None) -> None:
        """Do nothing: the loop announces operations, because it knows the order of all requests."""

    def _queue_request(self, call: Call, request: RequestBase, payload: bytes) -> None:
        opens = isinstance(request, (Put, PutPiece, PutFiles))
        forward = Forward(self.channel, request, call)
        self.channel.begin(forward, request, self.operation, opens=opens)
        self._open_upload = call if opens else None
        super()._queue_request(call, request, payload)
        if not opens:
            self.channel.seal()

    def send_end(self, call: Call, sent: Sent) -> None:
        self.channel.conclude(closes=True)
        self._open_upload = None
        super().send_end(call, sent)
        self.channel.seal()

    def send_cancel(self, call: Call) -> None:
        closes = self._open_upload is call
        if closes:
            self._open_upload = None
        self.channel.conclude(cancels=call.request_id, closes=closes)
        super().send_cancel(call)
        self.channel.seal()

    def _send_piece(self, piece: memoryview) -> None:
        self.channel.try_send(piece)
        self.channel.ahead = 0
        try:
            while not self.channel.try_flush():
                self._wait(write=True)
            self.take_input()
            self.check()
        finally:
            self.channel.ahead = _POSTED_AHEAD

    # waiting and receiving ---------------------------------------------------------------

    @property
    def longest_silence(self) -> float:
        """Practically unlimited: the loop checks for silence, because it receives everything."""
        return threading.TIMEOUT_MAX / 2

    def take_input(self) -> bool:
        ended = self.channel.ended
        if ended is not None and not self.channel.has_input:
            if not isinstance(ended, ConnectionLost):
                self.end_with(ended)
        return super().take_input()

    def lost(self, error: ConnectionLost) -> NoReturn:
        self.end_with(error)

    def end_with(self, error: FtpError) -> NoReturn:
        if not self.broken and self.channel.ended is None:
            self.channel.call_in_loop(self._carrier.end, error)
        super().end_with(error)

    # ending ------------------------------------------------------------------------------

    def cancel_all(self, seconds: float | None = None) -> None:
        """Cancel every call. The loop waits for their ends; this connection is not usable again."""
        self._rearm()
        self.give_up()

    def give_up(self) -> None:
        if self.broken:
            return
        # newest first: an open upload must be ended before anything else can be sent
        for call in reversed(self.protocol.calls.values()):
            self.send_cancel(call)
        self.channel.try_flush()
        self.channel.call_in_loop(self._carrier.abandon, self.channel)
        self.protocol.end(Cancelled("the transfer was cancelled"))

    def close(self) -> None:
        self.give_up()
