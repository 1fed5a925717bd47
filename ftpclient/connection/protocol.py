"""The client's side of the protocol, without a socket: which answer belongs to which request.

Lives here: ids, how many requests may be unanswered, what may come for each, HELLO, cancels, and
what ends a connection. No I/O, no clock, no thread.
Lives elsewhere: moving the bytes, for one thread (connection.py) or for an event loop
(aio/connection.py); opening (opening.py); what is asked for (client.py, transfer/).

Whoever drives it puts what has come into ``reader`` and calls ``take`` until that wants more. What
is to be sent is returned as bytes. Answers come in the order of the requests.
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

DATA_SIZE = 512 * 1024
"""Bytes of a DATA frame that this client sends."""
_LEAST_SILENCE = 0.2
_LONGEST_SILENCE = 3600.0
"""A server that is at work says so far more often, whatever it announces: see docs/protocol.md."""
_CANCEL_SECONDS = 5.0
_CANCEL_LISTING_SECONDS = 0.5
"""For a listing a new connection loses nothing; a server that goes on with it isn't waited for."""
_MOST_IDS = 0xFFFFFFFF

_REPLY, _ERROR, _DATA, _END, _NOTICE = (
    int(kind) for kind in (Kind.REPLY, Kind.ERROR, Kind.DATA, Kind.END, Kind.NOTICE)
)


class NoRoom(ConnectionLost):
    """The account has as many transfers running as it may have.

    Attributes:
        retry_after: See `CommandError`.
    """

    retry_after: int | None = None

    @classmethod
    def of(cls, error: TooMany, text: str) -> NoRoom:
        """What the server has said, in other words."""
        made = cls(text)
        made.retry_after = error.retry_after
        return made


_SAID = (SessionEnded, NoRoom)
"""Ends for which the server has given the reason."""


class Call:
    """One request and what comes back. Subclasses take streams of pages or bytes.

    Attributes:
        reply: The last REPLY.
        ending: What closed its stream, if it has one.
        error: Why it failed.
        done: Nothing more comes for it.
    """

    streams = False
    """Whether REPLY frames are followed by END."""
    only_tells = False
    """Whether it is a listing, which can be given up at any place."""
    sink: Sink | None = None
    """Takes the bytes of large DATA payloads without a copy in between."""

    def __init__(self) -> None:
        self.request_id = 0
        self.cost = 0
        self.answers: tuple[type[messages.Message], ...] = ()
        self.endings: tuple[type[messages.Message], ...] = ()
        """What may come for it."""
        self.reply: Any = None
        self.ending: Ending | None = None
        self.error: FtpError | None = None
        self.done = False
        self.is_cancelled = False
        """This side has given it up."""
        self.is_dropped = False
        """Nobody wants to know what becomes of it."""
        self.is_transfer = False
        """Whether it moves the bytes of a file."""

    def on_control(self, kind: int, payload: memoryview) -> bool:
        """Take a REPLY, END or ERROR frame; True when nothing more comes.

        One that is not understood is the call's error, and the connection goes on, where it is the
        last that comes for the call.

        Raises:
            BadMessage: It isn't what may come for the request.
        """
        try:
            if kind == _REPLY:
                self.reply = reply = messages.decode_reply(payload)
                if not isinstance(reply, self.answers):
                    raise BadMessage(f"the server answered with {type(reply).__name__}")
                return self.on_reply(reply)
            if kind == _END:
                self.ending = ending = messages.decode_ending(payload)
                if not isinstance(ending, self.endings):
                    raise BadMessage(f"the server ended with {type(ending).__name__}")
                self.on_ending()
            elif kind == _ERROR:
                self.error = self._error_of(messages.decode_failed(payload))
            else:
                raise BadMessage(f"the server sent a frame of kind {kind}")
        except BadReply as error:
            if kind == _REPLY and (self.streams or len(self.answers) > 1):
                raise  # more comes: what becomes of that isn't known
            self.error = error
        return True

    def _error_of(self, failed: messages.Failed) -> FtpError:
        error = failed.to_error()
        if isinstance(error, Cancelled) and not self.is_cancelled:  # nobody would be told of it
            return error.with_text(str(error), CommandError)
        return error

    def on_reply(self, reply: Any) -> bool:
        """Take a REPLY, which is one of ``answers``; True when nothing more comes."""
        return not self.streams

    def on_frame(self, size: int) -> None:
        """A DATA frame of ``size`` bytes begins. Raises BadMessage when none may come."""
        raise BadMessage("the server sent bytes that nobody asked for")

    def on_data(self, data: memoryview) -> None:
        """Take bytes of a DATA payload; the view is good until this returns."""

    def on_ending(self) -> None:
        """The END has come. Raises BadMessage when that can't be."""

    def on_notice(self, notice: messages.Notice) -> None:
        """Take word of progress, or what else is told of it."""
        if isinstance(notice, messages.Hole):
            self.on_hole(notice.size)

    def on_hole(self, size: int) -> None:
        """Zeros in the place of DATA. Raises BadMessage when none may come."""
        raise BadMessage("the server sent a hole that nobody asked for")

    def let_go(self) -> None:
        """Nobody wants what still comes of its stream: nothing of that is kept."""

    def on_done(self) -> None:
        """The call has ended: ``error``, ``ending`` or ``reply`` tell how."""

    def end_by(self, error: FtpError | None) -> None:
        """Nothing comes for it any more, because of this; None: it is done."""
        self.error = error
        self.done = True


class Asked(Call, Generic[R]):
    """A request with one answer, an ``R``, which ``reply`` is once it is done without an error."""

    reply: R


class ClientProtocol:
    """One connection's requests and answers.

    Args:
        name: The server's, before the reasons of errors.
        full_is_lost: Whether an account with too many transfers running is as good as a server
            that is away: whoever waits for a server waits for this one, too. Else the call fails.

    Attributes:
        reader: What has come goes there.
        server: What the server has said; the defaults before its HELLO.
        calls: What is unanswered by id, in the order of the answers.
        dropped: Those of them whose CANCEL was sent, and whose ends nobody wants to know.
        signs: How often the server has said that it is still at work on one of these.
        going_down: Why the server is going to leave, if it has said so.
        on_remark: Told what the server says for the user to know.
        error: What the server has sent that ends the connection: nothing more may be taken.
        ended: Why no answer comes any more.
        sink: Where the rest of a DATA frame goes, once ``take`` wants more of it.
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
        """Bytes of a DATA frame that the server takes."""
        self.max_sessions = 0
        """Most sessions that the account may have; 0: not known."""
        self.silence: float | None = None
        """Seconds that the server may be silent while it owes an answer, if it has said so."""
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
        """Another one, for requests of another thread over the same connection.

        Their ids are different from this one's; all else is apart.
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
        """Whether nothing is unanswered, and no frame came in part."""
        return not self.calls and self._header is None

    # sending -----------------------------------------------------------------------------

    def hello(self) -> bytes:
        """The first frame."""
        hello = Hello(
            max_control=frames.MAX_CONTROL,
            max_data=frames.MAX_DATA,
            versions=list(messages.VERSIONS),
        )
        return frames.frame(Kind.REQUEST, 0, messages.encode_hello(hello))

    def has_room(self, cost: int) -> bool:
        """Whether a request of so many bytes may be sent, before more answers have come."""
        return not self.calls or (
            len(self.calls) < self.max_requests and self._unanswered + cost <= self.max_unanswered
        )

    def prepare(self, call: Call, request: RequestBase, cost: int, *, enter: bool = True) -> None:
        """Give a call its id, and say what may come for it.

        Args:
            cost: Bytes of the request, and of what follows it at once.
            enter: Its request is sent next; else ``enter`` says when it is.

        Raises:
            ProtocolError: The server doesn't know such requests.
        """
        if messages.TRASH not in self.server.features and messages.needs_trash(request):
            raise ProtocolError("this server keeps no trash")
        if messages.MANY_FILES not in self.server.features and messages.needs_many_files(request):
            raise ProtocolError("this server takes files one by one")
        call.request_id = next(self.ids) % _MOST_IDS + 1
        call.answers, call.endings = messages.ANSWERS[type(request)]
        call.is_transfer = isinstance(request, _TRANSFERS)
        call.cost = cost
        if enter:
            self._unanswered += cost
            self.calls[call.request_id] = call

    def enter(self, call: Call) -> None:
        """From here on a call is unanswered: its request is sent next."""
        self._unanswered += call.cost
        self.calls[call.request_id] = call

    def end_of(self, call: Call, sent: Sent) -> bytes:
        """What closes the DATA of a call."""
        return frames.frame(Kind.END, call.request_id, messages.encode(sent))

    def cancel(self, call: Call) -> bytes:
        """What gives a call up; its ERROR (or its reply, if it was quicker) still comes."""
        call.is_cancelled = True
        return frames.frame(Kind.CANCEL, call.request_id)

    def cancelled(self, request_id: int) -> None:
        """A call's CANCEL was sent, and nobody wants to know its end."""
        call = self.calls.get(request_id)
        if call is not None:
            call.is_dropped = True
            self.dropped[request_id] = call

    @property
    def owes_end(self) -> Call | None:
        """The call that the server has to answer next, if it was cancelled: an end is all that may
        come, and soon. Those behind it wait for their turn."""
        first = next(iter(self.calls), 0) if self.dropped else 0
        return self.dropped.get(first)

    # receiving ---------------------------------------------------------------------------

    def take(self) -> bool:
        """Take the next frame, or what has come of the current one.

        Returns:
            False when more has to come first: into ``sink`` if there is one (see
            `Channel.move_payload`), else into ``reader``.

        Raises:
            FtpError: What calls raise; or ``error``, and nothing more can be taken.
        """
        reader = self.reader
        header = self._header
        if self.sink is not None and not reader.remaining:  # it was moved past this
            self.sink = header = self._header = None
        try:
            if header is None:
                header = reader.next_header()
                if header is None:
                    # what comes after the header of DATA may belong into a sink as well
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
            raise BadMessage("the server answered what nobody asked")
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
            raise BadMessage("the server answered what nobody asked")
        if not call.on_control(kind, payload):
            return
        if call.is_transfer and isinstance(call.error, TooMany) and self.full_is_lost:
            self._end_by(NoRoom.of(call.error, self.named(str(call.error))))
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
                f"the server goes on in version {server.version} of the protocol, which is not "
                "spoken here",
                (server.version,),
            )
        self.server = server
        self.is_greeted = True
        self.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
        self.max_requests = max(1, server.max_requests or 1)
        self.max_unanswered = max(1, server.max_unanswered or 1)
        self.data_size = max(1024, min(DATA_SIZE, server.max_data or DATA_SIZE))

    def _take_notice(self, call: Call | None, payload: memoryview) -> Notice | None:
        notice: Notice | None = messages.decode_notice(payload)
        if isinstance(notice, messages.GoingDown):
            self.going_down = notice.message
        elif isinstance(notice, messages.Remark):
            self.on_remark(notice.message)
        elif call is not None and notice is not None:
            call.on_notice(notice)
        elif isinstance(notice, messages.Hole):
            raise BadMessage("the server answered what nobody asked")
        return notice

    def logged_in(self, reply: messages.LoggedIn) -> str:
        """The log-in was answered: from here on signs of life come. Returns the account's name."""
        server = self.server
        if messages.ALIVE in server.features and server.stall_ms:
            seconds = server.stall_ms / 1000
            self.silence = min(max(_LEAST_SILENCE, seconds), _LONGEST_SILENCE)
        self.max_sessions = reply.max_sessions or server.max_sessions
        return printable(reply.user[: messages.MAX_USER])

    # ending ------------------------------------------------------------------------------

    def _end_by(self, error: FtpError) -> NoReturn:
        """The server has said why nothing more comes."""
        self.error = error
        raise error

    def named(self, reason: str) -> str:
        """A reason with the server's name before it, once."""
        name = f"{self.name}: "
        return name + reason.removeprefix(name)

    def lost(self, error: ConnectionLost) -> FtpError:
        """The connection is gone: the error for those who wait."""
        if isinstance(error, _SAID):
            return error
        return ConnectionLost(self.named(self.going_down or str(error)))

    @property
    def is_over(self) -> bool:
        """Whether the server itself has ended it, and said why."""
        return isinstance(self.error, _SAID)

    def end(self, error: FtpError) -> None:
        """No answer comes any more: every call fails with this."""
        if self.ended is None:
            self.ended = error
        calls, self.calls = self.calls, {}
        self.dropped.clear()
        with ExitStack() as stack:  # each of them, whatever others do: they hold descriptors
            for call in reversed(calls.values()):
                call.end_by(error)
                stack.callback(call.on_done)

    def forget(self, error: FtpError) -> None:
        """As ``end``, in a child process: the calls end, but aren't told.

        What hangs on them is the parent's.
        """
        self.ended = error
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.end_by(error)


def seconds_to_end(calls: Iterable[Call]) -> float:
    """How long a server may take to end what was cancelled."""
    if all(call.only_tells for call in calls):
        return min(_CANCEL_LISTING_SECONDS, _CANCEL_SECONDS)
    return _CANCEL_SECONDS


def _pass_over(text: str) -> None:
    """For remarks when nobody is there to hear them."""


def outcome_unknown(
    request: RequestBase, error: ConnectionLost | TimeOver
) -> ConnectionLost | TimeOver:
    """The error of a request whose answer did not come: the connection was lost, or the time over.

    A question can simply be asked again. Of what changes something it is said that it may have
    been done: to repeat it might do it twice, unless it has a number.
    """
    numbered = isinstance(request, messages.ChangeFor) and request.number
    if numbered and isinstance(error, ConnectionLost):
        return error  # whoever gave the number repeats it
    made_once = isinstance(request, messages.MakeDir) and request.parents
    if made_once or isinstance(request, _REPEATABLE) or str(error).endswith(_MAYBE):
        return error
    return error.with_text(f"{error}{_MAYBE}")


CHANGING = (messages.ChangeFor, messages.Put, messages.PutFiles, messages.BeginTree)
"""Requests that a server keeps something of, or knows again, by the operation that they are of."""
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
