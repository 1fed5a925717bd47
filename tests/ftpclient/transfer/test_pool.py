"""Who is started for a transfer, who gets the pieces of a file, and when collected files go."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from ftpclient.transfer.pool import LARGE_IN_TREE, ConnectionPool, Workers
from ftpwire.messages import PIECES
from tests.peer import PATIENCE

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
    requested = []
    workers = Workers()
    workers.split(lambda: requested.append(1), MIB)
    assert workers.for_pieces(MIB, KNOWS_PIECES) is None
    assert workers.for_pieces(MIB, KNOWS_PIECES) is None
    assert requested == [1]


def test_after_a_stop_none_are_started(start, started):
    workers = Workers()
    workers.share(start, 0)
    workers.split(start, 0)
    workers.stop()
    workers.expect(MIB)
    assert workers.pool is None
    assert workers.for_pieces(MIB, KNOWS_PIECES) is None
    assert started == []


class Quiet:
    """A connection on which nothing ever has to be waited for."""

    unanswered = 0

    def check(self) -> None:
        pass

    def pump(self) -> None:
        self.unanswered = 0

    close = cut = give_up = check


class Collector:
    """A worker that collects what it is given."""

    def __init__(self) -> None:
        self.connection = Quiet()
        self.collected: list[int] = []
        self.sent: list[list[int]] = []
        self.has_sent = threading.Event()

    def send_collected(self) -> None:
        if self.collected:
            self.sent.append(self.collected)
            self.collected = []
            self.connection.unanswered = 1
            self.has_sent.set()

    def settle(self) -> None:
        self.send_collected()

    def give_back(self) -> None:
        pass


def test_what_is_collected_is_asked_for_when_no_more_waits():
    worker = Collector()
    pool = ConnectionPool([worker])
    pool.give(lambda one: one.collected.append(1))
    assert worker.has_sent.wait(PATIENCE)  # nothing else would come
    pool.give(lambda one: one.collected.append(2))
    pool.finish()
    assert worker.sent == [[1], [2]]


def test_while_an_answer_is_to_come_more_is_collected():
    worker, waits, go_on = Collector(), threading.Event(), threading.Event()

    def pump() -> None:
        waits.set()
        assert go_on.wait(PATIENCE)
        worker.connection.unanswered = 0

    worker.connection.pump = pump
    pool = ConnectionPool([worker])
    pool.give(lambda one: one.collected.append(1))
    assert waits.wait(PATIENCE)
    for number in (2, 3, 4):
        pool.give(lambda one, number=number: one.collected.append(number))
    go_on.set()
    pool.finish()
    assert worker.sent == [[1], [2, 3, 4]]


class _Worker:
    def __init__(self) -> None:
        self.connection = Quiet()

    def send_collected(self) -> None:
        pass

    settle = give_back = send_collected


def test_small_jobs_wait_for_others_while_a_worker_has_something_to_do():
    may_go, began = threading.Event(), threading.Event()
    pool = ConnectionPool([_Worker()])
    done: list[int] = []

    def block(worker: _Worker) -> None:
        began.set()
        may_go.wait(60)

    pool.give(block)
    assert began.wait(60)
    firsts: list[int] = []
    for number in range(100):
        pool.give(
            lambda worker, number=number: done.append(number),
            small=True,
            first=lambda number=number: firsts.append(number),
        )
    # the first found nothing that waits; then as many as go together, and the rest at the end
    assert firsts == [0, 32, 64, 96] and done == []
    may_go.set()
    pool.finish()
    assert done == list(range(100)), "in their order, and all of them"


def test_after_a_failure_nothing_more_is_begun():
    pool, done = ConnectionPool([_Worker()]), []
    failed = threading.Event()

    def fail(worker: _Worker) -> None:
        raise ValueError("as was asked for")

    def reported(worker: _Worker) -> None:
        done.append(worker)

    worker = pool._workers[0]
    worker.give_back = failed.set
    pool.give(fail)
    assert failed.wait(60)
    with pytest.raises(ValueError):
        pool.give(reported, small=True)
    with pytest.raises(ValueError):
        pool.finish()
    assert done == []
