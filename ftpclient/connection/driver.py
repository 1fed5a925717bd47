"""What one thread and an event loop do alike with a connection.

Lives here: taking what comes on a channel into the protocol, and the end of both; saying which
command the requests belong to.
Lives elsewhere: waiting and sending (connection.py, aio/connection.py), which answer belongs to
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
from ftpclient.connection.protocol import CHANGING, Asked, ClientProtocol
from ftpwire import messages
from ftpwire.channel import Ready, Sink
from ftpwire.errors import Cancelled, CommandError, ConnectionLost, FtpError, ProtocolError
from ftpwire.frames import FrameReader
from ftpwire.messages import Done, Hello, RequestBase
from ftpwire.pacing import Pace

STALL_SECONDS = 300.0
"""How long a server that doesn't promise `messages.ALIVE` may be silent while it owes an answer: a
slow disk syncs slowly. One that does says itself for how long."""
_FRAMES_AT_ONCE = 64
"""Frames handed out before whoever waits has a look: a fast server fills no memory."""


class Stream(Protocol):
    """Where frames go to and come from: a `Channel`, or what stands for one."""

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
    """What a further connection to the same server takes over from one: it decided whom to trust.

    Attributes:
        context: None without TLS.
        session: A TLS session to resume, which saves both sides the costly part of the handshake.
    """

    context: ssl.SSLContext | None
    session: ssl.SSLSession | None


class Driver:
    """A connection: a channel, and the protocol that is spoken on it.

    Args:
        context: What vouches for the server; None without TLS.
        interrupt: Ends waiting and working when the user wants to stop.

    Attributes:
        verify: Whether a whole file that the server sends without a digest is refused.
        moved_at: When the connection was last waited for with success, on ``time.monotonic()``:
            bytes came, or could be sent.
        round_trip: Seconds that the server took for its HELLO.
        operation: The command that the next requests belong to; None: to none.
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
        """The one that the server takes them for."""
        self._interrupt = interrupt
        self._until = math.inf
        """When to stop taking what comes, on ``time.monotonic()``."""
        forks.follow(self)

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken: then nothing can be damaged on the way unnoticed."""
        return self.context is not None

    @property
    def fingerprint(self) -> str | None:
        """Of the server's key (``SHA256:…``); None without TLS."""
        return None

    @property
    def trusted(self) -> Trusted:
        """For a further connection to the same server."""
        return Trusted(self.context, None)

    @property
    def server(self) -> Hello:
        """What the server has said of itself."""
        return self.protocol.server

    @property
    def data_size(self) -> int:
        """Bytes of a DATA frame that the server takes."""
        return self.protocol.data_size

    @property
    def broken(self) -> bool:
        """Whether it is of no more use: lost, given up or closed."""
        return self.protocol.ended is not None

    @property
    def unanswered(self) -> int:
        """Requests whose replies are still to come."""
        return len(self.protocol.calls)

    @property
    def longest_silence(self) -> float:
        """Seconds that the server may be silent while it owes an answer."""
        silence = self.protocol.silence
        return STALL_SECONDS if silence is None else silence

    @property
    def keeps_trash(self) -> bool:
        """Whether the server knows operations, and repeats answers that were lost."""
        return messages.TRASH in self.server.features

    def introduction(
        self, request: RequestBase, operation: Operation | None
    ) -> tuple[Asked[Done], messages.Operation] | None:
        """What has to be said before a request, for the server to know what it belongs to: its
        call, and the message. None when nothing has to: it changes nothing, that was said before,
        or the server has no use for it.

        It goes out right before the request, and nobody waits for its answer.
        """
        if operation is self._said or not isinstance(request, CHANGING) or not self.keeps_trash:
            return None
        self._said = operation
        said = messages.Operation() if operation is None else operation.request()
        return _Introduction(self), said

    def not_said(self, error: FtpError) -> None:
        """What was said of an operation did not arrive: it is said again with the next request."""
        self._said = None
        if isinstance(error, CommandError) and not isinstance(error, Cancelled):
            self.protocol.on_remark(f"what this command removes may not be kept as one: {error}")

    def take_input(self) -> bool:
        """Hand out what has come, but not all of an endless stream; False when nothing had."""
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
                    interrupt.check()  # a fast server may never let this loop end
                took += 1
                if took >= _FRAMES_AT_ONCE:
                    break
        except FtpError as error:
            if protocol.error is not None:
                self.end_with(protocol.error)
            if isinstance(error, ProtocolError):  # of a sink
                self.end_with(error)
            if not isinstance(error, ConnectionLost):
                raise
            # an end that follows the last answer is no failure: whoever asks next hears of it
            if protocol.calls or not took:
                self.lost(error)
        return bool(took)

    def lost(self, error: ConnectionLost) -> NoReturn:
        """The connection is gone: every call fails, and so does who waits."""
        self.end_with(self.protocol.lost(error))

    def end_with(self, error: FtpError) -> NoReturn:
        """Nothing more can come: every call fails with the error, and so does who waits."""
        if not self.broken:
            log.info("%s: lost: %s", self.address.endpoint, error)
        self.channel.abort()
        self._fail_all(error)
        raise error from None

    def _fail_all(self, error: FtpError) -> None:
        """Whoever waits for something gets the error."""
        self.protocol.end(error)

    def cut(self) -> None:
        """End the connection from another thread: whoever waits for it gets ConnectionLost."""
        self.channel.cut()

    def _after_fork(self) -> None:
        """In a child process: close this copy of the socket; the connection is the parent's.

        The calls end, but are not told: what hangs on them is the parent's as well.
        """
        error = ConnectionLost(f"{self.address.endpoint}: the connection is the parent process's")
        self.protocol.forget(error)
        self.channel.ended = error
        self.channel.abort()


class _Introduction(Asked[Done]):
    """Which operation the next requests belong to, on its way."""

    def __init__(self, connection: Driver) -> None:
        super().__init__()
        self._connection = connection

    def on_done(self) -> None:
        if self.error is not None:
            self._connection.not_said(self.error)
