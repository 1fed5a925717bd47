"""While an answer is owed the client hears something, though the server's disk does not answer."""

from __future__ import annotations

import fcntl
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpserver.serving.keep_alive import ChannelGuard, DiskSink, KeepAlive
from ftpwire import digests
from ftpwire.errors import ConnectionLost
from ftpwire.frames import Kind
from ftpwire.messages import (
    Done,
    Hash,
    Hello,
    LoggedIn,
    MakeDir,
    Move,
    Progress,
    Put,
    Remove,
    Removed,
    Sent,
    Stored,
    WhoAmI,
    encode_hello,
)
from tests.peer import Peer, eventually

pytestmark = pytest.mark.system  # it waits in real time

STALL = 0.3
"""Of the servers here: a sign of life is due each 0.1 s then. No test depends on its length."""

MODES = [
    pytest.param({}, id="threads"),
    pytest.param({"threads": 0}, id="a-thread-each"),
    pytest.param({"workers": 2}, id="workers", marks=pytest.mark.system),
    pytest.param({"isolation": "process"}, id="isolated", marks=pytest.mark.system),
]


@contextmanager
def waiting_disk(home: Path) -> Iterator[None]:
    """No commit in this home comes to an end meanwhile, in whatever process."""
    with open(home / ".ftpd-staging" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def put(peer: Peer, path: bytes, data: bytes) -> int:
    number = peer.request(Put(path, len(data)))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    return number


def signs(peer: Peer, request_id: int, count: int = 3) -> None:
    """So many signs of life come, and nothing else."""
    for _ in range(count):
        found = peer.read()
        assert (found.kind, found.request_id) == (Kind.NOTICE, request_id)
        assert found.message == Progress(0)


@pytest.fixture
def slow(start_server):
    """Starts a server whose signs of life come soon, and gives it with alice's home, made."""

    def start(**options):
        server = start_server(stall=STALL, **options)
        home = server.settings.root / "alice"
        return server, home

    return start


@pytest.mark.parametrize("options", MODES)
def test_a_commit_that_waits(slow, dial, options):
    server, home = slow(**options)
    peer = dial(server)
    assert peer.ask(MakeDir(b"/d")) == Done()
    with waiting_disk(home):
        number = put(peer, b"/d/f", b"data")
        signs(peer, number)
    assert peer.answer().message == Stored(4)
    assert (home / "d" / "f").read_bytes() == b"data"


@pytest.mark.parametrize("request_", [Remove(b"/d", True), Move(b"/d", b"/e")])
def test_a_change_that_waits(slow, dial, request_):
    server, home = slow()
    peer = dial(server)
    assert peer.ask(MakeDir(b"/d")) == Done()
    with waiting_disk(home):
        signs(peer, peer.request(request_))
    assert isinstance(peer.answer().message, (Done, Removed))


def test_a_hash_that_waits(slow, dial, monkeypatch):
    """Of one file on a disk that hangs: no lock is involved."""
    from ftpserver.workspace import reading

    server, home = slow()
    peer = dial(server)
    assert peer.ask(MakeDir(b"/d")) == Done()
    (home / "f").write_bytes(b"data")
    released = threading.Event()

    class Hangs(reading.ReadAhead):
        def __enter__(self):
            assert released.wait(60)
            return super().__enter__()

    monkeypatch.setattr(reading, "ReadAhead", Hangs)
    try:
        signs(peer, peer.request(Hash(b"/f")))
    finally:
        released.set()
    assert peer.answer().message.size == 4


def test_through_tls(slow, dial, tls_client_context):
    server, home = slow(plaintext=False)
    peer = dial(server, context=tls_client_context)
    assert peer.ask(MakeDir(b"/d")) == Done()
    with waiting_disk(home):
        number = put(peer, b"/d/f", b"data")
        signs(peer, number)
    assert peer.answer().message == Stored(4)
    assert peer.ask(WhoAmI()).user == "alice"  # it is in step


def test_over_a_unix_socket(slow, tmp_path):
    server, home = slow(unix=tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "s"))
        with Peer(sock) as peer:
            peer.log_in()
            assert peer.ask(MakeDir(b"/d")) == Done()
            with waiting_disk(home):
                number = put(peer, b"/d/f", b"data")
                signs(peer, number)
            assert peer.answer().message == Stored(4)


def test_an_upload_whose_disk_takes_nothing(slow, dial, monkeypatch):
    server, home = slow()
    peer = dial(server)
    released = threading.Event()
    real = DiskSink.__init__

    class Slow:
        def __init__(self, sink):
            self._sink = sink

        def buffer(self):
            return self._sink.buffer()

        def filled(self, count):
            assert released.wait(60)
            self._sink.filled(count)

        def write(self, data):
            assert released.wait(60)
            self._sink.write(data)

    monkeypatch.setattr(
        DiskSink, "__init__", lambda self, sink, guard: real(self, Slow(sink), guard)
    )
    data = bytes(300_000)
    number = peer.request(Put(b"/f", len(data)))
    peer.frame(Kind.DATA, number, data)
    try:
        signs(peer, number)
    finally:
        released.set()
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    assert peer.answer().message == Stored(len(data))


def test_nothing_is_said_while_nothing_is_owed(slow, dial):
    server, home = slow()
    idle = dial(server)
    assert idle.ask(WhoAmI())
    working = dial(server)
    assert working.ask(MakeDir(b"/d")) == Done()
    with waiting_disk(home):
        signs(working, put(working, b"/d/f", b"data"), 5)
    assert idle.is_silent()


def test_a_client_waits_longer_than_the_silence_that_it_bears(slow, connect):
    server, home = slow()
    client = connect(server, retry_for=0)
    client.make_dir("/d")
    assert client.connection.longest_silence == STALL
    done: list[object] = []
    with waiting_disk(home):
        thread = threading.Thread(target=lambda: done.append(client.remove("/d")))
        thread.start()
        before = client.connection.channel.bytes_in
        eventually(lambda: client.connection.channel.bytes_in >= before + 5 * 14)
    thread.join()
    assert len(done) == 1


def test_a_client_gives_up_a_server_that_has_promised_signs_of_life(fake, connect):
    def script(peer):
        peer.greet(features=["alive"], stall_ms=300)
        peer.read_to_end()

    client = connect(fake(script), retry_for=0)
    with pytest.raises(ConnectionLost, match="in time"):
        client.stat("/a")


def test_of_an_older_server_nothing_is_expected(fake, connect):
    client = connect(fake(lambda peer: (peer.greet(stall_ms=300), peer.read_to_end())))
    assert client.connection.longest_silence == 300.0


# the guard ---------------------------------------------------------------------------------


def test_the_channel_is_free_only_away_from_it():
    guard = ChannelGuard()
    with guard:
        assert not guard.take()
        with guard.away():
            assert guard.take()
            guard.back()
            with guard:
                with guard:
                    assert not guard.take()
                assert not guard.take()
                with guard.away(), guard.away():
                    assert guard.take()
                    guard.back()
                assert not guard.take()
        assert not guard.take()


def test_nothing_follows_a_frame_that_was_broken_off():
    guard = ChannelGuard()
    with guard, guard.away():
        with pytest.raises(ConnectionLost), guard:
            raise ConnectionLost("in the middle of a frame")
        assert not guard.take()


def test_the_owner_waits_for_who_has_taken_it():
    guard, order = ChannelGuard(), []
    assert guard.take()

    def own() -> None:
        with guard:
            order.append("owner")

    thread = threading.Thread(target=own)
    thread.start()
    order.append("other")
    guard.back()
    thread.join()
    assert order == ["other", "owner"]


def test_how_often_depends_on_how_long_clients_wait():
    class Noted:
        count = 0

        def say_alive(self) -> None:
            self.count += 1

    one = Noted()
    keeper = KeepAlive([one], lambda: 0.06)
    thread = keeper.thread()
    thread.start()
    eventually(lambda: one.count > 3)
    keeper.stop()
    thread.join()
    assert KeepAlive([], lambda: 60.0)._every == 5.0
    assert KeepAlive([], lambda: 9.0)._every == 1.5
    assert KeepAlive([], lambda: 600.0, 4.0)._every == 2.0


def test_before_the_log_in_is_answered_the_client_waits_as_ever(fake, connect):
    """Hashing a password may take its time, and a stranger gets no signs of life."""
    waited = threading.Event()

    def script(peer):
        peer.read()
        values = {"max_control": 2**17, "max_data": 2**22, "max_requests": 9, "max_unanswered": 999}
        hello = Hello(features=["alive"], stall_ms=200, **values)
        peer.frame(Kind.REPLY, 0, encode_hello(hello))
        login = peer.read()
        waited.wait(0.6)
        peer.reply(login, LoggedIn("alice"))
        peer.read_to_end()

    assert connect(fake(script)).connection.longest_silence == 0.2
