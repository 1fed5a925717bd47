"""One connection that an event loop drives, for any number of tasks and transfers.

Lives here: when to read and to write, whose turn it is, requests as coroutines.
Lives elsewhere: sockets, TLS and buffers (ftpwire/channel.py), which answer belongs to which
request, and what may come (ftpclient/connection/connection.py), transfers' threads (lane.py), the
verbs (client.py).

It is opened in a thread, by the code that opens every connection: looking up names, checking
certificates, asking for passwords and reading files block. Then it is the loop's.

Everybody has a queue of bursts, and they take turns, because no other frame may stand inside an
upload. Reading never waits for writing. It stops while somebody doesn't take what came.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from ftpclient.aio.lane import Burst, Forward, Lane, LaneChannel, Sender
from ftpclient.connection import connection as rules
from ftpclient.connection import log
from ftpclient.connection.connection import Call, Connection
from ftpclient.connection.interrupt import Interrupt
from ftpclient.transfer.calls import StreamCall
from ftpclient.transfer.listing import checked_page
from ftpwire import frames, messages
from ftpwire.errors import ConnectionLost, FtpError, SessionEnded, TooMany
from ftpwire.frames import Header, Kind
from ftpwire.messages import Get, List, Page, Reply, Request
from ftpwire.paths import RemotePath

_AT_ONCE_SECONDS = 0.005
"""How long reading may keep the loop."""
_POURS_AT_ONCE = 200
_PAGES_AHEAD = 16
_BYTES_AHEAD = 2 * 1024 * 1024
_LOOK_SECONDS = 5.0
"""How often it is looked whether the server is silent."""


class Pending(Call):
    """A request with one answer, which a task waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.future: asyncio.Future[Reply] = loop.create_future()

    def on_done(self) -> None:
        if self.future.done():
            return  # the task was cancelled
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            assert self.reply is not None
            self.future.set_result(self.reply)


class _Stream(Call):
    """A request whose answer is a stream that a task takes bit by bit."""

    streams = True

    def begin_waiting(self, connection: LoopConnection, most: int) -> None:
        self._connection = connection
        self._most = most
        self._waiting: deque[tuple[Any, int]] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._full = False

    def hand_out(self, item: object, size: int) -> None:
        """Something for the task; reading stops while too much waits."""
        self._waiting.append((item, size))
        self._size += size
        self._news.set()
        if self._size >= self._most and not self._full:
            self._full = True
            self._connection.stop_reading(self)

    def on_done(self) -> None:
        self._news.set()

    async def next_item(self) -> Any:
        """What came next; None at the end, of whatever kind it is."""
        while not self._waiting:
            if self.done:
                return None
            self._news.clear()
            await self._news.wait()
        item, size = self._waiting.popleft()
        self._size -= size
        if self._full and self._size < self._most // 2:
            self.let_it_read()
        return item

    def let_it_read(self) -> None:
        """Take back that reading should stop."""
        self._full = False
        self._connection.read_on(self)


class _Pages(_Stream):
    def __init__(self, connection: LoopConnection) -> None:
        super().__init__()
        self.begin_waiting(connection, _PAGES_AHEAD)

    def on_reply(self, reply: Reply) -> bool:
        if isinstance(reply, Page):
            self.hand_out(checked_page(reply), 1)
        return False


class _Bytes(StreamCall, _Stream):
    def __init__(self, connection: LoopConnection) -> None:
        super().__init__()
        self.begin_waiting(connection, _BYTES_AHEAD)

    def take(self, data: memoryview) -> None:
        self.hand_out(bytes(data), len(data))


class LoopConnection(Connection):
    """A connection that, once it is open, is driven by an event loop. As Connection otherwise.

    ``attach`` gives it to the loop. From then on only the loop's thread may use it, by what is
    defined here.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _ids: itertools.count[int]
    _timer: asyncio.TimerHandle
    ended_with: FtpError | None = None
    """Why it is broken, unless it was closed here."""
    _fd = -1
    """What the loop watches; -1 when it doesn't."""

    def _open(self, plaintext: bool) -> None:
        self._senders: deque[Sender] = deque()
        """Those who have something to send, in the order of their turns."""
        self._holder: Sender | None = None
        """Whose upload is open: nobody else may send."""
        self._piece: memoryview | None = None
        """What is left of a payload that is being sent."""
        self._piece_of: tuple[Sender, Burst] | None = None
        self._lanes: set[LaneChannel] = set()
        self._to_wake: set[LaneChannel] = set()
        self._slow: set[object] = set()
        """Those who have not taken what is there for them."""
        self._dropped: dict[int, float] = {}
        """Requests that were cancelled, and since when only their ends are waited for."""
        self._heard = 0.0
        self._writing = False
        self._pour_is_due = False
        super()._open(plaintext)

    # the loop ----------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From here on the loop drives it."""
        self._loop = loop
        self._interrupt = None
        self._ids = itertools.count(self._last_id + 1)
        self._heard = time.monotonic()
        self._fd = self.channel.socket.fileno()
        loop.add_reader(self._fd, self._on_readable)
        loop.call_soon(self._on_readable)  # TLS may hold what no selector sees
        self._timer = loop.call_later(self._look_seconds, self._look)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Whose it is."""
        return self._loop

    def _detach(self) -> None:
        if self._fd < 0 or self._loop is None:
            return
        self._timer.cancel()
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._fd = -1

    def _next_id(self) -> int:
        if self._loop is None:
            return super()._next_id()
        return next(self._ids) % 0xFFFFFFFF + 1

    @property
    def _look_seconds(self) -> float:
        return min(_LOOK_SECONDS, self.longest_silence / 4)

    def _look(self) -> None:
        """Now and then: is the server still there?"""
        assert self._loop is not None
        self._timer = self._loop.call_later(self._look_seconds, self._look)
        now = time.monotonic()
        if not self._calls or self._slow:
            self._heard = now
        elif now - self._heard > self.longest_silence:
            self._give_it_up("the server did not answer in time")
            return
        first = next(iter(self._calls), 0)
        since = self._dropped.get(first)  # others wait for their turn
        if since is None:
            return
        if since == 0.0:
            self._dropped[first] = now
        elif now - since > rules._CANCEL_SECONDS:
            self._give_it_up("it does not stop what was cancelled")

    def _give_it_up(self, reason: str) -> None:
        self.end(ConnectionLost(f"{self.address.endpoint}: {reason}"))

    # reading -----------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self.broken or self._slow:
            return
        assert self._loop is not None
        self._heard = time.monotonic()
        self._until = self._heard + _AT_ONCE_SECONDS
        try:
            more = self._take_input()
        except FtpError:
            return  # whoever waits for something has been told
        finally:
            self._wake_lanes()
        if more and not self._slow:
            self._loop.call_soon(self._on_readable)
        self._pour_soon()

    def stop_reading(self, reader: object) -> None:
        """Somebody has not taken what is there: nothing more is read before ``read_on``."""
        if not self._slow and self._fd >= 0:
            assert self._loop is not None
            self._loop.remove_reader(self._fd)
        self._slow.add(reader)
        self._until = 0.0

    def read_on(self, reader: object) -> None:
        """They have."""
        if reader not in self._slow:
            return
        self._slow.discard(reader)
        if not self._slow and self._fd >= 0:
            assert self._loop is not None
            self._loop.add_reader(self._fd, self._on_readable)
            self._loop.call_soon(self._on_readable)

    def wake_later(self, channel: LaneChannel) -> None:
        """A lane has news; it is woken once for all of them."""
        self._to_wake.add(channel)

    def _wake_lanes(self) -> None:
        for channel in self._to_wake:
            channel.hand_over()
            channel.wake()
        self._to_wake.clear()

    def _have_no_room(self, error: TooMany) -> None:
        """The task that asked gets the error: others have their requests on this connection."""

    def _dispatch(self, header: Header, payload: memoryview) -> None:
        call = self._calls.get(header.request_id)
        if header.request_id in self._dropped and header.kind == Kind.NOTICE:
            self._dropped[header.request_id] = time.monotonic()  # it works, and will see
        if not isinstance(call, Forward):
            super()._dispatch(header, payload)
        elif call.ends_with(header.kind, payload):
            del self._calls[header.request_id]
            self._unanswered -= call.cost
            call.done = True
        if self._dropped and header.request_id not in self._calls:
            self._dropped.pop(header.request_id, None)

    # writing -----------------------------------------------------------------------------

    def post(self, sender: Sender) -> None:
        """Somebody has something to send."""
        if not sender.queued:
            sender.queued = True
            self._senders.append(sender)
        self._pour_soon()

    def _pour_soon(self) -> None:
        """Send what can be sent, once all that is due now has run."""
        if self._pour_is_due or not (self._senders or self._piece or self.channel.has_output):
            return
        assert self._loop is not None
        self._pour_is_due = True
        self._loop.call_soon(self._pour)

    def _pour(self) -> None:
        self._pour_is_due = False
        if self.broken:
            return
        try:
            count = 0
            while count < _POURS_AT_ONCE and self._pour_one():
                count += 1
            flushed = self.channel.try_flush() and self._piece is None
        except ConnectionLost as error:
            self._last_words(error)
            return
        finally:
            self._wake_lanes()
        self._watch_writing(not flushed)
        if count == _POURS_AT_ONCE:
            self._pour_soon()

    def _watch_writing(self, on: bool) -> None:
        if on == self._writing:
            return
        assert self._loop is not None
        self._writing = on
        if on:
            self._loop.add_writer(self._fd, self._on_writable)
        else:
            self._loop.remove_writer(self._fd)

    def _on_writable(self) -> None:
        self._heard = time.monotonic()
        self._pour()

    def _pour_one(self) -> bool:
        """Send the next burst, or some of it; False when that has to wait for something."""
        channel = self.channel
        if self._piece is not None:
            sent = channel.try_send(self._piece)
            self._piece = self._piece[sent:]
            if self._piece:
                return bool(sent)
            self._piece = None
            assert self._piece_of is not None
            self._finish(*self._piece_of)
            return True
        if channel.output_full and not channel.try_flush():
            return False
        sender = self._holder
        if sender is None:
            if not self._senders:
                return False
            sender = self._senders[0]
        if not sender.bursts:
            sender.queued = False
            if sender in self._senders:
                self._senders.remove(sender)
            return sender is not self._holder  # whose upload is open: nobody else may send
        burst = sender.bursts[0]
        if burst.call is not None:
            if not self._has_room(burst.call.cost):
                return self._bring_forward()  # an answer has to come first
            if not self._calls:
                self._heard = time.monotonic()
            self._enter(burst.call)
        sender.bursts.popleft()
        channel.queue(memoryview(burst.data))
        if burst.opens:
            self._holder = sender
        if burst.closes:
            self._holder = None
        if burst.piece:
            self._piece, self._piece_of = burst.piece, (sender, burst)
        else:
            self._finish(sender, burst)
        if self._holder is None:
            self._senders.rotate(-1)
        return True

    def _bring_forward(self) -> bool:
        """Give the turn to who doesn't begin a request, but cancels one."""
        for sender in self._senders:
            if sender.bursts and sender.bursts[0].call is None:
                self._senders.remove(sender)
                self._senders.appendleft(sender)
                return True
        return False

    def _finish(self, sender: Sender, burst: Burst) -> None:
        if burst.cancels is not None and burst.cancels in self._calls:
            self._dropped.setdefault(burst.cancels, 0.0)
        if sender.on_poured is not None:
            sender.on_poured(burst)

    # ending ------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """As `Connection._after_fork`. What the loop watches is shared with the parent's loop."""
        self._fd = -1
        super()._after_fork()

    def _last_words(self, error: ConnectionLost) -> None:
        """It can't be written to any more: what the server has said may tell why."""
        self._until = time.monotonic() + 1.0
        try:
            while self._take_input():
                pass
            self._lost(error)
        except FtpError:
            pass  # whoever waits for something has been told

    def end(self, error: FtpError) -> None:
        """Everybody who waits for something gets the error."""
        if self.broken:
            return
        try:
            self._end_with(error)
        except FtpError:
            pass  # those who have to know have been told

    def _end_with(self, error: FtpError) -> NoReturn:
        self._detach()
        self.ended_with = error
        super()._end_with(error)

    def _fail_all(self, error: FtpError) -> None:
        super()._fail_all(error)
        if self._loop is not None:
            for channel in self._lanes:
                channel.ended = channel.ended or error
                channel.hand_over()
                channel.wake()
            for sender in list(self._senders):
                for burst in sender.bursts:
                    if burst.call is not None and not burst.call.done:
                        burst.call.error, burst.call.done = error, True
                        burst.call.on_done()
                sender.bursts.clear()

    def close(self) -> None:
        if self._loop is None:
            super().close()
        elif not self.broken:
            log.debug("%s: closed", self.address.endpoint)
            self._detach()
            self.broken = True
            self.channel.close()
            # no transfer is to go on by itself with another connection
            self._fail_all(SessionEnded("the client was closed"))

    # requests of tasks -------------------------------------------------------------------

    async def request(self, request: Request) -> Reply:
        """Ask, and wait for the one reply. Raises the typed error when it failed.

        When the task is cancelled, so is the request, and the connection stays usable.
        """
        assert self._loop is not None
        call = Pending(self._loop)
        self._submit(call, request)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._cancel(call)
            raise
        except ConnectionLost as error:
            raise rules.outcome_unknown(request, error) from None

    async def pages(self, request: List) -> AsyncIterator[Page]:
        """The pages of a listing, as they come. Raises the listing's error."""
        call = _Pages(self)
        self._submit(call, request)
        try:
            while (page := await call.next_item()) is not None:
                yield page
        finally:
            self._give_up(call)
        if call.error is not None:
            raise call.error

    async def stream(self, source: RemotePath) -> AsyncIterator[bytes]:
        """A file's bytes, as they come. Raises VerificationFailed at the end."""
        call = _Bytes(self)
        self._submit(call, Get(source))
        try:
            while (data := await call.next_item()) is not None:
                yield data
        finally:
            self._give_up(call)
        call.result(source, self)

    def _submit(self, call: Call, request: Request, sender: Sender | None = None) -> None:
        if self.broken:
            raise ConnectionLost(f"{self.address.endpoint}: the connection is closed")
        payload = messages.encode(request)
        self._prepare(call, request, len(payload))
        burst = Burst(call, opens=sender is not None)
        burst.data += frames.frame(Kind.REQUEST, call.request_id, payload)
        sender = sender or Sender()
        sender.bursts.append(burst)
        self.post(sender)

    def _give_up(self, call: _Stream) -> None:
        """Nobody takes what comes for a stream any more."""
        call.hand_out = _pass_over  # type: ignore[method-assign]
        call.let_it_read()
        self._cancel(call)

    def _cancel(self, call: Call) -> None:
        if call.done or self.broken:
            return
        for sender in self._senders:
            for burst in sender.bursts:
                if burst.call is call:  # it was not even sent
                    sender.bursts.remove(burst)
                    return
        burst = Burst()
        burst.data += frames.frame(Kind.CANCEL, call.request_id)
        burst.cancels = call.request_id
        sender = Sender()
        sender.bursts.append(burst)
        self.post(sender)

    # transfers ---------------------------------------------------------------------------

    def lane(self, interrupt: Interrupt) -> Lane:
        """A connection for a transfer's thread, over this one. ``abandon`` ends it."""
        assert self._loop is not None
        lane = Lane(self, self._loop, interrupt)
        if self.broken:
            lane.channel.ended = ConnectionLost(f"{self.address.endpoint}: connection lost")
        self._lanes.add(lane.channel)
        return lane

    def abandon(self, channel: LaneChannel) -> None:
        """A lane is of no more use; what it had asked for was cancelled."""
        self._lanes.discard(channel)
        for call in self._calls.values():
            if isinstance(call, Forward) and call.channel is channel:
                call.abandon()
        kept: list[Burst] = []
        skipping = False
        for burst in channel.sender.bursts:
            if burst.call is not None:  # it was not even sent
                skipping = burst.opens and not burst.closes
            elif skipping:
                skipping = not burst.closes
            elif burst.closes or burst.cancels is None or burst.cancels in self._calls:
                kept.append(burst)
        channel.sender.bursts.clear()
        channel.sender.bursts.extend(kept)
        self.read_on(channel)

    # an upload of a task -----------------------------------------------------------------

    def open_upload(self, call: Call, request: messages.Put) -> Upstream:
        """Begin an upload whose bytes a task sends, and ends."""
        upstream = Upstream(self, call)
        self._submit(call, request, upstream.sender)
        return upstream


class Upstream:
    """The way for the bytes of an upload that is open. One of ``end`` and ``cancel`` comes last."""

    def __init__(self, connection: LoopConnection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self.sender = Sender(self._on_poured)
        self._poured = asyncio.Event()
        self._closed = False

    def _on_poured(self, burst: Burst) -> None:
        if not self.sender.bursts:
            self._poured.set()

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until they were taken. An empty one keeps the upload alive."""
        view = memoryview(data)
        size = self._connection.data_size
        for at in range(0, len(view) or 1, size):
            piece = view[at : at + size]
            burst = Burst()
            burst.data += frames.pack_header(len(piece), Kind.DATA, self._call.request_id)
            burst.piece = piece if piece else None
            if self._connection.broken or self._call.done:
                return  # what became of it is the call's to tell
            self._poured.clear()
            self.sender.bursts.append(burst)
            self._connection.post(self.sender)
            await self._poured.wait()

    def wake(self) -> None:
        """The call has ended: nobody need wait any more."""
        self._poured.set()

    def end(self, sent: messages.Sent) -> None:
        """All of it was sent."""
        self._close(frames.frame(Kind.END, self._call.request_id, messages.encode(sent)))

    def cancel(self) -> None:
        """Give it up; or close what was refused."""
        self._close(frames.frame(Kind.CANCEL, self._call.request_id), self._call.request_id)

    def _close(self, frame: bytes, cancels: int | None = None) -> None:
        if self._closed or self._connection.broken:
            return
        self._closed = True
        burst = Burst()
        burst.data += frame
        burst.closes = True
        burst.cancels = cancels
        self.sender.bursts.append(burst)
        self._connection.post(self.sender)


def _pass_over(item: object, size: int) -> None:
    """For what still comes when nobody waits for it."""
