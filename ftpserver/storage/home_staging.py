"""A home's staging directory: files on their way into the home, and on their way out.

Lives here: moving files and trees out of the home into staging, removing them there, measuring what
became free, and cleaning up after a crash.
Lives elsewhere: opening the directory (open_home.py), an upload's file in it (staging.py), the
owners of the names in it (ledger.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ftpserver.storage import file_systems
from ftpserver.storage.open_home import LOCK_NAME, OpenHome
from ftpserver.storage.quota import Freed
from ftpserver.storage.walk import Usage, counted_size, open_closed, stored
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import CommandError, IsADirectory, SourceChanged
from ftpwire.messages import Remove
from ftpwire.paths import Parts

OWNER_NAME = b"owner"
"""A file in staging: the id of the server that owns the home (ownership.py)."""
NUMBERS_NAME = b"numbers"
"""A file in staging: the numbered requests that are being processed (request_numbers.py)."""
NOT_STAGED = frozenset({LOCK_NAME, OWNER_NAME, NUMBERS_NAME})
"""Files in staging that are not staged: they stay there."""

_TICKS = 256
"""Files or directories removed between two ticks."""
Check = Callable[[os.stat_result], None]


def settle_nothing(freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
    """Settle nothing. For a caller without a quota store."""


def same_as(request: Remove) -> Check | None:
    """Return a check that a file is in the state that a request expects; None if it expects none.
    The check raises IsADirectory or SourceChanged."""
    if not request.only_if_same:
        return None

    def check(info: os.stat_result) -> None:
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectory("a directory is there")
        if (request.size is not None and request.size != info.st_size) or (
            request.mtime_ns is not None and request.mtime_ns != beneath.clamped_mtime_ns(info)
        ):
            raise SourceChanged("the file has changed meanwhile")

    return check


@dataclass
class Tally:
    """A count of what a walk or a removal has found.

    Attributes:
        staged: Bytes below reserved names in other directories. Leases hold these.
        since_ns: Files and links stored or changed since this time, by the file system's clock, are
            ``fresh``; None: that isn't examined.
        fresh: The number of fresh files and links.
        trashed: True if all of it is in the trash, and nothing became free. Trees aren't counted
            then.
    """

    files: int = 0
    directories: int = 0
    size: int = 0
    staged: int = 0
    since_ns: int | None = None
    fresh: int = 0
    trashed: bool = False

    def count(self, info: os.stat_result, *, fresh: bool = False) -> None:
        """Add a file or link in state ``info``.

        Args:
            fresh: True if it is fresh whatever its time, because its directory was moved there.
        """
        self.files += 1
        self.size += counted_size(info)
        if fresh or (self.since_ns is not None and info.st_ctime_ns >= self.since_ns):
            self.fresh += 1

    def has_come(self, info: os.stat_result) -> bool:
        """Return whether a directory in state ``info`` was moved to where it is since ``since_ns``.
        A move changes its ctime but not its mtime; adding a file to it changes both."""
        since = self.since_ns
        return since is not None and info.st_ctime_ns >= since > info.st_mtime_ns


class StagingHome(OpenHome):
    """A home whose files can be moved to staging and removed there."""

    @contextmanager
    def settled(self, tally: Tally, settle: Freed) -> Iterator[None]:
        """Hold the lock shared while something is removed, and settle what became free."""
        with self.shared():
            try:
                yield
            finally:
                settle(tally.size, tally.files + tally.directories)

    def discard(self, directory: int, name: bytes, check: Check | None = None) -> int:
        """Remove a file or link; return the bytes that became free.

        It is moved to staging first and measured there: so exactly what was measured is removed.

        Args:
            check: Raises if something in the given state may not be removed. Hold the lock alone
                then: a file stored in between would be in staging until it is moved back, and a
                crash would lose it. Other programs, which don't use the lock, still can.
        """
        if check is not None:  # usually this refuses already, and nothing has to be moved
            check(os.stat(name, dir_fd=directory, follow_symlinks=False))
        try:
            return self._discard_through(self.staging_fd, directory, name, check)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        beside = file_systems.Beside(directory)
        try:
            return beside.make(lambda fd: self._discard_through(fd, directory, name, check))
        finally:
            beside.close()

    def _discard_through(
        self, staging: int, directory: int, name: bytes, check: Check | None
    ) -> int:
        staged = self.new_name()
        os.rename(name, staged, src_dir_fd=directory, dst_dir_fd=staging)
        info = os.stat(staged, dir_fd=staging, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):  # it was replaced after the caller looked: move it back
            beneath.rename_new(staging, staged, directory, name)
            raise IsADirectory("a directory is there")
        try:
            if check is not None:
                check(info)
        except CommandError:  # it was replaced after the first check: move it back
            beneath.rename_new(staging, staged, directory, name)
            raise
        return self.drop_staged(staged, staging)

    def drop_staged(self, staged: bytes, staging: int | None = None) -> int:
        """Remove a file or link from staging; return the bytes that became free.

        Args:
            staging: The directory that it is in; None: the home's own.
        """
        fd = self.staging_fd if staging is None else staging
        info = os.stat(staged, dir_fd=fd, follow_symlinks=False)
        os.unlink(staged, dir_fd=fd)
        return counted_size(info)

    def discard_tree(
        self,
        staged: bytes,
        tally: Tally,
        tick: Callable[[], None],
        staging: int | None = None,
    ) -> None:
        """Remove a directory in staging with its contents, adding to ``tally``.

        Subdirectories are moved up into staging when found, so that neither paths nor a stack grow
        with the depth of the tree.
        """
        top_fd = self.staging_fd if staging is None else staging
        apart = Tally()
        todo = [(staged, tally, False)]
        while todo:
            top, counts, fresh = todo.pop()
            try:
                fd = os.open(top, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=top_fd)
            except PermissionError:
                fd, _ = open_closed(top_fd, top)
            try:
                if os.fstat(fd).st_mode & 0o700 != 0o700:
                    os.chmod(fd, 0o700)
                with os.scandir(fd) as entries:
                    for entry in entries:
                        name = os.fsencode(entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            looks = counts.since_ns is not None and not fresh
                            came = looks and counts.has_come(entry.stat(follow_symlinks=False))
                            moved = self.new_name()
                            rename_closed(fd, name, top_fd, moved)
                            # leases hold what is under a reserved name: it isn't part of the tally
                            hidden = name == paths.STAGING
                            todo.append((moved, apart if hidden else counts, fresh or came))
                            continue
                        info = entry.stat(follow_symlinks=False)
                        os.unlink(name, dir_fd=fd)
                        counts.count(info, fresh=fresh)
                        if counts.files % _TICKS == 0:
                            tick()
            finally:
                os.close(fd)
            os.rmdir(top, dir_fd=top_fd)
            counts.directories += 1
            if counts.directories % _TICKS == 0:
                tick()
        tally.staged += apart.size

    # cleaning up -------------------------------------------------------------------------

    def count(
        self,
        on_beside: Callable[[int], None] | None = None,
        closed: Collection[Parts] = (),
    ) -> Usage:
        """Count what is stored, as the quota counts it. Call it while holding ``alone``.

        Args:
            on_beside: Called with each directory below the home that contains the reserved name.
            closed: The homes of other accounts inside this one, which aren't counted.
        """
        return stored(self.fd, on_beside=on_beside, closed=closed)

    def staged(self) -> set[bytes]:
        """Return the names in staging."""
        return {os.fsencode(name) for name in os.listdir(self.staging_fd)} - NOT_STAGED

    def clean_staging(self, in_use: Callable[[bytes], bool], staging: int | None = None) -> bool:
        """Remove from staging what has no owner. Call it while holding ``alone``.

        Args:
            in_use: Returns True if a name in staging has an owner.
            staging: The directory to clean; None: the home's own.

        Returns:
            True if a tree was removed, which may have counted as used.
        """
        fd = self.staging_fd if staging is None else staging
        trees = False
        for entry in os.listdir(fd):
            staged = os.fsencode(entry)
            if (staging is None and staged in NOT_STAGED) or in_use(staged):
                continue
            info = os.stat(staged, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self.discard_tree(staged, Tally(), lambda: None, fd)
                trees = True
            else:
                os.unlink(staged, dir_fd=fd)
        return trees

    def clean_beside(self, directory: int, in_use: Callable[[bytes], bool]) -> None:
        """Clean the reserved name in another directory of the home, and remove that name.

        One that contains a lock is the staging of another home inside this one, and is left alone.
        """
        fd = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            if is_of_a_home(fd):
                return
            self.clean_staging(in_use, fd)
        finally:
            os.close(fd)
        file_systems.leave_beside(directory)


def is_of_a_home(staging: int) -> bool:
    """Return whether a directory with the reserved name is the staging directory of a home, and not
    one made for files that will be renamed into the directory around it."""
    return not NOT_STAGED.isdisjoint(map(os.fsencode, os.listdir(staging)))


def rename_closed(
    source_dir: int, name: bytes, target_dir: int, target: bytes, *, new: bool = False
) -> None:
    """Rename something, also a directory that its owner may not write to.

    Moving a directory rewrites its ``..``, which needs write permission for the directory itself.
    Its mode is changed for that, and restored.

    Args:
        new: True to raise FileExistsError instead of replacing something.
    """
    try:
        _rename(source_dir, name, target_dir, target, new)
        return
    except PermissionError:
        fd, mode = open_closed(source_dir, name)
    try:
        _rename(source_dir, name, target_dir, target, new)
    finally:
        os.chmod(fd, mode)
        os.close(fd)


def _rename(source_dir: int, name: bytes, target_dir: int, target: bytes, new: bool) -> None:
    if new:
        beneath.rename_new(source_dir, name, target_dir, target)
    else:
        os.rename(name, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
