"""Going on after an interruption: the real programs, killed and cut, and the same command again."""

from __future__ import annotations

import os
import random

import pytest

from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

MIB = 1024 * 1024
PIECE = 16 * MIB
SIZE = 40 * MIB
HELD = 30 * MIB
"""So far transfers get before something ends them."""


@pytest.fixture
def source(roomy):
    path = roomy / "source"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def upload_until(alice, server, source, end):
    """Put until HELD bytes have passed, and then have something happen."""
    with Proxy(server.reached) as proxy:
        proxy.hold("up", HELD)
        putting = alice.at(proxy.address).start("put", "--retries", "0", source, "/file")
        eventually(lambda: proxy.passed("up") >= HELD)
        end(putting, proxy)
        if putting.returncode is None:
            finish(putting, status=4)


def kill(putting, proxy) -> None:
    putting.kill()
    putting.wait()


def again(alice, server, source) -> int:
    """The same command; returns the bytes that it sent."""
    with Proxy(server.reached) as proxy:
        alice.at(proxy.address).run("put", source, "/file")
        sent = proxy.passed("up")
    trees.same(source, server.home() / "file")
    assert server.staged() == set()
    return sent


def test_put_again(start_server, source):
    """After the client was killed."""
    server = start_server("--durability", "none")
    alice = server.first_user()
    upload_until(alice, server, source, kill)
    assert again(alice, server, source) <= SIZE - HELD + PIECE
    server.stop()


def test_put_again_after_the_server_was_killed(start_server, source):
    server = start_server()
    alice = server.first_user()

    def end(putting, proxy) -> None:
        eventually(lambda: any(name.endswith(".ck") for name in server.staged()))
        eventually(
            lambda: (
                sum(
                    path.stat().st_size
                    for path in (server.home() / ".ftpd-staging").iterdir()
                    if path.name.endswith(".ck")
                )
                > 0
            ),
            "a checkpoint",
        )
        server.kill()
        proxy.cut()

    upload_until(alice, server, source, end)
    server = start_server(port=server.port)
    assert again(alice, server, source) <= SIZE - PIECE + MIB
    server.stop()


@pytest.mark.long
def test_beyond_four_gib(server, alice, roomy):
    """Offsets of 32 bits would wrap."""
    path = roomy / "source"
    with open(path, "wb") as file:
        file.write(os.urandom(MIB))
        os.posix_fallocate(file.fileno(), 0, 4096 * MIB)
        file.seek(4096 * MIB)
        file.write(os.urandom(20 * MIB))
    size = path.stat().st_size
    with Proxy(server.reached) as proxy:
        proxy.cut_at("up", 4100 * MIB)
        alice.at(proxy.address).run("put", path, "/file")
        assert proxy.passed("up") <= size + 2 * PIECE
        proxy.cut_at("down", 4100 * MIB)
        alice.at(proxy.address).run("get", "/file", roomy / "got")
        assert proxy.passed("down") <= size + 2 * PIECE
    trees.same(path, roomy / "got")
