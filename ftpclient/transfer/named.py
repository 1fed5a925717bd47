"""Local paths that the user named: what is there, and whether a link may be followed.

Lives here: the rule about links that are named, own descriptors under /proc, where the file that a
link leads to really lies.
Lives elsewhere: links inside trees, which are not followed (local_tree.py, upload.py), writing into
FIFOs and devices (node.py).

The kernel follows a link, in one step. The links on the way are only looked at, before and after:
what was found behind them counts if they are still the same.
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
"""As many as the kernel follows."""
_STREAMS = ("standard input", "standard output", "standard error")
_DESCRIPTORS = rb"/proc/(\d+)(?:/task/\d+)?/fd"


class Named(msgspec.Struct, frozen=True):
    """What a path that was named leads to.

    Attributes:
        path: As it was named.
        info: Of what is there, behind all links.
        is_link: There is a link to it.
        descriptor: The number of this process's own descriptor that is meant: /dev/stdin is one.
    """

    path: bytes
    info: os.stat_result
    is_link: bool = False
    descriptor: int | None = None

    @property
    def is_socket(self) -> bool:
        """Whether it is a socket's name, which only connecting is good for."""
        return stat.S_ISSOCK(self.info.st_mode) and self.descriptor is None

    @property
    def is_node(self) -> bool:
        """Whether bytes go into it, or come from it, without it being a file with a size."""
        kind = stat.S_IFMT(self.info.st_mode)
        if self.descriptor is not None:
            return kind != stat.S_IFDIR
        return kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)

    def is_same(self, info: os.stat_result | None) -> bool:
        """Whether this is the state of the same file, by device and inode."""
        return info is not None and os.path.samestat(info, self.info)


def look(path: bytes, *, trust: bool = False) -> Named:
    """What a path leads to. Links are followed.

    Args:
        trust: Links of strangers, too.

    Raises:
        OSError: Nothing is there, or it can't be looked at.
        NotFound: A link is there that leads nowhere.
        Forbidden: The link of a stranger: see `_check_owner`.
        CommandError: A standard stream is meant that was closed when the program was started.
        SourceChanged: The link was replaced meanwhile.
    """
    name = path.rstrip(b"/") or path
    info = os.lstat(name)
    if not stat.S_ISLNK(info.st_mode):
        return Named(path, info)
    before, descriptor = _links(name, trust)
    if descriptor is not None:
        if standard.was_closed(descriptor):  # what is there now was not the user's
            raise CommandError(f"{paths.show(path)}: {_STREAMS[descriptor]} is closed")
        return Named(path, os.fstat(descriptor), True, descriptor)
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise NotFound(
            f"{paths.show(path)}: a symbolic link to something that isn't there"
        ) from None
    if _links(name, trust)[0] != before:
        raise SourceChanged(f"{paths.show(path)}: the symbolic link was replaced meanwhile")
    return Named(path, info, True)


class Targets:
    """What is at the places that files are going to, looked at before any of them comes: so no link
    is followed that the transfer itself has made.

    Args:
        trust: Follow links of strangers, too.
    """

    def __init__(self, *, trust: bool) -> None:
        self._trust = trust
        self._found: dict[bytes, Named | OSError | CommandError] = {}

    def look(self, place: bytes, *, exact: bool) -> None:
        """Note what is at a place.

        Args:
            exact: The user named it. Else a pattern chose its name, and a server what that
                matched: then a link there is replaced, and no other file that has no size.
        """
        try:
            self._found[place] = look(place, trust=self._trust) if exact else _look_at(place)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, CommandError) as error:
            self._found[place] = error

    def at(self, place: bytes, kind: FileType) -> Named | None:
        """What was at a place; None where there was nothing.

        Args:
            kind: Of what is to go there.

        Raises:
            OSError, CommandError: It can't go there.
        """
        found = self._found.get(place)
        if isinstance(found, Named):
            _refuse(found, kind)
            return found
        if found is not None and kind == "file":
            raise found
        return None


def _look_at(place: bytes) -> Named:
    """What is at a place itself. Raises NotRegular where it is neither file, link nor directory."""
    found = Named(place, os.lstat(place))
    if found.is_node:
        raise NotRegular(
            f"{paths.show(place)}: a FIFO or device: only what names it is written into it"
        )
    return found


def _refuse(found: Named, kind: FileType) -> None:
    """Refuse a socket, and what can't go into a FIFO or device. Raises NotRegular."""
    if found.is_socket:
        raise NotRegular(f"{paths.show(found.path)}: a socket: nothing can be written into it")
    if found.is_node and kind != "file":
        raise NotRegular(f"{paths.show(found.path)}: a FIFO or device: no {kind} can go there")


def is_descriptor(path: bytes, number: int) -> bool:
    """Whether a path means this descriptor of this process."""
    try:
        found = os.lstat(path)
        return stat.S_ISLNK(found.st_mode) and _links(path, True)[1] == number
    except OSError:
        return False


def _links(path: bytes, trust: bool) -> tuple[list[tuple[int, ...]], int | None]:
    """The links from a path on, so that a change shows; and the own descriptor they end at."""
    found: list[tuple[int, ...]] = []
    at = path
    while len(found) < _MOST_LINKS:
        try:
            info = os.lstat(at)
        except (FileNotFoundError, NotADirectoryError):
            break  # whether it leads anywhere, the kernel says
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
    """The number of the descriptor, if a link of /proc/self/fd is meant."""
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
    """Refuse a link that somebody else may have put there for us to fall into.

    That is one that belongs neither to us nor to the owner of its directory, where others write
    to that; and for root any that is not root's. As the kernel has it in /tmp
    (fs.protected_symlinks), but in every such directory.

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
        f"{paths.show(path)}{through}: a symbolic link of another user, uid {info.st_uid}: "
        "-L follows it"
    )


def place_of(named: Named) -> tuple[bytes, bytes]:
    """The directory and the name of the file that a link leads to.

    Whoever opens the directory has to compare what is at that name: ``named.is_same``.

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
    """The path of something open, as the kernel has it."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % fd)
    except FileNotFoundError:
        return os.path.realpath(path)
