"""What a worker does with offers, without a process. Real ones are in test_stopped_workers.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from ftpserver.interfaces import Carried, make_proxy
from ftpserver.processes import worker as worker_module
from ftpserver.processes.rpc import EndpointGone
from ftpserver.processes.worker import Worker
from ftpserver.processes.worker_interfaces import Client, ServerForWorker
from ftpwire.errors import NotFound


class Claiming(Worker):
    """A worker whose claims its test answers; ``served`` are the connections that it begins."""

    def __init__(self) -> None:
        self.claims: list[Future[Any]] = []
        self.closed: list[int] = []
        self.served: list[int] = []
        self._end_requested = threading.Event()
        self._retiring = False
        self._claims = {}
        self._connections: Any = SimpleNamespace(numbers={})
        self.service: Any = SimpleNamespace(connections=set())
        self._server = make_proxy(ServerForWorker, self)

    def ask_later(self, request: Any, message: Any, descriptors: list[int]) -> Future[Any]:
        self.claims.append(Future())
        return self.claims[-1]

    def notify(self, request: Any, message: Any, descriptors: list[int]) -> None:
        assert request.name == "closed"
        self.closed.append(message.number)

    def _serve(self, number: int, client: Client, descriptors: list[int]) -> None:
        self.served.append(number)
        self.service.connections.add(number)
        self._connections.numbers[socket.socket(fileno=descriptors.pop())] = number

    @property
    def ends(self) -> bool:
        return self._end_requested.is_set()


@pytest.fixture
def worker() -> Iterator[Claiming]:
    worker = Claiming()
    yield worker
    for request in worker._connections.numbers:
        request.close()


def a_connection() -> Carried[Client]:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Carried(Client(None, False), [ours.detach()])


def test_space_on_the_disk_is_the_servers_to_make(worker, monkeypatch):
    def answered(request: Any, message: Any, descriptors: list[int]) -> Future[Any]:
        assert (request.name, message.account_id, message.size) == ("free_disk_space", 7, 500)
        worker.claims.append(Future())
        if len(worker.claims) == 1:
            worker.claims[-1].set_result(True)
        return worker.claims[-1]

    monkeypatch.setattr(worker, "ask_later", answered)
    monkeypatch.setattr(worker_module, "_DISK_SPACE_SECONDS", 0.01)
    assert worker._free_disk_space(7, 500)
    assert not worker._free_disk_space(7, 500), "it takes too long"


def test_one_that_retires_serves_what_it_was_offered_before(worker):
    worker.offer(7)
    worker.retire()
    assert not worker.ends
    worker.claims[0].set_result(a_connection())
    assert worker.served == [7] and not worker.ends
    worker.service.connections.clear()
    worker._end_when_done()
    assert worker.ends
    worker.offer(8)
    assert len(worker.claims) == 1, "another one gets it"


def test_one_that_is_to_make_space_while_it_is_claimed_does(worker):
    ours, theirs = socket.socketpair()
    with ours:
        worker.offer(7)
        worker.drop(7)
        worker.claims[0].set_result(Carried(Client(None, False), [theirs.detach()]))
        assert worker.served == [7]
        ours.settimeout(10)
        assert ours.recv(1) == b""


@pytest.mark.parametrize("error", [NotFound("it is another's"), EndpointGone("it has ended")])
def test_one_that_retires_ends_when_others_have_what_it_was_offered(worker, error):
    worker.offer(7)
    worker.retire()
    worker.claims[0].set_exception(error)
    assert worker.ends and not worker.served and not worker.closed


def test_what_finds_no_space_in_the_process_is_closed(worker, caplog):
    worker.offer(7)
    worker.claims[0].set_exception(OSError(24, "Too many open files"))
    assert worker.closed == [7]
    assert "a connection could not be taken: [Errno 24] Too many open files" in caplog.text


@pytest.mark.parametrize("grows", [True, False])
def test_it_gives_memory_back_however_many_workers_there_are(worker, grows):
    rounds: list[float] = []
    worker._quiet = SimpleNamespace(look=rounds.append)
    worker._busyness, worker._busy = SimpleNamespace(look=lambda now: 0), 0
    worker._grows = grows
    worker._look(5.0)
    assert rounds == [5.0]
