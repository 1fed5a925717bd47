"""Uploads of bytes in memory.

Lives here: sending them, resuming after a lost connection.
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
"""The name of a nameless source in results."""


@dataclass(frozen=True)
class Contents:
    """The contents of a file to upload.

    Attributes:
        data: Its bytes.
        mode: Its permission bits.
        parents: True to make missing parent directories.
    """

    data: memoryview
    mode: int
    parents: bool = False


class Outcome(Listener):
    """A listener that keeps the result of the only file of a transfer."""

    result: Result | None = None

    def finished(self, result: Result) -> None:
        self.result = result

    def check(self) -> Result:
        """Return the result if the file is stored, else raise its error."""
        assert self.result is not None
        if self.result.error is not None:
            raise self.result.error
        return self.result


def send_bytes(upload: Upload, contents: Contents, target: RemotePath) -> None:
    """Send bytes as a file. The transfer records the result.

    After a lost connection, call it again with the new one: it sends only what is missing.

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
    """Send it once. Return False if the server has bytes of another file, to be discarded."""
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
            raise BadMessage("the server resumed an upload that it was asked to restart")
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
