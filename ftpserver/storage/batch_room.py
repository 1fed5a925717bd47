"""Room for the files, directories and links of a batch, taken in steps before it is needed.

Lives here: how much a change needs, what small ones share, what is left of it.
Lives elsewhere: the account's room (ledger.py), what the batch does with it (batch.py).

A statement for each small file would cost more than the file. So small ones share a lease, which
is made larger in whole steps where there is plenty of room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ftpserver.storage.home import Home
from ftpserver.storage.places import Places
from ftpserver.storage.quota import Lease, QuotaStore
from ftpwire import paths
from ftpwire.errors import CommandError, QuotaExceeded
from ftpwire.messages import MakeDir, MakeLink
from ftpwire.paths import Parts


class Wanted(NamedTuple):
    """Names that are to be added to a directory.

    Attributes:
        names: How many.
        is_made: The directory itself is made.
        with_parents: The missing ones above it as well.
    """

    directory: Parts
    names: int
    is_made: bool
    with_parents: bool


class BatchRoom:
    """What one session's batch holds: for one batch after another. One thread.

    Args:
        places: Knows directories that are there.
        finish_batch: Commits what there is, which gives back what it holds and doesn't need.

    Attributes:
        leases: What the batch's files hold; those of large ones are their own.
        is_durable: Whether all of these survive a power cut.
    """

    def __init__(
        self,
        home: Home,
        ledger: QuotaStore,
        account_id: int,
        places: Places,
        finish_batch: Callable[[], None],
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._account_id = account_id
        self._places = places
        self._finish_batch = finish_batch
        self._begin()

    def _begin(self) -> None:
        self.leases: list[Lease] = []
        self._step: Lease | None = None
        """The one of them that small files share."""
        self._unused = 0
        """Of the step, what no staged file has taken yet, in bytes."""
        self._unused_files = 0
        """Of the step, what nothing in the batch has taken yet, in files, directories and links."""
        self.is_durable = True
        self._directories: set[Parts] = set()
        """Those that the batch is going to make."""

    def hand_over(self) -> list[Lease]:
        """What the batch holds, which is settled or released now; the next batch begins."""
        leases = self.leases
        self._begin()
        return leases

    def take(self, size: int, target: Parts | None, parents: bool = False) -> None:
        """Take room for something small from the step, or make that larger.

        Args:
            target: The name that it adds; None for none.
            parents: Its missing parent directories are made.

        Raises:
            QuotaExceeded: There is none, even after the batch was committed.
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
        """Take room for many small files at once; False where there isn't enough for all of them,
        or it can't be asked: each tries it by itself then.

        Args:
            size: Their bytes.
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
        """Room for a directory was taken: what is in it finds it there."""
        self._directories.add(directory)

    def make_durable(self) -> None:
        """Have what is held survive a power cut, before the commit does that: something is left
        where no start looks for it unless a lease says so."""
        if not self.is_durable:
            self._ledger.make_durable()
            self.is_durable = True

    def take_names(self, change: MakeDir | MakeLink) -> None:
        """Take room for what a change makes."""
        try:
            target = self._home.network_of(paths.split(change.path))
        except CommandError:
            return  # the commit refuses it
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
        """Room for one large file, exactly: its own, until it is added to ``leases``."""
        try:
            return self._ledger.reserve(self._account_id, size, files=files)
        except QuotaExceeded:
            if not self.leases:
                raise
        self._finish_batch()
        return self._ledger.reserve(self._account_id, size, files=files)

    def give_back(self, lease: Lease | None, size: int) -> None:
        """Of an upload that failed: its own lease, or, without, its bytes of the step."""
        if lease is None:
            self._unused += size
        else:
            self._ledger.release(lease)

    def new_names(self, target: Parts, parents: bool, *, exactly: bool = False) -> int:
        """How many names a change adds: its own, and with ``parents`` the missing ones above.

        Args:
            exactly: Don't count its own where something is there already. Otherwise that is
                not looked for, and what was taken too much comes back with the batch's lease.
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
        """Whether it was there when it was looked at, or is going to be made."""
        return directory in self._directories or directory in self._places.seen

    def _exists(self, parts: Parts) -> bool:
        try:
            self._home.stat(parts, follow=False)
        except OSError:
            return False
        except CommandError:  # a link leads to where other rights hold: the commit says it, unless
            return True  # something else in the batch replaces that link
        return True
