"""Atomic trees: a directory that is uploaded aside and then appears, all of it at once.

Lives here: the hidden tree of one session, its swap into place, its end without one.
Lives elsewhere: what is put into it (batch.py, commit.py, which know nothing of it: the home
leads their paths there), the client's side (ftpclient/client.py).
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
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.staging import MODE_BITS
from ftpserver.storage.trash.index import Item, What
from ftpserver.storage.trash.operation import NoRoom, Operation, state_of
from ftpserver.storage.walk import counted_size, open_closed
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, CommandError, InvalidPath
from ftpwire.paths import Parts

_SHOWN_STAGING = paths.show(paths.join(paths.STAGING))

logger = logging.getLogger("ftpd.trees")


class AtomicTree:
    """A directory under way to ``path``: everything put at or below that goes to it meanwhile.

    Its files count as used from the start, and what it replaces does until it is gone. The
    lease says that the account has to be recounted if the server dies before the end.

    Args:
        mode: What its directory is made with. Its last one is set later, where that can be done.
        elsewhere: Where the path lies on another file system than the home, have the tree under
            the reserved name beside it, and replace nothing. Otherwise that is refused: what is
            there couldn't be replaced at once.

    Raises:
        NotFound and other OSError: The parent directory isn't there.
        InvalidPath: It couldn't be put in the place of what is there at once.

    Attributes:
        target: Where it is to appear.
        fresh: Once it is there: how many files and links went with what it replaced, although they
            had been stored or changed since the tree was begun, unless these are in the trash.
        trashed: What it replaced is in the trash.
        is_lost: What it replaced should be there, and is gone for good: the trash has no room, or
            can't be written to.
    """

    fresh = 0
    trashed = False
    is_lost = False

    def __init__(
        self,
        home: Home,
        ledger: QuotaStore,
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
        """What of that came into the trash, and is known: bytes, and files."""
        self._mode: int | None = None
        """Of what is there, if that had to be changed to move it."""
        self._replaces: os.stat_result | None = None
        """What is there when it is begun."""
        self._name = home.new_name()
        self._staging = home.staging_fd
        directory, name = home.tree.parent(self.target)
        try:
            nature = home.nature_of(directory)
            self._check(directory, name, nature)
            self._lease = ledger.reserve(account_id, 0, files=1)  # its own directory
            try:
                self._make(directory, nature, mode & MODE_BITS | 0o700)
            except BaseException:
                ledger.release(self._lease)
                raise
        finally:
            os.close(directory)

    def _check(self, directory: int, name: bytes, nature: Nature) -> None:
        """Raise what forbids to put a tree there at once, without moving what is there."""
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
            raise InvalidPath(
                f"{shown} lies on another file system than {_SHOWN_STAGING}: a tree can't be put "
                "there at once",
                path=target,
            )
        if there is not None and not can_be_moved(
            directory, name, home.staging_fd, home.new_name()
        ):
            raise InvalidPath(
                f"{shown} can't be moved to {_SHOWN_STAGING} by its file system: it can't be "
                "replaced at once",
                path=target,
            )

    def _make(self, directory: int, nature: Nature, mode: int) -> None:
        """Make its directory: where it gets the group and the ACL of that which it goes to."""
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
        self._begun_ns = info.st_ctime_ns  # by the clock that stamps what is stored
        home.redirect(self.target, staged)

    def refuse_to_move(self, source: bytes, target: bytes) -> None:
        """Raise what forbids to move something, links resolved, until the tree has ended.

        A move goes to what is there. At or below the tree's path that is removed at the end, and
        what was moved would be with it.
        """
        self.refuse_to_take(source)
        parts = paths.split(target)
        if parts[: len(self.target)] == self.target or self._is_replaced(parts):
            raise CommandError(
                f"{paths.show(target)}: nothing can be moved there while a tree is on its way to "
                f"{paths.show(paths.join(*self.target))}",
                path=target,
            )

    def refuse_to_take(self, path: bytes) -> None:
        """Raise what forbids to move or remove ``path``, because the tree is to appear in it."""
        parts, home = paths.split(path), self._home
        if not parts:
            return  # the home itself can't be moved or removed in any case
        try:
            if not stat.S_ISDIR(home.stat(parts, follow=False).st_mode):
                return
            taken = home.is_inside(self.target[:-1], parts)
        except OSError:
            return  # what is asked for fails in the same way
        if taken:
            raise CommandError(
                f"{paths.show(path)}: a tree is on its way to "
                f"{paths.show(paths.join(*self.target))}, which is in it",
                path=path,
            )

    def _is_replaced(self, parts: Parts) -> bool:
        """Whether a path leads by links to what the tree replaces, or to something in that."""
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
        """Put the tree in the place of whatever is there, at once; then remove that, or put it
        into the trash.

        Raises:
            OSError: Nothing was changed; or it is there, but can't be called durable.
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
                finally:  # also where that failed, or it would be removed
                    if replaced and operation is not None and item is not None:
                        self._put_into_trash(operation, item)
                home.sync_dir(home.staging_fd)
                if self._note is not None:
                    forget_note(home, self._note)
                    self._note = None
                if self.trashed:  # its own directory counts now
                    home.redirect(None)
                    self._settle(0, -1)
                    return
            finally:
                os.close(directory)
        # from here on it is done: what still goes wrong is put right by a recount
        home.redirect(None)
        self.is_lost = replaced and self._is_kept(old)
        tally = Tally(directories=-1)  # its own, which counts now
        if old is not None and stat.S_ISDIR(old.st_mode):
            before = self._replaces
            is_same = before is not None and os.path.samestat(old, before)
            tally.since_ns = self._begun_ns if is_same else 0  # else all of it has come
        elif old is not None:  # a file's own time became another one with its name
            self.fresh = int(old.st_ctime_ns >= self._begun_ns)
        with home.settled(tally, self._settle):
            try:
                if replaced:
                    self._discard(tally, tick)
            except OSError as error:
                logger.error("what a tree replaced could not be removed: %s", error)
            self.fresh += tally.fresh
            self._leave()

    @contextmanager
    def _keeping(self) -> Iterator[Operation | None]:
        """Where what is replaced goes. Nothing is made where nothing is there."""
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
        """Whether something in that state is kept when it is replaced, as far as that can be."""
        operation = self._home.operation
        if operation is None or self._elsewhere or there is None:
            return False
        return stat.S_ISDIR(there.st_mode) or operation.keep_replaced

    def _announce(self, operation: Operation | None) -> Item | None:
        """Write down what is going to be replaced, as long as nothing is."""
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
        except NoRoom:
            return None
        return item

    def _put_into_trash(self, operation: Operation, item: Item) -> None:
        """Rename what came out of the swap into the trash. Where that fails it stays in staging."""
        try:
            info = operation.take(self._staging, self._name, item)
        except (NoRoom, OSError) as error:
            logger.error("what a tree replaced can't be put into the trash: %s", error or "no room")
            return
        self.trashed = True
        if not stat.S_ISDIR(info.st_mode):  # what is in a tree is counted later
            self._trash = (counted_size(info), 1)
        try:
            operation.sync()
        except OSError as error:  # the new tree is there in any case
            logger.error("what a tree replaced is in the trash, but can't be synced: %s", error)

    def _sync(self) -> None:
        """Files were synced as they were committed; this makes sure of their directories."""
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
        # moving a directory rewrites its "..", which its own mode may forbid
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
        """All of what is there goes away: no rule for a part of it may forbid that."""
        self._home.require(Action.REPLACE, self.target, whole=True)

    def _swap_in_two(self, directory: int, name: bytes) -> None:
        """Where two names can't be exchanged: the old tree is away for a moment.

        A note says so before it goes, or a crash in that moment would lose both trees: the
        clean-up at the next start takes all of staging that has no owner.
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
            if lstat(staging, aside) is None:  # else the next clean-up puts it back
                forget_note(home, note)
            raise
        self._name, self._note = aside, note

    def abort(self, tick: Callable[[], None]) -> None:
        """Remove the tree: what was there stays."""
        self._home.redirect(None)
        tally = Tally(directories=-1)  # its own, which never counted
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
            return  # it has its place already, where nothing was: syncing that failed
        if stat.S_ISDIR(info.st_mode):
            elsewhere = [self._staging] if self._elsewhere else []
            self._home.discard_tree(self._name, tally, tick, *elsewhere)
        else:
            tally.count(info)
            self._home.drop_staged(self._name, self._staging)

    def _leave(self) -> None:
        """Close the staging that isn't the home's, and remove its name. Can be called twice."""
        if self._staging == self._home.staging_fd:
            return
        os.close(self._staging)
        self._staging = self._home.staging_fd
        try:
            directory = self._home.tree.open_dir(self.target[:-1])
        except OSError:
            return  # it has gone, and the name with it
        try:
            leave_beside(directory)
        finally:
            os.close(directory)
