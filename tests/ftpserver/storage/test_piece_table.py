"""The table of an upload's pieces: many who write, one who hashes, and an end after which nothing
is written. Here each session has open files of its own; whether it has a process, too, makes no
difference to the locks."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ftpserver.storage import piece_table as module
from ftpserver.storage import upload_locks
from ftpserver.storage.piece_table import Collector, Contributor, PieceTable, end_table
from ftpwire import digests, pieces
from ftpwire.errors import Busy, CommandError, LeaseLost, TooMany, VerificationFailed
from ftpwire.pieces import Piece
from tests.peer import eventually

NAME, KEY = b"u-one", bytes(range(16))
SIZE = 64 * 1024
NOISE = random.Random(9).randbytes(SIZE)


class Upload:
    """One upload's staging file and its table, as the session has them that owns it."""

    def __init__(self, path, size: int = SIZE, base: int = 0) -> None:
        self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.fd = os.open(NAME, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=self.directory)
        self.table = PieceTable.create(self.directory, NAME, b"new", KEY, size, base)
        self.marks: list[tuple[int, bytes]] = []
        self.lost = threading.Event()

    def collect(self, on_step: Callable[[int, bytes], None] | None = None) -> Collector:
        return Collector(
            self.table,
            self.fd,
            0,
            digests.new(),
            on_step or (lambda *mark: self.marks.append(mark)),
            self.end,
            self.lost.set,
        )

    def end(self) -> None:
        self.table.end(self.directory, NAME, self.fd)

    def helper(self) -> Contributor:
        return Contributor.open(self.directory, NAME, KEY)

    def close(self) -> None:
        self.table.close()
        os.close(self.fd)
        os.close(self.directory)


@pytest.fixture
def upload(tmp_path) -> Iterator[Upload]:
    made = Upload(tmp_path)
    yield made
    made.close()


@pytest.fixture
def helper(upload) -> Iterator[Contributor]:
    made = upload.helper()
    yield made
    made.close()


@contextmanager
def collecting(upload: Upload, **options) -> Iterator[Collector]:
    collector = upload.collect(**options)
    try:
        yield collector
    finally:
        collector.stop()


def bring(helper: Contributor, start: int, data: bytes) -> None:
    piece = helper.begin(start, len(data))
    piece.write(memoryview(data))
    piece.finish()


# in any order --------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Against a model: what was begun, and how far each piece came."""

    def __init__(self) -> None:
        super().__init__()
        self.upload = Upload(tempfile.mkdtemp(dir=AnyOrder.above), size=100)
        self.helpers = [self.upload.helper() for _ in range(3)]
        self.pieces: list[Piece] = []
        self.ended = False

    def teardown(self) -> None:
        for one in self.helpers:
            one.close()
        self.upload.close()

    @rule(which=st.integers(0, 2), start=st.integers(0, 101), size=st.integers(0, 40))
    def begin(self, which: int, start: int, size: int) -> None:
        taken = {at for one in self.pieces for at in range(one.start, one.end)}
        fits = size and start + size <= 100 and taken.isdisjoint(range(start, start + size))
        try:
            piece = self.helpers[which].begin(start, size)
        except LeaseLost:
            assert self.ended
        except CommandError:
            assert not fits and not self.ended
        else:
            assert fits and not self.ended
            self.pieces.append(piece)

    @rule(chance=st.randoms(), count=st.integers(0, 50))
    def write(self, chance: random.Random, count: int) -> None:
        if not self.pieces:
            return
        piece = chance.choice(self.pieces)
        before, left = piece.at, piece.end - piece.at
        try:
            piece.write(memoryview(NOISE[before : before + count]))
        except LeaseLost:
            assert self.ended and count
        except VerificationFailed:
            assert count > left
        else:
            assert piece.at == before + count and (not count or not self.ended)
            return
        assert piece.at == before

    @rule()
    def end(self) -> None:
        if not self.ended and sum(one.at - one.start for one in self.pieces) > 60:
            self.ended = True
            self.upload.end()

    @invariant()
    def the_table_says_what_is_there(self) -> None:
        there = {at for one in self.pieces for at in range(one.start, one.at)}
        frontier = next(at for at in range(101) if at not in there)
        look = self.upload.table.look(all_slots=True)
        assert (look.frontier(), look.received()) == (frontier, len(there))
        data = os.pread(self.upload.fd, 100, 0)
        kept = range(frontier) if self.ended else there  # the end cuts off what lies behind a gap
        assert all(data[at] == NOISE[at] for at in kept)
        assert os.fstat(self.upload.table.fd).st_size == module._SIZE, "however many there were"


def test_any_order(tmp_path_factory):
    AnyOrder.above = tmp_path_factory.mktemp("any")
    few = settings(max_examples=settings().max_examples // 2, stateful_step_count=30)
    AnyOrder.TestCase.settings = few
    AnyOrder.TestCase().runTest()


def test_pieces_are_hashed_behind(upload, helper, monkeypatch):
    monkeypatch.setattr(pieces, "STEP", SIZE // 2)
    other = upload.helper()
    with collecting(upload) as collector:
        for number, start in enumerate(reversed(range(0, SIZE, 4096))):
            bring((helper, other)[number % 2], start, NOISE[start : start + 4096])
        assert collector.received == SIZE
        assert collector.finish() == digests.digest(NOISE)
        assert collector.frontier == SIZE and not upload.lost.is_set()
    assert upload.marks[0][1] == digests.digest(NOISE[: upload.marks[0][0]])
    other.close()


def test_holes_are_hashed_behind_where_the_file_ends_before_them(upload, helper):
    with collecting(upload) as collector:
        bring(helper, 0, NOISE[:5000])
        for start in (20_000, 5000):
            with helper.begin(start, 15_000) as piece:
                piece.hole(10_000)
                piece.hole(5000)
                piece.finish()
        eventually(lambda: upload.table.has_holes() and collector._hashed == 35_000)
        assert os.fstat(upload.fd).st_size == 5000
        assert collector.finish() == digests.digest(NOISE[:5000].ljust(35_000, b"\0"))
    assert os.fstat(upload.fd).st_size == 35_000


def test_bytes_that_are_there_become_a_hole(upload, helper):
    os.pwrite(upload.fd, b"x" * 40_000, 0)
    with collecting(upload) as collector:
        with helper.begin(0, 30_000) as piece:
            piece.hole(30_000)
            piece.finish()
        assert collector.finish() == digests.digest(bytes(30_000))
    assert os.pread(upload.fd, 50_000, 0) == bytes(30_000)


def test_only_what_is_there_without_a_gap_counts(upload, helper):
    with collecting(upload) as collector:
        bring(helper, 5000, NOISE[5000:6000])
        piece = helper.begin(0, 5000)
        piece.write(memoryview(NOISE[:300]))
        assert collector.finish() == digests.digest(NOISE[:300])
        assert collector.frontier == 300
        with pytest.raises(LeaseLost):
            piece.write(memoryview(NOISE[300:400]))
    assert os.fstat(upload.fd).st_size == 300


def test_gaps_are_limited(upload, helper, monkeypatch):
    assert module.MOST_UNDER_WAY == 1024
    monkeypatch.setattr(module, "MOST_UNDER_WAY", 3)
    for start in (1, 3, 5):
        helper.begin(start, 1)
    with pytest.raises(TooMany):
        helper.begin(7, 1)


def test_two_can_not_begin_at_the_same_time(upload, helper, monkeypatch):
    other, real = upload.helper(), PieceTable.put_slot

    def begin_within(self, *slot: object) -> None:
        monkeypatch.setattr(PieceTable, "put_slot", real)
        monkeypatch.setattr(upload_locks, "PATIENCE", 0.0)
        with pytest.raises(Busy):
            other.begin(0, 10)
        real(self, *slot)

    monkeypatch.setattr(PieceTable, "put_slot", begin_within)
    helper.begin(0, 10)
    other.close()


def test_a_piece_that_is_complete_leaves_its_slot_alone(upload, helper):
    piece = helper.begin(0, 10)
    piece.write(memoryview(NOISE[:10]))
    other = helper.begin(10, 10)  # which has the slot now
    piece.write(memoryview(b""))
    assert upload.table.look().slots == {0: module.Slot(other.start, other.end, other.at)}


def test_another_key_and_no_table(upload):
    with pytest.raises(LeaseLost):
        Contributor.open(upload.directory, NAME, bytes(16))
    upload.end()
    with pytest.raises(LeaseLost):
        upload.helper()


def test_a_fifo_in_the_place_of_the_file_holds_nobody_up(upload):
    os.unlink(NAME, dir_fd=upload.directory)
    os.mkfifo(NAME, dir_fd=upload.directory)
    helper = upload.helper()
    piece = helper.begin(0, 10)
    with pytest.raises(OSError, match="Illegal seek"):
        piece.write(memoryview(NOISE[:10]))
    helper.close()


def test_a_record_that_is_just_being_written_is_not_believed(upload, helper, monkeypatch):
    """The control: with any checksum it would be."""
    helper.begin(0, 100)
    record = os.pread(upload.table.fd, 32, module._SLOTS_AT)
    torn = record[:16] + (60).to_bytes(8, "big") + record[24:]
    os.pwrite(upload.table.fd, torn, module._SLOTS_AT)
    assert upload.table.look().frontier() == 0
    with pytest.raises(OSError, match="damaged"):
        helper.begin(0, 10)
    monkeypatch.setattr(module.zlib, "crc32", lambda data: int.from_bytes(record[28:], "big"))
    assert module._slots_in(os.pread(upload.table.fd, module._SIZE, 0))[0][0].at == 60


# what goes wrong -----------------------------------------------------------------------------


def test_a_full_disk_fails_the_piece_and_the_whole(upload, helper, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "full")

    with collecting(upload) as collector:
        piece = helper.begin(100, 10)
        real = os.pwrite
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "pwrite", lambda fd, *what: (full if fd == helper._fd else real)(fd, *what)
            )
            with pytest.raises(OSError, match="full"):
                piece.write(memoryview(b"x"))
        eventually(lambda: upload.table._head()[0], "the others stop")
        with pytest.raises(OSError, match="No space"):
            helper.begin(200, 10)
        with pytest.raises(OSError, match="No space"):
            collector.finish()


def test_a_checkpoint_that_fails_ends_it(upload, helper, monkeypatch):
    monkeypatch.setattr(pieces, "STEP", 1)

    def fails(*_: object) -> None:
        raise OSError(5, "broken")

    with collecting(upload, on_step=fails) as collector:
        bring(helper, 0, NOISE[:100])
        with pytest.raises(OSError, match="broken"):
            collector.finish()


def test_who_is_taken_over_hears_of_it_at_once(upload, helper):
    with collecting(upload) as collector:
        bring(helper, 0, NOISE[:100])
        piece = helper.begin(100, 100)
        piece.write(memoryview(NOISE[100:150]))
        end_table(upload.directory, NAME, upload.fd, None)
        assert os.fstat(upload.fd).st_size == 150
        assert upload.lost.wait(30)
        with pytest.raises(LeaseLost):
            piece.write(memoryview(NOISE[150:200]))
        with pytest.raises(LeaseLost):
            collector.finish()
    end_table(upload.directory, NAME, upload.fd, 0)  # which is gone
    assert os.fstat(upload.fd).st_size == 150


@pytest.mark.parametrize("end", ["owner", "taker"])
def test_no_gap_is_left_once_the_table_is_gone(upload, helper, monkeypatch, end):
    """Whoever ends it may die at any moment: the file's size tells how much counts then."""
    bring(helper, 0, NOISE[:100])
    bring(helper, 500, NOISE[500:600])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "unlink_if_there", die)
    with pytest.raises(KeyboardInterrupt):
        if end == "owner":
            upload.end()
        else:
            end_table(upload.directory, NAME, upload.fd, None)
    assert os.fstat(upload.fd).st_size == 100


def test_without_its_owner_nothing_is_begun(upload, helper, monkeypatch):
    piece = helper.begin(0, 100)
    piece.write(memoryview(NOISE[:50]))
    upload.table.close()  # as when its process dies
    with pytest.raises(LeaseLost):
        helper.begin(100, 100)
    monkeypatch.setattr(module, "AHEAD", 10)
    with pytest.raises(LeaseLost):
        piece.write(memoryview(NOISE[50:60]))


def test_who_writes_waits_for_a_hash_that_is_behind(upload, helper, monkeypatch):
    """Without a lock: the end doesn't wait for it."""
    monkeypatch.setattr(module, "AHEAD", 1000)
    monkeypatch.setattr(pieces, "STEP", 1)
    go_on, stuck = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        stuck.set()
        assert go_on.wait(30)

    with collecting(upload, on_step=slow) as collector:
        bring(helper, 0, NOISE[:100])
        assert stuck.wait(30)
        helper.begin(5000, 1000)  # behind a gap: it holds up nobody
        bring(helper, 100, NOISE[100:1100])
        waiting = threading.Thread(target=lambda: bring(helper, 1100, NOISE[1100:1200]))
        waiting.start()
        waiting.join(0.02)
        assert waiting.is_alive() and os.pread(upload.fd, 10, 1100) == b""
        go_on.set()
        waiting.join()
        assert collector.finish() == digests.digest(NOISE[:1200])


# nothing after the end, in processes ---------------------------------------------------------


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A process that does something until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def keeps_writing(upload: Upload, start: int) -> Callable[[], None]:
    """Other bytes to the same place again and again, as no client can: any of it shows."""

    def work() -> None:
        helper = upload.helper()
        piece = helper.begin(start, 4096)
        while True:
            piece.write(memoryview(os.urandom(64)))
            piece.at = start

    return work


@contextmanager
def ended_beside_writers(upload: Upload) -> Iterator[bytes]:
    """The bytes when the table was ended, beside two processes that write."""
    with child(keeps_writing(upload, 0)), child(keeps_writing(upload, 4096)):
        eventually(lambda: os.pread(upload.fd, 8192, 0).strip(b"\0")[4096:], "both write")
        upload.end()
        yield os.pread(upload.fd, 8192, 0)


def test_not_a_byte_changes_after_the_end(upload):
    with ended_beside_writers(upload) as before:
        for _ in range(200):
            os.sched_yield()
            assert os.pread(upload.fd, 8192, 0) == before
    assert os.pread(upload.fd, 8192, 0) == before


def test_the_control(upload, monkeypatch):
    """Without a look at the flag they write on."""
    monkeypatch.setattr(PieceTable, "must_go_on", lambda self: 0)
    with ended_beside_writers(upload) as before:
        eventually(lambda: os.pread(upload.fd, 8192, 0) != before, "one of them writes")


def test_who_ends_it_waits_for_one_that_is_writing(upload, helper, monkeypatch):
    piece, real, inside = helper.begin(0, 100), os.pwrite, []

    def end_within(fd: int, data: memoryview, at: int) -> int:
        if fd == helper._fd and not inside:
            inside.append(True)
            monkeypatch.setattr(upload_locks, "PATIENCE", 0.0)
            with pytest.raises(Busy):
                upload.end()
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", end_within)
    piece.write(memoryview(NOISE[:100]))
    assert inside


def test_a_writer_that_was_stopped_is_waited_for_no_longer_than_said(upload, monkeypatch):
    """SIGSTOP within a buffer: who ends it says so, instead of going on beside it."""
    read, write = os.pipe()
    real = os.pwrite

    def stopped_within() -> None:
        piece = upload.helper().begin(0, 100)

        def stop(fd: int, *what: object) -> int:
            if fd == piece._writer.fd:
                os.write(write, b"x")
                os.kill(os.getpid(), signal.SIGSTOP)
            return real(fd, *what)

        os.pwrite = stop
        piece.write(memoryview(NOISE[:100]))

    with child(stopped_within) as pid:
        assert os.read(read, 1) == b"x"
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        monkeypatch.setattr(upload_locks, "PATIENCE", 0.01)
        with collecting(upload) as collector, pytest.raises(Busy):
            collector.finish()
    os.close(read)
    os.close(write)
