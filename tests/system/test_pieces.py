"""One large file over several connections, by the real programs, which die in the middle."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from ftpserver.storage.resumable import Checkpoint
from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

MIB = 1024 * 1024
SIZE = 56 * MIB + 4321
HELD = 50 * MIB


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(random.Random(31).randbytes(SIZE))
    os.utime(path, ns=(10**18, 10**18))
    return path


def again(alice, server, way, *arguments) -> int:
    """A command that has to succeed; returns the bytes that it moved."""
    with Proxy(server.reached) as proxy:
        alice.at(proxy.address).run(*arguments)
        return proxy.passed(way)


def safe(checkpoint: Path) -> int:
    """How many bytes without a gap a checkpoint says to be on the disk."""
    with open(checkpoint, "rb") as file:
        return Checkpoint.look(file.fileno())[1]


def test_there_and_back(server, alice, source, tmp_path):
    sent = alice.run("--json", "put", "-P", "3", source, "/file")
    got = alice.run("--json", "get", "-P", "3", "/file", tmp_path / "got")
    trees.same(source, server.home() / "file")
    trees.same(source, tmp_path / "got")
    for finished in (sent, got):
        reported, summary = finished.records
        assert reported["size"] == SIZE and reported["digest"] and summary["done"] == 1
    assert server.log.count("logged in") == 2 * (1 + 3)
    assert server.staged() == set()


def test_a_server_killed_in_the_middle_of_a_put(start_server, source):
    """What came without a gap and was synced is not sent again."""
    server = start_server()
    alice = server.first_user()
    with Proxy(server.reached) as proxy:
        proxy.hold("up", HELD)
        putting = alice.at(proxy.address).start("put", "--retries", "0", "-P", "3", source, "/file")
        eventually(lambda: proxy.passed("up") >= HELD)
        staging = server.home() / ".ftpd-staging"
        eventually(lambda: any(safe(path) >= 8 * MIB for path in staging.glob("*.ck")))
        server.kill()
        finish(putting, status=4)
    server = start_server(port=server.port)
    assert not (server.home() / "file").exists()
    assert again(alice, server, "up", "put", "-P", "3", source, "/file") < SIZE - 8 * MIB
    trees.same(source, server.home() / "file")
    assert server.staged() == set()


def test_a_client_killed_in_the_middle(server, alice, source):
    """The server's staging has gaps, and isn't taken for whole."""
    with Proxy(server.reached) as proxy:
        proxy.hold("up", HELD)
        running = alice.at(proxy.address).start("put", "-P", "3", source, "/file")
        eventually(lambda: proxy.passed("up") >= HELD)
        running.kill()
        finish(running, status=-signal.SIGKILL)
    assert again(alice, server, "up", "put", "-P", "3", source, "/file") <= SIZE + MIB
    trees.same(source, server.home() / "file")
    assert server.staged() == set()
