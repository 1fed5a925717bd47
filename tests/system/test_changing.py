"""Files that change while the real programs send them: a growing log, a database in use."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

MIB = 1024 * 1024
SIZE = 24 * MIB
HALF = SIZE // 2


@contextmanager
def again_and_again(step: Callable[[], None]) -> Iterator[None]:
    """Do it from here on, all the time."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def log_at(path: Path) -> Callable[[], None]:
    """A log of some size; what is returned adds to it."""
    path.write_bytes((b"%014d\n" * (SIZE // 15)) % tuple(range(SIZE // 15)))
    size = path.stat().st_size

    def add() -> None:
        nonlocal size
        if size < 20 * SIZE:
            with path.open("ab") as file:
                size += file.write(b"one more line\n" * 100)

    return add


def is_prefix(part: Path, whole: Path) -> bool:
    count = part.stat().st_size
    with whole.open("rb") as file:
        return part.read_bytes() == file.read(count)


@pytest.mark.long
@pytest.mark.parametrize("way", ["put", "get", "sync-put", "sync-get"])
def test_a_log_that_grows_all_the_time(start_server, admin, roomy, way):
    """It is stored as it was when it was opened, and the remark says so."""
    server = start_server("--durability", "none")
    alice = server.first_user()
    here, there = roomy / "logs", server.home() / "logs"
    here.mkdir()
    there.mkdir()
    upwards = way.endswith("put")
    source, target = (here / "log", there / "log")[:: 1 if upwards else -1]
    add = log_at(source)
    before = source.stat().st_size
    words = {
        "put": ["put", here / "log", "/logs/"],
        "get": ["get", "/logs/log", here],
        "sync-put": ["sync", here, ":/logs"],
        "sync-get": ["sync", ":/logs", here],
    }[way]
    with Proxy(server.reached) as proxy:
        direction = "up" if upwards else "down"
        proxy.hold(direction, HALF)
        running = alice.at(proxy.address).start(*words)
        eventually(lambda: proxy.passed(direction) >= HALF, "half of it is sent")
        with again_and_again(add):
            eventually(lambda: source.stat().st_size > before, "it has grown")
            proxy.release()
            ended = finish(running)
    count_again(admin)
    assert target.stat().st_size == before and is_prefix(target, source)
    assert f"first {before} bytes" in ended.err, ended.err


@pytest.mark.long
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_database_that_is_rewritten_once(start_server, admin, roomy, way):
    """It is sent once more, and what is stored is one state of it: the later one."""
    server, alice, source, target, words = database(start_server, roomy, way)
    direction = "up" if way == "put" else "down"
    with Proxy(server.reached) as proxy:
        proxy.hold(direction, HALF)
        running = alice.at(proxy.address).start(*words)
        eventually(lambda: proxy.passed(direction) >= HALF, "half of it is sent")
        rewrite(source)
        proxy.release()
        ended = finish(running)
    count_again(admin)
    assert "changed while it was read; trying again" in ended.err, ended.err
    assert digest_of(target) == digest_of(source)
    with sqlite3.connect(target) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.long
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_database_that_is_rewritten_again(start_server, admin, roomy, way):
    """Nothing is stored of it, and what was there stays."""
    server, alice, source, target, words = database(start_server, roomy, way)
    target.write_bytes(b"the last good copy")
    with Proxy(server.reached) as proxy:
        direction = "up" if way == "put" else "down"
        proxy.hold(direction, HALF)
        running = alice.at(proxy.address).start(*words)
        eventually(lambda: proxy.passed(direction) >= HALF, "half of it is sent")
        rewrite(source)
        proxy.hold(direction, SIZE + HALF)
        eventually(lambda: proxy.passed(direction) >= SIZE + HALF, "it is sent once more")
        rewrite(source)
        proxy.release()
        ended = finish(running, status=1)
    count_again(admin)
    assert ended.err.count("changed while it was read; trying again") == 1, ended.err
    assert target.read_bytes() == b"the last good copy"
    assert alice.run("df", "--json").record["held"] == 0


def count_again(admin) -> None:
    """What a test has changed behind the server's back is right in its books again."""
    admin.run("recount", "alice")


def database(start_server, roomy, way: str):
    """A server, its user, a database on one side, where it goes, and the command."""
    server = start_server("--durability", "none")
    alice = server.first_user()
    here, there = roomy / "base", server.home() / "base"
    source, target = (here, there) if way == "put" else (there, here)
    with sqlite3.connect(source) as connection:
        connection.execute("CREATE TABLE pages (number INTEGER PRIMARY KEY, content BLOB)")
        connection.executemany(
            "INSERT INTO pages VALUES (?, ?)", ((n, bytes(MIB)) for n in range(SIZE // MIB))
        )
    connection.close()
    words = ["put", here, "/base"] if way == "put" else ["get", "/base", here]
    return server, alice, source, target, words


def rewrite(path: Path) -> None:
    """A transaction that changes some of its pages, in place."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE pages SET content = randomblob(1048576) WHERE number < 2")
    connection.close()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
