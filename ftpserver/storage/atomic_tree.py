"""Atomic trees: a directory that is uploaded aside and then appears, all of it at once.

Lives here: the hidden tree of one session, its swap into place, its end without one.
Lives elsewhere: what is put into it (batch.py, commit.py, which know nothing of it: the home
leads their paths there), the client's side (ftpclient/client.py).
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable

from ftpserver.storage.commit import lstat, target_of
from ftpserver.storage.home import Home, Tally
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import Books
from ftpserver.storage.walk import open_closed
from ftpwire import beneath

logger = logging.getLogger("ftpd.trees")


class AtomicTree:
    """A directory under way to ``path``: everything put at or below that goes to it meanwhile.

    Its files count as used from the start, and what it replaces does until it is gone. The
    lease says that the account has to be recounted if the server dies before the end.

    Raises:
        NotFound and other OSError: The parent directory isn't there.
    """

    def __init__(self, home: Home, ledger: Books, account_id: int, path: bytes) -> None:
        self.target = target_of(path)
        self._home = home
        self._ledger = ledger
        directory, name = home.tree.parent(self.target)
        try:
            if lstat(directory, name) is not None:
                self._require_replace()
        finally:
            os.close(directory)
        self._lease = ledger.reserve(account_id, 0, files=1)  # its own directory
        self._name = home.new_name()
        os.mkdir(self._name, 0o700, dir_fd=home.staging_fd)
        home.redirect(self.target, self._name)

    def commit(self, tick: Callable[[], None]) -> None:
        """Put the tree in the place of whatever is there, at once; then remove that.

        Raises:
            OSError: Nothing was changed; or it is there, but can't be called durable.
        """
        home = self._home
        if home.durable:
            _sync(home)
        with home.alone():
            directory, name = home.tree.parent(self.target)
            try:
                replaced = self._swap(directory, name)
                home.sync_dir(directory)
                home.sync_dir(home.staging_fd)
            finally:
                os.close(directory)
        # from here on it is done: what still goes wrong is put right by a recount
        home.redirect(None, b"")
        tally = Tally(directories=-1)  # its own, which counts now
        with home.settled(tally, self._settle):
            try:
                if replaced:
                    self._discard(tally, tick)
            except OSError as error:
                logger.error("what a tree replaced could not be removed: %s", error)

    def _swap(self, directory: int, name: bytes) -> bool:
        try:
            return self._exchange(directory, name)
        except PermissionError:
            pass
        # moving a directory rewrites its "..", which its own mode may forbid
        opened = [open_closed(self._home.staging_fd, self._name)]
        try:
            there = lstat(directory, name)
            if there is not None and stat.S_ISDIR(there.st_mode):
                opened.append(open_closed(directory, name))
            return self._exchange(directory, name)
        finally:
            for fd, mode in opened:
                os.chmod(fd, mode)
                self._home.sync_dir(fd)
                os.close(fd)

    def _exchange(self, directory: int, name: bytes) -> bool:
        staging = self._home.staging_fd
        try:
            beneath.rename_new(staging, self._name, directory, name)
            return False
        except FileExistsError:
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
        """Where two names can't be exchanged: the old tree is away for a moment."""
        staging = self._home.staging_fd
        aside = self._home.new_name()
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=staging)
        try:
            os.rename(self._name, name, src_dir_fd=staging, dst_dir_fd=directory)
        except BaseException:
            os.rename(aside, name, src_dir_fd=staging, dst_dir_fd=directory)
            raise
        self._name = aside

    def abort(self, tick: Callable[[], None]) -> None:
        """Remove the tree: what was there stays."""
        self._home.redirect(None, b"")
        tally = Tally(directories=-1)  # its own, which never counted
        with self._home.settled(tally, self._settle):
            self._discard(tally, tick)

    def _settle(self, freed: int, files: int) -> None:
        self._ledger.settle([self._lease], -freed, -files)

    def _discard(self, tally: Tally, tick: Callable[[], None]) -> None:
        try:
            info = os.stat(self._name, dir_fd=self._home.staging_fd, follow_symlinks=False)
        except FileNotFoundError:
            return  # it has its place already, where nothing was: syncing that failed
        if stat.S_ISDIR(info.st_mode):
            self._home.discard_tree(self._name, tally, tick)
        else:
            tally.size += self._home.drop_staged(self._name)
            tally.files += 1


def _sync(home: Home) -> None:
    """Files were synced as they were committed; this makes sure of their directories."""
    try:
        beneath.sync_file_system(home.fd)
    except beneath.Unsupported:
        os.sync()
