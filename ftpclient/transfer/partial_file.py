"""A file on its way in, below a destination.

Lives here: whose it is, what an earlier try has left of it.
Lives elsewhere: its names (placing.py), the directories (local_tree.py), what comes into it
(file_call.py, fetch_pieces.py).
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
"""The mode of one that was written from its start on, and has holes: it is kept in all file systems
that have them."""


class PartialFile:
    """A file on its way in, hidden under a partial name until it is verified.

    Who writes to it holds a flock on it; a second transfer to the same name takes another
    partial name, so that their bytes never mix.

    Args:
        replace: Whether a file that exists is replaced.
        resume: Keep what an earlier try has left; ``offset`` tells how much that is.

    Attributes:
        is_gapless: It says of itself that it was written from its start on: its holes are the
            file's.
    """

    def __init__(
        self, tree: LocalTree, parts: Parts, *, replace: bool = True, resume: bool = False
    ) -> None:
        # its own handle: the tree's may be closed while this is under way
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
        # truncated only once it is locked: somebody may be writing to it
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
        """The file of the partial name, locked, which may be new; -1 when it isn't to be used.

        Where others may write to the directory they may have made it: as a file whose owner they
        stay, as another name of a file of ours, as a link, or as one that nobody can open. None of
        these is written to.
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
        """A new file of the partial name; -1 when somebody else has just made one."""
        try:
            return os.open(self._partial, _CREATE, 0o600, dir_fd=self._above)
        except FileExistsError:
            return -1

    def _is_ours(self, info: os.stat_result) -> bool:
        """Whether a partial file was made by this user, and has no other name."""
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            return False
        return info.st_uid == os.geteuid() or info.st_uid == _owner_here(self._above)

    @staticmethod
    def has_part(tree: LocalTree, parts: Parts) -> bool:
        """Whether an earlier try has left something."""
        return tree.stat((*parts[:-1], partial_name(parts))) is not None

    def start_at(self, offset: int) -> None:
        """Keep the first ``offset`` bytes, and write after them."""
        os.ftruncate(self.fd, offset)
        os.lseek(self.fd, offset, os.SEEK_SET)

    def mark_gapless(self) -> None:
        """Its holes belong to it: whoever goes on with it need not stop at the first."""
        with suppress(OSError):  # of a mount without modes: then he does
            os.chmod(self.fd, _GAPLESS)
        self.is_gapless = True

    def mark_gaps(self) -> None:
        """It is going to be written in any order."""
        if self.is_gapless:
            os.chmod(self.fd, _MODE)
            self.is_gapless = False

    def place(self, mode: int, mtime_ns: int) -> None:
        """Give it its name, times and mode. Raises OSError; it is gone then."""
        try:
            os.utime(self.fd, ns=(time.time_ns(), mtime_ns))
            os.chmod(self.fd, mode & 0o777)
            if self._durable:
                os.fsync(self.fd)
            place(self._above, self._partial, self._name, replace=self._replace)
            if self._durable:
                os.fsync(self._above)
        except BaseException:
            self.drop()
            raise
        self._close()

    def leave(self) -> None:
        """Leave it there, for a later try to go on with: unless that could not find it."""
        if self._found_again:
            self._close()
        else:
            self.drop()

    def drop(self) -> None:
        """Remove it. Can be called after ``place`` or ``leave``."""
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
    """Bring a file to its place of which all bytes are here. Raises OSError, CommandError; nothing
    of it stays then.

    Args:
        replace: Whether a file that exists is replaced.
    """
    partial = PartialFile(tree, parts, replace=replace)
    try:
        write_all(partial.fd, data)
        partial.place(mode, mtime_ns)
    finally:
        partial.drop()


def _contiguous(fd: int, size: int) -> int:
    """How many bytes at a partial file's start may be good: those before its first hole.

    A download in pieces that was killed leaves gaps. The server compares what is before them, so a
    file system that knows no holes only makes it start over.
    """
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE) if size else 0
    except (AttributeError, OSError):
        return size
    # the last block before a hole may be filled in part only
    return size if hole >= size else max(0, hole - 1) // PIECE * PIECE


def _owner_here(above: int) -> int:
    """Whose this user's new files in a directory are: some mounts give all files one owner."""
    name = partial_name((os.urandom(16),))
    fd = os.open(name, _CREATE, 0o600, dir_fd=above)
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)
        unlink(above, name)


def _try_lock(fd: int, above: int, name: bytes) -> bool:
    """Lock a file; False when somebody has it, or has just given the name to another."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = os.stat(name, dir_fd=above, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
