"""Reading items of the trash without restoring them.

Lives here: opening an item so that it can be read like a part of a home, by its former path.
Lives elsewhere: the operations for reading (../home_reading.py), listing items (listing.py).

The account's current permissions for the former path decide whether it may list and read the item.
No link is followed: its target was relative to the former path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftpserver.storage.home_reading import Readable
from ftpserver.storage.home_rights import PermittedHome
from ftpserver.storage.trash.directory import is_gone, looking, open_trash
from ftpserver.storage.trash.entries import check_owner, entries_of
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY, Tree
from ftpwire.errors import Expired, NotFound
from ftpwire.messages import InTrash
from ftpwire.paths import Parts


class _ItemTree(Tree):
    """Opens an item and what is in it, by their former paths."""

    def __init__(self, operation: int, name: bytes, path: Parts) -> None:
        super().__init__(operation, follow=False)
        self._name = name
        self._depth = len(path)

    def open(self, parts: Sequence[bytes], flags: int, mode: int = 0) -> int:
        """See `Tree.open`. For a path above the item, this opens the operation's directory: callers
        that open a parent look up a name in it next."""
        return super().open([self._name, *parts[self._depth :]], flags, mode)

    def parent(self, parts: Sequence[bytes]) -> tuple[int, bytes]:
        """See `Tree.parent`."""
        if len(parts) > self._depth:
            return super().parent(parts)
        return super().open((), OPEN_DIRECTORY), self._name


class TrashedItem(Readable):
    """One item of the trash, with what is in it.

    Attributes:
        path: The item's former path.
    """

    def __init__(self, home: PermittedHome, operation: int, name: str, path: Parts) -> None:
        self.fd = operation
        self.tree = _ItemTree(operation, name.encode(), path)
        self.permissions = home.permissions
        self.path = path

    def path_of(self, below: bytes) -> bytes:
        """Return the former path of something in the item.

        Args:
            below: Its path below the item; ``/`` is the item.

        Raises:
            InvalidPath: It is too long.
        """
        path = paths.join(*self.path, *paths.split(below))
        paths.split(path)
        return path

    def stat(self, parts: Parts, *, follow: bool) -> os.stat_result:
        """Return the state of the file at a path. Links are never followed. Raises OSError."""
        return super().stat(parts, follow=False)


@contextmanager
def opened_item(home: PermittedHome, account_id: int, where: InTrash) -> Iterator[TrashedItem]:
    """Open an item of the trash.

    Raises:
        Expired: It is no longer there.
        NotFound: It was never there, or the operation belongs to another account.
    """
    operation, name = where
    trash = open_trash(home)
    if trash is None:
        raise is_gone(operation)
    try:
        with looking(trash, operation) as opened:
            contents = opened.contents()
            check_owner(operation, contents, account_id)
            for entry in entries_of(opened, contents):
                if entry.name == name and entry.is_there:
                    yield TrashedItem(home, opened.fd, name, entry.path)
                    return
            if name in contents.gone:
                raise Expired(f"{name}: this item is no longer in the trash")
            raise NotFound(f"{name}: no such item in this operation")
    finally:
        os.close(trash)
