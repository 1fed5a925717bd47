"""What the tests of the shell's commands share: a shell on a real server, and lines for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpclient.cli.app import App
from ftpclient.shell.running import run_line
from ftpclient.transfer import retry
from tests.ftpclient.shell.shell_support import shell_of


@pytest.fixture
def by_distance() -> None:
    """Have transfers take several connections by themselves where the server seems far away."""


@pytest.fixture(autouse=True)
def near(request, monkeypatch) -> None:
    """Take all servers for near ones: on a busy machine each may seem to be far away."""
    if "by_distance" not in request.fixturenames:
        monkeypatch.setattr(retry, "_FAR_SECONDS", math.inf)


@pytest.fixture
def local(tmp_path, monkeypatch) -> Path:
    """The local directory of the shell."""
    directory = tmp_path / "local"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def app(server, local) -> Iterator[App]:
    """Alice's shell."""
    with shell_of(server) as app:
        yield app


@pytest.fixture
def run(app, capfd) -> Callable[[str], tuple[int, str, str]]:
    """Runs a line; gives its status, its output and its complaints."""

    def run(line: str) -> tuple[int, str, str]:
        status = run_line(app, line)
        out, err = capfd.readouterr()
        return status, out, err

    return run
