"""The calls that transfer files, and the errors when the bytes do not match their digest.

Lives here: checking the frames that answer a `Get`; verifying, at the end, bytes that were already
handed on; checking the replies to a `Put`.
Lives elsewhere: what is done with the received bytes (file_call.py, node.py,
sync/remote_reader.py, aio/), where the sent bytes come from (file_upload.py).
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
    """Return the error for received bytes that do not have the digest sent by the server.

    That is the digest with which the file was stored, if the server has kept it.
    """
    if encrypted:
        return StoredFileDamaged(
            f"{paths.show(source)}: damaged on the server's disk: "
            "its bytes no longer have the digest they were stored with"
        )
    return VerificationFailed(
        f"{paths.show(source)}: the received bytes do not match the stored digest: damaged in "
        "transit, or on the server's disk (run `ftpd scrub` on the server to find out)"
    )


def asks_for_holes(connection: Driver, size: int | None = None) -> bool:
    """Return whether to ask the server to send the holes of a file as holes.

    Args:
        size: The file's size in bytes, if known.
    """
    return (size is None or size > SMALL) and HOLES in connection.server.features


def check_digest(source: RemotePath, sent: bytes | None, digest: bytes, connection: Driver) -> None:
    """Compare the digest of a received file with the one sent by the server.

    Raises:
        VerificationFailed: They differ; or the server sent none, and the client requires one.
    """
    if sent is None:
        if connection.verify:
            raise VerificationFailed(
                f"{paths.show(source)}: the server sent no digest, so the file cannot be verified "
                "(--no-verify accepts it)"
            )
    elif sent != digest:
        raise mismatch(source, encrypted=connection.encrypted)


class GetCall(Call):
    """A file being received. Its bytes go into the call's ``sink``, if there is one, else to
    ``on_data``."""

    streams = True
    requested_offset = 0

    def __init__(self) -> None:
        super().__init__()
        self.info: Sending | None = None
        self.received = 0
        self._small = bytearray()

    def on_reply(self, reply: Sending) -> bool:
        if self.info is not None:
            raise BadMessage("the server began a file twice")
        if reply.offset not in (0, self.requested_offset) or reply.offset > reply.size:
            raise BadMessage("the server began at the wrong offset")
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
        """Prepare a sink if the file is large. Called once its size is known."""

    def fail(self, error: OSError | CommandError) -> None:
        """Handle an error of the local side. The bytes that still arrive are ignored."""


class StreamCall(GetCall):
    """A file whose bytes are handed on as they arrive, and verified only at the end.

    For targets from which bytes cannot be taken back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.digest = digests.new()

    def on_data(self, data: memoryview) -> None:
        self.digest.update(data)
        self.take(data)

    def take(self, data: memoryview) -> None:
        """Handle bytes of the file. The view is valid until this returns."""

    def result(self, source: RemotePath, connection: Driver) -> tuple[int, bytes]:
        """Return the size and the digest of a file that has been received completely.

        Raises:
            VerificationFailed: The bytes do not have the digest sent by the server, or it sent
                none.
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
    """A file being sent to the server."""

    def __init__(self, transfer: Transfer, source: bytes, target: bytes) -> None:
        super().__init__()
        self._transfer = transfer
        self._source = source
        self._target = target
        self.size = 0
        self.digest: bytes | None = None
        """The digest of the whole file. None until it is known, just before END is sent."""
        self.ready: Ready | None = None
        self.failure: FtpError | None = None
        """The local error for which the upload was abandoned."""
        self.asks = False
        """True if the request asks for a `Ready` before the bytes are sent."""
        self.remark: str | None = None
        """See `Result`."""
        self.then: Callable[[], None] | None = None
        """Called after the result was reported, if the file is stored."""
        self.replaced = False
        """True if another call has taken over the file: the result of this one is not reported."""

    def on_reply(self, reply: Ready | Stored) -> bool:
        if isinstance(reply, Ready):
            if self.ready is not None or not self.asks:
                raise BadMessage("the server sent an unexpected Ready")
            self.ready = reply
            return False
        if self.digest is None:
            raise BadMessage("the server has stored a file before it was sent")
        if reply.size != self.size:
            raise BadMessage(f"the server has stored {reply.size} bytes of {self.size}")
        return True

    def is_ready(self) -> bool:
        """Wait until the server accepts bytes. Return False if it refused the upload."""
        connection = self._transfer.connection
        while self.ready is None and not self.done:
            connection.pump()
        if self.done and self.ready is None:
            connection.send_cancel(self)  # ends the open request, which the server has refused
            return False
        return True

    def send(self, pieces: Iterable[memoryview | Hole]) -> bool:
        """Send the file's bytes. Return False if the server refused the upload meanwhile."""
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
        """Cancel the upload because its source failed; the server discards what it received."""
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(source))
        self.failure = error
        self._transfer.connection.send_cancel(self)
        self._transfer.connection.wait_for(self)

    def on_done(self) -> None:
        if self.replaced:
            return
        error = self.error
        if not isinstance(error, ConnectionLost):  # a lost connection may have caused the failure
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
    """A sink that ignores all bytes."""

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
