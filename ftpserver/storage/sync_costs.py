"""What syncs of a disk take: of a few things one by one, and of all of its file system at once.

Lives here: which of the two is tried for a few things.
Lives elsewhere: doing it (group_sync.py), the system calls (ftpwire/beneath.py).

Each ``fsync`` has the disk write out its own cache, also where the journal commit of the one before
had everything: four files took four times as long as one. ``syncfs`` does that once. But it also
waits for what others have written to the same file system, and there are file systems where it is
slow by itself. So both are timed, and the one that was quicker lately is done; and where much is
waiting to be written, whoever's it is, things are synced one by one. It is about time only: either
makes the same things durable, and tells of the same errors.
"""

from __future__ import annotations

import os

FEW_DIRTY = 64 * 1024 * 1024
"""Bytes. With more than that waiting to be written, on all disks of the machine, ``syncfs`` may
take long, and isn't tried."""
_LATELY = 8
_FORGETTING = 0.98
"""What took longer lately is tried again after some time: the disk may have had other work."""
_MEMORY = "/proc/meminfo"


class SyncCosts:
    """What syncs of one disk take lately, in seconds. For one thread at a time."""

    def __init__(self) -> None:
        self._each = 0.0
        """For each thing, one by one; 0: not known."""
        self._together = 0.0
        """For all at once; 0: not known."""

    def is_better_together(self, things: int) -> bool:
        """Whether so many things, of few, are better synced by their file system."""
        if things < 2 or not self._each:
            return False
        if self._together >= self._each * things:
            self._together *= _FORGETTING
            return False
        dirty = dirty_bytes()
        return dirty is not None and dirty <= FEW_DIRTY

    def took_each(self, things: int, seconds: float) -> None:
        """So many things were synced one by one."""
        if things:
            self._each = _lately(self._each, seconds / things)

    def took_together(self, seconds: float) -> None:
        """A few things were synced by their file system."""
        self._together = _lately(self._together, seconds)


def _lately(before: float, seconds: float) -> float:
    """What is expected next. Not what is possible: of some the disk has everything already, by a
    sync of somebody else."""
    return before + (seconds - before) / _LATELY if before else seconds


def dirty_bytes() -> int | None:
    """Bytes of files that the machine has still to write, on all its disks; None where the system
    doesn't tell."""
    try:
        fd = os.open(_MEMORY, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        told = os.read(fd, 4096)
    finally:
        os.close(fd)
    count = 0
    for name in (b"\nDirty:", b"\nWriteback:"):
        at = told.find(name)
        if at < 0:
            return None
        count += int(told[at + len(name) :].split(None, 1)[0]) * 1024
    return count
