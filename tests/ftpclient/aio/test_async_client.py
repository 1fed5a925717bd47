"""AsyncClient: many tasks on one connection, cancelling, threads, a server that lies.

Lives here: what only it has. Lives elsewhere: the verbs, which both clients share (test_client.py),
and the server that lies (test_hostile_server.py), whose cases are run here again.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from ftpclient import AsyncClient
from ftpclient.aio import connection as loop_module
from ftpclient.aio.threads import open_in_thread
from ftpclient.connection import driver, protocol
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.opening import Opened
from ftpclient.transfer import retry, run_size
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.report import Listener, Result
from ftpwire import beneath
from ftpwire.errors import (
    ConnectFailed,
    ConnectionLost,
    FtpError,
    IsADirectory,
    LoginRefused,
    NotFound,
    ProtocolError,
    QuotaExceeded,
)
from ftpwire.frames import Kind
from ftpwire.messages import Failed, List, LoggedIn, Page, Progress, Sending
from tests.ftpclient.aio.async_support import Blocking
from tests.ftpclient.connection import test_hostile_server as hostile
from tests.ftpclient.connection.test_hostile_server import Server, file_entry, target  # noqa: F401
from tests.peer import FakeServer, Frame, Peer, eventually

MIB = 1024 * 1024
DATA = bytes(range(256)) * 4096 * 12  # 12 MiB, each piece of it recognisable
SECONDS = 60.0
"""Until a test that hangs is given up."""


@pytest.fixture
def dialled(tmp_path):
    """The arguments of a client for a server, or for a fake one."""

    def arguments(server, **options) -> tuple[ServerAddress, dict]:
        fake = isinstance(server, FakeServer)
        port = server.port if fake else server.server_address[1]
        values = {
            "password": "secret",
            "plaintext": fake or server.settings.plaintext,
            "accept_new": True,
            "known_hosts": KnownHosts(tmp_path / "known_hosts"),
        }
        return ServerAddress("127.0.0.1", port, "alice"), values | options

    return arguments


@pytest.fixture
def use(dialled) -> Callable:
    """Runs a coroutine function with a client of a server, and closes that."""

    def run(server, work, **options):
        async def main():
            address, values = dialled(server, **options)
            async with asyncio.timeout(SECONDS), AsyncClient(address, **values) as client:
                return await work(client)

        return asyncio.run(main())

    return run


@pytest.fixture(params=["plain", "tls"])
def any_server(request, start_server):
    """A server with TLS, and one without."""
    return start_server(plaintext=request.param == "plain")


def home(server) -> Path:
    return server.settings.root / "alice"


class Events(Listener):
    """Sets events when something begins or ends, and notes who told it."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.moved = asyncio.Event()
        self.results: list[Result] = []
        self.remarks: list[str] = []
        self.size = 0
        self.threads: set[threading.Thread] = set()

    def started(self, name: bytes, size: int | None) -> None:
        self.threads.add(threading.current_thread())
        self.began.set()

    def advanced(self, count: int) -> None:
        self.size += count
        self.moved.set()

    def finished(self, result: Result) -> None:
        self.threads.add(threading.current_thread())
        self.results.append(result)

    def remark(self, text: str) -> None:
        self.remarks.append(text)


async def one_session(server) -> None:
    """See that there is but one connection.

    A first visit makes two, one after another: the first finds nobody to vouch for the server's
    key, and the server may still be about to notice that it has ended.
    """
    await asyncio.to_thread(eventually, lambda: len(server.service.sessions) == 1)


async def cancelled(task: asyncio.Task) -> None:
    """Cancel a task, and see that it ends so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# many at once ------------------------------------------------------------------------------


def test_two_hundred_questions_at_once_are_answered_in_order(any_server, use):
    for number in range(200):
        (home(any_server) / f"{number}").write_bytes(bytes(number))
    order = []

    async def ask(client, number: int) -> int:
        entry = await client.stat(f"{number}")
        order.append(number)
        return entry.size

    async def work(client):
        sizes = await asyncio.gather(*(ask(client, number) for number in range(200)))
        assert sizes == order == list(range(200))
        await one_session(any_server)

    use(any_server, work)


def test_errors_reach_who_asked(server, use):
    (home(server) / "there").write_bytes(b"x")

    async def work(client):
        names = ["there", "nowhere"] * 50
        found = await asyncio.gather(*map(client.stat, names), return_exceptions=True)
        for name, one in zip(names, found, strict=True):
            assert isinstance(one, NotFound) if name == "nowhere" else one.size == 1

    use(server, work)


def test_transfers_and_questions_share_the_connection(any_server, use, tmp_path):
    """Large and small, up and down, by several tasks: no frame of one inside another's upload."""
    (home(any_server) / "there").write_bytes(DATA)
    for number in range(3):
        (tmp_path / f"large{number}").write_bytes(DATA[number : 5 * MIB])
    small = tmp_path / "small"
    small.mkdir()
    for number in range(200):
        (small / f"{number}").write_bytes(b"%d" % number)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), MIB):
            yield DATA[at : at + MIB]

    async def take(client) -> bytes:
        return b"".join([data async for data in client.get_stream("there")])

    async def work(client):
        await asyncio.gather(
            *(client.put([tmp_path / f"large{number}"]) for number in range(3)),
            client.put([small], recursive=True),
            client.get(["there"], tmp_path / "got"),
            client.put_stream(pieces(), "streamed"),
            *(client.stat("there") for _ in range(100)),
        )
        assert await take(client) == DATA
        await one_session(any_server)

    use(any_server, work)
    assert (tmp_path / "got").read_bytes() == DATA
    there = home(any_server)
    assert (there / "streamed").read_bytes() == DATA
    for number in range(3):
        assert (there / f"large{number}").read_bytes() == DATA[number : 5 * MIB]
    for number in range(200):
        assert (there / "small" / f"{number}").read_bytes() == b"%d" % number


def test_a_thousand_small_files_both_ways(server, use, tmp_path):
    source = tmp_path / "source"
    for number in range(1000):
        path = source / f"{number // 200}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 50)

    async def work(client):
        put = await client.put([source], "/tree", recursive=True)
        got = await client.get(["/tree"], tmp_path / "got", recursive=True)
        again = await client.get(["/tree/."], tmp_path / "got", recursive=True)
        return put, got, again

    put, got, again = use(server, work)
    assert (put.done, put.failed, got.done, got.failed) == (1000, 0, 1000, 0)
    assert (again.done, again.unchanged) == (1000, 1000)
    for path in source.rglob("*"):
        if path.is_file():
            relative = path.relative_to(source)
            assert (tmp_path / "got" / relative).read_bytes() == path.read_bytes()
            assert (home(server) / "tree" / relative).read_bytes() == path.read_bytes()


def test_a_server_that_wants_little_at_a_time(fake, use):
    """Its limit of unanswered requests holds for all tasks together."""
    most = []

    def script(peer: Peer) -> None:
        peer.greet(max_requests=3)
        waiting: list[Frame] = []
        for _ in range(60):
            waiting.append(peer.read())
            if len(waiting) == 3:
                most.append(peer.is_silent())
                for requested in waiting:
                    peer.reply(requested, LoggedIn("alice"))
                waiting.clear()

    async def work(client):
        assert await asyncio.gather(*(client.whoami() for _ in range(60))) == ["alice"] * 60

    use(fake(script), work)
    assert most == [True] * 20


def test_the_loop_has_none_of_the_disk(server, use, tmp_path, monkeypatch):
    """Reading, writing and renaming belong to threads; what is told of it, to the loop."""
    threads = set()

    def noting(function):
        def call(*args, **options):
            threads.add(threading.current_thread())
            return function(*args, **options)

        return call

    monkeypatch.setattr(PartialFile, "__init__", noting(PartialFile.__init__))
    monkeypatch.setattr(PartialFile, "place", noting(PartialFile.place))
    monkeypatch.setattr(LocalTree, "__init__", noting(LocalTree.__init__))
    monkeypatch.setattr(beneath, "regular", noting(beneath.regular))
    (tmp_path / "large").write_bytes(DATA)
    (tmp_path / "small").write_bytes(b"x")

    async def work(client):
        events = Events()
        await client.put([tmp_path / "large", tmp_path / "small"], "/dir/", listener=events)
        await client.get(["/dir"], tmp_path / "got", recursive=True, listener=events)
        return events

    events = use(server, work)
    assert threads and threading.main_thread() not in threads
    assert events.threads == {threading.main_thread()}
    assert events.size == 2 * (len(DATA) + 1)
    assert [result.status for result in events.results] == ["done"] * 4


def test_one_loop_for_one_client(server, dialled):
    address, values = dialled(server)
    client = AsyncClient(address, **values)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(client.connect())
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run_until_complete(client.whoami())
        assert first.run_until_complete(client.whoami()) == "alice"
        first.run_until_complete(client.close())
    finally:
        first.close()
        second.close()


# cancelling --------------------------------------------------------------------------------


def test_a_cancelled_get_leaves_the_session_and_can_be_gone_on_with(any_server, use, tmp_path):
    data = DATA * 3
    (home(any_server) / "file").write_bytes(data)

    async def work(client):
        connection = client._connection
        for _ in range(3):
            events = Events()
            task = asyncio.create_task(client.get(["file"], tmp_path / "got", listener=events))
            await events.began.wait()
            await cancelled(task)
            assert await client.whoami() == "alice"
            assert not (tmp_path / "got").exists()
        await client.get(["file"], tmp_path / "got")
        assert client._connection is connection

    use(any_server, work)
    assert (tmp_path / "got").read_bytes() == data
    assert not list(tmp_path.glob(".*part*"))


def test_a_cancelled_put_leaves_the_session_and_can_be_gone_on_with(any_server, use, tmp_path):
    (tmp_path / "file").write_bytes(DATA * 3)
    (tmp_path / "other").write_bytes(DATA[: 5 * MIB])

    async def work(client):
        connection = client._connection
        for _ in range(3):
            events = Events()
            task = asyncio.create_task(client.put([tmp_path / "file"], "f", listener=events))
            other = asyncio.create_task(client.put([tmp_path / "other"], "other"))
            await events.began.wait()
            await cancelled(task)
            assert await client.find("f") is None
            assert (await other).done == 1
        await client.put([tmp_path / "file"], "f")
        assert client._connection is connection

    use(any_server, work)
    assert (home(any_server) / "f").read_bytes() == DATA * 3


def test_a_tree_is_cancelled(server, use, tmp_path, monkeypatch):
    for name in ("FIRST", "LEAST", "MAX_BYTES"):
        monkeypatch.setattr(run_size, name, 16)  # else all goes in one request
    source = tmp_path / "source"
    source.mkdir()
    for number in range(800):
        (source / f"{number}").write_bytes(b"%d" % number)

    class Cancels(Events):
        def advanced(self, count: int) -> None:
            task.cancel()
            super().advanced(count)

    async def work(client):
        nonlocal task
        for verb, what, where in (
            (client.put, [source], "/tree"),
            (client.get, ["/tree"], tmp_path / "got"),
        ):
            events = Cancels()
            # it may end just before it is cancelled; cp would then go into what is there
            as_it = {"recursive": True, "into": False}
            task = asyncio.create_task(verb(what, where, **as_it, listener=events))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert events.moved.is_set()
            assert await client.whoami() == "alice"
            summary = await verb(what, where, **as_it)
            assert (summary.done, summary.failed) == (800, 0)

    task: asyncio.Task
    use(server, work)
    assert len(list((tmp_path / "got").iterdir())) == 800


def test_a_question_is_cancelled(fake, use):
    """The server is told. Its answer, which comes all the same, is nobody's."""
    asked_for = asyncio.Event()
    seen: list[int] = []

    def script(peer: Peer) -> None:
        peer.greet()
        first = peer.read()
        loop.call_soon_threadsafe(asked_for.set)
        second = peer.read()
        seen.append(second.kind)
        assert second.request_id == first.request_id
        third = peer.read()
        peer.reply(first, Failed("cancelled", ""))
        peer.reply(third, LoggedIn("alice"))

    loop: asyncio.AbstractEventLoop

    async def work(client):
        nonlocal loop
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(client.hash("x"))
        await asked_for.wait()
        await cancelled(task)
        assert await client.whoami() == "alice"

    use(fake(script), work)
    assert seen == [Kind.CANCEL]


def test_what_was_not_even_sent_is_not_cancelled_there(server, use):
    async def work(client):
        task = asyncio.create_task(client.hash("x"))
        other = asyncio.create_task(client.whoami())
        while not client._connection._senders:
            await asyncio.sleep(0)
        await cancelled(task)
        assert await other == "alice"

    use(server, work)


def test_a_server_that_does_not_let_go(fake, use, monkeypatch):
    """It has been asked to stop, and what others wait for comes after that: it is given up."""
    monkeypatch.setattr(loop_module, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.05)

    async def work(client):
        task = asyncio.create_task(client.hash("x"))
        while not client._connection.protocol.calls:
            await asyncio.sleep(0)
        other = asyncio.create_task(client.whoami())
        await cancelled(task)
        with pytest.raises(ConnectionLost, match="does not end cancelled requests"):
            await other
        assert not client.connected

    use(fake(lambda peer: (peer.greet(), peer.read_to_end())), work)


def test_a_listing_without_end_is_not_waited_for(fake, use, monkeypatch):
    """As with `Client`: the next verb has a new connection, and nobody loses anything by that."""
    monkeypatch.setattr(protocol, "_CANCEL_LISTING_SECONDS", 0.05)

    async def work(client):
        connection = client._connection
        async with aclosing(client.list_dir("/", on_problem=lambda problem: None)) as entries:
            await anext(entries)
        await client.find("/x")
        assert connection.broken and client._connection is not connection

    use(fake(Server(ask=hostile.endless)), work, retries=0)


def test_nor_is_one_of_which_the_server_only_says_that_it_goes_on(fake, use, monkeypatch):
    monkeypatch.setattr(protocol, "_CANCEL_LISTING_SECONDS", 0.05)
    left = threading.Event()

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, List):
            return False
        peer.reply(requested, Page(b"", [file_entry(b"x")]))
        while not left.is_set():
            peer.frame(Kind.NOTICE, requested.request_id, Progress(1))
            left.wait(0.01)
        return True

    async def work(client):
        async with aclosing(client.list_dir("/")) as entries:
            await anext(entries)
        try:
            async with asyncio.timeout(10):
                await client.find("/x")
        finally:
            left.set()

    use(fake(Server(ask=ask)), work, retries=0)


def test_a_listing_that_is_left_keeps_the_connection(server, use, monkeypatch):
    monkeypatch.setattr(protocol, "_CANCEL_LISTING_SECONDS", 60.0)
    for number in range(500):
        (home(server) / f"{number:0200}").touch()

    async def work(client):
        connection = client._connection
        async with aclosing(client.list_dir("/")) as entries:
            await anext(entries)
        assert await client.whoami() == "alice"
        assert client._connection is connection

    use(server, work)


def test_a_server_that_says_nothing(fake, use, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(driver, "STALL_SECONDS", 0.1)

    async def work(client):
        requested = asyncio.gather(
            client.whoami(), client.get(["x"], tmp_path / "x"), return_exceptions=True
        )
        for error in await requested:
            assert isinstance(error, ConnectionLost) and "in time" in str(error)

    use(fake(lambda peer: (peer.greet(), peer.read_to_end())), work, retries=0)


def test_connecting_is_cancelled(fake, dialled):
    async def main():
        address, values = dialled(fake(lambda peer: peer.read_to_end()))
        client = AsyncClient(address, **values)
        task = asyncio.create_task(client.connect())
        while not threading.active_count() > before:
            await asyncio.sleep(0.001)
        await cancelled(task)
        assert not client.connected

    before = threading.active_count() + 1  # the fake server's own
    asyncio.run(main())


def test_connecting_is_cancelled_when_it_has_just_failed():
    """Whoever cancels a task is told that it was, not why there is no connection."""

    async def main():
        loop, begun = asyncio.get_running_loop(), threading.Event()

        def fail(interrupt: Interrupt) -> Opened:
            assert begun.wait(SECONDS)
            raise ConnectFailed("nobody is there")

        task = asyncio.create_task(open_in_thread(loop, fail))
        await asyncio.sleep(0)
        begun.set()
        for thread in threading.enumerate():
            if thread.name == "connect":
                thread.join(SECONDS)  # it has handed over why, which the loop has not seen yet
        loop.call_soon(task.cancel)
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(main())


def test_a_connection_that_is_there_only_after_the_loop_stopped(server, dialled):
    """It is closed, with all that belongs to it (see `nothing_left_behind`)."""
    begun, stopped = threading.Event(), threading.Event()

    async def main():
        address, values = dialled(server)
        dialer = AsyncClient(address, **values)._dialer

        def late(interrupt: Interrupt) -> Opened:
            begun.set()
            assert stopped.wait(SECONDS)
            return dialer.dial(interrupt, None)

        task = asyncio.create_task(open_in_thread(asyncio.get_running_loop(), late))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        await cancelled(task)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    stopped.set()
    for thread in threading.enumerate():
        if thread.name == "connect":
            thread.join(SECONDS)
    loop.close()
    eventually(lambda: not server.service.sessions)


# streams -----------------------------------------------------------------------------------


def test_a_stream_that_is_left_early(any_server, use):
    (home(any_server) / "file").write_bytes(DATA * 3)

    async def work(client):
        async with aclosing(client.get_stream("file")) as pieces:
            async for piece in pieces:
                assert DATA.startswith(piece)
                break
        assert await client.whoami() == "alice"
        async with aclosing(client.list_dir("/")) as entries:
            assert (await anext(entries)).path == b"file"
        assert await client.whoami() == "alice"

    use(any_server, work)


def test_a_slow_reader_fills_no_memory(server, use):
    """Reading stops when too much waits; it goes on when some of it was taken."""
    (home(server) / "file").write_bytes(DATA * 5)

    async def work(client):
        connection = client._connection
        size = 0
        async for piece in client.get_stream("file"):
            if not size:
                while not connection._slow:
                    await asyncio.sleep(0.001)
                waiting = connection.channel.bytes_in
                assert waiting < 12 * MIB
            size += len(piece)
        assert size == len(DATA) * 5
        assert not connection._slow

    use(server, work)


def test_a_slow_disk_fills_no_memory(server, use, tmp_path, monkeypatch):
    (home(server) / "file").write_bytes(DATA * 5)
    held, go_on = threading.Event(), threading.Event()
    from ftpwire import streams

    write_all = streams.write_all

    def slow(fd, data) -> None:
        held.set()
        assert go_on.wait(SECONDS)
        write_all(fd, data)

    monkeypatch.setattr(streams, "write_all", slow)

    async def work(client):
        connection = client._connection
        task = asyncio.create_task(client.get(["file"], tmp_path / "got"))
        while not (held.is_set() and connection._slow):
            await asyncio.sleep(0.001)
        assert connection.channel.bytes_in < 20 * MIB
        go_on.set()
        assert (await task).done == 1

    use(server, work)
    assert (tmp_path / "got").read_bytes() == DATA * 5


async def some(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def test_streams_up(any_server, use, monkeypatch):
    from ftpclient.transfer import waiting

    monkeypatch.setattr(waiting, "KEEP_ALIVE_SECONDS", 0.01)
    there = home(any_server)
    (there / "dir").mkdir()
    (there / "old").write_bytes(b"old")

    async def silent() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.05)
        yield b""
        yield b"two"

    async def failing() -> AsyncIterator[bytes]:
        yield DATA
        raise ValueError("of the source")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    async def work(client):
        summary = await client.put_stream(silent(), "silent")
        assert (summary.done, summary.size) == (1, 6)
        assert (await client.put_stream(some(), "empty")).done == 1
        assert (await client.put_stream(some(DATA, b"more"), "old")).done == 1
        with pytest.raises(ValueError, match="of the source"):
            await client.put_stream(failing(), "failed")
        for name in ("dir", "new/"):
            with pytest.raises(IsADirectory):
                await client.put_stream(some(b"x"), name)
        skipped = await client.put_stream(some(b"x"), "old", overwrite="never")
        assert skipped.skipped == 1
        refused = await client.put_stream(endless(), "nowhere/file")
        assert isinstance(refused.first_error, NotFound)
        events = Events()
        task = asyncio.create_task(client.put_stream(endless(), "endless", listener=events))
        await events.moved.wait()
        await cancelled(task)
        assert await client.whoami() == "alice"

    use(any_server, work)
    names = {path.name for path in there.iterdir() if not path.name.startswith(".ftpd-")}
    assert names == {"dir", "silent", "empty", "old"}
    assert (there / "silent").read_bytes() == b"onetwo"
    assert (there / "old").read_bytes() == DATA + b"more"


def test_a_stream_that_outgrows_the_quota(start_server, use):
    server = start_server(quota=4 * MIB)

    async def work(client):
        summary = await client.put_stream(some(*[bytes(MIB)] * 100), "large")
        assert isinstance(summary.first_error, QuotaExceeded)
        assert await client.find("large") is None

    use(server, work)


# connections -------------------------------------------------------------------------------


def test_a_lost_connection_is_regained(any_server, use, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(10):
        (source / f"{number}").write_bytes(DATA[: MIB + number])
    (source / "large").write_bytes(DATA * 2)  # more than buffers on the way can hold

    class Cuts(Events):
        def advanced(self, count: int) -> None:
            if not self.moved.is_set():
                self.cut()
            super().advanced(count)

    async def work(client):
        for verb, what, where in (
            (client.put, [source], "/tree"),
            (client.get, ["/tree"], tmp_path / "got"),
        ):
            events = Cuts()
            events.cut = client._connection.channel.cut
            summary = await verb(what, where, recursive=True, listener=events)
            assert [str(result.error) for result in events.results if result.error] == []
            assert (summary.done, summary.failed) == (11, 0)
            assert len(events.results) == 11
            assert "reconnecting" in events.remarks[0]

    use(any_server, work)
    for path in source.iterdir():
        assert (tmp_path / "got" / path.name).read_bytes() == path.read_bytes()


def test_all_who_wait_hear_of_a_lost_connection(fake, use, tmp_path):
    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(3):
            peer.read()
        peer.close()
        raise EOFError

    async def work(client):
        found = await asyncio.gather(
            client.whoami(),
            client.get(["x"], tmp_path / "x"),
            client.put_stream(some(b"x"), "x"),
            return_exceptions=True,
        )
        assert all(isinstance(one, ConnectionLost) for one in found)
        assert not client.connected

    use(fake(script), work, retries=0)


def test_a_server_that_leaves_is_noticed_and_found_again(server, use):
    async def work(client):
        for _ in range(2):
            connection = client._connection
            connection.channel.cut()
            while client.connected:
                await asyncio.sleep(0.001)
            assert await client.whoami() == "alice"
            assert client._connection is not connection

    use(server, work)


def test_closing_ends_what_is_under_way(fake, dialled, tmp_path):
    async def main():
        address, values = dialled(fake(lambda peer: (peer.greet(), peer.read_to_end())))
        client = AsyncClient(address, **values)
        await client.connect()
        tasks = [
            asyncio.create_task(client.whoami()),
            asyncio.create_task(client.get(["x"], tmp_path / "x")),
        ]
        while len(client._connection.protocol.calls) < 2:
            await asyncio.sleep(0.001)
        await client.close()
        await client.close()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(found, FtpError)

    asyncio.run(main())


def test_who_may_come_in(start_server, dialled, tmp_path):
    """Trust and log-in are those of the other client."""
    server = start_server(plaintext=False)
    pins = KnownHosts(tmp_path / "known_hosts")

    def fails(error: type[FtpError], **options) -> None:
        address, values = dialled(server, **options)
        with pytest.raises(error):
            asyncio.run(AsyncClient(address, **values).connect())

    from ftpwire.errors import HostKeyChanged, UnknownHost

    fails(UnknownHost, accept_new=False)
    fails(LoginRefused, password="wrong")
    fails(LoginRefused, password=None)
    address, _ = dialled(server)
    pins.add(address.endpoint, "SHA256:another")
    fails(HostKeyChanged)
    fails(ProtocolError, plaintext=True)


def test_nobody_listens(dialled):
    server = FakeServer(lambda peer: None)
    address, values = dialled(server)
    with server:
        pass
    with pytest.raises(ConnectFailed):
        asyncio.run(AsyncClient(address, **values).connect())


def test_the_programs_do_not_pay_for_it():
    code = "import ftpclient, ftpclient.cli.main, sys; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# a server that lies ------------------------------------------------------------------------


@pytest.fixture
def attempt(fake, connect):
    """As in test_hostile_server.py, with an AsyncClient."""

    def run(server, action) -> FtpError | None:
        client = connect(fake(server), kind=Blocking, retries=0)
        connection = client._connection
        try:
            summary = action(client)
        except FtpError as error:
            return error
        finally:
            ended = connection.protocol.ended
            client.close()
        if ended is not None:  # between two requests: the second one had another
            return ended
        return getattr(summary, "first_error", None) or (
            FtpError("some of it failed") if getattr(summary, "failed", 0) else None
        )

    return run


test_bytes_that_are_not_as_announced = hostile.test_bytes_that_are_not_as_announced
test_bytes_without_end = hostile.test_bytes_without_end
test_answers_that_make_no_sense = hostile.test_answers_that_make_no_sense
test_a_connection_that_is_cut = hostile.test_a_connection_that_is_cut
test_uploads_to_a_liar = hostile.test_uploads_to_a_liar
test_an_end_where_a_reply_belongs = hostile.test_an_end_where_a_reply_belongs
test_bytes_where_a_reply_belongs = hostile.test_bytes_where_a_reply_belongs
test_a_listing_that_ends_like_a_file = hostile.test_a_listing_that_ends_like_a_file
test_any_code_of_an_error_is_an_error = hostile.test_any_code_of_an_error_is_an_error
test_a_word_before_leaving = hostile.test_a_word_before_leaving
test_what_was_under_way_is_given_back_when_the_server_goes_wrong = (
    hostile.test_what_was_under_way_is_given_back_when_the_server_goes_wrong
)
test_a_wrong_name_gives_back_what_was_under_way = (
    hostile.test_a_wrong_name_gives_back_what_was_under_way
)


@pytest.mark.parametrize("verb", hostile.VERBS)
def test_the_wrong_kind_of_answer(attempt, verb):
    def ask(peer: Peer, requested: Frame) -> bool:
        peer.reply(requested, Sending(1, 1, 1))
        return True

    assert isinstance(attempt(Server(ask=ask), hostile.VERBS[verb]), ProtocolError)


def test_pages_wait_for_nobody_in_memory(fake, use):
    """A server that is faster than whoever reads must not fill the memory."""

    async def work(client):
        connection = client._connection
        async with aclosing(client.list_dir("/", on_problem=lambda problem: None)) as entries:
            await anext(entries)
            while not connection._slow:
                await asyncio.sleep(0.001)
            assert connection.channel.bytes_in < 4 * MIB
        await client.close()

    use(fake(Server(ask=hostile.endless)), work, retries=0)
