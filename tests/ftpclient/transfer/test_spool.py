"""Long listings in flat memory."""

from __future__ import annotations

import os
import tempfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpclient.transfer import spool as spill
from ftpclient.transfer.spool import Spool, sort
from ftpwire.messages import Entry


def entry(path: bytes, size: int = 0) -> Entry:
    return Entry(path, "file", size, 0o644, 10**18, None, None)


@pytest.mark.parametrize("in_memory", [1, 10**6])
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_a_spool_gives_back_what_it_got_in_order(count, in_memory):
    spool = Spool(Entry, in_memory=in_memory)
    entries = [entry(b"%d" % number, number) for number in range(count)]
    for one in entries:
        spool.add(one)
    assert list(spool) == entries
    assert list(spool) == entries, "and again"
    spool.close()


def test_what_is_read_and_what_is_added_do_not_meet():
    """A reader that stops half-way, or two at once, hinder nobody."""
    spool = Spool(Entry)
    for number in range(10):
        spool.add(entry(b"%d" % number))
    first, second = iter(spool), iter(spool)
    assert [next(first).path for _ in range(3)] == [b"0", b"1", b"2"]
    assert next(second).path == b"0"
    spool.add(entry(b"late"))
    assert [one.path for one in first] == [b"%d" % n for n in range(3, 10)] + [b"late"]
    assert len(list(second)) == 10
    assert len(list(spool)) == 11
    spool.close()


def test_the_file_is_nobody_s(tmp_path, monkeypatch):
    """It has no name, or goes with the spool."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(Entry, in_memory=1)
    spool.add(entry(b"x" * 1000))
    spool.close()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def short_runs(monkeypatch):
    monkeypatch.setattr(spill, "_RUN", 7)
    monkeypatch.setattr(spill, "_CHUNK", 3)


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=3))), st.booleans())
def test_sorting_is_sorting(pairs, reverse):
    run, chunk = spill._RUN, spill._CHUNK
    spill._RUN, spill._CHUNK = 7, 3
    try:
        entries = [entry(path, size) for size, path in pairs]
        found = list(sort(iter(entries), lambda one: one.size, reverse=reverse))
        assert found == sorted(entries, key=lambda one: one.size, reverse=reverse), "stable, too"
    finally:
        spill._RUN, spill._CHUNK = run, chunk


def test_who_needs_only_the_first_leaves_nothing(short_runs):
    sorted_entries = sort((entry(b"%d" % n, n) for n in range(100)), lambda one: -one.size)
    assert next(sorted_entries).size == 99
    sorted_entries.close()


def test_memory_stays_flat():
    def peak(count: int) -> int:
        tracemalloc.start()
        last = -1
        for one in sort((entry(b"%08d" % (n * 7919 % count), n) for n in range(count)), path_of):
            last = one.size
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert last >= 0
        return found

    assert peak(60_000) < peak(20_000) * 1.7


def path_of(one: Entry) -> bytes:
    return one.path
