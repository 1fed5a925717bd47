"""The server's hold on a session's process, without the process."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from ftpserver.errors import StateError
from ftpserver.isolation import isolated_session
from ftpserver.isolation.account_groups import AccountGroups
from ftpserver.isolation.interfaces import Seen
from ftpserver.isolation.isolated_session import IsolatedSession
from tests.peer import eventually


@pytest.fixture
def hold(start_server):
    """One on a connection, of a server that has no processes; and those that have ended."""
    server, ended = start_server(), []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session = IsolatedSession(server, AccountGroups(), 7, ours, ("127.0.0.1", 1), ended.append)
        session.ended = ended
        session.others = server.service.ledger.others
        yield session
        session._clear_up()


def seen(moved: int) -> Seen:
    return Seen("put", b"/file", None, 0.0, moved, 0)


def test_speed_is_measured_between_two_looks(hold, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(isolated_session, "time", SimpleNamespace(monotonic=lambda: now[0]))
    hold._see(seen(5000))
    assert hold.info().speed == 0
    now[0] += 0.2
    hold._see(seen(7000))
    assert hold.info().speed == pytest.approx(10_000)
    now[0] += 0.001  # somebody else has a look
    hold._see(seen(7000))
    assert hold.info().speed == pytest.approx(10_000)
    now[0] += 0.2
    hold._see(seen(0))  # it lies
    assert hold.info().speed == 0
    assert hold.info().bytes_in == 0


def test_one_that_can_not_be_born_leaves_nothing(hold):
    def fork(*_: object):
        raise StateError("there are no processes left")

    assert hold.incarnation in hold.others
    with pytest.raises(StateError):
        hold.begin(fork, 0, None)
    eventually(lambda: hold.ended == [hold])
    assert hold.incarnation not in hold.others


def test_one_that_gets_no_thread_leaves_nothing(hold, monkeypatch):
    def start(thread: object) -> None:
        raise RuntimeError("cannot start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(isolated_session.threading.Thread, "start", start)
        with pytest.raises(StateError, match="cannot start new thread"):
            hold.begin(lambda *_: None, 0, None)
    assert hold.ended == [hold]
    assert hold.incarnation not in hold.others
