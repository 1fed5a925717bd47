"""Local file systems that take several names for one: README and readme, or é in its two forms.

Lives here: whether a file system does so, how a name is spelled where it was found, and whether
what is there may be replaced. Lives elsewhere: fetching (download.py).

No table of letters says which names are the same: the file system does. What it finds under a name
and lists under another one has a name that it takes for the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpclient.transfer.local_tree import LocalTree
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists
from ftpwire.paths import Parts, RemotePath

_MOST_KEPT = 16_384
"""Names of one directory that are kept; a larger one is read again for each name."""


class Folding:
    """What the file systems of one transfer make of names: tried once on each.

    A directory of ext4 that folds names, below one that doesn't, is not noticed.

    Args:
        tries: Else nothing may be made: each may do so, which costs a listing.
    """

    def __init__(self, *, tries: bool = True) -> None:
        self._tries = tries
        self._devices: dict[int, bool] = {}

    def folds(self, directory: int) -> bool:
        """Whether a directory's file system takes several names for one."""
        if not self._tries:
            return True
        device = os.fstat(directory).st_dev
        known = self._devices.get(device)
        if known is None:
            known = self._devices[device] = _try(directory)
        return known


def _try(directory: int) -> bool:
    """Make a file of a name that a partial file could have, and look for it by another one."""
    begin = paths.PARTIAL_PREFIX + os.urandom(8).hex().encode()
    # a file system that knows no é folds letters, if anything
    for letter, other in (("\u00e9".encode(), "e\u0301".encode()), (b"e", b"e")):
        name = begin + letter + paths.PARTIAL_SUFFIX
        try:
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        except OSError:
            continue
        os.close(made)
        try:
            return _exists(directory, begin + other + paths.PARTIAL_SUFFIX, name) or _exists(
                directory, name.upper(), name
            )
        finally:
            os.unlink(name, dir_fd=directory)
    return False  # nothing can be made there: the transfer itself tells


def _exists(directory: int, name: bytes, made: bytes) -> bool:
    if name == made:
        return False
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


class Spellings:
    """How names are spelled in the directory that was asked about last."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None
        self._listed: frozenset[bytes] | None = None
        self._taken: set[bytes] = set()

    def find(self, directory: int, name: bytes) -> bytes:
        """How a directory spells what it finds under ``name``. Raises OSError."""
        self._turn_to(directory)
        if self._listed is not None and name in self._listed:
            return name
        number = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
        found = name
        with os.scandir(directory) as entries:
            for entry in entries:
                spelled = os.fsencode(entry.name)
                if spelled == name:
                    return name
                if entry.inode() == number:
                    found = spelled
        return found

    def take(self, directory: int, spelled: bytes) -> bool:
        """Let one other name replace what is spelled so; False when one has done that already."""
        self._turn_to(directory)
        if spelled in self._taken:
            return False
        if len(self._taken) < _MOST_KEPT:
            self._taken.add(spelled)
        return True

    def _turn_to(self, directory: int) -> None:
        info = os.fstat(directory)
        if self._of == (info.st_dev, info.st_ino):
            return
        self._of = info.st_dev, info.st_ino
        self._taken = set()
        self._listed = _listed(directory)


def _listed(directory: int) -> frozenset[bytes] | None:
    """The names in a directory; None when they are too many."""
    names: set[bytes] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(names) >= _MOST_KEPT:
                return None
            names.add(os.fsencode(entry.name))
    return frozenset(names)


class SameNames:
    """Keeps what a download made from being replaced by what has, here, the same name.

    Args:
        folding: Shared with those who work for the download.
        has: Whether something is at a remote path; asks the server.
    """

    def __init__(self, folding: Folding, has: Callable[[RemotePath], bool]) -> None:
        self.folding = folding
        self._has = has
        self._spellings = Spellings()
        self._apart: tuple[LocalTree, Parts] | None = None
        """The directory that was asked about last, if each name in it is one of its own."""
        self._named: set[bytes] = set()

    def check_named(self, source: bytes, target: bytes) -> None:
        """Refuse what has the same name here as another that was asked for by its name.

        Raises AlreadyExists.
        """
        parent, name = os.path.split(target.rstrip(b"/"))
        if self._named and os.path.lexists(target):
            with _opened(parent) as directory:
                if self.folding.folds(directory):
                    spelled = self._spellings.find(directory, name)
                    if spelled != name and os.path.join(parent, spelled) in self._named:
                        raise _named_alike(source, target, spelled)
        self._named.add(target)

    def may_replace(self, source: RemotePath, shown: bytes, tree: LocalTree, parts: Parts) -> bool:
        """Whether something that is at a place when the file comes may be replaced.

        Where the file system takes several names for one, it may be another of the server's
        files: then that lies beside this one there.

        Raises:
            AlreadyExists: It is.
        """
        directory = tree, parts[:-1]
        if directory == self._apart:
            return True
        above = tree.directory(directory[1])
        if not self.folding.folds(above):
            self._apart = directory
            return True
        if tree.stat(parts) is None:
            return False  # what has the same name here may be on its way
        spelled = self._spellings.find(above, parts[-1])
        if spelled != parts[-1] and (
            self._has(paths.child(paths.parent_of(source), spelled))
            or not self._spellings.take(above, spelled)
        ):
            raise _named_alike(source, shown, spelled)
        return True


def in_the_way(error: AlreadyExists, source: bytes, shown: bytes) -> AlreadyExists:
    """Why a file could not get its name, when nothing had it before."""
    parent, name = os.path.split(shown)
    try:
        with _opened(parent) as directory:
            return _named_alike(source, shown, Spellings().find(directory, name))
    except OSError:
        return error  # what was in the way has left


@contextmanager
def _opened(directory: bytes) -> Iterator[int]:
    fd = os.open(directory or b".", beneath.OPEN_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _named_alike(source: bytes, shown: bytes, spelled: bytes) -> AlreadyExists:
    """The error of a source whose name here is the same as that of another one.

    Args:
        shown: Its local path.
        spelled: The other's name.
    """
    other = os.path.join(os.path.dirname(shown), spelled)
    return AlreadyExists(
        f"will not overwrite just-created '{paths.show(other)}' with '{paths.show(source)}': "
        "this file system takes both names for one"
    )
