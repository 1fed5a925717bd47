"""Staging: one upload's bytes on their way in, and what is kept of them for a resume.

Lives here: the hidden file that an upload is written to, and its checkpoint.
Lives elsewhere: whose it is (resumable.py), batches and leases (batch.py), giving it its name
(commit.py).

A large upload has a name that a later session finds again, and a checkpoint beside it: after
each synced piece, how far it goes and the digest of all bytes up to there. A file's size is no
resume point (delayed allocation lies after a power cut); a checkpoint that the bytes agree with
is. One session owns it at a time. Others write to it only where that one takes pieces
(``take_pieces``), and no longer than it does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ftpserver.storage import file_systems
from ftpserver.storage.digest_xattr import keep_digest
from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.places import Place
from ftpwire import holes
from ftpwire.errors import SourceChanged, VerificationFailed
from ftpwire.messages import Put, Sent
from ftpwire.streams import WriteBehind, write_all

MODE_BITS = 0o777
"""Of a mode, what is set. Directories keep the setgid and sticky bits that they have."""
DROPPED_BITS = "setuid, setgid and sticky are not stored: they were left out"
"""What a client is told that asked for them."""
PIECE = 16 * 1024 * 1024
"""Bytes between checkpoints: at most so many are sent again."""
_COPY_SIZE = 1024 * 1024
_CANT_COPY = frozenset(
    {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
)

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """One upload that comes in pieces: receive into ``sink``, then ``finish``.

    Args:
        size: Bytes that are reserved for it; ``expect`` asks ``more`` for more.
    """

    def __init__(self, request: Put, name: bytes, fd: int, place: Place) -> None:
        self.name = name
        self.place = place
        self.fd = fd
        self.offset = 0
        """Bytes that were there before: the sink gets what comes after them."""
        self.sink = WriteBehind(fd)
        self.is_kept = False
        """Whether it has a name and a lease of its own by now, that a later session finds."""
        self.digest: bytes | None = None
        """Of all its bytes, once they are verified."""
        self._request = request

    @classmethod
    def create(cls, name: bytes, request: Put, place: Place) -> Staging:
        """Begin an upload that is not kept when it is interrupted. Raises OSError."""
        return cls(request, name, place.open(name, _CREATE), place)

    @property
    def total(self) -> int:
        """Bytes that are there by now."""
        return self.offset + self.sink.size

    def finish(self, sent: Sent, progress: Callable[[int], None] | None = None) -> None:
        """Verify the file against what was sent, and give it times, digest and mode.

        Args:
            progress: Told the bytes hashed so far, where they came in pieces.

        Raises:
            VerificationFailed, OSError: Nothing of it may be kept.
        """
        digest = self._hashed(progress)
        verify(self._request, self.total, digest, sent)
        self.digest = digest
        self._dress(self.total, digest)

    def _hashed(self, progress: Callable[[int], None] | None = None) -> bytes:
        """The digest of all that is there, once it is written."""
        return self.sink.finish()

    def copy(self, source: int, size: int, digest: bytes, tick: Callable[[int], None]) -> bool:
        """Take the bytes of another file without reading them (copy_file_range, a reflink where
        the file system has them), and its digest along; False where that can't be done.

        Args:
            tick: Told the bytes of each step.

        Raises:
            SourceChanged: The source became shorter.
        """
        if not _copy_in_kernel(source, self.fd, size, tick):
            return False
        self.seal(size, digest)
        return True

    def seal(self, size: int, digest: bytes) -> None:
        """Take what was written to ``fd`` in any order for the file, and dress it."""
        self.offset, self.digest = size, digest
        self._dress(size, digest)

    def _dress(self, size: int, digest: bytes) -> None:
        request = self._request
        apply_metadata(self.fd, size, digest, request.mode, request.mtime_ns, self.place.limits)

    def drop(self) -> None:
        """Remove it."""
        self.close()
        os.unlink(self.name, dir_fd=self.place.fd)

    def take_over(self, fd: int, size: int) -> None:
        """Go on with another open file, which has this one's name."""
        os.close(self.fd)
        self.fd, self.offset = fd, size

    def become(self, request: Put) -> None:
        """Have the mode and the time of another request, once it is sealed."""
        self._request = request

    def keep(self) -> bool:
        """Leave it for a later session to resume; False when that isn't possible."""
        if self.is_kept:
            self.close()
        return self.is_kept

    def close(self) -> None:
        """Stop writing and give the descriptor back."""
        self.sink.__exit__(None, None, None)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _copy_in_kernel(source: int, target: int, size: int, tick: Callable[[int], None]) -> bool:
    moved = False
    for done, stop, is_hole in holes.extents(source, 0, size, sparse=holes.are_in(source, size)):
        if is_hole:
            _leave_hole(source, target, done, stop)
            tick(stop - done)
            continue
        while done < stop:
            try:
                count = os.copy_file_range(source, target, min(stop - done, PIECE), done, done)
            except OSError as error:
                if not moved and error.errno in _CANT_COPY:
                    os.lseek(target, 0, os.SEEK_SET)  # who reads it instead writes from there on
                    return False
                raise
            if not count:
                raise SourceChanged("changed while it was copied")
            moved = True
            done += count
            tick(count)
    return True


def _leave_hole(source: int, target: int, start: int, stop: int) -> None:
    if os.fstat(source).st_size < stop:
        raise SourceChanged("changed while it was copied")
    holes.leave(target, start, stop)
    holes.lengthen(target, stop)


def copy_range(source: int, target: int, size: int) -> None:
    """Copy the first bytes of one file over those of another.

    Raises:
        OSError, SourceChanged: The source became shorter.
    """
    if _copy_in_kernel(source, target, size, lambda count: None):
        return
    for done, stop, is_hole in holes.extents(source, 0, size, sparse=holes.are_in(source, size)):
        if is_hole:
            _leave_hole(source, target, done, stop)
            continue
        while done < stop:
            data = os.pread(source, min(stop - done, _COPY_SIZE), done)
            if not data:
                raise SourceChanged("changed while it was copied")
            written = 0
            while written < len(data):
                written += os.pwrite(target, data[written:], done + written)
            done += len(data)


def verify(request: Put, size: int, digest: bytes, sent: Sent) -> None:
    """Raises VerificationFailed unless what arrived is what was sent and announced."""
    if size != sent.size or request.size not in (None, size):
        raise VerificationFailed(
            f"{size} bytes arrived; {sent.size} were sent"
            + ("" if request.size is None else f", {request.size} announced")
        )
    if sent.digest is not None and sent.digest != digest:
        raise VerificationFailed("what arrived has another digest than what was sent")


def write_small(
    place: Place,
    name: bytes,
    data: bytes | bytearray | memoryview,
    digest: bytes,
    mode: int,
    mtime_ns: int | None,
) -> int:
    """Make a file in staging that has all its bytes and attributes; returns its descriptor.

    This is done for each of many small files.

    Args:
        digest: Of the bytes, verified.

    Raises:
        OSError: Nothing of it is left.
    """
    bits = mode & MODE_BITS & place.limits
    made = 0o600
    if place.beside is None:
        # nobody else can reach it there; and what its owner can't write to takes no attribute
        if bits & stat.S_IWUSR:
            made = bits
        fd = os.open(name, _WRITE, made, dir_fd=place.fd)
    else:
        fd = place.open(name, _WRITE)
    try:
        size = len(data)
        written = os.write(fd, data)
        if written != size:
            write_all(fd, memoryview(data)[written:])
        _keep_time_and_digest(fd, size, digest, mtime_ns)
        if made != bits or not _got(fd, bits, place):
            os.chmod(fd, bits)
    except BaseException:
        os.close(fd)
        unlink_if_there(place.fd, name)
        raise
    return fd


def _got(fd: int, bits: int, place: Place) -> bool:
    """Whether what was made with some permission bits has just these."""
    got = place.gives.get(bits)
    if got is None:
        got = place.gives[bits] = stat.S_IMODE(os.fstat(fd).st_mode) == bits
    return got


def apply_metadata(
    fd: int,
    size: int,
    digest: bytes,
    mode: int,
    mtime_ns: int | None,
    limits: int = file_systems.ALL_BITS,
) -> None:
    """Set mtime, digest attribute and mode, in the one order that works (the mode last).

    Args:
        mtime_ns: None leaves it.
        limits: The permission bits that a default ACL leaves.
    """
    _keep_time_and_digest(fd, size, digest, mtime_ns)
    os.chmod(fd, mode & MODE_BITS & limits)


def _keep_time_and_digest(fd: int, size: int, digest: bytes, mtime_ns: int | None) -> None:
    if mtime_ns is not None:
        os.utime(fd, ns=(mtime_ns, mtime_ns))
    else:
        mtime_ns = os.fstat(fd).st_mtime_ns
    keep_digest(fd, digest, size, mtime_ns)
