"""--dry-run of put, get, cp, mv and rm: what is printed, that nothing changes, exit statuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftpserver.storage.permissions import Permissions

TIME = 1_600_000_000_123_456_789


def write(path: Path, data: bytes = b"xy", *, later: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(TIME, TIME + later))
    return path


def state(*roots: Path) -> list[tuple]:
    """All that can be seen below some directories."""
    found = []
    for root in roots:
        for path in sorted([root, *root.rglob("*")]):
            if "config" in path.parts or ".ftpd-staging" in path.parts:
                continue
            info = path.lstat()
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found.append((path, info.st_mode, info.st_mtime_ns, data))
    return found


@pytest.fixture
def look(user):
    """Run a dry run; nothing has changed afterwards at either end."""
    user.run("ls")  # the first session of all makes a directory in the home

    def run(*words: str, status: int = 0):
        before = state(user.home, user.on_server)
        ended = user.run(*words, "--dry-run", status=status)
        assert state(user.home, user.on_server) == before
        return ended

    return run


@pytest.fixture
def site(user) -> Path:
    """A tree that was put as /www, and has changed a little since then."""
    root = user.home / "site"
    write(root / "same")
    write(root / "changed")
    write(root / "d" / "old")
    os.symlink("same", root / "link")
    user.run("put", "-r", "site", "/www")
    write(root / "changed", b"abc", later=1)
    write(root / "new", b"")
    write(root / "e" / "f", b"123")
    return root


def test_put_of_a_file(user, look):
    write(user.home / "a.txt")
    ended = look("put", "a.txt")
    assert ended.lines == ["put        a.txt  (new, 2 B)"]
    assert look("put", "a.txt", "new/").lines == ["put        a.txt  (new, 2 B)"]
    assert ended.complaint.startswith("dry run, nothing changed: 1 file, 2 B")
    user.run("put", "a.txt")
    assert look("put", "a.txt").lines == ["same       a.txt  (2 B)"]
    write(user.home / "a.txt", b"no")
    assert look("put", "a.txt").lines == ["put        a.txt  (replaces, 2 B)"]
    assert look("put", "-n", "a.txt").lines == ["skip       a.txt  (/a.txt: exists)"]
    line = "skip       a.txt  (/a.txt: the existing file is not older)"
    assert look("put", "-u", "a.txt").lines == [line]


def test_put_of_a_tree(user, look, site):
    assert sorted(look("put", "-rT", "site", "/www").lines) == [
        "mkdir      site/e/",
        "put        site/changed  (replaces, 3 B)",
        "put        site/e/f  (new, 3 B)",
        "put        site/link  (replaces)",
        "put        site/new  (new)",
        "same       site/d/old  (2 B)",
        "same       site/same  (2 B)",
    ]
    assert "mkdir      site/" in look("put", "-r", "site", "/www").lines  # into it
    lines = look("put", "-rT", "-x", "d", "--no-resume", "site", "/www").lines
    assert "put        site/same  (replaces, 2 B)" in lines
    assert not any("site/d" in line for line in lines)


def test_get_of_a_tree(user, look, site):
    user.run("get", "-r", "/www", "got")
    write(user.home / "got" / "changed", b"other")
    (user.home / "got" / "d" / "old").unlink()
    (user.home / "got" / "d").rmdir()
    assert sorted(look("get", "-rT", "/www", "got").lines) == [
        "get        /www/changed  (replaces, 2 B)",
        "get        /www/d/old  (new, 2 B)",
        "get        /www/link  (replaces)",
        "mkdir      /www/d/",
        "same       /www/same  (2 B)",
    ]
    assert look("get", "-rT", "/www", "fresh").lines[0] == "mkdir      /www/"
    assert look("get", "/www/same", "one/").lines == ["get        /www/same  (new, 2 B)"]
    assert not (user.home / "one").exists()


@pytest.mark.parametrize("command", ["put", "get"])
def test_it_reports_what_is_done_then(user, site, look, command):
    """The same words without --dry-run do just that."""
    words = ["-rT", "-u", "site", "/www"] if command == "put" else ["-rT", "/www", "site"]
    plan = [json.loads(line) for line in look("--json", command, *words).lines][:-1]
    done = [json.loads(line) for line in user.run("--json", command, *words).lines][:-1]

    def ends(records, *states):
        return sorted(
            (one["source"], one["destination"]) for one in records if one["status"] in states
        )

    assert {one["action"] for one in plan} <= {command, "mkdir"}
    moved = [one for one in done if not one.get("unchanged")]
    assert ends(plan_of_files(plan), "planned") == ends(moved, "done")
    assert ends(plan, "same") == ends([one for one in done if one.get("unchanged")], "same")
    assert ends(plan, "skipped") == ends(done, "skipped")


def plan_of_files(plan):
    return [one for one in plan if one["action"] != "mkdir"]


def test_an_atomic_put_takes_the_place_of_what_is_there(user, look, site):
    user.run("put", "site/new", "/www/extra")
    words = ["put", "-rT", "--atomic", "-n", "-x", "link", "site", "/www"]
    assert sorted(look(*words).lines) == [
        "mkdir      site/d/",
        "mkdir      site/e/",
        "put        site/changed  (new, 3 B)",
        "put        site/d/old  (new, 2 B)",
        "put        site/e/f  (new, 3 B)",
        "put        site/new  (new)",
        "put        site/same  (new, 2 B)",
        "remove     /www/  (7 in all, 6 B)",
    ]
    why = "some files could not be sent, so nothing was replaced"
    user.home.joinpath("list").write_text("same\nnope\n")
    words = [*words, "--files-from", "list"]
    assert why in look(*words, status=5).err
    assert why in user.run(*words, status=5).err


def test_json_is_that_of_a_sync(user, look, site):
    records = [json.loads(line) for line in look("--json", "put", "-rT", "site", "/www").lines]
    *steps, summary = records
    by_path = {one["path"]: one for one in steps}
    assert by_path["site/e/f"] == {
        "action": "put",
        "path": "site/e/f",
        "target": "/www/e/f",
        "error": None,
        "source": "site/e/f",
        "destination": "/www/e/f",
        "size": 3,
        "why": "new",
        "status": "planned",
    }
    assert by_path["site/same"]["status"] == "same"
    assert by_path["/www/e"] == {
        "action": "mkdir",
        "path": "/www/e",
        "target": None,
        "error": None,
        "type": "dir",
        "why": "new",
        "status": "planned",
    }
    assert summary["dry_run"] is True and summary["failed"] == 0


def test_changing_commands(user, look):
    user.run("mkdir", "-p", "/d/e")
    for name in ("a", "b", "d/f", "d/e/g"):
        write(user.home / "x")
        user.run("put", "x", f"/{name}")
    assert "dry run, nothing changed: 4 files, 4 B" in look("rm", "-r", "d").complaint
    assert look("rm", "-r", "a", "d").lines == [
        "remove     /a  (2 B)",
        "remove     /d/  (4 in all, 4 B)",
    ]
    assert look("mv", "a", "b").lines == ["move       /a -> /b  (replaces, 2 B)"]
    assert look("mv", "a", "b", "d").lines == [
        "move       /a -> /d/a  (new, 2 B)",
        "move       /b -> /d/b  (new, 2 B)",
    ]
    assert look("mv", "-n", "a", "b").lines == ["skip       /a -> /b  (/b: exists)"]
    assert look("cp", "-r", "d", "c").lines == ["copy       /d -> /c/  (new, 4 in all, 4 B)"]
    assert look("cp", "a", "new/").lines == ["copy       /a -> /new/a  (new, 2 B)"]
    records = [json.loads(line) for line in look("--json", "rm", "-r", "d").lines]
    assert records[0] == {
        "action": "remove",
        "path": "/d",
        "target": None,
        "error": None,
        "type": "dir",
        "count": 4,
        "size": 4,
        "status": "planned",
    }


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["put", "nope", "/a"], 5),
        (["put", "site", "/a"], 1),
        (["put", "site/new", "/nowhere/a"], 5),
        (["get", "/nope", "a"], 5),
        (["get", "/www", "a"], 1),
        (["rm", "/nope"], 5),
        (["rm", "/www"], 1),
        (["rm", "/"], 2),
        (["mv", "/nope", "/a"], 5),
        (["mv", "/www", "/nowhere/a"], 5),
        (["mv", "/www", "/www/d/www"], 1),
        (["cp", "/www", "/a"], 1),
        (["cp", "/www/same", "/www/d"], 0),
        (["cp", "-r", "/www", "/"], 1),
        (["cp", "-r", "/www", "/www/d"], 1),
        (["cp", "-r", "/", "/www"], 1),
        (["cp", "/www/same", "/www"], 0),
        (["mv", "/www/same", "/www/d", "/www"], 0),
        (["mv", "-n", "/www/same", "/www/d", "/www"], 0),
        (["mv", "-nT", "/www/d", "/www/same"], 0),
        (["mv", "-nT", "/www", "/www/d"], 0),
        (["mv", "-nT", "/www", "/www/new"], 1),
        (["mv", "-nT", "/www/same", "/www/d"], 0),
        (["mv", "-T", "/www/same", "/www/d"], 1),
        (["get", "-r", "/www/d", "/www/same", "site"], 0),
    ],
)
def test_what_would_fail_has_the_same_status(user, look, site, words, status):
    look(*words, status=status)
    user.run(*words, status=status)


def test_what_does_not_fit(start_server, at_a_command_line):
    user = at_a_command_line(start_server(durable=False, quota=1000))
    write(user.home / "big", b"x" * 2000)
    write(user.home / "half", b"x" * 600)
    user.run("put", "half", "/half")
    before = state(user.on_server)
    for words in (["put", "big"], ["put", "big", "half", "/"], ["cp", "/half", "/more"]):
        assert user.run(*words, "--dry-run", status=7).out == b""
    user.run("put", "half", "/half", "--dry-run")
    assert state(user.on_server) == before


@pytest.mark.parametrize("rights", ["read-only", "no-delete"])
def test_what_is_forbidden(start_server, at_a_command_line, rights):
    server = start_server(durable=False)
    user = at_a_command_line(server)
    write(user.home / "a")
    write(user.home / "d" / "b")
    user.run("put", "a", "/a")
    user.run("put", "-r", "d", "/d")
    write(user.home / "a", b"other")
    server.accounts.change("alice", permissions=Permissions.parse(rights))
    before = state(user.on_server)
    forbidden = [["put", "a", "/a"], ["rm", "/a"], ["rm", "-r", "/d"], ["mv", "/a", "/b"]]
    if rights == "read-only":
        forbidden += [["put", "a", "/new"], ["put", "-r", "d", "/new"], ["cp", "/a", "/b"]]
    else:
        user.run("put", "a", "/new", "--dry-run")
        user.run("cp", "/a", "/b", "--dry-run")
    for words in forbidden:
        reported = user.run(*words, "--dry-run", status=6)
        assert reported.out == b""
        user.run(*words, status=6)
    assert state(user.on_server) == before


@pytest.mark.parametrize("words", [["put", "-", "/a"], ["get", "/a", "-"]])
def test_streams_report_nothing_beforehand(user, look, words):
    look(*words, status=2)


def test_there_is_no_short_form(user):
    """-n is no-clobber in these, as in cp and mv."""
    write(user.home / "a")
    user.run("put", "-n", "a", "/a")
    assert (user.on_server / "a").exists()
