"""An account whose removals go to the trash, as seen from outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.trash.measuring import counted_in, measure
from ftpserver.storage.trash.policy import Policy
from ftpserver.storage.walk import Usage
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests
from ftpwire.messages import (
    ListTrash,
    MakeDir,
    Move,
    Operation,
    Put,
    Remove,
    Restore,
    Restored,
    Sent,
    Stored,
    TrashedOperation,
    TrashItem,
)

MIB = 1024 * 1024


class Bin:
    """Alice, her files, and one session of hers.

    Attributes:
        files: Her home, as the file system has it.
        open: Opens another session; takes ``permissions`` and what Workspace takes.
    """

    def __init__(self, account, ledger, files: Path, open_: Callable[..., Workspace]) -> None:
        self.account = account
        self.ledger = ledger
        self.files = files
        self.open = open_
        self.session = open_()
        self._commands = 0

    def begin(self, words: str, session: Workspace | None = None) -> None:
        """What follows is another command."""
        self._commands += 1
        key = self._commands.to_bytes(8, "big")
        (session or self.session).begin_operation(Operation(key, words, b"computer"))

    def put(self, path: bytes, data: bytes = b"data", **options) -> None:
        """Store a file."""
        sent = Sent(len(data), digests.digest(data))
        self.session.stage(Put(path, len(data), **options), data, sent)
        assert self.session.commit() == [(0, Stored(len(data)))]

    def make_dir(self, path: bytes) -> None:
        """Make a directory and those above it."""
        self.session.change(MakeDir(path, parents=True))
        self.session.commit()

    def rm(self, path: bytes, *, recursive: bool = False) -> str:
        """Remove something, as a command of its own; the operation's name."""
        self.begin(f"rm {path!r}")
        removed = self.session.remove(Remove(path, recursive=recursive))
        assert removed.trashed
        return removed.operation

    def mv(self, source: bytes, target: bytes) -> str:
        """Move something, as a command of its own; the operation's name."""
        self.begin(f"mv {source!r} {target!r}")
        self.session.move(Move(source, target))
        return self.session.keeping.name

    def over(self, path: bytes, data: bytes) -> str:
        """Store a file over another, as a command of its own; the operation's name."""
        self.begin(f"put {path!r}")
        self.put(path, data)
        return self.session.keeping.name

    def restore(self, operation: str, session: Workspace | None = None, **options) -> Restored:
        """Restore, as a command of its own."""
        self.begin(f"undo {operation}", session)
        return (session or self.session).restore(Restore(operation, **options))

    def operations(self, session: Workspace | None = None, **options) -> list[TrashedOperation]:
        """What is told of operations."""
        pages = (session or self.session).list_trash(ListTrash(**options))
        return [one for page in pages for one in page.operations]

    def items(self, session: Workspace | None = None, **options) -> list[TrashItem]:
        """What is told of items."""
        options = {"items": True} | options
        pages = (session or self.session).list_trash(ListTrash(**options))
        return [one for page in pages for one in page.items]

    def directory(self, operation: str) -> Path:
        """An operation's directory."""
        return self.files / ".ftpd-trash" / operation

    def things(self, operation: str) -> list[str]:
        """The names of what lies in it."""
        return sorted(set(os.listdir(self.directory(operation))) - {"index"})

    def tree(self) -> dict[str, object]:
        """All that is in the home, with contents and modes."""
        return tree_of(self.files)

    def agrees(self) -> bool:
        """Whether the books say what the disk says, and nothing is left over."""
        space = self.ledger.space(self.account.id)
        home = Home(self.files, durable=False)
        try:
            with home.alone():
                counted = home.count(), counted_in(home, self.account.id)
            used = Usage(space.used + space.trash, (space.used_files or 0) + space.trash_files)
            quota_store = used, Usage(space.trash, space.trash_files)
            return (quota_store, space.held, home.staged()) == (counted, 0, set())
        finally:
            home.close()

    def measure(self) -> None:
        """Have trees in the trash counted, as housekeeping does."""
        home = Home(self.files, durable=False)
        try:
            measure(home, self.ledger, self.account.id)
        finally:
            home.close()


def tree_of(top: Path) -> dict[str, object]:
    """What is below a directory, by path: mode and contents, target, or None of a directory."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(top):
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            reported = os.path.relpath(path, top)
            if reported.startswith(".ftpd-"):
                continue
            info = os.lstat(path)
            mode = stat.S_IMODE(info.st_mode)
            if stat.S_ISLNK(info.st_mode):
                found[reported] = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                found[reported] = mode, Path(path).read_bytes(), info.st_mtime_ns
            else:
                found[reported] = mode
    return found


@pytest.fixture
def bin_(accounts, ledger, root) -> Iterator[Bin]:
    account = accounts.add("alice", "correct-horse", quota=64 * MIB)
    with ExitStack() as stack:

        def opened(*, permissions: str = "", **options) -> Workspace:
            mine = account
            if permissions:
                mine = replace(account, permissions=Permissions.parse(permissions))
            workspace = Workspace(mine, ledger, **{"durable": False, "policy": Policy} | options)
            stack.callback(workspace.close)
            return workspace

        yield Bin(account, ledger, root / "alice", opened)
