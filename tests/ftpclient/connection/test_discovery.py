"""Looking for servers: whom is asked, and what is made of answers, whoever sends them."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpclient.connection import discovery
from ftpclient.connection.discovery import broadcast_addresses, discover
from ftpclient.connection.known_hosts import KnownHosts
from ftpwire import discovery as wire
from ftpwire.discovery import Announcement

PRINT = "SHA256:" + "A" * 43
REPORTED = Announcement(b"12345678", "office", 1234, "ftpd/1", PRINT)
SOON = 0.15
"""Seconds for answers that are sent at once, from this machine."""

Script = Callable[[int, bytes], Iterator[bytes]]
"""The datagrams for the question of that number (from 0) with that nonce."""


class Responder:
    """Sends what it is told to whoever asks at its addresses."""

    def __init__(self, script: Script, hosts: tuple[str, ...]) -> None:
        self._script = script
        self.heard = 0
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in hosts]
        self.port = 0
        for sock, host in zip(self._sockets, hosts, strict=True):
            sock.bind((host, self.port))
            self.port = sock.getsockname()[1]
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in self._sockets]
        for thread in self._threads:
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        number = 0
        while True:
            datagram, sender = sock.recvfrom(2048)
            if datagram == b"end":
                return
            self.heard += 1
            for answer in self._script(number, wire.nonce_of(datagram)):
                sock.sendto(answer, sender)
            number += 1

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for one in self._sockets:
                sock.sendto(b"end", one.getsockname())
        for thread, one in zip(self._threads, self._sockets, strict=True):
            thread.join()
            one.close()


@pytest.fixture
def find():
    """What is found where the answers follow a script."""
    with contextlib.ExitStack() as stack:

        def run(script: Script, *hosts: str, timeout: float = SOON):
            hosts = hosts or ("127.0.0.1",)
            run.responder = Responder(script, hosts)
            stack.callback(run.responder.close)
            return discover(timeout, port=run.responder.port, targets=hosts)

        yield run


def changed(**fields) -> Announcement:
    return msgspec.structs.replace(REPORTED, **fields)


def test_a_server(find):
    (found,) = find(lambda number, nonce: [wire.answer(nonce, REPORTED)])
    assert (found.name, found.version, found.fingerprint) == ("office", "ftpd/1", PRINT)
    assert found.endpoints == ["127.0.0.1:1234"]


def test_a_server_is_found_once(find):
    """Whether it answers twice, or from two addresses."""
    answer = lambda number, nonce: [wire.answer(nonce, REPORTED)] * 2  # noqa: E731
    (found,) = find(answer, "127.0.0.1", "127.0.0.2", timeout=0.3)
    assert sorted(found.addresses) == ["127.0.0.1", "127.0.0.2"]


def test_two_servers_that_look_alike_are_two(find):
    alike = [REPORTED, changed(run=b"87654321")]
    assert len(find(lambda number, nonce: [wire.answer(nonce, one) for one in alike])) == 2


def test_whoever_repeats_a_server_does_not_replace_it():
    found = discovery._shown(REPORTED)
    for address in ("127.0.0.1", "192.0.2.66", "192.0.2.7"):
        found.add(address)
    assert found.addresses == ["192.0.2.66", "192.0.2.7", "127.0.0.1"]
    assert found.endpoints == ["192.0.2.66:1234", "192.0.2.7:1234"]


def test_a_question_that_got_lost_is_repeated(find, monkeypatch):
    monkeypatch.setattr(discovery, "_AGAIN", 0.05)
    found = find(lambda number, nonce: [wire.answer(nonce, REPORTED)] if number else [])
    assert len(found) == 1 and find.responder.heard == 2


def test_junk_is_passed_over(find):
    def junk(number: int, nonce: bytes):
        yield b""
        yield b"x" * 2000
        yield wire.question(nonce)
        yield wire.answer(bytes(wire.NONCE_SIZE), REPORTED)
        yield wire.answer(nonce, REPORTED)[:-3]
        yield wire.answer(nonce, changed(name="the real one"))

    assert [one.name for one in find(junk)] == ["the real one"]


def test_texts_can_be_printed(find):
    nasty = changed(name="\x1b]0;owned\x07", software="a\nb")
    (found,) = find(lambda number, nonce: [wire.answer(nonce, nasty)])
    assert found.name.isprintable() and found.version == r"a\nb"


def test_nobody_fills_the_memory(find, monkeypatch):
    monkeypatch.setattr(discovery, "_MOST", 5)
    crowd = [changed(run=number.to_bytes(8)) for number in range(50)]
    assert len(find(lambda number, nonce: [wire.answer(nonce, one) for one in crowd])) == 5
    found = discovery._shown(REPORTED)
    for number in range(50):
        found.add(f"192.0.2.{number}")
    assert len(found.addresses) == discovery._MOST_ADDRESSES


def test_a_network_without_a_way_to_it_is_passed_over(monkeypatch):
    assert discover(0.05, port=9, targets=["240.0.0.1"]) == []


def test_every_network_is_asked(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert "127.255.255.255" in broadcast_addresses(sock)
        monkeypatch.setattr(discovery.sys, "platform", "darwin")
        assert broadcast_addresses(sock) == ["127.255.255.255", "255.255.255.255"]


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="asks Linux")
def test_the_broadcast_addresses_of_interfaces(monkeypatch):
    import fcntl

    def ioctl(sock, what: int, request: bytes) -> bytes:
        name = request[:16].rstrip(b"\0")
        if name == b"down0":
            raise OSError(99, "no address")
        last = {b"lo": b"\0\0\0\0", b"eth0": b"\xc0\0\2\xff"}[name]
        return request[:20] + last + request[24:]

    names = [(1, "lo"), (2, "eth0"), (3, "down0")]
    monkeypatch.setattr(socket, "if_nameindex", lambda: names)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert broadcast_addresses(sock) == ["127.255.255.255", "192.0.2.255"]


# the command -------------------------------------------------------------------------------


@pytest.fixture
def answering(find):
    """A port at which one server answers, on 127.0.0.1 alone."""
    find(lambda number, nonce: [wire.answer(nonce, REPORTED)])
    return find.responder.port


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `ftp discover` where nobody but 127.0.0.1 is asked; gives the exit status."""
    monkeypatch.setattr(discovery, "broadcast_addresses", lambda sock: ["127.0.0.1"])

    def discovered(port: int, *options: str) -> int:
        app = App()
        arguments = ["discover", "--discovery-port", str(port), "--timeout", str(SOON), *options]
        try:
            return main.run(app, arguments)
        finally:
            app.close()
            app.interrupt.close()

    return discovered


def test_lines_for_scripts(run, answering, capsys):
    assert run(answering) == 0
    assert capsys.readouterr().out == f"office\t127.0.0.1:1234\tftpd/1\t{PRINT}\n"


def test_records(run, answering, capsys):
    assert run(answering, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "office",
        "address": "127.0.0.1",
        "addresses": ["127.0.0.1"],
        "port": 1234,
        "version": "ftpd/1",
        "fingerprint": PRINT,
        "plaintext": False,
    }


def test_a_table_on_a_terminal(run, answering, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert run(answering) == 0
    head, line = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert head.split()[:2] == ["NAME", "ADDRESS"]
    assert line.split() == ["office", "127.0.0.1:1234", "ftpd/1", PRINT]


def test_none_is_found(run, find, capsys):
    find(lambda number, nonce: [])
    assert run(find.responder.port) == 5
    assert "no server answered" in capsys.readouterr().err


def test_a_fingerprint_learned_here_pins_nothing(run, answering):
    assert run(answering) == 0
    assert KnownHosts().get("127.0.0.1:1234") is None
    assert not KnownHosts().path.exists()
