"""Starts an `ftpd` that breaks one of its promises on purpose: ``weakened.py VARIANT ARGUMENTS…``.

The crash tests have to catch each of these, or their zero losses would mean nothing. ``as-is``
changes nothing.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence

from ftpserver.cli.main import main
from ftpserver.storage.group_sync import Syncs, _Disk, _Waiting
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.sync_costs import SyncCosts
from ftpserver.storage.trash.names import INDEX_NAME
from ftpwire import beneath, paths

_fsync = os.fsync
_fdatasync = os.fdatasync
_sync_file_system = beneath.sync_file_system


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _is_staging(fd: int) -> bool:
    """Whether the descriptor is what the server syncs files through, and not names."""
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == os.fsdecode(paths.STAGING)


def _is_index(fd: int) -> bool:
    """Whether the descriptor is that of an index of the trash."""
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == os.fsdecode(INDEX_NAME)


def _names_only(fd: int) -> None:
    """Sync every directory of a home, and none of its files."""
    for directory, _, _ in os.walk(f"/proc/self/fd/{fd}"):
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _fsync(opened)
        finally:
            os.close(opened)


def weaken(promises: set[str]) -> None:
    """Leave out the syncs of files, directories, indexes or leases, one by one or all together; or
    have those who come while one runs be told that it was for them."""

    def fsync(fd: int) -> None:
        if ("directory-fsync" if _is_directory(fd) else "file-fsync") not in promises:
            _fsync(fd)

    def fdatasync(fd: int) -> None:
        if "index" not in promises or not _is_index(fd):
            _fdatasync(fd)

    def sync_file_system(fd: int) -> None:
        if not _is_directory(fd):  # files of several sessions, and maybe names
            if "file-syncfs" in promises:
                return
        elif not _is_staging(fd):
            if "directory-syncfs" in promises:
                return
            if "file-syncfs" in promises:  # it would save the files as well
                _names_only(fd)
                return
        elif "file-syncfs" in promises:
            return
        _sync_file_system(fd)

    os.fsync, os.fdatasync = fsync, fdatasync
    beneath.sync_file_system = sync_file_system
    if "next-round" in promises:
        Syncs._hand_on = _hand_on_too_early
    if promises & _ONE_BY_ONE:  # the file system's sync would save it, whenever that is quicker
        SyncCosts.is_better_together = lambda costs, things: False
    if "lease" in promises:
        Ledger.to_sync = lambda ledger: []


_ONE_BY_ONE = frozenset({"file-fsync", "directory-fsync", "lease"})
"""What is left out of syncs of single things."""
_hand_on = Syncs._hand_on


def _hand_on_too_early(self: Syncs, disk: _Disk, done: Sequence[_Waiting]) -> None:
    """Have the sync that is over be for those, too, who came while it ran."""
    with self._lock:
        late, disk.waiting = disk.waiting, []
    _hand_on(self, disk, [*done, *late])


VARIANTS = {
    "as-is": set(),
    "no-file-sync": {"file-fsync", "file-syncfs"},
    "no-file-fsync": {"file-fsync"},
    "no-file-syncfs": {"file-syncfs"},
    "no-directory-sync": {"directory-fsync", "directory-syncfs"},
    "no-directory-fsync": {"directory-fsync"},
    "no-directory-syncfs": {"directory-syncfs"},
    "no-index-sync": {"index"},
    "late-joiners": {"next-round"},
    "no-lease-sync": {"lease"},
}

if __name__ == "__main__":
    weaken(VARIANTS[sys.argv.pop(1)])
    main()
