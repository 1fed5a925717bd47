"""An account, and workspaces of it, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ftpserver.accounts.account import Account
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.walk import Usage
from ftpserver.workspace.workspace import Workspace
from tests.ftpserver.storage.quota_store import held_files

MIB = 1024 * 1024


@dataclass
class Site:
    """One account's files, seen from outside.

    Attributes:
        open: Opens a workspace; it may be opened several times. Takes what Workspace takes, and
            ``permissions``.
    """

    account: Account
    ledger: Ledger
    files: Path
    open: Callable[..., Workspace]

    def agrees(self) -> bool:
        """Whether the ledger says what the disk says, and nothing is left over."""
        space = self.ledger.space(self.account.id)
        home = Home(self.files, durable=False)
        try:
            there = (home.count(), 0, 0, set())
            used = Usage(space.used + space.trash, (space.used_files or 0) + space.trash_files)
            quota_store = used, space.held
            return (*quota_store, held_files(self.ledger._engine), home.staged()) == there
        finally:
            home.close()


@pytest.fixture
def site(accounts, ledger, root) -> Iterator[Site]:
    account = accounts.add("alice", "correct-horse", quota=64 * MIB)
    with ExitStack() as stack:

        def opened(*, permissions: str = "", **options) -> Workspace:
            mine = account
            if permissions:
                mine = replace(account, permissions=Permissions.parse(permissions))
            workspace = Workspace(mine, ledger, **{"durable": False} | options)
            stack.callback(workspace.close)
            return workspace

        yield Site(account, ledger, root / "alice", opened)
