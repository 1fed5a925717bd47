"""Which connection gets a process next: places take turns, and each has one at a time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpserver.accounts.startups import Starts

HERE, THERE, ELSEWHERE = "192.0.2.1", "192.0.2.2", "192.0.2.3"


class Line:
    """Starts on a clock that stands still."""

    def __init__(self, at_once: int = 4) -> None:
        self.now = 0.0
        self.starts = Starts(at_once, lambda: self.now)

    def wait(self, host: str, count: int = 1, **more: bool) -> None:
        """So many connections of a place, known by its address and a number."""
        for number in range(count):
            self.starts.wait((host, number), host, **{"known": False} | more)

    def take(self) -> list[tuple[str, int]]:
        """Those that are started now."""
        return list(self.starts.take())


def test_places_take_turns_with_one_each():
    line = Line()
    line.wait(HERE, 3)
    line.wait(THERE, 2)
    line.wait(ELSEWHERE)
    assert line.take() == [(HERE, 0), (THERE, 0), (ELSEWHERE, 0)]
    assert line.take() == []
    line.starts.leave((THERE, 0))
    assert line.take() == [(THERE, 1)]
    line.starts.leave((HERE, 0))
    assert line.take() == [(HERE, 1)]


def test_no_place_has_a_second_turn_before_each_has_had_one_more():
    line = Line(at_once=2)
    line.wait(HERE, 5)
    assert line.take() == [(HERE, 0)]
    line.wait(THERE, 2)
    line.wait(ELSEWHERE, 2)
    order = []
    running = [(HERE, 0)]
    while running or order[-1:] != [(HERE, 4)]:
        running += (taken := line.take())
        order += taken
        line.starts.leave(running.pop(0))
    assert [host for host, _ in order[:6]] == [THERE, HERE, ELSEWHERE] * 2


def test_a_place_alone_has_all_but_one():
    line = Line(at_once=4)
    line.wait(HERE, 10)
    assert line.take() == [(HERE, 0), (HERE, 1), (HERE, 2)]
    line.wait(THERE)
    assert line.take() == [(THERE, 0)], "the first one of another place need not wait"
    line.starts.leave((HERE, 0))
    line.starts.leave((HERE, 1))
    assert line.take() == [], "and from then on each has one"


def test_a_trusted_place_has_more_than_one_and_takes_its_turns():
    line = Line(at_once=5)
    line.wait(HERE, 10, trusted=True)
    line.wait(THERE, 10)
    line.wait(ELSEWHERE, 10)
    taken = line.take()
    assert Counter(host for host, _ in taken) == {HERE: 2, THERE: 1, ELSEWHERE: 1}
    line.starts.leave((THERE, 0))
    assert line.take() == [(THERE, 1)], "it doesn't hold up the others"


def test_known_networks_have_turns_of_their_own():
    line = Line(at_once=2)
    for number in range(10):
        line.wait(f"198.51.100.{number}", 5)
    assert len(line.take()) == 2
    line.wait(HERE, 2, known=True)
    assert line.take() == [(HERE, 0)], "whatever others do"
    line.starts.leave((HERE, 0))
    assert line.take() == [(HERE, 1)]


def test_one_that_does_not_answer_counts_for_a_second():
    """Several users behind one address all get in, whatever one of them does."""
    line = Line()
    line.wait(HERE, 3)
    line.wait(THERE)
    line.take()
    assert line.starts.due() == 1.0
    line.now = 0.9
    assert line.take() == []
    line.now = 1.0
    assert line.take() == [(HERE, 1), (HERE, 2)], "now that place is alone"
    assert line.starts.due() is None, "nobody waits"


def test_who_leaves_makes_space_once():
    line = Line()
    line.wait(HERE, 2)
    line.wait(THERE)
    assert line.starts.leave((HERE, 0)), "before its turn"
    assert not line.starts.leave((HERE, 0))
    assert not line.starts.leave("nobody")
    assert line.take() == [(HERE, 1), (THERE, 0)]
    assert line.starts.leave((HERE, 1)) and line.starts.leave((THERE, 0))
    assert line.starts.due() is None
    line.wait(HERE)
    assert line.take() == [(HERE, 0)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("2001:db8::1", "2001:db8::2", True), ("2001:db8::1", "2001:db8:0:1::1", False)],
)
def test_a_place_is_a_network_of_ipv6(one, other, same):
    line = Line()
    line.wait(HERE)
    line.wait(one)
    line.wait(other)
    assert len(line.take()) == (2 if same else 3)


@given(st.lists(st.tuples(st.sampled_from([HERE, THERE, ELSEWHERE]), st.booleans()), max_size=40))
def test_nobody_is_started_twice_or_forgotten_or_too_many_at_once(coming):
    line, running, order = Line(at_once=3), [], []
    for number, (host, answers) in enumerate(coming):
        line.starts.wait((host, number), host, known=False)
        running += (taken := line.take())
        order += taken
        assert len(running) <= 3
        if answers and running:
            line.starts.leave(running.pop(0))
    while running:
        line.starts.leave(running.pop(0))
        running += (taken := line.take())
        order += taken
    assert sorted(order) == sorted((host, number) for number, (host, _) in enumerate(coming))
