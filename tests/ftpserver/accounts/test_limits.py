"""Limits: who is taken in, who has to wait, how many sessions there are, and how fast they are."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
from sqlalchemy import event, literal, select

from ftpclient.connection.known_hosts import KnownHosts
from ftpserver.accounts import bans, session_slots, startups, turns
from ftpserver.accounts import limits as module
from ftpserver.accounts.limits import Limits
from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.session_slots import NO_LIMIT, Most, Sessions
from ftpserver.accounts.startups import UnauthenticatedConnections
from ftpserver.accounts.tokens import Tokens
from ftpserver.accounts.turns import Queue
from ftpserver.interfaces import make_proxy
from ftpserver.processes.worker_interfaces import ServerQueue
from ftpserver.schema import session
from ftpserver.settings.table import Settings, Startups
from ftpserver.storage import incarnations, ledger
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import Banned, Busy, LoginRefused, NotFound, TooMany
from ftpwire.frames import HEADER, Kind
from ftpwire.messages import (
    ChangePassword,
    Done,
    Failed,
    Get,
    GoingDown,
    LoggedIn,
    Login,
    LoginToken,
    Put,
    Sent,
    WhoAmI,
)
from tests.peer import eventually

HERE, THERE = "192.0.2.1", "192.0.2.2"
REFUSED = Failed("login-refused", "wrong user name or password")


@pytest.fixture
def alice(accounts):
    return accounts.add("alice", "secret")


@pytest.fixture
def limits(engine, root):
    return limits_of(engine, root)


def limits_of(engine, root, *, incarnation: str = "one", node: str = "local", **options) -> Limits:
    return Limits(engine, Settings(root, **options), Ledger(engine, node, incarnation))


# strangers ---------------------------------------------------------------------------------


class Crowd:
    """Connections without a log-in, on a clock that stands still, and who had to make room."""

    def __init__(self, limits: Startups, draw: float = 1.0) -> None:
        self.now = 0.0
        self.dropped: list[object] = []
        self.unauthenticated = UnauthenticatedConnections(
            limits, draw=lambda: draw, clock=lambda: self.now
        )
        self.unauthenticated.on_dropped = self.dropped.append

    def take(self, name: object, host: str, **more: bool) -> bool:
        return self.unauthenticated.take(name, host, **{"known": False} | more)

    def fill(self, count: int, *, each: int = 1, start: int = 0) -> None:
        """So many from an address, from as many addresses as it takes."""
        for number in range(count):
            assert self.take(
                start + number, f"198.51.{number // each // 250}.{number // each % 250}"
            )


@pytest.mark.parametrize(
    ("there", "draw", "drops"),
    [
        (99, 0.0, False),
        (100, 0.29, True),
        (100, 0.31, False),
        (250, 0.64, True),
        (250, 0.66, False),
        (399, 0.99, True),
        (400, 1.0, True),
    ],
)
def test_the_oldest_make_space_at_random_and_ever_more_often(there, draw, drops):
    crowd = Crowd(Startups(1000, 100, 1000), draw)
    crowd.fill(there)
    crowd.unauthenticated.limits = Startups(100, 30, 400)
    crowd.now += 2
    assert crowd.take("new", HERE)
    assert crowd.dropped == [0] * drops
    assert len(crowd.unauthenticated) == there + 1 - drops


def test_a_place_has_a_share_and_its_own_oldest_make_space():
    crowd = Crowd(Startups(100, 30, 400))
    for number in range(100):
        assert crowd.take(number, HERE)
    assert not crowd.take("too soon", HERE), "each has a moment"
    assert crowd.take("other", THERE) and not crowd.dropped
    crowd.now += 2
    assert crowd.take("later", HERE)
    assert crowd.dropped == [0]
    assert crowd.unauthenticated.count(HERE) == 100


@pytest.mark.parametrize("full", [1, 2, 3, 5])
def test_a_share_is_one_at_least(full):
    assert Crowd(Startups(full, 100, full)).take(1, HERE)


def test_the_largest_place_makes_space_however_young():
    crowd = Crowd(Startups(8, 100, 8))
    crowd.fill(6)
    for number in range(2):
        assert crowd.take(("large", number), HERE)
    assert crowd.take("new", THERE)
    assert crowd.dropped == [("large", 0)]
    assert not crowd.take("one more", "192.0.2.3"), "now all are as large, and young"
    crowd.now += 2
    assert crowd.take("one more", "192.0.2.3")
    assert crowd.dropped == [("large", 0), 0], "of equals, the oldest"


def test_a_burst_of_honest_clients_is_taken_up_to_the_full_number():
    """The control: as long as there is room, nobody young makes some."""
    crowd = Crowd(Startups(100, 30, 400), draw=0.0)
    crowd.fill(400, each=50)
    assert not crowd.dropped


def test_a_trusted_place_has_no_share():
    crowd = Crowd(Startups(8, 100, 8))
    for number in range(8):
        assert crowd.take(number, HERE, trusted=True)
    assert not crowd.take(8, HERE, trusted=True)
    assert crowd.take("new", THERE)
    assert crowd.dropped == [0]


def test_who_leaves_makes_space_once():
    unauthenticated = UnauthenticatedConnections(Startups(2, 100, 2))
    assert unauthenticated.take(1, HERE, known=False, trusted=True)
    assert unauthenticated.take(2, HERE, known=False, trusted=True)
    assert not unauthenticated.take(3, HERE, known=False, trusted=True)
    unauthenticated.leave(1)
    unauthenticated.leave(1)
    unauthenticated.leave(3)
    assert (len(unauthenticated), unauthenticated.count(HERE)) == (1, 1)
    assert unauthenticated.take(3, HERE, known=False, trusted=True)
    assert not unauthenticated.take(4, HERE, known=False, trusted=True)


def test_known_addresses_suffer_from_nobody_but_themselves():
    crowd = Crowd(Startups(4, 100, 4))
    crowd.fill(4)
    assert not crowd.take("stranger", HERE)
    assert crowd.take("a", HERE, known=True)
    assert not crowd.take("b", HERE, known=True), "a share of its own is a share"
    assert crowd.take("b", THERE, known=True)
    crowd.now += 2
    crowd.fill(4, start=10)
    assert set(crowd.dropped) == {0, 1, 2, 3}


def test_addresses_of_good_log_ins_are_known_for_a_time(engine, root):
    limits = limits_of(engine, root, max_startups=Startups(1, 100, 1))
    assert limits.admit(1, THERE)
    assert not limits.admit(2, HERE)
    limits.penalties.add(HERE, Offence.CRASH)
    limits.by_token(HERE, "alice", lambda: None)
    assert limits.admit(2, HERE)
    assert not limits.admit(3, "192.0.2.3")


def test_the_list_of_known_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(startups, "_MAX_KNOWN", 3)
    now = 0.0
    known = startups.KnownNetworks(lambda: now)
    for number in range(5):
        known.add(f"192.0.2.{number}")
    assert [f"192.0.2.{number}" in known for number in range(5)] == [False, False, *[True] * 3]
    now = 4000.0
    assert "192.0.2.4" not in known


def test_a_banned_address_has_one_connection_to_learn_it(engine, root):
    limits = limits_of(engine, root, ban_after=1)
    for name in ("a", "b", "c"):
        refuse(limits, HERE, name)
    assert limits.admit(1, HERE)
    assert not limits.admit(2, HERE)
    assert limits.admit(3, THERE)
    limits.unauthenticated.leave(1)
    assert limits.admit(2, HERE)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("100:30:400", (100, 30, 400)), ("7", (7, 100, 7)), ("1:0:1", (1, 0, 1))],
)
def test_startups_are_read(text, parsed):
    assert Startups.parse(text) == parsed
    assert Startups.parse(str(Startups(*parsed))) == parsed


@pytest.mark.parametrize("text", ["", "x", "0", "1:2", "10:30:5", "1:101:2", "1:2:3:4", "-1"])
def test_startups_that_make_no_sense(text):
    with pytest.raises(ValueError, match=r"BEGIN"):
        Startups.parse(text)


# passwords ---------------------------------------------------------------------------------


def refuse(limits: Limits, host: str = HERE, name: str = "alice") -> None:
    """One log-in that fails."""

    def prove() -> None:
        raise LoginRefused("no")

    with pytest.raises(LoginRefused):
        limits.by_password(host, name, prove)


@contextmanager
def waiting(queue: Queue, *hosts: str):
    """Somebody has the only turn, and from each of the hosts somebody waits for it."""
    done, threads = threading.Event(), []

    def wait(host: str) -> None:
        with queue.turn(host, known=False):
            assert done.wait(30)

    for count, host in enumerate(hosts, 1):
        threads.append(threading.Thread(target=wait, args=(host,)))
        threads[-1].start()
        eventually(lambda count=count: len(queue) == count)
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_passwords_that_wait_are_bounded():
    queue = Queue(1, 3)
    with waiting(queue, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"):
        with pytest.raises(Busy), queue.turn("192.0.2.5", known=False):
            pass
    with queue.turn("192.0.2.5", known=False):
        assert len(queue) == 1
    assert len(queue) == 0


def test_one_address_does_not_fill_the_queue():
    queue = Queue(1, 4)
    with waiting(queue, HERE, HERE, HERE, THERE):
        with pytest.raises(Busy), queue.turn(HERE, known=False):
            pass
        assert len(queue) == 4, "there is room for others"


def test_who_has_been_there_lately_finds_a_longer_queue():
    queue = Queue(1, 2)
    with waiting(queue, "192.0.2.3", "192.0.2.4", "192.0.2.5"):
        with pytest.raises(Busy), queue.turn(HERE, known=False):
            pass
        let_in = threading.Event()

        def come() -> None:
            with queue.turn(HERE, known=True):
                let_in.set()

        thread = threading.Thread(target=come)
        thread.start()
        eventually(lambda: len(queue) == 4)
    thread.join()
    assert let_in.is_set()


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    queue = Queue(1, 4)
    turns = [queue.enter(HERE, known=False) for _ in range(3)]
    queue.leave(turns[1].token)  # it waits no longer
    assert [one.began.done() for one in turns] == [True, False, False]
    for _ in range(2):
        queue.leave(turns[0].token)
    assert turns[2].began.done() and len(queue) == 1


def test_no_more_guesses_get_through_than_the_ban_allows(limits, monkeypatch):
    """However many try at once."""
    guesses = []

    def prove() -> None:
        guesses.append(1)
        time.sleep(0)  # the others may run
        raise LoginRefused("no")

    outcomes: Counter[str] = Counter()

    def guess() -> None:
        try:
            limits.by_password(HERE, "alice", prove)
        except LoginRefused as error:
            outcomes[error.code] += 1

    threads = [threading.Thread(target=guess) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    most = limits.settings.ban_after + limits.queue.at_once - 1
    assert limits.settings.ban_after <= len(guesses) <= most
    assert outcomes["banned"] == 40 - len(guesses)


def test_a_banned_guess_costs_no_hash(limits):
    for _ in range(10):
        refuse(limits)
    with pytest.raises(Banned):
        limits.by_password(HERE, "alice", lambda: pytest.fail("it was looked at"))
    limits.unban(HERE)
    assert limits.by_password(HERE, "alice", lambda: "in") == "in"


def test_a_good_token_comes_in_from_a_banned_address_and_a_bad_one_counts(limits):
    def prove() -> None:
        raise LoginRefused("no")

    for _ in range(10):
        with pytest.raises(LoginRefused) as caught:
            limits.by_token(HERE, "alice", prove)
        assert not isinstance(caught.value, Banned)
    with pytest.raises(Banned):
        limits.by_token(HERE, "alice", prove)
    with pytest.raises(Banned):
        limits.by_password(HERE, "alice", prove)
    assert isinstance(limits.ban_of(HERE, "alice"), Banned)
    assert limits.by_token(HERE, "alice", lambda: "in") == "in"
    assert limits.ban_of(THERE, "alice") is None


def test_settings_can_change_while_it_runs(limits, root):
    limits.apply_settings(Settings(root, ban_after=1, max_startups=Startups(1, 100, 1)))
    refuse(limits)
    assert limits.ban_of(HERE, "alice")
    assert limits.admit(1, THERE) and not limits.admit(2, THERE)


# sessions ----------------------------------------------------------------------------------


def counted(engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(session.c.id)).all())


@pytest.mark.parametrize(
    ("most", "text"),
    [
        (Most(in_all=3), "the server has 3, the limit is 3"),
        (Most(of_account=3), "alice has 3, the limit is 3"),
        (Most(from_address=3), "192.0.2.1 has 3, the limit is 3"),
        (Most(9, 3, 9), "alice has 3, the limit is 3"),
    ],
)
def test_a_place_for_each_session_until_all_are_taken(engine, alice, most, text):
    sessions = Sessions(engine, Ledger(engine, "local", "one"))
    places = [sessions.enter(alice, HERE, most) for _ in range(3)]
    with pytest.raises(TooMany, match=text):
        sessions.enter(alice, HERE, most)
    assert counted(engine) == 3
    sessions.leave(places[1])
    sessions.enter(alice, HERE, most)
    with pytest.raises(TooMany):
        sessions.enter(alice, HERE, most)


def test_limits_of_one_hinder_no_other(engine, accounts, alice):
    sessions = Sessions(engine, Ledger(engine, "local", "one"))
    bob = accounts.add("bob", "secret")
    most = Most(None, 1, 1)
    sessions.enter(alice, HERE, most)
    with pytest.raises(TooMany, match="alice"):
        sessions.enter(alice, THERE, most)
    with pytest.raises(TooMany, match=HERE):
        sessions.enter(bob, HERE, most)
    sessions.enter(bob, THERE, most)


def test_the_last_place_has_one_taker(engine, alice):
    """However many want it, here and in other processes."""
    sessions = [Sessions(engine, Ledger(engine, node, "one")) for node in ("a", "b")]
    outcomes: Counter[bool] = Counter()
    ready = threading.Barrier(24)

    def enter(number: int) -> None:
        ready.wait(30)
        try:
            sessions[number % 2].enter(alice, HERE, Most(of_account=3))
            outcomes[True] += 1
        except TooMany:
            outcomes[False] += 1

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {True: 3, False: 21}


def test_sessions_of_the_dead_take_no_place(engine, alice, monkeypatch):
    one = Most(of_account=1)
    Sessions(engine, Ledger(engine, "local", "last run")).enter(alice, HERE, one)
    sessions = Sessions(engine, Ledger(engine, "local", "this run"))
    sessions.enter(alice, HERE, one)
    assert counted(engine) == 2
    sessions.reap()
    assert counted(engine) == 1
    with pytest.raises(TooMany):
        sessions.enter(alice, HERE, one)


def set_database_clock(monkeypatch, seconds: int) -> None:
    """The time by which nodes compare what each of them has in the database."""
    now = literal(seconds)
    for one in (session_slots, ledger, incarnations):
        monkeypatch.setattr(one, "SECONDS_NOW", now)


def test_sessions_of_another_node_count_while_it_lives(engine, alice, monkeypatch):
    one = Most(of_account=1)
    other, mine = (
        Sessions(engine, Ledger(engine, "other", "x")),
        Sessions(engine, Ledger(engine, "mine", "y")),
    )
    now = int(time.time())
    set_database_clock(monkeypatch, now)
    other.enter(alice, HERE, one)
    set_database_clock(monkeypatch, now + session_slots.LEASE_SECONDS - 1)
    with pytest.raises(TooMany):
        mine.enter(alice, HERE, one)
    other.heartbeat()
    set_database_clock(monkeypatch, now + session_slots.LEASE_SECONDS + 1)
    mine.reap()
    with pytest.raises(TooMany):
        mine.enter(alice, HERE, one)
    set_database_clock(monkeypatch, now + 3 * session_slots.LEASE_SECONDS)
    mine.enter(alice, HERE, one)
    mine.reap()
    assert counted(engine) == 1


def test_a_place_that_could_not_be_given_back_is_later(engine, alice, monkeypatch):
    sessions = Sessions(engine, Ledger(engine))
    place = sessions.enter(alice, HERE, Most(of_account=1))
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "_engine", None)
        with pytest.raises(AttributeError):
            sessions.leave(place)
    with pytest.raises(TooMany):
        sessions.enter(alice, HERE, Most(of_account=1))
    sessions.heartbeat()
    assert counted(engine) == 0


def test_time_ends_no_session_of_a_process_that_lives(engine, alice, monkeypatch):
    """Whichever process of the run looks, and however far the clock was set."""
    run = Ledger(engine, incarnation="run")
    run.others.add("run-1")
    first, one = (
        Sessions(engine, run),
        Sessions(engine, Ledger(engine, incarnation="run-1", run="run")),
    )
    for sessions in (first, one):
        sessions.enter(alice, HERE, Most(of_account=2))
    set_database_clock(monkeypatch, int(time.time()) + 10**9)
    for sessions in (first, one):
        sessions.reap()
        with pytest.raises(TooMany):
            sessions.enter(alice, HERE, Most(of_account=2))
    run.others.clear()
    first.reap()
    assert counted(engine) == 1


def test_processes_of_one_run_count_together(engine, alice):
    first = Sessions(engine, Ledger(engine, incarnation="run"))
    one, two = (Sessions(engine, Ledger(engine, incarnation=f"run-{n}", run="run")) for n in (1, 2))
    most = Most(of_account=2)
    one.enter(alice, HERE, most)
    two.enter(alice, HERE, most)
    for sessions in (first, one, two):
        sessions.reap()
        with pytest.raises(TooMany):
            sessions.enter(alice, HERE, most)
    first.mark_dead("run-1")
    two.enter(alice, HERE, most)


def test_an_account_that_is_gone_gets_no_place(engine, accounts, alice):
    sessions = Sessions(engine, Ledger(engine, "local", "one"))
    sessions.enter(alice, HERE, NO_LIMIT)
    accounts.remove("alice")
    assert counted(engine) == 0
    with pytest.raises(NotFound):
        sessions.enter(alice, HERE, NO_LIMIT)


@pytest.mark.parametrize(
    ("settings", "own", "fits"),
    [
        ({}, None, 9),
        ({"max_user_sessions": 2}, None, 2),
        ({"max_user_sessions": 2}, 4, 4),
        ({}, 3, 3),
        ({"max_sessions": 1}, 3, 1),
        ({"max_address_sessions": 2}, None, 2),
    ],
)
def test_which_limit_holds(engine, root, accounts, settings, own, fits):
    limits = limits_of(engine, root, **settings)
    alice = accounts.add("alice", "secret", max_sessions=own)
    taken = 0
    try:
        for _ in range(9):
            limits.enter(alice, HERE)
            taken += 1
    except TooMany:
        pass
    assert taken == fits
    assert counted(engine) == (fits if settings or own else 0)


def test_who_is_there_already_counts_for_the_others(engine, root, accounts):
    limits = limits_of(engine, root)
    alice = accounts.add("alice", "secret")
    assert "/" not in str(limits.enter(alice, HERE))  # no row
    changed = accounts.change("alice", max_sessions=1)
    places = [limits.enter(changed, HERE, at_any_rate=True) for _ in range(2)]
    with pytest.raises(TooMany, match="alice has 2, the limit is 1"):
        limits.enter(changed, HERE)
    for place in places:
        limits.leave(place)
    limits.leave(None)
    assert limits.enter(changed, HERE)


def test_a_log_in_by_token_writes_nothing(engine, limits, accounts, alice):
    tokens = Tokens(engine, accounts)
    issued = tokens.issue(alice, "laptop")
    tokens.log_in("alice", issued.secret)  # the first use is noted
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    limits.by_token(HERE, "alice", lambda: tokens.log_in("alice", issued.secret, HERE))
    assert "/" not in str(limits.enter(alice, HERE))  # no row
    limits.leave(None)
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT"]


def test_all_sessions_of_an_account_share_a_pace(limits, accounts):
    alice = accounts.add("alice", "secret", limit_rate=1000)
    bob = accounts.add("bob", "secret", limit_rate=1000)
    pace = limits.pace(alice)
    assert limits.pace(alice) is pace
    assert limits.pace(bob) is not pace
    assert limits.pace(accounts.add("carol", "secret")) is None
    assert limits.pace(accounts.change("alice", limit_rate=5000)) is pace
    assert pace.rate == 5000


# the same, on a running server -------------------------------------------------------------


def try_to_log_in(peer, name: str = "alice", password: str = "wrong"):
    peer.hello()
    return peer.ask(Login(name, password))


def fail(server, dial, times: int, name: str = "alice") -> None:
    for _ in range(times):
        with dial(server, logged_in=False) as peer:
            assert try_to_log_in(peer, name) == REFUSED


@pytest.fixture
def no_delay(monkeypatch) -> None:
    monkeypatch.setattr(bans, "_FIRST_DELAY", 0.0)
    monkeypatch.setattr(module, "BANNED_DELAY", 0.0)


def test_after_too_many_failures_the_right_password_is_refused_too(start_server, dial, no_delay):
    server = start_server(ban_after=3)
    server.accounts.add("bob", "secret")
    fail(server, dial, 3)
    with dial(server, logged_in=False) as peer:
        refused = try_to_log_in(peer, password="secret")
        assert (refused.code, "to alice failed from 127.0.0.1" in refused.message) == (
            "banned",
            True,
        )
        assert peer.read_to_end() == [], "that was the last try"
    with dial(server, logged_in=False) as peer:
        assert try_to_log_in(peer, "bob", "secret") == LoggedIn("bob")
    (ban,) = server.service.limits.bans()
    server.service.limits.unban(ban.subject)
    assert dial(server).ask(WhoAmI()) == LoggedIn("alice")


def test_a_good_token_and_a_running_session_go_on_during_a_ban(start_server, dial, no_delay):
    server = start_server(ban_after=1)
    running = dial(server)
    issued = server.service.tokens.issue(server.accounts.get("alice"), "laptop")
    for name in ("alice", "bob", "carol"):
        fail(server, dial, 1, name)
    assert len(server.service.limits.bans()) == 4
    assert running.ask(WhoAmI()) == LoggedIn("alice")
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert peer.ask(LoginToken("alice", "ftpt_wrong")).code == "banned"
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert peer.ask(LoginToken("alice", issued.secret)) == LoggedIn("alice")


def test_who_comes_when_too_many_wait_is_answered_late(server, dial, monkeypatch):
    monkeypatch.setattr(module, "BUSY_DELAY", 0.2)
    server.service.limits.queue = Queue(1, 0)
    server.service.limits._known = startups.KnownNetworks()
    with waiting(server.service.limits.queue, HERE), dial(server, logged_in=False) as peer:
        peer.hello()
        began = time.monotonic()
        assert peer.ask(Login("alice", "secret")).code == "busy"
        assert time.monotonic() - began >= 0.2
    with dial(server, logged_in=False) as peer:
        peer.log_in()


def test_guessing_the_password_inside_a_session_counts(start_server, dial, no_delay):
    server = start_server(ban_after=2)
    peer = dial(server)
    for _ in range(2):
        assert peer.ask(ChangePassword("wrong", "new-password")).code == "login-refused"
    assert peer.ask(ChangePassword("secret", "new-password")).code == "banned"
    server.service.limits.unban("127.0.0.1")
    assert peer.ask(ChangePassword("secret", "new-password")) == Done()


def test_a_wrong_password_inside_a_session_does_not_end_it(server, dial, no_delay):
    peer = dial(server)
    for _ in range(4):  # the third refused log-in would end the connection
        assert peer.ask(ChangePassword("wrong", "new-password")).code == "login-refused"
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_failures_are_answered_later_and_later(server, dial, monkeypatch):
    monkeypatch.setattr(bans, "_FIRST_DELAY", 0.1)
    fail(server, dial, 2)
    began = time.monotonic()
    fail(server, dial, 2)
    assert time.monotonic() - began >= 0.1 + 0.2


def test_a_delay_ends_when_the_server_stops_or_the_client_leaves(start_server, dial, monkeypatch):
    monkeypatch.setattr(bans, "_FREE_FAILURES", 0)
    monkeypatch.setattr(bans, "_FIRST_DELAY", 1000.0)
    monkeypatch.setattr(bans, "_LONGEST_DELAY", 1000.0)
    server = start_server(login_grace=1000.0)
    peers = [dial(server, logged_in=False) for _ in range(2)]
    for peer in peers:
        peer.hello()
        peer.request(Login("alice", "wrong"))
    limits = server.service.limits
    eventually(lambda: limits._bans.delay("127.0.0.1") and not len(limits.queue))
    peers[0].reset()
    eventually(lambda: len(server.service.sessions) == 1)
    began = time.monotonic()
    start_server.finish(server)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"disabled": True}, "the account is disabled"),
        ({"expires": 1}, "the account expired on 1970-01-01T00:00:01Z"),
        (
            {"networks": [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]},
            "the account is closed to 127.0.0.1",
        ),
    ],
)
@pytest.mark.parametrize("by", ["password", "token"])
def test_only_the_log_says_that_the_address_is_wrong(server, dial, caplog, changes, reason, by):
    """A stolen password is worth nothing elsewhere, and does not even find that out."""
    issued = server.service.tokens.issue(server.accounts.get("alice"), "laptop")
    server.accounts.change("alice", **changes)
    with dial(server, logged_in=False) as peer:
        peer.hello()
        if by == "password":
            unknown = peer.ask(Login("nobody", "secret"))
            wrong = peer.ask(Login("alice", "wrong"))
            assert wrong == unknown, "without the password nothing is told of the account"
            refused = peer.ask(Login("alice", "secret"))
        else:
            unknown = peer.ask(LoginToken("alice", "ftpt_unknown"))
            refused = peer.ask(LoginToken("alice", issued.secret))
    assert refused == (unknown if "networks" in changes else Failed("login-refused", reason))
    assert f"log-in refused for alice: {reason}" in caplog.text


def test_an_allowed_network_lets_in(server, dial):
    server.accounts.change("alice", networks=[ip_network("127.0.0.0/8")])
    assert dial(server).ask(WhoAmI()) == LoggedIn("alice")


def test_one_session_too_many(start_server, dial):
    server = start_server(max_user_sessions=2)
    peers = [dial(server) for _ in range(2)]
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert peer.ask(Login("alice", "secret")) == Failed(
            "too-many", "too many sessions: alice has 2, the limit is 2", retry_after=1
        )
        assert peer.read_to_end() == []
    peers[0].reset()
    eventually(lambda: counted(server.service.engine) == 1)
    assert dial(server).ask(WhoAmI()) == LoggedIn("alice")
    assert peers[1].ask(WhoAmI()) == LoggedIn("alice")


def test_a_limit_that_is_set_meanwhile_counts_who_is_there(server, dial):
    peers = [dial(server) for _ in range(2)]
    changed = server.accounts.change("alice", max_sessions=2)
    for one in list(server.service.sessions):
        one.apply_account(changed)
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert peer.ask(Login("alice", "secret")).code == "too-many"
    for peer in peers:
        peer.close()
    eventually(lambda: counted(server.service.engine) == 0)


def test_places_of_the_last_run_are_free_again(start_server, dial):
    server = start_server(max_sessions=1)
    alice = server.accounts.get("alice")
    Sessions(server.service.engine, Ledger(server.service.engine, "local", "killed")).enter(
        alice, HERE, Most(in_all=1)
    )
    start_server.finish(server)
    server = start_server(max_sessions=1)
    eventually(lambda: counted(server.service.engine) == 0)
    dial(server)


def test_connections_are_dropped_before_they_cost_a_thread(start_server, dial, caplog):
    server = start_server(max_startups=Startups(3, 100, 3))
    unauthenticated = [dial(server, logged_in=False) for _ in range(3)]
    eventually(lambda: len(server.service.sessions) == 3)
    dropped = dial(server, logged_in=False)
    assert dropped.read_to_end() == []
    assert len(server.service.sessions) == 3
    assert "1 connections were turned away, one from 127.0.0.1" in caplog.text
    unauthenticated[0].log_in()
    again = dial(server, logged_in=False)
    again.log_in()  # those who have logged in count no more
    unauthenticated[1].close()
    eventually(lambda: len(server.service.limits.unauthenticated) == 1)


def test_the_client_comes_again_by_itself(start_server, dial, connect, tmp_path):
    """A close before HELLO means a busy server."""
    server = start_server(max_startups=Startups(1, 100, 1), plaintext=False)
    unauthenticated_client = dial(server, logged_in=False)
    eventually(lambda: len(server.service.limits.unauthenticated) == 1)
    take, refused = server.service.limits.unauthenticated.take, []

    def taken(*given, **more) -> bool:
        if take(*given, **more):
            return True
        refused.append(1)
        if len(refused) == 2:
            unauthenticated_client.close()
            eventually(lambda: not len(server.service.limits.unauthenticated))
        return False

    server.service.limits.unauthenticated.take = taken
    # a key that is not known takes two connections a try, and the first is a stranger for a while
    known_hosts = KnownHosts(tmp_path / "known_hosts")
    known_hosts.add("{}:{}".format(*server.server_address[:2]), server.fingerprint)
    client = connect(server, known_hosts=known_hosts)
    assert client.connection.ask(WhoAmI()) == LoggedIn("alice")
    assert len(refused) == 2


def test_an_idle_session_is_informed_and_ended(start_server, dial, caplog):
    caplog.set_level(logging.INFO)
    server = start_server(idle_timeout=0.2)
    peer = dial(server)
    began = time.monotonic()
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    (last,) = peer.read_to_end()
    assert (last.kind, last.request_id) == (Kind.NOTICE, 0)
    assert last.message == GoingDown("no request for 0.2 seconds")
    assert time.monotonic() - began >= 0.2
    eventually(lambda: "B out: no request" in caplog.text)


def steadily(step, *, seconds: float, longest: float) -> bool:
    """Repeat a step, ten times a second. Whether no two were ``longest`` apart: a busy machine
    may have kept this thread waiting, and then the end of a session tells nothing."""
    began = last = time.monotonic()
    gap = 0.0
    while last < began + seconds:
        try:
            step()
        except (OSError, EOFError):
            assert max(gap, time.monotonic() - last) >= longest, "it was ended all the same"
            return False
        threading.Event().wait(0.1)
        gap, last = max(gap, time.monotonic() - last), time.monotonic()
    return gap < longest


def test_who_asks_now_and_then_is_not_idle(start_server, dial):
    server = start_server(idle_timeout=0.5)

    def ask() -> None:
        assert peer.ask(WhoAmI()) == LoggedIn("alice")

    peer = dial(server)
    while not steadily(ask, seconds=0.8, longest=0.5):
        peer = dial(server)


def test_a_file_that_comes_too_slowly_is_not_waited_for(start_server, dial, caplog):
    """Each byte comes in time, the 64 KiB don't."""
    caplog.set_level(logging.INFO)
    server = start_server(stall=0.5)
    peer = dial(server)
    size = 1_000_000
    request_id = peer.request(Put(b"/file", size=size))
    peer.send(HEADER.pack(size, Kind.DATA, request_id))
    began = time.monotonic()
    pause = threading.Event()
    with pytest.raises(OSError):
        while time.monotonic() < began + 30:
            peer.send(b"x" * 100)
            pause.wait(0.02)
    eventually(lambda: "did not answer in time" in caplog.text)


def test_a_file_that_comes_slowly_but_steadily_is_stored(start_server, dial):
    server = start_server(stall=0.5)
    piece = b"x" * 64 * 1024

    def stored() -> bool:
        peer, pieces = dial(server), [piece] * 40
        size = len(piece) * len(pieces)
        request_id = peer.request(Put(b"/file", size=size))
        peer.send(HEADER.pack(size, Kind.DATA, request_id))
        if not steadily(lambda: peer.send(pieces.pop()), seconds=0.8, longest=0.5):
            return False
        peer.send(*pieces)
        peer.frame(Kind.END, request_id, Sent(size, None))
        assert not isinstance(peer.answer().message, Failed)
        return True

    while not stored():
        pass


def test_a_file_that_is_taken_too_slowly_is_not_sent_for_ever(start_server, dial, caplog):
    caplog.set_level(logging.INFO)
    server = start_server(stall=0.5)
    (server.settings.root / "alice" / "file").write_bytes(bytes(8 * 2**20))
    peer = dial(server, buffers=4096)
    peer.request(Get(b"/file"))
    began = time.monotonic()
    pause = threading.Event()
    with pytest.raises((EOFError, OSError)):
        while time.monotonic() < began + 30:
            peer.receive(100)
            pause.wait(0.02)
            if not server.service.sessions:
                raise EOFError
    eventually(lambda: "did not answer in time" in caplog.text)


def test_the_rate_of_an_account_is_for_all_of_its_sessions(start_server, dial):
    rate, size = 400_000, 100_000
    server = start_server()
    server.accounts.change("alice", limit_rate=rate)
    (server.settings.root / "alice" / "file").write_bytes(bytes(size))
    peers = [dial(server) for _ in range(3)]
    began = time.monotonic()

    def get(peer) -> None:
        peer.request(Get(b"/file"))
        while peer.read().kind != Kind.END:
            pass

    threads = [threading.Thread(target=get, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    assert took >= (3 * size - 4 * 0.1 * rate) / rate, "each has a burst of a tenth of a second"
    assert took >= 0.3


def test_a_rate_that_is_set_meanwhile_holds(server, dial):
    dial(server)
    (one,) = server.service.sessions
    assert one.channel.pace is None
    one.apply_account(server.accounts.change("alice", limit_rate=1000))
    assert one.channel.pace.rate == 1000
    one.apply_account(server.accounts.change("alice", limit_rate=2000))
    assert one.channel.pace.rate == 2000
    one.apply_account(server.accounts.change("alice", limit_rate=None))
    assert one.channel.pace is None


def test_who_waits_for_a_turn_is_informed_after_a_while():
    queue = Queue(1, 3)
    with waiting(queue, HERE):
        with pytest.raises(Busy), queue.turn(THERE, known=False, seconds=0.01):
            pass
        assert len(queue) == 1
    with queue.turn(THERE, known=False, seconds=30.0):  # the control
        assert len(queue) == 1


def test_a_password_waits_no_longer_than_a_log_in_may_take(limits, monkeypatch):
    limits.apply_settings(replace(limits.settings, login_grace=0.01))
    monkeypatch.setattr(limits, "queue", Queue(1, 3))
    with waiting(limits.queue, HERE):
        with pytest.raises(Busy):
            limits.by_password(THERE, "alice", lambda: None)
        with pytest.raises(Busy), limits.turn(THERE):
            pass


def test_a_worker_that_is_stopped_in_its_turn_holds_up_no_other_for_long():
    queue = Queue(1, 3)
    stopped = queue.enter(HERE, known=False, worker=1)
    other = queue.enter(HERE, known=False, worker=2)
    assert stopped.began.done() and not other.began.done()  # the control
    stopped.since -= turns._LONGEST
    last = queue.enter(THERE, known=False, worker=3)
    assert other.began.done() and not last.began.done()
    queue.leave(stopped.token)  # it goes on, and gives back what is another's by now
    assert not last.began.done()
    queue.leave(other.token)
    assert last.began.done()


def told_to(reported: list[str]) -> Callable[..., None]:
    return lambda request, message, descriptors: reported.append(message.token)


@pytest.mark.parametrize("late", [False, True])
def test_a_turn_that_comes_too_late_for_a_worker_is_given_back(late):
    requested, reported = Future(), []
    its = make_proxy(
        ServerQueue, SimpleNamespace(ask_later=lambda *_: requested, notify=told_to(reported))
    )
    if late:
        with pytest.raises(Busy), its.turn(HERE, known=False, seconds=0.01):
            pass
        assert not reported
        requested.set_result("x")
    else:
        requested.set_result("x")
        with its.turn(HERE, known=False, seconds=30.0):
            assert not reported
    assert reported == ["x"]
