"""The calls of transfers: a file's bytes on their way, and what is wrong when they aren't its.

Lives here: the frames of a `Get`, checked; bytes that can't be taken back, verified at the end; the
answers to a `Put`.
Lives elsewhere: what becomes of the bytes (file_call.py, node.py, sync/remote_reader.py, aio/),
where they come from (file_upload.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ftpclient.connection.driver import Driver
from ftpclient.connection.protocol import Call
from ftpclient.transfer.job import SMALL, Transfer
from ftpwire import digests, paths
from ftpwire.errors import (
    BadMessage,
    CommandError,
    ConnectionLost,
    FtpError,
    StoredFileDamaged,
    VerificationFailed,
    from_oserror,
)
from ftpwire.holes import Hole
from ftpwire.messages import HOLES, Ready, Sending, Sent, Stored
from ftpwire.paths import RemotePath


def mismatch(source: RemotePath, *, encrypted: bool) -> VerificationFailed:
    """The error when what arrived doesn't have the digest that the server tells.

    That is the one the file was stored with, as long as one is kept.
    """
    if encrypted:
        return StoredFileDamaged(
            f"{paths.show(source)}: damaged on the server's disk: "
            "its bytes no longer have the digest they were stored with"
        )
    return VerificationFailed(
        f"{paths.show(source)}: what arrived is not what was stored: damaged on the way, or on the "
        "server's disk (`ftpd scrub` there tells)"
    )


def asks_for_holes(connection: Driver, size: int | None = None) -> bool:
    """Whether to ask for the holes of a remote file.

    Args:
        size: Its bytes, if they are known.
    """
    return (size is None or size > SMALL) and HOLES in connection.server.features


def check_digest(source: RemotePath, told: bytes | None, digest: bytes, connection: Driver) -> None:
    """Compare the digest of a whole file that arrived with the one that the server tells.

    Raises:
        VerificationFailed: It is another one; or none was told, and the client wants one.
    """
    if told is None:
        if connection.verify:
            raise VerificationFailed(
                f"{paths.show(source)}: the server sent no digest, so nothing shows that these are "
                "the file's bytes (--no-verify takes them)"
            )
    elif told != digest:
        raise mismatch(source, encrypted=connection.encrypted)


class GetCall(Call):
    """A file on its way from the server, into whatever ``open_target`` gives."""

    streams = True
    asked_offset = 0

    def __init__(self) -> None:
        super().__init__()
        self.info: Sending | None = None
        self.received = 0
        self._small = bytearray()

    def on_reply(self, reply: Sending) -> bool:
        if self.info is not None:
            raise BadMessage("the server began a file twice")
        if reply.offset not in (0, self.asked_offset) or reply.offset > reply.size:
            raise BadMessage("the server began in the wrong place")
        self.info = reply
        try:
            self.begin(reply)
        except (OSError, CommandError) as error:
            self.fail(error)
        return False

    def on_frame(self, size: int) -> None:
        self.received += size
        if self.info is None or self.info.offset + self.received > self.info.size:
            raise BadMessage("the server sent more bytes than it had announced")

    def on_ending(self) -> None:
        if self.info is None:
            raise BadMessage("the server ended a file that it had not begun")

    def on_data(self, data: memoryview) -> None:
        self._small += data

    def begin(self, info: Sending) -> None:
        """The file's size is known: prepare a sink if it is large."""

    def fail(self, error: OSError | CommandError) -> None:
        """The local side failed: what still comes is passed over."""


class StreamCall(GetCall):
    """A file's bytes as they come, for who can't take them back: they are verified at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = digests.new()

    def on_data(self, data: memoryview) -> None:
        self.digest.update(data)
        self.take(data)

    def take(self, data: memoryview) -> None:
        """Bytes of the file; the view is good until this returns."""

    def result(self, source: RemotePath, connection: Driver) -> tuple[int, bytes]:
        """Size and digest, once it is done.

        Raises:
            VerificationFailed: What was handed out is not what the server says that it stored, or
                it doesn't say.
        """
        if self.error is not None:
            raise self.error
        digest = self.digest.digest()
        ending = self.ending
        assert self.info is not None and isinstance(ending, Sent)
        size = self.info.offset + self.received
        if ending.size != size:
            raise mismatch(source, encrypted=connection.encrypted)
        check_digest(source, ending.digest, digest, connection)
        return size, digest


class PutCall(Call):
    """A file on its way to the server."""

    def __init__(self, transfer: Transfer, source: bytes, target: bytes) -> None:
        super().__init__()
        self._transfer = transfer
        self._source = source
        self._target = target
        self.size = 0
        self.digest: bytes | None = None
        """Of the whole file, once that is known: before its END is sent."""
        self.ready: Ready | None = None
        self.failure: FtpError | None = None
        """Why this side gave it up."""
        self.asks = False
        """Whether a `Ready` is waited for."""
        self.remark: str | None = None
        """See `Result`."""
        self.then: Callable[[], None] | None = None
        """Called after its end was told, if it is stored."""
        self.replaced = False
        """Another call has taken over the file: this one's end is nobody's business."""

    def on_reply(self, reply: Ready | Stored) -> bool:
        if isinstance(reply, Ready):
            if self.ready is not None or not self.asks:
                raise BadMessage("the server is ready for what nobody asked")
            self.ready = reply
            return False
        if self.digest is None:
            raise BadMessage("the server has stored a file before it was sent")
        if reply.size != self.size:
            raise BadMessage(f"the server has stored {reply.size} bytes of {self.size}")
        return True

    def is_ready(self) -> bool:
        """Wait for the server to say that the bytes may come; False when it has refused them."""
        connection = self._transfer.connection
        while self.ready is None and not self.done:
            connection.pump()
        if self.done and self.ready is None:
            connection.send_cancel(self)  # closes what the refused request has opened
            return False
        return True

    def send(self, pieces: Iterable[memoryview | Hole]) -> bool:
        """Send the file's bytes; False when the server has refused them meanwhile."""
        transfer = self._transfer
        for piece in pieces:
            if isinstance(piece, Hole):
                transfer.connection.send_hole(self, piece.size)
            else:
                transfer.connection.send_data(self, piece)
            transfer.advanced(len(piece))
            if self.done:
                transfer.connection.send_cancel(self)
                return False
        return True

    def give_up(self, source: bytes, error: OSError | CommandError) -> None:
        """The source failed in the middle: have the server drop what it got."""
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(source))
        self.failure = error
        self._transfer.connection.send_cancel(self)
        self._transfer.connection.wait_for(self)

    def on_done(self) -> None:
        if self.replaced:
            return
        error = self.error
        if not isinstance(error, ConnectionLost):  # that may have broken what failed here
            error = self.failure or error
        local = error is not None and error is self.failure
        self._transfer.end(
            self._source,
            self._target,
            self.size,
            digest=self.digest,
            error=error,
            local=local,
            remark=self.remark,
        )
        if error is None and self.then is not None:
            self.then()


class Discard:
    """A sink for bytes that nobody wants any more."""

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(64 * 1024))

    def buffer(self) -> memoryview:
        return self._scratch

    def filled(self, count: int) -> None:
        pass

    def hole(self, count: int) -> None:
        pass

    def write(self, data: memoryview) -> None:
        pass
