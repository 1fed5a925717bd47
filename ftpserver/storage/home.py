"""Home: one user's confined directory tree.

Lives here: moving and removing what is in a home.
Lives elsewhere: its descriptors and its lock (open_home.py), the account's permissions
(home_rights.py), looking (home_reading.py), its staging directory (home_staging.py), bytes on their
way in (batch.py), confinement itself (ftpwire/beneath.py), quotas (ledger.py: what a removal freed
is returned to the caller), what each request needs of the account's permissions
(workspace/needs.py). Here only what shows on the way is checked by these: whether
something is replaced.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpserver.storage import file_systems
from ftpserver.storage.home_reading import ReadableHome
from ftpserver.storage.home_staging import Check, Settle, StagingHome, Tally, rename_closed
from ftpserver.storage.permissions import Action
from ftpserver.storage.walk import STORED_SUFFIX, counted_size
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, InvalidPath, IsADirectory, from_oserror
from ftpwire.paths import Parts


class Home(ReadableHome, StagingHome):
    """The directory tree of one user, as one session sees it. For one thread.

    Its arguments, and what it raises, are those of `OpenHome`.
    """

    def remove(
        self,
        path: bytes,
        *,
        recursive: bool,
        tick: Callable[[], None],
        settle: Settle = lambda freed, files: None,
        check: Check | None = None,
    ) -> Tally:
        """Remove a file, a link, an empty directory or a tree; returns what became free.

        Args:
            tick: Called now and then on the way.
            check: Raises what keeps something in this state from being removed.

        Raises:
            OSError: EXDEV: its file system can't move it to staging, and nothing was removed; it
                can be removed in place (in_place.py).
            InvalidPath: A file system is mounted there.
        """
        tally = Tally()
        parts = paths.split(path)
        if not parts:
            raise InvalidPath("/: the home itself can't be removed")
        directory, name = self.tree.parent(parts)
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if check is not None:
                check(info)
            if stat.S_ISDIR(info.st_mode):
                if recursive:
                    file_systems.refuse_mounts(directory, name, path)
                if not recursive:
                    with self.alone():
                        self._remove_empty(directory, name, settle)
                    tally.directories += 1
                    return tally
                with self.alone():  # only for the moment in which it goes
                    staged = self._take_tree(directory, name)
                with self.settled(tally, settle):
                    self.discard_tree(staged, tally, tick)
                return tally
            # what is looked at can't be replaced by others before it goes
            with self.shared() if check is None else self.alone(), self.settled(tally, settle):
                tally.size += self.discard(directory, name, check)
                tally.files += 1
                self.sync_dir(directory)
            return tally
        finally:
            os.close(directory)

    def _remove_empty(self, directory: int, name: bytes, settle: Settle) -> None:
        """Remove an empty directory, and settle it before a recount can find that it has gone."""
        file_systems.remove_directory(directory, name)
        try:
            self.sync_dir(directory)
        finally:
            settle(0, 1)

    def _take_tree(self, directory: int, name: bytes) -> bytes:
        """Move a tree into staging; returns its name there, under which a recount counts all of it:
        it is settled when it is removed."""
        staged = self.new_name() + STORED_SUFFIX
        rename_closed(directory, name, self.staging_fd, staged)
        self.sync_dir(directory)
        return staged

    def move(
        self,
        source: bytes,
        target: bytes,
        *,
        replace: bool,
        settle: Settle = lambda freed, files: None,
    ) -> Tally:
        """Rename; returns what was replaced.

        Raises:
            AlreadyExists, IsADirectory, InvalidPath, OSError
        """
        source_parts, target_parts = _movable(source, target)
        with self.alone():
            source_dir, source_name = self.tree.parent(source_parts)
            try:
                with _about(target):
                    target_dir, _ = self.tree.parent(target_parts)
                try:
                    with _not_into_itself(source):
                        freed = self._move(
                            source_dir, source_name, target_dir, target_parts, replace
                        )
                    try:
                        self.sync_dir(target_dir)
                        self.sync_dir(source_dir)
                    finally:
                        settle(freed.size, freed.files)
                    return freed
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        file_systems.refuse_mounts(source_dir, source_name, source)
                    raise
                finally:
                    os.close(target_dir)
            finally:
                os.close(source_dir)

    def _move(
        self, source_dir: int, source: bytes, target_dir: int, path: Parts, replace: bool
    ) -> Tally:
        target = path[-1]
        info = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
        try:
            beneath.rename_new(source_dir, source, target_dir, target)
            return Tally()
        except FileExistsError:
            there = os.stat(target, dir_fd=target_dir, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (info.st_dev, info.st_ino):
                return self._move_to_itself(source_dir, source, target_dir, target)
        self._check_replacing(info, there, path, replace)
        size = self._move_over(source_dir, source, target_dir, target, there)
        return Tally(files=1, size=size)

    def _move_to_itself(
        self, source_dir: int, source: bytes, target_dir: int, target: bytes
    ) -> Tally:
        """Move something to a name that it has already: rename(2) does nothing then.

        A second link goes, as with mv(1). Without RENAME_NOREPLACE a move makes one, and a crash
        may leave it: the same command goes on. The same name in other letters, which some file
        systems take for it, is given to it.
        """
        if os.path.sameopenfile(source_dir, target_dir) and source == target:
            return Tally()
        info = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode) or info.st_nlink == 1:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
            return Tally()
        os.unlink(source, dir_fd=source_dir)
        return Tally(files=1, size=counted_size(info))

    def _move_over(
        self,
        source_dir: int,
        source: bytes,
        target_dir: int,
        target: bytes,
        there: os.stat_result,
    ) -> int:
        """Replace a file at once; returns its bytes, measured after it was replaced.

        Exchanging the two and removing what came out would be two steps: a crash between them
        would leave both names, swapped.
        """
        replaced = self.new_name()
        try:
            os.link(
                target,
                replaced,
                src_dir_fd=target_dir,
                dst_dir_fd=self.staging_fd,
                follow_symlinks=False,
            )
        except OSError:  # there are no hard links: the lock keeps others of ours from it
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
            return counted_size(there)
        try:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        except BaseException:
            os.unlink(replaced, dir_fd=self.staging_fd)
            raise
        return self.drop_staged(replaced)

    def check_move(self, source: bytes, target: bytes, *, replace: bool) -> None:
        """Raise what `move` would, as things are now; nothing is changed."""
        source_parts, target_parts = _movable(source, target)
        info = self.stat(source_parts, follow=False)
        with _about(target):
            os.close(self.tree.open_dir(target_parts[:-1]))
        try:
            there = self.stat(target_parts, follow=False)
        except FileNotFoundError:
            return
        if (there.st_dev, there.st_ino) != (info.st_dev, info.st_ino):
            self._check_replacing(info, there, target_parts, replace)

    def _check_replacing(
        self, info: os.stat_result, there: os.stat_result, path: Parts, replace: bool
    ) -> None:
        """Raise what forbids to move something in state ``info`` over what is there."""
        target = paths.join(*path)
        shown = paths.show(target)
        if not replace:
            raise AlreadyExists(f"{shown}: exists", path=target)
        if stat.S_ISDIR(there.st_mode):
            text = f"{shown}: a directory is there, and it is not replaced"
            raise IsADirectory(text, path=target)
        if stat.S_ISDIR(info.st_mode):
            text = f"{shown}: a file is there, and a directory doesn't replace it"
            raise AlreadyExists(text, path=target)
        self.require(Action.REPLACE, path)


def _movable(source: bytes, target: bytes) -> tuple[Parts, Parts]:
    found = []
    for path in (source, target):
        parts = paths.split(path)
        if not parts:
            raise InvalidPath("/: the home itself can't be moved or replaced", path=path)
        found.append(parts)
    return found[0], found[1]


@contextmanager
def _about(path: bytes) -> Iterator[None]:
    """Have file-system errors name this path, not the first one of the request."""
    try:
        yield
    except OSError as error:
        raise from_oserror(error, paths.show(path), path) from None


@contextmanager
def _not_into_itself(source: bytes) -> Iterator[None]:
    """Say what rename(2) means by EINVAL: the target is below the directory that is to be moved."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        text = f"{paths.show(source)}: can't be moved into itself"
        raise InvalidPath(text, path=source) from None
