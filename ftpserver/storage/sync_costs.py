"""The time that syncs of a disk take: of a few files one by one, or of their whole file system.

Lives here: the choice between the two for a few files.
Lives elsewhere: syncing (group_sync.py), the system calls (ftpwire/beneath.py).

Each ``fsync`` makes the disk flush its own cache, even if the journal commit of the one before had
everything: four files took four times as long as one. ``syncfs`` does that once. But it also writes
what other programs have written to the same file system, and on some file systems it is slow in
any case. So both are timed, and the one that was faster lately is used. If many bytes wait to be
written, by any program, files are synced one by one. The choice only affects the time: both make
the same files durable, and report the same errors.
"""

from __future__ import annotations

import os

FEW_DIRTY = 64 * 1024 * 1024
"""Bytes. If more wait to be written, on all disks of the machine, ``syncfs`` may take long, and
isn't tried."""
_LATELY = 8
_FORGETTING = 0.98
"""The factor by which a slow time fades, so that it is tried again: the disk may have been busy."""
_MEMORY = "/proc/meminfo"


class SyncCosts:
    """How long syncs of one disk took lately, in seconds. For one thread at a time."""

    def __init__(self) -> None:
        self._each = 0.0
        """The time per file, one by one; 0: not known."""
        self._together = 0.0
        """The time of a sync of the file system; 0: not known."""

    def is_better_together(self, count: int) -> bool:
        """Return whether this number of files, which is small, is synced faster by their file
        system."""
        if count < 2 or not self._each:
            return False
        if self._together >= self._each * count:
            self._together *= _FORGETTING
            return False
        dirty = dirty_bytes()
        return dirty is not None and dirty <= FEW_DIRTY

    def took_each(self, count: int, seconds: float) -> None:
        """Record the time of syncing files one by one."""
        if count:
            self._each = _lately(self._each, seconds / count)

    def took_together(self, seconds: float) -> None:
        """Record the time of syncing a few files by their file system."""
        self._together = _lately(self._together, seconds)


def _lately(before: float, seconds: float) -> float:
    """Return the expected time, a moving average. Not the best one: a sync is fast by chance if
    another one has just written everything."""
    return before + (seconds - before) / _LATELY if before else seconds


def dirty_bytes() -> int | None:
    """Return the bytes of files that wait to be written, on all disks of the machine; None if the
    system doesn't say."""
    try:
        fd = os.open(_MEMORY, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    count = 0
    for name in (b"\nDirty:", b"\nWriteback:"):
        at = text.find(name)
        if at < 0:
            return None
        count += int(text[at + len(name) :].split(None, 1)[0]) * 1024
    return count
