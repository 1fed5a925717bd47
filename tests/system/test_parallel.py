"""Trees over several connections, by the real programs."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter

import pytest

from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

MIB = 1024 * 1024


@pytest.fixture
def files(tmp_path):
    """Small and large files, and closed directories."""
    top = tmp_path / "files"
    for number in range(6):
        directory = top / f"d{number}" / "inside"
        directory.mkdir(parents=True)
        for count in range(30):
            (directory / f"{number}-{count}").write_bytes(b"%d" % count)
        if number % 2:
            (directory / f"large{number}").write_bytes(random.Random(number).randbytes(5 * MIB))
        os.chmod(directory, 0o555)
        os.utime(directory, ns=(10**18, 10**18))
    return top


def names(finished) -> Counter:
    """How often each file was told."""
    return Counter(os.path.basename(one["source"]) for one in finished.records if "source" in one)


@pytest.mark.telling
def test_trees_travel_both_ways_and_are_reported_once(server, alice, files, tmp_path):
    expected = Counter(path.name for path in files.rglob("*") if path.is_file())
    assert names(alice.run("--json", "put", "-r", "-P", "4", files, "/tree")) == expected
    trees.same(files, server.home() / "tree")
    got = tmp_path / "got"
    assert names(alice.run("--json", "get", "-r", "-P", "4", "/tree", got)) == expected
    trees.same(files, got)


def test_ctrl_c_leaves_no_half_file(server, alice, files):
    target = server.home() / "tree"
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 6 * MIB)
        running = alice.at(proxy.address).start("put", "-r", "-P", "3", files, "/tree")
        eventually(lambda: proxy.passed("up") >= 6 * MIB)
        running.send_signal(signal.SIGINT)
        proxy.hold("up", 8 * MIB)  # not all: it could be quicker than the signal
        finish(running, status=130)
    whole = {path.name: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    for path in target.rglob("[!.]*"):
        assert not path.is_file() or path.read_bytes() == whole[path.name]
    alice.run("put", "-r", "-P", "3", files, "/tree")
