"""The local side of a download: writing below a destination, and nowhere else.

Lives here: directories and links, under names a server gave; removing.
Lives elsewhere: files that appear whole (partial_file.py), modes (local_modes.py), confinement
itself (ftpwire/beneath.py), what to download (download.py).

No server is trusted: every component was checked as a name, and no link below the destination
is followed, least of all one that the same transfer made.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from ftpclient.transfer.local_modes import bits_for, chmod, grantable
from ftpclient.transfer.placing import partial_name, place, unlink
from ftpwire import beneath, paths
from ftpwire.errors import (
    Cancelled,
    CommandError,
    DiskGone,
    NotADirectory,
    from_oserror,
)
from ftpwire.paths import Parts

_OPEN_DIRECTORIES = 32


class LocalTree:
    """The directory that downloads go below.

    Args:
        directory: Exists; how it is reached is the user's own affair, links included.
        follow: Whether it may itself be a link. Not where a server chose its name: an earlier
            source may have made the link.
        durable: What gets a name in it is on the disk then, whatever happens to the machine.
    """

    def __init__(self, directory: bytes, *, follow: bool = True, durable: bool = False) -> None:
        self.durable = durable
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
        fd = self._tree.open_dir(parts)
        self._opened(parts, fd)
        return fd

    def _opened(self, parts: Parts, fd: int) -> None:
        if len(self._open) >= _OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        self._open[parts] = fd

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
            try:
                os.mkdir(parts[-1], 0o700, dir_fd=above)
            finally:
                if self.durable:  # one that is there may be an earlier try's
                    os.fsync(above)
        except FileExistsError:
            info = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectory("something else is there already") from None
            if info.st_mode & 0o700 != 0o700:
                chmod(above, parts[-1], stat.S_IMODE(info.st_mode) | 0o700, exactly=True)
            return False
        # what goes into it comes next, as a rule
        fd = os.open(parts[-1], beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            bits = bits_for(os.fstat(fd), (mode & 0o777) | 0o700)
            if bits is not None:
                os.chmod(fd, bits)
        except BaseException:
            os.close(fd)
            raise
        before = self._open.pop(parts, None)
        if before is not None:  # somebody else has removed that directory meanwhile
            os.close(before)
        self._opened(parts, fd)
        return True

    def open_for_owner(self, parts: Parts) -> None:
        """Let its owner change a directory. All other bits stay."""
        fd = self.directory(parts)
        os.chmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)

    def begin_root(self, mode: int) -> None:
        """Give the root, which was made for this, its bits for group and others."""
        bits = bits_for(os.fstat(self._fd), mode | 0o700)
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
        bits = bits_for(info, granted)
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
            chmod(above, name, mode & 0o777)

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

    def keep(self, parts: Parts) -> None:
        """Have a file that is here already on the disk. Raises OSError."""
        with self.reading(parts) as fd:
            os.fsync(fd)
        os.fsync(self.directory(parts[:-1]))

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
            unlink(above, partial)
        except OSError:  # another user's, or a directory
            partial = partial_name((os.urandom(16),))
        os.symlink(target, partial, dir_fd=above)
        os.utime(partial, ns=(mtime_ns, mtime_ns), dir_fd=above, follow_symlinks=False)
        place(above, partial, name, replace=replace)
        if self.durable:
            os.fsync(above)


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


class _Emptied:
    """A directory that is being removed: its files are gone already."""

    def __init__(self, above: int, name: bytes) -> None:
        flags = beneath.OPEN_DIRECTORY | os.O_NOFOLLOW
        self.name = name
        self.below: list[bytes] = []
        try:
            self.fd = os.open(name, flags, dir_fd=above)
        except PermissionError:
            chmod(above, name, 0o700)
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
