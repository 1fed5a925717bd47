"""Writing the audit log of a running server.

Lives here: the queue and its thread, and counting records that cannot be written.
Lives elsewhere: the contents of records (record.py, context.py), the files (files.py), how many
failures are recorded (allowances.py), administrators' commands (administration.py), showing the log
(cli/log.py).

Sessions queue a record when the operation is acknowledged. One thread writes many records at once,
so a small upload costs no system call here. The audit log never stops the service: if the queue is
full, unauthenticated clients fail too often, or the disk is full, records are only counted, and one
``dropped`` record has their number. A crash loses at most what was queued, about 0.1 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftpserver.audit.allowances import FailureAllowances, FailureLimiting
from ftpserver.audit.context import Recorder
from ftpserver.audit.files import Chunk, Files, SharedFiles
from ftpserver.audit.record import FAILED, Record, line_of, timestamp

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account

MAX_QUEUED = 16 * 1024 * 1024
"""The most bytes of records that wait to be written."""
_GATHER_SECONDS = 0.1
"""Seconds that a record waits for others, to be written together."""
_DROPPED_SECONDS = 10.0


class Audit(Recorder):
    """The audit log of a running server. Safe to use from many threads; no method raises.

    ``_lock`` guards the queue and the counts; it is never held across a file call. Only the writer
    thread uses the files.

    Args:
        state: The server's state directory.
        size: The size in bytes at which a file is rotated; 0 for no audit log.
        keep: The number of rotated files to keep.
        own_size: The size in bytes at which a file of one account's share is rotated.
        files: The destination of the lines; None for files in ``state``.
        failures: The limit for recorded failures; None for one of this process alone.

    Attributes:
        on_written: Called by the writer thread when the file has grown. Must not wait or raise.
    """

    def __init__(
        self,
        state: Path,
        *,
        size: int,
        keep: int = 0,
        own_size: int = 16 * 2**20,
        files: Files | None = None,
        failures: FailureLimiting | None = None,
    ) -> None:
        self.on_written: Callable[[], None] = lambda: None
        self.enabled = bool(size)
        self._files: Files = files or SharedFiles(state, size, keep, own_size)
        self._lock = threading.Lock()
        self._queue: list[Chunk] = []
        self._queued = 0
        self._dropped = 0
        self._dropped_reported_at = -_DROPPED_SECONDS
        self.failures: FailureLimiting = failures or FailureAllowances()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        if self.enabled:
            self._writer = threading.Thread(target=self._write_all, name="audit")
            self._writer.start()

    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        """Queue whole lines; ``count`` is their number."""
        if not count:
            return
        with self._lock:
            if self._queued + len(lines) > MAX_QUEUED or not self.enabled:
                self._dropped += count
            else:
                self._queue.append(Chunk(lines, count, share))
                self._queued += len(lines)
        if not self._wake.is_set():
            self._wake.set()

    def may_record_failure(
        self, account: Account | None, guess: str | None = None, size: int = 0
    ) -> bool:
        """Return True if another failure may be recorded, of that account or without one."""
        granted = self.failures.take(None if account is None else account.id, guess, size)
        if not granted:
            with self._lock:
                self._dropped += 1
            if not self._wake.is_set():
                self._wake.set()
        return granted

    def close(self) -> None:
        """Write all queued records, and stop the thread. Can be called twice."""
        self.enabled = False
        self._closing.set()
        self._wake.set()
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    # the writer thread -----------------------------------------------------------------------

    def _write_all(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.wait(_DROPPED_SECONDS if self._dropped else None)
                self._closing.wait(_GATHER_SECONDS)
                # cleared before the queue is taken: a record queued after that sets it again
                self._wake.clear()
                self._write_queued()
            self._write_queued()
        finally:
            self._files.close()

    def _write_queued(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
            self._queued = 0
            dropped = self._dropped_due()
        if dropped:
            queue.append(Chunk(_dropped_line(dropped), dropped))
        lost = self._files.append(queue)
        if lost:
            with self._lock:
                self._dropped += lost
        if queue:
            self.on_written()

    def _dropped_due(self) -> int:
        """Take the number for a ``dropped`` record, or 0 if the last one was too recent.

        The caller holds the lock."""
        now = time.monotonic()
        due = now - self._dropped_reported_at >= _DROPPED_SECONDS or self._closing.is_set()
        if not self._dropped or not due:
            return 0
        self._dropped_reported_at = now
        dropped, self._dropped = self._dropped, 0
        return dropped


def _dropped_line(count: int) -> bytes:
    reason = "too many events, or no space for them"
    return line_of(Record(timestamp(time.time()), "dropped", FAILED, count=count, reason=reason))
