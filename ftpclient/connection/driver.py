"""The parts of a connection that a thread and an event loop have in common.

Lives here: passing what arrives on a channel to the protocol, the end of both; announcing which
command the requests belong to.
Lives elsewhere: waiting and sending (connection.py, aio/connection.py), which reply belongs to
which request (protocol.py), opening (opening.py).
"""

from __future__ import annotations

import math
import ssl
import time
from typing import NamedTuple, NoReturn, Protocol

from ftpclient.connection import forks, log
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.client_id import Operation
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.protocol import CHANGING, ClientProtocol, UnaryCall
from ftpwire import messages
from ftpwire.channel import Ready, Sink
from ftpwire.errors import Cancelled, CommandError, ConnectionLost, FtpError, ProtocolError
from ftpwire.frames import FrameReader
from ftpwire.messages import Done, Hello, RequestBase
from ftpwire.pacing import Pace

STALL_SECONDS = 300.0
"""Seconds that a server without the feature `messages.ALIVE` may be silent while a reply is due: a
slow disk takes long to sync. Other servers announce their own limit."""
_FRAMES_AT_ONCE = 64
"""Most frames to process before the caller can react, so that a fast server cannot fill memory."""


class Stream(Protocol):
    """The source and target of frames: a `Channel`, or a substitute."""

    pace: Pace | None
    ended: FtpError | None

    @property
    def has_output(self) -> bool: ...
    def wait(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready: ...
    def fill(self, reader: FrameReader, limit: int | None = None) -> bool: ...
    def move_payload(self, reader: FrameReader, sink: Sink) -> bool: ...
    def queue(self, *pieces: bytes | memoryview) -> bool: ...
    def try_flush(self) -> bool: ...
    def try_send(self, view: memoryview) -> int: ...
    def rearm(self) -> None: ...
    def close(self) -> None: ...
    def cut(self) -> None: ...
    def abort(self) -> None: ...


class Trusted(NamedTuple):
    """The results of one connection that further ones to the same server reuse.

    Attributes:
        context: The TLS context that verified the server; None without TLS.
        session: A TLS session to resume, which saves both sides the expensive part of the
            handshake.
    """

    context: ssl.SSLContext | None
    session: ssl.SSLSession | None


class Driver:
    """A connection: a channel, and the protocol on it.

    Args:
        context: The TLS context that verified the server; None without TLS.
        interrupt: Stops waits and work when it is set.

    Attributes:
        verify: True to refuse a whole file that the server sends without a digest.
        moved_at: Time of the last successful wait, on ``time.monotonic()``: bytes arrived, or could
            be sent.
        round_trip: Seconds that the server took for its HELLO.
        operation: The command that the next requests belong to; None for none.
    """

    def __init__(
        self,
        address: ServerAddress,
        channel: Stream,
        protocol: ClientProtocol,
        *,
        context: ssl.SSLContext | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        self.address = address
        self.channel = channel
        self.protocol = protocol
        self.context = context
        self.verify = True
        self.moved_at = time.monotonic()
        self.round_trip = 0.0
        self.operation: Operation | None = None
        self._said: Operation | None = None
        """The operation that the server has been informed of."""
        self._interrupt = interrupt
        self._until = math.inf
        """Time to stop receiving, on ``time.monotonic()``."""
        forks.follow(self)

    @property
    def encrypted(self) -> bool:
        """True if TLS is used: then damage in transit cannot go unnoticed."""
        return self.context is not None

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the server's key (``SHA256:…``); None without TLS."""
        return None

    @property
    def trusted(self) -> Trusted:
        """The results of this connection that a further one can reuse."""
        return Trusted(self.context, None)

    @property
    def server(self) -> Hello:
        """The server's HELLO."""
        return self.protocol.server

    @property
    def data_size(self) -> int:
        """The largest DATA payload that the server accepts, in bytes."""
        return self.protocol.data_size

    @property
    def broken(self) -> bool:
        """True if it cannot be used any longer: it was lost, aborted or closed."""
        return self.protocol.ended is not None

    @property
    def unanswered(self) -> int:
        """The number of requests without a complete reply."""
        return len(self.protocol.calls)

    @property
    def longest_silence(self) -> float:
        """The most seconds that the server may be silent while a reply is due."""
        silence = self.protocol.silence
        return STALL_SECONDS if silence is None else silence

    @property
    def keeps_trash(self) -> bool:
        """True if the server knows operations, and repeats replies that were lost."""
        return messages.TRASH in self.server.features

    def introduction(
        self, request: RequestBase, operation: Operation | None
    ) -> tuple[UnaryCall[Done], messages.Operation] | None:
        """Return what must be sent before a request to tell the server its operation: the call and
        the message. None if nothing is needed: the request changes nothing, the server knows
        already, or it does not support operations.

        It must be sent right before the request. No caller waits for its reply.
        """
        if operation is self._said or not isinstance(request, CHANGING) or not self.keeps_trash:
            return None
        self._said = operation
        said = messages.Operation() if operation is None else operation.request()
        return _Introduction(self), said

    def not_said(self, error: FtpError) -> None:
        """Note a failed announcement of an operation: it is sent again before the next request."""
        self._said = None
        if isinstance(error, CommandError) and not isinstance(error, Cancelled):
            self.protocol.on_remark(f"this command may not be kept as one operation: {error}")

    def take_input(self) -> bool:
        """Process what has arrived, up to a limit. Return False if nothing had."""
        protocol, channel, interrupt = self.protocol, self.channel, self._interrupt
        took = 0
        try:
            while time.monotonic() < self._until:
                if not protocol.take():
                    sink = protocol.sink
                    if sink is not None:
                        moved = channel.move_payload(protocol.reader, sink)
                    else:
                        moved = channel.fill(protocol.reader, protocol.limit)
                    if not moved:
                        break
                if interrupt is not None:
                    interrupt.check()  # with a fast server this loop might never end
                took += 1
                if took >= _FRAMES_AT_ONCE:
                    break
        except FtpError as error:
            if protocol.error is not None:
                self.end_with(protocol.error)
            if isinstance(error, ProtocolError):  # raised by a sink
                self.end_with(error)
            if not isinstance(error, ConnectionLost):
                raise
            # an end after the last reply is no failure: the next request raises it
            if protocol.calls or not took:
                self.lost(error)
        return bool(took)

    def lost(self, error: ConnectionLost) -> NoReturn:
        """Handle the loss of the connection: all calls fail, and the error is raised."""
        self.end_with(self.protocol.lost(error))

    def end_with(self, error: FtpError) -> NoReturn:
        """Abort the connection: all calls fail with the error, and it is raised."""
        if not self.broken:
            log.info("%s: lost: %s", self.address.endpoint, error)
        self.channel.abort()
        self._fail_all(error)
        raise error from None

    def _fail_all(self, error: FtpError) -> None:
        """Give the error to everything that is waiting."""
        self.protocol.end(error)

    def cut(self) -> None:
        """Abort the connection from another thread: its owner gets ConnectionLost."""
        self.channel.cut()

    def _after_fork(self) -> None:
        """Close this copy of the socket in a child process; the connection belongs to the parent.

        The calls end without their callbacks, because these act on objects of the parent.
        """
        error = ConnectionLost(
            f"{self.address.endpoint}: the connection belongs to the parent process"
        )
        self.protocol.forget(error)
        self.channel.ended = error
        self.channel.abort()


class _Introduction(UnaryCall[Done]):
    """The call that announces the operation of the next requests."""

    def __init__(self, connection: Driver) -> None:
        super().__init__()
        self._connection = connection

    def on_done(self) -> None:
        if self.error is not None:
            self._connection.not_said(self.error)
