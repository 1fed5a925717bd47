"""The crew of workers: whom it hands connections, how it replaces them, what it asks and counts.

No process is forked here: the test is each worker itself, at the real other end of its sockets.
Real ones are in tests/system/test_workers.py.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from ftpserver.accounts.registration import Probes, Probing, Throttling
from ftpserver.accounts.tallies import Tallies
from ftpserver.accounts.turns import Changing, Queue
from ftpserver.audit import allowances
from ftpserver.audit.allowances import FailureAllowances, FailureLimiting
from ftpserver.errors import StateError
from ftpserver.interfaces import Carried
from ftpserver.processes import asking, supervisor
from ftpserver.processes.forkserver import Ended
from ftpserver.processes.supervisor import WorkerSupervisor
from ftpserver.processes.worker_interfaces import (
    AuditLines,
    Client,
    ServerForWorker,
    ServerQueue,
)
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings.table import Settings
from ftpwire.errors import Busy, DiskFull, NotFound
from tests.clock import Clock
from tests.ftpserver.processes.fake_workers import (
    PATIENCE,
    FakeForkServer,
    FakeWorker,
    look_after,
)
from tests.peer import eventually

ADDRESS = ("192.0.2.1", 50_000)


class FakeServer:
    """What a crew asks of its server; ``done`` is what it was told to do."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.done: list[tuple[Any, ...]] = []
        self.connections: set[socket.socket] = set()
        self.draining = False
        self.node, self.run = "local", "run"
        self.others: set[str] = set()
        self.busy = False
        self._numbers = itertools.count(1)
        self.ledger = self.limits = self.audit = self.registration = self
        self.sessions = self.unauthenticated = self.throttle = self
        self.penalize = None
        self.probes, self.failures = Probes(), FailureAllowances()
        self.service = self
        self.tallies = Tallies.empty(lambda: settings.max_user_transfers)

    def measure_soon(self, account_id: int) -> None:
        self.done.append(("measure soon", account_id))

    def free_disk_space(self, account_id: int, size: int) -> bool:
        self.done.append(("disk room", account_id, size, threading.current_thread().name))
        if size > 1000:
            raise DiskFull("it stays full")
        return True

    def next_session_id(self, request: socket.socket) -> int:
        return next(self._numbers)

    def forget_connection(self, request: socket.socket) -> None:
        self.connections.discard(request)

    def is_known(self, host: str) -> bool:
        return host == "192.0.2.77"

    def spare(self, host: str) -> None:
        self.done.append(("spare", host))

    def leave(self, request: socket.socket) -> None:
        self.done.append(("no stranger", request))

    def mark_dead(self, incarnation: str) -> None:
        self.done.append(("bury", incarnation))

    def look_soon(self) -> None:
        self.done.append(("look soon",))

    def append(self, lines: bytes, count: int, share: str | None) -> None:
        self.done.append(("lines", lines, count, share))

    def heard_of_ban(self, place: str, until: int) -> None:
        self.done.append(("ban", place, until))

    def take(self, host: str) -> None:
        if self.busy:
            raise Busy("too many")
        self.done.append(("registering", host))


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path / "root", plaintext=True)


@pytest.fixture
def server(settings) -> FakeServer:
    return FakeServer(settings)


@pytest.fixture
def fork_server(monkeypatch) -> Iterator[type[FakeForkServer]]:
    kind = type("ForkServer", (FakeForkServer,), {})
    monkeypatch.setattr(supervisor, "ForkServer", kind)
    yield kind
    if "made" in vars(kind):
        for worker in kind.made.children:
            worker.die()
        assert kind.made.stopped


@pytest.fixture
def hire(
    server, fork_server
) -> Iterator[Callable[[int], tuple[WorkerSupervisor, list[FakeWorker]]]]:
    """Makes a crew of so many; gives it and its workers."""
    with ExitStack() as stack:

        def make(count: int) -> tuple[WorkerSupervisor, list[FakeWorker]]:
            crew = WorkerSupervisor(server, count)
            stack.callback(crew.close)
            return crew, [fork_server.made.next() for _ in range(count)]

        yield make


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(
    crew: WorkerSupervisor, stack: ExitStack, address: tuple[str, int] = ADDRESS
) -> socket.socket:
    """Have the crew serve a connection; returns the client's end."""
    client, accepted = socket.socketpair()
    stack.callback(client.close)
    client.settimeout(PATIENCE)
    crew.serve(accepted, address)
    return client


def was_closed(client: socket.socket) -> bool:
    return client.recv(1) == b""


def is_closed(client: socket.socket) -> bool:
    """The same, without waiting for it."""
    return bool(select.select([client], [], [], 0)[0]) and was_closed(client)


def left(crew: WorkerSupervisor) -> int:
    """How many workers it has."""
    return len(crew._all())


# pauses between lives ----------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock(time.monotonic())


def replaced(crew, clock: Clock, worker: FakeWorker, fork_server) -> tuple[FakeWorker, float]:
    """Have one die; the one in its place, and the seconds until that was started."""
    before = len(fork_server.made.children)
    worker.die()
    eventually(lambda: crew._missing or len(fork_server.made.children) > before)
    pause = 0.0
    if crew._missing:
        (moment,) = crew._missing
        pause = moment - clock.now
        clock.now = moment - 0.001
        look_after(crew)
        assert len(fork_server.made.children) == before
        clock.now = moment
        look_after(crew)
    return fork_server.made.next(), pause


def after_the_pause(crew, clock: Clock, fork_server) -> FakeWorker:
    """The next one that is started in the place of one that has ended."""
    eventually(lambda: crew._missing)
    clock.now = crew._missing[0]
    crew.enforce()
    return fork_server.made.next()


def test_who_dies_young_again_and_again_is_replaced_later_and_later(hire, fork_server, clock):
    crew, (worker,) = hire(1)
    crew._clock = clock
    pauses = []
    for _ in range(13):
        worker, pause = replaced(crew, clock, worker, fork_server)
        pauses.append(pause)
    expected = [0, *(0.4 * 2**number for number in range(10)), 300, 300]
    assert pauses == pytest.approx(expected, abs=1e-3)
    eventually(lambda: left(crew) == 1)
    clock.now += 1000  # this one lives long
    worker, pause = replaced(crew, clock, worker, fork_server)
    assert pause == 0
    for seconds in (0, 0.4):  # and it all begins again
        worker, pause = replaced(crew, clock, worker, fork_server)
        assert pause == pytest.approx(seconds, abs=1e-3)


def test_others_are_put_right_while_one_waits_for_its_turn(hire, fork_server, server, clock):
    crew, (first, second) = hire(2)
    crew._clock = clock
    crew._short_lives.count = 9
    for worker in (first, second):
        worker.die()
        eventually(lambda worker=worker: ("bury", worker.note.incarnation) in server.done)
    eventually(lambda: len(crew._missing) == 2)
    assert len(fork_server.made.children) == 2
    clock.now += 1000
    look_after(crew)
    fork_server.made.next(), fork_server.made.next()
    assert left(crew) == 2 and not crew._missing


@pytest.mark.parametrize("how", ["stop", "close"])
def test_the_end_does_not_wait_for_a_pause(hire, fork_server, how):
    """(It would take minutes.)"""
    crew, (worker,) = hire(1)
    crew._short_lives.count = 20
    worker.die()
    eventually(lambda: crew._missing)
    if how == "stop":
        crew.stop(lambda: 0.0)
    crew.close()
    assert len(fork_server.made.children) == 1


def test_nobody_is_replaced_in_a_drain(hire, fork_server, server):
    crew, (first, _) = hire(2)
    server.service.draining = True
    crew.drain()
    first.die()
    eventually(lambda: ("bury", first.note.incarnation) in server.done)
    crew.close()
    assert len(fork_server.made.children) == 2


# starting ----------------------------------------------------------------------------------


def test_all_have_their_place_in_the_books(hire, server):
    _, children = hire(2)
    assert [one.note.incarnation for one in children] == ["runw1", "runw2"]
    assert server.others == {"runw1", "runw2"}


def test_a_worker_has_the_server_keep_the_trash(hire, server):
    """Making room takes a while: the thread that reads what workers ask doesn't wait for it."""
    _, (worker,) = hire(1)
    requested = worker.ask(ServerForWorker)
    requested.measure_soon(7)
    assert requested.free_disk_space(7, 500).result(30) is True
    with pytest.raises(DiskFull):
        requested.free_disk_space(7, 5000).result(30)
    assert server.done == [
        ("measure soon", 7),
        ("disk room", 7, 500, "disk space"),
        ("disk room", 7, 5000, "disk space"),
    ]


@pytest.mark.parametrize("good", [0, 1], ids=["the-first", "the-second"])
def test_without_a_process_for_each_there_is_no_crew(server, fork_server, good):
    """What was there of it is ended; the test's own check looks for threads and descriptors."""
    spawn = fork_server.spawn

    def fails_later(self: FakeForkServer, *arguments: Any) -> Any:
        self.failures = int(len(self.children) == good)
        return spawn(self, *arguments)

    fork_server.spawn = fails_later
    with pytest.raises(StateError, match="no process can be started"):
        WorkerSupervisor(server, 2)
    assert all(one.ended.wait(PATIENCE) for one in fork_server.made.children)
    assert len(fork_server.made.children) == good
    assert server.others == set()


def test_a_worker_that_never_gets_ready_is_abandoned(server, fork_server, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "_START_SECONDS", 0.05)
    fork_server.silent = True
    with pytest.raises(StateError, match="cannot be started"):
        WorkerSupervisor(server, 2)
    assert all(one.ended.wait(PATIENCE) for one in fork_server.made.children)
    assert server.others == set() and not server.service.connections
    assert len(fork_server.made.children) == 2, "none is replaced"
    assert "has died" not in caplog.text


def test_a_worker_that_dies_before_it_is_ready_ends_the_start_at_once(server, fork_server, caplog):
    spawn = fork_server.spawn
    fork_server.silent = True

    def dead_at_once(self: FakeForkServer, *arguments: Any) -> Any:
        forked = spawn(self, *arguments)
        self.next().die()
        return forked

    fork_server.spawn = dead_at_once
    with pytest.raises(StateError, match="see the log"):  # and not after a minute
        WorkerSupervisor(server, 1)
    assert "worker 1 has died" in caplog.text
    assert len(fork_server.made.children) == 1, "nobody takes its place"


@pytest.mark.parametrize("is_known", [True, False], ids=["hangs", "is-not-even-forked"])
def test_a_replacement_that_never_gets_ready_is_replaced(
    hire, fork_server, server, clock, monkeypatch, caplog, process, is_known
):
    crew, (first,) = hire(1)
    crew._clock = clock
    fork_server.silent = True
    first.die()
    hanging = fork_server.made.next()
    if is_known:
        hanging.forked.set_result(Carried(process.pid, [os.pidfd_open(process.pid)]))
    crew.enforce()
    assert not hanging.ended.is_set(), "it still has time"
    monkeypatch.setattr(supervisor, "_START_SECONDS", 0.0)
    fork_server.silent = False
    clock.now += 1
    crew.enforce()
    third = after_the_pause(crew, clock, fork_server)
    assert hanging.ended.wait(PATIENCE)
    eventually(lambda: crew._workers[third.number].ready)
    if is_known:
        assert process.wait(PATIENCE) == -signal.SIGKILL
        fork_server.made.report(Ended(2, -signal.SIGKILL))
    assert [one.getMessage() for one in caplog.records if "worker 2" in one.getMessage()] == [
        f"worker 2{f' (process {process.pid})' * is_known} is killed: it isn't ready after 0 s"
    ]
    assert server.others == {third.note.incarnation}


def test_a_fork_server_that_fails_for_a_while_leaves_as_many_workers_as_before(
    hire, fork_server, server, clock, caplog
):
    crew, (worker,) = hire(1)
    crew._clock = clock
    fork_server.made.failures = 3
    worker.die()
    pauses = []
    for number in range(1, 4):
        eventually(lambda number=number: crew._short_lives.count == number + 1 and crew._missing)
        pauses.append(crew._missing[0] - clock.now)
        clock.now = crew._missing[0]
        crew.enforce()
    second = fork_server.made.next()
    assert pauses == pytest.approx([0.4, 0.8, 1.6])
    assert caplog.text.count("no worker can be started to replace it") == 3
    assert caplog.text.count("has died") == 1, "what never began doesn't die"
    second.die()  # what had come before it would have been looked after before
    third = after_the_pause(crew, clock, fork_server)
    assert fork_server.made.children == [worker, second, third]
    assert left(crew) == 1
    assert server.others == {third.note.incarnation}


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_without_descriptors_or_threads_it_is_tried_again(
    hire, fork_server, clock, monkeypatch, caplog, what
):
    """Thousands of connections may have taken them all when a worker dies."""
    crew, (worker,) = hire(1)
    crew._clock = clock
    failed = []

    def none_left(*arguments: Any) -> Any:
        if what == "threads" and not arguments[0].name.startswith("worker "):
            return start(*arguments)
        monkeypatch.undo()
        failed.append(what)
        if what == "threads":
            raise RuntimeError("cannot start new thread")
        raise OSError(24, "Too many open files")

    start = threading.Thread.start
    if what == "threads":
        monkeypatch.setattr(threading.Thread, "start", none_left)
    else:
        monkeypatch.setattr(socket, "socketpair", none_left)
    worker.die()
    if what == "threads":
        unheard = fork_server.made.next()
        assert unheard.ended.wait(PATIENCE), "nobody would listen to that one"
    second = after_the_pause(crew, clock, fork_server)
    eventually(lambda: crew._workers[second.number].ready)
    assert failed == [what] and left(crew) == 1
    assert "no worker can be started to replace it" in caplog.text


def test_a_fork_that_fails_is_reported(hire, caplog):
    _, (worker,) = hire(1)
    worker.forked.set_exception(OSError(11, "Resource temporarily unavailable"))
    assert re.search("worker 1: cannot be started: .*Resource temporarily", caplog.text)


def test_how_a_process_has_ended_is_reported(hire, fork_server, caplog):
    hire(1)
    fork_server.made.report(Ended(1, -signal.SIGSEGV))
    assert "worker 1: it was killed by SIGSEGV" in caplog.text


# handing out -------------------------------------------------------------------------------


def test_a_connection_goes_to_who_has_the_fewest(hire, connections):
    crew, (first, second) = hire(2)
    clients = [connect(crew, connections) for _ in range(4)]
    for worker in (first, second):
        worker.hear(), worker.hear()
    assert [len(one.given) for one in (first, second)] == [2, 2]
    for number in second.given:
        second.server.closed(number)
    eventually(lambda: len(crew._host.connections) == 2)
    clients += [connect(crew, connections) for _ in range(2)]
    second.hear(), second.hear()
    assert [len(one.given) for one in (first, second)] == [2, 4]
    assert sorted([*first.given, *second.given]) == [1, 2, 3, 4, 5, 6]
    second.given[max(second.given)][1].sendall(b"served")
    assert clients[-1].recv(6) == b"served"  # it is that connection, and open


def test_among_those_with_as_many_it_is_who_has_got_fewer_so_far(hire, connections):
    crew, (first, second) = hire(2)
    for worker in (first, second, first, second):
        connect(crew, connections)
        _, number = worker.hear()
        worker.server.closed(number)
        eventually(lambda: not crew._host.connections)


def test_what_is_known_of_the_client_goes_along(hire, connections):
    crew, (worker,) = hire(1)
    connect(crew, connections)
    connect(crew, connections, ("192.0.2.77", 5))
    connect(crew, connections, "")  # by a Unix socket
    assert [worker.hear() for _ in range(3)] == [("serve", number) for number in (1, 2, 3)]
    assert [client for client, _ in worker.given.values()] == [
        Client(ADDRESS, False),
        Client(("192.0.2.77", 5), True),
        Client(None, False),
    ]


def test_nobody_dead_gets_a_connection(hire, fork_server, connections):
    crew, (first, second) = hire(2)
    crew._short_lives.count = 20
    first.die()
    for _ in range(3):  # whether its end was noticed already, or not
        connect(crew, connections)
    eventually(lambda: len(second.given) == 3)
    assert not first.given


def test_nobody_who_retires_gets_a_connection(hire, fork_server, settings, connections):
    crew, (first,) = hire(1)
    connect(crew, connections)
    first.hear()
    crew.apply_settings(settings, new_key=True)
    assert first.hear() == ("retire",)
    second = fork_server.made.next()
    for _ in range(3):
        connect(crew, connections)
        assert second.hear()[0] == "serve"
    first.die()  # it had a connection still; and nobody comes for it
    eventually(lambda: ("bury", first.note.incarnation) in crew._host.done)
    assert fork_server.made.children == [first, second]


def test_a_connection_waits_for_the_next_worker(hire, fork_server, connections):
    crew, (first,) = hire(1)
    fork_server.silent = True
    first.die()
    second = fork_server.made.next()
    connect(crew, connections)
    second.server.ready()
    assert second.hear()[0] == "serve"


@pytest.mark.parametrize("first_told", [True, False])
def test_whoever_waits_for_a_worker_is_sent_away_when_no_more_is_accepted(
    hire, fork_server, connections, server, caplog, first_told
):
    crew, (first,) = hire(1)
    fork_server.silent = True
    first.die()
    fork_server.made.next()
    if first_told:
        crew.accept_no_more()
    client = connect(crew, connections)
    crew.accept_no_more()
    assert was_closed(client)
    assert not server.service.connections
    assert "a connection was closed: no worker" in caplog.text


def test_what_a_worker_that_dies_has_not_claimed_goes_to_another(hire, connections, server):
    crew, (first, second) = hire(2)
    first.deaf = True
    connect(crew, connections)
    assert list(crew._workers[first.number].connections) == [1]
    first.die()
    assert second.hear() == ("serve", 1)
    assert len(server.service.connections) == 1


# asking ------------------------------------------------------------------------------------


def session(number: int) -> SessionInfo:
    return SessionInfo(number, None, "192.0.2.1:5", 0.0, None, None, None, 0.0, 0, 0, 0.0)


def test_all_are_asked_together(hire):
    crew, (first, second) = hire(2)
    first.answers = {
        "stats": Stats(2, 1, 1, 10, 20),
        "session_infos": [session(3), session(5)],
        "kick": [5, 3],
    }
    second.answers = {
        "stats": Stats(1, 0, 1, 100, 200),
        "session_infos": [session(4)],
        "kick": [4],
    }
    assert crew.stats() == Stats(3, 1, 2, 110, 220)
    assert [one.id for one in crew.session_infos()] == [3, 4, 5]
    assert crew.kick(None, "alice") == [3, 4, 5]
    first.answers["kick"] = second.answers["kick"] = []
    with pytest.raises(NotFound, match="7: no such session"):
        crew.kick(7, None)


class NeverDone(Future):
    """An answer that doesn't come; waiting for it takes no time."""

    def result(self, timeout: float | None = None) -> Any:
        assert timeout is not None and timeout <= asking.ANSWER_SECONDS
        raise TimeoutError


def test_the_answer_comes_without_who_says_nothing_in_time(hire, monkeypatch, caplog):
    crew, (first, mute) = hire(2)
    first.answers = {"stats": Stats(2, 0, 0, 10, 20), "session_infos": [session(3)], "kick": [3]}
    mute.answers["stats"] = Stats(1, 0, 0, 5, 5)
    assert crew.stats() == Stats(3, 0, 0, 15, 25)
    monkeypatch.setattr(crew._workers[mute.number], "ask", lambda ask: NeverDone())
    assert crew.stats() == Stats(3, 0, 0, 15, 25), "what was last known of it"
    assert [one.id for one in crew.session_infos()] == [3]
    assert crew.kick(None, "alice") == [3]
    first.answers["kick"] = []
    with pytest.raises(NotFound, match="3: no such session .*; worker 2: it doesn't answer"):
        crew.kick(3, None)
    with pytest.raises(StateError, match="worker 2 didn't apply the settings: it doesn't answer"):
        crew.apply_settings(crew._service.settings, new_key=False)
    assert caplog.text.count("worker 2: it doesn't answer") == 5


def test_one_that_owes_an_answer_is_reported_and_not_asked_again_and_again(hire, monkeypatch):
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.0)
    crew, (mute,) = hire(1)
    mute.answers["stats"] = answer = Future()
    assert crew.stats() == Stats() and not crew.silent
    (requested,) = crew._workers[1].owes
    crew._workers[1].owes[requested] -= 3600
    assert crew.silent == ["worker 1"]
    crew.stats()
    assert list(crew._workers[1].owes) == [requested]
    answer.set_result(Stats(1, 0, 0, 0, 0))
    eventually(lambda: not crew.silent)


def test_a_worker_that_fails_to_answer_leaves_the_others_answers(hire, caplog):
    crew, (first, broken) = hire(2)
    first.answers = {"stats": Stats(2, 0, 0, 10, 20)}
    broken.answers = {"stats": OSError(5, "Input/output error")}
    assert crew.stats() == Stats(2, 0, 0, 10, 20)
    assert "worker 2: [Errno 5] Input/output error" in caplog.text


def test_a_worker_that_is_starting_is_not_waited_for(hire, fork_server):
    crew, (first, second) = hire(2)
    second.answers = {"stats": Stats(1, 0, 0, 5, 5)}
    fork_server.silent = True
    first.die()
    fork_server.made.next()
    assert crew.stats() == Stats(1, 0, 0, 5, 5)


# what stays counted ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bye", "death"])
def test_bytes_of_workers_that_have_ended_stay_counted(hire, fork_server, how):
    crew, (first,) = hire(1)
    first.answers = {"stats": Stats(3, 1, 1, 10, 20)}
    assert crew.stats() == Stats(3, 1, 1, 10, 20)
    if how == "bye":
        first.server.bye(Stats(0, 0, 0, 11, 22))
    first.die()
    if how == "bye":
        eventually(lambda: not left(crew))
        assert crew.stats() == Stats(0, 0, 0, 11, 22)
        return
    second = fork_server.made.next()  # what the dead one had moved since it was asked is lost
    second.answers = {"stats": Stats(1, 0, 0, 1, 2)}
    eventually(lambda: crew.workers is not None and crew._workers[second.number].ready)
    assert crew.stats() == Stats(1, 0, 0, 11, 22)


class Hooked:
    """The crew's lock; what is to happen in the next moment without it happens then."""

    def __init__(self, lock: threading.Condition, hook: Callable[[], None]) -> None:
        self._lock = lock
        self._hook: Callable[[], None] | None = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._lock.__exit__(*exception)
        hook, self._hook = self._hook, None
        if hook is not None:
            hook()


def test_bytes_are_counted_of_a_worker_that_ends_just_now(hire):
    crew, (worker,) = hire(1)
    worker.answers = {"stats": Stats(1, 0, 0, 10, 20)}
    crew.stats()

    def ends() -> None:
        worker.server.bye(Stats(0, 0, 0, 10, 20))
        worker.die()
        eventually(lambda: not left(crew))

    crew._changed = Hooked(crew._changed, ends)
    assert crew.stats() == Stats(0, 0, 0, 10, 20)


# ends --------------------------------------------------------------------------------------


def test_a_death_is_reported_and_put_right(hire, fork_server, server, connections, caplog):
    crew, (worker,) = hire(1)
    for _ in range(2):
        connect(crew, connections)
        worker.hear()
    assert len(server.service.connections) == 2
    worker.die()
    fork_server.made.next()
    assert "worker 1 has died, and with it 2 connections" in caplog.text
    assert not server.service.connections
    assert server.done.count(("bury", "runw1")) == 2  # in the ledger, and among sessions
    assert ("look soon",) in server.done
    assert "runw1" not in server.others


def test_who_says_goodbye_has_not_died(hire, fork_server, server, caplog):
    crew, (worker,) = hire(1)
    worker.server.bye(Stats())
    worker.die()
    eventually(lambda: server.done.count(("bury", "runw1")) == 2)
    crew.close()
    assert "has died" not in caplog.text
    assert ("look soon",) not in server.done
    assert len(fork_server.made.children) == 1


def test_what_cant_be_put_right_now_keeps_nobody_from_being_replaced(
    hire, fork_server, server, caplog
):
    def fails(incarnation: str) -> None:
        raise OSError(28, "No space left on device")

    _, (worker,) = hire(1)
    server.mark_dead = fails
    worker.die()
    fork_server.made.next()
    assert "could not be repaired yet" in caplog.text


def test_stopping_informs_all_and_informs_them_again_of_another_time(hire, caplog):
    crew, children = hire(2)
    grace = [30.0]
    stopping = threading.Thread(target=crew.stop, args=(lambda: grace[0],))
    stopping.start()
    assert [one.hear() for one in children] == [("stop", 30)] * 2
    grace[0] = 0.5
    assert [one.hear() for one in children] == [("stop", 0.5)] * 2
    for one in children:
        one.server.bye(Stats())
        one.die()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_who_does_not_stop_is_abandoned(hire, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "_END_SECONDS", 0.0)
    crew, (worker,) = hire(1)
    crew.stop(lambda: 0.0)
    assert worker.ended.wait(PATIENCE)
    assert "worker 1 is killed: it doesn't end" in caplog.text
    assert "has died" not in caplog.text
    assert not left(crew)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when its input does."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as started:
        yield started
        started.kill()


def test_the_process_of_one_that_is_abandoned_is_killed(hire, monkeypatch, process):
    """It may hang in any way, and it holds locks on homes."""
    monkeypatch.setattr(supervisor, "_END_SECONDS", 0.0)
    crew, (worker,) = hire(1)
    worker.forked.set_result(Carried(process.pid, [os.pidfd_open(process.pid)]))
    assert str(crew._workers[1]) == f"worker 1 (process {process.pid})"
    assert crew.workers == [process.pid]
    crew.stop(lambda: 0.0)
    assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_process_that_ends_by_itself_is_not_killed(hire, fork_server, process, caplog):
    crew, (worker,) = hire(1)
    worker.forked.set_result(Carried(process.pid, [os.pidfd_open(process.pid)]))
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    worker.die()
    fork_server.made.next()
    assert "is killed" not in caplog.text


def test_nobody_is_started_once_it_is_over(hire, fork_server, server, settings):
    """A reload may come just before the stop."""
    crew, (worker,) = hire(1)
    crew.close()
    assert worker.ended.wait(PATIENCE)
    with pytest.raises(StateError, match="stopping"):
        crew.apply_settings(settings, new_key=True)
    assert len(fork_server.made.children) == 1 and server.others == set()


# other settings ----------------------------------------------------------------------------


def test_all_follow_other_settings_with_as_many_workers_as_before(hire, fork_server, settings):
    crew, children = hire(2)
    other = replace(settings, grace=3.0, workers=7)
    crew.apply_settings(other, new_key=False)
    expected = replace(other, workers=2)
    assert [one.followed for one in children] == [[expected], [expected]]
    assert fork_server.made.settings[-1] == expected
    assert len(fork_server.made.children) == 2


def test_one_that_is_starting_follows_and_is_not_waited_for(hire, fork_server, settings):
    crew, (first,) = hire(1)
    fork_server.silent = True
    first.die()
    starting = fork_server.made.next()
    starting.answers["apply_settings"] = Future()
    crew.apply_settings(replace(settings, grace=3.0), new_key=False)
    eventually(lambda: [one.grace for one in starting.followed] == [3.0])


def test_a_certificate_that_the_fork_server_refuses_reaches_nobody(hire, fork_server, settings):
    crew, (worker,) = hire(1)
    fork_server.made.refuses = StateError("cert.pem: it cannot be read")
    with pytest.raises(StateError, match=r"cert\.pem"):
        crew.apply_settings(replace(settings, grace=3.0), new_key=True)
    assert worker.followed == [] and fork_server.made.children == [worker]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StateError("no such thing"), "no such thing"),
        (OSError(28, "No space left on device"), "No space left"),
        (Busy("not now"), "not now"),
    ],
)
def test_when_one_does_not_follow_the_others_go_back(hire, fork_server, server, error, says):
    """A reload that fails leaves everything as it was."""
    crew, (first, second) = hire(2)
    second.answers = {"apply_settings": error}
    before = replace(server.settings, workers=2)
    after = replace(before, grace=3.0)
    with pytest.raises(StateError, match=f"worker 2 didn't apply the settings: .*{says}"):
        crew.apply_settings(after, new_key=True)
    eventually(lambda: len(first.followed) == len(second.followed) == 2)
    assert first.followed == second.followed == [after, before]
    assert fork_server.made.settings == [server.settings, after, before]
    assert fork_server.made.children == [first, second]


def test_one_that_begins_during_a_reload_that_fails_goes_back_too(hire, fork_server, server):
    crew, (first, second) = hire(2)
    begun = []

    def apply_settings(settings: Settings) -> None:
        if not begun:
            first.die()
            begun.append(fork_server.made.next())
            raise StateError("no such thing")

    second.apply_settings = apply_settings
    with pytest.raises(StateError, match="no such thing"):
        crew.apply_settings(replace(server.settings, grace=3.0), new_key=False)
    eventually(lambda: begun[0].followed == [replace(server.settings, workers=2)])


def test_one_that_dies_meanwhile_holds_up_no_reload(hire, settings):
    crew, (first, second) = hire(2)
    first.apply_settings = lambda settings: first.endpoint.give_up()
    crew.apply_settings(replace(settings, grace=3.0), new_key=False)
    assert second.followed[-1].grace == 3.0


def test_when_those_with_another_key_cant_start_the_old_ones_go_on(
    hire, fork_server, settings, server, connections, monkeypatch, caplog
):
    crew, (first,) = hire(1)
    spawn = fork_server.spawn

    def silent(self: FakeForkServer, *arguments: Any) -> Any:
        monkeypatch.setattr(supervisor, "_START_SECONDS", 0.05)
        return spawn(self, *arguments)

    monkeypatch.setattr(fork_server, "spawn", silent)
    fork_server.silent = True
    with pytest.raises(StateError, match="cannot be started"):
        crew.apply_settings(replace(settings, grace=3.0), new_key=True)
    late = [fork_server.made.next() for _ in range(2)]  # a second one had another try
    assert all(one.ended.wait(PATIENCE) for one in late)
    assert caplog.text.count("is killed: it isn't ready after") == 2
    connect(crew, connections)
    assert first.hear()[0] == "serve"
    assert left(crew) == 1 and server.others == {"runw1"}
    eventually(lambda: [one.grace for one in first.followed] == [3.0, server.settings.grace])
    assert fork_server.made.settings[-1] == replace(server.settings, workers=1)
    first.die()  # what was given up before is looked after before: it has no successor
    fork_server.spawn, fork_server.silent = spawn, False
    third = fork_server.made.next()
    assert fork_server.made.children == [first, *late, third]


# what workers say --------------------------------------------------------------------------


def test_what_workers_say_reaches_the_server(hire, server, connections):
    crew, (worker,) = hire(1)
    connect(crew, connections)
    _, number = worker.hear()
    (request,) = server.service.connections
    worker.server.logged_in(number, "192.0.2.1")
    worker.ask(AuditLines).append(b"{}\n{}\n", 2, "files-alice")
    worker.server.heard_of_ban("192.0.2.9", 77)
    worker.ask(Throttling).take("192.0.2.8")
    assert server.done == [
        ("spare", "192.0.2.1"),
        ("no stranger", request),
        ("lines", b"{}\n{}\n", 2, "files-alice"),
        ("ban", "192.0.2.9", 77),
        ("registering", "192.0.2.8"),
    ]
    server.busy = True
    with pytest.raises(Busy, match="too many"):
        worker.ask(Throttling).take("192.0.2.8")


def test_word_of_a_connection_that_is_closed_already_does_no_harm(hire, server, connections):
    crew, (worker,) = hire(1)
    connect(crew, connections)
    _, number = worker.hear()
    for _ in range(2):
        worker.server.closed(number)
    worker.server.logged_in(number, "192.0.2.1")
    eventually(lambda: ("spare", "192.0.2.1") in server.done)
    assert not server.service.connections
    assert not [one for one in server.done if one[0] == "no stranger"]


# what they share ---------------------------------------------------------------------------


@pytest.fixture
def turns(server) -> Queue:
    """Has the server check one password at once, while four wait."""
    server.tallies = replace(server.tallies, queue=Queue(1, 4))
    return server.tallies.queue


def test_turns_are_those_of_one_queue(turns, hire):
    """As many at once as in one process; and a worker that dies gives back what it had."""
    _, workers = hire(2)
    first, second = (one.ask(ServerQueue) for one in workers)
    held = first.enter("192.0.2.1").result(PATIENCE)
    waits = []
    for count, one in enumerate((first, second), 2):
        waits.append(one.enter("192.0.2.1"))
        eventually(lambda count=count: len(turns) == count)
    with pytest.raises(Busy):  # an address has half of those that wait
        second.enter("192.0.2.1").result(PATIENCE)
    third = second.enter("192.0.2.77")
    eventually(lambda: len(turns) == 4)
    assert not any(one.done() for one in (*waits, third))
    first.leave(held)
    assert waits[0].result(PATIENCE)
    assert not waits[1].done()
    workers[0].die()  # in its turn
    given = waits[1].result(PATIENCE)
    assert not third.done()
    second.leave(given)
    assert third.result(PATIENCE)
    assert len(turns) == 1


def test_a_worker_that_dies_waits_for_no_turn_any_more(turns, hire):
    _, workers = hire(2)
    first, second = (one.ask(ServerQueue) for one in workers)
    held = second.enter("192.0.2.1").result(PATIENCE)
    first.enter("192.0.2.1")
    eventually(lambda: len(turns) == 2)
    workers[0].die()
    eventually(lambda: len(turns) == 1)
    second.leave(held)
    eventually(lambda: len(turns) == 0)


def test_a_password_is_changed_in_one_worker_at_a_time(hire, server):
    _, workers = hire(2)
    first, second = (one.ask(Changing) for one in workers)
    with first.one(7, "alice"):
        for one in (first, second):
            with pytest.raises(Busy, match="alice"):
                one.begin(7, "alice")
        second.begin(8, "bob")  # the control: that is another account
    first.begin(7, "alice")
    workers[0].die()
    eventually(lambda: 7 not in server.tallies.changes._changing)
    second.begin(7, "alice")


def test_tries_with_an_invitation_are_counted_together(hire, server):
    _, workers = hire(2)
    first, second = both = [one.ask(Probing) for one in workers]
    for number in range(30):
        both[number % 2].take("a")
    for one in both:
        with pytest.raises(Busy, match="this invitation"):
            one.take("a")
    first.give_back("a")
    first.take("a")
    second.take("b")  # the control


def test_failures_have_one_allowance_in_the_log(hire, monkeypatch):
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 3)
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    _, workers = hire(2)
    both = [one.ask(FailureLimiting) for one in workers]
    for account_id, guess in ((None, None), (None, "password"), (7, None)):
        said = [both[number % 2].take(account_id, guess, 300) for number in range(5)]
        assert said == [True] * 3 + [False] * 2
