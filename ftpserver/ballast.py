"""Ballast: room on the state's disk that is kept back for the day when the disk is full.

Lives here: a file of some size and some empty ones, given up when a write fails for want of room,
and made again when there is enough. Lives elsewhere: the writes (database.py, audit/files.py), and
when it is looked after (daemon/server.py).

Without it a full disk can't be cleaned up through the server: a log-in, a removal and their records
in the audit log need a few pages themselves. And files: SQLite makes two beside its own, and each
socket is one; a file system can be out of those long before it is out of bytes.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

logger = logging.getLogger("ftpd")

NAME = "ballast"
SIZE = 4 * 1024 * 1024
_FULL = 256 * 1024
"""Bytes of free space below which a disk counts as full."""
_SPARE_FILES = 8
"""Empty files that are kept, and how few new ones make a disk count as full."""
_ROOM_FILES = 8 * _SPARE_FILES
"""New files that there must be room for before those are kept."""


def is_full(state: Path) -> bool:
    """Whether the disk of a state directory has no room left, in bytes or in files."""
    try:
        disk = os.statvfs(state)
    except OSError:
        return False
    if not disk.f_blocks:
        return False  # a file system that doesn't say
    few_files = disk.f_files > 0 and disk.f_favail < _SPARE_FILES  # some have no such limit
    return disk.f_bavail * disk.f_frsize < _FULL or few_files


def _spares(state: Path) -> list[Path]:
    return [state / f"{NAME}.{number}" for number in range(1, _SPARE_FILES + 1)]


def release(state: Path) -> bool:
    """Give the ballast up; False when there is none."""
    given_up = False
    for path in (state / NAME, *_spares(state)):
        try:
            path.unlink()
        except OSError:
            continue
        given_up = True
    if not given_up:
        return False
    logger.warning("%s: the disk is full: the room that was kept back is used now", state)
    return True


def keep(state: Path) -> None:
    """Make what is missing of the ballast, where there is room for it and as much again."""
    path = state / NAME
    spares = [spare for spare in _spares(state) if not spare.exists()]
    if path.exists() and not spares:
        return
    disk = os.statvfs(state)
    if disk.f_files > 0 and disk.f_favail < _ROOM_FILES:
        return
    for spare in spares:
        spare.touch(mode=0o600)
    if path.exists() or disk.f_bavail * disk.f_frsize < 3 * SIZE // 2:
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _fill(fd)
    except OSError as error:
        path.unlink(missing_ok=True)
        logger.debug("%s: can't be made: %s", path, error.strerror)
    finally:
        os.close(fd)


def _fill(fd: int) -> None:
    try:
        os.posix_fallocate(fd, 0, SIZE)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        for _ in range(SIZE // 65536):
            os.write(fd, bytes(65536))
