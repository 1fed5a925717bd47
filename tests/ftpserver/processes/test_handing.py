"""Handing connections out, also to workers that were stopped; on a clock that the test sets.

Real processes that are stopped are in tests/system/test_workers.py.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest

from ftpserver.processes import handing
from ftpserver.processes.handing import Handing
from ftpserver.processes.worker_handle import SILENT_SECONDS, WorkerHandle
from ftpserver.processes.worker_interfaces import Client
from ftpwire.errors import NotFound

LATE = SILENT_SECONDS + 0.1


class FakeWorker:
    """A worker that claims what it is offered when its test says so.

    Attributes:
        offers: The numbers that it was offered, and has not answered.
        serves: Those that it has got.
    """

    is_silent = WorkerHandle.is_silent

    def __init__(self, number: int, server: Handing) -> None:
        self.number = number
        self.connections: dict[int, socket.socket] = {}
        self.handed = 0
        self.owes: dict[int, float] = {}
        self.retired = False
        self.endpoint = SimpleNamespace(gone=False)
        self.far = self
        self.offers: list[int] = []
        self.dropped: list[int] = []
        self.serves: list[int] = []
        self._server = server

    def offer(self, number: int) -> None:
        self.offers.append(number)

    def drop(self, number: int) -> None:
        self.dropped.append(number)

    def claim(self, most: int = 1_000_000) -> None:
        """Answer offers, the oldest first."""
        for number in self.offers[:most]:
            self.offers.remove(number)
            with suppress(NotFound):
                _, (descriptor,) = self._server.claim(self, number)
                os.close(descriptor)
                self.serves.append(number)

    def die(self) -> None:
        self.endpoint.gone = True
        self.offers.clear()
        self._server.leave(self)


class Server:
    """What has its connections handed out, on a clock that stands still."""

    def __init__(self, stack: ExitStack) -> None:
        self.now = 0.0
        self.connections: set[socket.socket] = set()
        self.limits = self.unauthenticated = self
        self._numbers = itertools.count(1)
        self._stack = stack
        self.handing = Handing(self, clock=lambda: self.now)

    def next_session_id(self, request: socket.socket) -> int:
        return next(self._numbers)

    def forget_connection(self, request: socket.socket) -> None:
        self.connections.discard(request)

    def is_known(self, host: str) -> bool:
        return False

    def hire(self, count: int) -> list[FakeWorker]:
        workers = [FakeWorker(number, self.handing) for number in range(count)]
        for one in workers:
            self.handing.join(one)
        return workers

    def connect(self, count: int = 1) -> list[socket.socket]:
        """So many connections come; returns them as the server has them."""
        accepted = []
        for _ in range(count):
            client, request = socket.socketpair()
            self._stack.callback(client.close)
            self._stack.callback(request.close)
            self.handing.serve(request, ("192.0.2.1", 5))
            accepted.append(request)
        return accepted

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.handing.look()


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(stack)


def test_what_a_stopped_worker_has_not_claimed_goes_to_others(server, caplog):
    stopped, other = server.hire(2)
    server.connect(20)
    other.claim()
    assert len(other.serves) == 10
    server.passes(LATE)
    assert "doesn't answer: others get 10 connections" in caplog.text
    server.connect(3)  # nor does it get new ones
    other.claim()
    assert sorted(other.serves) == list(range(1, 24))
    stopped.claim()  # it goes on
    assert stopped.serves == []
    server.connect()
    stopped.claim()
    assert stopped.serves == [24], "and gets connections again"
    assert len(server.connections) == 24


def test_what_it_has_claimed_stays_its_own(server):
    stopped, other = server.hire(2)
    server.connect(4)
    stopped.claim(1)
    other.claim()
    server.passes(LATE)
    other.claim()
    assert (len(stopped.serves), len(other.serves)) == (1, 3)
    assert len(stopped.connections) == 1


def test_one_that_is_only_slow_keeps_its_connections(server):
    """The control."""
    slow, other = server.hire(2)
    server.connect(2)
    server.passes(SILENT_SECONDS - 0.1)
    slow.claim()
    other.claim()
    assert (slow.serves, other.serves) == ([1], [2])


def test_when_all_are_stopped_connections_wait_for_the_first_that_goes_on(server):
    workers = server.hire(2)
    server.connect(4)
    server.passes(LATE)
    server.connect(2)
    assert [len(one.offers) for one in workers] == [2, 2]
    workers[0].claim()
    server.passes(0.1)
    workers[0].claim()
    assert sorted(workers[0].serves) == list(range(1, 7))
    workers[1].claim()
    assert workers[1].serves == []


def test_what_waits_for_too_long_is_turned_away(server, caplog):
    (stopped,) = server.hire(1)
    server.connect()
    server.passes(LATE)
    (waiting,) = server.connect()
    server.passes(handing._WAIT_SECONDS - 0.1)
    assert waiting in server.connections
    server.passes(0.2)
    assert waiting not in server.connections and waiting.fileno() < 0
    assert "a connection was closed: no worker" in caplog.text
    stopped.claim()
    assert stopped.serves == [1]


def test_a_worker_owes_a_bounded_number_of_answers(server):
    """What it is sent finds room in its socket: nobody waits for it."""
    (worker,) = server.hire(1)
    server.connect(70)
    assert len(worker.offers) == handing._MOST_OWED
    while worker.offers:
        worker.claim()
    assert sorted(worker.serves) == list(range(1, 71))


def test_who_has_to_make_space_is_ended_wherever_it_is(server):
    stopped, other = server.hire(2)
    stopping, served = server.connect(2)
    other.claim()
    server.handing.drop(stopping)
    assert stopping.fileno() < 0 and server.connections == {served}
    stopped.claim()
    assert stopped.serves == []
    server.handing.drop(served)
    assert other.dropped == [2]
    other.retired = True  # it has what it has
    server.handing.drop(served)
    assert other.dropped == [2, 2]


@pytest.mark.parametrize("how", ["stopped", "retired", "dead"])
def test_a_server_that_serves_itself_takes_what_no_worker_is_free_for(how):
    with ExitStack() as stack:
        server, here = Server(stack), []
        server.handing = Handing(server, lambda: server.now, lambda *given: here.append(given))
        (worker,) = server.hire(1)
        accepted = server.connect(3)
        worker.claim(1)
        assert here == [], "a worker may have them as long as it answers"
        if how == "stopped":
            server.passes(LATE)
            worker.claim()
        else:  # it ends with the one that it has; another was offered too late
            worker.retired = how == "retired"
            worker.die()
        assert here == [(one, ("192.0.2.1", 5)) for one in accepted[1:]]
        assert worker.serves == [1]
        server.handing.accept_no_more()
        server.connect()
        assert len(here) == 2, "nobody begins a session at the end"


def test_nothing_is_known_of_a_client_but_what_the_server_says(server):
    (worker,) = server.hire(1)
    server.connect()
    client, (descriptor,) = server.handing.claim(worker, 1)
    os.close(descriptor)
    assert client == Client(("192.0.2.1", 5), False)
    for number in (1, 2):  # twice, and one that there is not
        with pytest.raises(NotFound):
            server.handing.claim(worker, number)


def rounds(server: Server, seed: int) -> tuple[list[int], int]:
    """Workers are stopped, go on and die at random; returns what was served, and what has died."""
    draw = random.Random(seed)
    workers, served, lost = server.hire(3), [], 0
    stopped: set[FakeWorker] = set()
    steps: list[Callable[[FakeWorker], object]] = [
        lambda worker: server.connect(draw.randrange(1, 4)),
        lambda worker: worker.claim(draw.randrange(1, 4)) if worker not in stopped else None,
        lambda worker: stopped.add(worker),
        lambda worker: stopped.discard(worker),
        lambda worker: server.passes(draw.choice((0.1, 0.6, LATE))),
    ]
    for number in range(200):
        draw.choice(steps)(draw.choice(workers))
        if number == 100:
            dead = workers.pop()
            served, lost = dead.serves, len(dead.serves)
            dead.die()
    for _ in range(200):
        for worker in workers:
            worker.claim()
        server.passes(0.1)
    return sorted([*served, *itertools.chain(*(one.serves for one in workers))]), lost


@pytest.mark.parametrize("seed", range(10))
def test_each_connection_is_served_exactly_once(server, seed):
    served, lost = rounds(server, seed)
    assert served == list(range(1, len(served) + 1))
    assert len(served) == next(server._numbers) - 1 > 20
    assert len(server.connections) == len(served) - lost


def test_who_claims_what_was_taken_back_would_serve_it_twice(server, monkeypatch):
    """The control: of a server that gives a connection to whoever asks."""

    def claim(self: Handing, worker: FakeWorker, number: int) -> tuple[None, list[int]]:
        worker.owes.pop(number, None)
        self._unclaimed.pop(number, None)
        return None, [os.dup(0)]

    monkeypatch.setattr(Handing, "claim", claim)
    served, _ = rounds(server, 1)
    assert len(set(served)) < len(served)
