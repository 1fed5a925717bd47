"""One connection: TLS, trust, log-in, then pipelined requests.

Lives here: the socket's whole life, and which reply belongs to which call.
Lives elsewhere: what is asked for (client.py, transfer/job.py), whom to trust (trust.py).

One thread drives both directions. While it writes it always reads as well, so a full pipe can't
deadlock. Replies come in the order of the requests; each `Call` takes its own.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from random import random
from typing import NoReturn

from ftpclient.connection import dial, forks, log, peer
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import Credential
from ftpclient.connection.interrupt import Interrupt, TimeOver
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.trust import Trust, pinned_context
from ftpwire import frames, messages
from ftpwire.channel import Channel, Sink, TimedOut, keep_probing
from ftpwire.errors import (
    BadMagic,
    BadMessage,
    Busy,
    Cancelled,
    ConnectFailed,
    ConnectionLost,
    FrameTooBig,
    FtpError,
    HostKeyChanged,
    Interrupted,
    ProtocolError,
    SessionEnded,
    TooMany,
    UnknownKind,
)
from ftpwire.frames import HEADER_SIZE, FrameReader, Header, Kind
from ftpwire.messages import Ending, Hello, Reply, Request, Sent
from ftpwire.paths import printable
from ftpwire.tls import TlsPipe, fingerprint

CONNECT_SECONDS = 15.0
STALL_SECONDS = 300.0
"""How long a server that doesn't promise `messages.ALIVE` may be silent while it owes an answer: a
slow disk syncs slowly. One that does says itself for how long."""
_LEAST_SILENCE = 0.2
DATA_SIZE = 512 * 1024
"""Bytes of a DATA frame that this client sends."""
_CANCEL_SECONDS = 5.0
_CANCEL_LISTING_SECONDS = 0.5
"""For a listing a new connection loses nothing; a server that goes on with it isn't waited for."""
_FIRST_TRIES = 5
_FRAMES_AT_ONCE = 64
"""Frames handed out before whoever waits has a look: a fast server fills no memory."""


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
        self.reply: Reply | None = None
        self.ending: Ending | None = None
        self.error: FtpError | None = None
        self.done = False
        self.is_transfer = False
        """Whether it moves the bytes of a file."""

    def on_reply(self, reply: Reply) -> bool:
        """Take a REPLY; True when nothing more comes."""
        return not self.streams

    def on_frame(self, size: int) -> None:
        """A DATA frame of ``size`` bytes begins. Raises BadMessage when none may come."""
        raise BadMessage("the server sent bytes that nobody asked for")

    def on_data(self, data: memoryview) -> None:
        """Take bytes of a DATA payload; the view is good until this returns."""

    def on_ending(self) -> None:
        """The END has come. Raises BadMessage when that can't be."""

    def on_notice(self, notice: messages.Notice) -> None:
        """Take word of progress."""

    def on_done(self) -> None:
        """The call has ended: ``error``, ``ending`` or ``reply`` tell how."""


class NoRoom(ConnectionLost):
    """The account has as many transfers running as it may have."""


_TOLD = (SessionEnded, NoRoom)
"""Ends for which the server has given the reason."""


class Connection:
    """A logged-in connection to a server. For one thread.

    Args:
        address: The server.
        plaintext: Speak without TLS.
        trust: Decides whether it is the server that is meant.
        interrupt: Ends waiting and working when the user wants to stop.
        like: An earlier connection to the same server, whose TLS session is resumed: that saves
            both sides the costly part of the handshake.
        credential: What `log_in` will be given, if that is known already. A token goes out
            together with HELLO, which saves a round trip. A password waits for the server's HELLO,
            whose delay would tell how long it was hashed otherwise; and so does a token without
            TLS: it might go to a server that speaks TLS only, for everybody to read.
        on_remark: Told what the server says for the user to know.

    Raises:
        ConnectFailed, TrustError, ProtocolError
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        plaintext: bool = False,
        trust: Trust | None = None,
        interrupt: Interrupt | None = None,
        like: Connection | None = None,
        credential: Credential | None = None,
        on_remark: Callable[[str], None] | None = None,
    ) -> None:
        self._like = like
        plaintext |= address.path is not None  # nobody listens in on this machine
        early = credential is not None and credential.is_token and not plaintext
        self._early = credential if early else None
        self._early_call: Call | None = None
        self._on_remark = on_remark
        self._context: ssl.SSLContext | None = None
        self.address = address
        self._interrupt = interrupt
        self._trust = trust or Trust(KnownHosts())
        self._calls: dict[int, Call] = {}
        self._ahead: list[tuple[Request, Call]] = []
        self._to_cancel: list[Call] = []
        self._unanswered = 0
        self._last_id = 0
        self._header: Header | None = None
        self._exactly = False
        self._until = math.inf
        """When to stop taking what comes, on ``time.monotonic()``."""
        self._going_down: str | None = None
        self.broken = False
        self.silence: float | None = None
        """Seconds that the server may be silent while it owes an answer; None: `STALL_SECONDS`."""
        self.moved_at = time.monotonic()
        """When the connection was last waited for with success: bytes came, or could be sent."""
        forks.follow(self)
        self._open(plaintext)

    verify = True
    """Whether a whole file that the server sends without a digest is refused."""

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken: then nothing can be damaged on the way unnoticed."""
        return self._context is not None

    # opening -----------------------------------------------------------------------------

    def _open(self, plaintext: bool) -> None:
        """Connect and say HELLO. A close before HELLO is a busy server: tried again."""
        for attempt in range(_FIRST_TRIES):
            try:
                self._open_once(plaintext)
                return
            except _TurnedAway as error:
                log.debug("%s: turned away: %s", self.address.endpoint, error)
                if attempt + 1 == _FIRST_TRIES:
                    raise ConnectFailed(
                        f"{error}, {_FIRST_TRIES} times: perhaps it has too many connections now"
                    ) from None
                pause(0.1 * 2**attempt, self._interrupt)

    def _open_once(self, plaintext: bool) -> None:
        endpoint = self.address.endpoint
        if plaintext:
            self._start(None)
        elif self._like is not None and self._like._context is not None:
            self._start(self._like._context)  # it decided whom to trust
            if self._context_is_pinned:
                self._check_pin()
        elif not (self._trust.wants_authority(endpoint) and self._verified(endpoint)):
            self._start(pinned_context())
            try:
                self._check_pin()
            except HostKeyChanged:
                if not self._taken_over(endpoint):
                    raise
        self._say_hello()

    def _verified(self, endpoint: str) -> bool:
        """Shake hands with a server that an authority vouches for; False when none does."""
        try:
            self._start(self._trust.authority_context())
        except ssl.SSLCertVerificationError as error:
            self._trust.not_verified(endpoint, error)
            return False
        self._trust.verified(endpoint)
        return True

    def _taken_over(self, endpoint: str) -> bool:
        """Whether an authority vouches for a server with another key, and the user agrees.

        A check alone replaces no pin: whoever inspects TLS has an authority installed, too.
        """
        if self._trust.ask_takeover is None or self._trust.key is not None:
            return False
        try:
            self._start(self._trust.authority_context())
        except ssl.SSLCertVerificationError:
            return False
        assert self.channel.tls is not None
        certificate = self.channel.tls.object.getpeercert() or {}
        if self._trust.takes_over(endpoint, self._fingerprint(), certificate):
            return True
        self.channel.abort()
        return False

    def _start(self, context: ssl.SSLContext | None) -> None:
        with self._interrupt.at_once() if self._interrupt is not None else nullcontext():
            sock = _connect(self.address, self._interrupt)
        self.channel = Channel(
            sock,
            wake_fd=None if self._interrupt is None else self._interrupt.fileno(),
            on_wake=self._check,
        )
        self.reader = FrameReader()
        self._context = context
        if context is None:
            return
        earlier = None if self._like is None else self._like.channel.tls
        self.channel.tls = TlsPipe(
            context,
            server_side=False,
            server_name=self.address.host,
            session=self._ticket() if earlier is None else earlier.object.session,
        )
        try:
            self.channel.handshake(time.monotonic() + CONNECT_SECONDS, hold=True)
        except ssl.SSLCertVerificationError:
            self.channel.abort()
            raise
        except TimedOut:
            self.channel.abort()
            raise ConnectFailed(f"{self.address.endpoint}: no answer to TLS") from None
        except ConnectionLost as error:
            self.channel.abort()
            if error.code == "tls":
                raise ConnectFailed(
                    f"{self.address.endpoint}: {error}: is it an ftpd, "
                    "and does it speak TLS (else use --plaintext)?"
                ) from None
            raise _TurnedAway(f"{self.address.endpoint}: {error}") from None
        except BaseException:
            self.channel.abort()
            raise

    def _ticket(self) -> ssl.SSLSession | None:
        """What resumes TLS with this server, if this process has talked to it before."""
        return _tickets.get(self.address.endpoint) if self._context_is_pinned else None

    def _keep_ticket(self) -> None:
        tls = self.channel.tls
        if tls is None or not self._context_is_pinned or tls.object.session_reused:
            return  # one is kept already, and asking for it again costs more than it saves
        if (session := tls.object.session) is not None:
            if len(_tickets) >= _MOST_TICKETS:
                _tickets.clear()
            _tickets[self.address.endpoint] = session

    def _check_pin(self) -> None:
        try:
            self._trust.check_key(self.address.endpoint, self._fingerprint())
        except FtpError:
            self.channel.abort()
            raise

    @property
    def _context_is_pinned(self) -> bool:
        return self._context is not None and self._context.verify_mode == ssl.CERT_NONE

    def _fingerprint(self) -> str:
        assert self.channel.tls is not None
        return fingerprint(self.channel.tls.peer_certificate())

    def _say_hello(self) -> None:
        hello = Hello(max_control=frames.MAX_CONTROL, max_data=frames.MAX_DATA)
        self.channel.queue(frames.frame(Kind.REQUEST, 0, messages.encode_hello(hello)))
        self._calls.clear()  # of a try that was turned away
        self._unanswered = 0
        asked = time.monotonic()
        deadline = asked + CONNECT_SECONDS
        try:
            if self._early is not None:
                self._early_call = Call()
                self.submit(self._early_call, self._early.request())
            self.channel.flush(deadline)
            while (header := self.reader.next_header()) is None:
                self._receive(deadline)
            while (payload := self.reader.payload()) is None:
                self._receive(deadline)
            if header.kind == Kind.ERROR:
                raise messages.decode_failed(payload).to_error()
            self.server = messages.decode_hello(payload)
            self._keep_ticket()
            self.moved_at = time.monotonic()
            self.round_trip = self.moved_at - asked
            log.info("%s: connected (%s)", self.address.endpoint, self._security())
        except TimedOut:
            self.channel.abort()
            raise ConnectFailed(f"{self.address.endpoint}: no answer") from None
        except ConnectionLost as error:
            self.channel.abort()
            raise _TurnedAway(self._named(str(error))) from None
        except (BadMagic, BadMessage, FrameTooBig, UnknownKind) as error:
            self.channel.abort()
            text = f"{self.address.endpoint}: {error}: is it an ftpd, and this its port?"
            raise type(error)(text) from None
        except BaseException:
            self.channel.abort()
            raise
        self.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
        self._max_requests = max(1, self.server.max_requests or 1)
        self._max_unanswered = max(1, self.server.max_unanswered or 1)
        self.data_size = max(1024, min(DATA_SIZE, self.server.max_data or DATA_SIZE))

    def _security(self) -> str:
        """How the connection is protected, for the log."""
        tls = self.channel.tls
        if tls is None:
            return "no TLS"
        return f"{tls.object.version()}{', resumed' if tls.object.session_reused else ''}"

    def _receive(self, deadline: float) -> None:
        while not self.channel.fill(self.reader):
            self.channel.wait(read=True, deadline=deadline)

    def log_in(self, credential: Credential | str) -> str:
        """Log in, with a password of the address's user or another credential.

        Returns the account's name. Raises LoginRefused; Busy, TooMany when the server is full.
        """
        if isinstance(credential, str):
            credential = Credential(self.address.login, credential)
        for attempt in range(_FIRST_TRIES - 1):
            try:
                return self._log_in(credential)
            except Busy:  # many come at once, and not everybody's password is looked at yet
                pause(0.2 * 2**attempt, self._interrupt)
        return self._log_in(credential)

    def _log_in(self, credential: Credential) -> str:
        call, self._early_call = self._early_call, None
        if call is None or credential != self._early:
            reply = self.ask(credential.request())
        else:
            reply = self.result(call)
        assert isinstance(reply, messages.LoggedIn)
        return self.opened_for(reply)

    def opened_for(self, reply: messages.LoggedIn) -> str:
        """The log-in was answered: from here on signs of life come. Returns the account's name."""
        self.silence = _silence(self.server)
        name = name_of(reply)
        log.info("%s: logged in as %s", self.address.endpoint, name)
        return name

    def close(self) -> None:
        """Close the connection; what is unanswered fails. Can be called twice."""
        if not self.broken:
            log.debug("%s: closed", self.address.endpoint)
        self.broken = True
        self.channel.close()
        self._fail_all(Cancelled("the transfer was given up"))

    # asking ------------------------------------------------------------------------------

    def ask(self, request: Request) -> Reply:
        """Ask and wait for the one reply. Raises the typed error when it failed."""
        for index, (asked, call) in enumerate(self._ahead):
            if asked == request:
                del self._ahead[index]
                return self.result(call)
        call = Call()
        try:
            self.submit(call, request)
            return self.result(call)
        except (ConnectionLost, TimeOver) as error:
            raise outcome_unknown(request, error) from None

    def ask_ahead(self, *requests: Request) -> None:
        """Ask what `ask` is going to be asked for, so that one round trip is enough for all.

        Each answer is taken once. Only for questions, and only while nothing is changed that
        would change an answer; ``forget_ahead`` ends that.
        """
        for request in requests:
            call = Call()
            self.submit(call, request)
            self._ahead.append((request, call))

    def forget_ahead(self) -> None:
        """Answers that nobody has taken are not good any more."""
        self._ahead.clear()

    def result(self, call: Call) -> Reply:
        """Wait for a call; its last reply. Raises its error."""
        self.wait_for(call)
        if call.error is not None:
            raise call.error
        assert call.reply is not None
        return call.reply

    def submit(self, call: Call, request: Request, cost: int = 0) -> None:
        """Send a request without waiting for its reply.

        Waits only when too many are unanswered.

        Args:
            cost: Bytes that follow it at once, for the server's limit on unanswered ones.
        """
        self._check()
        payload = messages.encode(request)
        cost += len(payload)
        while not self._has_room(cost):
            self.pump()
        self._prepare(call, request, cost)
        self._enter(call)
        header = frames.pack_header(len(payload), Kind.REQUEST, call.request_id)
        self.channel.queue(header, payload)
        if self.channel.output_full:
            self._drain_output()

    def _has_room(self, cost: int) -> bool:
        """Whether a request of so many bytes may be sent, before more answers have come."""
        return not self._calls or (
            len(self._calls) < self._max_requests
            and self._unanswered + cost <= self._max_unanswered
        )

    def _prepare(self, call: Call, request: Request, cost: int) -> None:
        """Give a call its id, and say what may come for it."""
        call.request_id = self._next_id()
        call.answers, call.endings = messages.ANSWERS[type(request)]
        call.is_transfer = isinstance(request, _TRANSFERS)
        call.cost = cost

    def _next_id(self) -> int:
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        return self._last_id

    def _enter(self, call: Call) -> None:
        """From here on a call is unanswered."""
        self._unanswered += call.cost
        self._calls[call.request_id] = call

    def send_data(self, call: Call, data: memoryview | bytes) -> None:
        """Send the bytes of a file, as DATA frames of the call's request."""
        view = memoryview(data)
        while view:
            piece, view = view[: self.data_size], view[self.data_size :]
            self.channel.queue(frames.pack_header(len(piece), Kind.DATA, call.request_id))
            if len(piece) < 32 * 1024:
                self.channel.queue(piece)
                if self.channel.output_full:
                    self._drain_output()
            else:
                self._send_piece(piece)

    def _send_piece(self, piece: memoryview) -> None:
        try:
            while piece:
                sent = self.channel.try_send(piece)
                piece = piece[sent:]
                if not sent:
                    self._wait(write=True)
            self._take_input()
            self._check()
        except Interrupted:
            self.channel.queue(piece)  # so that the frame is whole, whatever comes next
            raise
        except ConnectionLost as error:
            if not self.broken:
                self._take_input()  # the server's last words may tell why
            self._lost(error)

    def keep_alive(self, call: Call) -> None:
        """Say that the DATA of a call goes on, though nothing is there to send just now."""
        self.channel.queue(frames.pack_header(0, Kind.DATA, call.request_id))
        self._drain_output()

    def flush(self) -> None:
        """Send what was submitted, for who doesn't wait for the answer yet."""
        self._drain_output()

    def check(self) -> None:
        """Raises Interrupted when the user wants to stop."""
        self._check()

    def send_end(self, call: Call, sent: Sent) -> None:
        """Close the DATA of a call."""
        payload = messages.encode(sent)
        header = frames.pack_header(len(payload), Kind.END, call.request_id)
        self.channel.queue(header, payload)
        if self.channel.output_full:
            self._drain_output()

    def send_cancel(self, call: Call) -> None:
        """Give a call up; its ERROR (or its reply, if it was quicker) still comes."""
        self.channel.queue(frames.frame(Kind.CANCEL, call.request_id))

    # waiting -----------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Wait about so long for something else. Raises Interrupted."""
        pause(seconds, self._interrupt)

    def wait_for(self, call: Call) -> None:
        """Until the call is done. Raises ConnectionLost, Interrupted; not the call's error."""
        while not call.done:
            self.pump()

    def wait_for_all(self) -> None:
        """Until no call is unanswered."""
        while self._calls:
            self.pump()

    def pump(self, deadline: float | None = None) -> None:
        """Send and receive what is possible, waiting until something is.

        Args:
            deadline: On ``time.monotonic()``; what takes longer is a lost connection. Default:
                as long as a server may be silent.
        """
        self._check()
        flushed = self._flush()  # first: a fast server may never leave a moment for it
        if self._take_input():
            return
        self._wait(write=not flushed, deadline=deadline)

    def poll(self) -> None:
        """Take what has come, without waiting. Raises Interrupted."""
        self._check()
        self._take_input()

    def take_unasked(self) -> None:
        """While nothing is asked: take what has come, and notice whether the server has left."""
        if self.broken:
            return
        try:
            while self._take_input():
                pass
        except FtpError as error:
            if isinstance(error, SessionEnded) and self._on_remark is not None:
                self._on_remark(str(error))
            self.broken = True
            self.channel.abort()

    @property
    def longest_silence(self) -> float:
        """Seconds that the server may be silent while it owes an answer."""
        return STALL_SECONDS if self.silence is None else self.silence

    def _drain_output(self) -> None:
        while not self._flush():
            self._wait(write=True)
        self._check()

    def _flush(self) -> bool:
        try:
            return self.channel.try_flush()
        except ConnectionLost as error:
            self._take_input()  # the server's last words may tell why
            self._lost(error)

    def _wait(self, *, write: bool = False, deadline: float | None = None) -> None:
        """Wait for the socket, and take what came in."""
        try:
            if deadline is None:
                deadline = time.monotonic() + self.longest_silence
            ready = self.channel.wait(read=True, write=write, deadline=deadline)
        except ConnectionLost as error:
            self._lost(error)
        self.moved_at = time.monotonic()
        if ready.readable:
            self._take_input()

    def _take_input(self) -> bool:
        """Hand out what has come, but not all of an endless stream; False when nothing had."""
        took = 0
        try:
            while time.monotonic() < self._until and self._take_frame():
                self._check()  # a fast server may never let this loop end
                took += 1
                if took >= _FRAMES_AT_ONCE:
                    break
        except ConnectionLost as error:
            # an end that follows the last answer is no failure: whoever asks next hears of it
            if self._calls or not took or isinstance(error, _TOLD):
                self._lost(error)
        except ProtocolError as error:
            self._end_with(error)
        return bool(took)

    def _take_frame(self) -> bool:
        """Go on with the current frame, or the next; False when more has to come first."""
        reader, channel = self.reader, self.channel
        header = self._header
        if header is None:
            header = reader.next_header()
            if header is None:
                limit = HEADER_SIZE - reader.buffered if self._exactly else None
                return channel.fill(reader, limit)
            self._header = header
            if header.kind == Kind.DATA:
                self._call_of(header).on_frame(header.size)
        if header.kind == Kind.DATA:
            if not self._take_data(header):
                return False
        else:
            payload = reader.payload()
            if payload is None:
                return channel.fill(reader)
            self._header = None
            self._exactly = False
            self._dispatch(header, payload)
            return True
        self._header = None
        return True

    def _take_data(self, header: Header) -> bool:
        call = self._call_of(header)
        reader = self.reader
        if call.sink is not None:
            # what comes after the next header belongs to the sink as well
            self._exactly = True
            return self.channel.move_payload(reader, call.sink)
        while reader.remaining:
            piece = reader.take(reader.remaining)
            if piece:
                call.on_data(piece)
            elif not self.channel.fill(reader):
                return False
        return True

    def _call_of(self, header: Header) -> Call:
        call = self._calls.get(header.request_id)
        if call is None:
            raise BadMessage("the server answered what nobody asked")
        return call

    def _dispatch(self, header: Header, payload: memoryview) -> None:
        kind = header.kind
        if kind == Kind.NOTICE:
            notice = messages.decode_notice(payload)
            call = self._calls.get(header.request_id)
            if isinstance(notice, messages.GoingDown):
                self._going_down = notice.message
            elif isinstance(notice, messages.Remark):
                if self._on_remark is not None:
                    self._on_remark(notice.message)
            elif call is not None and notice is not None:
                call.on_notice(notice)
            return
        if kind == Kind.ERROR and header.request_id == 0:
            self._end_with(messages.decode_failed(payload).to_error())
        call = self._call_of(header)
        if kind == Kind.REPLY:
            call.reply = messages.decode_reply(payload)
            if not isinstance(call.reply, call.answers):
                raise BadMessage(f"the server answered with {type(call.reply).__name__}")
            if not call.on_reply(call.reply):
                return
        elif kind == Kind.END:
            call.ending = messages.decode_ending(payload)
            if not isinstance(call.ending, call.endings):
                raise BadMessage(f"the server ended with {type(call.ending).__name__}")
            call.on_ending()
        elif kind == Kind.ERROR:
            call.error = messages.decode_failed(payload).to_error()
            if call.is_transfer and isinstance(call.error, TooMany):
                self._have_no_room(call.error)
        else:
            raise BadMessage(f"the server sent a frame of kind {kind}")
        del self._calls[header.request_id]
        self._unanswered -= call.cost
        call.done = True
        call.on_done()

    def _have_no_room(self, error: TooMany) -> None:
        """The account has too many transfers running: as good as a server that is away. Whoever
        waits for a server waits for this one, too."""
        self._end_with(NoRoom(self._named(str(error))))

    def _check(self) -> None:
        if self._interrupt is not None:
            self._interrupt.check()

    def _lost(self, error: ConnectionLost) -> NoReturn:
        """The connection is gone: every call fails, and so does who waits."""
        if isinstance(error, _TOLD):
            self._end_with(error)  # the server has said why
        self._end_with(ConnectionLost(self._named(self._going_down or str(error))))

    def _named(self, reason: str) -> str:
        """A reason with the server's name before it, once."""
        name = f"{self.address.endpoint}: "
        return name + reason.removeprefix(name)

    def _end_with(self, error: FtpError) -> NoReturn:
        """Nothing more can come: every call fails with the error, and so does who waits."""
        if not self.broken:
            log.info("%s: lost: %s", self.address.endpoint, error)
        self.broken = True
        self.channel.abort()
        self._fail_all(error)
        raise error from None

    def _fail_all(self, error: FtpError) -> None:
        calls, self._calls = self._calls, {}
        with ExitStack() as stack:  # each of them, whatever others do: they hold descriptors
            for call in reversed(calls.values()):
                call.error = error
                call.done = True
                stack.callback(call.on_done)

    @property
    def unanswered(self) -> int:
        """Requests whose replies are still to come."""
        return len(self._calls)

    def cut(self) -> None:
        """End the connection from another thread: whoever waits for it gets ConnectionLost."""
        self.channel.cut()

    # interrupting ------------------------------------------------------------------------

    def cancel_all(self, seconds: float | None = None) -> None:
        """After Interrupted: give up every call, and keep the connection if that works soon.

        Afterwards either nothing is unanswered or the connection is ``broken``.

        Args:
            seconds: How long the server may take to end them; None for as long as usual.
        """
        self._rearm()
        calls = list(self._calls.values())
        self._cancel_calls(calls, _seconds_to_end(calls) if seconds is None else seconds)

    def cancel_due(self) -> None:
        """Give up the calls whose streams nobody takes any more; see `cancel_all`."""
        due, self._to_cancel = self._to_cancel, []
        calls = [call for call in due if not call.done]
        self._cancel_calls(calls, _seconds_to_end(calls))

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
        self.broken = True
        self.channel.abort()
        self._fail_all(Cancelled("the transfer was given up"))

    @property
    def in_step(self) -> bool:
        """Whether nothing is under way, in either direction: what comes next is a new request."""
        return not self._calls and self._header is None and not self.channel.has_output

    def _after_fork(self) -> None:
        """In a child process: close this copy of the socket; the connection is the parent's.

        The calls end, but are not told: what hangs on them is the parent's as well.
        """
        error = ConnectionLost(f"{self.address.endpoint}: the connection is the parent process's")
        self.broken = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.error = error
            call.done = True
        self._ahead.clear()
        if hasattr(self, "channel"):  # else a thread of the parent's was about to connect
            self.channel.ended = error
            self.channel.abort()

    def _rearm(self) -> None:
        if self._interrupt is not None:
            self._interrupt.clear()
        if not self.broken:
            self.channel.rearm()


def _seconds_to_end(calls: Iterable[Call]) -> float:
    """How long a server may take to end what was cancelled."""
    if all(call.only_tells for call in calls):
        return min(_CANCEL_LISTING_SECONDS, _CANCEL_SECONDS)
    return _CANCEL_SECONDS


def _all_done(calls: list[Call]) -> bool:
    return all(call.done for call in calls)


def name_of(reply: messages.LoggedIn) -> str:
    """Who the server says the user is, for prompts and messages."""
    return printable(reply.user[: messages.MAX_USER])


def outcome_unknown(
    request: Request, error: ConnectionLost | TimeOver
) -> ConnectionLost | TimeOver:
    """The error of a request whose answer did not come: the connection was lost, or the time over.

    A question can simply be asked again. Of what changes something it is said that it may have
    been done: to repeat it might do it twice.
    """
    made_once = isinstance(request, messages.MakeDir) and request.parents
    if made_once or isinstance(request, _REPEATABLE) or str(error).endswith(_MAYBE):
        return error
    return type(error)(f"{error}{_MAYBE}")


_MAYBE = "; it may have been done"
_TRANSFERS = (messages.Get, messages.Put, messages.PutPiece)
_REPEATABLE = (
    messages.Stat,
    messages.List,
    messages.Get,
    messages.Hash,
    messages.Put,
    messages.PutPiece,
    messages.Space,
    messages.WhoAmI,
    messages.ListTokens,
    messages.Login,
    messages.LoginToken,
    messages.LoginPeer,
    messages.BeginTree,
)


def _silence(server: Hello) -> float | None:
    """For how long a server may be silent, if it has said so."""
    if messages.ALIVE not in server.features or not server.stall_ms:
        return None
    return max(_LEAST_SILENCE, server.stall_ms / 1000)


def pause(seconds: float, interrupt: Interrupt | None) -> None:
    """Wait about so long before a new try, so that many clients don't come at once.

    Raises:
        Interrupted: The user doesn't want to wait.
    """
    wait_for(jittered(seconds), interrupt)


def jittered(seconds: float) -> float:
    """About so many seconds, others for each client."""
    return seconds * (0.5 + random())


def wait_for(seconds: float, interrupt: Interrupt | None) -> None:
    """Let time pass. Raises Interrupted as soon as the user doesn't want to wait."""
    select.select([] if interrupt is None else [interrupt], [], [], seconds)
    if interrupt is not None:
        interrupt.check()


class _TurnedAway(ConnectFailed):
    """Closed before HELLO: the server has too many connections just now."""


def _connect(address: ServerAddress, interrupt: Interrupt | None) -> socket.socket:
    if address.path is not None:
        return _connect_here(address, interrupt)
    sock = dial.connect(
        address.host,
        address.port,
        address.endpoint,
        seconds=CONNECT_SECONDS,
        interrupt=interrupt,
    )
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_probing(sock)
    return sock


def _connect_here(address: ServerAddress, interrupt: Interrupt | None) -> socket.socket:
    assert address.path is not None
    left = math.inf if interrupt is None else interrupt.until - time.monotonic()
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(min(CONNECT_SECONDS, max(0.001, left)))
        sock.connect(address.path)
    except OSError as error:
        sock.close()
        if error.errno is None:  # Python's own: it doesn't fit into a struct sockaddr_un
            raise ConnectFailed(f"{address.endpoint}: longer than a socket's path can be") from None
        raise _not_connected(address, error) from None
    try:
        peer.check(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _not_connected(address: ServerAddress, error: OSError) -> ConnectFailed:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, ConnectionRefusedError):
        reason += ": is ftpd running there?"
    return ConnectFailed(f"{address.endpoint}: {reason}")


_tickets: dict[str, ssl.SSLSession] = {}
"""By ``HOST:PORT``, of pinned servers. The key is compared with the pin all the same."""
_MOST_TICKETS = 64
