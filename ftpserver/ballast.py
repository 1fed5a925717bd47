"""The ballast: space on the state's disk that is reserved for the moment when the disk is full.

Lives here: one file of a fixed size and some empty ones. They are released when a write fails
because the disk is full, and made again when there is enough free space. Lives elsewhere: the
writes (database.py, audit/files.py), and the regular check of the ballast (daemon/server.py).

Without it a full disk cannot be cleaned up through the server: log-ins, removals and their records
in the audit log need a few pages themselves. They need files, too: SQLite makes two beside its own,
and each socket is one. A file system can run out of inodes long before it runs out of bytes.
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
"""The number of empty files kept; with fewer inodes than this left, a disk counts as full."""
_LEAST_FREE_FILES = 8 * _SPARE_FILES
"""The number of free inodes below which no empty files are made."""


def is_full(state: Path) -> bool:
    """Return True if the disk of a state directory has no space left, in bytes or in inodes."""
    try:
        disk = os.statvfs(state)
    except OSError:
        return False
    if not disk.f_blocks:
        return False  # the file system doesn't report its size
    few_files = disk.f_files > 0 and disk.f_favail < _SPARE_FILES  # 0: no limit
    return disk.f_bavail * disk.f_frsize < _FULL or few_files


def _spares(state: Path) -> list[Path]:
    return [state / f"{NAME}.{number}" for number in range(1, _SPARE_FILES + 1)]


def release(state: Path) -> bool:
    """Remove the ballast. Return False if there is none."""
    removed = False
    for path in (state / NAME, *_spares(state)):
        try:
            path.unlink()
        except OSError:
            continue
        removed = True
    if not removed:
        return False
    logger.warning("%s: the disk is full: using the reserved space", state)
    return True


def keep(state: Path) -> None:
    """Make the missing parts of the ballast if that leaves enough free space."""
    path = state / NAME
    spares = [spare for spare in _spares(state) if not spare.exists()]
    if path.exists() and not spares:
        return
    disk = os.statvfs(state)
    if disk.f_files > 0 and disk.f_favail < _LEAST_FREE_FILES:
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
        logger.debug("%s: cannot be made: %s", path, error.strerror)
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
