"""An upload in pieces whose processes die: before any step of the one that has it, of one that
brings pieces, or of both.

Afterwards nothing wrong is stored, the books are right, and the upload is gone on with or starts
over."""

from __future__ import annotations

import fcntl
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pytest

from ftpserver.admin.verify import check
from ftpserver.database import open_state
from ftpserver.storage import batch, commit, piece_table, resumable
from ftpserver.storage.batch import Uploads
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.piece_table import PieceTable
from ftpserver.storage.recount import recount
from ftpserver.storage.resumable import Checkpoint, ResumableStaging
from ftpwire import digests, pieces
from ftpwire.errors import CommandError, ConnectionLost, LeaseLost
from ftpwire.messages import Put, PutPiece, Sent, Stored

KIB = 1024
SIZE, PIECE = 160 * KIB, 40 * KIB
DATA = random.Random(5).randbytes(SIZE)
SENT = Sent(SIZE, digests.digest(DATA))
UPLOAD = Put(b"/file", SIZE, 0o640, 1, ask=True, pieces=True)


OPEN: list[Home] = []


@pytest.fixture(autouse=True)
def little_counts(monkeypatch):
    for module in (batch, resumable):
        monkeypatch.setattr(module, "RESUME_FROM", 30 * KIB)
    monkeypatch.setattr(pieces, "STEP", 20 * KIB)
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def alice(accounts) -> int:
    return accounts.add("alice", "secret", quota=3 * SIZE).id


def session(root, ledger: Ledger, account: int) -> Uploads:
    home = Home(root / "alice", durable=False, incarnation=ledger.incarnation)
    OPEN.append(home)
    return Uploads(home, ledger, account, durable=False)


def begin(uploads: Uploads):
    """Begin it: the context, what it gives, and the key and the offset that are told."""
    context = uploads.receiving(1, UPLOAD)
    receiving = context.__enter__()
    offset, _ = receiving.resume(lambda done: None)
    return context, receiving, receiving.take_pieces(), offset


def bring(uploads: Uploads, key: bytes, offset: int) -> None:
    """All that is missing, each piece in two buffers."""
    for start in range(offset, SIZE, PIECE):
        size = min(PIECE, SIZE - start)
        with uploads.open_piece(PutPiece(key, start, size)) as piece:
            middle = start + size // 2
            piece.write(memoryview(DATA)[start:middle])
            piece.write(memoryview(DATA)[middle : start + size])
            piece.finish()


def leave(context, error: Exception) -> None:
    with suppress(type(error), CommandError):
        context.__exit__(type(error), error, None)


# the steps -----------------------------------------------------------------------------------

STEPS: dict[str, tuple[object, str, int]] = {
    "key": (Ledger, "reserve", 1),
    "table": (PieceTable, "create", 1),
    "owning": (piece_table, "try_range", 1),
    "looking-it-up": (Ledger, "find_pieces", 1),
    "begin": (PieceTable, "begin", 3),
    "slot": (PieceTable, "put_slot", 6),
    "bytes": (piece_table._SlotWriter, "write", 4),
    "merge": (PieceTable, "put_base", 3),
    "merged": (PieceTable, "free_slot", 1),
    "checkpoint": (Checkpoint, "append", 1),
    "flag": (PieceTable, "stop", 1),
    "end": (PieceTable, "end", 1),
    "dress": (ResumableStaging, "finish", 1),
    "committing": (Ledger, "begin_commit", 1),
    "withdraw": (ResumableStaging, "withdraw", 1),
    "withdrawn": (commit.Commit, "place", 1),
    "rename": (commit.beneath, "rename_new", 1),
    "settle": (Ledger, "settle", 1),
}
CALLS = [
    *((os, name) for name in ("open", "rename", "unlink", "write", "pwrite", "ftruncate", "chmod")),
    *((fcntl, name) for name in ("flock", "fcntl")),
    *((Ledger, name) for name in ("take_over", "reserve", "begin_commit", "settle", "keep")),
]
"""All that it does to files, locks and the books."""


def die_before(what: object, name: str, number: int, left: list[int] | None = None) -> None:
    real = getattr(what, name)
    counter = left if left is not None else [number]

    def counted(*arguments, **options):
        counter[0] -= 1
        if not counter[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    static = isinstance(vars(what).get(name), classmethod)  # bound already
    setattr(what, name, staticmethod(counted) if static else counted)


def die_at(step: str | int) -> None:
    """In a child: be killed before a step of `STEPS`, or before one of all `CALLS`."""
    if isinstance(step, str):
        die_before(*STEPS[step])
        return
    left = [step]
    for what, name in CALLS:
        die_before(what, name, 0, left)


def started(work: Callable[[], None]) -> int:
    """Begin something in a process of its own."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        os.write(2, repr(error).encode())
    finally:
        os._exit(status)


def was_killed(child: int) -> bool:
    """Wait for it; whether it was killed. Else it came to its end."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


# who dies ------------------------------------------------------------------------------------


def owner_dies(root, ledger: Ledger, account: int, step: str | int, brings: bool) -> bool:
    """The process that has the upload; ``brings``: so do those that bring its pieces."""
    key_read, key_write = os.pipe()
    go_read, go_write = os.pipe()

    def work() -> None:
        os.close(go_write)
        engine = open_state(root / ".ftpd")
        its = Ledger(engine, incarnation=f"{ledger.run}x", run=ledger.run)
        owner = session(root, its, account)
        die_at(step)
        context, receiving, key, offset = begin(owner)
        os.write(key_write, key)
        if brings:
            bring(session(root, its, account), key, offset)
        else:
            os.read(go_read, 1)
        receiving.finish(SENT)
        context.__exit__(None, None, None)
        assert [one for _, one in owner.commit()] == [Stored(SIZE)]

    child = started(work)
    os.close(key_write)
    if (key := os.read(key_read, 16)) and not brings:
        helper = session(root, ledger, account)
        with suppress(LeaseLost):
            bring(helper, key, 0)
        helper.abandon()
    for fd in (key_read, go_read, go_write):
        os.close(fd)
    died = was_killed(child)
    ledger.mark_dead(f"{ledger.run}x")
    return died


def helper_dies(root, ledger: Ledger, account: int, step: str | int) -> bool:
    """One that brings pieces; another one brings what it didn't begin, then the client goes."""
    owner = session(root, ledger, account)
    context, _, key, offset = begin(owner)

    def work() -> None:
        engine = open_state(root / ".ftpd")
        helper = session(root, Ledger(engine, run=ledger.run), account)
        die_at(step)
        bring(helper, key, offset)

    died = was_killed(started(work))
    other = session(root, ledger, account)
    for start in range(offset, SIZE, PIECE):
        with suppress(CommandError):
            piece = other.open_piece(PutPiece(key, start, PIECE))
            piece.write(memoryview(DATA)[start : start + PIECE])
            piece.finish()
    other.abandon()
    leave(context, ConnectionLost("gone"))
    return died


def is_in_order(root, ledger: Ledger, account: int) -> None:
    """The file is whole or not there, the books agree, and the upload comes to its end."""
    file, home = root / "alice" / "file", root / "alice"
    for one in ledger.reap():
        recount(ledger, one, Home(home, durable=False))
    assert not file.exists() or file.read_bytes() == DATA
    recount(ledger, account, Home(home, durable=False))
    assert [str(one) for one in check(root)] == []
    space, stored = ledger.space(account), file.exists()
    assert space.used == (SIZE if stored else 0)
    kept = [one for one in ledger.resumable(account) if one.kept]
    assert space.held == len(kept) * SIZE <= SIZE
    again = session(root, ledger, account)
    context, receiving, key, offset = begin(again)
    bring(again, key, offset)
    receiving.finish(SENT)
    context.__exit__(None, None, None)
    assert [one for _, one in again.commit()] == [Stored(SIZE)]
    again.abandon()
    assert file.read_bytes() == DATA and file.stat().st_mode & 0o777 == 0o640
    space = ledger.space(account)
    assert (space.used, space.held) == (SIZE, 0)
    assert set(os.listdir(home / ".ftpd-staging")) == {"lock"}
    file.unlink()
    recount(ledger, account, Home(home, durable=False))


WHO = {
    "all": lambda *arguments: owner_dies(*arguments, brings=True),
    "owner": lambda *arguments: owner_dies(*arguments, brings=False),
    "helper": helper_dies,
}
_OWNERS = {"key", "table", "owning", "checkpoint", "flag", "end", "dress", "committing", "withdraw"}
_OWNERS |= {"withdrawn", "rename", "settle"}


@pytest.mark.parametrize(
    ("who", "step"),
    [("all", step) for step in STEPS]
    + [("owner", step) for step in sorted(_OWNERS)]
    + [("helper", step) for step in sorted(STEPS.keys() - _OWNERS)],
)
def test_killed_before_a_step(root, ledger, alice, who, step):
    (root / "alice").mkdir(exist_ok=True)
    assert WHO[who](root, ledger, alice, step), "it came to that"
    is_in_order(root, ledger, alice)


@pytest.mark.system  # some hundreds of processes
@pytest.mark.parametrize("who", WHO)
def test_killed_before_any_call(root, ledger, alice, who):
    (root / "alice").mkdir(exist_ok=True)
    for number in count(1):
        died = WHO[who](root, ledger, alice, number)
        is_in_order(root, ledger, alice)
        if not died:
            break
    assert number > (20 if who == "helper" else 50), "it came to its end only then"
