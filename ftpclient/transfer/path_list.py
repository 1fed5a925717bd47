"""A list of paths below one root: the only ones that are meant.

Lives here: which paths may be in it, what is on the way to them; on disk when there are many.
Lives elsewhere: reading the list (cli/filter_options.py), walking the tree (selection.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from ftpclient.connection.connection import Connection
from ftpclient.transfer.listing import find
from ftpclient.transfer.spool import Spool, Table
from ftpwire import paths
from ftpwire.errors import CommandError, InvalidPath, NotADirectory, NotFound, from_oserror
from ftpwire.messages import Entry, Stat
from ftpwire.paths import RemotePath

_AT_ONCE = 100
"""Paths that are looked for at once."""

Look = Callable[[Sequence[bytes]], Iterator[CommandError | None]]
"""Tells what is wrong with each of some paths; None where something is there."""


def path_below(name: bytes) -> bytes:
    """A path of a list, without ``.`` and doubled slashes.

    Raises:
        InvalidPath: It leads out of the root, or is no path.
    """
    shown = paths.show(name)
    if b"\0" in name:
        raise InvalidPath(f"{shown}: no path has a NUL byte")
    if len(name) > paths.MAX_PATH:
        raise InvalidPath(f"{paths.show(name[:40])}…: longer than {paths.MAX_PATH} bytes")
    if name.startswith(b"/"):
        raise InvalidPath(f"{shown}: an absolute path: those of the list begin at SOURCE")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidPath(f"{shown}: .. leads out of SOURCE")
    if not parts:
        raise InvalidPath(f"{shown}: not a path below SOURCE")
    return b"/".join(parts)


def _above(name: bytes) -> Iterator[bytes]:
    """The directories on the way to a path, the nearest first."""
    while name := name.rpartition(b"/")[0]:
        yield name


class PathList:
    """The paths, in the order in which they came. Close it afterwards.

    A directory that is named means all that is in it.

    Args:
        names: Read at once.

    Raises:
        InvalidPath: See `path_below`.
        SpoolFull: The disk of temporary files has no room.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        self._names = Spool(bytes)
        self._known = Table(bool)
        try:
            for name in names:
                self._names.add(path_below(name))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._names)

    def choose(self, look: Look) -> Iterator[tuple[bytes, CommandError]]:
        """Find out which of them are there: from then on only these are meant.

        Yields:
            The others, and what is wrong with them.
        """
        self._known.close()
        names = iter(self._names)
        while batch := list(islice(names, _AT_ONCE)):
            for name, problem in zip(batch, look(batch), strict=True):
                if problem is not None:
                    yield name, problem
                else:
                    self._take(name)

    def _take(self, name: bytes) -> None:
        self._known[name] = True
        for above in _above(name):
            if self._known.get(above) is None:
                self._known[above] = False

    def is_named(self, path: bytes) -> bool:
        """Whether a path was chosen. What is in a directory that was isn't asked about."""
        return self._known.get(path) is True

    def is_above(self, path: bytes) -> bool:
        """Whether something that was chosen is below a path."""
        return self._known.get(path) is False

    def close(self) -> None:
        """Forget it, and remove what is on disk."""
        self._names.close()
        self._known.close()


def looking_here(root: bytes, *, follow: bool) -> Look:
    """Looks for paths below a directory here.

    Args:
        follow: Whether links to directories are followed on the way.
    """

    def problem_of(name: bytes) -> CommandError | None:
        try:
            for above in reversed(list(_above(name))):
                place = os.path.join(root, above)
                if not stat.S_ISDIR(os.stat(place, follow_symlinks=follow).st_mode):
                    return _no_way(paths.show(place), os.path.islink(place))
            os.lstat(os.path.join(root, name))
        except OSError as error:
            return from_oserror(error, paths.show(os.path.join(root, name)))
        return None

    return lambda names: map(problem_of, names)


def choose_here(only: PathList, root: bytes, *, follow: bool) -> None:
    """Choose those of the paths that are below a directory here. The others are not told."""
    for _ in only.choose(looking_here(root, follow=follow)):
        pass


def looking_there(connection: Connection, root: RemotePath, *, follow: bool) -> Look:
    """The same on the server: all are asked for at once."""

    def at(path: bytes) -> Entry | CommandError | None:
        try:
            return find(connection, paths.child(root, path), follow=follow)
        except CommandError as error:
            return error

    def look(names: Sequence[bytes]) -> Iterator[CommandError | None]:
        asked = dict.fromkeys(path for name in names for path in (*_above(name), name))
        connection.ask_ahead(*(Stat(paths.child(root, path), follow) for path in asked))
        try:
            found = {path: at(path) for path in asked}
        finally:
            connection.forget_ahead()
        for name in names:
            yield next(
                filter(None, (_no_directory(root, path, found[path]) for path in _above(name))),
                _missing(root, name, found[name]),
            )

    return look


def _no_directory(
    root: RemotePath, path: bytes, found: Entry | CommandError | None
) -> CommandError | None:
    if not isinstance(found, Entry) or found.type == "dir":
        return None  # the path below it isn't there either
    return _no_way(paths.show(paths.child(root, path)), found.type == "link")


def _missing(
    root: RemotePath, name: bytes, found: Entry | CommandError | None
) -> CommandError | None:
    if found is None:
        return NotFound(f"{paths.show(paths.child(root, name))}: no such file or directory")
    return found if isinstance(found, CommandError) else None


def _no_way(shown: str, is_link: bool) -> NotADirectory:
    if is_link:
        return NotADirectory(f"{shown}: a symbolic link is on the way (-L follows it)")
    return NotADirectory(f"{shown}: not a directory")
