"""Writing the audit log of a running server.

Lives here: the queue and its thread, and counting what can't be written.
Lives elsewhere: what a record tells (record.py), what a session tells (context.py), the files
(files.py), how many failures are recorded (allowances.py), administrators' commands
(administration.py), reading them for people (cli/log.py).

Sessions queue what they did when it is acknowledged. One thread writes many records at once, so a
small upload costs no system call here. Nothing of this stops the service: when the queue is
full, when strangers are refused too fast, or when the disk is full, records are counted instead,
and one ``dropped`` record tells how many. A crash loses at most what was queued, some 0.1 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftpserver.audit.allowances import FailureAllowances, FailureRoom
from ftpserver.audit.context import Recorder
from ftpserver.audit.files import Chunk, Files, SharedFiles
from ftpserver.audit.record import FAILED, Record, line_of, timestamp

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account

MAX_QUEUED = 16 * 1024 * 1024
"""Bytes of records that wait to be written, at most."""
_GATHER_SECONDS = 0.1
"""How long records wait for others to be written with."""
_DROPPED_SECONDS = 10.0


class Audit(Recorder):
    """The audit log of a running server. Safe to use from many threads; nothing here raises.

    ``_lock`` guards the queue and the counts; it is never held across a file call. The file is
    the writer thread's alone.

    Args:
        state: The server's state directory.
        size: Bytes from which on a file is rotated; 0 writes no audit log.
        keep: Files that are kept beside the current one.
        own_size: Bytes of a file for one account's share alone.
        files: Where the lines go instead of into files there.
        failures: Says how many failures may be recorded, in the place of this process alone.

    Attributes:
        on_written: Called by the writer thread when the file has grown. Never waits, nor raises.
    """

    def __init__(
        self,
        state: Path,
        *,
        size: int,
        keep: int = 0,
        own_size: int = 16 * 2**20,
        files: Files | None = None,
        failures: FailureRoom | None = None,
    ) -> None:
        self.on_written: Callable[[], None] = lambda: None
        self.enabled = bool(size)
        self._files: Files = files or SharedFiles(state, size, keep, own_size)
        self._lock = threading.Lock()
        self._queue: list[Chunk] = []
        self._queued = 0
        self._dropped = 0
        self._told_dropped = -_DROPPED_SECONDS
        self.failures: FailureRoom = failures or FailureAllowances()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        if self.enabled:
            self._writer = threading.Thread(target=self._write_all, name="audit")
            self._writer.start()

    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        """Queue whole lines, and say how many they are."""
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

    def may_tell_failure(
        self, account: Account | None, guess: str | None = None, size: int = 0
    ) -> bool:
        """Whether another failure of that account, or of a stranger, may be recorded now."""
        granted = self.failures.take(None if account is None else account.id, guess, size)
        if not granted:
            with self._lock:
                self._dropped += 1
            if not self._wake.is_set():
                self._wake.set()
        return granted

    def close(self) -> None:
        """Write what is queued, and end the thread. Can be called twice."""
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
        """What a ``dropped`` record has to tell now: not one for each batch of a flood."""
        now = time.monotonic()
        due = now - self._told_dropped >= _DROPPED_SECONDS or self._closing.is_set()
        if not self._dropped or not due:
            return 0
        self._told_dropped = now
        dropped, self._dropped = self._dropped, 0
        return dropped


def _dropped_line(count: int) -> bytes:
    reason = "too many events, or no room for them"
    return line_of(Record(timestamp(time.time()), "dropped", FAILED, count=count, reason=reason))
