"""A file that comes in pieces, in any order and from several threads, and is hashed in order.

Lives here: which bytes are there, writing them where they belong, the hash that follows behind.
Acts only on a descriptor that it is handed.
Lives elsewhere: a file that comes as one stream (streams.py), who cuts files into pieces
(ftpclient/transfer/pieces.py), one that several processes write (ftpserver/storage/piece_table.py).

BLAKE3 can't be merged from parts here, so one thread reads what has come without a gap, a little
behind those who write it: out of the page cache, and done soon after the last byte.
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
"""Bytes of a piece: small enough that connections of unequal speed share a file well."""
STEP = 16 * 1024 * 1024
"""Bytes between two calls of ``on_step``."""
MOST_UNDER_WAY = 1024
"""Pieces that were begun and are not complete without a gap before them."""

AHEAD = 64 * 1024 * 1024
"""Bytes that may be written and not hashed: a slow disk slows the network down."""
LOOK_SECONDS = 0.2
"""Between two looks at how far hashing is."""


class Writer(Protocol):
    """Who puts a piece's bytes where they belong."""

    def write(self, piece: Piece, data: memoryview | Hole) -> None:
        """Write what comes next in a piece, and move its ``at`` on."""


class Followed(Protocol):
    """What is hashed behind those who write it."""

    @property
    def given_up(self) -> bool:
        """Whether nobody wants the digest any more."""

    def wait_for_more(self, at: int) -> int:
        """How far to hash; not beyond ``at`` when no more comes."""

    def note_hashed(self, at: int) -> None:
        """So many bytes are hashed."""

    def has_holes(self) -> bool:
        """Whether holes came: the file may be shorter than what came, by one at its end."""


def hash_behind(
    fd: int,
    at: int,
    hasher: digests.new,
    followed: Followed,
    on_step: Callable[[int, bytes], None] | None,
) -> None:
    """Hash a file from ``at`` on while it is written, until no more comes.

    Raises:
        OSError, SourceChanged: It can't be read. So does what ``on_step`` raises.
    """
    marked = at
    buffer = memoryview(bytearray())
    while (end := followed.wait_for_more(at)) > at:
        if len(buffer) < BUFFER_SIZE:  # there is none before something comes
            buffer = memoryview(bytearray(min(BUFFER_SIZE, end - at)))
        while at < end and not followed.given_up:
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
    """Raise CommandError unless a piece may begin: within the file, and where no other one is.

    Args:
        base: Bytes that are there without a gap.
        others: Where those begin and end that were begun behind it.
    """
    if end <= start or start < base or end > size:
        raise CommandError("no such piece is missing")
    if any(start < other_end and other < end for other, other_end in others):
        raise CommandError("another piece has some of these bytes")


def too_many() -> TooMany:
    """What is said of a piece beyond `MOST_UNDER_WAY`."""
    return TooMany(f"more than {MOST_UNDER_WAY} pieces with gaps between them")


class Assembly:
    """The bytes of one file from ``offset`` on, in pieces.

    ``open`` begins a piece; whoever has it fills it. ``finish`` closes it, and tells the digest of
    what is there without a gap. As a context manager it stops its thread in any case.

    ``_lock`` guards all that changes; it is never held across a file call. After ``close`` nobody
    writes any more: who has closed it may give the descriptor to others.

    Args:
        fd: Read and written with ``pread`` and ``pwrite``.
        size: Of the whole file.
        offset: Bytes that are there already.
        hasher: What has hashed them.
        on_step: Called now and then with how many bytes are there without a gap, and their
            digest; by the thread that hashes.
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
        """For the thread that hashes: there is more, or no more will come."""
        self._moved = threading.Condition(self._lock)
        """For all others: a piece is complete, more is hashed, it failed, it was closed."""
        self._pieces: dict[int, Piece] = {}
        """What was begun, by where it begins; without those that are complete up to ``_base``."""
        self._base = offset
        self._hashed = offset
        self._told = offset
        self._received = 0
        self._writing = 0
        self._has_holes = False
        self._closed = False
        self.given_up = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="hash-behind", daemon=True)
        self._thread.start()

    # pieces ------------------------------------------------------------------------------

    def open(self, start: int, size: int) -> Piece:
        """Begin a piece. What was begun once is not begun again, whatever became of it.

        Raises:
            LeaseLost: It is closed.
            CommandError: It lies beyond the file, or where another one is.
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
        """Write what comes next in a piece.

        Raises:
            LeaseLost: It was closed.
            VerificationFailed: It is more than the piece has.
            OSError: Writing, or what follows behind, failed.
        """
        count = len(data)
        if count > piece.end - piece.at:
            raise VerificationFailed("more bytes came than the piece has")
        with self._lock:
            while self._frontier() - self._hashed > AHEAD and not self._over():
                self._moved.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                raise LeaseLost("its upload has ended")
            self._has_holes |= isinstance(data, Hole)
            self._writing += 1
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
        """How many bytes are there without a gap, from the file's start."""
        with self._lock:
            return self._frontier()

    @property
    def received(self) -> int:
        """Bytes that came, wherever they belong."""
        with self._lock:
            return self._received

    def wait(self) -> None:
        """Wait a moment for something to change. Raises what made it fail."""
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
        """Have nobody write any more, and wait for who is just doing it. Can be called twice."""
        with self._lock:
            self._closed = True
            self._more.notify()
            self._moved.notify_all()
            while self._writing:
                self._moved.wait()

    def finish(self, progress: Callable[[int], None] | None = None) -> bytes:
        """Close it, and hash what is there without a gap: up to ``frontier``. The file has so many
        bytes then.

        Args:
            progress: Told the bytes hashed so far, now and then; may raise.

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
        self.given_up = True
        self.close()
        self._thread.join()

    # the hash that follows ---------------------------------------------------------------

    def _follow(self) -> None:
        try:
            hash_behind(self._fd, self._hashed, self._hasher, self, self._on_step)
        except Exception as error:  # whatever it is: those who write and wait hear of it
            self._fail(error)

    def wait_for_more(self, at: int) -> int:
        """See `Followed`."""
        with self._lock:
            while self._frontier() <= at and (self._writing or not self._over()):
                self._more.wait()
            failed = self.given_up or self._error is not None
            return at if failed else self._frontier()

    def note_hashed(self, at: int) -> None:
        """See `Followed`."""
        with self._lock:
            self._hashed = at
            if at - self._told >= PIECE:
                self._told = at
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
    """One piece on its way in: a sink (see channel.Sink). For one thread. A context manager, at
    whose end nobody writes it any more."""

    def __init__(self, writer: Writer, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.at = start
        """Where the next byte is written; changed by the writer alone."""
        self._writer = writer
        self._buffer: memoryview | None = None
        self._used = 0

    def buffer(self) -> memoryview:
        """Space to receive into."""
        if self._buffer is None:
            size = min(grown(self.at - self.start), self.end - self.at)
            self._buffer = memoryview(bytearray(max(1, size)))
        return self._buffer[self._used :]

    def filled(self, count: int) -> None:
        """Say that ``count`` bytes of ``buffer()`` were filled. Raises as ``write``."""
        assert self._buffer is not None
        self._used += count
        if self._used == len(self._buffer):
            self._flush()

    def hole(self, count: int) -> None:
        """So many zeros come next. Raises as ``write``."""
        self._flush()
        self._writer.write(self, Hole(count))

    def go_idle(self) -> None:
        """Nothing comes for a while: write what is there, and hold no buffer. Raises as
        ``write``."""
        self._flush()
        self._buffer = None

    def write(self, data: memoryview) -> None:
        """Write bytes that came in somebody else's buffer.

        Raises:
            LeaseLost: The file is closed.
            OSError: Writing failed.
        """
        self._flush()
        self._writer.write(self, data)

    def finish(self) -> None:
        """All of it came. Raises VerificationFailed when it isn't so, and as ``write``."""
        self._flush()
        self._buffer = None  # it may wait long for what is before it
        if self.at != self.end:
            raise VerificationFailed(
                f"{self.at - self.start} bytes came of a piece of {self.end - self.start}"
            )

    def _flush(self) -> None:
        if self._buffer is not None and self._used:
            used, self._used = self._used, 0
            self._writer.write(self, self._buffer[:used])
            if used < BUFFER_SIZE:
                self._buffer = None  # the next one is larger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held for it."""
