"""One connection that a thread drives: asking, pipelining, waiting, giving up.

Lives here: sending and waiting, of one thread.
Lives elsewhere: which answer belongs to which request (protocol.py), opening and logging in
(opening.py), the same for an event loop (aio/connection.py), what is asked for (client.py,
transfer/job.py).

The thread drives both directions. While it writes it always reads as well, so a full pipe can't
deadlock. Replies come in the order of the requests; each `Call` takes its own.
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
    Asked,
    Call,
    ClientProtocol,
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
"""Smaller pieces of a file are copied behind what is queued already."""


class Connection(Driver):
    """A connection to a server. For one thread. `Opened` is one with a socket of its own."""

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

    # asking ------------------------------------------------------------------------------

    def ask(self, request: RequestFor[R]) -> R:
        """Ask and wait for the one reply. Raises the typed error when it failed."""
        if (ahead := self.take_ahead(request)) is not None:
            assert isinstance(ahead, Asked)
            known: R = self.result(ahead)
            return known
        call: Asked[R] = Asked()
        try:
            self.submit(call, request)
            return self.result(call)
        except (ConnectionLost, TimeOver) as error:
            raise outcome_unknown(request, error) from None

    def ask_ahead(self, *requests: RequestFor[Any]) -> None:
        """Ask what `ask` is going to be asked for, so that one round trip is enough for all.

        Each answer is taken once. Only for questions, and only while nothing is changed that
        would change an answer; ``forget_ahead`` ends that.
        """
        for request in requests:
            self.submit_ahead(Asked[Any](), request)

    def submit_ahead(self, call: Call, request: RequestBase) -> None:
        """As `ask_ahead`, for a request whose answer has a call of its own. Whoever comes for it
        gets that by `take_ahead`."""
        self.submit(call, request)
        self._ahead.append((request, call))

    def take_ahead(self, request: RequestBase) -> Call | None:
        """The call of a request that was sent ahead, once; None when it was not."""
        for index, (asked, call) in enumerate(self._ahead):
            if asked == request:
                del self._ahead[index]
                return call
        return None

    def is_ahead(self, request: RequestBase) -> bool:
        """Whether a request was sent ahead, and nobody came for its answer."""
        return any(asked == request for asked, _ in self._ahead)

    def forget_ahead(self) -> None:
        """Answers that nobody has taken are not good any more."""
        ahead, self._ahead = self._ahead, []
        for _, call in ahead:
            if call.streams and not call.done:
                call.let_go()
                self.cancel_later(call)

    def result(self, call: Asked[R]) -> R:
        """Wait for a call; its reply. Raises its error."""
        while not call.done:
            self.pump()
        if call.error is not None:
            raise call.error
        return call.reply

    def submit(self, call: Call, request: RequestBase, cost: int = 0) -> None:
        """Send a request without waiting for its reply.

        Waits only when too many are unanswered.

        Args:
            cost: Bytes that follow it at once, for the server's limit on unanswered ones.
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
        while not protocol.has_room(cost):
            self.pump()
        protocol.prepare(call, request, cost)
        self._queue_request(call, request, payload)

    def _queue_request(self, call: Call, request: RequestBase, payload: bytes) -> None:
        header = frames.pack_header(len(payload), _REQUEST, call.request_id)
        if self.channel.queue(header, payload):
            self.flush()

    def send_data(self, call: Call, data: memoryview | bytes) -> None:
        """Send the bytes of a file, as DATA frames of the call's request."""
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
            self.channel.queue(piece)  # so that the frame is whole, whatever comes next
            raise
        except ConnectionLost as error:
            if not self.broken:
                self.take_input()  # the server's last words may tell why
            self.lost(error)

    def keep_alive(self, call: Call) -> None:
        """Say that the DATA of a call goes on, though nothing is there to send just now."""
        self.channel.queue(frames.pack_header(0, _DATA, call.request_id))
        self.flush()

    def send_hole(self, call: Call, size: int) -> None:
        """Send zeros of a file as a hole, in the place of DATA. Raises Interrupted."""
        payload = messages.encode(messages.Hole(size))
        self.channel.queue(frames.pack_header(len(payload), _NOTICE, call.request_id), payload)
        self.flush()  # the server has something to do, and hears something
        self.take_input()

    def send_end(self, call: Call, sent: Sent) -> None:
        """Close the DATA of a call."""
        payload = messages.encode(sent)
        if self.channel.queue(frames.pack_header(len(payload), _END, call.request_id), payload):
            self.flush()

    def send_cancel(self, call: Call) -> None:
        """Give a call up; its ERROR (or its reply, if it was quicker) still comes."""
        self.channel.queue(self.protocol.cancel(call))

    # waiting -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raises Interrupted when the user wants to stop."""
        if self._interrupt is not None:
            self._interrupt.check()

    def pause(self, seconds: float) -> None:
        """Wait about so long for something else. Raises Interrupted."""
        pause(seconds, self._interrupt)

    def wait_for(self, call: Call) -> None:
        """Until the call is done. Raises ConnectionLost, Interrupted; not the call's error."""
        while not call.done:
            self.pump()

    def wait_for_all(self) -> None:
        """Until no call is unanswered."""
        while self.protocol.calls:
            self.pump()

    def pump(self, deadline: float | None = None) -> None:
        """Send and receive what is possible, waiting until something is.

        Args:
            deadline: On ``time.monotonic()``; what takes longer is a lost connection. Default:
                as long as a server may be silent.
        """
        if self._interrupt is not None:
            self._interrupt.check()
        flushed = self._try_flush()  # first: a fast server may never leave a moment for it
        if self.take_input():
            return
        self._wait(write=not flushed, deadline=deadline)

    def poll(self) -> None:
        """Send and take what is possible, without waiting. Raises Interrupted."""
        self.check()
        self._try_flush()
        self.take_input()

    def take_unasked(self) -> None:
        """While nothing is asked: take what has come, and notice whether the server has left."""
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
        """Send all that was submitted, for who doesn't wait for the answer yet."""
        while not self._try_flush():
            self._wait(write=True)
        self.check()

    def _try_flush(self) -> bool:
        try:
            return self.channel.try_flush()
        except ConnectionLost as error:
            self.take_input()  # the server's last words may tell why
            self.lost(error)

    def _wait(self, *, write: bool = False, deadline: float | None = None) -> None:
        """Wait for the socket, and take what came in."""
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
        """After Interrupted: give up every call, and keep the connection if that works soon.

        Afterwards either nothing is unanswered or the connection is ``broken``.

        Args:
            seconds: How long the server may take to end them; None for as long as usual.
        """
        self._rearm()
        calls = list(self.protocol.calls.values())
        self._cancel_calls(calls, seconds_to_end(calls) if seconds is None else seconds)

    def cancel_due(self) -> None:
        """Give up the calls whose streams nobody takes any more; see `cancel_all`."""
        if not self._to_cancel:
            return
        due, self._to_cancel = self._to_cancel, []
        calls = [call for call in due if not call.done]
        self._cancel_calls(calls, seconds_to_end(calls))

    def cancel_later(self, call: Call) -> None:
        """Nobody takes a call's stream any more. Does nothing else: for any place, and any thread.

        Whoever asks next gives it up first, by ``cancel_due``.
        """
        self._to_cancel.append(call)

    def _cancel_calls(self, calls: list[Call], seconds: float) -> None:
        if self.broken or not calls:
            return
        pace, self.channel.pace = self.channel.pace, None  # what is on its way comes in any case
        self._until = deadline = time.monotonic() + seconds
        try:
            # the newest first: the end of an upload that is under way must come before anything
            for call in reversed(calls):
                self.send_cancel(call)
            while not _all_done(calls) and time.monotonic() < deadline:
                self.pump(deadline)
        except FtpError:
            pass  # interrupted again, or lost: the connection is given up below
        finally:
            self.channel.pace = pace
            self._until = math.inf
        if not _all_done(calls):
            self.give_up()

    def give_up(self) -> None:
        """Close the connection; what is unanswered fails."""
        self.channel.abort()
        self.protocol.end(Cancelled("the transfer was given up"))

    def close(self) -> None:
        """Close the connection; what is unanswered fails. Can be called twice."""
        if not self.broken:
            log.debug("%s: closed", self.address.endpoint)
        self.channel.close()
        self.protocol.end(Cancelled("the transfer was given up"))

    @property
    def in_step(self) -> bool:
        """Whether nothing is under way, in either direction: what comes next is a new request."""
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
