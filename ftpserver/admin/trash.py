"""The trash of accounts, as an administrator looks at it: by the indexes on the disk.

Lives here: which operations there are, how much is in them, which one is meant by an ID.
Lives elsewhere: restoring and emptying (trash_work.py), what users see (storage/trash/listing.py),
what is wrong with a trash (verify_trash.py), options and printing (cli/trash.py).

Nothing is changed here, and nothing is held: it works beside a server and without one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftpserver.accounts.account import Account
from ftpserver.storage.trash.directory import names_in
from ftpserver.storage.trash.glance import Glance, glances
from ftpserver.storage.trash.index import Contents
from ftpserver.storage.trash.names import time_of
from ftpwire import paths, trash_names
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import NotFound


@contextmanager
def opened_below(home: int) -> Iterator[int | None]:
    """A handle of the trash of an open home; None where it has none. Raises OSError."""
    try:
        fd = os.open(paths.TRASH, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened(home: Path) -> Iterator[int | None]:
    """The same of a home by its path; None also where there is no home. Raises OSError."""
    try:
        fd = os.open(home, OPEN_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        with opened_below(fd) as trash:
            yield trash
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Kept:
    """An operation in the trash.

    Attributes:
        things: How many things of it are there.
        size, files: Of these, as far as they are counted.
        counted: All of them are.
    """

    name: str
    contents: Contents
    things: int
    size: int
    files: int
    counted: bool

    @classmethod
    def of(cls, seen: Glance) -> Kept:
        """What a look has shown."""
        usage = seen.counted()
        counted = not seen.uncounted and len(seen.kept) == len(seen.things)
        things = len(seen.things)
        return cls(seen.name, seen.contents, things, usage.size, usage.files, counted)

    @property
    def began(self) -> int:
        """When, in seconds since 1970."""
        return time_of(self.name) // 10**9

    @property
    def path(self) -> bytes | None:
        """One of the paths that it has changed; None where its index tells none."""
        items = self.contents.items
        return items[0].path.value if items else None


def operations(account: Account, *, keeping: bool = True) -> list[Kept]:
    """The operations in an account's trash, the newest first.

    Args:
        keeping: Only those that keep something.

    Raises:
        OSError: The home or its trash can't be read.
    """
    with opened(account.home) as trash:
        found = [] if trash is None else [Kept.of(one) for one in glances(trash, account.id)]
    return [one for one in reversed(found) if one.things or not keeping]


def count_operations(home: Path) -> int:
    """How many operations there are in the trash of a home, whoever they are of. Raises OSError."""
    with opened(home) as trash:
        return 0 if trash is None else len(names_in(trash))


def meant(account: Account, typed: str) -> str:
    """The operation that is meant by an ID, or by its whole name.

    Raises:
        NotFound: None is, or several are.
        OSError: The trash can't be read.
    """
    names = [one.name for one in operations(account)]
    try:
        found = trash_names.meant(typed, names)
    except ValueError as error:
        raise NotFound(str(error)) from None
    if not found:
        raise NotFound(
            f"{paths.printable(typed)}: not in the trash of {account.name} "
            f"(ftpd trash list {account.name} tells what is)"
        )
    if len(found) > 1:
        raise NotFound(f"{typed}: means {', '.join(found)}: give more digits")
    return found[0]
