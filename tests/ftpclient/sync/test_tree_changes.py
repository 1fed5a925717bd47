"""What is found out of a real tree that changes: by inotify, and by walking."""

from __future__ import annotations

import errno
import os
import shutil
import sys

import pytest

from ftpclient.connection.interrupt import Interrupt
from ftpclient.sync import tree_changes
from ftpclient.sync.tree_changes import Changes, Notifications, Unavailable, Walks, watching
from ftpclient.transfer.patterns import option_rules
from ftpclient.transfer.selection import Filter
from ftpwire.errors import Interrupted

inotify_simple = pytest.importorskip("inotify_simple")
ODD = b"odd \xff\n"


@pytest.fixture
def interrupt():
    made = Interrupt()
    yield made
    made.close()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "file").write_text("1")
    (root / "a" / "b" / "file").write_text("1")
    return root


class Watched:
    """What finds changes, asked until it has nothing more to tell."""

    def __init__(self, changes) -> None:
        self.changes = changes

    def found(self) -> Changes:
        """All that has changed since the last call."""
        found = Changes()
        while more := self.changes.wait(0):
            found.add(more)
        return found

    def directories(self) -> list[bytes]:
        found = self.found()
        assert not found.everything
        return sorted(found.directories)


@pytest.fixture(params=["inotify", "walks"])
def watch(request, root, interrupt):
    """Begins to watch the root."""
    made = []

    def watch(*patterns) -> Watched:
        rules = Filter(option_rules(tuple((True, one) for one in patterns)))
        path = os.fsencode(root)
        if request.param == "inotify":
            made.append(Notifications(path, rules, interrupt))
        else:
            made.append(Walks(path, rules, interrupt))
        return Watched(made[-1])

    yield watch
    for one in made:
        one.close()


@pytest.fixture
def notified(root, interrupt):
    made = Notifications(os.fsencode(root), Filter(), interrupt)
    yield Watched(made)
    made.close()


def test_nothing_has_changed(watch):
    assert watch().directories() == []


def test_files(watch, root):
    watched = watch()
    (root / "a" / "b" / "file").write_text("more than before")
    assert watched.directories() == [b"a/b"]
    (root / "new").write_text("")
    (root / "a" / "b" / "file").chmod(0o600)
    assert watched.directories() == [b"", b"a/b"]
    (root / "file").rename(root / "a" / "moved")
    assert watched.directories() == [b"", b"a"]
    (root / "a" / "moved").unlink()
    os.utime(root / "new", ns=(5, 5))
    (root / "a" / "link").symlink_to("nothing")
    assert watched.directories() == [b"", b"a"]
    assert watched.directories() == []


def test_new_directories_with_what_is_in_them(watch, root):
    watched = watch()
    place = os.path.join(os.fsencode(root), b"new", ODD)
    os.makedirs(place)
    with open(os.path.join(place, b"file"), "w"):
        pass
    assert watched.directories() == [b"", b"new", b"new/" + ODD]
    with open(os.path.join(place, b"another"), "w"):
        pass
    assert watched.directories() == [b"new/" + ODD]


def test_a_directory_that_is_replaced_at_once(watch, root):
    watched = watch()
    shutil.rmtree(root / "a")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("22")
    assert b"a/b" in watched.directories()
    (root / "a" / "b" / "file").write_text("333")
    assert watched.directories() == [b"a/b"]


def test_a_directory_that_moves(watch, root, tmp_path):
    watched = watch()
    (root / "a").rename(root / "c")
    found = watched.directories()
    assert {b"", b"c", b"c/b"} <= set(found) and b"a/b" not in found
    (root / "c" / "b" / "file").write_text("22")
    assert watched.directories() == [b"c/b"]
    (root / "c").rename(tmp_path / "elsewhere")
    assert watched.directories() == [b""]
    (tmp_path / "elsewhere" / "b" / "file").write_text("333")
    assert watched.directories() == [], "outside of the tree"
    (tmp_path / "elsewhere").rename(root / "back")
    assert watched.directories() == [b"", b"back", b"back/b"]


def test_what_is_left_out(watch, root):
    (root / ".ftpignore").write_text("*.o\n")
    (root / "a" / ".ftpignore").write_text("/b/\n")
    watched = watch("left-out")
    (root / "x.o").write_text("")
    (root / "a" / "b" / "file").write_text("22")
    (root / "left-out" / "below").mkdir(parents=True)
    (root / "left-out" / "below" / "file").write_text("")
    assert watched.directories() == []
    (root / "a" / "y").write_text("")
    assert watched.directories() == [b"a"]


def test_other_rules_change_everything(watch, root):
    (root / "a" / ".ftpignore").write_text("/b/\n")
    watched = watch()
    (root / "a" / ".ftpignore").write_text("")
    assert watched.found().everything
    watched.changes.renew()
    (root / "a" / "b" / "file").write_text("22")
    assert watched.directories() == [b"a/b"]


def test_another_directory_in_place_of_the_root(watch, root, tmp_path):
    watched = watch()
    root.rename(tmp_path / "old")
    assert watched.changes.wait(0).everything
    with pytest.raises(FileNotFoundError):
        watched.changes.renew()
    (root / "x").mkdir(parents=True)
    watched.changes.renew()
    (tmp_path / "old" / "file").write_text("333")
    (root / "x" / "y").write_text("")
    assert watched.directories() == [b"x"]


def test_the_root_is_removed_and_made_again(watch, root):
    watched = watch()
    shutil.rmtree(root)
    root.mkdir()
    if watched.found().everything:
        watched.changes.renew()
    (root / "later").write_text("")
    assert watched.directories() == [b""]


def test_the_removal_of_an_empty_root(notified, root, monkeypatch):
    shutil.rmtree(root)
    root.mkdir()
    notified.found()
    notified.changes.renew()
    monkeypatch.setattr(tree_changes, "_ROOT_SECONDS", 0.0)
    root.rmdir()
    root.mkdir()
    assert notified.changes.wait(None) == Changes(everything=True), "though nothing reports it"
    assert not notified.changes.wait(None), "only once"


def test_a_missing_root(tmp_path, interrupt):
    for kind in (Notifications, Walks):
        with pytest.raises(FileNotFoundError):
            kind(os.fsencode(tmp_path / "none"), Filter(), interrupt)


def test_ctrl_c_ends_a_wait(watch, interrupt):
    watched = watch()
    interrupt.set()
    with pytest.raises(Interrupted):
        watched.changes.wait(None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_becomes_readable(watch, root):
    (root / "a").chmod(0)
    watched = watch()
    (root / "a").chmod(0o755)
    assert {b"", b"a"} <= set(watched.directories())


# inotify alone ------------------------------------------------------------------------------


def test_what_is_made_before_the_watch_is_added(notified, root, monkeypatch):
    """Directories are made in a new one right before its watch is added, and right after it."""
    before = Notifications._watch

    def watch(self, path, fd):
        if path == b"new":
            (root / "new" / "early").mkdir()
        before(self, path, fd)
        if path == b"new":
            (root / "new" / "late").mkdir()

    monkeypatch.setattr(Notifications, "_watch", watch)
    (root / "new").mkdir()
    assert set(notified.directories()) == {b"", b"new", b"new/early", b"new/late"}
    monkeypatch.undo()
    for name in ("early", "late"):
        (root / "new" / name / "file").write_text("")
    assert notified.directories() == [b"new/early", b"new/late"]


def test_dropped_events_change_everything(notified, root, monkeypatch):
    flags = inotify_simple.flags
    event = inotify_simple.Event(-1, flags.Q_OVERFLOW, 0, "")
    with monkeypatch.context() as patch:
        (root / "a" / "lost").write_text("")
        patch.setattr(inotify_simple.INotify, "read", lambda *_, **__: [event])
        assert notified.changes.wait(0).everything
    notified.changes.renew()
    (root / "a" / "new").write_text("")
    assert notified.directories() == [b"a"]


def no_more(*given):
    raise OSError(errno.ENOSPC, "no space")


def test_without_further_watches(notified, root, monkeypatch):
    monkeypatch.setattr(inotify_simple.INotify, "add_watch", no_more)
    (root / "new").mkdir()
    with pytest.raises(Unavailable, match="max_user_watches"):
        notified.found()


@pytest.mark.parametrize("why", ["watches", "instances", "library", "links", "proc"])
def test_walks_instead(root, interrupt, monkeypatch, why):
    def none(*given, **named):
        raise OSError(errno.EMFILE, "too many")

    if why == "watches":
        monkeypatch.setattr(inotify_simple.INotify, "add_watch", no_more)
    elif why == "instances":
        monkeypatch.setattr(inotify_simple, "INotify", none)
    elif why == "library":
        monkeypatch.setitem(sys.modules, "inotify_simple", None)
    elif why == "proc":
        monkeypatch.setattr(tree_changes, "_DESCRIPTORS", b"/none")
    reported = []
    follow = why == "links"
    found = watching(os.fsencode(root), Filter(), interrupt, follow=follow, remark=reported.append)
    assert isinstance(found, Walks)
    (text,) = reported
    assert text.endswith("looking for changes every 5 seconds")
    assert {"library": "not installed", "proc": "/proc"}.get(why, why) in text


# walking alone ------------------------------------------------------------------------------


def test_walks_follow_links_if_wanted(root, interrupt, tmp_path):
    (tmp_path / "there").mkdir()
    (root / "link").symlink_to(tmp_path / "there")
    (root / "loop").symlink_to(root)
    walks = Watched(Walks(os.fsencode(root), Filter(), interrupt, follow=True))
    (tmp_path / "there" / "file").write_text("")
    assert walks.directories() == [b"link"]


def test_walks_wait_five_seconds(root, interrupt):
    waits = []
    walks = Walks(os.fsencode(root), Filter(), interrupt, wait=lambda s, _: waits.append(s))
    walks.wait(None)
    walks.wait(60)
    walks.wait(0.5)
    assert waits == [5.0, 5.0, 0.5]
