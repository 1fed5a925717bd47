"""`ftp diff`: what is printed and downloaded, the exit statuses, and that no copy stays behind.

Lives elsewhere: signals that end the real program (tests/system/test_changing.py).
"""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from ftpclient.cli.commands import diffing
from ftpwire.errors import Interrupted

ODD = os.fsdecode(b"-\xff\x1b")


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    """What is among the temporary files: nothing, after each test."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.delenv("DIFF", raising=False)
    yield place
    assert list(place.iterdir()) == []


@pytest.fixture
def fetched(monkeypatch):
    """The paths of the files that were downloaded."""
    requested = []
    before = diffing.fetch

    def fetch(app, path, directory):
        requested.append(path)
        return before(app, path, directory)

    monkeypatch.setattr(diffing, "fetch", fetch)
    return requested


@pytest.fixture
def two(user):
    """Two files of the same name, which differ in a line."""
    (user.home / "a").write_text("one\ntwo\n")
    (user.on_server / "a").write_text("one\n2\n")
    return user


CHANGE = [" one", "-two", "+2"]


def test_the_labels_are_the_real_names(two):
    done = two.run("diff", "a", ":/a", status=1)
    assert done.lines == ["--- a", "+++ :/a", "@@ -1,2 +1,2 @@", *CHANGE]
    assert not done.err
    done = two.run("diff", ":a", "a", status=1)
    assert done.lines[:2] == ["--- :a", "+++ a"]
    assert done.lines[-2:] == ["-2", "+two"]


def test_both_on_the_server(two):
    (two.on_server / "d").mkdir()
    (two.on_server / "d" / "a").write_text("one\ntwo\n")
    done = two.run("diff", ":d/a", ":a", status=1)
    assert done.lines == ["--- :d/a", "+++ :a", "@@ -1,2 +1,2 @@", *CHANGE]
    two.run("diff", ":a", ":a")
    named = f"ftpd://{two.name}@{two.server}"
    done = two.run("diff", f"{named}/d/a", f"{named}/a", status=1)
    assert done.lines == ["--- :/d/a", "+++ :/a", "@@ -1,2 +1,2 @@", *CHANGE]
    assert "both on a server" in two.run("diff", f"{named}/a", ":a", status=2).err


def test_equal_files_print_nothing_and_are_not_downloaded(two, fetched):
    (two.home / "b").write_text("same")
    two.run("put", "b", "/b")
    done = two.run("diff", "b", ":b")
    assert (done.text, done.err, fetched) == ("", "", [])


def test_a_missing_file_and_a_missing_server(two):
    done = two.run("diff", "a", ":none", status=5)
    assert done.complaint == "ftp: /none: no such file or directory"
    assert (
        two.run("diff", "none", ":a", status=5).complaint == "ftp: none: no such file or directory"
    )
    two.at("127.0.0.1:1").run("diff", "a", ":a", status=4)


def test_neither_is_remote(two):
    assert "did you mean ftp diff a :b?" in two.run("diff", "a", "b", status=2).err
    assert "nothing follows the colon" in two.run("diff", "a", ":", status=2).err


@pytest.mark.parametrize("arguments", [("d", ":a"), ("a", ":d")])
def test_directories(two, arguments):
    for above in (two.home, two.on_server):
        (above / "d").mkdir()
    done = two.run("diff", *arguments, status=2)
    (shown,) = [one for one in arguments if one.endswith("d")]
    assert done.complaint == f"ftp: {shown} is a directory: use ftp check"


def test_a_special_file(two):
    os.mkfifo(two.home / "fifo")
    assert two.run("diff", "fifo", ":a", status=2).complaint == "ftp: fifo: not a regular file"


def test_odd_names(user):
    name = os.fsencode(ODD)
    for above, text in ((user.home, "1\n"), (user.on_server, "2\n")):
        (above / ODD).write_text(text)
    done = user.run("diff", "--", name, b":" + name, status=1)
    assert done.lines == ["--- -\\xff\\x1b", "+++ :-\\xff\\x1b", "@@ -1 +1 @@", "-1", "+2"]


def test_a_local_binary_file(two, fetched):
    (two.home / "a").write_bytes(b"1\0")
    assert two.run("diff", "a", ":a", status=1).lines == ["a and :a differ"]
    (two.on_server / "a").write_bytes(b"1\0")
    assert two.run("diff", ":a", "a").lines == [":a and a are the same"]
    assert fetched == []


def test_a_remote_binary_file(two, fetched):
    (two.on_server / "a").write_bytes(b"1\0")
    assert two.run("diff", "a", ":a", status=1).lines == ["a and :a differ"]
    assert fetched == [b"/a"]


def test_large_files_are_not_downloaded(two, fetched, monkeypatch):
    monkeypatch.setattr(diffing, "MAX_TEXT", 3)
    assert two.run("diff", "a", ":a", status=1).lines == ["a and :a differ"]
    (two.on_server / "a").write_text("one\ntwo\n")
    assert two.run("diff", "a", ":a").lines == ["a and :a are the same"]
    assert fetched == []


def test_the_copy_is_private(two, tmp_path, monkeypatch):
    (two.on_server / "a").chmod(0o444)
    monkeypatch.setenv("DIFF", 'f() { stat -c %a "$2" "$(dirname "$2")"; }; f')
    assert two.run("diff", "a", ":a").lines == ["600", "700"]


def test_another_program(two, monkeypatch):
    monkeypatch.setenv("DIFF", "printf '%s\\n'")
    first, second = two.run("diff", "a", ":a").lines
    assert (first, os.path.basename(second)) == ("a", "a"), "no labels, which it may not know"
    monkeypatch.setenv("DIFF", "diff -c")
    assert two.run("diff", "a", ":a", status=1).lines[:2] == ["*** a", "--- :a"]
    monkeypatch.setenv("DIFF", "exit 9;")
    assert two.run("diff", "a", ":a", status=2).complaint == "ftp: exit 9;: exit status 9"
    monkeypatch.setenv("DIFF", "none-of-that-name")
    assert two.run("diff", "a", ":a", status=2).err.endswith("ftp: none-of-that-name: not found\n")


def test_without_diff(two, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = two.run("diff", "a", ":a", status=2)
    assert done.complaint == "ftp: diff not found: install it, or set DIFF to another program"


def test_with_json_errors_are_objects(two):
    done = two.run("--json", "diff", "a", ":none", status=5)
    assert json.loads(done.complaint)["error"] == "not-found"
    assert two.run("--json", "diff", "a", ":a", status=1).lines[2:] == ["@@ -1,2 +1,2 @@", *CHANGE]


def test_ctrl_c_removes_the_copy(two, copies, monkeypatch):
    seen = []

    def run(words, **options):
        seen.extend(copies.rglob("a"))
        return Interrupted.exit_code

    monkeypatch.setattr(diffing, "run_program", run)
    two.run("diff", "a", ":a", status=130)
    assert len(seen) == 1


def test_in_the_shell(run, files, local):
    (local / "a").write_text("one\ntwo\n")
    (files / "a").write_text("one\n2\n")
    assert run("diff a :a | tail -n 2") == (1, "-two\n+2\n", "")
    assert run("diff a :a > patch") == (1, "", "")
    assert (local / "patch").read_text().endswith("-two\n+2\n")
    assert run("check a :a > found")[0] == 1
    assert (local / "found").read_text() == "* a  (size)\n"
    assert run("diff a :none > patch")[0] == 5
    assert (local / "patch").read_text().endswith("-two\n+2\n"), "a failure replaces nothing"
    status, _, err = run("diff a :a > a")
    assert (status, "reads it" in err) == (2, True)
