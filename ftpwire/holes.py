"""Holes: runs of zeros in a file that take no space on its disk.

Lives here: finding the holes of a source, leaving them in a target, hashing them. Acts only on
descriptors that callers pass.
Lives elsewhere: transferring a file's bytes (streams.py, pieces.py), the message (messages.py).

Zeros that are stored on the disk are no hole, as with ``cp --sparse=auto``. On a file system
without support for holes there are none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from ftpwire import digests

LEAST = 64 * 1024
"""Size of the smallest hole that is reported, in bytes: fewer zeros are sent just as fast."""
MOST = 64 * 1024 * 1024
"""Size of the largest hole that is reported at once, in bytes: hashing it takes only a moment."""
_LOOKED_FROM = 256 * 1024
"""Files up to this size, in bytes, are not searched for holes."""
_LOOK_AHEAD = 16 * 1024 * 1024
"""Bytes with only small holes, after which the search for a large one stops for now."""
_AT_ONCE = 1024 * 1024
_BLOCK = 512
"""Unit of ``st_blocks`` in bytes."""
_ZEROS = memoryview(bytes(_AT_ONCE))
_FAR = 2**63 - 1
_SEEK_DATA: int | None = getattr(os, "SEEK_DATA", None)
_SEEK_HOLE: int | None = getattr(os, "SEEK_HOLE", None)


class Hole:
    """A run of zeros of a file, in place of their bytes. Its ``len`` is their number."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class Extent(NamedTuple):
    """A range of a file from ``start`` to ``stop``: a hole, or bytes without a reported hole."""

    start: int
    stop: int
    is_hole: bool


def may_have(info: os.stat_result) -> bool:
    """Return True if it pays to search a file in state ``info`` for holes."""
    return info.st_size > _LOOKED_FROM and info.st_size - info.st_blocks * _BLOCK >= LEAST


def are_in(fd: int, size: int) -> bool:
    """Return the same for an open file of ``size`` bytes."""
    return size > _LOOKED_FROM and may_have(os.fstat(fd))


class Extents:
    """Finds the holes of an open file, for a sequential reader. Moves the file position."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last = Extent(0, 0, False)
        self._next_hole = Extent(0, 0, True)

    def at(self, offset: int) -> Extent:
        """Return the extent that contains ``offset``. If no hole follows, it ends at the largest
        offset: the end of the file is not looked up."""
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
        """Return the offset of the next data, or the end of the file."""
        if _SEEK_DATA is None:
            return offset
        try:
            return os.lseek(self._fd, offset, _SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return offset  # unknown: treat it as data
        return max(offset, os.fstat(self._fd).st_size)

    def _hole(self, offset: int) -> int | None:
        """Return the offset of the next hole, or the end of the file; None if unknown."""
        if _SEEK_HOLE is None:
            return None
        try:
            return os.lseek(self._fd, offset, _SEEK_HOLE)
        except OSError:
            return None


def extents(fd: int, start: int, stop: int, *, sparse: bool = True) -> Iterator[Extent]:
    """Yield the extents of an open file between two offsets.

    Args:
        sparse: False to yield one extent without searching for holes; see `may_have`.
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
    """Hash ``count`` zeros."""
    while count:
        step = min(count, _AT_ONCE)
        hasher.update(_ZEROS[:step])
        count -= step


def leave(fd: int, start: int, stop: int) -> None:
    """Fill a file with zeros between two offsets, without making it longer. What was never written
    becomes a hole. Moves the position of the descriptor.

    Raises:
        OSError: What was written there cannot be overwritten.
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
            end = min(stop, os.fstat(fd).st_size)  # holes are not supported: overwrite all of it
        if end <= at:
            return
        while at < end:
            at += os.pwrite(fd, _ZEROS[: min(end - at, _AT_ONCE)], at)


def lengthen(fd: int, size: int) -> None:
    """Lengthen a file to ``size`` bytes by a hole at its end. No one else may be writing to it."""
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)
