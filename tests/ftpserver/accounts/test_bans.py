"""Failed log-ins: what is counted, slowed down, banned and forgotten."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import event, func, select

from ftpserver.accounts import bans as module
from ftpserver.accounts.bans import ADDRESS_FACTOR, Bans
from ftpserver.clock import Clock as RunClock
from ftpserver.schema import failure
from ftpwire.errors import Banned, NotFound
from tests.clock import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def bans(engine, clock) -> Bans:
    return Bans(engine, 4, 600, clock)


def fail(bans: Bans, times: int, host: str = HERE, name: str = "alice") -> None:
    for _ in range(times):
        bans.failed(host, name)


def is_banned(bans: Bans, host: str = HERE, name: str = "alice") -> bool:
    try:
        bans.check(host, name)
    except Banned:
        return True
    return False


def rows(engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(failure)).scalar()


def test_an_account_is_refused_to_who_failed_too_often_and_to_nobody_else(bans):
    fail(bans, 3)
    assert not is_banned(bans)
    fail(bans, 1)
    assert is_banned(bans)
    assert not is_banned(bans, THERE), "never the account for everybody"
    assert not is_banned(bans, HERE, "bob")


def test_an_address_is_refused_that_tries_many_accounts(bans):
    for number in range(4 * ADDRESS_FACTOR):
        assert not is_banned(bans, HERE, "carol")
        fail(bans, 1, name=f"user{number}")
    assert is_banned(bans, HERE, "carol")
    assert not is_banned(bans, THERE, "carol")


def test_the_text_says_what_is_refused_and_for_how_long(bans, clock):
    fail(bans, 4)
    clock.now += 30
    with pytest.raises(Banned) as caught:
        bans.check(HERE, "alice")
    assert str(caught.value) == (
        "too many log-ins to alice failed from 192.0.2.1: refused for another 10 minutes"
    )
    clock.now += 500
    with pytest.raises(Banned, match="refused for another 70 seconds"):
        bans.check(HERE, "alice")


def test_a_ban_ends_and_counting_begins_anew(bans, clock):
    fail(bans, 4)
    clock.now += 599
    assert is_banned(bans)
    clock.now += 1
    assert not is_banned(bans)
    fail(bans, 3)
    assert not is_banned(bans)
    fail(bans, 1)
    assert is_banned(bans)


def test_failures_of_long_ago_do_not_count(bans, clock):
    fail(bans, 3)
    clock.now += 600
    fail(bans, 3)
    assert not is_banned(bans)


def test_a_good_log_in_clears_the_pair_and_not_the_address(bans):
    for _ in range(ADDRESS_FACTOR):
        assert not is_banned(bans)
        fail(bans, 3)
        fail(bans, 1, name="bob")
        bans.succeeded(HERE, "alice")
        bans.succeeded(HERE, "bob")
    assert is_banned(bans, HERE, "carol")


def test_a_good_log_in_elsewhere_clears_nothing_here(bans):
    fail(bans, 4)
    bans.succeeded(THERE, "alice")
    bans.succeeded(HERE, "bob")
    assert is_banned(bans)


def test_ipv6_counts_by_network_and_mapped_ipv4_as_ipv4(bans):
    for host in range(4):
        fail(bans, 1, f"2001:db8::{host}")
    assert is_banned(bans, "2001:db8::ffff")
    assert not is_banned(bans, "2001:db8:0:1::1")
    fail(bans, 2, "::ffff:192.0.2.1")
    fail(bans, 2, "192.0.2.1")
    assert is_banned(bans, "192.0.2.1")


def test_none_is_banned_where_that_is_turned_off(engine, clock):
    bans = Bans(engine, 0, 600, clock)
    fail(bans, 40)
    assert not is_banned(bans)
    assert bans.delay(HERE) > 0, "they are slowed down all the same"


def test_each_failure_takes_longer_up_to_some_seconds(bans, clock):
    delays = []
    for _ in range(9):
        fail(bans, 1)
        delays.append(bans.delay(HERE))
    assert delays == [0, 0, 0.25, 0.5, 1, 2, 4, 5, 5]
    assert bans.delay(THERE) == 0
    clock.now += 601
    assert bans.delay(HERE) == 0


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "\n", "\0", "ä" * 300, "\udcff", "x" * 256, "alice\u2028", "%", "_"]
)
def test_names_that_nobody_has_count_like_all_others(bans, name):
    fail(bans, 4, name=name)
    assert is_banned(bans, HERE, name)
    assert not is_banned(bans, HERE, "alice")
    (ban,) = bans.all()
    assert ban.subject.isprintable()
    assert bans.lift(ban.subject) == [ban]


def test_bans_are_listed(bans, clock):
    fail(bans, 4, HERE, "alice")
    clock.now += 5
    fail(bans, 12, THERE, "bob")
    fail(bans, 3, "192.0.2.3", "carol")
    found = [(ban.address, ban.account, ban.failures, ban.until - int(clock.now))
             for ban in bans.all()]  # fmt: skip
    assert found == [
        (HERE, "alice", 4, 595),
        (THERE, None, 12, 600),
        (THERE, "bob", 12, 600),
    ]


@pytest.mark.parametrize("subject", [HERE, "::ffff:192.0.2.1", " 192.0.2.1 "])
def test_lifting_all_bans_of_an_address(bans, subject):
    fail(bans, 6)
    fail(bans, 6, name="bob")
    fail(bans, 4, "192.0.2.11", "alice")
    assert bans.may_be_banned(HERE)
    assert {ban.subject for ban in bans.lift(subject)} == {HERE, f"{HERE} alice", f"{HERE} bob"}
    assert not is_banned(bans) and not is_banned(bans, HERE, "bob")
    assert not bans.may_be_banned(HERE)
    assert is_banned(bans, "192.0.2.11"), "its text begins alike"
    fail(bans, 1)
    assert not is_banned(bans), "it was forgotten how often it failed"


def test_lifting_one_ban_of_a_pair(bans):
    fail(bans, 4)
    fail(bans, 4, name="bob")
    bans.lift(f"{HERE} bob")
    assert is_banned(bans) and not is_banned(bans, HERE, "bob")


@pytest.mark.parametrize("subject", ["2001:db8::7", "2001:db8::/64"])
def test_lifting_a_network(bans, subject):
    fail(bans, 4, "2001:db8::1")
    bans.lift(subject)
    assert not is_banned(bans, "2001:db8::1")


@pytest.mark.parametrize("subject", [THERE, f"{HERE} bob", "", "nobody", "alice", "192.0.2.0/24"])
def test_lifting_what_is_not_there(bans, subject):
    fail(bans, 4)
    with pytest.raises(NotFound):
        bans.lift(subject)
    assert is_banned(bans)


def test_this_process_knows_of_addresses_without_asking(bans, engine, clock):
    assert not bans.may_be_banned(HERE)
    fail(bans, 4)
    assert not bans.may_be_banned(HERE), "alice is refused, not the address"
    fail(bans, 8)
    assert bans.may_be_banned(HERE)
    other = Bans(engine, 4, 600, clock)
    assert not other.may_be_banned(HERE)
    assert is_banned(other)
    assert other.may_be_banned(HERE)
    clock.now += 601
    assert not bans.may_be_banned(HERE)


def test_the_table_is_bounded_and_bans_stay_longest(bans, engine, clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 20)
    fail(bans, 4)
    for number in range(100):
        clock.now += 1
        fail(bans, 1, f"198.51.100.{number}", "alice")
        assert rows(engine) <= 20
    assert is_banned(bans)
    fail(bans, 1, "198.51.100.99")
    fail(bans, 3, "198.51.100.99")
    assert is_banned(bans, "198.51.100.99"), "the newest are remembered"


def test_what_counts_no_more_is_removed(bans, engine, clock):
    fail(bans, 4)
    clock.now += 300
    fail(bans, 1, THERE)
    bans.tidy()
    assert rows(engine) == 4
    clock.now += 300
    bans.tidy()
    assert rows(engine) == 2
    clock.now += 300
    bans.tidy()
    assert rows(engine) == 0


def test_no_failure_is_lost_between_threads(engine, clock):
    bans = Bans(engine, 1000, 600, clock)
    threads = [threading.Thread(target=fail, args=(bans, 20)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        counts = dict(connection.execute(select(failure.c.subject, failure.c.count)).all())
    assert counts == {HERE: 160, f"{HERE} alice": 160}


@pytest.mark.parametrize("jump", [-365 * 24 * 3600, 365 * 24 * 3600])
def test_a_ban_lasts_as_long_however_the_clock_is_set(engine, jump):
    wall, ticks = [1_800_000_000.0], [0.0]
    bans = Bans(engine, 4, 600, RunClock(lambda: wall[0], lambda: ticks[0]).now)
    fail(bans, 4)
    wall[0] += jump
    with pytest.raises(Banned, match="another 10 minutes"):
        bans.check(HERE, "alice")
    bans.tidy()
    wall[0] += 600
    ticks[0] += 600
    assert not is_banned(bans)


def test_a_ban_of_a_run_whose_clock_was_ahead_lasts_no_longer(bans, engine, clock):
    fail(bans, 4)
    fail(bans, 1, THERE)
    clock.now -= 365 * 24 * 3600  # it was set right, and the server started again
    bans.tidy()
    with pytest.raises(Banned, match="another 10 minutes"):
        bans.check(HERE, "alice")
    clock.now += 600
    assert not is_banned(bans)
    bans.tidy()
    assert rows(engine) == 0


def test_two_first_failures_at_once_both_count(bans, engine):
    """As with a database whose writers don't wait for each other: neither finds a row."""
    others = []

    def other(connection, statement, *_):
        if not others and str(statement).startswith("SELECT failure.count"):
            others.append(statement)
            bans._count(connection, int(bans._clock()), module.Ban(HERE, None, 0, 0), 0)

    event.listen(engine, "after_execute", other)
    bans.failed(HERE, "alice")
    with engine.connect() as connection:
        counts = dict(connection.execute(select(failure.c.subject, failure.c.count)).all())
    assert others and counts == {HERE: 2, f"{HERE} alice": 1}
