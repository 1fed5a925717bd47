"""Restoring: each kind of line, and what is in the way."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ftpserver.storage.trash.policy import Policy
from ftpserver.workspace.workspace import Workspace
from ftpwire.errors import Expired, Forbidden, NotFound
from ftpwire.messages import Copy, Remove, Restore


def codes(restored) -> list[tuple[bytes, str]]:
    return [(one.path, one.code) for one in restored.conflicts]


def test_a_removed_file_is_back(bin_):
    bin_.put(b"/docs/a", b"first", parents=True, mode=0o640)
    before = bin_.tree()
    name = bin_.rm(b"/docs/a")
    assert bin_.tree() != before
    restored = bin_.restore(name)
    assert (restored.items, restored.paths, restored.conflicts) == (1, [b"/docs/a"], [])
    assert bin_.tree() == before
    assert bin_.things(name) == []
    assert bin_.agrees()


def test_a_tree_is_back(bin_):
    bin_.put(b"/docs/a/b", parents=True)
    before = bin_.tree()
    name = bin_.rm(b"/docs", recursive=True)
    assert bin_.tree() == {}
    assert bin_.restore(name).items == 1
    assert bin_.tree() == before
    assert bin_.agrees()


def test_what_was_replaced_is_exchanged(bin_):
    bin_.put(b"/a", b"first")
    name = bin_.over(b"/a", b"second")
    restored = bin_.restore(name)
    assert (restored.items, restored.conflicts) == (1, [])
    assert (bin_.files / "a").read_bytes() == b"first"
    assert bin_.agrees()
    again = bin_.restore(restored.operation)
    assert (again.items, again.conflicts) == (1, [])
    assert (bin_.files / "a").read_bytes() == b"second"
    assert bin_.agrees()


def test_what_was_moved_goes_back(bin_):
    bin_.put(b"/a", b"a")
    bin_.put(b"/b", b"b")
    before = bin_.tree()
    name = bin_.mv(b"/a", b"/b")
    restored = bin_.restore(name)
    assert (restored.items, restored.conflicts) == (2, [])
    assert bin_.tree() == before
    again = bin_.restore(restored.operation)
    assert again.conflicts == []
    assert (bin_.files / "b").read_bytes() == b"a"
    assert not (bin_.files / "a").exists()
    assert bin_.agrees()


def test_a_whole_operation_is_undone_once(bin_):
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    first = bin_.restore(name)
    (reported,) = bin_.operations(operation=name)
    assert reported.undone
    (undoing,) = bin_.operations(operation=first.operation)
    assert undoing.undoes == name
    second = bin_.restore(name)
    assert (second.items, second.already, second.conflicts) == (0, 1, [])
    assert second.operation is None
    assert [one.name for one in bin_.operations()] == [first.operation, name], (
        "no empty one is made"
    )


def test_redo_is_undoing_the_undoing(bin_):
    bin_.put(b"/docs/a", parents=True)
    bin_.put(b"/b")
    bin_.begin("rm -r docs b")
    session = bin_.session
    session.remove(Remove(b"/docs", recursive=True))
    session.remove(Remove(b"/b"))
    name = session.keeping.name
    after = bin_.tree()
    undone = bin_.restore(name)
    redone = bin_.restore(undone.operation)
    assert (redone.items, redone.conflicts) == (2, [])
    assert bin_.tree() == after
    assert bin_.restore(redone.operation).items == 2
    assert (bin_.files / "docs" / "a").exists()
    assert bin_.agrees()


def test_what_was_changed_since_is_not_removed_again(bin_):
    bin_.put(b"/a", b"first")
    undone = bin_.restore(bin_.rm(b"/a"))
    bin_.over(b"/a", b"changed since")
    redone = bin_.restore(undone.operation)
    assert codes(redone) == [(b"/a", "conflict")]
    assert (bin_.files / "a").read_bytes() == b"changed since"


# what is in the way ------------------------------------------------------------------------


@pytest.fixture
def taken(bin_) -> str:
    """An operation that removed a file and a directory, of which the names are taken since."""
    bin_.put(b"/a", b"old")
    bin_.put(b"/d/in", b"old", parents=True)
    bin_.put(b"/free", b"old")
    bin_.begin("rm -r a d free")
    for path in (b"/a", b"/d", b"/free"):
        bin_.session.remove(Remove(path, recursive=True))
    name = bin_.session.keeping.name
    bin_.begin("later")
    bin_.put(b"/a", b"newer")
    bin_.put(b"/d/other", b"newer", parents=True)
    return name


def test_what_is_there_stays(bin_, taken):
    before = bin_.tree()
    restored = bin_.restore(taken)
    assert (restored.items, restored.paths) == (1, [b"/free"])
    assert sorted(codes(restored)) == [(b"/a", "conflict"), (b"/d", "conflict")]
    assert bin_.tree() == before | {"free": bin_.tree()["free"]}
    (reported,) = bin_.operations(operation=taken)
    assert (reported.kept, reported.undone) == (2, False)
    assert bin_.agrees()


def test_what_is_there_goes_to_the_trash(bin_, taken):
    later = bin_.tree()
    restored = bin_.restore(taken, conflict="replace")
    assert (restored.items, restored.conflicts) == (3, [])
    assert (bin_.files / "a").read_bytes() == b"old"
    assert os.listdir(bin_.files / "d") == ["in"]
    assert bin_.agrees()
    again = bin_.restore(restored.operation)
    assert again.conflicts == []
    assert bin_.tree() == later
    bin_.measure()
    assert bin_.agrees()


def test_a_file_in_the_place_of_a_directory_and_the_other_way(bin_):
    bin_.put(b"/a", b"file")
    bin_.put(b"/b/in", parents=True)
    names = [bin_.rm(b"/a"), bin_.rm(b"/b", recursive=True)]
    bin_.put(b"/a/in", parents=True)
    bin_.put(b"/b", b"file")
    later = bin_.tree()
    undone = [bin_.restore(name, conflict="replace") for name in names]
    assert [one.conflicts for one in undone] == [[], []]
    assert (bin_.files / "a").is_file() and (bin_.files / "b").is_dir()
    for one in reversed(undone):
        assert bin_.restore(one.operation).conflicts == []
    assert bin_.tree() == later


def test_it_is_restored_beside(bin_, taken):
    bin_.put(b"/a.restored-1", b"mine")
    looked = bin_.restore(taken, conflict="beside", look=True)
    restored = bin_.restore(taken, conflict="beside")
    assert (restored.items, restored.conflicts) == (3, [])
    assert {b"/a.restored-2", b"/d.restored-1"} < set(restored.paths)
    assert looked.paths == restored.paths
    assert (bin_.files / "a").read_bytes() == b"newer"
    assert (bin_.files / "a.restored-1").read_bytes() == b"mine"
    assert (bin_.files / "a.restored-2").read_bytes() == b"old"
    assert os.listdir(bin_.files / "d.restored-1") == ["in"]
    assert bin_.agrees()
    assert bin_.restore(restored.operation).conflicts == []
    assert not (bin_.files / "a.restored-2").exists()


def test_a_name_as_long_as_can_be_is_shortened(bin_):
    path = b"/" + b"n" * 255
    bin_.put(path, b"old")
    name = bin_.rm(path)
    bin_.put(path, b"new")
    assert bin_.restore(name, conflict="beside").items == 1
    assert (bin_.files / ("n" * (255 - len(".restored-1")) + ".restored-1")).exists()


def test_a_version_that_was_replaced_again_is_a_conflict(bin_):
    bin_.put(b"/a", b"first")
    first = bin_.over(b"/a", b"second")
    second = bin_.over(b"/a", b"third")
    assert codes(bin_.restore(first)) == [(b"/a", "conflict")]
    assert bin_.restore(second).conflicts == []
    assert bin_.restore(first).conflicts == []
    assert (bin_.files / "a").read_bytes() == b"first"


def test_a_replaced_file_of_which_nothing_is_there_is_simply_back(bin_):
    bin_.put(b"/a", b"first")
    name = bin_.over(b"/a", b"second")
    bin_.rm(b"/a")
    assert bin_.restore(name).items == 1
    assert (bin_.files / "a").read_bytes() == b"first"


def test_a_copy_of_what_was_put_is_known_by_its_digest(bin_):
    """Another inode and another time: some programs write a file anew when they save it."""
    bin_.put(b"/a", b"first")
    name = bin_.over(b"/a", b"second")
    bin_.mv(b"/a", b"/b")
    bin_.begin("cp")
    bin_.session.copy(Copy(b"/b", b"/a"))
    assert bin_.restore(name).conflicts == []
    assert (bin_.files / "a").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("conflict", "left"),
    [("skip", {"b"}), ("replace", {"a"}), ("beside", {"a", "a.restored-1"})],
)
def test_a_move_of_which_the_name_is_taken(bin_, conflict, left):
    bin_.put(b"/a", b"moved")
    name = bin_.mv(b"/a", b"/b")
    bin_.put(b"/a", b"newer")
    looked = bin_.restore(name, conflict=conflict, look=True)
    restored = bin_.restore(name, conflict=conflict)
    assert bool(restored.conflicts) == (conflict == "skip")
    came_to = {"skip": [], "replace": [b"/a"], "beside": [b"/a.restored-1"]}[conflict]
    assert looked.paths == restored.paths == came_to
    assert set(os.listdir(bin_.files)) - {".ftpd-staging", ".ftpd-trash"} == left | {"a"}
    assert bin_.agrees()
    if conflict == "replace":
        assert (bin_.files / "a").read_bytes() == b"moved"
        assert bin_.restore(restored.operation).conflicts == []
        assert (bin_.files / "a").read_bytes() == b"newer"
        assert (bin_.files / "b").read_bytes() == b"moved"


def test_what_was_moved_on_stays(bin_):
    bin_.put(b"/a")
    name = bin_.mv(b"/a", b"/b")
    bin_.mv(b"/b", b"/c")
    assert codes(bin_.restore(name, conflict="replace")) == [(b"/a", "conflict")]


def test_at_most_a_hundred_conflicts_are_named(bin_):
    for number in range(120):
        bin_.put(b"/%d" % number)
    bin_.begin("rm all")
    for number in range(120):
        bin_.session.remove(Remove(b"/%d" % number))
    name = bin_.session.keeping.name
    for number in range(120):
        (bin_.files / str(number)).write_bytes(b"newer")
    restored = bin_.restore(name)
    assert (len(restored.conflicts), restored.more_conflicts) == (100, 20)


# parts, and other places -------------------------------------------------------------------


@pytest.fixture
def tree(bin_) -> str:
    """An operation that removed a tree."""
    for path in (b"/d/a", b"/d/e/b", b"/d/e/c"):
        bin_.put(path, path, parents=True)
    return bin_.rm(b"/d", recursive=True)


def test_a_part_of_a_tree(bin_, tree):
    bin_.measure()
    assert bin_.ledger.space(bin_.account.id).trash_files == 5
    restored = bin_.restore(tree, paths=[b"/d/e/b"])
    assert (restored.items, restored.paths, restored.conflicts) == (1, [b"/d/e/b"], [])
    assert set(bin_.tree()) == {"d", "d/e", "d/e/b"}
    assert oct(os.stat(bin_.files / "d").st_mode) == oct(0o40755)
    assert bin_.agrees()
    bin_.measure()
    assert bin_.agrees()
    assert bin_.ledger.space(bin_.account.id).trash_files == 4
    again = bin_.restore(tree, paths=[b"/d/e/b", b"/d/a"])
    assert (again.items, again.already) == (1, 1)
    assert set(bin_.tree()) == {"d", "d/a", "d/e", "d/e/b"}


def test_a_path_that_is_not_in_it(bin_, tree):
    restored = bin_.restore(tree, paths=[b"/d/nothing", b"/x"])
    assert codes(restored) == [(b"/d/nothing", "not-found"), (b"/x", "not-found")]


def test_a_path_above_is_all_that_is_below(bin_, tree):
    assert bin_.restore(tree, paths=[b"/", b"/d/a"]).items == 1
    assert "d/e/c" in bin_.tree()


def test_another_directory(bin_, tree):
    restored = bin_.restore(tree, target=b"/new/place")
    assert (restored.items, restored.paths) == (1, [b"/new/place/d"])
    assert "new/place/d/e/b" in bin_.tree()
    assert bin_.agrees()


def test_a_part_to_another_directory(bin_, tree):
    restored = bin_.restore(tree, target=b"/", paths=[b"/d/e"])
    assert restored.paths == [b"/e"]
    assert set(bin_.tree()) == {"e", "e/b", "e/c"}
    assert bin_.agrees()


def test_only_some_items(bin_, taken):
    (free,) = [item.name for item in bin_.items(operation=taken) if item.path == b"/free"]
    restored = bin_.restore(taken, items=[free])
    assert (restored.paths, restored.conflicts) == ([b"/free"], [])


def test_missing_parents_are_made_and_count(bin_):
    bin_.put(b"/d/e/a", parents=True)
    name = bin_.rm(b"/d/e/a")
    bin_.rm(b"/d", recursive=True)
    assert bin_.restore(name).items == 1
    assert set(bin_.tree()) == {"d", "d/e", "d/e/a"}
    assert bin_.agrees()


def test_parents_for_which_there_is_no_space(bin_, accounts):
    bin_.put(b"/d/e/a", parents=True)
    name = bin_.rm(b"/d/e/a")
    bin_.begin("rm for good")
    bin_.session.remove(Remove(b"/d", recursive=True, final=True))
    accounts.change("alice", max_files=1)
    restored = bin_.restore(name)
    assert codes(restored) == [(b"/d/e/a", "quota")]
    assert bin_.tree() == {}
    assert bin_.agrees()


def test_parents_for_which_trash_is_abandoned(bin_, accounts):
    """Of other operations: this one is held."""
    bin_.put(b"/d/a", parents=True)
    bin_.put(b"/other")
    name = bin_.rm(b"/d/a")
    bin_.begin("rm for good")
    bin_.session.remove(Remove(b"/d", recursive=True, final=True))
    other = bin_.rm(b"/other")
    accounts.change("alice", max_files=2)
    assert bin_.restore(name).conflicts == []
    assert set(bin_.tree()) == {"d", "d/a"}
    assert not bin_.directory(other).exists()
    with pytest.raises(Expired, match="purged to free space; 4 B cannot be brought back"):
        bin_.restore(other)
    assert bin_.agrees()


@pytest.mark.parametrize("target", [None, b"/elsewhere"])
def test_looking_changes_nothing(bin_, taken, target):
    before = bin_.tree()
    reported = bin_.restore(taken, look=True, target=target)
    assert bin_.tree() == before
    assert reported.operation is None
    done = bin_.restore(taken, target=target)
    assert (reported.items, sorted(reported.paths)) == (done.items, sorted(done.paths))
    assert sorted(codes(reported)) == sorted(codes(done))


def test_looking_knows_what_comes_before(bin_):
    """The name of what was replaced by a move is free once that went back."""
    bin_.put(b"/a", b"a")
    bin_.put(b"/b", b"b")
    name = bin_.mv(b"/a", b"/b")
    reported = bin_.restore(name, look=True)
    assert (reported.items, reported.conflicts) == (2, [])


# odd names and modes -----------------------------------------------------------------------


def test_names_that_are_no_utf_8(bin_):
    bin_.put(b"/\xff\xfe/\x80", parents=True)
    before = bin_.tree()
    name = bin_.rm(b"/\xff\xfe", recursive=True)
    assert bin_.restore(name).paths == [b"/\xff\xfe"]
    assert bin_.tree() == before


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_directories_that_are_closed(bin_, mode, plain_user):
    bin_.put(b"/d/e/a", parents=True)
    for name in ("d/e", "d"):
        (bin_.files / name).chmod(mode)
    name = bin_.rm(b"/d", recursive=True)
    restored = bin_.restore(name, paths=[b"/d/e/a"], target=b"/")
    assert restored.paths == [b"/a"]
    assert bin_.restore(name).items == 1
    assert (bin_.files / "d").stat().st_mode & 0o777 == mode
    (bin_.files / "d").chmod(0o700)
    assert (bin_.files / "d" / "e").stat().st_mode & 0o777 == mode
    (bin_.files / "d" / "e").chmod(0o700)
    assert os.listdir(bin_.files / "d" / "e") == []


def test_links_are_restored_and_not_followed(bin_):
    bin_.put(b"/d/a", parents=True)
    os.symlink("d", bin_.files / "link")
    before = bin_.tree()
    bin_.begin("rm")
    bin_.session.remove(Remove(b"/link"))
    name = bin_.session.keeping.name
    assert bin_.restore(name, paths=[b"/link/a"]).conflicts[0].code == "not-found"
    assert bin_.restore(name).items == 1
    assert bin_.tree() == before


# rights ------------------------------------------------------------------------------------


def test_rules_of_today_hold(bin_):
    bin_.put(b"/in/a", parents=True)
    name = bin_.rm(b"/in/a")
    for rights in ("read-only", "all /in=read-only"):
        session = bin_.open(permissions=rights)
        if rights == "read-only":
            with pytest.raises(Forbidden):
                session.restore(Restore(name))
        else:
            restored = session.restore(Restore(name))
            assert codes(restored) == [(b"/in/a", "forbidden")]
    assert bin_.restore(name, bin_.open(permissions="no-delete")).items == 1


def test_replacing_takes_the_right_to_replace(bin_):
    bin_.put(b"/a", b"first")
    name = bin_.over(b"/a", b"second")
    session = bin_.open(permissions="no-delete")
    assert codes(bin_.restore(name, session)) == [(b"/a", "forbidden")]
    assert (bin_.files / "a").read_bytes() == b"second"


@pytest.mark.parametrize("options", [{"target": b"/out"}, {"conflict": "beside"}])
def test_what_may_not_be_read_goes_nowhere_else(bin_, options):
    bin_.put(b"/secret/a", parents=True)
    name = bin_.rm(b"/secret/a")
    session = bin_.open(permissions="all /secret=none")
    restored = bin_.restore(name, session, **options)
    assert codes(restored) == [(b"/secret/a", "forbidden")]
    assert set(bin_.tree()) == {"secret"}


def test_another_account_has_none_of_it(bin_, accounts, ledger):
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    other = accounts.add("bob", "correct-horse")
    with Workspace(
        replace(other, home=bin_.files), ledger, durable=False, policy=Policy
    ) as session:
        with pytest.raises(NotFound):
            session.restore(Restore(name))
        assert bin_.operations(session) == []


def test_an_operation_that_is_gone(bin_):
    with pytest.raises(Expired):
        bin_.restore("0" * 16 + "-" + "1" * 8)
    bin_.put(b"/a")
    bin_.rm(b"/a")
    with pytest.raises(Expired):
        bin_.restore("0" * 16 + "-" + "1" * 8)
