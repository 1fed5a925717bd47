"""The things in an operation's directory, and what its index says of each.

Lives here: joining the two. Lives elsewhere: the index itself (index.py), telling of things
(listing.py), taking them back (restoring.py).
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
class Thing:
    """One line of an index; or something that lies in the trash, and no line tells what it was.

    Attributes:
        path: Where it was; what no line tells of is called after its name.
        is_found: No line tells of it.
        is_there: It lies in the trash now.
    """

    item: Item
    path: Parts
    is_there: bool
    is_found: bool = False

    @property
    def name(self) -> str:
        """Its name in the operation; empty where nothing is kept."""
        return self.item.name

    @property
    def target(self) -> Parts | None:
        """Where it was moved to."""
        return None if self.item.target is None else parts_of(self.item.target)


def parts_of(value: Bytes) -> Parts | None:
    """A path of an index; None for what can't be a path."""
    try:
        return paths.split(value.value) or None
    except (InvalidPath, ValueError):
        return None


def things_of(opened: Opened, contents: Contents) -> list[Thing]:
    """What an operation has changed, in that order; then what no line tells of. A line whose path
    can't be one tells nothing."""
    there = {
        name.decode() for name in map(os.fsencode, os.listdir(opened.fd)) if _NAME.fullmatch(name)
    }
    found = []
    for item in contents.items:
        path = parts_of(item.path)
        if path is None or (item.what == "moved" and parts_of(item.target or Bytes("")) is None):
            continue
        found.append(Thing(item, path, item.name in there))
    left = there.difference(thing.name for thing in found)
    for name in sorted(left):
        item = Item(name, "removed", Bytes(text=f"/found-{name}"), 0)
        found.append(Thing(item, (f"found-{name}".encode(),), True, True))
    return found


def check_owner(name: str, contents: Contents, account_id: int) -> None:
    """Raise NotFound unless an operation is an account's."""
    if not is_of(contents, account_id):
        raise NotFound(f"{name}: no such operation in the trash")


def may_be_told(home: PermittedHome, thing: Thing) -> bool:
    """Whether today's rules let its path, and the one that it was moved to, be listed."""
    if not home.permits(Action.LIST, thing.path):
        return False
    return thing.target is None or home.permits(Action.LIST, thing.target)


def state_in(opened: Opened, name: str) -> os.stat_result | None:
    """The state of something in an operation; None when it isn't there any more."""
    try:
        return os.stat(name, dir_fd=opened.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_directory(info: os.stat_result) -> bool:
    """Whether something in that state is a directory."""
    return stat.S_ISDIR(info.st_mode)


def gone(thing: Thing) -> Expired:
    """The error about something that isn't in the trash any more."""
    where = paths.show(paths.join(*thing.path))
    return Expired(f"{where}: it isn't in the trash any more", path=paths.join(*thing.path))
