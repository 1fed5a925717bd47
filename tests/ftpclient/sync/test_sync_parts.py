"""Syncing only some directories: what is compared, listed, sent and deleted."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpclient.sync import partial
from ftpclient.sync.remote_reader import RemoteReader
from ftpwire.errors import InvalidPath, SafetyLimit
from tests.ftpclient.sync.test_sync import Mirror, write
from tests.system import trees


@pytest.fixture
def up(client, files, tmp_path) -> Mirror:
    return Mirror(client, files, tmp_path, "up")


@pytest.fixture
def listed(monkeypatch):
    """The directories that the server was asked to list, and whether with those below them."""
    requested = []
    before = RemoteReader.listed

    def listed(self, path=b"", *, recursive=True, digest=False):
        requested.append((path, recursive))
        return before(self, path, recursive=recursive, digest=digest)

    monkeypatch.setattr(RemoteReader, "listed", listed)
    return requested


@pytest.fixture
def tree(up):
    for name in ("a", "d/b", "d/e/c", "d/e/f/g", "h/i"):
        write(up.source / name)
    up.sync()
    up.check()
    return up


def test_only_the_named_directories_are_listed(tree, listed):
    for name in ("a", "d/b", "d/e/c", "d/e/f/g", "h/i"):
        write(tree.source / name, "changed")
    assert tree.sync(directories=["d/e", "h"]).sent == 2
    assert tree.reported.actions == [("put", "d/e/c"), ("put", "h/i")]
    assert listed == [(b"d/e", False), (b"h", False)]
    assert tree.sync(directories=[b""]).sent == 1
    assert tree.sync(directories=["d", "d/e/f"]).sent == 2
    tree.check()


def test_new_directories_are_sent_with_everything_in_them(tree, listed):
    write(tree.source / "d" / "new" / "x" / "y")
    tree.sync(directories=["d/new/x"])
    assert ("put", "d/new/x/y") in tree.reported.actions
    assert listed == [(b"d", False)], "the nearest one that exists there"
    tree.check()


def test_what_is_gone_here_is_deleted_with_delete(tree, listed):
    shutil.rmtree(tree.source / "d" / "e")
    assert tree.sync(directories=["d/e/f"]).deleted == 0
    listed.clear()
    assert tree.sync(directories=["d/e/f"], delete=True).deleted == 4
    assert tree.reported.actions == [("delete", "d/e")]
    assert listed == [(b"d", False), (b"d/e", True)]
    tree.check()


def test_the_limit_on_deletions(tree):
    shutil.rmtree(tree.source / "d" / "e")
    with pytest.raises(SafetyLimit, match="4 entries would be deleted"):
        tree.sync(directories=["d"], delete=True, max_delete=3)
    assert (tree.target / "d" / "e" / "c").exists()


def test_an_emptied_directory_is_no_empty_source(tree):
    (tree.source / "h" / "i").unlink()
    assert tree.sync(directories=["h"], delete=True).deleted == 1
    shutil.rmtree(tree.source)
    tree.source.mkdir()
    with pytest.raises(SafetyLimit, match="is empty"):
        tree.sync(directories=[""], delete=True)
    assert (tree.target / "a").exists()


def test_rules_of_the_directories_above_count(tree, listed):
    write(tree.source / "d" / ".ftpignore", "*.o\n/e/f/\n")
    tree.sync()
    listed.clear()
    for name in ("d/e/x.o", "d/e/y", "d/e/f/z", "h/x.o"):
        write(tree.source / name)
    assert tree.sync(directories=["d/e", "d/e/f", "h"], patterns=((True, "h"),)).sent == 1
    assert [("put", "d/e/y")] == [one for one in tree.reported.actions if one[0] == "put"]
    assert listed == [(b"d/e", False)], "not what is left out"


def test_modes_of_directories_in_a_named_one(tree):
    (tree.source / "d" / "e").chmod(0o700)
    tree.sync(directories=["d"])
    assert tree.reported.actions == [("attributes", "d/e")]
    (tree.source / "d" / "e").chmod(0o750)
    write(tree.source / "d" / "e" / "f" / "g", "changed")
    tree.sync(directories=["d", "d/e/f"])
    assert tree.reported.actions == [("attributes", "d/e"), ("put", "d/e/f/g")]
    tree.check()


def test_another_type(tree):
    shutil.rmtree(tree.source / "d" / "e")
    write(tree.source / "d" / "e")
    tree.sync(directories=["d/e/f"], delete=True)
    assert ("put", "d/e") in tree.reported.actions
    tree.check()
    (tree.source / "d" / "e").unlink()
    write(tree.source / "d" / "e" / "again")
    tree.sync(directories=["d/e"], delete=True)
    assert ("put", "d/e/again") in tree.reported.actions
    tree.check()


def test_a_missing_target_gets_everything(tree):
    shutil.rmtree(tree.target)
    assert tree.sync(directories=["h"]).sent == 5
    tree.check()


def test_a_directory_that_vanishes_there_meanwhile(tree, monkeypatch):
    before = partial.PartialComparison._replace_missing_there

    def vanish(self, wanted):
        found = before(self, wanted)
        shutil.rmtree(tree.target / "d" / "e")
        return found

    monkeypatch.setattr(partial.PartialComparison, "_replace_missing_there", vanish)
    assert tree.sync(directories=["d/e"]).sent == 2
    assert tree.sync().sent == 0


def test_many_directories_are_compared_as_a_whole(tree, listed, monkeypatch):
    monkeypatch.setattr(partial, "MAX_DIRECTORIES", 2)
    tree.sync(directories=["d", "h", "d/e"])
    assert listed == [(b"", True)]


def test_a_renamed_file_is_moved(tree):
    write(tree.source / "d" / "b", "other bytes")
    tree.sync()
    (tree.source / "d" / "b").rename(tree.source / "h" / "moved")
    assert tree.sync(directories=["d", "h"], delete=True).renamed == 1
    tree.check()


@pytest.mark.parametrize("path", ["/d", "../d", "d/.."])
def test_paths_that_lead_out(tree, path):
    with pytest.raises(InvalidPath):
        tree.sync(directories=[path])


def test_not_from_the_server(client, files, tmp_path):
    down = Mirror(client, files, tmp_path, "down")
    (tmp_path / "here").mkdir()
    with pytest.raises(InvalidPath, match="for a sync to the server"):
        down.sync(directories=["d"])


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
CHANGES = st.lists(st.tuples(st.sampled_from(["file", "dir", "gone", "mode"]), PATHS), max_size=8)


def change(root, kind, path, touched) -> None:
    """Change something, and note the directories that a watch would."""
    place = root / path
    parents = [above for above in reversed(place.parents) if root in (above, *above.parents)]
    if any(above.exists() and not above.is_dir() for above in parents):
        return
    if kind in ("file", "dir"):
        for above in [*parents, *([place] if kind == "dir" and not place.is_file() else [])]:
            if not above.exists():
                above.mkdir()
                touched |= {above.parent, above}
        if kind == "file" and not place.is_dir():
            place.write_text(str(os.urandom(4)))
            touched.add(place.parent)
    elif place.exists():
        if kind == "mode":
            place.chmod(place.stat().st_mode ^ 0o010)
        elif place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
        touched.add(place.parent)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(CHANGES, CHANGES)
def test_the_touched_directories_are_enough(client, files, tmp_path_factory, first, second):
    shutil.rmtree(files / "there", ignore_errors=True)
    mirror = Mirror(client, files, tmp_path_factory.mktemp("any"), "up")
    write(mirror.source / "stays")
    for kind, path in first:
        change(mirror.source, kind, path, set())
    mirror.sync()
    touched: set = set()
    for kind, path in second:
        change(mirror.source, kind, path, touched)
    names = [os.path.relpath(one, mirror.source) for one in touched]
    mirror.sync(delete=True, directories=["" if one == "." else one for one in names])
    assert not mirror.reported.errors
    trees.same(mirror.source, mirror.target)
