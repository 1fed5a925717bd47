"""A connected socket, plain or TLS, as a stream with waits that have a deadline.

Lives here: non-blocking send and receive, the output buffer, waiting, wake-ups.
Lives elsewhere: opening and accepting sockets (ftpclient, ftpserver), framing (frames.py).

One thread drives both directions: nothing here blocks except ``wait`` and the methods that call it.
When ``wake_fd`` becomes readable, ``on_wake`` is called inside the wait: that is how a signal or
the server's stop reaches the thread. It is called once, until ``rearm``.
"""

from __future__ import annotations

import math
import os
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ftpwire import tls
from ftpwire.errors import ConnectionLost, FtpError
from ftpwire.frames import FrameReader
from ftpwire.pacing import Pace
from ftpwire.tls import TlsPipe

_FLUSH_AT = 64 * 1024
"""Output is handed to TLS and the kernel once this many bytes are queued."""
_GOES_ALONG = 1024
"""Largest queued output, in bytes, that is sent in one call with the bytes that follow it."""
_SLOWLY = 512 * 1024
"""Bytes that a peer must receive after `Channel.start_slowly` for full-size buffers."""
_LOW_WATER = 128 * 1024
"""Most unsent bytes that the kernel holds until then."""
_FIRST_PIECE = 16 * 1024
_NO_LOW_WATER = 0  # the system's default
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_RECEIVE_SMALL = 16 * 1024
_RECEIVE_LARGE = tls.PIECE
_RECEIVE_MUCH = 512 * 1024
_MUCH = 1024 * 1024
"""Bytes over TLS in one direction after which more are expected."""

_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_WRITABLE = select.POLLOUT | select.POLLHUP | select.POLLERR
_CLOSED = getattr(select, "POLLRDHUP", 0)


class TimedOut(ConnectionLost):
    """The peer sent nothing, or received nothing, for too long."""

    code = "timed-out"


class Sink(Protocol):
    """A receiver of a file's bytes (such as WriteBehind)."""

    def buffer(self) -> memoryview:
        """Return free space to receive into."""

    def filled(self, count: int) -> None:
        """Report that ``count`` bytes of ``buffer()`` were filled."""

    def write(self, data: memoryview) -> None:
        """Take bytes that were received into another buffer."""


class Ready(NamedTuple):
    """The result of a wait. Neither is true if the wait ended by a wake-up."""

    readable: bool
    writable: bool


class Incoming(ABC):
    """A source of bytes that never waits."""

    @abstractmethod
    def receive_into(self, view: memoryview) -> int:
        """Receive available bytes, at most ``len(view)``. Return 0 if there are none."""

    def receive_into_both(self, view: memoryview, beyond: memoryview) -> int:
        """Receive available bytes into ``view``, and those that follow into ``beyond``, if that
        takes no further call. Return the number of both; 0 if there are none."""
        return self.receive_into(view)

    def fill(self, reader: FrameReader, limit: int | None = None) -> bool:
        """Receive available bytes into a reader's buffer. Return False if there were none."""
        count = self.receive_into(reader.writable()[:limit])
        reader.received(count)
        return bool(count)

    def move_payload(self, reader: FrameReader, sink: Sink) -> bool:
        """Move available bytes of the current DATA payload into ``sink``, without a copy in the
        reader.

        Returns:
            True if the payload is complete; False if the caller has to wait for more.
        """
        while reader.remaining:
            if reader.buffered:
                sink.write(reader.take(reader.remaining))
                continue
            left, space = reader.remaining, sink.buffer()
            if len(space) < left:
                count = self.receive_into(space)
            else:  # the next header may be there, too
                count = self.receive_into_both(space[:left], reader.header_space())
            if not count:
                return False
            filled = min(count, left)
            reader.bypassed(filled)
            reader.received(count - filled)
            sink.filled(filled)
        return True


class Channel(Incoming):
    """A stream over one connected socket. Owned by one thread at a time.

    Args:
        sock: A connected socket. It becomes non-blocking, and the channel closes it.
        pipe: TLS on top of it, if any. The caller then calls ``handshake`` first.
        wake_fd: A descriptor to watch in every wait.
        on_wake: Function to call when it is readable; may raise.
        before_wait: Function to call before every wait.
    """

    def __init__(
        self,
        sock: socket.socket,
        pipe: TlsPipe | None = None,
        *,
        wake_fd: int | None = None,
        on_wake: Callable[[], None] | None = None,
        before_wait: Callable[[], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.tls = pipe
        self._wake_fd = wake_fd
        self._on_wake = on_wake
        self._before_wait = before_wait
        self.pace: Pace | None = None
        """The rate limit of both directions together; None for none. Any thread may set it."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.ended: FtpError | None = None
        """The error to raise to the owner instead of receiving more; see `end`."""
        self._out = bytearray()
        self._unsent: memoryview | None = None  # already reported as sent, plain or encrypted
        self._receive = _RECEIVE_SMALL
        self._max_receive = _RECEIVE_LARGE
        self._much_input: float = _MUCH
        """``bytes_in`` from which on TLS is to expect much; infinite once it does."""
        self._much_output: float = _MUCH
        """The same for ``bytes_out``."""
        self._is_drained = False
        """True if the last receive emptied the kernel's buffer."""
        self._began: int | None = None
        """``bytes_out`` when the slow start began; None outside of one."""
        self._poll = select.poll()
        self._fd = sock.fileno()
        self._mask = 0
        self._poll.register(self._fd, 0)
        self.rearm()

    # waiting -----------------------------------------------------------------------------

    def wait(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready:
        """Wait until the socket is ready, ``on_wake`` was called, or the deadline has passed.

        Args:
            deadline: On ``time.monotonic()``, in seconds; None to wait without a limit.

        Raises:
            TimedOut: The deadline has passed.
        """
        mask = (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        if mask != self._mask:
            self._poll.modify(self._fd, mask)
            self._mask = mask
        if self._before_wait is not None:
            self._before_wait()
        if deadline is None:
            events = self._poll.poll()
        else:
            left = deadline - time.monotonic()
            events = self._poll.poll(max(0.0, left) * 1000)
            if not events:
                raise TimedOut("the peer did not answer in time")
        readable = writable = False
        for fd, event in events:
            if fd == self._fd:
                readable = bool(event & _READABLE)
                writable = bool(event & _WRITABLE)
            else:
                # until rearm: it stays readable, which would end every wait at once
                self._poll.unregister(fd)
                if self._on_wake is not None:
                    self._on_wake()
        return Ready(readable, writable)

    def _keep_pace(self, pace: Pace) -> None:
        """Wait as long as the rate limit demands before more bytes move. Wake-ups still work."""
        while (delay := pace.delay()) > 0:
            try:
                ready = self.wait(deadline=time.monotonic() + delay)
            except TimedOut:
                return
            if ready.readable or ready.writable:
                return  # a hang-up, the only event that was not asked for: the next call raises it

    def rearm(self) -> None:
        """Watch the wake-up descriptor again."""
        if self._wake_fd is not None:
            self._poll.register(self._wake_fd, select.POLLIN)

    def input_ready(self) -> bool:
        """Return True if something can be received right now."""
        if self.tls is not None and self.tls.pending():
            return True
        if self._mask != select.POLLIN:
            self._poll.modify(self._fd, select.POLLIN)
            self._mask = select.POLLIN
        return any(fd == self._fd for fd, _ in self._poll.poll(0))

    @property
    def is_cut(self) -> bool:
        """True if the peer has closed or the connection was cut, even if data sent before is still
        unread. Always False on systems that report this only after the data was read."""
        poll = select.poll()
        poll.register(self._fd, _CLOSED)
        return bool(poll.poll(0))

    @property
    def is_local(self) -> bool:
        """True if the peer is on this machine: both ends have the same address."""
        try:
            here, there = self.socket.getsockname(), self.socket.getpeername()
        except OSError:
            return False  # the connection has ended: sending will raise
        return self.socket.family == socket.AF_UNIX or bool(here[0] == there[0])

    @property
    def is_amid_record(self) -> bool:
        """True if only a part of a TLS record has arrived."""
        return self.tls is not None and self.tls.is_amid_record

    # receiving ---------------------------------------------------------------------------

    def receive_into(self, view: memoryview) -> int:
        """Receive available bytes, at most ``len(view)``. Return 0 if there are none.

        Raises:
            ConnectionLost: The peer closed, or the connection was cut.
        """
        pace = self.pace
        if pace is None:
            return self._receive_into(view)
        self._keep_pace(pace)
        count = self._receive_into(view[: pace.most])
        pace.spend(count)
        return count

    def receive_into_both(self, view: memoryview, beyond: memoryview) -> int:
        """See `Incoming.receive_into_both`."""
        if self.pace is not None or self.tls is not None:
            return self.receive_into(view)
        return self._receive_plain(view, beyond)

    def _receive_plain(self, view: memoryview, beyond: memoryview | None = None) -> int:
        if self.ended is not None:
            raise self.ended
        try:
            if beyond is None:
                count = self.socket.recv_into(view)
            else:
                count = self.socket.recvmsg_into([view, beyond])[0]
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLost(f"connection lost: {_words(error)}") from None
        if not count:
            raise self.ended or ConnectionLost("the peer closed the connection")
        self.bytes_in += count
        return count

    def _receive_into(self, view: memoryview) -> int:
        if self.tls is None:
            return self._receive_plain(view)
        if self.ended is not None:
            raise self.ended
        self._is_drained = False
        count = self.tls.read_into(view)
        while not count and self._feed(self.tls):
            count = self.tls.read_into(view)
        try:
            while 0 < count < len(view) and not self._is_drained and self._feed(self.tls):
                count += self.tls.read_into(view[count:])
        except ConnectionLost:
            pass  # first return what came before the end; the next call raises again
        self.bytes_in += count
        return count

    def _feed(self, pipe: TlsPipe) -> bool:
        """Move bytes from the socket into TLS. Return False if there were none."""
        if self.bytes_in >= self._much_input:  # here all that was fed before has been read
            self._much_input = math.inf
            if pipe.expect_much_input():
                self._max_receive = _RECEIVE_MUCH
        try:
            data = self.socket.recv(self._receive)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLost(f"connection lost: {_words(error)}") from None
        if data:
            pipe.feed(data)
            # when much arrives, more comes while this is decrypted: then another call pays
            self._is_drained = len(data) < self._receive == _RECEIVE_SMALL
            self._receive = self._max_receive if len(data) == self._receive else self._receive
        elif self.ended is not None:
            raise self.ended  # no EOF for TLS: it is still needed to send the last message
        else:
            pipe.feed_eof()
        return True

    # sending -----------------------------------------------------------------------------

    def start_slowly(self) -> None:
        """Limit what is buffered here and in the kernel until the peer has received some of it. To
        be called before much is sent: otherwise a peer that receives nothing costs megabytes."""
        self._began = self.bytes_out
        self._limit_unsent(_LOW_WATER)

    def _limit_unsent(self, count: int) -> None:
        if _NOTSENT_LOWAT is not None and self.socket.family != socket.AF_UNIX:
            try:
                self.socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, count)
            except OSError:
                pass  # the connection has ended: sending will raise

    def _piece(self) -> int:
        """Return the number of bytes to encrypt at a time."""
        if self._began is None:
            return tls.PIECE
        taken = self.bytes_out - self._began
        if taken < _SLOWLY:
            return min(tls.PIECE, max(_FIRST_PIECE, taken // 8))
        self._began = None
        self._limit_unsent(_NO_LOW_WATER)
        return tls.PIECE

    def queue(self, *pieces: bytes | memoryview) -> bool:
        """Append to the output. Nothing is sent before a flush.

        Returns:
            The same as ``output_full``.
        """
        out = self._out
        for piece in pieces:
            out += piece
        return len(out) >= _FLUSH_AT

    @property
    def output_full(self) -> bool:
        """True if the output is long enough to be flushed before more is added."""
        return len(self._out) >= _FLUSH_AT

    @property
    def has_output(self) -> bool:
        """True if something remains to be sent."""
        return bool(self._out) or self._unsent is not None

    def try_flush(self) -> bool:
        """Send as much of the output as the kernel takes now. Return True if nothing is left."""
        pace = self.pace  # another thread may change it
        if pace is not None and self._out:
            self._keep_pace(pace)
            pace.spend(len(self._out))
        return self._send_out()

    def interject(self, frame: bytes) -> bool:
        """Send a whole frame after the queued output, without waiting.

        Returns False, and sends nothing, if earlier output is still unsent. Another thread may call
        this while the owner does not use the channel.
        """
        if self._unsent is not None:
            return False
        self._out += frame
        self._send_out()
        return True

    def _send_out(self) -> bool:
        if self._unsent is not None and not self._push():
            return False
        while self._out:
            if self.tls is None:
                data, self._out = self._out, bytearray()
                self._unsent = memoryview(data)
            else:
                taken = self.tls.write(self._out)
                if taken == len(self._out):
                    self._out = bytearray()
                else:
                    del self._out[:taken]
                self._unsent = memoryview(self.tls.outgoing())
            if not self._push():
                return False
        return True

    def try_send(self, view: memoryview) -> int:
        """Send some of ``view``, after all queued output. Return the number of bytes taken."""
        pace = self.pace
        if pace is None:
            return self._try_send(view)
        self._keep_pace(pace)
        count = self._try_send(view[: pace.most])
        pace.spend(count)
        return count

    def _try_send(self, view: memoryview) -> int:
        if len(self._out) > _GOES_ALONG and not self.try_flush():
            return 0
        if self._unsent is not None and not self._push():
            return 0
        if self.tls is None:
            return self._send_along(view)
        if self._out:  # usually a header: in the same packets it costs no wake-up of its own
            self.tls.write(self._out)
            self._out = bytearray()
        elif self.bytes_out >= self._much_output:
            self._much_output = math.inf
            self.tls.expect_much_output()
        count = self.tls.write(view[: self._piece()])
        self._unsent = memoryview(self.tls.outgoing())
        self._push()
        return count

    def _send_along(self, view: memoryview) -> int:
        """Send the queued output and some of ``view`` in one call, without TLS."""
        self._piece()
        queued = len(self._out)
        try:
            count = self.socket.sendmsg([self._out, view]) if queued else self.socket.send(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLost(f"connection lost: {_words(error)}") from None
        self.bytes_out += count
        del self._out[:count]
        return max(0, count - queued)

    def try_send_file(self, fd: int, offset: int, count: int) -> int:
        """Send bytes of a file without copying them (sendfile; without TLS only).

        Returns 0 if the kernel takes nothing now.

        Raises:
            EOFError: The file is not longer than ``offset``.
        """
        if self.has_output and not self.try_flush():
            return 0
        self._piece()
        pace = self.pace
        if pace is not None:
            self._keep_pace(pace)
            count = min(count, pace.most)
        try:
            sent = os.sendfile(self._fd, fd, offset, count)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionError, TimeoutError) as error:
            raise ConnectionLost(f"connection lost: {_words(error)}") from None
        if not sent:
            raise EOFError("the file ended early")
        self.bytes_out += sent
        if pace is not None:
            pace.spend(sent)
        return sent

    def flush(self, deadline: float | None = None) -> None:
        """Send all output, waiting for the peer to receive it."""
        while not self.try_flush():
            self.wait(write=True, deadline=deadline)

    def _push(self) -> bool:
        """Send what is already reported as sent. Return True if nothing of it is left."""
        view = self._unsent
        assert view is not None
        while view:
            try:
                count = self.socket.send(view)
            except BlockingIOError:
                self._unsent = view
                return False
            except OSError as error:
                raise ConnectionLost(f"connection lost: {_words(error)}") from None
            self.bytes_out += count
            view = view[count:]
        self._unsent = None
        return True

    # opening and closing -----------------------------------------------------------------

    def handshake(self, deadline: float, *, hold: bool = False) -> None:
        """Do the TLS handshake.

        Args:
            hold: True to send this side's last handshake bytes together with the next output. This
                saves a packet and a wake-up of the peer, if there is something to send at once.

        Raises:
            TlsError, ssl.SSLCertVerificationError, ConnectionLost, TimedOut.
        """
        pipe = self.tls
        assert pipe is not None
        while True:
            try:
                done = pipe.handshake()
            except Exception:
                self._last_words(pipe.outgoing())  # the alert says why
                raise
            if done and hold:
                return
            data = pipe.outgoing()
            if data:
                self._unsent = memoryview(data)
            if done:
                self.flush(deadline)
                return
            if time.monotonic() > deadline:  # a peer that keeps sending never makes a wait time out
                raise TimedOut("the TLS handshake took too long")
            while self._unsent is not None and not self._push():
                self.wait(write=True, deadline=deadline)
            while not self._feed(pipe):
                self.wait(read=True, deadline=deadline)

    def _last_words(self, data: bytes | memoryview) -> None:
        try:
            self.socket.send(data)
        except OSError:
            pass  # the connection is being closed anyway

    def close(self) -> None:
        """Send what can be sent without waiting, and close. Can be called twice."""
        if self._fd < 0:
            return
        try:
            if self.try_flush() and self.tls is not None:
                self._last_words(self.tls.close())
            self.socket.shutdown(socket.SHUT_WR)
        except (ConnectionLost, OSError):
            pass  # the peer is gone
        self._fd = -1
        self.socket.close()

    def close_after_error(self, seconds: float, most: int | None = None) -> None:
        """Close so that the peer receives the last message.

        A close with unread input makes the kernel send a reset, and the peer would lose what it has
        not read yet. So this keeps receiving and discards the input, for a limited time.

        Args:
            seconds: How long to wait at most.
            most: Bytes to discard at most, roughly; a peer that sends more may get a reset.
        """
        passed = 0
        deadline = time.monotonic() + seconds
        scratch = bytearray(_RECEIVE_SMALL)
        try:
            self.flush(deadline)
            if self.tls is not None:
                self._last_words(self.tls.close())
            self.socket.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline:  # wait() never times out while more keeps coming
                ready = self.wait(read=True, deadline=deadline)
                if not ready.readable:
                    continue
                count = self.socket.recv_into(scratch)
                passed += count
                if not count or (most is not None and passed > most):
                    break
        except (ConnectionLost, OSError):
            pass  # the peer is gone, or still sending at the deadline
        finally:
            self.abort()

    def end(self, error: FtpError, *, wake: bool) -> None:
        """Let the owner receive nothing more: its next receive raises ``error``. For other threads.

        The owner can still send, e.g. the reason.

        Args:
            wake: True to interrupt a wait for input, too. Not while the peer is sending: after
                this, its bytes are answered by a reset as soon as this side closes.
        """
        self.ended = error
        if wake:
            try:
                self.socket.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # the connection has ended already

    def cut(self) -> None:
        """End the connection at once, for other threads: the owner gets `ConnectionLost`."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection has ended already

    def abort(self) -> None:
        """Close at once, without sending anything."""
        self._fd = -1
        self.socket.close()


def keep_probing(sock: socket.socket) -> None:
    """Make TCP notice within a minute if the other machine disappears."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
