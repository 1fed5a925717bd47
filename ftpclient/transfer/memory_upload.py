"""Uploads of bytes that are in memory.

Lives here: sending them, going on after a lost connection.
Lives elsewhere: files (file_upload.py), streams (stream_upload.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import RESUME_FROM, SMALL
from ftpclient.transfer.report import Listener, Result
from ftpclient.transfer.upload import Upload
from ftpwire import digests
from ftpwire.errors import BadMessage
from ftpwire.messages import Put, Sent
from ftpwire.paths import RemotePath

SOURCE = b"-"
"""What a source without a name is called in results."""


@dataclass(frozen=True)
class Contents:
    """A file to be, in memory.

    Attributes:
        data: Its bytes.
        mode: Its permission bits.
        parents: Have missing directories above it made.
    """

    data: memoryview
    mode: int
    parents: bool = False


class Outcome(Listener):
    """Keeps how the one file of a transfer ended."""

    result: Result | None = None

    def finished(self, result: Result) -> None:
        self.result = result

    def check(self) -> Result:
        """The result of a file that is stored. Raises its error otherwise."""
        assert self.result is not None
        if self.result.error is not None:
            raise self.result.error
        return self.result


def send_bytes(upload: Upload, contents: Contents, target: RemotePath) -> None:
    """Send bytes as a file; the transfer hears of its end.

    After a lost connection, the same on another one sends what the server doesn't have.

    Raises:
        ConnectionLost, Interrupted
    """
    data = contents.data
    ask = len(data) > RESUME_FROM
    if not _send(upload, contents, target, ask=ask, resume=ask):
        _send(upload, contents, target, ask=ask, resume=False)


def _send(
    upload: Upload, contents: Contents, target: RemotePath, *, ask: bool, resume: bool
) -> bool:
    """Send it once; False when the server has bytes of something else, which it is to forget."""
    data, size = contents.data, len(contents.data)
    connection = upload.connection
    call = PutCall(upload, SOURCE, target)
    call.size, call.asks = size, ask
    request = Put(
        target,
        size,
        contents.mode,
        overwrite=upload.options.overwrite,
        ask=ask,
        resume=resume,
        parents=contents.parents,
    )
    connection.submit(call, request, size if size <= SMALL else 0)
    offset = 0
    if ask:
        if not call.is_ready():
            return True
        assert call.ready is not None
        offset = call.ready.offset
        if offset and not resume:
            raise BadMessage("the server goes on with what it was to forget")
        if offset > size or (offset and digests.digest(data[:offset]) != call.ready.digest):
            call.replaced = True
            connection.send_cancel(call)
            connection.wait_for(call)
            return False
        upload.advanced(offset)
        upload.reached(target, offset)
    if offset < size and not call.send((data[offset:],)):
        return True
    call.digest = digests.digest(data)
    connection.send_end(call, Sent(size, call.digest))
    return True
