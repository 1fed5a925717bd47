"""Fixtures: servers, users, and that no test leaves a process or a mark outside of the homes."""

from __future__ import annotations

import os

import pytest

from tests.system import trees
from tests.system.programs import Programs, Server


@pytest.fixture
def programs():
    """What a test starts; whatever of it still runs at the end is killed."""
    started = Programs()
    yield started
    started.close()


@pytest.fixture
def canary(tmp_path):
    """A tree beside the homes. Nothing that happens in a test may touch it."""
    for name in ("canary", "canary-as-it-was"):
        (tmp_path / name / "inside").mkdir(parents=True)
        (tmp_path / name / "secret").write_bytes(b"not yours")
        os.symlink("secret", tmp_path / name / "link")
        for below in ("secret", "link", "inside", "."):
            os.utime(tmp_path / name / below, ns=(0, 10**18), follow_symlinks=False)
    yield tmp_path / "canary"
    trees.same(tmp_path / "canary-as-it-was", tmp_path / "canary")


@pytest.fixture
def start_server(programs, tmp_path, canary):
    """Starts servers, by default on tmp_path/root. Each must still stop in order at the end."""
    servers: list[Server] = []

    def start(*options: str, root=None, **more) -> Server:
        server = Server(programs, root or tmp_path / "root", tmp_path, *options, **more)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if not server.asked_to_stop:
            server.stop()
        assert "Traceback" not in server.log, server.log


@pytest.fixture
def server(start_server):
    """A running server, with TLS."""
    return start_server()


@pytest.fixture(params=["tls", "plain"])
def either_server(start_server, request):
    """A running server, once with TLS and once without."""
    return start_server(plaintext=request.param == "plain")


@pytest.fixture
def alice(server):
    """Whoever started the server first, at a command line."""
    return server.first_user()


@pytest.fixture
def roomy(tmp_path):
    """A directory for large files, removed as soon as the test is over."""
    directory = tmp_path / "roomy"
    directory.mkdir()
    yield directory
    trees.remove(directory)
