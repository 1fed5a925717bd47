"""The files of the audit log: which one a line goes to, rotating them, a disk that is full.

Lives here: the common file, one for each account that does more than others have room for.
Lives elsewhere: what is queued for them (writer.py), what a record tells (record.py), reading them
(reader.py).

Whoever else writes to a file (`ftpd user set`) appends each record by a single write.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ftpserver.audit.record import OK, Record, line_of, timestamp

logger = logging.getLogger("ftpd.audit")

FILE_NAME = "audit.jsonl"
_WRITE = 256 * 1024
_LINE = 1024
"""Bytes of a line. A longer one counts as several, wherever lines are counted: a path can make it
as long as 60 KiB."""
_SHARE = 10_000
_SHARE_SECONDS = 3600.0
"""Lines of what one account did, in so many seconds, that the common file takes: log-ins and file
operations count apart. The others go to a file of its own."""


class Chunk(NamedTuple):
    """Whole lines, and how many they are; of a ``dropped`` record, how many it tells of.

    Attributes:
        share: Whose share of the common file they count for (`context.share_of`); None: nobody's.
    """

    lines: bytes
    records: int
    share: str | None = None


def lines_in(size: int) -> int:
    """How many lines so many bytes count for."""
    return max(1, -(-size // _LINE))


class Files(Protocol):
    """Where the lines go."""

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines; returns how many lines could not be written."""

    def close(self) -> None:
        """Nothing more is written. Can be called twice."""


class SharedFiles:
    """The common file, and one for each account that does more than others have room for.

    For one thread. Of the files of accounts none is kept open.
    """

    def __init__(self, state: Path, size: int, keep: int, own_size: int) -> None:
        self._state = state
        self._common = _Files(state / FILE_NAME, size, keep)
        self._own_size = own_size
        self._counts: dict[str, int] = {}
        self._since = time.monotonic()

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines where they belong; returns how many could not be written."""
        now = time.monotonic()
        if now - self._since >= _SHARE_SECONDS:
            self._since, self._counts = now, {}
        common: list[Chunk] = []
        own: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            if chunk.share is None:
                common.append(chunk)
                continue
            before = self._counts.get(chunk.share, 0)
            after = before + max(chunk.records, lines_in(len(chunk.lines)))
            self._counts[chunk.share] = after
            if after <= _SHARE:
                common.append(chunk)
                continue
            if before <= _SHARE:
                common.append(Chunk(_moved_line(chunk.share), 1))
            own.setdefault(chunk.share, []).append(chunk)
        lost = self._common.append(common)
        for share, its in own.items():
            files = _Files(self._state / own_name(share), self._own_size, 1)
            try:
                lost += files.append(its)
            finally:
                files.close()
        return lost

    def close(self) -> None:
        """Nothing more is written. Can be called twice."""
        self._common.close()


def _moved_line(share: str) -> bytes:
    kind, _, user = share.partition("-")
    many = f"more than {_SHARE} {kind} or {_SHARE} KiB of them in an hour"
    reason = f"{many}: the others are in {own_name(share)}"
    return line_of(Record(timestamp(time.time()), "moved-on", OK, user=user, reason=reason))


class _Files:
    """The current file and its predecessors: ``audit.jsonl``, ``audit.jsonl.1``, … For one thread.

    What it can't write is counted, and told once in the log until it can again.
    """

    def __init__(self, path: Path, size: int, keep: int) -> None:
        self._path = path
        self._limit = size
        self._keep = keep
        self._fd = -1
        self._broken = False

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines, many at once; returns how many lines could not be written."""
        start = 0
        while start < len(chunks):
            end, size = start, 0
            while end < len(chunks) and (end == start or size + len(chunks[end].lines) <= _WRITE):
                size += len(chunks[end].lines)
                end += 1
            try:
                self._write(b"".join(chunk.lines for chunk in chunks[start:end]))
            except OSError as error:
                self._failed(error)
                return sum(chunk.records for chunk in chunks[start:])
            start = end
        if chunks and self._broken:
            self._broken = False
            logger.warning("the audit log is written again")
        return 0

    def _failed(self, error: OSError) -> None:
        if not self._broken:
            logger.error(
                "%s: can't be written (%s): events are only counted until it can",
                self._path,
                os.strerror(error.errno or 0).lower(),
            )
        self._broken = True
        self.close()

    def _write(self, data: bytes) -> None:
        self._open()
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._limit:
            self._rotate()
            self._open()
        write_whole(self._fd, data)

    def _open(self) -> None:
        """Have the file that is called so now: somebody may have moved it away."""
        if self._fd >= 0:
            try:
                there, mine = os.stat(self._path), os.fstat(self._fd)
                if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                    return
            except FileNotFoundError:
                pass
            self.close()
        self._fd = open_to_append(self._path)

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = rotated(self._path, number)
            newer = rotated(self._path, number - 1)
            if newer.exists():
                os.replace(newer, older)
        number = self._keep + 1
        while (surplus := rotated(self._path, number)).exists():  # more were kept before
            surplus.unlink()
            number += 1
        if not self._keep:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the current file. Can be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def own_name(share: str) -> str:
    """The file of one account's share, as ``audit-files-alice.jsonl``."""
    return f"audit-{share}.jsonl"


def rotated(path: Path, number: int) -> Path:
    """The file that was current so many rotations ago."""
    return path.with_name(f"{path.name}.{number}") if number else path


def open_to_append(path: Path) -> int:
    """Open a file of lines; a line that a full disk has cut is ended first."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_whole(fd: int, data: bytes) -> None:
    """One write, as a rule; a disk that is filling up takes less."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
