"""Removing a tree in place, where its file system cannot move it to staging.

Lives here: that removal, in steps. Lives elsewhere: the usual way, with one rename (home.py).

A tree on another file system, or in a lower layer of overlayfs, cannot be moved away at once. It
is removed file by file, in steps that each hold the home's lock shared and are settled under it.
Between two steps other sessions may move directories, and uploads continue. So each step opens its
directory again, by names from the home on. Repeating an interrupted command continues it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from ftpserver.storage.file_systems import refuse_mounts
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.quota import Freed
from ftpserver.storage.walk import counted_size, open_closed
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import NotADirectory
from ftpwire.paths import Parts

_STEP = 256
"""Maximum files and directories removed under one hold of the lock."""

Guard = Callable[[Parts, os.stat_result], bool]
"""Returns True if a file may be removed, given its path below the tree and its state."""


@dataclass
class _Level:
    """A directory on the way down: its name, and the names in it that are kept."""

    name: bytes
    kept: set[bytes] = field(default_factory=set)


class RemovalInPlace:
    """The removal of one tree, file by file: call ``step`` until ``done``.

    Args:
        may_go: Decides which files are removed; others are kept, with their parent directories.

    Attributes:
        tally: A count of what was removed.
        kept: The number of files and directories that were kept.

    Raises:
        InvalidPath: A file system is mounted at the path, or below it.
    """

    def __init__(self, home: Home, parts: Parts, may_go: Guard = lambda below, info: True) -> None:
        self.tally = Tally()
        self.kept = 0
        self.done = False
        self._home = home
        self._parts = parts
        self._may_go = may_go
        self._levels = [_Level(parts[-1])]
        directory, name = home.tree.parent(parts)
        try:
            refuse_mounts(directory, name, paths.join(*parts))
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise NotADirectory(f"{paths.show(paths.join(*parts))}: not a directory")
        finally:
            os.close(directory)

    def step(self, settle: Freed) -> None:
        """Remove some of it. After an OSError, what was removed before stays removed."""
        tally = Tally()
        try:
            with self._home.settled(tally, settle):
                self._remove_some(tally)
        finally:
            self.tally.files += tally.files
            self.tally.directories += tally.directories
            self.tally.size += tally.size

    def _remove_some(self, tally: Tally) -> None:
        left = _STEP
        while left > 0 and not self.done:
            opened = self._open()
            if opened is None:
                continue
            above, fd = opened
            try:
                before = tally.files + tally.directories
                if self._empty(fd, tally, left):
                    self._leave(above, tally)
                left -= tally.files + tally.directories - before + 1
            finally:
                os.close(fd)
                os.close(above)

    def _open(self) -> tuple[int, int] | None:
        """Open the current directory and its parent, without following a link.

        Returns:
            Both descriptors, the parent's first; None if a directory on the way was removed or
            moved since the last step.
        """
        above = self._home.tree.open_dir(self._parts[:-1])
        for count, level in enumerate(self._levels, 1):
            try:
                try:
                    fd = os.open(level.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
                except PermissionError:
                    fd, _ = open_closed(above, level.name)
            except (FileNotFoundError, NotADirectoryError):
                os.close(above)
                del self._levels[count - 1 :]
                self.done = not self._levels
                return None
            except BaseException:
                os.close(above)
                raise
            if count == len(self._levels):
                return above, fd
            os.close(above)
            above = fd
        raise AssertionError("there is always a level")

    def _empty(self, fd: int, tally: Tally, most: int) -> bool:
        """Remove files from a directory, until a subdirectory is found or ``most`` are removed.

        Returns:
            True if nothing is left to do in it.
        """
        level = self._levels[-1]
        if os.fstat(fd).st_mode & 0o700 != 0o700:
            os.chmod(fd, 0o700)
        gone = 0
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name in level.kept:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    self._levels.append(_Level(name))
                    return False
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not self._may_go(self._below(name), info):
                    self._keep(level, name)
                    continue
                os.unlink(name, dir_fd=fd)
                if paths.STAGING not in self._below(name):
                    tally.files += 1
                    tally.size += counted_size(info)
                gone += 1
                if gone >= most:
                    return False
        return True

    def _below(self, name: bytes) -> Parts:
        return (*(level.name for level in self._levels[1:]), name)

    def _keep(self, level: _Level, name: bytes) -> None:
        level.kept.add(name)
        self.kept += 1

    def _leave(self, above: int, tally: Tally) -> None:
        """Remove the directory itself, unless something in it is kept."""
        level = self._levels.pop()
        hidden = paths.STAGING in (level.name, *(one.name for one in self._levels[1:]))
        if level.kept:
            if self._levels:
                self._keep(self._levels[-1], level.name)
        else:
            try:
                os.rmdir(level.name, dir_fd=above)
                self._home.sync_dir(above)
                tally.directories += not hidden
            except FileNotFoundError:
                pass  # another session has removed it
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._levels.append(level)  # another session has added to it: remove that, too
        self.done = not self._levels
