"""Reading the operations of a trash without locking them.

Lives here: what each operation holds at this moment, and which belong to an account. Lives
elsewhere: locking one (directory.py), listing them for users (listing.py).

The trash may change right after it was read. A caller that takes something out locks the operation
exclusively first, and reads it again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ftpserver.storage.trash.directory import names_in, open_index, read_index
from ftpserver.storage.trash.index import Begin, Contents, Item, decode
from ftpserver.storage.trash.names import INDEX_NAME
from ftpserver.storage.walk import Usage, counted_size
from ftpwire.beneath import OPEN_DIRECTORY

_TREE = b'"what":"tree"'
"""The part of a tree's line that no other line has, as `encode` writes it."""
_FIRST_LINE = 4096
"""Bytes: more than a `Begin` line has."""
_MOST = 2**62
"""The largest sum of sizes or counts that is reported."""


def is_of(contents: Contents, account_id: int) -> bool:
    """Return whether an operation belongs to an account. An operation without a `Begin` line, which
    a crash may leave, belongs to every account that has the home."""
    return contents.begin is None or contents.begin.account == account_id


def is_foreign(contents: Contents, names: Collection[str]) -> bool:
    """Return whether a directory in the trash was not made by the server: it has no `Begin` line,
    and contains names that no line describes. The server writes the lines first. A user's own
    directory may have had the trash's name before there was a trash: nothing in it is purged.

    Args:
        names: The names in the directory, the index left out.
    """
    return contents.begin is None and not {item.name for item in contents.items}.issuperset(names)


def entry_names(operation: int) -> set[str]:
    """Return the names in an open operation, its index left out."""
    return set(os.listdir(operation)) - {INDEX_NAME.decode()}


def is_counted(contents: Contents, item: Item) -> bool:
    """Return whether an item counts in the account's trash. Files, links and empty directories
    count from the moment they are moved there; trees once they were measured."""
    measured = contents.measured.get(item.name)
    return item.what != "tree" if measured is None else measured.size is not None


def counted_as(contents: Contents, item: Item, info: os.stat_result) -> Usage:
    """Return how much of an item in state ``info`` counts in the account's trash."""
    measured = contents.measured.get(item.name)
    if measured is not None:
        return Usage(measured.size or 0, measured.files or 0)
    return Usage(counted_size(info), 1) if is_counted(contents, item) else Usage(0, 0)


def counted_of(operation: int, contents: Contents, items: Iterable[Item]) -> Usage:
    """Return how much of several items counts in the account's trash. Missing ones are skipped: a
    crash may have left lines about items that were never moved there.

    Args:
        operation: The descriptor of the operation's directory.
    """
    # the index may have been changed by other programs, so its sizes are limited to what the quota
    # store can hold
    size = files = 0
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
    """An operation as it was when it was read.

    Attributes:
        trash: The descriptor of the trash that it is in.
        names: The names in its directory, the index left out.
        lines: The size in bytes of the index that ``contents`` was read from.
    """

    trash: int

    name: str
    contents: Contents
    names: set[str]
    lines: int = 0

    @property
    def kept(self) -> list[Item]:
        """The items that are in it, the oldest first."""
        return [item for item in self.contents.items if item.name in self.names]

    @property
    def uncounted(self) -> list[Item]:
        """Those of `kept` whose size is not known yet."""
        return [item for item in self.kept if not is_counted(self.contents, item)]

    def counted(self, items: Iterable[Item] | None = None) -> Usage:
        """Return how much counts in the account's trash: of these items, or of all."""
        try:
            fd = os.open(self.name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.trash)
        except FileNotFoundError:
            return Usage(0, 0)
        try:
            return counted_of(fd, self.contents, self.kept if items is None else items)
        finally:
            os.close(fd)


def glance(trash: int, name: str) -> Glance | None:
    """Read one operation. Return None if it is gone."""
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
    except FileNotFoundError:
        return None
    try:
        names = entry_names(fd)
        content = read_index(fd)
    finally:
        os.close(fd)
    return Glance(trash, name, Contents.of(decode(content)), names, len(content))


def has_trees(trash: int, name: str) -> bool:
    """Return whether an operation may contain trees. This costs far less than parsing its lines,
    of which there may be many thousands."""
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
    except FileNotFoundError:
        return False
    try:
        return _TREE in read_index(fd)
    finally:
        os.close(fd)


def glances(trash: int, account_id: int) -> Iterator[Glance]:
    """Yield an account's operations, the oldest first."""
    for name in names_in(trash):
        found = glance(trash, name)
        if found is None or is_foreign(found.contents, found.names):
            continue
        if is_of(found.contents, account_id):
            yield found


def keeping(trash: int, account_id: int) -> Iterator[str]:
    """Yield the names of an account's operations that contain something, the oldest first.

    This is what administrators see as the operations in the trash. An operation whose contents were
    restored, and one that only moved files, has nothing there; users see it as a command that can
    be redone or undone. It costs far less than parsing the lines of all operations.
    """
    for name in names_in(trash):
        if _keeps(trash, name, account_id):
            yield name


def _keeps(trash: int, name: str, account_id: int) -> bool:
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
    except FileNotFoundError:
        return False
    try:
        with os.scandir(fd) as entries:
            if all(entry.name == INDEX_NAME.decode() for entry in entries):
                return False
        begin = _begin_of(fd)
    finally:
        os.close(fd)
    if begin is not None:
        return begin.account == account_id
    found = glance(trash, name)  # a crash, or another program, has left no such line
    return (
        found is not None
        and bool(found.names)
        and is_of(found.contents, account_id)
        and not is_foreign(found.contents, found.names)
    )


def _begin_of(operation: int) -> Begin | None:
    """Return the first line of an open operation's index; None if that is not a `Begin` line."""
    index = open_index(operation)
    if index < 0:
        return None
    try:
        line, end, _ = os.pread(index, _FIRST_LINE, 0).partition(b"\n")
    finally:
        os.close(index)
    first = next(decode(line), None) if end else None
    return first if isinstance(first, Begin) else None


def by_worth(found: Glance) -> tuple[bool, str]:
    """Return the sort key for the order of purging: first the operations that contain only
    versions, then the others; each the oldest first."""
    return not found.contents.only_versions, found.name
