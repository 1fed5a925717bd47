"""Sentences of docs/protocol.md about tokens, room and log-ins that no other test shows."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from sqlalchemy import select

from ftpserver.database import reading
from ftpserver.schema import token as table
from ftpserver.serving import account_watch
from ftpserver.storage.resumable import RESUME_FROM
from ftpwire.frames import Kind
from ftpwire.messages import (
    ChangePassword,
    Done,
    IssueToken,
    ListTokens,
    LoggedIn,
    LoginToken,
    Put,
    Ready,
    Register,
    RevokeToken,
    Space,
    TokenIssued,
    WhoAmI,
)
from tests.peer import Peer


@pytest.fixture
def by_token(server, dial):
    """Logs in with a token; gives the peer."""

    def logged_in(made: TokenIssued) -> Peer:
        peer = dial(server, logged_in=False)
        peer.hello()
        assert peer.ask(LoginToken("alice", made.token)) == LoggedIn("alice")
        return peer

    return logged_in


def test_what_is_reported_about_a_token(server, dial, by_token):
    peer = dial(server)
    before = int(time.time())
    made = peer.ask(IssueToken("laptop", 1000))
    assert made.token.startswith("ftpt_") and made.token.isascii()
    assert made.token.isprintable() and " " not in made.token
    by_other = by_token(made)
    (reported,) = by_other.ask(ListTokens()).tokens
    assert (reported.id, reported.name, reported.parent, reported.current) == (
        made.id,
        "laptop",
        None,
        True,
    )
    assert before <= reported.created <= time.time() and reported.expires == made.expires
    assert 0 <= reported.expires - reported.created - 1000 <= 1
    assert before - 3600 <= reported.used <= time.time()
    with reading(server.service.engine).begin() as connection:
        stored = connection.execute(select(table)).mappings().one()
    assert stored["hash"] == hashlib.sha256(made.token.encode()).digest()
    assert made.token not in str(dict(stored))
    year = peer.ask(IssueToken("for as long as can be"))
    assert 0 <= year.expires - before - 365 * 24 * 3600 < 60
    assert peer.ask(RevokeToken(made.id)) == Done()
    lasting = server.service.tokens.issue(server.accounts.get("alice"), "lasting", None)
    reported = peer.ask(ListTokens()).tokens
    assert [(one.id, one.expires) for one in reported] == [
        (year.id, year.expires),
        (lasting.id, None),
    ]


def test_who_revokes_the_parent_of_the_own_token_ends(server, dial, by_token, monkeypatch):
    """The control is the session that revokes its own: it goes on."""
    monkeypatch.setattr(account_watch, "_EVERY", 0.02)
    parent = dial(server).ask(IssueToken("parent"))
    child = by_token(parent).ask(IssueToken("child"))
    own, other = by_token(child), by_token(child)
    assert own.ask(RevokeToken(child.id)) == Done()
    assert other.read_to_end()[-1].message.code == "session-ended"
    server.service.watcher.look()
    assert own.ask(WhoAmI()) == LoggedIn("alice")
    again = by_token(by_token(parent).ask(IssueToken("child")))
    assert again.ask(RevokeToken(parent.id)) == Done()
    (last,) = again.read_to_end()
    assert (last.request_id, last.message.code) == (0, "session-ended")


@pytest.fixture
def never_looks(monkeypatch) -> None:
    """Servers that start from here on look at the accounts when they are told to."""
    monkeypatch.setattr(account_watch, "_EVERY", 3600.0)


@pytest.mark.parametrize("by", ["revoke-token", "change-password"])
def test_other_sessions_are_served_until_the_server_looks(never_looks, server, dial, by_token, by):
    """Nobody logs in any more, but who is there ends with the next look."""
    peer = dial(server)
    made = peer.ask(IssueToken("laptop"))
    other = by_token(made)
    request = RevokeToken(made.id) if by == "revoke-token" else ChangePassword("secret", "12345678")
    assert peer.ask(request) == Done()
    assert other.ask(WhoAmI()) == LoggedIn("alice")
    with dial(server, logged_in=False) as late:
        late.hello()
        assert late.ask(LoginToken("alice", made.token)).code == "login-refused"
    server.service.watcher.look()
    (last,) = other.read_to_end()
    assert (last.request_id, last.message.code) == (0, "session-ended")
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_a_registration_without_a_place_makes_the_account(start_server, dial):
    server = start_server(open_registration=True, max_sessions=1)
    with dial(server), dial(server, logged_in=False) as late:
        late.hello()
        assert late.ask(Register("bob", "good enough")).code == "too-many"
        assert late.read_to_end() == []
    assert server.accounts.get("bob").name == "bob"


# room --------------------------------------------------------------------------------------


def test_the_times_that_the_disk_keeps(server, dial, files):
    times = [1_700_000_000_123_456_789, 1, 2**63 - 1, -(2**63)]
    (files / "file").touch()
    peer = dial(server)
    kept = peer.ask(Space(times)).kept_times
    assert len(kept) == len(times)
    for requested, reported in zip(times[:2], kept, strict=False):
        os.utime(files / "file", ns=(0, requested))
        assert reported == (files / "file").stat().st_mtime_ns
    assert peer.ask(Space()).kept_times is None


def test_what_is_kept_is_a_part_of_what_is_held(start_server, dial):
    server = start_server(quota=10**9)
    owner = dial(server)
    size = RESUME_FROM + 1000
    number = owner.request(Put(b"/kept", size, mtime_ns=7, ask=True))
    assert owner.answer().message == Ready(0)
    peer = dial(server)
    space = peer.ask(Space())
    assert (space.held, space.kept, space.kept_uploads) == (size, 0, 0)
    for _ in range(RESUME_FROM // 2**20):
        owner.frame(Kind.DATA, number, bytes(2**20))
    owner.frame(Kind.CANCEL, number)
    assert owner.answer().message.code == "cancelled"
    space = peer.ask(Space())
    assert (space.held, space.kept, space.kept_uploads) == (size, size, 1)
