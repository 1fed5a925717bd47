"""The client's side of the protocol, without a socket: matching replies to requests.

Lives here: IDs, the limit on unanswered requests, the allowed replies of each request, HELLO,
cancels, and what ends a connection. No I/O, no clock, no thread.
Lives elsewhere: moving the bytes, for one thread (connection.py) or for an event loop
(aio/connection.py); opening (opening.py); the requests (client.py, transfer/).

The caller puts received bytes into ``reader`` and calls ``take`` until that wants more. Bytes to
send are returned. Replies come in the order of the requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Generic, NoReturn

from ftpclient.connection.interrupt import TimeOver
from ftpwire import frames, messages
from ftpwire.channel import Sink
from ftpwire.decoding import BadReply
from ftpwire.errors import (
    BadMessage,
    Cancelled,
    CommandError,
    ConnectionLost,
    FtpError,
    ProtocolError,
    SessionEnded,
    TooMany,
    VersionMismatch,
)
from ftpwire.frames import HEADER_SIZE, FrameReader, Header, Kind
from ftpwire.messages import Ending, Hello, Notice, R, RequestBase, Sent
from ftpwire.paths import printable

DATA_SIZE = 1024 * 1024
"""Largest DATA payload that this client sends, in bytes."""
_LEAST_SILENCE = 0.2
_LONGEST_SILENCE = 3600.0
"""Upper limit of an announced silence: a working server sends far more often."""
_CANCEL_SECONDS = 5.0
_CANCEL_LISTING_SECONDS = 0.5
"""For listings a new connection loses nothing, so a server that continues one is not waited for."""
_MOST_IDS = 0xFFFFFFFF

_REPLY, _ERROR, _DATA, _END, _NOTICE = (
    int(kind) for kind in (Kind.REPLY, Kind.ERROR, Kind.DATA, Kind.END, Kind.NOTICE)
)


class TooManyTransfers(ConnectionLost):
    """The account has reached its limit of running transfers.

    Attributes:
        retry_after: See `CommandError`.
    """

    retry_after: int | None = None

    @classmethod
    def of(cls, error: TooMany, text: str) -> TooManyTransfers:
        """Return the error for what the server has sent, with another text."""
        made = cls(text)
        made.retry_after = error.retry_after
        return made


_SAID = (SessionEnded, TooManyTransfers)
"""Errors by which the server itself has given the reason of the end."""


class Call:
    """One request and its replies. Subclasses take streams of pages or bytes.

    Attributes:
        reply: The last REPLY.
        ending: The END of its stream, if it has one.
        error: The reason why it failed.
        done: True if nothing more comes for it.
    """

    streams = False
    """True if REPLY frames are followed by an END."""
    reads_only = False
    """True for a listing or a question sent ahead: it can be cancelled any time without loss."""
    sink: Sink | None = None
    """Takes the bytes of large DATA payloads without an extra copy."""

    def __init__(self) -> None:
        self.request_id = 0
        self.cost = 0
        self.answers: tuple[type[messages.Message], ...] = ()
        self.endings: tuple[type[messages.Message], ...] = ()
        """The types of END that it allows; ``answers`` are those of REPLY."""
        self.reply: Any = None
        self.ending: Ending | None = None
        self.error: FtpError | None = None
        self.done = False
        self.is_cancelled = False
        """True if this side has cancelled it."""
        self.is_dropped = False
        """True if no caller wants its result."""
        self.is_transfer = False
        """True if it transfers the bytes of a file."""

    def on_control(self, kind: int, payload: memoryview) -> bool:
        """Take a REPLY, END or ERROR frame. Return True if nothing more comes.

        An invalid reply becomes the call's error, and the connection continues, if it is the last
        frame of the call.

        Raises:
            BadMessage: It is not allowed for the request.
        """
        try:
            if kind == _REPLY:
                self.reply = reply = messages.decode_reply(payload)
                if not isinstance(reply, self.answers):
                    raise BadMessage(f"the server replied with {type(reply).__name__}")
                return self.on_reply(reply)
            if kind == _END:
                self.ending = ending = messages.decode_ending(payload)
                if not isinstance(ending, self.endings):
                    raise BadMessage(f"the server ended the reply with {type(ending).__name__}")
                self.on_ending()
            elif kind == _ERROR:
                self.error = self._error_of(messages.decode_failed(payload))
            else:
                raise BadMessage(f"the server sent a frame of kind {kind}")
        except BadReply as error:
            if kind == _REPLY and (self.streams or len(self.answers) > 1):
                raise  # more frames may follow: the state of the call is unknown
            self.error = error
        return True

    def _error_of(self, failed: messages.Failed) -> FtpError:
        error = failed.to_error()
        if isinstance(error, Cancelled) and not self.is_cancelled:  # not this side's own cancel
            return error.with_text(str(error), CommandError)
        return error

    def on_reply(self, reply: Any) -> bool:
        """Take a REPLY, which is one of ``answers``. Return True if nothing more comes."""
        return not self.streams

    def on_frame(self, size: int) -> None:
        """Start a DATA frame of ``size`` bytes. Raises BadMessage if it is not allowed."""
        raise BadMessage("the server sent file bytes that were not requested")

    def on_data(self, data: memoryview) -> None:
        """Take bytes of a DATA payload. The view is valid until this returns."""

    def on_ending(self) -> None:
        """Take the END. Raises BadMessage if it is invalid."""

    def on_notice(self, notice: messages.Notice) -> None:
        """Take a notice about this request, such as progress."""
        if isinstance(notice, messages.Hole):
            self.on_hole(notice.size)

    def on_hole(self, size: int) -> None:
        """Take zeros in place of DATA. Raises BadMessage if they are not allowed."""
        raise BadMessage("the server sent a hole that was not requested")

    def let_go(self) -> None:
        """Discard what still comes of its stream."""

    def on_done(self) -> None:
        """Handle the end of the call, with its ``error``, ``ending`` or ``reply``."""

    def end_by(self, error: FtpError | None) -> None:
        """End the call by an error; None if it is done without one."""
        self.error = error
        self.done = True


class UnaryCall(Call, Generic[R]):
    """A request with one reply, an ``R``: ``reply``, once it is done without an error."""

    reply: R


class ClientProtocol:
    """The requests and replies of one connection.

    Args:
        name: Name of the server, which precedes the reasons of errors.
        full_is_lost: True if a limit of running transfers ends the connection like an unavailable
            server, so that code which waits for a server waits for this, too. False if only the
            call fails.

    Attributes:
        reader: The buffer for received bytes.
        server: The server's HELLO; defaults before it arrived.
        calls: Unanswered calls by ID, in the order of their replies.
        dropped: Calls of these whose CANCEL was sent, and whose results no caller wants.
        signs: Number of signs of life that the server has sent for one of these.
        going_down: The reason why the server is about to close the connection, if it gave one.
        on_remark: Function to call with texts from the server that the user should see.
        error: The fatal error of the connection; nothing more may be taken after it.
        ended: The reason why no replies come any longer.
        sink: Where the rest of a DATA frame belongs, when ``take`` wants more of it.
        limit: The most bytes to put into ``reader`` next, if there is no ``sink``.
    """

    def __init__(self, name: str, *, full_is_lost: bool = True) -> None:
        self.name = name
        self.reader = FrameReader()
        self.server = Hello()
        self.is_greeted = False
        self.calls: dict[int, Call] = {}
        self.dropped: dict[int, Call] = {}
        self.signs = 0
        self.max_requests = self.max_unanswered = 1
        self.data_size = DATA_SIZE
        """Largest DATA payload that the server accepts, in bytes."""
        self.max_sessions = 0
        """Most sessions that the account may have; 0 if unknown."""
        self.silence: float | None = None
        """Seconds that the server may be silent while a reply is due; None if unknown."""
        self.going_down: str | None = None
        self.on_remark: Callable[[str], None] = _pass_over
        self.error: FtpError | None = None
        self.ended: FtpError | None = None
        self.sink: Sink | None = None
        self.limit: int | None = None
        self.ids: Iterator[int] = itertools.count()
        self.full_is_lost = full_is_lost
        self._unanswered = 0
        self._header: Header | None = None
        self._exactly = False

    def beside(self) -> ClientProtocol:
        """Return another protocol, for requests of another thread over the same connection.

        Its IDs are distinct from this one's; everything else is separate.
        """
        other = ClientProtocol(self.name)
        other.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
        other.ids = self.ids
        other.is_greeted = True
        other.server = self.server
        other.max_requests, other.max_unanswered = self.max_requests, self.max_unanswered
        other.data_size, other.silence = self.data_size, self.silence
        other.max_sessions = self.max_sessions
        return other

    @property
    def is_idle(self) -> bool:
        """True if nothing is unanswered, and no frame is partly received."""
        return not self.calls and self._header is None

    # sending -----------------------------------------------------------------------------

    def hello(self) -> bytes:
        """Return the first frame."""
        hello = Hello(
            max_control=frames.MAX_CONTROL,
            max_data=frames.MAX_DATA,
            versions=list(messages.VERSIONS),
        )
        return frames.frame(Kind.REQUEST, 0, messages.encode_hello(hello))

    def has_capacity(self, cost: int) -> bool:
        """Return True if a request of ``cost`` bytes may be sent before further replies arrive."""
        return not self.calls or (
            len(self.calls) < self.max_requests and self._unanswered + cost <= self.max_unanswered
        )

    def prepare(self, call: Call, request: RequestBase, cost: int, *, enter: bool = True) -> None:
        """Give a call its ID, and set its allowed replies.

        Args:
            cost: Bytes of the request, and of what follows it at once.
            enter: True if its request is sent next; False if ``enter`` is called before that.

        Raises:
            ProtocolError: The server does not support such requests.
        """
        if messages.TRASH not in self.server.features and messages.needs_trash(request):
            raise ProtocolError("this server keeps no trash")
        if messages.MANY_FILES not in self.server.features and messages.needs_many_files(request):
            raise ProtocolError("this server takes only one file per request")
        call.request_id = next(self.ids) % _MOST_IDS + 1
        call.answers, call.endings = messages.ANSWERS[type(request)]
        call.is_transfer = isinstance(request, _TRANSFERS)
        call.cost = cost
        if enter:
            self._unanswered += cost
            self.calls[call.request_id] = call

    def enter(self, call: Call) -> None:
        """Add a call to the unanswered ones, when its request is sent next."""
        self._unanswered += call.cost
        self.calls[call.request_id] = call

    def end_of(self, call: Call, sent: Sent) -> bytes:
        """Return the frame that ends the DATA of a call."""
        return frames.frame(Kind.END, call.request_id, messages.encode(sent))

    def cancel(self, call: Call) -> bytes:
        """Return the frame that cancels a call. An ERROR, or a reply sent before, still comes."""
        call.is_cancelled = True
        return frames.frame(Kind.CANCEL, call.request_id)

    def cancelled(self, request_id: int) -> None:
        """Note that the CANCEL of a call was sent, and no caller wants its result."""
        call = self.calls.get(request_id)
        if call is not None:
            call.is_dropped = True
            self.dropped[request_id] = call

    @property
    def owes_end(self) -> Call | None:
        """The call that the server must reply to next, if it was cancelled: only its end may come,
        and soon. Cancelled calls behind another one have to wait."""
        first = next(iter(self.calls), 0) if self.dropped else 0
        return self.dropped.get(first)

    # receiving ---------------------------------------------------------------------------

    def take(self) -> bool:
        """Take the next frame, or the part of it that has arrived.

        Returns:
            False if more bytes must be received first: into ``sink`` if there is one (see
                `Channel.move_payload`), else into ``reader``.

        Raises:
            FtpError: An error of a call; or ``error``, after which nothing more can be taken.
        """
        reader = self.reader
        header = self._header
        if self.sink is not None and not reader.remaining:  # the payload has bypassed the reader
            self.sink = header = self._header = None
        try:
            if header is None:
                header = reader.next_header()
                if header is None:
                    # bytes after a DATA header may belong into a sink: do not buffer them here
                    self.limit = HEADER_SIZE - reader.buffered if self._exactly else None
                    return False
                if header.kind == _DATA:
                    self._call_of(header).on_frame(header.size)
                self._header = header
            if header.kind == _DATA:
                return self._take_data(header)
            payload = reader.payload()
            if payload is None:
                self.limit = None
                return False
            self._header = None
            self._exactly = False
            self._take_control(header, payload)
            return True
        except ProtocolError as error:
            self.error = error
            raise

    def _take_data(self, header: Header) -> bool:
        call = self._call_of(header)
        reader = self.reader
        sink = call.sink
        if sink is not None:
            self._exactly = True
            if reader.remaining:
                self.sink = sink
                return False
        while reader.remaining:
            piece = reader.take(reader.remaining)
            if not piece:
                self.limit = None
                return False
            call.on_data(piece)
        self._header = None
        return True

    def _call_of(self, header: Header) -> Call:
        call = self.calls.get(header.request_id)
        if call is None:
            raise BadMessage("the server replied to a request that was not sent")
        return call

    def _take_control(self, header: Header, payload: memoryview) -> None:
        _, kind, request_id = header
        if not self.is_greeted:
            self._take_hello(kind, payload)
            return
        call = self.calls.get(request_id)
        if kind == _NOTICE:
            notice = self._take_notice(call, payload)
            self.signs += request_id in self.dropped and not isinstance(notice, messages.Hole)
            return
        if call is None:
            if kind == _ERROR and request_id == 0:
                self._end_by(messages.decode_failed(payload).to_error(ends=True))
            raise BadMessage("the server replied to a request that was not sent")
        if not call.on_control(kind, payload):
            return
        if call.is_transfer and isinstance(call.error, TooMany) and self.full_is_lost:
            self._end_by(TooManyTransfers.of(call.error, self.named(str(call.error))))
        del self.calls[request_id]
        if self.dropped:
            self.dropped.pop(request_id, None)
        self._unanswered -= call.cost
        call.done = True
        call.on_done()

    def _take_hello(self, kind: int, payload: memoryview) -> None:
        if kind == _ERROR:
            self._end_by(messages.decode_failed(payload).to_error(ends=True))
        server = messages.decode_hello(payload)
        if server.version not in messages.VERSIONS:
            raise VersionMismatch(
                f"the server chose version {server.version} of the protocol, which this client "
                "does not speak",
                (server.version,),
            )
        self.server = server
        self.is_greeted = True
        self.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
        self.max_requests = max(1, server.max_requests or 1)
        self.max_unanswered = max(1, server.max_unanswered or 1)
        self.data_size = max(1024, min(DATA_SIZE, server.max_data or frames.DEFAULT_MAX_DATA))

    def _take_notice(self, call: Call | None, payload: memoryview) -> Notice | None:
        notice: Notice | None = messages.decode_notice(payload)
        if isinstance(notice, messages.GoingDown):
            self.going_down = notice.message
        elif isinstance(notice, messages.Remark):
            self.on_remark(notice.message)
        elif call is not None and notice is not None:
            call.on_notice(notice)
        elif isinstance(notice, messages.Hole):
            raise BadMessage("the server replied to a request that was not sent")
        return notice

    def logged_in(self, reply: messages.LoggedIn) -> str:
        """Process the reply to a log-in, and return the account's name."""
        server = self.server
        if messages.ALIVE in server.features and server.stall_ms:
            seconds = server.stall_ms / 1000
            self.silence = min(max(_LEAST_SILENCE, seconds), _LONGEST_SILENCE)
        self.max_sessions = reply.max_sessions or server.max_sessions
        return printable(reply.user[: messages.MAX_USER])

    # ending ------------------------------------------------------------------------------

    def _end_by(self, error: FtpError) -> NoReturn:
        """End the connection with the reason that the server gave."""
        self.error = error
        raise error

    def named(self, reason: str) -> str:
        """Return a reason preceded by the server's name, once."""
        name = f"{self.name}: "
        return name + reason.removeprefix(name)

    def lost(self, error: ConnectionLost) -> FtpError:
        """Return the error for waiting callers after a lost connection."""
        if isinstance(error, _SAID):
            return error
        return ConnectionLost(self.named(self.going_down or str(error)))

    @property
    def is_over(self) -> bool:
        """True if the server itself has ended the connection, and given the reason."""
        return isinstance(self.error, _SAID)

    def end(self, error: FtpError) -> None:
        """End all calls with an error: no replies come any longer."""
        if self.ended is None:
            self.ended = error
        calls, self.calls = self.calls, {}
        self.dropped.clear()
        with ExitStack() as stack:  # all of them, even if one raises: they hold descriptors
            for call in reversed(calls.values()):
                call.end_by(error)
                stack.callback(call.on_done)

    def forget(self, error: FtpError) -> None:
        """Do the same as ``end`` in a child process, without the callbacks of the calls.

        These act on objects of the parent.
        """
        self.ended = error
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.end_by(error)


def seconds_to_end(calls: Iterable[Call]) -> float:
    """Return the seconds that a server may take to end cancelled calls."""
    if all(call.reads_only for call in calls):
        return min(_CANCEL_LISTING_SECONDS, _CANCEL_SECONDS)
    return _CANCEL_SECONDS


def _pass_over(text: str) -> None:
    """Drop a remark, if there is no function that takes it."""


def outcome_unknown(
    request: RequestBase, error: ConnectionLost | TimeOver
) -> ConnectionLost | TimeOver:
    """Return the error of a request whose reply did not arrive: the connection was lost, or the
    time was over.

    A request that changes nothing can simply be repeated. For others, the error says that the
    change may have been made: a repetition might make it twice, unless the request has a number.
    """
    numbered = isinstance(request, messages.ChangeFor) and request.number
    if numbered and isinstance(error, ConnectionLost):
        return error  # the caller that numbered the request repeats it
    made_once = isinstance(request, messages.MakeDir) and request.parents
    if made_once or isinstance(request, _REPEATABLE) or str(error).endswith(_MAYBE):
        return error
    return error.with_text(f"{error}{_MAYBE}")


CHANGING = (messages.ChangeFor, messages.Put, messages.PutFiles, messages.BeginTree)
"""Requests whose operation a server must know: to keep what they remove, or find repeats."""
_MAYBE = "; it may have been done"
_TRANSFERS = (
    messages.Get,
    messages.Put,
    messages.PutPiece,
    messages.PutFiles,
    messages.GetFiles,
)
_REPEATABLE = (
    messages.Stat,
    messages.List,
    messages.Get,
    messages.Hash,
    messages.Put,
    messages.PutPiece,
    messages.PutFiles,
    messages.GetFiles,
    messages.Space,
    messages.WhoAmI,
    messages.ListTokens,
    messages.Login,
    messages.LoginToken,
    messages.LoginPeer,
    messages.BeginTree,
)
