"""Bytes through a second thread: the same bytes, the right digest, and no thread left."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire import digests, streams
from ftpwire.digests import digest
from ftpwire.streams import (
    BUFFER_COUNT,
    BUFFER_SIZE,
    FIRST_SIZE,
    THREAD_FROM,
    ReadAhead,
    WriteBehind,
    write_all,
)

SIZES = {
    "empty": 0,
    "one-byte": 1,
    "under-a-buffer": BUFFER_SIZE - 1,
    "a-buffer": BUFFER_SIZE,
    "over-a-buffer": BUFFER_SIZE + 1,
    "under-the-thread": THREAD_FROM - 1,
    "the-thread": THREAD_FROM,
    "over-the-thread": THREAD_FROM + 1,
    "all-buffers": BUFFER_COUNT * BUFFER_SIZE,
    "over-all-buffers": BUFFER_COUNT * BUFFER_SIZE + 1,
    "buffers-again-and-again": 3 * BUFFER_COUNT * BUFFER_SIZE + 12_345,
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)

NOISE = random.Random(7).randbytes(max(SIZES.values()) + 100)


@pytest.fixture(autouse=True)
def no_thread_outlives_its_block():
    yield
    assert working_threads() == []


def working_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("write-behind", "read-ahead")]


# Writing -----------------------------------------------------------------------------------


def by_buffer(stream: WriteBehind, data: bytes) -> None:
    while data:
        space = stream.buffer()
        space[: len(data)] = data[: len(space)]
        count = min(len(space), len(data))
        stream.filled(count)
        data = data[count:]


def by_small_fills(stream: WriteBehind, data: bytes) -> None:
    while data:
        count = min(len(stream.buffer()), len(data), 77_777)
        stream.buffer()[:count] = data[:count]
        stream.filled(count)
        data = data[count:]


def by_write(stream: WriteBehind, data: bytes) -> None:
    stream.write(memoryview(data))


def by_turns(stream: WriteBehind, data: bytes) -> None:
    view = memoryview(data)
    for number, at in enumerate(range(0, len(view), 100_003)):
        piece = view[at : at + 100_003]
        (by_write if number % 2 else by_buffer)(stream, bytes(piece))


WAYS = pytest.mark.parametrize(
    "way",
    [
        pytest.param(by_buffer, id="buffer"),
        pytest.param(by_small_fills, id="small-fills"),
        pytest.param(by_write, id="write"),
        pytest.param(by_turns, id="by-turns"),
    ],
)


@WAYS
@sizes
def test_write_behind(tmp_path, way, size):
    data = memoryview(NOISE)[:size]
    with open(tmp_path / "f", "wb") as file:
        with WriteBehind(file.fileno()) as stream:
            way(stream, bytes(data))
            assert stream.finish() == digest(data)
        assert working_threads() == []
        assert stream.size == size
    assert (tmp_path / "f").read_bytes() == data


@given(pieces=st.lists(st.binary(max_size=100), max_size=20), data=st.data())
def test_write_behind_in_any_pieces(tmp_path_factory, pieces, data):
    """With buffers of 16 bytes, so that every edge is met."""
    path = tmp_path_factory.getbasetemp() / "any-pieces"
    with pytest.MonkeyPatch.context() as patch, open(path, "wb") as file:
        patch.setattr(streams, "BUFFER_SIZE", 16)
        with WriteBehind(file.fileno()) as stream:
            for piece in pieces:
                if data.draw(st.booleans()):
                    by_write(stream, piece)
                else:
                    by_buffer(stream, piece)
            assert stream.finish() == digest(b"".join(pieces))
    assert path.read_bytes() == b"".join(pieces)


def test_write_behind_goes_on_where_the_descriptor_is(tmp_path):
    with open(tmp_path / "f", "w+b", buffering=0) as file:
        file.write(b"head")
        with WriteBehind(file.fileno(), hasher=digests.new(b"head")) as stream:
            stream.write(memoryview(b"tail"))
            assert stream.finish() == digest(b"headtail")
    assert (tmp_path / "f").read_bytes() == b"headtail"


def test_write_behind_is_bounded(tmp_path):
    """However much goes through, it is a few buffers."""
    buffers: list[object] = []
    with open(tmp_path / "f", "wb") as file, WriteBehind(file.fileno()) as stream:
        for _ in range(5 * BUFFER_COUNT):
            view = stream.buffer()
            if not any(view.obj is buffer for buffer in buffers):
                buffers.append(view.obj)
            stream.filled(len(view))
        stream.finish()
    large = [buffer for buffer in buffers if len(buffer) == BUFFER_SIZE]
    assert len(large) <= BUFFER_COUNT
    assert sum(len(buffer) for buffer in buffers if buffer not in large) <= 2 * THREAD_FROM


def held(stream: WriteBehind) -> int:
    """Bytes of the buffer that is received into."""
    return len(stream.buffer().obj)


def test_a_writer_begins_small_and_rests_small(tmp_path):
    """Whoever brings nothing, or stops bringing, costs little; what came is written."""
    with open(tmp_path / "f", "wb") as file, WriteBehind(file.fileno()) as stream:
        assert held(stream) == FIRST_SIZE
        by_buffer(stream, NOISE[: 3 * THREAD_FROM + 7])
        assert held(stream) == BUFFER_SIZE and working_threads() == ["write-behind"]
        stream.go_idle()
        assert working_threads() == [] and held(stream) == FIRST_SIZE
        assert os.fstat(file.fileno()).st_size == 3 * THREAD_FROM + 7
        by_buffer(stream, NOISE[3 * THREAD_FROM + 7 :])
        assert held(stream) == BUFFER_SIZE
        assert stream.finish() == digest(NOISE)
    assert (tmp_path / "f").read_bytes() == NOISE


def test_a_failure_while_a_writer_rests_is_reported(failing):
    with WriteBehind(failing) as stream:
        by_write(stream, NOISE[:10])
        stream.go_idle()
        with pytest.raises(OSError):
            stream.finish()


def test_a_small_file_needs_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    with open(tmp_path / "f", "wb") as file, WriteBehind(file.fileno()) as stream:
        stream.write(memoryview(b"small"))
        assert stream.finish() == digest(b"small")
    with open(tmp_path / "f", "rb") as file, ReadAhead(file.fileno(), 5) as source:
        assert b"".join(source) == b"small"


@pytest.fixture(params=["full-disk", "read-only", "pipe-without-reader"])
def failing(request, tmp_path):
    """A descriptor that takes nothing."""
    if request.param == "full-disk":
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full here")
        fd = os.open("/dev/full", os.O_WRONLY)
    elif request.param == "read-only":
        (tmp_path / "f").touch()
        fd = os.open(tmp_path / "f", os.O_RDONLY)
    else:
        reader, fd = os.pipe()
        os.close(reader)
    yield fd
    os.close(fd)


@WAYS
@pytest.mark.parametrize(
    "size",
    [1, BUFFER_SIZE - 1, BUFFER_SIZE, 3 * BUFFER_SIZE + 1, 10 * BUFFER_SIZE],
    ids=["one-byte", "under-a-buffer", "a-buffer", "a-few-buffers", "many-buffers"],
)
def test_a_failing_descriptor_is_reported_and_nothing_hangs(failing, way, size):
    with WriteBehind(failing) as stream:
        with pytest.raises(OSError):
            way(stream, NOISE[:size])
            stream.finish()
    assert working_threads() == []


def test_a_failure_is_reported_by_buffer_too(failing):
    """So that a receiver stops at once, not after the last byte."""
    with WriteBehind(failing) as stream:
        with pytest.raises(OSError):
            while True:
                stream.filled(len(stream.buffer()))
        with pytest.raises(OSError):
            stream.finish()


def test_a_failure_is_reported_every_time(failing):
    with WriteBehind(failing) as stream:
        with pytest.raises(OSError):
            by_write(stream, NOISE[: 8 * BUFFER_SIZE])
        for _ in range(2 * BUFFER_COUNT):
            with pytest.raises(OSError):
                stream.buffer()


class BrokenHasher:
    def update(self, _):
        raise RuntimeError("out of order")


def test_any_other_failure_of_the_writer_is_reported(tmp_path):
    with open(tmp_path / "f", "wb") as file:
        with WriteBehind(file.fileno(), hasher=BrokenHasher()) as stream:
            with pytest.raises(RuntimeError, match="out of order"):
                by_write(stream, NOISE)
                stream.finish()


@pytest.mark.parametrize("size", [0, 10, BUFFER_SIZE, 3 * BUFFER_SIZE])
def test_leaving_in_the_middle_stops_the_writer(tmp_path, size):
    with open(tmp_path / "f", "wb") as file:
        with pytest.raises(KeyError), WriteBehind(file.fileno()) as stream:
            by_write(stream, NOISE[:size])
            raise KeyError
        assert working_threads() == []


@pytest.fixture
def no_more_threads(monkeypatch):
    def refuse(_):
        raise RuntimeError("cannot start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_no_more_threads_to_write_with(tmp_path, no_more_threads):
    with open(tmp_path / "f", "wb") as file, WriteBehind(file.fileno()) as stream:
        with pytest.raises(RuntimeError, match="cannot start"):
            by_write(stream, NOISE)


def test_no_more_threads_to_read_with(noise, no_more_threads):
    with ReadAhead(noise, len(NOISE)) as source:
        with pytest.raises(RuntimeError, match="cannot start"):
            collect(source)


def test_write_all_goes_on_after_short_writes(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(streams.os, "write", lambda fd, data: real(fd, data[:7]))
    with open(tmp_path / "f", "wb") as file:
        for form in (bytes, bytearray, memoryview):
            write_all(file.fileno(), form(NOISE[:100]))
    assert (tmp_path / "f").read_bytes() == NOISE[:100] * 3


# Reading -----------------------------------------------------------------------------------


@pytest.fixture
def noise(tmp_path):
    """NOISE in a file, open for reading."""
    (tmp_path / "noise").write_bytes(NOISE)
    fd = os.open(tmp_path / "noise", os.O_RDONLY)
    yield fd
    os.close(fd)


def collect(source: ReadAhead) -> bytes:
    return b"".join(bytes(view) for view in source)  # a view is good until the next


@sizes
def test_read_ahead(noise, size):
    with ReadAhead(noise, size) as source:
        assert collect(source) == NOISE[:size]
    assert working_threads() == []
    assert source.size == size
    assert source.digest() == digest(NOISE[:size])
    assert os.lseek(noise, 0, os.SEEK_CUR) == 0  # others may read from it at the same time


@sizes
@pytest.mark.parametrize("offset", [1, BUFFER_SIZE + 3])
def test_read_ahead_from_an_offset(noise, size, offset):
    """The digest is still the whole file's: the hasher had the head before."""
    size = min(size, len(NOISE) - offset)
    with ReadAhead(noise, size, offset=offset, hasher=digests.new(NOISE[:offset])) as source:
        assert collect(source) == NOISE[offset : offset + size]
    assert source.digest() == digest(NOISE[: offset + size])


@pytest.mark.parametrize("size", [1000, THREAD_FROM + 1, 3 * THREAD_FROM])
def test_read_ahead_without_hashing(tmp_path, size):
    (tmp_path / "file").write_bytes(data := random.Random(size).randbytes(size))
    hasher = digests.new()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with ReadAhead(fd, size, hasher=hasher, hashes=False) as pieces:
            assert b"".join(bytes(piece) for piece in pieces) == data
    finally:
        os.close(fd)
    assert hasher.digest() == digest(b"")


@pytest.mark.parametrize("there", [0, 1, BUFFER_SIZE, 2 * BUFFER_SIZE + 1])
@pytest.mark.parametrize("announced", [THREAD_FROM, 3 * THREAD_FROM], ids=["here", "ahead"])
def test_a_file_shorter_than_announced(tmp_path, there, announced):
    there = min(there, announced - 1)
    (tmp_path / "f").write_bytes(NOISE[:there])
    with open(tmp_path / "f", "rb") as file, ReadAhead(file.fileno(), announced) as source:
        assert collect(source) == NOISE[:there]
        assert source.size == there < announced
        assert source.digest() == digest(NOISE[:there])


@pytest.mark.parametrize("size", [10, 3 * THREAD_FROM], ids=["here", "ahead"])
def test_beyond_the_end_there_is_nothing(noise, size):
    with ReadAhead(noise, size, offset=len(NOISE) + 5) as source:
        assert collect(source) == b""


@given(
    data=st.binary(max_size=300),
    size=st.integers(0, 310),
    offset=st.integers(0, 310),
    thread_from=st.sampled_from([0, 40, 1000]),
)
def test_read_ahead_of_any_part(tmp_path_factory, data, size, offset, thread_from):
    """With buffers of 16 bytes, so that every edge is met."""
    path = tmp_path_factory.getbasetemp() / "any-part"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch, open(path, "rb") as file:
        patch.setattr(streams, "BUFFER_SIZE", 16)
        patch.setattr(streams, "THREAD_FROM", thread_from)
        with ReadAhead(file.fileno(), size, offset=offset) as source:
            assert collect(source) == data[offset : offset + size]
        assert source.digest() == digest(data[offset : offset + size])


@pytest.mark.parametrize("size", [1, THREAD_FROM, 4 * THREAD_FROM], ids=["small", "here", "ahead"])
def test_a_descriptor_that_fails_to_read(tmp_path, size):
    directory = os.open(tmp_path, os.O_RDONLY)
    write_only = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    try:
        for fd in (directory, write_only):
            with ReadAhead(fd, size) as source, pytest.raises(OSError):
                collect(source)
            assert working_threads() == []
    finally:
        os.close(directory)
        os.close(write_only)


def test_a_failure_in_the_middle_comes_after_what_was_read(noise, monkeypatch):
    real, calls = os.preadv, []

    def fail_later(fd, buffers, offset):
        if len(calls) > 12:
            raise OSError(5, "Input/output error")
        calls.append(real(fd, buffers, offset))
        return calls[-1]

    monkeypatch.setattr(streams.os, "preadv", fail_later)
    found = b""
    with ReadAhead(noise, len(NOISE)) as source, pytest.raises(OSError, match="Input/output"):
        for view in source:
            found += view
    assert found == NOISE[: sum(calls)] and len(found) > THREAD_FROM


def test_any_other_failure_of_the_reader_is_reported(noise):
    with ReadAhead(noise, len(NOISE), hasher=BrokenHasher()) as source:
        with pytest.raises(RuntimeError, match="out of order"):
            collect(source)


def test_an_offset_that_no_file_has_is_reported(noise):
    with ReadAhead(noise, 2 * THREAD_FROM, offset=2**64) as source:
        with pytest.raises(OverflowError):
            collect(source)


@pytest.mark.parametrize("pieces", [0, 1, 12])
def test_leaving_in_the_middle_stops_the_reader(noise, pieces):
    with ReadAhead(noise, len(NOISE)) as source:
        views = iter(source)
        for _ in range(pieces):
            next(views)
    assert working_threads() == []


def test_a_reader_begins_small(noise, monkeypatch):
    """Whoever takes nothing costs no thread, and one small buffer."""
    with ReadAhead(noise, len(NOISE)) as source:
        first = next(iter(source))
        assert len(first) == FIRST_SIZE and working_threads() == []


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("every", [1, 7, 30])
def test_a_reader_that_rests_holds_no_thread_and_goes_on(noise, every, hashes):
    found = b""
    with ReadAhead(noise, len(NOISE), hashes=hashes) as source:
        for number, view in enumerate(source):
            if number % every == 0:
                source.go_idle()
                assert working_threads() == []
            found += view
        assert found == NOISE
        if hashes:
            assert source.digest() == digest(NOISE)


def test_what_is_read_again_after_a_rest_is_hashed_as_it_is_then(tmp_path):
    """The digest is always that of the bytes that were given out."""
    path = tmp_path / "f"
    path.write_bytes(NOISE)
    found = b""
    with open(path, "r+b") as file, ReadAhead(file.fileno(), len(NOISE)) as source:
        for view in source:
            found += view
            if len(found) > 2 * THREAD_FROM and len(found) % 2 == 0:
                source.go_idle()
                os.pwrite(file.fileno(), bytes(BUFFER_SIZE), len(found))
        assert found != NOISE
        assert source.digest() == digest(found)


@pytest.mark.parametrize("there", [THREAD_FROM + 1, 3 * THREAD_FROM + 5])
def test_a_file_that_becomes_shorter_while_its_reader_rests(tmp_path, there):
    path = tmp_path / "f"
    path.write_bytes(NOISE)
    found = b""
    with open(path, "r+b") as file, ReadAhead(file.fileno(), len(NOISE)) as source:
        for view in source:
            found += view
            if len(found) >= there:
                source.go_idle()
                os.truncate(path, len(found))
        assert source.size == len(found) and source.digest() == digest(found)


def test_short_reads_are_no_end(noise, monkeypatch):
    real = os.preadv

    def short(fd, buffers, offset):
        return real(fd, [buffers[0][:10_007]], offset)

    monkeypatch.setattr(streams.os, "preadv", short)
    for size in (THREAD_FROM, 3 * THREAD_FROM):
        with ReadAhead(noise, size) as source:
            assert collect(source) == NOISE[:size]


# Pipes -------------------------------------------------------------------------------------


class Pipe:
    """A pipe whose writer is a thread, or the test itself."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._threads: list[threading.Thread] = []

    def write_behind(self, write: Callable[[int], None]) -> None:
        def run() -> None:
            write(self.writer)
            self.end()

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self.end()
        for thread in threading.enumerate():
            if thread.name == "read-ahead":
                thread.join()
        os.close(self.reader)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


@sizes
def test_a_pipe_is_read_to_its_end(pipe, size):
    pipe.write_behind(lambda fd: write_all(fd, NOISE[:size]))
    with ReadAhead(pipe.reader, None) as source:
        assert collect(source) == NOISE[:size]
        assert source.size == size
        assert source.digest() == digest(NOISE[:size])


def test_a_pipe_gives_what_it_has(pipe):
    """A piece is not held back until a buffer is full."""
    with ReadAhead(pipe.reader, None) as source:
        views = iter(source)
        for piece in (b"one", b"two", b"three"):
            os.write(pipe.writer, piece)
            assert bytes(next(views)) == piece
        pipe.end()
        assert list(views) == []


def test_while_a_pipe_is_silent_the_owner_has_its_turn(pipe, monkeypatch):
    monkeypatch.setattr(streams, "_WAIT_SECONDS", 0.001)
    turns = []

    def turn() -> None:
        turns.append(len(turns))
        if len(turns) == 3:
            os.write(pipe.writer, b"at last")
        elif len(turns) > 3:
            pipe.end()

    with ReadAhead(pipe.reader, None, while_waiting=turn) as source:
        assert collect(source) == b"at last"
    assert len(turns) > 3


def test_a_silent_pipe_can_be_left(pipe, monkeypatch):
    """As Ctrl-C does. What comes later is for whoever reads next: the shell's next line."""
    monkeypatch.setattr(streams, "_WAIT_SECONDS", 0.001)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with ReadAhead(pipe.reader, None, while_waiting=interrupt) as source:
        with pytest.raises(KeyboardInterrupt):
            collect(source)
    os.write(pipe.writer, b"the next line")
    assert os.read(pipe.reader, 100) == b"the next line"


def test_from_one_file_to_another(noise, tmp_path):
    with open(tmp_path / "f", "wb") as file:
        with ReadAhead(noise, len(NOISE)) as source, WriteBehind(file.fileno()) as target:
            for view in source:
                target.write(view)
            assert target.finish() == source.digest() == digest(NOISE)
    assert (tmp_path / "f").read_bytes() == NOISE
