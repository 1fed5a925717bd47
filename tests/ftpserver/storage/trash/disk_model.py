"""A disk that keeps what was synced, and nothing more: the worst that a power cut may leave.

Lives here: what is durable at a moment, as POSIX has it: a file's bytes and attributes since its
own last sync, a directory's names since its own. Real file systems keep more, and each of them
something else. Lives elsewhere: the moments (steps.py), a real disk that loses power
(tests/system/crash_support.py).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """Something as it is on the disk: what is missing of it was never synced.

    Attributes:
        names: Of a directory: the inodes by their names.
        content: Of a file.
        target: Of a link.
    """

    mode: int
    times: tuple[int, int]
    names: dict[bytes, int] | None = None
    content: bytes = b""
    target: bytes | None = None
    attributes: tuple[tuple[str, bytes], ...] = ()


class Durable:
    """What of a directory would be there after a power cut. All of it, at first."""

    def __init__(self, top: bytes) -> None:
        self._top = os.open(top, os.O_PATH)
        self._pins: dict[int, int] = {}
        """Descriptors of all that was ever there: so no inode number comes again."""
        self._kept: dict[int, Kept] = {}
        self.all_synced()

    def all_synced(self) -> None:
        """The whole file system was synced."""
        for inode in self._pin_all():
            self._kept[inode] = _look(self._pins[inode])

    def synced(self, fd: int) -> None:
        """A file or a directory was synced by itself."""
        self._pin_all()
        inode = os.fstat(fd).st_ino
        if inode in self._pins:
            self._kept[inode] = _look(fd)

    def pin(self) -> None:
        """Something is going to change: notice what is there."""
        self._pin_all()

    def _pin_all(self) -> set[int]:
        """The inodes of all that is there now."""
        found: set[int] = set()
        todo = [self._top]
        while todo:
            fd = todo.pop()
            inode = os.fstat(fd).st_ino
            found.add(inode)
            if inode not in self._pins:
                self._pins[inode] = fd
                info = os.fstat(fd)
                if stat.S_ISLNK(info.st_mode):  # it comes with its name
                    self._kept[inode] = _look(fd)
                else:
                    names: dict[bytes, int] | None = {} if stat.S_ISDIR(info.st_mode) else None
                    times = info.st_atime_ns, info.st_mtime_ns
                    self._kept.setdefault(inode, Kept(info.st_mode, times, names))
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                for name in os.listdir(_way_to(fd)):
                    todo.append(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd))
            if self._pins[inode] != fd:
                os.close(fd)
        return found

    def write(self, target: bytes) -> None:
        """Make a directory of what would be there."""
        self._write(os.fstat(self._top).st_ino, target, {})

    def _write(self, inode: int, path: bytes, made: dict[int, bytes]) -> None:
        kept = self._kept[inode]
        if kept.target is not None:
            os.symlink(kept.target, path)
            return
        if kept.names is None:
            if inode in made:
                os.link(made[inode], path)
                return
            made[inode] = path
            with open(path, "wb") as file:
                file.write(kept.content)
        else:
            os.mkdir(path)
            for name, below in kept.names.items():
                self._write(below, path + b"/" + name, made)
        for name, value in kept.attributes:
            os.setxattr(path, name, value)
        os.chmod(path, stat.S_IMODE(kept.mode))
        os.utime(path, ns=kept.times)


def _way_to(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def _look(fd: int) -> Kept:
    """What is behind a descriptor, now."""
    info = os.fstat(fd)
    times = info.st_atime_ns, info.st_mtime_ns
    if stat.S_ISLNK(info.st_mode):
        return Kept(info.st_mode, times, target=os.readlink(b"", dir_fd=fd))
    way = _way_to(fd)
    if stat.S_ISDIR(info.st_mode):
        with os.scandir(way) as entries:
            names = {os.fsencode(entry.name): entry.inode() for entry in entries}
        return Kept(info.st_mode, times, names)
    attributes = tuple(
        (name, os.getxattr(way, name)) for name in os.listxattr(way) if name.startswith("user.")
    )
    with open(way, "rb") as file:
        return Kept(info.st_mode, times, None, file.read(), attributes=attributes)
