"""Uploads: staging, verification, and the commit that makes a batch durable and visible.

Lives here: everything between the first byte of an upload and its acknowledgement.
Lives elsewhere: the frames the bytes come in (session.py), room (ledger.py), the tree and its
lock (homes.py).

The order, in which a crash at any point is repaired by the next start: reserve room → write
and hash in staging → compare digests → mode, mtime and digest attribute → sync the files →
mark the lease as committing → rename → sync the directories → settle → acknowledge. All of it
after the writing is done once for a batch, so that many small uploads share each sync.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from ftpserver.homes import MODE_BITS, Home, Parts, keep_digest
from ftpserver.ledger import Lease, Ledger
from ftpwire import beneath, digests, paths
from ftpwire.digests import StoredDigest
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotNewer,
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
    Overwrite,
    Put,
    Sent,
    SetAttributes,
    Stored,
)
from ftpwire.streams import WriteBehind, write_all

SMALL = 256 * 1024
"""Uploads up to this many bytes are taken in memory and staged at once."""
SHARES_STEP = 4 * 1024 * 1024
"""Uploads up to this many bytes take their room from a lease that the batch shares."""
BATCH_FILES = 1000
BATCH_BYTES = 64 * 1024 * 1024
_SYNC_EACH = 4
"""So many files or directories are synced one by one; from there on their file system is."""
_OPEN_DIRECTORIES = 64

_STAGE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

Change = Put | MakeDir | MakeLink | SetAttributes
Outcome = tuple[int, Message]
"""A request's id, and the reply or `Failed` to send for it."""


@dataclass(slots=True)
class Staged:
    """A verified file in staging, waiting for its batch."""

    name: bytes
    target: Parts
    size: int
    mtime_ns: int | None
    overwrite: Overwrite
    fd: int = -1
    """Open while there are few, to be synced one by one."""


@dataclass(slots=True)
class _Pending:
    request_id: int
    change: Change | None = None
    staged: Staged | None = None
    outcome: Message | None = None


@dataclass
class _Batch:
    pending: list[_Pending] = field(default_factory=list)
    size: int = 0
    files: int = 0
    leases: list[Lease] = field(default_factory=list)
    """What its files hold; those of large ones are their own."""
    step: Lease | None = None
    """The one of them that small files share."""
    unused: int = 0
    """Of the step, what no staged file has taken yet, in bytes."""


class Uploads:
    """The uploads of one session: a batch that fills up, and is then committed. One thread.

    What is staged or asked for here is done, and answered, by ``commit``, in order.
    """

    def __init__(self, home: Home, ledger: Ledger, account_id: int, *, durable: bool) -> None:
        self._home = home
        self._ledger = ledger
        self._account_id = account_id
        self._durable = durable
        self._batch = _Batch()
        self._done: list[Outcome] = []

    @property
    def pending(self) -> bool:
        """Whether a commit would answer something."""
        return bool(self._batch.pending or self._done)

    @property
    def full(self) -> bool:
        """Whether the batch should be committed before more comes."""
        batch = self._batch
        return len(batch.pending) >= BATCH_FILES or batch.size >= BATCH_BYTES

    # taking in ---------------------------------------------------------------------------

    def check(self, request: Put) -> Parts:
        """Refuse early what a commit would refuse late. For uploads that ask first.

        Raises:
            CommandError, OSError: As the commit would.
        """
        target = _target(request.path)
        directory, name = self._home.tree.parent(target)
        try:
            there = _lstat(directory, name)
            if there is not None:
                _may_replace(there, request.overwrite, request.mtime_ns)
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
        target = _target(request.path)
        digest = digests.digest(data)
        _verify(request, len(data), digest, sent)
        self._take_room(len(data))
        name = self._home.new_name()
        fd = os.open(name, _STAGE, 0o600, dir_fd=self._home.staging_fd)
        try:
            write_all(fd, data)
            _dress(fd, request, len(data), digest)
        except BaseException:
            os.close(fd)
            self._drop(name)
            self._batch.unused += len(data)
            raise
        self._add(request_id, name, target, len(data), fd, request)

    def stage_large(self, request_id: int, request: Put) -> Staging:
        """Begin an upload that comes in pieces. Its room is reserved now, if its size is known.

        Raises:
            CommandError, OSError: It is refused.
        """
        target = _target(request.path)
        lease = None
        if request.size is not None and request.size <= SHARES_STEP:
            self._take_room(request.size)
        else:
            lease = self._reserve(request.size or 0)
        name = self._home.new_name()
        try:
            fd = os.open(name, _STAGE, 0o600, dir_fd=self._home.staging_fd)
        except OSError:
            self._give_back(lease, request.size or 0)
            raise
        return Staging(self, request_id, request, target, name, fd, lease)

    def add_change(self, request_id: int, change: MakeDir | MakeLink | SetAttributes) -> None:
        """Have a change made, in its turn, by the commit."""
        if isinstance(change, MakeLink):
            self._take_room(0)  # it may replace a file: what frees room holds a lease too
        self._batch.pending.append(_Pending(request_id, change=change))

    def add_outcome(self, request_id: int, outcome: Message) -> None:
        """Answer a request in its turn among those of the batch."""
        self._batch.pending.append(_Pending(request_id, outcome=outcome))

    def _add(
        self, request_id: int, name: bytes, target: Parts, size: int, fd: int, request: Put
    ) -> None:
        batch = self._batch
        staged = Staged(name, target, size, request.mtime_ns, request.overwrite)
        batch.files += 1
        batch.size += size
        if self._durable and batch.files <= _SYNC_EACH:
            staged.fd = fd
        else:
            os.close(fd)
        batch.pending.append(_Pending(request_id, staged=staged))

    def _take_room(self, size: int) -> None:
        """Take room for a small file from the batch's step, or make that larger."""
        batch = self._batch
        if batch.step is not None and batch.unused >= size:
            batch.unused -= size
            return
        try:
            self._extend_step(size)
        except QuotaExceeded:
            self._finish_batch()  # gives back what it holds and doesn't need
            self._extend_step(size)

    def _extend_step(self, size: int) -> None:
        batch = self._batch
        if batch.step is None:
            batch.step = self._ledger.reserve_step(self._account_id, size)
            batch.leases.append(batch.step)
            batch.unused = batch.step.size - size
        else:
            before = batch.step.size
            self._ledger.extend(batch.step, size - batch.unused)
            batch.unused += batch.step.size - before - size

    def _reserve(self, size: int) -> Lease:
        """Room for one large file, exactly."""
        try:
            return self._ledger.reserve(self._account_id, size)
        except QuotaExceeded:
            self._finish_batch()
            return self._ledger.reserve(self._account_id, size)

    def _give_back(self, lease: Lease | None, size: int) -> None:
        """Of an upload that failed: its own lease, or its part of the step."""
        if lease is None:
            self._batch.unused += size
        else:
            self._ledger.release(lease)

    def _drop(self, name: bytes) -> None:
        os.unlink(name, dir_fd=self._home.staging_fd)

    # commit ------------------------------------------------------------------------------

    def commit(self) -> list[Outcome]:
        """Make all that was taken in durable and visible; returns every answer, in order."""
        self._finish_batch()
        done, self._done = self._done, []
        return done

    def abandon(self) -> None:
        """Drop what was staged and not committed. For a session that ends."""
        batch, self._batch = self._batch, _Batch()
        self._drop_batch(batch)

    def _drop_batch(self, batch: _Batch) -> None:
        for pending in batch.pending:
            if pending.staged is not None:
                self._drop_staged(pending.staged)
        for lease in batch.leases:
            self._ledger.release(lease)

    def _drop_staged(self, staged: Staged) -> None:
        if staged.fd >= 0:
            os.close(staged.fd)
            staged.fd = -1
        try:
            self._drop(staged.name)
        except FileNotFoundError:
            pass  # it was placed already

    def _finish_batch(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if not batch.pending:
            self._drop_batch(batch)
            return
        try:
            outcomes = self._commit_batch(batch)
        except (CommandError, OSError) as error:
            failure = _failed(error)
            self._drop_batch(batch)
            outcomes = [(p.request_id, p.outcome or failure) for p in batch.pending]
        self._done.extend(outcomes)

    def _commit_batch(self, batch: _Batch) -> list[Outcome]:
        staged = [p.staged for p in batch.pending if p.staged is not None]
        if self._durable:
            self._sync_files(staged)
        if batch.leases:
            self._ledger.begin_commit(batch.leases)
        commit = _Commit(self._home)
        failure = None
        try:
            with self._home.shared():
                outcomes = [(p.request_id, self._apply(commit, p)) for p in batch.pending]
                if self._durable:
                    commit.sync()
        except OSError as error:  # it is visible, but it can't be called durable
            failure = _failed(error)
        finally:
            commit.close()
        try:
            if batch.leases:
                self._ledger.settle(batch.leases, commit.change)
        except CommandError as error:
            failure = _failed(error)
        if failure is not None:
            return [(p.request_id, p.outcome or failure) for p in batch.pending]
        return outcomes

    def _sync_files(self, staged: list[Staged]) -> None:
        """Sync the staged files, few one by one, many together.

        After a failure they are dropped and never synced again: the kernel has forgotten
        the pages that it could not write (PostgreSQL's fsyncgate).
        """
        together = any(one.fd < 0 for one in staged)
        if together:
            try:
                beneath.sync_file_system(self._home.staging_fd)
            except beneath.Unsupported:
                for one in staged:
                    self._sync_by_name(one)
        for one in staged:
            if one.fd >= 0:
                if not together:
                    os.fsync(one.fd)
                os.close(one.fd)
                one.fd = -1

    def _sync_by_name(self, staged: Staged) -> None:
        fd = os.open(staged.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._home.staging_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _apply(self, commit: _Commit, pending: _Pending) -> Message:
        if pending.outcome is not None:
            return pending.outcome
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
            return Done()
        except (CommandError, OSError) as error:
            if pending.staged is not None:
                self._drop_staged(pending.staged)
            path = paths.join(*pending.staged.target) if pending.staged else b""
            if pending.change is not None:
                path = paths.RemotePath(pending.change.path)
            return _failed(error, path)


class Staging:
    """One upload that comes in pieces: receive into ``sink``, then ``finish``.

    As a context manager it leaves nothing behind when it was not finished.
    """

    def __init__(
        self,
        uploads: Uploads,
        request_id: int,
        request: Put,
        target: Parts,
        name: bytes,
        fd: int,
        lease: Lease | None,
    ) -> None:
        self._uploads = uploads
        self._lease = lease
        self._request_id = request_id
        self._request = request
        self._target = target
        self._name = name
        self._fd = fd
        self._reserved = request.size or 0
        self.sink = WriteBehind(fd)
        self._finished = False

    def expect(self, total: int) -> None:
        """Say that the file has ``total`` bytes by now at least.

        Raises:
            VerificationFailed: More than was announced.
            QuotaExceeded: Its size is not known, and there is no more room.
        """
        if total <= self._reserved:
            return
        if self._request.size is not None:
            raise VerificationFailed(
                f"more bytes came than the {self._request.size} that were announced"
            )
        assert self._lease is not None
        before = self._lease.size
        self._uploads._ledger.extend(self._lease, total - self._reserved)
        self._reserved += self._lease.size - before

    def finish(self, sent: Sent) -> None:
        """Verify the file against what was sent, and leave it to the next commit.

        Raises:
            VerificationFailed, OSError: Nothing is kept of it.
        """
        digest = self.sink.finish()
        size = self.sink.size
        _verify(self._request, size, digest, sent)
        _dress(self._fd, self._request, size, digest)
        self._finished = True
        if self._lease is not None:
            self._uploads._batch.leases.append(self._lease)
        self._uploads._add(
            self._request_id, self._name, self._target, size, self._fd, self._request
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sink.__exit__(kind, error, trace)
        if not self._finished:
            os.close(self._fd)
            self._uploads._drop(self._name)
            self._uploads._give_back(self._lease, self._reserved)


class _Commit:
    """The visible part of one batch: renames and changes under the home's lock.

    Directory handles live as long as this, and no longer: a directory that was moved or
    discarded meanwhile would swallow what is put into it.

    Attributes:
        change: Bytes that are stored more (or fewer) than before.
    """

    def __init__(self, home: Home) -> None:
        self.change = 0
        self._home = home
        self._open: OrderedDict[Parts, int] = OrderedDict()
        self._touched: set[Parts] = set()

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _directory(self, parts: Parts) -> int:
        fd = self._open.get(parts)
        if fd is not None:
            self._open.move_to_end(parts)
            return fd
        if len(self._open) >= _OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        fd = self._home.tree.open_dir(parts)
        self._open[parts] = fd
        return fd

    def sync(self) -> None:
        """Make the names durable: few directories one by one, many together."""
        if len(self._touched) > _SYNC_EACH:
            try:
                beneath.sync_file_system(self._home.fd)
                return
            except beneath.Unsupported:
                pass  # one by one then
        for parts in self._touched:
            try:
                os.fsync(self._directory(parts))
            except FileNotFoundError:
                pass  # a later change of this batch made it go

    def place(self, staged: Staged) -> None:
        """Give a staged file its name."""
        parent, name = staged.target[:-1], staged.target[-1]
        self._put_in_place(staged.name, parent, name, staged.overwrite, staged.mtime_ns)
        self.change += staged.size

    def _put_in_place(
        self,
        staged: bytes,
        parent: Parts,
        name: bytes,
        overwrite: Overwrite,
        mtime_ns: int | None,
    ) -> None:
        directory = self._directory(parent)
        staging = self._home.staging_fd
        try:
            beneath.rename_new(staging, staged, directory, name)
        except FileExistsError:
            there = _lstat(directory, name)
            if there is not None:
                _may_replace(there, overwrite, mtime_ns)
            self._replace(staging, staged, directory, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise InvalidPath(
                "another file system is mounted there, which uploads can't reach"
            ) from None
        self._touched.add(parent)

    def _replace(self, staging: int, staged: bytes, directory: int, name: bytes) -> None:
        """Swap, then measure what came out: what was measured is what went away."""
        try:
            beneath.exchange(staging, staged, directory, name)
        except beneath.Unsupported:
            there = _lstat(directory, name)
            os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=directory)
            if there is not None and stat.S_ISREG(there.st_mode):
                self.change -= there.st_size
            return
        came_out = os.stat(staged, dir_fd=staging, follow_symlinks=False)
        if stat.S_ISDIR(came_out.st_mode):  # put there since we looked: give it back
            beneath.exchange(staging, staged, directory, name)
            raise IsADirectory("a directory is there")
        self.change -= self._home.drop_staged(staged)

    def make_dir(self, request: MakeDir) -> None:
        parts = paths.split(request.path)
        if not parts:
            if request.parents:
                return
            raise AlreadyExists("the home itself exists")
        mode = request.mode & MODE_BITS
        try:
            self._make_one(parts, mode)
        except FileExistsError:
            if not request.parents:
                raise
            self._must_be_dir(parts)
        except FileNotFoundError:
            if not request.parents:
                raise
            for count in range(1, len(parts)):
                try:
                    self._make_one(parts[:count], 0o755)
                except FileExistsError:
                    pass
            self._make_one(parts, mode)

    def _make_one(self, parts: Parts, mode: int) -> None:
        directory = self._directory(parts[:-1])
        # 0700: its contents come next; the exact mode despite the umask
        os.mkdir(parts[-1], mode | 0o700, dir_fd=directory)
        fd = os.open(parts[-1], beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.chmod(fd, mode)
        finally:
            os.close(fd)
        self._touched.add(parts[:-1])
        self._touched.add(parts)

    def _must_be_dir(self, parts: Parts) -> None:
        if not stat.S_ISDIR(self._home.stat(parts, follow=True).st_mode):
            raise NotADirectory("a file is there")

    def make_link(self, request: MakeLink) -> None:
        parts = _target(request.path)
        if paths.STAGING in request.target.split(b"/"):
            raise InvalidPath("a link may not lead to the reserved name")
        if b"\0" in request.target:
            raise InvalidPath("a link's target has a NUL byte")
        staged = self._home.new_name()
        os.symlink(request.target, staged, dir_fd=self._home.staging_fd)
        try:
            if request.mtime_ns is not None:
                os.utime(
                    staged,
                    ns=(time.time_ns(), request.mtime_ns),
                    dir_fd=self._home.staging_fd,
                    follow_symlinks=False,
                )
            self._put_in_place(staged, parts[:-1], parts[-1], request.overwrite, request.mtime_ns)
        except BaseException:
            os.unlink(staged, dir_fd=self._home.staging_fd)
            raise

    def set_attributes(self, request: SetAttributes) -> None:
        parts = paths.split(request.path)
        fd = self._home.tree.open(parts, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            info = os.fstat(fd)
            if not stat.S_ISDIR(info.st_mode):
                info = beneath.regular(fd)
            if request.mtime_ns is not None:
                os.utime(fd, ns=(info.st_atime_ns, request.mtime_ns))
            if request.mode is not None:
                os.chmod(fd, request.mode & MODE_BITS)
            if stat.S_ISDIR(info.st_mode):
                self._touched.add(parts)
            elif self._home.durable:
                os.fsync(fd)
        finally:
            os.close(fd)


def _target(path: bytes) -> Parts:
    parts = paths.split(path)
    if not parts:
        raise IsADirectory("/: the home itself is a directory")
    return parts


def _lstat(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _may_replace(there: os.stat_result, overwrite: Overwrite, mtime_ns: int | None) -> None:
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectory("a directory is there")
    if overwrite == "never":
        raise AlreadyExists("it exists, and it is not to be replaced")
    if overwrite == "older" and mtime_ns is not None and there.st_mtime_ns >= mtime_ns:
        raise NotNewer("what is there is as new")


def _verify(request: Put, size: int, digest: bytes, sent: Sent) -> None:
    if size != sent.size or request.size not in (None, size):
        raise VerificationFailed(
            f"{size} bytes arrived; {sent.size} were sent"
            + ("" if request.size is None else f", {request.size} announced")
        )
    if sent.digest is not None and sent.digest != digest:
        raise VerificationFailed("what arrived has another digest than what was sent")


def _dress(fd: int, request: Put, size: int, digest: bytes) -> None:
    """Set mtime, digest attribute and mode, in the one order that works (the mode last)."""
    if request.mtime_ns is not None:
        os.utime(fd, ns=(request.mtime_ns, request.mtime_ns))
        mtime_ns = request.mtime_ns
    else:
        mtime_ns = os.fstat(fd).st_mtime_ns
    keep_digest(fd, StoredDigest(digest, size, mtime_ns, request.upload_id or bytes(16)))
    os.chmod(fd, request.mode & MODE_BITS)


def _failed(error: CommandError | OSError, path: bytes = b"") -> Failed:
    what = paths.show(path) if path else ""
    if isinstance(error, OSError):
        return Failed.from_error(from_oserror(error, what))
    if what and what not in str(error):
        return Failed(error.code, f"{what}: {error}", error.needed, error.free)
    return Failed.from_error(error)
