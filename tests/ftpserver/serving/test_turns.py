"""The turn of a process's threads: who has it, who is next, and that it stops nobody."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable

import pytest

from ftpserver.serving import turns as module
from ftpserver.serving.exchange import Exchange
from ftpserver.serving.keep_alive import ChannelGuard
from ftpserver.serving.session import Session
from ftpserver.serving.thread_pool import Pool
from ftpserver.serving.turns import OVERDUE_SECONDS, SLICE_SECONDS, Turns
from ftpserver.storage.batch import Uploads
from ftpserver.storage.commit import Commit
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests, messages
from ftpwire.errors import ConnectionLost
from ftpwire.frames import Kind
from ftpwire.messages import Get, Hash, LoggedIn, Put, Sent, Stat, Stored, WhoAmI
from tests.clock import Clock
from tests.peer import Peer, eventually

PATIENCE = 60


class Worker:
    """A thread that does one thing after another, as it is told."""

    def __init__(self) -> None:
        self._todo: list[Callable[[], object]] = []
        self._changed = threading.Condition()
        self._over = False
        self.requested = self.done = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, *steps: Callable[[], object]) -> None:
        """Tell it what to do, without waiting."""
        with self._changed:
            self._todo.extend(steps)
            self.requested += len(steps)
            self._changed.notify_all()

    def do(self, *steps: Callable[[], object]) -> None:
        """Have it do that now."""
        self.begin(*steps)
        eventually(lambda: self.done == self.requested, "a step that is done")

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                assert self._changed.wait_for(lambda: self._todo or self._over, PATIENCE)
                if not self._todo:
                    return
                step = self._todo.pop(0)
            step()
            self.done += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock) -> Turns:
    return Turns(clock=clock)


@pytest.fixture
def workers():
    """Makes threads, which end with the test."""
    made: list[Worker] = []

    def make(count: int) -> list[Worker]:
        made.extend(Worker() for _ in range(count))
        return made[-count:]

    yield make
    for one in made:
        one.end()


def queue(turns: Turns, worker: Worker, *then: Callable[[], object]) -> None:
    """Have a thread wait for the turn, behind those that wait already."""
    before = turns.waiting
    worker.begin(turns.take, *then)
    eventually(lambda: turns.waiting == before + 1, "a thread that waits")


# who has it --------------------------------------------------------------------------------


def test_a_thread_alone_has_it_at_once_and_keeps_it(turns, clock):
    assert not turns.is_mine
    turns.take()
    clock.now += 1000.0
    turns.take()
    turns.pass_on()
    assert turns.is_mine
    turns.give_up()
    turns.give_up()
    assert not turns.is_mine


def test_first_come_first_served(turns, workers):
    order: list[int] = []
    threads = workers(6)
    turns.take()
    for number, one in enumerate(threads):
        queue(turns, one, lambda number=number: order.append(number), turns.give_up)
    assert order == []
    turns.give_up()
    eventually(lambda: len(order) == 6)
    assert order == list(range(6))
    eventually(lambda: threads[-1].done == 3)
    turns.take()
    assert turns.is_mine


def test_a_thread_whose_slice_is_over_passes_it_on(turns, clock, workers):
    order: list[str] = []
    first, second, third = workers(3)

    def step(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    first.do(turns.take)
    queue(turns, second, step("second"))
    queue(turns, third, step("third"), turns.give_up)
    first.do(turns.take, step("first"))  # it has a part of its slice left
    clock.now += SLICE_SECONDS
    first.begin(turns.take, step("first again"), turns.give_up)
    eventually(lambda: order == ["first", "second"])
    second.do(turns.give_up)
    eventually(lambda: order[2:] == ["first again", "third"])


def test_a_thread_that_comes_from_a_wait_goes_before_those_whose_slices_are_over(
    turns, clock, workers
):
    """And yet not always: those go on at every other turn."""
    order: list[str] = []

    def step(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    one, two, three = workers(3)
    one.do(turns.take)
    queue(turns, two)
    queue(turns, three)
    for thread, name, following in ((one, "one", two), (two, "two", one), (one, "one", three)):
        clock.now += SLICE_SECONDS
        done = following.done
        thread.begin(turns.take, step(name))
        eventually(lambda done=done, following=following: following.done > done)
    order.clear()
    for number, few in enumerate(workers(3)):  # now there are the slices of one and two over
        queue(turns, few, step(f"few {number}"), turns.give_up)
    three.do(turns.give_up)
    two.do(turns.give_up)
    one.do(turns.give_up)
    eventually(lambda: len(order) == 5)
    assert order == ["two", "few 0", "one", "few 1", "few 2"]


def test_the_end_of_a_slice_is_the_end_of_the_lead(clock, workers):
    ended: list[int] = []
    turns = Turns(lambda: ended.append(threading.get_ident()), clock)
    one, other = workers(2)
    one.do(turns.take, turns.give_up, turns.take)
    clock.now += SLICE_SECONDS
    one.do(turns.take)
    assert not ended  # nobody waits
    queue(turns, other, turns.give_up)
    here: list[int] = []
    one.do(turns.take, lambda: here.append(threading.get_ident()))
    assert ended.count(here[0]) == 1


def test_a_newcomer_that_has_to_wait_has_no_lead(clock, workers):
    """Others look for work meanwhile. It waits in real time, and the clock stands still."""
    ended: list[int] = []
    turns = Turns(lambda: ended.append(threading.get_ident()), clock)
    one, other = workers(2)
    here: list[int] = []
    one.do(turns.take)
    queue(turns, other, lambda: here.append(threading.get_ident()))
    eventually(lambda: ended, "a lead that has ended")
    one.do(turns.go_idle)
    eventually(lambda: here == ended)


def test_steps_that_need_no_turn_only_pass_it_on(turns, clock, workers):
    one, other = workers(2)
    one.do(turns.take)
    other.do(turns.pass_on)  # and goes on at once
    queue(turns, other, turns.give_up)
    one.do(turns.pass_on)
    assert turns.waiting == 1
    clock.now += SLICE_SECONDS
    one.do(turns.pass_on)
    eventually(lambda: other.done == 3)
    one.do(turns.give_up)


def test_a_thread_that_has_used_up_a_slice_is_no_newcomer_until_it_waits_for_its_client(
    turns, clock, workers
):
    """Whatever else it waits for: a commit waits for the disk several times."""
    order: list[str] = []
    one, two, three, four = workers(4)
    one.do(turns.take)
    queue(turns, two, turns.give_up)
    clock.now += SLICE_SECONDS
    one.do(turns.take, turns.give_up)  # a slice of it is over
    four.do(turns.take)
    queue(turns, one, lambda: order.append("one"), turns.go_idle)
    queue(turns, three, lambda: order.append("three"), turns.go_idle)
    four.do(turns.go_idle)
    eventually(lambda: len(order) == 2)
    assert order == ["three", "one"]
    order.clear()
    eventually(lambda: one.done == one.requested and three.done == three.requested)
    four.do(turns.take)
    queue(turns, one, lambda: order.append("one"), turns.go_idle)
    queue(turns, three, lambda: order.append("three"), turns.go_idle)
    four.do(turns.go_idle)
    eventually(lambda: len(order) == 2)
    assert order == ["one", "three"]


# it stops nobody ---------------------------------------------------------------------------


def test_a_thread_that_hangs_with_it_stops_nobody(turns, clock, workers):
    """The next one has the turn then, and passes it on as usual: those behind it don't wait for the
    one that hangs once more."""
    hanging, *others = workers(4)
    ends = threading.Event()
    hanging.do(turns.take)
    hanging.begin(lambda: ends.wait(PATIENCE))
    for one in others:
        queue(turns, one)
    clock.now += OVERDUE_SECONDS
    eventually(lambda: others[0].done == 1, "one that goes on without being given the turn")
    assert turns.waiting == 2
    for one in others:
        one.do(turns.give_up)
    others[0].do(turns.take)
    ends.set()
    mine: list[bool] = []
    hanging.do(lambda: mine.append(turns.is_mine), turns.give_up)
    assert mine == [False]  # what it gives up isn't that of the others
    others[0].do(lambda: mine.append(turns.is_mine))
    assert mine == [False, True]


def test_many_that_hang_are_passed_one_after_another(turns, clock, workers):
    *hanging, last = workers(4)
    ends = threading.Event()
    hanging[0].do(turns.take)
    hanging[0].begin(lambda: ends.wait(PATIENCE))
    for one in hanging[1:]:
        queue(turns, one, lambda: ends.wait(PATIENCE))
    queue(turns, last)

    def time_passes() -> bool:
        clock.now += OVERDUE_SECONDS / 10
        return last.done == 1

    eventually(time_passes)
    ends.set()


def test_nobody_takes_it_from_a_thread_in_time(turns, clock, workers):
    one, other = workers(2)
    one.do(turns.take)
    clock.now += 1000.0  # nobody waited meanwhile
    queue(turns, other, turns.give_up)
    looks = threading.Event()
    real = turns._patience
    turns._patience = lambda position: (looks.set(), real(position))[1]
    assert looks.wait(PATIENCE)  # it has looked, in real time
    assert not other.done
    one.do(turns.take)  # but its slice is over
    eventually(lambda: other.done == 2)


@pytest.mark.parametrize("late", ["called", "timed out"])
def test_a_thread_that_was_given_it_and_lost_it_before_it_woke_up_goes_on(
    turns, clock, workers, monkeypatch, late
):
    """As on a machine that has too much to do."""
    first, second, third = workers(3)
    wakes, slow = threading.Event(), threading.Event()
    real = module._Waiting.wait

    def wait(self, seconds: float) -> bool:
        if slow.is_set():
            return real(self, seconds)
        slow.set()  # the first one that waits is slow
        if late == "called":
            seconds = PATIENCE
        called = real(self, seconds)
        assert wakes.wait(PATIENCE)
        return called

    monkeypatch.setattr(module._Waiting, "wait", wait)
    mine: list[bool] = []
    first.do(turns.take)
    queue(turns, second, lambda: mine.append(turns.is_mine))
    assert slow.wait(PATIENCE)
    queue(turns, third)
    first.do(turns.give_up)
    assert turns.waiting == 1
    clock.now += OVERDUE_SECONDS
    eventually(lambda: third.done == 1, "one that takes it over")
    wakes.set()
    eventually(lambda: second.done == 2)
    assert mine == [False]


# with other locks --------------------------------------------------------------------------


def test_the_thread_for_signs_of_life_never_waits_for_it(turns, workers):
    """The session's thread has its channel while it waits for its turn."""
    guard = ChannelGuard()
    one, other = workers(2)
    one.do(turns.take)
    before = turns.waiting

    def serve() -> None:
        with guard:
            turns.take()
            with guard.away():
                turns.give_up()

    other.begin(serve)
    eventually(lambda: turns.waiting == before + 1)
    assert not guard.take()
    one.do(turns.give_up)
    eventually(lambda: other.done == 1)
    assert guard.take()


def test_no_thread_waits_for_a_homes_lock_with_the_turn(turns, tmp_path, workers):
    """Else both would wait, if whoever has the lock waits for the turn: until it is overdue."""
    one, other = workers(2)
    homes = [Home(tmp_path, durable=False) for _ in range(2)]
    for home in homes:
        home.take_turn, home.will_block = turns.take, turns.give_up
    order: list[str] = []

    def commit() -> None:
        with homes[0].shared():
            turns.take()
            order.append("renamed")
        turns.give_up()

    def move() -> None:
        with homes[1].alone():
            order.append("moved")

    other.do(turns.take)
    one.begin(commit)
    eventually(lambda: turns.waiting == 1)
    other.do(move)
    assert order == ["renamed", "moved"]  # on a clock that stands still
    for home in homes:
        home.close()


def test_a_lock_that_is_free_costs_no_turn(tmp_path):
    home = Home(tmp_path, durable=False)
    requested: list[str] = []
    with open(tmp_path / ".ftpd-staging" / "lock", "rb") as lock:

        def will_block() -> None:
            requested.append("aside")
            fcntl.flock(lock, fcntl.LOCK_UN)

        home.will_block = will_block
        with home.shared():
            pass
        with home.alone():
            pass
        assert requested == []
        fcntl.flock(lock, fcntl.LOCK_EX)
        with home.shared():
            assert requested == ["aside"]
    home.close()


# of sessions -------------------------------------------------------------------------------

WAYS = [pytest.param({}, id="threads"), pytest.param({"threads": 0}, id="a-thread-each")]


def put(peer: Peer, path: bytes, data: bytes) -> int:
    number = peer.request(Put(path, len(data)))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    return number


def is_free(server) -> bool:
    """Whether no thread has the turn, nor waits for it."""
    turns = server.service.turns
    return turns._holder == 0 and not turns.waiting


@pytest.mark.parametrize("way", WAYS)
def test_a_session_has_it_for_its_small_steps_alone(start_server, dial, monkeypatch, way):
    """Not while it waits for the disk, nor for its client."""
    server = start_server(**way)
    turns, seen = server.service.turns, []

    def noting(name: str, owner: object, function: str) -> None:
        real = getattr(owner, function)

        def noted(*arguments: object, **options: object) -> object:
            seen.append((name, turns.is_mine))
            return real(*arguments, **options)

        monkeypatch.setattr(owner, function, noted)

    noting("staged", Uploads, "stage_small")
    noting("renamed", Commit, "place")
    noting("settled", Ledger, "settle")
    noting("hashed", Workspace, "hash")
    noting("looked", Workspace, "stat")
    peer = dial(server)
    eventually(lambda: is_free(server))
    for number in range(2):
        put(peer, b"/%d" % number, b"data")
        assert peer.read().message == Stored(4)
    peer.ask(Hash(b"/0"))
    peer.ask(Stat(b"/0"))
    eventually(lambda: is_free(server))
    assert set(seen) == {
        ("staged", True),
        ("renamed", True),
        ("settled", True),
        ("hashed", False),
        ("looked", True),
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_large_transfer_goes_without_it(start_server, dial, monkeypatch, way):
    server = start_server(**way)
    turns, seen = server.service.turns, []
    real = Exchange.send_data

    def send_data(self: Exchange, data: memoryview) -> None:
        seen.append(turns.is_mine)
        real(self, data)

    monkeypatch.setattr(Exchange, "send_data", send_data)
    home = server.settings.root / "alice"
    (home / "small").write_bytes(bytes(1000))
    (home / "large").write_bytes(bytes(4 * 1024 * 1024))
    peer = dial(server)
    for name, has_it in ((b"/small", True), (b"/large", False)):
        peer.request(Get(name))
        while peer.read().kind != Kind.END:
            pass
        assert seen and set(seen) == {has_it}
        seen.clear()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failing", ["request", "session"])
def test_it_is_given_back_where_something_fails(
    start_server, dial, monkeypatch, caplog, way, failing
):
    def fail(*arguments: object) -> None:
        raise RuntimeError("a mistake")

    server = start_server(**way)
    peer, other = dial(server), dial(server)
    if failing == "request":
        monkeypatch.setattr(Workspace, "stat", fail)
    else:
        monkeypatch.setattr(messages, "decode_request", fail)
    peer.request(Stat(b"/"))
    assert peer.read().message.code == "internal"
    eventually(lambda: is_free(server))
    monkeypatch.undo()
    caplog.clear()
    assert other.ask(WhoAmI()) == LoggedIn("alice")


@pytest.mark.parametrize("fails", [False, True], ids=["in order", "failing"])
def test_a_thread_that_ends_gives_it_back(server, dial, monkeypatch, fails):
    had: list[bool] = []

    def handle(session: Session) -> None:
        session.server.take_turn()
        had.append(server.service.turns.is_mine)
        if fails:
            raise ConnectionLost("a mistake")

    monkeypatch.setattr(Session, "handle", handle)
    with dial(server, logged_in=False) as peer:
        assert peer.read_to_end() == []
    eventually(lambda: not server.service.connections)
    eventually(lambda: is_free(server))
    assert had == [True]


def test_a_thread_of_the_pool_keeps_it_from_one_session_to_the_next(start_server, dial):
    """It gives it up before it waits for work: else each request would cost a hand-over."""
    server = start_server()
    turns, taken = server.service.turns, []
    pool = Pool(2, "pool", lambda: [], turns.go_idle)
    done = threading.Event()

    def work() -> None:
        taken.append(turns.is_mine)
        turns.take()

    for _ in range(3):
        pool._waiting.append(work)
    pool.submit(done.set)
    assert done.wait(PATIENCE)
    pool.close()
    eventually(lambda: is_free(server))
    assert taken == [False, True, True]
