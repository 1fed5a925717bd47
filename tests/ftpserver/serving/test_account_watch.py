"""Changes of accounts reach running sessions, wherever they were made; sessions that end do end."""

from __future__ import annotations

import threading
import time
from ipaddress import ip_network

import pytest

from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.tokens import Tokens
from ftpserver.database import open_state
from ftpserver.serving import account_watch
from ftpserver.storage.permissions import Permissions
from ftpwire import digests
from ftpwire.errors import SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import (
    ChangePassword,
    Done,
    Failed,
    Get,
    GoingDown,
    LoggedIn,
    LoginToken,
    Put,
    Ready,
    RevokeToken,
    Sending,
    Sent,
    Stored,
    WhoAmI,
)
from tests.peer import Peer, eventually, frame


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(account_watch, "_EVERY", 0.02)


@pytest.fixture
def elsewhere(server):
    """The accounts, as another process has them."""
    engine = open_state(server.settings.state)
    yield Accounts(engine, server.settings.root)
    engine.dispose()


@pytest.fixture
def tokens(elsewhere) -> Tokens:
    """Their tokens."""
    return Tokens(elsewhere._engine, elsewhere)


def by_token(server, dial, tokens, elsewhere, seconds: int | None = None) -> tuple[Peer, str]:
    """Somebody who logged in with a new token, and its id."""
    made = tokens.issue(elsewhere.get("alice"), "a test", seconds)
    peer = dial(server, logged_in=False)
    peer.hello()
    assert peer.ask(LoginToken("alice", made.secret)) == LoggedIn("alice")
    return peer, made.id


def is_served(peer: Peer) -> bool:
    return peer.ask(WhoAmI()) == LoggedIn("alice")


def last_word(peer: Peer) -> Failed:
    """The one ERROR that ends the connection."""
    (frame,) = peer.read_to_end()
    assert (frame.kind, frame.request_id) == (Kind.ERROR, 0)
    return frame.message


def a_round(server) -> None:
    """Have the watch look at everything once more, from its beginning to its end."""
    server.service.watcher.look()


def test_looking_takes_a_small_share_of_the_time(server, monkeypatch):
    """With thousands of sessions, each look is followed by a pause of many times its length."""
    pauses = []

    class Over:
        def wait(self, seconds: float) -> bool:
            pauses.append(seconds)
            return len(pauses) == 4

    spent = iter([0.0, 0.0005, 0.0, 0.06, 0.0, 1.0])
    here = threading.current_thread()
    monkeypatch.setattr(
        account_watch.time,
        "thread_time",
        lambda: next(spent) if threading.current_thread() is here else 0.0,
    )
    looking = account_watch.AccountWatcher(
        server.service.engine, server.accounts, set(), lambda: False
    )
    looking._over = Over()
    looking.look = lambda: None
    looking.run()
    assert pauses == [
        account_watch._EVERY,
        account_watch._EVERY,
        pytest.approx(1.2),
        pytest.approx(20.0),
    ]


def test_it_all_happens_within_a_second():
    assert 0.3 + account_watch._PATIENCE < 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(lambda to: to.change("alice", disabled=True), "disabled", id="disabled"),
        pytest.param(
            lambda to: to.change("alice", expires=int(time.time()) - 1), "expired", id="expired"
        ),
        pytest.param(lambda to: to.remove("alice"), "removed", id="removed"),
        pytest.param(lambda to: to.rename("alice", "bob"), "renamed", id="renamed"),
        pytest.param(lambda to: to.set_password("alice", "other"), "password", id="password"),
        pytest.param(
            lambda to: to.change("alice", networks=[ip_network("10.0.0.0/8")]),
            "cannot be used from this address",
            id="networks",
        ),
    ],
)
def test_a_change_ends_the_sessions_of_that_account_and_no_others(
    server, dial, elsewhere, change, why
):
    elsewhere.add("carol", "secret")
    other = dial(server, logged_in=False)
    other.log_in("carol")
    first, second = dial(server), dial(server)
    change(elsewhere)
    for peer in (first, second):
        reported = last_word(peer)
        assert reported.code == SessionEnded.code and why in reported.message
    a_round(server)
    assert other.ask(WhoAmI()) == LoggedIn("carol")


def test_an_account_expires_without_anybody_changing_it(server, dial, elsewhere, monkeypatch):
    elsewhere.change("alice", expires=int(time.time()) + 1000)
    peer = dial(server)
    a_round(server)
    assert is_served(peer)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2000)
    assert "expired" in last_word(peer).message


def test_a_network_that_the_session_is_in(server, dial, elsewhere):
    peer = dial(server)
    elsewhere.change("alice", networks=[ip_network("127.0.0.0/8"), ip_network("::1/128")])
    a_round(server)
    assert is_served(peer)


def test_what_may_be_done_follows_without_a_new_session(server, dial, elsewhere):
    peer = dial(server)
    (session,) = server.service.sessions
    elsewhere.change("alice", permissions=Permissions.parse("read-only"), limit_rate=2**30)
    eventually(lambda: session.account.limit_rate == 2**30)
    assert str(session.account.permissions) == "read-only"
    assert is_served(peer)


def test_sessions_of_one_account_share_it(server, dial):
    """So that thousands of sessions don't keep thousands of copies, and a change is one."""
    dial(server), dial(server)
    eventually(lambda: len({id(one.account) for one in server.service.sessions}) == 1)


def test_who_changes_the_own_password_goes_on_and_the_others_end(server, dial):
    mine, other = dial(server), dial(server)
    assert mine.ask(ChangePassword("secret", "another one")) == Done()
    assert "password" in last_word(other).message
    a_round(server)
    assert is_served(mine)


def test_a_session_in_the_middle_of_changing_its_password_is_left_alone(server, dial, elsewhere):
    """The database has the new epoch already, the session doesn't know it yet."""
    peer = dial(server)
    (session,) = server.service.sessions
    session.authentication.renewing = True
    elsewhere.set_password("alice", "other")
    a_round(server)
    assert session.channel.ended is None
    session.authentication.renewing = False
    assert "password" in last_word(peer).message


def test_a_revoked_token_ends_its_sessions_and_no_others(server, dial, tokens, elsewhere):
    peer, token_id = by_token(server, dial, tokens, elsewhere)
    by_another, _ = by_token(server, dial, tokens, elsewhere)
    by_password = dial(server)
    a_round(server)
    tokens.revoke(elsewhere.get("alice"), token_id)
    assert "revoked" in last_word(peer).message
    a_round(server)
    assert is_served(by_another) and is_served(by_password)


def test_a_token_that_expires_ends_its_sessions(server, dial, tokens, elsewhere, monkeypatch):
    peer, _ = by_token(server, dial, tokens, elsewhere, seconds=1000)
    a_round(server)
    assert is_served(peer)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2000)
    assert "expired" in last_word(peer).message


def test_who_revokes_the_own_token_goes_on(server, dial, tokens, elsewhere):
    peer, _ = by_token(server, dial, tokens, elsewhere)
    assert peer.ask(RevokeToken()) == Done()
    a_round(server)
    assert is_served(peer)


def test_more_accounts_than_one_statement_takes(server, dial, elsewhere, monkeypatch):
    monkeypatch.setattr(account_watch, "_AT_ONCE", 1)
    peers = {}
    for name in ("bob", "carol", "dave"):
        elsewhere.add(name, "secret")
        peers[name] = dial(server, logged_in=False)
        peers[name].log_in(name)
    a_round(server)
    elsewhere.change("carol", disabled=True)
    assert "disabled" in last_word(peers.pop("carol")).message
    a_round(server)
    for name, peer in peers.items():
        assert peer.ask(WhoAmI()) == LoggedIn(name)


def test_a_database_that_is_away_for_a_while_ends_nothing(server, dial, monkeypatch, caplog):
    peer = dial(server)
    rows, failures = account_watch.AccountWatcher._rows, []

    def fail(self, *arguments):
        if len(failures) < 5:
            failures.append(1)
            raise OSError("the database is away")
        return rows(self, *arguments)

    monkeypatch.setattr(account_watch.AccountWatcher, "_rows", fail)
    eventually(lambda: len(failures) == 5)
    server.accounts.change("alice", disabled=True)
    assert "disabled" in last_word(peer).message
    assert caplog.text.count("cannot be checked") == 1


# ending ------------------------------------------------------------------------------------


def end_all(server) -> None:
    for session in list(server.service.sessions):
        server.service.watcher.close(session, "the reason why")


def test_what_came_in_whole_is_stored_and_answered_first(server, dial, files):
    peer = dial(server)
    peer.send(
        frame(Kind.REQUEST, 1, Put(b"/a", size=3)),
        frame(Kind.DATA, 1, b"abc"),
        frame(Kind.END, 1, Sent(3, digests.digest(b"abc"))),
        frame(Kind.REQUEST, 2, Put(b"/b", size=3)),  # of which nothing follows
    )
    (session,) = server.service.sessions
    eventually(lambda: session.exchange.request_id == 2)
    end_all(server)
    *answers, last = peer.read_to_end()
    assert [frame.message for frame in answers] == [Stored(3)]
    assert (last.kind, last.message.message) == (Kind.ERROR, "the reason why")
    assert (files / "a").read_bytes() == b"abc"
    assert not (files / "b").exists()


def test_an_upload_that_waits_for_its_bytes_ends_with_a_word(server, dial):
    """Its client may be slow, and isn't sending anything."""
    peer = dial(server)
    peer.request(Put(b"/a", size=10 * 2**20, ask=True))
    assert peer.answer().message == Ready(0)
    end_all(server)
    assert last_word(peer).message == "the reason why"


def test_a_download_that_flows_ends_between_two_frames(server, dial, files):
    (files / "large").write_bytes(bytes(64 * 2**20))
    peer = dial(server)
    peer.request(Get(b"/large"))
    assert isinstance(peer.answer().message, Sending)
    assert peer.read().kind == Kind.DATA
    end_all(server)
    *data, last = peer.read_to_end()
    assert {frame.kind for frame in data} <= {Kind.DATA}
    assert sum(len(frame.payload) for frame in data) < 64 * 2**20
    assert (last.kind, last.message.message) == (Kind.ERROR, "the reason why")


def test_a_client_that_reads_nothing_is_cut(server, dial, files, caplog):
    caplog.set_level("INFO")
    (files / "large").write_bytes(bytes(64 * 2**20))
    peer = dial(server, buffers=4096)
    (session,) = server.service.sessions
    peer.request(Get(b"/large"))
    seen = []

    def is_stuck() -> bool:
        seen.append(session.channel.bytes_out)
        return len(seen) > 20 and seen[-20] == seen[-1] > 2**16

    eventually(is_stuck)
    end_all(server)
    eventually(lambda: not server.service.sessions)
    assert "cut off" in caplog.text


def test_an_unauthenticated_client_learns_nothing(server, dial):
    peer = dial(server, logged_in=False)
    eventually(lambda: server.service.sessions)
    end_all(server)
    assert peer.read_to_end() == []


def test_over_tls_the_last_word_arrives_too(start_server, dial, tls_client_context):
    server = start_server(plaintext=False)
    peer = dial(server, context=tls_client_context)
    end_all(server)
    assert last_word(peer).message == "the reason why"


def test_a_parked_session_is_informed_too(start_server, dial):
    """One that has no thread while its client asks for nothing."""
    server = start_server(threads=1)
    peer = dial(server)
    (session,) = server.service.sessions
    eventually(lambda: session.parked)
    end_all(server)
    assert last_word(peer).message == "the reason why"


def test_speed_is_measured(server, dial, files, monkeypatch):
    monkeypatch.setattr(account_watch, "_MEASURED", 0.02)
    (files / "large").write_bytes(bytes(2**20))
    peer = dial(server)
    (session,) = server.service.sessions
    eventually(lambda: server.service.watcher.speed(session) == 0)  # the log-in's bytes are over

    def fetch() -> float:
        peer.request(Get(b"/large"))
        while peer.read().kind != Kind.END:
            pass
        return server.service.watcher.speed(session)

    assert eventually(fetch) > 1000
    eventually(lambda: server.service.watcher.speed(session) == 0)


# a drain -----------------------------------------------------------------------------------


def test_a_drain_waits_for_who_is_there(server, dial):
    peer = dial(server)
    stopped = []
    server.on_stop_requested = lambda: stopped.append(1)
    server.drain()
    with pytest.raises(OSError):
        dial(server)
    a_round(server)
    assert is_served(peer) and not stopped
    peer.close()
    eventually(lambda: stopped)


def test_a_drain_ends_those_who_ask_for_nothing(server, dial, monkeypatch):
    monkeypatch.setattr(account_watch, "_IDLE", 0.0)
    stopped = []
    server.on_stop_requested = lambda: stopped.append(1)
    peer = dial(server)
    server.drain()
    (frame,) = peer.read_to_end()
    assert (frame.kind, frame.request_id) == (Kind.NOTICE, 0)
    assert isinstance(frame.message, GoingDown)
    eventually(lambda: stopped)


def test_a_drain_with_an_end(server, dial):
    dial(server)
    stopped = []
    server.on_stop_requested = lambda: stopped.append(1)
    server.drain(seconds=3600)
    a_round(server)
    assert not stopped
    server.drain(seconds=0)
    eventually(lambda: stopped)
