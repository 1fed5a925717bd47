"""The server itself: accepting whatever happens, starting, stopping, repairing."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from contextlib import suppress
from socketserver import TCPServer

import pytest
from sqlalchemy import select, update

from ftpserver.clock import Clock
from ftpserver.daemon import housekeeping
from ftpserver.daemon import server as server_module
from ftpserver.daemon.server import FtpServer
from ftpserver.errors import RootBusy, StateError
from ftpserver.schema import account
from ftpserver.serving import heartbeat as heartbeat_module
from ftpserver.serving import listeners as module
from ftpserver.serving import quiet
from ftpserver.serving.session import Session
from ftpserver.settings.table import Settings, Startups
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.quota import most_files
from ftpwire.messages import LoggedIn, WhoAmI
from tests.peer import Peer, eventually


def plain(root, **options) -> Settings:
    return Settings(**{"root": root, "host": "127.0.0.1", "port": 0, "plaintext": True} | options)


def is_served(peer: Peer) -> bool:
    return peer.ask(WhoAmI()) == LoggedIn("alice")


def test_who_runs_it_is_informed_when_nothing_moves_any_more(server, dial, monkeypatch):
    monkeypatch.setattr(quiet, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(quiet, "_WORTH_BYTES", 1)
    reported = threading.Event()
    server.on_quiet = reported.set
    assert is_served(dial(server))
    assert reported.wait(60)


# accepting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_running_out_of_descriptors_pauses_and_ends_nothing(server, dial, monkeypatch, number):
    before = dial(server)
    accept, select = TCPServer.get_request, module.select.select
    failures, pauses = [], []

    def fail(self):
        if len(failures) < 3:
            failures.append(1)
            raise OSError(number, os.strerror(number))
        return accept(self)

    def noted(*arguments):
        if arguments[3:] == (module._BREATHER,):
            pauses.append(1)
        return select(*arguments)

    monkeypatch.setattr(module.select, "select", noted)
    monkeypatch.setattr(TCPServer, "get_request", fail)
    peer = dial(server)
    assert is_served(peer) and is_served(before)
    assert len(failures) == len(pauses) == 3


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_a_peer_that_is_gone_already_ends_nothing(server, dial, monkeypatch, number):
    accept = TCPServer.get_request
    failures = []

    def fail(self):
        if len(failures) < 3:
            accept(self)[0].close()
            failures.append(1)
            raise OSError(number, os.strerror(number))
        return accept(self)

    monkeypatch.setattr(TCPServer, "get_request", fail)
    for _ in range(3):
        with pytest.raises((EOFError, ConnectionError)):
            dial(server)
    assert is_served(dial(server))


def test_no_more_threads_end_nothing(server, dial, monkeypatch, caplog):
    before = dial(server)
    start = threading.Thread.start
    failures = []

    def fail(self):
        if self._target.__name__ == "process_request_thread" and len(failures) < 2:
            failures.append(1)
            raise RuntimeError("cannot start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(2):
        with pytest.raises((EOFError, ConnectionError)):
            dial(server)
    assert is_served(dial(server)) and is_served(before)
    assert caplog.text.count("could not be served") == 2


def test_many_connect_at_once(start_server, dial):
    """More than the usual backlog of 5."""
    server = start_server(max_startups=Startups(1000, 30, 1000))
    sockets = []
    try:
        for _ in range(200):
            sockets.append(socket.create_connection(server.server_address, timeout=30))
        eventually(lambda: len(server.service.sessions) == 200)
        assert is_served(dial(server))
    finally:
        for one in sockets:
            one.close()
    eventually(lambda: len(server.service.sessions) == 1)


# stopping ----------------------------------------------------------------------------------


def test_stopping_twice(server, dial):
    dial(server).close()
    server.stop()
    server.stop()
    with pytest.raises(OSError):
        Peer.connect(server.server_address)


def test_stopping_what_never_served(tmp_path):
    with FtpServer(plain(tmp_path / "root")) as server:
        assert server.service.stop_fd >= 0
    server.stop()


def test_stopping_waits_for_connections_that_have_only_been_accepted(
    start_server, monkeypatch, dial
):
    """Their threads may not have come to say that they exist; all is closed under them else."""
    server = start_server()
    setup, reached, go_on = Session.setup, threading.Event(), threading.Event()

    def late(self):
        reached.set()
        assert go_on.wait(30)
        setup(self)

    monkeypatch.setattr(Session, "setup", late)
    peer = dial(server, logged_in=False)
    assert reached.wait(30)
    stopped = threading.Event()
    stopping = threading.Thread(target=lambda: (server.stop(), stopped.set()))
    stopping.start()
    eventually(lambda: server.service.stopping)
    assert not stopped.wait(0.1)
    go_on.set()
    assert stopped.wait(30)
    stopping.join()
    assert peer.read_to_end() == []


def test_everybody_who_waits_wakes_up(server, dial):
    """Readable for all of them, and from then on."""
    peers = [dial(server) for _ in range(20)]
    closing = [
        threading.Thread(target=lambda peer=peer: (peer.read_to_end(), peer.close()))
        for peer in peers
    ]
    for thread in closing:
        thread.start()
    server.stop()
    for thread in closing:
        thread.join()
    assert not server.service.sessions


# starting ----------------------------------------------------------------------------------


def test_a_root_is_served_once(start_server, tmp_path):
    server = start_server()
    with pytest.raises(RootBusy) as caught:
        FtpServer(plain(tmp_path / "root"))
    assert str(os.getpid()) in str(caught.value)
    assert str(tmp_path / "root") in str(caught.value)
    start_server.finish(server)
    with FtpServer(plain(tmp_path / "root")):
        pass


def test_a_port_is_taken_once(server, tmp_path):
    with pytest.raises(OSError) as caught:
        FtpServer(plain(tmp_path / "other", port=server.server_address[1]))
    assert caught.value.errno == errno.EADDRINUSE
    with FtpServer(plain(tmp_path / "other")):
        pass  # what the failed one had of the root was given back


def test_the_same_port_again_at_once(tmp_path, dial, start_server):
    """Connections of the last run may still linger in the kernel."""
    first = start_server()
    port = first.server_address[1]
    peer = dial(first)
    goodbye = threading.Thread(target=lambda: (peer.read_to_end(), peer.close()))
    goodbye.start()
    start_server.finish(first)
    goodbye.join()
    assert is_served(dial(start_server(port=port)))


@pytest.mark.parametrize("spoil", ["file", "state-file", "state-dir", "lock-dir", "db-dir"])
def test_a_root_that_can_not_be_used(tmp_path, spoil):
    root = tmp_path / "root"
    match spoil:
        case "file":
            root.write_text("")
        case "state-file":
            root.mkdir()
            (root / ".ftpd").write_text("")
        case "state-dir":
            (root / ".ftpd").mkdir(parents=True)
            (root / ".ftpd" / "tls").write_text("")
        case "lock-dir":
            (root / ".ftpd" / "lock").mkdir(parents=True)
        case "db-dir":
            (root / ".ftpd" / "state.db").mkdir(parents=True)
    with pytest.raises(StateError) as caught:
        FtpServer(plain(root, plaintext=False))
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_root_that_may_not_be_written(tmp_path, plain_user):
    (tmp_path / "root").mkdir(mode=0o500)
    with pytest.raises(StateError) as caught:
        FtpServer(plain(tmp_path / "root"))
    assert "cannot be written" in str(caught.value)


@pytest.mark.parametrize("name", ["with space", "100%", "a?b=c", "a#b", "ü", "a%20b", "-"])
def test_a_root_of_any_name(tmp_path, start_server, dial, name):
    server = start_server(root=tmp_path / name)
    assert is_served(dial(server))
    assert (tmp_path / name / ".ftpd" / "state.db").exists()
    assert sorted(os.listdir(tmp_path)) == [name]


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]")]
)
def test_where_it_listens(start_server, dial, host, shown):
    try:
        server = start_server(host=host)
    except OSError:
        pytest.skip(f"no {host} here")
    port = server.server_address[1]
    assert server.address == f"{shown}:{port}"
    with socket.create_connection((host.strip("[]"), port), timeout=30) as sock:
        peer = Peer(sock)
        peer.log_in()
        assert is_served(peer)


def test_all_interfaces_of_both_families(start_server, dial, caplog):
    caplog.set_level(logging.INFO)
    server = start_server(host=None)
    port = server.server_address[1]
    addresses = ["127.0.0.1"] + ["::1"] * (server.listening.family == socket.AF_INET6)
    for address in addresses:
        with suppress(OSError), socket.create_connection((address, port), timeout=30) as sock:
            peer = Peer(sock)
            peer.log_in()
            assert is_served(peer)
    assert "::ffff:" not in caplog.text, "an IPv4 address is shown as one"
    assert "alice@127.0.0.1:" in caplog.text


def test_a_host_that_is_none(tmp_path):
    with pytest.raises(StateError) as caught:
        FtpServer(plain(tmp_path / "root", host="no such host"))
    assert "no such host" in str(caught.value)


# repairing ---------------------------------------------------------------------------------


def crashed(start_server, quota=10_000) -> FtpServer:
    """A server that has ended; what it would have left by a crash is added by hand."""
    server = start_server(quota=quota)
    start_server.finish(server)
    return server


def test_what_a_crash_left_is_counted_and_cleaned(start_server, tmp_path):
    last = crashed(start_server)
    home = last.settings.root / "alice"
    staging = home / ".ftpd-staging"
    dead = Ledger(last.service.engine, incarnation="0123456789abcdef")
    alice = last.accounts.get("alice").id
    dead.reserve(alice, 4000)
    dead.reserve(alice, 500, b"u-1234567890abcdef-12345678")
    last.service.engine.dispose()
    (home / "dir").mkdir()
    (home / "dir" / "file").write_bytes(b"x" * 1234)
    staging.mkdir(exist_ok=True)
    kept = {"u-1234567890abcdef-12345678", "u-1234567890abcdef-12345678.ck"}
    for name in {"0123456789abcdef-0123", "offline-77", "rubbish", *kept}:
        (staging / name).write_bytes(b"x" * 100)
    (staging / "0123456789abcdef-dir").mkdir()
    (staging / "0123456789abcdef-dir" / "file").write_bytes(b"x")

    server = start_server()
    eventually(lambda: set(os.listdir(staging)) - {"lock"} == kept)
    eventually(lambda: server.accounts.get("alice").used == 1234)
    assert server.accounts.get("alice").held == 500
    assert server.service.ledger.owned_staging(alice) == {b"u-1234567890abcdef-12345678"}


def test_one_home_that_can_not_be_counted_hinders_no_other(start_server, caplog):
    last = crashed(start_server)
    last.accounts.add("bob", "secret")
    with last.service.engine.begin() as connection:
        connection.execute(update(account).values(dirty=True, used=77))
    last.service.engine.dispose()
    (last.settings.root / "alice").rename(last.settings.root / "elsewhere")
    (last.settings.root / "alice").write_text("no directory")
    (last.settings.root / "bob" / "file").write_bytes(b"x" * 55)
    server = start_server()
    eventually(lambda: server.accounts.get("bob").used == 55)
    assert server.accounts.get("alice").used == 77


def test_housekeeping_goes_on_whatever_fails(start_server, monkeypatch):
    monkeypatch.setattr(heartbeat_module, "EVERY", 0.01)
    beats = []
    enough = threading.Event()

    def heartbeat(self):
        beats.append(1)
        if len(beats) > 4:
            enough.set()
        if len(beats) % 2:
            raise RuntimeError("the disk is full")

    monkeypatch.setattr(Ledger, "heartbeat", heartbeat)
    start_server()
    assert enough.wait(30)


# leases ------------------------------------------------------------------------------------


def is_dirty(server, name: str) -> bool:
    with server.service.engine.connect() as connection:
        query = select(account.c.dirty).where(account.c.name == name)
        return bool(connection.execute(query).scalar())


def test_a_home_that_is_locked_holds_up_neither_leases_nor_other_homes(
    start_server, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(heartbeat_module, "EVERY", 0.05)
    monkeypatch.setattr(housekeeping, "EVERY", 0.05)
    monkeypatch.setattr(housekeeping, "_SHORT_PATIENCE", 0.05)
    server = start_server()
    server.accounts.add("bob", "correct horse", password_hash="x")
    home = Home(server.accounts.get("alice").home)
    beats = threading.Semaphore(0)
    ledger = server.service.ledger
    heartbeat = ledger.heartbeat
    with home.alone():
        with server.service.engine.begin() as connection:
            connection.execute(update(account).values(dirty=True))
        eventually(lambda: not is_dirty(server, "bob"))
        eventually(lambda: caplog.text.count("alice: recounting") >= 2)  # and now for long
        monkeypatch.setattr(
            server.service.ledger, "heartbeat", lambda: (heartbeat(), beats.release())
        )
        for _ in range(3):
            assert beats.acquire(timeout=20)
        assert is_dirty(server, "alice")
    eventually(lambda: not is_dirty(server, "alice"))
    home.close()


def test_a_clock_that_is_set_is_noticed(start_server, monkeypatch, caplog):
    wall = [1_800_000_000.0]
    monkeypatch.setattr(housekeeping, "RUN", Clock(lambda: wall[0], lambda: 0.0))
    server = start_server()
    server.heartbeat.beat()
    assert "clock" not in caplog.text
    wall[0] -= 365 * 24 * 3600
    server.heartbeat.beat()
    server.heartbeat.beat()
    assert caplog.text.count("the system's clock was set back by 31536000 seconds") == 1
    wall[0] += 700
    server.heartbeat.beat()
    assert "was set forward by 700 seconds" in caplog.text


def test_one_beat_that_fails_stops_no_other(start_server, monkeypatch, caplog):
    server = start_server()
    beaten = []

    def fail():
        raise StateError("state.db: database is locked")

    monkeypatch.setattr(server.service.ledger, "heartbeat", fail)
    monkeypatch.setattr(server.service.limits.sessions, "heartbeat", lambda: beaten.append(1))
    server.heartbeat.beat()
    assert beaten and "database is locked; trying again" in caplog.text


def test_a_start_brings_the_accounts_file_up_to_date(root, monkeypatch):
    called = []
    monkeypatch.setattr(server_module, "upgrade", lambda *given: called.append(given))
    with FtpServer(plain(root)):
        assert called == [(root / ".ftpd", most_files)]


def test_an_upgrade_that_fails_keeps_no_server_from_starting(root, monkeypatch, caplog):
    def fail(directory, most_files):
        raise StateError("state.db: cannot be upgraded: database or disk is full")

    monkeypatch.setattr(server_module, "upgrade", fail)
    with FtpServer(plain(root)):
        assert "disk is full; the next start tries again" in caplog.text
