"""Staging: the bytes of one upload until the commit, and those kept for a resume.

Lives here: the hidden file that an upload is written to.
Lives elsewhere: its owner and its checkpoint (resumable.py), batches and leases (batch.py), the
rename to its target (commit.py).

A large upload has a name that a later session finds, and a checkpoint beside it: after each synced
piece, its offset and the digest of all bytes before it. The size of a file is no safe point to
resume from, because with delayed allocation it may be wrong after a power cut. A checkpoint whose
digest matches the bytes is safe. One session owns the upload at a time. Other sessions write to it
only while the owner takes pieces (``take_pieces``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ftpserver.storage import file_systems
from ftpserver.storage.digest_xattr import keep_digest
from ftpserver.storage.file_systems import unlink_if_there
from ftpserver.storage.staging_dirs import StagingDir
from ftpwire import holes
from ftpwire.errors import SourceChanged, VerificationFailed
from ftpwire.messages import Put, Sent
from ftpwire.streams import WriteBehind, write_all

MODE_BITS = 0o777
"""The bits of a mode that are set. Directories also keep the setgid and sticky bits they have."""
DROPPED_BITS = "setuid, setgid and sticky bits are not stored"
"""The remark for a client that asked for them."""
PIECE = 16 * 1024 * 1024
"""Bytes between two checkpoints: at most this many are sent again."""
_COPY_SIZE = 1024 * 1024
_CANT_COPY = frozenset(
    {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
)

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """One upload that is received over time: write to ``sink``, then call ``finish``.

    Attributes:
        offset: Bytes that were there before: the sink gets those after them.
        is_kept: True if it has the name and the lease that a later session finds.
        digest: The digest of all its bytes, once they are verified.
    """

    def __init__(self, request: Put, name: bytes, fd: int, staging_dir: StagingDir) -> None:
        self.name = name
        self.staging_dir = staging_dir
        self.fd = fd
        self.offset = 0
        self.sink = WriteBehind(fd)
        self.is_kept = False
        self.digest: bytes | None = None
        self._request = request

    @classmethod
    def create(cls, name: bytes, request: Put, staging_dir: StagingDir) -> Staging:
        """Begin an upload that isn't kept if it is interrupted. Raises OSError."""
        return cls(request, name, staging_dir.open(name, _CREATE), staging_dir)

    @property
    def total(self) -> int:
        """The bytes that have arrived."""
        return self.offset + self.sink.size

    def finish(self, sent: Sent, progress: Callable[[int], None] | None = None) -> None:
        """Verify the file against what was sent, and set its times, digest and mode.

        Args:
            progress: Called with the number of bytes hashed, if it was received in pieces.

        Raises:
            VerificationFailed, OSError: The file must be discarded.
        """
        digest = self._hashed(progress)
        verify(self._request, self.total, digest, sent)
        self.digest = digest
        self._dress(self.total, digest)

    def _hashed(self, progress: Callable[[int], None] | None = None) -> bytes:
        """Return the digest of all bytes, after they were written."""
        return self.sink.finish()

    def copy(self, source: int, size: int, digest: bytes, tick: Callable[[int], None]) -> bool:
        """Copy another file inside the kernel (copy_file_range, a reflink where possible).

        Args:
            digest: The source's digest.
            tick: Called with the number of bytes of each step.

        Returns:
            False if the file system cannot do that.

        Raises:
            SourceChanged: The source became shorter.
        """
        if not _copy_in_kernel(source, self.fd, size, tick):
            return False
        self.seal(size, digest)
        return True

    def seal(self, size: int, digest: bytes) -> None:
        """Finish a file that was written to ``fd`` in any order: set its metadata."""
        self.offset, self.digest = size, digest
        self._dress(size, digest)

    def _dress(self, size: int, digest: bytes) -> None:
        request = self._request
        apply_metadata(
            self.fd, size, digest, request.mode, request.mtime_ns, self.staging_dir.limits
        )

    def drop(self) -> None:
        """Close and remove the file."""
        self.close()
        os.unlink(self.name, dir_fd=self.staging_dir.fd)

    def take_over(self, fd: int, size: int) -> None:
        """Continue with another open file, which has this one's name."""
        os.close(self.fd)
        self.fd, self.offset = fd, size

    def become(self, request: Put) -> None:
        """Use the mode and the time of another request when the file is sealed."""
        self._request = request

    def keep(self) -> bool:
        """Leave it for a later session to resume. False: that isn't possible."""
        if self.is_kept:
            self.close()
        return self.is_kept

    def close(self) -> None:
        """Stop writing and close the descriptor."""
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
                    os.lseek(target, 0, os.SEEK_SET)  # the caller copies by reading instead
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
        OSError: Reading or writing failed.
        SourceChanged: The source became shorter.
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
    """Raise VerificationFailed unless the received data is what was announced and sent."""
    if size != sent.size or request.size not in (None, size):
        raise VerificationFailed(
            f"{size} bytes arrived; {sent.size} were sent"
            + ("" if request.size is None else f", {request.size} announced")
        )
    if sent.digest is not None and sent.digest != digest:
        raise VerificationFailed("the data does not match the digest sent with it")


def write_small(
    staging_dir: StagingDir,
    name: bytes,
    data: bytes | bytearray | memoryview,
    digest: bytes,
    mode: int,
    mtime_ns: int | None,
) -> int:
    """Make a file in staging with all its bytes and attributes; return its descriptor.

    This runs for each of many small files, so each system call counts.

    Args:
        digest: The verified digest of the bytes.

    Raises:
        OSError: Nothing of it is left.
    """
    bits = mode & MODE_BITS & staging_dir.limits
    made = 0o600
    if staging_dir.beside is None:
        # Nothing else can reach the file in staging, so it may get its final mode right away; not
        # one without write permission for its owner, which forbids setting the digest attribute.
        if bits & stat.S_IWUSR:
            made = bits
        fd = os.open(name, _WRITE, made, dir_fd=staging_dir.fd)
    else:
        fd = staging_dir.open(name, _WRITE)
    try:
        size = len(data)
        written = os.write(fd, data)
        if written != size:
            write_all(fd, memoryview(data)[written:])
        _keep_time_and_digest(fd, size, digest, mtime_ns)
        if made != bits or not _got(fd, bits, staging_dir):
            os.chmod(fd, bits)
    except BaseException:
        os.close(fd)
        unlink_if_there(staging_dir.fd, name)
        raise
    return fd


def _got(fd: int, bits: int, staging_dir: StagingDir) -> bool:
    """Return whether a file made with these permission bits has exactly these."""
    got = staging_dir.gives.get(bits)
    if got is None:
        got = staging_dir.gives[bits] = stat.S_IMODE(os.fstat(fd).st_mode) == bits
    return got


def apply_metadata(
    fd: int,
    size: int,
    digest: bytes,
    mode: int,
    mtime_ns: int | None,
    limits: int = file_systems.ALL_BITS,
) -> None:
    """Set mtime, digest attribute and mode. The mode is last, as it may forbid the others.

    Args:
        mtime_ns: The mtime; None to leave it.
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
