"""Staging that a later session goes on with: its lock, its checkpoint, its pieces.

Lives here: names that are found again, checkpoints, taking pieces. Lives elsewhere: staging of one
session (staging.py), which session may write (upload_locks.py).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.home import Home
from ftpserver.storage.places import Place
from ftpserver.storage.staging import PIECE, Staging
from ftpserver.storage.upload_locks import Owners, try_lock
from ftpwire import beneath, digests, paths
from ftpwire.errors import CommandError
from ftpwire.messages import Put
from ftpwire.paths import Parts
from ftpwire.pieces import Assembly
from ftpwire.streams import BUFFER_SIZE, WriteBehind

RESUME_FROM = 4 * 1024 * 1024
"""Smaller uploads start over: that costs less than asking what is there."""
KEPT_PREFIX = b"u-"
_CHECKPOINT_SUFFIX = b".ck"
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_OR_CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def kept_name(account_id: int, target: Parts, size: int | None, mtime_ns: int | None) -> bytes:
    """The staging name of a large upload: the same for the same account, source and target.

    Several accounts may have one home: none of them finds what another one has sent.
    """
    return kept_names(account_id, target, size, mtime_ns)[0]


def kept_names(
    account_id: int, target: Parts, size: int | None, mtime_ns: int | None
) -> tuple[bytes, bytes]:
    """The same, and the name that an earlier version gave it, which said nothing of the account:
    the leases do."""
    source = hashlib.sha256(b"%d %d" % (size or 0, mtime_ns or 0)).hexdigest()[:8].encode()
    now, before = target_prefixes(account_id, target)
    return now + source, before + source


def target_prefixes(account_id: int, target: Parts) -> tuple[bytes, bytes]:
    """What all staging names of an account's uploads to one target start with, and did in an
    earlier version."""
    path = b"/".join(target)
    return _prefix(b"%d:/%s" % (account_id, path)), _prefix(path)


def _prefix(of: bytes) -> bytes:
    return KEPT_PREFIX + hashlib.sha256(of).hexdigest()[:16].encode() + b"-"


def checkpoint_name(name: bytes) -> bytes:
    """The name of the checkpoint beside a staging file."""
    return name + _CHECKPOINT_SUFFIX


def staging_of(name: bytes) -> bytes:
    """The staging file that a name in staging belongs to: itself, or whose checkpoint it is."""
    return name.removesuffix(_CHECKPOINT_SUFFIX)


class ResumableStaging(Staging):
    """A large upload, which a later session can go on with.

    Raises (by ``open``):
        Busy: Another session writes to it and doesn't let go.
    """

    def __init__(
        self,
        home: Home,
        request: Put,
        name: bytes,
        fd: int,
        place: Place,
        on_close: Callable[[], None],
    ) -> None:
        super().__init__(request, name, fd, place)
        self._home = home
        self._on_close = on_close
        target = paths.join(*paths.split(request.path))
        self._checkpoint = Checkpoint(home.staging_fd, checkpoint_name(name), target)
        self._started = False
        self._hasher = digests.new()
        self._assembly: Assembly | None = None

    @classmethod
    def open(
        cls,
        home: Home,
        request: Put,
        name: bytes,
        owners: Owners,
        cut: Callable[[], None],
        place: Place | None = None,
    ) -> ResumableStaging:
        """Take the staging file of an upload, from another session if need be.

        Args:
            cut: Makes the caller's session let go, when yet another one comes.
            place: Where it is made, in the home's own staging all the same.
        """
        place = place or Place(home.staging_fd)
        while True:
            fd = _open_or_create(home, name, place)
            try:
                on_close = owners.claim(fd, cut)
            except BaseException:
                os.close(fd)
                raise
            try:
                if is_at(fd, home.staging_fd, name):
                    return cls(home, request, name, fd, place, on_close)
            except BaseException:
                os.close(fd)
                on_close()
                raise
            # its last owner has removed it meanwhile, or it is a stored file by now
            os.close(fd)
            on_close()

    def resume(self, progress: Callable[[int], None]) -> bytes | None:
        """Find out how much is there and good; ``offset`` tells it afterwards.

        What is there is read, and compared with its checkpoints: a byte that was lost or rotted
        is sent again, and so is all that comes after it.

        Args:
            progress: Told the bytes read so far, now and then.

        Returns:
            The digest of the bytes before ``offset``; None when there are none.
        """
        good, hasher = 0, digests.new()
        records = self._checkpoint.read(os.fstat(self.fd).st_size)
        trial = digests.new()
        for count, (offset, digest) in enumerate(records):
            hash_range(self.fd, good, offset, trial, progress)
            if trial.digest() != digest:
                records = records[:count]
                break
            good, hasher = offset, trial.copy()
        self.start_at(good, hasher, records)
        return hasher.digest() if good else None

    def start_at(self, offset: int, hasher: digests.new, records: list[tuple[int, bytes]]) -> None:
        """Have the sink go on after the first ``offset`` bytes, and forget the others."""
        self._started = True
        os.ftruncate(self.fd, offset)
        os.lseek(self.fd, offset, os.SEEK_SET)
        self._checkpoint.write(records)
        self.offset = offset
        self._hasher = hasher
        self.sink = _CheckpointedWriter(
            self.fd, offset, hasher, self._checkpoint, self._home.durable
        )

    def start_over(self) -> None:
        """Forget what is there."""
        self.start_at(0, digests.new(), [])

    def take_pieces(self, size: int) -> Assembly:
        """Have the rest come in pieces, from several sessions, instead of through the sink."""
        self._assembly = Assembly(
            self.fd, size, offset=self.offset, hasher=self._hasher, on_step=self._mark
        )
        return self._assembly

    @property
    def total(self) -> int:
        if self._assembly is not None:
            return self._assembly.frontier
        return super().total

    def _hashed(self, progress: Callable[[int], None] | None = None) -> bytes:
        if self._assembly is not None:
            return self._assembly.finish(progress)
        return super()._hashed(progress)

    def _mark(self, offset: int, digest: bytes) -> None:
        """So many bytes came without a gap: leave a checkpoint."""
        if self._home.durable:
            os.fdatasync(self.fd)
        self._checkpoint.append(offset, digest)

    def withdraw(self) -> bytes:
        """Give it a name that no other session looks for, before it gets the one it is for.

        Under its own name a session that comes for the same upload would find it while it, or
        what it replaces, is a stored file; this one's hold on it ends with the commit.
        """
        name = self._home.new_name()
        self._checkpoint.remove()
        staging = self._home.staging_fd
        os.rename(self.name, name, src_dir_fd=staging, dst_dir_fd=staging)
        self.name = name
        return name

    def keep(self) -> bool:
        try:
            if not self._started:  # interrupted while it was looked at: it is as it was
                if not self._checkpoint.read(os.fstat(self.fd).st_size):
                    return False
            elif self.total < RESUME_FROM:
                return False
            else:
                digest = self._hashed()
                if self._home.durable:
                    os.fdatasync(self.fd)
                self._checkpoint.append(self.total, digest)
        except (OSError, CommandError):
            return False  # the disk is full or failing: better nothing than something doubtful
        self.close()
        return True

    def drop(self) -> None:
        try:
            os.unlink(self.name, dir_fd=self._home.staging_fd)
            self._checkpoint.remove()
        finally:
            self.close()

    def close(self) -> None:
        if self._assembly is not None:
            self._assembly.__exit__(None, None, None)
        super().close()  # before the checkpoint: who writes behind may be about to leave one
        self._checkpoint.close()
        self._on_close()


def _open_or_create(home: Home, name: bytes, place: Place) -> int:
    """Open a staging file that another session may make at the same time."""
    if place.beside is None:
        return os.open(name, _OPEN_OR_CREATE, 0o600, dir_fd=home.staging_fd)
    while True:
        try:
            return os.open(name, _OPEN_OR_CREATE & ~os.O_CREAT, dir_fd=home.staging_fd)
        except FileNotFoundError:
            pass
        born = home.new_name()
        os.close(place.open(born, _OPEN_OR_CREATE | os.O_EXCL))
        try:
            beneath.rename_new(home.staging_fd, born, home.staging_fd, name)
        except FileExistsError:
            os.unlink(born, dir_fd=home.staging_fd)  # another session was quicker


class _CheckpointedWriter(WriteBehind):
    """Writes behind, and leaves a checkpoint after each piece that is safe on the disk."""

    def __init__(
        self, fd: int, offset: int, hasher: digests.new, checkpoint: Checkpoint, durable: bool
    ) -> None:
        super().__init__(fd, hasher=hasher)
        self._written = offset
        self._marked = offset
        self._checkpoint = checkpoint
        self._durable = durable

    def _put(self, buffer: bytearray, count: int) -> None:
        super()._put(buffer, count)
        self._written += count
        if self._written - self._marked >= PIECE:
            if self._durable:
                os.fdatasync(self._fd)
            self._checkpoint.append(self._written, self._hasher.digest())
            self._marked = self._written


class Checkpoint:
    """How far an upload is safely on the disk: records of an offset and the digest up to it.

    Before them stands the upload's target, for people. Files of version 0.1 begin with the records,
    and a server of that version finds none in these: it has the bytes sent again.

    Args:
        target: Path of the upload; empty to leave it out.
    """

    _RECORD = struct.Struct(">Q32s")
    _SEAL = 8
    _STEP = _RECORD.size + _SEAL
    _MAGIC = b"FTPDto1\n"  # as an offset, it is beyond all files
    _LENGTH = struct.Struct(">H")

    def __init__(self, directory: int, name: bytes, target: bytes = b"") -> None:
        self._directory = directory
        self._name = name
        self._target = target
        self._fd = os.open(name, _OPEN_OR_CREATE | os.O_APPEND, 0o600, dir_fd=directory)

    def read(self, size: int) -> list[tuple[int, bytes]]:
        """The records, as far as they are whole, rising, and within ``size`` bytes."""
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
        """The target that a checkpoint tells, and its last whole offset."""
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
        """The target, and where the records begin."""
        if not data.startswith(cls._MAGIC):
            return None, 0
        begin = len(cls._MAGIC) + cls._LENGTH.size
        if len(data) < begin:
            return None, len(data)
        (length,) = cls._LENGTH.unpack(data[len(cls._MAGIC) : begin])
        end = begin + length
        if data[end : end + cls._SEAL] != cls._seal(data[:end]):
            return None, len(data)  # it is damaged: where the records begin isn't known either
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
        """Add a record, after the bytes were synced."""
        record = self._RECORD.pack(offset, digest)
        os.write(self._fd, record + self._seal(record))

    def remove(self) -> None:
        """Remove the file."""
        unlink_if_there(self._directory, self._name)

    def close(self) -> None:
        """Give the descriptor back. Can be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @classmethod
    def _seal(cls, record: bytes) -> bytes:
        return digests.digest(record)[: cls._SEAL]


@dataclass(frozen=True)
class Kept:
    """What lies in staging of an upload.

    Attributes:
        target: Path that it is for; None when that isn't written down.
        size: Bytes that it can go on after, if they are still good.
        touched: Seconds since 1970: when its last byte was written; 0 when nothing is there.
    """

    target: bytes | None
    size: int
    touched: int


def look_at(directory: int, name: bytes) -> Kept:
    """What lies in staging of an upload: nothing, where a crash or somebody has removed it."""
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
        target, size = Checkpoint.look(fd)
    finally:
        os.close(fd)
    return Kept(target, min(size, info.st_size), touched)


def is_at(fd: int, directory: int, name: bytes) -> bool:
    """Whether the open file is the one at a name."""
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def remove_kept(directory: int, name: bytes) -> bool:
    """Remove a kept staging file that no session has; False when one does."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(fd):
            return False
        if not is_at(fd, directory, name):
            return False
        os.unlink(name, dir_fd=directory)
        unlink_if_there(directory, checkpoint_name(name))
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
    """Hash bytes of an open file, to its end at most.

    Args:
        progress: Told the offset that was reached, now and then.
    """
    buffer = bytearray(BUFFER_SIZE)
    view = memoryview(buffer)
    while start < end:
        count = os.preadv(fd, [view[: min(len(view), end - start)]], start)
        if not count:
            return
        hasher.update(view[:count])
        start += count
        progress(start)
