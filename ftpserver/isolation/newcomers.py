"""Newcomers: connections without a process, until they have sent a complete first record.

Lives here: handling a connection until then, and the turns at getting a process.
Lives elsewhere: the thread that waits (serving/awaiting.py), what a first record is
(serving/opening.py), the order of turns (accounts/startups.py), the process (supervisor.py).

A process costs a fork, and the memory and processor time of a Python program, so a connection alone
gets none. Its first record (with TLS, the one that ClientHello begins in; without TLS, the frame of
HELLO) is left in the socket for the process to read. Clients send first in both cases, so neither
side waits for the other. A connection that sends none is closed here, as a session would close it.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.startups import Starts
from ftpserver.clock import RUN
from ftpserver.cpus import cpus
from ftpserver.isolation.isolated_session import Moved
from ftpserver.net.addresses import host_of
from ftpserver.serving import opening
from ftpserver.serving.awaiting import Awaiting, Cause
from ftpserver.serving.endings import (
    LAST_WORDS,
    PASSED_OVER,
    ending_of,
    offence_of,
)
from ftpserver.serving.session import peer_name
from ftpwire import frames, messages
from ftpwire.channel import TimedOut
from ftpwire.errors import BadMessage, ConnectionLost, FtpError, ProtocolError, SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import Failed
from ftpwire.tls import TlsError

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.serving.service import Service
    from ftpserver.serving.stats import SessionInfo

logger = logging.getLogger("ftpd.session")

_LEAST_STARTS = 4
"""The number of processes started at the same time on a machine with few cores."""
_MOST_LOOKS = 64
"""The most pieces in which a first record may arrive, and in which input is skipped. The largest
record has half as many on any link; a client that sends single bytes would keep the thread busy and
delay all others."""
_PIECE = 16 * 1024
_INT = struct.Struct("i")
_RECORD_OVERFLOW = bytes((21, 3, 3, 0, 2, 2, 22))
"""A fatal TLS alert: record_overflow (RFC 8446, section 6)."""


class Newcomer:
    """A connection without a process: a `connected.Connected` for code that handles sessions, an
    `awaiting.Expecting` for the thread that waits. Only that thread calls `look`.

    Attributes:
        id, since: Those of the session that it may become.
        deadline: When its client must have logged in; after a refusal, when it must have closed.
    """

    account: Account | None = None
    token_id: str | None = None
    token_revoked = renewing = leaving = False
    doing: object = None

    def __init__(
        self,
        service: Service,
        starts: Starts,
        request: socket.socket,
        client_address: Any,
        on_end: Callable[[Newcomer], None],
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._starts = starts
        self._on_end = on_end
        self._clock = clock
        self.request = request
        self.client_address = client_address
        self.peer, self.host = peer_name(client_address), host_of(client_address, request)
        self.id, self.since = service.next_session_id(request), RUN.now()
        self.quiet_since = clock()
        self.deadline = self.quiet_since + service.settings.login_grace
        self.channel = Moved()  # no bytes are counted here
        self._tls = service.tls_context is not None and request.family != socket.AF_UNIX
        self._has_spoken = self._is_excused = False
        self._ready_at: float | None = None
        self._offence: Offence | None = None
        self._looks = 0
        self._passed_over: int | None = None
        """The bytes skipped after a refusal; None before."""

    def __str__(self) -> str:
        return self.peer

    @property
    def is_deaf(self) -> bool:
        """True if input is ignored: the process reads what follows the first record."""
        return self._ready_at is not None

    @property
    def is_held_up(self) -> bool:
        """True if it has waited for its turn for half of the time for a log-in, so that being late
        is not the client's fault."""
        if self._ready_at is None:
            return False
        return self._clock() - self._ready_at >= (self.deadline - self.quiet_since) / 2

    # while it waits ----------------------------------------------------------------------

    def look(self, cause: Cause) -> Callable[[], None] | None:
        """Handle an event of the connection; see `awaiting.Expecting`."""
        self._looks += 1
        if self._passed_over is not None:
            return self._pass_over(cause)
        try:
            self._wait_on(cause)
        except ProtocolError as error:
            self._note_end(error)
            reply = messages.encode(Failed.from_error(error))
            return self._refuse(frames.frame(Kind.ERROR, 0, reply))
        except TlsError as error:
            self._note_end(error)
            return self._refuse(_RECORD_OVERFLOW)
        except ConnectionLost as error:
            self._note_end(error)
            if cause is Cause.LATE and self.is_held_up:
                self._is_excused = True
            return self._end
        return None

    def _note_end(self, error: FtpError) -> None:
        """Log why the connection ends, and note what that counts as."""
        ending = ending_of(error)
        logger.log(ending.level, "%s: %s", self, ending.reason)
        self._offence = offence_of(error)

    def _wait_on(self, cause: Cause) -> None:
        """Check if the first record is complete. Raises FtpError to stop waiting for it."""
        if cause is Cause.OVER:  # first, as the other errors would wait for a last message
            raise ConnectionLost("the server is stopping")
        is_ready = self._ready_at is not None
        is_whole = is_ready or self._is_first_whole()
        if cause is Cause.GONE or (cause is Cause.CLOSED and (self._tls or not is_whole)):
            if not self._has_spoken:
                raise ConnectionLost("closed before the first byte")
            within = "within the TLS handshake" if self._tls else "before the end of its HELLO"
            raise ConnectionLost(f"closed {within}")
        if cause is Cause.LATE:
            raise TimedOut(
                "no process could be started in time"
                if is_ready
                else "the peer did not answer in time"
            )
        if not is_whole and self._looks > _MOST_LOOKS:
            raise BadMessage(f"a first record in more than {_MOST_LOOKS} pieces")
        if is_whole and not is_ready:
            self._ready_at = self._clock()
            limits = self._service.limits
            self._starts.wait(
                self,
                self.host,
                known=limits.is_known(self.host),
                trusted=limits.is_trusted(self.host),
            )

    def _is_first_whole(self) -> bool:
        """Check if the whole first record has arrived, and leave it in the socket.

        Only its head is copied, so the time doesn't depend on the input: thousands of small pieces
        are slow to copy, and each new piece would cause another copy."""
        request = self.request
        try:
            head = request.recv(opening.FIRST_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            (there,) = _INT.unpack(fcntl.ioctl(request, termios.FIONREAD, bytes(_INT.size)))
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLost(f"connection lost: {error.strerror}") from None
        self._has_spoken = self._has_spoken or bool(head)
        size = opening.first_size(head, tls=self._tls)
        return size is not None and there >= size

    def _refuse(self, last_word: bytes) -> Callable[[], None] | None:
        """Send the reason, and read on for a while: closing with unread input would discard it."""
        try:
            self.request.send(last_word, socket.MSG_DONTWAIT)
            self.request.shutdown(socket.SHUT_WR)
        except OSError:
            return self._end  # the client has closed first
        self._passed_over = 0
        self.deadline = self._clock() + LAST_WORDS
        return self._pass_over(Cause.CAME)

    def _pass_over(self, cause: Cause) -> Callable[[], None] | None:
        if cause in (Cause.LATE, Cause.OVER, Cause.GONE) or self._looks > _MOST_LOOKS:
            return self._end
        assert self._passed_over is not None
        try:
            while self._passed_over <= PASSED_OVER:
                data = self.request.recv(_PIECE, socket.MSG_DONTWAIT)
                if not data:
                    break
                self._passed_over += len(data)
        except BlockingIOError:
            return None
        except OSError:
            pass  # the client has closed
        return self._end

    def abandon(self) -> None:
        """Close the connection without a penalty, because of an error in the server."""
        self._is_excused = True
        self._end()

    def _end(self) -> None:
        """Close the connection, and penalize its address if that is due."""
        offence = self._offence or (Offence.NO_LOGIN if self._has_spoken else None)
        if offence is not None and not self._is_excused and not self._service.stopping:
            self._service.penalize(self, offence)
        self._on_end(self)

    # from other threads ------------------------------------------------------------------

    def close(self, why: str) -> None:
        """See `Session.close`. Before log-in, the client isn't sent the reason."""
        self.channel.ended = SessionEnded(why)
        self.abort()

    def abort(self) -> None:
        """See `Session.abort`. A connection that only waits for its turn gets no penalty: when one
        of many users behind an address is dropped for another, the others must not be refused."""
        if self._ready_at is not None:
            self._is_excused = True
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection is closed already

    close_now = close_idle = abort

    def give_way(self, transfer: str) -> None:
        """Do nothing: there are no transfers."""

    def apply_account(self, account: Account) -> None:
        """Do nothing: there is no account."""

    def say_alive(self) -> None:
        """Do nothing: there is no request."""

    def warn(self) -> None:
        """Do nothing: before log-in, the client isn't warned."""

    def info(self) -> SessionInfo:
        """Return the state of the connection."""
        return self._service.info(self, self._clock())


class Newcomers:
    """All connections without a process. Safe to use from many threads. They are among the
    service's sessions.

    The one thread that waits starts all processes.

    Args:
        start: Called by that thread with each newcomer that gets a process, which then no longer
            waits.
        close: Called with the connection of each newcomer that gets no process.
        clock: A clock in seconds; only differences count.
    """

    def __init__(
        self,
        service: Service,
        start: Callable[[Newcomer], None],
        close: Callable[[socket.socket], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._start = start
        self._close = close
        self._clock = clock
        self._awaiting = Awaiting("newcomers", self._start_some, clock)
        self._starts = Starts(max(_LEAST_STARTS, 2 * cpus()), clock)

    def take(self, request: socket.socket, client_address: Any) -> None:
        """Wait for a connection's first record."""
        one = Newcomer(
            self._service, self._starts, request, client_address, self._ended, self._clock
        )
        self._service.sessions.add(one)
        try:
            self._awaiting.take(one)
        except (OSError, RuntimeError) as error:  # the limit of descriptors or threads
            logger.error("%s: cannot serve the connection: %s", one, error)
            one.abandon()

    def answered(self, one: Newcomer) -> None:
        """Stop counting a connection as being started: its process has sent its first reply or
        ended. This gives the next network its turn."""
        if self._starts.leave(one):
            self._awaiting.wake()

    def close(self) -> None:
        """Close all of them. Can be called twice."""
        self._awaiting.close()

    def _start_some(self) -> float | None:
        for one in self._starts.take():
            assert isinstance(one, Newcomer)
            self._awaiting.forget(one)
            try:
                self._start(one)
            except Exception:
                logger.exception("%s: cannot serve the connection", one)
                one.abandon()
            else:
                self._service.forget(one)
        return self._starts.due()

    def _ended(self, one: Newcomer) -> None:
        self._starts.leave(one)
        self._service.forget(one)
        self._close(one.request)
