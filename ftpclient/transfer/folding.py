"""Local file systems where several names mean the same file: README and readme, or é as one or two
code points.

Lives here: finding out whether a file system does so, how an existing name is spelled, and whether
an existing file may be replaced.
Lives elsewhere: fetching (download.py).

There is no table of equivalent letters; the file system decides. If it finds a file under one name
and lists it under another, both names are the same to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpclient.transfer.local_tree import LocalTree
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists
from ftpwire.paths import Parts, RemotePath

_MAX_CACHED = 16_384
"""Maximum number of names of one directory to remember. A larger directory is read again for each
name."""


class Folding:
    """Which file systems of one transfer treat several names as the same. Tests each one once.

    A directory with case folding on ext4, below one without it, goes unnoticed.

    Args:
        tries: False if nothing may be created: then every file system is assumed to do so, at the
            cost of a listing.
    """

    def __init__(self, *, tries: bool = True) -> None:
        self._tries = tries
        self._devices: dict[int, bool] = {}

    def folds(self, directory: int) -> bool:
        """Return whether a directory's file system treats several names as the same."""
        if not self._tries:
            return True
        device = os.fstat(directory).st_dev
        known = self._devices.get(device)  # two threads may both try: they find the same
        if known is None:
            known = self._devices[device] = _try(directory)
        return known


def _try(directory: int) -> bool:
    """Create a file with a partial file's name, and look for it under an equivalent name."""
    begin = paths.PARTIAL_PREFIX + os.urandom(8).hex().encode()
    # a file system that cannot store é can only fold ASCII letters, if any
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
    return False  # nothing can be created there: the transfer itself reports that


def _exists(directory: int, name: bytes, made: bytes) -> bool:
    if name == made:
        return False
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


class Spellings:
    """How names are spelled in one directory: the last one asked about."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None
        self._listed: frozenset[bytes] | None = None
        self._taken: set[bytes] = set()

    def find(self, directory: int, name: bytes) -> bytes:
        """Return how a directory spells the name it finds under ``name``. Raises OSError."""
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
        """Allow one other name to replace the file with this spelling; False if one already has."""
        self._turn_to(directory)
        if spelled in self._taken:
            return False
        if len(self._taken) < _MAX_CACHED:
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
    """Return the names in a directory, or None if there are too many."""
    names: set[bytes] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(names) >= _MAX_CACHED:
                return None
            names.add(os.fsencode(entry.name))
    return frozenset(names)


class SameNames:
    """Prevents a file of a download from replacing another one that has the same name here.

    Args:
        folding: Shared with the workers of the download.
        has: Returns whether a remote path exists, by asking the server.
    """

    def __init__(self, folding: Folding, has: Callable[[RemotePath], bool]) -> None:
        self.folding = folding
        self._has = has
        self._spellings = Spellings()
        self._apart: tuple[LocalTree, Parts] | None = None
        """The last directory asked about, if all names in it are distinct to the file system."""
        self._named: set[bytes] = set()

    def check_named(self, source: bytes, target: bytes) -> None:
        """Refuse a target that is the same file here as that of another named source.

        Raises:
            AlreadyExists: It is.
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
        """Return whether something that is at the target when the file arrives may be replaced.

        Where the file system treats several names as the same, the existing file may come from
        another file in the same directory of the server.

        Raises:
            AlreadyExists: It does.
        """
        directory = tree, parts[:-1]
        if directory == self._apart:
            return True
        above = tree.directory(directory[1])
        if not self.folding.folds(above):
            self._apart = directory
            return True
        if tree.stat(parts) is None:
            return False  # another file with the same name here may still arrive
        spelled = self._spellings.find(above, parts[-1])
        if spelled != parts[-1] and (
            self._has(paths.child(paths.parent_of(source), spelled))
            or not self._spellings.take(above, spelled)
        ):
            raise _named_alike(source, shown, spelled)
        return True


def in_the_way(error: AlreadyExists, source: bytes, shown: bytes) -> AlreadyExists:
    """Return the error for a file whose name was free before and is taken now."""
    parent, name = os.path.split(shown)
    try:
        with _opened(parent) as directory:
            return _named_alike(source, shown, Spellings().find(directory, name))
    except OSError:
        return error  # the other file has been removed since


@contextmanager
def _opened(directory: bytes) -> Iterator[int]:
    fd = os.open(directory or b".", beneath.OPEN_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _named_alike(source: bytes, shown: bytes, spelled: bytes) -> AlreadyExists:
    """Return the error for a source that has the same name here as another one.

    Args:
        shown: The local path of the source.
        spelled: The other source's name.
    """
    other = os.path.join(os.path.dirname(shown), spelled)
    return AlreadyExists(
        f"will not overwrite just-created '{paths.show(other)}' with '{paths.show(source)}': "
        "this file system treats both names as the same"
    )
