"""The local side of a download: writing below a destination, and nowhere else.

Lives here: directories and links, under names given by a server; removing.
Lives elsewhere: files that appear whole (partial_file.py), modes (local_modes.py), confinement
itself (ftpwire/beneath.py), what to download (download.py).

No server is trusted: every component was checked to be a name, and no link below the destination is
followed, least of all one that the same transfer made.
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
    """The local directory below which a download writes.

    Args:
        directory: An existing directory. Links on the way to it are followed: the user named it.
        follow: True if it may be a link itself. Must be False if a server chose its name, because
            an earlier source may have made the link.
        durable: True to sync each file and directory to disk when it gets its name.
    """

    def __init__(self, directory: bytes, *, follow: bool = True, durable: bool = False) -> None:
        self.durable = durable
        flags = beneath.OPEN_DIRECTORY | (0 if follow else os.O_NOFOLLOW)
        self._fd = os.open(directory if follow else directory.rstrip(b"/"), flags)
        self._tree = beneath.Tree(self._fd, follow=False)
        self._open: OrderedDict[Parts, int] = OrderedDict()

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self._fd)
        self._fd = -1  # late replies of an aborted transfer must not write

    def failure(self, error: OSError, shown: bytes) -> CommandError:
        """Return the typed error for an OSError below, with ``shown`` as its path."""
        name = paths.show(shown)
        if error.errno == errno.ENOENT and self._fd >= 0 and not os.fstat(self._fd).st_nlink:
            return DiskGone(f"{name}: the destination directory was removed")
        return from_oserror(error, name)

    def directory(self, parts: Parts) -> int:
        """Return a descriptor of a directory below, owned by the tree. Raises OSError."""
        if self._fd < 0:
            raise Cancelled("the transfer was aborted")
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
        """Make a directory that its owner can write to for now, or use an existing one.

        A new one gets its bits for group and others at once: later it could not be distinguished
        from one that existed before, which gets no additional write permission for them.

        Returns:
            True if it is new.

        Raises:
            NotADirectory: Something else has this name.
        """
        if not parts:
            return False
        above = self.directory(parts[:-1])
        try:
            try:
                os.mkdir(parts[-1], 0o700, dir_fd=above)
            finally:
                if self.durable:  # also if it exists: an earlier try may have made it
                    os.fsync(above)
        except FileExistsError:
            info = os.stat(parts[-1], dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectory("exists and is not a directory") from None
            if info.st_mode & 0o700 != 0o700:
                chmod(above, parts[-1], stat.S_IMODE(info.st_mode) | 0o700, exactly=True)
            return False
        # keep it open: usually the next entries go into it
        fd = os.open(parts[-1], beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            bits = bits_for(os.fstat(fd), (mode & 0o777) | 0o700)
            if bits is not None:
                os.chmod(fd, bits)
        except BaseException:
            os.close(fd)
            raise
        before = self._open.pop(parts, None)
        if before is not None:  # another process has removed that directory meanwhile
            os.close(before)
        self._opened(parts, fd)
        return True

    def open_for_owner(self, parts: Parts) -> None:
        """Give the owner all permissions for a directory. All other bits stay."""
        fd = self.directory(parts)
        os.chmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)

    def begin_root(self, mode: int) -> None:
        """Set the root's bits for group and others. Only for a root that this transfer made."""
        bits = bits_for(os.fstat(self._fd), mode | 0o700)
        if bits is not None:
            os.chmod(self._fd, bits)

    def finish_dir(self, parts: Parts, mode: int | None, mtime_ns: int) -> bool:
        """Set the mode and mtime of a directory after its contents have arrived.

        Below the root, group and others don't get write permission if they had none.

        Args:
            mode: The mode on the server; None to leave the mode.

        Returns:
            True if write permission was withheld.
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
        """Return the state of a path, without following links; None if it does not exist."""
        try:
            return os.stat(parts[-1], dir_fd=self.directory(parts[:-1]), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check_replaceable(self, parts: Parts) -> None:
        """Refuse, before any byte is received, a target that no file can be renamed to.

        Raises:
            OSError: EISDIR: a directory is there. EBUSY: something is mounted there. EACCES or
                EPERM: this user may not change the directory.
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
        """Return a descriptor of a directory below, to be closed by the caller."""
        return os.dup(self.directory(parts))

    def set_attributes(self, parts: Parts, mode: int | None, mtime_ns: int | None) -> None:
        """Set the permission bits and the mtime of a file; of a link, the mtime only."""
        above, name = self.directory(parts[:-1]), parts[-1]
        if mtime_ns is not None:
            times = (time.time_ns(), mtime_ns)
            os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)
        if mode is not None:
            chmod(above, name, mode & 0o777)

    def remove(self, parts: Parts) -> None:
        """Remove a file, a link or a directory with its contents. Links are not followed."""
        above, name = self.directory(parts[:-1]), parts[-1]
        for known in [one for one in self._open if one[: len(parts)] == parts]:
            os.close(self._open.pop(known))  # a new directory may get this name
        info = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            _remove_tree(above, name)
        else:
            os.unlink(name, dir_fd=above)

    def keep(self, parts: Parts) -> None:
        """Sync an existing file to disk. Raises OSError."""
        with self.reading(parts) as fd:
            os.fsync(fd)
        os.fsync(self.directory(parts[:-1]))

    @contextmanager
    def reading(self, parts: Parts) -> Iterator[int]:
        """Open a regular file below for reading."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, dir_fd=self.directory(parts[:-1]))
        try:
            beneath.regular(fd)
            yield fd
        finally:
            os.close(fd)

    def make_link(self, parts: Parts, target: bytes, mtime_ns: int, *, replace: bool) -> None:
        """Make a symbolic link with exactly this target."""
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
    """Return whether a sticky directory prevents this user from replacing a file in it."""
    owners = (0, above.st_uid, there.st_uid)
    return bool(above.st_mode & stat.S_ISVTX) and os.geteuid() not in owners


def _is_mount_point(above: int, name: bytes) -> bool:
    """Return whether something is mounted on a name, e.g. by a bind mount."""
    try:
        fd = os.open(name, beneath.OPEN_ANY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    except OSError:
        return False  # the rename itself reports the error
    try:
        return _mount_of(fd) != _mount_of(above)
    finally:
        os.close(fd)


def _mount_of(fd: int) -> bytes:
    """Return the mount ID line of an open file; empty if the kernel doesn't provide it."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            return next((line for line in info if line.startswith(b"mnt_id:")), b"")
    except OSError:
        return b""


class _Emptied:
    """A directory that is being removed, and whose files are removed already."""

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
