"""Reading the audit log: all of its files in order, and what is added to them.

Lives here: files, lines, filters. Lives elsewhere: writing them (trail.py), output (cli/log.py).

Rotation may come at any moment. What was opened stays readable whatever it is called by then, so
no line is missed or told twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ftpserver.audit.record import OK, Record
from ftpserver.audit.writer import FILE_NAME, rotated
from ftpserver.errors import StateError

_POLL_SECONDS = 0.2
_READ = 256 * 1024
_MOST_FILES = 100_000


@dataclass(frozen=True)
class Filter:
    """Which records are wanted; what is None or empty excludes nothing.

    Attributes:
        since: As in a record: text of the same form, which sorts by time.
        failed: Only what was refused, failed or was cut.
    """

    user: str | None = None
    events: tuple[str, ...] = ()
    since: str | None = None
    failed: bool = False

    def takes(self, record: Record) -> bool:
        """Whether a record is wanted."""
        return (
            (self.user is None or record.user == self.user)
            and (not self.events or record.event in self.events)
            and (self.since is None or record.time >= self.since)
            and (not self.failed or record.outcome != OK)
        )


class AuditReader:
    """The audit log below a state directory, from its oldest line on. A context manager.

    Raises:
        StateError: It can't be read; also while it is followed.

    Args:
        wait: How to wait for more, when following: given seconds, and may return earlier.
        on_missed: Called when files may have been removed that were not read yet: the log was
            rotated away faster than it was followed.

    Attributes:
        unreadable: Lines that are no records: a full disk or a power cut has torn them.
    """

    def __init__(
        self,
        state: Path,
        wait: Callable[[float], None] = time.sleep,
        on_missed: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = state / FILE_NAME
        self._wait = wait
        self._on_missed = on_missed
        self._files = self._open_all()
        self.unreadable = 0

    def __enter__(self) -> AuditReader:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            os.close(self._files.pop())

    def _open_all(self) -> list[int]:
        """All files, the oldest last. From the current one backwards, and each once: one that
        is rotated meanwhile is met again under its next name."""
        found: list[int] = []
        seen: set[tuple[int, int]] = set()
        try:
            for number in range(_MOST_FILES):
                try:
                    fd = os.open(rotated(self._path, number), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    if number:
                        break
                    continue  # none is current between a rotation and the next record
                except OSError as error:
                    reason = (error.strerror or "").lower()
                    raise StateError(f"{error.filename}: can't be read: {reason}") from error
                found.append(fd)
                if (identity := _identity(os.fstat(fd))) in seen:
                    os.close(found.pop())
                seen.add(identity)
        except BaseException:
            for fd in found:
                os.close(fd)
            raise
        return found

    def records(self, wanted: Filter, *, follow: bool = False) -> Iterator[tuple[bytes, Record]]:
        """Each wanted line and what it means; with ``follow`` also those still to come."""
        for line in self._lines(follow):
            if not line:
                continue  # ends a line that seemed to be torn, but was only being written
            record = self._decoded(line)
            if record is not None and wanted.takes(record):
                yield line, record

    def _decoded(self, line: bytes) -> Record | None:
        try:
            found: Any = json.loads(line)  # it takes lone surrogates, too
            return msgspec.convert(found, Record)
        except (ValueError, msgspec.ValidationError):
            self.unreadable += 1
            return None

    def _lines(self, follow: bool) -> Iterator[bytes]:
        rest = b""
        while True:
            if self._files:
                fd = self._files[-1]
                while data := os.read(fd, _READ):
                    *lines, rest = (rest + data).split(b"\n")
                    yield from lines
                if len(self._files) > 1:  # nobody adds to it any more
                    os.close(self._files.pop())
                    self.unreadable += bool(rest)
                    rest = b""
                    continue
            if not follow:
                self.unreadable += bool(rest)
                return
            newer = self._newer()
            if newer:  # what was added before it was rotated is read first
                self._files = newer + self._files
            else:
                self._wait(_POLL_SECONDS)

    def _newer(self) -> list[int]:
        """What came after the file that is read, however often was rotated meanwhile."""
        if not self._files:
            return self._open_all()
        mine = _identity(os.fstat(self._files[-1]))
        try:
            if _identity(os.stat(self._path)) == mine:
                return []
        except FileNotFoundError:
            return []  # the next record makes the next one
        opened = self._open_all()
        places = [_identity(os.fstat(fd)) for fd in opened]
        at = places.index(mine) if mine in places else len(opened)
        if mine not in places:
            self._on_missed()
        for fd in opened[at:]:
            os.close(fd)
        return opened[:at]


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
