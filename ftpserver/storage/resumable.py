"""Resumable uploads: staging files that a later session continues, their owners and checkpoints.

Lives here: names that a later session finds, checkpoints, taking an upload over, discarding a kept
one.
Lives elsewhere: staging files of one session (staging.py), pieces (piece_table.py), the locks
(upload_locks.py), the lease that belongs to the files (ledger.py).

The owner of an upload is the session whose open checkpoint is the file at the checkpoint's name. A
session that takes an upload over puts a new checkpoint there, and makes the lease its own, while it
holds the lock of the staging file. The previous owner finds out in its next step: each step takes
that lock, checks that the upload is still its own, and otherwise changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.home import Home
from ftpserver.storage.piece_table import (
    Collector,
    PieceTable,
    end_table,
    staging_of_table,
    table_name,
)
from ftpserver.storage.quota import Lease, LeaseStore
from ftpserver.storage.staging import PIECE, Staging
from ftpserver.storage.staging_dirs import StagingDir
from ftpserver.storage.upload_locks import (
    TakenOver,
    is_range_locked,
    lock,
    try_lock,
    try_range,
    unlock,
)
from ftpwire import beneath, digests, holes, paths
from ftpwire.errors import Busy, CommandError
from ftpwire.holes import Hole
from ftpwire.messages import Put, Sent
from ftpwire.paths import Parts
from ftpwire.streams import BUFFER_SIZE, WriteBehind

logger = logging.getLogger("ftpd.uploads")

RESUME_FROM = 4 * 1024 * 1024
"""Smaller uploads start over: that takes less time than asking how much has arrived."""
KEPT_PREFIX = b"u-"
_CHECKPOINT_SUFFIX = b".ck"
_OWNING = 0
"""The byte of a checkpoint that its owner locks."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a FIFO doesn't block
_OPEN_TO_WRITE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE = _OPEN_TO_WRITE | os.O_CREAT | os.O_EXCL
_OPEN_CHECKPOINT = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_APPEND


def kept_name(account_id: int, target: Parts, size: int | None, mtime_ns: int | None) -> bytes:
    """Return the staging name of a large upload: the same for the same account, source and target.

    Several accounts may share a home. None of them finds the uploads of another.
    """
    return kept_names(account_id, target, size, mtime_ns)[0]


def kept_names(
    account_id: int, target: Parts, size: int | None, mtime_ns: int | None
) -> tuple[bytes, bytes]:
    """Return that name, and the one that an earlier version gave the same upload. That one doesn't
    depend on the account; the lease says whose it is."""
    source = hashlib.sha256(b"%d %d" % (size or 0, mtime_ns or 0)).hexdigest()[:8].encode()
    now, before = target_prefixes(account_id, target)
    return now + source, before + source


def target_prefixes(account_id: int, target: Parts) -> tuple[bytes, bytes]:
    """Return the prefix of the staging names of all uploads of an account to one target, and the
    prefix that an earlier version used."""
    path = b"/".join(target)
    return _prefix(b"%d:/%s" % (account_id, path)), _prefix(path)


def _prefix(of: bytes) -> bytes:
    return KEPT_PREFIX + hashlib.sha256(of).hexdigest()[:16].encode() + b"-"


def checkpoint_name(name: bytes) -> bytes:
    """Return the name of the checkpoint beside a staging file."""
    return name + _CHECKPOINT_SUFFIX


def staging_of(name: bytes) -> bytes:
    """Return the staging file that a name in staging belongs to: itself, or the file whose
    checkpoint or table of pieces it is."""
    return staging_of_table(name).removesuffix(_CHECKPOINT_SUFFIX)


class ResumableStaging(Staging):
    """A large upload, which a later session can resume, or take over.

    ``_turn`` guards ``_depth``: the threads of a session take their steps one after another.

    Attributes:
        lease: The lease that reserves its quota.
        key: The key under which pieces of it are accepted; None: it takes none.

    Raises (by ``open``):
        Busy: Another session's step takes too long.
    """

    def __init__(
        self,
        home: Home,
        request: Put,
        name: bytes,
        fd: int,
        staging_dir: StagingDir,
        cut: Callable[[bytes], None],
    ) -> None:
        super().__init__(request, name, fd, staging_dir)
        self.lease: Lease | None = None
        self.key: bytes | None = None
        self._home = home
        self._cut = partial(cut, request.path)
        self._turn = threading.RLock()
        self._depth = 0
        self._checkpoint: Checkpoint | None = None
        """None until the upload is this session's."""
        self._withdrawn = False
        self._started = False
        self._mode = 0
        """The mode of the finished file; 0 before."""
        self._hasher = digests.new()
        self._collector: Collector | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        home: Home,
        request: Put,
        name: bytes,
        cut: Callable[[bytes], None] = lambda path: None,
        staging_dir: StagingDir | None = None,
    ) -> Iterator[ResumableStaging]:
        """Open or make the staging file of an upload, and hold its lock. A context manager; in it,
        the caller first makes the lease its own, then the files (``own``).

        Args:
            cut: Ends the caller's session when another session has taken the upload over. Called
                with the upload's path.
            staging_dir: Where the file is made. It is moved to the home's own staging in any case.
        """
        staging_dir = staging_dir or StagingDir(home.staging_fd)
        while True:
            fd = _open_or_create(home, name, staging_dir)
            try:
                lock(fd)
                found = is_at(fd, home.staging_fd, name)
            except BaseException:
                os.close(fd)
                raise
            if found:
                break
            os.close(fd)  # its owner has removed it, or renamed it to its target
        staging = cls(home, request, name, fd, staging_dir, cut)
        staging._depth = 1
        try:
            with staging._turn:
                yield staging
        except BaseException:
            if staging.fd >= 0:  # failed before the lease was known
                if not os.fstat(fd).st_size and not _has_owner(home, name):
                    unlink_if_there(home.staging_fd, name)
                staging.close()
            raise
        finally:
            staging._step_is_over()

    def own(self) -> None:
        """Make the files this session's. The previous owner finds out in its next step.

        If the previous owner is still running, all bytes that it has written count; otherwise only
        those before its last checkpoint do. No pieces are taken if the file system has no locks for
        them.
        """
        staging, size = self._home.staging_fd, os.fstat(self.fd).st_size
        target = paths.join(*paths.split(self._request.path))
        with Checkpoint(staging, checkpoint_name(self.name)) as before:
            records = before.read(size)
            if before.is_owned():
                end_table(staging, self.name, self.fd, None)
            else:
                size = records[-1][0] if records else 0
                end_table(staging, self.name, self.fd, size)
                os.ftruncate(self.fd, size)
        size = os.fstat(self.fd).st_size
        records = [one for one in records if one[0] <= size]
        self._checkpoint = Checkpoint.renew(
            staging,
            checkpoint_name(self.name),
            self._home.new_name(),
            target,
            records,
            durable=self._home.durable,
        )
        if not self._checkpoint.is_locked:
            self.key = None

    # steps -------------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        """Do something with the files while no other session does. A context manager.

        Raises:
            TakenOver: Another session owns the upload. This session is ended.
            Busy: Another session's step takes too long.
        """
        with self._turn:
            if not self._depth:  # else a step around this one holds the lock
                lock(self.fd)
            self._depth += 1
            try:
                self.look()
                yield
            finally:
                self._step_is_over()

    def _step_is_over(self) -> None:
        self._depth -= 1
        if not self._depth and self.fd >= 0:
            unlock(self.fd)

    def look(self) -> None:
        """Check that no other session has taken the upload over; else end this session. Raises
        TakenOver."""
        if self._withdrawn or self._checkpoint is None or self._checkpoint.is_there():
            return
        self._cut()
        raise TakenOver("another session has resumed this upload")

    @property
    def _marks(self) -> Checkpoint:
        assert self._checkpoint is not None
        return self._checkpoint

    # receiving ---------------------------------------------------------------------------

    def resume(self, progress: Callable[[int], None]) -> bytes | None:
        """Find out how many bytes have arrived and are intact; set ``offset`` to that.

        The bytes are read, and compared with the checkpoints. From the first piece with a lost or
        corrupt byte on, all bytes are sent again.

        Args:
            progress: Called now and then with the number of bytes read.

        Returns:
            The digest of the bytes before ``offset``; None if there are none.
        """
        good, hasher = 0, digests.new()
        records = self._marks.read(os.fstat(self.fd).st_size)
        trial = digests.new()
        for count, (offset, digest) in enumerate(records):
            hash_range(self.fd, good, offset, trial, progress)
            if trial.digest() != digest:
                records = records[:count]
                break
            good, hasher = offset, trial.copy()
        else:
            size = os.fstat(self.fd).st_size
            if size > good and size >= RESUME_FROM:  # the previous owner is still running: see own
                hash_range(self.fd, good, size, trial, progress)
                if self._home.durable:
                    os.fdatasync(self.fd)
                good, hasher = size, trial
                records.append((good, hasher.digest()))
        self.start_at(good, hasher, records)
        return hasher.digest() if good else None

    def start_at(self, offset: int, hasher: digests.new, records: list[tuple[int, bytes]]) -> None:
        """Make the sink continue after the first ``offset`` bytes, and discard the rest."""
        with self.step():
            before = self._marks.read(os.fstat(self.fd).st_size)
            os.ftruncate(self.fd, offset)
            if before != records[: len(before)]:
                self._marks.write(records)
            else:  # keep the old records: if they were rewritten, a power cut could lose them
                for record in records[len(before) :]:
                    self._marks.append(*record)
        self._started = True
        os.lseek(self.fd, offset, os.SEEK_SET)
        self.offset = offset
        self._hasher = hasher
        self.sink = _CheckpointedWriter(self, offset, hasher)

    def start_over(self) -> None:
        """Discard all bytes that have arrived."""
        self.start_at(0, digests.new(), [])

    def take_pieces(self, size: int) -> Collector:
        """Receive the rest in pieces, from several sessions, instead of through the sink."""
        staging, key = self._home.staging_fd, self.key
        assert key is not None
        with self.step():
            table = PieceTable.create(
                staging, self.name, self._home.new_name(), key, size, self.offset
            )
        self._collector = Collector(
            table,
            self.fd,
            self.offset,
            self._hasher,
            self.mark,
            lambda: self._end_pieces(table),
            self._cut,
        )
        return self._collector

    def _end_pieces(self, table: PieceTable) -> None:
        with self.step():
            table.end(self._home.staging_fd, self.name, self.fd)

    @property
    def total(self) -> int:
        if self._collector is not None:
            return self._collector.frontier
        return super().total

    def finish(self, sent: Sent, progress: Callable[[int], None] | None = None) -> None:
        self._hashed(progress)  # outside of the step, because it may take long
        with self.step():
            super().finish(sent, progress)
            self._mode = os.fstat(self.fd).st_mode

    def _hashed(self, progress: Callable[[int], None] | None = None) -> bytes:
        if self._collector is not None:
            return self._collector.finish(progress)
        return super()._hashed(progress)

    def mark(self, offset: int, digest: bytes) -> None:
        """Write a checkpoint: this many bytes have arrived without a gap."""
        if self._home.durable:
            os.fdatasync(self.fd)
        with self.step():
            self._marks.append(offset, digest)

    # its end -----------------------------------------------------------------------------

    def withdraw(self) -> bytes:
        """Rename it to a name that no other session looks for. After that, no session can take it
        over, and the commit can rename it to its target."""
        with self.step():
            name = self._home.new_name()
            staging = self._home.staging_fd
            self._marks.remove()
            self._withdrawn = True
            os.rename(self.name, name, src_dir_fd=staging, dst_dir_fd=staging)
            self.name = name
            # `open_kept` of a waiting session may have changed the mode
            if self._mode and os.fstat(self.fd).st_mode != self._mode:
                os.chmod(self.fd, stat.S_IMODE(self._mode))
        return name

    def keep(self) -> bool:
        """Leave it for a later session to resume. True also if one has taken it over already."""
        try:
            if not self._started:  # interrupted during the check: nothing has changed
                if not self._marks.read(os.fstat(self.fd).st_size):
                    return False
            else:
                digest = self._hashed()
                if self.total < RESUME_FROM:
                    return False
                self.mark(self.total, digest)
        # It is another session's, or stays as it was at its last checkpoint.
        except Busy as error:
            if self._collector is not None and not isinstance(error, TakenOver):
                return False  # a session that sends a piece may still be writing
        except (OSError, CommandError):
            return False  # the disk is full or failing: nothing is better than something doubtful
        self.close()
        return True

    def drop(self) -> None:
        """Remove it, unless another session has taken it over."""
        staging = self._home.staging_fd
        try:
            with self.step():
                unlink_if_there(staging, self.name)  # unless it was renamed to its target already
                if not self._withdrawn:
                    unlink_if_there(staging, table_name(self.name))
                    unlink_if_there(staging, checkpoint_name(self.name))
                    # the thread that writes behind must not take it for another session's
                    self._withdrawn = True
        except TakenOver:
            pass
        except Busy as error:
            logger.warning("an abandoned upload is removed later: %s", error)
        finally:
            self.close()

    def close(self) -> None:
        self.lease = None  # unreferenced: the next heartbeat ends it unless it was settled
        if self._collector is not None:
            self._collector.stop()
        # before the checkpoint: the thread that writes behind may be about to write to that
        super().close()
        if self._checkpoint is not None:
            self._checkpoint.close()


def _has_owner(home: Home, name: bytes) -> bool:
    """Return whether the upload has a checkpoint: a session owns it, or has left it."""
    try:
        os.stat(checkpoint_name(name), dir_fd=home.staging_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_or_create(home: Home, name: bytes, staging_dir: StagingDir) -> int:
    """Open a staging file, or make it; another session may make it at the same time."""
    while True:
        try:
            return open_kept(home.staging_fd, name)
        except FileNotFoundError:
            pass
        if staging_dir.beside is None:
            try:
                return os.open(name, _CREATE, 0o600, dir_fd=home.staging_fd)
            except FileExistsError:
                continue  # another session was faster
        born = home.new_name()
        os.close(staging_dir.open(born, _CREATE))
        try:
            beneath.rename_new(home.staging_fd, born, home.staging_fd, name)
        except FileExistsError:
            os.unlink(born, dir_fd=home.staging_fd)


def open_kept(directory: int, name: bytes) -> int:
    """Open a staging file to continue it. Raises FileNotFoundError, OSError."""
    try:
        return os.open(name, _OPEN_TO_WRITE, dir_fd=directory)
    except PermissionError:
        # it was finished, and has its final mode, which may forbid writing
        os.chmod(name, 0o600, dir_fd=directory)
        return os.open(name, _OPEN_TO_WRITE, dir_fd=directory)


class _CheckpointedWriter(WriteBehind):
    """Writes behind, and adds a checkpoint after each piece that was synced."""

    def __init__(self, staging: ResumableStaging, offset: int, hasher: digests.new) -> None:
        super().__init__(staging.fd, hasher=hasher)
        self._staging = staging
        self._written = offset
        self._marked = offset

    def _put(self, buffer: bytearray, filled: int | Hole) -> None:
        super()._put(buffer, filled)
        self._written += len(filled) if isinstance(filled, Hole) else filled
        if self._written - self._marked >= PIECE:
            self._staging.mark(self._written, self._hasher.digest())
            self._marked = self._written

    def _write(self, data: memoryview | Hole) -> None:
        with self._staging.step():
            super()._write(data)


class Checkpoint:
    """How far an upload is durable: records of an offset, and the digest of the bytes before it.

    The upload's target stands before them, for display. Files of version 0.1 begin with the
    records. A server of that version finds no record in newer files, and has the bytes sent again.

    Args:
        target: The path of the upload; empty to leave it out.

    Attributes:
        is_locked: True if other sessions can see that its maker has it open.
    """

    _RECORD = struct.Struct(">Q32s")
    _SEAL = 8
    _STEP = _RECORD.size + _SEAL
    _MAGIC = b"FTPDto1\n"  # read as an offset by version 0.1, it is larger than any file
    _LENGTH = struct.Struct(">H")

    def __init__(self, directory: int, name: bytes, target: bytes = b"") -> None:
        self._directory = directory
        self._name = name
        self._target = target
        self.is_locked = False
        self._fd = os.open(name, _OPEN_CHECKPOINT, 0o600, dir_fd=directory)

    @classmethod
    def renew(
        cls,
        directory: int,
        name: bytes,
        new_name: bytes,
        target: bytes,
        records: list[tuple[int, bytes]],
        *,
        durable: bool,
    ) -> Checkpoint:
        """Make a checkpoint, replace the file at ``name`` with it, and own it.

        Args:
            new_name: Its name until it is complete.
        """
        made = cls(directory, new_name, target)
        try:
            made.is_locked = try_range(made._fd, _OWNING)
            made.write(records)
            if records and durable:
                os.fdatasync(made._fd)
            os.rename(new_name, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            made.remove()
            made.close()
            raise
        made._name = name
        return made

    def is_there(self) -> bool:
        """Return whether the open file is still the one at its name."""
        return is_at(self._fd, self._directory, self._name)

    def is_owned(self) -> bool:
        """Return whether the session that has made it is running, and has it open."""
        return is_range_locked(self._fd, _OWNING)

    def read(self, size: int) -> list[tuple[int, bytes]]:
        """Return the records, up to the first that is damaged, not rising, or beyond ``size``."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        records: list[tuple[int, bytes]] = []
        _, start = self._head(data)
        for at in range(start, len(data) - self._STEP + 1, self._STEP):
            record = self._record(data[at : at + self._STEP])
            if record is None or record[0] > size or (records and record[0] <= records[-1][0]):
                break
            records.append(record)
        return records

    @classmethod
    def look(cls, fd: int) -> tuple[bytes | None, int]:
        """Return the target in a checkpoint, and the offset of its last intact record."""
        target, start = cls._head(os.pread(fd, len(cls._MAGIC) + paths.MAX_PATH + 16, 0))
        count = max(0, os.fstat(fd).st_size - start) // cls._STEP
        while count:
            count -= 1
            record = cls._record(os.pread(fd, cls._STEP, start + count * cls._STEP))
            if record is not None:
                return target, record[0]
        return target, 0

    @classmethod
    def _head(cls, data: bytes) -> tuple[bytes | None, int]:
        """Return the target, and the position of the first record."""
        if not data.startswith(cls._MAGIC):
            return None, 0
        begin = len(cls._MAGIC) + cls._LENGTH.size
        if len(data) < begin:
            return None, len(data)
        (length,) = cls._LENGTH.unpack(data[len(cls._MAGIC) : begin])
        end = begin + length
        if data[end : end + cls._SEAL] != cls._seal(data[:end]):
            return None, len(data)  # damaged: the position of the records isn't known either
        return data[begin:end], end + cls._SEAL

    @classmethod
    def _record(cls, data: bytes) -> tuple[int, bytes] | None:
        record = data[: cls._RECORD.size]
        if len(data) < cls._STEP or data[cls._RECORD.size :] != cls._seal(record):
            return None
        offset, digest = cls._RECORD.unpack(record)
        return offset, digest

    def write(self, records: list[tuple[int, bytes]]) -> None:
        """Replace all records."""
        os.ftruncate(self._fd, 0)
        if self._target:
            head = self._MAGIC + self._LENGTH.pack(len(self._target)) + self._target
            os.write(self._fd, head + self._seal(head))
        for offset, digest in records:
            self.append(offset, digest)

    def append(self, offset: int, digest: bytes) -> None:
        """Add a record. Call it after the bytes were synced."""
        record = self._RECORD.pack(offset, digest)
        os.write(self._fd, record + self._seal(record))

    def remove(self) -> None:
        """Remove the file."""
        unlink_if_there(self._directory, self._name)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor. Can be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @classmethod
    def _seal(cls, record: bytes) -> bytes:
        return digests.digest(record)[: cls._SEAL]


@dataclass(frozen=True)
class Kept:
    """The files in staging of a kept upload.

    Attributes:
        target: The path that it is for; None if that isn't recorded.
        size: The bytes after which it can be continued, if they are still intact.
        touched: When its last byte was written, in seconds since 1970; 0 if nothing is there.
    """

    target: bytes | None
    size: int
    touched: int


def look_at(directory: int, name: bytes) -> Kept:
    """Look at the files of a kept upload. They may have been removed, as by a crash or a user."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return Kept(None, 0, 0)
    touched = int(info.st_mtime)
    try:
        fd = os.open(checkpoint_name(name), _OPEN, dir_fd=directory)
    except FileNotFoundError:
        return Kept(None, 0, touched)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # other users may write to a shared home
            return Kept(None, 0, touched)
        target, size = Checkpoint.look(fd)
    finally:
        os.close(fd)
    return Kept(target, min(size, info.st_size), touched)


def is_at(fd: int, directory: int, name: bytes) -> bool:
    """Return whether an open file is the one at a name."""
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def drop_kept(home: Home, ledger: LeaseStore, account_id: int, name: bytes) -> bool:
    """Discard a kept upload, with its lease. False: a session owns it.

    The lease says whether a session owns it. The file's lock is held from that answer to the
    removal, so that no session resumes it in between.
    """
    directory = home.staging_fd
    try:
        fd = open_kept(directory, name)
    except FileNotFoundError:
        ledger.drop_kept(account_id, name)
        return True
    try:
        if not try_lock(fd) or not is_at(fd, directory, name):
            return False
        if not ledger.drop_kept(account_id, name):
            return False
        for one in (name, checkpoint_name(name), table_name(name)):
            unlink_if_there(directory, one)
        return True
    finally:
        os.close(fd)


def hash_range(
    fd: int,
    start: int,
    end: int,
    hasher: digests.new,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Hash bytes of an open file, up to ``end`` or its end.

    Args:
        progress: Called now and then with the offset that was reached.
    """
    view = memoryview(bytearray(BUFFER_SIZE))
    for at, stop, is_hole in holes.extents(fd, start, end, sparse=holes.are_in(fd, end)):
        if is_hole:
            holes.hash_zeros(hasher, stop - at)
            at = stop
            progress(at)
        while at < stop:
            count = os.preadv(fd, [view[: stop - at]], at)
            if not count:
                return
            hasher.update(view[:count])
            at += count
            progress(at)
