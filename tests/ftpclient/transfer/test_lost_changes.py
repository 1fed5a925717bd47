"""A connection that is cut at any byte of a change, with a real server: it is done once, and told.

Lives elsewhere: what is sent again (../test_operations.py), transfers (test_cut_anywhere.py), what
the server remembers (tests/ftpserver).
"""

from __future__ import annotations

import asyncio
import os

import pytest

from ftpclient import AlreadyExists, AsyncClient, Client, ConnectionLost
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.sync.plan import Options
from ftpclient.transfer import retry
from ftpserver.serving import opening
from ftpwire import messages
from tests.system.proxy import Proxy


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.001)


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def home(server):
    return server.settings.root / "alice"


@pytest.fixture
def through(server, tmp_path):
    """A proxy, and a client that comes through it."""
    opened = []

    def make(kind=Client):
        proxy = Proxy(server.address).__enter__()
        client = kind(
            f"alice@{proxy.address}",
            password="secret",
            plaintext=True,
            known_hosts=KnownHosts(tmp_path / "known_hosts"),
        )
        opened.append((proxy, client))
        return proxy, client

    yield make
    for proxy, client in opened:
        if isinstance(client, Client):
            client.close()
        proxy.__exit__(None, None, None)


@pytest.fixture
def measured(through):
    """The bytes of a whole session, each way: its opening, and what it does then."""

    def measure(act=lambda client: None) -> dict[str, int]:
        proxy, client = through()
        client.connect()
        act(client)
        client.close()
        proxy.__exit__(None, None, None)  # all of it is counted then
        return {way: proxy.passed(way) for way in ("up", "down")}

    return measure


def visible(home) -> set[str]:
    """What is in the home, as its user sees it."""
    found = {str(path.relative_to(home)) for path in home.rglob("*")}
    return {one for one in found if not one.startswith(".ftpd-")}


def fill(client) -> None:
    """Two files, and a tree. They are stored: what only lies there is in nobody's books."""
    for path in ("/a", "/b", "/d/e/f", "/d/g"):
        client.write(path, path.encode(), parents=True)


FULL = {"a", "b", "d", "d/e", "d/e/f", "d/g"}
CHANGES = {
    "rm": (lambda client: client.remove("/a"), FULL - {"a"}, 1),
    "rm-tree": (lambda client: client.remove("/d", recursive=True), {"a", "b"}, 1),
    "rm-for-good": (lambda client: client.remove("/a", final=True), FULL - {"a"}, 0),
    "mv": (lambda client: client.move("/a", "/c"), FULL - {"a"} | {"c"}, 1),
    "mv-over": (lambda client: client.move("/a", "/b"), FULL - {"a"}, 2),
    "cp": (lambda client: client.copy("/a", "/c"), FULL | {"c"}, 0),
    "cp-over": (lambda client: client.copy("/a", "/b"), FULL, 1),
    "mkdir": (lambda client: client.make_dir("/new"), FULL | {"new"}, 0),
    "ln": (lambda client: client.make_link("/new", "a"), FULL | {"new"}, 0),
}


@pytest.mark.parametrize(("change", "left", "items"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_done_once_wherever_it_is_cut(
    through, home, client, measured, change, left, items
):
    fill(client)
    first, whole = measured(), measured(change)
    for way in ("up", "down"):
        span = whole[way] - first[way]
        for position in sorted({1, 9, span // 2, span - 1, span}):
            for path in visible(home):
                if os.path.lexists(home / path):
                    client.remove(f"/{path}", recursive=True, final=True)
            fill(client)
            client.purge()
            proxy, cut = through()
            proxy.cut_at(way, first[way] + position)
            cut.connect()
            change(cut)
            where = f"{way} after {position} of {span} bytes"
            assert visible(home) == left, where
            operations = client.trash()
            assert sum(one.items for one in operations) == items, where
            assert len(operations) == bool(items), where


def test_a_refusal_is_reported_as_it_was(through, home, client, measured):
    fill(client)
    proxy, cut = through()
    proxy.cut_at("down", measured()["down"] + 5)
    with pytest.raises(AlreadyExists):
        cut.make_dir("/d")


def test_an_undo_is_not_done_back(through, home, client, measured):
    """Undone twice it would be as before."""
    fill(client)
    client.remove("/d", recursive=True)
    (removed,) = client.trash()
    proxy, cut = through()
    proxy.cut_at("down", measured()["down"] + 5)
    answer = cut.restore(removed.name)
    assert (answer.items, answer.conflicts) == (1, [])
    assert visible(home) == FULL


@pytest.mark.parametrize("position", [5, 60])
def test_what_an_undo_asks_before_is_asked_again(through, home, client, measured, position):
    fill(client)
    client.remove("/d", recursive=True)
    proxy, cut = through()
    proxy.cut_at("down", measured()["down"] + position)
    assert cut.undo().items == 1
    assert visible(home) == FULL


def test_many_removals_are_each_done_once(through, home, client, measured):
    for number in range(60):
        client.write(f"/{number}", b"x")
    proxy, cut = through()
    first = measured()
    for way in ("up", "down"):
        proxy.cut_at(way, *(first[way] + count for count in range(500, 20_000, 700)))
    with cut.operation("rm *"):
        for number in range(60):
            assert cut.remove(f"/{number}").trashed
    assert visible(home) == set()
    (operation,) = client.trash()
    assert (operation.words, operation.items, operation.kept) == ("rm *", 60, 60)


def test_a_tree_that_is_put_at_once_replaces_once(through, home, client, tmp_path, measured):
    source = tmp_path / "site"
    source.mkdir()
    (source / "index").write_text("new")
    (home / "site").mkdir()
    (home / "site" / "index").write_text("old")
    total = measured(lambda one: one.put(source, "/site", recursive=True, atomic=True))["down"]
    client.purge()
    for back in (1, 4, 30):
        proxy, cut = through()
        proxy.cut_at("down", total - back)
        summary = cut.put(source, "/site", recursive=True, atomic=True)
        assert (summary.done, summary.failed) == (1, 0)
        assert (home / "site" / "index").read_text() == "new"
        operations = client.trash()
        assert [one.items for one in operations] == [1], f"{back} bytes before the end"
        client.purge()


def test_a_sync_is_one_operation_whatever_is_lost(through, home, client, tmp_path, measured):
    source = tmp_path / "source"
    source.mkdir()
    (source / "kept").write_text("kept")
    fill(client)
    proxy, cut = through()
    proxy.cut_at("down", measured()["down"] + 1100)
    totals = cut.sync(source, ":/", Options(delete=True))
    assert totals.exit_code == 0
    assert visible(home) == {"kept"}
    (operation,) = client.trash()
    assert operation.kept == 3, "two files, and a tree as a whole"


@pytest.mark.parametrize("change", ["rm-tree", "mv-over", "cp-over"])
def test_a_task_has_its_change_done_once(through, home, client, change, measured):
    act, left, items = CHANGES[change]
    fill(client)

    first = measured()["down"]

    async def run() -> None:
        proxy, cut = through(AsyncClient)
        proxy.cut_at("down", first + 5)
        async with cut:
            await act(cut)

    asyncio.run(run())
    assert visible(home) == left
    (operation,) = client.trash()
    assert operation.items == items
    assert operation.words.startswith("AsyncClient.")


def test_tasks_whose_connection_is_lost_have_each_their_change_done(
    through, home, client, measured
):
    for number in range(40):
        client.write(f"/{number}", b"x")

    first = measured()["down"]

    async def run() -> None:
        proxy, cut = through(AsyncClient)
        proxy.cut_at("down", *(first + count for count in range(90, 4000, 400)))
        async with cut:
            await asyncio.gather(*(cut.remove(f"/{number}") for number in range(40)))

    asyncio.run(run())
    assert visible(home) == set()
    operations = client.trash()
    assert len(operations) == 40 and {one.kept for one in operations} == {1}


def test_all_connections_of_a_transfer_are_one_operation(home, client, tmp_path):
    source = tmp_path / "tree"
    source.mkdir()
    for number in range(30):
        (source / str(number)).write_bytes(os.urandom(1000))
        client.write(f"/tree/{number}", b"old", parents=True)
    client.purge()
    with client.operation("put it"):
        client.put(source, "/", recursive=True, parallel=3)
    (operation,) = client.trash()
    assert (operation.words, operation.kept) == ("put it", 30)


def test_of_what_is_not_to_be_kept_nothing_is(home, client):
    fill(client)
    client.purge()
    with client.operation("for good", keep=False):
        client.remove("/d", recursive=True)
        client.write("/a", b"new")
        client.move("/b", "/a")
    assert client.trash() == []


@pytest.mark.parametrize(("change", "left"), [row[:2] for row in CHANGES.values()], ids=CHANGES)
def test_with_a_server_without_the_feature_an_outcome_stays_unknown(
    through, home, client, monkeypatch, change, left, measured
):
    fill(client)
    features = [one for one in opening.FEATURES if one != messages.TRASH]
    monkeypatch.setattr(opening, "FEATURES", features)
    proxy, cut = through()
    proxy.cut_at("down", measured()["down"] + 5)
    cut.connect()
    assert not cut.connection.keeps_trash
    with pytest.raises(ConnectionLost, match="it may have been done") as caught:
        change(cut)
    assert caught.value.exit_code == 4
    assert visible(home) == left, "and it was done"
