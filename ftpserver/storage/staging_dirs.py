"""Staging directories of a batch: the home's own, or one in the target directory.

Lives here: which of them is used for each directory of a batch, making files in it.
Lives elsewhere: what new files inherit from a directory (file_systems.py), their bytes
(staging.py).

From most directories, new files inherit the same as from the home's staging. For one that passes on
another group or ACL, files are made under the reserved name in it, and moved to the home's staging
immediately, where they are found, kept and cleaned up like all others. Only where a rename cannot
reach the home's staging, on another file system, they stay under the reserved name until the
commit.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ftpserver.storage.file_systems import ALL_BITS, Beside
from ftpserver.storage.home import Home
from ftpwire.errors import CommandError
from ftpwire.paths import Parts

_MOST_BESIDE = 32
"""Maximum directories kept open with the reserved name in them. A batch may have a thousand."""
_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of opening a directory that the commit may not meet again, so that they are raised now."""


@dataclass(eq=False)
class StagingDir:
    """A directory that files are staged in.

    Attributes:
        fd: The descriptor of the directory.
        beside: The reserved name under which files are made; None: they are made in ``fd``.
        limits: The permission bits that a default ACL leaves to them.
        above: The directory that contains ``beside``, if it is on another file system than the
            home's, and files stay there until the commit. Else None.
        before_beside: Called before a file is made in ``beside``, where a start doesn't look for
            leftovers by itself.
        gives: For each mode that a file was made with, True if it got exactly that mode: neither
            the umask of this process nor a default ACL has removed bits.
    """

    fd: int
    beside: Beside | None = None
    limits: int = ALL_BITS
    above: int | None = None
    before_beside: Callable[[], None] = lambda: None
    gives: dict[int, bool] = field(default_factory=dict)

    def open(self, name: bytes, flags: int) -> int:
        """Make a new file. Raises OSError."""
        beside = self.beside
        if beside is None:
            return os.open(name, flags, 0o600, dir_fd=self.fd)
        self.before_beside()
        fd = beside.make(lambda birth: os.open(name, flags, 0o600, dir_fd=birth))
        try:
            self._take_in(name, beside)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def symlink(self, target: bytes, name: bytes) -> None:
        """Make a new symbolic link. Raises OSError."""
        beside = self.beside
        if beside is None:
            os.symlink(target, name, dir_fd=self.fd)
            return
        beside.make(lambda birth: os.symlink(target, name, dir_fd=birth))
        self._take_in(name, beside)

    def _take_in(self, name: bytes, beside: Beside) -> None:
        if self.above is not None:
            self.fd = beside.fd
            return
        try:
            os.rename(name, name, src_dir_fd=beside.fd, dst_dir_fd=self.fd)
        except BaseException:
            os.unlink(name, dir_fd=beside.fd)
            raise


class StagingDirs:
    """The staging directories of one batch. Each target directory is examined once. For one thread.

    Handles of other directories are closed after the batch (``close``), because directories may be
    moved and removed between two batches.

    Args:
        before_beside: Called before a file is made under a reserved name. Makes its lease durable,
            so that the next start looks for leftovers there.

    Attributes:
        seen: Directories that existed when they were examined.
    """

    def __init__(self, home: Home, before_beside: Callable[[], None] = lambda: None) -> None:
        self.seen: set[Parts] = set()
        self._before_beside = before_beside
        self._home = home
        self._own = StagingDir(home.staging_fd)
        self._known: dict[Parts, StagingDir] = {}
        self._beside: list[tuple[int, StagingDir, Beside]] = []
        """Open directories, their staging directories, and the reserved names in them."""

    def of(self, directory: Parts) -> StagingDir:
        """Return the staging directory for a directory's files; for a missing one, its parent's.

        Raises:
            CommandError, OSError: Nothing can be staged there.
        """
        staging_dir = self._known.get(directory)
        if staging_dir is None:
            staging_dir = self._known[directory] = self._find(directory)
        return staging_dir

    def _find(self, directory: Parts) -> StagingDir:
        try:
            fd = self._home.tree.open_dir_here(directory)
            here = fd is not None
            if fd is None:
                fd = self._home.tree.open_dir(directory)
        except FileNotFoundError:
            return self.of(directory[:-1]) if directory else self._own
        except (OSError, CommandError) as error:
            if isinstance(error, OSError) and error.errno in _NO_MORE:
                raise
            return self._own  # the commit fails in the same way, and reports it in its turn
        self.seen.add(directory)
        try:
            return self._look(fd, here)
        except BaseException:
            os.close(fd)
            raise

    def _look(self, directory: int, here: bool) -> StagingDir:
        """Return the staging directory for an open directory, and own its descriptor.

        Args:
            here: True if it is on the home's mount.
        """
        nature = self._home.nature_of(directory, here=here)
        if not (nature.other or nature.inherits):
            os.close(directory)
            return self._own
        self._close_some()
        try:
            beside = Beside(directory)
        except PermissionError:
            if nature.other:
                raise
            os.close(directory)
            return self._own  # the directory isn't writable: the commit reports that
        if nature.other:
            staging_dir = StagingDir(
                beside.fd, beside, nature.limits, directory, self._before_beside
            )
        else:
            fd = self._home.staging_fd
            staging_dir = StagingDir(fd, beside, nature.limits, before_beside=self._before_beside)
        self._beside.append((directory, staging_dir, beside))
        return staging_dir

    def _close_some(self) -> None:
        """Close the directory that was opened first, if there are too many. Its reserved name is
        empty: files made there were moved to the home's staging."""
        if len(self._beside) < _MOST_BESIDE:
            return
        for number, (directory, staging_dir, beside) in enumerate(self._beside):
            if staging_dir.above is not None:
                continue
            del self._beside[number]
            self._known = {path: one for path, one in self._known.items() if one is not staging_dir}
            self._close(directory, beside)
            return

    @staticmethod
    def _close(directory: int, beside: Beside) -> None:
        try:
            beside.close()
        finally:
            os.close(directory)

    def get(self, directory: Parts) -> StagingDir | None:
        """Return the staging directory for a directory, if that was examined."""
        return self._known.get(directory)

    def can_exchange(self, staging_dir: StagingDir) -> bool:
        """Return whether files staged there can be exchanged with those that they replace."""
        if staging_dir.above is None:
            return self._home.can_exchange()
        return self._home.can_exchange(staging_dir.fd)

    def close(self) -> None:
        """Close all handles, and remove the reserved names. Can be called again."""
        self._known.clear()
        self.seen.clear()
        self._own.gives.clear()  # another program may give staging a default ACL meanwhile
        while self._beside:
            directory, _, beside = self._beside.pop()
            self._close(directory, beside)
