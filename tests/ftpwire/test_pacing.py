"""The arithmetic of bandwidth limits, by a clock that the test turns."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire.pacing import Pace
from tests.clock import Clock


def test_the_first_bytes_go_at_once():
    assert Pace(1000, Clock()).delay() == 0


def test_each_byte_takes_its_time():
    clock = Clock()
    pace = Pace(1000, clock)
    pace.spend(1500)
    assert pace.delay() == pytest.approx(1.5)
    clock.now += 1.5
    assert pace.delay() == pytest.approx(0)


def test_silence_is_not_saved_up():
    clock = Clock()
    pace = Pace(1000, clock)
    clock.now += 3600
    pace.spend(1000)
    assert pace.delay() == pytest.approx(0.9)


@pytest.mark.parametrize(("rate", "most"), [(1, 1024), (10**4, 1024), (10**7, 10**6)])
def test_pieces_keep_the_flow_even(rate, most):
    assert Pace(rate, Clock()).most == most


@pytest.mark.parametrize("rate", [0, -5])
def test_a_rate_is_at_least_one_byte(rate):
    assert Pace(rate, Clock()).rate == 1


@given(
    rate=st.integers(1, 10**9),
    pieces=st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 10)), max_size=50),
)
def test_never_faster_than_the_rate(rate, pieces):
    """However bytes and pauses come, all of them take the time that the rate says, but a tenth
    of a second."""
    clock = Clock()
    began = clock.now
    pace = Pace(rate, clock)
    sent = 0
    for count, pause in pieces:
        clock.now += pace.delay()
        pace.spend(count)
        sent += count
        assert clock.now + pace.delay() - began >= sent / rate - 0.1 - 1e-6 * clock.now
        clock.now += pause


def test_a_pace_within_another_keeps_both():
    clock = Clock()
    shared = Pace(1000, clock)
    quick, slow = Pace(4000, clock, within=shared), Pace(500, clock, within=shared)
    assert (quick.most, slow.most) == (min(shared.most, 4096), 1024)
    quick.spend(1000)
    assert quick.delay() == slow.delay() == pytest.approx(1.0)
    clock.now += 1.0
    slow.spend(1000)
    assert slow.delay() == pytest.approx(1.9)  # a tenth of a second may go at once
    assert quick.delay() == pytest.approx(1.0)


def test_the_rate_can_change_meanwhile():
    clock = Clock()
    pace = Pace(1000, clock)
    pace.rate = 4000
    pace.spend(4000)
    assert pace.delay() == pytest.approx(1.0)
    assert pace.most == pytest.approx(400, abs=1024)


def test_no_byte_is_lost_between_threads():
    pace = Pace(1000, Clock())
    threads = [
        threading.Thread(target=lambda: [pace.spend(1) for _ in range(5000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pace.delay() == pytest.approx(20.0)
