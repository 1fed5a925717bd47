"""The steps of a restoring: what each is about, and what they have in common.

Lives here: a step, what is seen at a path, what happens under one lock, opening directories that
are closed. Lives elsewhere: doing a step (taking_back.py), which steps there are (restoring.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ftpserver.storage.commit import Commit, lstat
from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.trash.index import Item, Line, State
from ftpserver.storage.trash.operation import state_of
from ftpserver.storage.trash.things import Thing
from ftpserver.storage.walk import open_closed
from ftpwire import beneath, paths
from ftpwire.errors import Conflict
from ftpwire.paths import Parts

_MOST_BESIDE = 10_000
Place = tuple[int, bytes]
"""An open directory, and a name in it."""


@dataclass(frozen=True)
class Step:
    """One thing that is to be taken back, or a part of one.

    Attributes:
        to: Where it goes.
        below: The part's path below the thing; empty for all of it.
        exact: It goes to where it was.
    """

    thing: Thing
    to: Parts
    below: Parts = ()
    exact: bool = True

    @property
    def path(self) -> bytes:
        """Where it was, for messages and the answer."""
        return paths.join(*self.thing.path, *self.below)


@dataclass
class Batch:
    """What happens under one lock.

    Attributes:
        alone: The home is locked alone.
        freed: Files that became free: second names of what is in its place.
        trash, trash_files: What is in the trash more (or less).
        touched: Directories to sync, by their identities; open.
        lines: To be written to the operation that is restored from.
        announced: Lines about what is going to the trash, by the steps' identities.
    """

    alone: bool
    commit: Commit
    freed: int = 0
    freed_files: int = 0
    trash: int = 0
    trash_files: int = 0
    touched: dict[tuple[int, int], int] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    announced: dict[int, Item] = field(default_factory=dict)

    @property
    def is_changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.touched or self.lines or self.commit.files)

    def touch(self, directory: int) -> None:
        """Have a directory synced at the end."""
        identity = beneath.identity_of(directory)
        if identity not in self.touched:
            self.touched[identity] = os.dup(directory)

    def add(self, size: int, files: int) -> None:
        """So much more is in the trash."""
        self.trash += size
        self.trash_files += files

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in self.touched.values():
            os.close(fd)
        self.touched.clear()
        self.commit.close()


class Already(Exception):
    """It is back."""


class NeedsAlone(Exception):
    """It can't be done while others change the home."""


@dataclass(frozen=True)
class Seen:
    """What is at a path."""

    info: os.stat_result
    digest: bytes | None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)

    @property
    def state(self) -> State:
        """To know it again by."""
        return state_of(self.info, self.digest)

    def is_exactly(self, after: State) -> bool:
        """Whether it is the same file, or has its digest: of a small one that is put over another
        one, the line has no inode."""
        if self.digest is not None and self.digest.hex() == after.digest:
            return True
        return after.inode == self.info.st_ino

    def is_still(self, after: State | None) -> bool:
        """Whether it is what an operation has left there: by its digest, else its inode; a copy of
        that, as other programs make when they save a file, by size and time."""
        if after is None:
            return False
        if after.digest is not None and self.digest is not None:
            return after.digest == self.digest.hex()
        if after.inode == self.info.st_ino:
            return True
        same = (after.size, after.mtime_ns) == (self.info.st_size, self.info.st_mtime_ns)
        return same and not self.is_dir


def look(directory: int, name: bytes) -> Seen | None:
    """What has a name in an open directory; None when nothing has."""
    info = lstat(directory, name)
    if info is None:
        return None
    return Seen(info, digest_by_name(directory, name, info) if stat.S_ISREG(info.st_mode) else None)


def conflict(parts: Parts, why: str) -> Conflict:
    path = paths.join(*parts)
    return Conflict(f"{paths.show(path)}: {why}", path=path)


def names_beside(name: bytes) -> Iterator[bytes]:
    """The names that something is restored under where its own is taken."""
    for number in range(1, _MOST_BESIDE):
        ending = b".restored-%d" % number
        yield name[: paths.MAX_NAME - len(ending)] + ending


@contextmanager
def opened_directory(directory: int, name: bytes, *, change: bool) -> Iterator[int]:
    """Open a directory in the trash; no link is followed.

    Args:
        change: Something in it is going to be renamed: where its own mode forbids that, it has
            another one meanwhile.
    """
    info = lstat(directory, name)
    fd, mode = -1, None
    if change and info is not None and stat.S_ISDIR(info.st_mode) and info.st_mode & 0o700 != 0o700:
        try:
            fd, mode = open_closed(directory, name)
        except PermissionError:
            pass  # it is somebody else's: what can be done shows
    if fd < 0:
        fd = os.open(name, beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        yield fd
    finally:
        try:
            if mode is not None:
                os.chmod(fd, mode)
        finally:
            os.close(fd)


@contextmanager
def movable(*things: tuple[Place, Seen]) -> Iterator[None]:
    """Have directories let themselves be renamed: that rewrites their ``..``, which their own modes
    may forbid."""
    with ExitStack() as stack:
        for (directory, name), seen in things:
            if seen.is_dir and not seen.info.st_mode & 0o200:
                stack.enter_context(opened_directory(directory, name, change=True))
        yield
