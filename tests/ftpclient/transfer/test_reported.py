"""Ends are told once, in flat memory, however many files a transfer has."""

from __future__ import annotations

import gc
import os
import random
import tempfile
import tracemalloc

import pytest

from ftpclient.transfer import reported
from ftpclient.transfer.job import Options, Transfer
from ftpclient.transfer.report import Listener, Result
from ftpclient.transfer.reported import Reported
from ftpclient.transfer.spool import SpoolFull
from ftpwire.errors import NotFound


class Heard(Listener):
    """Counts what it hears, and keeps nothing of it."""

    def __init__(self) -> None:
        self.count = 0

    def finished(self, result: Result) -> None:
        self.count += 1


class FakeConnection:
    """As much of a connection as a transfer needs to end files."""

    operation = None
    unanswered = 0


def transfer(listener: Listener) -> Transfer:
    return Transfer(FakeConnection(), Options(recursive=True), listener)


def end_all(one: Transfer, numbers: range | list[int]) -> None:
    for number in numbers:
        one.end(b"here/d%d/f%d" % (number % 100, number), b"/there/f%d" % number, 7)


def peak(work) -> int:
    """The most bytes that something takes."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def most_bytes_of(count: int, *, losses: int = 0) -> int:
    """The most that a transfer takes whose files end one after the other."""
    one = transfer(Heard())

    def run() -> None:
        for _ in range(losses + 1):
            end_all(one, range(count))
            if losses:
                one.go_on_with(FakeConnection())
        one.close()

    return peak(run)


def test_a_transfer_takes_no_more_for_four_times_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert most_bytes_of(200_000) < most_bytes_of(50_000) + 512 * 1024, "a set takes 13 MB more"
    assert os.listdir(tmp_path) == []


def test_after_losses_it_takes_a_few_bytes_for_each_file():
    found = most_bytes_of(20_000, losses=2)
    assert found < most_bytes_of(1_000) + 30 * 20_000, "an int in a set takes 70 and more"


@pytest.fixture
def few_together(monkeypatch):
    monkeypatch.setattr(reported, "_TOGETHER", 8)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 1000])
def test_what_was_reported_before_a_loss_is_known_and_nothing_else(few_together, count):
    ends = Reported()
    names = [(b"s%d" % n, b"t%d" % n) for n in range(count)]
    for source, target in names:
        ends.add(source, target)
        assert not ends.was_before(source, target), "before a loss nothing is looked for"
    ends.look_back()
    ends.add(b"later", b"later")
    for source, target in names:
        assert ends.was_before(source, target)
        assert not ends.was_before(target, source)
    assert not ends.was_before(b"later", b"later")
    ends.close()


def test_after_several_losses_all_is_known_in_any_order(few_together):
    ends, chance = Reported(), random.Random(7)
    told_before: set[int] = set()
    for _ in range(5):
        numbers = chance.sample(range(2000), 500)
        for number in numbers:
            known = ends.was_before(b"%d" % number, b"")
            assert known == (number in told_before)
            if not known:
                ends.add(b"%d" % number, b"")
        ends.look_back()
        told_before.update(numbers)
    ends.close()
    assert ends.was_before(b"%d" % min(told_before), b""), "some may end after it was closed"


def test_each_file_is_reported_once_however_often_the_connection_is_lost(few_together):
    heard = Heard()
    one = transfer(heard)
    for reached in (30, 10, 77, 100):
        numbers = list(range(reached))
        random.Random(reached).shuffle(numbers)  # several connections end them in any order
        end_all(one, numbers)
        one.go_on_with(FakeConnection())
    assert heard.count == one.close().done == 100


def test_a_tree_that_is_put_at_once_and_begins_anew_is_reported_anew():
    heard = Heard()
    one = transfer(heard)
    end_all(one, range(3))
    one.go_on_with(FakeConnection())
    one.start_over()
    end_all(one, range(3))
    one.report_held()
    assert heard.count == 6
    one.close()


@pytest.mark.parametrize("how", ["little room", "no room", "half of it"])
def test_a_disk_without_space_fails_no_transfer(few_together, monkeypatch, how):
    def full(*arguments: object) -> int:
        if how == "little room":
            raise SpoolFull("full")
        if how == "no room":
            raise OSError(28, "No space left on device")
        return 24

    if how == "little room":
        monkeypatch.setattr(reported, "check_space", full)
    else:
        monkeypatch.setattr(os, "pwrite", full)
    ends = Reported()
    for number in range(100):
        ends.add(b"%d" % number, b"")
    ends.look_back()
    assert all(ends.was_before(b"%d" % number, b"") for number in range(100))
    ends.close()


def test_a_small_transfer_makes_no_file(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    ends = Reported()
    for number in range(10_000):
        ends.add(b"%d" % number, b"")
    ends.look_back()
    assert ends.was_before(b"9999", b"")
    ends.close()


def stored(numbers: range | list[int]) -> list[Result]:
    return [
        Result(b"here/f%d" % number, b"/there/f%d" % number, 7, "done", bytes(32))
        for number in numbers
    ]


def test_files_that_are_stored_together_are_reported_one_by_one_and_once(few_together):
    heard = Heard()
    one = transfer(heard)
    one.headway.reached(b"/there/f3", 5)
    before = one.headway.count
    one.end_stored(stored(range(50)))
    assert (one.headway.count, one.headway._reached) == (before + 50, {})
    one.go_on_with(FakeConnection())
    one.end_stored(stored(range(80)))
    summary = one.close()
    assert heard.count == summary.done == 80
    assert (summary.size, summary.exit_code) == (80 * 7, 0)


def test_files_that_are_stored_together_after_a_failure_are_some_of_the_job():
    one = transfer(Heard())
    one.end(b"here/x", b"/there/x", 7, error=NotFound("x: it isn't there"))
    one.end_stored(stored(range(3)))
    assert (one.close().exit_code, one.summary.done) == (1, 3)
