"""A file from pieces: the right bytes and digest in any order, and no write once it is closed."""

from __future__ import annotations

import os
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire import pieces
from ftpwire.digests import digest, new
from ftpwire.errors import CommandError, LeaseLost, SourceChanged, TooMany, VerificationFailed
from ftpwire.pieces import Assembly
from ftpwire.streams import FIRST_SIZE
from tests.peer import eventually

NOISE = random.Random(3).randbytes(40_000)
MIB = 1024 * 1024
STEP = 4 * MIB
"""Less than in earnest."""


@pytest.fixture(autouse=True)
def no_thread_outlives_its_block():
    yield
    assert "hash-behind" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    monkeypatch.setattr(pieces, "STEP", STEP)


@pytest.fixture
def fd(tmp_path):
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def put(assembly: Assembly, start: int, data: bytes) -> None:
    piece = assembly.open(start, len(data))
    piece.write(memoryview(data))
    piece.finish()


@given(cuts=st.sets(st.integers(1, len(NOISE) - 1), max_size=20), chance=st.randoms())
def test_pieces_in_any_order(tmp_path_factory, cuts, chance):
    path = tmp_path_factory.mktemp("any") / "file"
    ends = [0, *sorted(cuts), len(NOISE)]
    ranges = list(zip(ends, ends[1:], strict=False))
    chance.shuffle(ranges)
    with open(path, "w+b") as file, Assembly(file.fileno(), len(NOISE)) as assembly:
        for start, end in ranges:
            put(assembly, start, NOISE[start:end])
        assert (assembly.frontier, assembly.received) == (len(NOISE), len(NOISE))
        assert assembly.finish() == digest(NOISE)
    assert path.read_bytes() == NOISE


def test_many_threads(fd):
    data = random.Random(4).randbytes(24 * MIB)
    starts = iter(range(0, len(data), MIB))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            piece = assembly.open(start, MIB)
            at = start
            while at < start + MIB:  # as a socket does it
                space = piece.buffer()
                count = min(len(space), 70_000, start + MIB - at)
                space[:count] = data[at : at + count]
                piece.filled(count)
                at += count
            piece.finish()

    with Assembly(fd, len(data)) as assembly:
        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert assembly.finish() == digest(data)
    assert os.pread(fd, len(data), 0) == data


def test_what_is_there_already_counts(fd):
    os.write(fd, NOISE[:1000])
    with Assembly(fd, len(NOISE), offset=1000, hasher=new(NOISE[:1000])) as assembly:
        assert assembly.frontier == 1000
        put(assembly, 1000, NOISE[1000:])
        assert assembly.received == len(NOISE) - 1000
        assert assembly.finish() == digest(NOISE)


def test_only_what_is_there_without_a_gap_counts(fd):
    with Assembly(fd, len(NOISE)) as assembly:
        put(assembly, 5000, NOISE[5000:6000])
        first = assembly.open(0, 5000)
        assert assembly.frontier == 0
        first.write(memoryview(NOISE[:300]))
        assert assembly.frontier == 300
        assert assembly.finish() == digest(NOISE[:300])
        assert assembly.frontier == 300


def test_a_gap_that_is_filled(fd):
    with Assembly(fd, 3000) as assembly:
        put(assembly, 1000, NOISE[1000:2000])
        put(assembly, 0, NOISE[:1000])
        assert assembly.frontier == 2000
        last = assembly.open(2000, 1000)
        last.write(memoryview(NOISE[2000:2500]))
        assert assembly.frontier == 2500
        assert assembly.finish() == digest(NOISE[:2500])


@pytest.mark.parametrize(
    ("start", "size"),
    [
        pytest.param(500, 1000, id="begins-in-one"),
        pytest.param(2500, 1000, id="ends-in-one"),
        pytest.param(1000, 500, id="complete-before"),
        pytest.param(3200, 10, id="inside-one"),
        pytest.param(2900, 1200, id="around-one"),
        pytest.param(9000, 1001, id="beyond-the-end"),
        pytest.param(2000, 0, id="nothing"),
        pytest.param(2000, -5, id="less-than-nothing"),
    ],
)
def test_no_byte_is_written_twice(fd, start, size):
    """What was hashed must stay as it is."""
    with Assembly(fd, 10_000) as assembly:
        put(assembly, 0, NOISE[:2000])
        assembly.open(3000, 1000)
        with pytest.raises(CommandError):
            assembly.open(start, size)


def test_a_piece_takes_its_bytes_and_no_more(fd):
    with Assembly(fd, 10_000) as assembly:
        piece = assembly.open(0, 100)
        with pytest.raises(VerificationFailed, match="more"):
            piece.write(memoryview(NOISE[:101]))
        piece.write(memoryview(NOISE[:99]))
        with pytest.raises(VerificationFailed, match="99 bytes arrived of a piece of 100"):
            piece.finish()


def test_a_piece_that_rests_holds_no_buffer(fd):
    """What came is written, and the next bytes have a small buffer again."""
    data = NOISE * 40
    with Assembly(fd, len(data)) as assembly:
        piece = assembly.open(0, len(data))
        assert len(piece.buffer()) == FIRST_SIZE
        piece.go_idle()
        for start in range(0, len(data), 30_000):
            left = data[start : start + 30_000]
            while left:
                space = piece.buffer()
                count = min(len(space), len(left))
                space[:count] = left[:count]
                piece.filled(count)
                left = left[count:]
            if start % 7 == 0:
                piece.go_idle()
                assert os.fstat(fd).st_size == min(len(data), start + 30_000)
        piece.finish()
        assert assembly.finish() == digest(data)


def test_gaps_are_limited(fd, monkeypatch):
    monkeypatch.setattr(pieces, "MOST_UNDER_WAY", 3)
    with Assembly(fd, 10_000) as assembly:
        for start in (2, 4, 6):
            put(assembly, start, b"x")
        with pytest.raises(TooMany):
            assembly.open(8, 1)


def test_nobody_writes_once_it_is_closed(fd):
    with Assembly(fd, 10_000) as assembly:
        piece = assembly.open(0, 1000)
        piece.write(memoryview(NOISE[:10]))
        assembly.close()
        with pytest.raises(LeaseLost):
            piece.write(memoryview(NOISE[10:20]))
        with pytest.raises(LeaseLost):
            assembly.open(2000, 10)
        assert assembly.finish() == digest(NOISE[:10])
    assert os.fstat(fd).st_size == 10


def test_closing_waits_for_who_is_writing(fd, monkeypatch):
    """The descriptor may be closed right afterwards."""
    inside, go_on = threading.Event(), threading.Event()
    real = os.pwrite

    def slow(*arguments):
        inside.set()
        assert go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", slow)
    with Assembly(fd, 1000) as assembly:
        writer = threading.Thread(target=put, args=(assembly, 0, NOISE[:1000]))
        writer.start()
        assert inside.wait(30)
        closer = threading.Thread(target=assembly.close)
        closer.start()
        closer.join(0.05)
        assert closer.is_alive()
        go_on.set()
        closer.join()
        writer.join()
        assert assembly.finish() == digest(NOISE[:1000])


def test_a_full_disk_is_everybodys_error(fd, monkeypatch):
    def full(*_):
        raise OSError(28, "full")

    with Assembly(fd, 10_000) as assembly:
        other = assembly.open(5000, 10)
        monkeypatch.setattr(os, "pwrite", full)
        for _ in range(2):
            with pytest.raises(OSError, match="full"):
                other.write(memoryview(b"x"))
        with pytest.raises(OSError, match="full"):
            assembly.wait()
        with pytest.raises(OSError, match="full"):
            assembly.finish()


def test_marks_come_in_order_and_are_true(fd):
    data = random.Random(5).randbytes(2 * STEP + MIB)
    marks = []
    with Assembly(fd, len(data), on_step=lambda *mark: marks.append(mark)) as assembly:
        for start in reversed(range(0, len(data), MIB)):
            put(assembly, start, data[start : start + MIB])
        assembly.finish()
    assert [at for at, _ in marks] == [STEP, 2 * STEP]
    assert [found for _, found in marks] == [digest(data[:STEP]), digest(data[: 2 * STEP])]


def test_a_mark_that_fails_ends_it(fd):
    def fails(*_):
        raise OSError(5, "broken")

    with Assembly(fd, STEP, on_step=fails) as assembly:
        put(assembly, 0, bytes(STEP))
        with pytest.raises(OSError, match="broken"):
            assembly.finish()


def test_writers_wait_for_a_slow_hash(fd, monkeypatch):
    monkeypatch.setattr(pieces, "AHEAD", 2 * STEP)
    go_on, waiting = threading.Event(), threading.Event()

    def slow(*_):
        waiting.set()
        assert go_on.wait(30)

    done = []
    with Assembly(fd, 4 * STEP, on_step=slow) as assembly:

        def write() -> None:
            for start in range(0, 4 * STEP, MIB):
                put(assembly, start, bytes(MIB))
                done.append(start)

        writer = threading.Thread(target=write)
        writer.start()
        assert waiting.wait(30)
        eventually(lambda: assembly.frontier >= 3 * STEP)
        writer.join(0.05)
        assert writer.is_alive() and len(done) <= 3 * STEP // MIB + 1
        go_on.set()
        writer.join()
        assert assembly.finish() == digest(bytes(4 * STEP))


def test_a_file_that_somebody_cuts_off(fd):
    go_on = threading.Event()
    with Assembly(fd, STEP + MIB, on_step=lambda *_: go_on.wait(30)) as assembly:
        put(assembly, 0, bytes(STEP))
        put(assembly, STEP, bytes(MIB))
        os.ftruncate(fd, STEP)
        go_on.set()
        with pytest.raises(SourceChanged):
            assembly.finish()


def test_progress_is_reported_and_may_stop_it(fd):
    go_on = threading.Event()
    reported = []

    def stop(done: int) -> None:
        reported.append(done)
        go_on.set()
        raise KeyboardInterrupt

    with Assembly(fd, STEP + 1, on_step=lambda *_: go_on.wait(30)) as assembly:
        put(assembly, 0, bytes(STEP + 1))
        with pytest.raises(KeyboardInterrupt):
            assembly.finish(stop)
    assert reported == [STEP]
