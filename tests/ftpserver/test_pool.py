"""The pool of threads: who is next, how many there are, and that they end."""

from __future__ import annotations

import threading

import pytest

from ftpserver import pool as module
from ftpserver.pool import Pool
from tests.peer import eventually

PATIENCE = 60


@pytest.fixture
def make():
    """Makes pools, which end with the test."""
    made: list[Pool] = []

    def pool(most: int) -> Pool:
        made.append(Pool(most, "pool"))
        return made[-1]

    yield pool
    for one in made:
        one.close()
    eventually(lambda: not threads(), "no threads")


def threads() -> int:
    return sum(thread.name == "pool" for thread in threading.enumerate())


class Blocked:
    """Work that lasts until it is let go."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        assert self.may_end.wait(PATIENCE)


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


def test_no_more_threads_than_work_and_than_allowed(make):
    pool = make(3)
    blocked = [Blocked() for _ in range(5)]
    pool.submit(blocked[0])
    assert blocked[0].began.wait(PATIENCE) and threads() == 1 and not pool.is_full
    for one in blocked[1:]:
        pool.submit(one)
    assert all(one.began.wait(PATIENCE) for one in blocked[:3])
    assert threads() == 3 and pool.is_full and pool.has_waiting
    assert not blocked[3].began.is_set()
    for one in blocked:
        one.may_end.set()
    assert all(one.began.wait(PATIENCE) for one in blocked)
    eventually(lambda: not pool.is_full and not pool.has_waiting)


def test_a_thread_that_rests_is_taken_again(make):
    pool = make(8)
    for _ in range(50):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(PATIENCE)
        eventually(lambda: pool._resting == 1)
    assert threads() == 1


def test_what_takes_long_does_not_count(make, monkeypatch):
    monkeypatch.setattr(module, "_LONG_SECONDS", 0.02)
    pool = make(2)
    long = [Blocked() for _ in range(6)]
    for one in long:
        pool.submit(one)

    def all_began() -> bool:
        pool.relieve()
        return all(one.began.is_set() for one in long)

    eventually(all_began)
    assert threads() == 6
    for one in long:
        one.may_end.set()


def test_what_is_quick_gets_no_more_threads(make, monkeypatch):
    """Those who wait don't wait for somebody slow: more threads wouldn't help them."""
    monkeypatch.setattr(module, "_LONG_SECONDS", 3600.0)
    pool = make(1)
    first = Blocked()
    pool.submit(first)
    pool.submit(lambda: None)
    assert first.began.wait(PATIENCE)
    pool.relieve()
    assert threads() == 1
    first.may_end.set()


def test_threads_that_rest_for_long_end(make, monkeypatch):
    monkeypatch.setattr(module, "_REST_SECONDS", 0.02)
    pool = make(4)
    blocked = [Blocked() for _ in range(4)]
    for one in blocked:
        pool.submit(one)
    for one in blocked:
        one.may_end.set()
    eventually(lambda: not threads(), "no threads")
    again = threading.Event()
    pool.submit(again.set)
    assert again.wait(PATIENCE)


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


def test_where_no_thread_can_be_started_the_next_look_tries_again(make, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = make(1)
    done = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        pool.submit(done.set)
    assert not done.is_set() and threads() == 0
    monkeypatch.setattr(module, "_LONG_SECONDS", 0.0)
    pool.relieve()
    assert done.wait(PATIENCE)
