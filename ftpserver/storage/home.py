"""Home: one user's confined directory tree.

Lives here: moving and removing what is in a home.
Lives elsewhere: its descriptors and its lock (open_home.py), the account's permissions
(home_rights.py), reading (home_reading.py), its staging directory (home_staging.py), uploads
(batch.py), the trash (trash/), confinement itself (ftpwire/beneath.py), quotas (ledger.py: what a
removal freed is returned to the caller), what each request needs of the account's permissions
(workspace/needs.py). The only permission checked here is the one to replace something, because
whether a request replaces something shows only while it is carried out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ftpserver.storage import file_systems
from ftpserver.storage.home_reading import ReadableHome
from ftpserver.storage.home_staging import (
    Check,
    StagingHome,
    Tally,
    rename_closed,
    settle_nothing,
)
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import Freed
from ftpserver.storage.trash.index import Item
from ftpserver.storage.trash.operation import NoSpace, Operation, state_of
from ftpserver.storage.walk import STORED_SUFFIX, counted_size
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, CommandError, InvalidPath, IsADirectory, from_oserror
from ftpwire.paths import Parts


class Home(ReadableHome, StagingHome):
    """The directory tree of one user, as one session sees it. For one thread.

    For its arguments and errors, see `OpenHome`.

    Attributes:
        operation: The operation in the trash for what is removed and replaced; None: it is
            purged.
    """

    operation: Operation | None = None

    def close(self) -> None:
        """Close the descriptors."""
        if self.operation is not None:
            self.operation.close()
        super().close()

    def remove(
        self,
        path: bytes,
        *,
        recursive: bool,
        tick: Callable[[], None],
        settle: Freed = settle_nothing,
        check: Check | None = None,
        final: bool = False,
        file_only: bool = False,
        number: int = 0,
    ) -> Tally:
        """Remove a file, a link, an empty directory or a tree; put it into the trash if there is an
        ``operation``.

        Args:
            recursive: True to remove a directory with its contents.
            tick: Called now and then during a long removal.
            settle: Settles what became free or went to the trash.
            check: Raises if something in the given state may not be removed.
            final: True to bypass the trash.
            file_only: True to refuse a directory.
            number: The request's number, which identifies it when it is retried.

        Returns:
            A count of what was removed.

        Raises:
            IsADirectory: With ``file_only``.
            OSError: With EXDEV, nothing was removed, because the file system cannot move it to
                staging; it can be removed in place (in_place.py).
            InvalidPath: A file system is mounted there.
        """
        tally = Tally()
        parts = paths.split(path)
        if not parts:
            raise InvalidPath("/: the home itself cannot be removed")
        directory, name = self.tree.parent(parts)
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if check is not None:
                check(info)
            is_dir = stat.S_ISDIR(info.st_mode)
            if is_dir and file_only:
                raise IsADirectory("is a directory")
            if is_dir and recursive:
                file_systems.refuse_mounts(directory, name, path)
            if self.operation is not None and not final:
                try:
                    if is_dir:
                        return self._trash_directory(directory, parts, recursive, settle, number)
                    return self._trash_file(directory, parts, settle, check, number)
                except NoSpace:
                    pass
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
            if is_dir:
                if not recursive:
                    with self.alone():
                        self._remove_empty(directory, name, settle)
                    tally.directories += 1
                    return tally
                with self.alone():  # only while it is moved to staging
                    staged = self._take_tree(directory, name)
                with self.settled(tally, settle):
                    self.discard_tree(staged, tally, tick)
                return tally
            # alone if it is checked first: no other session can replace it before it is removed
            with self.shared() if check is None else self.alone(), self.settled(tally, settle):
                tally.size += self.discard(directory, name, check)
                tally.files += 1
                self.sync_dir(directory)
            return tally
        finally:
            os.close(directory)

    def _trash_directory(
        self, directory: int, parts: Parts, recursive: bool, settle: Freed, number: int
    ) -> Tally:
        """Put a directory into the trash; an empty one without ``recursive``. Raises NoSpace."""
        assert self.operation is not None
        name = parts[-1]
        with self.operation.writing() as operation:
            item = operation.item("tree" if recursive else "removed", parts, number=number)
            operation.announce([item])
            with self.alone():  # only while it is renamed
                if not recursive:
                    file_systems.require_empty(directory, name)
                info = operation.take(directory, name, item)
                try:
                    # sync the trash first, or after a power cut the directory could be in neither
                    operation.sync()
                    self.sync_dir(directory)
                finally:  # under the lock: a recount must not count it before it is settled
                    if recursive:
                        settle(0, 0)  # a tree is measured later
                    else:
                        settle(0, 0, counted_size(info), 1)
        return Tally(directories=0 if recursive else 1, trashed=True)

    def _trash_file(
        self, directory: int, parts: Parts, settle: Freed, check: Check | None, number: int
    ) -> Tally:
        """Put a file or a link into the trash. Raises NoSpace."""
        assert self.operation is not None
        with self.operation.writing() as operation:
            item = operation.item("removed", parts, number=number)
            operation.announce([item])
            # alone if it is checked first: no other session can replace it before it is removed
            with self.shared() if check is None else self.alone():
                info = self.take(operation, directory, parts[-1], item, check)
                try:
                    # sync the trash first, or after a power cut the file could be in neither
                    operation.sync()
                    self.sync_dir(directory)
                finally:
                    settle(0, 0, counted_size(info), 1)
        return Tally(files=1, size=counted_size(info), trashed=True)

    def take(
        self,
        operation: Operation,
        directory: int,
        name: bytes,
        item: Item,
        check: Check | None = None,
    ) -> os.stat_result:
        """Rename a file or link into the trash, as an item that was announced; return its state.

        Args:
            check: As for `discard`.

        Raises:
            IsADirectory: A directory is there by now, and stays.
        """
        info = operation.take(directory, name, item)
        try:
            if stat.S_ISDIR(info.st_mode):
                raise IsADirectory("a directory is there")
            if check is not None:
                check(info)
        except CommandError:  # it was replaced after the caller looked: put it back
            operation.give_back(item, directory, name)
            raise
        return info

    def _remove_empty(self, directory: int, name: bytes, settle: Freed) -> None:
        """Remove an empty directory, and settle that before a recount can come between."""
        file_systems.remove_directory(directory, name)
        try:
            self.sync_dir(directory)
        finally:
            settle(0, 1)

    def _take_tree(self, directory: int, name: bytes) -> bytes:
        """Move a tree into staging; return its name there.

        The name's suffix makes a recount count all of it: it is settled only when it is removed.
        """
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
        settle: Freed = settle_nothing,
        number: int = 0,
    ) -> Tally:
        """Rename something; return a count of what was replaced.

        Args:
            replace: True to replace a file at ``target``.
            settle: Settles what became free or went to the trash.
            number: The request's number, which identifies it when it is retried.

        Raises:
            AlreadyExists, IsADirectory, InvalidPath, OSError
        """
        source_parts, target_parts = _movable(source, target)
        with self.keeping() as operation, self.alone():
            source_dir, source_name = self.tree.parent(source_parts)
            try:
                with _about(target):
                    target_dir, _ = self.tree.parent(target_parts)
                try:
                    with _not_into_itself(source):
                        freed = self._move(
                            source_dir, source_name, target_dir, target_parts, replace, operation
                        )
                    try:
                        self.sync_dir(target_dir)
                        self.sync_dir(source_dir)
                        if operation is not None:
                            _note_move(operation, source_parts, target_dir, target_parts, number)
                    finally:
                        if freed.trashed:
                            settle(0, 0, freed.size, freed.files)
                        else:
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

    @contextmanager
    def keeping(self, *, waiting: bool = True) -> Iterator[Operation | None]:
        """Make the ``operation`` ready. A context manager, which yields None if there is none or
        the disk is full.

        Enter it before taking the home's lock: a restore holds the operation, and waits for the
        lock.

        Args:
            waiting: See `Operation.writing`.

        Raises:
            Busy: Other sessions hold it for too long.
            CommandError: It cannot be made.
        """
        with ExitStack() as held:
            operation = self.operation
            if operation is not None:
                try:
                    held.enter_context(operation.writing(waiting=waiting))
                except NoSpace:
                    operation = None
            yield operation

    def _move(
        self,
        source_dir: int,
        source: bytes,
        target_dir: int,
        path: Parts,
        replace: bool,
        operation: Operation | None,
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
        if operation is not None and operation.keep_replaced:
            item = operation.item("replaced", path, after=state_of(info))
            try:
                operation.announce([item])
                if self._move_onto(source_dir, source, target_dir, target, operation, item):
                    return Tally(files=1, size=counted_size(there), trashed=True)
            except NoSpace:
                pass
        size = self._move_over(source_dir, source, target_dir, target, there)
        return Tally(files=1, size=size)

    def _move_onto(
        self,
        source_dir: int,
        source: bytes,
        target_dir: int,
        target: bytes,
        operation: Operation,
        item: Item,
    ) -> bool:
        """Replace a file in one step, and keep it in the trash.

        It is linked into the trash first. So a crash never leaves the target without a file, and
        never loses the old one.

        Returns:
            False if a second link cannot be made; nothing was done.
        """
        try:
            operation.link(target_dir, target, item)
        except OSError:  # hard links are not supported, or it is another file system
            return False
        try:
            operation.sync()
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        except BaseException:
            operation.unlink(item)
            raise
        return True

    def _move_to_itself(
        self, source_dir: int, source: bytes, target_dir: int, target: bytes
    ) -> Tally:
        """Move something to a name that it has already, for which rename(2) does nothing.

        If source and target are two hard links of one file, the source is removed, as mv(1) does. A
        crash during a move without RENAME_NOREPLACE can leave these two links; repeating the
        command then completes it. If the names differ only in case, on a file system that ignores
        case, the new spelling is applied.
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
        """Replace a file in one step; return its bytes, measured after it was replaced.

        Exchanging the two names and removing what came out would be two steps: a crash between
        them would leave the two files swapped.
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
        except OSError:  # no hard links: holding the lock alone keeps other sessions from it
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
            return counted_size(there)
        try:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        except BaseException:
            os.unlink(replaced, dir_fd=self.staging_fd)
            raise
        return self.drop_staged(replaced)

    def check_move(self, source: bytes, target: bytes, *, replace: bool) -> None:
        """Raise what `move` would raise in the current state. Nothing is changed."""
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
        """Raise if something in state ``info`` may not replace what exists at ``path``."""
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


def _note_move(
    operation: Operation, source: Parts, target_dir: int, target: Parts, number: int
) -> None:
    """Record where something was moved, so that it can be moved back. Not synced: nothing is lost
    without the record."""
    info = os.stat(target[-1], dir_fd=target_dir, follow_symlinks=False)
    item = operation.item("moved", source, target=target, after=state_of(info), number=number)
    operation.note(item)


def _movable(source: bytes, target: bytes) -> tuple[Parts, Parts]:
    found = []
    for path in (source, target):
        parts = paths.split(path)
        if not parts:
            raise InvalidPath("/: the home itself cannot be moved or replaced", path=path)
        found.append(parts)
    return found[0], found[1]


@contextmanager
def _about(path: bytes) -> Iterator[None]:
    """Make file-system errors name this path, not the first one of the request."""
    try:
        yield
    except OSError as error:
        raise from_oserror(error, paths.show(path), path) from None


@contextmanager
def _not_into_itself(source: bytes) -> Iterator[None]:
    """Report EINVAL of rename(2) by its meaning: the target is below the directory to be moved."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        text = f"{paths.show(source)}: cannot be moved into itself"
        raise InvalidPath(text, path=source) from None
