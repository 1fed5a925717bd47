"""Link-local addresses: no machine gets its neighbours banned, or takes all room from others."""

from __future__ import annotations

import pytest

from ftpserver.accounts.limits import Limits
from ftpserver.database import open_state
from ftpserver.net.addresses import host_of, network_of, source_of
from ftpserver.settings.table import Settings, Startups
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import Banned, LoginRefused

GUESSER, NEIGHBOUR, ELSEWHERE = "fe80::1%lan", "fe80::2%lan", "fe80::1%wlan"


@pytest.fixture
def limits(tmp_path):
    engine = open_state(tmp_path / ".ftpd")
    settings = Settings(tmp_path, ban_after=2, max_startups=Startups(8, 100, 8))
    yield Limits(engine, settings, Ledger(engine))
    engine.dispose()


def guess(limits: Limits, host: str, name: str = "alice") -> None:
    def prove() -> None:
        raise LoginRefused("no")

    with pytest.raises(LoginRefused):
        limits.by_password(host, name, prove)


def test_wrong_passwords_ban_the_address_alone(limits):
    for number in range(6):
        guess(limits, GUESSER, f"user{number}")
    with pytest.raises(Banned, match="fe80::1%lan"):
        limits.by_password(GUESSER, "alice", lambda: True)
    assert limits.by_password(NEIGHBOUR, "alice", lambda: True)
    assert limits.by_password(ELSEWHERE, "alice", lambda: True), "another interface"
    assert [ban.subject for ban in limits.unban(GUESSER)] == [GUESSER]
    assert limits.by_password(GUESSER, "alice", lambda: True)


def test_of_other_networks_the_whole_64_is_banned(limits):
    """The control: there, a provider gives all of it to one customer."""
    for number in range(6):
        guess(limits, f"2001:db8::{number + 1}", f"user{number}")
    with pytest.raises(Banned):
        limits.by_password("2001:db8::77", "alice", lambda: True)


def test_all_of_an_interface_have_one_share(limits):
    """A machine may have as many of these addresses as it likes."""
    assert limits.admit(1, "fe80::1%lan") and limits.admit(2, "fe80::2%lan")
    assert not limits.admit(3, "fe80::3%lan")
    assert limits.admit(4, "fe80::3%wlan")


@pytest.mark.parametrize(
    ("address", "host", "place", "source"),
    [
        (("fe80::1", 5, 0, 999_999), "fe80::1%999999", "fe80::/10%999999", "fe80::1%999999"),
        (("fe80::1", 5, 0, 1), "fe80::1%lo", "fe80::/10%lo", "fe80::1%lo"),
        (("fe80::1%eth9", 5), "fe80::1%eth9", "fe80::/10%eth9", "fe80::1%eth9"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::1", "2001:db8::/64", "2001:db8::/64"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1", "192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_know_their_interface(address, host, place, source):
    assert host_of(address) == host
    assert (network_of(host), source_of(host)) == (place, source)
