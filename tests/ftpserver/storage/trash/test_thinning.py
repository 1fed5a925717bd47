"""What the trash keeps for how long, and how much of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpserver.storage.home import Home
from ftpserver.storage.trash import thinning as thinning_module
from ftpserver.storage.trash.index import Contents, decode, encode
from ftpserver.storage.trash.names import new_name
from ftpserver.storage.trash.thinning import SECOND, Thinning, kept_versions
from ftpwire.messages import Remove
from tests.ftpserver.storage.trash.conftest import Bin

HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 20_000 * DAY + 12 * HOUR


@pytest.fixture
def thinning(bin_: Bin) -> Iterator[Thinning]:
    home = Home(bin_.files, durable=False, incarnation=bin_.ledger.incarnation)
    yield Thinning(home, bin_.ledger, bin_.account.id)
    home.close()


def kept(bin_: Bin) -> list[str]:
    return sorted(os.listdir(bin_.files / ".ftpd-trash"))


def is_kept(times: list[int], most: int = 5) -> list[int]:
    newest_first = sorted(times, reverse=True)
    return [newest_first[number] for number in sorted(kept_versions(newest_first, most, NOW))]


def test_of_the_last_day_all_are_kept_up_to_the_limit():
    times = [NOW - number * HOUR for number in range(8)]
    assert is_kept(times) == times[:5]


def test_of_older_ones_one_a_day_is():
    times = [NOW - 2 * DAY - number * HOUR for number in range(4)]
    times += [NOW - 3 * DAY - number * HOUR for number in range(4)]
    assert is_kept(times) == [times[0], times[4]]


def test_a_log_that_is_put_every_second_does_not_push_out_what_matters():
    hour = NOW - NOW % HOUR - HOUR
    fast = [hour + number * 10 * SECOND for number in range(180)]
    slow = [hour - HOUR, hour - 2 * HOUR]
    found = is_kept(fast + slow)
    assert found == [fast[179], fast[119], fast[59], *slow]


def test_none_is_kept_where_none_may_be():
    assert is_kept([NOW, NOW - HOUR], 0) == []


@given(st.lists(st.integers(NOW - 10 * DAY, NOW), max_size=300, unique=True), st.integers(0, 6))
def test_thinning_again_changes_nothing(times, most):
    once = is_kept(times, most)
    assert len(once) <= most
    assert is_kept(once, most) == once
    assert not (times and most) or max(times) in once


def test_what_is_too_old_goes(bin_: Bin, thinning):
    bin_.put(b"/a", b"123")
    bin_.put(b"/b", b"123")
    bin_.rm(b"/a")
    middle = time.time_ns()
    second = bin_.rm(b"/b")
    thinning.expire(60, middle + 60 * SECOND)
    assert kept(bin_) == [second]
    assert (len(thinning.operations), thinning.purged.size) == (1, 3)
    thinning.expire(0, time.time_ns())
    assert kept(bin_) == [] and bin_.agrees()


def test_versions_of_one_path(bin_: Bin, thinning):
    bin_.put(b"/a", b"0")
    bin_.put(b"/other", b"0")
    names = [bin_.over(b"/a", b"%d" % number) for number in range(1, 8)]
    other = bin_.over(b"/other", b"1")
    thinning.thin(5, time.time_ns())
    assert kept(bin_) == [*names[2:], other]
    assert bin_.agrees()


def test_a_version_that_equals_what_replaced_it_is_none(bin_: Bin, thinning):
    """As one of another time only, which the write doesn't look at."""
    bin_.put(b"/a", b"same", mtime_ns=10**18)
    bin_.put(b"/b", b"same", mtime_ns=10**18)
    bin_.begin("put a")
    bin_.put(b"/a", b"same", mtime_ns=2 * 10**18)
    equal = bin_.session.keeping.name
    bin_.begin("put b")
    bin_.put(b"/b", b"Same", mtime_ns=2 * 10**18)
    other = bin_.session.keeping.name
    assert kept(bin_) == [equal, other], "the write doesn't know"
    thinning.thin(5, time.time_ns())
    assert kept(bin_) == [other] and bin_.agrees()


def test_versions_beside_what_else_an_operation_has_done(bin_: Bin, thinning):
    """Only they go; what it has removed, and what it has moved, can still be taken back."""
    for path in (b"/a", b"/gone"):
        bin_.put(path, b"1")
    bin_.begin("sync")
    bin_.put(b"/a", b"22")
    name = bin_.session.remove(Remove(b"/gone")).operation
    thinning.thin(0, time.time_ns())
    assert [(one.path, one.state) for one in bin_.items(operation=name)] == [
        (b"/gone", "kept"),
        (b"/a", "purged"),
    ]
    assert bin_.agrees()


def test_no_more_lines_than_allowed(bin_: Bin, thinning):
    names = []
    for number in range(4):
        bin_.put(b"/%d" % number, b"x")
        names.append(bin_.rm(b"/%d" % number))
    thinning.trim(2, None)
    assert kept(bin_) == names[2:] and bin_.agrees()


def test_no_more_bytes_than_allowed(bin_: Bin, thinning):
    for path in (b"/a", b"/b", b"/c"):
        bin_.put(path, bytes(1000))
    removed = [bin_.rm(b"/a"), bin_.rm(b"/b")]
    bin_.over(b"/c", b"")
    thinning.trim(100, 1500)
    assert kept(bin_) == removed[1:] and bin_.agrees()


@pytest.mark.parametrize(("items", "size"), [(100, 2500), (2, None)])
def test_of_one_that_is_too_much_alone_the_oldest_go(bin_: Bin, thinning, items, size):
    bin_.begin("rm")
    for number in range(4):
        bin_.put(b"/%d" % number, bytes(1000))
        name = bin_.session.remove(Remove(b"/%d" % number)).operation
    thinning.trim(items, size)
    states = [one.state for one in bin_.items(operation=name)]
    assert states == ["kept", "kept", "purged", "purged"]
    thinning.trim(items, size)
    assert [one.state for one in bin_.items(operation=name)] == states
    assert bin_.agrees()


def test_an_operation_that_is_one_tree_too_large(bin_: Bin, thinning):
    bin_.put(b"/t/a", bytes(5000), parents=True)
    bin_.rm(b"/t", recursive=True)
    bin_.measure()
    thinning.trim(100, 1000)
    assert kept(bin_) == [] and bin_.agrees()


def test_the_oldest_of_an_account_for_space(bin_: Bin, thinning, accounts):
    bob = accounts.add("bob", "correct-horse", home=bin_.files)
    bin_.put(b"/a", b"123")
    bin_.put(b"/b", b"1")
    removed = bin_.rm(b"/a")
    version = bin_.over(b"/b", b"2")
    theirs = Thinning(thinning._home, bin_.ledger, bob.id)
    assert not theirs.evict_oldest()
    assert thinning.evict_oldest()
    assert kept(bin_) == [removed]
    assert bin_.ledger.was_evicted(bin_.account.id, version)
    assert thinning.evict_oldest() and not thinning.evict_oldest()
    assert bin_.agrees()


def test_versions_by_the_lines_times(bin_: Bin, thinning):
    """What counts is when something was replaced, not when its operation began."""
    bin_.put(b"/a", b"0")
    bin_.begin("a long one")
    for number in range(3):
        bin_.put(b"/a", b"%d" % (number + 1))
    name = bin_.session.keeping.name
    index = bin_.directory(name) / "index"
    lines = list(decode(index.read_bytes()))
    days = iter([3, 3, 1])
    older = [
        type(line)(**{**_fields(line), "time": NOW - next(days) * DAY})
        if line in Contents.of(lines).items
        else line
        for line in lines
    ]
    index.write_bytes(encode(older))
    thinning.thin(5, NOW)
    assert len(bin_.things(name)) == 2 and bin_.agrees()


def _fields(line) -> dict[str, object]:
    return {name: getattr(line, name) for name in line.__struct_fields__}


def test_nobody_waits_for_what_was_put_in_place_of_an_index(bin_: Bin, thinning: Thinning):
    """Who owns the home may put a FIFO there: opening that waits for somebody who writes to it."""
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")
    other = new_name(time.time_ns())
    bin_.directory(other).mkdir()
    os.mkfifo(bin_.directory(other) / "index")
    bin_.measure()
    assert [one.name for one in bin_.operations()] == [name]
    thinning.expire(0, time.time_ns() + DAY)
    assert not bin_.directory(other).exists()
    assert bin_.agrees()


def test_what_is_removed_while_versions_are_thinned_stays(
    bin_: Bin, thinning: Thinning, monkeypatch
):
    """All versions of an operation go, and its command goes on."""
    bin_.put(b"/a", b"old")
    bin_.put(b"/b", b"precious")
    name = bin_.over(b"/a", b"newer")
    purge = thinning_module.purge

    def removed_meanwhile(*args, **options):
        bin_.session.remove(Remove(b"/b"))
        return purge(*args, **options)

    monkeypatch.setattr(thinning_module, "purge", removed_meanwhile)
    thinning.thin(0, time.time_ns())
    [thing] = bin_.things(name)
    assert (bin_.directory(name) / thing).read_bytes() == b"precious"
    assert bin_.agrees()
