"""Turns of processes at a disk: while one of them syncs, the others collect what they have to sync.

Lives here: taking a turn, and what becomes of one that is never given back.
Lives elsewhere: what is synced in a turn, and that threads of one process sync together
(group_sync.py), the locks (upload_locks.py).

Two processes whose syncs overlap have the journal commit twice as often, for half as many files
each time. So whoever begins a round of syncs has its process's turn first. It is advice: nothing
relies on it, and a process that waits too long, because another one was stopped in its turn or
hangs, goes on without. The system gives back the turn of one that was killed.
"""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path

from ftpserver.storage.upload_locks import try_range, unlock_range

PATIENCE = 1.0
"""Seconds that a turn is waited for, once: a process that was stopped must not stop others."""
_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.0005
_DEVICES = 1 << 61


class SyncTurns:
    """One process's turns. For all threads; of each disk one thread at a time.

    Of each disk two bytes of a file are locked: the first one by who is next, the second one by who
    has the turn. Whoever gives the turn back and wants it again comes after who is next.

    Args:
        path: The file, which all processes that share turns name; it stays empty. Where it can't
            be made, or the file system has no such locks, nobody waits for anybody.
    """

    def __init__(self, path: Path) -> None:
        self._closing: weakref.finalize[..., SyncTurns] | None = None
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:  # a full or read-only disk: the syncs themselves will tell
            self._fd = -1
        else:
            self._closing = weakref.finalize(self, os.close, self._fd)
        self._in_vain: set[int] = set()
        """Disks whose turn was waited for in vain: it isn't again, until it is free."""

    def take(self, device: int) -> None:
        """Wait for the turn at a disk, no longer than is said. `give_back` has to follow, in any
        case."""
        if self._fd < 0:
            return
        following = _place(device)
        patience = 0.0 if device in self._in_vain else PATIENCE
        deadline = time.monotonic() + patience
        had = False
        if self._has(following, deadline):
            try:
                had = self._has(following + 1, deadline)
            finally:
                unlock_range(self._fd, following)
        if had:
            self._in_vain.discard(device)
        else:
            self._in_vain.add(device)

    def give_back(self, device: int) -> None:
        """Let the next process have the turn, if this one has it."""
        if self._fd >= 0:
            unlock_range(self._fd, _place(device) + 1)

    def close(self) -> None:
        """Give the file back: nobody syncs any more. Can be called twice."""
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
    """Of a disk's first byte in the file."""
    return device % _DEVICES * 2
