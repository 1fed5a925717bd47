"""A home's staging directory: what is on its way into the home, and what is on its way out.

Lives here: moving files and trees out of the home into staging, removing them there, measuring what
became free, and cleaning up what a crash left.
Lives elsewhere: opening the directory (open_home.py), an upload's file in it (staging.py), who owns
which name (ledger.py).
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
"""In staging: which server's it is (ownership.py)."""
NUMBERS_NAME = b"numbers"
"""In staging: which numbered requests are under way (request_numbers.py)."""
NOT_STAGED = frozenset({LOCK_NAME, OWNER_NAME, NUMBERS_NAME})
"""What lies in staging and is on its way to nowhere."""

_TICKS = 256
"""Things that are removed between two ticks."""
Check = Callable[[os.stat_result], None]


def settle_nothing(freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
    """Nobody keeps books."""


def same_as(request: Remove) -> Check | None:
    """Raises unless something is what a request says; None where it doesn't say that."""
    if not request.only_if_same:
        return None

    def check(info: os.stat_result) -> None:
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectory("a directory is there")
        if (request.size is not None and request.size != info.st_size) or (
            request.mtime_ns is not None and request.mtime_ns != beneath.told_time(info)
        ):
            raise SourceChanged("it is another file by now")

    return check


@dataclass
class Tally:
    """What a walk or a removal met.

    Attributes:
        staged: Bytes below the reserved name in some directory: leases hold these.
        since_ns: Files and links that were stored or changed from then on are ``fresh``, by the
            file system's clock; None: that isn't looked at.
        fresh: How many these are.
        trashed: All of it is in the trash, and nothing became free. A tree isn't counted then.
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
            fresh: It is that in any case, as all that is in a directory that came.
        """
        self.files += 1
        self.size += counted_size(info)
        if fresh or (self.since_ns is not None and info.st_ctime_ns >= self.since_ns):
            self.fresh += 1

    def has_come(self, info: os.stat_result) -> bool:
        """Whether a directory in state ``info`` was moved to where it is meanwhile. That leaves its
        mtime alone, which what is put into it does not."""
        since = self.since_ns
        return since is not None and info.st_ctime_ns >= since > info.st_mtime_ns


class StagingHome(OpenHome):
    """A home of which things are moved to staging, and removed there."""

    @contextmanager
    def settled(self, tally: Tally, settle: Freed) -> Iterator[None]:
        """Hold the lock shared while something is removed, and settle what became free of it."""
        with self.shared():
            try:
                yield
            finally:
                settle(tally.size, tally.files + tally.directories)

    def discard(self, directory: int, name: bytes, check: Check | None = None) -> int:
        """Remove a file or link; returns the bytes that became free.

        It is moved away first, then measured: what was measured is what is removed.

        Args:
            check: Raises what keeps something in this state from being removed. Hold the lock alone
                then: what came in between would be lost by a crash before it is given back. Who
                isn't ours, and knows no lock, can still do that.
        """
        if check is not None:  # as a rule, what may not go needn't be moved
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
        if stat.S_ISDIR(info.st_mode):  # somebody put a directory there just now: give it back
            beneath.rename_new(staging, staged, directory, name)
            raise IsADirectory("a directory is there")
        try:
            if check is not None:
                check(info)
        except CommandError:  # it was replaced just now
            beneath.rename_new(staging, staged, directory, name)
            raise
        return self.drop_staged(staged, staging)

    def drop_staged(self, staged: bytes, staging: int | None = None) -> int:
        """Remove a file or link from staging; returns the bytes that became free.

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
        """Remove a directory in staging with all its contents, however deep, adding to ``tally``.

        Directories are moved up into staging when met, so that no path and no stack grows.
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
                            # what is staged under the reserved name is held by leases
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
        """What is stored, in the quota's sense. Call it while holding ``alone``.

        Args:
            on_beside: Given each directory below the home that has the reserved name in it.
            closed: Where homes of other accounts lie in it, which don't count.
        """
        return stored(self.fd, on_beside=on_beside, closed=closed)

    def staged(self) -> set[bytes]:
        """The names in staging."""
        return {os.fsencode(name) for name in os.listdir(self.staging_fd)} - NOT_STAGED

    def clean_staging(self, in_use: Callable[[bytes], bool], staging: int | None = None) -> bool:
        """Remove from staging what nobody uses. Call it while holding ``alone``.

        Returns:
            Whether a tree was removed, which may have counted as used.

        Args:
            in_use: Whether a name in staging belongs to somebody.
            staging: The directory to clean; None: the home's own.
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
        """The same of the reserved name in another directory of the home, and remove that name.

        One with a lock is the staging of another home, which lies in this one: it is left alone.
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
    """Whether a directory of the reserved name is the staging of a home, and not made beside files
    that are on their way to a directory."""
    return not NOT_STAGED.isdisjoint(map(os.fsencode, os.listdir(staging)))


def rename_closed(
    source_dir: int, name: bytes, target_dir: int, target: bytes, *, new: bool = False
) -> None:
    """Rename, also a directory without write permission for its owner.

    Moving a directory rewrites its ``..``, which needs write permission in itself. It has its mode
    back afterwards.

    Args:
        new: Never over something. Raises FileExistsError.
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
