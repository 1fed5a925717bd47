"""Many small files in one request, with a real server: cut anywhere, interrupted, over several
connections, from an event loop, in a sync.

Lives elsewhere: what goes in a request, and lies of servers (test_put_files.py), the tables of all
that can be copied (test_copying_table.py).
"""

from __future__ import annotations

import asyncio
import os
import tracemalloc

import pytest

from ftpclient import AsyncClient, Client, ConnectionLost
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.sync.plan import Options as SyncOptions
from ftpclient.transfer import put_files, retry
from ftpclient.transfer.file_upload import FileUpload
from ftpclient.transfer.report import Listener, Result
from ftpclient.transfer.run_size import RunSize
from ftpserver.serving import opening
from ftpwire.errors import Interrupted
from ftpwire.messages import MANY_FILES, GetFiles, PutFiles, RequestBase, SetAttributes
from tests.ftpclient.transfer.storing_server import StoringServer, tell_all
from tests.system import trees
from tests.system.proxy import Proxy

MTIME = 1_500_000_000_000_000_007


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.001)


@pytest.fixture(autouse=True)
def requests(monkeypatch) -> list[RequestBase]:
    """All requests of all connections."""
    seen: list[RequestBase] = []
    submit = Connection.submit

    def noted(self, call, request, cost=0):
        seen.append(request)
        return submit(self, call, request, cost)

    monkeypatch.setattr(Connection, "submit", noted)
    return seen


def names(requests: list[RequestBase]) -> set[str]:
    return {type(one).__name__ for one in requests}


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def home(server):
    return server.settings.root / "alice"


@pytest.fixture
def make_tree(tmp_path):
    """A tree with modes and times of its own, directories included."""

    def make(directories: int = 6, files: int = 5, size: int = 300, *, name: str = "tree"):
        top = tmp_path / name
        for number in range(directories):
            below = top / f"d{number}" / ("deep" if number % 2 else "")
            below.mkdir(parents=True)
            for each in range(files):
                path = below / f"f{each}"
                path.write_bytes(os.urandom(size + each))
                path.chmod(0o600 + each)
                os.utime(path, ns=(MTIME, MTIME + each))
        (top / "large").write_bytes(os.urandom(400_000))
        (top / "d0" / "link").symlink_to("f1")
        for number, (path, _, _) in enumerate(os.walk(top, topdown=False)):
            os.chmod(path, 0o700 + number % 8)
            os.utime(path, ns=(MTIME, MTIME - number))
        return top

    return make


def through(server, tmp_path, kind=Client, **options):
    proxy = Proxy(server.address).__enter__()
    values = {"password": "secret", "plaintext": True, "retry_for": 60}
    known = KnownHosts(tmp_path / "known_hosts")
    return proxy, kind(f"alice@{proxy.address}", known_hosts=known, **values | options)


@pytest.mark.parametrize("many", [True, False])
def test_a_tree_comes_as_it_is(server, home, connect, make_tree, monkeypatch, requests, many):
    if not many:
        monkeypatch.setattr(opening, "FEATURES", [o for o in opening.FEATURES if o != MANY_FILES])
    top = make_tree()
    summary = connect(server).put(top, "/t", recursive=True)
    assert (summary.done, summary.exit_code) == (32, 0)
    trees.same(top, home / "t")
    assert ("PutFiles" in names(requests)) == many
    assert many or not any(isinstance(one, PutFiles | GetFiles) for one in requests)


def session(server, tmp_path, act=lambda client: None) -> dict[str, int]:
    """The bytes of a whole session, each way."""
    proxy, client = through(server, tmp_path)
    client.connect()
    act(client)
    client.close()
    proxy.__exit__(None, None, None)  # all of it is counted then
    return {way: proxy.passed(way) for way in ("up", "down")}


def test_each_file_is_stored_once_wherever_the_connection_is_cut(
    server, home, client, make_tree, tmp_path, requests
):
    """In and around each frame: the request, the bytes, the end, the answer."""
    top = make_tree(4, 3)
    (top / "large").unlink()
    (top / "d0" / "link").unlink()  # of links nobody can tell whether they were sent before
    os.utime(top / "d0", ns=(MTIME, MTIME))
    opening_, whole = (
        session(server, tmp_path),
        session(server, tmp_path, lambda one: one.put(top, "/t", recursive=True)),
    )
    assert "PutFiles" in names(requests)
    for way in ("up", "down"):
        span = whole[way] - opening_[way]
        step = max(1, span // 25)
        for position in sorted({1, 9, span - 9, span - 1, *range(step, span, step)}):
            for name in os.listdir(home):
                if not name.startswith(".ftpd-"):
                    client.remove(f"/{name}", recursive=True, final=True)
            client.purge()
            proxy, cut = through(server, tmp_path)
            proxy.cut_at(way, opening_[way] + position)
            summary = cut.put(top, "/t", recursive=True)
            cut.close()
            proxy.__exit__(None, None, None)
            where = f"{way} after {position} of {span} bytes"
            assert (summary.done, summary.failed, summary.exit_code) == (12, 0, 0), where
            trees.same(top, home / "t")
            assert client.trash() == [], f"{where}: something was stored twice"


def test_a_connection_that_is_not_regained_loses_no_word(server, home, make_tree, tmp_path):
    """Each file of a request without an answer is told of, and what was stored counts."""
    top = make_tree(40, 20, 3000)
    results: list[Result] = []

    class Recording(Listener):
        def finished(self, result: Result) -> None:
            results.append(result)

    opening_, whole = (
        session(server, tmp_path, act)["down"]
        for act in (lambda one: None, lambda one: one.put(top, "/before", recursive=True))
    )
    proxy, client = through(server, tmp_path, retry_for=0)
    proxy.cut_after("down", (opening_ + 2 * whole) // 3)
    with pytest.raises(ConnectionLost):
        client.put(top, "/t", recursive=True, listener=Recording())
    client.close()
    proxy.__exit__(None, None, None)
    assert {one.status for one in results} == {"done", "failed"}
    lost = [one for one in results if one.status == "failed"]
    assert lost and all(isinstance(one.error, ConnectionLost) for one in lost)
    assert len({one.target for one in results}) == len(results)
    for one in results:
        if one.status == "done" and one.size:
            assert (home / os.fsdecode(one.target[1:])).lstat().st_size == one.size


def test_over_several_connections(server, home, connect, make_tree, requests):
    top = make_tree(12, 30, 2000)
    summary = connect(server).put(top, "/t", recursive=True, parallel=3)
    assert (summary.done, summary.failed) == (362, 0)
    trees.same(top, home / "t")
    runs = [one for one in requests if isinstance(one, PutFiles)]
    assert any(run.parents for run in runs)
    assert {run.make for one in runs for run in one.directories if run.files} == {None}


@pytest.mark.parametrize("parallel", [1, 2])
def test_from_an_event_loop(server, home, make_tree, tmp_path, requests, parallel):
    """While other requests of the same client are answered."""
    top = make_tree(20, 20, 1000)

    async def run() -> None:
        address = f"alice@{server.address}"
        known = KnownHosts(tmp_path / "known_hosts")
        async with AsyncClient(
            address, password="secret", plaintext=True, known_hosts=known
        ) as client:
            putting = asyncio.create_task(client.put(top, "/t", recursive=True, parallel=parallel))
            while not putting.done():
                assert await client.whoami() == "alice"
            summary = await putting
            assert (summary.done, summary.failed) == (402, 0)

    asyncio.run(run())
    trees.same(top, home / "t")
    assert "PutFiles" in names(requests)


def test_two_uploads_of_one_event_loop_do_not_mix(server, home, make_tree, tmp_path):
    tops = [make_tree(20, 20, 2000, name=name) for name in ("one", "two", "three")]

    async def run() -> None:
        known = KnownHosts(tmp_path / "known_hosts")
        async with AsyncClient(
            f"alice@{server.address}", password="secret", plaintext=True, known_hosts=known
        ) as client:
            await asyncio.gather(
                *(client.put(top, f"/{top.name}", recursive=True, parallel=1) for top in tops)
            )

    asyncio.run(run())
    for top in tops:
        trees.same(top, home / top.name)


def test_all_at_once(server, home, connect, make_tree, requests):
    """A tree that takes the place of another one, whole."""
    top = make_tree()
    client = connect(server)
    client.put(make_tree(2, 2, name="old"), "/t", recursive=True)
    summary = client.put(top, "/t", recursive=True, atomic=True)
    assert (summary.done, summary.failed) == (32, 0)
    trees.same(top, home / "t")
    assert "PutFiles" in names(requests[-6:])


def test_a_sync_sends_new_files_and_directories_together(
    server, home, connect, make_tree, requests
):
    top, client = make_tree(), connect(server)
    totals = client.sync(top, ":/t", SyncOptions(delete=True))
    assert (totals.sent, totals.directories, totals.exit_code) == (32, 10, 0)
    trees.same(top, home / "t")
    assert "PutFiles" in names(requests)
    assert not {"SetAttributes"} & names(requests)
    del requests[:]
    (top / "d0" / "f1").write_bytes(b"changed")
    (top / "d0" / "f2").chmod(0o640)
    (top / "d1" / "deep" / "f3").unlink()
    (top / "d2" / "new").mkdir()
    for number in range(3):
        (top / "d2" / "new" / f"n{number}").write_bytes(b"new")
    totals = client.sync(top, ":/t", SyncOptions(delete=True))
    assert (totals.sent, totals.deleted, totals.directories, totals.exit_code) == (4, 1, 1, 0)
    trees.same(top, home / "t")
    totals = client.sync(top, ":/t", SyncOptions(delete=True))
    assert (totals.sent, totals.deleted, totals.attributes) == (0, 0, 0)


def test_a_sync_over_several_connections(server, home, connect, make_tree):
    top, client = make_tree(10, 20), connect(server)
    totals = client.sync(top, ":/t", SyncOptions(delete=True, parallel=3))
    assert (totals.sent, totals.exit_code) == (202, 0)
    trees.same(top, home / "t")


@pytest.mark.parametrize("verb", ["put", "sync"])
def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(
    server, home, connect, tmp_path, monkeypatch, verb
):
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_bytes(b"mine")
    (tmp_path / "secret").write_bytes(b"not meant")
    put = FileUpload.put

    def swapped(self, source, *arguments, **options):
        if not os.path.islink(source):
            os.unlink(source)
            os.symlink("../secret", source)
        return put(self, source, *arguments, **options)

    monkeypatch.setattr(FileUpload, "put", swapped)
    client = connect(server)
    if verb == "put":
        client.put(top, "/t", recursive=True)
    else:
        client.sync(top, ":/t")
    assert os.readlink(home / "t" / "file") == "../secret"


def test_ctrl_c_in_the_middle_leaves_what_was_not_sent(fake, connect, make_tree):
    """What was sent is told of, whatever became of it; what was only collected is not sent."""
    interrupt, server = Interrupt(), StoringServer()
    results: list[Result] = []

    class Stops(Listener):
        def finished(self, result: Result) -> None:
            if not results:
                interrupt.set()
            results.append(result)

    client = connect(fake(server), interrupt=interrupt)
    try:
        with pytest.raises(Interrupted):
            client.put(make_tree(200, 10, 2000), "/t", recursive=True, listener=Stops())
        assert client.whoami() == "alice"
    finally:
        client.close()
        interrupt.close()
    assert 0 < len(server.files) < 2000
    assert server.files.keys() <= {one.target for one in results if one.size}


def test_a_slow_link_makes_requests_smaller(fake, connect, make_tree, monkeypatch):
    """By a clock of the test's: each request takes as long as its bytes at 16 KiB a second."""
    now = [100.0]
    monkeypatch.setattr(put_files, "RunSize", lambda pace: RunSize(pace, lambda: now[0]))
    sizes = []

    def answer(peer, requested, failures, count) -> None:
        put = requested.message
        sizes.append(sum(new.size for one in put.directories for new in one.files))
        now[0] += sizes[-1] / 16_384
        tell_all(peer, requested, failures, count)

    server = StoringServer(answer=answer)
    server.greet = lambda peer: peer.greet(features=[MANY_FILES], max_requests=1)
    connect(fake(server)).put(make_tree(50, 10, 1000), "/t", recursive=True)
    assert max(sizes[:2]) > 32_000 and max(sizes[6:]) <= 16_384


def test_memory_is_flat_while_a_server_says_nothing(fake, connect, make_tree):
    """The bytes of what was sent are not kept until its answer."""
    held: list = []

    def answer(peer, requested, failures, count) -> None:
        held.append((requested, failures, count))
        if server.done[-1][:2] == ("attributes", b"/t"):  # the last of all came
            for one in held:
                tell_all(peer, *one)
            held.clear()

    class Silent(StoringServer):
        def answer(self, peer, requested) -> None:
            if isinstance(requested.message, SetAttributes) and requested.message.path == b"/t":
                for one in held:  # the last of all came, alone
                    tell_all(peer, *one)
                held.clear()
            super().answer(peer, requested)

    server = Silent(answer=answer, keeps=False)
    server.greet = lambda peer: peer.greet(
        features=[MANY_FILES], max_requests=4096, max_unanswered=2**26
    )
    top = make_tree(50, 20, 8000)
    client = connect(fake(server))
    tracemalloc.start()
    try:
        client.put(top, "/t", recursive=True, parallel=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * 1024 * 1024
