"""A file that arrives in pieces, in any order and from several threads, and is hashed in order.

Lives here: which bytes have arrived, writing them to their offsets, and the hash that follows
behind. Acts only on a descriptor that the caller passes.
Lives elsewhere: a file that arrives as one stream (streams.py), cutting files into pieces
(ftpclient/transfer/pieces.py), a file that several processes write
(ftpserver/storage/piece_table.py).

BLAKE3 digests of parts cannot be merged here. So one thread reads what has arrived without a gap, a
little behind the threads that write it: the bytes come from the page cache, and the hash is
complete soon after the last byte.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self

from ftpwire import digests, holes
from ftpwire.errors import CommandError, LeaseLost, SourceChanged, TooMany, VerificationFailed
from ftpwire.holes import Hole
from ftpwire.streams import BUFFER_SIZE, grown

PIECE = 2 * 1024 * 1024
"""Size of a piece in bytes: small enough that connections of unequal speed share a file well."""
STEP = 16 * 1024 * 1024
"""Bytes between two calls of ``on_step``."""
MOST_UNDER_WAY = 1024
"""Most pieces that were begun and are incomplete, or have a gap before them."""

AHEAD = 64 * 1024 * 1024
"""Most bytes that may be written and not hashed yet: a slow disk thus slows the network down."""
LOOK_SECONDS = 0.2
"""Seconds between two checks of how far hashing has come."""


class Writer(Protocol):
    """Writes the bytes of pieces to their offsets."""

    def write(self, piece: Piece, data: memoryview | Hole) -> None:
        """Write the next bytes of a piece, and advance its ``at``."""


class Followed(Protocol):
    """A file that is hashed behind its writers."""

    @property
    def is_abandoned(self) -> bool:
        """True if the digest is no longer needed."""

    def wait_for_more(self, at: int) -> int:
        """Wait until more can be hashed. Return the offset to hash up to; ``at`` at the end."""

    def note_hashed(self, at: int) -> None:
        """Report that the file is hashed up to ``at``."""

    def has_holes(self) -> bool:
        """Return True if holes arrived: the file may then lack one at its end, and be shorter."""


def hash_behind(
    fd: int,
    at: int,
    hasher: digests.new,
    followed: Followed,
    on_step: Callable[[int, bytes], None] | None,
) -> None:
    """Hash a file from ``at`` on while it is written, until its end.

    Raises:
        OSError, SourceChanged: It cannot be read. Errors from ``on_step`` are raised, too.
    """
    marked = at
    buffer = memoryview(bytearray())
    while (end := followed.wait_for_more(at)) > at:
        if len(buffer) < BUFFER_SIZE:  # no memory is allocated before something has arrived
            buffer = memoryview(bytearray(min(BUFFER_SIZE, end - at)))
        while at < end and not followed.is_abandoned:
            count = os.preadv(fd, [buffer[: end - at]], at)
            if count:
                hasher.update(buffer[:count])
            elif not followed.has_holes():
                raise SourceChanged("it became shorter while it was written")
            else:
                count = min(end - at, STEP)
                holes.hash_zeros(hasher, count)
            at += count
            followed.note_hashed(at)
            if on_step is not None and at - marked >= STEP:
                on_step(at, hasher.digest())
                marked = at


def must_be_missing(
    start: int, end: int, base: int, size: int, others: Iterable[tuple[int, int]]
) -> None:
    """Raise CommandError unless a piece may begin: inside the file, and not overlapping others.

    Args:
        base: Number of bytes that have arrived without a gap.
        others: Start and end of each piece behind these that was begun.
    """
    if end <= start or start < base or end > size:
        raise CommandError("these bytes are not missing")
    if any(start < other_end and other < end for other, other_end in others):
        raise CommandError("another piece covers some of these bytes")


def too_many() -> TooMany:
    """Return the error for a piece beyond `MOST_UNDER_WAY`."""
    return TooMany(f"more than {MOST_UNDER_WAY} pieces with gaps between them")


class Assembly:
    """The bytes of one file from ``offset`` on, in pieces.

    ``open`` begins a piece, and the caller fills it. ``finish`` closes the assembly, and returns
    the digest of what has arrived without a gap. As a context manager it stops its thread in any
    case.

    ``_lock`` guards all mutable state; it is never held across a file call. After ``close`` no
    thread writes to the descriptor, so the caller may pass it on.

    Args:
        fd: Descriptor, read and written with ``pread`` and ``pwrite``.
        size: Size of the whole file.
        offset: Number of bytes that are there already.
        hasher: The hasher after these bytes.
        on_step: Function to call every `STEP` bytes, by the hashing thread, with the number of
            bytes without a gap and their digest.
    """

    def __init__(
        self,
        fd: int,
        size: int,
        *,
        offset: int = 0,
        hasher: digests.new | None = None,
        on_step: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.offset = offset
        self.size = size
        self._fd = fd
        self._hasher = digests.new() if hasher is None else hasher
        self._on_step = on_step
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        """Wakes the hashing thread: there is more, or it is closed."""
        self._moved = threading.Condition(self._lock)
        """Wakes all other threads: a piece is complete, more is hashed, or the end or an error."""
        self._pieces: dict[int, Piece] = {}
        """Pieces that were begun, by start; without those that are complete up to ``_base``."""
        self._base = offset
        self._hashed = offset
        self._notified = offset
        self._received = 0
        self._writing = 0
        self._has_holes = False
        self._closed = False
        self.is_abandoned = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="hash-behind", daemon=True)
        self._thread.start()

    # pieces ------------------------------------------------------------------------------

    def open(self, start: int, size: int) -> Piece:
        """Begin a piece. Bytes can be begun only once, even if their piece is never completed.

        Raises:
            LeaseLost: The assembly is closed.
            CommandError: The piece is not inside the file, or overlaps another one.
        """
        with self._lock:
            if self._closed:
                raise LeaseLost("its upload has ended")
            others = ((piece.start, piece.end) for piece in self._pieces.values())
            must_be_missing(start, start + size, self._base, self.size, others)
            if len(self._pieces) >= MOST_UNDER_WAY:
                raise too_many()
            piece = self._pieces[start] = Piece(self, start, start + size)
            return piece

    def write(self, piece: Piece, data: memoryview | Hole) -> None:
        """Write the next bytes of a piece. Waits while hashing is more than `AHEAD` bytes behind.

        Raises:
            LeaseLost: The assembly was closed.
            VerificationFailed: They are more than the piece has left.
            OSError: Writing failed, or hashing did.
        """
        count = len(data)
        if count > piece.end - piece.at:
            raise VerificationFailed("the piece has more bytes than announced")
        with self._lock:
            while self._frontier() - self._hashed > AHEAD and not self._over():
                self._moved.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                raise LeaseLost("its upload has ended")
            self._has_holes |= isinstance(data, Hole)
            self._writing += 1  # close() waits for 0: until then the descriptor is in use
        written = 0
        try:
            if isinstance(data, Hole):
                holes.leave(self._fd, piece.at, piece.at + count)
                written = count
            else:
                while written < count:
                    written += os.pwrite(self._fd, data[written:], piece.at + written)
        except OSError as error:
            self._fail(error)
            raise
        finally:
            with self._lock:
                self._writing -= 1
                self._note_written(piece, written)

    def _note_written(self, piece: Piece, count: int) -> None:
        piece.at += count
        self._received += count
        if piece.at == piece.end:
            while (first := self._pieces.get(self._base)) and first.at == first.end:
                del self._pieces[self._base]
                self._base = first.end
        if piece.at == piece.end or self._over():
            self._moved.notify_all()
        if self._frontier() > self._hashed or self._over():
            self._more.notify()

    # how far it is -----------------------------------------------------------------------

    @property
    def frontier(self) -> int:
        """The number of bytes without a gap, from the start of the file."""
        with self._lock:
            return self._frontier()

    @property
    def received(self) -> int:
        """The number of bytes that have arrived, at any offset."""
        with self._lock:
            return self._received

    def wait(self) -> None:
        """Wait a moment for a change. Raises the error if writing or hashing failed."""
        with self._lock:
            if not self._over() and self._frontier() < self.size:
                self._moved.wait(LOOK_SECONDS)
            if self._error is not None:
                raise self._error

    def _frontier(self) -> int:
        first = self._pieces.get(self._base)
        return self._base if first is None else first.at

    def _over(self) -> bool:
        return self._closed or self._error is not None

    # the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse all further writes, and wait until running ones are done. Can be called twice."""
        with self._lock:
            self._closed = True
            self._more.notify()
            self._moved.notify_all()
            while self._writing:
                self._moved.wait()

    def finish(self, progress: Callable[[int], None] | None = None) -> bytes:
        """Close, and hash what has arrived without a gap, up to ``frontier``. The file then has
        exactly that size.

        Args:
            progress: Function to call from time to time with the number of hashed bytes; may raise.

        Raises:
            OSError: Writing, reading, or ``on_step`` failed.
        """
        self.close()
        if self._has_holes:
            holes.lengthen(self._fd, self.frontier)
        while self._thread.is_alive():
            self._thread.join(LOOK_SECONDS)
            if progress is not None:
                progress(self._hashed)
        if self._error is not None:
            raise self._error
        return self._hasher.digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_abandoned = True
        self.close()
        self._thread.join()

    # the hash that follows ---------------------------------------------------------------

    def _follow(self) -> None:
        try:
            hash_behind(self._fd, self._hashed, self._hasher, self, self._on_step)
        except Exception as error:  # of any kind: the writing and waiting threads raise it
            self._fail(error)

    def wait_for_more(self, at: int) -> int:
        """See `Followed`. While a thread is in ``write``, its bytes count as still to come."""
        with self._lock:
            while self._frontier() <= at and (self._writing or not self._over()):
                self._more.wait()
            failed = self.is_abandoned or self._error is not None
            return at if failed else self._frontier()

    def note_hashed(self, at: int) -> None:
        """See `Followed`."""
        with self._lock:
            self._hashed = at
            if at - self._notified >= PIECE:
                self._notified = at
                self._moved.notify_all()

    def has_holes(self) -> bool:
        """See `Followed`."""
        with self._lock:
            return self._has_holes

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._error = self._error or error
            self._more.notify()
            self._moved.notify_all()


class Piece:
    """One piece while it arrives: a sink (see channel.Sink). For one thread. After the end of its
    context no thread writes it."""

    def __init__(self, writer: Writer, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.at = start
        """Offset of the next byte to write; only the writer changes it."""
        self._writer = writer
        self._buffer: memoryview | None = None
        self._used = 0

    def buffer(self) -> memoryview:
        """Return free space to receive into."""
        if self._buffer is None:
            size = min(grown(self.at - self.start), self.end - self.at)
            self._buffer = memoryview(bytearray(max(1, size)))
        return self._buffer[self._used :]

    def filled(self, count: int) -> None:
        """Report that ``count`` bytes of ``buffer()`` were filled. Raises as ``write``."""
        assert self._buffer is not None
        self._used += count
        if self._used == len(self._buffer):
            self._flush()

    def hole(self, count: int) -> None:
        """Take ``count`` zeros. Raises as ``write``."""
        self._flush()
        self._writer.write(self, Hole(count))

    def go_idle(self) -> None:
        """Write and release the buffer, before nothing arrives for a while. Raises as ``write``."""
        self._flush()
        self._buffer = None

    def write(self, data: memoryview) -> None:
        """Write bytes that were received into another buffer.

        Raises:
            LeaseLost: The assembly is closed.
            OSError: Writing failed.
        """
        self._flush()
        self._writer.write(self, data)

    def finish(self) -> None:
        """Complete the piece. Raises VerificationFailed if bytes are missing, and as ``write``."""
        self._flush()
        self._buffer = None  # the piece may wait long for those before it
        if self.at != self.end:
            raise VerificationFailed(
                f"{self.at - self.start} bytes arrived of a piece of {self.end - self.start}"
            )

    def _flush(self) -> None:
        if self._buffer is not None and self._used:
            used, self._used = self._used, 0
            self._writer.write(self, self._buffer[:used])
            if used < BUFFER_SIZE:
                self._buffer = None  # the next one will be larger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: the piece holds no resources."""
