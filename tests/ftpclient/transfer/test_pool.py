"""When others are started for a transfer, and who gets the pieces of a file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ftpclient.transfer.pool import LARGE_IN_TREE, ConnectionPool, Workers
from ftpwire.messages import PIECES

MIB = 2**20
KNOWS_PIECES = SimpleNamespace(server=SimpleNamespace(features=(PIECES,)))
OLDER = SimpleNamespace(server=SimpleNamespace(features=()))


@pytest.fixture
def started():
    """What was started: each pool has nobody in it."""
    return []


@pytest.fixture
def start(started):
    def start() -> ConnectionPool:
        started.append(ConnectionPool([]))
        return started[-1]

    return start


def test_those_for_trees_are_started_once_it_is_worth_it(start, started):
    workers = Workers()
    workers.share(start, 10 * MIB)
    for _ in range(3):
        workers.expect(4 * MIB)
    workers.expect(4 * MIB)
    assert workers.pool is started[0]
    assert len(started) == 1


def test_without_them_nothing_is_expected(start, started):
    workers = Workers()
    workers.expect(100 * MIB)
    workers.share(start, 10 * MIB)
    assert workers.pool is None


def test_the_pieces_of_a_large_file_in_a_tree_go_to_those_for_trees(start):
    workers = Workers()
    workers.share(start, 0)
    workers.expect(0)
    assert workers.for_pieces(LARGE_IN_TREE, KNOWS_PIECES) is workers.pool
    assert workers.for_pieces(LARGE_IN_TREE - 1, KNOWS_PIECES) is None


@pytest.mark.parametrize(
    ("size", "connection", "in_pieces"),
    [
        pytest.param(16 * MIB, KNOWS_PIECES, True, id="large"),
        pytest.param(16 * MIB - 1, KNOWS_PIECES, False, id="too-small"),
        pytest.param(16 * MIB, OLDER, False, id="an-older-server"),
    ],
)
def test_which_files_go_in_pieces(start, started, size, connection, in_pieces):
    workers = Workers()
    workers.split(start, 16 * MIB)
    assert bool(workers.for_pieces(size, connection)) == in_pieces
    assert len(started) == in_pieces


def test_where_none_are_to_be_had_it_is_asked_once():
    asked = []
    workers = Workers()
    workers.split(lambda: asked.append(1), MIB)
    assert workers.for_pieces(MIB, KNOWS_PIECES) is None
    assert workers.for_pieces(MIB, KNOWS_PIECES) is None
    assert asked == [1]


def test_after_a_stop_none_are_started(start, started):
    workers = Workers()
    workers.share(start, 0)
    workers.split(start, 0)
    workers.stop()
    workers.expect(MIB)
    assert workers.pool is None
    assert workers.for_pieces(MIB, KNOWS_PIECES) is None
    assert started == []
