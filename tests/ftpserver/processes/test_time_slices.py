"""What the kernel is told about the server's threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from ftpserver.processes import time_slices
from ftpserver.processes.time_slices import LONG_NANOSECONDS, lengthen_slices, scheduling_of

_Result = TypeVar("_Result")


def in_a_thread(work: Callable[[], _Result]) -> _Result:
    """What a thread of its own returns: how that is scheduled ends with it."""
    found: list[_Result] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def slices() -> None:
    """Skips where a thread cannot ask for a slice."""
    try:
        if scheduling_of().slice:
            return
    except OSError as error:
        pytest.skip(f"scheduling is not told here: {error}")
    pytest.skip("this kernel knows no slices")


def test_a_thread_and_those_that_it_starts_get_long_slices_and_stay_as_nice(slices):
    def work() -> tuple[time_slices.Scheduling, ...]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)
        before = scheduling_of()
        lengthen_slices()
        return before, scheduling_of(), in_a_thread(scheduling_of)

    before, after, child = in_a_thread(work)
    assert before.nice == 3
    assert before.slice < LONG_NANOSECONDS
    assert after == child == before._replace(slice=LONG_NANOSECONDS)


@pytest.mark.parametrize("policy", [os.SCHED_BATCH, os.SCHED_IDLE])
def test_the_policy_that_somebody_has_chosen_stays(slices, policy):
    def work() -> time_slices.Scheduling:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        lengthen_slices()
        return scheduling_of()

    after = in_a_thread(work)
    assert after.policy == policy
    assert (after.slice == LONG_NANOSECONDS) is (policy == os.SCHED_BATCH)


def test_where_the_system_has_no_slices_everything_stays_as_it_is(monkeypatch, caplog):
    monkeypatch.setattr(time_slices, "_NUMBERS", {})
    caplog.set_level(logging.DEBUG, "ftpd")
    lengthen_slices()
    assert "the time slices stay as they are: Function not implemented" in caplog.text
