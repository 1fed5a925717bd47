"""Reading the audit log: all of its files in order of time, and following new records.

Lives here: files, lines, filters. Lives elsewhere: writing them (files.py), output (cli/log.py).

The common file and those of accounts are merged. Each is read block by block, so memory doesn't
grow with the log. A file may be rotated at any moment: an open one stays readable whatever its name
is by then, so no line is missed or returned twice.
"""

from __future__ import annotations

import base64
import functools
import heapq
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec

from ftpserver.audit.context import SHARES
from ftpserver.audit.files import FILE_NAME, rotated
from ftpserver.audit.record import OK, Record
from ftpserver.errors import StateError
from ftpwire import paths
from ftpwire.errors import FtpError
from ftpwire.paths import Parts

_POLL_SECONDS = 0.2
_READ = 256 * 1024
_ALL_READ = 16 * 1024 * 1024
"""The bytes read into memory from all files together, unless there are thousands of files."""
_LONGEST = 2**20
"""The longest line in bytes; a longer one is not a record."""
_LEAST_READ = 4096
_MOST_FILES = 100_000


@dataclass(frozen=True)
class Filter:
    """A condition for records; what is None or empty excludes nothing.

    Attributes:
        since: The earliest time, as in a record: such texts sort by time.
        until: The latest time.
        failed: True for what was refused, failed or was cut.
        address: An address, or a network.
        path: A path: for events at it, below it, or on a directory that contained it.
    """

    user: str | None = None
    events: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    failed: bool = False
    address: str | None = None
    path: Parts | None = None

    def takes(self, record: Record) -> bool:
        """Return True if a record matches."""
        return (
            (self.user is None or record.user == self.user)
            and (not self.events or record.event in self.events)
            and (self.since is None or record.time >= self.since)
            and (self.until is None or record.time <= self.until)
            and (not self.failed or record.outcome != OK)
            and (self.address is None or _is_from(record.address, self.address))
            and (self.path is None or _is_about(record, self.path))
        )


def _is_from(recorded: str | None, wanted: str) -> bool:
    """Return True if two addresses are equal, or one is a network that contains the other."""
    if recorded is None or recorded == wanted:
        return recorded is not None
    mine, other = _network(recorded), _network(wanted)
    if mine is None or other is None or mine.version != other.version:
        return False
    return bool(mine.overlaps(other))


@functools.lru_cache(maxsize=4096)
def _network(text: str) -> Any:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None  # a Unix socket, or an address with a zone


_TAKES_BELOW = frozenset({"remove", "move", "measured"})
"""The events that affect all that is below their path."""
_FILLS_BELOW = frozenset({"move", "copy"})
"""The events that make all that is below their target."""


def _is_about(record: Record, wanted: Parts) -> bool:
    """Return True if a record concerns a path: the path itself, something below it, or a directory
    above it with which it was made or removed."""
    path = _parts(record.path, record.path_b64)
    replaced = record.event == "end-tree" and bool((record.details or {}).get("commit"))
    if _concerns(path, wanted, replaced or record.event in _TAKES_BELOW):
        return True
    if record.event not in _FILLS_BELOW:
        return False  # a link's target is only text
    return _concerns(_parts(record.target, record.target_b64), wanted, True)


def _concerns(recorded: Parts | None, wanted: Parts, below: bool) -> bool:
    if recorded is None:
        return False
    if recorded[: len(wanted)] == wanted:
        return True
    return below and wanted[: len(recorded)] == recorded


def _parts(text: str | None, encoded: str | None) -> Parts | None:
    """Return a path of a record; None if it has none, or an invalid one."""
    if text is None:
        return None
    try:
        path = os.fsencode(text) if encoded is None else base64.b64decode(encoded)
        return paths.split(path)
    except (ValueError, FtpError):
        return None


class AuditReader:
    """The audit log of a state directory, from its oldest line on. A context manager.

    Raises:
        StateError: The log cannot be read; also raised while it is followed.

    Args:
        wait: Waits for more when following; it is given seconds, and may return earlier.
        on_missed: Called if files may have been removed before they were read, because the log was
            rotated faster than it was followed.
        user: The account whose own files are read; None for those of all accounts.

    Attributes:
        unreadable: The number of lines that aren't records, torn by a full disk or a power cut.
    """

    def __init__(
        self,
        state: Path,
        wait: Callable[[float], None] = time.sleep,
        on_missed: Callable[[], None] = lambda: None,
        *,
        user: str | None = None,
    ) -> None:
        self._state = state
        self._wait = wait
        self._on_missed = on_missed
        self._own = _names_of(user)
        self._series: dict[str, _Series] = {}
        self.unreadable = 0
        try:
            self._look()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> AuditReader:
        return self

    def __exit__(self, *_: object) -> None:
        while self._series:
            self._series.popitem()[1].close()

    def _look(self) -> None:
        """Open all files that are new or were rotated since the last look."""
        with os.scandir(self._state) as there:
            names = {found.group(1) for one in there if (found := self._own.fullmatch(one.name))}
        for name in (FILE_NAME, *sorted(names)):
            if name not in self._series:
                self._series[name] = _Series(self._state / name, self._on_missed)
            self._series[name].look()

    def records(self, wanted: Filter, *, follow: bool = False) -> Iterator[tuple[bytes, Record]]:
        """Yield each matching line with its record; with ``follow`` also those still to come.

        Records that exist already come in order of time; those written later come later.
        """
        while True:
            series = list(self._series.values())
            size = max(_LEAST_READ, min(_READ, _ALL_READ // len(series)))
            every = [self._of(one, size, wanted) for one in series]
            for _, line, record in heapq.merge(*every, key=lambda found: found[0]):
                yield line, record
            if not follow:
                self.unreadable += sum(one.is_torn for one in series)
                return
            self._wait(_POLL_SECONDS)
            self._look()

    def _of(
        self, series: _Series, size: int, wanted: Filter
    ) -> Iterator[tuple[str, bytes, Record]]:
        """Yield the matching lines of one series, each with the time by which series are merged.

        That time never goes back, so a clock that was set back doesn't change the order within a
        series.
        """
        latest = ""
        for line in series.lines(size):
            if not line:
                continue  # a writer ends a line here that it took for torn
            record = self._decoded(line)
            if record is not None and wanted.takes(record):
                latest = max(latest, record.time)
                yield latest, line, record

    def _decoded(self, line: bytes) -> Record | None:
        try:
            found: Any = json.loads(line)  # unlike msgspec, it accepts lone surrogates
            return msgspec.convert(found, Record)
        except (ValueError, msgspec.ValidationError, RecursionError):
            self.unreadable += 1
            return None


class _Series:
    """A file of lines and its predecessors, from the oldest on: ``audit.jsonl.1``, ``audit.jsonl``.

    Args:
        path: The path of the current file.
        on_missed: See `AuditReader`.
    """

    def __init__(self, path: Path, on_missed: Callable[[], None]) -> None:
        self._path = path
        self._on_missed = on_missed
        self._files: list[int] = []
        """The descriptors of the files that aren't fully read; the oldest comes last."""
        self._rest = b""
        self._end = 0
        """The size of the current file at the last look. What is added is read after the next."""

    @property
    def is_torn(self) -> bool:
        """True if the last line read has no end."""
        return bool(self._rest)

    def close(self) -> None:
        """Close the descriptors."""
        while self._files:
            os.close(self._files.pop())

    def look(self) -> None:
        """Find what can be read now. Raises StateError."""
        self._files = self._newer() + self._files
        self._end = os.fstat(self._files[0]).st_size if self._files else 0

    def lines(self, size: int) -> Iterator[bytes]:
        """Yield the lines that existed at the last look and have not been read.

        Args:
            size: The number of bytes to read at once.
        """
        while self._files:
            fd = self._files[-1]
            is_current = len(self._files) == 1
            while data := os.read(fd, min(size, self._left(fd)) if is_current else size):
                if len(self._rest) >= _LONGEST and b"\n" not in data:
                    continue  # too long for a record: skip to its end
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest[:_LONGEST]
                yield from lines
            if is_current:
                return
            os.close(self._files.pop())  # rotated: no line is added to it
            if self._rest:
                lines, self._rest = [self._rest], b""
                yield from lines  # a torn line, which the caller counts

    def _left(self, fd: int) -> int:
        return max(0, self._end - os.lseek(fd, 0, os.SEEK_CUR))

    def _open_all(self) -> list[int]:
        """Open all files, the oldest last. Goes from the current one backwards, so that a file that
        is rotated meanwhile is met again under its next name, and not missed; each is kept once."""
        found: list[int] = []
        seen: set[tuple[int, int]] = set()
        try:
            for number in range(_MOST_FILES):
                try:
                    fd = os.open(rotated(self._path, number), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    if number:
                        break
                    continue  # no current file between a rotation and the next record
                except OSError as error:
                    reason = (error.strerror or "").lower()
                    raise StateError(f"{error.filename}: cannot be read: {reason}") from error
                found.append(fd)
                if (identity := _identity(os.fstat(fd))) in seen:
                    os.close(found.pop())
                seen.add(identity)
        except BaseException:
            for fd in found:
                os.close(fd)
            raise
        return found

    def _newer(self) -> list[int]:
        """Open the files that are newer than those opened before, however many rotations ago."""
        if not self._files:
            return self._open_all()
        mine = _identity(os.fstat(self._files[0]))
        try:
            if _identity(os.stat(self._path)) == mine:
                return []
        except FileNotFoundError:
            return []  # the next record makes the new file
        opened = self._open_all()
        places = [_identity(os.fstat(fd)) for fd in opened]
        at = places.index(mine) if mine in places else len(opened)
        if mine not in places:
            self._on_missed()
        for fd in opened[at:]:
            os.close(fd)
        return opened[:at]


def _names_of(user: str | None) -> re.Pattern[str]:
    """Match own files of accounts (`files.own_name`), or of one; group 1 is the current name."""
    name = "[a-z0-9._-]+" if user is None else re.escape(user)
    return re.compile(rf"(audit-(?:{'|'.join(SHARES)})-{name}\.jsonl)(?:\.[0-9]+)?")


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
