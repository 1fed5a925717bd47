"""Holes: runs of zeros in a file that have no place on its disk.

Lives here: finding those of a source, leaving them in a target, hashing them. Acts only on
descriptors that it is handed.
Lives elsewhere: a file's bytes in motion (streams.py, pieces.py), the message (messages.py).

Zeros that are written are no hole, as with ``cp --sparse=auto``. A file system that knows no holes
has none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from ftpwire import digests

LEAST = 64 * 1024
"""Bytes of the smallest hole that is told: fewer zeros are sent as fast."""
MOST = 64 * 1024 * 1024
"""Bytes of the largest that is told at once: so many are hashed in a moment."""
_LOOKED_FROM = 256 * 1024
"""Files of so few bytes aren't looked at."""
_LOOK_AHEAD = 16 * 1024 * 1024
"""Bytes between small holes, after which no large one is looked for any more."""
_AT_ONCE = 1024 * 1024
_BLOCK = 512
"""Bytes that ``st_blocks`` counts by."""
_ZEROS = memoryview(bytes(_AT_ONCE))
_FAR = 2**63 - 1
_SEEK_DATA: int | None = getattr(os, "SEEK_DATA", None)
_SEEK_HOLE: int | None = getattr(os, "SEEK_HOLE", None)


class Hole:
    """Zeros of a file, in the place of their bytes. Its ``len`` is their count."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class Extent(NamedTuple):
    """Bytes of a file from ``start`` to ``stop``: all in a hole, or none in one that is told."""

    start: int
    stop: int
    is_hole: bool


def may_have(info: os.stat_result) -> bool:
    """Whether it is worth looking for holes in a file in state ``info``."""
    return info.st_size > _LOOKED_FROM and info.st_size - info.st_blocks * _BLOCK >= LEAST


def are_in(fd: int, size: int) -> bool:
    """The same of an open file of so many bytes, of which no more is known."""
    return size > _LOOKED_FROM and may_have(os.fstat(fd))


class Extents:
    """Where the holes of an open file are, for who reads it from somewhere on. Moves the position
    of the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last = Extent(0, 0, False)
        self._next_hole = Extent(0, 0, True)

    def at(self, offset: int) -> Extent:
        """What is there at ``offset``. Ends nowhere where no hole follows: the file's end isn't
        told."""
        if not self._last.start <= offset < self._last.stop:
            known = self._next_hole
            self._last = known if known.start <= offset < known.stop else self._look(offset)
        return self._last

    def _look(self, offset: int) -> Extent:
        at = self._data(offset)
        if at - offset >= LEAST:
            return Extent(offset, at, True)
        while at - offset < _LOOK_AHEAD:
            hole = self._hole(at)
            if hole is None:
                return Extent(offset, _FAR, False)
            at = self._data(hole)
            if at - hole >= LEAST:
                self._next_hole = Extent(hole, at, True)
                return Extent(offset, hole, False)
            if at == hole:  # the file ends there
                return Extent(offset, _FAR, False)
        return Extent(offset, at, False)

    def _data(self, offset: int) -> int:
        """Where the next data is, or the file ends."""
        if _SEEK_DATA is None:
            return offset
        try:
            return os.lseek(self._fd, offset, _SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return offset  # it can't tell
        return max(offset, os.fstat(self._fd).st_size)

    def _hole(self, offset: int) -> int | None:
        """Where the next hole is, or the file ends; None where that can't be told."""
        if _SEEK_HOLE is None:
            return None
        try:
            return os.lseek(self._fd, offset, _SEEK_HOLE)
        except OSError:
            return None


def extents(fd: int, start: int, stop: int, *, sparse: bool = True) -> Iterator[Extent]:
    """The bytes of an open file between two offsets, as what is in holes and what isn't.

    Args:
        sparse: See `may_have`; without, all of it is one.
    """
    if not sparse:
        if start < stop:
            yield Extent(start, stop, False)
        return
    extents = Extents(fd)
    while start < stop:
        _, end, is_hole = extents.at(start)
        end = min(end, stop, start + MOST if is_hole else _FAR)
        yield Extent(start, end, is_hole)
        start = end


def hash_zeros(hasher: digests.new, count: int) -> None:
    """Hash so many zeros."""
    while count:
        step = min(count, _AT_ONCE)
        hasher.update(_ZEROS[:step])
        count -= step


def leave(fd: int, start: int, stop: int) -> None:
    """Have the bytes between two offsets of a file be zeros, without making it longer: a hole where
    nothing was written. Moves the position of the descriptor.

    Raises:
        OSError: What was written there can't be overwritten.
    """
    at = start
    while at < stop:
        try:
            if _SEEK_DATA is None or _SEEK_HOLE is None:
                raise OSError(errno.EINVAL, "no holes")
            at = os.lseek(fd, at, _SEEK_DATA)
            end = min(stop, os.lseek(fd, at, _SEEK_HOLE)) if at < stop else at
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            end = min(stop, os.fstat(fd).st_size)  # it can't tell
        if end <= at:
            return
        while at < end:
            at += os.pwrite(fd, _ZEROS[: min(end - at, _AT_ONCE)], at)


def lengthen(fd: int, size: int) -> None:
    """Have a file end with a hole, if it has fewer bytes than ``size``; for who writes it alone."""
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)
