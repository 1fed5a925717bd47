"""Looking at what lies in the trash, without restoring it.

Lives here: opening one item so that it can be looked at as a home can, by the path that it had.
Lives elsewhere: what is looked at (../home_reading.py), which items there are (listing.py).

By today's rules of the path that it had, an account may list and read it or may not. No link is
followed: where it led from its old place says nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftpserver.storage.home_reading import Readable
from ftpserver.storage.home_rights import PermittedHome
from ftpserver.storage.trash.directory import is_gone, looking, open_trash
from ftpserver.storage.trash.things import check_owner, things_of
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY, Tree
from ftpwire.errors import Expired, NotFound
from ftpwire.messages import InTrash
from ftpwire.paths import Parts


class _ItemTree(Tree):
    """Opens what is in an item, by the path that it had."""

    def __init__(self, operation: int, name: bytes, path: Parts) -> None:
        super().__init__(operation, follow=False)
        self._name = name
        self._depth = len(path)

    def open(self, parts: Sequence[bytes], flags: int, mode: int = 0) -> int:
        """See `Tree.open`. A directory above the item is that of the operation: what opens the
        parent of something, looks for its name there next."""
        return super().open([self._name, *parts[self._depth :]], flags, mode)

    def parent(self, parts: Sequence[bytes]) -> tuple[int, bytes]:
        """See `Tree.parent`."""
        if len(parts) > self._depth:
            return super().parent(parts)
        return super().open((), OPEN_DIRECTORY), self._name


class TrashedItem(Readable):
    """One item of the trash, with what is in it.

    Attributes:
        path: That it had.
    """

    def __init__(self, home: PermittedHome, operation: int, name: str, path: Parts) -> None:
        self.fd = operation
        self.tree = _ItemTree(operation, name.encode(), path)
        self.permissions = home.permissions
        self.path = path

    def path_of(self, below: bytes) -> bytes:
        """The path that something had.

        Args:
            below: Its path below the item; ``/`` is the item.

        Raises:
            InvalidPath: It is too long.
        """
        path = paths.join(*self.path, *paths.split(below))
        paths.split(path)
        return path

    def stat(self, parts: Parts, *, follow: bool) -> os.stat_result:
        """The state of something. Links are never followed. Raises OSError."""
        return super().stat(parts, follow=False)


@contextmanager
def opened_item(home: PermittedHome, account_id: int, where: InTrash) -> Iterator[TrashedItem]:
    """Open an item of the trash.

    Raises:
        Expired: It isn't there any more.
        NotFound: It never was; or the operation is another account's.
    """
    operation, name = where
    trash = open_trash(home)
    if trash is None:
        raise is_gone(operation)
    try:
        with looking(trash, operation) as opened:
            contents = opened.contents()
            check_owner(operation, contents, account_id)
            for thing in things_of(opened, contents):
                if thing.name == name and thing.is_there:
                    yield TrashedItem(home, opened.fd, name, thing.path)
                    return
            if name in contents.gone:
                raise Expired(f"{name}: it isn't in the trash any more")
            raise NotFound(f"{name}: no such item in that operation of the trash")
    finally:
        os.close(trash)
