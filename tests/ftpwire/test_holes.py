"""Holes of files: found where they are, left where they belong, hashed as the zeros they are."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire import digests, holes, streams
from ftpwire.holes import Extent, Extents, Hole
from ftpwire.streams import BUFFER_COUNT, BUFFER_SIZE, ReadAhead, WriteBehind
from tests import sparse
from tests.sparse import BLOCK, KIB

MIB = 1024 * KIB


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Have small files do for large ones."""
    monkeypatch.setattr(holes, "LEAST", 2 * BLOCK)
    monkeypatch.setattr(holes, "MOST", 7 * BLOCK)
    monkeypatch.setattr(holes, "_LOOKED_FROM", 4 * BLOCK)
    monkeypatch.setattr(streams, "THREAD_FROM", 64 * KIB)


@contextmanager
def opened(layout: sparse.Layout) -> Iterator[tuple[int, bytes]]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "file")
        data = sparse.make(path, layout)
        fd = os.open(path, os.O_RDWR)
        try:
            yield fd, data
        finally:
            os.close(fd)


def joined(pieces) -> bytes:
    return b"".join(bytes(len(one)) if isinstance(one, Hole) else bytes(one) for one in pieces)


# finding -----------------------------------------------------------------------------------


@given(sparse.layouts(largest=40 * BLOCK), st.data())
def test_runs_are_the_file(layout, choose):
    """From wherever it is read: all of it, its zeros where a hole is told, and no hole missed."""
    with opened(layout) as (fd, data):
        start = choose.draw(st.integers(0, len(data)))
        stop = choose.draw(st.integers(start, len(data)))
        at = start
        for run in holes.extents(fd, start, stop):
            assert run.start == at < run.stop <= stop
            at = run.stop
            if run.is_hole:
                assert not any(data[run.start : run.stop])
                assert run.stop - run.start <= holes.MOST
        assert at == stop
        reported = sum(
            one.stop - one.start for one in holes.extents(fd, 0, len(data)) if one.is_hole
        )
        there = sum(
            end - begin for begin, end in sparse.holes_of(Path(f"/proc/self/fd/{fd}"), holes.LEAST)
        )
        assert reported == there


@given(sparse.layouts(largest=60 * BLOCK), st.data())
def test_what_is_read_is_the_file(layout, choose):
    with opened(layout) as (fd, data):
        offset = choose.draw(st.integers(0, len(data)))
        hasher = digests.new(data[:offset])
        rests = choose.draw(st.integers(0, 3))
        with ReadAhead(fd, len(data) - offset, offset=offset, hasher=hasher, sparse=True) as source:
            came = []
            for number, piece in enumerate(source):
                came.append(piece if isinstance(piece, Hole) else bytes(piece))
                if number == rests:
                    source.go_idle()
        assert joined(came) == data[offset:]
        assert source.digest() == digests.digest(data)


def test_what_has_all_its_blocks_is_not_looked_at(tmp_path):
    for layout in ([(False, MIB)], [(True, 3 * BLOCK)], [(False, MIB), (True, BLOCK)]):
        sparse.make(tmp_path / "file", layout)
        assert not holes.may_have(os.stat(tmp_path / "file"))


def test_one_that_has_fewer_is(tmp_path):
    sparse.need_holes(tmp_path)
    sparse.make(tmp_path / "file", [(False, 5), (True, MIB)])
    with open(tmp_path / "file", "rb") as file:
        assert holes.are_in(file.fileno(), MIB)


def test_a_file_system_that_can_not_know(monkeypatch):
    with opened([(False, BLOCK), (True, MIB)]) as (fd, data):
        reported = Recording(errno.EINVAL)
        monkeypatch.setattr(os, "lseek", reported)
        assert [one.is_hole for one in holes.extents(fd, 0, len(data))] == [False]
        os.pwrite(fd, b"x" * 100, MIB // 2)
        holes.leave(fd, BLOCK, MIB)
        assert not any(os.pread(fd, MIB, BLOCK)[: MIB - BLOCK])
        assert reported.calls


class Recording:
    """An lseek that fails when it is asked for holes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    def __call__(self, fd: int, offset: int, whence: int) -> int:
        self.calls += 1
        raise OSError(self.number, os.strerror(self.number))


def test_small_holes_are_passed_over_only_so_far(monkeypatch):
    """A file full of them isn't looked through before its first byte is read."""
    monkeypatch.setattr(holes, "_LOOK_AHEAD", 16 * BLOCK)
    with opened([(False, BLOCK), (True, BLOCK)] * 50) as (fd, data):
        (first, *_) = found = list(holes.extents(fd, 0, len(data)))
        assert 16 * BLOCK <= first.stop <= 18 * BLOCK
        assert not any(one.is_hole for one in found)


def test_a_file_that_became_shorter_has_no_hole_behind_its_end():
    with opened([(False, MIB), (True, MIB)]) as (fd, _):
        extents = Extents(fd)
        assert extents.at(0) == Extent(0, MIB, False)
        os.ftruncate(fd, MIB // 2)
        assert Extents(fd).at(MIB) != Extent(MIB, 2 * MIB, True)
        with ReadAhead(fd, 2 * MIB, sparse=True) as source:
            assert sum(len(piece) for piece in source) == source.size == MIB // 2


# leaving -----------------------------------------------------------------------------------


@given(
    sparse.layouts(largest=40 * BLOCK),
    sparse.layouts(largest=60 * BLOCK, most=3),
    st.integers(0, 50 * BLOCK),
    st.booleans(),
)
def test_what_is_written_is_the_file_whatever_was_there(layout, before, offset, rests):
    """Also where other bytes are: they become zeros."""
    data = sparse.contents(layout)
    with opened(before) as (fd, old):
        offset = min(offset, len(old))
        os.lseek(fd, offset, os.SEEK_SET)
        with WriteBehind(fd, hasher=digests.new(old[:offset])) as sink:
            at = 0
            for hole, size in layout:
                if hole:
                    sink.hole(size)
                else:
                    sink.write(memoryview(data)[at : at + size])
                at += size
                if rests:
                    sink.go_idle()
            digest = sink.finish()
        assert sink.size == len(data)
        end = offset + len(data)
        assert os.fstat(fd).st_size == max(end, len(old))
        assert os.pread(fd, end, 0) == old[:offset] + data
        assert digest == digests.digest(old[:offset] + data)


def test_holes_take_no_place(tmp_path):
    sparse.need_holes(tmp_path)
    layout = [(True, MIB), (False, BLOCK), (True, 8 * MIB)]
    data = sparse.contents(layout)
    with open(tmp_path / "file", "wb") as file, WriteBehind(file.fileno()) as sink:
        sink.hole(MIB)
        sink.write(memoryview(data)[MIB : MIB + BLOCK])
        sink.hole(8 * MIB)
        sink.finish()
        os.fsync(file.fileno())
    assert (tmp_path / "file").read_bytes() == data
    assert sparse.taken(tmp_path / "file") <= 2 * BLOCK


def test_no_more_holes_wait_than_buffers(tmp_path, monkeypatch):
    """Whoever sends them faster than they are hashed waits: they are not piled up."""
    most = 0
    with open(tmp_path / "file", "wb") as file, WriteBehind(file.fileno()) as sink:
        hash_zeros = holes.hash_zeros

        def slowly(*arguments) -> None:
            nonlocal most
            most = max(most, sink._full.qsize())
            hash_zeros(*arguments)

        monkeypatch.setattr(holes, "hash_zeros", slowly)
        sink.write(memoryview(bytes(4 * BUFFER_SIZE)))
        for _ in range(200):
            sink.hole(BLOCK)
        sink.finish()
    assert 0 < most <= BUFFER_COUNT


def test_a_disk_that_takes_no_more_is_reported(tmp_path, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.EFBIG, "too large")

    monkeypatch.setattr(os, "ftruncate", full)
    with open(tmp_path / "file", "wb") as file, WriteBehind(file.fileno()) as sink:
        sink.hole(MIB)
        with pytest.raises(OSError, match="too large"):
            sink.finish()
