"""What lies in the trash, as people name it and see it: without a server."""

from __future__ import annotations

import time

import pytest
from msgspec import structs

from ftpclient.cli import moments, trashed
from ftpclient.cli.app import UsageError
from ftpclient.transfer.trash import Trashed, Version, at_time, newest
from ftpwire.cells import cells
from ftpwire.errors import Expired, NotFound
from ftpwire.messages import TrashedOperation, TrashItem

HOUR = 3600 * 10**9
NOW = time.time_ns()


def operation(random: str, **more) -> TrashedOperation:
    values = {
        "name": f"{NOW:016x}-{random}",
        "time_ns": NOW - HOUR,
        "words": "rm -r /x",
        "client": None,
        "expires": NOW // 10**9 + 8 * 86400,
        "items": 1,
        "kept": 1,
        "size": 2048,
        "files": 3,
        "counted": True,
        "undone": False,
        "first": b"/x",
    }
    return TrashedOperation(**(values | more))


def item(path: bytes, **more) -> TrashItem:
    values = {
        "name": "00000000-0",
        "what": "removed",
        "path": path,
        "type": "file",
        "size": 5,
        "files": 1,
        "mtime_ns": 0,
        "state": "kept",
        "time_ns": NOW,
    }
    return TrashItem(**(values | more))


def test_what_was_evicted_is_not_undone_and_nothing_earlier():
    mine = operation(
        "7f3a91c2", client=b"mine....", time_ns=NOW, given_up=5, first=b"", words="rm \x1b"
    )
    before = operation("7f3b91c2", client=b"mine....", time_ns=NOW)
    with pytest.raises(Expired, match=r"^rm \\x1b: cannot be undone: the server has purged"):
        newest([mine, before], b"mine....")
    assert newest([structs.replace(mine, undone=True), before], b"mine....") == before
    with pytest.raises(NotFound, match=r"^nothing to undo \(ftp trash lists all operations\)$"):
        newest([structs.replace(mine, undone=True)], b"mine....", lister="ftp trash")


def test_what_was_undone_in_part_is_undone_further():
    def mine(random: str, **more) -> TrashedOperation:
        return operation(random, client=b"mine....", time_ns=NOW, **more)

    removed = mine("7f3a91c2")
    undo = mine("7f3b91c2", words="undo", undoes=removed.name)
    assert newest([undo, removed], b"mine....") == removed
    assert newest([undo, structs.replace(removed, undone=True)], b"mine....") == undo
    assert newest([undo], b"mine....") == undo
    assert newest([undo, structs.replace(removed, given_up=1)], b"mine....") == undo
    part = structs.replace(undo, words="trash restore 7f3a /a")
    assert newest([part, removed], b"mine....") == part


# IDs ---------------------------------------------------------------------------------------


def test_ids_are_the_shortest_that_mean_one():
    found = [operation(one) for one in ("7f3a91c2", "7f3a9000", "7f3b0000", "00000000")]
    assert list(trashed.short_ids(found).values()) == ["7f3a91", "7f3a90", "7f3b", "0000"]


def test_the_same_random_part_twice_is_reported_whole():
    twice = operation("7f3a91c2"), operation("7f3a91c2", name=f"{NOW + 1:016x}-7f3a91c2")
    assert list(trashed.short_ids(twice).values()) == [one.name for one in twice]
    with pytest.raises(UsageError, match="is ambiguous"):
        trashed.named_operation("7f3a91c2", twice)
    assert trashed.named_operation(twice[1].name, twice)[0] is twice[1]


def test_an_id_names_its_operation():
    one, other = operation("7f3a91c2"), operation("7f3b0000")
    for word in ("7f3a", "7F3A9", "7f3a91c2", one.name):
        assert trashed.named_operation(word, [one, other]) == (one, "7f3a")


def test_an_id_of_several_reports_which():
    found = [operation(f"7f3a000{number}", words=f"rm {number}") for number in range(7)]
    with pytest.raises(UsageError) as reported:
        trashed.named_operation("7f3a", found)
    assert str(reported.value).startswith("7f3a is ambiguous: 7f3a0000 rm 0; 7f3a0001 rm 1; ")
    assert str(reported.value).endswith("; and 2 more")


@pytest.mark.parametrize("word", ["7f3", "xyz1", "", "7f3a91c23", "../7f3a"])
def test_what_is_no_id(word):
    with pytest.raises(UsageError, match="not an ID"):
        trashed.named_operation(word, [operation("7f3a91c2")])


def test_an_id_that_nothing_has():
    with pytest.raises(NotFound, match="no operation in the trash has this ID"):
        trashed.named_operation("7f3b", [operation("7f3a91c2")])


# things ------------------------------------------------------------------------------------


def test_where_something_lies():
    tree = item(b"/d", what="tree", type="dir", name="00000000-1")
    old = item(b"/a", name="00000000-2")
    new = item(b"/a", name="00000000-3")
    gone = item(b"/b", state="restored")
    items = [Trashed("op", one) for one in (new, old, tree, gone)]
    assert trashed.locate(items, b"/a") == (("op", "00000000-3"), b"/")
    assert trashed.locate(items, b"/d") == (("op", "00000000-1"), b"/")
    assert trashed.locate(items, b"/d/e/f") == (("op", "00000000-1"), b"/e/f")
    for path in (b"/b", b"/a/x", b"/dd", b"/"):
        with pytest.raises(NotFound):
            trashed.locate(items, path)


def test_a_version_in_a_tree_knows_where():
    one = Version(operation("7f3a91c2"), item(b"/d/e/f", within=b"/d"))
    assert (one.inner_path, one.in_trash[1]) == (b"/e/f", "00000000-0")
    assert Version(one.operation, item(b"/f")).inner_path == b"/"


def test_the_version_of_a_moment():
    hours = [Version(operation("7f3a91c2"), item(b"/a", time_ns=NOW - h * HOUR)) for h in (1, 3, 5)]
    assert at_time(hours, NOW) is None  # what is there now
    assert at_time(hours, NOW - 2 * HOUR) is hours[0]
    assert at_time(hours, NOW - 3 * HOUR) is hours[0]
    assert at_time(hours, NOW - 4 * HOUR) is hours[1]
    assert at_time(hours, NOW - 9 * HOUR) is hours[2]
    assert at_time([], NOW) is None


# text --------------------------------------------------------------------------------------


def test_lines_stand_below_each_other_and_fit():
    wide = operation("7f3a91c2", words="rm 漢字.txt")
    found = [wide, operation("7f3b91c2", words="rm e\u0301"), operation("7f3c91c2", words="rm a")]
    lines = list(trashed.Operations(found).lines(found))
    assert lines[0].startswith("7f3a     1 h ago  rm 漢字.txt  3 files")
    assert lines[1].startswith("7f3b     1 h ago  rm e\u0301         3 files")
    assert lines[2].startswith("7f3c     1 h ago  rm a         3 files")
    long = [operation("7f3a91c2", words=f"rm {'漢' * 90}")]
    (line,) = trashed.Operations(long).lines(long, 80)
    assert line.endswith(f"  rm {'漢' * 13}…  3 files, 2.0 KiB  {moments.until(long[0].expires)}")
    assert cells(line) <= 80
    (line,) = trashed.Operations(long).lines(long, 30)
    assert f"  rm {'漢' * 4}…" in line and cells(line) <= 30
    (line,) = trashed.Operations(long).lines(long)
    assert "漢" * 90 in line


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "rm -r /x  3 files, 2.0 KiB"),
        ({"files": 1}, "rm -r /x  1 file, 2.0 KiB"),
        ({"words": ""}, "/x  3 files, 2.0 KiB"),
        ({"words": "", "items": 3}, "/x and 2 more  3 files, 2.0 KiB"),
        ({"counted": False}, "rm -r /x  1 entry, being counted"),
        ({"undone": True, "kept": 0}, "rm -r /x  undone"),
        ({"kept": 0, "given_up": 2048, "first": b""}, "rm -r /x  purged for space (2.0 KiB)"),
        ({"kept": 0, "given_up": 0, "first": b""}, "rm -r /x  purged for space"),
        (
            {"kept": 0, "given_up": 5, "words": "", "first": b""},
            "(unknown)  purged for space (5 B)",
        ),
        ({"kept": 0, "words": "mv a b"}, "mv a b  1 change"),
        ({"words": "rm \x1b[31m"}, r"rm \x1b[31m  3 files, 2.0 KiB"),
    ],
)
def test_lines_of_operations(more, line):
    one = operation("7f3a91c2", **more)
    [reported] = trashed.Operations([one]).lines([one])
    assert reported.startswith(f"7f3a     1 h ago  {line}")
    assert ("until" in reported) == (one.kept > 0)


def test_an_undo_is_reported_by_what_it_has_undone():
    found = [operation(f"{number}0000000", words="undo") for number in range(5)]
    found[0] = operation("00000000", words="rm x")
    for number in range(1, 4):
        found[number] = structs.replace(found[number], undoes=found[number - 1].name)
    found[4] = structs.replace(found[4], undoes="gone")
    known = trashed.Operations(found)
    words = ["rm x", "undo of rm x", "redo of rm x", "undo of rm x", "undo"]
    assert [known.words(one) for one in found] == words
    assert [known.is_redo(one) for one in found] == [False, True, False, True, True]
    assert [known.describe_undo(one).partition(" (")[0] for one in found] == [
        "undo: rm x",
        "redo: rm x",
        "undo: redo of rm x",
        "redo: rm x",
        "undo: undo",
    ]
    circle = structs.replace(found[1], undoes=found[1].name)
    assert trashed.Operations([circle]).words(circle) == "undo"


def test_columns():
    found = [
        operation("7f3a91c2"),
        operation("7f3a9000", words="rm " + "x" * 60),
        operation("0" * 8),
    ]
    lines = list(trashed.Operations(found).lines(found))
    assert [line.index("  3 files") for line in lines] == [28, 83, 28]
    assert lines[2].startswith("0000       1 h ago")


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (item(b"/a"), "removed    /a  (5 B)"),
        (item(b"/a", state="purged"), "removed    /a  (5 B, purged)"),
        (item(b"/a", what="replaced", state="restored"), "replaced   /a  (5 B, restored)"),
        (item(b"/d", what="tree", type="dir", files=9), "removed    /d/  (9 files, 5 B)"),
        (item(b"/d", what="tree", type="dir", files=None), "removed    /d/"),
        (item(b"/a", what="moved", name="", target=b"/b"), "moved      /a -> /b"),
        (item(b"/a\n"), r"removed    /a\n  (5 B)"),
    ],
)
def test_lines_of_things(one, line):
    assert trashed.item_line(one) == line


@pytest.mark.parametrize(
    ("found", "count", "text"),
    [
        ([b"/a"], 1, "/a"),
        ([b"/a", b"/b"], 2, "2 entries (/a, /b)"),
        ([b"/a", b"/b", b"/c", b"/d"], 9, "9 entries (/a, /b, /c and 6 more)"),
        ([], 2, "2 entries"),
    ],
)
def test_paths_in_one_line(found, count, text):
    assert trashed.named_paths(found, count) == text
