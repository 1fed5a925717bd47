"""Answering who looks for servers: whom, how often, and what becomes of junk."""

from __future__ import annotations

import itertools
import os
import socket
from dataclasses import replace

import pytest
from msgspec import msgpack

from ftpserver.daemon import discovery as module
from ftpserver.daemon.background import OptionalBackground
from ftpserver.daemon.control import DiscoveryInfo, running
from ftpserver.daemon.discovery import Allowances, Discovery, name_of
from ftpserver.settings.table import TABLE, Settings
from ftpwire import SOFTWARE, discovery
from tests.peer import eventually

HERE = "127.255.255.255"
"""Where all servers of this machine listen."""


@pytest.fixture
def start(start_server):
    """Starts discoverable servers."""
    return lambda **options: start_server(**{"discoverable": True, "discovery_port": 0} | options)


@pytest.fixture
def asker():
    """A socket that may ask everybody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.settimeout(30)
        yield sock


@pytest.fixture
def ask_all(asker):
    """Asks everybody at a port; gives as many answers as are expected, and their senders."""

    def requested(port: int, answers: int = 1):
        nonce = os.urandom(discovery.NONCE_SIZE)
        asker.sendto(discovery.question(nonce), (HERE, port))
        found = []
        for _ in range(answers):
            datagram, sender = asker.recvfrom(2048)
            assert len(datagram) <= discovery.SIZE
            found.append((discovery.announcement_of(datagram, nonce), sender[0]))
        return found

    return requested


def discovery_of(server) -> Discovery | None:
    """What answers for a running server."""
    running = [one.running for one in server.backgrounds if isinstance(one, OptionalBackground)]
    return next((one for one in running if isinstance(one, Discovery)), None)


def silent(asker) -> bool:
    """Whether nothing more has come."""
    asker.setblocking(False)
    try:
        asker.recvfrom(2048)
    except BlockingIOError:
        return True
    return False


def test_nobody_is_answered_unless_it_is_asked_for(server):
    assert discovery_of(server) is None
    assert running(server.settings.state).status().discovery is None


def test_an_answer(start, ask_all):
    server = start(plaintext=False, name="the office")
    ((reported, sender),) = ask_all(discovery_of(server).port)
    assert (reported.name, reported.port, reported.software) == (
        "the office",
        server.server_address[1],
        SOFTWARE,
    )
    assert reported.fingerprint == server.fingerprint is not None
    assert sender == "127.0.0.1"


def test_without_tls_there_is_no_fingerprint(start, ask_all):
    server = start()
    assert ask_all(discovery_of(server).port)[0][0].fingerprint is None


def test_every_server_of_a_machine_answers(start, ask_all, tmp_path):
    first = start(name="first")
    port = discovery_of(first).port
    start(name="second", root=tmp_path / "other", discovery_port=port)
    assert {reported.name for reported, _ in ask_all(port, 2)} == {"first", "second"}


def test_the_answer_comes_from_where_clients_connect_to(start, ask_all):
    server = start(host="127.0.0.2")
    assert [sender for _, sender in ask_all(discovery_of(server).port)] == ["127.0.0.2"]


def test_a_server_for_all_addresses_answers_here_too(start, ask_all):
    server = start(host=None)
    assert ask_all(discovery_of(server).port)[0][0].port == server.server_address[1]


def by_hand(nonce: bytes = b"n" * 16, *, start: bytes = b"FTPd\1\1", size: int = 512) -> bytes:
    """A question, from the text of docs/protocol.md alone."""
    return (start + nonce).ljust(size, b"?")


def test_a_question_and_an_answer_are_as_the_text_says(start, asker):
    server = start(name="x" * 64, plaintext=False)
    assert Settings(server.settings.root).discovery_port == 1234
    port = discovery_of(server).port
    others = [b"FTPd\2\1", b"FTPd\1\2", b"FTPd\1\3", b"FTPD\1\1"]
    for datagram in (*(by_hand(start=one) for one in others), by_hand(size=511), by_hand(size=513)):
        asker.sendto(datagram, (HERE, port))
    asker.sendto(by_hand(), (HERE, port))
    answer, sender = asker.recvfrom(2048)
    assert silent(asker) and discovery_of(server).dropped == 6
    assert answer[:22] == b"FTPd\1\2" + b"n" * 16 and len(answer) <= 512
    reported = msgpack.decode(answer[22:])
    assert len(reported.pop("run")) == 8
    assert reported == {
        "name": "x" * 64,
        "port": server.server_address[1],
        "software": SOFTWARE,
        "fingerprint": server.fingerprint,
    }


@pytest.mark.parametrize("host", ["127.0.0.1", None], ids=["one-address", "all"])
def test_the_port_that_an_answer_comes_from(start, asker, host):
    """The server's own where it listens at all addresses, any where it listens at one."""
    port = discovery_of(start(host=host)).port
    asker.sendto(by_hand(), (HERE, port))
    sender = asker.recvfrom(2048)[1]
    assert (sender[1] == port) == (host is None)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="elsewhere it listens everywhere")
def test_a_server_for_this_machine_alone_does_not_hear_its_own_address(start, asker, ask_all):
    port = discovery_of(start()).port
    asker.sendto(by_hand(), ("127.0.0.1", port))
    assert len(ask_all(port)) == 1
    assert silent(asker)


def test_a_server_for_this_machine_alone_answers_nobody_else(start):
    found = discovery_of(start())
    requested = discovery.question(os.urandom(discovery.NONCE_SIZE))
    assert found.verify_request((requested, None), ("127.0.0.1", 5))
    assert not found.verify_request((requested, None), ("192.0.2.9", 5))
    assert found.dropped == 1
    if os.uname().sysname == "Linux":
        assert found.server_address[0] == HERE  # the kernel sees to it as well


JUNK = [
    b"",
    b"junk",
    discovery.question(bytes(discovery.NONCE_SIZE))[:-1],
    discovery.question(bytes(discovery.NONCE_SIZE)) + b"\0",
    os.urandom(discovery.SIZE),
    os.urandom(9000),
]


def test_junk_is_dropped_and_counted(start, asker, ask_all):
    server = start()
    for datagram in JUNK:
        asker.sendto(datagram, (HERE, discovery_of(server).port))
    assert len(ask_all(discovery_of(server).port)) == 1  # junk had no answer, and did no harm
    assert silent(asker)
    assert running(server.settings.state).status().discovery == DiscoveryInfo(
        discovery_of(server).port, answered=1, limited=0, dropped=len(JUNK)
    )


def test_who_asks_too_often_has_no_answer(start, ask_all, asker, monkeypatch):
    monkeypatch.setattr(module, "_ADDRESS_RATE", 0.0)
    monkeypatch.setattr(module, "_ADDRESS_BURST", 2.0)
    found = discovery_of(start())
    ask_all(found.port)
    ask_all(found.port)
    for _ in range(3):
        ask_all(found.port, answers=0)
    eventually(lambda: found.limited == 3)
    assert found.answered == 2
    assert silent(asker)


def test_one_address_has_its_share():
    assert (module._ADDRESS_RATE, module._ADDRESS_BURST) == (4.0, 20.0)
    now = 0.0
    allowances = Allowances(lambda: now)
    burst = int(module._ADDRESS_BURST)
    assert [allowances.take("a") for _ in range(burst + 1)] == [True] * burst + [False]
    assert allowances.take("b")
    now += 1 / module._ADDRESS_RATE
    assert allowances.take("a") and not allowances.take("a")


def test_all_together_have_a_share_and_a_bounded_table():
    assert (module._RATE, module._BURST) == (50.0, 100.0)
    allowances = Allowances(lambda: 0.0)
    forged = (str(number) for number in itertools.count())
    taken = [allowances.take(next(forged)) for _ in range(3 * module._MAX_ADDRESSES)]
    assert sum(taken) == module._BURST
    assert len(allowances) == module._MAX_ADDRESSES


def test_a_server_that_drains_is_not_found(start, ask_all, asker, tmp_path):
    server = start()
    port = discovery_of(server).port
    start(name="another", root=tmp_path / "other", discovery_port=port)
    server.drain()
    ((reported, _),) = ask_all(port)
    assert reported.name == "another"
    assert silent(asker)


def test_a_port_that_is_taken_is_no_reason_not_to_serve(start_server, ask_all, caplog):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HERE, 0))
        port = other.getsockname()[1]
        server = start_server(discoverable=True, discovery_port=port)
    assert discovery_of(server) is None
    assert f"not discoverable: UDP port {port}" in caplog.text


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_a_server_without_ipv4_says_that_nobody_finds_it(start_server, caplog):
    assert discovery_of(start_server(discoverable=True, discovery_port=0, host="::1")) is None
    assert "not discoverable" in caplog.text


def test_names(tmp_path, monkeypatch):
    settings = Settings(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "files.example.org")
    assert name_of(settings) == "files"
    monkeypatch.setattr(socket, "gethostname", lambda: "\x1b[2J" * 30)
    assert name_of(settings).isprintable() and len(name_of(settings)) == discovery.MAX_NAME
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert name_of(settings) == "ftpd"
    assert name_of(replace(settings, name="the office")) == "the office"


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "x" * (discovery.MAX_NAME + 1), 5])
def test_what_is_no_name(name):
    with pytest.raises(ValueError):
        TABLE["name"].kind.parse(name)


def test_a_reload_changes_the_name(start, ask_all):
    server = start(name="before")
    server.load_settings = lambda: replace(server.settings, name="after")
    assert server.reload() == ["name: after"]
    assert ask_all(discovery_of(server).port)[0][0].name == "after"
