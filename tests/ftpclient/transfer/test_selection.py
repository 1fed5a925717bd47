"""What of a tree is transferred: --exclude, .ftpignore files, lists of paths; both ways.

Lives elsewhere: what a pattern matches (test_patterns.py), syncs (../sync/), the options as they
are typed (../cli/test_filter_options.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpclient.transfer.path_list import PathList, looking_here, path_below
from ftpclient.transfer.report import Listener, Result
from ftpclient.transfer.selection import Filter, Walk
from ftpwire.errors import InvalidPath, NotADirectory, QuotaExceeded
from ftpwire.messages import Entry


def grow(root: Path, *names: str, data: bytes = b"x") -> Path:
    """Files below a root; what ends with a slash is an empty directory."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
    return root


def names(root: Path) -> list[str]:
    """All below a root, directories with a slash at their end."""
    found = [path for path in root.rglob("*") if not path.name.startswith(".ftpd")]
    return sorted(f"{path.relative_to(root)}{'/' * path.is_dir()}" for path in found)


class Recording(Listener):
    """Keeps the failures."""

    def __init__(self) -> None:
        self.failed: list[Result] = []

    def finished(self, result: Result) -> None:
        if result.status == "failed":
            self.failed.append(result)

    @property
    def codes(self) -> list[tuple[str, str]]:
        return sorted((os.fsdecode(r.source), r.error.code) for r in self.failed)


@pytest.fixture(params=["put", "get"])
def both_ways(client, files, tmp_path, request):
    """The root of a tree to be made, and a function that transfers it; it returns what came."""
    up = request.param == "put"
    source, target = (tmp_path / "here", files / "to") if up else (files / "from", tmp_path / "to")
    source.mkdir()

    def transfer(**options):
        reported = Recording()
        if up:
            summary = client.put(source, "/to", listener=reported, **options)
        else:
            summary = client.get("/from", target, listener=reported, **options)
        return names(target) if target.exists() else None, reported, summary

    return source, transfer


def test_patterns_hold_below_the_source(both_ways):
    source, transfer = both_ways
    grow(source, "a.o", "a.c", "d/b.o", "d/b.c", "d/e/keep.o", "build/x", "docs/")
    patterns = ["*.o", "!keep.o", "/build/"]

    found, _, summary = transfer(recursive=True, exclude=patterns)

    assert found == ["a.c", "d/", "d/b.c", "d/e/", "d/e/keep.o", "docs/"]
    assert (summary.done, summary.exit_code) == (3, 0)


def test_the_source_itself_is_no_matter(both_ways):
    source, transfer = both_ways
    grow(source, "a")
    found, _, _ = transfer(recursive=True, exclude=["here", "from", "to"])
    assert found == ["a"]


def test_only_the_files_of_a_list(both_ways):
    source, transfer = both_ways
    grow(source, "a", "b", "d/e/f", "d/e/g", "d/h", "tree/x/y", "tree/z", "none/")

    found, reported, summary = transfer(files_from=["a", "./d//e/f", "tree", "a"])

    assert found == ["a", "d/", "d/e/", "d/e/f", "tree/", "tree/x/", "tree/x/y", "tree/z"]
    assert (reported.codes, summary.exit_code) == ([], 0)


def test_one_that_is_missing_fails_and_the_others_come(both_ways):
    source, transfer = both_ways
    grow(source, "a", "d/b", "e/")

    found, reported, summary = transfer(files_from=["nope", "a", "e/nope", "a/b", "d/b"])

    assert found == ["a", "d/", "d/b"]  # and no e, which leads to nothing
    assert [os.path.basename(name) for name, _ in reported.codes] == ["b", "nope", "nope"]
    assert (summary.done, summary.failed, summary.exit_code) == (2, 3, 1)


def test_a_list_and_patterns(both_ways):
    source, transfer = both_ways
    grow(source, "a.o", "d/b.o", "d/b.c", "secret/c")
    wanted = ["a.o", "d", "secret/c"]
    found, _, summary = transfer(files_from=wanted, exclude=["*.o", "secret/"])
    assert found == ["d/", "d/b.c"]
    assert summary.exit_code == 0


def test_a_link_on_the_way(both_ways, tmp_path):
    """It leads out of the tree, maybe: the path is not taken for one that is there."""
    source, transfer = both_ways
    grow(source, "d/a")
    os.symlink("d", source / "link")
    found, reported, summary = transfer(files_from=["link/a"])
    assert (found, [code for _, code in reported.codes]) == ([], ["not-a-directory"])
    found, reported, _ = transfer(files_from=["link/a"], copy_links=True)
    assert (found, reported.codes) == (["link/", "link/a"], [])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "d/../../a", "d/..", ".", "", "a\0b", "a" * 5000]
)
def test_what_leads_out_of_the_source_stops_all_of_it(client, tmp_path, files, name):
    grow(tmp_path / "here", "a")
    for transfer in (
        lambda: client.put(tmp_path / "here", "/to", files_from=["a", name]),
        lambda: client.get("/", tmp_path / "to", files_from=["a", name]),
    ):
        with pytest.raises(InvalidPath):
            transfer()
    assert names(files) == []
    assert not (tmp_path / "to").exists()


def test_a_list_is_below_one_directory(client, tmp_path, files):
    grow(tmp_path, "here/a", "file")
    grow(files, "there")
    with pytest.raises(InvalidPath):
        client.put([tmp_path / "here", tmp_path / "file"], "/to", files_from=["a"])
    for summary in (
        client.put(tmp_path / "file", "/to", files_from=["a"]),
        client.get("/there", tmp_path / "to", files_from=["a"]),
    ):
        assert isinstance(summary.first_error, NotADirectory)


def test_ignore_files_only_when_asked(client, tmp_path, files):
    here = grow(tmp_path / "here", "a.o", "d/b.o", "d/c")
    (here / ".ftpignore").write_text("*.o\n")
    (here / "d" / ".ftpignore").write_text("!b.o\n")
    client.put(here, "/to", recursive=True, ignore_files=True)
    assert names(files / "to") == [".ftpignore", "d/", "d/.ftpignore", "d/b.o", "d/c"]
    client.put(here, "/all", recursive=True)
    assert names(files / "all") == names(here)


def test_what_is_left_out_needs_no_space(start_server, connect, tmp_path):
    client = connect(start_server(durable=False, quota=100_000))
    grow(tmp_path / "here", "big", data=b"x" * 200_000)
    grow(tmp_path / "here", "small")
    with pytest.raises(QuotaExceeded):
        client.put(tmp_path / "here", "/to", recursive=True)
    assert client.put(tmp_path / "here", "/to", recursive=True, exclude=["big"]).done == 1
    assert client.put(tmp_path / "here", "/list", files_from=["small"]).done == 1


def test_patterns_over_several_connections(client, files, tmp_path):
    grow(tmp_path / "here", *(f"d{n}/{m}.{kind}" for n in range(5) for m in "ab" for kind in "oc"))
    client.put(tmp_path / "here", "/to", recursive=True, exclude=["*.o"], parallel=2)
    assert len(list((files / "to").rglob("*.*"))) == 10
    client.get("/to", tmp_path / "back", recursive=True, exclude=["a.*"], parallel=2)
    assert len(list((tmp_path / "back").rglob("*.*"))) == 5


# the parts ----------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c", "é"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)


@given(wanted=st.lists(_PATHS, max_size=5), there=st.sets(_PATHS, max_size=12))
def test_a_list_is_what_it_says(wanted, there):
    """Compared with the rule: a path is meant when it, or one above it, is in the list; and what
    is on the way to one."""
    directories = {path.rsplit("/", n)[0] for path in there for n in range(1, path.count("/") + 1)}
    known = there | directories

    def look(batch):
        return [None if os.fsdecode(name) in known else NotADirectory("gone") for name in batch]

    only = PathList(map(os.fsencode, wanted))
    try:
        gone = [os.fsdecode(name) for name, _ in only.choose(look)]
        assert gone == [name for name in wanted if name not in known]
        walk = Walk(Filter(chosen=only))
        found = set()
        tree: dict[str, list[Entry]] = {"": []}
        for path in sorted(known):
            above, _, name = path.rpartition("/")
            kind = "dir" if path in directories else "file"
            tree.setdefault(above, []).append(Entry(os.fsencode(name), kind, 1, 0o644, 0))
        for directory in sorted(tree):
            for entry in walk.selected(os.fsencode(directory), tree[directory]):
                found.add(f"{directory}/{os.fsdecode(entry.path)}".removeprefix("/"))
    finally:
        only.close()
    named = set(wanted) & known

    def is_meant(path):
        above = (path.rsplit("/", n)[0] for n in range(path.count("/") + 1))
        leads = path in directories and any(one.startswith(path + "/") for one in named)
        return leads or any(one in named for one in above)

    assert found == {path for path in known if is_meant(path)}


def test_a_long_list_is_on_disk_and_still_right(tmp_path):
    only = PathList(b"d%d/f" % number for number in range(25_000))
    try:
        for number in (0, 24_999):
            grow(tmp_path, f"d{number}/f")
        gone = sum(1 for _ in only.choose(looking_here(os.fsencode(tmp_path), follow=False)))
        assert gone == 24_998
        assert only.is_named(b"d24999/f") and only.is_above(b"d24999")
        assert not only.is_named(b"d5/f") and not only.is_above(b"d5")
    finally:
        only.close()


def test_paths_of_a_list_are_plain():
    assert path_below(b"./a//b/.") == b"a/b"
    assert path_below(b"#a") == b"#a"
    assert path_below(b"a..b/...") == b"a..b/..."
