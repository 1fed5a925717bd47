"""Directories and file systems below a home: what new files inherit there, what is possible.

Lives here: whether a directory needs a staging directory of its own, the reserved name in such a
directory, default ACLs, whether two names can be exchanged, mounts below a directory.
Lives elsewhere: the staging directory of the home itself (home_staging.py), the choice of a staging
directory for a batch (staging_dirs.py).

A file gets its group, its setgid bit (directories) and its ACL from the directory that it is made
in, and a rename changes none of these. So files for a directory that passes on something else than
the home's staging are made under the reserved name in that directory. Only the kernel can do that:
a server that isn't in the group may not give a file to it afterwards.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ftpserver.storage.walk import open_as_it_is, walk
from ftpwire import beneath, paths
from ftpwire.beneath import OPEN_ANY, Tree
from ftpwire.errors import Forbidden, InvalidPath

ALL_BITS = 0o777
_Made = TypeVar("_Made")
_DEFAULT_ACL = "system.posix_acl_default"
_ACL_VERSION = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP, _ACL_MASK, _ACL_OTHER = 0x01, 0x04, 0x10, 0x20
_NO_NAME = b"no-such-name"
"""A name that never exists in staging: names there begin with an incarnation or with ``u-``."""
_OPEN_BESIDE = OPEN_ANY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class Nature:
    """The properties that new files inherit from a directory, compared with the home's staging.

    Attributes:
        other: True if it is on another mount: nothing can be renamed to it from the home's staging.
        inherits: True if a new file may get another group or ACL than one made in staging.
        limits: The permission bits that its default ACL leaves; all of them without one.
    """

    other: bool = False
    inherits: bool = False
    limits: int = ALL_BITS


_AS_STAGING = Nature()


def nature_of(
    directory: int, staging: int, like: os.stat_result, *, one_mount: bool = False
) -> Nature:
    """Return the nature of an open directory.

    Args:
        staging: The home's staging directory.
        like: The state of ``staging``.
        one_mount: True if both are known to be on one mount.
    """
    info = os.fstat(directory)
    limits = acl_limits(directory)
    inherits = limits is not None or _gives_another_group(info, like)
    other = not one_mount and (info.st_dev != like.st_dev or not on_one_mount(staging, directory))
    if limits is None and not inherits and not other:
        return _AS_STAGING
    return Nature(other, inherits, ALL_BITS if limits is None else limits)


def _gives_another_group(info: os.stat_result, like: os.stat_result) -> bool:
    if info.st_gid == like.st_gid:
        return bool(info.st_mode & ~like.st_mode & stat.S_ISGID)
    # without setgid on either, files in both get the group of this process
    plain = not (info.st_mode | like.st_mode) & stat.S_ISGID
    return not (plain and info.st_gid == os.getegid())


def on_one_mount(one: int, other: int) -> bool:
    """Return whether files can be renamed between two directories, without renaming any.

    Device numbers don't tell: a bind mount has the same. The kernel compares the mounts before it
    looks for the names, so a rename of a missing name fails with EXDEV if they differ.
    """
    try:
        os.rename(_NO_NAME, _NO_NAME, src_dir_fd=one, dst_dir_fd=other)
    except OSError as error:
        return error.errno != errno.EXDEV
    return True


def acl_limits(directory: int) -> int | None:
    """Return the permission bits that a directory's default ACL leaves to new files in it.

    A mode masked with these is what open(2) and mkdir(2) would set there: both apply the mode to
    the owner's entry, to the mask (or the group's entry without a mask), and to that of others.

    Returns:
        None if it has no default ACL.
    """
    try:
        raw = os.getxattr(directory, _DEFAULT_ACL)
    except OSError:
        return None  # there is none, or the file system has no ACLs
    except AttributeError:
        return None  # the operating system has no extended attributes
    entries: dict[int, int] = {
        tag: rights & 7
        for tag, rights, _ in _ACL_ENTRY.iter_unpack(raw[_ACL_VERSION.size :])
        if tag in (_ACL_USER, _ACL_GROUP, _ACL_MASK, _ACL_OTHER)
    }
    group = entries.get(_ACL_MASK, entries.get(_ACL_GROUP, 7))
    return entries.get(_ACL_USER, 7) << 6 | group << 3 | entries.get(_ACL_OTHER, 7)


# the reserved name in a directory ------------------------------------------------------------


class Beside:
    """The reserved name in an open directory, as a staging directory. For one thread.

    Other processes that may write to the directory may stage files there, too; they cannot list it.
    Each of them removes it when done, which succeeds only if nothing is staged there at that time.

    Attributes:
        fd: The staging directory, open. It is another one after `make` had to recreate it.

    Raises:
        Forbidden: The directory is sticky, and the reserved name in it belongs to another user.
        OSError
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self.fd = _open_beside(directory)

    def make(self, make: Callable[[int], _Made]) -> _Made:
        """Call ``make`` with the descriptor, and return its result. Recreates the directory if
        another process has removed it while it was empty."""
        while True:
            try:
                return make(self.fd)
            except FileNotFoundError:
                if self._is_there():
                    raise
            fd = _open_beside(self._directory)  # another process has removed it
            os.close(self.fd)
            self.fd = fd

    def _is_there(self) -> bool:
        try:
            there = os.stat(paths.STAGING, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.fd))

    def close(self) -> None:
        """Close the descriptor, and remove the directory unless something is staged there."""
        os.close(self.fd)
        leave_beside(self._directory)


def _open_beside(directory: int) -> int:
    while True:
        above = os.fstat(directory)
        try:
            os.mkdir(paths.STAGING, 0o700, dir_fd=directory)
            made = True
            _give_times_back(directory, above)
        except FileExistsError:
            made = False
        try:
            fd = os.open(paths.STAGING, _OPEN_BESIDE, dir_fd=directory)
            break
        except FileNotFoundError:
            continue  # another process has removed it just now
    try:
        info = os.fstat(fd)
        if made and above.st_mode & 0o022 and _keeps_setgid(info):
            shared = (above.st_mode & 0o022) | (above.st_mode & 0o022) >> 1  # write and search
            beneath.chmod_pinned(fd, 0o1700 | shared | info.st_mode & stat.S_ISGID)
        elif above.st_mode & stat.S_ISVTX and info.st_uid not in (0, os.geteuid(), above.st_uid):
            shown = paths.show(paths.STAGING)
            raise Forbidden(f"{shown} in this directory belongs to another user")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _keeps_setgid(info: os.stat_result) -> bool:
    return not info.st_mode & stat.S_ISGID or beneath.in_group(info.st_gid)


def leave_beside(directory: int) -> None:
    """Remove the reserved name from a directory, unless something is staged there."""
    before = os.fstat(directory)
    try:
        os.rmdir(paths.STAGING, dir_fd=directory)
    except OSError:
        return  # another process is staging there, or has removed it
    _give_times_back(directory, before)


def _give_times_back(directory: int, before: os.stat_result) -> None:
    """Restore a directory's times, so that the reserved name comes and goes without a trace.

    The client may already have set the times of a directory that it has filled.
    """
    try:
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    except OSError:
        pass  # the directory has another owner, or the disk is full: this alone fails nothing


def remove_directory(directory: int, name: bytes) -> None:
    """Call rmdir(2), also for a directory that contains nothing but an empty reserved name."""
    try:
        os.rmdir(name, dir_fd=directory)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        fd = os.open(name, _OPEN_BESIDE, dir_fd=directory)
    try:
        leave_beside(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)


def require_empty(directory: int, name: bytes) -> None:
    """Raise what rmdir(2) would raise for a directory that isn't empty; don't remove it.

    An empty reserved name in it doesn't count, and is removed.
    """
    fd = open_as_it_is(directory, name)
    try:
        leave_beside(fd)
        with os.scandir(fd) as entries:
            if next(entries, None) is not None:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    finally:
        os.close(fd)


# what file systems can do ----------------------------------------------------------------------


def can_be_moved(directory: int, name: bytes, staging: int, probe: bytes) -> bool:
    """Return whether something could be renamed into staging. It isn't moved.

    It is renamed onto a directory that isn't empty. That always fails, with EXDEV if the file
    system cannot move it at all (another mount; a directory in a lower layer of overlayfs).

    Args:
        probe: An unused name in staging.
    """
    os.mkdir(probe, 0o700, dir_fd=staging)
    try:
        os.mkdir(probe + b"/x", 0o700, dir_fd=staging)
        try:
            os.rename(name, probe, src_dir_fd=directory, dst_dir_fd=staging)
        except OSError as error:
            return error.errno != errno.EXDEV
        finally:
            os.rmdir(probe + b"/x", dir_fd=staging)
        raise AssertionError("a directory that isn't empty was replaced")
    finally:
        os.rmdir(probe, dir_fd=staging)


_ESCAPED = re.compile(rb"\\([0-7]{3})")
_MOUNTS = "/proc/self/mountinfo"


def mounted_below(directory: int, name: bytes) -> bytes | None:
    """Return where a file system is mounted at or below a name.

    Returns:
        The path from the name on, empty for the name itself; None if nothing is mounted there.

    Where /proc cannot be read, as in an isolated session process, all directories are examined.
    """
    try:
        top = os.readlink(b"/proc/self/fd/%d" % directory).rstrip(b"/") + b"/" + name
        with open(_MOUNTS, "rb") as lines:
            for line in lines:
                point = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4])
                if (point + b"/").startswith(top + b"/"):
                    return point[len(top) + 1 :]
    except (OSError, IndexError):
        return _mounted_as_walked(directory, name)
    return None


def _mounted_as_walked(directory: int, name: bytes) -> bytes | None:
    if _is_mounted(directory, name):
        return b""
    try:
        top = os.open(name, beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return None  # not a directory, or one that cannot be read
    try:
        for found in walk(top, lambda path, error: None):
            if found.entry.is_dir(follow_symlinks=False) and _is_mounted(
                found.directory, found.name
            ):
                return found.path
    finally:
        os.close(top)
    return None


def _is_mounted(directory: int, name: bytes) -> bool:
    """Return whether a name in a directory is on another mount than the directory."""
    try:
        fd = Tree(directory, follow=False).open_dir_here([name])
        if fd is not None:
            os.close(fd)
            return False
        fd = os.open(name, _OPEN_BESIDE, dir_fd=directory)
    except OSError:
        return False
    try:
        return not on_one_mount(directory, fd)
    finally:
        os.close(fd)


def refuse_mounts(directory: int, name: bytes, path: bytes) -> None:
    """Raise InvalidPath if a file system is mounted at a name or below it: that cannot be removed,
    and would be hidden in staging."""
    inside = mounted_below(directory, name)
    if inside is None:
        return
    where = f", at {paths.show(inside)} below it" if inside else ""
    text = f"{paths.show(path)}: a file system is mounted there{where}"
    raise InvalidPath(text, path=path)


def unlink_if_there(directory: int, name: bytes) -> None:
    """Remove a file or link from an open directory, if it exists. Raises OSError."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
