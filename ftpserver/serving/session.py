"""One session: from a connection's first byte to its last.

Lives here: the session's life, reading requests, dispatching them, what its client is sent at the
end, and what the end costs the client's address.
Lives elsewhere: what comes before the first request (opening.py), frames and replies (exchange.py),
the account that is logged in (authentication.py), what the requests do (commands/), the accept loop
(listeners.py), waiting without a thread (parking.py).

Replies are sent in the order of the requests. Replies to small changes wait for their batch. It is
committed when no input is ready, when it is full, or before any request that doesn't join it.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from socketserver import StreamRequestHandler
from typing import TYPE_CHECKING

from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.trash_policy import policy_of
from ftpserver.audit.context import Unusable
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.net.addresses import host_of, peer_uid
from ftpserver.serving import opening
from ftpserver.serving.authentication import Authentication
from ftpserver.serving.commands import COMMANDS, Command
from ftpserver.serving.endings import (
    LAST_WORDS,
    PASSED_OVER,
    Dismissed,
    Ending,
    GaveWay,
    Idle,
    ending_of,
    offence_of,
)
from ftpserver.serving.exchange import Exchange
from ftpserver.serving.running_transfer import RunningTransfer
from ftpserver.workspace.workspace import Workspace
from ftpwire import frames, messages, paths
from ftpwire.channel import Channel, TimedOut, keep_probing
from ftpwire.errors import (
    BadMessage,
    BadRequest,
    Cancelled,
    CommandError,
    ConnectionLost,
    FtpError,
    Internal,
    InvalidPath,
    NotLoggedIn,
    ProtocolError,
    SessionEnded,
    TooMany,
    UploadTakenOver,
    from_oserror,
)
from ftpwire.frames import Header, Kind
from ftpwire.messages import Failed, Message
from ftpwire.units import human, span

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.audit.context import AuditContext
    from ftpserver.serving.context import SessionContext
    from ftpserver.storage.trash.policy import Policy

logger = logging.getLogger("ftpd.session")

_SHORT = 10.0
"""Seconds up to which the log shows a session's duration with a fraction."""
_STOPPING = "the server is shutting down"
MOST_BEFORE_LOGIN = 16
"""Frames after HELLO that a client may send until it is logged in."""
_LINGER = 0.25
"""Seconds without a request after which a session gives up its thread, if few sessions have one."""
_HAS_THREAD = 0.05
"""Seconds after which a session that was parked lets others use its thread, between requests."""
_SETTINGS_SECONDS = 10.0
"""Seconds after which an idle session that isn't parked notices a changed idle timeout."""
_OF_NO_PATH = (Internal, NotLoggedIn, Cancelled)
"""Failures that are not about the path of their request."""
_NAMED_OTHERWISE = (BadRequest, InvalidPath, TooMany)
"""Failures whose text doesn't contain the whole path: it may be very long, or is named another
way."""


class Session(StreamRequestHandler):
    """The connection of one client, in a thread of its own or parked without one.

    Attributes:
        id: A number that no other session of this run has.
        since: When it was opened, by the clock of the run (ftpserver/clock.py).
        doing: The request under way or the last one; None while the session waits for a request.
        quiet_since: When the session began to wait for a request, on ``time.monotonic()``.
        peer: The client's address, for display.
        host: The client's address without its port.
        channel: The connection.
        exchange: The frames of the connection.
        authentication: The account that is logged in, and the credentials that were used.
        leaving: True once the session is ending and telling its client so.
        parked: True while the session waits without a thread (parking.py).
        gave_way: True if it is parked because others waited for its thread: its client may have
            sent more requests already.
        at_rest: True if the session has no files or directories open.
    """

    rbufsize = 0  # the session has its own input buffer: rfile and wfile stay unused
    server: SessionContext  # type: ignore[assignment]  # a service, not a listener

    id = 0
    since = 0.0
    doing: messages.Request | Unusable | None = None
    quiet_since = 0.0
    peer = ""
    host = ""
    leaving = False
    parked = False
    gave_way = False
    at_rest = False
    channel: Channel
    exchange: Exchange
    authentication: Authentication
    _audit_context: AuditContext
    _transfer: RunningTransfer
    _has_thread_until = math.inf
    """On ``time.monotonic()``; infinite for the first thread, which serves this session alone."""
    _has_spoken = False
    """True once the client has sent a byte."""
    _offence: Offence | None = None
    """The offence that the end counts as, if the client hasn't logged in."""
    _requests = 0
    """Frames after HELLO, before log-in."""
    _unknown: int | None = None
    """The id of the last request, if its name is unknown: DATA may follow it."""
    _has_misspoken = False
    """True after a request that was not understood. Only the first one is logged at INFO."""
    _moved_before = -1
    """The bytes that had moved when `say_alive` was last called."""

    def __str__(self) -> str:
        return str(self.authentication)

    @property
    def account(self) -> Account | None:
        """The account that is logged in; None before."""
        workspace = self.exchange.workspace
        return None if workspace is None else workspace.account

    @property
    def token_id(self) -> str | None:
        """The id of the token that the client logged in with; None after a password."""
        return self.authentication.token_id

    @property
    def token_revoked(self) -> bool:
        """True if the session itself has revoked that token."""
        return self.authentication.token_revoked

    @property
    def renewing(self) -> bool:
        """True while the session changes its own password or token."""
        return self.authentication.renewing

    # from the first byte to the last -----------------------------------------------------

    def setup(self) -> None:
        """Set TCP_NODELAY before ``handle``: a small reply is sent at once."""
        nagle = self.request.family != socket.AF_UNIX
        self.disable_nagle_algorithm = nagle  # type: ignore[misc]  # each has its own
        super().setup()

    def handle(self) -> None:
        """Serve the connection until either side ends it."""
        server, connection = self.server, self.request
        self.quiet_since = time.monotonic()
        self.id, self.since = server.next_session_id(connection), RUN.now()
        self.channel = Channel(
            connection,
            wake_fd=server.stop_fd,
            on_wake=self._server_stops,
            before_wait=server.before_wait,
        )
        if connection.family != socket.AF_UNIX:
            keep_probing(connection)
        self.peer = peer_name(self.client_address)
        self.host = host_of(self.client_address, connection)
        self._audit_context = server.audit.audit_context(self)
        self._transfer = RunningTransfer(server, self.give_way)
        login_deadline = self.quiet_since + server.settings.login_grace
        self.exchange = Exchange(
            server, self.channel, self._transfer, self._audit_context, login_deadline
        )
        self.authentication = Authentication(
            server,
            self.exchange,
            self._audit_context,
            peer=self.peer,
            host=self.host,
            uid=lambda: peer_uid(connection),
            on_log_in=self._logged_in,
        )
        server.sessions.add(self)
        self._do(self._open_and_serve)

    def _logged_in(self, account: Account) -> None:
        server = self.server
        server.logged_in(self)
        self.exchange.has_logged_in(
            Workspace(
                account,
                server.ledger,
                durable=server.settings.durable,
                syncs=server.syncs,
                observer=self.exchange,
                cut=self.lose_upload,
                check_client=self._check_client,
                policy=self._trash_policy,
            )
        )

    def _trash_policy(self) -> Policy:
        """Return what the trash keeps, by the current account and settings."""
        assert self.account is not None
        return policy_of(self.account, self.server.settings)

    def resume(self) -> None:
        """Go on after having been parked, until the session is idle again or has ended."""
        self.parked = self.gave_way = self.at_rest = False
        self._has_thread_until = time.monotonic() + _HAS_THREAD
        self._do(self._serve)

    def _open_and_serve(self) -> None:
        """Start TLS unless the server is plain, exchange HELLO, then serve requests."""
        deadline = self.exchange.login_deadline
        local = self.request.family == socket.AF_UNIX  # no one can eavesdrop: no TLS
        context = None if local else self.server.tls_context
        first = opening.first_byte(self.request, self.channel, deadline)
        self._has_spoken = True
        opening.start_tls(self.channel, first, context, deadline)
        opening.say_hello(self.exchange, self.server.settings)
        self._serve()

    def _do(self, part: Callable[[], None]) -> None:
        """Run a part of the session. Unless the session is parked then, it ends."""
        guard = self.exchange.guard
        guard.__enter__()
        ending: Ending | None = None  # not the error, whose frames would be kept
        try:
            part()
        except ProtocolError as error:
            ending = ending_of(error)
            self._note_offence(error)
            if self._store_whole():
                self._last_words(error)
        except SessionEnded as error:
            ending = ending_of(error)
            self._audit_context.note(str(error))
            self._end_in_order(error)
        except ConnectionLost as error:
            ending = ending_of(error)
            self._note_offence(error)
            self._store_unanswered()
        except Exception:
            logger.exception("%s: the session failed", self)
            ending = Ending("internal error")
            self._last_words(Internal("internal error"))
        finally:
            if self.parked:
                # From `park` on another thread may own the session: the guard must be free by then.
                guard.__exit__()
            else:  # the guard stays taken: no other thread may use the channel from now on
                self._clean_up()
                self._log_end(ending)
                self._report_offence()
                self.server.forget(self)

    def _log_end(self, ending: Ending | None) -> None:
        """Log the end of the connection in one line.

        Args:
            ending: None if the server stops, or refused the log-in and logged that.
        """
        if self.account is None:
            if ending is not None:
                logger.log(ending.level, "%s: %s", self, ending.reason)
            return
        lasted = RUN.now() - self.since
        logger.info(
            "%s: session ended after %s, %s in, %s out: %s",
            self,
            f"{lasted:.1f} s" if lasted < _SHORT else span(lasted),
            human(self.channel.bytes_in),
            human(self.channel.bytes_out),
            _STOPPING if ending is None else ending.reason,
        )

    def _note_offence(self, error: FtpError) -> None:
        """Note what the end of a connection without a log-in counts as."""
        if self.account is None:
            self._offence = self._offence or offence_of(error)

    def _report_offence(self) -> None:
        if self.account is not None or self.authentication.is_excused or self.server.stopping:
            return
        offence = self._offence or (Offence.NO_LOGIN if self._has_spoken else None)
        if offence is not None:
            self.server.penalize(self, offence)

    def _end_in_order(self, error: SessionEnded) -> None:
        """Store and answer what came in whole, then tell the client why the session ends."""
        self.leaving = True
        if self.account is None or not self._store_whole():
            return  # without a log-in the client gets no reason
        if isinstance(error, (Idle, GaveWay)):
            self._close_with(Kind.NOTICE, messages.GoingDown(str(error)))
        elif isinstance(error, Dismissed):
            self._close_warned()
        else:
            self._last_words(error)

    def _store_whole(self) -> bool:
        """At the end, store what came in whole, and answer it.

        Returns:
            False if the client cannot receive anything any more.
        """
        try:
            self.exchange.commit()
        except ConnectionLost:
            return False  # the client has left, or is too slow
        except Exception:
            logger.exception("%s: the last uploads could not be stored", self)
        return True

    def _store_unanswered(self) -> None:
        try:
            self.exchange.commit_late()
        except Exception:
            logger.exception("%s: the last uploads could not be stored", self)

    def _clean_up(self) -> None:
        try:
            if self.exchange.workspace is not None:
                self.exchange.workspace.close()
        except Exception:
            logger.exception("%s: uploads could not be cleaned up", self)
        self.exchange.repeats.close()
        try:
            self._transfer.end()
            self.authentication.leave()
        except Exception:
            logger.exception("%s: its session slot is released later", self)
        self._audit_context.close()
        self.channel.close()

    def _last_words(self, error: FtpError) -> None:
        """Send the reason, outside any request, and close so that it arrives."""
        self._close_with(Kind.ERROR, Failed.from_error(error))

    def _close_with(self, kind: Kind, message: Message) -> None:
        self.channel.queue(frames.frame(kind, 0, messages.encode(message)))
        self._close()

    def _close_warned(self) -> None:
        """Close because the server stops. Say so, unless that was said when it began to stop."""
        if self.exchange.has_warned:
            self._close()
        else:
            self._close_with(Kind.NOTICE, messages.GoingDown())

    def _close(self) -> None:
        """Close so that the last message arrives."""
        self.exchange.has_warned = True  # nothing follows it
        most = None if self.account is not None else PASSED_OVER
        self.channel.close_after_error(LAST_WORDS, most)

    def _server_stops(self) -> None:
        """Handle the server's stop while waiting: only a session within a request may go on."""
        if self.account is None:
            raise ConnectionLost("the server is stopping")
        if self.doing is not None:
            self.exchange.warn()

    # reading requests --------------------------------------------------------------------

    def _serve(self) -> None:
        """Read and answer requests until the client leaves or the server stops."""
        exchange, reader = self.exchange, self.exchange.stream.reader
        deadline: float | None = None  # for the whole frame that has begun to arrive
        while not self.authentication.is_closing:
            if self.server.stopping:
                self._say_goodbye()
                return
            if exchange.workspace is None and time.monotonic() > exchange.login_deadline:
                raise TimedOut("did not log in in time")
            self.server.take_turn()
            # `_has_thread_until` is infinite in the first thread, which serves this session alone
            if (
                time.monotonic() >= self._has_thread_until
                and deadline is None
                and self._thread_is_wanted()
            ):
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
                        deadline = exchange.stall()
                    elif time.monotonic() > deadline:  # a few bytes were ready each time
                        raise TimedOut("the peer did not finish in time")
                    if deadline is None and self._may_park():
                        if self._is_idle():
                            self.parked = True
                            return
                        continue
                    self._await_input(deadline)
                continue
            until = exchange.login_deadline if exchange.workspace is None else deadline
            # skip the DATA of an unknown request here: other stray DATA is an error below
            if self._unknown is not None and self._belongs_to_unknown(header):
                deadline = None
                continue
            payload = exchange.stream.payload(header, until)
            deadline = None
            if exchange.workspace is None:
                self._requests += 1
                if self._requests > MOST_BEFORE_LOGIN:
                    self._offence = Offence.TOO_MUCH
                    raise BadMessage(f"more than {MOST_BEFORE_LOGIN} requests before log-in")
            if header.kind == Kind.REQUEST:
                if header.request_id == 0:  # an ERROR for it would be one of the connection
                    raise BadMessage("a request with the id 0, which is that of HELLO alone")
                exchange.begin(header.request_id)
                try:
                    request = messages.decode_request(payload)
                except BadRequest as error:
                    self._refuse(error)
                else:
                    self._answer(request)
            elif header.kind == Kind.CANCEL:
                pass  # of a request that is answered already
            else:
                raise BadMessage(f"a frame of kind {header.kind} where a request belongs")
        self._quiet()

    def _await_input(self, deadline: float | None) -> None:
        """Wait for the rest of a frame until its deadline, or a limited time for a new frame."""
        deadline = self._patience(deadline)
        if deadline is not None:
            self.channel.wait(read=True, deadline=deadline)
            return
        self._request_comes(_SETTINGS_SECONDS)

    def _patience(self, deadline: float | None) -> float | None:
        """Return the time by which the next bytes must come: at most the log-in deadline before
        log-in."""
        exchange = self.exchange
        return exchange.login_deadline if exchange.workspace is None else deadline

    def _request_comes(self, seconds: float) -> bool:
        """Return whether input comes within ``seconds``. Raises Idle after the idle timeout."""
        until = time.monotonic() + seconds
        idle = self.server.settings.idle_timeout
        try:
            self.channel.wait(
                read=True, deadline=min(until, self.quiet_since + idle) if idle else until
            )
        except TimedOut:
            self._end_if_overdue()  # by the current settings
            return False
        return True

    def _quiet(self) -> None:
        """When there is nothing to read, commit the batch, send replies and free memory.

        Raises:
            SessionEnded: The session was asked to end, e.g. because another one took over its
                upload.
        """
        exchange = self.exchange
        # Before a session is parked or waits, no change may be left without its reply: the commit
        # comes first, then the replies that it queues are flushed.
        exchange.commit()
        if self.channel.ended is not None:
            raise self.channel.ended
        self._transfer.end()
        exchange.flush()
        exchange.stream.reader.shrink()
        if self.doing is not None:
            self.doing = None
            self.quiet_since = time.monotonic()

    def _say_goodbye(self) -> None:
        """When the server stops, answer what was asked before; ignore what comes now."""
        self.exchange.commit()
        self._close_warned()

    # waiting without a thread ------------------------------------------------------------

    def _may_park(self) -> bool:
        workspace = self.exchange.workspace
        if workspace is None or workspace.tree is not None:
            return False
        return self.server.parking is not None

    def _thread_is_wanted(self) -> bool:
        """Return whether other sessions wait for the thread that this one has had for a while."""
        if not self._may_park():
            return False
        return self.server.parking is not None and self.server.parking.has_waiting

    def _is_idle(self) -> bool:
        """Return whether no input comes for a moment. False also when the server stops.

        If many sessions have something to do, return True without waiting.
        """
        parking, workspace = self.server.parking, self.exchange.workspace
        assert parking is not None and workspace is not None
        self._end_if_overdue()
        if not parking.is_calm(len(self.server.sessions)):
            workspace.release_reservations()
            return True
        if self._request_comes(_LINGER):
            return False
        self.go_idle()
        return True

    def go_idle(self) -> None:
        """Close open files and directories after a while without requests. They are reopened when
        they are needed."""
        if self.exchange.workspace is not None:
            self.exchange.workspace.go_idle()
        self.exchange.repeats.go_idle()
        self.exchange.stream.go_idle()
        self.at_rest = True

    def is_overdue(self, now: float) -> bool:
        """Return whether a parked session has exceeded the idle timeout."""
        idle = self.server.settings.idle_timeout
        return bool(idle) and now >= self.quiet_since + idle

    def _end_if_overdue(self) -> None:
        """Raise Idle if the session has exceeded the idle timeout."""
        if self.is_overdue(time.monotonic()):
            idle = self.server.settings.idle_timeout
            raise Idle(f"no request for {idle:g} seconds") from None

    # requests ----------------------------------------------------------------------------

    def _answer(self, request: messages.Request) -> None:
        """Look the request's type up in the dispatch table, run it, and send what it returns."""
        self.doing = request
        # Without the guard, the keep-alive thread may send notices between two frames meanwhile.
        with self.exchange.guard.away():
            self._do_request(request)

    def _do_request(self, request: messages.Request) -> None:
        exchange, workspace = self.exchange, self.exchange.workspace
        command = COMMANDS[type(request)]
        exchange.receiving = command.takes_data
        exchange.is_reading = command.reads
        self._transfer.requested(
            None if workspace is None else workspace.account, transfers=command.transfers
        )
        self._audit_context.request_arrived(exchange.request_id, request)
        reply = self._reply_to(command, request)
        self._transfer.moves_bytes = False
        workspace = exchange.workspace  # created by a log-in
        failed = isinstance(reply, Failed)
        if failed and workspace is not None and not command.batched:
            workspace.abandon()  # no later request completes what this one began to change
        if reply is not None:
            ends = command.ending and not failed
            exchange.answer(reply, Kind.ERROR if failed else Kind.END if ends else Kind.REPLY)
        else:
            exchange.joined(exchange.sent.digest if command.takes_data else None)
        if exchange.receiving:
            self._pass_over_data()
        if workspace is not None and workspace.batch is not None and workspace.batch.full:
            exchange.commit()

    def _pass_over_data(self) -> None:
        """Discard the DATA of a request that was refused, until its END or CANCEL."""
        if self.account is None:  # DATA could keep the connection open for ever
            self._offence = Offence.TOO_MUCH
            raise BadMessage("file bytes before log-in")
        self.exchange.pass_over_data()

    def _refuse(self, error: BadRequest) -> None:
        """Answer a request that is not understood, in its turn. Other requests go on."""
        exchange = self.exchange
        level = logging.DEBUG if self._has_misspoken else logging.INFO
        self._has_misspoken = True
        logger.log(level, "%s: %s: %s", self, error.code, paths.printable(str(error)))
        if self.account is None and self._offence is None:
            self._offence = Offence.PROTOCOL
        command = None if error.request is None else COMMANDS[error.request]
        exchange.receiving = command is not None and command.takes_data
        self._unknown = exchange.request_id if command is None else None
        self.doing = request = Unusable(error.request, error.path)
        self._audit_context.request_arrived(exchange.request_id, request)
        exchange.answer(Failed.from_error(error), Kind.ERROR)
        if exchange.receiving:
            self._pass_over_data()
        workspace = exchange.workspace
        if workspace is not None and workspace.batch is not None and workspace.batch.full:
            exchange.commit()  # as after a request that joined it

    def _belongs_to_unknown(self, header: Header) -> bool:
        """Return whether a frame belongs to a request of an unknown name. If so, discard it."""
        exchange, unknown = self.exchange, self._unknown
        self._unknown = None
        if header.request_id != unknown or header.kind not in (Kind.DATA, Kind.END):
            return False
        if self.account is None:
            self._offence = Offence.TOO_MUCH
            raise BadMessage("file bytes before log-in")
        if header.kind == Kind.END:
            exchange.stream.payload(header)
        else:
            exchange.pass_over_data()  # from the payload of this frame on
        return True

    def _reply_to(self, command: Command, request: messages.Request) -> Message | None:
        """Run a handler. Only here its errors become replies."""
        try:
            if not command.batched:
                self.exchange.commit()
            if not command.quick:
                self.exchange.will_block()
            if command.identify is not None:
                if not command.before_login and self.account is None:
                    raise NotLoggedIn("log in first")
                return command.identify(self.authentication, request)
            workspace = self.exchange.workspace
            if workspace is None or command.run is None:
                raise NotLoggedIn("log in first")
            repeated = self.exchange.repeats.begin(workspace, request)
            return command.run(self.exchange, workspace, request) if repeated is None else repeated
        except CommandError as error:
            if isinstance(self.channel.ended, UploadTakenOver):  # the cause of the error
                raise self.channel.ended from None
            if isinstance(error, _OF_NO_PATH):
                return Failed.from_error(error)
            return Failed.from_error(_named(error, _subject(request)))
        except OSError as error:  # the file system's: the socket's are ConnectionLost
            path = _subject(request)
            return Failed.from_error(from_oserror(error, paths.show(path or b""), path))
        except (ProtocolError, ConnectionLost):
            raise
        except StateError as error:  # its text says it all: no traceback
            logger.error("%s: %s failed: %s", self, type(request).__name__, error)
        except Exception:
            logger.exception("%s: %s failed", self, type(request).__name__)
        return Failed.from_error(Internal("internal error"))

    # from other threads ------------------------------------------------------------------

    def say_alive(self) -> None:
        """Send a sign of life if the client waits for a reply and has received nothing for a while.

        Called by the keep-alive thread. Queued bytes are sent with it. A client that doesn't take
        what was sent before gets none.
        """
        moved = self.channel.bytes_in + self.channel.bytes_out
        before, self._moved_before = self._moved_before, moved
        if self.doing is None or self.account is None:
            return
        if self.server.stopping:
            self.exchange.interject_warning()
        if moved == before:
            self.exchange.interject_sign_of_life()

    def warn(self) -> None:
        """Tell the client that the server stops, if its request runs without using the channel.

        Called by another thread, repeatedly while the server stops. Doesn't wait. In all other
        cases the session's own thread tells the client.
        """
        if self.doing is not None and self.account is not None:
            self.exchange.interject_warning()

    def close(self, why: str) -> None:
        """End the session in order, and tell its client why. Called by another thread.

        Pending replies are sent first. This doesn't interrupt everything: a frame that the client
        takes slowly goes on. Call `close_now` after a moment, then `abort`.
        """
        self.channel.end(SessionEnded(why), wake=self.doing is None)

    def close_now(self) -> None:
        """End a session after `close`, even while it waits for its client to send more."""
        if self.channel.ended is not None:
            self.channel.end(self.channel.ended, wake=True)

    def close_idle(self) -> None:
        """End a session that is doing nothing, as if the server stopped."""
        self.channel.end(Dismissed(_STOPPING), wake=True)

    def give_way(self, transfer: str) -> None:
        """End the session if that is its running transfer, to make way for another transfer.

        Called by another thread.
        """
        if self._transfer.is_called(transfer):
            error = GaveWay("another transfer of the account needs the slot of an idle transfer")
            self.channel.end(error, wake=True)

    def lose_upload(self, path: bytes) -> None:
        """End the session because another one has taken over the upload that it has open.

        The client is sent the reason, or it would reconnect and take the upload back. Called by any
        thread of the upload. Nothing wakes the session: it finds out at the client's next bytes, or
        when it checks. What is still on its way is read, or the reason might not reach the client.
        """
        text = f"{paths.show(path)}: another session uploads the same file and has taken over"
        self.channel.end(UploadTakenOver(text, path), wake=False)

    def _check_client(self) -> None:
        """Raise ConnectionLost if the client has gone, even if not all that it sent was read."""
        if self.channel.is_cut:
            raise ConnectionLost("the client has gone")

    def abort(self) -> None:
        """End the connection at once. Called by another thread."""
        self.channel.cut()

    def apply_account(self, account: Account) -> None:
        """Use a changed account from the next request on. Called by another thread."""
        self.authentication.apply_account(account)


def _subject(request: messages.Request) -> bytes | None:
    """Return the path that a failure is about unless it names another: of two, the source."""
    match request:
        case messages.Move() | messages.Copy():
            return request.source
        case messages.DropKept():
            return request.upload
    path: bytes | None = getattr(request, "path", None)
    return path


def _named(error: CommandError, path: bytes | None) -> CommandError:
    """Return the error with the path that it is about, also in its text."""
    if path is None or error.path is not None:
        return error
    shown = paths.show(path)
    if not isinstance(error, _NAMED_OTHERWISE) and shown not in str(error):
        error = error.with_text(f"{shown}: {error}")
    error.path = path
    return error


def peer_name(address: object) -> str:
    """Return a client's address for display: HOST:PORT, or ``local`` for a Unix socket."""
    if isinstance(address, tuple) and len(address) >= 2:
        host = str(address[0]).removeprefix("::ffff:")
        return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
    return "local"
