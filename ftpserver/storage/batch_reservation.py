"""Quota for the files, directories and links of a batch, reserved in steps before it is needed.

Lives here: how much a change needs, the lease that small files share, what is left of it.
Lives elsewhere: the account's quota (ledger.py), what the batch does with it (batch.py).

A database statement for each small file would cost more than the file. So small files share a
lease, which grows in whole steps while plenty of quota is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ftpserver.storage.home import Home
from ftpserver.storage.quota import Lease, LeaseStore
from ftpserver.storage.staging_dirs import StagingDirs
from ftpwire import paths
from ftpwire.errors import CommandError, QuotaExceeded
from ftpwire.messages import MakeDir, MakeLink
from ftpwire.paths import Parts


class Wanted(NamedTuple):
    """Names that a request adds to a directory.

    Attributes:
        names: The number of names.
        is_made: True if the directory itself is made too.
        with_parents: True if its missing parents are made too.
    """

    directory: Parts
    names: int
    is_made: bool
    with_parents: bool


class BatchReservation:
    """The quota held by one session's batches, one batch after another. For one thread.

    Args:
        staging_dirs: The directories that are known to exist.
        finish_batch: Commits the open batch, which returns the quota that it holds and doesn't
            need.

    Attributes:
        leases: The leases that the batch's files hold. A large file has a lease of its own.
        is_durable: True if all of these survive a power cut.
    """

    def __init__(
        self,
        home: Home,
        ledger: LeaseStore,
        account_id: int,
        staging_dirs: StagingDirs,
        finish_batch: Callable[[], None],
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._account_id = account_id
        self._staging_dirs = staging_dirs
        self._finish_batch = finish_batch
        self._begin()

    def _begin(self) -> None:
        self.leases: list[Lease] = []
        self._step: Lease | None = None
        """The one of ``leases`` that small files share."""
        self._unused = 0
        """Bytes of the step that no staged file has taken yet."""
        self._unused_files = 0
        """Files, directories and links of the step that nothing in the batch has taken yet."""
        self.is_durable = True
        self._directories: set[Parts] = set()
        """The directories that the batch is going to make."""

    def hand_over(self) -> list[Lease]:
        """Return the leases, for the caller to settle or release, and start an empty batch."""
        leases = self.leases
        self._begin()
        return leases

    def take(self, size: int, target: Parts | None, parents: bool = False) -> None:
        """Take quota for something small from the step, or enlarge the step.

        Args:
            target: The path that it adds; None if it adds none.
            parents: True if missing parent directories are made.

        Raises:
            QuotaExceeded: There is too little, even after the open batch was committed.
        """
        files = 0 if target is None else self.new_names(target, parents)
        if self._step is not None and self._unused >= size and self._unused_files >= files:
            self._unused -= size
            self._unused_files -= files
            return
        try:
            self._extend(size, files)
        except QuotaExceeded:
            self._finish_batch()
            if target is not None:
                files = self.new_names(target, parents, exactly=True)
            self._extend(size, files)

    def take_together(self, size: int, wanted: Sequence[Wanted]) -> bool:
        """Take quota for many small files at once.

        Args:
            size: The bytes of all files.

        Returns:
            False if there isn't enough for all of them, or the store cannot be used: then each file
            takes its own.
        """
        files, making = 0, set[Parts]()
        for one in wanted:
            files += one.names
            above = one.directory
            if one.is_made:
                files += 1
                making.add(above)
                above = above[:-1]
            while one.with_parents and above and not self._is_known(above) and above not in making:
                if self._exists(above):
                    break
                files += 1
                making.add(above)
                above = above[:-1]
        try:
            if self._step is None or self._unused < size or self._unused_files < files:
                self._extend(size, files)
            else:
                self._unused -= size
                self._unused_files -= files
        except CommandError:
            return False
        self._directories |= making
        return True

    def will_make(self, directory: Parts) -> None:
        """Note that quota for a directory was taken, and that entries may be added to it."""
        self._directories.add(directory)

    def make_durable(self) -> None:
        """Make the leases survive a power cut before the commit does that.

        Needed when something is about to be left where a start looks for leftovers only if a lease
        says so.
        """
        if not self.is_durable:
            self._ledger.make_durable()
            self.is_durable = True

    def take_names(self, change: MakeDir | MakeLink) -> None:
        """Take quota for the name that a change adds."""
        try:
            target = self._home.redirected(paths.split(change.path))
        except CommandError:
            return  # the commit reports the invalid path
        if isinstance(change, MakeDir):
            self.take(0, target, change.parents)
            self.will_make(target)
        else:
            self.take(len(change.target), target)

    def _extend(self, size: int, files: int) -> None:
        step = self._step
        if step is None:
            step = self._step = self._ledger.reserve_step(self._account_id, size, files)
            self.is_durable = False
            self.leases.append(step)
            self._unused = step.size - size
            self._unused_files = step.files - files
            return
        before, files_before = step.size, step.files
        self._ledger.extend(step, max(0, size - self._unused), max(0, files - self._unused_files))
        self._unused += step.size - before - size
        self._unused_files += step.files - files_before - files

    def reserve(self, size: int, files: int) -> Lease:
        """Reserve exactly this much for one large file, with a lease of its own.

        The caller adds it to ``leases`` once the file is staged.
        """
        try:
            return self._ledger.reserve(self._account_id, size, files=files)
        except QuotaExceeded:
            if not self.leases:
                raise
        self._finish_batch()
        return self._ledger.reserve(self._account_id, size, files=files)

    def give_back(self, lease: Lease | None, size: int) -> None:
        """Return the quota of an upload that failed.

        Args:
            lease: The upload's own lease; None if it took ``size`` bytes of the step.
        """
        if lease is None:
            self._unused += size
        else:
            self._ledger.release(lease)

    def new_names(self, target: Parts, parents: bool, *, exactly: bool = False) -> int:
        """Count the names that a change adds: its own, and with ``parents`` the missing parents.

        Args:
            exactly: True to look whether the target exists, and not to count it then. False is
                faster: quota taken in excess comes back when the batch's lease is settled.
        """
        count = 1
        if exactly and self._exists(target):
            count = 0
        above = target[:-1]
        while parents and above and not self._is_known(above):
            if self._exists(above):
                break
            count += 1
            above = above[:-1]
        return count

    def _is_known(self, directory: Parts) -> bool:
        """Return whether a directory has been seen, or is going to be made by this batch."""
        return directory in self._directories or directory in self._staging_dirs.seen

    def _exists(self, parts: Parts) -> bool:
        try:
            self._home.stat(parts, follow=False)
        except OSError:
            return False
        except CommandError:  # a link leads to where other permissions apply. The commit reports
            return True  # that, unless another change of the batch replaces the link first
        return True
