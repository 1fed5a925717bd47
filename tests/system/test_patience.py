"""Lost, hung and absent connections: the real programs go on until there is no progress."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading

import pytest

from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

MIB = 1024 * 1024
LONG = [pytest.mark.long, pytest.mark.timeout(1200)]
SIZES = [
    pytest.param(16, 5, id="16-MiB"),
    pytest.param(600, 50, id="600-MiB", marks=LONG),
]
"""Of the file, and of what passes before the link fails once more, in MiB."""


def made(path, size: int):
    """A file of so many bytes, no two MiB alike; and its digest."""
    source, digest = random.Random(size), hashlib.sha256()
    with open(path, "wb") as file:
        while size:
            piece = source.randbytes(min(size, MIB))
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
    return digest.hexdigest()


def digest_of(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def over(proxy, kind: str, direction: str, size: int, part: int) -> None:
    """Have the link fail each ``part``."""
    positions = [number * part * MIB + 1000 for number in range(1, size // part + 1)]
    (proxy.cut_at if kind == "cut" else proxy.hang_at)(direction, *positions)


@pytest.mark.parametrize("kind", ["cut", "hang"])
@pytest.mark.parametrize(("size", "part"), SIZES)
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_link_that_fails_again_and_again(start_server, roomy, way, size, part, kind):
    server = start_server("--stall", "2", "--durability", "none")
    alice = server.first_user()
    source, target = roomy / "source", roomy / "target"
    digest = made(source, size * MIB)
    if way == "get":
        alice.run("put", source, "/file")
        source.unlink()
    with Proxy(server.reached) as proxy:
        user = alice.at(proxy.address)
        if way == "put":
            over(proxy, kind, "up", size, part)
            done = finish_long(user.start("put", source, "/file"))
            target = server.home() / "file"
        else:
            over(proxy, kind, "down", size, part)
            done = finish_long(user.start("get", "/file", target))
    assert digest_of(target) == digest
    assert done.count("reconnecting") >= size // part - 2


def finish_long(running) -> str:
    """Wait for a command of a minute or more; returns what it said."""
    _, reported = running.communicate(timeout=900)
    assert running.returncode == 0, reported
    return os.fsdecode(reported)


def test_a_server_that_is_down_for_20_seconds(start_server, roomy):
    down(start_server, roomy, 20.0)


def test_a_server_that_is_down_for_3_minutes(start_server, roomy):
    down(start_server, roomy, 180.0)


test_a_server_that_is_down_for_20_seconds.pytestmark = LONG
test_a_server_that_is_down_for_3_minutes.pytestmark = LONG


def test_a_server_that_is_down_for_a_moment(start_server, roomy):
    down(start_server, roomy, 1.5)


def down(start_server, roomy, seconds: float) -> None:
    server = start_server()
    alice = server.first_user()
    source = roomy / "source"
    digest = made(source, 40 * MIB)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 20 * MIB)
        running = alice.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= 20 * MIB, "half of it is sent")
        server.kill()
        proxy.release()
        threading.Event().wait(seconds)  # the time itself is what is shown
        assert running.poll() is None
        again = start_server(port=server.port)
        reported = finish_long(running)
    assert digest_of(again.home() / "file") == digest
    assert reported.count("reconnecting") == 1
    assert ("no connection for" in reported) == (seconds > 10)


@pytest.mark.parametrize("way", ["put", "get"])
def test_without_patience_a_lost_connection_ends_it(start_server, roomy, way):
    """And a later command goes on where it stopped."""
    server = start_server()
    alice = server.first_user()
    source, target = roomy / "source", roomy / "target"
    digest = made(source, 20 * MIB)
    if way == "get":
        alice.run("put", source, "/file")
    words = ["put", source, "/file"] if way == "put" else ["get", "/file", target]
    with Proxy(server.reached) as proxy:
        proxy.cut_at("up" if way == "put" else "down", 12 * MIB)
        ended = alice.at(proxy.address).run(*words, "--retry-for", "0", status=4)
    assert "reconnecting" not in ended.err
    assert "stopped at " in ended.complaint
    assert ended.complaint.endswith(" of 20.0 MiB: run the same command to resume")
    with Proxy(server.reached) as proxy:
        alice.at(proxy.address).run(*words)
        assert proxy.passed("up" if way == "put" else "down") < 13 * MIB
    assert digest_of(server.home() / "file" if way == "put" else target) == digest


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_client_that_was_stopped_for_longer_than_the_server_waits(start_server, roomy, way):
    asleep(start_server("--stall", "2"), roomy, way, 3.5)


@pytest.mark.long
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_client_that_was_stopped_for_90_seconds(start_server, roomy, way):
    asleep(start_server(), roomy, way, 90.0)


def asleep(server, roomy, way: str, seconds: float) -> None:
    """As a laptop that sleeps in the middle of a transfer."""
    alice = server.first_user()
    source, target = roomy / "source", roomy / "target"
    digest = made(source, 40 * MIB)
    if way == "get":
        alice.run("put", source, "/file")
    words = ["put", source, "/file"] if way == "put" else ["get", "/file", target]
    direction = "up" if way == "put" else "down"
    with Proxy(server.reached) as proxy:
        proxy.hold(direction, 20 * MIB)
        running = alice.at(proxy.address).start(*words)
        eventually(lambda: proxy.passed(direction) >= 20 * MIB, "half of it is sent")
        running.send_signal(signal.SIGSTOP)
        threading.Event().wait(seconds)  # the time itself is what is shown
        proxy.release()
        running.send_signal(signal.SIGCONT)
        reported = finish_long(running)
    assert reported.count("reconnecting") == 1
    assert digest_of(server.home() / "file" if way == "put" else target) == digest


def test_ctrl_c_ends_the_wait_and_the_same_command_goes_on(start_server, roomy):
    server = start_server()
    alice = server.first_user()
    source = roomy / "source"
    made(source, 20 * MIB)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 8 * MIB)
        running = alice.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= 8 * MIB, "some of it is sent")
        proxy.cut()
        assert b"reconnecting" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        ended = finish(running, status=130)
    assert "stopped at " in ended.err
    assert ended.err.rstrip().endswith(" of 20.0 MiB: run the same command to resume")
    assert ended.err.count("\n") == 1
