"""Opening and creating files below a directory handle, with no way out of that directory.

Lives here: path resolution confined to a directory, and renames that the standard library lacks.
This is the only module of ftpwire that touches a disk; it acts only on descriptors that callers
pass.
Lives elsewhere: what the files mean (ftpserver/storage/home.py, ftpclient/transfer/job.py).

Every operation starts at a descriptor. On Linux, ``openat2(2)`` resolves the whole path in the
kernel; elsewhere a walk opens each component with ``O_NOFOLLOW`` and resolves links itself. A path
is never checked first and opened later: something could be swapped in between.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftpwire.errors import NotRegular

if TYPE_CHECKING:
    from ftpwire.messages import FileType

O_PATH = getattr(os, "O_PATH", os.O_RDONLY)
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OPEN_ANY = O_PATH | os.O_CLOEXEC

MOST_OPEN = 16
"""Most directories that a `Descent` keeps open, besides the first."""
_MAX_LINKS = 40
_AGAIN_TRIES = 64

_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_RESOLVE_NO_LINKS = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS
_SYS_OPENAT2 = 437  # the same on every architecture (kernel 5.6)

_CAPABILITY_VERSION = 0x20080522
_CAP_FSETID = 4

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_HOW_SIZE = ctypes.sizeof(_OpenHow)

_is_linux = sys.platform == "linux"
if _is_linux:
    _syscall = _libc.syscall
    _syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    _syscall.restype = ctypes.c_long
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    )
_syncfs = getattr(_libc, "syncfs", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
_SYNC_FILE_RANGE_WAIT_BEFORE = 1
_SYNC_FILE_RANGE_WRITE = 2
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Unsupported(OSError):
    """The system or the file system does not support this; the caller has another way."""


def identity_of(fd: int) -> tuple[int, int]:
    """Return the device and inode of an open file or directory, which identify it."""
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def open_above(fd: int, wanted: tuple[int, int]) -> int | None:
    """Open the parent of an open directory; return None if it is not (or no longer) the wanted one.

    The parent of a directory that was moved is another one: it is opened, compared, and closed.
    """
    try:
        above = os.open(b"..", OPEN_DIRECTORY, dir_fd=fd)
    except OSError:
        return None
    if identity_of(above) == wanted:
        return above
    os.close(above)
    return None


class Descent:
    """A path of open directories, each in the one before. However long it is, only a few are open:
    the first, which stays the caller's, and the lowest ones.

    Directories that were closed are opened again on the way up. It is an error if another directory
    is there by then.

    Args:
        top: Descriptor of the first directory.
    """

    def __init__(self, top: int) -> None:
        self._fds = [top]
        self._identities: list[tuple[int, int]] = [(0, 0)]
        """Identities of the directories that were closed; unused for the others."""

    @property
    def fd(self) -> int:
        """The lowest directory; -1 after `go_up` failed."""
        return self._fds[-1]

    def __len__(self) -> int:
        """Return the number of directories below the first."""
        return len(self._fds) - 1

    def go_down(self, fd: int) -> None:
        """Enter a subdirectory of the lowest directory. This object closes ``fd`` later."""
        self._fds.append(fd)
        self._identities.append((0, 0))
        far = len(self._fds) - 1 - MOST_OPEN
        if far > 0 and self._fds[far] >= 0:
            fd, self._fds[far] = self._fds[far], -1
            self._identities[far] = identity_of(fd)
            os.close(fd)

    def go_up(self, again: Callable[[], int]) -> None:
        """Leave the lowest directory.

        Args:
            again: Function that opens the directory above, starting from the top. Called if that
                was closed, and is no longer the parent of the lowest one.

        Raises:
            OSError: The directory above was moved (ESTALE), or cannot be opened. ``fd`` is then -1,
                and the caller can go further up.
        """
        left = self._fds.pop()
        self._identities.pop()
        try:
            if self._fds[-1] >= 0:
                return
            wanted = self._identities[-1]
            above = open_above(left, wanted) if left >= 0 else None
            if above is None:
                above = again()
                if identity_of(above) != wanted:
                    os.close(above)
                    raise OSError(errno.ESTALE, "a directory was moved meanwhile")
            self._fds[-1] = above
        finally:
            if left >= 0:
                os.close(left)

    def close(self) -> None:
        """Close all directories but the first, which is then the lowest. Can be called twice."""
        for fd in self._fds[1:]:
            if fd >= 0:
                os.close(fd)
        del self._fds[1:], self._identities[1:]


def open_below(top: int, names: Sequence[bytes]) -> int:
    """Open a directory, name by name, without following links. Raises OSError."""
    fd = os.open(b".", OPEN_DIRECTORY, dir_fd=top)
    for name in names:
        try:
            below = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


class Tree:
    """A directory and what is below it.

    Args:
        fd: Descriptor of the directory. The caller closes it.
        follow: True to resolve symbolic links as if the directory were ``/``; False to refuse a
            link anywhere in a path (ELOOP).
        kernel: True to use openat2 if available (tests turn it off to test the walk).

    Attributes:
        on_link: Function to call after links were followed, with the requested components and those
            that the links lead to (or as far as they could be followed). It may raise to refuse the
            path.
    """

    on_link: Callable[[Sequence[bytes], Sequence[bytes]], None] | None = None

    def __init__(self, fd: int, *, follow: bool, kernel: bool = True) -> None:
        self.fd = fd
        self.follow = follow
        self._kernel = kernel and _is_linux
        self._resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS if follow else _RESOLVE_NO_LINKS

    def open(self, parts: Sequence[bytes], flags: int, mode: int = 0) -> int:
        """Open the path made of the components. ``flags`` say whether the last one is followed.

        Raises:
            OSError: As from openat(2); ELOOP for too many links, or for any link if none may be.
        """
        flags |= os.O_CLOEXEC
        if self._kernel:
            resolve = self._resolve if self.on_link is None else _RESOLVE_NO_LINKS
            try:
                return self._openat2(parts, flags, mode, resolve)
            except Unsupported:
                self._kernel = False
            except OSError as error:
                if self.on_link is None or error.errno != errno.ELOOP:
                    raise
        fd, resolved = self._walk(parts, flags, mode)
        if self.on_link is not None and resolved != list(parts):
            try:
                self.on_link(parts, resolved)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def open_dir(self, parts: Sequence[bytes]) -> int:
        """Open a directory."""
        return self.open(parts, OPEN_DIRECTORY)

    def open_dir_here(self, parts: Sequence[bytes]) -> int | None:
        """Open a directory that is on the same mount as the top.

        Returns:
            The descriptor; None if it is on another mount, or if that cannot be found out quickly.
            OSError: As ``open_dir``.
        """
        if not self._kernel or self.on_link is not None:
            return None
        try:
            return self._openat2(parts, OPEN_DIRECTORY, 0, self._resolve | _RESOLVE_NO_XDEV)
        except OSError as error:
            if isinstance(error, Unsupported) or error.errno == errno.EXDEV:
                return None
            raise

    def open_file(self, parts: Sequence[bytes]) -> tuple[int, os.stat_result]:
        """Open a regular file for reading.

        Raises:
            IsADirectoryError, NotRegular: It is something else. A FIFO does not block the call.
        """
        fd = self.open(parts, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return fd, regular(fd)
        except BaseException:
            os.close(fd)
            raise

    def parent(self, parts: Sequence[bytes]) -> tuple[int, bytes]:
        """Open the parent directory of a path; return it with the last component."""
        name = parts[-1]
        return self.open_dir(parts[:-1]), name

    def _openat2(self, parts: Sequence[bytes], flags: int, mode: int, resolve: int) -> int:
        how = _OpenHow(flags, mode & 0o7777 if flags & os.O_CREAT else 0, resolve)
        path = b"/".join(parts) or b"."
        _refuse_nul(path)
        for _ in range(_AGAIN_TRIES):
            fd: int = _syscall(_SYS_OPENAT2, self.fd, path, ctypes.addressof(how), _HOW_SIZE)
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):  # a rename raced with the resolution
                continue
            if number in (errno.ENOSYS, errno.EPERM):  # no such call, or a filter forbids it
                raise Unsupported(number, os.strerror(number))
            raise OSError(number, os.strerror(number), path)
        raise Unsupported(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _walk(self, parts: Sequence[bytes], flags: int, mode: int) -> tuple[int, list[bytes]]:
        """Open component by component. Return the descriptor, and the components after all links
        were resolved."""
        # O_EXCL creates a new name, so a link with that name is not followed
        exclusive = flags & os.O_CREAT and flags & os.O_EXCL
        follow_last = not (flags & os.O_NOFOLLOW or exclusive)
        # split again, as the kernel does: a slash inside a component must not bypass the walk
        todo = b"/".join(parts).split(b"/")[::-1]
        way = Descent(self.fd)  # the directories passed, so that ".." cannot leave the top
        names: list[bytes] = []  # the names of these
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name in (b"", b"."):
                    continue
                if name == b"..":
                    if names:
                        names.pop()
                        way.go_up(lambda: open_below(self.fd, names))
                    continue
                here = way.fd
                target = self._link_target(name, here) if todo or follow_last else None
                if target is None:
                    if todo:
                        way.go_down(os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=here))
                        names.append(name)
                        continue
                    return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=here), [*names, name]
                links += 1
                if links > _MAX_LINKS or not self.follow:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
                if target.startswith(b"/"):
                    way.close()
                    names.clear()
                todo.extend(reversed(target.split(b"/")))
            return os.open(b".", flags, mode, dir_fd=way.fd), names
        except OSError:
            if links and self.on_link is not None:
                # a link to a forbidden path must not reveal whether something exists there
                self.on_link(parts, [*names, name])
            raise
        finally:
            way.close()

    @staticmethod
    def _link_target(name: bytes, here: int) -> bytes | None:
        try:
            return os.readlink(name, dir_fd=here)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None  # not a link; or missing: open() reports that, or creates it (O_CREAT)
            raise


def regular(fd: int) -> os.stat_result:
    """Return the state of an open regular file.

    Raises:
        IsADirectoryError, NotRegular: It is something else.
    """
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode):
        return info
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise NotRegular("not a regular file, directory or link")


def rename_new(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
    """Rename without replacing anything (RENAME_NOREPLACE).

    Raises:
        FileExistsError: Something is at the target.
    """
    try:
        _rename(source_dir, source, target_dir, target, _RENAME_NOREPLACE)
    except Unsupported:
        info = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode) or not _link(source_dir, source, target_dir, target):
            # rename(2) replaces at most an empty directory, so a race loses nothing; without hard
            # links it may replace a file that was created at this very moment
            if _exists(target_dir, target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        else:
            os.unlink(source, dir_fd=source_dir)


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def _link(source_dir: int, source: bytes, target_dir: int, target: bytes) -> bool:
    """Give a file a second name. Return False if the file system has no hard links."""
    try:
        os.link(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def exchange(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
    """Swap two existing names atomically (RENAME_EXCHANGE).

    Raises:
        Unsupported: The file system does not support it.
    """
    _rename(source_dir, source, target_dir, target, _RENAME_EXCHANGE)


_exchanging: set[tuple[int, int]] = set()


def can_exchange(directory: int, one: bytes, other: bytes) -> bool:
    """Return whether two names can be swapped atomically on the file system of a directory.

    This is tried with two new names in the directory, which are removed afterwards. A success is
    remembered for the device.

    Raises:
        OSError: The names cannot be created.
    """
    known = os.fstat(directory).st_dev, id(_renameat2)
    if known in _exchanging:
        return True
    if _renameat2 is None:
        return False
    made: list[bytes] = []
    try:
        for name in (one, other):
            os.mkdir(name, 0o700, dir_fd=directory)
            made.append(name)
        exchange(directory, one, directory, other)
    except Unsupported:
        return False
    finally:
        for name in made:
            os.rmdir(name, dir_fd=directory)
    _exchanging.add(known)
    return True


def cannot_exchange(directory: int) -> None:
    """Forget that names can be swapped on this file system: it failed, so try again next time."""
    _exchanging.discard((os.fstat(directory).st_dev, id(_renameat2)))


def _rename(source_dir: int, source: bytes, target_dir: int, target: bytes, flags: int) -> None:
    if _renameat2 is None:
        raise Unsupported(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if b"\0" in source or b"\0" in target:  # inline for speed: this runs for each of many files
        raise ValueError("embedded null byte")
    if _renameat2(source_dir, source, target_dir, target, flags) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise Unsupported(number, os.strerror(number))
    raise OSError(number, os.strerror(number), target)


def _refuse_nul(path: bytes) -> None:
    """Raise ValueError as the standard library does: C would stop at the NUL byte."""
    if b"\0" in path:
        raise ValueError("embedded null byte")


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def in_group(gid: int) -> bool:
    """Return whether this process may set the setgid bit on files of a group. For other groups the
    kernel silently clears it at each chmod. Root may, if it has the capability CAP_FSETID."""
    return gid == os.getegid() or gid in os.getgroups() or _keeps_any_setgid()


def _keeps_any_setgid() -> bool:
    """Return whether the kernel keeps a setgid bit that this thread sets, for any group."""
    if not _is_linux:
        return os.geteuid() == 0
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        return False
    (effective,) = struct.unpack_from("=I", data.raw)
    return bool(effective >> _CAP_FSETID & 1)


def kept_bits(info: os.stat_result) -> int:
    """Return the mode bits of a directory that stay when its mode is set: setgid and sticky, by
    which it is shared."""
    return info.st_mode & (stat.S_ISGID | stat.S_ISVTX)


def sync_file_system(fd: int) -> None:
    """Make everything on the file system of ``fd`` durable (syncfs(2)).

    Raises:
        Unsupported: The system has no such call.
        OSError: Something could not be written since ``fd`` was opened.
    """
    if _syncfs is None:
        raise Unsupported(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def begin_writing(fd: int) -> None:
    """Start writing a file's data to the disk, without waiting for it (sync_file_range(2)). This
    makes nothing durable: it lets a caller that syncs several files start all of them at once. Does
    nothing on systems without this call.

    Raises:
        OSError: Writing cannot be started.
    """
    _sync_range(fd, _SYNC_FILE_RANGE_WRITE)


def wait_until_written(fd: int) -> None:
    """Wait for writes of a file that are in progress, and raise if any failed since it was opened
    (sync_file_range(2)). This makes nothing durable. It is for a caller that also syncs the file
    system or the file: a sync of the file system reports the error of any file to one caller only.
    Does nothing on systems without this call.

    Raises:
        OSError: Writing failed.
    """
    _sync_range(fd, _SYNC_FILE_RANGE_WAIT_BEFORE)


def _sync_range(fd: int, flags: int) -> None:
    """Call sync_file_range(2) for a whole file."""
    if _sync_file_range is None:
        return
    if _sync_file_range(fd, 0, 0, flags) != 0:
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE):
            raise OSError(number, os.strerror(number))


def kept_times(directory: int, name: bytes, times: Sequence[int]) -> list[int]:
    """Return the mtimes that a directory's file system keeps when these are set, in nanoseconds.

    Some file systems round them to two seconds, and each has an earliest and a latest time.

    Args:
        name: An unused name, for file systems that have no unnamed files. The times of the
            directory are not changed.

    Raises:
        OSError: No file can be created there.
        OSError: No file can be made there.
    """
    try:
        fd = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except (AttributeError, OSError):
        fd = _open_and_unlink(directory, name)
    try:
        return [_kept_time(fd, one) for one in times]
    finally:
        os.close(fd)


def _open_and_unlink(directory: int, name: bytes) -> int:
    before = os.fstat(directory)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    os.unlink(name, dir_fd=directory)
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    return fd


def _kept_time(fd: int, mtime_ns: int) -> int:
    os.utime(fd, ns=(mtime_ns, mtime_ns))
    return os.fstat(fd).st_mtime_ns


def entry_type(mode: int) -> FileType:
    """Return ``file``, ``dir``, ``link`` or ``other`` for a st_mode."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFREG:
        return "file"
    if kind == stat.S_IFDIR:
        return "dir"
    return "link" if kind == stat.S_IFLNK else "other"


def clamped_mtime_ns(info: os.stat_result) -> int:
    """Return a file's mtime, limited to what a message can hold (until the year 2262)."""
    return min(max(info.st_mtime_ns, -(2**63)), 2**63 - 1)


# descriptors opened with O_PATH ------------------------------------------------------------
#
# Attributes are read and changed by their names in /proc. A confined process that sees only a home
# has no /proc, and uses system calls that Python has no functions for.

_AT_EMPTY_PATH = 0x1000
_SYS_FCHMODAT2 = 452  # kernel 6.6
_any_syscall = ctypes.CDLL(None, use_errno=True).syscall  # without argument types


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def chmod_pinned(fd: int, mode: int) -> None:
    """Change the mode of a file or directory that is open with O_PATH, which fchmod refuses.

    Raises:
        OSError: It failed; `Unsupported` if the kernel is too old and /proc is missing.
    """
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    except FileNotFoundError:
        _must_succeed(_libc_syscall(_SYS_FCHMODAT2, fd, b"", mode, _AT_EMPTY_PATH))


def utime_pinned(fd: int, times: tuple[int, int]) -> None:
    """Set atime and mtime, in nanoseconds, of a file or directory that is open with O_PATH.

    Raises:
        OSError: It failed; `Unsupported` if the kernel is too old and /proc is missing.
    """
    try:
        os.utime(f"/proc/self/fd/{fd}", ns=times)
    except FileNotFoundError:
        both = (_TimeSpec * 2)(*(_TimeSpec(*divmod(one, 1_000_000_000)) for one in times))
        _must_succeed(_libc.utimensat(fd, b"", both, _AT_EMPTY_PATH))


def attribute_at(directory: int, name: bytes, attribute: str) -> bytes:
    """Return an extended attribute of a file by its name in an open directory.

    Raises:
        OSError: There is no such attribute, no such file, or it is a link.
    """
    try:
        return os.getxattr(
            b"/proc/self/fd/%d/%s" % (directory, name), attribute, follow_symlinks=False
        )
    except FileNotFoundError:
        fd = os.open(
            name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
        )
    try:
        return os.getxattr(fd, attribute)
    finally:
        os.close(fd)


def _libc_syscall(number: int, fd: int, path: bytes, mode: int, flags: int) -> int:
    made: int = _any_syscall(
        ctypes.c_long(number),
        ctypes.c_long(fd),
        ctypes.c_char_p(path),
        ctypes.c_long(mode),
        ctypes.c_long(flags),
    )
    return made


def _must_succeed(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        kind = Unsupported if number == errno.ENOSYS else OSError
        raise kind(number, os.strerror(number))
