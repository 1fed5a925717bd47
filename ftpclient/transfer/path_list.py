"""A list of paths below one root: the only ones that are meant.

Lives here: which paths may be in it, what is on the way to them; on disk when there are many.
Lives elsewhere: reading the list (cli/filter_options.py), walking the tree (selection.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ftpclient.transfer.spool import Spool, Table
from ftpwire import paths
from ftpwire.errors import InvalidPath


def path_below(name: bytes) -> bytes:
    """A path of a list, without ``.`` and doubled slashes.

    Raises:
        InvalidPath: It leads out of the root, or is no path.
    """
    shown = paths.show(name)
    if b"\0" in name:
        raise InvalidPath(f"{shown}: no path has a NUL byte")
    if name.startswith(b"/"):
        raise InvalidPath(f"{shown}: an absolute path: those of the list begin at SOURCE")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidPath(f"{shown}: .. leads out of SOURCE")
    if not parts:
        raise InvalidPath(f"{shown}: not a path below SOURCE")
    return b"/".join(parts)


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

    def choose(self, names: Iterable[bytes]) -> None:
        """Take these of the paths, and no others: the rest is not there."""
        self._known.close()
        for name in names:
            self._known[name] = True
            above = name.rpartition(b"/")[0]
            while above and self._known.get(above) is None:
                self._known[above] = False
                above = above.rpartition(b"/")[0]

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
