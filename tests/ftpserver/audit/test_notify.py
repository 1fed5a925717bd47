"""Word of events: who is told that the audit log has grown, and that nobody is waited for."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from contextlib import ExitStack

import pytest

from ftpserver.audit import notify
from ftpserver.audit import reader as audit_reader
from ftpserver.audit.administration import administered
from ftpserver.audit.files import FILE_NAME
from ftpserver.audit.notify import SOCKET, Follower
from ftpserver.audit.reader import AuditReader, Filter
from tests.peer import eventually

MANY = 1000  # more than any system keeps for who does not read


@pytest.fixture
def state(server):
    """Where the running server's log is."""
    return server.settings.state


@pytest.fixture
def log(state):
    return state / FILE_NAME


@pytest.fixture
def subscriber(state):
    """A program of this machine that knows nothing but what docs/admin.md tells."""
    with ExitStack() as stack:

        def make(*, subscribe: bool = True) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.bind("")
            sock.settimeout(30)
            if subscribe:
                sock.sendto(b'{"is":"subscribe"}', str(state / SOCKET))
                assert reported(sock)["is"] == "grown"
            return sock

        yield make


def reported(sock: socket.socket) -> dict:
    return json.loads(sock.recv(1024))


def wait_for_start(log) -> None:
    """The record of the start is written by then: what is told later is of something else."""
    eventually(lambda: log.exists() and b'"start"' in log.read_bytes())


def test_only_the_owner_can_subscribe(state):
    info = os.stat(state / SOCKET)
    assert stat.S_ISSOCK(info.st_mode) and stat.S_IMODE(info.st_mode) == 0o600


def test_it_goes_with_the_server(start_server):
    server = start_server()
    path = server.settings.state / SOCKET
    assert path.exists()
    start_server.finish(server)
    assert not path.exists()


def test_what_a_crash_left_is_replaced(start_server, tmp_path):
    (tmp_path / "root" / ".ftpd").mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(tmp_path / "root" / ".ftpd" / SOCKET))
    server = start_server()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(server.settings.state / SOCKET))


def test_a_server_without_an_audit_log_notifies_nobody(start_server):
    server = start_server(audit_size=0)
    assert not (server.settings.state / SOCKET).exists()


def test_a_server_that_can_not_notify_serves_nevertheless(start_server, tmp_path, caplog):
    (tmp_path / "root" / ".ftpd" / SOCKET).mkdir(parents=True)
    (tmp_path / "root" / ".ftpd").chmod(0o700)
    start_server()
    assert "no notifications of new audit records" in caplog.text


def test_each_write_is_reported(server, subscriber, log, dial):
    wait_for_start(log)
    sock = subscriber()
    dial(server)
    first = reported(sock)
    assert first["inode"] == os.stat(log).st_ino
    assert b'"login"' in log.read_bytes()[: first["offset"]]
    server.service.audit.record("test")
    second = reported(sock)
    assert second["sequence"] == first["sequence"] + 1
    assert b'"test"' in log.read_bytes()[first["offset"] : second["offset"]]


def test_what_another_process_adds_is_reported(state, subscriber, log):
    wait_for_start(log)
    sock = subscriber()
    administered(state, "test")
    assert reported(sock)["offset"] == log.stat().st_size
    assert log.read_bytes().count(b'"test"') == 1


def test_nobody_is_waited_for(server, subscriber, log):
    """A subscriber that doesn't read misses some, which the numbers show; the others don't."""
    wait_for_start(log)
    slow, quick = subscriber(), subscriber()
    tell = server.service.audit.on_written
    found = []
    for _ in range(MANY):
        tell()
        found.append(reported(quick)["sequence"])
    assert found == list(range(found[0], found[0] + MANY))
    missed = [reported(slow)["sequence"]]
    slow.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            missed.append(reported(slow)["sequence"])
    assert len(missed) < MANY
    slow.setblocking(True)
    tell()
    assert reported(slow)["sequence"] == found[-1] + 1 > missed[-1] + 1


def test_who_is_gone_is_forgotten(server, subscriber, log):
    wait_for_start(log)
    gone, there = subscriber(), subscriber()
    gone.close()
    server.service.audit.on_written()
    reported(there)
    assert server.service.audit.on_written.__self__._subscribers.keys() == {there.getsockname()}


def test_a_subscription_lapses(server, subscriber, log, monkeypatch):
    wait_for_start(log)
    monkeypatch.setattr(notify, "LAPSE", -1.0)
    sock = subscriber()
    server.service.audit.on_written()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1024)
    assert not server.service.audit.on_written.__self__._subscribers


def test_there_is_a_bound(server, subscriber, log, monkeypatch):
    monkeypatch.setattr(notify, "_MOST", 2)
    first, second, third = subscriber(), subscriber(), subscriber()
    found = set(server.service.audit.on_written.__self__._subscribers)
    assert found == {second.getsockname(), third.getsockname()}
    assert first.getsockname() not in found


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[" * 1000, b'{"is":"stop"}', b"\xff", b"x" * 5000], ids=repr
)
def test_junk_does_no_harm(state, subscriber, junk, caplog):
    sock = subscriber(subscribe=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        for one in (sock, nameless):
            one.sendto(junk, str(state / SOCKET))
        nameless.sendto(b'{"is":"subscribe"}', str(state / SOCKET))
    sock.sendto(b'{"is":"subscribe"}', str(state / SOCKET))
    assert reported(sock)["is"] == "grown"
    assert not caplog.records


# following ---------------------------------------------------------------------------------


@pytest.fixture
def follow(monkeypatch):
    """Follows a log in a thread until a record of that event; then gives all events."""
    monkeypatch.setattr(audit_reader, "_POLL_SECONDS", 3600.0)  # only being told can wake it
    monkeypatch.setattr(notify, "_RENEW", 3600.0)
    with ExitStack() as stack:

        def run(state, last: str) -> list[str]:
            found: list[str] = []

            def read() -> None:
                with Follower(state) as follower, AuditReader(state, follower.wait) as reader:
                    for _, record in reader.records(Filter(), follow=True):
                        found.append(record.event)
                        if record.event == last:
                            return

            thread = threading.Thread(target=read)
            thread.start()
            stack.callback(thread.join, 30)
            run.thread = thread
            return found

        yield run


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="elsewhere it looks again and again")
def test_a_follower_sleeps_until_it_is_notified(server, state, follow, dial):
    found = follow(state, "end")
    eventually(lambda: "start" in found)
    dial(server)
    eventually(lambda: "login" in found)
    administered(state, "user-set")
    eventually(lambda: "user-set" in found)
    server.service.audit.record("end")
    follow.thread.join(30)
    assert found[0] == "start" and found[-1] == "end"


def test_without_a_server_the_log_is_looked_at(state, start_server, server, monkeypatch):
    start_server.finish(server)
    naps = []
    monkeypatch.setattr(notify.time, "sleep", naps.append)
    with Follower(state) as follower:
        follower.wait(0.125)
    assert naps == [0.125]


def test_a_server_that_comes_later_is_found(start_server, follow, server, state, monkeypatch):
    """Subscriptions are renewed: with the old server they would wait for nothing."""
    monkeypatch.setattr(audit_reader, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(notify, "_RENEW", 0.05)
    found = follow(state, "end")
    eventually(lambda: "start" in found)
    start_server.finish(server)
    again = start_server()
    eventually(lambda: found.count("start") == 2)
    again.service.audit.record("end")
    follow.thread.join(30)
    assert found[-1] == "end"
