"""One large file over several connections, in pieces, both ways.

Lives here: cutting a file into pieces, who brings which, what becomes of the file when one fails.
Lives elsewhere: files that travel whole (upload.py, download.py), the connections that bring the
pieces (pool.py), how many connections that are (retry.py), putting pieces together
(ftpwire/pieces.py).

The parent of a transfer gives pieces away in their order, and only so far beyond what is there
without a gap: of an interrupted file that part counts, and what lies beyond it comes again.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn, Self

from ftpclient.connection.connection import Call, Connection
from ftpclient.transfer.calls import PutCall, mismatch
from ftpclient.transfer.job import KEEP_ALIVE_SECONDS, RESUME_FROM, Transfer
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.pool import ConnectionPool
from ftpwire import digests, paths
from ftpwire.errors import (
    BadMessage,
    CommandError,
    FtpError,
    LeaseLost,
    ProtocolError,
    SourceChanged,
)
from ftpwire.messages import Get, Hash, Hashed, PutPiece, Reply, Sending, Sent, WhoAmI
from ftpwire.paths import RemotePath
from ftpwire.pieces import PIECE, Assembly, Piece
from ftpwire.streams import BUFFER_SIZE

LEAST = 16 * 1024 * 1024
"""Files below this many bytes are not worth being cut."""

_ASKED_AT_ONCE = 3
"""Pieces that one connection asks for before the first of them has come."""
_SENT_AHEAD = 8
"""Pieces that one connection sends before it hears of the first of them."""
_WINDOW = 4
_WINDOW_UP = 8
"""Pieces for each connection that may be under way beyond the first gap. More would keep unequal
connections busier, and be lost when one of them is. Up it is more: of what is under way, much
still lies in buffers here."""
_LOOK_SECONDS = 0.2


def _end(start: int, size: int) -> int:
    """Where the piece ends that begins at ``start``: at a multiple of PIECE, or with the file.

    So no two pieces share a block of a disk, wherever the first of them began.
    """
    return min(size, (start // PIECE + 1) * PIECE)


def _starts(offset: int, size: int) -> Iterator[int]:
    """Where the pieces of what follows ``offset`` begin."""
    while offset < size:
        yield offset
        offset = _end(offset, size)


# downloads ---------------------------------------------------------------------------------


class _Probe(Call):
    """What the server has, asked for before any piece: a `Get` of no bytes."""

    streams = True

    def __init__(self) -> None:
        super().__init__()
        self.info: Sending | None = None

    def on_reply(self, reply: Reply) -> bool:
        if self.info is not None or not isinstance(reply, Sending):
            raise BadMessage("the server began a file twice")
        self.info = reply
        return False

    def on_frame(self, size: int) -> None:
        if size:
            raise BadMessage("the server sent bytes that nobody asked for")

    def on_ending(self) -> None:
        if self.info is None:
            raise BadMessage("the server ended a file that it had not begun")


class _PieceCall(Call):
    """One piece on its way from the server."""

    streams = True

    def __init__(self, fetching: _Fetching, piece: Piece) -> None:
        super().__init__()
        self._fetching = fetching
        self._piece = piece
        self._left = piece.end - piece.start
        self._begun = False
        self._failed = False
        self._scratch: memoryview | None = None
        self.sink = self

    def on_reply(self, reply: Reply) -> bool:
        assert isinstance(reply, Sending)
        if self._begun:
            raise BadMessage("the server began a piece twice")
        self._begun = True
        if not self._fetching.is_same(reply):
            self._fail(SourceChanged("it changed on the server meanwhile"))
        elif reply.offset != self._piece.start:
            raise BadMessage("the server began in the wrong place")
        return False

    def on_frame(self, size: int) -> None:
        self._left -= size
        if not self._begun or self._left < 0:
            raise BadMessage("the server sent more bytes than were asked for")

    def on_ending(self) -> None:
        if not self._begun or (self._left and not self._failed):
            raise BadMessage("the server ended a piece before it was complete")

    def on_done(self) -> None:
        self.sink = None  # nobody refers to its buffers any more
        if self.error is None and not self._failed:
            try:
                self._piece.finish()
            except (OSError, CommandError) as error:
                self._fail(error)
        if self.error is not None:
            self._fetching.fail(self.error)

    # its sink: the piece, until something fails

    def buffer(self) -> memoryview:
        if not self._failed:
            return self._piece.buffer()
        if self._scratch is None:
            self._scratch = memoryview(bytearray(64 * 1024))
        return self._scratch

    def filled(self, count: int) -> None:
        self._do(lambda: self._piece.filled(count))

    def write(self, data: memoryview) -> None:
        self._do(lambda: self._piece.write(data))

    def _do(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except (OSError, CommandError) as error:
            self._fail(error)

    def _fail(self, error: OSError | CommandError) -> None:
        self._failed = True
        self._fetching.fail(error)


class _Fetching:
    """One file that workers bring. The first ``error`` ends it; others follow from that."""

    def __init__(self, source: RemotePath, info: Sending, assembly: Assembly) -> None:
        self.source = source
        self.info = info
        self.assembly = assembly
        self.error: OSError | FtpError | None = None
        self.grew = False
        """Some pieces came from a longer file: whether it begins with them is asked at the end."""

    def is_same(self, info: Sending) -> bool:
        """Whether a piece is of the same file as the others, as far as that can be seen."""
        if info.size > self.info.size:
            self.grew = True
            return True
        return (info.size, info.mtime_ns) == (self.info.size, self.info.mtime_ns)

    def fail(self, error: OSError | FtpError) -> None:
        """A piece can't come; the rest is not needed any more."""
        if self.error is None:
            self.error = error

    def fetch(self, worker: Transfer, start: int) -> None:
        """Ask for a piece, on a worker's connection."""
        connection = worker.connection
        while connection.unanswered >= _ASKED_AT_ONCE:
            connection.pump()
        if self.error is not None:
            return
        size = _end(start, self.info.size) - start
        try:
            piece = self.assembly.open(start, size)
        except LeaseLost:
            return  # the parent has given it up
        call = _PieceCall(self, piece)
        connection.submit(call, Get(self.source, start, None, size))


class Fetch:
    """Getting one file in pieces into a partial file, from its beginning to its name.

    Attributes:
        size: Of the file, once the server has told it.
        grew: It became longer meanwhile, and still begins with what came.
    """

    def __init__(
        self,
        transfer: Transfer,
        pool: ConnectionPool[Any],
        source: RemotePath,
        shown: bytes,
        partial: PartialFile,
    ) -> None:
        self.size = 0
        self._shown = shown
        self.grew = False
        self._transfer = transfer
        self._pool = pool
        self._source = source
        self._partial = partial

    def run(self) -> bytes:
        """Get it, verify it, give it its name; returns its digest. Whatever happens, nothing
        stays behind, except what an interrupted download can go on with.

        Raises:
            CommandError, OSError: The file failed, or is refused.
            ConnectionLost, Interrupted: It was interrupted.
        """
        partial = self._partial
        try:
            info, digest = self._bring(*self._begin())
            partial.place(info.mode, info.mtime_ns)
            return digest
        except BaseException as error:
            failed = isinstance(error, (OSError, CommandError, ProtocolError))
            if failed or partial.fd < 0 or os.fstat(partial.fd).st_size < RESUME_FROM:
                partial.drop()
            else:
                partial.leave()
            raise

    def _begin(self) -> tuple[Sending, bytes | None, digests.new]:
        """Ask what the server has, and whether it begins with what is here.

        Returns:
            What is going to be sent, the digest that is kept of it, and what has hashed the part
            that is here.
        """
        offset, hasher = self._partial.offset, digests.new()
        if offset < RESUME_FROM:
            offset = 0
        if offset:
            self._transfer.hash_into(hasher, self._partial.fd, offset)
        info, kept = self._probe(offset, hasher.digest() if offset else None)
        self.size = info.size
        self._partial.start_at(info.offset)
        return info, kept, hasher if info.offset == offset else digests.new()

    def _probe(self, offset: int, prefix: bytes | None) -> tuple[Sending, bytes | None]:
        """Ask what the server has: from ``offset`` on if the file begins with ``prefix``, else
        from its beginning; and the digest that is kept of it."""
        connection, probe = self._transfer.connection, _Probe()
        connection.submit(probe, Get(self._source, offset, prefix, length=0))
        connection.wait_for(probe)
        if probe.error is not None:
            raise probe.error
        info = probe.info
        assert info is not None and isinstance(probe.ending, Sent)
        if info.offset not in (0, offset) or info.offset > info.size:
            raise BadMessage("the server began in the wrong place")
        return info, probe.ending.digest

    def _bring(
        self, info: Sending, kept: bytes | None, hasher: digests.new
    ) -> tuple[Sending, bytes]:
        transfer = self._transfer
        computed = Call()
        if kept is None:  # the server reads all of it while the pieces come
            transfer.connection.submit(computed, Hash(self._source))
            transfer.connection.flush()
        transfer.started(self._source, info.size)
        transfer.advanced(info.offset)
        fd = self._partial.fd
        with Assembly(fd, info.size, offset=info.offset, hasher=hasher) as assembly:
            fetching = _Fetching(self._source, info, assembly)
            try:
                self._deal(fetching, None if kept is not None else computed)
                digest = assembly.finish(lambda _: transfer.connection.check())
            except BaseException as error:
                if kept is None and not (computed.done or transfer.connection.broken):
                    transfer.connection.send_cancel(computed)
                if not isinstance(error, (OSError, CommandError, ProtocolError)):
                    assembly.close()
                    self._partial.start_at(assembly.frontier)
                    transfer.reached(self._shown, assembly.frontier)
                raise
        self._verify(fetching, digest, kept, computed)
        return info, digest

    def _verify(
        self, fetching: _Fetching, digest: bytes, kept: bytes | None, computed: Call
    ) -> None:
        """Compare the digest of all pieces with the one that is kept, or that was computed; of a
        file that grew meanwhile, have the server read its first bytes once more."""
        connection, size = self._transfer.connection, fetching.info.size
        if kept is None:
            if fetching.grew and not computed.done:
                connection.send_cancel(computed)  # of a longer file: it is of no use
            connection.wait_for(computed)
            if computed.error is not None and not fetching.grew:
                raise computed.error
            if isinstance(hashed := computed.reply, Hashed):
                fetching.grew |= hashed.size > size
                kept = hashed.digest if hashed.size == size else None
        if fetching.grew and kept != digest:
            info, _ = self._probe(size, digest)
            if not size < info.size or info.offset != size:
                raise SourceChanged(f"{paths.show(self._source)}: changed on the server meanwhile")
            kept = digest
        self.grew = fetching.grew
        if kept != digest:
            raise mismatch(self._source, encrypted=connection.encrypted)

    def _deal(self, fetching: _Fetching, asked: Call | None) -> None:
        """Give the pieces away, and wait until all have come.

        Args:
            asked: What the own connection is asked meanwhile.
        """
        assembly, pool, connection = fetching.assembly, self._pool, self._transfer.connection
        starts, told, said = _starts(assembly.offset, assembly.size), 0, time.monotonic()
        start = next(starts, None)
        while (frontier := assembly.frontier) < assembly.size:
            pool.check()
            connection.poll()
            if time.monotonic() - said > KEEP_ALIVE_SECONDS and (asked is None or asked.done):
                said = time.monotonic()
                connection.ask(WhoAmI())  # or a server that wants nobody idle would end it
            if fetching.error is not None:
                self._raise(fetching.error)
            if start is not None and start - frontier < _WINDOW * PIECE * pool.size:
                pool.give(functools.partial(fetching.fetch, start=start))
                start = next(starts, None)
                continue
            assembly.wait()
            received = assembly.received
            self._transfer.advanced(received - told)
            told = received
        self._transfer.advanced(assembly.received - told)

    def _raise(self, error: OSError | FtpError) -> NoReturn:
        self._pool.check()  # why a worker has stopped, rather than what became of its piece
        shown = paths.show(self._source)
        if isinstance(error, CommandError) and shown not in str(error):
            raise type(error)(f"{shown}: {error}")
        raise error


# uploads -----------------------------------------------------------------------------------


class _PutPieceCall(Call):
    """One piece on its way to the server."""

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
    """Sending what is missing of one file in pieces. A context manager: afterwards no worker
    begins to read the source any more, and those who do have a handle of their own.

    ``_moved`` guards what the workers change; it is never held across a socket or file call.

    Args:
        call: The upload that the pieces belong to, on the transfer's own connection.
        key: That opens it to them.
        fd: The source.
    """

    def __init__(
        self, transfer: Transfer, pool: ConnectionPool[Any], call: PutCall, key: bytes, fd: int
    ) -> None:
        self._transfer = transfer
        self._pool = pool
        self._call = call
        self._key = key
        self._fd = fd
        self._moved = threading.Condition()
        self._under_way: set[int] = set()
        self._sent = 0
        self._error: OSError | FtpError | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._moved:
            self._closed = True

    def run(self, offset: int, hasher: digests.new) -> bool:
        """Send the bytes from ``offset`` on, and have them hashed; False when the server has
        refused the upload meanwhile.

        Raises:
            CommandError, OSError: A piece was refused, or the source failed.
            ConnectionLost, Interrupted
        """
        call, connection = self._call, self._transfer.connection
        starts, told, said = _starts(offset, call.size), 0, time.monotonic()
        start = next(starts, None)
        buffer = memoryview(bytearray(BUFFER_SIZE))
        while True:
            self._pool.check()
            connection.poll()
            if call.done:
                connection.send_cancel(call)
                return False
            if time.monotonic() - said > KEEP_ALIVE_SECONDS:
                said = time.monotonic()
                connection.keep_alive(call)
            with self._moved:
                first = min(self._under_way, default=start)
                sent, error = self._sent, self._error
            self._transfer.advanced(sent - told)
            told = sent
            if error is not None:
                self._pool.check()  # why a worker has stopped, rather than what became of a piece
                raise error
            if first is None:
                return True
            if start is not None and start - first < _WINDOW_UP * PIECE * self._pool.size:
                self._hash(hasher, start, buffer)
                self._give(start)
                start = next(starts, None)
                continue
            with self._moved:
                if self._error is None and first in self._under_way:
                    self._moved.wait(_LOOK_SECONDS)

    def _hash(self, hasher: digests.new, start: int, buffer: memoryview) -> None:
        """The whole file's digest comes from one reading in order; workers find it in memory."""
        end = _end(start, self._call.size)
        while start < end:
            count = os.preadv(self._fd, [buffer[: end - start]], start)
            if not count:
                raise SourceChanged("became shorter while it was sent")
            hasher.update(buffer[:count])
            start += count

    def _give(self, start: int) -> None:
        with self._moved:
            self._under_way.add(start)
        self._pool.give(functools.partial(self._put, start=start))

    # what workers call -------------------------------------------------------------------

    def taken(self, start: int) -> None:
        """The server has a piece."""
        with self._moved:
            self._under_way.discard(start)
            self._moved.notify()

    def fail(self, error: OSError | FtpError) -> None:
        """A piece was refused, or can't be sent. What fails later follows from the first."""
        with self._moved:
            self._error = self._error or error
            self._moved.notify()

    def _put(self, worker: Transfer, start: int) -> None:
        """Send a piece, on a worker's connection."""
        connection = worker.connection
        while connection.unanswered >= _SENT_AHEAD:
            connection.pump()
        with self._moved:
            if self._closed or self._error is not None:
                return
            fd = os.dup(self._fd)
        try:
            self._send_piece(connection, fd, start, _end(start, self._call.size))
        finally:
            os.close(fd)

    def _send_piece(self, connection: Connection, fd: int, start: int, end: int) -> None:
        call = _PutPieceCall(self, start)
        connection.submit(call, PutPiece(self._key, start, end - start))
        buffer = memoryview(bytearray(min(BUFFER_SIZE, end - start)))
        at = start
        while at < end:
            try:
                count = os.preadv(fd, [buffer[: end - at]], at)
                if not count:
                    raise SourceChanged("became shorter while it was sent")
            except (OSError, SourceChanged) as error:
                self.fail(error)
                connection.send_cancel(call)
                return
            connection.send_data(call, buffer[:count])
            at += count
            with self._moved:
                self._sent += count
                failed = self._error is not None
            if call.done or failed:
                connection.send_cancel(call)
                return
        connection.send_end(call, Sent(end - start))
