"""The steps of restoring: their data, and what all of them need.

Lives here: a step, the state of what is at a path, the changes under one lock, opening directories
whose mode denies access. Lives elsewhere: doing a step (taking_back.py), choosing the steps
(restoring.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ftpserver.storage.commit import Commit, lstat
from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.trash.entries import TrashEntry
from ftpserver.storage.trash.index import Item, Line, State
from ftpserver.storage.trash.operation import state_of
from ftpserver.storage.walk import open_closed
from ftpwire import beneath, paths
from ftpwire.errors import Conflict
from ftpwire.paths import Parts

_MOST_BESIDE = 10_000
"""The number at which trying other names, for something whose own name is taken, ends."""
NameAt = tuple[int, bytes]
"""An open directory, and a name in it."""


@dataclass(frozen=True)
class Step:
    """One item to be undone, or a part of one.

    Attributes:
        entry: The item.
        to: The path that it is restored to.
        below: The part's path below the item; empty for all of it.
        exact: True if it is restored to its former path.
    """

    entry: TrashEntry
    to: Parts
    below: Parts = ()
    exact: bool = True

    @property
    def path(self) -> bytes:
        """The former path, for messages and the reply."""
        return paths.join(*self.entry.path, *self.below)


@dataclass
class Batch:
    """The changes that are made under one lock.

    Attributes:
        alone: True if the home is locked exclusively.
        commit: Makes missing directories.
        freed, freed_files: Bytes and files that became free: second names that were removed.
        trash, trash_files: How much the trash has grown; negative if it has shrunk.
        touched: Descriptors of the directories to sync, by the directories' identities.
        lines: Lines to append to the operation that is restored from.
        announced: Lines about files that are going to the trash, by the identities of the steps.
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
        """True if anything was changed."""
        return bool(self.touched or self.lines or self.commit.files)

    def touch(self, directory: int) -> None:
        """Mark a directory to be synced at the end."""
        identity = beneath.identity_of(directory)
        if identity not in self.touched:
            self.touched[identity] = os.dup(directory)

    def add(self, size: int, files: int) -> None:
        """Count bytes and files that were moved to the trash; negative ones left it."""
        self.trash += size
        self.trash_files += files

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.touched.values():
            os.close(fd)
        self.touched.clear()
        self.commit.close()


class AlreadyDone(Exception):
    """The step has been done before."""


class NeedsAlone(Exception):
    """The step needs the home's lock exclusively."""


@dataclass(frozen=True)
class Seen:
    """The state of what is at a path."""

    info: os.stat_result
    digest: bytes | None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)

    @property
    def state(self) -> State:
        """The state by which it is recognized later."""
        return state_of(self.info, self.digest)

    def is_exactly(self, after: State) -> bool:
        """Return whether it is the file with this state, by inode or digest. The line of a small
        file that replaced another one has no inode."""
        if self.digest is not None and self.digest.hex() == after.digest:
            return True
        return after.inode == self.info.st_ino

    def is_still(self, after: State | None) -> bool:
        """Return whether it is what an operation has left there: the same digest if both are known,
        else the same inode. A file with the same size and time counts, too: other programs make
        such a copy when they save a file."""
        if after is None:
            return False
        if after.digest is not None and self.digest is not None:
            return after.digest == self.digest.hex()
        if after.inode == self.info.st_ino:
            return True
        same = (after.size, after.mtime_ns) == (self.info.st_size, self.info.st_mtime_ns)
        return same and not self.is_dir


def look(directory: int, name: bytes) -> Seen | None:
    """Return the state of a name in an open directory; None if there is no such name."""
    info = lstat(directory, name)
    if info is None:
        return None
    return Seen(info, digest_by_name(directory, name, info) if stat.S_ISREG(info.st_mode) else None)


def conflict(parts: Parts, why: str) -> Conflict:
    """Return the error for a path that a step cannot change."""
    path = paths.join(*parts)
    return Conflict(f"{paths.show(path)}: {why}", path=path)


def names_beside(name: bytes) -> Iterator[bytes]:
    """Yield the names to restore something under when its own name is taken."""
    for number in range(1, _MOST_BESIDE):
        ending = b".restored-%d" % number
        yield name[: paths.MAX_NAME - len(ending)] + ending


@contextmanager
def opened_directory(directory: int, name: bytes, *, change: bool) -> Iterator[int]:
    """Open a directory in the trash within the context. No link is followed.

    Args:
        change: True if something in it is going to be renamed. If the directory's mode forbids
            that, it is changed within the context.
    """
    info = lstat(directory, name)
    fd, mode = -1, None
    if change and info is not None and stat.S_ISDIR(info.st_mode) and info.st_mode & 0o700 != 0o700:
        try:
            fd, mode = open_closed(directory, name)
        except PermissionError:
            pass  # it belongs to another system user: open it as it is
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
def movable(*moved: tuple[NameAt, Seen]) -> Iterator[None]:
    """Make directories renamable within the context. A rename to another parent rewrites their
    ``..`` entry, which their own modes may forbid."""
    with ExitStack() as stack:
        for (directory, name), seen in moved:
            if seen.is_dir and not seen.info.st_mode & 0o200:
                stack.enter_context(opened_directory(directory, name, change=True))
        yield
