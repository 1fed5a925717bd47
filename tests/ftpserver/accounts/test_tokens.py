"""Tokens: issued once, stored hashed, good for one account, and revoked for good."""

from __future__ import annotations

import logging
import threading

import pytest
from sqlalchemy import event, insert, select

from ftpserver.accounts import tokens as module
from ftpserver.accounts.passwords import hash_password
from ftpserver.accounts.tokens import MAX_TOKENS, Tokens
from ftpserver.clock import Clock
from ftpserver.schema import token
from ftpwire import messages
from ftpwire.errors import BadAccount, Forbidden, LoginRefused, NotFound, TooMany
from ftpwire.frames import Kind
from ftpwire.messages import (
    ChangePassword,
    Done,
    Failed,
    Hello,
    IssueToken,
    ListTokens,
    LoggedIn,
    Login,
    LoginToken,
    RevokeToken,
)
from tests.peer import frame

REFUSAL = "wrong user name or token"


@pytest.fixture
def tokens(engine, accounts) -> Tokens:
    return Tokens(engine, accounts)


@pytest.fixture
def alice(accounts):
    return accounts.add("alice", "secret")


def refused(tokens, name, secret):
    with pytest.raises(LoginRefused) as caught:
        tokens.log_in(name, secret)
    assert str(caught.value) == REFUSAL, "whatever is wrong"


def test_a_token_opens_its_account(tokens, alice):
    made = tokens.issue(alice, "laptop")
    assert tokens.log_in("alice", made.secret) == (alice, made.id)


def test_tokens_are_shown_separately(tokens, alice):
    several = [tokens.issue(alice, "the same name") for _ in range(10)]
    assert len({one.secret for one in several}) == len({one.id for one in several}) == 10
    assert all(one.secret.startswith("ftpt_") and len(one.secret) > 40 for one in several)
    assert all(tokens.log_in("alice", one.secret)[1] == one.id for one in several)


def test_the_secret_is_nowhere(tokens, alice, engine, root):
    made = tokens.issue(alice, "laptop")
    engine.dispose()
    secret = made.secret.encode()
    files = [path for path in (root / ".ftpd").iterdir() if path.is_file()]
    assert files and not any(secret in path.read_bytes() for path in files)


def test_a_token_is_good_for_no_other_name(tokens, alice, accounts):
    accounts.add("bob", "secret")
    made = tokens.issue(alice, "laptop")
    for name in ("bob", "nobody", "", "ALICE", "\udcff"):
        refused(tokens, name, made.secret)


@pytest.mark.parametrize("secret", ["", "ftpt_", "x" * 128, "\udcff", "ftpt_" + "A" * 43])
def test_what_is_no_token(tokens, alice, secret):
    tokens.issue(alice, "laptop")
    refused(tokens, "alice", secret)


def test_a_token_expires(tokens, alice, clock):
    clock(1000)
    made = tokens.issue(alice, "laptop", seconds=60)
    assert made.expires == 1060
    clock(1059)
    assert tokens.log_in("alice", made.secret)
    clock(1060)
    refused(tokens, "alice", made.secret)


def test_a_token_may_last_for_ever(tokens, alice, clock):
    clock(1000)
    made = tokens.issue(alice, "laptop", seconds=None)
    clock(10**10)
    assert made.expires is None and tokens.log_in("alice", made.secret)


def test_a_revoked_token_is_good_for_nothing(tokens, alice):
    made, other = tokens.issue(alice, "one"), tokens.issue(alice, "two")
    assert tokens.is_good(made.id)
    tokens.revoke(alice, made.id)
    refused(tokens, "alice", made.secret)
    assert not tokens.is_good(made.id)
    assert tokens.log_in("alice", other.secret)
    with pytest.raises(NotFound):
        tokens.revoke(alice, made.id)


# made with another one ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parents", "requested", "given"),
    [
        pytest.param(60, 30, 1030, id="shorter"),
        pytest.param(60, 10**12, 1060, id="longer"),
        pytest.param(60, None, 1060, id="for-ever"),
        pytest.param(None, 30, 1030, id="of-one-for-ever"),
        pytest.param(None, None, None, id="for-ever-of-one-for-ever"),
    ],
)
def test_a_token_makes_none_that_outlives_it(tokens, alice, clock, parents, requested, given):
    clock(1000)
    parent = tokens.issue(alice, "parent", parents)
    child = tokens.issue(alice, "child", requested, parent.id)
    assert child.expires == given
    assert tokens.issue(alice, "of the child", None, child.id).expires == given
    assert [one.parent for one in tokens.of(alice)] == [None, parent.id, child.id]
    assert tokens.issue(alice, "the control", requested).expires == (requested and 1000 + requested)


def test_what_a_token_made_goes_with_it(tokens, alice):
    parent, other = tokens.issue(alice, "parent"), tokens.issue(alice, "other")
    child = tokens.issue(alice, "child", None, parent.id)
    grandchild = tokens.issue(alice, "grandchild", None, child.id)
    sister = tokens.issue(alice, "sister", None, parent.id)
    assert tokens.revoke(alice, child.id) == 2
    refused(tokens, "alice", grandchild.secret)
    assert tokens.log_in("alice", sister.secret) and tokens.log_in("alice", parent.secret)
    assert tokens.revoke(None, parent.id) == 2
    refused(tokens, "alice", sister.secret)
    assert [one.id for one in tokens.of(alice)] == [other.id]


def test_a_token_that_is_over_makes_none(tokens, alice, accounts, clock):
    clock(1000)
    parent = tokens.issue(alice, "parent", 60)
    of_bob = tokens.issue(accounts.add("bob", "secret"), "bob's")
    clock(1060)
    gone = tokens.issue(alice, "gone")
    tokens.revoke(alice, gone.id)
    for one in (parent, gone, of_bob):
        with pytest.raises(Forbidden, match="was revoked or has expired"):
            tokens.issue(alice, "child", None, one.id)
    assert tokens.issue(alice, "the control")


def by_token(server, dial, secret: str):
    peer = dial(server, logged_in=False)
    peer.hello()
    assert peer.ask(LoginToken("alice", secret)) == LoggedIn("alice")
    return peer


def a_session_by_token_is_bound_to_it(server, dial) -> None:
    tokens, alice = server.service.tokens, server.accounts.get("alice")
    made = tokens.issue(alice, "one hour", 3600)
    peer = by_token(server, dial, made.secret)
    child = peer.ask(IssueToken("for ever", 2**40))
    assert child.expires == made.expires
    of_child = by_token(server, dial, child.token)
    assert peer.ask(RevokeToken()) == Done()
    (last,) = of_child.read_to_end()
    assert "revoked" in last.message.message
    assert peer.ask(IssueToken("another")).code == "forbidden"  # it goes on, and makes no more
    assert peer.ask(RevokeToken()).code == "not-found"
    assert peer.ask(ChangePassword("secret", "correct-horse")) == Done()
    assert peer.ask(IssueToken("by the password")).expires > made.expires


def test_a_session_by_token_is_bound_to_it(server, dial):
    a_session_by_token_is_bound_to_it(server, dial)


@pytest.mark.system
@pytest.mark.parametrize("options", [{"isolation": "process"}, {"workers": 2}], ids=str)
def test_a_session_in_a_process_is_bound_to_its_token(start_server, dial, options):
    a_session_by_token_is_bound_to_it(start_server(**options), dial)


def test_nobody_revokes_what_is_anothers(tokens, alice, accounts):
    made = tokens.issue(alice, "laptop")
    with pytest.raises(NotFound):
        tokens.revoke(accounts.add("bob", "secret"), made.id)
    assert tokens.log_in("alice", made.secret)


def test_a_disabled_or_expired_account_takes_no_token(tokens, alice, accounts):
    made = tokens.issue(alice, "laptop")
    accounts.change("alice", disabled=True)
    with pytest.raises(LoginRefused, match="disabled"):
        tokens.log_in("alice", made.secret)
    accounts.change("alice", disabled=False, expires=1)
    with pytest.raises(LoginRefused, match="expired on 1970"):
        tokens.log_in("alice", made.secret)
    accounts.change("alice", expires=None)
    assert tokens.log_in("alice", made.secret)


def test_another_password_ends_all_tokens(tokens, alice, accounts):
    made = tokens.issue(alice, "laptop")
    accounts.set_password("alice", "another")
    refused(tokens, "alice", made.secret)
    assert tokens.of(alice) == []


def test_a_new_account_of_an_old_name_has_no_token(tokens, alice, accounts, root):
    made = tokens.issue(alice, "laptop")
    accounts.remove("alice")
    refused(tokens, "alice", made.secret)
    accounts.add("alice", "secret")
    refused(tokens, "alice", made.secret)


def test_the_list_reports_all_but_the_secret(tokens, alice, clock):
    clock(1000)
    first = tokens.issue(alice, "first", seconds=None)
    clock(2000)
    second = tokens.issue(alice, "second", seconds=9)
    tokens.log_in("alice", second.secret)
    found = tokens.of(alice, current=second.id)
    assert [one.id for one in found] == [first.id, second.id]
    assert (found[0].name, found[0].created, found[0].expires) == ("first", 1000, None)
    assert (found[0].used, found[0].current) == (None, False)
    assert (found[1].expires, found[1].used, found[1].current) == (2009, 2000, True)
    assert second.secret not in repr(found)


def test_a_log_in_writes_once_an_hour(tokens, alice, engine, clock):
    made = tokens.issue(alice, "laptop")

    def used():
        with engine.connect() as connection:
            return connection.execute(select(token.c.used)).scalar()

    for now, noted in ((10_000, 10_000), (13_600, 10_000), (13_601, 13_601)):
        clock(now)
        tokens.log_in("alice", made.secret)
        assert used() == noted


def test_there_is_a_most_and_expired_ones_make_space(tokens, alice, accounts, engine, clock):
    assert MAX_TOKENS == 64
    clock(1000)
    old = tokens.issue(alice, "old", seconds=10)
    for number in range(MAX_TOKENS - 1):
        tokens.issue(alice, f"token {number}")
    with pytest.raises(TooMany, match="revoke one"):
        tokens.issue(alice, "one too many")
    assert tokens.issue(accounts.add("bob", "secret"), "of somebody else")
    clock(1011)
    tokens.issue(alice, "in the place of the expired one")
    assert old.id not in {one.id for one in tokens.of(alice)}


def test_many_at_once_stay_within_the_most(tokens, alice, engine):
    with engine.begin() as connection:
        rows = [
            {"id": str(n), "account_id": alice.id, "name": "", "hash": b"%d" % n, "created": 1}
            for n in range(MAX_TOKENS - 3)
        ]
        connection.execute(insert(token), rows)
    outcomes: list[bool] = []

    def issue():
        try:
            tokens.issue(alice, "race")
            outcomes.append(True)
        except TooMany:
            outcomes.append(False)

    threads = [threading.Thread(target=issue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 5 + [True] * 3
    engine.dispose()


def test_a_log_in_by_token_hashes_no_password(tokens, alice, monkeypatch):
    made = tokens.issue(alice, "laptop")
    monkeypatch.setattr("ftpserver.accounts.passwords._hasher", None)
    with pytest.raises(AttributeError):
        hash_password("positive control: this would have been noticed")
    assert tokens.log_in("alice", made.secret)


# over the wire -----------------------------------------------------------------------------


def test_hello_and_token_may_come_at_once(server, dial):
    made = server.service.tokens.issue(server.accounts.get("alice"), "laptop")
    peer = dial(server, logged_in=False)
    peer.send(
        frame(Kind.REQUEST, 0, messages.encode_hello(Hello())),
        frame(Kind.REQUEST, 1, LoginToken("alice", made.secret)),
        frame(Kind.REQUEST, 2, ListTokens()),
    )
    assert peer.read().request_id == 0
    assert peer.read().message == LoggedIn("alice")
    (listed,) = peer.read().message.tokens
    assert (listed.id, listed.current) == (made.id, True)


def test_a_refused_token_leaves_the_password(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    assert peer.ask(LoginToken("alice", "ftpt_wrong")) == Failed("login-refused", REFUSAL)
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    failed = peer.ask(RevokeToken())
    assert failed.code == "not-found", "this session has none"


def test_the_longest_token_fits_before_log_in(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    name, secret = "\U0001f511" * messages.MAX_USER, "\U0001f511" * messages.MAX_TOKEN
    assert peer.ask(LoginToken(name, secret)).code == "login-refused"
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")


def test_no_token_is_logged(server, dial, caplog):
    caplog.set_level(logging.DEBUG)
    made = server.service.tokens.issue(server.accounts.get("alice"), "laptop")
    for secret in (made.secret, "ftpt_wrong-hunter2"):
        peer = dial(server, logged_in=False)
        peer.hello()
        peer.ask(LoginToken("alice", secret))
    assert "logged in" in caplog.text
    assert made.secret not in caplog.text and "hunter2" not in caplog.text


@pytest.mark.parametrize("name", ["n" * 65, "a\0b"], ids=["long", "nul"])
def test_a_name_that_no_token_has(tokens, alice, name):
    with pytest.raises(BadAccount, match="64 characters"):
        tokens.issue(alice, name)
    assert tokens.of(alice) == []
    tokens.issue(alice, "n" * 64)


def test_the_last_place_goes_to_one_of_two_at_once(tokens, alice, engine):
    """As with a database whose writers don't wait for each other."""
    for _ in range(MAX_TOKENS - 1):
        tokens.issue(alice, "one of many")

    def other(connection, statement, *_):
        if str(statement).startswith("INSERT INTO token") and not done:
            done.append(statement)
            values = {"account_id": alice.id, "created": 0, "id": "x", "hash": b"x", "name": "x"}
            connection.execute(insert(token).values(values))

    done: list[object] = []
    event.listen(engine, "before_execute", other)
    with pytest.raises(TooMany):
        tokens.issue(alice, "one too many")
    assert done and len(tokens.of(alice)) < MAX_TOKENS, "all of it was taken back"
    tokens.issue(alice, "the last")


def test_a_token_of_nobody(tokens, alice, accounts):
    accounts.remove("alice")
    with pytest.raises(NotFound):
        tokens.issue(alice, "late")


def test_a_clock_that_is_set_revives_no_token_and_removes_none(tokens, alice, monkeypatch):
    wall, ticks = [1_800_000_000.0], [0.0]
    monkeypatch.setattr(module, "RUN", Clock(lambda: wall[0], lambda: ticks[0]))
    short, lasting = tokens.issue(alice, "short", 60), tokens.issue(alice, "lasting", 10**6)
    wall[0] += 61
    ticks[0] += 61
    refused(tokens, "alice", short.secret)
    wall[0] -= 1000
    refused(tokens, "alice", short.secret)
    assert tokens.log_in("alice", tokens.issue(alice, "new", 60).secret)
    wall[0] += 10**8
    tokens.issue(alice, "which clears away", 60)
    wall[0] -= 10**8
    assert tokens.log_in("alice", lasting.secret)
