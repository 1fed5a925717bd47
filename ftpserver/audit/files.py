"""The files of the audit log: choosing one for each line, rotating them, and full disks.

Lives here: the common file, and one for each account whose events exceed its share.
Lives elsewhere: the queue for them (writer.py), the contents of records (record.py), reading them
(reader.py).

Other processes (`ftpd user set`) append each record to the common file by a single write.
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
"""The size in bytes of a line that counts as one. A longer line counts as several: with a long path
it may have 60 KiB."""
_SHARE = 10_000
_SHARE_SECONDS = 3600.0
"""The lines of one share that the common file takes, and the period in seconds. An account's
log-ins and file operations are two shares. Further lines go to a file of their own."""


class Chunk(NamedTuple):
    """Whole lines and their number; for a ``dropped`` record, the number that it reports.

    Attributes:
        share: The share of the common file that they count for (`context.share_of`); None for none.
    """

    lines: bytes
    records: int
    share: str | None = None


def lines_in(size: int) -> int:
    """Return how many lines a number of bytes counts as."""
    return max(1, -(-size // _LINE))


class Files(Protocol):
    """The destination of the lines."""

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines, and return how many lines could not be written."""

    def close(self) -> None:
        """Close the files. Can be called twice."""


class SharedFiles:
    """The common file, and one for each account whose events exceed its share.

    For one thread. The accounts' own files are not kept open.
    """

    def __init__(self, state: Path, size: int, keep: int, own_size: int) -> None:
        self._state = state
        self._common = _Files(state / FILE_NAME, size, keep)
        self._own_size = own_size
        self._counts: dict[str, int] = {}
        self._since = time.monotonic()

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write each chunk to its file, and return how many lines could not be written."""
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
        for share, rest in own.items():
            files = _Files(self._state / own_name(share), self._own_size, 1)
            try:
                lost += files.append(rest)
            finally:
                files.close()
        return lost

    def close(self) -> None:
        """Close the common file. Can be called twice."""
        self._common.close()


def _moved_line(share: str) -> bytes:
    kind, _, user = share.partition("-")
    many = f"more than {_SHARE} {kind} or {_SHARE} KiB of them in one hour"
    reason = f"{many}: further ones are in {own_name(share)}"
    return line_of(Record(timestamp(time.time()), "moved-on", OK, user=user, reason=reason))


class _Files:
    """The current file and its predecessors: ``audit.jsonl``, ``audit.jsonl.1``, … For one thread.

    Lines that it cannot write are counted. The error is logged once, until writing works again.
    """

    def __init__(self, path: Path, size: int, keep: int) -> None:
        self._path = path
        self._limit = size
        self._keep = keep
        self._fd = -1
        self._broken = False

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines, many per write. Return how many lines could not be written."""
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
            logger.warning("the audit log can be written again")
        return 0

    def _failed(self, error: OSError) -> None:
        if not self._broken:
            logger.error(
                "%s: cannot be written (%s): until it can be, events are only counted",
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
        """Open the file, or reopen it if another program has moved it away."""
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
        # an earlier --audit-keep may have been higher
        while (surplus := rotated(self._path, number)).exists():
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
    """Return the name of a share's own file, e.g. ``audit-files-alice.jsonl``."""
    return f"audit-{share}.jsonl"


def rotated(path: Path, number: int) -> Path:
    """Return the file that was current ``number`` rotations ago."""
    return path.with_name(f"{path.name}.{number}") if number else path


def open_to_append(path: Path) -> int:
    """Open a file of lines to append; a line that a full disk has cut short is ended first."""
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
    """Write all data: by one write, unless the disk is getting full."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
