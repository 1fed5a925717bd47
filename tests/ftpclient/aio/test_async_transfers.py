"""AsyncClient's transfers that have connections of their own: parallel, atomic, limited ones.

Lives elsewhere: those that share the client's connection (test_async_client.py), the rules of
such transfers, which both clients share (test_pieces.py, test_retry.py, tests/system).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from ftpclient import AsyncClient
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.sync.job import Options
from ftpclient.transfer import retry
from ftpclient.transfer.report import Listener, Result
from ftpwire.errors import SessionEnded, TooMany
from tests.peer import eventually
from tests.system import trees

MIB = 1024 * 1024
DATA = bytes(range(256)) * 4096 * 20
LARGE = 5 * MIB
"""Bytes of a file that what is there of it is asked for."""
SECONDS = 60.0
"""Until a test that hangs is given up."""
WAYS = [
    pytest.param({"parallel": 3}, id="parallel"),
    pytest.param({"atomic": True}, id="atomic"),
    pytest.param({"parallel": 3, "limit_rate": 10_000 * MIB}, id="limited"),
]


@pytest.fixture
def server(request, start_server):
    """With TLS or without; without, where a test doesn't say."""
    return start_server(plaintext=getattr(request, "param", "plain") == "plain", durable=False)


def ways(*servers: str) -> pytest.MarkDecorator:
    """Parametrize with the ways, each on one of the servers: with TLS, or plain.

    What a test does is a factor as well. So each test has each way and both servers, and each way
    has either server in two tests.
    """
    return pytest.mark.parametrize(
        ("options", "server"),
        [
            pytest.param(*way.values, server, id=f"{way.id}-{server}")
            for way, server in zip(WAYS, servers, strict=True)
        ],
        indirect=["server"],
    )


both_servers = pytest.mark.parametrize("server", ["plain", "tls"], indirect=True)


@pytest.fixture
def use(tmp_path):
    """Runs a coroutine function with a client of a server, and closes that."""

    def run(server, work, **options):
        async def main():
            values = {
                "password": "secret",
                "plaintext": server.settings.plaintext,
                "accept_new": True,
                "known_hosts": KnownHosts(tmp_path / "known_hosts"),
            }
            where = f"alice@127.0.0.1:{server.server_address[1]}"
            async with asyncio.timeout(SECONDS), AsyncClient(where, **values | options) as client:
                await work(client)
                assert await client.whoami() == "alice"
                await asyncio.to_thread(eventually, lambda: len(server.service.sessions) == 1)

        asyncio.run(main())
        assert not [one for one in threading.enumerate() if one.name == "transfer"]

    return run


@pytest.fixture
def source(tmp_path):
    """A tree of small files and large ones."""
    top = tmp_path / "source"
    for number in range(200):
        directory = top / f"d{number % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(b"%d" % number)
    for number in range(3):
        (top / f"large{number}").write_bytes(DATA[number:LARGE])
    return top


@pytest.fixture
def home(server):
    return server.settings.root / "alice"


class Moved(Listener):
    """Says when bytes move; how many sessions there were then, and what was said."""

    def __init__(self, server) -> None:
        self._server = server
        self.event = asyncio.Event()
        self.sessions = 0
        self.remarks: list[str] = []
        self.results: list[Result] = []
        self.threads: set[threading.Thread] = set()

    def advanced(self, count: int) -> None:
        self.sessions = max(self.sessions, len(self._server.service.sessions))
        self.threads.add(threading.current_thread())
        self.event.set()

    def finished(self, result: Result) -> None:
        self.results.append(result)

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def given(client, options) -> dict:
    """Options of a put; a limit is the client's."""
    client.limit_rate = options.get("limit_rate")
    return {name: value for name, value in options.items() if name != "limit_rate"}


@ways("plain", "tls", "plain")
def test_a_tree_there_and_back(server, use, source, home, tmp_path, options):
    async def work(client):
        up = given(client, options)
        down = {name: value for name, value in up.items() if name != "atomic"}
        moved = Moved(server)
        assert (await client.put([source], "/tree", recursive=True, listener=moved, **up)).done
        assert moved.sessions > 1
        assert moved.threads == {threading.current_thread()}
        assert {str(result.error) for result in moved.results} == {"None"}
        assert (await client.get(["/tree"], tmp_path / "got", recursive=True, **down)).done

    use(server, work)
    trees.same(source, home / "tree")
    trees.same(source, tmp_path / "got")


@both_servers
def test_a_large_file_in_pieces(server, use, home, tmp_path):
    (tmp_path / "file").write_bytes(DATA)

    async def work(client):
        moved = Moved(server)
        await client.put([tmp_path / "file"], "/file", parallel=3, listener=moved)
        assert moved.sessions == 4
        await client.get(["/file"], tmp_path / "got", parallel=3)

    use(server, work)
    assert (home / "file").read_bytes() == (tmp_path / "got").read_bytes() == DATA


@ways("tls", "plain", "tls")
def test_others_are_served_meanwhile_and_are_no_part_of_it(server, use, source, home, options):
    async def work(client):
        up = given(client, options)
        moved = Moved(server)
        task = asyncio.create_task(
            client.put([source], "/tree", recursive=True, listener=moved, **up)
        )
        await moved.event.wait()
        await client.make_dir("/other")
        await client.put([source / "large0"], "/other/large")
        assert [entry.path async for entry in client.list_dir("/other")] == [b"large"]
        assert (await task).failed == 0

    use(server, work)
    trees.same(source, home / "tree")
    assert (home / "other" / "large").read_bytes() == DATA[:LARGE]


def test_all_of_a_tree_or_nothing(server, use, source, home):
    """What is there stays until all of the new one is."""

    async def work(client):
        await client.put([source], "/tree", recursive=True, atomic=True)
        (source / "d0" / "0").write_bytes(b"new")
        (source / "d1" / "1").unlink()
        (source / "bad").symlink_to("/nowhere")
        failed = await client.put([source], "/tree", recursive=True, atomic=True, copy_links=True)
        assert failed.failed == 1
        assert (home / "tree" / "d0" / "0").read_bytes() == b"0"
        assert (home / "tree" / "d1" / "1").exists()
        (source / "bad").unlink()
        await client.put([source], "/tree", recursive=True, atomic=True)

    use(server, work)
    trees.same(source, home / "tree")


@ways("plain", "tls", "plain")
def test_cancelling_leaves_nothing_under_way(server, use, source, home, options):
    async def work(client):
        up = given(client, options)
        connection = client._connection
        for _ in range(2):
            moved = Moved(server)
            task = asyncio.create_task(
                client.put([source], "/tree", recursive=True, listener=moved, **up)
            )
            await moved.event.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(eventually, lambda: len(server.service.sessions) == 1)
        assert "atomic" not in options or await client.find("/tree") is None
        assert (await client.put([source], "/tree", recursive=True, **up)).failed == 0
        assert client._connection is connection

    use(server, work)
    trees.same(source, home / "tree")


@ways("tls", "plain", "tls")
def test_lost_connections_are_regained(server, use, source, home, monkeypatch, options):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)

    async def work(client):
        up = given(client, options)
        moved = Moved(server)
        task = asyncio.create_task(
            client.put([source], "/tree", recursive=True, listener=moved, **up)
        )
        await moved.event.wait()
        for session in list(server.service.sessions):
            session.channel.cut()
        summary = await task
        assert (summary.done, summary.failed) == (203, 0)
        assert len(moved.results) == 203
        assert any("reconnecting" in text for text in moved.remarks)

    use(server, work)
    trees.same(source, home / "tree")


@pytest.mark.parametrize("options", [{"atomic": True}, {"parallel": 3}], ids=["atomic", "parallel"])
def test_no_more_sessions_are_to_be_had(start_server, use, source, options):
    """What needs one of its own says so; what only would be faster does without."""
    server = start_server(max_user_sessions=1)

    async def work(client):
        moved = Moved(server)
        put = client.put([source], "/tree", recursive=True, listener=moved, **options)
        if "parallel" in options:
            assert (await put).done == 203
            assert moved.remarks
        else:
            with pytest.raises(TooMany):
                await put
            assert await client.find("/tree") is None

    use(server, work)


def test_remarks_are_reported_by_the_loop(start_server, use, source):
    """Also those that a transfer's own connection brings."""
    server = start_server(quota=16 * MIB)
    reported = []

    async def work(client):
        await client.put([source], "/tree", recursive=True, atomic=True)
        await client.put([source / "d0"], "/other", recursive=True, atomic=True)

    def remark(text: str) -> None:
        reported.append((text, threading.current_thread()))

    use(server, work, remark=remark)
    ((text, thread),) = reported
    assert "are used" in text and thread is threading.current_thread()


# the rate ----------------------------------------------------------------------------------


@both_servers
def test_one_limit_for_all_that_moves(server, use, home, tmp_path):
    """Transfers over several connections and streams are paid for out of the same purse."""
    (tmp_path / "file").write_bytes(DATA)
    (home.mkdir(exist_ok=True), (home / "there").write_bytes(DATA))
    spent = []

    async def pieces() -> AsyncIterator[bytes]:
        yield DATA[:MIB]

    async def taken(client) -> bytes:
        return b"".join([data async for data in client.get_stream("/there")])

    async def work(client):
        client.limit_rate = 10_000 * MIB
        pace = client._pace
        real = pace.spend
        pace.spend = lambda count: (spent.append(count), real(count))
        await asyncio.gather(
            client.put([tmp_path / "file"], "/file", parallel=2),
            client.get(["/there"], tmp_path / "got"),
            client.put_stream(pieces(), "/streamed"),
        )
        assert await taken(client) == DATA

    use(server, work)
    total = 3 * len(DATA) + MIB
    assert total <= sum(spent) < total * 1.1
    assert (home / "streamed").read_bytes() == DATA[:MIB]


def test_a_limited_transfer_holds_up_nobody(server, use, source, home):
    """At this rate it would take hours; the loop answers, and it ends when it is to."""

    async def pieces() -> AsyncIterator[bytes]:
        yield DATA

    async def work(client):
        client.limit_rate = 2000
        assert client.limit_rate == 2000
        moved = Moved(server)
        task = asyncio.create_task(client.put([source / "large0"], "/large", listener=moved))
        await moved.event.wait()
        for _ in range(100):
            assert await client.whoami() == "alice"
        client.limit_rate = 10_000 * MIB  # from here on it is fast
        assert (await task).done == 1
        client.limit_rate = None
        await client.put_stream(pieces(), "/streamed")

    use(server, work)
    assert (home / "large").read_bytes() == DATA[:LARGE]
    assert (home / "streamed").read_bytes() == DATA


def test_a_client_that_was_closed_is_not_opened_again(server, use, source):
    async def work(client):
        moved = Moved(server)
        client.limit_rate = 50_000
        task = asyncio.create_task(client.put([source], "/", recursive=True, listener=moved))
        await moved.event.wait()
        await client.close()
        with pytest.raises(SessionEnded):
            await task
        client.limit_rate = None
        await client.connect()

    use(server, work)


@both_servers
def test_a_part_of_a_tree_is_moved(server, use, home, tmp_path):
    """The options of `Client.put` and `Client.get` that choose, look and remove."""
    source = tmp_path / "source"
    for name in ("a", "b.o", "d/c", "d/e"):
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_bytes(b"x")

    async def work(client):
        moved = Moved(server)
        chosen = {"recursive": True, "exclude": ["*.o"], "listener": moved}
        await client.put(source, "/tree", dry_run=True, **chosen)
        assert {result.status for result in moved.results} == {"planned"}
        assert not (home / "tree").exists()
        await client.put(source, "/tree", remove_source=True, parallel=2, **chosen)
        await client.get("/tree", tmp_path / "got", files_from=["d/c"], remove_source=True)
        await client.sync(":/tree", tmp_path / "mirror", Options(files_from=["a"], parallel=2))

    use(server, work)
    assert trees.names(source) == {b"b.o"}
    assert trees.names(home / "tree") == {b"a", b"d", b"d/e"}
    assert trees.names(tmp_path / "got") == {b"d", b"d/c"}
    assert trees.names(tmp_path / "mirror") == {b"a"}
