"""The pool of threads: who is next, how many there are and work, who looks, and that they end."""

from __future__ import annotations

import queue
import threading

import pytest

from ftpserver.serving import thread_pool as module
from ftpserver.serving.thread_pool import Pool
from tests.peer import eventually

PATIENCE = 60


class Source:
    """What a pool looks for: works that tests put there."""

    def __init__(self) -> None:
        self._works: queue.Queue = queue.Queue()
        self.lookers = 0
        self.most_lookers = 0

    def put(self, *works) -> None:
        self._works.put(list(works))

    def end(self) -> None:
        self._works.put([])

    def __call__(self) -> list:
        self.lookers += 1
        self.most_lookers = max(self.most_lookers, self.lookers)
        try:
            return self._works.get(timeout=PATIENCE)
        finally:
            self.lookers -= 1


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def make(source):
    """Makes pools, which end with the test."""
    made: list[Pool] = []

    def pool(most: int) -> Pool:
        made.append(Pool(most, "pool", source))
        return made[-1]

    yield pool
    for one in made:
        one.close()
        source.end()
        one.wait_for_looks()
    eventually(lambda: not threads(), "no threads")
    assert source.most_lookers <= 1


def threads() -> int:
    return sum(thread.name == "pool" for thread in threading.enumerate())


class Blocked:
    """Work that lasts until it is let go; with ``aside`` it says so."""

    def __init__(self, aside: Pool | None = None) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self._aside = aside

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.began.set()
        if self._aside is not None:
            self._aside.will_block()
        assert self.may_end.wait(PATIENCE)


def relieved(pool: Pool, condition) -> None:
    """Wait for a condition, as the clock goes on."""

    def look() -> bool:
        pool.relieve()
        return condition()

    eventually(look)


# who is next -------------------------------------------------------------------------------


def test_first_come_first_served(make):
    pool = make(1)
    order: list[int] = []
    first, done = Blocked(), threading.Event()
    pool.submit(first)
    for number in range(100):
        pool.submit(lambda number=number: order.append(number))
    pool.submit(done.set)
    assert first.began.wait(PATIENCE) and not order
    first.may_end.set()
    assert done.wait(PATIENCE)
    assert order == list(range(100))


def test_one_thread_does_what_is_short(make, source):
    """It looks, and does what it finds, all by itself; with others there to do it as well."""
    pool = make(8)
    pool.attend()
    workers, done = set(), threading.Event()

    def note() -> None:
        workers.add(threading.current_thread())

    for _ in range(50):
        source.put(note, note)
    source.put(done.set)
    assert done.wait(PATIENCE)
    assert len(workers) == 1 and threads() == 1


def test_what_is_found_comes_after_what_waited(make, source):
    pool = make(1)
    order: list[str] = []
    first, done = Blocked(), threading.Event()
    pool.submit(first)
    assert first.began.wait(PATIENCE)
    source.put(lambda: order.append("found"), done.set)
    pool.submit(lambda: order.append("waited"))
    first.may_end.set()
    assert done.wait(PATIENCE)
    assert order == ["waited", "found"]


# how many ----------------------------------------------------------------------------------


def test_those_who_take_long_are_not_waited_for(make, source, monkeypatch):
    """Another thread works, and looks, beside each of them; up to the bound."""
    monkeypatch.setattr(module, "_SHORT_SECONDS", 0.0)
    pool = make(3)
    long = [Blocked() for _ in range(3)]
    for one in long:
        source.put(one)
    pool.attend()
    relieved(pool, lambda: all(one.began.is_set() for one in long))
    relieved(pool, lambda: source.lookers == 1)
    assert len({one.thread for one in long}) == 3 and threads() == 4
    assert not pool.has_capacity and not pool.has_waiting
    last = threading.Event()
    source.put(last.set)
    relieved(pool, lambda: pool.has_waiting)
    assert not last.is_set()
    long[0].may_end.set()
    assert last.wait(PATIENCE)
    for one in long:
        one.may_end.set()


def test_nobody_works_beside_one_who_has_just_begun(make, source, monkeypatch):
    monkeypatch.setattr(module, "_SHORT_SECONDS", 3600.0)
    pool = make(8)
    first, second = Blocked(), threading.Event()
    pool.submit(first)
    pool.submit(second.set)
    assert first.began.wait(PATIENCE)
    for _ in range(10):
        pool.relieve()
    assert threads() == 1 and not second.is_set() and not source.lookers
    assert pool.is_attended and not pool.is_watched
    first.may_end.set()
    assert second.wait(PATIENCE)
    eventually(lambda: pool.is_watched and source.lookers == 1)


def test_one_who_says_that_it_will_wait_is_not_waited_for(make, source, monkeypatch):
    monkeypatch.setattr(module, "_SHORT_SECONDS", 3600.0)
    pool = make(8)
    first, second = Blocked(aside=pool), threading.Event()
    pool.submit(first)
    pool.submit(second.set)
    assert second.wait(PATIENCE)
    eventually(lambda: source.lookers == 1)
    assert pool.is_watched and not first.may_end.is_set()
    first.may_end.set()


def test_where_hardly_anybody_is_short_nobody_waits_for_that(make, monkeypatch):
    """As on a slow disk; until they are short again."""
    pool = make(8)

    def run(count: int) -> None:
        for _ in range(count):
            done = threading.Event()
            pool.submit(done.set)
            assert done.wait(PATIENCE)
        eventually(lambda: pool.is_watched)

    def second_begins_beside_the_first() -> bool:
        monkeypatch.setattr(module, "_SHORT_SECONDS", 3600.0)
        first, second = Blocked(), Blocked()
        pool.submit(first)
        pool.submit(second)
        assert first.began.wait(PATIENCE)
        slow = pool._late > module._OFTEN
        if slow:
            assert second.began.wait(PATIENCE)
        beside = second.began.is_set()
        first.may_end.set()
        second.may_end.set()
        eventually(lambda: pool.is_watched)
        return beside

    run(20)
    assert not second_begins_beside_the_first()
    monkeypatch.setattr(module, "_SHORT_SECONDS", 0.0)
    run(20)
    assert second_begins_beside_the_first()
    run(20)
    assert not second_begins_beside_the_first()


def test_a_work_that_fails_ends_nobody(make, caplog):
    pool = make(1)

    def fail() -> None:
        raise ValueError("on purpose")

    done = threading.Event()
    pool.submit(fail)
    pool.submit(done.set)
    assert done.wait(PATIENCE)
    eventually(lambda: not pool._busy)
    assert "could not be served" in caplog.text


def test_a_thread_that_is_none_of_its_own_may_say_so_too(make):
    pool = make(1)
    pool.will_block()
    assert threads() == 0


def test_what_takes_very_long_does_not_count(make, monkeypatch):
    monkeypatch.setattr(module, "_SHORT_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LONG_SECONDS", 0.02)
    pool = make(2)
    long = [Blocked() for _ in range(6)]
    for one in long:
        pool.submit(one)
    relieved(pool, lambda: all(one.began.is_set() for one in long))
    relieved(pool, lambda: pool.has_capacity)
    for one in long:
        one.may_end.set()


def test_a_thread_that_rests_is_taken_again(make, source):
    pool = make(8)
    aside = Blocked(aside=pool)
    pool.submit(aside)
    eventually(lambda: source.lookers == 1)
    for _ in range(50):
        done = threading.Event()
        pool.submit(done.set)  # the one who looks doesn't see that
        assert done.wait(PATIENCE)
        eventually(lambda: pool._resting == 1)
    assert threads() == 3
    aside.may_end.set()


def test_threads_that_rest_for_long_end(make, source, monkeypatch):
    """But not the one who looks."""
    monkeypatch.setattr(module, "_REST_SECONDS", 0.02)
    pool = make(4)
    blocked = [Blocked(aside=pool) for _ in range(4)]
    for one in blocked:
        pool.submit(one)
    assert all(one.began.wait(PATIENCE) for one in blocked)
    for one in blocked:
        one.may_end.set()
    eventually(lambda: threads() == 1 and source.lookers == 1)
    again = threading.Event()
    pool.submit(again.set)
    assert again.wait(PATIENCE)


# ends --------------------------------------------------------------------------------------


def test_closing_does_what_waits(make):
    pool = make(1)
    first, second = Blocked(), threading.Event()
    pool.submit(first)
    pool.submit(second.set)
    assert first.began.wait(PATIENCE)
    pool.close()
    first.may_end.set()
    assert second.wait(PATIENCE)
    eventually(lambda: not threads())


def test_what_comes_after_closing_is_done(make):
    pool = make(1)
    pool.close()
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(PATIENCE)
    eventually(lambda: not threads())


def test_whoever_looks_is_waited_for(make, source):
    pool = make(1)
    pool.attend()
    eventually(lambda: source.lookers == 1)
    pool.close()
    waited = threading.Thread(target=pool.wait_for_looks)
    waited.start()
    assert waited.is_alive() and source.lookers == 1
    source.end()
    waited.join(PATIENCE)
    assert not waited.is_alive() and source.lookers == 0


def test_nobody_rests_on_after_the_last_work(make, source, monkeypatch):
    monkeypatch.setattr(module, "_REST_SECONDS", 3600.0)
    pool = make(2)
    last = Blocked()
    pool.submit(last)
    assert last.began.wait(PATIENCE)
    pool.will_block()
    with pool._state:
        pool._start()
    eventually(lambda: pool._resting == 1)  # it has nothing to do: somebody works already
    pool.close()
    eventually(lambda: pool._resting == 0)
    last.may_end.set()
    eventually(lambda: not threads(), "no threads")


@pytest.mark.parametrize("error", [RuntimeError("cannot start new thread"), MemoryError()])
def test_where_no_thread_can_be_started_the_next_look_tries_again(make, monkeypatch, error):
    def refuse(thread: threading.Thread) -> None:
        raise error

    pool = make(1)
    done = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        pool.submit(done.set)
    assert not done.is_set() and threads() == 0 and pool.has_waiting
    pool.relieve()
    assert done.wait(PATIENCE)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_everything_is_done_once_whoever_does_it(make, source, monkeypatch, most):
    """Works of all kinds, found and submitted, with threads that come and go."""
    monkeypatch.setattr(module, "_SHORT_SECONDS", 0.001)
    monkeypatch.setattr(module, "_REST_SECONDS", 0.001)
    pool = make(most)
    done: list[int] = []
    beats = threading.Event()

    def work(number: int):
        def run() -> None:
            if number % 7 == 0:
                pool.will_block()
            if number % 11 == 0:
                beats.wait(0.002)
            done.append(number)

        return run

    for number in range(0, 1000, 2):
        source.put(work(number))
        pool.submit(work(number + 1))
    relieved(pool, lambda: len(done) == 1000)
    assert sorted(done) == list(range(1000))
