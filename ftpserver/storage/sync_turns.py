"""Turns of processes at syncing a disk: while one syncs, the others collect files to sync.

Lives here: taking a turn, and going on without one that is never returned.
Lives elsewhere: what is synced in a turn, and syncing together within one process (group_sync.py),
the locks (upload_locks.py).

Two processes whose syncs overlap cause twice as many journal commits, each for half as many files.
So a process takes its turn before it begins a round of syncs. Turns are advisory, and nothing
relies on them: a process that has waited too long, because another one was stopped or hangs in its
turn, goes on without. The kernel releases the turn of a process that was killed.
"""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path

from ftpserver.storage.upload_locks import try_range, unlock_range

PATIENCE = 1.0
"""Seconds to wait for a turn, once. A stopped process must not stop others."""
_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.0005
_DEVICES = 1 << 61


class SyncTurns:
    """The turns of one process. For all threads, but only one thread at a time for each disk.

    For each disk, two bytes of a file are locked: the first by the process that is next, the second
    by the one that has the turn. A process that returns its turn and wants it again comes after the
    one that is next. So no process is passed over.

    Args:
        path: The file, the same for all processes that share turns. It stays empty. If it cannot be
            made, or the file system has no such locks, no process waits for another.
    """

    def __init__(self, path: Path) -> None:
        self._closing: weakref.finalize[..., SyncTurns] | None = None
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:  # a full or read-only disk, which the syncs themselves will report
            self._fd = -1
        else:
            self._closing = weakref.finalize(self, os.close, self._fd)
        self._in_vain: set[int] = set()
        """Disks whose turn was not free in time. Until it is, it isn't waited for again."""

    def take(self, device: int) -> None:
        """Wait for the turn at a disk, up to PATIENCE. Must be followed by `give_back`, whether the
        turn was free or not."""
        if self._fd < 0:
            return
        following = _place(device)
        patience = 0.0 if device in self._in_vain else PATIENCE
        deadline = time.monotonic() + patience
        had = False
        if self._has(following, deadline):
            try:
                had = self._has(following + 1, deadline)
            finally:  # with the turn or without: another process may be the next
                unlock_range(self._fd, following)
        if had:
            self._in_vain.discard(device)
        else:
            self._in_vain.add(device)

    def give_back(self, device: int) -> None:
        """Return the turn, if this process has it."""
        if self._fd >= 0:
            unlock_range(self._fd, _place(device) + 1)

    def close(self) -> None:
        """Close the file, after the last sync. Can be called twice."""
        self._fd = -1
        if self._closing is not None:
            self._closing()

    def _has(self, at: int, deadline: float) -> bool:
        pause = _FIRST_PAUSE
        while not try_range(self._fd, at):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return True


def _place(device: int) -> int:
    """Return the offset of a disk's first byte in the file."""
    return device % _DEVICES * 2
