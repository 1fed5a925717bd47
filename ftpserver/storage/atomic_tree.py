"""Atomic trees: a directory that is uploaded into staging and then appears as a whole, in one step.

Lives here: the hidden tree of one session, its exchange with the target, its removal.
Lives elsewhere: what is put into it (batch.py and commit.py, which don't know about it: the home
redirects their paths to it), the client's side (ftpclient/client.py).
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpserver.storage.commit import lstat, target_of
from ftpserver.storage.file_systems import Beside, Nature, can_be_moved, leave_beside
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.permissions import Action
from ftpserver.storage.put_back import forget_note, write_note
from ftpserver.storage.quota import LeaseStore
from ftpserver.storage.staging import MODE_BITS
from ftpserver.storage.trash.index import Item, What
from ftpserver.storage.trash.operation import NoSpace, Operation, state_of
from ftpserver.storage.walk import counted_size, open_closed
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, CommandError, NotAtomic
from ftpwire.paths import Parts

_SHOWN_STAGING = paths.show(paths.join(paths.STAGING))

logger = logging.getLogger("ftpd.trees")


class AtomicTree:
    """An upload of a whole directory to ``path``: whatever is put at or below it goes to staging.

    Its files count as used from the start, and so does what it replaces until that is gone. The
    lease says that the account has to be recounted if the server dies before the end.

    Args:
        mode: The mode that its directory is made with. The final mode is set later, if possible.
        elsewhere: True to put the tree under the reserved name beside its target, and to replace
            nothing, if the path is on another file system than the home. Otherwise such a path is
            refused: what exists there couldn't be replaced in one step.

    Raises:
        NotFound and other OSError: The parent directory doesn't exist or cannot be opened.
        InvalidPath: The tree couldn't replace what exists there in one step.

    Attributes:
        target: The path at which it is to appear.
        fresh: After the commit: how many files and links of what it replaced had been stored or
            changed since the tree was begun, and are not in the trash.
        trashed: True if what it replaced is in the trash.
        is_lost: True if what it replaced should be in the trash but was purged, because the
            trash has no space or cannot be written.
    """

    fresh = 0
    trashed = False
    is_lost = False

    def __init__(
        self,
        home: Home,
        ledger: LeaseStore,
        account_id: int,
        path: bytes,
        *,
        mode: int = 0o700,
        elsewhere: bool = False,
    ) -> None:
        self.target = target_of(path)
        self._home = home
        self._ledger = ledger
        self._elsewhere = elsewhere
        self._note: bytes | None = None
        self._trash = (0, 0)
        """Bytes and files of what it replaced that are now in the trash, as far as known."""
        self._mode: int | None = None
        """The mode of what it replaces, if that had to be changed to move it."""
        self._replaces: os.stat_result | None = None
        """The state of what existed at the target when the tree was begun."""
        self._name = home.new_name()
        self._staging = home.staging_fd
        directory, name = home.tree.parent(self.target)
        try:
            nature = home.nature_of(directory)
            self._check(directory, name, nature)
            self._lease = ledger.reserve(account_id, 0, files=1)  # one file: the tree's directory
            try:
                self._make(directory, nature, mode & MODE_BITS | 0o700)
            except BaseException:
                ledger.release(self._lease)
                raise
        finally:
            os.close(directory)

    def _check(self, directory: int, name: bytes, nature: Nature) -> None:
        """Raise if a tree cannot be put there in one step; what exists there isn't moved."""
        home = self._home
        there = self._replaces = lstat(directory, name)
        target = paths.join(*self.target)
        shown = paths.show(target)
        if there is not None:
            if self._elsewhere:
                raise AlreadyExists(f"{shown}: exists", path=target)
            self._require_replace()
        if self._elsewhere:
            return
        if nature.other:
            raise NotAtomic(
                f"{shown} is on another file system than {_SHOWN_STAGING}: a tree cannot be put "
                "there at once",
                path=target,
            )
        if there is not None and not can_be_moved(
            directory, name, home.staging_fd, home.new_name()
        ):
            raise NotAtomic(
                f"the file system of {shown} cannot move it to {_SHOWN_STAGING}: it cannot be "
                "replaced at once",
                path=target,
            )

    def _make(self, directory: int, nature: Nature, mode: int) -> None:
        """Make the tree's directory, with the group and the ACL that its parent will pass on."""
        home = self._home
        staged: Parts = (paths.STAGING, self._name)
        if nature.other or nature.inherits:
            name, beside = self._name, Beside(directory)
            try:
                beside.make(lambda fd: os.mkdir(name, mode, dir_fd=fd))
                if nature.other:
                    self._staging = os.dup(beside.fd)
                    staged = (*self.target[:-1], *staged)
                else:
                    os.rename(name, name, src_dir_fd=beside.fd, dst_dir_fd=home.staging_fd)
            finally:
                beside.close()
        else:
            os.mkdir(self._name, mode, dir_fd=home.staging_fd)
        info = os.stat(self._name, dir_fd=self._staging, follow_symlinks=False)
        self._begun_ns = info.st_ctime_ns  # by the clock of the file system, which stamps files
        home.redirect(self.target, staged)

    def refuse_to_move(self, source: bytes, target: bytes) -> None:
        """Raise if something, links resolved, may not be moved until the tree has ended.

        A move goes to what exists now, not to staging. What exists at or below the tree's target is
        removed at the end, and something moved there would be removed with it.
        """
        self.refuse_to_take(source)
        parts = paths.split(target)
        if parts[: len(self.target)] == self.target or self._is_replaced(parts):
            raise CommandError(
                f"{paths.show(target)}: nothing can be moved there during the atomic upload to "
                f"{paths.show(paths.join(*self.target))}",
                path=target,
            )

    def refuse_to_take(self, path: bytes) -> None:
        """Raise if ``path`` may not be moved or removed because the tree's target is in it."""
        parts, home = paths.split(path), self._home
        if not parts:
            return  # the home itself cannot be moved or removed in any case
        try:
            if not stat.S_ISDIR(home.stat(parts, follow=False).st_mode):
                return
            taken = home.is_inside(self.target[:-1], parts)
        except OSError:
            return  # the request itself fails in the same way
        if taken:
            raise CommandError(
                f"{paths.show(path)}: contains {paths.show(paths.join(*self.target))}, the target "
                "of a running atomic upload",
                path=path,
            )

    def _is_replaced(self, parts: Parts) -> bool:
        """Return whether a path leads, by links, to what the tree replaces or into it."""
        home = self._home
        try:
            parent = home.stat(parts[:-1], follow=True)
            mine = home.stat(self.target[:-1], follow=True)
            if os.path.samestat(parent, mine) and parts[-1:] == self.target[-1:]:
                return True
            there = home.stat(self.target, follow=False)
            return stat.S_ISDIR(there.st_mode) and home.is_inside(parts[:-1], self.target)
        except OSError:
            return False

    def commit(self, tick: Callable[[], None]) -> None:
        """Exchange the tree with whatever exists at its target, in one step; then remove that, or
        put it into the trash.

        Args:
            tick: Called now and then during the removal.

        Raises:
            OSError: Nothing was changed; or the tree is in place, but may not be durable.
        """
        home = self._home
        if home.durable:
            self._sync()
        with self._keeping() as operation, home.alone():
            item = self._announce(operation)
            directory, name = home.tree.parent(self.target)
            try:
                old = lstat(directory, name)
                replaced = self._swap(directory, name)
                try:
                    home.sync_dir(directory)
                finally:  # also after a failed sync: otherwise it would be removed below
                    if replaced and operation is not None and item is not None:
                        self._put_into_trash(operation, item)
                home.sync_dir(home.staging_fd)
                if self._note is not None:
                    forget_note(home, self._note)
                    self._note = None
                if self.trashed:  # the tree's own directory counts from now on
                    home.redirect(None)
                    self._settle(0, -1)
                    return
            finally:
                os.close(directory)
        # The tree is in place. What fails from here on is corrected by a recount.
        home.redirect(None)
        self.is_lost = replaced and self._is_kept(old)
        tally = Tally(directories=-1)  # the tree's own directory, which counts from now on
        if old is not None and stat.S_ISDIR(old.st_mode):
            before = self._replaces
            is_same = before is not None and os.path.samestat(old, before)
            tally.since_ns = self._begun_ns if is_same else 0  # 0: all of it is fresh
        elif old is not None:  # its ctime from before the exchange, which has changed that
            self.fresh = int(old.st_ctime_ns >= self._begun_ns)
        with home.settled(tally, self._settle):
            try:
                if replaced:
                    self._discard(tally, tick)
            except OSError as error:
                logger.error("what an atomic upload replaced could not be removed: %s", error)
            self.fresh += tally.fresh
            self._leave()

    @contextmanager
    def _keeping(self) -> Iterator[Operation | None]:
        """Make the operation ready that receives what is replaced, if anything exists there."""
        home = self._home
        try:
            there = home.stat(self.target, follow=False)
        except OSError:
            there = None
        if not self._is_kept(there):
            yield None
            return
        with home.keeping() as ready:
            yield ready

    def _is_kept(self, there: os.stat_result | None) -> bool:
        """Return whether something in this state should go to the trash when it is replaced."""
        operation = self._home.operation
        if operation is None or self._elsewhere or there is None:
            return False
        return stat.S_ISDIR(there.st_mode) or operation.keep_replaced

    def _announce(self, operation: Operation | None) -> Item | None:
        """Record in the trash's index what is going to be replaced, before that happens."""
        try:
            there = self._home.stat(self.target, follow=False)
        except OSError:
            return None
        if operation is None:
            return None
        what: What = "tree" if stat.S_ISDIR(there.st_mode) else "replaced"
        after = state_of(os.stat(self._name, dir_fd=self._staging, follow_symlinks=False))
        item = operation.item(what, self.target, after=after)
        try:
            operation.announce([item])
        except NoSpace:
            return None
        return item

    def _put_into_trash(self, operation: Operation, item: Item) -> None:
        """Rename what was replaced into the trash. If that fails, it stays in staging."""
        try:
            info = operation.take(self._staging, self._name, item)
        except (NoSpace, OSError) as error:
            reason = str(error) or "no space"
            logger.error("what an atomic upload replaced cannot be put into the trash: %s", reason)
            return
        self.trashed = True
        if not stat.S_ISDIR(info.st_mode):  # the contents of a tree are measured later
            self._trash = (counted_size(info), 1)
        try:
            operation.sync()
        except OSError as error:  # the new tree is in place in any case
            logger.error("the trash of what an atomic upload replaced cannot be synced: %s", error)

    def _sync(self) -> None:
        """Sync the tree's directories. Its files were synced when they were committed."""
        fd = self._home.tree.open_dir(self.target[:-1] if self._elsewhere else ())
        try:
            beneath.sync_file_system(fd)
        except beneath.Unsupported:
            os.sync()
        finally:
            os.close(fd)

    def _swap(self, directory: int, name: bytes) -> bool:
        try:
            return self._exchange(directory, name)
        except PermissionError:
            pass
        # renaming a directory rewrites its "..", which its own mode may forbid
        opened = [open_closed(self._staging, self._name)]
        try:
            there = lstat(directory, name)
            if there is not None and stat.S_ISDIR(there.st_mode):
                opened.append(open_closed(directory, name))
                self._mode = opened[-1][1]
            return self._exchange(directory, name)
        finally:
            for fd, mode in opened:
                os.chmod(fd, mode)
                self._home.sync_dir(fd)
                os.close(fd)

    def _exchange(self, directory: int, name: bytes) -> bool:
        staging = self._staging
        try:
            beneath.rename_new(staging, self._name, directory, name)
            return False
        except FileExistsError:
            if self._elsewhere:
                raise
            self._require_replace()
        try:
            beneath.exchange(staging, self._name, directory, name)
        except beneath.Unsupported:
            self._swap_in_two(directory, name)
        return True

    def _require_replace(self) -> None:
        """Raise Forbidden unless all of what exists there may be replaced: no rule for a part of it
        may forbid that."""
        self._home.require(Action.REPLACE, self.target, whole=True)

    def _swap_in_two(self, directory: int, name: bytes) -> None:
        """Replace the old tree in two renames, where two names cannot be exchanged.

        In between, nothing exists at the target. A note on the disk says so beforehand. Without it,
        a crash in that moment would lose both trees, because the clean-up at the next start removes
        everything in staging that has no owner.
        """
        home, staging = self._home, self._staging
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        aside = home.new_name()
        mode = there.st_mode if self._mode is None else self._mode
        note = write_note(home, self.target, aside, mode)
        try:
            os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=staging)
            try:
                os.rename(self._name, name, src_dir_fd=staging, dst_dir_fd=directory)
            except BaseException:
                os.rename(aside, name, src_dir_fd=staging, dst_dir_fd=directory)
                raise
        except BaseException:
            if lstat(staging, aside) is None:  # else the note is needed: the clean-up puts it back
                forget_note(home, note)
            raise
        self._name, self._note = aside, note

    def abort(self, tick: Callable[[], None]) -> None:
        """Remove the tree. What exists at its target stays."""
        self._home.redirect(None)
        tally = Tally(directories=-1)  # the tree's own directory, which never counted as used
        with self._home.settled(tally, self._settle):
            try:
                self._discard(tally, tick)
            finally:
                self._leave()

    def _settle(self, freed: int, files: int, trash: int = 0, trash_files: int = 0) -> None:
        trash, trash_files = trash + self._trash[0], trash_files + self._trash[1]
        self._ledger.settle([self._lease], -freed, -files, trash, trash_files)

    def _discard(self, tally: Tally, tick: Callable[[], None]) -> None:
        try:
            info = os.stat(self._name, dir_fd=self._staging, follow_symlinks=False)
        except FileNotFoundError:
            return  # it was renamed to a free target, and syncing that failed
        if stat.S_ISDIR(info.st_mode):
            elsewhere = [self._staging] if self._elsewhere else []
            self._home.discard_tree(self._name, tally, tick, *elsewhere)
        else:
            tally.count(info)
            self._home.drop_staged(self._name, self._staging)

    def _leave(self) -> None:
        """Close and remove the staging directory beside the target. Can be called twice."""
        if self._staging == self._home.staging_fd:
            return
        os.close(self._staging)
        self._staging = self._home.staging_fd
        try:
            directory = self._home.tree.open_dir(self.target[:-1])
        except OSError:
            return  # the directory was removed, and staging with it
        try:
            leave_beside(directory)
        finally:
            os.close(directory)
