"""What is told of the trash, and looking into what lies there."""

from __future__ import annotations

import os

import pytest

from ftpserver.storage.trash import listing
from ftpserver.storage.trash.names import time_of
from ftpserver.storage.trash.policy import Policy
from ftpwire import digests
from ftpwire.errors import (
    Expired,
    Forbidden,
    IsADirectory,
    NotFound,
)
from ftpwire.messages import Get, Hash, Hashed, List, ListTrash, Purge, Remove, Stat


def listed(session, path: bytes, **options) -> dict[bytes, object]:
    """What a listing tells, by path."""
    found = {}
    for directory, item in session.list(List(path, **options)):
        if item is not None:
            found[b"/".join(filter(None, (directory, item.path)))] = item
    return found


# operations --------------------------------------------------------------------------------


def test_operations_come_newest_first(bin_):
    assert bin_.operations() == []
    for path in (b"/a", b"/b", b"/c"):
        bin_.put(path, b"12345")
    names = [bin_.rm(path) for path in (b"/a", b"/b", b"/c")]
    reported = bin_.operations()
    assert [one.name for one in reported] == names[::-1]
    first = reported[-1]
    assert (first.words, first.client, first.first) == ("rm b'/a'", b"computer", b"/a")
    assert (first.items, first.kept, first.size, first.files) == (1, 1, 5, 1)
    assert (first.counted, first.undone, first.undoes) == (True, False, None)
    assert first.time_ns == time_of(names[0])
    assert first.expires == first.time_ns // 10**9 + 7 * 24 * 3600
    assert [one.name for one in bin_.operations(limit=2)] == names[:0:-1]
    assert [one.name for one in bin_.operations(operation=names[1])] == [names[1]]
    assert [one.name for one in bin_.operations(below=b"/b")] == [names[1]]


def test_a_tree_that_is_not_counted_yet(bin_):
    bin_.put(b"/d/a", b"12345", parents=True)
    bin_.rm(b"/d", recursive=True)
    (reported,) = bin_.operations()
    assert (reported.items, reported.counted) == (1, False)
    (item,) = bin_.items()
    assert (item.what, item.type, item.size, item.files) == ("tree", "dir", None, None)
    bin_.measure()
    (reported,) = bin_.operations()
    assert (reported.size, reported.files, reported.counted) == (5, 2, True)
    (item,) = bin_.items()
    assert (item.size, item.files) == (5, 2)


def test_without_a_trash_they_do_not_expire(bin_):
    bin_.put(b"/a")
    bin_.rm(b"/a")
    (reported,) = bin_.operations(bin_.open(policy=lambda: Policy(days=0)))
    assert reported.expires is None


def test_one_that_says_nothing_belongs_to_whoever_opens_it(bin_):
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    index = bin_.directory(name) / "index"
    index.unlink()
    (reported,) = bin_.operations()
    (thing,) = bin_.things(name)
    assert (reported.words, reported.first) == ("", b"/found-" + thing.encode())
    (item,) = bin_.items()
    assert (item.what, item.path) == ("found", b"/found-" + thing.encode())
    assert bin_.restore(name).paths == [b"/found-" + thing.encode()]


def test_names_that_lead_elsewhere_are_no_lines(bin_):
    """Whoever may write into the home by other ways can write an index, too."""
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    (bin_.files / "victim").write_bytes(b"")
    (bin_.directory(name) / "00000000-0").write_bytes(b"thing")
    with open(bin_.directory(name) / "index", "ab") as index:
        for item, path in (("../../victim", "/x"), ("0" * 8 + "-0", "/.ftpd-trash/x")):
            index.write(
                b'{"is":"item","name":"%s","what":"removed","path":{"text":"%s"},"time":1}\n'
                % (item.encode(), path.encode())
            )
    assert [item.path for item in bin_.items()] == [b"/found-00000000-0", b"/a"]
    assert bin_.restore(name).paths == [b"/found-00000000-0", b"/a"]
    assert (bin_.files / "victim").exists()


# items -------------------------------------------------------------------------------------


def test_items_of_each_kind(bin_):
    bin_.put(b"/a", b"12345", mtime_ns=10**18)
    bin_.put(b"/b", b"old")
    os.symlink("nowhere", bin_.files / "link")
    bin_.begin("several")
    bin_.session.remove(Remove(b"/a"))
    bin_.session.remove(Remove(b"/link"))
    bin_.put(b"/b", b"new")
    name = bin_.session.keeping.name
    moved = bin_.mv(b"/b", b"/c")
    reported = {item.path: item for item in bin_.items()}
    assert list(reported) == [b"/b", b"/link", b"/a"]
    a = bin_.items(operation=name)[-1]
    assert (a.what, a.type, a.size, a.files) == ("removed", "file", 5, 1)
    assert (a.mtime_ns, a.state, a.digest) == (10**18, "kept", digests.digest(b"12345"))
    assert reported[b"/link"].type == "link"
    (move,) = bin_.items(operation=moved)
    assert (move.what, move.target, move.name, move.state) == ("moved", b"/c", b"".decode(), "kept")


def test_what_became_of_items(bin_):
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    undone = bin_.restore(name)
    (item,) = bin_.items(operation=name)
    assert (item.what, item.state, item.size) == ("removed", "restored", None)
    (item,) = bin_.items(operation=undone.operation)
    assert (item.what, item.path, item.state) == ("restored", b"/a", "restored")


def test_a_line_without_a_thing_is_passed_over(bin_):
    """A crash came before its rename."""
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    (thing,) = bin_.things(name)
    (bin_.directory(name) / thing).unlink()
    assert bin_.items() == []
    assert bin_.operations() == []


@pytest.mark.parametrize(
    ("below", "reported"),
    [
        (b"/", [b"/d/e", b"/d/a", b"/b"]),
        (b"/d", [b"/d/e", b"/d/a"]),
        (b"/d/a", [b"/d/a"]),
        (b"/d/e/f", [b"/d/e"]),
        (b"/d/e/none", []),
        (b"/d/a/none", []),
        (b"/dd", []),
    ],
)
def test_only_what_was_below_a_path(bin_, below, reported):
    for path in (b"/b", b"/d/a", b"/d/e/f"):
        bin_.put(path, parents=True)
    for path in (b"/b", b"/d/a", b"/d/e"):
        bin_.rm(path, recursive=True)
    assert [item.path for item in bin_.items(below=below)] == reported


def test_pages_are_bounded(bin_, monkeypatch):
    monkeypatch.setattr(listing, "_PAGE", 1000)
    for number in range(20):
        bin_.put(b"/%d" % number)
    bin_.begin("many")
    for number in range(20):
        bin_.session.remove(Remove(b"/%d" % number))
    pages = list(bin_.session.list_trash(ListTrash(items=True)))
    assert len(pages) > 1
    assert {page.of for page in pages} == {bin_.session.keeping.name}
    assert [item.path for page in pages for item in page.items] == [
        b"/%d" % number for number in reversed(range(20))
    ]
    assert len(bin_.items(limit=7)) == 7


# versions ----------------------------------------------------------------------------------


def test_versions_of_a_path(bin_):
    bin_.put(b"/d/a", b"1", parents=True)
    bin_.over(b"/d/a", b"22")
    bin_.rm(b"/d/a")
    bin_.put(b"/d/a", b"333")
    bin_.rm(b"/d", recursive=True)
    reported = bin_.items(versions=True, below=b"/d/a")
    assert [(one.what, one.size, one.within) for one in reported] == [
        ("tree", 3, b"/d"),
        ("removed", 2, None),
        ("replaced", 1, None),
    ]
    assert {one.path for one in reported} == {b"/d/a"}
    assert [one.digest for one in reported] == [
        digests.digest(one) for one in (b"333", b"22", b"1")
    ]
    assert len(bin_.items(versions=True, below=b"/d/a", limit=2)) == 2
    assert bin_.items(versions=True, below=b"/d") == []


# rights ------------------------------------------------------------------------------------


def test_what_may_not_be_listed_is_left_out(bin_):
    bin_.put(b"/in/a", parents=True)
    bin_.put(b"/b")
    hidden = bin_.rm(b"/in/a")
    shown = bin_.rm(b"/b")
    session = bin_.open(permissions="all /in=none")
    assert [one.name for one in bin_.operations(session)] == [shown]
    assert [one.path for one in bin_.items(session)] == [b"/b"]
    assert bin_.operations(session, operation=hidden) == []
    drop = bin_.open(permissions="upload-only")
    for requested in (ListTrash(), ListTrash(items=True)):
        with pytest.raises(Forbidden):
            list(drop.list_trash(requested))


# looking into it ---------------------------------------------------------------------------


@pytest.fixture
def where(bin_) -> tuple[str, str]:
    """A tree in the trash."""
    bin_.put(b"/d/a", b"first", parents=True, mtime_ns=10**18)
    bin_.put(b"/d/e/b", b"second", parents=True)
    os.symlink("/outside", bin_.files / "d" / "link")
    os.symlink("e/b", bin_.files / "d" / "inner")
    bin_.put(b"/outside", b"outside")
    name = bin_.rm(b"/d", recursive=True)
    return name, bin_.things(name)[0]


def test_a_thing_in_the_trash_can_be_looked_at(bin_, where):
    session = bin_.session
    assert session.stat(Stat(b"/", in_trash=where)).type == "dir"
    entry = session.stat(Stat(b"/a", digest=True, in_trash=where))
    assert (entry.path, entry.size, entry.mtime_ns) == (b"/a", 5, 10**18)
    assert entry.digest == digests.digest(b"first")
    reported = listed(session, b"/", recursive=True, in_trash=where, digest=True)
    assert set(reported) == {b"a", b"e", b"e/b", b"link", b"inner"}
    assert reported[b"link"].target == b"/outside"
    assert set(listed(session, b"/e", in_trash=where)) == {b"b"}
    assert set(listed(session, b"/", in_trash=where, prefix=b"e", recursive=True)) == {
        path for path in reported if path.startswith(b"e")
    }
    assert set(listed(session, b"/a", in_trash=where)) == {b""}
    assert session.hash(Hash(b"/e/b", where)) == Hashed(digests.digest(b"second"), 6)
    with session.open(Get(b"/e/b", in_trash=where)) as file:
        assert (file.read(0, 10), file.path) == (b"second", b"/e/b")
    with pytest.raises(FileNotFoundError):
        session.stat(Stat(b"/none", in_trash=where))


def test_a_file_in_the_trash_is_itself(bin_):
    bin_.put(b"/a", b"data")
    name = bin_.rm(b"/a")
    where = name, bin_.things(name)[0]
    assert bin_.session.stat(Stat(b"/", in_trash=where)).type == "file"
    with bin_.session.open(Get(b"/", in_trash=where)) as file:
        assert file.read(0, 10) == b"data"
    with pytest.raises(OSError):
        bin_.session.stat(Stat(b"/x", in_trash=where))


@pytest.mark.parametrize(
    "path", [b"/link", b"/inner", b"/link/x", b"/../outside", b"/../../../outside"]
)
def test_nothing_leads_out_of_it(bin_, where, path):
    session = bin_.session
    with pytest.raises((OSError, NotFound)):
        session.open(Get(path, in_trash=where)).__exit__()
    if path not in (b"/link", b"/inner"):
        with pytest.raises((OSError, NotFound)):
            session.stat(Stat(path, follow=True, in_trash=where))
    else:
        assert session.stat(Stat(path, follow=True, in_trash=where)).type == "link"


def test_rules_of_where_it_was_hold(bin_, where):
    hidden = bin_.open(permissions="all /d/e=none")
    assert set(listed(hidden, b"/", in_trash=where)) == {b"a", b"link", b"inner"}
    for requested in (Get(b"/e/b", in_trash=where), Hash(b"/e/b", where)):
        with pytest.raises(Forbidden):
            hidden.hash(requested) if isinstance(requested, Hash) else hidden.open(requested)
    with pytest.raises(Forbidden):
        hidden.stat(Stat(b"/e/b", in_trash=where))
    with pytest.raises(Forbidden):
        listed(hidden, b"/e", in_trash=where)
    with pytest.raises(Forbidden):
        bin_.open(permissions="upload-only").stat(Stat(b"/", in_trash=where))


def test_what_is_not_in_the_trash(bin_, where):
    name, item = where
    with pytest.raises(NotFound):
        bin_.session.stat(Stat(b"/", in_trash=(name, "0" * 8 + "-7")))
    with pytest.raises(Expired):
        bin_.session.stat(Stat(b"/", in_trash=("0" * 16 + "-" + "0" * 8, item)))
    bin_.restore(name)
    with pytest.raises(Expired):
        bin_.session.stat(Stat(b"/", in_trash=where))


def test_a_directory_is_no_file(bin_, where):
    with pytest.raises((IsADirectory, IsADirectoryError)):
        bin_.session.open(Get(b"/e", in_trash=where))


def test_a_link_to_the_trash_leads_around_no_rule(bin_, where):
    """Such a link can come from outside only."""
    os.symlink(".ftpd-trash", bin_.files / "way")
    name, item = where
    path = b"/way/%s/%s/a" % (name.encode(), item.encode())
    with pytest.raises(Forbidden):
        bin_.open(permissions="all /d=none").open(Get(path))


# for good ----------------------------------------------------------------------------------


def test_purging(bin_):
    bin_.put(b"/a", b"12345")
    bin_.put(b"/d/b", b"123", parents=True)
    first, second = bin_.rm(b"/a"), bin_.rm(b"/d", recursive=True)
    removed = bin_.session.purge(Purge(first))
    assert (removed.files, removed.size_bytes) == (1, 5)
    assert [one.name for one in bin_.operations()] == [second]
    with pytest.raises(Expired):
        bin_.session.purge(Purge(first))
    assert bin_.session.purge(Purge(before=1)).size_bytes == 0
    with pytest.raises(Forbidden):
        bin_.open(permissions="no-delete").purge(Purge())
    guarded = bin_.open(permissions="all /d=no-delete")
    with pytest.raises(Forbidden):
        guarded.purge(Purge(second))
    assert guarded.purge(Purge()).size_bytes == 0
    removed = bin_.session.purge(Purge())
    assert (removed.files, removed.directories, removed.size_bytes) == (1, 1, 3)
    assert bin_.operations() == []
    assert bin_.agrees()
