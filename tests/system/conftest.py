"""Fixtures: servers, users, and that no test leaves a process or a mark outside of the homes.

Lives here: which tests run in which modes of serving, too. Lives elsewhere: the modes (modes.py).
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.system import modes, trees
from tests.system.programs import Admin, Programs, Server, add_account
from tests.system.warm import Warm

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what starts servers in the modes that were chosen; see modes.py."""
    if "served_as" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("serve_as")
    if chosen is None:
        if metafunc.definition.get_closest_marker("telling") is None:
            return
        chosen = list(modes.MODES.values())
    needs = {need for mark in metafunc.definition.iter_markers("needs") for need in mark.args}
    fitting = [pytest.param(mode, id=mode.name) for mode in modes.fitting(chosen, needs)]
    if not fitting:
        why = "; ".join(f"the test {modes.NEEDS[need]}" for need in sorted(needs))
        fitting = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=why))]
    metafunc.parametrize(
        "served_as",
        fitting,
        indirect=True,
        scope="session",
    )


@pytest.fixture(scope="session")
def served_as(request) -> modes.Mode:
    """How servers serve."""
    return getattr(request, "param", modes.DEFAULT)


@pytest.fixture(scope="session", autouse=True)
def warm_starts(request) -> Iterator[None]:
    """Have the programs of all tests forked where that makes no difference to them."""
    if request.config.getoption("cold_starts") or sys.platform != "linux":
        yield
        return
    with closing(Warm()) as Programs.warm:
        yield
    Programs.warm = None


@pytest.fixture
def cold_starts(monkeypatch) -> None:
    """Start the programs of this test from nothing, as a user would."""
    monkeypatch.setattr(Programs, "warm", None)


@contextmanager
def untouched_canary(place: Path) -> Iterator[None]:
    """A tree beside the homes. Nothing that happens in a test may touch it."""
    for name in ("canary", "canary-as-it-was"):
        (place / name / "inside").mkdir(parents=True)
        (place / name / "secret").write_bytes(b"not yours")
        os.symlink("secret", place / name / "link")
        for below in ("secret", "link", "inside", "."):
            os.utime(place / name / below, ns=(0, 10**18), follow_symlinks=False)
    yield
    trees.same(place / "canary-as-it-was", place / "canary")


@contextmanager
def running_programs() -> Iterator[Programs]:
    """What is started here and still runs at the end is killed."""
    started = Programs()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def programs():
    """What a test starts."""
    with running_programs() as started:
        yield started


@pytest.fixture
def start_server(programs, tmp_path, served_as):
    """Starts servers, by default on tmp_path/root. Each must still stop in order at the end."""
    servers: list[Server] = []

    def start(*options: str, root=None, **more) -> Server:
        values = {"mode": served_as} | more
        server = Server(programs, root or tmp_path / "root", tmp_path, *options, **values)
        servers.append(server)
        return server

    with untouched_canary(tmp_path):
        yield start
        for server in servers:
            if not server.stop_requested:
                server.stop()
            assert "Traceback" not in server.log, server.log


@pytest.fixture
def server(start_server):
    """A running server of the test's own, with TLS."""
    return start_server()


@pytest.fixture
def alice(server):
    """Whoever started that server first, at a command line."""
    return server.first_user()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory, served_as):
    """One server for all tests of a module that don't disturb it."""
    place = tmp_path_factory.mktemp("shared")
    with running_programs() as started, untouched_canary(place):
        server = Server(started, place / "root", place, mode=served_as)
        yield server
        server.stop()


@pytest.fixture
def user(shared_server, programs):
    """Somebody new on the shared server, with an empty home."""
    return add_account(shared_server, programs, f"user{next(_numbers)}")


@pytest.fixture
def admin(programs, tmp_path):
    """Whoever looks after the accounts of tmp_path/root, whether a server runs there or not."""
    return Admin(programs, tmp_path / "root", tmp_path)


@pytest.fixture
def roomy(tmp_path):
    """A directory for large files, removed as soon as the test is over."""
    directory = tmp_path / "roomy"
    directory.mkdir()
    yield directory
    trees.remove(directory)
