"""The items of an operation: the names in its directory, joined with the lines of its index.

Lives here: joining the two. Lives elsewhere: the index itself (index.py), listing items
(listing.py), restoring them (restoring.py).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from ftpserver.storage.home_rights import PermittedHome
from ftpserver.storage.permissions import Action
from ftpserver.storage.trash.directory import Opened
from ftpserver.storage.trash.glance import is_of
from ftpserver.storage.trash.index import Bytes, Contents, Item
from ftpwire import paths
from ftpwire.errors import Expired, InvalidPath, NotFound
from ftpwire.paths import Parts

_NAME = re.compile(rb"[0-9a-f]{8}-[0-9]{1,10}")


@dataclass(frozen=True)
class TrashEntry:
    """One item of an operation: a line of its index, or a name in its directory without a line.

    Attributes:
        item: The line; for an item without one, a made-up line.
        path: The path where it was; for an item without a line, one made from its name.
        is_there: True if it is in the trash now.
        is_found: True if no line describes it.
    """

    item: Item
    path: Parts
    is_there: bool
    is_found: bool = False

    @property
    def name(self) -> str:
        """Its name in the operation; empty if nothing is kept."""
        return self.item.name

    @property
    def target(self) -> Parts | None:
        """The path that it was moved to; None if it was not moved."""
        return None if self.item.target is None else parts_of(self.item.target)


def parts_of(value: Bytes) -> Parts | None:
    """Parse a path of an index. Return None if it cannot be a path, or is the root."""
    try:
        return paths.split(value.value) or None
    except (InvalidPath, ValueError):
        return None


def entries_of(opened: Opened, contents: Contents) -> list[TrashEntry]:
    """Return the items of an operation in the order of their lines, then the items without a line.
    Lines with an invalid path are skipped."""
    there = {
        name.decode() for name in map(os.fsencode, os.listdir(opened.fd)) if _NAME.fullmatch(name)
    }
    found = []
    for item in contents.items:
        path = parts_of(item.path)
        if path is None or (item.what == "moved" and parts_of(item.target or Bytes("")) is None):
            continue
        found.append(TrashEntry(item, path, item.name in there))
    left = there.difference(entry.name for entry in found)
    for name in sorted(left):
        item = Item(name, "removed", Bytes(text=f"/found-{name}"), 0)
        found.append(TrashEntry(item, (f"found-{name}".encode(),), True, True))
    return found


def check_owner(name: str, contents: Contents, account_id: int) -> None:
    """Raise NotFound unless an operation belongs to an account."""
    if not is_of(contents, account_id):
        raise NotFound(f"{name}: no such operation in the trash")


def may_be_shown(home: PermittedHome, entry: TrashEntry) -> bool:
    """Return whether the account's current permissions allow listing an item's path and, if it was
    moved, its target."""
    if not home.permits(Action.LIST, entry.path):
        return False
    return entry.target is None or home.permits(Action.LIST, entry.target)


def state_in(opened: Opened, name: str) -> os.stat_result | None:
    """Return the state of an item in an operation, or None if it is gone."""
    try:
        return os.stat(name, dir_fd=opened.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_directory(info: os.stat_result) -> bool:
    """Return whether this is the state of a directory."""
    return stat.S_ISDIR(info.st_mode)


def gone(entry: TrashEntry) -> Expired:
    """Return the error for an item that is no longer in the trash."""
    where = paths.show(paths.join(*entry.path))
    return Expired(f"{where}: no longer in the trash", path=paths.join(*entry.path))
