"""Which sessions count as busy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ftpserver.serving.busyness import Busyness


@dataclass(eq=False)
class One:
    """A session, as far as it matters."""

    doing: object = None
    quiet_since: float = 0.0
    account: object = "alice"


@pytest.fixture
def sessions() -> set[One]:
    return set()


@pytest.fixture
def busyness(sessions) -> Busyness:
    made = Busyness(sessions)
    made.look(10.0)
    return made


def test_one_is_busy_that_works_in_two_rounds(busyness, sessions):
    one = One(doing="get")
    sessions.add(one)
    assert [busyness.look(11.0), busyness.look(12.0)] == [0, 1]
    one.doing, one.quiet_since = None, 12.5
    assert busyness.look(13.0) == 1, "it has worked since the last one"
    assert busyness.look(14.0) == 0


def test_many_short_requests_are_work(busyness, sessions):
    one = One(quiet_since=10.9)
    sessions.add(one)
    busyness.look(11.0)
    one.quiet_since = 11.9
    assert busyness.look(12.0) == 1


def test_a_short_request_is_not(busyness, sessions):
    sessions.add(One(quiet_since=10.5))
    assert [busyness.look(11.0), busyness.look(12.0)] == [0, 0]


def test_a_session_of_before_the_first_round_is_not_busy_by_that(sessions):
    sessions.add(One(quiet_since=5.0))
    made = Busyness(sessions)
    assert [made.look(10.0), made.look(11.0)] == [0, 0]


def test_unauthenticated_clients_are_not(busyness, sessions):
    sessions.add(One(doing="login", account=None))
    assert [busyness.look(11.0), busyness.look(12.0)] == [0, 0]


def test_two_sessions_that_take_turns_are_none(busyness, sessions):
    a, b = One(doing="get"), One()
    sessions.update((a, b))
    busyness.look(11.0)
    a.doing, a.quiet_since, b.doing = None, 10.99, "get"
    assert busyness.look(12.0) == 0


def test_who_has_left_is_not(busyness, sessions):
    sessions.add(One(doing="get"))
    busyness.look(11.0)
    sessions.clear()
    assert busyness.look(12.0) == 0
