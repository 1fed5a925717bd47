"""Sessions that wait without a thread: parked, woken, ended in every way."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import threading
import time

import pytest

from ftpserver.serving import parking as module
from ftpserver.serving import session as session_module
from ftpserver.serving import thread_pool
from ftpwire import frames, messages
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Done,
    EndTree,
    Found,
    GoingDown,
    LoggedIn,
    MakeDir,
    Put,
    Ready,
    Remove,
    Removed,
    Sent,
    Space,
    SpaceInfo,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import eventually


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Sessions are parked almost at once."""
    monkeypatch.setattr(session_module, "_LINGER", 0.02)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)


def session_threads() -> int:
    """Threads that serve a session now: first ones, and those of the pool."""
    names = [thread.name for thread in threading.enumerate()]
    return sum("process_request_thread" in name for name in names)


def parked(server, count: int = 1) -> None:
    eventually(lambda: len(server.service.parking) == count, f"{count} parked sessions")


def test_an_idle_session_has_no_thread_and_goes_on(server, dial):
    peers = [dial(server) for _ in range(5)]
    parked(server, 5)
    eventually(lambda: session_threads() == 0)
    for round_ in range(3):
        for peer in peers:
            assert peer.ask(WhoAmI()) == LoggedIn("alice")
        assert peers[round_].ask(MakeDir(b"/d%d" % round_)) == Done()
        parked(server, 5)
    assert len(server.service.sessions) == 5


def test_a_parked_session_has_nothing_open(server, dial):
    peer = dial(server)
    assert peer.ask(MakeDir(b"/d")) == Done()
    parked(server)
    (session,) = server.service.sessions
    assert session.exchange.workspace._home is None
    assert session.exchange.workspace.batch is None
    assert len(session.exchange.stream.reader._buffer) == 0
    assert peer.ask(Remove(b"/d", final=True)) == Removed(0, 1, 0)


def test_one_that_leaves_is_forgotten(server, dial):
    for leave in ("close", "reset"):
        peer = dial(server)
        parked(server)
        getattr(peer, leave)()
        eventually(lambda: not server.service.sessions and not server.service.connections)
        parked(server, 0)


def test_a_stop_is_reported_to_parked_sessions(start_server, dial):
    server = start_server()
    peers = [dial(server) for _ in range(3)]
    parked(server, 3)
    stopping = threading.Thread(target=start_server.finish, args=[server])
    stopping.start()
    for peer in peers:
        assert [frame.message for frame in peer.read_to_end()] == [GoingDown()]
        peer.close()  # the server waits for that some time
    stopping.join()


def test_one_that_is_sent_away_learns_why(server, dial):
    peer = dial(server)
    parked(server)
    (session,) = server.service.sessions
    server.service.watcher.close(session, "kicked by the administrator")
    (frame,) = peer.read_to_end()
    assert "kicked by the administrator" in frame.message.message
    eventually(lambda: not server.service.sessions)


def test_an_account_that_is_disabled_ends_its_parked_sessions(server, dial):
    peer = dial(server)
    parked(server)
    server.accounts.change("alice", disabled=True)
    assert peer.read_to_end()
    eventually(lambda: not server.service.sessions)


def test_the_idle_time_ends_parked_sessions(start_server, dial):
    server = start_server(idle_timeout=0.3)
    peer = dial(server)
    parked(server)
    (frame,) = peer.read_to_end()
    assert "0.3 seconds" in frame.message.message


def test_the_idle_time_holds_where_nobody_lingers(start_server, dial, monkeypatch):
    monkeypatch.setattr(module, "_FEW", 0)
    server = start_server(idle_timeout=0.3)
    peer = dial(server)
    (frame,) = peer.read_to_end()
    assert "0.3 seconds" in frame.message.message


def test_all_are_informed_of_a_stop_at_the_same_time(start_server, dial, monkeypatch):
    """Also beside clients that take their time to leave."""
    monkeypatch.setattr(session_module, "LAST_WORDS", 3600.0)
    server = start_server()
    peers = [dial(server) for _ in range(4)]
    parked(server, 4)
    stopping = threading.Thread(target=lambda: start_server.finish(server))
    stopping.start()
    try:
        assert [peer.read().message for peer in peers] == [GoingDown()] * 4
    finally:
        for peer in peers:
            peer.close()
        stopping.join()


def test_one_that_cannot_be_watched_is_reported_and_ended(server, dial, monkeypatch, caplog):
    peer, other = dial(server), dial(server)
    parked(server, 2)
    real, refused = server.service.parking._selector.register, []

    def register(*arguments):
        if not refused:
            refused.append(arguments)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(server.service.parking._selector, "register", register)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    (frame,) = peer.read_to_end()
    assert "too many sessions" in frame.message.message
    eventually(lambda: len(server.service.sessions) == len(server.service.connections) == 1)
    assert "cannot be parked" in caplog.text
    assert other.ask(WhoAmI()) == LoggedIn("alice")


def test_who_waits_for_a_client_holds_up_nobody(server, dial, monkeypatch):
    """Also before the clock sees it."""
    monkeypatch.setattr(thread_pool, "_SHORT_SECONDS", 3600.0)
    half, other = dial(server), dial(server)
    parked(server, 2)
    half.send(frames.pack_header(3, Kind.REQUEST, 99))
    parked(server, 1)
    for _ in range(3):
        assert other.ask(WhoAmI()) == LoggedIn("alice")


def test_what_is_to_rest_is_reported_once(start_server, dial, monkeypatch):
    """However long it takes until a thread has time for that."""
    monkeypatch.setattr(module, "_FEW", 0)
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)
    server = start_server(threads=1)
    peers = [dial(server) for _ in range(3)]
    parked(server, 3)
    eventually(lambda: all(session.at_rest for session in server.service.sessions))
    monkeypatch.setattr(module, "_REST_SECONDS", 3600.0)
    for peer in peers:
        assert isinstance(peer.ask(Stat(b"/")), Found)
    parked(server, 3)
    monkeypatch.setattr(server.service.parking._pool, "submit", (reported := []).append)
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)
    for _ in range(5):
        server.service.parking._put_to_rest(time.monotonic())
    assert len(reported) == 3


def test_space_that_was_taken_for_nothing_is_given_back(start_server, dial, monkeypatch):
    """By a cancelled upload, when nothing else is asked for and the home stays open."""
    monkeypatch.setattr(module, "_FEW", 0)
    monkeypatch.setattr(module, "_REST_SECONDS", 3600.0)
    server = start_server(quota=1_000_000)
    peer = dial(server)
    number = peer.request(Put(b"/file", 600_000))
    peer.frame(Kind.DATA, number, bytes(100_000))
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"
    parked(server)
    assert peer.ask(Space()).held == 0


def test_homes_stay_open_within_the_descriptors_there_are(server, dial):
    dial(server)
    parked(server)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert server.service.parking._most_open == min(4000, limit // 8)


def test_what_is_under_way_is_not_parked(server, dial):
    """Half a frame, an upload, an atomic tree: each keeps its thread, and its deadline."""
    peer, other, third = dial(server), dial(server), dial(server)
    parked(server, 3)
    header = frames.pack_header(3, Kind.REQUEST, 99)
    peer.send(header)
    number = other.request(Put(b"/large", 5_000_000, ask=True))
    assert isinstance(other.answer().message, Ready)
    assert third.ask(BeginTree(b"/tree")) == Done()
    parked(server, 0)

    other.frame(Kind.DATA, number, bytes(1_000_000))
    for _ in range(4):
        other.frame(Kind.DATA, number, bytes(1_000_000))
    other.frame(Kind.END, number, Sent(5_000_000))
    assert other.answer().message == Stored(5_000_000)
    assert third.ask(MakeDir(b"/tree/inside", parents=True)) == Done()
    assert third.ask(EndTree()) == Done()
    parked(server, 2)


def test_a_pool_of_one_serves_everybody_in_turn(start_server, dial):
    server = start_server(threads=1)
    peers = [dial(server) for _ in range(8)]
    parked(server, 8)
    for peer in peers:
        peer.request(WhoAmI())
    for peer in peers:
        assert peer.answer().message == LoggedIn("alice")


def test_who_never_stops_asking_lets_others_have_its_thread(start_server, dial):
    """Without that, a pool of one would serve nobody else for as long as one client likes."""
    server = start_server(threads=1)
    greedy, modest = dial(server), dial(server)
    parked(server, 2)
    many = b"".join(frames.frame(Kind.REQUEST, 1, messages.encode(WhoAmI())) for _ in range(2000))

    def ask_on_and_on() -> None:
        with contextlib.suppress(OSError):
            while True:
                greedy.socket.sendall(many)

    def pass_answers_over() -> None:
        with contextlib.suppress(OSError):
            while greedy.socket.recv(2**16):
                pass

    threads = [threading.Thread(target=one) for one in (ask_on_and_on, pass_answers_over)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert modest.ask(WhoAmI()) == LoggedIn("alice")
        assert all(thread.is_alive() for thread in threads)
    finally:
        greedy.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_who_takes_long_does_not_shut_out_others(start_server, dial, monkeypatch):
    """A pool of two, and three clients that are slow in the middle of an upload."""
    monkeypatch.setattr(thread_pool, "_LONG_SECONDS", 0.05)
    server = start_server(threads=2)
    slow = [dial(server) for _ in range(3)]
    quick = dial(server)
    parked(server, 4)
    numbers = []
    for number, peer in enumerate(slow):
        numbers.append(peer.request(Put(b"/large%d" % number, 5_000_000, ask=True)))
        assert isinstance(peer.answer().message, Ready)
    for _ in range(3):
        assert quick.ask(WhoAmI()) == LoggedIn("alice")
    for peer, number in zip(slow, numbers, strict=True):
        for _ in range(5):
            peer.frame(Kind.DATA, number, bytes(1_000_000))
        peer.frame(Kind.END, number, Sent(5_000_000))
        assert peer.answer().message == Stored(5_000_000)


def test_those_that_linger_are_not_the_bound(start_server, dial, monkeypatch):
    """A thread waits for a session's next request only where there is another one."""
    monkeypatch.setattr(thread_pool, "_LONG_SECONDS", 3600.0)
    server = start_server(threads=2)
    peers = [dial(server) for _ in range(6)]
    parked(server, 6)
    monkeypatch.setattr(session_module, "_LINGER", 3600.0)
    for _ in range(3):
        for peer in peers:
            assert peer.ask(WhoAmI()) == LoggedIn("alice")
    monkeypatch.setattr(session_module, "_LINGER", 0.02)


def test_many_who_ask_little_share_a_thread(server, dial, monkeypatch):
    """Threads that all want the interpreter's lock would do less."""
    monkeypatch.setattr(thread_pool, "_SHORT_SECONDS", 3600.0)
    monkeypatch.setattr(module, "_FEW", 0)  # nobody keeps a thread
    peers = [dial(server) for _ in range(10)]
    parked(server, 10)
    threads = set()
    real = session_module.Session._answer

    def answer(session, request) -> None:
        threads.add(threading.current_thread())
        real(session, request)

    monkeypatch.setattr(session_module.Session, "_answer", answer)
    for _ in range(20):
        for peer in peers:
            peer.request(Space())
        for peer in peers:
            assert isinstance(peer.answer().message, SpaceInfo)
    assert len(threads) == 1


def test_between_two_requests_a_home_stays_open(start_server, dial, monkeypatch):
    """Until nothing was asked for some time; or where too many are open."""
    monkeypatch.setattr(module, "_FEW", 0)  # nobody keeps a thread
    monkeypatch.setattr(module, "_REST_SECONDS", 3600.0)
    monkeypatch.setattr(module, "_MOST_OPEN", 3)
    server = start_server()
    peers = []
    for number in range(5):  # they come to rest in the order in which they were parked
        peers.append(dial(server))
        parked(server, number + 1)

    def resting() -> list[bool]:
        return [one.at_rest for one in sorted(server.service.sessions, key=lambda one: one.id)]

    eventually(lambda: resting() == [True] * 2 + [False] * 3)
    assert isinstance(peers[0].ask(Stat(b"/")), Found)
    parked(server, 5)
    eventually(lambda: resting() == [False, True, True, False, False])
    homes = {session: session.exchange.workspace._home for session in server.service.sessions}
    assert isinstance(peers[0].ask(Stat(b"/")), Found)
    parked(server, 5)
    first = min(server.service.sessions, key=lambda one: one.id)
    assert first.exchange.workspace._home is homes[first] is not None
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)
    eventually(lambda: resting() == [True] * 5)
    assert all(session.exchange.workspace._home is None for session in server.service.sessions)
    for peer in peers:
        assert isinstance(peer.ask(Stat(b"/")), Found)


def test_the_clock_stands_still_while_nobody_works(server, dial, monkeypatch):
    peer = dial(server)
    for _ in range(3):
        parked(server)
        eventually(lambda: server.service.parking._clock_rests, "a clock that rests")
        assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_threads_for_all_where_that_is_asked_for(start_server, dial):
    server = start_server(threads=0)
    assert server.service.parking is None
    peer = dial(server)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    eventually(lambda: session_threads() == 1)


def test_tls_bytes_that_were_read_already_are_not_waited_for(
    start_server, dial, tls_client_context
):
    server = start_server(plaintext=False)
    peer = dial(server, context=tls_client_context)
    parked(server)
    for _ in range(20):
        ids = [peer.request(WhoAmI()) for _ in range(50)]
        assert [peer.answer().request_id for _ in ids] == ids
    parked(server)
