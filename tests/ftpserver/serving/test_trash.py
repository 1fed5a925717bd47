"""The trash as the protocol has it: what goes there, telling, looking, restoring, purging."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import msgpack

from ftpserver.serving import exchange
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.trash import directory, discarding, operation, restoring
from ftpserver.storage.trash.directory import alone, open_trash
from ftpserver.workspace import keeping
from ftpwire import digests, messages
from ftpwire.errors import Cancelled
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    Done,
    EndTree,
    Failed,
    Get,
    Hash,
    Hashed,
    List,
    Listed,
    ListTrash,
    LoggedIn,
    Login,
    MakeDir,
    MakeLink,
    Move,
    Operation,
    Progress,
    Purge,
    Put,
    Remark,
    Remove,
    Removed,
    Restore,
    Restored,
    Sent,
    Space,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import Peer, eventually

KEY = b"12345678"
GONE = "17979cfe362a0000-0123abcd"


@pytest.fixture
def stocked(files) -> Path:
    (files / "file").write_bytes(b"data")
    (files / "link").symlink_to("file")
    (files / "empty").mkdir()
    (files / "dir" / "deep").mkdir(parents=True)
    (files / "dir" / "inner").write_bytes(b"1234")
    (files / "dir" / "deep" / "deeper").write_bytes(b"12345678")
    return files


@pytest.fixture
def peer(server, dial, stocked) -> Peer:
    peer = dial(server)
    assert peer.ask(Operation(KEY, "a command")) == Done()
    return peer


def put(peer: Peer, path: bytes, data: bytes = b"data", **options) -> object:
    """Store a file; what was said on the way is passed over."""
    number = peer.request(Put(path, len(data), **options))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data)))
    while (answer := peer.answer()).kind == Kind.NOTICE:
        pass
    return answer.message


def reported(peer: Peer, request: ListTrash) -> tuple[list, list]:
    """The operations, and the items, of a whole answer."""
    peer.request(request)
    operations, items = [], []
    while (answer := peer.answer()).kind == Kind.REPLY:
        operations += answer.message.operations
        items += answer.message.items
    assert answer.message == Listed(), answer.message
    return operations, items


def items(peer: Peer, operation: str | None = None) -> list:
    return reported(peer, ListTrash(operation, items=True))[1]


def names(directory: Path) -> list[str]:
    return sorted(one for one in os.listdir(directory) if not one.startswith(".ftpd-"))


# what goes there -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "path", "what", "kind"),
    [
        (Remove(b"/file"), b"/file", "removed", "file"),
        (Remove(b"/link"), b"/link", "removed", "link"),
        (Remove(b"/empty"), b"/empty", "removed", "dir"),
        (Remove(b"/dir", recursive=True), b"/dir", "tree", "dir"),
        (MakeLink(b"/file", b"elsewhere"), b"/file", "replaced", "file"),
        (Copy(b"/dir/inner", b"/file"), b"/file", "replaced", "file"),
        (Move(b"/dir/inner", b"/file"), b"/file", "replaced", "file"),
        ("put", b"/file", "replaced", "file"),
        ("end-tree", b"/dir", "tree", "dir"),
    ],
)
def test_what_goes_to_the_trash(peer, request_, path, what, kind):
    if request_ == "put":
        assert put(peer, path, b"others") == Stored(6)
    elif request_ == "end-tree":
        assert peer.ask(BeginTree(path)) == Done()
        assert peer.ask(EndTree()) == Done()
    else:
        assert not isinstance(peer.ask(request_), Failed)
    [found] = [one for one in items(peer) if one.what != "moved"]
    assert (found.path, found.what, found.type, found.state) == (path, what, kind, "kept")
    assert re.fullmatch("[0-9a-f]{8}-[0-9]{1,10}", found.name)
    [one] = reported(peer, ListTrash())[0]
    assert re.fullmatch("[0-9a-f]{16}-[0-9a-f]{8}", one.name)
    assert (one.words, one.kept) == ("a command", 1)


def has_digest(path: Path) -> bool:
    """Whether the server can know without reading that the bytes are the same."""
    try:
        os.getxattr(path, digests.ATTRIBUTE)
    except OSError:
        return False
    return True


def test_a_put_of_the_same_bytes_replaces_nothing(peer, stocked):
    assert put(peer, b"/file", b"others", mtime_ns=7) == Stored(6)
    if not has_digest(stocked / "file"):
        pytest.skip("this file system keeps no attributes")
    before = len(items(peer))
    assert put(peer, b"/file", b"others", mtime_ns=7) == Stored(6)
    assert len(items(peer)) == before
    assert put(peer, b"/file", b"OTHERS", mtime_ns=7) == Stored(6)
    assert items(peer)[0].digest == digests.digest(b"others")


@pytest.mark.parametrize("how", ["no-trash", "final", "keep"])
def test_what_is_final(start_server, dial, how):
    server = start_server(trash_days=0 if how == "no-trash" else 7)
    files, peer = server.settings.root / "alice", dial(server)
    assert put(peer, b"/file") == Stored(4)
    assert peer.ask(WhoAmI()).final is (how == "no-trash")
    assert peer.ask(Operation(KEY, keep=how != "keep")) == Done()
    assert peer.ask(Remove(b"/file", final=how == "final")) == Removed(1, 0, 4)
    assert not (files / ".ftpd-trash").exists()
    assert reported(peer, ListTrash()) == ([], [])


def test_a_full_disk_keeps_nothing(peer, stocked, monkeypatch):
    """Removing is what mends it; it is told that it was for good."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(operation, "open_trash", full)
    for request in (Remove(b"/file"), Remove(b"/dir", recursive=True)):
        number = peer.request(request)
        while isinstance((remark := peer.read()).message, Progress):
            pass  # it is looked whether others' trash can be given up
        answer = peer.read()
        assert isinstance(remark.message, Remark), remark
        assert (answer.request_id, answer.message.trashed) == (number, False)
    assert names(stocked) == ["empty", "link"]


def test_a_reload_changes_what_is_kept(server, dial, peer):
    assert peer.ask(Remove(b"/file")).trashed
    server.service.apply_settings(replace(server.settings, trash_days=0))
    assert not peer.ask(Remove(b"/link")).trashed
    assert peer.ask(WhoAmI()).final
    server.service.apply_settings(replace(server.settings, trash_days=7, trash_versions=0))
    assert peer.ask(MakeLink(b"/dir/inner", b"elsewhere")) == Done()
    assert [one.path for one in items(peer)] == [b"/file"]
    assert peer.ask(Remove(b"/dir/inner")).trashed


def test_space_reports_the_trash_separately(start_server, dial):
    server = start_server(quota=1000)
    peer = dial(server)
    assert put(peer, b"/file", b"x" * 600) == Stored(600)
    assert put(peer, b"/other", b"x" * 100) == Stored(100)
    assert peer.ask(Remove(b"/file")).trashed
    space = peer.ask(Space())
    assert (space.used, space.trash, space.free) == (100, 600, 900)
    assert (space.used_files, space.trash_files) == (1, 1)


def test_space_is_made_of_the_trash(start_server, dial):
    """Replaced things first, the oldest first, and no more than is needed; it is told once."""
    server = start_server(quota=1000)
    peer = dial(server)
    for number, (path, is_removed) in enumerate([(b"/a", True), (b"/b", False), (b"/c", True)]):
        assert peer.ask(Operation(b"%08d" % number)) == Done()
        assert put(peer, path, b"x" * 200) == Stored(200)
        if is_removed:
            assert peer.ask(Remove(path)).trashed
        else:
            assert put(peer, path, b"y" * 100) == Stored(100)
    assert peer.ask(Operation(KEY)) == Done()
    remarks = []
    for path, size in ((b"/new", 500), (b"/newer", 200)):
        number = peer.request(Put(path, size))
        peer.frame(Kind.DATA, number, bytes(size))
        peer.frame(Kind.END, number, Sent(size))
        while (found := peer.read()).kind == Kind.NOTICE:
            remarks.append(found.message)
        assert found.message == Stored(size), found
        left = [one.path for one in items(peer)]
        assert left == {b"/new": [b"/c", b"/a"], b"/newer": [b"/c"]}[path]
    [remark] = [one.message for one in remarks if isinstance(one, Remark)]
    assert "of the trash were purged to free space" in remark


# operations ------------------------------------------------------------------------------


def test_connections_of_one_command_are_one_operation(server, dial, peer):
    other = dial(server)
    assert other.ask(Operation(KEY, "a command")) == Done()
    first, second = peer.ask(Remove(b"/file")), other.ask(Remove(b"/link"))
    assert first.operation == second.operation
    assert other.ask(Operation(b"another!")) == Done()
    third = other.ask(Remove(b"/empty"))
    assert third.operation not in (None, first.operation)
    newest, oldest = reported(peer, ListTrash())[0]
    assert (newest.name, oldest.name) == (third.operation, first.operation)
    assert (oldest.items, oldest.kept, newest.kept) == (2, 2, 1)


def test_who_says_no_operation_has_one_for_ten_minutes(server, dial, stocked, monkeypatch):
    assert keeping._UNSAID_SECONDS == 600
    peer, other = dial(server), dial(server)
    first = peer.ask(Remove(b"/file")).operation
    assert peer.ask(Remove(b"/link")).operation == first
    assert other.ask(Remove(b"/empty")).operation != first
    monkeypatch.setattr(keeping, "_UNSAID_SECONDS", -1.0)
    assert peer.ask(Remove(b"/dir", recursive=True)).operation != first


def test_an_operation_that_was_undone_is_over(peer):
    first = peer.ask(Remove(b"/file")).operation
    assert peer.ask(Operation(b"undo....")) == Done()
    assert peer.ask(Restore(first)).items == 1
    assert peer.ask(Operation(KEY)) == Done()
    assert peer.ask(Remove(b"/file")).operation != first
    [undone] = [one for one in reported(peer, ListTrash())[0] if one.name == first]
    assert undone.undone and undone.kept == 0


def test_what_is_reported_about_an_operation(server, peer):
    assert peer.ask(Operation(b"say it..", "rm -r /dir", b"ourselve")) == Done()
    before = time.time_ns()
    removed = peer.ask(Remove(b"/dir", recursive=True))
    [found] = reported(peer, ListTrash(removed.operation))[0]
    assert (found.words, found.client) == ("rm -r /dir", b"ourselve")
    assert abs(found.time_ns - before) < 60 * 10**9
    assert abs(found.expires - (found.time_ns // 10**9 + 7 * 86400)) <= 1
    assert (found.first, found.undoes) == (b"/dir", None)
    eventually(lambda: reported(peer, ListTrash(removed.operation))[0][0].counted)
    [found] = reported(peer, ListTrash(removed.operation))[0]
    assert (found.size, found.files) == (12, 4)
    restored = peer.ask(Restore(removed.operation))
    [one] = reported(peer, ListTrash(restored.operation))[0]
    assert one.undoes == removed.operation


# looking ---------------------------------------------------------------------------------


def test_what_lies_in_the_trash_can_be_looked_at(peer):
    removed = peer.ask(Remove(b"/dir", recursive=True))
    [item] = items(peer, removed.operation)
    where = removed.operation, item.name
    assert peer.ask(Stat(b"/", in_trash=where)).entry.type == "dir"
    found = peer.ask(Stat(b"/inner", in_trash=where)).entry
    assert (found.path, found.size) == (b"/inner", 4)
    peer.request(List(b"/", recursive=True, in_trash=where))
    listed = []
    while (answer := peer.answer()).kind == Kind.REPLY:
        listed += [one.path for one in answer.message.entries]
    assert sorted(listed) == [b"deep", b"deeper", b"inner"]
    peer.request(Get(b"/deep/deeper", in_trash=where))
    answers = [peer.answer() for _ in range(3)]
    assert answers[1].payload == b"12345678" and answers[2].kind == Kind.END
    hashed = peer.ask(Hash(b"/inner", in_trash=where))
    assert hashed == Hashed(digests.digest(b"1234"), 4)
    assert peer.ask(Stat(b"/missing", in_trash=where)).code == "not-found"


def test_what_is_not_in_the_trash_has_expired(peer):
    item = "0123abcd-7"
    for request in (
        *(kind(b"/", in_trash=(GONE, item)) for kind in (Stat, List, Hash, Get)),
        *(ListTrash(GONE), Restore(GONE), Purge(GONE)),
    ):
        assert peer.ask(request).code == "expired", request


def test_versions_of_a_path(peer):
    for number in range(3):
        assert put(peer, b"/dir/inner", b"x" * number) == Stored(number)
    removed = peer.ask(Remove(b"/dir", recursive=True))
    found = reported(peer, ListTrash(below=b"/dir/inner", versions=True))[1]
    assert [one.size for one in found] == [2, 1, 0, 4]
    assert (found[0].what, found[0].path, found[0].within) == ("tree", b"/dir/inner", b"/dir")
    assert found[0].name == items(peer, removed.operation)[0].name
    assert len(reported(peer, ListTrash(below=b"/dir/inner", versions=True, limit=2))[1]) == 2
    assert reported(peer, ListTrash(below=b"/elsewhere", items=True))[1] == []


@pytest.mark.parametrize("limit", [128 * 1024, 4096, 1024])
def test_pages_of_the_trash_have_at_most_what_the_client_takes(server, dial, files, limit):
    count = 1200 if limit > 4096 else 100
    for number in range(count):
        (files / f"{number:0100}").touch()
    peer = dial(server, logged_in=False)
    peer.hello(max_control=limit)
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    requested = [peer.request(Remove(b"/" + name.encode())) for name in names(files)]
    assert [peer.answer().request_id for _ in requested] == requested
    peer.request(ListTrash(items=True))
    sizes, found = [], 0
    while (frame := peer.answer()).kind == Kind.REPLY:
        sizes.append(len(frame.payload))
        found += len(frame.message.items)
    assert found == count and len(sizes) > 1
    assert limit / 6 < max(sizes) <= limit


# rights ----------------------------------------------------------------------------------


def test_who_may_list_nothing_sees_no_trash(server, dial, peer):
    removed = peer.ask(Remove(b"/file"))
    [item] = items(peer)
    server.accounts.change("alice", permissions=Permissions.parse("upload-only"))
    other = dial(server)
    where = removed.operation, item.name
    for request in (ListTrash(), Restore(removed.operation), Purge(), Stat(b"/", in_trash=where)):
        assert other.ask(request).code == "forbidden", request


def test_today_s_rules_hold_for_what_was_removed_before(server, dial, peer):
    removed = peer.ask(Remove(b"/dir", recursive=True))
    assert peer.ask(Remove(b"/file")).trashed
    [item] = [one for one in items(peer) if one.path == b"/dir"]
    where = removed.operation, item.name
    server.accounts.change("alice", permissions=Permissions.parse("all /dir=none"))
    other = dial(server)
    assert [one.path for one in items(other)] == [b"/file"]
    for kind in (Stat, List, Hash, Get):
        assert other.ask(kind(b"/inner", in_trash=where)).code == "forbidden"
    restored = other.ask(Restore(removed.operation))
    assert restored.items == 1
    assert [one.code for one in restored.conflicts] == ["forbidden"]
    assert other.ask(Purge()).files == 0, "what may not be removed there stays"
    server.accounts.change("alice", permissions=Permissions.parse("no-delete"))
    assert dial(server).ask(Purge(removed.operation)).code == "forbidden"


# restoring -------------------------------------------------------------------------------


def test_an_operation_is_taken_back(peer, stocked):
    """And taking that back does the operation again."""
    assert put(peer, b"/file", b"others") == Stored(6)
    assert peer.ask(Move(b"/empty", b"/moved")) == Done()
    operation = peer.ask(Remove(b"/dir", recursive=True)).operation
    assert names(stocked) == ["file", "link", "moved"]
    look = peer.ask(Restore(operation, look=True))
    assert (look.items, look.operation) == (3, None) and not (stocked / "dir").exists()
    assert peer.ask(Operation(b"undo....")) == Done()
    undo = peer.ask(Restore(operation))
    assert (undo.items, undo.conflicts) == (3, [])
    assert sorted(undo.paths) == [b"/dir", b"/empty", b"/file"]
    assert names(stocked) == ["dir", "empty", "file", "link"]
    assert (stocked / "file").read_bytes() == b"data"
    assert peer.ask(Operation(b"redo....")) == Done()
    assert peer.ask(Restore(undo.operation)).conflicts == []
    assert names(stocked) == ["file", "link", "moved"]
    assert (stocked / "file").read_bytes() == b"others"


@pytest.mark.parametrize("conflict", ["skip", "replace", "beside"])
def test_something_else_is_in_the_way(peer, stocked, conflict):
    operation = peer.ask(Remove(b"/file")).operation
    assert peer.ask(Remove(b"/link")).operation == operation
    assert put(peer, b"/file", b"in the way") == Stored(10)
    restored = peer.ask(Restore(operation, conflict=conflict))
    assert (stocked / "link").is_symlink(), "the rest is done"
    if conflict == "skip":
        [problem] = restored.conflicts
        assert (restored.items, problem.path, problem.code) == (1, b"/file", "conflict")
        assert (stocked / "file").read_bytes() == b"in the way"
    elif conflict == "replace":
        assert (restored.items, restored.conflicts) == (2, [])
        assert (stocked / "file").read_bytes() == b"data"
        assert b"/file" in [one.path for one in items(peer) if one.state == "kept"]
    else:
        assert (stocked / "file").read_bytes() == b"in the way"
        assert (stocked / "file.restored-1").read_bytes() == b"data"


def test_a_part_is_restored_elsewhere(peer, stocked):
    operation = peer.ask(Remove(b"/dir", recursive=True)).operation
    restored = peer.ask(Restore(operation, paths=[b"/dir/deep"], target=b"/made/for/it"))
    assert restored.items == 1
    assert (stocked / "made/for/it/deep/deeper").read_bytes() == b"12345678"
    again = peer.ask(Restore(operation, paths=[b"/dir/inner"]))
    assert again.items == 1 and (stocked / "dir" / "inner").exists(), "parents are made"


def test_restoring_waits_for_the_end_of_a_tree(peer):
    operation = peer.ask(Remove(b"/file")).operation
    assert peer.ask(BeginTree(b"/site")) == Done()
    assert peer.ask(Restore(operation)).code == "failed"


def test_who_is_at_an_operation_keeps_others_from_it(server, dial, peer, monkeypatch):
    for patient in (directory.open_operation, directory.alone.__wrapped__):
        monkeypatch.setitem(patient.__kwdefaults__, "patience", 0.05)
    held, free = peer.ask(Remove(b"/file")).operation, None
    assert peer.ask(Operation(b"another!")) == Done()
    free = peer.ask(Remove(b"/link")).operation
    workspace = next(iter(server.service.sessions)).exchange.workspace
    trash = open_trash(workspace.home)
    try:
        with alone(workspace.home, trash, held):
            other = dial(server)
            assert other.ask(Restore(held)).code == "busy"
            assert other.ask(Purge()).code == "busy"
            assert [one.name for one in reported(other, ListTrash())[0]] == [held]
    finally:
        os.close(trash)
    assert free is not None


def test_a_cancelled_restore_leaves_what_is_back(server, dial, peer, stocked, monkeypatch):
    monkeypatch.setattr(restoring, "_TOGETHER", 2)
    operation = None
    for number in range(10):
        assert put(peer, b"/many-%d" % number) == Stored(4)
        operation = peer.ask(Remove(b"/many-%d" % number)).operation
    steps = iter(range(100))

    def look(self) -> None:
        if next(steps) == 3:
            raise Cancelled("cancelled")

    with monkeypatch.context() as patch:
        patch.setattr(exchange.Exchange, "look_for_cancel", look)
        assert peer.ask(Restore(operation)).code == "cancelled"
    back = [name for name in names(stocked) if name.startswith("many")]
    assert 0 < len(back) < 10
    assert put(peer, b"/other") == Stored(4)
    rest = peer.ask(Restore(operation))
    assert (rest.items, rest.already) == (10 - len(back), len(back))
    assert len([name for name in names(stocked) if name.startswith("many")]) == 10


def test_what_is_reported_about_a_restore_fits_into_a_frame(server, dial, files):
    peer = dial(server, logged_in=False)
    peer.hello(max_control=1024)
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    paths = [b"/" + b"%d-" % number + b"n" * 200 for number in range(20)]
    operation = None
    for path in paths:
        assert put(peer, path) == Stored(4)
        operation = peer.ask(Remove(path)).operation
        assert put(peer, path, b"in the way") == Stored(10)
    number = peer.request(Restore(operation))
    answer = peer.answer()
    assert (answer.request_id, len(answer.payload) <= 1024) == (number, True)
    restored = answer.message
    assert isinstance(restored, Restored)
    assert 0 < len(restored.conflicts) < 20
    assert len(restored.conflicts) + restored.more_conflicts == 20
    for path in paths:
        assert peer.ask(Remove(path, final=True)).files == 1
    peer.request(Restore(operation))
    answer = peer.answer()
    assert len(answer.payload) <= 1024
    assert answer.message.items == 20 and 0 < len(answer.message.paths) < 20


# purging ---------------------------------------------------------------------------------


def test_purging(peer, stocked):
    removed = peer.ask(Remove(b"/dir", recursive=True))
    assert peer.ask(Remove(b"/file")).trashed
    [file] = [one for one in items(peer) if one.path == b"/file"]
    assert peer.ask(Purge(before=int(time.time()) - 3600)) == Removed(0, 0, 0)
    assert peer.ask(Purge(removed.operation, [file.name])) == Removed(1, 0, 4)
    assert [one.state for one in items(peer) if one.path == b"/file"] in ([], ["purged"])
    assert peer.ask(Purge()) == Removed(2, 2, 12)
    assert reported(peer, ListTrash()) == ([], [])
    assert peer.ask(Restore(removed.operation)).code == "expired"
    assert peer.ask(Space()).trash == 0


# whatever comes --------------------------------------------------------------------------


def anything(chance: random.Random, there: list) -> dict:
    """A request about the trash, with values that may be right."""
    operation, item = chance.choice(there)
    somewhere = [b"/", b"/file", b"/dir/inner", b"/..", b"relative", b"/.ftpd-trash/x", b"/\xff\0"]
    values = {
        "operation": [operation, GONE, "../" + operation[3:], operation.upper(), b"bytes", None, 7],
        "items": [[], [item], ["0123abcd-7", item], ["../.."], [b"x"], item],
        "paths": [[], *([one] for one in somewhere), [b""], somewhere],
        "target": [None, *somewhere, "/text"],
        "conflict": ["skip", "replace", "beside", "merge"],
        "look": [True, False, 1],
        "before": [None, 0, 2**40, -1, 1.5],
        "below": [None, *somewhere],
        "versions": [True, False],
        "limit": [None, 1, 2**31 - 1, 0],
        "in_trash": [[operation, item], [operation, "index"], [GONE, item], [item, operation], []],
        "path": somewhere,
        "id": [None, KEY, b"another!", b"short"],
        "words": ["", "w" * 200, "w" * 201, "\x1b[2J\n", 7],
        "client": [None, KEY, "text"],
        "keep": [True, False],
        "number": [0, 1, 2, 2**32 - 1, 2**32],
        "again": [True, False],
    }
    fields = {
        "list-trash": ("operation", "below", "items", "versions", "limit"),
        "restore": ("operation", "items", "paths", "target", "conflict", "look", "number", "again"),
        "purge": ("operation", "items", "before", "number", "again"),
        "operation": ("id", "words", "client", "keep"),
        "stat": ("path", "in_trash"),
        "list": ("path", "in_trash"),
        "hash": ("path", "in_trash"),
        "get": ("path", "in_trash"),
        "remove": ("path", "number", "again"),
    }
    op = chance.choice(list(fields))
    chosen = [name for name in fields[op] if chance.random() < 0.7 or name in ("path", "operation")]
    return {"op": op} | {name: chance.choice(values[name]) for name in chosen}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_has_one_answer(server, dial, stocked, canary, caplog, seed):
    """And nothing of it leads out of the home, or into the trash by its path."""
    (stocked / "out").symlink_to(canary)
    chance, peer, there = random.Random(seed), dial(server), []
    for number in range(150):
        if number % 25 == 0:
            for path in (b"/file", b"/dir/inner"):
                put(peer, path, b"%d" % number, parents=True)
                removed = peer.ask(Remove(path))
                if isinstance(removed, Removed) and removed.trashed:
                    there += [(removed.operation, one.name) for one in items(peer)[:1]]
        requested = anything(chance, there or [(GONE, "0123abcd-7")])
        request_id = 1000 + number
        peer.frame(Kind.REQUEST, request_id, msgpack.encode(requested))
        while (answer := peer.answer()).kind in (Kind.DATA, Kind.NOTICE) or (
            answer.kind == Kind.REPLY and requested["op"] in ("list-trash", "list", "get")
        ):
            assert answer.request_id == request_id, requested
        assert answer.request_id == request_id, requested
        if answer.kind == Kind.ERROR:
            assert answer.message.code != "internal", (requested, answer.message)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


# between the versions --------------------------------------------------------------------


def test_a_client_of_before_is_served_as_before(server, dial, stocked):
    """It knows none of the fields and requests; answers have what it knows."""
    peer = dial(server)
    peer.frame(Kind.REQUEST, 9, msgpack.encode({"op": "remove", "path": b"/file"}))
    answer = msgpack.decode(peer.answer().payload)
    assert {name: answer[name] for name in ("op", "files", "directories", "size_bytes")} == {
        "op": "removed",
        "files": 1,
        "directories": 0,
        "size_bytes": 4,
    }


def test_a_server_without_the_feature_ignores_its_fields():
    """As decoders do with what they don't know."""
    reported = msgpack.decode(messages.encode(Remove(b"/a", final=True, number=7, again=True)))
    assert messages.decode_request(msgpack.encode(reported | {"of later": True})) == Remove(
        b"/a", final=True, number=7, again=True
    )


def test_progress_and_signs_are_reported_long_work(peer, stocked, monkeypatch):
    monkeypatch.setattr(exchange, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(discarding, "_PART_SECONDS", 0.0)
    operation = peer.ask(Remove(b"/dir", recursive=True)).operation
    for request in (Restore(operation, target=b"/back"), Purge()):
        number = peer.request(request)
        found = peer.read()
        assert (found.request_id, found.kind) == (number, Kind.NOTICE)
        while isinstance(found.message, Progress):
            found = peer.read()
        assert not isinstance(found.message, Failed)
        assert peer.ask(Remove(b"/back", recursive=True)) is not None
    assert peer.ask(MakeDir(b"/back", parents=True)) == Done()
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
