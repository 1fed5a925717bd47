"""Removing, renaming and listing, as two sessions of one user see it."""

from __future__ import annotations

import os
import shutil

import pytest

from ftpserver.storage.home import Home
from ftpwire import digests
from ftpwire.errors import AlreadyExists
from ftpwire.frames import Kind
from ftpwire.messages import List, Listed, Page, Put, Remove, Removed, Sent, Stored


@pytest.fixture
def files(server):
    """Alice's files on the server."""
    return server.settings.root / "alice"


def test_others_may_store_while_a_tree_is_being_removed(server, dial, files, monkeypatch):
    """Only the moment in which the tree goes needs the home for itself."""
    (files / "tree").mkdir(parents=True)
    for number in range(3):
        (files / "tree" / f"file{number}").write_bytes(b"old")
    one, other = dial(server), dial(server)
    discard_tree, stored = Home.discard_tree, []

    def watched(self, staged, tally, tick):
        if not stored:
            assert not (files / "tree").exists()
            request_id = other.request(Put(b"/meanwhile", 3))
            other.frame(Kind.DATA, request_id, b"new")
            other.frame(Kind.END, request_id, Sent(3, digests.digest(b"new")))
            stored.append(other.answer().message)
        discard_tree(self, staged, tally, tick)

    monkeypatch.setattr(Home, "discard_tree", watched)
    other.socket.settimeout(10)  # with the home locked there would be no answer at all
    assert one.ask(Remove(b"/tree", recursive=True, final=True)) == Removed(3, 1, 9)
    assert stored == [Stored(3)]
    assert (files / "meanwhile").read_bytes() == b"new"


def test_a_move_that_replaces_nothing_names_what_is_there(client, files):
    (files / "a").write_bytes(b"a")
    (files / "b").write_bytes(b"b")
    with pytest.raises(AlreadyExists) as caught:
        client.move("/a", "/b", overwrite=False)
    assert str(caught.value).endswith("b: exists")
    assert (files / "a").read_bytes() == b"a"
    assert (files / "b").read_bytes() == b"b"


def test_a_link_that_leads_nowhere_is_listed(server, dial, files):
    os.symlink("nowhere", files / "dangling")
    peer = dial(server)
    peer.request(List(b"/dangling"))
    page = peer.answer().message
    assert isinstance(page, Page) and page.complete
    (entry,) = page.entries
    assert (entry.path, entry.type, entry.target) == (b"", "link", b"nowhere")
    assert peer.answer().message == Listed()


def test_what_it_leads_to_is_not_there(server, dial, files):
    os.symlink("nowhere", files / "dangling")
    assert dial(server).ask(List(b"/dangling", follow=True)).code == "not-found"


def test_nothing_at_all_can_not_be_listed(server, dial):
    peer = dial(server)
    assert peer.ask(List(b"/nowhere")).code == "not-found"


def test_a_trash_that_somebody_has_removed_is_made_again(server, dial, files):
    """Not by us: an administrator, with rm, while a session has put things there."""
    peer = dial(server)
    for name in ("a", "b"):
        (files / name).write_bytes(b"data")
    assert peer.ask(Remove(b"/a")).trashed
    shutil.rmtree(files / ".ftpd-trash")
    assert peer.ask(Remove(b"/b")).trashed
    (kept,) = [path for path in files.glob(".ftpd-trash/*/*") if path.name != "index"]
    assert kept.read_bytes() == b"data"
    assert not (files / "b").exists()
