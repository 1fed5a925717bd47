"""Atomic trees: all of the new one or all of the old one, whatever happens on the way."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

MIB = 1024 * 1024
FILES = 40


def version(top: Path, number: int, *, large: int = 0) -> Path:
    """A tree in which every file says which version it is of."""
    for count in range(FILES):
        directory = top / f"d{count % 4}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{count}").write_bytes(b"%d" % number)
    (top / "large").write_bytes(b"%d" % number + random.Random(number).randbytes(large))
    return top


def versions(top: Path) -> set[bytes]:
    """What the files of the tree that is there now say, as far as they are still there."""
    found = set()
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)  # one tree, even if it is replaced meanwhile
    try:
        for directory, _, names, at in os.fwalk(dir_fd=fd):
            for name in names:
                try:
                    file = os.open(name, os.O_RDONLY, dir_fd=at)
                except FileNotFoundError:
                    continue  # it is being removed
                try:
                    found.add(os.read(file, 1))
                finally:
                    os.close(file)
            del directory
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)
    return found


def test_nobody_ever_sees_a_mix(server, alice, tmp_path):
    old, new = version(tmp_path / "1", 1), version(tmp_path / "2", 2)
    alice.run("put", "-r", "--atomic", old, "/site")
    over, seen, missing = threading.Event(), [], []

    def watch() -> None:
        while not over.is_set():
            try:
                seen.append(frozenset(versions(server.home() / "site")))
            except FileNotFoundError:
                missing.append(True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for source in (new, old, new, old):
            alice.run("put", "-r", "--atomic", source, "/site")
    finally:
        over.set()
        watcher.join()
    assert not missing
    assert set(seen) <= {frozenset(), frozenset({b"1"}), frozenset({b"2"})}
    trees.same(old, server.home() / "site")
    assert server.staged() == set()


@pytest.mark.parametrize("end", ["kill-server", "interrupt"])
def test_what_ends_midway_leaves_the_old_tree(start_server, tmp_path, end):
    server = start_server("--durability", "none")
    alice = server.first_user()
    old = version(tmp_path / "1", 1)
    new = version(tmp_path / "2", 2, large=12 * MIB)
    alice.run("put", "-r", "--atomic", old, "/site")
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 4 * MIB)
        putting = alice.at(proxy.address).start(
            "put", "-r", "--atomic", "--retries", "0", new, "/site"
        )
        eventually(lambda: proxy.passed("up") >= 4 * MIB)
        assert versions(server.home() / "site") == {b"1"}
        match end:
            case "interrupt":
                putting.send_signal(signal.SIGINT)
                proxy.release()
                finish(putting, status=130)
            case "kill-server":
                server.kill()
                proxy.cut()
                finish(putting, status=4)
    if end == "kill-server":
        server = start_server("--durability", "none", port=server.port)
    eventually(lambda: not server.staged(), "a clean staging")
    trees.same(old, server.home() / "site")
    alice.run("put", "-r", "--atomic", new, "/site")
    trees.same(new, server.home() / "site")
    server.stop()
