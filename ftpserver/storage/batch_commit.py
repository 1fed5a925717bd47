"""The commit of one batch: its files and changes become durable and visible, or fail, in order.

Lives here: the contents of a batch, and the steps of its commit: syncing the staged files, marking
the leases, applying everything under the home's lock, settling.
Lives elsewhere: filling batches and when they are committed (batch.py), the renames and changes
(commit.py), quota (ledger.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

from ftpserver.errors import StateError
from ftpserver.storage.commit import Commit, Staged
from ftpserver.storage.file_run import Part
from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.home import Home
from ftpserver.storage.open_home import TURN_FILES
from ftpserver.storage.quota import NOT_NOW, Lease, LeaseStore, Settled
from ftpserver.storage.resumable import ResumableStaging, drop_kept, target_prefixes
from ftpserver.storage.staging_dirs import StagingDir, StagingDirs
from ftpserver.storage.trash.operation import NO_SPACE, Operation
from ftpwire import beneath, paths
from ftpwire.errors import CommandError, Internal, LeaseLost, from_oserror
from ftpwire.messages import (
    Done,
    Failed,
    MakeDir,
    MakeLink,
    Message,
    Remove,
    SetAttributes,
    Stored,
)
from ftpwire.paths import Parts

logger = logging.getLogger("ftpd.uploads")

_APPLIED = Done()
"""Stands for the outcome of a part of a `PutFiles`, which records its outcomes itself."""

Change = MakeDir | MakeLink | SetAttributes | Remove


@dataclass(slots=True)
class Pending:
    """A request of a batch: a change, a staged file, or one whose outcome is known already."""

    request_id: int
    path: bytes = b""
    change: Change | None = None
    staged: Staged | None = None
    outcome: Message | None = None
    part: Part | None = None
    """The part of a `PutFiles` that is in this batch."""


@dataclass
class Batch:
    """The requests that are committed together, in order, and the totals of their files."""

    pending: list[Pending] = field(default_factory=list)
    size: int = 0
    files: int = 0
    run_items: int = 0
    """The number of items of `PutFiles` requests, each of which is one entry of ``pending``."""
    leases: list[Lease] = field(default_factory=list)
    """The leases it holds once it is closed. While it is open, `BatchReservation` has them."""
    leases_are_durable: bool = True
    staging_dirs: list[StagingDir] = field(default_factory=list)
    """The directories where its files are staged."""
    makes_links: bool = False
    looks: bool = False
    """True if something is removed only if it is in the state that the client expects."""


class BatchCommit:
    """Commits the batches of one session. For one thread.

    Args:
        staging_dirs: The directories where the files of the batches are staged.
        syncs: Groups the syncs of the sessions of this process.
        on_remark: Called with each warning for the user. One may come several times.

    Attributes:
        settled: The account's state after the last commit; None if it is not known.
    """

    def __init__(
        self,
        home: Home,
        ledger: LeaseStore,
        account_id: int,
        staging_dirs: StagingDirs,
        syncs: Syncs,
        *,
        durable: bool,
        on_remark: Callable[[str], None],
    ) -> None:
        self.settled: Settled | None = None
        self._home = home
        self._ledger = ledger
        self._account_id = account_id
        self._staging_dirs = staging_dirs
        self._syncs = syncs
        self._durable = durable
        self._on_remark = on_remark

    def run(self, batch: Batch, *, late: bool) -> list[tuple[int, Message]]:
        """Commit a closed batch, and return the id and the reply of each request, in order.

        Args:
            late: True if the client has disconnected. It may have reconnected already.

        Raises:
            Exception: Nothing of the batch is visible; the caller discards it.
        """
        # The leases must be on the disk before the first rename under them: after a power cut they
        # are the only sign that this home has to be recounted.
        quota_fds = () if batch.leases_are_durable else self._ledger.to_sync()
        if self._durable:
            self._sync_files(staged_of(batch), batch.staging_dirs, quota_fds)
        else:
            self._syncs.sync(quota_fds)
        self._home.take_turn()  # again: syncing may have waited, and other sessions commit now
        self._begin_commit(batch)
        staged = staged_of(batch)
        removals = [
            pending.change
            for pending in batch.pending
            if isinstance(pending.change, Remove) and not pending.change.final
        ]
        failure = None
        # The lock is held until the settlement: a recount in between would count the changes, and
        # the settlement would count them again.
        with self._keeping(removals) as operation, self._locked(batch):
            commit = Commit(
                self._home, self._staging_dirs, self._syncs, keep_times=late, operation=operation
            )
            commit.announce(removals)  # a failure here changes nothing: the batch is discarded
            try:
                outcomes = self._apply_all(commit, batch)
                commit.finish()
                if self._durable:
                    commit.sync()
            except Exception as error:  # the changes are visible, but may not be durable
                failure = failed(reported(error))
            finally:
                commit.close()
            self._home.take_turn()
            try:
                if batch.leases:
                    self.settled = self._ledger.settle(
                        batch.leases,
                        commit.change,
                        commit.files,
                        commit.trash,
                        commit.trash_files,
                    )
                    self.drop_replaced(self.settled.kept, {one.target for one in staged})
            except LeaseLost as error:
                failure = failed(error)
            except Exception as error:
                # What is stored is durable, and is reported as stored. The lease still exists: it
                # makes this run's next settlement, or the next start, recount the home.
                self.settled = None
                logger.error("a settlement failed, and is retried later: %s", error)
            finally:
                for one in staged:
                    one.close()  # it has its name now, or was refused
        for text in commit.remarks:
            self._on_remark(text)
        if failure is not None:
            return [(p.request_id, p.outcome or failure) for p in batch.pending]
        return outcomes

    @contextmanager
    def _keeping(self, removals: list[Remove]) -> Iterator[Operation | None]:
        """Prepare the operation that receives what is removed, before the home's lock is taken.

        A restore holds the operation and then waits for the home's lock, so the order must be the
        same here. A batch that can only replace files doesn't know yet whether it needs the
        operation, so it is not created here.
        """
        operation = self._home.operation
        if operation is None or (not removals and not operation.is_there):
            yield operation
            return
        self._home.will_block()
        # An upload never waits for a restore: what it replaces then goes to a new operation.
        with self._home.keeping(waiting=bool(removals)) as ready:
            if ready is None:
                self._on_remark(NO_SPACE)
            yield ready

    def _begin_commit(self, batch: Batch) -> None:
        """Mark the leases as committing, and withdraw resumable files from other sessions.

        The files' locks are held across both, so that no session can take a file over in between.
        Uploads that were taken over earlier fail alone; the rest of the batch is committed.
        """
        found = _resumable_of(batch)
        if not found:
            self._begin_leases(batch.leases)
            return
        with ExitStack() as steps:
            for pending, _, resumable in found:
                try:
                    steps.enter_context(resumable.step())
                except (CommandError, OSError) as error:
                    self._fail_alone(batch, pending, resumable, error)
            try:
                self._begin_leases(batch.leases)
            except LeaseLost:
                self._fail_those_without_lease(batch)
                self._begin_leases(batch.leases)
            for _, staged, resumable in _resumable_of(batch):
                staged.name = resumable.withdraw()

    def _begin_leases(self, leases: list[Lease]) -> None:
        if leases:
            self._ledger.begin_commit(leases)

    def _fail_those_without_lease(self, batch: Batch) -> None:
        """Fail only the uploads whose lease another session has taken over without their file.

        That session died in between, or a full disk stopped it. The files stay for the next owner
        of the lease.
        """
        owned = {one.staging for one in self._ledger.resumable(self._account_id)}
        for pending, staged, resumable in _resumable_of(batch):
            if resumable.lease is None or staged.name not in owned:
                continue
            try:
                self._begin_leases([resumable.lease])
            except LeaseLost as error:
                self._fail_alone(batch, pending, resumable, error)

    def _fail_alone(
        self,
        batch: Batch,
        pending: Pending,
        resumable: ResumableStaging,
        error: CommandError | OSError,
    ) -> None:
        pending.outcome = failed(error, pending.path)
        pending.staged = None
        lease = resumable.lease
        resumable.close()
        if lease is not None:
            batch.leases.remove(lease)
            keep_lease(self._ledger, lease)  # unless another session has taken it over

    def _locked(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the home's lock for a batch: shared, or exclusive if the batch needs that.

        Exclusive if the batch may replace something where two names cannot be exchanged, or checks
        something before removing it: no other change may come in between. The lock is exclusive
        from the start, because upgrading a shared lock would let other sessions in.
        """
        staging_dirs = list(batch.staging_dirs)
        if batch.makes_links:
            staging_dirs.append(self._staging_dirs.of(()))
        if not batch.looks and all(map(self._staging_dirs.can_exchange, staging_dirs)):
            return self._home.shared()
        return self._home.alone()

    def drop_replaced(self, kept: list[bytes], targets: set[Parts]) -> None:
        """Discard the kept parts of other uploads to these targets, or leave them to expire."""
        if not kept:
            return
        stored = {
            prefix for target in targets for prefix in target_prefixes(self._account_id, target)
        }
        for name in kept:
            if name[: len(name) - 8] not in stored:
                continue
            try:
                drop_kept(self._home, self._ledger, self._account_id, name)
            except (OSError, *NOT_NOW) as error:
                logger.warning("the rest of an earlier upload is discarded later: %s", error)

    def _sync_files(
        self, staged: list[Staged], staging_dirs: list[StagingDir], quota_fds: Sequence[int]
    ) -> None:
        """Sync the staged files: few of them one by one, in a group with other sessions' files;
        many of them by syncing their whole file system.

        Args:
            quota_fds: Descriptors of the quota store to sync as well.

        Files whose sync failed are discarded and never synced again: the kernel has forgotten
        the pages that it could not write (PostgreSQL's fsyncgate).
        """
        together = any(one.fd < 0 for one in staged)
        if together:
            self._home.will_block()
            try:
                for fd in self._one_of_each_disk(staging_dirs):
                    beneath.sync_file_system(fd)
            except beneath.Unsupported:
                for one in staged:
                    self._sync_by_name(one)
            self._syncs.sync(quota_fds)
            return
        self._syncs.sync([*quota_fds, *(one.fd for one in staged)])

    def _one_of_each_disk(self, staging_dirs: list[StagingDir]) -> list[int]:
        """Return one descriptor for each file system with staged files: each is synced once."""
        found: dict[int, int] = {}
        for staging_dir in staging_dirs:
            fd = self._home.staging_fd if staging_dir.above is None else staging_dir.above
            found.setdefault(os.fstat(fd).st_dev, fd)
        return list(found.values())

    def _sync_by_name(self, staged: Staged) -> None:
        fd = os.open(staged.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=staged.staging_dir.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _apply_all(self, commit: Commit, batch: Batch) -> list[tuple[int, Message]]:
        outcomes: list[tuple[int, Message]] = []
        for number, pending in enumerate(batch.pending):
            if not number % TURN_FILES:
                self._home.take_turn()
            outcomes.append((pending.request_id, self._apply(commit, pending)))
        return outcomes

    def _apply(self, commit: Commit, pending: Pending) -> Message:
        if pending.outcome is not None:
            return pending.outcome
        if pending.part is not None:
            pending.part.apply(commit, drop_staged, self._home.take_turn)
            return _APPLIED
        try:
            if pending.staged is not None:
                commit.place(pending.staged)
                return Stored(pending.staged.size)
            match pending.change:
                case MakeDir():
                    commit.make_dir(pending.change)
                case MakeLink():
                    commit.make_link(pending.change)
                case SetAttributes():
                    commit.set_attributes(pending.change)
                case Remove():
                    return commit.remove(pending.change)
            return Done()
        except (CommandError, OSError) as error:
            if pending.staged is not None:
                drop_staged(pending.staged)
            return failed(error, pending.path)


def keep_lease(ledger: LeaseStore, lease: Lease) -> None:
    """Keep the lease of an interrupted upload."""
    try:
        ledger.keep(lease)
    except NOT_NOW as error:
        # the lease is no longer referenced, so the next heartbeat keeps it
        logger.warning("a reservation is kept later: %s", error)


def drop_staged(staged: Staged) -> None:
    """Discard a staged file, unless it was renamed to its target already."""
    try:
        if staged.resumable is None:
            unlink_if_there(staged.staging_dir.fd, staged.name)
        elif staged.resumable.fd >= 0:
            staged.resumable.drop()
    finally:
        staged.close()


def _resumable_of(batch: Batch) -> list[tuple[Pending, Staged, ResumableStaging]]:
    return [
        (pending, pending.staged, pending.staged.resumable)
        for pending in batch.pending
        if pending.staged is not None and pending.staged.resumable is not None
    ]


def staged_of(batch: Batch) -> list[Staged]:
    """Return all files that are staged for a batch."""
    staged: list[Staged] = []
    for pending in batch.pending:
        if pending.staged is not None:
            staged.append(pending.staged)
        elif pending.part is not None:
            staged += pending.part.staged
    return staged


def reported(error: Exception) -> CommandError | OSError:
    """Return the error to report to the client; log it if it is the server's own."""
    if isinstance(error, (CommandError, OSError)):
        return error
    expected = isinstance(error, StateError)  # its text says enough without a traceback
    logger.error("a batch failed: %s", error, exc_info=None if expected else error)
    return Internal("internal error")


def failed(error: CommandError | OSError, path: bytes = b"") -> Failed:
    """Return the reply for an error, which names the path."""
    what = paths.show(path) if path else ""
    if isinstance(error, OSError):
        return Failed.from_error(from_oserror(error, what), path or None)
    if what and what not in str(error):
        error = error.with_text(f"{what}: {error}")
    return Failed.from_error(error, path or None)
