"""Transactions that fail while files are stored: what is told is what is there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ftpserver.database import Writer
from ftpserver.errors import StateError
from ftpserver.storage.batch import SHARES_STEP
from ftpserver.storage.file_run import FilesOutcome
from ftpserver.storage.recount import recount
from ftpwire.errors import CommandError, DiskFull
from ftpwire.messages import Failed, Finished, NewFiles, PutFiles
from tests.ftpserver.storage.test_batch import MIB, Alice, Session
from tests.ftpserver.storage.test_file_run import TIME, file_of

ERRORS = {
    "full": lambda: DiskFull("the server's disk is full"),
    "unusable": lambda: StateError("state.db: disk I/O error"),
    "unexpected": lambda: sqlite3.OperationalError("out of memory"),
}
_FILES = 3
_SIZE = 600


class Faults:
    """Has the transactions of an accounts file fail.

    Attributes:
        failed: How many have.
    """

    def __init__(self, error: Callable[[], Exception], at_end: bool, for_good: bool) -> None:
        self._error, self._at_end, self._for_good = error, at_end, for_good
        self._from = self._count = -1
        self.failed = 0

    def arm(self, number: int) -> None:
        """The one of that number fails, counted from now on from 0."""
        self._from, self._count, self.failed = number, 0, 0

    def disarm(self) -> None:
        self._from = -1

    def next(self) -> bool:
        """Whether the one that begins fails."""
        number, self._count = self._count, self._count + 1
        if self._from < 0 or number < self._from or (number > self._from and not self._for_good):
            return False
        self.failed += 1
        return True

    def around(self, real):
        @contextmanager
        def begin(writer: Writer, engine) -> Iterator[object]:
            fails = self.next()
            if fails and not self._at_end:
                raise self._error()
            with real(writer, engine) as connection:
                yield connection
                if fails:
                    raise self._error()  # rolled back

        return begin


@pytest.fixture(params=[False, True], ids=["at-its-begin", "at-its-end"])
def at_end(request) -> bool:
    return request.param


@pytest.fixture(params=[False, True], ids=["once", "from-then-on"])
def for_good(request) -> bool:
    return request.param


@pytest.fixture(params=ERRORS)
def faults(request, monkeypatch, at_end, for_good) -> Faults:
    made = Faults(ERRORS[request.param], at_end, for_good)
    monkeypatch.setattr(Writer, "begin", made.around(Writer.begin))
    monkeypatch.setattr(Writer, "begin_quickly", made.around(Writer.begin_quickly))
    return made


def told_of(outcomes) -> list[bool]:
    return [not isinstance(outcome, Failed) for outcome in outcomes]


def put_each(session: Session, data: bytes) -> list[bool]:
    """Uploads of their own, in one batch as far as that goes."""
    stored: list[bool | None] = []
    for number in range(_FILES):
        try:
            session.put(b"/d/%d" % number, data, parents=True)
        except (CommandError, StateError, sqlite3.Error):
            stored.append(False)
        else:
            stored.append(None)  # which the commit tells
    reported = iter(told_of(session.commit()))
    return [next(reported) if one is None else one for one in stored]


def put_large(session: Session, data: bytes) -> list[bool]:
    """One with a lease of its own, between small ones."""
    sizes = [len(data), SHARES_STEP + 1, len(data)]
    stored: list[bool | None] = []
    for number, size in enumerate(sizes):
        try:
            session.put(b"/d/%d" % number, data[:1] * size, parents=True)
        except (CommandError, StateError, sqlite3.Error):
            stored.append(False)
        else:
            stored.append(None)
    reported = iter(told_of(session.commit()))
    return [next(reported) if one is None else one for one in stored]


def put_many(session: Session, data: bytes) -> list[bool]:
    """All in one request."""
    request = PutFiles(
        [NewFiles(b"/d", [file_of(b"%d" % number, data) for number in range(_FILES)], 0o755)],
        [Finished(b"/d", 0o700, TIME)],
    )
    try:
        session.uploads.stage_files(1, request, data * _FILES)
    except (CommandError, StateError, sqlite3.Error):
        assert session.commit() == []
        return [False] * _FILES
    (outcome,) = session.commit()
    assert isinstance(outcome, FilesOutcome) and outcome.total == _FILES + 2
    assert outcome.paths.keys() == outcome.failures.keys()
    return [number + 1 not in outcome.failures for number in range(_FILES)]


@pytest.mark.parametrize("quota", [64 * MIB, (_FILES + 1) * _SIZE], ids=["room", "little-room"])
@pytest.mark.parametrize("put", [put_each, put_many, put_large])
def test_what_is_reported_is_what_is_there(
    accounts, ledger, open_home, root, faults, put, quota, caplog
):
    """With little room each replaces one in a batch of its own."""
    if put is put_large and quota < MIB:
        quota += 2 * SHARES_STEP
    alice = Alice(accounts, ledger, open_home, root, quota)
    assert all(put(alice.session(durable=True), b"0" * _SIZE))
    partly = 0
    for number in range(100):
        data = b"%c" % (ord("a") + number % 26) * _SIZE
        session = alice.session(durable=True)
        faults.arm(number)
        reported = put(session, data)
        faults.disarm()
        session.uploads.abandon()
        there = [
            (alice.files / "d" / str(one)).read_bytes()[:1] == data[:1] for one in range(_FILES)
        ]
        assert reported == there, number
        partly += any(reported) and not all(reported)
        # the books are right, or are made right by a count
        ledger.heartbeat()
        for account_id in ledger.reap():
            assert recount(ledger, account_id, open_home())
        assert alice.agrees(), (number, alice.space, alice.staged)
        if not faults.failed:
            assert all(reported)
            break
    else:
        pytest.fail("it never came to an end")
    assert partly or quota > MIB, "the middle is never met"
