"""What docs/protocol.md says of trees, moving and removing.

Lives here: what no other test shows. checked_sentences.txt tells which test shows which sentence.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ftpserver.storage import in_place
from ftpserver.storage.home import Home
from ftpserver.workspace import moving
from ftpwire import digests
from ftpwire.errors import Cancelled
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    Done,
    EndTree,
    Get,
    Hash,
    MakeDir,
    MakeLink,
    Move,
    Operation,
    Put,
    Remark,
    Remove,
    Sending,
    Sent,
    SetAttributes,
    Space,
    Stat,
    Stored,
)
from tests.peer import Peer


def put(peer: Peer, path: bytes, data: bytes = b"data", **options) -> Any:
    number = peer.request(Put(path, len(data), **options))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    return peer.answer().message


def reported(peer: Peer, request: Any) -> tuple[list[str], Any]:
    """The remarks before an answer, and the answer."""
    number, remarks = peer.request(request), []
    while (found := peer.read()).kind == Kind.NOTICE:
        assert found.request_id == 0
        assert isinstance(found.message, Remark)
        remarks.append(found.message.message)
    assert found.request_id == number
    return remarks, found.message


@pytest.fixture
def far_apart(monkeypatch):
    """Nothing can be moved at once, as between two file systems."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "")

    monkeypatch.setattr(Home, "move", refuse)


# trees -------------------------------------------------------------------------------------


def test_what_goes_to_a_tree_on_its_way(server, dial, files):
    """And what doesn't: what only looks, and what other sessions do."""
    peer, other = dial(server), dial(server)
    assert put(other, b"/site/old", parents=True) == Stored(4)
    assert put(other, b"/f") == Stored(4)
    assert peer.ask(BeginTree(b"/site")) == Done()
    assert put(peer, b"/site/put") == Stored(4)
    for request in (
        MakeDir(b"/site/dir"),
        MakeLink(b"/site/link", b"target"),
        SetAttributes(b"/site/dir", 0o711, 7),
    ):
        assert peer.ask(request) == Done()
    assert peer.ask(Copy(b"/f", b"/site/copy")) == Copied(1, 0, 4)
    assert peer.ask(SetAttributes(b"/site", 0o750, 8)) == Done()
    assert put(other, b"/site/theirs") == Stored(4)
    for session in (peer, other):
        assert session.ask(Stat(b"/site/put")).code == "not-found"
        assert session.ask(Hash(b"/site/old")).size == 4
        session.request(Get(b"/site/old"))
        assert isinstance(session.answer().message, Sending)
        while session.answer().kind != Kind.END:
            pass
    assert sorted(os.listdir(files / "site")) == ["old", "theirs"]
    assert peer.ask(Space()).used == 4 * 5 + len("target"), "they count from the start"
    _, answer = reported(peer, EndTree())
    assert answer == Done()
    site = files / "site"
    assert sorted(os.listdir(site)) == ["copy", "dir", "link", "put"]
    assert (site.stat().st_mode & 0o777, site.stat().st_mtime_ns) == (0o750, 8)
    inner = (site / "dir").stat()
    assert (inner.st_mode & 0o777, inner.st_mtime_ns) == (0o711, 7)


def test_a_way_through_a_link_leads_to_what_is_there(server, dial, files):
    """It is removed with the old directory, and that is told; or is in the trash with it."""
    peer = dial(server)
    assert peer.ask(Operation(keep=False)) == Done()
    assert put(peer, b"/site/old", parents=True) == Stored(4)
    assert peer.ask(MakeLink(b"/link", b"site")) == Done()
    assert peer.ask(BeginTree(b"/site")) == Done()
    assert put(peer, b"/link/lost") == Stored(4)
    assert (files / "site" / "lost").exists()
    remarks, answer = reported(peer, EndTree())
    assert answer == Done() and os.listdir(files / "site") == []
    assert len(remarks) == 1 and remarks[0].endswith(": 1")
    assert peer.ask(Operation()) == Done()
    assert peer.ask(BeginTree(b"/site")) == Done()
    assert put(peer, b"/link/kept") == Stored(4)
    assert reported(peer, EndTree()) == ([], Done())
    trees = [one for one in (files / ".ftpd-trash").rglob("kept")]
    assert len(trees) == 1 and not (files / "site" / "kept").exists()


def test_a_tree_appears_though_an_upload_failed(server, dial, files):
    """A client that wants all or nothing drops it."""
    peer = dial(server)
    for commit in (False, True):
        assert peer.ask(BeginTree(b"/site")) == Done()
        assert put(peer, b"/site/good") == Stored(4)
        assert put(peer, b"/site/none/bad").code == "not-found"
        assert peer.ask(EndTree(commit=commit)) == Done()
        assert (files / "site" / "good").exists() == commit


def test_a_tree_that_can_not_appear_is_dropped(server, dial, files):
    peer = dial(server)
    assert peer.ask(MakeDir(b"/in")) == Done()
    assert peer.ask(BeginTree(b"/in/site")) == Done()
    assert put(peer, b"/in/site/file") == Stored(4)
    (files / "in").rmdir()
    assert peer.ask(EndTree()).code == "not-found"
    assert peer.ask(EndTree()).code == "failed", "it is dropped"
    assert os.listdir(files / ".ftpd-staging") == ["lock"]
    assert peer.ask(Space()).used == 0


# moving ------------------------------------------------------------------------------------


def test_a_move_goes_to_exactly_its_target(server, dial, files):
    peer = dial(server)
    assert put(peer, b"/f") == Stored(4)
    assert peer.ask(MakeDir(b"/dir")) == Done()
    assert peer.ask(Move(b"/f", b"/dir")).code == "is-a-directory"
    assert peer.ask(Move(b"/f", b"/dir/g")) == Done()
    assert os.listdir(files / "dir") == ["g"]


def test_a_move_to_another_file_system_needs_space_for_both(start_server, dial, far_apart):
    server = start_server(quota=1000)
    files, peer = server.settings.root / "alice", dial(server)
    assert put(peer, b"/f", b"x" * 600) == Stored(600)
    failed = peer.ask(Move(b"/f", b"/g"))
    assert (failed.code, failed.needed, failed.free) == ("quota", 600, 400)
    assert sorted(os.listdir(files)) == [".ftpd-staging", "f"]
    assert put(peer, b"/f", b"x" * 400) == Stored(400)
    assert peer.ask(Move(b"/f", b"/g")) == Done()
    assert sorted(os.listdir(files)) == [".ftpd-staging", ".ftpd-trash", "g"]
    assert peer.ask(Space()).used == 400


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_move_that_is_cancelled_while_it_removes_the_source(
    server, dial, files, far_apart, monkeypatch
):
    """The target is there, whole; removing the source removes what is left of it."""
    for number in range(6):
        (files / "from" / f"{number}").mkdir(parents=True)
        (files / "from" / f"{number}" / "file").write_bytes(b"data")
    before, steps = names(files / "from"), []
    remove = moving.remove_in_place

    def remove_a_little(scope, *arguments) -> None:
        def look() -> None:
            steps.append(1)
            if len(steps) == 3:
                raise Cancelled("cancelled")

        with monkeypatch.context() as patch:
            patch.setattr(scope.observer, "look_for_cancel", look)
            patch.setattr(in_place, "_STEP", 2)
            remove(scope, *arguments)

    monkeypatch.setattr(moving, "remove_in_place", remove_a_little)
    peer = dial(server)
    remarks, failed = reported(peer, Move(b"/from", b"/to"))
    assert failed.code == "cancelled" and "/to is complete" in failed.message
    assert len(remarks) == 1 and "removed 3 files and directories" in remarks[0]
    assert names(files / "to") == before
    left = names(files / "from")
    assert 0 < len(left) < len(before) and set(left) < set(before)
    monkeypatch.undo()
    peer.ask(Remove(b"/from", recursive=True))
    assert sorted(os.listdir(files)) == [".ftpd-staging", ".ftpd-trash", "to"]
