"""Checking the trash of a home: each item must have a line, and the sums must agree.

Lives here: the checks. Nothing is changed or locked.
Lives elsewhere: reading an operation (storage/trash/glance.py), making findings (verify.py).

A line without an item is not an error: a crash may come between the two. An item without a line
stays where it is: users see it as `found`, and it is purged with its operation.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from ftpserver.admin.trash import opened_below
from ftpserver.storage.trash.directory import MOST_READ
from ftpserver.storage.trash.glance import Glance, glance
from ftpserver.storage.trash.index import Contents
from ftpserver.storage.trash.names import INDEX_NAME, is_name
from ftpwire import paths


@dataclass(frozen=True)
class TrashProblem:
    """A problem in the trash.

    Attributes:
        path: The path from the home.
        expected, found: The problem, if it isn't an error in reading.
        error: The error in reading.
    """

    path: bytes
    expected: str = ""
    found: str = ""
    error: OSError | None = None


@dataclass
class TrashCheck:
    """The result of checking a home's trash.

    Attributes:
        wrong: The problems.
        size, files: How much counts in the trash of each account, by the account's id.
        readable: True if all of it could be read, so that the sums are complete.
    """

    wrong: list[TrashProblem] = field(default_factory=list)
    size: Counter[int] = field(default_factory=Counter)
    files: Counter[int] = field(default_factory=Counter)
    readable: bool = True

    def unread(self, path: bytes, error: OSError) -> None:
        """Record that something cannot be read."""
        self.readable = False
        self.wrong.append(TrashProblem(path, error=error))

    def operation(self, one: Glance) -> None:
        """Check one operation."""
        name, contents = one.name.encode(), one.contents
        if one.lines and contents == Contents():
            self.readable = False
            self.wrong.append(
                TrashProblem(_below(name, INDEX_NAME), "an index that can be read", "none")
            )
        if one.lines >= MOST_READ:
            self.readable = False
            limit = f"an index of less than {MOST_READ} bytes"
            self.wrong.append(TrashProblem(_below(name, INDEX_NAME), limit, "a larger one"))
        known = {item.name for item in contents.items}
        for entry in sorted(one.names - known):
            path = _below(name, os.fsencode(entry))
            self.wrong.append(TrashProblem(path, "a line about it in the index", "none"))
        if contents.begin is not None:
            usage = one.counted()
            self.size[contents.begin.account] += usage.size
            self.files[contents.begin.account] += usage.files


def look(home: int) -> TrashCheck:
    """Check the trash of an open home."""
    looked = TrashCheck()
    try:
        with opened_below(home) as trash:
            for text in sorted(os.listdir(trash)) if trash is not None else ():
                assert trash is not None
                name = os.fsencode(text)
                if not is_name(name):
                    looked.wrong.append(
                        TrashProblem(_below(name), "an operation", "something else")
                    )
                    continue
                try:
                    one = glance(trash, text)
                except OSError as error:
                    looked.unread(_below(name), error)
                    continue
                if one is not None:
                    looked.operation(one)
    except OSError as error:
        looked.unread(_below(), error)
    return looked


def _below(*names: bytes) -> bytes:
    return b"/".join((paths.TRASH, *names))
