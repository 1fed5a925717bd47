"""What the tests of ftpserver share: an accounts file, a ledger, a home, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ftpserver.accounts import Accounts
from ftpserver.homes import Home
from ftpserver.ledger import Ledger
from ftpserver.state import open_state


@pytest.fixture
def root(tmp_path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


@pytest.fixture
def engine(root) -> Iterator[Engine]:
    """The accounts file of the root."""
    opened = open_state(root / ".ftpd")
    yield opened
    opened.dispose()


@pytest.fixture
def accounts(engine, root, quick_passwords) -> Accounts:
    return Accounts(engine, root)


@pytest.fixture
def ledger(engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def open_home(root) -> Iterator[Callable[..., Home]]:
    """Opens root/alice as a session would; it may be opened several times."""
    with ExitStack() as stack:

        def opened(**options) -> Home:
            (root / "alice").mkdir(exist_ok=True)
            home = Home(root / "alice", **{"durable": False} | options)
            stack.callback(home.close)
            return home

        yield opened


@pytest.fixture
def home(open_home) -> Home:
    return open_home()
