"""Getting one large file over several connections, in pieces.

Lives here: which connection gets which piece, and what remains of the file when one fails.
Lives elsewhere: where pieces begin (pieces.py), files that are sent whole (file_call.py), the
connections (pool.py), putting pieces together (ftpwire/pieces.py).

The parent transfer hands out pieces in order, and only up to a limited distance beyond the first
gap. If the download is interrupted, the part before that gap is kept, and all pieces beyond it have
to be sent again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn

from ftpclient.connection.protocol import Call
from ftpclient.transfer.calls import asks_for_holes, mismatch
from ftpclient.transfer.job import RESUME_FROM, Transfer
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.pieces import end_of, starts_after
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.waiting import KeepAlive
from ftpwire import digests, paths
from ftpwire.errors import (
    BadMessage,
    CommandError,
    FtpError,
    LeaseLost,
    ProtocolError,
    SourceChanged,
)
from ftpwire.messages import Get, Hash, Hashed, Sending, Sent, WhoAmI
from ftpwire.paths import RemotePath
from ftpwire.pieces import PIECE, Assembly, Piece

_MAX_UNANSWERED = 3
"""Maximum number of pieces that a connection has requested and not received completely."""
_WINDOW = 4
"""Maximum distance from the first gap to a piece that is handed out, in pieces per connection.
A higher value would keep connections of unequal speed busier, but lose more when one is lost."""


class _Probe(Call):
    """Asks for the size and time of the file before any piece: a `Get` of no bytes."""

    streams = True

    def __init__(self) -> None:
        super().__init__()
        self.info: Sending | None = None

    def on_reply(self, reply: Sending) -> bool:
        if self.info is not None:
            raise BadMessage("the server began a file twice")
        self.info = reply
        return False

    def on_frame(self, size: int) -> None:
        if size:
            raise BadMessage("the server sent bytes that were not requested")

    def on_ending(self) -> None:
        if self.info is None:
            raise BadMessage("the server ended a file that it had not begun")


class _PieceCall(Call):
    """One piece being received."""

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

    def on_reply(self, reply: Sending) -> bool:
        if self._begun:
            raise BadMessage("the server began a piece twice")
        self._begun = True
        if not self._fetching.is_same(reply):
            self._fail(SourceChanged("changed on the server meanwhile"))
        elif reply.offset != self._piece.start:
            raise BadMessage("the server began at the wrong offset")
        return False

    def on_frame(self, size: int) -> None:
        self._left -= size
        if not self._begun or self._left < 0:
            raise BadMessage("the server sent more bytes than were requested")

    def on_hole(self, size: int) -> None:
        self.on_frame(size)
        self._do(lambda: self._piece.hole(size))

    def on_ending(self) -> None:
        if not self._begun or (self._left and not self._failed):
            raise BadMessage("the server ended a piece before it was complete")

    def on_done(self) -> None:
        self.sink = None  # end the reference cycle: the call was its own sink
        if self.error is None and not self._failed:
            try:
                self._piece.finish()
            except (OSError, CommandError) as error:
                self._fail(error)
        if self.error is not None:
            self._fetching.fail(self.error)

    # The call is its own sink: it passes bytes to the piece until something fails.

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
    """One file that workers receive in pieces.

    The first ``error`` ends it. Later errors are only consequences of the first, and are ignored.
    Workers set it and the parent reads it, without a lock: it is only ever assigned.
    """

    def __init__(self, source: RemotePath, info: Sending, assembly: Assembly) -> None:
        self.source = source
        self.info = info
        self.assembly = assembly
        self.error: OSError | FtpError | None = None
        self.grew = False
        """True if some pieces came from a longer version of the file. Whether that begins with the
        same bytes is checked at the end."""

    def is_same(self, info: Sending) -> bool:
        """Return whether a piece is of the same file as the others, judging by size and time."""
        if info.size > self.info.size:
            self.grew = True
            return True
        return (info.size, info.mtime_ns) == (self.info.size, self.info.mtime_ns)

    def fail(self, error: OSError | FtpError) -> None:
        """Record that a piece failed; the remaining ones are not needed any more."""
        if self.error is None:
            self.error = error

    def fetch(self, worker: Transfer, start: int) -> None:
        """Ask for a piece on a worker's connection."""
        connection = worker.connection
        while connection.unanswered >= _MAX_UNANSWERED:
            connection.pump()
        if self.error is not None:
            return
        size = end_of(start, self.info.size) - start
        try:
            piece = self.assembly.open(start, size)
        except LeaseLost:
            return  # the parent has abandoned the file
        call = _PieceCall(self, piece)
        asks = asks_for_holes(connection, self.info.size)
        in_trash = worker.options.in_trash
        connection.submit(call, Get(self.source, start, None, size, asks, in_trash))


class Fetch:
    """Downloads one file in pieces to a partial file, verifies it and gives it its final name.

    Attributes:
        size: The file's size in bytes, once known.
        grew: True if the file grew meanwhile, and still begins with the received bytes.
        mtime_ns: The file's mtime, once it is complete.
    """

    def __init__(
        self,
        transfer: Transfer,
        pool: ConnectionPool[Any],
        source: RemotePath,
        shown: bytes,
        partial: PartialFile,
    ) -> None:
        self.size = self.mtime_ns = 0
        self._shown = shown
        self.grew = False
        self._transfer = transfer
        self._pool = pool
        self._source = source
        self._partial = partial

    def run(self) -> bytes:
        """Get the file, verify it and give it its final name. Return its digest.

        After a failure nothing remains, except what an interrupted download can resume from.

        Raises:
            CommandError, OSError: The file failed or was refused.
            ConnectionLost, Interrupted: The download was interrupted.
        """
        partial = self._partial
        try:
            info, digest = self._bring(*self._begin())
            self.mtime_ns = info.mtime_ns
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
        """Ask the server for the file's properties, and whether it begins with the partial file.

        Returns:
            What the server is going to send; the stored digest, if it has one; and a hasher that
            has hashed the part that is already here.
        """
        offset, hasher = self._partial.offset, digests.new()
        if offset < RESUME_FROM:
            offset = 0
        if offset:
            self._transfer.hash_into(hasher, self._partial.fd, offset)
        info, kept = self._probe(offset, hasher.digest() if offset else None)
        self.size = info.size
        self._partial.start_at(info.offset)
        self._partial.mark_gaps()
        return info, kept, hasher if info.offset == offset else digests.new()

    def _probe(self, offset: int, prefix: bytes | None) -> tuple[Sending, bytes | None]:
        """Ask for the file's properties and its stored digest.

        The reply names ``offset`` if the file begins with ``prefix``, else 0.
        """
        connection, probe = self._transfer.connection, _Probe()
        in_trash = self._transfer.options.in_trash
        request = Get(self._source, offset, prefix, length=0, in_trash=in_trash)
        connection.submit(probe, request)
        connection.wait_for(probe)
        if probe.error is not None:
            raise probe.error
        info = probe.info
        assert info is not None and isinstance(probe.ending, Sent)
        if info.offset not in (0, offset) or info.offset > info.size:
            raise BadMessage("the server began at the wrong offset")
        return info, probe.ending.digest

    def _bring(
        self, info: Sending, kept: bytes | None, hasher: digests.new
    ) -> tuple[Sending, bytes]:
        transfer = self._transfer
        computed = Call()
        if kept is None:  # the server hashes the whole file while the pieces are sent
            request = Hash(self._source, transfer.options.in_trash)
            transfer.connection.submit(computed, request)
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
                    self._partial.mark_gapless()
                    transfer.reached(self._shown, assembly.frontier)
                raise
        self._verify(fetching, digest, kept, computed)
        return info, digest

    def _verify(
        self, fetching: _Fetching, digest: bytes, kept: bytes | None, computed: Call
    ) -> None:
        """Compare the digest of all pieces with the stored or the computed one.

        If the file grew meanwhile, ask the server to hash its first bytes again.
        """
        connection, size = self._transfer.connection, fetching.info.size
        if kept is None:
            if fetching.grew and not computed.done:
                connection.send_cancel(computed)  # of the longer file: of no use
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

    def _deal(self, fetching: _Fetching, question: Call | None) -> None:
        """Hand out the pieces, and wait until all have been received.

        Args:
            question: A request that is pending on the parent's own connection, if any.
        """
        assembly, pool, connection = fetching.assembly, self._pool, self._transfer.connection
        keep_alive = KeepAlive(lambda: connection.ask(WhoAmI()))
        starts, counted = starts_after(assembly.offset, assembly.size), 0
        start = next(starts, None)
        while (frontier := assembly.frontier) < assembly.size:
            pool.check()
            connection.poll()
            if question is None or question.done:
                keep_alive.tick()
            if fetching.error is not None:
                self._raise(fetching.error)
            if start is not None and start - frontier < _WINDOW * PIECE * pool.size:
                pool.give(functools.partial(fetching.fetch, start=start))
                start = next(starts, None)
                continue
            assembly.wait()
            received = assembly.received
            self._transfer.advanced(received - counted)
            counted = received
        self._transfer.advanced(assembly.received - counted)

    def _raise(self, error: OSError | FtpError) -> NoReturn:
        self._pool.check()  # the error that stopped a worker explains more than that of its piece
        shown = paths.show(self._source)
        if isinstance(error, CommandError) and shown not in str(error):
            raise error.with_text(f"{shown}: {error}")
        raise error
