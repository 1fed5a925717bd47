"""What one transfer's thread sees of a connection that an event loop drives.

Lives here: the two queues between that thread and the loop, and a Connection on top of them.
Lives elsewhere: the loop's side (connection/connection.py), what is transferred
(ftpclient/transfer/upload.py and its like, which don't know the difference).

A transfer reads directories and files, hashes, writes and renames: all of that would hold up a
loop, so it has a thread. What it sends goes to the loop as whole bursts of frames; what comes for
it is handed over undecoded. So the same code as in the other client judges each answer.

Of the counters that both threads use, each is written by one of them only: ``fed`` and ``poured``
by the loop, ``taken`` and ``posted`` by the transfer. The queues are deques, whose single
operations are atomic. A side that waits is woken after them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from ftpclient.connection.connection import Call, Connection
from ftpclient.connection.interrupt import Interrupt
from ftpwire import frames, messages
from ftpwire.channel import Channel, Ready, TimedOut
from ftpwire.errors import Cancelled, ConnectionLost, FtpError
from ftpwire.frames import FrameReader, Kind
from ftpwire.messages import Put, PutPiece, Request, Sent

if TYPE_CHECKING:
    from ftpclient.aio.connection import LoopConnection

_POST_AT = 64 * 1024
_POSTED_AHEAD = 1024 * 1024
"""Bytes that a transfer may be ahead of the loop."""
_FULL = 4 * 1024 * 1024
"""Bytes that may wait for a transfer before the loop stops reading."""
_DRAINED = 1024 * 1024
_CHUNK = 512 * 1024
_STRAIGHT = 64 * 1024
"""DATA frames from this many bytes on are received into a transfer's own chunks."""
_POOL = 8


class Burst:
    """Frames that go out without others between them.

    Attributes:
        call: The request that it begins with, if it does.
        data: Whole frames, or, with ``piece``, frames and one header.
        piece: The payload of that header. It must stay as it is until it was sent.
        opens, closes: An upload begins here, and ends here. In between no other's frame may stand.
        cancels: It is the CANCEL of this request.
    """

    __slots__ = ("call", "cancels", "closes", "data", "opens", "piece")

    def __init__(self, call: Call | None = None, *, opens: bool = False) -> None:
        self.call = call
        self.data = bytearray()
        self.piece: memoryview | None = None
        self.opens = opens
        self.closes = False
        self.cancels: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) + (0 if self.piece is None else len(self.piece))


class Sender:
    """Somebody whose bursts are sent in order, by turns with others'. The loop's own.

    Args:
        on_poured: Told of each burst that was handed to the socket's buffer.
    """

    def __init__(self, on_poured: Callable[[Burst], None] | None = None) -> None:
        self.bursts: deque[Burst] = deque()
        self.on_poured = on_poured
        self.queued = False
        """Whether it is among those whose turn comes."""


class Forward(Call):
    """A lane's request as the loop sees it: what comes for it is handed over as it is."""

    def __init__(self, lane: Lane, request: Request, streams: bool) -> None:
        super().__init__()
        self.channel = lane.channel
        self.streams = streams
        self._may_get_ready = isinstance(request, Put)
        self.abandoned = False
        """Nobody waits for it any more; what still comes is passed over."""

    def on_frame(self, size: int) -> None:
        if self.abandoned:
            return
        self.channel.feed(frames.pack_header(size, Kind.DATA, self.request_id))
        self.sink = self.channel if size >= _STRAIGHT else None

    def on_data(self, data: memoryview) -> None:
        if not self.abandoned:
            self.channel.feed(data)

    def ends_with(self, kind: int, payload: memoryview) -> bool:
        """Hand a control frame over; True when nothing more comes for this request."""
        if not self.abandoned:
            self.channel.feed(frames.pack_header(len(payload), kind, self.request_id))
            self.channel.feed(payload)
        if kind != Kind.REPLY:
            return kind in (Kind.END, Kind.ERROR)
        if self._may_get_ready:
            return not isinstance(messages.decode_reply(payload), messages.Ready)
        return not self.streams

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self.abandoned = True
        self.sink = _Nowhere() if self.sink is not None else None


class _Nowhere:
    """A sink for the rest of a frame that nobody wants."""

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(64 * 1024))

    def buffer(self) -> memoryview:
        return self._scratch

    def filled(self, count: int) -> None:
        pass

    def write(self, data: memoryview) -> None:
        pass


class LaneChannel(Channel):
    """A channel whose other end is the loop: bursts go there, and bytes come from there."""

    def __init__(
        self,
        connection: LoopConnection,
        loop: asyncio.AbstractEventLoop,
        look: Callable[[], None],
    ) -> None:
        # Channel's own beginning is about a socket; this one has none
        self.tls = None
        self.pace = None
        self.ended = None
        self.bytes_in = self.bytes_out = 0
        self._connection = connection
        self._loop = loop
        self._look = look
        self._woken = threading.Event()
        self.sender = Sender(self._poured)
        self._local: list[Burst] = []
        self._current: Burst | None = None
        self._local_size = 0
        self._post_is_due = False
        self.posted = self.poured = 0
        self.ahead = _POSTED_AHEAD
        """How many bytes may be posted and not poured before the transfer waits."""
        self.chunks: deque[tuple[memoryview, bytearray | None]] = deque()
        self._pool: deque[bytearray] = deque(maxlen=_POOL)
        self._filling: bytearray | None = None
        self._handed = self._filled = 0
        self._small = bytearray()
        """What came in small pieces, until it is handed over in one."""
        self._rest: memoryview | None = None
        self._rest_of: bytearray | None = None
        self.fed = self.taken = 0
        self.full = False
        """The loop doesn't read until the transfer has taken more."""

    # the transfer's thread: sending ------------------------------------------------------

    def begin(self, call: Call, *, opens: bool) -> None:
        """What is queued next is a request."""
        self._current = Burst(call, opens=opens)
        self._local.append(self._current)

    def conclude(self, *, cancels: int | None = None, closes: bool) -> None:
        """What is queued next ends an upload, or cancels a request."""
        if self._current is None or (cancels is not None and not closes):
            self._current = Burst()
            self._local.append(self._current)
        self._current.closes = closes
        self._current.cancels = cancels

    def seal(self) -> None:
        """What is queued next belongs to something else."""
        self._current = None

    def queue(self, *pieces: bytes | memoryview) -> None:
        if self._current is None:
            self._current = Burst()
            self._local.append(self._current)
        data = self._current.data
        for piece in pieces:
            data += piece
            self._local_size += len(piece)

    def post_piece(self, piece: memoryview) -> None:
        """Send bytes without copying them; they must stay until all is poured."""
        assert self._current is not None
        self._current.piece = piece
        self._local_size += len(piece)
        self.try_flush()

    @property
    def output_full(self) -> bool:
        return self._local_size >= _POST_AT

    @property
    def has_output(self) -> bool:
        return bool(self._local)

    def try_flush(self) -> bool:
        if self._local:
            self.posted += self._local_size
            self._local_size = 0
            self.sender.bursts.extend(self._local)
            self._local = []
            self._current = None
            if not self._post_is_due:
                self._post_is_due = True
                self.tell_loop(self._post)
        return self.posted - self.poured <= self.ahead

    def tell_loop(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop call something soon."""
        self._loop.call_soon_threadsafe(function, *args)

    # the transfer's thread: receiving and waiting ----------------------------------------

    def wait(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready:
        while True:
            self._woken.clear()
            self._look()
            if self.full and self.fed - self.taken < _DRAINED:
                self._let_it_read()
            readable = read and (self.has_input or self.ended is not None)
            writable = write and self.posted - self.poured <= self.ahead
            if readable or writable:
                return Ready(readable, writable)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._woken.wait(left):
                raise TimedOut("the server did not answer in time")

    def _let_it_read(self) -> None:
        self.full = False
        self.tell_loop(self._connection.read_on, self)

    @property
    def has_input(self) -> bool:
        """Whether bytes are there to be received."""
        return self._rest is not None or bool(self.chunks)

    def receive_into(self, view: memoryview) -> int:
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
        self.taken += got
        self.bytes_in += got
        if self.full and self.fed - self.taken < _DRAINED:
            self._let_it_read()
        return got

    def rearm(self) -> None:
        """Nothing to do: every wait looks."""

    def close(self) -> None:
        """Nothing to do: the socket is the loop's."""

    def abort(self) -> None:
        """Nothing to do: the socket is the loop's."""

    def cut(self) -> None:
        """End the wait of the transfer."""
        self.wake()

    # any thread --------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the transfer look at what is there."""
        self._woken.set()

    # the loop ----------------------------------------------------------------------------

    def _post(self) -> None:
        self._post_is_due = False
        self._connection.post(self.sender)

    def _poured(self, burst: Burst) -> None:
        self.poured += burst.size
        self._connection.wake_later(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Hand bytes over to the transfer."""
        if self._handed != self._filled:
            self.hand_over()  # what came before
        self._small += data
        self._count(len(data))

    def _count(self, count: int) -> None:
        self.fed += count
        self._connection.wake_later(self)
        if self.fed - self.taken >= _FULL:
            self.full = True
            self._connection.stop_reading(self)

    def buffer(self) -> memoryview:
        """Space for bytes that come straight from the network (a Sink)."""
        if self._small:
            self.hand_over()  # what came before
        if self._filling is None:
            try:
                self._filling = self._pool.pop()
            except IndexError:
                self._filling = bytearray(_CHUNK)
            self._handed = self._filled = 0
        return memoryview(self._filling)[self._filled :]

    def filled(self, count: int) -> None:
        """So many bytes of ``buffer()`` were filled."""
        assert self._filling is not None
        self._filled += count
        if self._filled == len(self._filling):
            self.hand_over()
        self._count(count)

    def write(self, data: memoryview) -> None:
        """Bytes that came in somebody else's buffer."""
        self.feed(data)

    def hand_over(self) -> None:
        """Give the transfer what was filled so far."""
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


class Lane(Connection):
    """A connection for one transfer's thread, over one that a loop drives for many.

    When it is cancelled or closed, requests of its own are cancelled, and others are not touched.
    """

    channel: LaneChannel

    def __init__(
        self,
        connection: LoopConnection,
        loop: asyncio.AbstractEventLoop,
        interrupt: Interrupt,
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._open_upload: Call | None = None
        super().__init__(connection.address, interrupt=interrupt)

    def _open(self, plaintext: bool) -> None:
        connection = self._connection
        self.channel = LaneChannel(connection, self._loop, self._check)
        self.reader = FrameReader(frames.MAX_CONTROL, frames.MAX_DATA)
        self.server = connection.server
        self.verify = connection.verify
        self._context = connection._context
        self.round_trip = connection.round_trip
        self.data_size = connection.data_size
        self._max_requests = connection._max_requests
        self._max_unanswered = connection._max_unanswered

    # sending -----------------------------------------------------------------------------

    def _next_id(self) -> int:
        return self._connection._next_id()

    def _prepare(self, call: Call, request: Request, cost: int) -> None:
        super()._prepare(call, request, cost)
        forward = Forward(self, request, call.streams)
        forward.request_id = call.request_id
        forward.cost = cost
        opens = isinstance(request, (Put, PutPiece))
        self.channel.begin(forward, opens=opens)
        self._open_upload = call if opens else None

    def submit(self, call: Call, request: Request, cost: int = 0) -> None:
        super().submit(call, request, cost)
        if self._open_upload is not call:
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
        self.channel.post_piece(piece)
        self.channel.ahead = 0
        try:
            while not self.channel.try_flush():
                self._wait(write=True)
            self._take_input()
            self._check()
        finally:
            self.channel.ahead = _POSTED_AHEAD

    # waiting and receiving ---------------------------------------------------------------

    def _wait(self, *, write: bool = False, deadline: float | None = None) -> None:
        # how long the server may be silent is the loop's affair: it hears what is for others
        try:
            ready = self.channel.wait(read=True, write=write, deadline=deadline)
        except ConnectionLost as error:
            self._lost(error)
        self.moved_at = time.monotonic()
        if ready.readable:
            self._take_input()

    def _take_frame(self) -> bool:
        ended = self.channel.ended
        if ended is not None and not self.channel.has_input:
            if isinstance(ended, ConnectionLost):
                raise ended  # whether that matters depends on what is unanswered
            self._end_with(ended)
        return super()._take_frame()

    def _lost(self, error: ConnectionLost) -> NoReturn:
        self._end_with(error)

    def _end_with(self, error: FtpError) -> NoReturn:
        if not self.broken and self.channel.ended is None:
            self.channel.tell_loop(self._connection.end, error)
        super()._end_with(error)

    # ending ------------------------------------------------------------------------------

    def cancel_all(self, seconds: float | None = None) -> None:
        """Give up every call. The loop waits for their ends; this lane is of no more use."""
        self._rearm()
        self.give_up()

    def give_up(self) -> None:
        if self.broken:
            return
        self.broken = True
        # the newest first: the end of an upload that is open must come before anything
        for call in reversed(self._calls.values()):
            self.send_cancel(call)
        self.channel.try_flush()
        self.channel.tell_loop(self._connection.abandon, self.channel)
        self._fail_all(Cancelled("the transfer was given up"))

    def close(self) -> None:
        self.give_up()
