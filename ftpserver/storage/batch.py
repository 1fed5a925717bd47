"""Uploads: batches of verified files, and the commit that makes them durable and visible.

Lives here: the steps of an upload from its first byte until it is in a batch, and from the commit
of the batch to its acknowledgement; when a batch is committed or discarded.
Lives elsewhere: the frames that carry the bytes (serving/session.py), the file they are written to
(staging.py), the steps of the commit (batch_commit.py), the renames (commit.py), quota
(batch_reservation.py, ledger.py).

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from ftpserver.storage.batch_commit import (
    Batch,
    BatchCommit,
    Change,
    Pending,
    drop_staged,
    failed,
    keep_lease,
    reported,
    staged_of,
)
from ftpserver.storage.batch_reservation import BatchReservation
from ftpserver.storage.commit import Staged, lstat, may_replace, target_of
from ftpserver.storage.file_run import FileRun, FilesOutcome, Part, RunStaging
from ftpserver.storage.group_sync import SYNC_EACH, Syncs
from ftpserver.storage.home import Home
from ftpserver.storage.kept_writing import KeptWriting
from ftpserver.storage.permissions import Action
from ftpserver.storage.piece_table import KEY_SIZE, Contributor
from ftpserver.storage.quota import Lease, LeaseStore, Settled
from ftpserver.storage.resumable import (
    RESUME_FROM,
    ResumableStaging,
    kept_names,
)
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS, Staging, verify, write_small
from ftpserver.storage.staging_dirs import StagingDir, StagingDirs
from ftpserver.storage.upload import Receiving
from ftpwire import digests, paths
from ftpwire.errors import (
    Busy,
    Cancelled,
    CommandError,
    ConnectionLost,
    DiskFull,
    InvalidPath,
    LeaseLost,
    QuotaExceeded,
    VerificationFailed,
    from_oserror,
)
from ftpwire.messages import (
    Failed,
    MakeLink,
    Message,
    Put,
    PutFiles,
    PutPiece,
    Remove,
    Sent,
    SetAttributes,
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

Outcome = tuple[int, Message | FilesOutcome]
"""A request's id, and the reply or `Failed` to send for it, or the outcome of a `PutFiles`."""


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
        ledger: LeaseStore,
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
        self._batch = Batch()
        self._staging_dirs = StagingDirs(home, lambda: self._reservation.make_durable())
        self.kept_writing = KeptWriting(home, ledger, account_id, durable=durable)
        self._reservation = BatchReservation(
            home, ledger, account_id, self._staging_dirs, self._finish_batch
        )
        self._receiving = 0
        self._contributor: Contributor | None = None
        """The upload that received the last piece, open for its next one."""
        self.remarks: set[str] = set()
        """Warnings for the user about the last commits."""
        self._done: list[Outcome] = []
        self._batch_commit = BatchCommit(
            home,
            ledger,
            account_id,
            self._staging_dirs,
            self._syncs,
            durable=durable,
            on_remark=lambda text: self.remarks.add(text),
        )

    @property
    def settled(self) -> Settled | None:
        """The account's state after the last commit; None if it is not known."""
        return self._batch_commit.settled

    @property
    def pending(self) -> bool:
        """True if a commit would produce replies."""
        return bool(self._batch.pending or self._done)

    @property
    def full(self) -> bool:
        """True if the batch should be committed before it takes more."""
        batch = self._batch
        return len(batch.pending) + batch.run_items >= BATCH_FILES or batch.size >= BATCH_BYTES

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
        self._reservation.take(size, target, request.parents)
        parent = target[:-1]
        staging_dir = self._staging_dirs.of(parent)
        try:
            name, fd = self.stage_bytes(data, digest, request.mode, request.mtime_ns, staging_dir)
        except BaseException:
            self._reservation.give_back(None, size)
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
                staging_dir,
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
        staging_dir: StagingDir,
    ) -> tuple[bytes, int]:
        """Write a small file into staging.

        Returns:
            Its name there, and its descriptor.

        Raises:
            OSError: Nothing of it is left.
        """
        name = self._home.new_name()
        try:
            return name, write_small(staging_dir, name, data, digest, mode, mtime_ns)
        except OSError as error:
            if error.errno not in _FULL:
                raise
        return name, self._on_disk(
            staging_dir, lambda: write_small(staging_dir, name, data, digest, mode, mtime_ns)
        )

    def stage_files(self, request_id: int, request: PutFiles, data: bytes | bytearray) -> None:
        """Stage a run of small files that was received completely, and the directories for it.

        Items that are refused are part of the `FilesOutcome` of the request.

        Args:
            data: The bytes of all files, one after another.

        Raises:
            StateError: The quota store cannot be used, and no file is stored. If some were already
                stored, because the run took more than one batch, the rest is reported as refused.
        """
        run = FileRun(request_id, request, _refused)
        few = self._batch.files + run.files <= SYNC_EACH
        taking = RunStaging(
            *(self, self._home, self._staging_dirs, self._reservation, run, data),
            keeps_open=self._durable and few,
        )
        try:
            last = taking.stage()
        except BaseException as error:
            self._forget_run(run)
            if not run.finished or not isinstance(error, Exception):
                raise
            run.fail_rest(reported(error))
            last = self.part_of(run, run.item_count)
            last.ends = True
        batch = self._batch
        batch.run_items += len(last.items)
        batch.files += len(last.staged)
        batch.size += sum(one.size for one in last.staged)

    def part_of(self, run: FileRun, index: int) -> Part:
        """Return the part of a run that is in the open batch; add one that begins at ``index`` if
        there is none."""
        pending = self._batch.pending
        part = pending[-1].part if pending else None
        if part is None or part.run is not run:
            part = Part(run, index)
            pending.append(Pending(run.request_id, part=part))
        return part

    def _forget_run(self, run: FileRun) -> None:
        """Discard the run's part in the open batch: the request fails as a whole."""
        batch = self._batch
        for pending in batch.pending:
            if pending.part is not None and pending.part.run is run:
                batch.pending.remove(pending)
                for staged in pending.part.staged:
                    self._reservation.give_back(None, staged.size)
                    drop_staged(staged)
                return

    def _on_disk(self, staging_dir: StagingDir, step: Callable[[], _Made]) -> _Made:
        """Make a file in staging. If the disk has no space or no inode left, evict trash and try
        again. Raises OSError."""

        def make() -> _Made:
            try:
                return step()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise from_oserror(error, "") from error  # the caller adds the path

        if staging_dir.above is not None:  # another file system: evicting trash would not help
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
                    keep_lease(self._ledger, receiving.lease)
                else:
                    try:
                        staging.drop()
                    finally:
                        self._reservation.give_back(receiving.lease, request.size or 0)
            finally:
                self._close_staging_dirs()
            raise
        if receiving.lease is not None:
            self._reservation.leases.append(receiving.lease)
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
                staging.staging_dir,
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
        staging_dir = self._staging_dirs.of(target[:-1])
        resumable = size is not None and request.ask and size > RESUME_FROM
        if resumable and not hidden and staging_dir.above is None:
            return self._begin_resumable(request, target, staging_dir)
        lease = None
        if size is not None and size <= SHARES_STEP:
            self._reservation.take(size, target, request.parents)
        else:
            files = self._reservation.new_names(target, request.parents, exactly=True)
            lease = self._reservation.reserve(size or 0, files)
            self._check_disk(lease, staging_dir)
        # taking quota may have committed the batch
        staging_dir = self._staging_dirs.of(target[:-1])
        try:
            staging = self._on_disk(
                staging_dir, lambda: Staging.create(self._home.new_name(), request, staging_dir)
            )
            return Receiving(staging, request, lease, self._ledger)
        except (OSError, DiskFull):
            self._reservation.give_back(lease, size or 0)
            raise

    def _begin_resumable(self, request: Put, target: Parts, staging_dir: StagingDir) -> Receiving:
        # Shared: a clean-up, which holds the lock alone, removes whatever no lease owns. None must
        # run between opening the staging file and reserving its lease.
        with self._home.shared():
            name = self._kept_name(request, target)
            with ResumableStaging.open(
                self._home, request, name, self._cut, staging_dir
            ) as staging:
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
            files = self._reservation.new_names(target, request.parents, exactly=True)
            lease = self._reserve_for(request.size or 0, files, target, staging)
            self._check_disk(lease, staging.staging_dir)
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
            keep_lease(self._ledger, lease)
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
            self._batch_commit.drop_replaced(self._ledger.kept_staging(self._account_id), {target})
            return reserve()

    def _check_disk(self, lease: Lease, staging_dir: StagingDir) -> None:
        """Release the lease if its bytes are within the quota but not free on the disk.

        Raises:
            DiskFull: They are not free, even after trash was evicted.
        """
        try:
            if staging_dir.above is None:
                self._ledger.until_on_disk(lambda: self._home.check_disk(lease.size))
            else:  # another file system: evicting trash would not help
                self._home.check_disk(lease.size, staging_dir.above)
        except DiskFull:
            self._ledger.release(lease)
            raise

    def add_change(self, request_id: int, change: Change) -> None:
        """Add a change to the batch. The commit makes it in its turn."""
        if isinstance(change, Remove):
            self._reservation.take(0, None)  # removing needs a lease too (see ledger.py)
            self._batch.looks |= change.only_if_same
        elif not isinstance(change, SetAttributes):
            self._reservation.take_names(change)
            self._batch.makes_links |= isinstance(change, MakeLink)
        self._batch.pending.append(Pending(request_id, change.path, change=change))

    def add_outcome(self, request_id: int, outcome: Message) -> None:
        """Add a request whose outcome is known, so that its reply keeps its turn."""
        self._batch.pending.append(Pending(request_id, outcome=outcome))

    def _add_staged(self, request_id: int, request: Put, staged: Staged) -> None:
        if request.mode & ~MODE_BITS:
            self.remarks.add(DROPPED_BITS)
        batch = self._batch
        batch.files += 1
        batch.size += staged.size
        if staged.staging_dir not in batch.staging_dirs:
            batch.staging_dirs.append(staged.staging_dir)
        if not staged.resumable and (not self._durable or batch.files > SYNC_EACH):
            staged.close()
        batch.pending.append(Pending(request_id, request.path, staged=staged))

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
        if self._reservation.leases:
            self._abandon()
        else:
            self._close_staging_dirs()

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
            self._close_staging_dirs()

    def _close_staging_dirs(self) -> None:
        """Close the handles of other staging directories, unless something is staged there."""
        if not self._receiving and not self._batch.pending:
            self._staging_dirs.close()

    def _take_batch(self) -> Batch:
        """Close the open batch and return it with its leases; open an empty one."""
        batch, self._batch = self._batch, Batch()
        batch.leases_are_durable = self._reservation.is_durable
        batch.leases = self._reservation.hand_over()
        for pending in batch.pending:
            if pending.part is not None:
                batch.staging_dirs += [
                    one for one in pending.part.staging_dirs if one not in batch.staging_dirs
                ]
        return batch

    def _drop_batch(self, batch: Batch) -> None:
        with ExitStack() as stack:  # each step runs, even if another one fails
            for lease in batch.leases:
                stack.callback(self._ledger.release, lease)
            for staged in reversed(staged_of(batch)):
                stack.callback(drop_staged, staged)

    def _finish_batch(self, *, late: bool = False) -> None:
        try:
            self._finish_the_batch(late=late)
        finally:
            self._close_staging_dirs()

    def _finish_the_batch(self, *, late: bool) -> None:
        batch = self._take_batch()
        if not batch.pending:
            self._drop_batch(batch)
            return
        try:
            self._keep_what_goes()
            outcomes = self._batch_commit.run(batch, late=late)
        except Exception as error:  # whatever the error is, each request must get a reply
            failure = failed(reported(error))
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


def _refused(error: CommandError | OSError, path: bytes) -> Failed:
    """Return what `failed` does, for an item of a request, which has no reply of its own."""
    if isinstance(error, InvalidPath):  # the path may be too long to repeat in the text
        return Failed.from_error(error, path)
    return failed(error, path)
