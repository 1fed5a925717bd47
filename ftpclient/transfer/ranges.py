"""Downloads of a part of a remote file, or all of it, into memory.

Lives here: requesting a range, checking the frames, verifying a whole file.
Lives elsewhere: downloads to files (download.py), the file object that reads ahead
(ftpclient/files/reader.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.calls import check_digest, mismatch
from ftpwire import digests
from ftpwire.errors import BadMessage, Cancelled
from ftpwire.messages import PIECES, Get, InTrash, Sending, Sent
from ftpwire.paths import RemotePath

TO_THE_END = 2**63 - 1
"""A length longer than any file. When a request has a length, the server doesn't hash the bytes
before the range."""


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file.

    Attributes:
        data: The bytes; fewer than requested only at the end of the file.
        info: The properties of the file.
        digest: The digest of the whole file stored by the server, if any.
    """

    data: bytearray
    info: Sending
    digest: bytes | None


class _RangeCall(Call):
    """The bytes from an offset on, being received."""

    streams = True

    def __init__(self, offset: int, length: int | None) -> None:
        super().__init__()
        self.info: Sending | None = None
        self.data = bytearray()
        self.is_full = False
        """True if all requested bytes are here: an older server ignores lengths and sends more."""
        self._offset = offset
        self._wanted = length
        self._expected = 0
        self._received = 0

    def on_reply(self, reply: Sending) -> bool:
        if self.info is not None:
            raise BadMessage("the server began a file twice")
        if reply.offset != min(self._offset, reply.size):
            raise BadMessage("the server began at the wrong offset")
        self.info = reply
        left = reply.size - reply.offset
        self._expected = left if self._wanted is None else min(left, self._wanted)
        return False

    def on_frame(self, size: int) -> None:
        self._received += size
        if self.info is None or self.info.offset + self._received > self.info.size:
            raise BadMessage("the server sent more bytes than it had announced")

    def on_data(self, data: memoryview) -> None:
        self.data += data[: self._expected - len(self.data)]
        self.is_full = self._received > self._expected

    def on_ending(self) -> None:
        if self.info is None or len(self.data) != self._expected:
            raise BadMessage("the server ended a file before it was complete")


def fetch_range(
    connection: Connection,
    path: RemotePath,
    offset: int,
    length: int,
    in_trash: InTrash | None = None,
) -> Piece:
    """Return some bytes of a file, following links.

    Args:
        in_trash: See `ftpwire.messages.Get`.

    Raises:
        NotFound, IsADirectory, NotRegular, Forbidden, SourceChanged, ConnectionLost, Interrupted
    """
    call = _RangeCall(offset, length)
    knows = PIECES in connection.server.features
    expected_size = length if knows else None
    connection.submit(call, Get(path, offset, None, expected_size, in_trash=in_trash))
    while not call.done and not call.is_full:
        connection.pump()
    if call.is_full and not call.done:
        connection.send_cancel(call)
        connection.wait_for(call)
    if call.error is not None and not (call.is_full and isinstance(call.error, Cancelled)):
        raise call.error
    assert call.info is not None
    ending = call.ending
    return Piece(call.data, call.info, ending.digest if isinstance(ending, Sent) else None)


def fetch_whole(
    connection: Connection, path: RemotePath, in_trash: InTrash | None = None
) -> bytearray:
    """Return all bytes of a file, verified, following links.

    Args:
        in_trash: See `ftpwire.messages.Get`.

    Raises:
        VerificationFailed: They don't match the digest sent by the server, or it sent none.
        NotFound, IsADirectory, NotRegular, Forbidden, SourceChanged, ConnectionLost, Interrupted
    """
    call = _RangeCall(0, None)
    connection.submit(call, Get(path, in_trash=in_trash))
    connection.wait_for(call)
    if call.error is not None:
        raise call.error
    assert isinstance(call.ending, Sent)
    if call.ending.size != len(call.data):
        raise mismatch(path, encrypted=connection.encrypted)
    check_digest(path, call.ending.digest, digests.digest(call.data), connection)
    return call.data
