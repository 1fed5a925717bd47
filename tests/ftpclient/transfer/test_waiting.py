"""Long waits: what is sent meanwhile, and what the user is told."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from ftpclient.aio import streams
from ftpclient.aio.client import AsyncClient
from ftpclient.client import Client
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.transfer import waiting
from ftpclient.transfer.waiting import KeepAlive, Waiting
from ftpwire.frames import Kind
from ftpwire.messages import Put, Ready
from tests.ftpclient.aio.async_support import Blocking
from tests.peer import Peer


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the module believes have passed, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_something_is_sent_each_ten_seconds_and_not_before(clock):
    sent = []
    keep_alive = KeepAlive(lambda: sent.append(clock[0]))
    for second in range(101, 126):
        clock[0] = float(second)
        keep_alive.tick()
    assert sent == [111.0, 122.0]


def test_a_server_that_waits_less_long_hears_more_often(clock):
    """Twice in the time that it waits inside an upload."""
    sent = []
    keep_alive = KeepAlive(lambda: sent.append(clock[0]), 4.0)
    for second in range(101, 109):
        clock[0] = float(second)
        keep_alive.tick()
    assert sent == [103.0, 106.0]
    assert waiting.keep_alive_after(60.0) == waiting.keep_alive_after(None) == 10.0


@pytest.fixture
def reported(monkeypatch) -> list[float | None]:
    """What each upload that may have nothing to send says of how long its server waits."""
    found, real = [], waiting.keep_alive_after

    def keep_alive_after(stall: float | None) -> float:
        found.append(stall)
        return real(stall)

    for module in (waiting, streams):
        monkeypatch.setattr(module, "keep_alive_after", keep_alive_after)
    return found


@pytest.mark.parametrize("kind", [Client, Blocking])
def test_uploads_know_how_long_their_server_waits(start_server, connect, tmp_path, reported, kind):
    """A stream, a file that is resumed, and one in pieces."""
    client = connect(start_server(stall=3.0), kind=kind)
    large = tmp_path / "large"
    large.write_bytes(bytes(9 * 2**20))
    client.put([large], "/pieces", parallel=2)
    assert set(reported) == {3.0}
    reported.clear()
    os.mkfifo(tmp_path / "fifo")
    writing = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"data",))
    writing.start()
    client.put([tmp_path / "fifo"], "/stream")
    writing.join()
    assert set(reported) == {3.0}
    reported.clear()
    info = large.stat()
    peer = Peer.connect((client.address.host, client.address.port))
    with peer:
        peer.log_in()
        number = peer.request(Put(b"/resumed", info.st_size, mtime_ns=info.st_mtime_ns, ask=True))
        assert isinstance(peer.answer().message, Ready)
        for _ in range(5):
            peer.frame(Kind.DATA, number, bytes(2**20))
        peer.frame(Kind.CANCEL, number)
        assert peer.answer().message.code == "cancelled"
    client.put([large], "/resumed")
    assert set(reported) == {3.0}


def test_so_does_a_stream_of_an_event_loop(start_server, tmp_path, reported):
    server = start_server(stall=3.0)
    address = ServerAddress("127.0.0.1", server.server_address[1], "alice")

    async def source() -> AsyncIterator[bytes]:
        yield b"data"

    async def work() -> None:
        known = KnownHosts(tmp_path / "known")
        async with AsyncClient(
            address, password="secret", plaintext=True, known_hosts=known
        ) as client:
            await client.put_stream(source(), "/stream")

    asyncio.run(work())
    assert set(reported) == {3.0}


def test_what_is_waited_for_is_reported_once(clock):
    reported, sent = [], []
    wait = Waiting(lambda: sent.append(1), reported.append, "fifo: waiting for a reader")
    for second in range(101, 113):
        clock[0] = float(second)
        wait.look()
        assert len(reported) == (second >= 105)
    assert reported == ["fifo: waiting for a reader (Ctrl-C stops)"]
    assert sent == [1]


def test_nothing_is_reported_when_the_wait_is_over(clock):
    reported = []
    wait = Waiting(lambda: None, reported.append, "fifo: waiting for a writer")
    wait.is_over = True
    clock[0] += 60.0
    wait.look()
    assert reported == []
