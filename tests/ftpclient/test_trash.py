"""What was removed and replaced, got back by the verbs of both clients."""

from __future__ import annotations

import errno
import os

import pytest

from ftpclient import Conflict, Expired, NotFound, ProtocolError
from ftpclient.client import Client
from ftpclient.connection import client_id as ids
from ftpclient.transfer import retry, trash
from ftpserver.serving import opening
from ftpserver.storage.trash import directory
from ftpwire import errors, messages
from ftpwire.frames import Kind
from tests.ftpclient.aio.async_support import Blocking
from tests.ftpclient.operations_support import TrashServer

LARGE = os.urandom(9 * 1024 * 1024)


@pytest.fixture(params=["Client", "AsyncClient"])
def client(request, server, connect):
    return connect(server, kind=Client if request.param == "Client" else Blocking)


def read(client, version) -> bytes:
    return client.read(version.inner_path, in_trash=version.in_trash)


def test_versions_of_a_file(client):
    for text in (b"one", b"two", b"three"):
        client.write("/a", text)
    found = client.versions("/a")
    assert [(one.item.what, one.item.size) for one in found] == [("replaced", 3), ("replaced", 3)]
    assert [read(client, one) for one in found] == [b"two", b"one"]
    assert client.versions("/b") == []


def test_a_version_in_a_tree(client):
    client.write("/d/e/f", b"deep", parents=True)
    client.remove("/d", recursive=True)
    [one] = client.versions("/d/e/f")
    assert (one.inner_path, read(client, one)) == (b"/e/f", b"deep")


def test_what_lies_in_the_trash_is_read_by_all_verbs(client, tmp_path):
    client.write("/d/e/f", b"deep", parents=True)
    client.write("/d/large", LARGE)
    before = client.hash("/d/large")
    client.remove("/d", recursive=True)
    [(operation, item)] = client.trash_items()
    where = {"in_trash": (operation, item.name)}
    assert (client.stat("/", **where).type, client.stat("e/f", **where).size) == ("dir", 4)
    assert {one.path for one in client.list_dir("/", **where)} == {b"e", b"large"}
    walked = {path: len(entries) for path, entries in client.walk("/", **where)}
    assert walked == {b"": 2, b"e": 1}
    assert client.hash("large", **where) == before
    assert client.read("/large", **where) == LARGE
    assert client.read("/large", 5, 7, **where) == LARGE[5:12]
    client.get_file("/large", tmp_path / "large", **where)
    client.get("/large", tmp_path / "pieces", parallel=3, **where)
    client.get("/", tmp_path / "tree", recursive=True, into=False, **where)
    for name in ("large", "pieces", "tree/large"):
        assert (tmp_path / name).read_bytes() == LARGE
    assert (tmp_path / "tree" / "e" / "f").read_bytes() == b"deep"
    assert not client.exists("/d")


def test_names_in_the_trash_are_no_patterns(client, tmp_path):
    client.write("/d/[a]*", b"odd", parents=True)
    client.remove("/d", recursive=True)
    [one] = client.trash_items()
    client.get("/[a]*", tmp_path / "got", in_trash=one.in_trash)
    assert (tmp_path / "got").read_bytes() == b"odd"


def test_a_stream_from_the_trash(server, connect):
    client = connect(server)
    client.write("/a", LARGE)
    client.remove("/a")
    [one] = client.trash_items()
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        size, _ = client.get_stream("/", null, in_trash=one.in_trash)
    finally:
        os.close(null)
    assert size == len(LARGE)


def test_a_stream_from_the_trash_of_an_event_loop(server, connect):
    client = connect(server, kind=Blocking)
    client.write("/a", LARGE)
    client.remove("/a")
    [one] = client.trash_items()

    async def take() -> bytes:
        stream = client.client.get_stream("/", in_trash=one.in_trash)
        return b"".join([piece async for piece in stream])

    assert client.run(take()) == LARGE


def test_nothing_is_moved_out_of_the_trash_by_a_download(client, tmp_path):
    client.write("/a", b"a")
    client.remove("/a")
    [one] = client.trash_items()
    with pytest.raises(ValueError, match="exclude each other"):
        client.get("/", tmp_path / "a", in_trash=one.in_trash, remove_source=True)


def test_undo_and_undo_again(client):
    client.write("/a", b"a")
    client.remove("/a")
    assert client.undo().paths == [b"/a"]
    assert client.read("/a") == b"a"
    client.undo()
    assert not client.exists("/a")
    client.undo()
    assert client.exists("/a")


def test_undo_of_a_dry_run(client):
    client.write("/a", b"a")
    client.remove("/a")
    reported = client.undo(dry_run=True)
    assert (reported.items, reported.paths, client.exists("/a")) == (1, [b"/a"], False)


def test_nothing_to_undo(client):
    with pytest.raises(NotFound, match="nothing to undo"):
        client.undo()
    client.write("/a", b"a")  # nothing was there before
    with pytest.raises(NotFound, match="nothing to undo"):
        client.undo()


def test_what_was_done_more_than_an_hour_ago_is_not_the_last_thing(client, monkeypatch):
    client.write("/a", b"a")
    client.remove("/a")
    monkeypatch.setattr(trash, "UNDO_SECONDS", -1)
    with pytest.raises(NotFound, match="nothing to undo"):
        client.undo()
    [one] = client.trash()
    assert client.undo(one.name).items == 1


def test_what_another_program_did_is_not_the_last_thing(client):
    client.write("/a", b"a")
    client.remove("/a")
    found = client.trash()
    assert trash.newest(found, ids.client_id()) == found[0]
    for other, own in ((b"another!", ()), (None, ())):
        with pytest.raises(errors.NotFound):
            trash.newest(found, other, own)
    assert trash.newest(found, b"another!", {found[0].key}) == found[0]


def test_verbs_that_are_one_operation(client):
    client.write("/a", b"a")
    client.write("/b", b"b")
    with (client.client if isinstance(client, Blocking) else client).operation("tidy up"):
        client.remove("/a")
        client.remove("/b")
    [one, *_] = client.trash()
    assert (one.words, one.items) == ("tidy up", 2)
    assert client.undo().items == 2


def test_the_trash_of_a_path_and_of_a_time(client):
    client.write("/a", b"a")
    client.write("/d/b", b"b", parents=True)
    client.remove("/a")
    client.remove("/d", recursive=True)
    assert [one.first for one in client.trash()] == [b"/d", b"/a"]
    assert [one.first for one in client.trash(below="/a")] == [b"/a"]
    assert [one.item.path for one in client.trash_items(below="/d/b")] == [b"/d"]
    assert client.trash(since=client.trash()[0].time_ns / 10**9 + 60) == []
    assert len(client.trash(since=0)) == 2


def test_a_part_is_restored_elsewhere(client):
    client.write("/d/e/f", b"deep", parents=True)
    client.remove("/d", recursive=True)
    [one] = client.trash()
    client.restore(one.name, "/d/e/f", target="/new/place")
    assert client.read("/new/place/f") == b"deep"
    reported = client.restore(one.name, ["/d/none"])
    assert [problem.code for problem in reported.conflicts] == ["not-found"]


@pytest.mark.parametrize(("conflict", "there"), [("skip", b"new"), ("replace", b"old")])
def test_what_is_in_the_way(client, conflict, there):
    client.write("/a", b"old")
    client.remove("/a")
    [one] = client.trash()
    client.write("/a", b"new")
    reported = client.restore(one.name, conflict=conflict)
    assert [problem.code for problem in reported.conflicts] == ["conflict"] * (conflict == "skip")
    assert client.read("/a") == there


def test_beside_what_is_in_the_way(client):
    client.write("/a", b"old")
    client.remove("/a")
    [one] = client.trash()
    client.write("/a", b"new")
    reported = client.restore(one.name, conflict="beside")
    assert reported.paths == [b"/a.restored-1"]
    assert client.read("/a.restored-1") == b"old"


def test_after_conflicts_undo_goes_on(client):
    client.write("/a", b"old")
    client.remove("/a")
    client.make_dir("/a")
    for conflicts in (1, 1):
        assert len(client.undo().conflicts) == conflicts
    assert client.undo(conflict="beside").paths == [b"/a.restored-1"]
    client.undo()
    assert not client.exists("/a.restored-1")


def test_after_a_part_of_it_undo_takes_nothing_away(client):
    client.write("/a", b"a")
    client.write("/b", b"b")
    with (client.client if isinstance(client, Blocking) else client).operation("tidy up"):
        client.remove("/a")
        client.remove("/b")
    client.write("/a", b"in the way")
    client.make_dir("/b-was-here")
    assert client.undo().paths == [b"/b"]
    reported = client.undo()
    assert (reported.items, reported.already, len(reported.conflicts)) == (0, 1, 1)
    assert client.read("/b") == b"b"
    client.undo(conflict="replace")
    assert client.read("/a") == b"a"


def test_a_wrong_word_for_conflicts(client):
    with pytest.raises(ValueError, match="'skip', 'replace' or 'beside'"):
        client.restore("0123456789abcdef-01234567", conflict="overwrite")


def test_purging(client):
    client.write("/a", b"a")
    client.write("/b", b"bb")
    with pytest.raises(ValueError, match="need the name of their operation"):
        client.purge(items=["01234567-0"])
    client.remove("/a")
    client.remove("/b")
    client.purge(before=0)
    newest, oldest = client.trash()
    gone = client.purge(oldest.name)
    assert (gone.files, gone.size_bytes) == (1, 1)
    with pytest.raises(Expired) as reported:
        client.restore(oldest.name)
    assert isinstance(reported.value, FileNotFoundError) and reported.value.errno == errno.ENOENT
    with pytest.raises(Expired):
        client.trash_items(oldest.name)
    [one] = client.trash_items(newest.name)
    client.purge(newest.name, items=[one.item.name])
    assert client.purge().files == 0


def test_more_is_restored_than_one_request_names(client):
    names = [f"/d/{number}" for number in range(150)]
    for name in names:
        client.write(name, b"x", parents=True)
    client.remove("/d", recursive=True)
    [one, *_] = client.trash()
    done = client.restore(one.name, [*names, "/none"])
    assert (done.items, done.already, len(done.paths), len(done.conflicts)) == (150, 0, 150, 1)
    assert done.operation == client.trash()[0].name
    items = [f"01234567-{number}" for number in range(1001)]
    assert client.restore(one.name, items=items).items == 0


def test_a_short_id_is_no_name(client):
    for verb in (client.restore, client.purge, client.trash_items):
        with pytest.raises(
            ValueError, match="'7f3a' is not the name of an operation: use a `name`"
        ):
            verb("7f3a")


ASKING = {
    "trash": lambda client: client.trash(),
    "trash_items": lambda client: client.trash_items(),
    "versions": lambda client: client.versions("/a"),
}


@pytest.mark.parametrize("verb", ASKING)
def test_the_trash_is_asked_again_after_a_loss(fake, connect, monkeypatch, verb):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    server, lost = TrashServer(), []

    def list_trash(peer, requested):
        if not isinstance(requested.message, messages.ListTrash):
            return False
        if not lost:
            lost.append(verb)
            raise EOFError
        peer.frame(Kind.END, requested.request_id, messages.Listed())
        return True

    server.other = list_trash
    client = connect(fake(server))
    assert ASKING[verb](client) == [] and lost


def test_a_conflict_is_an_error_of_its_own():
    assert (Conflict.code, Conflict.exit_code) == ("conflict", 12)
    assert not issubclass(Conflict, OSError)


VERBS = {
    "trash": lambda client: client.trash(),
    "trash_items": lambda client: client.trash_items(),
    "versions": lambda client: client.versions("/a"),
    "restore": lambda client: client.restore(PLACE[0]),
    "undo": lambda client: client.undo(),
    "purge": lambda client: client.purge(),
    "stat": lambda client: client.stat("/a", in_trash=PLACE),
    "list_dir": lambda client: list(client.list_dir("/", in_trash=PLACE)),
    "walk": lambda client: list(client.walk("/", in_trash=PLACE)),
    "hash": lambda client: client.hash("/a", in_trash=PLACE),
    "read": lambda client: client.read("/a", in_trash=PLACE),
    "get_file": lambda client: client.get_file("/a", "a", in_trash=PLACE),
}
PLACE = ("0123456789abcdef-01234567", "01234567-0")


@pytest.mark.parametrize("kind", [Client, Blocking])
@pytest.mark.parametrize("verb", VERBS)
def test_an_earlier_server_has_no_trash(server, connect, monkeypatch, kind, verb):
    """It would pass over ``in_trash``, and answer about the file of today."""
    monkeypatch.setattr(opening, "FEATURES", [messages.PIECES])
    client = connect(server, kind=kind)
    client.write("/a", b"today")
    with pytest.raises(ProtocolError, match="this server keeps no trash"):
        VERBS[verb](client)


def test_a_command_that_has_several_operations_is_undone_as_one(
    client, server, connect, monkeypatch
):
    """One of very many things has: the index of each has a bound."""
    monkeypatch.setattr(directory, "MOST_WRITTEN", 100)
    names = [f"/f{number}" for number in range(3)]
    for name in names:
        client.write(name, name.encode())
    remover = connect(server)
    with remover.operation("rm"):
        for name in names:
            remover.remove(name)
    assert len(client.trash()) == 3
    assert client.undo(dry_run=True).items == 3
    restored = client.undo()
    assert (restored.items, restored.conflicts) == (3, [])
    assert [client.read(name) for name in names] == [name.encode() for name in names]
    client.undo()
    assert list(client.list_dir("/")) == []
