"""Uploads of sources without a size: a pipe, a FIFO, a device, a file in /proc.

Lives here: sending them until their end.
Lives elsewhere: which sources are such (upload.py, named.py), files (file_upload.py), keeping the
upload alive while there is nothing to send (waiting.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial

import msgspec

from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import EmptySource, Transfer
from ftpclient.transfer.waiting import Waiting
from ftpwire import digests, paths
from ftpwire.holes import Hole
from ftpwire.messages import Put, Sent
from ftpwire.paths import RemotePath
from ftpwire.streams import ReadAhead

MODE = 0o644
"""The mode of an upload whose source is not a file."""


class Stream(msgspec.Struct, frozen=True):
    """A source that is read until its end.

    Attributes:
        source: Its name; ``-`` for standard input.
        fd: The descriptor to read.
        first: Bytes that were already read from it.
        info: The state of the file, if it is one; None if it can be read only once.
        mode: The permission bits if it is not a file.
    """

    source: bytes
    fd: int
    first: bytes = b""
    info: os.stat_result | None = None
    mode: int = MODE

    def request(self, target: RemotePath, transfer: Transfer, *, parents: bool) -> Put:
        """Return the request to store it."""
        mode, mtime_ns = self.mode, None
        if self.info is not None:
            mode, mtime_ns = self.info.st_mode & 0o777, self.info.st_mtime_ns
        overwrite = transfer.options.overwrite
        return Put(target, None, mode, mtime_ns, overwrite, ask=True, parents=parents)

    def pieces(self, rest: ReadAhead) -> Iterator[memoryview | Hole]:
        """Iterate over all of its bytes."""
        if self.first:
            yield memoryview(self.first)
        yield from rest


class _Refused(Exception):
    """The server has refused the upload, or ended it, while its source was silent."""


def send_stream(
    transfer: Transfer,
    stream: Stream,
    target: RemotePath,
    spent: set[tuple[bytes, RemotePath]],
    *,
    parents: bool,
) -> None:
    """Send a stream. ``transfer`` records the result.

    Args:
        spent: Gets the source, with its target, if it cannot be read again.
        parents: True to make missing parent directories.

    Raises:
        ConnectionLost, Interrupted
    """
    source = stream.source
    call = PutCall(transfer, source, target)
    call.asks = True
    transfer.connection.submit(call, stream.request(target, transfer, parents=parents))
    if not call.is_ready():
        return
    transfer.started(source, None)
    hasher = digests.new(stream.first)
    try:
        waiting = _waiting(transfer, call, stream)

        def look() -> None:
            transfer.connection.poll()
            if call.done:
                raise _Refused
            waiting.look()

        with ReadAhead(stream.fd, None, hasher=hasher, while_waiting=look) as rest:
            for piece in stream.pieces(rest):
                waiting.is_over = True
                if stream.info is None:
                    spent.add((source, target))
                if not call.send((piece,)):
                    return
    except _Refused:
        transfer.connection.send_cancel(call)
        return
    except OSError as error:
        call.give_up(source, error)
        return
    call.size = len(stream.first) + rest.size
    if not call.size and transfer.options.no_empty:
        call.give_up(source, EmptySource(f"{_shown(source)}: empty, so it is not stored"))
        return
    call.digest = rest.digest()
    transfer.connection.send_end(call, Sent(call.size, call.digest))


def _waiting(transfer: Transfer, call: PutCall, stream: Stream) -> Waiting:
    """Keep the upload of a silent stream alive. Of a FIFO, the user is informed."""
    text = f"{paths.show(stream.source)}: waiting for a writer"
    connection = transfer.connection
    keep_alive = partial(connection.keep_alive, call)
    waiting = Waiting(keep_alive, transfer.listener.remark, text, connection.protocol.silence)
    is_fifo = stat.S_ISFIFO(os.fstat(stream.fd).st_mode)
    waiting.is_over = stream.source == b"-" or not is_fifo
    return waiting


def _shown(source: bytes) -> str:
    return "standard input" if source == b"-" else paths.show(source)
