"""What the tests of ftpserver share: an accounts file, a ledger, a home, without a server."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ftpserver.accounts import account as account_module
from ftpserver.accounts import invitations, tokens
from ftpserver.accounts.accounts import Accounts
from ftpserver.cli import main
from ftpserver.clock import Clock
from ftpserver.database import open_state
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger


@pytest.fixture
def root(tmp_path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def new_state(tmp_path_factory) -> Path:
    """A new accounts file, to be copied: to make one takes longer than most tests."""
    directory = tmp_path_factory.mktemp("of-nobody") / ".ftpd"
    open_state(directory).dispose()
    return directory


@pytest.fixture
def engine(root, new_state) -> Iterator[Engine]:
    """The accounts file of the root."""
    shutil.copytree(new_state, root / ".ftpd")
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
def clock(monkeypatch) -> Callable[[float], None]:
    """Sets the time that tokens and invitations go by, in seconds since 1970."""
    moment = [0.0]
    even = Clock(lambda: moment[0], lambda: moment[0])

    def set_to(seconds: float) -> None:
        moment[0] = seconds
        for module in (account_module, invitations, tokens):
            monkeypatch.setattr(module, "RUN", even)

    return set_to


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


@pytest.fixture
def ftpd(root, monkeypatch, capsys, quick_passwords):
    """Runs a command line on the root; gives exit status, output and errors."""

    class Stdin(io.StringIO):
        @property
        def buffer(self):
            return open(0, "rb", closefd=False)

        def isatty(self) -> bool:
            return False

    def run(*arguments: str, stdin: bytes = b"", with_root: bool = True):
        read, write = os.pipe()
        os.write(write, stdin)
        os.close(write)
        before = os.dup(0)
        os.dup2(read, 0)
        monkeypatch.setattr(sys, "stdin", Stdin())
        more = ["--root", str(root)] if with_root else []
        monkeypatch.setattr(sys, "argv", ["ftpd", *arguments, *more])
        status = 0
        try:
            main.main()
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            run.left = os.read(0, 1000)
            os.dup2(before, 0)
            os.close(before)
            os.close(read)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return run
