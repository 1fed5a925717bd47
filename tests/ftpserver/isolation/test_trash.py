"""The trash of a session in a process of its own: all of it is renames inside the home."""

from __future__ import annotations

import os

import pytest

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    Get,
    ListTrash,
    MakeDir,
    Move,
    Operation,
    Put,
    Remove,
    Restore,
    Restored,
    Sent,
    Stat,
    Stored,
)
from tests.ftpserver.isolation.attacks import OTHER


def put(peer, path: bytes, data: bytes) -> None:
    request = peer.request(Put(path, len(data)))
    peer.frame(Kind.DATA, request, data)
    peer.frame(Kind.END, request, Sent(len(data), digests.digest(data)))
    assert peer.answer().message == Stored(len(data))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("user", [None, OTHER])
def test_a_command_is_undone_and_done_again(server, dial, closed, user):
    if user is not None:
        if os.geteuid() != 0:
            pytest.skip("only root may give sessions another user")
        server.accounts.change("alice", system_user=user)
    files = server.settings.root / "alice"
    peer = dial(server)
    put(peer, b"/a", b"first")
    put(peer, b"/b", b"second")
    peer.ask(MakeDir(b"/d"))
    put(peer, b"/d/c", b"third")
    if closed:
        (files / "d").chmod(0)
    peer.ask(Operation(b"1" * 8, "several"))
    put(peer, b"/a", b"over")
    peer.ask(Move(b"/b", b"/moved"))
    removed = peer.ask(Remove(b"/d", recursive=True))
    assert removed.trashed
    name = removed.operation
    peer.request(ListTrash(name, items=True))
    page = peer.answer().message
    peer.answer()
    tree, *_ = [item for item in page.items if item.what == "tree"]
    assert peer.ask(Stat(b"/", in_trash=(name, tree.name))).entry.type == "dir"
    if not closed:
        peer.request(Get(b"/c", in_trash=(name, tree.name)))
        peer.answer()
        assert peer.answer().payload == b"third"
        peer.answer()
    peer.ask(Operation(b"2" * 8, "undo"))
    undone = peer.ask(Restore(name))
    assert isinstance(undone, Restored), undone
    assert (undone.items, undone.conflicts) == (3, [])
    assert (files / "a").read_bytes() == b"first"
    assert (files / "b").read_bytes() == b"second"
    assert (files / "d" / "c").read_bytes() == b"third"
    peer.ask(Operation(b"3" * 8, "undo"))
    redone = peer.ask(Restore(undone.operation))
    assert (redone.items, redone.conflicts) == (3, [])
    assert (files / "a").read_bytes() == b"over"
    assert not (files / "d").exists()
