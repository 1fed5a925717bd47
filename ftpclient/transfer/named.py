"""Local paths named by the user: what they lead to, and whether a link may be followed.

Lives here: the rule for links in named paths, this process's own descriptors under /proc, finding
the real path of the file that a link leads to.
Lives elsewhere: links inside trees, which are not followed (local_tree.py, upload.py), writing into
FIFOs and devices (node.py).

The kernel follows a link in one step. This module only looks at the links on the way, before and
after that step: if they are the same both times, they are the ones the kernel followed.
"""

from __future__ import annotations

import os
import re
import stat

import msgspec

from ftpwire import beneath, paths, standard
from ftpwire.errors import CommandError, Forbidden, NotFound, NotRegular, SourceChanged
from ftpwire.messages import FileType

_MOST_LINKS = 40
"""The kernel's limit."""
_STREAMS = ("standard input", "standard output", "standard error")
_DESCRIPTORS = rb"/proc/(\d+)(?:/task/\d+)?/fd"


class Named(msgspec.Struct, frozen=True):
    """A named path and the file it leads to.

    Attributes:
        path: The path as named.
        info: The state of the file behind all links.
        is_link: True if the path is a link.
        descriptor: The number of the descriptor of this process, if the path means one, e.g.
            /dev/stdin.
    """

    path: bytes
    info: os.stat_result
    is_link: bool = False
    descriptor: int | None = None

    @property
    def is_socket(self) -> bool:
        """True if it is a socket in the file system, which cannot be read or written."""
        return stat.S_ISSOCK(self.info.st_mode) and self.descriptor is None

    @property
    def is_node(self) -> bool:
        """True if it can be read or written, but is not a file with a size."""
        kind = stat.S_IFMT(self.info.st_mode)
        if self.descriptor is not None:
            return kind != stat.S_IFDIR
        return kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)

    def is_same(self, info: os.stat_result | None) -> bool:
        """Return whether ``info`` is the state of the same file, by device and inode."""
        return info is not None and os.path.samestat(info, self.info)


def look(path: bytes, *, trust: bool = False) -> Named:
    """Find out what a path leads to, following links.

    Args:
        trust: True to follow links of other users, too.

    Raises:
        OSError: The path does not exist, or cannot be looked up.
        NotFound: It is a link whose target does not exist.
        Forbidden: It is a link of another user: see `_check_owner`.
        CommandError: It means a standard stream that was closed when the program started.
        SourceChanged: The link was replaced meanwhile.
    """
    name = path.rstrip(b"/") or path
    info = os.lstat(name)
    if not stat.S_ISLNK(info.st_mode):
        return Named(path, info)
    before, descriptor = _links(name, trust)
    if descriptor is not None:
        if standard.was_closed(descriptor):  # another file has this descriptor number by now
            raise CommandError(f"{paths.show(path)}: {_STREAMS[descriptor]} is closed")
        return Named(path, os.fstat(descriptor), True, descriptor)
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise NotFound(f"{paths.show(path)}: a symbolic link whose target does not exist") from None
    if _links(name, trust)[0] != before:
        raise SourceChanged(f"{paths.show(path)}: the symbolic link was replaced meanwhile")
    return Named(path, info, True)


class Targets:
    """The files that exist at the targets of a transfer, recorded before the transfer begins.

    So no link is followed that the transfer itself has made.

    Args:
        trust: True to follow links of other users, too.
    """

    def __init__(self, *, trust: bool) -> None:
        self._trust = trust
        self._found: dict[bytes, Named | OSError | CommandError] = {}

    def look(self, path: bytes, *, exact: bool) -> None:
        """Record what exists at a target.

        Args:
            exact: True if the user named it. False if its name comes from a pattern, and so from
                a server: then a link there is replaced, and a FIFO or device is refused.
        """
        try:
            self._found[path] = look(path, trust=self._trust) if exact else _look_at(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, CommandError) as error:
            self._found[path] = error

    def at(self, path: bytes, kind: FileType) -> Named | None:
        """Return what existed at a target, or None.

        Args:
            kind: The type of what is going to be written there.

        Raises:
            OSError, CommandError: It cannot be written there.
        """
        found = self._found.get(path)
        if isinstance(found, Named):
            _refuse(found, kind)
            return found
        if found is not None and kind == "file":
            raise found
        return None


def _look_at(path: bytes) -> Named:
    """Return what exists at a path itself. Raises NotRegular for a FIFO or a device."""
    found = Named(path, os.lstat(path))
    if found.is_node:
        raise NotRegular(
            f"{paths.show(path)}: a FIFO or device: name it explicitly to write into it"
        )
    return found


def _refuse(found: Named, kind: FileType) -> None:
    """Refuse a socket, and what cannot be written into a FIFO or device. Raises NotRegular."""
    if found.is_socket:
        raise NotRegular(f"{paths.show(found.path)}: a socket: nothing can be written into it")
    if found.is_node and kind != "file":
        raise NotRegular(f"{paths.show(found.path)}: a FIFO or device: no {kind} can go there")


def is_descriptor(path: bytes, number: int) -> bool:
    """Return whether a path means this descriptor of this process."""
    try:
        found = os.lstat(path)
        return stat.S_ISLNK(found.st_mode) and _links(path, True)[1] == number
    except OSError:
        return False


def _links(path: bytes, trust: bool) -> tuple[list[tuple[int, ...]], int | None]:
    """Return the state of the links from a path on, and the own descriptor they end at."""
    found: list[tuple[int, ...]] = []
    at = path
    while len(found) < _MOST_LINKS:
        try:
            info = os.lstat(at)
        except (FileNotFoundError, NotADirectoryError):
            break  # the kernel decides whether the target exists
        if not stat.S_ISLNK(info.st_mode):
            break
        directory, name = os.path.split(at)
        descriptor = _own_descriptor(directory or b".", name)
        if descriptor is not None:
            return found, descriptor
        if not trust:
            _check_owner(path, at, info, directory or b".")
        found.append((info.st_dev, info.st_ino, info.st_ctime_ns))
        at = os.path.join(directory, os.readlink(at))
    return found, None


def _own_descriptor(directory: bytes, name: bytes) -> int | None:
    """Return the descriptor's number if this is a link in /proc/self/fd, else None."""
    if not name.isdigit():
        return None
    fd = os.open(directory, beneath.OPEN_ANY)
    try:
        found = re.fullmatch(_DESCRIPTORS, _path_of(fd))
        if found is None or found[1] != os.readlink(b"/proc/self"):
            return None
        return int(name)
    except OSError:
        return None  # no /proc
    finally:
        os.close(fd)


def _check_owner(path: bytes, link: bytes, info: os.stat_result, directory: bytes) -> None:
    """Refuse a link that another user may have placed there as a trap.

    That is a link in a directory writable by others, owned neither by this user nor by the
    directory's owner. For root it is any link not owned by root. The kernel does the same in
    sticky directories such as /tmp (fs.protected_symlinks); here it applies to all directories.

    Raises:
        Forbidden
    """
    user = os.geteuid()
    if info.st_uid == user:
        return
    above = os.stat(directory)
    others_write = above.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if user and (info.st_uid == above.st_uid or not others_write):
        return
    through = "" if link == path else f" (through {paths.show(link)})"
    raise Forbidden(
        f"{paths.show(path)}{through}: a symbolic link of another user (uid {info.st_uid}); "
        "use -L to follow it"
    )


def directory_and_name(named: Named) -> tuple[bytes, bytes]:
    """Return the directory and the name of the file that a link leads to.

    The caller has to check, after opening the directory, that the name still means this file:
    ``named.is_same``.

    Raises:
        SourceChanged: The link leads to another file by now.
    """
    fd = os.open(named.path, beneath.OPEN_ANY)
    try:
        if not named.is_same(os.fstat(fd)):
            raise SourceChanged(
                f"{paths.show(named.path)}: the symbolic link was replaced meanwhile"
            )
        return os.path.split(_path_of(fd, named.path))
    finally:
        os.close(fd)


def _path_of(fd: int, path: bytes = b"") -> bytes:
    """Return the path of an open file, as known to the kernel."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % fd)
    except FileNotFoundError:
        return os.path.realpath(path)
