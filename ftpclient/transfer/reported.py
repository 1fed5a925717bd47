"""Which files a transfer has reported, so that none is reported twice after a lost connection.

Lives here: a mark for each reported file, on disk until a connection is lost.
Lives elsewhere: reporting (job.py, rehearsal.py), longer records on disk (spool.py).

A mark has 8 bytes. For a million files a set of paths would need 100 MiB, and most transfers never
look one up.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import IO

from ftpclient.transfer.report import Result
from ftpclient.transfer.spool import SpoolFull, check_space

_TOGETHER = 32 * 1024
"""Number of marks to keep in memory before writing them to disk: small transfers need no file."""
_MARK = array("q").itemsize
_PARTS = 256
"""Number of parts into which marks are sorted, by their lowest bits. With a million marks, a part
has some thousands: only these exist as Python integers at a time, at five times the memory."""


class Reported:
    """The sources and targets of the reported files. Close it after use.

    Memory use is constant until ``look_back`` is called. After that it is 8 bytes per file.
    """

    def __init__(self) -> None:
        self._newest = array("q")
        self._file: IO[bytes] | None = None
        self._size = 0
        """Size of the marks in the file, in bytes."""
        self._not_stored: list[bytes] = []
        """Marks that could not be written to disk."""
        self._before: list[array[int]] = []
        """All marks up to the last loss, sorted, in `_PARTS` parts."""

    def add(self, source: bytes, target: bytes) -> None:
        """Record that a file was reported."""
        newest = self._newest
        newest.append(hash((source, target)))
        if len(newest) >= _TOGETHER:
            self._store()

    def add_all(self, results: Sequence[Result]) -> None:
        """Record that several files were reported."""
        newest = self._newest
        newest.extend([hash((result.source, result.target)) for result in results])
        if len(newest) >= _TOGETHER:
            self._store()

    @property
    def looks_back(self) -> bool:
        """True if a connection was lost, so that ``was_before`` can return True."""
        return bool(self._before)

    def look_back(self) -> None:
        """Note that a connection was lost: ``was_before`` now covers all files reported so far."""
        parts = self._before or [array("q") for _ in range(_PARTS)]
        for marks in self._recent():
            for mark in marks:
                parts[mark % _PARTS].append(mark)
        self._forget_recent()
        self._before = [array("q", sorted(part)) for part in parts]

    def was_before(self, source: bytes, target: bytes) -> bool:
        """Return whether a file was reported before a connection was lost."""
        if not self._before:
            return False
        mark = hash((source, target))
        part = self._before[mark % _PARTS]
        at = bisect_left(part, mark)
        return at < len(part) and part[at] == mark

    def close(self) -> None:
        """Remove the file. Marks from before a loss stay: late results may still need them."""
        self._forget_recent()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _store(self) -> None:
        """Write the marks to disk; or keep them in memory, so that the transfer does not fail."""
        import tempfile  # most transfers need none

        marks = self._newest.tobytes()
        del self._newest[:]
        try:
            check_space()
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="ftp-reported-", buffering=0)
            stored = os.pwrite(self._file.fileno(), marks, self._size)
        except (OSError, SpoolFull):
            stored = 0
        if stored == len(marks):
            self._size += stored
        else:
            self._not_stored.append(marks)

    def _recent(self) -> Iterator[array[int]]:
        """Iterate over the marks since the last loss."""
        at = 0
        while self._file is not None and at < self._size:
            marks = os.pread(self._file.fileno(), min(_TOGETHER * _MARK, self._size - at), at)
            yield array("q", marks)
            at += len(marks)
        yield from (array("q", marks) for marks in self._not_stored)
        yield self._newest

    def _forget_recent(self) -> None:
        self._size = 0  # the file is overwritten from its start
        self._not_stored.clear()
        del self._newest[:]
