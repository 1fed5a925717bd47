"""`ftpd start --workers 2`, on the real programs: what holds for one process holds for several."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ftpserver.daemon import control
from ftpserver.serving.stats import SessionInfo
from ftpwire import messages
from ftpwire.frames import Kind
from ftpwire.messages import Failed, LoggedIn, Login, Put, Ready
from tests.descriptors import opened_by
from tests.peer import Peer
from tests.system.modes import AUTO
from tests.system.programs import (
    PATIENCE,
    Server,
    clean_environment,
    eventually,
    finish,
    program,
)
from tests.system.proxy import Proxy

MIB = 1024 * 1024

pytestmark = pytest.mark.needs("workers")


@pytest.fixture
def server(start_server) -> Server:
    return start_server("--workers", "2")


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


CONTEXT = client_context()


def status(server: Server) -> control.Status:
    return control.running(server.root / ".ftpd").status()


def workers_of(server: Server) -> list[int]:
    return status(server).workers


def connect(server: Server, stack: ExitStack, context: ssl.SSLContext = CONTEXT) -> Peer:
    address = ("127.0.0.1", server.port)
    return stack.enter_context(Peer.connect(address, context=context))


def log_in(server: Server, user, stack: ExitStack) -> Peer:
    peer = connect(server, stack)
    peer.log_in(user.name, user.password)
    return peer


def port_of(peer: Peer) -> int:
    return int(peer.socket.getsockname()[1])


def worker_of(server: Server, peer: Peer) -> int:
    """The process that serves a connection."""
    return worker_by_port(server, port_of(peer))


def worker_by_port(server: Server, port: int) -> int:
    theirs = f":{port:04X}"
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table if f":{server.port:04X} " in line]
    (inode,) = [line[9] for line in lines if line[2].endswith(theirs)]
    for process in workers_of(server):
        if f"socket:[{inode}]" in opened_by(process):
            return process
    raise AssertionError("nobody serves it")


def sessions(server: Server) -> list[SessionInfo]:
    return control.running(server.root / ".ftpd").sessions().sessions


@contextmanager
def in_both(server: Server, user) -> Iterator[list[Peer]]:
    """Two sessions of somebody, one in each worker."""
    with ExitStack() as stack:
        peers = [log_in(server, user, stack) for _ in range(2)]
        assert len({worker_of(server, peer) for peer in peers}) == 2
        yield peers


def ask(peer: Peer) -> object:
    return peer.ask(messages.WhoAmI())


# handing out -------------------------------------------------------------------------------


def test_a_ticket_is_good_for_a_worker_that_was_started_later(server, connections):
    """Also when the settings were taken over again meanwhile, with the same key."""
    alice = server.first_user()
    first = log_in(server, alice, connections)
    ask(first)
    server.admin.run("reload")
    (other,) = set(workers_of(server)) - {worker_of(server, first)}
    os.kill(other, signal.SIGKILL)
    eventually(lambda: len(set(workers_of(server)) - {other}) == 2)
    later = resumed(server, first, connections)
    later.log_in(alice.name, alice.password)
    assert worker_of(server, later) not in (other, worker_of(server, first))
    assert later.socket.session_reused


def resumed(server: Server, like: Peer, stack: ExitStack) -> Peer:
    """A connection that resumes the TLS session of another one."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    return stack.enter_context(Peer(CONTEXT.wrap_socket(raw, session=like.socket.session)))


@pytest.mark.needs("network")  # the socket is one of its own
def test_a_unix_socket_is_served_by_workers_too(start_server, tmp_path):
    server = start_server("--workers", "2", "--unix", str(tmp_path / "here"), "--no-tcp")
    assert server.process.poll() is None
    assert len(workers_of(server)) == 2
    server.admin.run("user", "add", "bob", "--password-stdin", given=b"correct-horse\n")
    bob = server.user("bob", "correct-horse")
    (tmp_path / "file").write_bytes(b"abc")
    bob.run("put", tmp_path / "file", "/file")
    assert (server.home("bob") / "file").read_bytes() == b"abc"


# looking after sessions --------------------------------------------------------------------


def test_sessions_of_all_workers_are_seen_and_kicked(server, connections):
    alice, bob = server.first_user(), server.add_user("bob")
    with in_both(server, alice) as mine, in_both(server, bob) as his:
        found = sessions(server)
        assert [one.user for one in found] == ["alice", "alice", "bob", "bob"]
        assert len({one.id for one in found}) == 4
        reported = status(server)
        assert (reported.sessions, reported.unauthenticated) == (4, 0)
        assert reported.bytes_in >= sum(one.bytes_in for one in found)
        by_port = {int(one.peer.rpartition(":")[2]): one.id for one in found}
        server.admin.run("kick", str(by_port[port_of(his[1])]))
        assert his[1].read_to_end()
        assert ask(his[0]) == LoggedIn("bob")
        assert server.admin.run("kick", "alice").lines == ["ended 2 sessions"]
        assert all(peer.read_to_end() for peer in mine)
        server.admin.run("kick", "alice")


def test_a_change_of_the_account_reaches_all_workers(server):
    alice = server.first_user()
    with in_both(server, alice) as peers:
        server.admin.run("user", "set", "alice", "--permit", "read-only")
        for peer in peers:
            eventually(lambda peer=peer: isinstance(peer.ask(messages.MakeDir(b"/d")), Failed))
        server.admin.run("user", "disable", "alice")
        for peer in peers:
            assert any(b"disabled" in frame.payload for frame in peer.read_to_end())


def test_what_all_do_is_in_one_log_whose_followers_are_woken(server, programs, tmp_path):
    alice = server.first_user()
    follower = programs.start(
        [*program("ftpd"), "log", "--follow", "--json"],
        stdout=subprocess.PIPE,
        env=clean_environment(tmp_path, FTPD_ROOT=str(server.root)),
    )
    with in_both(server, alice) as peers:
        for number, peer in enumerate(peers):
            peer.ask(messages.MakeDir(b"/made-%d" % number))
        made = []
        while len(made) < 2:
            line = json.loads(follower.stdout.readline())
            if line["event"] == "mkdir":
                made.append(line)
    assert {line["path"] for line in made} == {"/made-0", "/made-1"}
    assert len({line["session"] for line in made}) == 2


def made_of(server: Server) -> list[str]:
    """What the log tells of the directories that were made, a line each."""
    return server.admin.run("log", "--json", "--event", "mkdir").lines


def test_no_line_is_lost_when_the_log_begins_another_file(start_server):
    server = start_server("--workers", "2", "--audit-size", "4KiB", "--audit-keep", "100")
    alice = server.first_user()
    with in_both(server, alice) as peers:
        for number in range(60):
            peers[number % 2].ask(messages.MakeDir(b"/made-%d" % number))
            if number % 15 == 14:  # what is written at once begins one file at most
                eventually(lambda done=number + 1: len(made_of(server)) == done)
    server.stop()
    files = list((server.root / ".ftpd").glob("audit.jsonl*"))
    assert len(files) > 2
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    made = [line["path"] for line in lines if line["event"] == "mkdir"]
    assert sorted(made) == sorted(f"/made-{number}" for number in range(60))
    assert sum(line["event"] == "logout" for line in lines) == 2


# limits ------------------------------------------------------------------------------------


def test_sessions_are_limited_over_all_workers(start_server, connections):
    server = start_server("--workers", "2", "--max-user-sessions", "3")
    alice = server.first_user()
    for _ in range(3):
        last = log_in(server, alice, connections)
    one_more = connect(server, connections)
    one_more.hello()
    refused = one_more.ask(Login(alice.name, alice.password))
    assert isinstance(refused, Failed) and refused.code == "too-many"
    last.close()
    eventually(lambda: alice.run("ls", "/", status=None).status == 0)


def test_unauthenticated_clients_are_limited_over_all_workers(start_server, connections):
    server = start_server("--workers", "2", "--max-startups", "3", "--login-grace", "300")
    alice = server.first_user()
    unauthenticated = [connect(server, connections) for _ in range(3)]
    with pytest.raises(OSError):
        connect(server, connections).hello()
    unauthenticated[0].log_in(alice.name, alice.password)
    unauthenticated[1].close()
    peer = eventually(lambda: _connected(server, connections), "it is noticed")
    peer.log_in(alice.name, alice.password)


def test_a_ban_is_one_for_all_workers_and_for_who_accepts(start_server, connections):
    server = start_server("--workers", "2", "--ban-after", "1", "--login-grace", "300")
    alice = server.first_user()
    for number in range(3):
        peer = connect(server, connections)
        peer.hello()
        assert isinstance(peer.ask(Login(f"somebody{number}", "guess")), Failed)
        peer.close()
    # who was refused stays for a moment, and one stranger at a time is taken
    waiting = eventually(lambda: _connected(server, connections))
    eventually(lambda: _is_turned_away(server), "one stranger at a time, who is told so")
    waiting.hello()
    reported = waiting.ask(Login(alice.name, alice.password))
    assert "too many log-ins failed" in reported.message
    server.admin.run("unban", "--all")
    alice.run("ls", "/")


def _connected(server: Server, stack: ExitStack) -> Peer | None:
    try:
        return connect(server, stack)
    except OSError:
        return None


def _is_turned_away(server: Server) -> bool:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
        sock.settimeout(0.5)
        try:
            return sock.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


def test_an_accounts_rate_is_for_its_sessions_in_all_workers(server, tmp_path):
    """A machine that is busy only makes it slower."""
    alice = server.first_user()
    source = tmp_path / "file"
    source.write_bytes(bytes(MIB))
    alice.run("put", source, "/file")
    server.admin.run("user", "set", "alice", "--limit-rate", "1MiB")
    with in_both(server, alice) as peers:
        began = time.monotonic()
        for peer in peers:
            peer.request(messages.Get(b"/file"))
        for peer in peers:
            while peer.read().kind != Kind.END:
                pass
        took = time.monotonic() - began
    assert took > 1.5, "2 MiB at 1 MiB a second, but for what may go at once"


def test_space_that_only_one_has_goes_to_one(start_server, connections):
    server = start_server("--workers", "2")
    bob = server.add_user("bob", "--quota", "6MiB")
    with in_both(server, bob) as peers:
        answers = []
        for number, peer in enumerate(peers):
            put = Put(b"/file-%d" % number, 5 * MIB, ask=True)
            answers.append(peer.ask(put))
    assert sorted(type(answer).__name__ for answer in answers) == ["Failed", "Ready"]


# uploads that several work on --------------------------------------------------------------


def test_pieces_that_come_to_all_workers(server, tmp_path):
    alice = server.first_user()
    source = tmp_path / "file"
    source.write_bytes(random.Random(6).randbytes(40 * MIB + 77))
    sent = alice.run("--json", "put", "-P", "4", source, "/file").records
    assert sent[0]["size"] == 40 * MIB + 77
    assert (server.home() / "file").read_bytes() == source.read_bytes()
    assert server.log.count("logged in") == 5
    assert server.staged() == set()


@pytest.mark.needs("network")  # a session's worker is found by its port
@pytest.mark.parametrize("which", ["its-worker", "another-worker"])
def test_a_worker_killed_in_the_middle_of_pieces(server, tmp_path, which):
    """The client goes on by itself, whoever it was."""
    alice = server.first_user()
    source = tmp_path / "file"
    source.write_bytes(random.Random(6).randbytes(24 * MIB))
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 16 * MIB)
        putting = alice.at(proxy.address).start("put", "-P", "3", source, "/file")
        owner = eventually(lambda: [one for one in sessions(server) if one.request == "put"])[0]
        eventually(lambda: proxy.passed("up") >= 16 * MIB)
        port = int(owner.peer.rpartition(":")[2])
        serving = worker_by_port(server, port)
        (other,) = set(workers_of(server)) - {serving}
        os.kill(serving if which == "its-worker" else other, signal.SIGKILL)
        proxy.release()
        finish(putting)
    assert (server.home() / "file").read_bytes() == source.read_bytes()


# dying and ending --------------------------------------------------------------------------


def leases(server: Server) -> list[str]:
    """Whose they are; without those of uploads that wait for a resume."""
    database = sqlite3.connect(server.root / ".ftpd" / "state.db")
    try:
        return [
            row[0]
            for row in database.execute("SELECT incarnation FROM lease WHERE state != 'kept'")
        ]
    finally:
        database.close()


def test_a_worker_that_dies_takes_only_its_own_sessions_along(start_server):
    server = start_server("--workers", "2", "--stall", "600")
    alice, bob = server.first_user(), server.add_user("bob")
    with in_both(server, alice) as (dying, living), in_both(server, bob):
        for peer in (dying, living):
            assert isinstance(peer.ask(Put(b"/%d" % port_of(peer), 9 * MIB, ask=True)), Ready)
        before = workers_of(server)
        assert len(leases(server)) == 2
        os.kill(worker_of(server, dying), signal.SIGKILL)
        dying.read_to_end()
        eventually(lambda: len(leases(server)) == 1, "its leases end, the others stay")
        eventually(lambda: len(set(workers_of(server)) - set(before)) == 1, "it is replaced")
        eventually(lambda: len(sessions(server)) == 2)
        put = living._last_id
        living.frame(Kind.DATA, put, bytes(MIB))
        living.frame(Kind.CANCEL, put)
        assert living.answer().message.code == "cancelled"
        (young,) = set(workers_of(server)) - set(before)
        with ExitStack() as stack:
            assert worker_of(server, log_in(server, alice, stack)) == young
    assert "was killed by SIGKILL" in server.log


def _children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in text.split()]


def test_no_process_outlives_a_server_that_is_killed(start_server):
    server = start_server("--workers", "2")
    alice = server.first_user()
    processes = [*workers_of(server), *_children(server.process.pid)]
    with in_both(server, alice) as peers:
        server.kill()
        for peer in peers:
            peer.read_to_end()
        eventually(lambda: not any(_is_alive(process) for process in processes))
    server = start_server("--workers", "2", port=server.port)
    server.user(alice.name, alice.password).run("ls", "/")


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2]
    except FileNotFoundError:
        return False
    return not state.startswith("Z")


@pytest.mark.parametrize("how", ["signal", "group"])
def test_stopping_lets_transfers_finish(start_server, how):
    server = start_server("--workers", "2", "--grace", str(PATIENCE), start_new_session=True)
    alice = server.first_user()
    puts = [alice.start("put", "-", name) for name in ("/one", "/two")]
    for put in puts:
        put.stdin.write(b"a" * MIB)
    eventually(lambda: len([one for one in sessions(server) if one.request == "put"]) == 2)
    if how == "group":  # as systemd does, or Ctrl-C on a terminal
        server.stop_requested = True
        os.killpg(server.process.pid, signal.SIGTERM)
    else:
        server.signal(signal.SIGTERM)
    eventually(lambda: "stopping" in server.log)
    for put in puts:
        finish(put, given=b"b")
    server.stop()
    for name in ("one", "two"):
        assert (server.home() / name).read_bytes() == b"a" * MIB + b"b"


def test_draining(server):
    alice = server.first_user()
    putting = alice.start("put", "-", "/file")
    putting.stdin.write(b"a" * MIB)
    eventually(lambda: [one for one in sessions(server) if one.request == "put"])
    server.stop_requested = True
    drain = server.programs.start(
        [*program("ftpd"), "drain", "--root", str(server.root)],
        env=clean_environment(server.root.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert b"draining" in drain.stderr.readline()
    finish(putting, given=b"b")
    finish(drain)
    assert server.process.wait(PATIENCE) == 0
    assert (server.home() / "file").read_bytes() == b"a" * MIB + b"b"


# reloading ---------------------------------------------------------------------------------


def test_settings_reach_all_workers(start_server, tmp_path):
    settings = tmp_path / "ftpd.toml"
    settings.write_text("workers = 2\n")
    server = start_server("--config", str(settings), mode=AUTO)  # no option stands above it
    alice = server.first_user()
    assert len(workers_of(server)) == 2
    with in_both(server, alice) as peers:
        settings.write_text("workers = 2\nidle-timeout = 0.5\n")
        assert "idle-timeout: 0.5" in server.admin.run("reload").text
        for peer in peers:
            assert any(b"no request for" in frame.payload for frame in peer.read_to_end())
        settings.write_text("workers = 3\n")
        assert "workers: 3 takes effect after a restart" in server.admin.run("reload").text
        os.kill(workers_of(server)[0], signal.SIGKILL)
        eventually(lambda: len(workers_of(server)) == 2)


def test_another_certificate(start_server, tmp_path, connections):
    """New connections get it, from whichever worker; those that are there go on."""
    server = start_server("--workers", "2")
    alice = server.first_user()
    before = workers_of(server)
    with in_both(server, alice) as peers:
        server.admin.run("reload")
        assert workers_of(server) == before, "nothing to be done for the same key"
        for name in ("key.pem", "cert.pem"):
            (server.root / ".ftpd" / "tls" / name).unlink()
        assert "certificate: key SHA256:" in server.admin.run("reload").text
        with in_both(server, alice) as others:
            old, new = (
                {peer.socket.getpeercert(True) for peer in some} for some in (peers, others)
            )
            assert len(old) == len(new) == 1 and old != new
            assert len(sessions(server)) == 4
            for peer in (*peers, *others):
                assert ask(peer) == LoggedIn("alice")
    eventually(lambda: len(workers_of(server)) == 2, "those before have ended with their sessions")
    assert not set(workers_of(server)) & set(before)


# the option --------------------------------------------------------------------------------


def test_how_many(start_server):
    server = start_server("--workers", "3")
    assert len(workers_of(server)) == 3
    server.stop()
    for some in ("1", "auto"):  # what becomes of the latter is in test_growing.py
        server = start_server("--workers", some)
        assert workers_of(server) == [] == _children(server.process.pid), "one is no extra process"
        server.stop()
