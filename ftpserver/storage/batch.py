"""Uploads: batches of verified files, and the commit that makes them durable and visible.

Lives here: what happens to an upload between its first byte and its acknowledgement, in order.
Lives elsewhere: the frames the bytes come in (serving/session.py), the file they go to
(staging.py), the names it gets (commit.py), room (batch_room.py, ledger.py).

The order, in which a crash at any point is repaired by the next start: reserve room → write
and hash in staging → compare digests → mode, mtime and digest attribute → sync the files →
mark the lease as committing → rename → sync the directories → settle → acknowledge. All of it
after the writing is done once for a batch, so that many small uploads share each sync.
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
"""Uploads up to this many bytes are taken in memory and staged at once."""
SHARES_STEP = 4 * 1024 * 1024
"""Uploads up to this many bytes take their room from a lease that the batch shares."""
BATCH_FILES = 1000
BATCH_BYTES = 64 * 1024 * 1024

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_Made = TypeVar("_Made")

Change = MakeDir | MakeLink | SetAttributes | Remove
Outcome = tuple[int, Message | FilesOutcome]
"""A request's id, and the reply or `Failed` to send for it; or what became of a `PutFiles`."""


@dataclass(slots=True)
class _Pending:
    request_id: int
    path: bytes = b""
    change: Change | None = None
    staged: Staged | None = None
    outcome: Message | None = None
    part: Part | None = None
    """Of a request of many files: what of it is in this batch."""


@dataclass
class _Batch:
    pending: list[_Pending] = field(default_factory=list)
    size: int = 0
    files: int = 0
    things: int = 0
    """What requests of many files are about, which are one each in ``pending``."""
    leases: list[Lease] = field(default_factory=list)
    """What it holds, once it is finished; before, `BatchRoom` has that."""
    leases_are_durable: bool = True
    places: list[Place] = field(default_factory=list)
    """Where its files are staged."""
    makes_links: bool = False
    looks: bool = False
    """Whether something is removed only if it is what was said."""


class Uploads:
    """The uploads of one session: a batch that fills up, and is then committed. One thread.

    What is staged or asked for here is done, and answered, by ``commit``, in order.

    Args:
        cut: Ends this session, when its client has come again and has taken its upload over.
            Called with the path of that.
        check_client: Raises when this session's client has gone.
        syncs: What the sessions of this process sync together; None: this one has its own.
        keep: Called before each commit, also one that want of room brings about: has the home's
            ``operation`` be the one that what goes belongs to.
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
        """Open for the next piece of the same upload."""
        self.remarks: set[str] = set()
        """What the user should know about the last commits."""
        self._done: list[Outcome] = []
        self.settled: Settled | None = None
        """What the last commit has found in the ledger."""

    @property
    def pending(self) -> bool:
        """Whether a commit would answer something."""
        return bool(self._batch.pending or self._done)

    @property
    def full(self) -> bool:
        """Whether the batch should be committed before more comes."""
        batch = self._batch
        return len(batch.pending) + batch.things >= BATCH_FILES or batch.size >= BATCH_BYTES

    # taking in ---------------------------------------------------------------------------

    def check(self, request: Put) -> Parts:
        """Refuse early what a commit would refuse late. For uploads that ask first.

        Raises:
            CommandError, OSError: As the commit would.
        """
        target = self._home.network_of(target_of(request.path))
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
                # one of that size and time may have the same bytes, which the commit finds out
                if (there.st_size, there.st_mtime_ns) != (request.size, request.mtime_ns):
                    self._home.require(Action.REPLACE, target)
        finally:
            os.close(directory)
        return target

    def stage_small(
        self, request_id: int, request: Put, data: bytes | bytearray, sent: Sent
    ) -> None:
        """Stage an upload that came in whole.

        Raises:
            CommandError, OSError: It is refused; nothing is left of it.
        """
        target = self._home.network_of(target_of(request.path))
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
        """Write a small file into staging: its name there, and its descriptor.

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
        """Stage many small files, that came in whole, and make directories for them; what is
        refused of it is told with the rest, by the `FilesOutcome` of the request.

        Args:
            data: The bytes of all files, one after another.

        Raises:
            StateError: The books can't be used, and nothing of it is stored. Where some of it is,
                because it took more than one batch, the rest is told as refused, by its index.
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
        """The part of a run that the batch which is open now has; it begins with that index where
        there is none yet."""
        pending = self._batch.pending
        part = pending[-1].part if pending else None
        if part is None or part.run is not run:
            part = Part(run, index)
            pending.append(_Pending(run.request_id, part=part))
        return part

    def _forget_run(self, run: FileRun) -> None:
        """The request fails as a whole: nothing more of it is stored."""
        batch = self._batch
        for pending in batch.pending:
            if pending.part is not None and pending.part.run is run:
                batch.pending.remove(pending)
                for staged in pending.part.staged:
                    self._room.give_back(None, staged.size)
                    self._drop_staged(staged)
                return

    def _on_disk(self, place: Place, step: Callable[[], _Made]) -> _Made:
        """Make a file in staging; trash is given up where the disk has no room for it, or can't
        take one more file. Raises OSError."""

        def make() -> _Made:
            try:
                return step()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise from_oserror(error, "") from error  # the caller names the path

        if place.above is not None:  # another file system, on which there is no trash
            return step()
        try:
            return self._ledger.until_on_disk(make)
        except DiskFull as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    @contextmanager
    def receiving(self, request_id: int, request: Put) -> Iterator[Receiving]:
        """Receive an upload that comes in pieces; leaving the context without an error has the
        next commit place it. Its room is reserved first, if its size is known.

        Of one that was interrupted, what is worth it is kept for a resume; else nothing is.

        Raises:
            CommandError, OSError: It is refused.
        """
        target = self._home.network_of(target_of(request.path))
        receiving = self._begin(request, target)
        staging = receiving.staging
        self._receiving += 1
        try:
            try:
                yield receiving
            finally:
                self._receiving -= 1
            if not receiving.verified:
                raise VerificationFailed("the upload was not finished")
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
        hidden = paths.STAGING in target  # in a tree on its way, which ends with its session
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
        place = self._places.of(target[:-1])  # taking room may have ended the batch
        try:
            staging = self._on_disk(
                place, lambda: Staging.create(self._home.new_name(), request, place)
            )
            return Receiving(staging, request, lease, self._ledger)
        except (OSError, DiskFull):
            self._room.give_back(lease, size or 0)
            raise

    def _begin_resumable(self, request: Put, target: Parts, place: Place) -> Receiving:
        with self._home.shared():  # a clean-up takes what no lease owns, holding it alone
            name = self._kept_name(request, target)
            with ResumableStaging.open(self._home, request, name, self._cut, place) as staging:
                # A request of a client that has gone may have lain here for long: by now its next
                # connection may have the upload. Who looks at the lock knows, for that came later.
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
        """Have room for an upload of which nothing is kept. Raises QuotaExceeded, DiskFull."""
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
        """Make the files this session's, as the lease is by now."""
        try:
            staging.own()
            if not request.resume:
                staging.start_over()
        except BaseException:
            staging.close()
            self._keep(lease)
            raise

    def _kept_name(self, request: Put, target: Parts) -> bytes:
        """The staging name of an upload that can be kept."""
        name, before = kept_names(self._account_id, target, request.size, request.mtime_ns)
        if lstat(self._home.staging_fd, before) is not None:
            mine = self._ledger.resumable(self._account_id)
            if any(one.staging == before for one in mine):
                return before  # an earlier version has kept it for this account
        return name

    def open_piece(self, request: PutPiece) -> Piece:
        """Begin a piece of what another session of the account uploads.

        Raises:
            CommandError: That is not under way, or needs no such piece.
        """
        open_one = self._contributor
        if open_one is None or open_one.key != request.key:
            self._forget_pieces()
            name = self._ledger.find_pieces(self._account_id, request.key)
            if name is None:
                raise LeaseLost("no upload is open that this piece belongs to")
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
        """Room for an upload that can be kept; what is kept of others to its target gives way."""

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
        """Give the room back when the quota has it and the disk hasn't. Raises DiskFull."""
        try:
            if place.above is None:
                self._ledger.until_on_disk(lambda: self._home.check_disk(lease.size))
            else:  # another file system, on which there is no trash
                self._home.check_disk(lease.size, place.above)
        except DiskFull:
            self._ledger.release(lease)
            raise

    def add_change(self, request_id: int, change: Change) -> None:
        """Have a change made, in its turn, by the commit."""
        if isinstance(change, Remove):
            self._room.take(0, None)  # what frees room holds a lease too
            self._batch.looks |= change.only_if_same
        elif not isinstance(change, SetAttributes):
            self._room.take_names(change)
            self._batch.makes_links |= isinstance(change, MakeLink)
        self._batch.pending.append(_Pending(request_id, change.path, change=change))

    def add_outcome(self, request_id: int, outcome: Message) -> None:
        """Answer a request in its turn among those of the batch."""
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
        """Keep the room of an upload that was interrupted."""
        try:
            self._ledger.keep(lease)
        except NOT_NOW as error:  # nobody has it now, so the next heartbeat keeps it
            logger.warning("a reservation is kept later: %s", error)

    def _unlink(self, name: bytes, place: Place | None = None) -> None:
        """Remove something from staging, unless it was placed already."""
        unlink_if_there(self._home.staging_fd if place is None else place.fd, name)

    # files that are written in any order -------------------------------------------------

    def is_in_tree(self, path: bytes) -> bool:
        """Whether what is put there now goes to a tree that is on its way."""
        return paths.STAGING in self._home.network_of(target_of(path))

    def identity(self, path: bytes) -> tuple[int, int] | None:
        """The device and inode of what is at a path now; None where nothing is."""
        try:
            info = self._home.stat(self._home.network_of(target_of(path)), follow=False)
        except FileNotFoundError:
            return None
        return info.st_dev, info.st_ino

    def finish(self) -> None:
        """Make all that was taken in durable and visible; its outcomes wait for `commit`."""
        self._finish_batch()

    def commit_now(self, request_id: int) -> Message | FilesOutcome:
        """Commit, and return the outcome of one request; the others wait for `commit`."""
        self._finish_batch()
        for at, (one, outcome) in enumerate(self._done):
            if one == request_id:
                del self._done[at]
                return outcome
        raise AssertionError(f"nothing was asked for under {request_id}")

    # commit ------------------------------------------------------------------------------

    def commit(self, *, late: bool = False) -> list[Outcome]:
        """Make all that was taken in durable and visible; returns every answer, in order.

        Args:
            late: The client is gone, and may be back over another connection already.
        """
        self._finish_batch(late=late)
        done, self._done = self._done, []
        return done

    def go_idle(self) -> None:
        """Nothing is under way for a while: give back the room that was taken for nothing."""
        if self.pending:
            return
        if self._room.leases:
            self._abandon()
        else:
            self._leave_places()

    def abandon(self) -> None:
        """Drop what was staged and not committed. For a session, or a request, that failed."""
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
        """Close what is open of other directories, unless something is staged there."""
        if not self._receiving and not self._batch.pending:
            self._places.close()

    def _take_batch(self) -> _Batch:
        """What has joined it, with what it holds; the next one begins."""
        batch, self._batch = self._batch, _Batch()
        batch.leases_are_durable = self._room.is_durable
        batch.leases = self._room.hand_over()
        for pending in batch.pending:
            if pending.part is not None:
                batch.places += [one for one in pending.part.places if one not in batch.places]
        return batch

    def _drop_batch(self, batch: _Batch) -> None:
        with ExitStack() as stack:  # all of it, whatever fails of it
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
        except Exception as error:  # whatever it is, nobody is left without an answer
            failure = _failed(_told(error))
            try:
                self._drop_batch(batch)
            except Exception:
                logger.exception("a batch could not be dropped: the next start cleans up")
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
        # what says that the home is to be counted comes to the disk before what it says that of
        quota_store = () if batch.leases_are_durable else self._ledger.to_sync()
        if self._durable:
            self._sync_files(_staged_of(batch), batch.places, quota_store)
        else:
            self._syncs.sync(quota_store)
        self._home.take_turn()  # again, if the disk was waited for: others are at their own commits
        self._begin_commit(batch)
        staged = _staged_of(batch)
        removals = [
            pending.change
            for pending in batch.pending
            if isinstance(pending.change, Remove) and not pending.change.final
        ]
        failure = None
        # locked until it is settled, or a recount would count it twice
        with self._keeping(removals) as operation, self._locked(batch):
            commit = Commit(
                self._home, self._places, self._syncs, keep_times=late, operation=operation
            )
            commit.announce(removals)  # if that fails, nothing was done, and the batch is dropped
            try:
                outcomes = self._apply_all(commit, batch)
                commit.finish()
                if self._durable:
                    commit.sync()
            except Exception as error:  # it is visible, but it can't be called durable
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
                # what is stored is durable, and is told as that: the lease is there still, and has
                # the home counted, by this run's next settlement or by the next start
                self.settled = None
                logger.error("what was stored is settled later: %s", error)
            finally:
                for one in staged:
                    one.close()  # its bytes have their name now, or were refused it
        self.remarks |= commit.remarks
        if failure is not None:
            return [(p.request_id, p.outcome or failure) for p in batch.pending]
        return outcomes

    @contextmanager
    def _keeping(self, removals: list[Remove]) -> Iterator[Operation | None]:
        """Have the place ready where what is removed goes, before the home's lock is taken: who
        restores from there waits for that lock. Where things are replaced at most, it isn't known
        yet whether anything is going there, and nothing is made, nor made again."""
        operation = self._home.operation
        if operation is None or (not removals and not operation.is_there):
            yield operation
            return
        self._home.will_block()
        # uploads wait for nobody who restores; what they replace is another operation then
        with self._home.keeping(waiting=bool(removals)) as ready:
            if ready is None:
                self.remarks.add(NO_ROOM)
            yield ready

    def _begin_commit(self, batch: _Batch) -> None:
        """Say that renames follow, and take what can be resumed out of the reach of other sessions,
        both in one step of each. Those that were taken over before fail alone."""
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
        """Have those fail alone whose lease another session has, but not their files: it has died,
        or a full disk has stopped it, in between. They stay for whoever has their room next."""
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
            self._keep(lease)  # unless it is another session's by now

    def _locked(self, batch: _Batch) -> AbstractContextManager[None]:
        """Hold the home's lock for a batch: alone where it may replace something, and two names
        can't be exchanged, and where it looks at something before it removes it: nothing comes in
        between then. From its start: a lock that is held shared can't become one that is held alone
        without letting others in between."""
        places = list(batch.places)
        if batch.makes_links:
            places.append(self._places.of(()))
        if not batch.looks and all(map(self._places.can_exchange, places)):
            return self._home.shared()
        return self._home.alone()

    def _drop_replaced(self, kept: list[bytes], targets: set[Parts]) -> None:
        """Drop what is kept of other uploads to these targets. What can't be is dropped in time."""
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
                logger.warning("what is kept of an earlier upload is dropped later: %s", error)

    def _sync_files(
        self, staged: list[Staged], places: list[Place], quota_store: Sequence[int]
    ) -> None:
        """Sync the staged files: few together with those of other sessions, many by themselves,
        with their file system.

        Args:
            quota_store: Descriptors that are synced as well.

        After a failure they are dropped and never synced again: the kernel has forgotten
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
            self._syncs.sync(quota_store)
            return
        self._syncs.sync([*quota_store, *(one.fd for one in staged)])

    def _one_of_each_disk(self, places: list[Place]) -> list[int]:
        """Something on each file system that files are staged on: each is synced once."""
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
    """The error to tell the client; one of the server's own is logged."""
    if isinstance(error, (CommandError, OSError)):
        return error
    expected = isinstance(error, StateError)  # which says it in one line
    logger.error("a batch failed: %s", error, exc_info=None if expected else error)
    return Internal("internal error")


_APPLIED = Done()
"""In the place of what became of a part of a `PutFiles`, which knows that itself."""


def _refused(error: CommandError | OSError, path: bytes) -> Failed:
    """As `_failed`, of a part of a request, which has no answer of its own."""
    if isinstance(error, InvalidPath):  # it may be as long as a path may be
        return Failed.from_error(error, path)
    return _failed(error, path)


def _failed(error: CommandError | OSError, path: bytes = b"") -> Failed:
    what = paths.show(path) if path else ""
    if isinstance(error, OSError):
        return Failed.from_error(from_oserror(error, what), path or None)
    if what and what not in str(error):
        error = error.with_text(f"{what}: {error}")
    return Failed.from_error(error, path or None)
