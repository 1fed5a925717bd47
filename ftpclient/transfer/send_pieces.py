"""Sending one large file over several connections, in pieces.

Lives here: which connection sends which piece, and what remains of the file when one fails.
Lives elsewhere: where pieces begin (pieces.py), files that are sent whole (file_upload.py), the
connections (pool.py).

The parent transfer hands out pieces in order, and only up to a limited distance beyond the first
gap in what the server has.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.pieces import end_of, starts_after
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.waiting import KeepAlive
from ftpwire import digests, holes
from ftpwire.errors import FtpError, SourceChanged
from ftpwire.holes import Extent
from ftpwire.messages import PutPiece, Sent
from ftpwire.pieces import PIECE
from ftpwire.streams import BUFFER_SIZE

_SENT_AHEAD = 8
"""Maximum number of pieces that a connection has sent without a reply."""
_WINDOW = 8
"""Maximum distance from the first gap to a piece that is handed out, in pieces per connection. Much
of that is still in local buffers."""
_LOOK_SECONDS = 0.2


class _PutPieceCall(Call):
    """One piece being sent."""

    def __init__(self, send: Send, start: int) -> None:
        super().__init__()
        self._send = send
        self._start = start

    def on_done(self) -> None:
        if self.error is not None:
            self._send.fail(self.error)
        else:
            self._send.taken(self._start)


class Send:
    """Sends the missing part of one file in pieces.

    ``_moved`` guards what threads share: ``_under_way``, ``_sent``, ``_error`` and ``_closed``. It
    is never held across a socket or file call.

    Args:
        call: The upload to which the pieces belong, on the parent's own connection.
        key: The upload's key, with which other connections send pieces to it.
        fd: The source.
        sparse: True to send its holes as holes.
    """

    def __init__(
        self,
        transfer: Transfer,
        pool: ConnectionPool[Any],
        call: PutCall,
        key: bytes,
        fd: int,
        *,
        sparse: bool,
    ) -> None:
        self._transfer = transfer
        self._pool = pool
        self._call = call
        self._key = key
        self._fd = fd
        self._sparse = sparse
        self._moved = threading.Condition()
        self._under_way: set[int] = set()
        self._sent = 0
        self._error: OSError | FtpError | None = None
        self._closed = False

    def run(self, offset: int, hasher: digests.new) -> bool:
        """Send and hash the bytes from ``offset`` on. Return False if the server refused them.

        When it returns, no worker starts to read the source any more; those that are still reading
        have a descriptor of their own, so that the caller may close the source.

        Raises:
            CommandError, OSError: A piece was refused, or the source failed.
            ConnectionLost, Interrupted
        """
        try:
            return self._deal(offset, hasher)
        finally:
            with self._moved:
                self._closed = True

    def _deal(self, offset: int, hasher: digests.new) -> bool:
        """Hand out the pieces, and wait until the server has all of them."""
        call, connection = self._call, self._transfer.connection
        keep_alive = KeepAlive(lambda: connection.keep_alive(call), connection.protocol.silence)
        starts, counted = starts_after(offset, call.size), 0
        start = next(starts, None)
        buffer = memoryview(bytearray(BUFFER_SIZE))
        while True:
            self._pool.check()
            connection.poll()
            if call.done:
                connection.send_cancel(call)
                return False
            keep_alive.tick()
            with self._moved:
                first = min(self._under_way, default=start)
                sent, error = self._sent, self._error
            self._transfer.advanced(sent - counted)
            counted = sent
            if error is not None:
                self._pool.check()  # what stopped a worker explains more than the piece
                raise error
            if first is None:
                return True
            if start is not None and start - first < _WINDOW * PIECE * self._pool.size:
                self._hash(hasher, start, buffer)
                self._give(start)
                start = next(starts, None)
                continue
            with self._moved:
                if self._error is None and first in self._under_way:
                    self._moved.wait(_LOOK_SECONDS)

    def _hash(self, hasher: digests.new, start: int, buffer: memoryview) -> None:
        """Hash a piece. The digest needs the bytes in order; workers then read them from memory."""
        end = end_of(start, self._call.size)
        for at, stop, is_hole in holes.extents(self._fd, start, end, sparse=self._sparse):
            if is_hole:
                holes.hash_zeros(hasher, stop - at)
                continue
            while at < stop:
                count = os.preadv(self._fd, [buffer[: stop - at]], at)
                if not count:
                    raise SourceChanged("became shorter while it was sent")
                hasher.update(buffer[:count])
                at += count

    def _give(self, start: int) -> None:
        with self._moved:
            self._under_way.add(start)
        self._pool.give(functools.partial(self._put, start=start))

    # called by workers --------------------------------------------------------------------

    def taken(self, start: int) -> None:
        """Note that the server has a piece."""
        with self._moved:
            self._under_way.discard(start)
            self._moved.notify()

    def fail(self, error: OSError | FtpError) -> None:
        """Record that a piece failed. Later errors are only consequences of the first."""
        with self._moved:
            self._error = self._error or error
            self._moved.notify()

    def _put(self, worker: Transfer, start: int) -> None:
        """Send a piece on a worker's connection."""
        connection = worker.connection
        while connection.unanswered >= _SENT_AHEAD:
            connection.pump()
        with self._moved:
            if self._closed or self._error is not None:
                return
            fd = os.dup(self._fd)  # under the lock: run() sets _closed before the source closes
        try:
            self._send_piece(connection, fd, start, end_of(start, self._call.size))
        finally:
            os.close(fd)

    def _send_piece(self, connection: Connection, fd: int, start: int, end: int) -> None:
        call = _PutPieceCall(self, start)
        connection.submit(call, PutPiece(self._key, start, end - start))
        buffer = memoryview(bytearray(min(BUFFER_SIZE, end - start)))
        extents = holes.Extents(fd) if self._sparse else None
        at = start
        while at < end:
            run = Extent(at, end, False) if extents is None else extents.at(at)
            stop = min(run.stop, end)
            try:
                count = stop - at if run.is_hole else os.preadv(fd, [buffer[: stop - at]], at)
                if not count:
                    raise SourceChanged("became shorter while it was sent")
            except (OSError, SourceChanged) as error:
                self.fail(error)
                connection.send_cancel(call)
                return
            if run.is_hole:
                connection.send_hole(call, count)
            else:
                connection.send_data(call, buffer[:count])
            at += count
            with self._moved:
                self._sent += count
                failed = self._error is not None
            if call.done or failed:
                connection.send_cancel(call)
                return
        connection.send_end(call, Sent(end - start))
