"""One large file over several connections, by the real programs, which die in the middle."""

from __future__ import annotations

import os
import random
import signal

import pytest

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


def test_there_and_back(server, alice, source, tmp_path):
    sent = alice.run("--json", "put", "-P", "3", source, "/file")
    got = alice.run("--json", "get", "-P", "3", "/file", tmp_path / "got")
    trees.same(source, server.home() / "file")
    trees.same(source, tmp_path / "got")
    for finished in (sent, got):
        told, summary = finished.records
        assert told["size"] == SIZE and told["digest"] and summary["done"] == 1
    assert server.log.count("logged in") == 2 * (1 + 3)
    assert server.staged() == set()


@pytest.mark.telling
def test_a_server_killed_in_the_middle_of_a_put(start_server, source):
    """What came without a gap and was synced is not sent again."""
    server = start_server()
    alice = server.first_user()
    with Proxy(server.reached) as proxy:
        proxy.hold("up", HELD)
        putting = alice.at(proxy.address).start("put", "--retries", "0", "-P", "3", source, "/file")
        eventually(lambda: proxy.passed("up") >= HELD)
        staging = server.home() / ".ftpd-staging"
        eventually(lambda: any(path.stat().st_size for path in staging.glob("*.ck")))
        server.kill()
        finish(putting, status=4)
    server = start_server(port=server.port)
    assert not (server.home() / "file").exists()
    assert again(alice, server, "up", "put", "-P", "3", source, "/file") < SIZE - 8 * MIB
    trees.same(source, server.home() / "file")
    assert server.staged() == set()


def test_a_server_killed_in_the_middle_of_a_get(start_server, source, tmp_path):
    server = start_server()
    alice = server.first_user()
    alice.run("put", source, "/file")
    with Proxy(server.reached) as proxy:
        proxy.hold("down", HELD)
        arguments = ("get", "--retries", "0", "-P", "3", "/file", tmp_path / "got")
        getting = alice.at(proxy.address).start(*arguments)
        eventually(lambda: proxy.passed("down") >= HELD)
        server.kill()
        proxy.cut()
        finish(getting, status=4)
    assert not (tmp_path / "got").exists()
    server = start_server(port=server.port)
    left = again(alice, server, "down", "get", "-P", "3", "/file", tmp_path / "got")
    assert left <= SIZE - HELD + 3 * 4 * 2 * MIB + MIB
    trees.same(source, tmp_path / "got")


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_client_killed_in_the_middle(server, alice, source, tmp_path, verb):
    """Its partial file has gaps, and so has the server's staging: neither is taken for whole."""
    way = "up" if verb == "put" else "down"
    ends = [source, "/file"] if verb == "put" else ["/file", tmp_path / "got"]
    if verb == "get":
        alice.run("put", source, "/file")
    with Proxy(server.reached) as proxy:
        proxy.hold(way, HELD)
        running = alice.at(proxy.address).start(verb, "-P", "3", *ends)
        eventually(lambda: proxy.passed(way) >= HELD)
        running.kill()
        finish(running, status=-signal.SIGKILL)
    assert again(alice, server, way, verb, "-P", "3", *ends) <= SIZE + MIB
    trees.same(source, server.home() / "file" if verb == "put" else tmp_path / "got")
    left = [name for name in os.listdir(tmp_path) if name.startswith(".ftp-")]
    assert server.staged() == set() and left == []


def test_ctrl_c(server, alice, source):
    with Proxy(server.reached) as proxy:
        proxy.hold("up", HELD)
        putting = alice.at(proxy.address).start("put", "-P", "3", source, "/file")
        eventually(lambda: proxy.passed("up") >= HELD)
        putting.send_signal(signal.SIGINT)
        proxy.release()
        finish(putting, status=130)
    alice.run("put", "-P", "3", source, "/file")
    trees.same(source, server.home() / "file")


def test_what_does_not_fit(server, source):
    bob = server.add_user("bob", "--quota", "50MiB")
    refused = bob.run("put", "-P", "3", source, "/file", status=7)
    assert "quota" in refused.err
    assert server.staged("bob") == set()
