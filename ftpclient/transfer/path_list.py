"""A list of paths below one root, to which a transfer is limited.

Lives here: which paths are valid in it, the directories on the way to them; on disk if it is long.
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
"""Number of paths to look up at once."""

Look = Callable[[Sequence[bytes]], Iterator[CommandError | None]]
"""Yields, for each of the given paths, the error of looking it up, or None if it exists."""


def path_below(name: bytes) -> bytes:
    """Return a path of a list, without ``.`` components and doubled slashes.

    Raises:
        InvalidPath: It leads out of the root, or is not a valid path.
    """
    shown = paths.show(name)
    if b"\0" in name:
        raise InvalidPath(f"{shown}: a path cannot contain a NUL byte")
    if len(name) > paths.MAX_PATH:
        raise InvalidPath(f"{paths.show(name[:40])}…: longer than {paths.MAX_PATH} bytes")
    if name.startswith(b"/"):
        raise InvalidPath(f"{shown}: an absolute path; paths in the list are relative to SOURCE")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidPath(f"{shown}: .. leads out of SOURCE")
    if not parts:
        raise InvalidPath(f"{shown}: not a path below SOURCE")
    return b"/".join(parts)


def _above(name: bytes) -> Iterator[bytes]:
    """Iterate over the directories above a path, the nearest first."""
    while name := name.rpartition(b"/")[0]:
        yield name


class PathList:
    """The paths, in their original order. Close it after use.

    A directory in the list stands for everything in it.

    Args:
        names: The paths. All are read by the constructor.

    Raises:
        InvalidPath: See `path_below`.
        SpoolFull: The disk for temporary files is full.
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
        """Find out which of the paths exist, and limit the list to these.

        Yields:
            The other paths, with their errors.
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
        """Return whether a path was chosen. Not to be called for paths below a chosen directory."""
        return self._known.get(path) is True

    def is_above(self, path: bytes) -> bool:
        """Return whether a chosen path is below this path."""
        return self._known.get(path) is False

    def close(self) -> None:
        """Close it and remove its files on disk."""
        self._names.close()
        self._known.close()


def looking_here(root: bytes, *, follow: bool) -> Look:
    """Return a function that looks up paths below a local directory.

    Args:
        follow: True to follow links to directories on the way.
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
    """Limit the list to the paths that exist below a local directory. Ignores the others."""
    for _ in only.choose(looking_here(root, follow=follow)):
        pass


def looking_there(connection: Connection, root: RemotePath, *, follow: bool) -> Look:
    """Return a function that looks up paths below a remote directory, all in one round trip."""

    def at(path: bytes) -> Entry | CommandError | None:
        try:
            return find(connection, paths.child(root, path), follow=follow)
        except CommandError as error:
            return error

    def look(names: Sequence[bytes]) -> Iterator[CommandError | None]:
        looked_up = dict.fromkeys(path for name in names for path in (*_above(name), name))
        connection.ask_ahead(*(Stat(paths.child(root, path), follow) for path in looked_up))
        try:
            found = {path: at(path) for path in looked_up}
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
        return None  # then the path below it does not exist either, and that is reported
    return _no_way(paths.show(paths.child(root, path)), found.type == "link")


def _missing(
    root: RemotePath, name: bytes, found: Entry | CommandError | None
) -> CommandError | None:
    if found is None:
        return NotFound(f"{paths.show(paths.child(root, name))}: no such file or directory")
    return found if isinstance(found, CommandError) else None


def _no_way(shown: str, is_link: bool) -> NotADirectory:
    if is_link:
        return NotADirectory(f"{shown}: a symbolic link is on the way (use -L to follow it)")
    return NotADirectory(f"{shown}: not a directory")
