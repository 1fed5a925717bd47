"""Workers as they are of use: a real server that serves by itself, and beside it workers that are
the test itself.

Real ones are in tests/system/test_growing.py.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from ftpserver import cpus
from ftpserver.daemon.server import FtpServer
from ftpserver.errors import StateError
from ftpserver.interfaces import Carried, later
from ftpserver.processes import growing, supervisor
from ftpserver.processes.forkserver import Ended
from ftpserver.processes.growing import GrowingSupervisor
from ftpserver.processes.worker_interfaces import ServerQueue
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings import table
from ftpwire.errors import NotFound
from ftpwire.messages import Put, Ready, WhoAmI
from tests.clock import Clock
from tests.ftpserver.processes.fake_workers import PATIENCE, FakeForkServer, FakeWorker
from tests.peer import Peer, eventually

ROUNDS = 3
"""After so many, whoever is busy has been seen to be."""


class Grown:
    """A server, and what is beside it."""

    def __init__(self, server: FtpServer, fork_server: FakeForkServer, stack: ExitStack) -> None:
        assert isinstance(server.supervisor, GrowingSupervisor)
        self.server = server
        self.supervisor = server.supervisor
        self.fork_server = fork_server
        self._stack = stack
        self._rounds = 0
        self._round = threading.Condition()
        enforce = self.supervisor.enforce

        def counted() -> None:
            enforce()
            with self._round:
                self._rounds += 1
                self._round.notify_all()

        self.supervisor.enforce = counted  # type: ignore[method-assign]

    def look(self) -> None:
        """Wait until the server has looked what it needs a few times, and has done it."""
        with self._round:
            until = self._rounds + ROUNDS
            assert self._round.wait_for(lambda: self._rounds >= until, PATIENCE)
        eventually(lambda: not self.supervisor._changing)

    def connect(self) -> Peer:
        return self._stack.enter_context(Peer.connect(self.server.server_address))

    def session(self) -> Peer:
        peer = self.connect()
        peer.log_in()
        return peer

    def busy(self, name: bytes) -> Peer:
        """A session in the middle of an upload."""
        peer = self.session()
        assert isinstance(peer.ask(Put(name, size=10, ask=True)), Ready)
        return peer

    def worker(self) -> FakeWorker:
        """The next one that is started, when it can serve."""
        worker = self.fork_server.next()
        worker.forked.set_result(carried_number(worker.number))
        eventually(lambda: self._is_ready(worker.number))
        return worker

    def _is_ready(self, number: int) -> bool:
        return any(one.number == number and one.ready and one.pid for one in self._handles)

    @property
    def _handles(self) -> list[Any]:
        return self.supervisor._all()

    @property
    def count(self) -> int:
        return len(self._handles)


def carried_number(number: int) -> Carried[int]:
    """A process id that is nobody's."""
    return Carried(1_000_000 + number, [])


@pytest.fixture
def grow(start_server, monkeypatch) -> Iterator[Callable[..., Grown]]:
    """Starts a server that may have so many processes."""
    kind = type("ForkServer", (FakeForkServer,), {})
    monkeypatch.setattr(supervisor, "ForkServer", kind)
    crews: list[GrowingSupervisor] = []
    with ExitStack() as stack:

        def make(most: int, **options: Any) -> Grown:
            monkeypatch.setattr(table, "cpus", lambda: most)
            server = start_server(workers="auto", **options)
            crews.append(server.supervisor)
            return Grown(server, kind.made, stack)

        yield make
        stack.close()
        if "made" in vars(kind):
            for crew in crews:
                crew._over.set()  # nobody takes the place of those that end from now on
            eventually(lambda: _all_end(kind.made, crews))  # one may be coming just now


def _all_end(fork_server: FakeForkServer, crews: list[GrowingSupervisor]) -> bool:
    for worker in fork_server.children:
        worker.die()
    return not any(crew._all() for crew in crews)


# how many ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "count", "more", "most"),
    [
        ("auto", 1, {}, 1),
        ("auto", 2, {}, 2),
        ("auto", 8, {}, 8),
        ("auto", 64, {}, 8),
        ("auto", 64, {"threads": 0}, 1),
        ("auto", 64, {"isolation": "process"}, 1),
        (1, 64, {}, 1),
        (12, 2, {}, 12),
        (2, 2, {"threads": 0}, 2),
    ],
)
def test_how_many_there_may_be(tmp_path, monkeypatch, workers, count, more, most):
    monkeypatch.setattr(table, "cpus", lambda: count)
    assert table.Settings(tmp_path, workers=workers, **more).most_workers == most


def test_auto_is_the_default(tmp_path):
    assert table.Settings(tmp_path).workers == "auto"
    assert table.cpus is cpus.cpus


@pytest.mark.parametrize(("most", "more"), [(1, {}), (4, {"threads": 0})])
def test_no_supervisor_where_one_process_is_all(start_server, monkeypatch, most, more):
    monkeypatch.setattr(table, "cpus", lambda: most)
    server = start_server(workers="auto", **more)
    assert server.supervisor is None
    assert (server.service.parking is None) == (more == {"threads": 0})


# more of them ------------------------------------------------------------------------------


def test_one_user_has_the_server_alone(grow):
    grown = grow(2)
    busy = grown.busy(b"/a")
    grown.session(), grown.connect()
    grown.look()
    assert grown.count == 0 and grown.supervisor.workers == []
    assert grown.fork_server.resting and grown.fork_server.children == []
    assert {one.user for one in grown.server.serving.session_infos()} == {"alice", None}
    assert grown.server.serving.stats().sessions == 3
    busy.close()


def test_a_second_busy_session_brings_a_second_process(grow):
    grown = grow(2)
    _first, _second = grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    assert grown.fork_server.became == [worker.number], "no process for forking alone"
    assert grown.supervisor.workers == sorted([os.getpid(), 1_000_000 + worker.number])
    worker.server.busy(5)
    grown.look()
    assert grown.count == 1, "there are only two CPUs"


def test_those_that_come_then_go_to_the_one_with_the_fewest(grow):
    grown = grow(2)
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    grown.connect(), grown.connect()
    assert [worker.hear()[0], worker.hear()[0]] == ["serve", "serve"]
    here = grown.session()
    assert here.ask(WhoAmI()).user == "alice", "as many as there: the server serves it"
    grown.connect()
    assert worker.hear()[0] == "serve"


def test_a_third_process_comes_when_a_third_session_is_busy(grow):
    grown = grow(3)
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    assert grown.fork_server.became == [], "there will be others to be forked"
    grown.look()
    assert grown.count == 1
    worker.server.busy(1)
    second = grown.worker()
    worker.server.busy(0)
    second.server.busy(8)
    grown.look()
    assert grown.count == 2, "all CPUs have a process"


def test_one_that_cant_be_started_is_tried_again_later(grow, caplog):
    grown = grow(2)
    grown.fork_server.failures = 1
    with caplog.at_level(logging.ERROR):
        grown.busy(b"/a"), grown.busy(b"/b")
        grown.worker()
    assert "no worker can be started beside the server: no process" in caplog.text


def test_one_that_dies_is_replaced(grow):
    grown = grow(2)
    grown.busy(b"/a"), grown.busy(b"/b")
    grown.worker().die()
    second = grown.worker()
    assert second.number == 2 and grown.count == 1


def test_where_workers_die_at_their_start_the_server_goes_on_alone(grow, caplog):
    grown = grow(2)
    clock = grown.supervisor._clock = Clock(time.monotonic())
    grown.busy(b"/a"), grown.busy(b"/b")
    pauses = []
    for number in range(1, 10):
        worker = grown.fork_server.next()
        grown.fork_server.report(Ended(number, 1))
        worker.die()
        eventually(lambda number=number: grown.supervisor._short_lives.count == number)
        grown.look()
        pauses.append(max(0.0, grown.supervisor._grow_at - clock.now))
        if pauses[-1]:
            assert len(grown.fork_server.children) == number
            clock.now = grown.supervisor._grow_at - 0.001
            grown.look()
            assert len(grown.fork_server.children) == number, "not before its time"
            clock.now = grown.supervisor._grow_at
    assert pauses[0] == 0 and pauses[1:] == pytest.approx([0.4, 10, 20, 40, 80, 160, 300, 300])
    grown.session()  # it serves all the while
    reported = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one for one in reported if "alone" in one] == [
        "3 workers in a row have died at their start (it exited with status 1): the server goes on "
        "alone, and tries again every few minutes while several sessions are busy"
    ]
    assert len(reported) == 7, "of those that come then nothing is said"
    worker = grown.worker()
    grown.look()
    assert grown.supervisor._quiet, "whether this one lives is not known yet"
    clock.now += 1000
    grown.look()
    worker.die()
    grown.worker()
    assert "has died" in caplog.records[-1].getMessage(), "that is news again"


def test_where_none_can_be_started_the_server_goes_on_alone(grow, caplog):
    grown = grow(2)
    clock = grown.supervisor._clock = Clock(time.monotonic())
    grown.fork_server.failures = 5
    grown.busy(b"/a"), grown.busy(b"/b")
    for number in range(1, 6):
        eventually(lambda number=number: grown.supervisor._short_lives.count == number)
        eventually(lambda: not grown.supervisor._changing)
        clock.now = max(clock.now, grown.supervisor._grow_at)
    grown.worker()
    reported = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert [one.partition(":")[0] for one in reported] == [
        *["no worker can be started beside the server"] * 3,
        "3 workers in a row have died at their start (no process can be started)",
    ]


@pytest.mark.parametrize("how", ["stopped", "dead"])
def test_what_a_worker_doesnt_claim_is_served_here(grow, how):
    """There may be no other one, and the server serves itself."""
    grown = grow(2)
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    worker.deaf = True
    peers = [grown.connect(), grown.connect()]
    eventually(lambda: len(grown.supervisor._handing._unclaimed) == 2)
    if how == "dead":
        grown.supervisor._over.set()  # nobody takes its place
        worker.die()
    for peer in peers:
        peer.log_in()
        assert peer.ask(WhoAmI()).user == "alice"


# fewer of them -----------------------------------------------------------------------------


def test_one_without_a_connection_for_long_ends(grow, monkeypatch):
    grown = grow(2)
    peers = [grown.busy(b"/a"), grown.busy(b"/b")]
    worker = grown.worker()
    grown.connect()
    _, number = worker.hear()
    monkeypatch.setattr(growing, "_IDLE_SECONDS", 0.0)
    grown.look()
    assert worker.reported.empty(), "it has one"
    for peer in peers:
        peer.close()
    worker.given.pop(number)[1].close()
    worker.server.closed(number)
    assert worker.hear() == ("retire",)
    here = grown.session()
    assert here.ask(WhoAmI()).user == "alice", "whoever comes now is served here"
    worker.server.bye(Stats(bytes_in=7))
    worker.die()
    eventually(lambda: grown.count == 0)
    assert grown.supervisor.workers == []
    assert grown.server.serving.stats().bytes_in > 7, "what it moved stays counted"


def test_without_workers_the_fork_server_ends(grow, monkeypatch):
    grown = grow(3)
    peers = [grown.busy(b"/a"), grown.busy(b"/b")]
    worker = grown.worker()
    grown.fork_server.resting = False
    grown.look()
    assert not grown.fork_server.resting, "others may be forked"
    for peer in peers:
        peer.close()
    monkeypatch.setattr(growing, "_IDLE_SECONDS", 0.0)
    assert worker.hear() == ("retire",)
    worker.server.bye(Stats())
    worker.die()
    eventually(lambda: grown.fork_server.resting)


# what holds for all of them ----------------------------------------------------------------


def test_sessions_of_all_are_reported_and_kicked(grow):
    grown = grow(2)
    first, _second = grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    info = SessionInfo(99, "alice", "192.0.2.1:5", 0.0, None, None, None, 0.0, 1, 2, 0.0)
    worker.answers.update(session_infos=[info], stats=Stats(sessions=1, bytes_in=2**40), kick=[99])
    serving = grown.server.serving
    assert [one.id for one in serving.session_infos()] == [1, 2, 99]
    stats = serving.stats()
    assert stats.sessions == 3 and stats.bytes_in > 2**40
    assert serving.kick(None, "alice") == [1, 2, 99]
    first.read_to_end()
    worker.answers["kick"] = []
    eventually(lambda: grown.server.service.sessions == set())
    with pytest.raises(NotFound):
        serving.kick(1, None)


def test_settings_reach_all(grow):
    grown = grow(2)
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    other = replace(grown.server.settings, idle_timeout=7.0)
    grown.supervisor.apply_settings(other, new_key=False)
    assert worker.followed == [other] and other.workers == "auto"


def test_another_key_takes_as_many_others(grow):
    grown = grow(2)
    grown.supervisor.apply_settings(grown.server.settings, new_key=True)
    assert grown.fork_server.children == [], "none are started for it"
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    grown.supervisor.apply_settings(grown.server.settings, new_key=True)
    assert worker.hear() == ("retire",)
    assert len(grown.fork_server.children) == 2
    assert len(grown.fork_server.became) == 2, "no process for forking is left over"
    worker.die()


def test_an_accounts_rate_is_kept_by_all(grow):
    grown = grow(2)
    grown.server.accounts.change("alice", limit_rate=1000)
    account = grown.server.accounts.get("alice")
    pace = grown.server.service.limits.pace(account)
    assert pace is not None
    pace.spend(5000)
    others = growing.SharedPaces(os.dup(grown.supervisor._page))
    assert others.pace(account.id, 1000).delay() > 1.0
    others.close()


def test_all_end_at_the_same_time(grow):
    """A worker that takes its time doesn't keep the sessions here from hearing of it."""
    grown = grow(2, grace=PATIENCE)
    first, second = grown.busy(b"/a"), grown.busy(b"/b")
    idle = grown.session()
    worker = grown.worker()
    stopping = threading.Thread(target=grown.server.stop)
    stopping.start()
    assert worker.hear()[0] == "stop"
    assert idle.read_to_end(), "it is told while the worker is not done"
    worker.server.bye(Stats())
    worker.die()
    for peer in (first, second):
        peer.close()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()


def test_an_unauthenticated_client_makes_space_here_and_there(grow):
    grown = grow(2, login_grace=PATIENCE * 10)
    server = grown.server
    peer = grown.connect()
    peer.hello()
    (request,) = server.service.connections
    server._drop_unauthenticated(request)
    assert peer.read_to_end() == []
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    before = set(server.service.connections)
    grown.connect()
    _, number = worker.hear()
    (request,) = server.service.connections - before
    server._drop_unauthenticated(request)
    assert worker.hear() == ("drop", number)


def test_a_draining_server_starts_none(grow):
    grown = grow(2)
    first, second = grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    grown.server.drain()
    assert worker.hear() == ("drain",)
    worker.server.bye(Stats())
    worker.die()
    eventually(lambda: grown.count == 0)
    grown.look()
    assert grown.count == 0
    first.close(), second.close()


def test_an_error_at_the_start_leaves_nothing(start_server, monkeypatch, tmp_path):
    monkeypatch.setattr(table, "cpus", lambda: 2)

    def refuse(*_: object, **__: object) -> None:
        raise StateError("no")

    monkeypatch.setattr(supervisor, "ForkServer", refuse)
    with pytest.raises(StateError, match="no"):
        start_server(workers="auto")


def test_passwords_are_hashed_by_turns_of_all(grow):
    """Half of the CPUs, whoever asks: the server's own sessions have the same queue."""
    grown = grow(2)
    queue = grown.server.tallies.queue
    assert grown.server.service.limits.queue is queue
    grown.busy(b"/a"), grown.busy(b"/b")
    worker = grown.worker()
    mine = [queue.enter("192.0.2.1", known=True) for _ in range(queue.at_once)]
    theirs = later(worker.ask(ServerQueue).enter)("192.0.2.2")
    eventually(lambda: len(queue) == queue.at_once + 1)
    assert not theirs.done()
    queue.leave(mine[0].token)
    assert theirs.result(PATIENCE)
    worker.die()
    eventually(lambda: len(queue) == queue.at_once - 1)
