"""A connection that an event loop drives, for any number of tasks and transfers.

Lives here: when to read and to write, the turns of senders, requests as coroutines.
Lives elsewhere: sockets, TLS and buffers (ftpwire/channel.py), matching replies to requests
(ftpclient/connection/protocol.py), the threads of transfers (thread_connection.py), the verbs
(client.py).

It is opened in a thread, by the same code as every connection, because looking up names, checking
certificates, asking for passwords and reading files block. Then the loop owns it.

Each sender has a queue of units to write. The senders take turns, because no other frame may come
between those of an upload. Reading never waits for writing; it stops while a reader does not take
what has arrived.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from ftpclient.aio.thread_connection import Forward, ThreadChannel, ThreadConnection
from ftpclient.aio.write_units import Sender, WriteUnit
from ftpclient.connection import log
from ftpclient.connection.client_id import Operation
from ftpclient.connection.driver import Driver, Trusted
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.opening import Opened, session_of
from ftpclient.connection.protocol import Call, UnaryCall, outcome_unknown, seconds_to_end
from ftpclient.transfer.calls import StreamCall
from ftpclient.transfer.listing import checked_page
from ftpwire import frames, messages
from ftpwire.channel import Channel
from ftpwire.errors import ConnectionLost, FtpError, SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import Get, InTrash, List, Page, R, RequestBase, RequestFor
from ftpwire.paths import RemotePath

_AT_ONCE_SECONDS = 0.005
"""The most seconds to keep the loop with reading."""
_UNITS_AT_ONCE = 200
_PAGES_AHEAD = 16
_BYTES_AHEAD = 2 * 1024 * 1024
_LOOK_SECONDS = 5.0
"""Seconds between two checks if the server is silent."""


class Pending(UnaryCall[R]):
    """A request with one reply, which a task awaits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.future: asyncio.Future[R] = loop.create_future()

    def on_done(self) -> None:
        if self.future.done():
            return  # the task was cancelled
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.reply)


class _Stream(Call):
    """A request whose reply is a stream, which a task takes bit by bit."""

    streams = True

    def begin_waiting(self, connection: LoopConnection, most: int) -> None:
        self._connection = connection
        self._most = most
        self._waiting: deque[tuple[Any, int]] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._full = False

    def hand_out(self, item: object, size: int) -> None:
        """Give an item to the task. Reading stops while too many are waiting."""
        if self.is_dropped:
            return
        self._waiting.append((item, size))
        self._size += size
        self._news.set()
        if self._size >= self._most and not self._full:
            self._full = True
            self._connection.stop_reading(self)

    def on_done(self) -> None:
        self._news.set()

    async def next_item(self) -> Any:
        """Return the next item; None at the end, with or without an error."""
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
        """Withdraw the demand that reading stops."""
        self._full = False
        self._connection.read_on(self)


class _Pages(_Stream):
    reads_only = True

    def __init__(self, connection: LoopConnection) -> None:
        super().__init__()
        self.begin_waiting(connection, _PAGES_AHEAD)

    def on_reply(self, reply: Page) -> bool:
        self.hand_out(checked_page(reply), 1)
        return False


class _Bytes(StreamCall, _Stream):
    def __init__(self, connection: LoopConnection) -> None:
        super().__init__()
        self.begin_waiting(connection, _BYTES_AHEAD)

    def take(self, data: memoryview) -> None:
        self.hand_out(bytes(data), len(data))


class LoopConnection(Driver):
    """A connection that an event loop drives. Only the loop's thread may use it.

    Args:
        opened: A connection that is logged in. It belongs to this object from here on.
    """

    channel: Channel

    def __init__(self, opened: Opened, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(opened.address, opened.channel, opened.protocol, context=opened.context)
        self.verify = opened.verify
        self.round_trip = opened.round_trip
        # the task that asked gets the error: other tasks have requests on this connection, too
        self.protocol.full_is_lost = False
        self.loop = loop
        self._senders: deque[Sender] = deque()
        """The senders that have units to write, in the order of their turns."""
        self._holder: Sender | None = None
        """The sender with an open upload: no other may send until that is closed."""
        self._piece: memoryview | None = None
        """The rest of a payload that is being sent."""
        self._piece_of: tuple[Sender, WriteUnit] | None = None
        self._threads: set[ThreadChannel] = set()
        self._to_wake: set[ThreadChannel] = set()
        self._slow: set[object] = set()
        """The readers that have not taken what has arrived; nothing is read while there are any."""
        self._writing = False
        self._flush_is_due = False
        self._heard = time.monotonic()
        self._overdue: asyncio.TimerHandle | None = None
        """The timer that ends the connection if cancelled calls do not end."""
        self._owed: tuple[Call, int, float] | None = None
        """The state that this timer was set for."""
        self.left_listing = False
        """True if a listing was left before its end; see ``settle``."""
        self._settling = False
        self._settled = asyncio.Event()
        self._fd = self.channel.socket.fileno()
        """The descriptor that the loop watches; -1 if it does not."""
        loop.add_reader(self._fd, self._on_readable)
        loop.call_soon(self._on_readable)  # TLS may hold data that the selector does not report
        self._timer = loop.call_later(self._look_seconds, self._look)

    @property
    def trusted(self) -> Trusted:
        """The results of this connection that the next one can reuse."""
        return Trusted(self.context, session_of(self.channel))

    # the loop ----------------------------------------------------------------------------

    def _detach(self) -> None:
        if self._fd < 0:
            return
        self._timer.cancel()
        self.loop.remove_reader(self._fd)
        if self._writing:
            self.loop.remove_writer(self._fd)
        self._fd = -1
        self._mind_owed()

    @property
    def _look_seconds(self) -> float:
        return min(_LOOK_SECONDS, self.longest_silence / 4)

    def _look(self) -> None:
        """Check from time to time if the server is silent for too long."""
        self._timer = self.loop.call_later(self._look_seconds, self._look)
        now = time.monotonic()
        if not self.protocol.calls or self._slow:
            self._heard = now
        elif now - self._heard > self.longest_silence:
            self._give_it_up("the server did not answer in time")

    def _mind_owed(self) -> None:
        """Set the timer for a cancelled call that does not end when it is its turn."""
        protocol = self.protocol
        call = None if self._fd < 0 else protocol.owes_end
        signs = 0 if self._lists_only() else protocol.signs
        owed = None if call is None else (call, signs, self._seconds_to_end())
        if owed == self._owed:
            return  # the timer needs no change
        if self._overdue is not None:
            self._overdue.cancel()
        self._owed = owed
        self._overdue = None if owed is None else self.loop.call_later(owed[2], self._is_overdue)

    def _lists_only(self) -> bool:
        """Return True if only listings that are no longer read are running. A server that keeps
        reporting progress on these is not waited for."""
        return all(one.is_dropped and one.reads_only for one in self.protocol.calls.values())

    def _seconds_to_end(self) -> float:
        """Return the seconds that the server may take to end the cancelled calls."""
        calls = self.protocol.calls.values()
        return seconds_to_end(calls if all(call.is_dropped for call in calls) else [Call()])

    def _is_overdue(self) -> None:
        if self._slow:  # the end may have arrived, but nothing is read now
            self._owed = None
            self._mind_owed()
            return
        self._give_it_up("the server does not end cancelled requests")

    async def settle(self) -> None:
        """If only listings that are no longer read are running, wait until they end.

        Afterwards either they have ended, or the connection is ``broken``: a server that continues
        a listing is not waited for, and no other task loses anything by that.
        """
        self.left_listing = False
        calls = self.protocol.calls.values()
        asking = any(unit.call is not None for one in self._senders for unit in one.units_now)
        if calls and not asking and self._lists_only():
            self._settling = True
            self._settled.clear()
            await self._settled.wait()

    def _give_it_up(self, reason: str) -> None:
        self.end(ConnectionLost(f"{self.address.endpoint}: {reason}"))

    # reading -----------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self.broken or self._slow:
            return
        self._heard = time.monotonic()
        self._until = self._heard + _AT_ONCE_SECONDS
        try:
            more = self.take_input()
        except FtpError:
            return  # the waiting tasks already have the error
        finally:
            self._wake_threads()
        if self.protocol.dropped or self._owed is not None:
            self._mind_owed()
        if self._settling and not any(one.is_dropped for one in self.protocol.calls.values()):
            self._settling = False
            self._settled.set()
        if more and not self._slow:
            self.loop.call_soon(self._on_readable)
        self._flush_soon()

    def stop_reading(self, reader: object) -> None:
        """Stop reading until ``read_on``, because ``reader`` has not taken what has arrived."""
        if not self._slow and self._fd >= 0:
            self.loop.remove_reader(self._fd)
        self._slow.add(reader)
        self._until = 0.0

    def read_on(self, reader: object) -> None:
        """Withdraw ``stop_reading``: the reader has taken it."""
        if reader not in self._slow:
            return
        self._slow.discard(reader)
        if not self._slow and self._fd >= 0:
            self.loop.add_reader(self._fd, self._on_readable)
            self.loop.call_soon(self._on_readable)

    def wake_later(self, channel: ThreadChannel) -> None:
        """Wake a thread later, once for everything that has arrived for it."""
        self._to_wake.add(channel)

    def _wake_threads(self) -> None:
        for channel in self._to_wake:
            channel.hand_over()
            channel.wake()
        self._to_wake.clear()

    # writing -----------------------------------------------------------------------------

    def post(self, sender: Sender) -> None:
        """Add a sender that has something to send."""
        if not sender.queued:
            sender.queued = True
            self._senders.append(sender)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Send what can be sent, after the callbacks that are due now."""
        if self._flush_is_due or not (self._senders or self._piece or self.channel.has_output):
            return
        self._flush_is_due = True
        self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self.broken:
            return
        try:
            count = 0
            while count < _UNITS_AT_ONCE and self._send_one():
                count += 1
            flushed = self.channel.try_flush() and self._piece is None
        except ConnectionLost as error:
            self._last_words(error)
            return
        finally:
            self._wake_threads()
        if self.protocol.dropped:
            self._mind_owed()
        self._watch_writing(not flushed)
        if count == _UNITS_AT_ONCE:
            self._flush_soon()

    def _watch_writing(self, on: bool) -> None:
        if on == self._writing:
            return
        self._writing = on
        if on:
            self.loop.add_writer(self._fd, self._on_writable)
        else:
            self.loop.remove_writer(self._fd)

    def _on_writable(self) -> None:
        self._heard = time.monotonic()
        self._flush()

    def _send_one(self) -> bool:
        """Send the next unit, or a part of it. Return False if it has to wait."""
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
        if not sender.units:
            sender.queued = False
            if sender in self._senders:
                self._senders.remove(sender)
            return sender is not self._holder  # while its upload is open, no other may send
        unit = sender.units[0]
        if unit.call is not None:
            if not self.protocol.has_capacity(unit.call.cost):
                return self._bring_forward()  # a reply must arrive first
            if not self.protocol.calls:
                self._heard = time.monotonic()
            self._introduce(unit)
            self.protocol.enter(unit.call)  # only now: replies come in the order of sending
        sender.units.popleft()
        channel.queue(memoryview(unit.data))
        if unit.opens:
            self._holder = sender
        if unit.closes:
            self._holder = None
        if unit.piece:
            self._piece, self._piece_of = unit.piece, (sender, unit)
        else:
            self._finish(sender, unit)
        if self._holder is None:
            self._senders.rotate(-1)
        return True

    def _introduce(self, unit: WriteUnit) -> None:
        """Announce the operation of a unit's request; the last one sent may have another operation.

        The announcement is so small that the limit on unanswered bytes is ignored.
        """
        if unit.request is None:
            return
        introduction = self.introduction(unit.request, unit.operation)
        if introduction is None:
            return
        call, said = introduction
        payload = messages.encode(said)
        self.protocol.prepare(call, said, len(payload))
        self.channel.queue(frames.frame(Kind.REQUEST, call.request_id, payload))

    def _bring_forward(self) -> bool:
        """Move a sender to the front that does not begin a request, but cancels one."""
        for sender in self._senders:
            if sender.units and sender.units[0].call is None:
                self._senders.remove(sender)
                self._senders.appendleft(sender)
                return True
        return False

    def _finish(self, sender: Sender, unit: WriteUnit) -> None:
        if unit.cancels is not None:
            self.protocol.cancelled(unit.cancels)
        if sender.on_sent is not None:
            sender.on_sent(unit)

    # ending ------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """Close the socket in a child process. The watched descriptors are shared with the parent's
        loop, so they are left alone."""
        self._fd = -1
        super()._after_fork()

    def _last_words(self, error: ConnectionLost) -> None:
        """Handle an error of writing: the server may have sent the reason before."""
        self._until = time.monotonic() + 1.0
        try:
            while self.take_input():
                pass
            self.lost(error)
        except FtpError:
            pass  # the waiting tasks already have the error

    def end(self, error: FtpError) -> None:
        """End the connection. All waiting tasks get the error."""
        if self.broken:
            return
        try:
            self.end_with(error)
        except FtpError:
            pass  # the waiting tasks already have the error

    def end_with(self, error: FtpError) -> NoReturn:
        self._detach()
        super().end_with(error)

    def _fail_all(self, error: FtpError) -> None:
        super()._fail_all(error)
        self._settled.set()
        for channel in self._threads:
            channel.hand_over()  # what arrived before the end
            channel.ended = channel.ended or error
            channel.wake()
        for sender in list(self._senders):
            for unit in sender.units_now:
                if unit.call is not None and not unit.call.done:
                    unit.call.end_by(error)
                    unit.call.on_done()
            sender.units.clear()

    def close(self) -> None:
        """Close the connection; unanswered requests fail. Can be called twice."""
        if not self.broken:
            log.debug("%s: closed", self.address.endpoint)
            self._detach()
            self.channel.close()
            # with this error no transfer reconnects
            self._fail_all(SessionEnded("the client was closed"))

    # requests of tasks -------------------------------------------------------------------

    async def request(self, request: RequestFor[R], operation: Operation | None = None) -> R:
        """Send a request, and wait for its only reply. Raises the typed error if it failed.

        If the task is cancelled, the request is, too, and the connection remains usable.

        Args:
            operation: The operation that it belongs to.
        """
        call: Pending[R] = Pending(self.loop)
        self._submit(call, request, operation=operation)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._cancel(call)
            raise
        except ConnectionLost as error:
            raise outcome_unknown(request, error) from None

    async def pages(self, request: List) -> AsyncGenerator[Page, None]:
        """Yield the pages of a listing as they arrive. Raises the listing's error."""
        call = _Pages(self)
        self._submit(call, request)
        try:
            while (page := await call.next_item()) is not None:
                yield page
        finally:
            self._give_up(call)
        if call.error is not None:
            raise call.error

    async def stream(
        self, source: RemotePath, in_trash: InTrash | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield a file's bytes as they arrive. Raises VerificationFailed at the end."""
        call = _Bytes(self)
        self._submit(call, Get(source, in_trash=in_trash))
        try:
            while (data := await call.next_item()) is not None:
                yield data
        finally:
            self._give_up(call)
        call.result(source, self)

    def _submit(
        self,
        call: Call,
        request: RequestBase,
        sender: Sender | None = None,
        operation: Operation | None = None,
    ) -> None:
        if self.broken:
            raise ConnectionLost(f"{self.address.endpoint}: the connection is closed")
        payload = messages.encode(request)
        self.protocol.prepare(call, request, len(payload), enter=False)
        data = frames.frame(Kind.REQUEST, call.request_id, payload)
        opens = sender is not None
        unit = WriteUnit(data, call=call, opens=opens, request=request, operation=operation)
        self._send(unit, sender)

    def _send(self, unit: WriteUnit, sender: Sender | None = None) -> None:
        sender = sender or Sender()
        sender.units.append(unit)
        self.post(sender)

    def _give_up(self, call: _Stream) -> None:
        """Cancel a stream that is no longer read."""
        call.is_dropped = True
        call.let_it_read()
        self.left_listing |= call.reads_only and not call.done
        self._cancel(call)

    def _cancel(self, call: Call) -> None:
        call.is_dropped = True
        if call.done or self.broken or any(one.withdraw(call) for one in self._senders):
            return  # it has ended, or was never sent
        self._send(WriteUnit(self.protocol.cancel(call), cancels=call.request_id))

    # transfers ---------------------------------------------------------------------------

    def for_thread(self, interrupt: Interrupt | None) -> ThreadConnection:
        """Return a connection for a transfer's thread, on top of this one. ``abandon`` ends it."""
        made = ThreadConnection(
            self,
            self.loop,
            self.address,
            self.protocol.beside(),
            context=self.context,
            interrupt=interrupt,
        )
        made.verify = self.verify
        made.round_trip = self.round_trip
        if self.broken:
            made.channel.ended = ConnectionLost(f"{self.address.endpoint}: connection lost")
        self._threads.add(made.channel)
        return made

    def abandon(self, channel: ThreadChannel) -> None:
        """Release a thread's connection; its requests have been cancelled."""
        self._threads.discard(channel)
        calls = self.protocol.calls
        for call in calls.values():
            if isinstance(call, Forward) and call.channel is channel:
                call.abandon()
        channel.sender.withdraw_requests(calls.__contains__)
        self.read_on(channel)

    # an upload of a task -----------------------------------------------------------------

    def open_upload(
        self, call: Call, request: messages.Put, operation: Operation | None
    ) -> Upstream:
        """Start an upload of an operation. A task sends its bytes and ends it."""
        upstream = Upstream(self, call)
        self._submit(call, request, upstream.sender, operation)
        return upstream


class Upstream:
    """Sends the bytes of an open upload. The last call must be ``end`` or ``cancel``."""

    def __init__(self, connection: LoopConnection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self.sender = Sender(self._on_sent)
        self._sent = asyncio.Event()
        self._closed = False

    def _on_sent(self, unit: WriteUnit) -> None:
        if not self.sender.units:
            self._sent.set()

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until they were taken. Empty bytes keep the upload alive."""
        view = memoryview(data)
        size = self._connection.data_size
        for at in range(0, len(view) or 1, size):
            piece = view[at : at + size]
            unit = WriteUnit(frames.pack_header(len(piece), Kind.DATA, self._call.request_id))
            unit.piece = piece if piece else None
            if self._connection.broken or self._call.done:
                return  # the call has the result
            self._sent.clear()
            self.sender.units.append(unit)
            self._connection.post(self.sender)
            await self._sent.wait()

    def wake(self) -> None:
        """Wake a waiting ``send`` after the call has ended."""
        self._sent.set()

    def end(self, sent: messages.Sent) -> None:
        """End the upload after all bytes were sent."""
        self._close(WriteUnit(self._connection.protocol.end_of(self._call, sent), closes=True))

    def cancel(self) -> None:
        """Cancel the upload; or close it if it was refused."""
        data = self._connection.protocol.cancel(self._call)
        self._close(WriteUnit(data, closes=True, cancels=self._call.request_id))

    def _close(self, unit: WriteUnit) -> None:
        if self._closed or self._connection.broken:
            return
        self._closed = True
        self.sender.units.append(unit)
        self._connection.post(self.sender)
