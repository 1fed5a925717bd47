"""When collected changes are due, by a clock of the test's own."""

from __future__ import annotations

import pytest

from ftpclient.sync.quiet import Collector
from ftpclient.sync.tree_changes import Changes
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def collector(clock):
    return Collector(clock)


def test_nothing_is_due_without_changes(collector):
    assert collector.seconds_left is None
    collector.add(Changes())
    assert collector.seconds_left is None


def test_due_after_a_second_of_quiet(collector, clock):
    collector.add(Changes({b"a"}))
    assert collector.seconds_left == 1.0
    clock.now += 0.75
    collector.add(Changes({b"b"}))
    collector.add(Changes())
    assert collector.seconds_left == 1.0
    clock.now += 2.0
    assert collector.seconds_left == 0.0
    assert collector.take() == Changes({b"a", b"b"})
    assert collector.seconds_left is None
    assert not collector.take()


def test_due_after_ten_seconds_of_constant_change(collector, clock):
    for _ in range(19):
        collector.add(Changes({b"a"}))
        assert collector.seconds_left > 0
        clock.now += 0.5
    collector.add(Changes({b"a"}))
    assert collector.seconds_left == 0.5
    clock.now += 0.5
    assert collector.seconds_left == 0.0


def test_what_failed_waits_for_the_next_change(collector):
    collector.keep(Changes({b"a"}, everything=True))
    assert collector.seconds_left is None
    collector.add(Changes({b"b"}))
    assert collector.take() == Changes({b"a", b"b"}, everything=True)
