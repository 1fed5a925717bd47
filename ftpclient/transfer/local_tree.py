"""The local side of a download: writing below a destination, and nowhere else.

Lives here: making directories, and files that appear whole, under names a server gave.
Lives elsewhere: confinement itself (ftpwire/beneath.py), what to download (job.py).

No server is trusted: every component was checked as a name, and no link below the destination
is followed, least of all one that the same transfer made.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftpwire import beneath, paths
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    Cancelled,
    CommandError,
    DiskGone,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    from_oserror,
)
from ftpwire.paths import Parts
from ftpwire.pieces import PIECE

_OPEN_DIRECTORIES = 32
_CONTINUE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def checked_parts(path: bytes) -> Parts:
    """The components of a relative path that a server gave.

    Raises:
        BadMessage: It has ``..``, is absolute, or can't be below anything.
    """
    parts = tuple(path.split(b"/"))
    try:
        for part in parts:
            paths.check_name(part)
    except InvalidPath as error:
        raise BadMessage(f"the server sent an unusable name: {error}") from None
    return parts


def grantable(mode: int, had: int) -> int:
    """The permission bits that a server may give a directory that was here already.

    Args:
        had: The mode that it has. Where group or others couldn't write they still can't.
    """
    return mode & 0o777 & ~(0o022 & ~had)


def withheld(first: bytes) -> str:
    """What a user is told, once, where a directory didn't get a mode of the server's."""
    return (
        f"{paths.show(first)}: was here before, so group and others don't get the right to write "
        "that they have on the server (chmod gives it); the same holds for other directories"
    )


class LocalTree:
    """The directory that downloads go below.

    Args:
        directory: Exists; how it is reached is the user's own affair, links included.
        follow: Whether it may itself be a link. Not where a server chose its name: an earlier
            source may have made the link.
    """

    def __init__(self, directory: bytes, *, follow: bool = True) -> None:
        flags = beneath.OPEN_DIRECTORY | (0 if follow else os.O_NOFOLLOW)
        self._fd = os.open(directory if follow else directory.rstrip(b"/"), flags)
        self._tree = beneath.Tree(self._fd, follow=False)
        self._open: OrderedDict[Parts, int] = OrderedDict()

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self._fd)
        self._fd = -1  # late arrivals of a transfer that was given up must not write

    def failure(self, error: OSError, shown: bytes) -> CommandError:
        """The typed error for what failed below, named as ``shown``."""
        name = paths.show(shown)
        if error.errno == errno.ENOENT and self._fd >= 0 and not os.fstat(self._fd).st_nlink:
            return DiskGone(f"{name}: the directory that all of it goes to was removed")
        return from_oserror(error, name)

    def directory(self, parts: Parts) -> int:
        """A handle of a directory below; it stays the tree's. Raises OSError."""
        if self._fd < 0:
            raise Cancelled("the transfer was given up")
        if not parts:
            return self._fd
        fd = self._open.get(parts)
        if fd is not None:
            self._open.move_to_end(parts)
            return fd
        if len(self._open) >= _OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        fd = self._tree.open_dir(parts)
        self._open[parts] = fd
        return fd

    def make_dir(self, parts: Parts, mode: int) -> bool:
        """Make a directory that can be written into for now; one that exists is taken.

        A new one has its bits for group and others at once: later it could not be told from one
        that was there before, which gets no more rights for them.

        Returns:
            Whether it is new.

        Raises:
            NotADirectory: Something else is there.
        """
        if not parts:
            return False
        above = self.directory(parts[:-1])
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=above)
        except FileExistsError:
            info = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectory("something else is there already") from None
            if info.st_mode & 0o700 != 0o700:
                _chmod(above, parts[-1], stat.S_IMODE(info.st_mode) | 0o700, exactly=True)
            return False
        _chmod(above, parts[-1], (mode & 0o777) | 0o700)
        return True

    def open_for_owner(self, parts: Parts) -> None:
        """Let its owner change a directory. All other bits stay."""
        fd = self.directory(parts)
        os.chmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)

    def begin_root(self, mode: int) -> None:
        """Give the root, which was made for this, its bits for group and others."""
        bits = _bits_for(os.fstat(self._fd), mode | 0o700)
        if bits is not None:
            os.chmod(self._fd, bits)

    def finish_dir(self, parts: Parts, mode: int | None, mtime_ns: int) -> bool:
        """Set what a directory has once its contents are there. Below the root, group and others
        don't get the right to write where they didn't have it.

        Args:
            mode: None leaves it.

        Returns:
            Whether they would have got it.
        """
        fd = self.directory(parts)
        os.utime(fd, ns=(time.time_ns(), mtime_ns))
        if mode is None:
            return False
        info = os.fstat(fd)
        granted = grantable(mode, info.st_mode) if parts else mode & 0o777
        bits = _bits_for(info, granted)
        if bits is not None:
            os.chmod(fd, bits)
        return granted != mode & 0o777

    def stat(self, parts: Parts) -> os.stat_result | None:
        """What is at a path, links not followed; None when nothing is."""
        try:
            return os.stat(parts[-1], dir_fd=self.directory(parts[:-1]), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check_replaceable(self, parts: Parts) -> None:
        """Refuse, before any of its bytes has come, what no file can be renamed to.

        Raises:
            OSError: EISDIR, a directory is there; EBUSY, something is mounted there; EACCES or
                EPERM, the directory is not ours to change.
        """
        above, there = self.directory(parts[:-1]), self.stat(parts)
        refusal = 0
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=above, effective_ids=True):
            refusal = errno.EACCES
        elif there is not None and stat.S_ISDIR(there.st_mode):
            refusal = errno.EISDIR
        elif there is not None and _is_anothers(os.fstat(above), there):
            refusal = errno.EPERM
        elif there is not None and _is_mount_point(above, parts[-1]):
            refusal = errno.EBUSY
        if refusal:
            raise OSError(refusal, os.strerror(refusal))

    def open_dir(self, parts: Parts) -> int:
        """A handle of a directory below, the caller's own."""
        return os.dup(self.directory(parts))

    def set_attributes(self, parts: Parts, mode: int | None, mtime_ns: int | None) -> None:
        """Set a file's permission bits or mtime; of a link, its mtime only."""
        above, name = self.directory(parts[:-1]), parts[-1]
        if mtime_ns is not None:
            times = (time.time_ns(), mtime_ns)
            os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)
        if mode is not None:
            _chmod(above, name, mode & 0o777)

    def remove(self, parts: Parts) -> None:
        """Remove a file, a link or a directory with all its contents; no link is followed."""
        above, name = self.directory(parts[:-1]), parts[-1]
        for known in [one for one in self._open if one[: len(parts)] == parts]:
            os.close(self._open.pop(known))  # something else may get this name
        info = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            _remove_tree(above, name)
        else:
            os.unlink(name, dir_fd=above)

    @contextmanager
    def reading(self, parts: Parts) -> Iterator[int]:
        """A regular file below, open for reading."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, dir_fd=self.directory(parts[:-1]))
        try:
            beneath.regular(fd)
            yield fd
        finally:
            os.close(fd)

    def make_link(self, parts: Parts, target: bytes, mtime_ns: int, *, replace: bool) -> None:
        """Store a symbolic link as it came."""
        above, name = self.directory(parts[:-1]), parts[-1]
        partial = partial_name(parts)
        try:
            _unlink(above, partial)
        except OSError:  # another user's, or a directory
            partial = partial_name((secrets.token_bytes(16),))
        os.symlink(target, partial, dir_fd=above)
        os.utime(partial, ns=(mtime_ns, mtime_ns), dir_fd=above, follow_symlinks=False)
        _place(above, partial, name, replace=replace)


class PartialFile:
    """A file on its way in, hidden under a partial name until it is verified.

    Who writes to it holds a flock on it; a second transfer to the same name takes another
    partial name, so that their bytes never mix.

    Args:
        replace: Whether a file that exists is replaced.
        resume: Keep what an earlier try has left; ``offset`` tells how much that is.
    """

    def __init__(
        self, tree: LocalTree, parts: Parts, *, replace: bool = True, resume: bool = False
    ) -> None:
        # its own handle: the tree's may be closed while this is under way
        self._above = os.dup(tree.directory(parts[:-1]))
        self._name = parts[-1]
        self._partial = partial_name(parts)
        self._replace = replace
        self._found_again = True
        self.fd = -1
        try:
            self.fd = self._open(_CONTINUE if resume else _CONTINUE | os.O_TRUNC)
        except BaseException:
            os.close(self._above)
            raise
        self.offset = _contiguous(self.fd)

    def _open(self, flags: int) -> int:
        # truncated only once it is locked: somebody may be writing to it
        fd = self._found(flags & ~os.O_TRUNC)
        if fd < 0:
            self._partial = partial_name((secrets.token_bytes(16),))
            self._found_again = False
            fd = os.open(self._partial, _CREATE, 0o600, dir_fd=self._above)
        try:
            if flags & os.O_TRUNC:
                os.ftruncate(fd, 0)
            os.chmod(fd, 0o600)
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

    def place(self, mode: int, mtime_ns: int) -> None:
        """Give it its name, times and mode. Raises OSError; it is gone then."""
        try:
            os.utime(self.fd, ns=(time.time_ns(), mtime_ns))
            os.chmod(self.fd, mode & 0o777)
            _place(self._above, self._partial, self._name, replace=self._replace)
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
            _unlink(self._above, self._partial)
            self._close()

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self._above)
        self.fd = -1


def _contiguous(fd: int) -> int:
    """How many bytes at a partial file's start may be good: those before its first hole.

    A download in pieces that was killed leaves gaps. The server compares what is before them, so a
    file system that knows no holes only makes it start over.
    """
    size = os.fstat(fd).st_size
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE) if size else 0
    except (AttributeError, OSError):
        return size
    # the last block before a hole may be filled in part only
    return size if hole >= size else max(0, hole - 1) // PIECE * PIECE


def _owner_here(above: int) -> int:
    """Whose this user's new files in a directory are: some mounts give all files one owner."""
    name = partial_name((secrets.token_bytes(16),))
    fd = os.open(name, _CREATE, 0o600, dir_fd=above)
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)
        _unlink(above, name)


def _try_lock(fd: int, above: int, name: bytes) -> bool:
    """Lock a file; False when somebody has it, or has just given the name to another."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = os.stat(name, dir_fd=above, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)


def partial_name(parts: Sequence[bytes]) -> bytes:
    """The hidden name under which a file arrives: short, since its own may be 255 bytes long."""
    short = hashlib.sha256(parts[-1]).hexdigest()[:16].encode()
    return paths.PARTIAL_PREFIX + short + paths.PARTIAL_SUFFIX


def _place(above: int, partial: bytes, name: bytes, *, replace: bool) -> None:
    try:
        if replace:
            os.rename(partial, name, src_dir_fd=above, dst_dir_fd=above)
        else:
            beneath.rename_new(above, partial, above, name)
    except OSError as error:
        _unlink(above, partial)
        if error.errno == errno.EISDIR:
            raise IsADirectory("a directory is there") from None
        if error.errno == errno.EEXIST:
            raise AlreadyExists("it exists") from None
        raise


def _is_anothers(above: os.stat_result, there: os.stat_result) -> bool:
    """Whether a sticky directory keeps us from replacing what is there."""
    owners = (0, above.st_uid, there.st_uid)
    return bool(above.st_mode & stat.S_ISVTX) and os.geteuid() not in owners


def _is_mount_point(above: int, name: bytes) -> bool:
    """Whether something else than its directory's file system is at a name (a bind mount)."""
    try:
        fd = os.open(name, beneath.OPEN_ANY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    except OSError:
        return False  # whoever renames will be told
    try:
        return _mount_of(fd) != _mount_of(above)
    finally:
        os.close(fd)


def _mount_of(fd: int) -> bytes:
    """The number of the mount that something open is on; empty where the kernel tells none."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as told:
            return next((line for line in told if line.startswith(b"mnt_id:")), b"")
    except OSError:
        return b""


def _unlink(directory: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def _bits_for(info: os.stat_result, mode: int) -> int | None:
    """What to set so that something has permission bits; None: leave it.

    Directories keep setgid and sticky, by which others share them. Where the kernel would clear
    setgid, because this user isn't in the group, the mode stays.
    """
    bits = mode & 0o777
    if stat.S_ISDIR(info.st_mode):
        bits |= beneath.kept_bits(info)
        if bits == stat.S_IMODE(info.st_mode):
            return None
        if bits & stat.S_ISGID and not beneath.in_group(info.st_gid):
            return None
    return bits


def _chmod(above: int, name: bytes, mode: int, *, exactly: bool = False) -> None:
    """Change a mode without following a link, also of what can't be opened for reading.

    Args:
        exactly: To just this, also where the kernel clears setgid.
    """
    fd = os.open(name, beneath.OPEN_ANY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    try:
        info = os.fstat(fd)
        if stat.S_ISLNK(info.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        bits = mode if exactly else _bits_for(info, mode)
        if bits is None:
            return
        if beneath.O_PATH == os.O_RDONLY:
            os.chmod(fd, bits)
        else:  # fchmod(2) refuses a handle that can't read
            os.chmod(f"/proc/self/fd/{fd}", bits)
    finally:
        os.close(fd)


class _Emptied:
    """A directory that is being removed: its files are gone already."""

    def __init__(self, above: int, name: bytes) -> None:
        flags = beneath.OPEN_DIRECTORY | os.O_NOFOLLOW
        self.name = name
        self.below: list[bytes] = []
        try:
            self.fd = os.open(name, flags, dir_fd=above)
        except PermissionError:
            _chmod(above, name, 0o700)
            self.fd = os.open(name, flags, dir_fd=above)
        try:
            if os.fstat(self.fd).st_mode & 0o700 != 0o700:
                os.chmod(self.fd, 0o700)
            with os.scandir(self.fd) as entries:
                for entry in entries:
                    inside = os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        self.below.append(inside)
                    else:
                        os.unlink(inside, dir_fd=self.fd)
        except BaseException:
            os.close(self.fd)
            raise


def _remove_tree(above: int, name: bytes) -> None:
    way = beneath.Descent(above)
    stack = [_Emptied(above, name)]
    way.go_down(stack[0].fd)
    try:
        while stack:
            here = stack[-1]
            if here.below:
                stack.append(_Emptied(way.fd, here.below.pop()))
                way.go_down(stack[-1].fd)
                continue
            stack.pop()
            way.go_up(lambda: beneath.open_below(above, [one.name for one in stack]))
            os.rmdir(here.name, dir_fd=way.fd)
    finally:
        way.close()
