"""One session: handshake, log-in, then read a request, dispatch it, reply.

Lives here: the connection of one client, from its first byte to its last, and what handlers
may ask of it (receive a file, send data, look for a cancel).
Lives elsewhere: what the requests do (commands/), framing (ftpwire/frames.py), the accept loop
(daemon/server.py).

One way in, one way out: no handler reads frames itself. Replies come in the order of the
requests; those of small uploads wait for their batch, which is committed when no input is
ready, when it is full, or before any request that isn't a change of the same kind.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from socketserver import StreamRequestHandler
from typing import TYPE_CHECKING, cast

from ftpserver.accounts.accounts import Account, Refused
from ftpserver.accounts.penalties import Offence
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.net.addresses import host_of
from ftpserver.net.proxy_protocol import SIGNATURE
from ftpserver.serving.commands import COMMANDS, Command
from ftpserver.serving.keep_alive import ChannelGuard, DiskSink, FileSink
from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.batch import Uploads
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Permissions
from ftpwire import SOFTWARE, frames, messages, paths
from ftpwire.channel import Channel, Ready, TimedOut, keep_probing
from ftpwire.errors import (
    BadMagic,
    BadMessage,
    Banned,
    Cancelled,
    CommandError,
    ConnectionLost,
    FtpError,
    Internal,
    LoginRefused,
    NotLoggedIn,
    ProtocolError,
    SessionEnded,
    TooMany,
    VerificationFailed,
    VersionMismatch,
    from_oserror,
)
from ftpwire.frames import HEADER_SIZE, FrameReader, Header, Kind
from ftpwire.messages import Failed, Hello, Message, Sent
from ftpwire.pacing import Pace
from ftpwire.tls import HANDSHAKE_RECORD, TlsError, TlsPipe
from ftpwire.units import human

if TYPE_CHECKING:
    from ftpserver.accounts.authenticator import Admission
    from ftpserver.audit.trail import Trail
    from ftpserver.serving.context import Sharing

logger = logging.getLogger("ftpd.session")

DATA_SIZE = 512 * 1024
"""Bytes of a DATA frame that this server sends."""
FEATURES = [messages.PIECES, messages.ALIVE, messages.KEPT]
MAX_REQUESTS = 4096
MAX_UNANSWERED = 64 * 1024 * 1024
_CANCEL_EVERY = 4 * 1024 * 1024
_PROGRESS_SECONDS = 1.0
"""Seconds between notices about long work."""
_LOGIN_TRIES = 3
MOST_BEFORE_LOGIN = 16
"""Frames after HELLO that a client may send until it is logged in."""
_PASSED_OVER = 256 * 1024
"""Bytes that are read from somebody who isn't logged in, so that a last word arrives."""
_STEADY = 64 * 1024
"""Bytes that have to move within the stall time, or the peer is too slow."""
_SHORT = 0.5
"""Seconds that a transfer may wait for its client at once without counting as a running one."""
_LONG = 1024 * 1024
"""Bytes from which a transfer counts as a running one from its beginning."""
_IDLE_SHARE = 12
"""The part of the stall time without bytes after which an open upload makes room for another
transfer."""
_LINGER = 0.25
"""Seconds without a request after which a session gives up its thread, while few have one."""
_TURN = 0.05
"""Seconds after which a session that was parked lets others have its thread, between requests."""
_SETTINGS_SECONDS = 10.0
"""Seconds after which an idle session that isn't parked sees that its idle time is another one."""
_LAST_WORDS = 2.0
"""Seconds that a peer gets to read why it is being dropped."""


class _Dismissed(SessionEnded):
    """The session ends as if the server stopped."""

    code = "dismissed"


class _Idle(_Dismissed):
    """Nothing was asked for too long."""

    code = "idle"


class _GaveWay(_Dismissed):
    """Another transfer of the account needs the place."""

    code = "gave-way"


class _Steady:
    """Waits for a peer in the middle of a frame: for some time in all, until enough has moved.

    A deadline for each byte would let a peer hold a thread for ever with a byte a minute.

    Args:
        wait: Waits for the channel until a deadline; see `Channel.wait`.
    """

    def __init__(self, channel: Channel, seconds: float, wait: Callable[..., Ready]) -> None:
        self._channel = channel
        self._wait = wait
        self._seconds = self._left = seconds
        self._moved = channel.bytes_in + channel.bytes_out

    def wait(self, *, read: bool = False, write: bool = False) -> None:
        """Until something can be moved. Raises TimedOut."""
        moved = self._channel.bytes_in + self._channel.bytes_out
        if moved - self._moved >= _STEADY:
            self._moved, self._left = moved, self._seconds
        began = time.monotonic()
        self._wait(read=read, write=write, deadline=began + self._left)
        self._left -= time.monotonic() - began


class Session(StreamRequestHandler):
    """The connection of one client, in a thread of its own.

    Attributes:
        id: A number that no other session of this run has.
        since: When it was opened, by the clock of the run (ftpserver/clock.py).
        doing: The request under way or the last one; None while nothing is asked for.
        quiet_since: Since when the session waits for a request, on ``time.monotonic()``.
        host: The client's address, without its port.
        account: Who is logged in; None before.
        token_id: Of the token that was logged in with; None: by password.
        token_revoked: By this session itself, which goes on, and makes no tokens any more.
        request_id: The request being handled.
        tree: The atomic tree that is under way.
        on_long_wait: Called when the client of the transfer under way is waited for: it gives back
            what can be had again.
        renewing: The session changes its own password or token just now, which is no reason
            to end it.
        leaving: The session is at its end, and tells its client so.
    """

    rbufsize = 0  # the input buffer is the session's own: rfile and wfile stay unused
    server: Sharing  # type: ignore[assignment]  # a service, and no listener

    id = 0
    since = 0.0
    doing: messages.Request | None = None
    quiet_since = 0.0
    host = ""
    account: Account | None = None
    token_id: str | None = None
    token_revoked: bool = False
    renewing = False
    leaving = False
    request_id = 0
    tree: AtomicTree | None = None
    on_long_wait: Callable[[], None] | None = None
    _closing = False
    _nearly_full = False
    parked = False
    """Whether it waits without a thread (parking.py)."""
    gave_way = False
    """Whether it does that because others waited for its thread, and may have more to do."""
    at_rest = False
    """Whether it has nothing open."""
    _turn_ends = math.inf
    """On ``time.monotonic()``; never for the first thread, which is this session's own."""
    _failures = 0
    _has_spoken = False
    """Whether anything came."""
    _offence: Offence | None = None
    """What its end costs its address, if nobody has logged in."""
    _is_excused = False
    """It could have logged in, had there been room."""
    _asked = 0
    """Frames after HELLO, before log-in."""
    _place: str | None = None
    """Where the session counts for a limit."""
    _gone = False
    _since_look = 0
    _login_deadline = 0.0
    _home: Home | None = None
    _uploads: Uploads | None = None
    _receiving = False
    """Whether DATA frames of the current request are still to come."""
    _bytes_came = 0.0
    """When bytes of the upload came last, on ``time.monotonic()``."""
    _moves_bytes = False
    """Whether the current request is a transfer, and not refused yet."""
    _transfer: str | None = None
    """The running transfer, as it is counted."""
    _makes_room = False
    """Whether it was said that the transfer moves no bytes."""
    _moved_before = -1
    """Bytes that had moved when it was last looked whether a sign of life is due."""
    _trail: Trail
    _sent: Sent

    # what handlers use -------------------------------------------------------------------

    @property
    def user(self) -> Account:
        """Who is logged in. Raises NotLoggedIn."""
        if self.account is None:
            raise NotLoggedIn("log in first")
        return self.account

    @property
    def home(self) -> Home:
        """The user's home, opened at first use."""
        if self._home is None:
            try:
                self._home = Home(
                    self.user.home,
                    durable=self.server.settings.durable,
                    incarnation=self.server.ledger.incarnation,
                )
            except OSError as error:
                logger.error("%s: the home can't be opened: %s", self, error)
                raise Internal("your home directory can't be opened on the server") from None
            self._home.obey(self.user.rights)
        return self._home

    @property
    def uploads(self) -> Uploads:
        """The user's uploads, made at first use."""
        if self._uploads is None:
            self.home.check_writable()
            self._uploads = Uploads(
                self.home,
                self.server.ledger,
                self.user.id,
                durable=self.server.settings.durable,
                owners=self.server.owners,
                cut=self.cut,
            )
        return self._uploads

    def send(self, message: Message, kind: Kind = Kind.REPLY) -> None:
        """Send a frame of the current request; flushes when much is queued."""
        payload = messages.encode(message)
        with self.guard:
            self.channel.queue(frames.pack_header(len(payload), kind, self.request_id), payload)
            if self.channel.output_full:
                self.flush()

    def send_data(self, data: memoryview) -> None:
        """Send a DATA frame, straight from the caller's buffer when it is large.

        Raises:
            Cancelled: The client doesn't want more of it.
        """
        size = len(data)
        with self.guard:
            self._send_data(data)
        self.progressed(size)

    def _send_data(self, data: memoryview) -> None:
        channel, size = self.channel, len(data)
        channel.queue(frames.pack_header(size, Kind.DATA, self.request_id))
        if size < 32 * 1024:
            channel.queue(data)
            if channel.output_full:
                self.flush()
            return
        steady = self._steady()
        while data:
            sent = channel.try_send(data)
            if sent:
                data = data[sent:]
            else:
                steady.wait(write=True)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send bytes of a file as DATA frames, without copying them. Only without TLS.

        Raises:
            Cancelled: The client doesn't want more of it.
            ConnectionLost: The file became shorter: the frame that was announced can't be filled.
        """
        end = offset + count
        while offset < end:
            size = min(end - offset, self.file_size)
            with self.guard:  # the frame is open while the disk is read: nothing may come between
                self._send_file(fd, offset, offset + size)
            offset += size
            self.progressed(size)

    def _send_file(self, fd: int, offset: int, stop: int) -> None:
        channel = self.channel
        channel.queue(frames.pack_header(stop - offset, Kind.DATA, self.request_id))
        steady = self._steady()
        while offset < stop:
            try:
                sent = channel.try_send_file(fd, offset, stop - offset)
            except EOFError:
                raise ConnectionLost("a file became shorter while it was sent") from None
            except OSError as error:  # a failing disk: the frame can't be filled either
                raise ConnectionLost(f"a file can't be read: {error}") from None
            offset += sent
            if not sent:
                steady.wait(write=True)

    def progressed(self, count: int) -> None:
        """Say that ``count`` bytes of long work were done: looks for a CANCEL now and then.

        Raises:
            Cancelled: The client has sent one.
            SessionEnded: The session is to end.
        """
        if self.channel.ended is not None:
            raise self.channel.ended
        self._since_look += count
        if self._since_look >= _CANCEL_EVERY:
            self._since_look = 0
            self.look_for_cancel()

    def notice(self, message: Message) -> None:
        """Tell about long work at once."""
        self.send(message, Kind.NOTICE)
        self.flush()

    def tell_progress(self, total: int | None) -> Callable[[int], None]:
        """Something to call with the bytes done during long work: tells them now and then."""
        told = time.monotonic()

        def tell(done: int) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= _PROGRESS_SECONDS:
                told = now
                self.notice(messages.Progress(done, total))

        return tell

    def transferring(self, size: int | None, *, sends: bool = False) -> None:
        """The current request moves so many bytes; None: nobody knows how many.

        It counts as a running transfer at once if it is long, else as soon as it waits for its
        client: most small ones cost no question to another process. It counts until the session
        does something else, or waits for a request.

        Args:
            sends: They go to the client, which gets them slowly at first.

        Raises:
            TooMany: The account has as many as it may have.
        """
        if size is None or size > _LONG:
            self._count_transfer()
            if sends:
                self.channel.start_slowly()

    def _count_transfer(self) -> None:
        if self._transfer is None:
            limits = self.server.limits
            self._transfer = limits.begin_transfer(self.user, self.give_way)

    def _uncount_transfer(self) -> None:
        transfer, self._transfer, self._makes_room = self._transfer, None, False
        if transfer is not None:
            self.server.limits.end_transfer(transfer)

    def _await_peer(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready:
        """As `Channel.wait`; once that takes a while, a request that moves bytes counts, and gives
        back what it doesn't need meanwhile."""
        soon = time.monotonic() + _SHORT
        if self._moves_bytes and (deadline is None or soon < deadline):
            try:
                return self.channel.wait(read=read, write=write, deadline=soon)
            except TimedOut:
                self._count_waiting(in_frame=write)
                self._hold_little()
        return self.channel.wait(read=read, write=write, deadline=deadline)

    def _count_waiting(self, *, in_frame: bool) -> None:
        """Raises ConnectionLost where it is too many, and a frame of ours is open: nothing can be
        said any more."""
        try:
            self._count_transfer()
        except TooMany as error:
            if in_frame:
                raise ConnectionLost(str(error)) from None
            raise

    def _hold_little(self) -> None:
        if self.on_long_wait is not None:
            self.on_long_wait()
        if isinstance(self.doing, messages.Get) and self.tree is None:
            self._close_home()  # the file itself is open

    def receive_small(self, size: int) -> tuple[bytearray, Sent]:
        """Receive all DATA of the current upload into memory: at most ``size`` bytes.

        Raises:
            VerificationFailed: More came.
            Cancelled: The client gave it up.
        """
        with self.guard:
            return self._receive_small(size)

    def _receive_small(self, size: int) -> tuple[bytearray, Sent]:
        data = bytearray()
        self._bytes_came = time.monotonic()
        while (header := self._next_data()) is not None:
            self._end_if_nothing_comes(header)
            if len(data) + header.size > size:
                raise VerificationFailed(f"more bytes came than the {size} announced")
            steady = self._steady()
            while self.reader.remaining:
                piece = self.reader.take(self.reader.remaining)
                if piece:
                    data += piece
                elif not self.channel.fill(self.reader):
                    steady.wait(read=True)
        return data, self._sent

    def receive_large(
        self,
        sink: FileSink,
        expect: Callable[[int], None],
        came: Callable[[], bool] = lambda: False,
    ) -> Sent:
        """Receive all DATA of the current upload, straight into the sink's buffers.

        Args:
            expect: Called with the bytes of each frame before they come; raises to refuse.
            came: Whether bytes came another way since it was called last.
        """
        sink = DiskSink(sink, self.guard)
        self.on_long_wait = sink.rest
        self._bytes_came = time.monotonic()
        try:
            with self.guard:
                while (header := self._next_data(exactly=True)) is not None:
                    self._end_if_nothing_comes(header, came)
                    with self.guard.away():
                        expect(header.size)
                    steady = self._steady()
                    while not self.channel.move_payload(self.reader, sink):
                        steady.wait(read=True)
        finally:
            self.on_long_wait = None  # the file may be closed when the session waits again
        return self._sent

    # from the first byte to the last -----------------------------------------------------

    def setup(self) -> None:
        """Before ``handle``: small answers don't wait for more to come (TCP_NODELAY)."""
        nagle = self.request.family != socket.AF_UNIX
        self.disable_nagle_algorithm = nagle  # type: ignore[misc]  # each has its own
        super().setup()

    def handle(self) -> None:
        """Serve the connection until either side ends it."""
        settings = self.server.settings
        self.quiet_since = time.monotonic()
        self._login_deadline = self.quiet_since + settings.login_grace
        self.id, self.since = self.server.next_session_id(self.request), RUN.now()
        self.reader = FrameReader()
        self.guard = ChannelGuard()
        parking = self.server.parking
        self.channel = Channel(
            self.request,
            wake_fd=self.server.stop_fd,
            on_wake=self._server_stops,
            before_wait=None if parking is None else parking.stand_aside,
        )
        if self.request.family != socket.AF_UNIX:
            keep_probing(self.request)
        self.peer = peer_name(self.client_address)
        self.host = host_of(self.client_address, self.request)
        self._trail = self.server.audit.trail(self)
        self.server.sessions.add(self)
        self._do(self._open_and_serve)

    def resume(self) -> None:
        """Go on after having been parked, until there is nothing to do again, or the end."""
        self.parked = self.gave_way = self.at_rest = False
        self._turn_ends = time.monotonic() + _TURN
        self._do(self._serve)

    def _open_and_serve(self) -> None:
        self._open()
        self._serve()

    def _do(self, part: Callable[[], None]) -> None:
        """Do a part of the session; its end is the session's, unless it was parked."""
        self.guard.__enter__()
        try:
            part()
        except ProtocolError as error:
            logger.info("%s: dropped: %s", self, paths.printable(str(error)))
            self._note_offence(error)
            self._last_words(error)
        except SessionEnded as error:
            logger.info("%s: ended: %s", self, error)
            self._trail.note(str(error))
            self._end_in_order(error)
        except ConnectionLost as error:
            logger.info("%s: %s", self, error)
            self._note_offence(error)
            self._store_unanswered()
        except Exception:
            logger.exception("%s: the session failed", self)
            self._last_words(Internal("internal error"))
        finally:
            if self.parked:
                self.guard.__exit__()
            else:  # no other thread is to use the channel any more
                self._clean_up()
                self._tell_offence()
                self.server.forget(self)

    def _note_offence(self, error: FtpError) -> None:
        """What the end of a stranger costs its address."""
        if self._offence is not None or self.account is not None:
            return
        match error:
            case TimedOut():
                self._offence = Offence.TOO_LATE
            case BadMagic() | VersionMismatch():
                pass  # a wrong option or an old program: told, and no worse than leaving
            case ProtocolError() | TlsError():
                self._offence = Offence.PROTOCOL

    def _tell_offence(self) -> None:
        if self.account is not None or self._is_excused or self.server.stopping:
            return
        offence = self._offence or (Offence.NO_LOGIN if self._has_spoken else None)
        if offence is not None:
            self.server.penalize(self, offence)

    def __str__(self) -> str:
        return f"{self.account.name}@{self.peer}" if self.account else self.peer

    def _end_in_order(self, error: SessionEnded) -> None:
        """What came in whole is stored and answered; then the client is told why it ends."""
        self.leaving = True
        if self.account is None:
            return  # a stranger is told nothing
        try:
            self.commit()
        except ConnectionLost:
            return  # the client has left, or is too slow to hear more
        except Exception:
            logger.exception("%s: the last uploads could not be stored", self)
        if isinstance(error, (_Idle, _GaveWay)):
            self._close_with(Kind.NOTICE, messages.GoingDown(str(error)))
        elif isinstance(error, _Dismissed):
            self._close_with(Kind.NOTICE, messages.GoingDown())
        else:
            self._last_words(error)

    def _store_unanswered(self) -> None:
        """The client is gone, but some uploads came in whole: it need not send them again."""
        try:
            if self._uploads is not None:
                self._trail.committed(self._uploads.commit(late=True))
        except Exception:
            logger.exception("%s: the last uploads could not be stored", self)

    def _clean_up(self) -> None:
        try:
            if self._uploads is not None:
                self._uploads.abandon()
            if self.tree is not None:
                self.tree.abort(lambda: None)
        except Exception:
            logger.exception("%s: uploads could not be cleaned up", self)
        self._gone = True
        try:
            self._uncount_transfer()
            self._leave()
        except Exception:
            logger.exception("%s: its place is given back later", self)
        if self._home is not None:
            self._home.close()
        self._trail.close()
        self.channel.close()

    def _last_words(self, error: FtpError) -> None:
        """Say why, outside any request, and close so that it arrives."""
        self._close_with(Kind.ERROR, Failed.from_error(error))

    def _close_with(self, kind: Kind, message: Message) -> None:
        self.channel.queue(frames.frame(kind, 0, messages.encode(message)))
        most = None if self.account is not None else _PASSED_OVER
        self.channel.close_after_error(_LAST_WORDS, most)

    def _open(self) -> None:
        """TLS unless the server is plain, then HELLO."""
        local = self.request.family == socket.AF_UNIX  # nobody listens in there
        context = None if local else self.server.tls_context
        first = self._peek()
        if first == SIGNATURE[0]:
            raise BadMessage("a PROXY header, from an address that isn't in proxy-from")
        if context is None:
            if first == HANDSHAKE_RECORD:
                raise BadMagic("this server speaks without TLS: connect with --plaintext")
        else:
            if first != HANDSHAKE_RECORD:
                raise BadMagic("this server speaks TLS only: connect without --plaintext")
            self.channel.tls = TlsPipe(context, server_side=True)
            self.channel.handshake(self._login_deadline, hold=True)
        self._hello()

    def _server_stops(self) -> None:
        """While waiting: who is in the middle of a request may go on, a stranger may not."""
        if self.account is None:
            raise ConnectionLost("the server is stopping")

    def _peek(self) -> int:
        """The connection's first byte, left where it is."""
        while True:
            try:
                data = self.request.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.channel.wait(read=True, deadline=self._login_deadline)
                continue
            except OSError as error:
                raise ConnectionLost(f"connection lost: {error.strerror}") from None
            if not data:
                raise ConnectionLost("closed before the first byte")
            self._has_spoken = True
            return cast(int, data[0])

    def _hello(self) -> None:
        header = self._header(self._login_deadline)
        payload = self._whole(header, self._login_deadline)
        if header.kind != Kind.REQUEST:
            raise BadMagic("the first frame is not a HELLO")
        theirs = messages.decode_hello(payload)
        if theirs.version != messages.VERSION:
            raise VersionMismatch(
                f"the client speaks protocol version {theirs.version}, "
                f"this server version {messages.VERSION}"
            )
        self.file_size = max(1024, min(frames.MAX_DATA, theirs.max_data or DATA_SIZE))
        self.data_size = max(1024, min(DATA_SIZE, theirs.max_data or DATA_SIZE))
        self.page_size = max(1024, min(frames.MAX_CONTROL, theirs.max_control or 4096))
        ours = Hello(
            software=SOFTWARE,
            features=FEATURES,
            max_control=frames.MAX_CONTROL,
            max_data=frames.MAX_DATA,
            max_requests=MAX_REQUESTS,
            max_unanswered=MAX_UNANSWERED,
            stall_ms=math.ceil(self.server.settings.stall * 1000),
        )
        reply = messages.encode_hello(ours)
        self.channel.queue(frames.frame(Kind.REPLY, header.request_id, reply))

    def _serve(self) -> None:
        """Read and answer requests until the client leaves or the server stops."""
        reader = self.reader
        deadline: float | None = None  # for the whole frame that has begun to arrive
        while not self._closing:
            if self.server.stopping:
                self._say_goodbye()
                return
            if self.account is None and time.monotonic() > self._login_deadline:
                raise TimedOut("did not log in in time")
            if deadline is None and self._turn_is_over():
                self._quiet()
                self.parked = self.gave_way = True
                return
            header = reader.next_header()
            if header is None:
                if not self.channel.fill(reader):
                    self._quiet()
                    if not reader.buffered and not self.channel.is_amid_record:
                        deadline = None
                    elif deadline is None:
                        deadline = self._stall()
                    elif time.monotonic() > deadline:  # a little more is there all the time
                        raise TimedOut("the peer did not finish in time")
                    if deadline is None and self._may_park():
                        if self._is_idle():
                            self.parked = True
                            return
                        continue
                    self._await_input(deadline)
                continue
            payload = self._whole(header, self._patience(deadline or self._stall()))
            deadline = None
            if self.account is None:
                self._asked += 1
                if self._asked > MOST_BEFORE_LOGIN:
                    self._offence = Offence.TOO_MUCH
                    raise BadMessage(f"more than {MOST_BEFORE_LOGIN} requests before log-in")
            if header.kind == Kind.REQUEST:
                self.request_id = header.request_id
                self._answer(messages.decode_request(payload))
            elif header.kind == Kind.CANCEL:
                pass  # of a request that is answered already
            else:
                raise BadMessage(f"a frame of kind {header.kind} where a request belongs")
        self._quiet()

    def _may_park(self) -> bool:
        return self.account is not None and self.tree is None and self.server.parking is not None

    def _turn_is_over(self) -> bool:
        """Whether others wait for the thread that this session has had for some time."""
        if time.monotonic() < self._turn_ends or not self._may_park():
            return False
        return self.server.parking is not None and self.server.parking.has_waiting

    def _is_idle(self) -> bool:
        """Whether nothing comes for a moment; False also when the server stops.

        Where many have something to do, nobody waits for that moment.
        """
        parking = self.server.parking
        assert parking is not None
        self._end_if_overdue()
        if not parking.is_calm(len(self.server.sessions)):
            if self._uploads is not None:
                self._uploads.rest()
            return True
        if self._request_comes(_LINGER):
            return False
        self.rest()
        return True

    def _request_comes(self, seconds: float) -> bool:
        """Whether something comes in so many seconds. Raises _Idle when the idle time is over."""
        until = time.monotonic() + seconds
        idle = self.server.settings.idle_timeout
        try:
            self.channel.wait(
                read=True, deadline=min(until, self.quiet_since + idle) if idle else until
            )
        except TimedOut:
            self._end_if_overdue()  # by the settings as they are now
            return False
        return True

    def _end_if_overdue(self) -> None:
        """Raises _Idle when nothing was asked for too long."""
        if self.is_overdue(time.monotonic()):
            idle = self.server.settings.idle_timeout
            raise _Idle(f"nothing was asked for {idle:g} seconds") from None

    def _end_if_nothing_comes(
        self, header: Header, came: Callable[[], bool] = lambda: False
    ) -> None:
        """Raises _Idle when a client has sent nothing but empty DATA frames for the idle time.

        They are a sign of life where the source is silent, or where the bytes come in pieces.
        """
        now, settings = time.monotonic(), self.server.settings
        idle = settings.idle_timeout
        if header.size or came():
            self._bytes_came = now
        elif idle and now >= self._bytes_came + idle:
            raise _Idle(f"no bytes came for {idle:g} seconds")
        idles = now >= self._bytes_came + settings.stall / _IDLE_SHARE
        if idles != self._makes_room:
            self._tell_idle(idles)

    def _tell_idle(self, idle: bool) -> None:
        """Say whether the running transfer makes room for another one."""
        if self._transfer is not None:
            self._makes_room = idle
            self.server.limits.tell_idle(self._transfer, idle)

    def rest(self) -> None:
        """Give back what is open: nothing was asked for some time. It is opened again when it is
        needed."""
        self._close_home()
        self.reader.rest()
        self.at_rest = True

    def _close_home(self) -> None:
        if self._uploads is not None:
            self._uploads.abandon()
            self._uploads = None
        if self._home is not None:
            self._home.close()
            self._home = None

    def _stand_aside(self) -> None:
        """What follows waits for the disk, or takes its time."""
        if self.server.parking is not None:
            self.server.parking.stand_aside()

    def is_overdue(self, now: float) -> bool:
        """Whether a parked session was idle for too long."""
        idle = self.server.settings.idle_timeout
        return bool(idle) and now >= self.quiet_since + idle

    def _await_input(self, deadline: float | None) -> None:
        """Wait for more of a frame, until its deadline; or for a new one, not for ever."""
        deadline = self._patience(deadline)
        if deadline is not None:
            self.channel.wait(read=True, deadline=deadline)
            return
        self._request_comes(_SETTINGS_SECONDS)

    def _quiet(self) -> None:
        """Nothing to read now: finish what waits, and give memory back."""
        self.commit()
        self._uncount_transfer()
        self.flush()
        self.reader.shrink()
        if self.doing is not None:
            self.doing = None
            self.quiet_since = time.monotonic()

    def _say_goodbye(self) -> None:
        """The server stops: what was asked before is answered, what comes now isn't."""
        self.commit()
        self._close_with(Kind.NOTICE, messages.GoingDown())

    def _patience(self, deadline: float | None) -> float | None:
        """Until when the next bytes have to come; before log-in, no longer than the grace."""
        return self._login_deadline if self.account is None else deadline

    def _stall(self) -> float:
        stall = time.monotonic() + self.server.settings.stall
        return stall if self.account is not None else min(stall, self._login_deadline)

    def _steady(self) -> _Steady:
        return _Steady(self.channel, self.server.settings.stall, self._await_peer)

    # requests ----------------------------------------------------------------------------

    def _answer(self, request: messages.Request) -> None:
        """Look the request's type up in the dispatch table, run it, and send what it returns.

        This is the one place where a handler's errors become replies.
        """
        self.doing = request
        with self.guard.away():
            self._do_request(request)

    def _do_request(self, request: messages.Request) -> None:
        command = COMMANDS[type(request)]
        self._receiving = command.takes_data
        self._moves_bytes = command.transfers and self.account is not None
        if not command.transfers:
            self._uncount_transfer()
        elif self._makes_room:
            self._tell_idle(False)
        self._since_look = 0
        self._trail.asked(self.request_id, request)
        try:
            if not command.batched:
                self.commit()
            if not command.quick:
                self._stand_aside()
            reply = self._run(command, request)
        except CommandError as error:
            reply = Failed.from_error(error)
        except OSError as error:  # the file system's: the socket's are ConnectionLost
            path: bytes = getattr(request, "path", b"") or getattr(request, "source", b"")
            reply = Failed.from_error(from_oserror(error, paths.show(path)))
        except (ProtocolError, ConnectionLost):
            raise
        except StateError as error:  # which says it in one line
            logger.error("%s: %s failed: %s", self, type(request).__name__, error)
            reply = Failed.from_error(Internal("internal error"))
        except Exception:
            logger.exception("%s: %s failed", self, type(request).__name__)
            reply = Failed.from_error(Internal("internal error"))
        self._moves_bytes = False
        if isinstance(reply, Failed) and self._uploads is not None and not command.batched:
            self._uploads.abandon()  # what it had begun to change is nobody's any more
        if reply is not None:
            self._reply(reply, command.ending and not isinstance(reply, Failed))
        else:
            self._trail.joined(self._sent.digest if command.takes_data else None)
        if self._receiving:
            if self.account is None:  # to pass over what comes would keep the connection open
                self._offence = Offence.TOO_MUCH
                raise BadMessage("file bytes before log-in")
            with self.guard:
                self._pass_over_data()
        if self._uploads is not None and self._uploads.full:
            self.commit()

    def _run(self, command: Command, request: messages.Request) -> Message | None:
        if self.account is not None:
            self._require(command, self.account.rights, request)
        elif not command.before_login:
            raise NotLoggedIn("log in first")
        return command.run(self, request)

    def _require(
        self, command: Command, permissions: Permissions, request: messages.Request
    ) -> None:
        """Raise Forbidden unless the account, as it is now, may ask for that."""
        if self._home is not None and self._home.permissions is not permissions:
            self._home.obey(permissions)
        if not permissions.unlimited:
            command.require(permissions, request)

    def _reply(self, reply: Message, ending: bool) -> None:
        kind = Kind.ERROR if isinstance(reply, Failed) else Kind.END if ending else Kind.REPLY
        if self._uploads is not None and self._uploads.pending:
            if kind is Kind.END:
                self.commit()
            else:
                self._uploads.add_outcome(self.request_id, reply)
                self._trail.joined()
                return
        self._trail.answered(reply)
        self.send(reply, kind)

    def commit(self) -> None:
        """Finish the uploads under way and send their replies."""
        if self._uploads is None or not self._uploads.pending:
            return
        current = self.request_id
        self._stand_aside()
        with self.guard.away():
            outcomes = self._uploads.commit()
            self._trail.committed(outcomes)
        self._warn_of_little_room()  # first: a client that has its answer may leave
        self._pass_on_remarks()
        for request_id, outcome in outcomes:
            self.request_id = request_id
            self.send(outcome, Kind.ERROR if isinstance(outcome, Failed) else Kind.REPLY)
        self.request_id = current

    def _warn_of_little_room(self) -> None:
        """Tell the client when its quota is nearly used up; again only after that was over."""
        settled = self.uploads.settled
        if settled is None or settled.quota is None:
            return
        before, self._nearly_full = self._nearly_full, settled.nearly_full
        if self._nearly_full and not before:
            self.request_id = 0
            text = f"{human(settled.used)} of {human(settled.quota)} are used"
            self.send(messages.Remark(text), Kind.NOTICE)

    def _pass_on_remarks(self) -> None:
        """Tell the client what its commits came upon."""
        while self.uploads.remarks:
            self.remark(self.uploads.remarks.pop())

    def remark(self, text: str) -> None:
        """Tell the client something that its user should know."""
        current, self.request_id = self.request_id, 0
        self.send(messages.Remark(text), Kind.NOTICE)
        self.request_id = current

    def has_removed(self, files: int, size: int) -> None:
        """The request fails, and so much was removed by it: the audit log tells that."""
        if files:
            self._trail.removed(files, size)

    def flush(self) -> None:
        """Send all output, waiting for the peer as long as a stall may be."""
        deadline = self._stall()
        with self.guard:
            while not self.channel.try_flush():
                self._await_peer(write=True, deadline=deadline)

    def say_alive(self) -> None:
        """From the thread for that: send a sign of life if the client waits for an answer and has
        heard nothing for a while.

        What is queued goes out with it. A client that doesn't take what was sent gets none.
        """
        channel = self.channel
        moved = channel.bytes_in + channel.bytes_out
        before, self._moved_before = self._moved_before, moved
        if moved != before or self.doing is None or self.account is None or not self.guard.take():
            return
        try:
            notice = messages.encode(messages.Progress(0))
            channel.interject(frames.frame(Kind.NOTICE, self.request_id, notice))
        except ConnectionLost:
            pass  # the session's own thread finds that out
        finally:
            self.guard.back()

    def end(self, why: str) -> None:
        """End the session from another thread, and tell its client why.

        What can't be interrupted, as a frame that the client takes slowly, is not: `hasten` it
        after a moment, then `cut` it.
        """
        self.channel.end(SessionEnded(why), wake=self.doing is None)

    def hasten(self) -> None:
        """End a session that was told to, also where it waits for its client to send more."""
        if self.channel.ended is not None:
            self.channel.end(self.channel.ended, wake=True)

    def dismiss(self) -> None:
        """The same as if the server stopped; for a session that is doing nothing."""
        self.channel.end(_Dismissed("the server takes its leave"), wake=True)

    def give_way(self, transfer: str) -> None:
        """Another transfer needs the place of this one, if it still runs. From another thread."""
        if transfer == self._transfer:
            error = _GaveWay("another transfer of the account needs the place of one without bytes")
            self.channel.end(error, wake=True)

    def cut(self) -> None:
        """End the connection at once, from another thread."""
        self.channel.cut()

    def log_in(self, admitted: Admission) -> None:
        """The client is who it says: open the session."""
        self._place = admitted.place
        self.server.logged_in(self)
        self.account = account = admitted.account
        self.token_id = admitted.token_id
        self._set_pace(account)
        self.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)
        self._trail.logged_in(admitted.token_id or admitted.invitation)
        logger.info("%s: logged in", self)

    def turn_away(self, name: str, error: CommandError) -> None:
        """The client is who it says, and there is no place for it: the connection ends."""
        logger.warning("%s: log-in refused for %s: %s", self, paths.show(name), error)
        self._closing = self._is_excused = True

    def follow(self, account: Account) -> None:
        """The account was changed by somebody else: what is asked for from now on obeys that.

        From another thread.
        """
        self.account = account
        self._set_pace(account)
        had = self._place
        place = self.server.limits.enter(account, self.host, at_any_rate=True, had=had)
        if place != had:  # a limit is new: this session counts for the next ones
            self._place = place
            if self._gone:
                self._leave()

    def renew(self, account: Account) -> None:
        """The account was changed by this very session, which goes on."""
        self.account = account
        self.token_id = None
        self.token_revoked = False

    def _set_pace(self, account: Account) -> None:
        """The server's rate is for each session, the account's for all of its sessions."""
        shared, own = self.server.limits.pace(account), self.server.settings.limit_rate
        self.channel.pace = shared if own is None else Pace(own, within=shared)

    def _leave(self) -> None:
        place, self._place = self._place, None
        self.server.limits.leave(place)

    def log_in_failed(self, name: str, error: LoginRefused) -> None:
        """Count a refused log-in, and take some time; the last one allowed ends the connection."""
        self._failures += 1
        reason = error.reason if isinstance(error, Refused) else str(error)
        logger.warning("%s: log-in refused for %s: %s", self, paths.show(name), reason)
        self._trail.note(reason)
        self.hold_back(self.server.entrance.delay(self.host, error))
        self._closing = self._failures >= _LOGIN_TRIES or isinstance(error, Banned)

    def hold_back(self, seconds: float) -> None:
        """Let time pass, unless the server stops or the peer leaves."""
        until = min(time.monotonic() + seconds, self._login_deadline)
        try:
            with self.guard:
                while time.monotonic() < until and not any(self.channel.wait(deadline=until)):
                    pass
        except TimedOut:
            pass  # it has passed

    # reading frames ----------------------------------------------------------------------

    def _receive(self, deadline: float | None, limit: int | None = None) -> None:
        """Receive something into the input buffer, waiting for it.

        The deadline also ends a peer that always has a little more to send.
        """
        if deadline is not None and time.monotonic() > deadline:
            raise TimedOut("the peer did not finish in time")
        while not self.channel.fill(self.reader, limit):
            self._await_peer(read=True, deadline=deadline)

    def _header(self, deadline: float | None, exactly: bool = False) -> Header:
        reader = self.reader
        while (header := reader.next_header()) is None:
            # in a stream of large frames, what comes after the header goes elsewhere
            self._receive(deadline, HEADER_SIZE - reader.buffered if exactly else None)
        return header

    def _whole(self, header: Header, deadline: float | None) -> memoryview:
        """The payload of a control frame. The deadline is for all of it."""
        if header.kind == Kind.DATA:
            raise BadMessage("file bytes outside an upload")
        while (payload := self.reader.payload()) is None:
            self._receive(deadline)
        return payload

    def _next_data(self, exactly: bool = False, deadline: float | None = None) -> Header | None:
        """The header of the upload's next DATA frame; None after its END, kept in ``_sent``."""
        if deadline is None:
            deadline = self._stall()
        header = self._header(deadline, exactly)
        while header.kind == Kind.CANCEL and header.request_id != self.request_id:
            self._whole(header, deadline)  # of one that waits for its answer, or has it
            header = self._header(deadline, exactly)
        if header.request_id != self.request_id:
            raise BadMessage("another request inside an upload")
        if header.kind == Kind.DATA:
            return header
        payload = self._whole(header, self._stall())
        if header.kind not in (Kind.END, Kind.CANCEL):
            raise BadMessage(f"a frame of kind {header.kind} inside an upload")
        self._receiving = False
        if header.kind == Kind.CANCEL:
            raise Cancelled("cancelled")
        self._sent = messages.decode_sent(payload)
        return None

    def _pass_over_data(self) -> None:
        """Discard what was sent of a refused upload, so that the stream stays in step.

        Empty DATA frames move no deadline here: there is no upload that they could keep open.
        """
        self.commit()
        self.flush()  # the client may wait for the refusal before it stops
        reader = self.reader
        deadline = self._stall()
        try:
            while True:
                if reader.remaining:
                    steady = self._steady()
                    while reader.remaining:
                        if not reader.take(reader.remaining) and not self.channel.fill(reader):
                            steady.wait(read=True)
                    deadline = self._stall()
                if self._next_data(deadline=deadline) is None:
                    return
        except Cancelled:
            return

    def look_for_cancel(self) -> None:
        """See whether the client has cancelled the current request, without blocking.

        Raises:
            Cancelled: It has.
        """
        if self.reader.buffered < 64 * 1024:
            with self.guard:
                self.channel.fill(self.reader)
        if self.reader.has_cancel(self.request_id):
            raise Cancelled("cancelled")


def peer_name(address: object) -> str:
    """A client's address for people: HOST:PORT, or ``local`` for a Unix socket."""
    if isinstance(address, tuple) and len(address) >= 2:
        host = str(address[0]).removeprefix("::ffff:")
        return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
    return "local"
