"""One rate for an account's sessions in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from ftpserver.processes import shared_rate
from ftpserver.processes.shared_rate import SLOTS, SharedPaces, make_page
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def two(clock):
    """The holds that two processes have on one page."""
    page = make_page()
    with closing(SharedPaces(os.dup(page), clock)) as one, closing(SharedPaces(page, clock)) as two:
        yield one, two


def test_what_one_spends_the_other_waits_for(two, clock):
    here, there = (paces.pace(7, 1000) for paces in two)
    here.spend(600)
    there.spend(500)
    assert here.delay() == there.delay() == pytest.approx(1.0)
    clock.now += 1.0
    assert here.delay() == there.delay() == pytest.approx(0)


def test_accounts_do_not_share(two):
    mine, theirs = two[0].pace(7, 1000), two[1].pace(7 + SLOTS, 1000)  # the same place in the page
    mine.spend(5000)
    assert theirs.delay() == 0
    theirs.spend(300)
    assert mine.delay() == pytest.approx(4.9)
    assert theirs.delay() == pytest.approx(0.2)


def test_silence_is_not_saved_up(two, clock):
    pace = two[0].pace(7, 1000)
    clock.now += 3600
    pace.spend(1000)
    assert two[1].pace(7, 1000).delay() == pytest.approx(0.9)


def test_a_place_is_used_again_when_its_account_has_fallen_silent(two, clock, monkeypatch):
    monkeypatch.setattr(shared_rate, "SLOTS", 2)
    for account_id in (1, 2):
        two[0].pace(account_id, 1000).spend(500)
    crowded = two[1].pace(3, 1000)
    crowded.spend(500)
    assert crowded.delay() == 0  # there is no place for it: better too fast than never
    clock.now += 10
    crowded.spend(500)
    assert crowded.delay() == pytest.approx(0.4)
    assert two[0].pace(2, 1000).delay() == 0


SPENDER = """
import sys
from ftpserver.processes.shared_rate import SharedPaces
pace = SharedPaces(int(sys.argv[1])).pace(7, 1_000_000)
for _ in range(2000):
    pace.spend(1000)
"""


def test_processes_that_spend_at_the_same_time_lose_nothing():
    page = make_page()
    with closing(SharedPaces(page)) as paces:
        pace = paces.pace(7, 1_000_000)
        pace.spend(100_000_000)  # far ahead of the clock: each spending just adds up
        before = paces.free_at(7)
        command = [sys.executable, "-c", SPENDER, str(page)]
        spenders = [subprocess.Popen(command, pass_fds=[page]) for _ in range(3)]
        assert [one.wait(60) for one in spenders] == [0, 0, 0]
        assert paces.free_at(7) - before == pytest.approx(6.0)


def test_who_is_killed_holding_the_lock_holds_up_nobody():
    page = make_page()
    killed = f"import fcntl, os; fcntl.lockf({page}, fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    with closing(SharedPaces(page)) as paces:
        assert subprocess.run([sys.executable, "-c", killed], pass_fds=[page]).returncode == -9
        paces.pace(7, 1000).spend(500)
        assert paces.free_at(7) > 0
