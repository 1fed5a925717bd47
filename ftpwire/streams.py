"""Streaming a file's bytes: read ahead and hash, hash and write behind.

Lives here: the second thread, which overlaps disk and BLAKE3 with the network. All of these release
the GIL, so two cores work. Acts only on descriptors that callers pass.
Lives elsewhere: sockets (channel.py), where the files are and when they appear.

Buffers grow as bytes move, and a thread starts only when it pays: a peer that receives or sends
nothing costs little memory. After ``go_idle`` a peer that has stopped costs little again.

No mmap: if another process truncates the file, SIGBUS would end the whole process with all its
sessions.
"""

from __future__ import annotations

import os
import queue  # here, not where it is used: confined sessions cannot load further modules
import select
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from ftpwire import digests, holes
from ftpwire.holes import Hole

BUFFER_SIZE = 1024 * 1024
"""Bytes that the two threads pass on at once. Each time costs both of them what their processor's
cache held of the interpreter; 512 KiB take a seventh longer without TLS."""
BUFFER_COUNT = 3
FIRST_SIZE = 64 * 1024
"""Size of the first buffer in bytes."""
THREAD_FROM = 1024 * 1024
"""Smallest file, in bytes, that is worth a second thread."""

_WAIT_SECONDS = 0.2

_Filled = tuple[bytearray, int | Hole]
_Read = tuple[bytearray, int | Hole, digests.new | None]


def grown(moved: int) -> int:
    """Return the size of the next buffer, after ``moved`` bytes."""
    return min(BUFFER_SIZE, max(FIRST_SIZE, moved))


class WriteBehind:
    """Hashes and writes a stream of bytes; in a second thread, once much of it has arrived.

    Fill ``buffer()``, call ``filled(count)``, and at the end ``finish()``. Uses at most
    ``BUFFER_COUNT * BUFFER_SIZE`` bytes of memory. As a context manager it stops the thread in any
    case.

    A waiting hole occupies a buffer, so that the number of waiting holes is limited, too.

    Args:
        fd: Descriptor to write to, from its current position on.
    """

    def __init__(self, fd: int, *, hasher: digests.new | None = None) -> None:
        self.size = 0
        self._fd = fd
        self._hasher = digests.new() if hasher is None else hasher
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[_Filled | None] = queue.SimpleQueue()
        self._made = 0
        self._current: bytearray | None = None
        self._used = 0
        self._rested = 0
        """``size`` at the last ``go_idle``."""
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def buffer(self) -> memoryview:
        """Return free space to receive into. Waits for the disk if all buffers are full.

        Raises:
            OSError: Writing failed.
        """
        if self._current is None:
            if self._error is not None:
                raise self._error
            if self._thread is None:
                self._current = bytearray(grown(self.size - self._rested))
                self._made = 1
            elif self._made < BUFFER_COUNT and self._free.empty():
                self._made += 1
                self._current = bytearray(BUFFER_SIZE)
            else:
                self._current = self._free.get()
            self._used = 0
        return memoryview(self._current)[self._used :]

    def filled(self, count: int) -> None:
        """Report that ``count`` bytes of ``buffer()`` were filled."""
        assert self._current is not None
        self._used += count
        self.size += count
        if self._used == len(self._current):
            self._hand_over()

    def hole(self, count: int) -> None:
        """Take ``count`` zeros: they are hashed, but not written where the file has nothing yet.

        Raises:
            OSError: Writing failed.
        """
        if self._current is not None and self._used:
            self._hand_over()
        self.buffer()
        assert self._current is not None
        buffer, self._current = self._current, None
        self.size += count
        if self._thread is None and len(buffer) == BUFFER_SIZE:
            self._start()
        if self._thread is None:
            self._write_here(buffer, Hole(count))
        else:
            self._full.put((buffer, Hole(count)))

    def write(self, data: memoryview) -> None:
        """Copy bytes that were received into another buffer."""
        while data:
            space = self.buffer()
            count = min(len(space), len(data))
            space[:count] = data[:count]
            self.filled(count)
            data = data[count:]

    def go_idle(self) -> None:
        """Write what is buffered, and release buffers and thread: nothing arrives for a while."""
        self._stop()
        current, self._current = self._current, None
        if current is not None and self._used:
            self._write_here(current, self._used)
        self._free = queue.SimpleQueue()
        self._rested = self.size

    def finish(self) -> bytes:
        """Wait until all is written. Return the digest.

        Raises:
            OSError: Writing failed.
        """
        if self._current is not None and self._used:
            self._hand_over()
        self._stop()
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
        self._stop()
        self._current = None  # nothing is written after this: the caller may close the file

    def _hand_over(self) -> None:
        assert self._current is not None
        if self._thread is None and self._used < BUFFER_SIZE:
            self._write_here(self._current, self._used)
            self._current = None
            return
        if self._thread is None:
            self._start()
        self._full.put((self._current, self._used))
        self._current = None

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        thread.start()
        self._thread = thread

    def _stop(self) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            self._write_here(*item)
            self._free.put(item[0])

    def _write_here(self, buffer: bytearray, filled: int | Hole) -> None:
        """Write in this thread, unless writing has failed before."""
        if self._error is None:
            try:
                self._put(buffer, filled)
            except Exception as error:  # of any kind: the owner may be waiting for this buffer
                self._error = error

    def _put(self, buffer: bytearray, filled: int | Hole) -> None:
        if isinstance(filled, Hole):
            self._write(filled)
            holes.hash_zeros(self._hasher, filled.size)
            return
        with memoryview(buffer) as view, view[:filled] as data:
            self._hasher.update(data)
            self._write(data)

    def _write(self, data: memoryview | Hole) -> None:
        if isinstance(data, Hole):
            self._leave(data.size)
        else:
            write_all(self._fd, data)

    def _leave(self, count: int) -> None:
        start = os.lseek(self._fd, 0, os.SEEK_CUR)
        holes.leave(self._fd, start, start + count)
        holes.lengthen(self._fd, start + count)
        os.lseek(self._fd, start + count, os.SEEK_SET)


class ReadAhead:
    """Reads and hashes a file; in a second thread, ahead of its sender, once much was taken.

    Iterate over views of its bytes; each is valid until the next. Then call ``digest()``. Reads
    ``size`` bytes from ``offset`` on, or fewer if the file is shorter: the caller compares ``size``
    with what it announced. As a context manager it stops the thread.

    Args:
        fd: Descriptor, read with ``pread``. Its position is irrelevant, and moved only for
            ``sparse``.
        size: Number of bytes to read; None to read to the end with ``read`` (a pipe).
        hashes: False to skip hashing; then there is no ``digest()``.
        sparse: True to look for holes (see `holes.may_have`). Each is yielded as a `Hole`.
        while_waiting: Function to call several times per second while a pipe is silent; may raise.
    """

    def __init__(
        self,
        fd: int,
        size: int | None,
        *,
        offset: int = 0,
        hasher: digests.new | None = None,
        hashes: bool = True,
        sparse: bool = False,
        while_waiting: Callable[[], None] | None = None,
    ) -> None:
        self.size = 0
        self._extents = holes.Extents(fd) if sparse else None
        self._while_waiting = while_waiting
        self._fd = fd
        self._wanted = size
        self._offset = offset
        self._hasher = (hasher or digests.new()) if hashes else None
        self._free: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[_Read | Exception | None] = queue.SimpleQueue()
        self._rests = False
        self._hasher_then: digests.new | None = None
        """Copy of the hasher after the last yielded bytes."""
        self._thread: threading.Thread | None = None
        self._left = False

    def __iter__(self) -> Iterator[memoryview | Hole]:
        while self._wanted is None or self.size < self._wanted:
            before = self.size
            if self._wanted is not None:
                yield from self._read_here()
            if self._wanted is None or self.size - before >= THREAD_FROM:
                yield from self._read_ahead()
            if not self._rests:
                return
            self._rests = False

    def go_idle(self) -> None:
        """Release everything but the last yielded bytes, and the thread: it is not taken for a
        while.

        To be called by the iterating thread, and only for files. What was read ahead is read again
        later, and hashed with the contents that it has by then.
        """
        if self._thread is None or self._wanted is None:
            return
        self._stop()
        self._free, self._full = queue.SimpleQueue(), queue.SimpleQueue()
        self._left = False
        self._hasher = self._hasher_then
        self._rests = True

    def _read_ahead(self) -> Iterator[memoryview | Hole]:
        for _ in range(BUFFER_COUNT):
            self._free.put(bytearray(BUFFER_SIZE))
        thread = threading.Thread(
            target=self._run, args=(self.size,), name="read-ahead", daemon=True
        )
        thread.start()
        self._thread = thread
        while (item := self._next()) is not None:
            if isinstance(item, Exception):
                raise item
            buffer, read, self._hasher_then = item
            if isinstance(read, Hole):
                self.size += read.size
                yield read
            else:
                self.size += read
                yield memoryview(buffer)[:read]
            if self._rests:
                return
            self._free.put(buffer)

    def _next(self) -> _Read | Exception | None:
        if self._while_waiting is None:
            return self._full.get()
        while True:
            try:
                return self._full.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                self._while_waiting()

    def digest(self) -> bytes:
        """Return the digest of all that was read (after what the given hasher had before)."""
        assert self._hasher is not None
        return self._hasher.digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._stop()

    def _stop(self) -> None:
        assert self._thread is not None
        self._left = True
        self._free.put(None)
        self._thread.join()
        self._thread = None

    def _read_here(self) -> Iterator[memoryview | Hole]:
        """Yield the first bytes, or all if they are few; fewer if the file ends before."""
        assert self._wanted is not None
        before = self.size
        few = self._wanted - before <= THREAD_FROM
        buffer = bytearray()
        while few or self.size - before < THREAD_FROM:
            size = min(grown((self.size - before) // 2), self._wanted - self.size)
            if size > len(buffer):
                buffer = bytearray(size)
            read = self._fill(buffer, self.size)
            if isinstance(read, Hole):
                self._hash_hole(read)
                self.size += read.size
                yield read
                continue
            if not read:
                return
            view = memoryview(buffer)[:read]
            if self._hasher is not None:
                self._hasher.update(view)
            self.size += read
            yield view

    def _run(self, done: int) -> None:
        hasher, kept = self._hasher, self._wanted is not None
        then: digests.new | None = None
        try:
            while (buffer := self._free.get()) is not None:
                read = self._fill(buffer, done)
                if isinstance(read, Hole):
                    self._hash_hole(read)
                    done += read.size
                elif not read:
                    break
                else:
                    if hasher is not None:
                        with memoryview(buffer) as view, view[:read] as data:
                            hasher.update(data)
                    done += read
                if hasher is not None:
                    then = hasher.copy() if kept else None
                self._full.put((buffer, read, then))
        except Exception as error:  # of any kind: the owner is waiting for an item
            self._full.put(error)
        self._full.put(None)

    def _hash_hole(self, hole: Hole) -> None:
        if self._hasher is not None:
            holes.hash_zeros(self._hasher, hole.size)

    def _fill(self, buffer: bytearray, done: int) -> int | Hole:
        """Read the next piece into ``buffer``. Return 0 at the end."""
        if self._wanted is None:
            return os.readv(self._fd, [buffer]) if self._has_more() else 0
        left = self._wanted - done
        if not left:
            return 0
        at = self._offset + done
        if self._extents is not None:
            run = self._extents.at(at)
            left = min(left, run.stop - at)
            if run.is_hole:
                return Hole(min(left, holes.MOST))
        with memoryview(buffer) as view:
            return os.preadv(self._fd, [view[: min(left, len(view))]], at)

    def _has_more(self) -> bool:
        """Wait for input from a pipe or terminal. Return False if the owner has stopped meanwhile.

        A read that is still waiting then would take input that is meant for another program.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._left and not poll.poll(_WAIT_SECONDS * 1000):
            pass
        return not self._left


def write_all(fd: int, data: memoryview | bytes | bytearray) -> None:
    """Write all of ``data``, however many calls it takes.

    Raises:
        OSError: The disk is full, or writing failed.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
