"""After every kind of fault nothing stays held, and the verifier agrees, without a restart.

The faults of the books are those of the process that keeps them: a session with a thread there, or
in a process of its own, finds the same. Lives elsewhere: real programs, disks that are really
full, workers (tests/system/test_held.py).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import literal

from ftpserver.accounts import session_slots
from ftpserver.admin import verify
from ftpserver.errors import StateError
from ftpserver.storage import batch, batch_commit, incarnations
from ftpserver.storage import ledger as ledger_module
from ftpserver.storage.batch import SMALL, Uploads
from ftpserver.storage.batch_commit import BatchCommit
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.resumable import RESUME_FROM
from ftpwire import digests
from ftpwire.errors import DiskFull
from ftpwire.frames import Kind
from ftpwire.messages import DropKept, Failed, Put, Ready, Remove, Removed, Sent, Stored
from tests.peer import Peer, eventually

ERRORS = {
    "busy": lambda: StateError("state.db: database is locked"),
    "full": lambda: DiskFull("the server's disk is full"),
}
SIZES = {"small": 3, "large": SMALL + 3, "resumable": RESUME_FROM + 3}
STEPS = {
    "busy": ("reserve", "reserve_step", "begin_commit", "_settle", "keep", "take_over"),
    "full": ("reserve_step", "_settle"),
}


def refuse(patch: pytest.MonkeyPatch, step: str, error: str, times: int) -> None:
    """Have a step of the books fail so often."""
    do = getattr(Ledger, step)
    left = [error] * times

    def fail(self, *arguments, **options):
        if left:  # a new one each time: what was raised keeps what its frames had
            raise ERRORS[left.pop()]()
        return do(self, *arguments, **options)

    patch.setattr(Ledger, step, fail)


def put(peer: Peer, path: bytes, size: int, *, until: int | None = None) -> object:
    """Upload; the answer. ``until``: send no more than so much; the request's number."""
    data = bytes(size)
    ask = size > SMALL
    number = peer.request(Put(path, size, 0o644, 1, ask=ask))
    if ask:
        answer = peer.answer().message
        if not isinstance(answer, Ready):
            return answer
    end = size if until is None else until
    for at in range(0, end, 2**20):
        peer.frame(Kind.DATA, number, data[at : min(at + 2**20, end)])
    if until is not None:
        return number
    peer.frame(Kind.END, number, Sent(size, digests.digest(data)))
    return peer.answer().message


def is_right(server) -> bool:
    """Whether nothing is held, and the verifier finds nothing, as an administrator would see it."""
    space = server.service.ledger.space(server.accounts.get("alice").id)
    return space.held == 0 and verify.check(server.settings.root, strict=True) == []


def rests(server) -> bool:
    """The same, once the sessions have ended, the housekeeper has been there, and what is kept was
    given up."""
    eventually(lambda: not server.service.sessions)
    server.heartbeat.beat()
    with Peer.connect(server.server_address[:2]) as peer:
        peer.log_in()
        peer.ask(DropKept())
    eventually(lambda: not server.service.sessions)
    server.heartbeat.beat()
    return bool(eventually(lambda: is_right(server)))


@pytest.fixture(autouse=True)
def no_records(caplog) -> None:
    """A record of the log that is kept keeps what the frames of its error had, leases too."""
    caplog.set_level(logging.CRITICAL + 1, logger="ftpd")


@pytest.fixture(params=["threads", pytest.param("process", marks=pytest.mark.system)])
def server(request, start_server):
    """With sessions in threads, or in processes of their own."""
    more = {"isolation": "process"} if request.param == "process" else {}
    return start_server(quota=10**8, **more)


@pytest.mark.parametrize("error", STEPS)
def test_the_books_can_t_be_written(server, dial, monkeypatch, error):
    """Each step of them is tried with every kind of upload, a removal, and a connection that is
    cut."""
    for step in STEPS[error]:
        with monkeypatch.context() as patch:
            for name, size in SIZES.items():
                refuse(patch, step, error, 2)
                with dial(server) as peer:
                    assert isinstance(put(peer, b"/" + name.encode(), size), (Failed, Stored))
                refuse(patch, step, error, 2)
                with dial(server) as peer:
                    put(peer, b"/cut", size, until=size - 1)
            refuse(patch, step, error, 2)
            with dial(server) as peer:
                assert isinstance(peer.ask(Remove(b"/large")), (Failed, Removed))
            eventually(lambda: not server.service.sessions)
        assert rests(server), step
    with dial(server) as peer:
        assert put(peer, b"/small", 5) == Stored(5)
    assert is_right(server)


def fail(*arguments, **options):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_the_disk_fails(start_server, dial, monkeypatch):
    server = start_server(quota=10**8)
    for name, owners in (
        ("_sync_files", [BatchCommit]),
        ("drop_staged", [batch, batch_commit]),
        ("_drop_batch", [Uploads]),
        ("run", [BatchCommit]),
    ):
        for size in SIZES.values():
            with dial(server) as peer:
                assert put(peer, b"/file", size) == Stored(size)
            with monkeypatch.context() as patch, dial(server) as peer:
                for owner in owners:
                    patch.setattr(owner, name, fail)
                put(peer, b"/file", size)
                put(peer, b"/cut", size, until=size - 1)
                peer.close()
                eventually(lambda: not server.service.sessions)
        with (
            server.service.engine.begin() as connection
        ):  # what the disk kept is removed with a count
            connection.exec_driver_sql("UPDATE account SET dirty = 1")
        server.look_soon()
        assert rests(server), name


@contextmanager
def locked(server) -> Iterator[None]:
    """Somebody holds the home's lock alone."""
    path = server.accounts.get("alice").home / ".ftpd-staging" / "lock"
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def test_a_home_that_is_locked(server, dial):
    """What died meanwhile is ended at once; the count waits for the lock."""
    alice = server.accounts.get("alice").id
    peer, cut = dial(server), dial(server)
    assert put(peer, b"/file", 3) == Stored(3)
    put(cut, b"/cut", 300_000, until=1000)
    eventually(lambda: server.service.ledger.space(alice).held)
    with locked(server):
        Ledger(server.service.engine, incarnation="dead").reserve(alice, 1000)
        number = peer.request(Put(b"/file", 4))
        peer.frame(Kind.DATA, number, b"1234")
        peer.frame(Kind.END, number, Sent(4, digests.digest(b"1234")))
        cut.close()
        server.look_soon()
        eventually(lambda: server.service.ledger.in_doubt() == {alice})
        server.heartbeat.beat()
    assert peer.answer().message == Stored(4)
    peer.close()
    assert rests(server)


@pytest.mark.parametrize("jump", [-365 * 24 * 3600, 700, 365 * 24 * 3600])
def test_a_clock_that_jumps(server, dial, monkeypatch, jump):
    """In the middle of uploads, whose leases live on: all are stored."""
    peers = {name: dial(server) for name in SIZES}
    numbers = {
        name: put(peers[name], b"/" + name.encode(), size, until=size - 1)
        for name, size in SIZES.items()
    }
    alice = server.accounts.get("alice").id
    eventually(lambda: len(server.service.ledger.resumable(alice)) == 1)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    for one in (ledger_module, incarnations, session_slots):
        monkeypatch.setattr(one, "SECONDS_NOW", literal(int(now() + jump)))
    server.service.ledger.reap()
    assert verify.check(server.settings.root) == []
    for name, size in SIZES.items():
        peers[name].frame(Kind.DATA, numbers[name], b"\0")
        peers[name].frame(Kind.END, numbers[name], Sent(size, digests.digest(bytes(size))))
        assert peers[name].answer().message == Stored(size), name
        peers[name].close()
    assert rests(server)
