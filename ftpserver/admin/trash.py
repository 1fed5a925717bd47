"""Reading the trash of accounts for an administrator, from the indexes on the disk.

Lives here: the operations of an account, their sizes, finding one by its ID.
Lives elsewhere: restoring and emptying (trash_work.py), what users see (storage/trash/listing.py),
checking a trash (verify_trash.py), options and printing (cli/trash.py).

Nothing is changed or locked, so this works beside a server and without one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftpserver.accounts.account import Account
from ftpserver.storage.trash.directory import names_in
from ftpserver.storage.trash.glance import Glance, glance, glances, keeping
from ftpserver.storage.trash.index import Contents
from ftpserver.storage.trash.names import time_of
from ftpwire import paths, trash_names
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import NotFound


@contextmanager
def opened_below(home: int) -> Iterator[int | None]:
    """Open the trash of an open home within the context. Yield its descriptor; None if the home has
    no trash. Raises OSError."""
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
    """Open the trash of the home at a path within the context. Yield its descriptor; None if there
    is no home, or it has no trash. Raises OSError."""
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
class OperationInTrash:
    """An operation in the trash.

    Attributes:
        name: Its name.
        contents: The content of its index.
        items: The number of items that are in it.
        size, files: Their size in bytes and files, items that are not measured yet left out.
        counted: True if all of them are measured.
    """

    name: str
    contents: Contents
    items: int
    size: int
    files: int
    counted: bool

    @classmethod
    def of(cls, seen: Glance) -> OperationInTrash:
        """Summarize an operation that was read."""
        usage = seen.counted()
        counted = not seen.uncounted and len(seen.kept) == len(seen.names)
        items = len(seen.names)
        return cls(seen.name, seen.contents, items, usage.size, usage.files, counted)

    @property
    def began(self) -> int:
        """When it began, in seconds since 1970."""
        return time_of(self.name) // 10**9

    @property
    def path(self) -> bytes | None:
        """One of the paths that it has changed; None if its index has none."""
        items = self.contents.items
        return items[0].path.value if items else None


def operations(account: Account) -> list[OperationInTrash]:
    """Return the operations in an account's trash, the newest first: those that `count_operations`
    counts.

    Raises:
        OSError: The home or its trash cannot be read.
    """
    with opened(account.home) as trash:
        names = [] if trash is None else [*keeping(trash, account.id)]
        found = [] if trash is None else [glance(trash, name) for name in reversed(names)]
        return [OperationInTrash.of(one) for one in found if one is not None and one.names]


def count_operations(account: Account) -> int:
    """Return the number of operations in an account's trash: those that contain something. Raises
    OSError."""
    with opened(account.home) as trash:
        return 0 if trash is None else sum(1 for _ in keeping(trash, account.id))


def all_operations(account: Account) -> list[OperationInTrash]:
    """Return also the operations of an account that contain nothing, the newest first. Raises
    OSError."""
    with opened(account.home) as trash:
        found = [] if trash is None else [*glances(trash, account.id)]
        return [OperationInTrash.of(one) for one in reversed(found)]


def has_operations(home: Path) -> bool:
    """Return whether there are operations of any account in the trash of a home. Raises OSError."""
    with opened(home) as trash:
        return trash is not None and bool(names_in(trash))


def meant(account: Account, typed: str) -> str:
    """Return the name of the operation with an ID, or with a complete name.

    Raises:
        NotFound: There is none, or there are several.
        OSError: The trash cannot be read.
    """
    names = [one.name for one in operations(account)]
    try:
        found = trash_names.meant(typed, names)
    except ValueError as error:
        raise NotFound(str(error)) from None
    if not found:
        raise NotFound(
            f"{paths.printable(typed)}: not in the trash of {account.name} "
            f"(see ftpd trash list {account.name})"
        )
    if len(found) > 1:
        raise NotFound(f"{typed}: ambiguous: {', '.join(found)}; give more digits")
    return found[0]
