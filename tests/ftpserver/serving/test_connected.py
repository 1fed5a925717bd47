"""What is looked after like a session of this protocol: whatever fits `Connected`."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from ftpserver.audit.context import Unusable
from ftpserver.serving import account_watch
from ftpserver.serving.connected import Doing, describe
from ftpwire.errors import SessionEnded
from ftpwire.messages import Copy, Get, List, WhoAmI
from tests.peer import eventually

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.serving.connected import Connected


class Bytes:
    """Of a session whose protocol nobody here knows."""

    bytes_in, bytes_out = 10, 20
    ended: SessionEnded | None = None


class OfAnotherProtocol:
    """A session that is no `Session`."""

    id, since, host, peer = 7, 1_800_000_000.0, "192.0.2.1", "192.0.2.1:5"
    client_address = ("192.0.2.1", 5)
    token_id: str | None = None
    token_revoked = renewing = leaving = False
    doing: object = None
    quiet_since = 0.0

    def __init__(self, request: socket.socket, account: Account) -> None:
        self.request = request
        self.account: Account | None = account
        self.channel = Bytes()
        self.reported: list[Any] = []

    def close(self, why: str) -> None:
        self.channel.ended = SessionEnded(why)
        self.reported.append(why)

    def close_now(self) -> None:
        self.reported.append("close_now")

    def close_idle(self) -> None:
        self.reported.append("close_idle")

    def abort(self) -> None:
        self.reported.append("abort")

    def give_way(self, transfer: str) -> None:
        self.reported.append(transfer)

    def apply_account(self, account: Account) -> None:
        self.account = account
        self.reported.append(account)

    def warn(self) -> None:
        """Its protocol has no such notice."""

    def say_alive(self) -> None:
        pass


@pytest.fixture
def session(server):
    """One that the server looks after."""
    here, there = socket.socketpair()
    with here, there:
        session = OfAnotherProtocol(here, server.accounts.get("alice"))
        as_others_see_it: Connected = session
        server.service.sessions.add(as_others_see_it)
        yield session
        server.service.forget(session)


def test_it_is_reported_counted_and_kicked(server, session):
    session.doing = Get(b"/file")
    (reported,) = server.service.session_infos()
    assert (reported.id, reported.user, reported.peer) == (7, "alice", "192.0.2.1:5")
    assert (reported.request, reported.path, reported.bytes_in, reported.bytes_out) == (
        "get",
        b"/file",
        10,
        20,
    )
    stats = server.service.stats()
    assert (stats.sessions, stats.unauthenticated, stats.transfers) == (1, 0, 1)
    server.service.give_way("its transfer")
    assert server.service.kick(None, "alice") == [7]
    assert session.reported[0] == "its transfer" and "administrator" in session.reported[1]
    eventually(lambda: "close_now" in session.reported)
    server.service.forget(session)
    assert server.service.moved() == (10, 20), "what it moved stays counted"


def test_it_follows_its_account_and_ends_with_it(server, session, monkeypatch):
    monkeypatch.setattr(account_watch, "_EVERY", 0.02)
    server.accounts.change("alice", quota=1000)
    eventually(lambda: session.reported and session.reported[0].quota == 1000)
    server.accounts.change("alice", disabled=True)
    eventually(lambda: "the account is disabled" in session.reported)


def test_an_idle_one_does_not_hold_up_a_drain(server, session):
    session.quiet_since = time.monotonic() - account_watch._IDLE
    server.drain()
    server.service.watcher.look()
    assert "close_idle" in session.reported


@pytest.mark.parametrize(
    ("doing", "reported"),
    [
        pytest.param(None, Doing(), id="waits"),
        pytest.param(True, Doing(), id="not-known"),
        pytest.param(WhoAmI(), Doing("whoami"), id="of-no-file"),
        pytest.param(List(b"/dir"), Doing("list", b"/dir"), id="of-a-path"),
        pytest.param(Copy(b"/a", b"/b"), Doing("copy", b"/a", b"/b"), id="of-two"),
        pytest.param(Unusable(Copy, b"/a"), Doing("bad-request", b"/a"), id="not-understood"),
    ],
)
def test_what_is_reported_about_a_request(doing, reported):
    assert describe(doing) == reported
