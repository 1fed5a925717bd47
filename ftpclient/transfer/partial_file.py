"""Partial files: files that are being received below a destination.

Lives here: ownership and locking of a partial file, what an earlier try has left.
Lives elsewhere: its names (placing.py), directories (local_tree.py), writing to it (file_call.py,
fetch_pieces.py).
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress

from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.placing import partial_name, place, unlink
from ftpwire.paths import Parts
from ftpwire.pieces import PIECE
from ftpwire.streams import write_all

_CONTINUE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_MODE = 0o600
_GAPLESS = 0o700
"""The mode of a partial file that was written sequentially and has holes. All file systems that
support holes store a mode."""


class PartialFile:
    """A file being received, hidden under a partial name until it is verified.

    The writer holds a flock on it. A second transfer to the same target uses another partial name,
    so their bytes never mix.

    Args:
        replace: True to replace an existing file.
        resume: True to keep what an earlier try has left; ``offset`` is how many bytes that is.

    Attributes:
        is_gapless: True if its mode says that it was written sequentially, so that its holes are
            holes of the file.
    """

    def __init__(
        self, tree: LocalTree, parts: Parts, *, replace: bool = True, resume: bool = False
    ) -> None:
        # its own descriptor: the tree may close its own while this file is being written
        self._above = os.dup(tree.directory(parts[:-1]))
        self._durable = tree.durable
        self._name = parts[-1]
        self._partial = partial_name(parts)
        self._replace = replace
        self._found_again = True
        self.is_gapless = False
        self.fd = -1
        try:
            self.fd = self._open(_CONTINUE if resume else _CONTINUE | os.O_TRUNC)
        except BaseException:
            os.close(self._above)
            raise
        size = os.fstat(self.fd).st_size
        self.offset = size if self.is_gapless else _contiguous(self.fd, size)

    def _open(self, flags: int) -> int:
        # truncate only after locking: another process may be writing to it
        fd = self._found(flags & ~os.O_TRUNC)
        if fd < 0:
            self._partial = partial_name((os.urandom(16),))
            self._found_again = False
            fd = os.open(self._partial, _CREATE, 0o600, dir_fd=self._above)
        try:
            if flags & os.O_TRUNC:
                os.ftruncate(fd, 0)
            elif stat.S_IMODE(os.fstat(fd).st_mode) == _GAPLESS:
                self.is_gapless = True
            os.chmod(fd, _GAPLESS if self.is_gapless else _MODE)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _found(self, flags: int) -> int:
        """Open and lock the file with the partial name, creating it if necessary; -1 if unusable.

        If other users may write to the directory, they may have created it: as a file they still
        own, as a hard link to one of our files, as a symbolic link, or as a file that cannot be
        opened. None of these is written to.
        """
        try:
            fd = os.open(self._partial, flags, dir_fd=self._above)
        except FileNotFoundError:
            fd = self._made()
            if fd < 0:
                return -1
        except OSError:
            if os.access(self._partial, os.F_OK, dir_fd=self._above, follow_symlinks=False):
                return -1
            raise
        try:
            if self._is_ours(os.fstat(fd)) and _try_lock(fd, self._above, self._partial):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return -1

    def _made(self) -> int:
        """Create the file with the partial name; -1 if another process just did."""
        try:
            return os.open(self._partial, _CREATE, 0o600, dir_fd=self._above)
        except FileExistsError:
            return -1

    def _is_ours(self, info: os.stat_result) -> bool:
        """Return whether a file belongs to this user, and has no other name."""
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            return False
        return info.st_uid == os.geteuid() or info.st_uid == _owner_here(self._above)

    @staticmethod
    def has_part(tree: LocalTree, parts: Parts) -> bool:
        """Return whether an earlier try has left a partial file."""
        return tree.stat((*parts[:-1], partial_name(parts))) is not None

    def start_at(self, offset: int) -> None:
        """Truncate it to ``offset`` bytes, and write after them."""
        os.ftruncate(self.fd, offset)
        os.lseek(self.fd, offset, os.SEEK_SET)

    def mark_gapless(self) -> None:
        """Mark its holes as holes of the file, so that a later try need not stop at the first."""
        with suppress(OSError):  # on a mount without modes: then a later try stops there
            os.chmod(self.fd, _GAPLESS)
        self.is_gapless = True

    def mark_gaps(self) -> None:
        """Remove the mark, because it is going to be written in any order."""
        if self.is_gapless:
            os.chmod(self.fd, _MODE)
            self.is_gapless = False

    def place(self, mode: int, mtime_ns: int) -> None:
        """Give it its final name, times and mode. Raises OSError, after removing it."""
        try:
            os.utime(self.fd, ns=(time.time_ns(), mtime_ns))
            os.chmod(self.fd, mode & 0o777)
            if self._durable:  # before the rename: a crash must not leave the name without bytes
                os.fsync(self.fd)
            place(self._above, self._partial, self._name, replace=self._replace)
            if self._durable:
                os.fsync(self._above)
        except BaseException:
            self.drop()
            raise
        self._close()

    def leave(self) -> None:
        """Keep it for a later try to resume from, unless that could not find it."""
        if self._found_again:
            self._close()
        else:
            self.drop()

    def drop(self) -> None:
        """Remove it. Does nothing after ``place`` or ``leave``."""
        if self.fd >= 0:
            unlink(self._above, self._partial)
            self._close()

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self._above)
        self.fd = -1


def place_whole(
    tree: LocalTree,
    parts: Parts,
    data: memoryview | bytes | bytearray,
    mode: int,
    mtime_ns: int,
    *,
    replace: bool,
) -> None:
    """Write a file whose bytes have all arrived, under its final name.

    Nothing of it remains after an error.

    Args:
        replace: True to replace an existing file.

    Raises:
        OSError, CommandError
    """
    partial = PartialFile(tree, parts, replace=replace)
    try:
        write_all(partial.fd, data)
        partial.place(mode, mtime_ns)
    finally:
        partial.drop()


def _contiguous(fd: int, size: int) -> int:
    """Return how many bytes at a partial file's start may be valid: those before its first hole.

    A download in pieces leaves gaps when it is killed. The server compares the digest of what
    precedes them, so on a file system without holes such a download only starts over.
    """
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE) if size else 0
    except (AttributeError, OSError):
        return size
    # the last block before a hole may be only partly written
    return size if hole >= size else max(0, hole - 1) // PIECE * PIECE


def _owner_here(above: int) -> int:
    """Return the owner of this user's new files here: on some mounts all have the same one."""
    name = partial_name((os.urandom(16),))
    fd = os.open(name, _CREATE, 0o600, dir_fd=above)
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)
        unlink(above, name)


def _try_lock(fd: int, above: int, name: bytes) -> bool:
    """Lock a file; False if another process holds it, or the name has a new file by now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = os.stat(name, dir_fd=above, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    mine = os.fstat(fd)  # a lock on a file that was renamed or removed protects nothing
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
