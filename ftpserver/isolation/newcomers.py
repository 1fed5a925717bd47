"""Connections that have no process yet: they get one once they have sent a whole first record.

Lives here: what becomes of a connection until then, whose turn it is.
Lives elsewhere: the thread that waits (serving/awaiting.py), what a first record is
(serving/opening.py), the order of turns (accounts/startups.py), the process (supervisor.py).

A process costs a fork, and the memory and processor time of a Python program. So nobody gets one
for a connection alone. The first record (with TLS the one that ClientHello begins in, without TLS
the frame of HELLO) stays in the socket, for the process to read: a client speaks first in both, and
so nothing waits for the other side. Who sends none is ended here, as a session would have ended.
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
from ftpserver.serving.endings import LAST_WORDS, PASSED_OVER, offence_of
from ftpserver.serving.session import peer_name
from ftpwire import frames, messages, paths
from ftpwire.channel import TimedOut
from ftpwire.errors import BadMessage, ConnectionLost, ProtocolError, SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import Failed
from ftpwire.tls import TlsError

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.serving.service import Service
    from ftpserver.serving.stats import SessionInfo

logger = logging.getLogger("ftpd.session")

_LEAST_STARTS = 4
"""Processes that may be started at the same time, on a machine with few cores."""
_MOST_LOOKS = 64
"""Pieces that a first record may come in, and what is passed over. The largest one has half as many
on any link; who sends single bytes would keep the one thread busy, and have all others wait."""
_PIECE = 16 * 1024
_INT = struct.Struct("i")
_RECORD_OVERFLOW = bytes((21, 3, 3, 0, 2, 2, 22))
"""A fatal TLS alert, of a record that is too large (RFC 8446, section 6)."""


class Newcomer:
    """A connection without a process: `connected.Connected` for those who look at sessions,
    `awaiting.Expecting` for the thread that waits. That thread alone calls `look`.

    Attributes:
        id, since: Those of its session.
        deadline: Until then its client has to log in; of one that was refused, to leave.
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
        self.channel = Moved()  # nothing is read here
        self._tls = service.tls_context is not None and request.family != socket.AF_UNIX
        self._has_spoken = self._is_excused = False
        self._ready_at: float | None = None
        self._offence: Offence | None = None
        self._looks = 0
        self._passed_over: int | None = None
        """Bytes, of one that was refused and reads why."""

    def __str__(self) -> str:
        return self.peer

    @property
    def is_deaf(self) -> bool:
        """See `awaiting.Expecting`: what comes behind the first record is for the process."""
        return self._ready_at is not None

    @property
    def is_held_up(self) -> bool:
        """Whether it has waited for its turn for half of the time for its log-in: that it is late
        isn't its fault then."""
        if self._ready_at is None:
            return False
        return self._clock() - self._ready_at >= (self.deadline - self.quiet_since) / 2

    # while it waits ----------------------------------------------------------------------

    def look(self, cause: Cause) -> Callable[[], None] | None:
        """See `awaiting.Expecting`."""
        self._looks += 1
        if self._passed_over is not None:
            return self._pass_over(cause)
        try:
            self._wait_on(cause)
        except ProtocolError as error:
            logger.info("%s: dropped: %s", self, paths.printable(str(error)))
            self._offence = offence_of(error)
            told = messages.encode(Failed.from_error(error))
            return self._refuse(frames.frame(Kind.ERROR, 0, told))
        except TlsError as error:
            logger.info("%s: %s", self, error)
            self._offence = offence_of(error)
            return self._refuse(_RECORD_OVERFLOW)
        except ConnectionLost as error:
            logger.info("%s: %s", self, error)
            self._offence = offence_of(error)
            if cause is Cause.LATE and self.is_held_up:
                self._is_excused = True
            return self._end
        return None

    def _wait_on(self, cause: Cause) -> None:
        """See whether the first record is whole. Raises FtpError where that isn't waited for."""
        if cause is Cause.OVER:  # before anything that would have it wait for a last word
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
                "no process could be started for it in time"
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
        """See how much has come, and leave it where it is. Takes as long whatever that is: to copy
        what came in thousands of pieces takes a while, and each piece would have it copied."""
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
        """Say why, and read on for a while: to close with unread input would throw that away."""
        try:
            self.request.send(last_word, socket.MSG_DONTWAIT)
            self.request.shutdown(socket.SHUT_WR)
        except OSError:
            return self._end  # it has gone first
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
            pass  # gone: it had its chance
        return self._end

    def abandon(self) -> None:
        """Close the connection: a fault in this program, which costs its address nothing."""
        self._is_excused = True
        self._end()

    def _end(self) -> None:
        """Close the connection, and count what that costs its address."""
        offence = self._offence or (Offence.NO_LOGIN if self._has_spoken else None)
        if offence is not None and not self._is_excused and not self._service.stopping:
            self._service.penalize(self, offence)
        self._on_end(self)

    # from other threads ------------------------------------------------------------------

    def close(self, why: str) -> None:
        """As `Session.close`: a stranger is told nothing."""
        self.channel.ended = SessionEnded(why)
        self.abort()

    def abort(self) -> None:
        """As `Session.abort`. To whoever waits only for a turn that costs nothing: of many users
        behind an address some may have to make room, and no other one is to be refused for it."""
        if self._ready_at is not None:
            self._is_excused = True
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over

    close_now = close_idle = abort

    def give_way(self, transfer: str) -> None:
        """It has none."""

    def apply_account(self, account: Account) -> None:
        """It is nobody's."""

    def say_alive(self) -> None:
        """Nothing is asked."""

    def warn(self) -> None:
        """A stranger is told nothing."""

    def info(self) -> SessionInfo:
        """What is told of it."""
        return self._service.info(self, self._clock())


class Newcomers:
    """All connections without a process. Safe to use from many threads; they are among the
    service's sessions.

    All processes are started by the one thread that waits.

    Args:
        start: Called by that thread with each one whose turn it is: it isn't waited for any more.
        close: Called with the connection of each one that gets no process.
        clock: Seconds, of which only differences count.
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
        except (OSError, RuntimeError) as error:  # no more descriptors, or threads
            logger.error("%s: can't be served: %s", one, error)
            one.abandon()

    def answered(self, one: Newcomer) -> None:
        """The process of a connection has given its first answer, or ended: the next place has its
        turn."""
        if self._starts.leave(one):
            self._awaiting.wake()

    def close(self) -> None:
        """End all of them. Can be called twice."""
        self._awaiting.close()

    def _start_some(self) -> float | None:
        for one in self._starts.take():
            assert isinstance(one, Newcomer)
            self._awaiting.forget(one)
            try:
                self._start(one)
            except Exception:
                logger.exception("%s: can't be served", one)
                one.abandon()
            else:
                self._service.forget(one)
        return self._starts.due()

    def _ended(self, one: Newcomer) -> None:
        self._starts.leave(one)
        self._service.forget(one)
        self._close(one.request)
