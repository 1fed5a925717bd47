"""Connections without a log-in, many of them, silent or not: new addresses get in all the same.

The control of each: whoever does nothing wrong is not refused. The addresses are of the loopback
network, which is trusted otherwise.
"""

from __future__ import annotations

import pytest

from ftpserver.accounts.penalties import Offence
from ftpserver.settings.table import Startups
from ftpwire.frames import Kind
from ftpwire.messages import LoggedIn, Login, Stat
from tests.hostile.conftest import WAYS, Site, ended, ways
from tests.peer import PATIENCE, eventually

LONG = 10 * PATIENCE
ATTACKER, NEIGHBOUR = "127.0.0.2", "127.0.0.3"
UNTRUSTED = {"trusted_networks": (), "login_grace": LONG, "stall": LONG}

by_address = pytest.mark.parametrize("way", [way for way in ways if way.values != ("unix",)])
"""Each way of serving in which clients have addresses."""


def is_refused(site: Site, source: str) -> bool:
    """Whether a connection from there is closed before a word is said."""
    sock = site.touch(source)
    sock.settimeout(0.2)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        sock.close()


@by_address
@pytest.mark.parametrize("trusted", [False, True], ids=["untrusted", "trusted"])
def test_silent_connections_of_one_address_keep_no_other_one_out(serve, trusted):
    """They have a share; and where they have none, their oldest make room."""
    options = {"max_startups": Startups(4, 100, 8)} | UNTRUSTED
    if trusted:
        del options["trusted_networks"]
    site = serve(**options)
    silent = [site.touch(ATTACKER) for _ in range(12)]
    for last in range(10, 20):
        with site.user(f"127.0.0.{last}") as user:
            assert site.is_served(user)
    assert silent


@pytest.mark.long
@pytest.mark.parametrize("way", [way for way in WAYS if way != "unix"])
def test_four_hundred_of_them(serve):
    site = serve(**UNTRUSTED)
    silent = [site.touch(ATTACKER) for _ in range(400)]
    for last in range(40):
        with site.user(f"127.0.1.{last}") as user:
            assert site.is_served(user)
    assert len(silent) == 400


def test_addresses_that_have_logged_in_keep_a_share(serve):
    """The control: whoever was there lately comes in, whatever others do."""
    site = serve(**{"max_startups": Startups(4, 100, 4)} | UNTRUSTED)
    site.user(NEIGHBOUR)
    for last in range(10, 14):
        site.touch(f"127.0.0.{last}")
    eventually(lambda: len(site.server.service.limits.unauthenticated) == 4)
    assert site.is_served(site.user(NEIGHBOUR))


def misbehave(site: Site, source: str) -> None:
    """Ask too much before log-in."""
    with site.knock(source) as peer:
        peer.hello()
        for _ in range(17):
            peer.request(Stat(b"/"))
        assert ended(peer)[-1].code == "bad-message"


@by_address
def test_an_address_that_goes_on_is_refused_until_it_is_lifted(serve):
    site = serve(**UNTRUSTED)
    limits = site.server.service.limits
    for _ in range(2):
        misbehave(site, ATTACKER)
    eventually(limits.bans)
    assert [one.subject for one in limits.bans()] == [ATTACKER]
    assert is_refused(site, ATTACKER)
    assert site.is_served(site.user(NEIGHBOUR))
    limits.unban(ATTACKER)
    assert site.is_served(site.user(ATTACKER))


def test_the_same_from_a_trusted_network_costs_nothing(serve):
    """The control: it stands for many clients."""
    site = serve(login_grace=LONG)
    for _ in range(3):
        misbehave(site, ATTACKER)
    with site.user(ATTACKER) as user:
        eventually(lambda: len(site.server.service.connections) == 1)
        assert not len(site.server.service.limits.penalties)
        assert site.is_served(user)


def cost_of(site: Site) -> list[Offence]:
    """What the connections so far have cost. Connections are accepted in their order."""
    with site.user(NEIGHBOUR):
        eventually(lambda: len(site.server.service.connections) == 1)
        return list(site.reported)


@pytest.fixture
def costly(serve):
    """A server that remembers what connections cost."""

    def started(**options) -> Site:
        site = serve(**{**UNTRUSTED, **options})
        site.reported = []
        site.server.service.limits.penalties.add = lambda host, offence: site.reported.append(
            offence
        )
        return site

    return started


@by_address
def test_a_health_check_costs_nothing(costly):
    """It connects and closes, without a byte."""
    site = costly()
    for _ in range(5):
        site.touch(ATTACKER).close()
    assert cost_of(site) == []


@by_address
def test_what_a_connection_costs(costly, way):
    site = costly()
    with site.knock(ATTACKER) as peer:
        peer.hello()
    assert cost_of(site) == [Offence.NO_LOGIN]
    if way != "tls":  # where it is a wrong option
        with site.knock(ATTACKER) as peer:
            peer.hello()
            peer.send(bytes([0, 0, 0, 0, 99, 0, 0, 0, 0]))
            peer.read_to_end()
    else:
        site.reported.append(Offence.PROTOCOL)
    assert cost_of(site) == [Offence.NO_LOGIN, Offence.PROTOCOL]


@pytest.mark.parametrize("logs_in", [False, True], ids=["and-leaves", "and-logs-in"])
def test_a_bad_request_costs_as_much_as_when_it_ended_the_connection(costly, logs_in):
    """Unless somebody logs in after it: then it was a client that is wrong about something."""
    site = costly()
    with site.knock(ATTACKER) as peer:
        peer.hello()
        for _ in range(3):
            peer.frame(Kind.REQUEST, 1, b"\x81\xa2op\xa5later")
            assert peer.answer().message.code == "unknown-request"
        if logs_in:
            assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    assert cost_of(site) == ([] if logs_in else [Offence.PROTOCOL])


@by_address
def test_silence_until_the_time_is_over_costs_most(costly):
    site = costly(login_grace=0.3)
    site.touch(ATTACKER)
    assert cost_of(site) == [Offence.TOO_LATE]


def test_a_log_in_costs_nothing(costly):
    site = costly()
    site.user(ATTACKER).close()
    assert cost_of(site) == []
