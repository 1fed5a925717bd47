"""Behind a proxy, a client's address is the one that the proxy tells; nobody else may tell one."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import replace
from ipaddress import ip_network

import pytest

from ftpserver.accounts import startups
from ftpserver.accounts.bans import ADDRESS_FACTOR
from ftpserver.net.proxy_protocol import SIGNATURE
from ftpserver.serving import proxied
from ftpserver.settings.table import Startups
from ftpwire.errors import LoginRefused
from ftpwire.messages import Failed, LoggedIn, Login
from tests.hostile.conftest import Site, ended, ways
from tests.peer import PATIENCE, Peer, eventually

pytestmark = pytest.mark.system  # it waits in real time

PROXY, STRANGER = "127.0.0.9", "127.0.0.2"
CLIENT, OTHER = "198.51.100.7", "198.51.100.8"
LONG = 10 * PATIENCE
BEHIND = {"proxy_from": (ip_network(f"{PROXY}/32"),), "trusted_networks": ()}

by_address = pytest.mark.parametrize("way", [way for way in ways if way.values != ("unix",)])


def header(client: str | None, *, command: int | None = None) -> bytes:
    """What a proxy sends first. None: the connection is its own."""
    if client is None:
        return SIGNATURE + struct.pack(">BBH", 0x20, 0, 0)
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    ends = socket.inet_pton(family, client) * 2 + struct.pack(">HH", 4711, 1234)
    kind = 0x21 if ":" in client else 0x11
    return SIGNATURE + struct.pack(">BBH", command or 0x21, kind, len(ends)) + ends


def through(site: Site, client: str | None, source: str = PROXY) -> Peer:
    """Connect as a client behind a proxy."""
    sock = site.touch(source)
    sock.sendall(header(client))
    return site.stack.enter_context(Peer(site._wrapped(sock)))


def addresses(site: Site) -> list[str]:
    """Of those who are connected."""
    return sorted(one.peer for one in site.server.serving.session_infos())


@by_address
def test_the_client_is_known_by_the_address_behind_the_proxy(serve, way):
    site = serve(**BEHIND)
    peers = [through(site, client) for client in (CLIENT, "2001:db8::7")]
    for peer in peers:
        peer.log_in()
    assert addresses(site) == [f"{CLIENT}:4711", "[2001:db8::7]:4711"]
    own = through(site, None)  # the proxy's own, as its health checks are
    own.log_in()
    assert any(one.startswith(f"{PROXY}:") for one in addresses(site))
    audit = site.server.settings.state / "audit.jsonl"

    def logins() -> list[str]:
        text = audit.read_text() if audit.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return sorted(line["address"] for line in lines if line["event"] == "login")

    eventually(lambda: logins() == [PROXY, CLIENT, "2001:db8::7"])


@by_address
def test_penalties_and_bans_are_those_of_the_address_behind(serve, way):
    """The control: others behind the same proxy come in."""
    site = serve(ban_after=1, **BEHIND)
    guesser = through(site, CLIENT)
    guesser.hello()
    assert guesser.ask(Login("alice", "wrong")).code == "login-refused"
    eventually(lambda: [ban.subject for ban in site.server.service.limits.bans()])
    again = through(site, CLIENT)
    again.hello()
    assert again.ask(Login("alice", "secret")).code == "banned"
    other = through(site, OTHER)
    other.log_in()
    for _ in range(3):
        with through(site, "203.0.113.5") as peer:
            peer.send(b"\x16" if site.context is None else b"\0" * 100)
            ended(peer)
    subjects = [ban.subject for ban in site.server.service.limits.bans()]
    assert not any(PROXY in subject for subject in subjects)
    assert site.is_served(other)


def test_the_networks_of_an_account_are_those_behind_the_proxy(serve):
    site = serve(**BEHIND)
    site.server.accounts.change("alice", networks=(f"{CLIENT}/32",))
    through(site, CLIENT).log_in()
    other = through(site, OTHER)
    other.hello()
    assert isinstance(other.ask(Login("alice", "secret")), Failed)


@by_address
def test_nobody_else_may_give_himself_an_address(serve, way):
    """It is a protocol error, and costs as much."""
    site = serve(**BEHIND)
    for source in (STRANGER,) * 4:
        sock = site.touch(source)
        sock.sendall(header(CLIENT))
        assert b"proxy-from" in _all_of(sock)
    refused = eventually(lambda: list(site.server.service.limits.bans()))
    assert [ban.subject for ban in refused] == [STRANGER]
    through(site, CLIENT).log_in()  # the control


def _all_of(sock: socket.socket) -> bytes:
    data = b""
    sock.shutdown(socket.SHUT_WR)
    while piece := sock.recv(4096):
        data += piece
    return data


def test_a_unix_socket_takes_no_header(start_server, tmp_path):
    path = tmp_path / "ftpd.sock"
    start_server(unix=path, proxy_from=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(header(CLIENT))
        assert b"proxy-from" in _all_of(sock)


BAD = {
    "nothing-of-it": b"\x16\x03\x01" + bytes(30),
    "text": b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 1234\r\n",
    "version": header(CLIENT).replace(b"\x21\x11", b"\x31\x11"),
    "command": header(CLIENT, command=0x22),
    "too-long": SIGNATURE + struct.pack(">BBH", 0x21, 0x11, 65535),
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_a_proxy_without_a_good_header_is_refused(serve, sent):
    site = serve(**BEHIND)
    sock = site.touch(PROXY)
    sock.sendall(sent)
    assert _is_closed(sock)
    assert not site.server.service.limits.bans()
    eventually(lambda: not site.server.service.connections)


def _is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True  # by a reset, where not all was read


@pytest.mark.parametrize("sent", [b"", header(CLIENT)[:20]], ids=["silent", "in-part"])
def test_a_header_has_to_come_in_time(serve, monkeypatch, sent):
    monkeypatch.setattr(proxied, "HEADER_SECONDS", 0.05)
    site = serve(login_grace=LONG, stall=LONG, **BEHIND)
    sock = site.touch(PROXY)
    sock.sendall(sent)
    assert _is_closed(sock)
    eventually(lambda: not site.server.service.connections)


def test_a_header_may_come_byte_by_byte_and_with_what_follows(serve):
    site = serve(**BEHIND)
    sock = site.touch(PROXY)
    for byte in header(CLIENT):
        sock.sendall(bytes([byte]))
    site.stack.enter_context(Peer(sock)).log_in()
    assert addresses(site) == [f"{CLIENT}:4711"]
    sock = site.touch(PROXY)
    together = header(OTHER) + b"\0\0"  # the beginning of a frame
    sock.sendall(together)
    eventually(lambda: f"{OTHER}:4711" in addresses(site))


def test_those_behind_a_proxy_have_shares_of_their_own(serve):
    """And the proxy has none of its own that could be used up."""
    site = serve(max_startups=Startups(4, 100, 8), login_grace=LONG, **BEHIND)
    silent = [through(site, CLIENT) for _ in range(6)]
    through(site, OTHER).log_in()
    assert len(silent) == 6


def test_those_without_a_header_make_space_for_others(serve, monkeypatch):
    """The oldest of them, as of all connections without a log-in."""
    monkeypatch.setattr(startups, "_MOMENT", 0.0)
    site = serve(max_startups=Startups(4, 100, 4), login_grace=LONG, **BEHIND)
    waiting = [site.touch(PROXY) for _ in range(6)]
    assert all(_is_closed(sock) for sock in waiting[:2])
    through(site, CLIENT).log_in()
    assert _is_closed(waiting[2])


def test_health_checks_cost_nothing(serve):
    """Whether they say that they are such, or close at once."""
    site = serve(**BEHIND)
    for sent in (header(None), b""):
        for _ in range(20):
            sock = site.touch(PROXY)
            sock.sendall(sent)
            sock.close()
    eventually(lambda: not site.server.service.connections)
    assert not site.server.service.limits.bans()
    through(site, CLIENT).log_in()


def test_a_server_that_stops_waits_for_no_header(serve, start_server):
    site = serve(login_grace=LONG, **BEHIND)
    sock = site.touch(PROXY)
    eventually(lambda: site.server.service.connections)
    start_server.finish(site.server)
    assert _is_closed(sock)


def test_who_is_a_proxy_follows_the_settings(serve):
    site = serve(**BEHIND)
    site.server.service.apply_settings(replace(site.server.settings, proxy_from=()))
    sock = site.touch(PROXY)
    sock.sendall(header(CLIENT))
    assert b"proxy-from" in _all_of(sock)
    peer = site.user(PROXY)
    assert isinstance(peer.ask(Login("alice", "secret")), (LoggedIn, Failed))


def refused() -> None:
    raise LoginRefused("no")


def test_a_proxy_that_was_banned_goes_on_bringing_others(serve):
    """As it was before it was named: the guesses of all clients were its own then. The control:
    who is banned himself is told so."""
    site = serve(ban_after=1, **BEHIND)
    for number in range(ADDRESS_FACTOR):
        with pytest.raises(LoginRefused):
            site.server.service.limits.by_password(PROXY, f"user{number}", refused)
    assert PROXY in [ban.subject for ban in site.server.service.limits.bans()]
    waiting = site.touch(PROXY)  # has said nothing yet
    eventually(lambda: site.server.service.limits.unauthenticated.count(PROXY))
    through(site, CLIENT).log_in()
    again = through(site, None)
    again.hello()
    assert again.ask(Login("alice", "secret")).code == "banned"
    waiting.close()
