"""--exclude, --include, --exclude-from and --files-from, as they are typed.

Lives elsewhere: what they leave of a tree (../transfer/test_selection.py), syncs with them
(../sync/test_sync_options.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def grow(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.fixture
def site(user) -> Path:
    return grow(user.home / "site", "a.o", "a.c", "keep.o", "#x", "d/b.o", "d/b.c")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-x", "*.o"], ["#x", "a.c", "d/b.c"]),
        (["--exclude", "*.o", "--include", "keep.o"], ["#x", "a.c", "d/b.c", "keep.o"]),
        (["--include", "keep.o", "--exclude=*.o"], ["#x", "a.c", "d/b.c"]),
        (["-x*.o", "--exclude-from", "list", "-x", "#x"], ["a.c", "d/b.o"]),
        (["--exclude-from", "list", "-x", "*.o"], ["#x", "a.c"]),
    ],
)
def test_the_last_that_matches_decides(user, site, words, found):
    """Whichever option it came with; a file of patterns stands where it was named."""
    (user.home / "list").write_bytes(b"\xef\xbb\xbf# a comment\n\n!b.o\r\n*.[b]c\nb.c\n")
    user.run("put", "-r", *words, "site", "/put")
    assert names(user.on_server / "put") == found
    user.run("put", "-r", "site", "/src")
    user.run("get", "-r", *words, "/src", "got")
    assert names(user.home / "got") == found
    user.run("sync", *words, "site", ":/sync")
    assert names(user.on_server / "sync") == found


@pytest.mark.parametrize("command", [["put", "-r", "site", "/to"], ["sync", "site", ":/to"]])
def test_what_is_no_pattern_stops_it(user, site, command):
    failed = user.run(*command, "-x", "[a", status=2)
    assert failed.complaint == "ftp: '[a' is not a valid pattern"
    user.run(*command, "--exclude-from", "nowhere", status=5)
    assert not (user.on_server / "to").exists()


def test_a_list_from_a_file_and_from_standard_input(user, site):
    (user.home / "list").write_bytes(b"a.c\n\n#x\nd/b.c")
    user.run("put", "--files-from", "list", "site", "/one")
    assert names(user.on_server / "one") == ["#x", "a.c", "d/b.c"]
    user.run("put", "--files-from", "-", "-0", "site", "/two", given=b"keep.o\0a.o\0")
    assert names(user.on_server / "two") == ["a.o", "keep.o"]
    user.run("get", "--files-from", "-", "/one", "got", given=b"d\n")
    assert names(user.home / "got") == ["d/b.c"]
    grow(site, "two\nlines")
    user.run("put", "--files-from=-", "-0", "site", "/three", given=b"two\nlines")
    assert names(user.on_server / "three") == ["two\nlines"]


def test_one_that_is_missing(user, site):
    done = user.run(
        "--json", "put", "--files-from", "-", "site", "/to", given=b"nope\na.c\n", status=1
    )
    missing, stored, summary = map(json.loads, done.lines)
    assert (missing["source"], missing["error"]) == ("site/nope", "not-found")
    assert stored["destination"] == "/to/a.c"
    assert (summary["done"], summary["failed"]) == (1, 1)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "."])
@pytest.mark.parametrize(
    "command", [["put", "site", "/to"], ["get", "/", "to"], ["sync", "site", ":/to"]]
)
def test_a_path_that_leads_out_stops_it(user, site, command, name):
    given = f"a.c\n\n{name}\n".encode()
    failed = user.run(*command, "--files-from", "-", given=given, status=2)
    assert failed.complaint.startswith(f"ftp: standard input:3: {name}: ")
    assert list(user.on_server.glob("to")) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["put", "-x", "a", "site", "/to"], "--exclude and --include need -r"),
        (["put", "--ignore-files", "site", "/to"], "--ignore-files needs -r"),
        (["put", "-0", "site", "/to"], "-0 needs --files-from"),
        (["put", "--files-from", "list", "site", "other", "/to"], "needs exactly one SOURCE"),
        (["put", "--files-from", "list", "list", "/to"], "--files-from: list is not a directory"),
        (["put", "--files-from", "list", "-", "/to"], "cannot be used with standard input"),
        (["get", "--files-from", "list", "/a", "/b", "to"], "needs exactly one SOURCE"),
        (["get", "--files-from", "list", "/a", "-"], "cannot be used with standard output"),
    ],
)
def test_where_they_mean_nothing(user, site, words, complaint):
    (user.home / "list").write_text("a\n")
    assert complaint in user.run(*words, status=2).complaint
