"""Uploads: batches of verified files, and the commit that makes them durable and visible.

Lives here: the steps of an upload from its first byte to its acknowledgement, in order.
Lives elsewhere: the frames that carry the bytes (serving/session.py), the file they are written to
(staging.py), the renames (commit.py), quota (batch_room.py, ledger.py).

The steps are ordered so that the next start repairs a crash at any point: reserve quota → write
and hash in staging → compare digests → mode, mtime and digest attribute → sync the files →
mark the lease as committing → rename → sync the directories → settle → acknowledge. All steps
after the writing are done once per batch, so that many small uploads share each sync.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ftpserver.errors import StateError
from ftpserver.storage.batch_room import BatchRoom
from ftpserver.storage.commit import Commit, Staged, lstat, may_replace, target_of
from ftpserver.storage.file_run import FileRun, FilesOutcome, Part, RunStaging
from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.group_sync import SYNC_EACH, Syncs
from ftpserver.storage.home import Home
from ftpserver.storage.kept_writing import KeptWriting
from ftpserver.storage.open_home import TURN_FILES
from ftpserver.storage.permissions import Action
from ftpserver.storage.piece_table import KEY_SIZE, Contributor
from ftpserver.storage.places import Place, Places
from ftpserver.storage.quota import NOT_NOW, Lease, QuotaStore, Settled
from ftpserver.storage.resumable import (
    RESUME_FROM,
    ResumableStaging,
    drop_kept,
    kept_names,
    target_prefixes,
)
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS, Staging, verify, write_small
from ftpserver.storage.trash.operation import NO_ROOM, Operation
from ftpserver.storage.upload import Receiving
from ftpwire import beneath, digests, paths
from ftpwire.errors import (
    Busy,
    Cancelled,
    CommandError,
    ConnectionLost,
    DiskFull,
    Internal,
    InvalidPath,
    LeaseLost,
    QuotaExceeded,
    VerificationFailed,
    from_oserror,
)
from ftpwire.messages import (
    Done,
    Failed,
    MakeDir,
    MakeLink,
    Message,
    Put,
    PutFiles,
    PutPiece,
    Remove,
    Sent,
    SetAttributes,
    Stored,
)
from ftpwire.paths import Parts
from ftpwire.pieces import Piece

logger = logging.getLogger("ftpd.uploads")

SMALL = 256 * 1024
"""Uploads up to this many bytes are buffered in memory and staged when complete."""
SHARES_STEP = 4 * 1024 * 1024
"""Uploads up to this many bytes take their quota from a lease that the batch shares."""
BATCH_FILES = 1000
BATCH_BYTES = 64 * 1024 * 1024

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_Made = TypeVar("_Made")

Change = MakeDir | MakeLink | SetAttributes | Remove
Outcome = tuple[int, Message | FilesOutcome]
"""A request's id, and the reply or `Failed` to send for it, or the outcome of a `PutFiles`."""


@dataclass(slots=True)
class _Pending:
    request_id: int
    path: bytes = b""
    change: Change | None = None
    staged: Staged | None = None
    outcome: Message | None = None
    part: Part | None = None
    """The part of a `PutFiles` that is in this batch."""


@dataclass
class _Batch:
    pending: list[_Pending] = field(default_factory=list)
    size: int = 0
    files: int = 0
    things: int = 0
    """The number of items of `PutFiles` requests, each of which is one entry of ``pending``."""
    leases: list[Lease] = field(default_factory=list)
    """The leases it holds once it is closed. While it is open, `BatchRoom` has them."""
    leases_are_durable: bool = True
    places: list[Place] = field(default_factory=list)
    """The directories where its files are staged."""
    makes_links: bool = False
    looks: bool = False
    """True if something is removed only if it is in the state that the client expects."""


class Uploads:
    """The uploads of one session: a batch is filled, and then committed. For one thread.

    Everything staged or requested here is applied and answered by ``commit``, in order.

    Args:
        cut: Ends this session, because its client has reconnected and taken its upload over.
            Called with the path of the upload.
        check_client: Raises if this session's client has disconnected.
        syncs: Groups the syncs of the sessions of this process; None: this session has its own.
        keep: Called before each commit, also one forced by lack of quota. Sets the home's
            ``operation`` to the one that receives what is removed and replaced.
    """

    def __init__(
        self,
        home: Home,
        ledger: QuotaStore,
        account_id: int,
        *,
        durable: bool,
        syncs: Syncs | None = None,
        cut: Callable[[bytes], None] = lambda path: None,
        check_client: Callable[[], None] = lambda: None,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._cut = cut
        self._check_client = check_client
        self._keep_what_goes = keep
        self._home = home
        self._ledger = ledger
        self._account_id = account_id
        self._durable = durable
        self._syncs = Syncs() if syncs is None else syncs
        self._batch = _Batch()
        self._places = Places(home, lambda: self._room.make_durable())
        self.kept_writing = KeptWriting(home, ledger, account_id, durable=durable)
        self._room = BatchRoom(home, ledger, account_id, self._places, self._finish_batch)
        self._receiving = 0
        self._contributor: Contributor | None = None
        """The upload that received the last piece, open for its next one."""
        self.remarks: set[str] = set()
        """Warnings for the user about the last commits."""
        self._done: list[Outcome] = []
        self.settled: Settled | None = None
        """The account's state after the last commit."""

    @property
    def pending(self) -> bool:
        """True if a commit would produce replies."""
        return bool(self._batch.pending or self._done)

    @property
    def full(self) -> bool:
        """True if the batch should be committed before it takes more."""
        batch = self._batch
        return len(batch.pending) + batch.things >= BATCH_FILES or batch.size >= BATCH_BYTES

    # taking in ---------------------------------------------------------------------------

    def check(self, request: Put) -> Parts:
        """Check early what the commit checks late, for uploads that ask before they send.

        Raises:
            CommandError, OSError: The commit would refuse the upload.
        """
        target = self._home.redirected(target_of(request.path))
        try:
            directory, name = self._home.tree.parent(target)
        except FileNotFoundError:
            if not request.parents:
                raise
            return target
        try:
            there = lstat(directory, name)
            if there is not None:
                may_replace(there, request.overwrite, request.mtime_ns)
                # a file of the same size and time may have the same bytes: the commit compares them
                if (there.st_size, there.st_mtime_ns) != (request.size, request.mtime_ns):
                    self._home.require(Action.REPLACE, target)
        finally:
            os.close(directory)
        return target

    def stage_small(
        self, request_id: int, request: Put, data: bytes | bytearray, sent: Sent
    ) -> None:
        """Stage an upload that was received completely.

        Raises:
            CommandError, OSError: It is refused; nothing is left of it.
        """
        target = self._home.redirected(target_of(request.path))
        digest = digests.digest(data)
        verify(request, len(data), digest, sent)
        size = len(data)
        self._room.take(size, target, request.parents)
        parent = target[:-1]
        place = self._places.of(parent)
        try:
            name, fd = self.stage_bytes(data, digest, request.mode, request.mtime_ns, place)
        except BaseException:
            self._room.give_back(None, size)
            raise
        self._add_staged(
            request_id,
            request,
            Staged(
                name,
                parent,
                target[-1],
                size,
                request.mtime_ns,
                request.overwrite,
                place,
                fd,
                parents=request.parents,
                digest=digest,
            ),
        )

    def stage_bytes(
        self,
        data: bytes | bytearray | memoryview,
        digest: bytes,
        mode: int,
        mtime_ns: int | None,
        place: Place,
    ) -> tuple[bytes, int]:
        """Write a small file into staging.

        Returns:
            Its name there, and its descriptor.

        Raises:
            OSError: Nothing of it is left.
        """
        name = self._home.new_name()
        try:
            return name, write_small(place, name, data, digest, mode, mtime_ns)
        except OSError as error:
            if error.errno not in _FULL:
                raise
        return name, self._on_disk(
            place, lambda: write_small(place, name, data, digest, mode, mtime_ns)
        )

    def stage_files(self, request_id: int, request: PutFiles, data: bytes | bytearray) -> None:
        """Stage a run of small files that was received completely, and the directories for it.

        Items that are refused are part of the `FilesOutcome` of the request.

        Args:
            data: The bytes of all files, one after another.

        Raises:
            StateError: The quota store can't be used, and no file is stored. If some were already
                stored, because the run took more than one batch, the rest is reported as refused.
        """
        run = FileRun(request_id, request, _refused)
        few = self._batch.files + run.files <= SYNC_EACH
        taking = RunStaging(
            *(self, self._home, self._places, self._room, run, data),
            keeps_open=self._durable and few,
        )
        try:
            last = taking.stage()
        except BaseException as error:
            self._forget_run(run)
            if not run.finished or not isinstance(error, Exception):
                raise
            run.fail_rest(_told(error))
            last = self.part_of(run, run.things)
            last.ends = True
        batch = self._batch
        batch.things += len(last.things)
        batch.files += len(last.staged)
        batch.size += sum(one.size for one in last.staged)

    def part_of(self, run: FileRun, index: int) -> Part:
        """Return the part of a run that is in the open batch; add one that begins at ``index`` if
        there is none."""
        pending = self._batch.pending
        part = pending[-1].part if pending else None
        if part is None or part.run is not run:
            part = Part(run, index)
            pending.append(_Pending(run.request_id, part=part))
        return part

    def _forget_run(self, run: FileRun) -> None:
        """Discard the run's part in the open batch: the request fails as a whole."""
        batch = self._batch
        for pending in batch.pending:
            if pending.part is not None and pending.part.run is run:
                batch.pending.remove(pending)
                for staged in pending.part.staged:
                    self._room.give_back(None, staged.size)
                    self._drop_staged(staged)
                return

    def _on_disk(self, place: Place, step: Callable[[], _Made]) -> _Made:
        """Make a file in staging. If the disk has no space or no inode left, evict trash and try
        again. Raises OSError."""

        def make() -> _Made:
            try:
                return step()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise from_oserror(error, "") from error  # the caller adds the path

        if place.above is not None:  # another file system: evicting trash would not help
            return step()
        try:
            return self._ledger.until_on_disk(make)
        except DiskFull as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    @contextmanager
    def receiving(self, request_id: int, request: Put) -> Iterator[Receiving]:
        """Receive an upload whose bytes arrive over time. A context manager.

        Leaving the context without an error adds the upload to the batch. Its quota is reserved
        first, if its size is known. An interrupted upload is kept for a resume if it is large
        enough; anything else that fails is discarded.

        Raises:
            CommandError, OSError: The upload is refused.
        """
        target = self._home.redirected(target_of(request.path))
        receiving = self._begin(request, target)
        staging = receiving.staging
        self._receiving += 1
        try:
            try:
                yield receiving
            finally:
                self._receiving -= 1
            if not receiving.verified:
                raise VerificationFailed("the upload is incomplete")
        except BaseException as error:
            interrupted = isinstance(error, (Cancelled, ConnectionLost)) or type(error) is Busy
            try:
                if interrupted and receiving.lease is not None and staging.keep():
                    self._keep(receiving.lease)
                else:
                    try:
                        staging.drop()
                    finally:
                        self._room.give_back(receiving.lease, request.size or 0)
            finally:
                self._leave_places()
            raise
        if receiving.lease is not None:
            self._room.leases.append(receiving.lease)
        self._add_staged(
            request_id,
            request,
            Staged(
                staging.name,
                target[:-1],
                target[-1],
                staging.total,
                request.mtime_ns,
                receiving.overwrite,
                staging.place,
                staging.fd,
                staging if isinstance(staging, ResumableStaging) else None,
                request.parents,
                staging.digest,
                receiving.keep_replaced,
            ),
        )

    def _begin(self, request: Put, target: Parts) -> Receiving:
        size = request.size
        hidden = paths.STAGING in target  # in an atomic tree, which ends with its session
        place = self._places.of(target[:-1])
        resumable = size is not None and request.ask and size > RESUME_FROM
        if resumable and not hidden and place.above is None:
            return self._begin_resumable(request, target, place)
        lease = None
        if size is not None and size <= SHARES_STEP:
            self._room.take(size, target, request.parents)
        else:
            files = self._room.new_names(target, request.parents, exactly=True)
            lease = self._room.reserve(size or 0, files)
            self._check_disk(lease, place)
        place = self._places.of(target[:-1])  # taking quota may have committed the batch
        try:
            staging = self._on_disk(
                place, lambda: Staging.create(self._home.new_name(), request, place)
            )
            return Receiving(staging, request, lease, self._ledger)
        except (OSError, DiskFull):
            self._room.give_back(lease, size or 0)
            raise

    def _begin_resumable(self, request: Put, target: Parts, place: Place) -> Receiving:
        # Shared: a clean-up, which holds the lock alone, removes whatever no lease owns. None must
        # run between opening the staging file and reserving its lease.
        with self._home.shared():
            name = self._kept_name(request, target)
            with ResumableStaging.open(self._home, request, name, self._cut, place) as staging:
                # A request of a client that has disconnected may have waited here for long, while
                # the client reconnected and resumed the upload. Check only now that the file's lock
                # is held: the other connection came later.
                self._check_client()
                staging.key = secrets.token_bytes(KEY_SIZE) if request.pieces else None
                lease = self._ledger.take_over(self._account_id, name, staging.key)
                if lease is None:
                    lease = self._begin_anew(staging, request, target)
                else:
                    self._go_on_with(staging, request, lease)
        staging.lease = lease
        return Receiving(staging, request, lease, self._ledger)

    def _begin_anew(self, staging: ResumableStaging, request: Put, target: Parts) -> Lease:
        """Reserve quota for an upload of which nothing is kept. Raises QuotaExceeded, DiskFull."""
        try:
            staging.own()
            staging.start_over()
            files = self._room.new_names(target, request.parents, exactly=True)
            lease = self._reserve_for(request.size or 0, files, target, staging)
            self._check_disk(lease, staging.place)
            return lease
        except BaseException:
            staging.drop()
            raise

    def _go_on_with(self, staging: ResumableStaging, request: Put, lease: Lease) -> None:
        """Take the staging files over, after their lease, and start over unless it is a resume."""
        try:
            staging.own()
            if not request.resume:
                staging.start_over()
        except BaseException:
            staging.close()
            self._keep(lease)
            raise

    def _kept_name(self, request: Put, target: Parts) -> bytes:
        """Return the staging name of an upload that can be kept."""
        name, before = kept_names(self._account_id, target, request.size, request.mtime_ns)
        if lstat(self._home.staging_fd, before) is not None:
            mine = self._ledger.resumable(self._account_id)
            if any(one.staging == before for one in mine):
                return before  # an earlier version of the server has kept it for this account
        return name

    def open_piece(self, request: PutPiece) -> Piece:
        """Begin to receive a piece of a file that another session of the account uploads.

        Raises:
            CommandError: That upload isn't running, or needs no such piece.
        """
        open_one = self._contributor
        if open_one is None or open_one.key != request.key:
            self._forget_pieces()
            name = self._ledger.find_pieces(self._account_id, request.key)
            if name is None:
                raise LeaseLost("no running upload accepts this piece")
            open_one = Contributor.open(self._home.staging_fd, name, request.key)
            self._contributor = open_one
        try:
            return open_one.begin(request.offset, request.size)
        except LeaseLost:
            self._forget_pieces()
            raise

    def _forget_pieces(self) -> None:
        contributor, self._contributor = self._contributor, None
        if contributor is not None:
            contributor.close()

    def _reserve_for(
        self, size: int, files: int, target: Parts, staging: ResumableStaging
    ) -> Lease:
        """Reserve quota for a resumable upload. If there is too little, discard what is kept of
        other uploads to the same target, and try again."""

        def reserve() -> Lease:
            return self._ledger.reserve(
                self._account_id, size, staging.name, files=files, pieces=staging.key
            )

        try:
            return reserve()
        except QuotaExceeded:
            self._drop_replaced(self._ledger.kept_staging(self._account_id), {target})
            return reserve()

    def _check_disk(self, lease: Lease, place: Place) -> None:
        """Release the lease if its bytes are within the quota but not free on the disk.

        Raises:
            DiskFull: They are not free, even after trash was evicted.
        """
        try:
            if place.above is None:
                self._ledger.until_on_disk(lambda: self._home.check_disk(lease.size))
            else:  # another file system: evicting trash would not help
                self._home.check_disk(lease.size, place.above)
        except DiskFull:
            self._ledger.release(lease)
            raise

    def add_change(self, request_id: int, change: Change) -> None:
        """Add a change to the batch. The commit makes it in its turn."""
        if isinstance(change, Remove):
            self._room.take(0, None)  # removing needs a lease too (see ledger.py)
            self._batch.looks |= change.only_if_same
        elif not isinstance(change, SetAttributes):
            self._room.take_names(change)
            self._batch.makes_links |= isinstance(change, MakeLink)
        self._batch.pending.append(_Pending(request_id, change.path, change=change))

    def add_outcome(self, request_id: int, outcome: Message) -> None:
        """Add a request whose outcome is known, so that its reply keeps its turn."""
        self._batch.pending.append(_Pending(request_id, outcome=outcome))

    def _add_staged(self, request_id: int, request: Put, staged: Staged) -> None:
        if request.mode & ~MODE_BITS:
            self.remarks.add(DROPPED_BITS)
        batch = self._batch
        batch.files += 1
        batch.size += staged.size
        if staged.place not in batch.places:
            batch.places.append(staged.place)
        if not staged.resumable and (not self._durable or batch.files > SYNC_EACH):
            staged.close()
        batch.pending.append(_Pending(request_id, request.path, staged=staged))

    def _keep(self, lease: Lease) -> None:
        """Keep the lease of an interrupted upload."""
        try:
            self._ledger.keep(lease)
        except NOT_NOW as error:
            # the lease is no longer referenced, so the next heartbeat keeps it
            logger.warning("a reservation is kept later: %s", error)

    def _unlink(self, name: bytes, place: Place | None = None) -> None:
        """Remove a file from staging, unless it was renamed to its target already."""
        unlink_if_there(self._home.staging_fd if place is None else place.fd, name)

    # files written in any order ----------------------------------------------------------

    def is_in_tree(self, path: bytes) -> bool:
        """Return whether a file put at this path goes to an atomic tree that is being uploaded."""
        return paths.STAGING in self._home.redirected(target_of(path))

    def identity(self, path: bytes) -> tuple[int, int] | None:
        """Return the device and inode of what exists at a path; None if nothing does."""
        try:
            info = self._home.stat(self._home.redirected(target_of(path)), follow=False)
        except FileNotFoundError:
            return None
        return info.st_dev, info.st_ino

    def finish(self) -> None:
        """Make the batch durable and visible. `commit` returns its outcomes later."""
        self._finish_batch()

    def commit_now(self, request_id: int) -> Message | FilesOutcome:
        """Commit, and return the outcome of one request. `commit` returns the others later."""
        self._finish_batch()
        for at, (one, outcome) in enumerate(self._done):
            if one == request_id:
                del self._done[at]
                return outcome
        raise AssertionError(f"request {request_id} is not pending")

    # commit ------------------------------------------------------------------------------

    def commit(self, *, late: bool = False) -> list[Outcome]:
        """Make the batch durable and visible, and return all outcomes in order.

        Args:
            late: True if the client has disconnected. It may have reconnected already.
        """
        self._finish_batch(late=late)
        done, self._done = self._done, []
        return done

    def go_idle(self) -> None:
        """Release quota that nothing uses, because the session is idle for a while."""
        if self.pending:
            return
        if self._room.leases:
            self._abandon()
        else:
            self._leave_places()

    def abandon(self) -> None:
        """Discard what was staged and not committed, because the session or a request failed."""
        self._forget_pieces()
        self._abandon()

    def _abandon(self) -> None:
        batch = self._take_batch()
        self._done = []
        try:
            self._drop_batch(batch)
        finally:
            self._leave_places()

    def _leave_places(self) -> None:
        """Close the handles of other staging directories, unless something is staged there."""
        if not self._receiving and not self._batch.pending:
            self._places.close()

    def _take_batch(self) -> _Batch:
        """Close the open batch and return it with its leases; open an empty one."""
        batch, self._batch = self._batch, _Batch()
        batch.leases_are_durable = self._room.is_durable
        batch.leases = self._room.hand_over()
        for pending in batch.pending:
            if pending.part is not None:
                batch.places += [one for one in pending.part.places if one not in batch.places]
        return batch

    def _drop_batch(self, batch: _Batch) -> None:
        with ExitStack() as stack:  # each step runs, even if another one fails
            for lease in batch.leases:
                stack.callback(self._ledger.release, lease)
            for staged in reversed(_staged_of(batch)):
                stack.callback(self._drop_staged, staged)

    def _drop_staged(self, staged: Staged) -> None:
        try:
            if staged.resumable is None:
                self._unlink(staged.name, staged.place)
            elif staged.resumable.fd >= 0:
                staged.resumable.drop()
        finally:
            staged.close()

    def _finish_batch(self, *, late: bool = False) -> None:
        try:
            self._finish_the_batch(late=late)
        finally:
            self._leave_places()

    def _finish_the_batch(self, *, late: bool) -> None:
        batch = self._take_batch()
        if not batch.pending:
            self._drop_batch(batch)
            return
        try:
            outcomes = self._commit_batch(batch, late=late)
        except Exception as error:  # whatever the error is, each request must get a reply
            failure = _failed(_told(error))
            try:
                self._drop_batch(batch)
            except Exception:
                logger.exception("a batch could not be discarded: the next start cleans up")
            outcomes = [(p.request_id, p.outcome or failure) for p in batch.pending]
        for pending, outcome in zip(batch.pending, outcomes, strict=True):
            if pending.part is None:
                self._done.append(outcome)
                continue
            if isinstance(outcome[1], Failed):
                pending.part.fail(outcome[1])
            pending.part.finish()
            if pending.part.ends:
                self._done.append((outcome[0], pending.part.run.outcome()))

    def _commit_batch(self, batch: _Batch, *, late: bool) -> list[tuple[int, Message]]:
        self._keep_what_goes()
        # The leases must be on the disk before the first rename under them: after a power cut they
        # are the only sign that this home has to be recounted.
        quota_fds = () if batch.leases_are_durable else self._ledger.to_sync()
        if self._durable:
            self._sync_files(_staged_of(batch), batch.places, quota_fds)
        else:
            self._syncs.sync(quota_fds)
        self._home.take_turn()  # again: syncing may have waited, and other sessions commit now
        self._begin_commit(batch)
        staged = _staged_of(batch)
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
                self._home, self._places, self._syncs, keep_times=late, operation=operation
            )
            commit.announce(removals)  # a failure here changes nothing: the batch is discarded
            try:
                outcomes = self._apply_all(commit, batch)
                commit.finish()
                if self._durable:
                    commit.sync()
            except Exception as error:  # the changes are visible, but may not be durable
                failure = _failed(_told(error))
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
                    self._drop_replaced(self.settled.kept, {one.target for one in staged})
            except LeaseLost as error:
                failure = _failed(error)
            except Exception as error:
                # What is stored is durable, and is reported as stored. The lease still exists: it
                # makes this run's next settlement, or the next start, recount the home.
                self.settled = None
                logger.error("a settlement failed, and is retried later: %s", error)
            finally:
                for one in staged:
                    one.close()  # it has its name now, or was refused
        self.remarks |= commit.remarks
        if failure is not None:
            return [(p.request_id, p.outcome or failure) for p in batch.pending]
        return outcomes

    @contextmanager
    def _keeping(self, removals: list[Remove]) -> Iterator[Operation | None]:
        """Make the operation ready that receives what is removed, before the home's lock is taken.

        A restore holds the operation and then waits for the home's lock, so the order must be the
        same here. A batch that can only replace files doesn't know yet whether it needs the
        operation: one that doesn't exist is not made for it.
        """
        operation = self._home.operation
        if operation is None or (not removals and not operation.is_there):
            yield operation
            return
        self._home.will_block()
        # An upload never waits for a restore: what it replaces then goes to a new operation.
        with self._home.keeping(waiting=bool(removals)) as ready:
            if ready is None:
                self.remarks.add(NO_ROOM)
            yield ready

    def _begin_commit(self, batch: _Batch) -> None:
        """Mark the leases as committing, and withdraw resumable files from other sessions.

        The files' locks are held across both, so that no session can take a file over in between.
        Uploads that were taken over before then fail by themselves, not with the batch.
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

    def _fail_those_without_lease(self, batch: _Batch) -> None:
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
        batch: _Batch,
        pending: _Pending,
        resumable: ResumableStaging,
        error: CommandError | OSError,
    ) -> None:
        pending.outcome = _failed(error, pending.path)
        pending.staged = None
        lease = resumable.lease
        resumable.close()
        if lease is not None:
            batch.leases.remove(lease)
            self._keep(lease)  # unless another session has taken it over

    def _locked(self, batch: _Batch) -> AbstractContextManager[None]:
        """Return the home's lock for a batch: shared, or exclusive if the batch needs that.

        Exclusive if the batch may replace something where two names can't be exchanged, or checks
        something before removing it: no other change may come in between. The lock is exclusive
        from the start, because upgrading a shared lock would let other sessions in.
        """
        places = list(batch.places)
        if batch.makes_links:
            places.append(self._places.of(()))
        if not batch.looks and all(map(self._places.can_exchange, places)):
            return self._home.shared()
        return self._home.alone()

    def _drop_replaced(self, kept: list[bytes], targets: set[Parts]) -> None:
        """Discard what is kept of other uploads to these targets, or leave it to expire."""
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
        self, staged: list[Staged], places: list[Place], quota_fds: Sequence[int]
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
                for fd in self._one_of_each_disk(places):
                    beneath.sync_file_system(fd)
            except beneath.Unsupported:
                for one in staged:
                    self._sync_by_name(one)
            self._syncs.sync(quota_fds)
            return
        self._syncs.sync([*quota_fds, *(one.fd for one in staged)])

    def _one_of_each_disk(self, places: list[Place]) -> list[int]:
        """Return one descriptor for each file system with staged files: each is synced once."""
        found: dict[int, int] = {}
        for place in places:
            fd = self._home.staging_fd if place.above is None else place.above
            found.setdefault(os.fstat(fd).st_dev, fd)
        return list(found.values())

    def _sync_by_name(self, staged: Staged) -> None:
        fd = os.open(staged.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=staged.place.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _apply_all(self, commit: Commit, batch: _Batch) -> list[tuple[int, Message]]:
        outcomes: list[tuple[int, Message]] = []
        for number, pending in enumerate(batch.pending):
            if not number % TURN_FILES:
                self._home.take_turn()
            outcomes.append((pending.request_id, self._apply(commit, pending)))
        return outcomes

    def _apply(self, commit: Commit, pending: _Pending) -> Message:
        if pending.outcome is not None:
            return pending.outcome
        if pending.part is not None:
            pending.part.apply(commit, self._drop_staged, self._home.take_turn)
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
                self._drop_staged(pending.staged)
            return _failed(error, pending.path)


def _resumable_of(batch: _Batch) -> list[tuple[_Pending, Staged, ResumableStaging]]:
    return [
        (pending, pending.staged, pending.staged.resumable)
        for pending in batch.pending
        if pending.staged is not None and pending.staged.resumable is not None
    ]


def _staged_of(batch: _Batch) -> list[Staged]:
    staged: list[Staged] = []
    for pending in batch.pending:
        if pending.staged is not None:
            staged.append(pending.staged)
        elif pending.part is not None:
            staged += pending.part.staged
    return staged


def _told(error: Exception) -> CommandError | OSError:
    """Return the error to report to the client; log it if it is the server's own."""
    if isinstance(error, (CommandError, OSError)):
        return error
    expected = isinstance(error, StateError)  # its text says enough without a traceback
    logger.error("a batch failed: %s", error, exc_info=None if expected else error)
    return Internal("internal error")


_APPLIED = Done()
"""Stands for the outcome of a part of a `PutFiles`, which records its outcomes itself."""


def _refused(error: CommandError | OSError, path: bytes) -> Failed:
    """Return what `_failed` does, for an item of a request, which has no reply of its own."""
    if isinstance(error, InvalidPath):  # the path may be too long to repeat in the text
        return Failed.from_error(error, path)
    return _failed(error, path)


def _failed(error: CommandError | OSError, path: bytes = b"") -> Failed:
    what = paths.show(path) if path else ""
    if isinstance(error, OSError):
        return Failed.from_error(from_oserror(error, what), path or None)
    if what and what not in str(error):
        error = error.with_text(f"{what}: {error}")
    return Failed.from_error(error, path or None)
