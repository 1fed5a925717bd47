"""Looking at the operations of a trash without holding them.

Lives here: what each holds at this moment, and which are an account's. Lives elsewhere: holding one
(directory.py), telling users of them (listing.py).

What is seen may have changed by the time that something is done about it: whoever takes something
holds the operation alone, and looks again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ftpserver.storage.trash.directory import names_in, read_index
from ftpserver.storage.trash.index import Contents, Item, decode
from ftpserver.storage.trash.names import INDEX_NAME
from ftpserver.storage.walk import Usage, counted_size
from ftpwire.beneath import OPEN_DIRECTORY

_TREE = b'"what":"tree"'
"""In the line about a tree, as `encode` writes it."""
_MOST = 2**62
"""Of a sum."""


def is_of(contents: Contents, account_id: int) -> bool:
    """Whether an operation is an account's. One of which nobody knows whose it is, because a crash
    came before that was durable, is that of every account that has the home."""
    return contents.begin is None or contents.begin.account == account_id


def is_a_stranger(contents: Contents, things: Collection[str]) -> bool:
    """Whether a directory in the trash isn't the server's work: nothing says whose operation it is,
    and things lie in it that no line tells of. The server writes the lines first. A user's own
    directory may have had the trash's name before there was one: nothing in it is given up.

    Args:
        things: What lies in it.
    """
    return contents.begin is None and not {item.name for item in contents.items}.issuperset(things)


def things_in(operation: int) -> set[str]:
    """The names of what lies in an open operation; its index left out."""
    return set(os.listdir(operation)) - {INDEX_NAME.decode()}


def is_counted(contents: Contents, item: Item) -> bool:
    """Whether an item counts in the account's trash. Files, links and empty directories do from the
    moment that they came; trees once they were measured."""
    measured = contents.measured.get(item.name)
    return item.what != "tree" if measured is None else measured.size is not None


def counted_as(contents: Contents, item: Item, info: os.stat_result) -> Usage:
    """How much of an item in state ``info`` counts in the account's trash."""
    measured = contents.measured.get(item.name)
    if measured is not None:
        return Usage(measured.size or 0, measured.files or 0)
    return Usage(counted_size(info), 1) if is_counted(contents, item) else Usage(0, 0)


def counted_of(operation: int, contents: Contents, items: Iterable[Item]) -> Usage:
    """The same of several, of those that are there: a crash may have left lines about things that
    never came.

    Args:
        operation: Its directory, open.
    """
    size = files = 0  # what somebody else has written may be more than the books can have
    for item in items:
        if not is_counted(contents, item):
            continue
        try:
            info = os.stat(item.name, dir_fd=operation, follow_symlinks=False)
        except FileNotFoundError:
            continue
        one = counted_as(contents, item, info)
        size, files = size + one.size, files + one.files
    return Usage(min(size, _MOST), min(files, _MOST))


@dataclass
class Glance:
    """An operation as it was a moment ago.

    Attributes:
        things: The names of what lies in it.
        lines: Bytes of its index that ``contents`` comes from.
        trash: What it lies in, open.
    """

    trash: int

    name: str
    contents: Contents
    things: set[str]
    lines: int = 0

    @property
    def kept(self) -> list[Item]:
        """The items that lie in it, the oldest first."""
        return [item for item in self.contents.items if item.name in self.things]

    @property
    def uncounted(self) -> list[Item]:
        """Those of them of which nobody knows how much they are."""
        return [item for item in self.kept if not is_counted(self.contents, item)]

    def counted(self, items: Iterable[Item] | None = None) -> Usage:
        """Bytes and files that count in the account's trash: of these items, or all."""
        try:
            fd = os.open(self.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.trash)
        except FileNotFoundError:
            return Usage(0, 0)
        try:
            return counted_of(fd, self.contents, self.kept if items is None else items)
        finally:
            os.close(fd)


def glance(trash: int, name: str) -> Glance | None:
    """Look at one operation; None when it isn't there any more."""
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
    except FileNotFoundError:
        return None
    try:
        things = things_in(fd)
        content = read_index(fd)
    finally:
        os.close(fd)
    return Glance(trash, name, Contents.of(decode(content)), things, len(content))


def has_trees(trash: int, name: str) -> bool:
    """Whether there may be trees in an operation. Costs far less than looking at its lines, of
    which there may be many thousands."""
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
    except FileNotFoundError:
        return False
    try:
        return _TREE in read_index(fd)
    finally:
        os.close(fd)


def glances(trash: int, account_id: int) -> Iterator[Glance]:
    """An account's operations, the oldest first."""
    for name in names_in(trash):
        found = glance(trash, name)
        if found is None or is_a_stranger(found.contents, found.things):
            continue
        if is_of(found.contents, account_id):
            yield found


def by_worth(found: Glance) -> tuple[bool, str]:
    """Sorts operations as they are given up: those of versions alone first, then the oldest."""
    return not found.contents.only_versions, found.name
