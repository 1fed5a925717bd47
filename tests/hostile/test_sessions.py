"""One account opens sessions without end, so that the others find no descriptor left."""

from __future__ import annotations

import pytest

from ftpserver.accounts import session_counts
from ftpserver.accounts.session_counts import SessionCounts
from ftpwire.errors import TooMany
from ftpwire.messages import Failed, LoggedIn, Login
from tests.peer import eventually

WAYS = [
    pytest.param({}, id="threads"),
    pytest.param({"threads": 0}, id="threads-0"),
    pytest.param({"workers": 2}, id="workers", marks=pytest.mark.system),
    pytest.param({"isolation": "process"}, id="isolation", marks=pytest.mark.system),
]
FEW = 3


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(session_counts, "MOST", FEW)


def log_in(dial, server, user: str = "alice", password: str = "secret"):
    peer = dial(server, logged_in=False)
    peer.hello()
    return peer, peer.ask(Login(user, password))


@pytest.mark.parametrize("way", WAYS)
def test_an_account_has_a_bounded_number_of_sessions(start_server, dial, few, way):
    server = start_server(**way)
    server.accounts.add("bob", "correct-horse")
    mine = [dial(server) for _ in range(FEW)]
    for _ in range(2):
        _, reply = log_in(dial, server)
        assert isinstance(reply, Failed) and reply.code == TooMany.code
    assert isinstance(log_in(dial, server, "bob", "correct-horse")[1], LoggedIn)  # the control
    mine.pop().close()
    eventually(lambda: isinstance(log_in(dial, server)[1], LoggedIn))


@pytest.mark.long
@pytest.mark.parametrize("way", [way.values[0] for way in WAYS], ids=[way.id for way in WAYS])
def test_a_hundred_sessions_three_times_over(start_server, dial, way):
    server = start_server(**way)
    server.accounts.add("bob", "correct-horse")
    for _ in range(3):
        mine = [dial(server) for _ in range(session_counts.MOST)]
        for _ in range(20):
            _, reply = log_in(dial, server)
            assert isinstance(reply, Failed) and reply.code == TooMany.code
        assert isinstance(log_in(dial, server, "bob", "correct-horse")[1], LoggedIn)
        while mine:
            mine.pop().close()
        alice = server.accounts.get("alice").id
        eventually(lambda alice=alice: server.tallies.sessions.count(alice) == 0)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2]])
def test_the_cap_writes_nothing_and_gives_way_to_a_limit(start_server, dial, few, way):
    server = start_server(**way)
    dial(server)
    assert _rows(server) == 0
    server.accounts.change("alice", max_sessions=FEW + 2)
    assert [isinstance(log_in(dial, server)[1], LoggedIn) for _ in range(FEW)] == [True] * FEW


def _rows(server) -> int:
    from sqlalchemy import func, select

    from ftpserver.schema import session

    with server.service.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(session)).scalar_one()


def test_counts_are_given_back_once_and_with_their_worker(few):
    counts = SessionCounts()
    first = counts.enter(1, "alice", capped=True, worker=1)
    counts.enter(1, "alice", capped=True, worker=2)
    counts.enter(2, "bob", capped=True, worker=1)
    counts.leave(first)
    counts.leave(first)
    assert counts.count(1) == 1
    counts.enter(1, "alice", capped=True, worker=1)
    counts.mark_dead(1)
    assert (counts.count(1), counts.count(2)) == (1, 0)
    for _ in range(FEW - 1):
        counts.enter(1, "alice", capped=True, worker=2)
    with pytest.raises(TooMany):
        counts.enter(1, "alice", capped=True, worker=2)
    counts.enter(1, "alice", capped=False, worker=2)
