"""Which ends of files a transfer has told, so that none is told twice after a lost connection.

Lives here: a mark for each end, on disk while no connection was lost. Lives elsewhere: what is told
(job.py, rehearsal.py), longer things kept on disk (spool.py).

A mark has 8 bytes. A transfer of a million files would need 100 MiB for a set of them, and most
transfers never look at one.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import IO

from ftpclient.transfer.report import Result
from ftpclient.transfer.spool import SpoolFull, check_room

_TOGETHER = 32 * 1024
"""Marks that are kept in memory before they go to disk: small transfers make no file."""
_MARK = array("q").itemsize
_PARTS = 256
"""Into so many parts, by their lowest bits, marks are sorted. One part of a million marks has
some thousands: only so many are numbers of their own at a time, which take five times the room."""


class Told:
    """The sources and targets whose ends were told. Close it afterwards.

    Memory is flat until ``look_back`` is called. Then it takes 8 bytes for each end.
    """

    def __init__(self) -> None:
        self._newest = array("q")
        self._file: IO[bytes] | None = None
        self._size = 0
        """Bytes of marks in the file."""
        self._not_stored: list[bytes] = []
        """Marks that the disk had no room for."""
        self._before: list[array[int]] = []
        """All up to the last loss, sorted, in `_PARTS` parts."""

    def add(self, source: bytes, target: bytes) -> None:
        """An end is told."""
        newest = self._newest
        newest.append(hash((source, target)))
        if len(newest) >= _TOGETHER:
            self._store()

    def add_all(self, results: Sequence[Result]) -> None:
        """Several ends are told."""
        newest = self._newest
        newest.extend([hash((result.source, result.target)) for result in results])
        if len(newest) >= _TOGETHER:
            self._store()

    @property
    def looks_back(self) -> bool:
        """Whether a connection was lost: ``was_before`` may know something."""
        return bool(self._before)

    def look_back(self) -> None:
        """A connection was lost: from now on ``was_before`` knows what was told until now."""
        parts = self._before or [array("q") for _ in range(_PARTS)]
        for marks in self._recent():
            for mark in marks:
                parts[mark % _PARTS].append(mark)
        self._forget_recent()
        self._before = [array("q", sorted(part)) for part in parts]

    def was_before(self, source: bytes, target: bytes) -> bool:
        """Whether an end was told before a connection was lost."""
        if not self._before:
            return False
        mark = hash((source, target))
        part = self._before[mark % _PARTS]
        at = bisect_left(part, mark)
        return at < len(part) and part[at] == mark

    def close(self) -> None:
        """Remove the file. What was told before a loss stays known: some may still end."""
        self._forget_recent()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _store(self) -> None:
        """Put marks on disk. Those that it has no room for stay in memory: for the want of a mark
        no transfer fails."""
        import tempfile  # most transfers need none

        marks = self._newest.tobytes()
        del self._newest[:]
        try:
            check_room()
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="ftp-told-", buffering=0)
            stored = os.pwrite(self._file.fileno(), marks, self._size)
        except (OSError, SpoolFull):
            stored = 0
        if stored == len(marks):
            self._size += stored
        else:
            self._not_stored.append(marks)

    def _recent(self) -> Iterator[array[int]]:
        """The marks of what was told since the last loss."""
        at = 0
        while self._file is not None and at < self._size:
            marks = os.pread(self._file.fileno(), min(_TOGETHER * _MARK, self._size - at), at)
            yield array("q", marks)
            at += len(marks)
        yield from (array("q", marks) for marks in self._not_stored)
        yield self._newest

    def _forget_recent(self) -> None:
        self._size = 0  # what is in the file is written over
        self._not_stored.clear()
        del self._newest[:]
