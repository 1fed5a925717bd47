"""`ftpd start` without an option for workers, on the real programs: one process serves, and another
while several sessions are busy."""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ftpserver.cpus import cpus
from ftpwire import messages
from ftpwire.messages import LoggedIn, Put, Ready
from tests.peer import Peer
from tests.system.modes import AUTO
from tests.system.programs import PATIENCE, Server, eventually, finish
from tests.system.test_workers import log_in, sessions, status, worker_of, workers_of

MIB = 1024 * 1024

pytestmark = [
    pytest.mark.needs("workers"),
    pytest.mark.skipif(cpus() < 2, reason="one CPU is used by one process"),
]


@pytest.fixture
def server(start_server) -> Server:
    return start_server(mode=AUTO)


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def busy(server: Server, user, stack: ExitStack, name: bytes) -> Peer:
    """A session in the middle of an upload."""
    peer = log_in(server, user, stack)
    assert isinstance(peer.ask(Put(name, 5, ask=True)), Ready)
    return peer


def grown(server: Server, user, stack: ExitStack) -> tuple[list[Peer], int]:
    """Two busy sessions, and the process that is there for others."""
    peers = [busy(server, user, stack, b"/a"), busy(server, user, stack, b"/b")]
    found = eventually(lambda: workers_of(server))
    (other,) = set(found) - {server.process.pid}
    assert server.process.pid in found
    return peers, other


def test_another_process_comes_and_serves(server, alice, connections):
    first = busy(server, alice, connections, b"/first")
    log_in(server, alice, connections)
    assert workers_of(server) == [], "one is busy"
    first.close()
    eventually(lambda: len(sessions(server)) == 1)
    peers, other = grown(server, alice, connections)
    third = log_in(server, alice, connections)
    assert worker_of(server, third) == other, "it has the fewest"
    assert {worker_of(server, peer) for peer in peers} == {server.process.pid}
    assert third.ask(messages.WhoAmI()) == LoggedIn("alice")
    assert status(server).sessions == len(sessions(server)) == 4
    assert "2 (processes " in server.admin.run("status").text


def test_kick_reaches_both(server, alice, connections):
    peers, _ = grown(server, alice, connections)
    peers.append(log_in(server, alice, connections))
    server.admin.run("kick", "alice")
    for peer in peers:
        assert any(b"ended by the administrator" in frame.payload for frame in peer.read_to_end())


def test_one_that_is_killed_is_replaced(server, alice, connections):
    _, other = grown(server, alice, connections)
    third = log_in(server, alice, connections)
    os.kill(other, signal.SIGKILL)
    assert third.read_to_end() == []
    eventually(lambda: len(set(workers_of(server)) - {other}) == 2)
    assert log_in(server, alice, connections).ask(messages.WhoAmI()) == LoggedIn("alice")
    assert "SIGKILL" in server.log


def test_it_ends_with_the_server(server, alice, connections):
    _, other = grown(server, alice, connections)
    pidfd = os.pidfd_open(other)
    connections.callback(os.close, pidfd)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(PATIENCE)
    server.stop_requested = True
    assert select.select([pidfd], [], [], PATIENCE)[0]


def test_another_certificate(server, alice, connections):
    peers, other = grown(server, alice, connections)
    before = log_in(server, alice, connections)
    for name in ("key.pem", "cert.pem"):
        (server.root / ".ftpd" / "tls" / name).unlink()
    assert "certificate: key SHA256:" in server.admin.run("reload").text
    found = {log_in(server, alice, connections).socket.getpeercert(True) for _ in range(4)}
    assert len(found) == 1 and before.socket.getpeercert(True) not in found
    assert before.ask(messages.WhoAmI()) == LoggedIn("alice")
    before.close()
    eventually(lambda: other not in workers_of(server), "it ends with its last session")
    assert len(workers_of(server)) == 2 and peers


def test_pieces_that_come_to_both(server, alice, connections, tmp_path):
    """An upload that several connections work on, some here and some there."""
    grown(server, alice, connections)
    source = tmp_path / "file"
    source.write_bytes(random.Random(6).randbytes(24 * MIB + 77))
    alice.run("put", "-P", "4", source, "/file")
    assert (server.home() / "file").read_bytes() == source.read_bytes()
    served = {worker_of(server, log_in(server, alice, connections)) for _ in range(4)}
    assert served == set(workers_of(server))


def test_stopping_lets_transfers_finish(start_server, connections):
    """One here, and one in the other process."""
    server = start_server("--grace", str(PATIENCE), mode=AUTO)
    alice = server.first_user()
    here = alice.start("put", "-", "/here")
    here.stdin.write(b"a" * MIB)
    busy(server, alice, connections, b"/b")
    eventually(lambda: workers_of(server))
    there = alice.start("put", "-", "/there")
    there.stdin.write(b"a" * MIB)
    eventually(lambda: sum(one.request == "put" for one in sessions(server)) == 3)
    connections.close()
    server.signal(signal.SIGTERM)
    eventually(lambda: "stopping" in server.log)
    for put in (here, there):
        finish(put, given=b"b")
    server.stop()
    for name in ("here", "there"):
        assert (server.home() / name).read_bytes() == b"a" * MIB + b"b"
