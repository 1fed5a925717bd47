"""Scrubbing: reading files to find out whether their bytes are still those that were stored.

Lives here: comparing one file with its stored digest, and reading a whole home.
Lives elsewhere: the ledger and all other checks (verify.py), output (cli/check.py).

A file is compared with its digest only if its size and mtime are those for which the digest was
stored, and only if it wasn't changed while it was read. So scrubbing works beside a server.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ftpserver.storage.digest_xattr import keep_digest
from ftpserver.storage.walk import walk
from ftpwire import digests, holes
from ftpwire.digests import StoredDigest

BUFFER_SIZE = 1024 * 1024

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE = "to be readable"
_NO_ATTRIBUTE = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP})


class Verdict(Enum):
    """The result for a file."""

    SOUND = "sound"
    """Its bytes have the stored digest. If they were not read: nothing shows any damage."""
    ROTTED = "rotted"
    """Its bytes have another digest, although size and mtime are unchanged."""
    CUT = "cut"
    """It has another size than when it was stored, although the mtime is unchanged."""
    GARBLED = "garbled"
    """Its digest attribute is invalid."""
    UNKNOWN = "unknown"
    """No digest is stored, or only one of earlier contents: there is nothing to compare with."""
    CHANGED = "changed"
    """It was changed or removed meanwhile, or is not a regular file."""
    UNREADABLE = "unreadable"
    """Reading it failed."""
    CLOSED = "closed"
    """This process is not permitted to read it."""

    @property
    def is_damage(self) -> bool:
        """True if the disk no longer has what was stored."""
        return self in (Verdict.ROTTED, Verdict.CUT, Verdict.UNREADABLE)


@dataclass(frozen=True)
class Examined:
    """The result for one file, with details.

    Attributes:
        path: The path from the home, without a leading slash.
        verdict: The result.
        size: The size in bytes.
        expected, found: The difference: digests in hexadecimal, sizes, or why it cannot be read.
        given: True if a digest was stored now.
    """

    path: bytes
    verdict: Verdict
    size: int = 0
    expected: str | int | None = None
    found: str | int | None = None
    given: bool = False


class Examiner:
    """Examines files one after another. Uses a single buffer.

    Args:
        read: True to read their bytes.
        give: True to store a digest for files that have none, or one of earlier contents.
    """

    def __init__(self, *, read: bool, give: bool = False) -> None:
        self._read = read
        self._give = give
        self._buffer = memoryview(bytearray(BUFFER_SIZE if read else 0))

    def home(self, fd: int) -> Iterator[Examined]:
        """Examine all regular files of a home. Also yields directories that cannot be read."""
        problems: list[Examined] = []

        def note(path: bytes, error: OSError) -> None:
            problems.append(unread(path, error))

        for found in walk(fd, note):
            yield from problems
            problems.clear()
            if found.entry.is_file(follow_symlinks=False):
                yield self.file(found.directory, found.name, found.path)
        yield from problems

    def file(self, directory: int, name: bytes, path: bytes) -> Examined:
        """Examine one file, by its name in an open directory."""
        try:
            fd = _open(name, directory)
        except FileNotFoundError:
            return Examined(path, Verdict.CHANGED)
        except OSError as error:
            return unread(path, error)
        try:
            return self._examine(fd, path)
        except OSError as error:
            return unread(path, error)
        finally:
            os.close(fd)

    def _examine(self, fd: int, path: bytes) -> Examined:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return Examined(path, Verdict.CHANGED)
        size = before.st_size
        value = _attribute(fd)
        kept = None if value is None else StoredDigest.unpack(value)
        if value is not None and kept is None and not self._give:
            return Examined(path, Verdict.GARBLED, size, "a digest", value[:80].hex())
        fresh = kept is not None and kept.mtime_ns == before.st_mtime_ns
        if kept is not None and fresh and kept.size != size:
            if _changed(fd, before):
                return Examined(path, Verdict.CHANGED, size)
            return Examined(path, Verdict.CUT, size, kept.size, size)
        if not self._read:
            return Examined(path, Verdict.SOUND if fresh else Verdict.UNKNOWN, size)
        if not fresh and not self._give:
            return Examined(path, Verdict.UNKNOWN, size)
        count, digest = self._digest(fd, before)
        if count != size or _changed(fd, before):
            return Examined(path, Verdict.CHANGED, size)
        if kept is not None and fresh:
            if digest == kept.digest:
                return Examined(path, Verdict.SOUND, size)
            return Examined(path, Verdict.ROTTED, size, kept.digest.hex(), digest.hex())
        wanted = StoredDigest(digest, size, before.st_mtime_ns)
        given = keep_digest(fd, *wanted[:3]) and _attribute(fd) == wanted.pack()
        return Examined(path, Verdict.UNKNOWN, size, given=given)

    def _digest(self, fd: int, info: os.stat_result) -> tuple[int, bytes]:
        """Return the size and digest of a file's bytes, read from the disk, not from the page
        cache, if possible. Holes are not read: that would only fill the page cache."""
        hasher = digests.new()
        size = 0
        _forget_cached(fd)
        for size, stop, is_hole in holes.extents(fd, 0, info.st_size, sparse=holes.may_have(info)):
            if is_hole:
                holes.hash_zeros(hasher, stop - size)
                size = stop
            while size < stop and (count := os.preadv(fd, [self._buffer[: stop - size]], size)):
                hasher.update(self._buffer[:count])
                size += count
            if size < stop:
                break  # the file became shorter
        _forget_cached(fd)
        return size, hasher.digest()


def _open(name: bytes, directory: int) -> int:
    flags = _OPEN | getattr(os, "O_NOATIME", 0)
    try:
        return os.open(name, flags, dir_fd=directory)
    except PermissionError:  # only the owner may use O_NOATIME
        return os.open(name, _OPEN, dir_fd=directory)


def _attribute(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, digests.ATTRIBUTE)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTE:
            return None
        raise


def _changed(fd: int, before: os.stat_result) -> bool:
    """Return whether the file was changed since ``before``. The ctime shows this even if the mtime
    was set back."""
    now = os.fstat(fd)
    return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def _forget_cached(fd: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def unread(path: bytes, error: OSError) -> Examined:
    """Return the result for something that could not be opened or read."""
    if error.errno == errno.ELOOP:  # a link has replaced it
        return Examined(path, Verdict.CHANGED)
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EACCES, errno.EPERM):
        return Examined(path, Verdict.CLOSED, expected=_READABLE, found=reason)
    return Examined(path, Verdict.UNREADABLE, expected=_READABLE, found=reason)
