"""Penalties: what adds up, who is refused, for how long, and how that ends."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from ftpserver.accounts import penalties as module
from ftpserver.accounts.limits import Limits
from ftpserver.accounts.penalties import ENFORCED_FROM, LONGEST, SECONDS, Offence, Penalties
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import NotFound
from tests.clock import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def penalties(clock) -> Penalties:
    return Penalties(clock)


def add(penalties: Penalties, *offences: Offence, host: str = HERE) -> None:
    for offence in offences:
        penalties.add(host, offence)


@pytest.mark.parametrize("offence", Offence)
def test_each_kind_is_refused_once_enough_of_them_add_up(penalties, offence):
    count = 0
    while not penalties.refuses(HERE):
        add(penalties, offence)
        count += 1
    assert count == -(-ENFORCED_FROM // SECONDS[offence])
    assert not penalties.refuses(THERE)


def test_what_comes_now_and_then_passes(penalties, clock):
    """The control: seconds pass as they add up."""
    for _ in range(1000):
        add(penalties, Offence.PROTOCOL)
        clock.now += SECONDS[Offence.PROTOCOL]
        assert not penalties.refuses(HERE)


def test_a_refusal_lasts_until_all_has_passed(penalties, clock):
    add(penalties, Offence.TOO_LATE, Offence.TOO_LATE)
    clock.now += 19.9
    assert penalties.refuses(HERE)
    clock.now += 0.2
    assert not penalties.refuses(HERE)
    assert not penalties.all() and not len(penalties)


def test_the_sum_is_bounded(penalties, clock):
    add(penalties, *[Offence.CRASH] * 100)
    clock.now += LONGEST + 0.1
    assert not penalties.refuses(HERE)


def test_addresses_are_bounded_and_the_longest_penalties_stay(penalties, monkeypatch):
    monkeypatch.setattr(module, "MAX_SOURCES", 20)
    add(penalties, Offence.CRASH)
    for number in range(100):
        add(penalties, Offence.NO_LOGIN, host=f"198.51.100.{number}")
        assert len(penalties) <= 20
    assert penalties.refuses(HERE)


def test_ipv6_counts_by_network_and_link_local_by_address(penalties):
    add(penalties, Offence.CRASH, host="2001:db8::1")
    assert penalties.refuses("2001:db8::2") and not penalties.refuses("2001:db8:0:1::1")
    add(penalties, Offence.CRASH, host="fe80::1%eth0")
    assert penalties.refuses("fe80::1%eth0")
    assert not penalties.refuses("fe80::2%eth0") and not penalties.refuses("fe80::1%eth1")


# among the limits ----------------------------------------------------------------------------


@pytest.fixture
def limits(engine, root) -> Limits:
    trusted = (ip_network("198.51.100.0/24"),)
    return Limits(engine, Settings(root, trusted_networks=trusted), Ledger(engine))


def test_they_refuse_connections_are_listed_and_lifted(limits):
    limits.penalize(HERE, Offence.CRASH)
    assert not limits.admit(1, HERE)
    assert limits.admit(2, THERE)
    (ban,) = limits.bans()
    assert (ban.subject, ban.account, ban.failures) == (HERE, None, 0)
    assert ban.reason == "connections without a log-in"
    with pytest.raises(NotFound):
        limits.unban(f"{HERE} alice")
    assert [one.subject for one in limits.unban(HERE)] == [HERE]
    assert limits.admit(1, HERE) and not limits.bans()
    with pytest.raises(NotFound):
        limits.unban(HERE)


def test_trusted_networks_and_unix_sockets_have_none(limits):
    for host in ("198.51.100.7", "local"):
        limits.penalize(host, Offence.CRASH)
        assert limits.admit(host, host)
    assert not limits.bans()


def test_who_has_logged_in_lately_is_not_refused_for_others(limits):
    """One of many behind an address must not shut out the others."""
    limits.by_token(HERE, "alice", lambda: None)
    limits.penalize(HERE, Offence.CRASH)
    assert limits.admit(1, HERE)
