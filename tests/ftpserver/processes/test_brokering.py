"""Sessions of several processes on one upload: here each process is an end of a pair."""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ftpserver.processes.brokering import Borrow, Broker, Brokered, BrokeredAnswer, Colleagues
from ftpserver.processes.rpc import Peer
from ftpserver.storage import upload_locks as owning
from ftpwire.digests import digest
from ftpwire.errors import Busy, CommandError, LeaseLost, VerificationFailed
from ftpwire.pieces import Assembly
from tests.peer import eventually

ALICE, BOB = 1, 2
KIB = 1024
NOISE = random.Random(7).randbytes(100 * KIB)


class Process:
    """What one process of a server has, and the end of the one above."""

    def __init__(self, number: int, broker: Broker) -> None:
        ours, theirs = socket.socketpair()
        self.pool = ThreadPoolExecutor(8)
        self.above = Peer(
            ours,
            hears=Brokered,
            answers=BrokeredAnswer,
            handle=lambda question, _: broker.handle(number, question),
            max_descriptors=1,
            on_end=lambda: broker.leave(number),
        )
        self.peer = Peer(
            theirs,
            hears=Brokered,
            answers=BrokeredAnswer,
            handle=lambda question, _: self.colleagues.handle(question),
            pool=self.pool,
            max_descriptors=1,
        )
        self.colleagues = Colleagues(number, self.peer)
        self.owners = self.colleagues.owners
        broker.join(number, self.above)
        self.above.start()
        self.peer.start()

    def die(self) -> None:
        """End, as far as the others see it."""
        self.peer.give_up()
        self.above.close()

    def close(self) -> None:
        self.pool.shutdown()
        self.peer.close()
        self.above.close()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    broker = Broker()
    made = [Process(number, broker) for number in (1, 2, 3)]
    yield made
    for one in made:
        one.close()


@pytest.fixture
def fd(tmp_path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def bring(process: Process, key: bytes, start: int, data: bytes, account: int = ALICE) -> None:
    with process.owners.open_piece(account, key, start, len(data)) as piece:
        piece.write(memoryview(data))
        piece.finish()


def test_pieces_from_all_processes_make_one_file(processes, fd):
    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        for number, start in enumerate(range(0, len(NOISE), KIB)):
            bring(processes[number % 3], key, start, NOISE[start : start + KIB])
        assert assembly.frontier == len(NOISE)
        assert assembly.finish() == digest(NOISE)
        processes[0].owners.unshare(key)
    assert os.pread(fd, len(NOISE), 0) == NOISE


@pytest.mark.parametrize("which", [0, 1], ids=["its-own-process", "another-one"])
def test_a_key_is_good_for_its_account_and_its_time(processes, fd, which):
    process = processes[which]
    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        for account, tried in ((BOB, key), (ALICE, b"another")):
            with pytest.raises(LeaseLost):
                process.owners.open_piece(account, tried, 0, 10)
        bring(process, key, 0, NOISE[:10])
        with pytest.raises(CommandError, match="no such piece"):
            process.owners.open_piece(ALICE, key, 0, 10)
        processes[0].owners.unshare(key)
        with pytest.raises(LeaseLost):
            process.owners.open_piece(ALICE, key, 10, 10)


def test_a_piece_that_comes_short_is_no_piece(processes, fd):
    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        with pytest.raises(VerificationFailed):
            with processes[1].owners.open_piece(ALICE, key, 0, 100) as piece:
                piece.write(memoryview(NOISE[:60]))
                piece.finish()
        assert assembly.frontier == 60, "what came of it is there"


def test_who_closes_it_has_the_others_stop(processes, fd):
    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        with processes[1].owners.open_piece(ALICE, key, 0, 100) as piece:
            piece.write(memoryview(NOISE[:60]))
            assert assembly.finish() == digest(NOISE[:60])
            with pytest.raises(LeaseLost):
                piece.write(memoryview(NOISE[60:100]))
            with pytest.raises(LeaseLost):
                processes[2].owners.open_piece(ALICE, key, 200, 10)
    assert os.fstat(fd).st_size == 60


def test_a_lender_that_dies_takes_its_pieces_along(processes, fd):
    assembly = Assembly(fd, len(NOISE))
    with assembly:
        key = processes[0].owners.share(ALICE, assembly)
        with processes[1].owners.open_piece(ALICE, key, 0, 100) as piece:
            piece.write(memoryview(NOISE[:60]))
            processes[0].die()
            eventually(lambda: not processes[1].colleagues._borrowed, "it is recalled")
            with pytest.raises(LeaseLost):
                piece.write(memoryview(NOISE[60:100]))
        with pytest.raises(LeaseLost):
            processes[1].owners.open_piece(ALICE, key, 200, 10)


def test_a_borrower_that_dies_holds_up_nobody(processes, fd):
    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        with processes[1].owners.open_piece(ALICE, key, 0, 100) as piece:
            piece.write(memoryview(NOISE[:60]))
            bring(processes[2], key, 100, NOISE[100:200])
            processes[1].die()
            assembly.finish()
            assert assembly.frontier == 0, "nobody knows how far it came"


def test_a_borrower_that_can_not_write_fails_the_upload(processes, fd, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_: object) -> None:
        raise full

    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        with pytest.raises(OSError, match="No space"):
            with processes[1].owners.open_piece(ALICE, key, 0, 100) as piece:
                with monkeypatch.context() as patch:
                    patch.setattr(os, "pwrite", refuse)
                    piece.write(memoryview(NOISE[:60]))
        with pytest.raises(OSError, match="No space"):
            assembly.wait()


def test_a_loan_is_known_by_one_number_only(processes, fd):
    """Who names another one's loan gets nowhere."""
    with Assembly(fd, len(NOISE)) as assembly:
        key = processes[0].owners.share(ALICE, assembly)
        with processes[1].owners.open_piece(ALICE, key, 0, 100) as piece:
            loan = piece._loan.number
            with pytest.raises(LeaseLost):
                processes[2].peer.ask(Borrow(loan, ALICE, key, 200, 10))
            piece.write(memoryview(NOISE[:100]))
            piece.finish()
        assert assembly.frontier == 100


# taking a file over ------------------------------------------------------------------------


class Session:
    """Has a file, until it is cut."""

    def __init__(self, process: Process, path) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.was_cut = threading.Event()
        try:
            self.release = process.owners.claim(self.fd, self.was_cut.set)
        except BaseException:
            os.close(self.fd)
            raise

    def let_go(self) -> None:
        os.close(self.fd)
        self.release()


@pytest.mark.parametrize("which", [0, 1], ids=["its-own-process", "another-one"])
def test_a_newer_session_takes_a_file_over(processes, tmp_path, fd, which):
    older = Session(processes[0], tmp_path / "file")
    newer: Future[Session] = processes[0].pool.submit(Session, processes[which], tmp_path / "file")
    assert older.was_cut.wait(60)
    assert not newer.done()
    older.let_go()
    newer.result(60).let_go()


def test_a_session_of_another_process_that_stays_is_waited_for_no_longer_than_said(
    processes, tmp_path, fd, monkeypatch
):
    monkeypatch.setattr(owning, "_TAKE_OVER_SECONDS", 0.05)
    older = Session(processes[0], tmp_path / "file")
    with pytest.raises(Busy):
        Session(processes[1], tmp_path / "file")
    older.let_go()


def test_nobody_gets_a_file_as_long_as_a_piece_of_it_is_lent(processes, tmp_path, fd, monkeypatch):
    """Its owner is dead, but who brings a piece may still write to it."""
    monkeypatch.setattr(owning, "_TAKE_OVER_SECONDS", 0.05)
    mine = os.open(tmp_path / "file", os.O_RDWR)
    release = processes[0].owners.claim(mine, lambda: None)
    with Assembly(mine, len(NOISE)) as assembly:
        piece, theirs = assembly.lend(0, 100, lambda piece: None)
        assembly.given_back(piece, 0)
    os.close(mine)
    release()
    with pytest.raises(Busy):
        Session(processes[1], tmp_path / "file")
    os.close(theirs)
    Session(processes[1], tmp_path / "file").let_go()
