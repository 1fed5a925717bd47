"""A connection that is driven by one thread: requests, pipelining, waiting, cancelling.

Lives here: sending and waiting, in one thread.
Lives elsewhere: which reply belongs to which request (protocol.py), opening and logging in
(opening.py), the same for an event loop (aio/connection.py), the requests (client.py,
transfer/job.py).

The thread drives both directions. While it writes it also reads, so that full buffers on both sides
cannot cause a deadlock. Replies come in the order of the requests; each `Call` takes its own.
"""

from __future__ import annotations

import math
import ssl
import time
from typing import Any

from ftpclient.connection import log
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.driver import Driver, Stream
from ftpclient.connection.interrupt import Interrupt, TimeOver, pause
from ftpclient.connection.protocol import (
    Call,
    ClientProtocol,
    UnaryCall,
    outcome_unknown,
    seconds_to_end,
)
from ftpwire import frames, messages
from ftpwire.errors import Cancelled, ConnectionLost, FtpError, Interrupted, SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import R, RequestBase, RequestFor, Sent

_REQUEST, _DATA, _END, _NOTICE = (
    int(kind) for kind in (Kind.REQUEST, Kind.DATA, Kind.END, Kind.NOTICE)
)
_COPIED = 32 * 1024
"""Smallest piece of a file, in bytes, that is sent without a copy into the output buffer."""


class _CallAhead(UnaryCall[Any]):
    """A question sent ahead: the reply may be discarded, so Ctrl-C need not wait for it."""

    reads_only = True


class Connection(Driver):
    """A connection to a server. For one thread. `Opened` is the one with its own socket."""

    def __init__(
        self,
        address: ServerAddress,
        channel: Stream,
        protocol: ClientProtocol,
        *,
        context: ssl.SSLContext | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        self._ahead: list[tuple[RequestBase, Call]] = []
        self._to_cancel: list[Call] = []
        super().__init__(address, channel, protocol, context=context, interrupt=interrupt)

    # requests ----------------------------------------------------------------------------

    def ask(self, request: RequestFor[R]) -> R:
        """Send a request and wait for its only reply. Raises the typed error if it failed."""
        if (ahead := self.take_ahead(request)) is not None:
            assert isinstance(ahead, UnaryCall)
            known: R = self.result(ahead)
            return known
        call: UnaryCall[R] = UnaryCall()
        try:
            self.submit(call, request)
            return self.result(call)
        except (ConnectionLost, TimeOver) as error:
            raise outcome_unknown(request, error) from None

    def ask_ahead(self, *requests: RequestFor[Any]) -> None:
        """Send requests that `ask` will be called with later, so that all take one round trip.

        Each reply is used once. Only for requests that change nothing, and only until something is
        changed that affects their replies; then call ``forget_ahead``.
        """
        for request in requests:
            self.submit_ahead(_CallAhead(), request)

    def submit_ahead(self, call: Call, request: RequestBase) -> None:
        """Send a request ahead with its own kind of call, which `take_ahead` returns."""
        self.submit(call, request)
        self._ahead.append((request, call))

    def take_ahead(self, request: RequestBase) -> Call | None:
        """Return the call of a request that was sent ahead, once; None if it was not."""
        for index, (requested, call) in enumerate(self._ahead):
            if requested == request:
                del self._ahead[index]
                return call
        return None

    def is_ahead(self, request: RequestBase) -> bool:
        """Return True if a request was sent ahead, and its reply was not taken yet."""
        return any(requested == request for requested, _ in self._ahead)

    def forget_ahead(self) -> None:
        """Discard the replies that were not taken: they may be outdated."""
        ahead, self._ahead = self._ahead, []
        for _, call in ahead:
            if call.streams and not call.done:
                call.let_go()
                self.cancel_later(call)

    def result(self, call: UnaryCall[R]) -> R:
        """Wait for a call. Return its reply, or raise its error."""
        while not call.done:
            self.pump()
        if call.error is not None:
            raise call.error
        return call.reply

    def submit(self, call: Call, request: RequestBase, cost: int = 0) -> None:
        """Send a request without waiting for its reply.

        Waits only while too many requests are unanswered.

        Args:
            cost: Bytes of DATA that follow it at once, for the server's limit on unanswered bytes.
        """
        if self._interrupt is not None:
            self._interrupt.check()
        if (introduction := self.introduction(request, self.operation)) is not None:
            self._submit(*introduction, 0)
        self._submit(call, request, cost)

    def _submit(self, call: Call, request: RequestBase, cost: int) -> None:
        payload = messages.encode(request)
        cost += len(payload)
        protocol = self.protocol
        while not protocol.has_capacity(cost):
            self.pump()
        # nothing may be queued in between: replies come in the order of sending
        protocol.prepare(call, request, cost)
        self._queue_request(call, request, payload)

    def _queue_request(self, call: Call, request: RequestBase, payload: bytes) -> None:
        header = frames.pack_header(len(payload), _REQUEST, call.request_id)
        if self.channel.queue(header, payload):
            self.flush()

    def send_data(self, call: Call, data: memoryview | bytes) -> None:
        """Send bytes of a file, as DATA frames of the call's request."""
        view = memoryview(data)
        size = self.protocol.data_size
        while view:
            piece, view = view[:size], view[size:]
            header = frames.pack_header(len(piece), _DATA, call.request_id)
            if len(piece) >= _COPIED:
                self.channel.queue(header)
                self._send_piece(piece)
            elif self.channel.queue(header, piece):
                self.flush()

    def _send_piece(self, piece: memoryview) -> None:
        try:
            while piece:
                sent = self.channel.try_send(piece)
                piece = piece[sent:]
                if not sent:
                    self._wait(write=True)
            self.take_input()
            self.check()
        except Interrupted:
            self.channel.queue(piece)  # so that the frame is complete when a CANCEL follows
            raise
        except ConnectionLost as error:
            if not self.broken:
                self.take_input()  # the server may have sent the reason
            self.lost(error)

    def keep_alive(self, call: Call) -> None:
        """Send an empty DATA frame, which says that the DATA of a call will continue."""
        self.channel.queue(frames.pack_header(0, _DATA, call.request_id))
        self.flush()

    def send_hole(self, call: Call, size: int) -> None:
        """Send zeros of a file as a hole, in place of DATA. Raises Interrupted."""
        payload = messages.encode(messages.Hole(size))
        self.channel.queue(frames.pack_header(len(payload), _NOTICE, call.request_id), payload)
        self.flush()  # the server can start on it, and knows that this side is alive
        self.take_input()

    def send_end(self, call: Call, sent: Sent) -> None:
        """Send the END of a call's DATA."""
        payload = messages.encode(sent)
        if self.channel.queue(frames.pack_header(len(payload), _END, call.request_id), payload):
            self.flush()

    def send_cancel(self, call: Call) -> None:
        """Cancel a call. Its ERROR, or its reply if that was sent before, still comes."""
        self.channel.queue(self.protocol.cancel(call))

    # waiting -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise Interrupted if the user wants to stop."""
        if self._interrupt is not None:
            self._interrupt.check()

    def pause(self, seconds: float) -> None:
        """Wait for about this many seconds. Raises Interrupted."""
        pause(seconds, self._interrupt)

    def wait_for(self, call: Call) -> None:
        """Wait until the call is done. Raises ConnectionLost, Interrupted; not the call's error."""
        while not call.done:
            self.pump()

    def wait_for_all(self) -> None:
        """Wait until all calls are done."""
        while self.protocol.calls:
            self.pump()

    def pump(self, deadline: float | None = None) -> None:
        """Send and receive what is possible, waiting until something is.

        Args:
            deadline: On ``time.monotonic()``; after it the connection counts as lost. None for as
                long as a server may be silent.
        """
        if self._interrupt is not None:
            self._interrupt.check()
        flushed = self._try_flush()  # first: with a fast server there may always be input
        if self.take_input():
            return
        self._wait(write=not flushed, deadline=deadline)

    def poll(self) -> None:
        """Send and receive what is possible, without waiting. Raises Interrupted."""
        self.check()
        self._try_flush()
        self.take_input()

    def take_unsolicited(self) -> None:
        """Receive between requests, and notice if the server has closed the connection."""
        if self.broken:
            return
        try:
            while self.take_input():
                pass
        except FtpError as error:
            if isinstance(error, SessionEnded):
                self.protocol.on_remark(str(error))
            self.protocol.end(error)
            self.channel.abort()

    def flush(self) -> None:
        """Send everything that was submitted, without waiting for replies."""
        while not self._try_flush():
            self._wait(write=True)
        self.check()

    def _try_flush(self) -> bool:
        try:
            return self.channel.try_flush()
        except ConnectionLost as error:
            self.take_input()  # the server may have sent the reason
            self.lost(error)

    def _wait(self, *, write: bool = False, deadline: float | None = None) -> None:
        """Wait for the socket, and receive."""
        try:
            if deadline is None:
                deadline = time.monotonic() + self.longest_silence
            ready = self.channel.wait(read=True, write=write, deadline=deadline)
        except ConnectionLost as error:
            self.lost(error)
        self.moved_at = time.monotonic()
        if ready.readable:
            self.take_input()

    # interrupting ------------------------------------------------------------------------

    def cancel_all(self, seconds: float | None = None) -> None:
        """Cancel every call, after Interrupted, and keep the connection if that works soon.

        Afterwards either all calls are done or the connection is ``broken``.

        Args:
            seconds: How long the server may take to end them; None for the usual time.
        """
        self._rearm()
        calls = list(self.protocol.calls.values())
        self._cancel_calls(calls, seconds_to_end(calls) if seconds is None else seconds)

    def cancel_due(self) -> None:
        """Cancel the calls whose streams are no longer read; see `cancel_all`."""
        if not self._to_cancel:
            return
        due, self._to_cancel = self._to_cancel, []
        calls = [call for call in due if not call.done]
        self._cancel_calls(calls, seconds_to_end(calls))

    def cancel_later(self, call: Call) -> None:
        """Mark a call whose stream is no longer read. This does nothing else, so any thread may
        call it anywhere.

        ``cancel_due`` cancels it before the next request.
        """
        self._to_cancel.append(call)

    def _cancel_calls(self, calls: list[Call], seconds: float) -> None:
        if self.broken or not calls:
            return
        pace, self.channel.pace = self.channel.pace, None  # what is in transit arrives anyway
        self._until = deadline = time.monotonic() + seconds
        try:
            # newest first: an open upload must be ended before anything else can be sent
            for call in reversed(calls):
                self.send_cancel(call)
            while not _all_done(calls) and time.monotonic() < deadline:
                self.pump(deadline)
        except FtpError:
            pass  # interrupted again, or lost: the connection is closed below
        finally:
            self.channel.pace = pace
            self._until = math.inf
        if not _all_done(calls):
            self.give_up()

    def give_up(self) -> None:
        """Close the connection at once; unanswered calls fail."""
        self.channel.abort()
        self.protocol.end(Cancelled("the transfer was cancelled"))

    def close(self) -> None:
        """Close the connection; unanswered calls fail. Can be called twice."""
        if not self.broken:
            log.debug("%s: closed", self.address.endpoint)
        self.channel.close()
        self.protocol.end(Cancelled("the transfer was cancelled"))

    @property
    def in_step(self) -> bool:
        """True if nothing is in progress in either direction, so that a new request can be sent."""
        return self.protocol.is_idle and not self.channel.has_output

    def _after_fork(self) -> None:
        super()._after_fork()
        self._ahead.clear()

    def _rearm(self) -> None:
        if self._interrupt is not None:
            self._interrupt.clear()
        if not self.broken:
            self.channel.rearm()


def _all_done(calls: list[Call]) -> bool:
    return all(call.done for call in calls)
