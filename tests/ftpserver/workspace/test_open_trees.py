"""What may be moved and removed while an atomic tree is on its way, and what ends with the old."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpserver.workspace.observer import SilentObserver
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests
from ftpwire.errors import CommandError
from ftpwire.messages import BeginTree, EndTree, Get, MakeDir, MakeLink, Move, Put, Remove, Sent
from tests.ftpserver.workspace.conftest import Site

DATA = b"precious"


class Listener(SilentObserver):
    """Hears what the user is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def remark(self, text: str) -> None:
        self.heard.append(text)


def put(workspace: Workspace, path: bytes) -> None:
    sent = Sent(len(DATA), digests.digest(DATA))
    workspace.stage(Put(path, len(DATA), parents=True), DATA, sent)
    workspace.commit()


def is_there(workspace: Workspace, path: bytes) -> bool:
    try:
        with workspace.open(Get(path)) as file:
            return file.read(0, 100) == DATA
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("target", "old"),
    [
        (b"/www/site/f", True),
        (b"/www/site/in/f", True),
        (b"/www/site", False),
        (b"/www/f/../site", False),
        (b"/link/site", False),
        (b"/link/site/f", True),
        (b"/inside/f", True),
    ],
)
def test_nothing_is_moved_into_what_a_tree_replaces(site: Site, target, old):
    """It would be removed with the old directory: a file that was stored before would be lost."""
    with site.open() as workspace:
        put(workspace, b"/f")
        put(workspace, b"/www/site/in/x") if old else put(workspace, b"/www/other")
        workspace.change(MakeLink(b"/link", b"www"))
        workspace.change(MakeLink(b"/inside", b"www/site/in"))
        workspace.commit()
        workspace.begin_tree(BeginTree(b"/www/site"))
        with pytest.raises(CommandError, match="the atomic upload to /www/site") as error:
            workspace.move(Move(b"/f", target))
        assert error.value.code == "failed"
        workspace.end_tree(EndTree())
        assert is_there(workspace, b"/f")
        workspace.move(Move(b"/f", b"/www/site/f"))
        assert is_there(workspace, b"/www/site/f")
    assert site.agrees()


@pytest.mark.parametrize("path", [b"/www", b"/www/deep", b"/link/deep"])
@pytest.mark.parametrize("how", ["move", "remove"])
def test_the_directory_that_a_tree_goes_to_stays(site: Site, path, how):
    """Without it the tree could not appear, and all that was put into it would be lost."""
    with site.open() as workspace:
        put(workspace, b"/www/deep/old")
        workspace.change(MakeLink(b"/link", b"www"))
        workspace.commit()
        workspace.begin_tree(BeginTree(b"/www/deep/site"))
        put(workspace, b"/www/deep/site/new")
        with pytest.raises(CommandError, match="the target of a running atomic upload"):
            if how == "move":
                workspace.move(Move(path, b"/elsewhere"))
            else:
                workspace.remove(Remove(path, recursive=True))
        workspace.end_tree(EndTree())
        assert is_there(workspace, b"/www/deep/site/new")
    assert site.agrees()


def test_what_a_tree_does_not_touch_is_moved_and_removed_as_ever(site: Site):
    """Also out of the old directory, which is a way to save something of it."""
    with site.open() as workspace:
        for path in (b"/f", b"/g", b"/site/keep", b"/site/gone", b"/sites/x", b"/d/x"):
            put(workspace, path)
        workspace.change(MakeLink(b"/link", b"site"))
        workspace.commit()
        workspace.begin_tree(BeginTree(b"/site"))
        workspace.move(Move(b"/f", b"/sites/f"))
        workspace.move(Move(b"/site/keep", b"/kept"))
        workspace.move(Move(b"/link", b"/link2"))
        workspace.remove(Remove(b"/d", recursive=True))
        workspace.remove(Remove(b"/site/gone"))
        with pytest.raises(FileNotFoundError):
            workspace.move(Move(b"/missing", b"/there"))
        workspace.end_tree(EndTree(commit=False))
        assert is_there(workspace, b"/sites/f") and is_there(workspace, b"/kept")
    assert site.agrees()


def test_what_others_stored_in_the_old_directory_does_not_go_in_silence(site: Site):
    """It goes with the old directory, as with a removal; whoever replaces that is told."""
    listener = Listener()
    with site.open(observer=listener) as workspace, site.open() as other:
        for name in (b"/moved/a", b"/moved/in/b", b"/site/old"):
            put(workspace, name)
        old = site.files / "site" / "old"
        _wait_for_tick(site, old)
        workspace.begin_tree(BeginTree(b"/site"))
        put(workspace, b"/site/new")
        workspace.end_tree(EndTree())
        assert listener.heard == []  # nothing new was in the old one
        workspace.begin_tree(BeginTree(b"/site"))
        put(other, b"/site/deep/theirs")
        other.change(MakeDir(b"/site/empty"))
        other.commit()
        other.move(Move(b"/moved", b"/site/deep/moved"))
        workspace.end_tree(EndTree())
        assert not is_there(other, b"/site/deep/theirs")
    assert listener.heard == [
        "/site: files that were stored or changed there since the new tree was begun, "
        "and were removed with the old one: 3"
    ]
    assert site.agrees()


@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_a_tree_replaces_is_reported_if_it_came_since(site: Site, late):
    listener = Listener()
    with site.open(observer=listener) as workspace, site.open() as other:
        put(other, b"/site")
        _wait_for_tick(site, site.files / "site")
        workspace.begin_tree(BeginTree(b"/site"))
        if late:
            put(other, b"/site")
        workspace.end_tree(EndTree())
    assert [reported.endswith(": 1") for reported in listener.heard] == ([True] if late else [])
    assert site.agrees()


def _wait_for_tick(site: Site, path: Path) -> None:
    """Until what is made is younger: the file system's clock ticks each few milliseconds."""
    while _now(site) <= path.stat().st_ctime_ns:
        pass


def _now(site: Site) -> int:
    """What the file system's clock says."""
    path = site.files / ".ftpd-staging" / "clock"
    path.touch()
    try:
        return os.stat(path).st_ctime_ns
    finally:
        path.unlink()


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_directory_that_was_moved_there_meanwhile_does_not_go_in_silence(
    site: Site, old, touched
):
    """All that is in it came since, whatever its times say."""
    listener = Listener()
    with site.open(observer=listener) as workspace, site.open() as other:
        for name in (b"/moved/a", b"/moved/in/b"):
            put(other, name)
        if old:
            put(other, b"/site/old")
        _wait_for_tick(site, site.files / "moved")
        workspace.begin_tree(BeginTree(b"/site"))
        if old:
            other.remove(Remove(b"/site", recursive=True))
        other.move(Move(b"/moved", b"/site"))
        if touched:
            other.change(MakeDir(b"/site/more"))
            other.commit()
        workspace.end_tree(EndTree())
    assert [reported.endswith(": 2") for reported in listener.heard] == [True]
    assert site.agrees()
