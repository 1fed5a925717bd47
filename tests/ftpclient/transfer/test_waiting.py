"""Long waits: what is sent meanwhile, and what the user is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ftpclient.transfer import waiting
from ftpclient.transfer.waiting import KeepAlive, Waiting


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the module believes have passed, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_something_is_sent_each_ten_seconds_and_not_before(clock):
    sent = []
    keep_alive = KeepAlive(lambda: sent.append(clock[0]))
    for second in range(101, 126):
        clock[0] = float(second)
        keep_alive.tick()
    assert sent == [111.0, 122.0]


def test_what_is_waited_for_is_told_once(clock):
    told, sent = [], []
    wait = Waiting(lambda: sent.append(1), told.append, "fifo: waiting for a reader")
    for second in range(101, 113):
        clock[0] = float(second)
        wait.look()
        assert len(told) == (second >= 105)
    assert told == ["fifo: waiting for a reader (Ctrl-C stops)"]
    assert sent == [1]


def test_nothing_is_told_when_the_wait_is_over(clock):
    told = []
    wait = Waiting(lambda: None, told.append, "fifo: waiting for a writer")
    wait.is_over = True
    clock[0] += 60.0
    wait.look()
    assert told == []
