"""`ftp check` as a command line: what is printed, as records, and the exit statuses.

Lives elsewhere: what is told of any two trees (../sync/test_check.py).
"""

from __future__ import annotations

import json
import os

import pytest


@pytest.fixture
def both(user):
    """A tree here, and what differs from it on the server."""
    here, there = user.home / "site", user.on_server / "www"
    for root in (here, there):
        (root / "css").mkdir(parents=True)
        (root / "css" / "a.css").write_text("body {}")
        (root / "index.html").write_text("<html>")
    (here / "index.html").write_text("<HTML>")
    (here / "new").mkdir()
    (here / "new" / "file").write_text("x")
    (here / "a\tb").write_text("x")
    (there / "old").write_text("x")
    (there / "css" / "kind").mkdir()
    (here / "css" / "kind").write_text("x")
    return here, there


LINES = [
    "+ a\\tb",
    "* css/kind  (type)",
    "* index.html  (digest)",
    "+ new/",
    "- old",
]


def test_what_is_printed(user, both):
    done = user.run("check", "site", ":www", status=1)
    assert done.lines == LINES
    assert done.complaint.startswith(
        "2 differ, 2 only local, 1 only on the server, 2 the same, in "
    )
    other_way = [line.replace("kind", "kind/") for line in LINES]  # what it is in the first
    assert user.run("-q", "check", ":www", "site", status=1).lines == other_way
    assert user.run("check", "--size-only", "--one-way", "site", ":www", status=1).lines == [
        "+ a\\tb",
        "* css/kind  (type)",
        "+ new/",
    ]
    out = ["-x", "kind", "--exclude=index.html"]
    assert user.run("check", "--one-way", *out, ":www", "site", status=1).lines == ["- old"]


def test_what_is_equal(user, both):
    done = user.run("check", "-v", "site/css/a.css", ":www/css")
    assert done.lines == ["= a.css"]
    assert done.complaint.startswith("no differences: 1 the same, in ")
    done = user.run("check", "-v", "-x", "kind", "site/css", ":www/css/")
    assert done.lines == ["= a.css"]


def test_records(user, both):
    os.mkfifo(both[0] / "fifo")
    os.symlink("x", both[1] / os.fsdecode(b"\xff"))
    done = user.run("--json", "check", "-v", "site", ":www", status=1)
    records = [json.loads(line) for line in done.lines]
    summary = records.pop()
    assert {one["path"]: (one["state"], one["why"]) for one in records} == {
        "a\tb": ("only-here", None),
        "css": ("same", None),
        "css/a.css": ("same", None),
        "css/kind": ("differs", "type"),
        "fifo": ("only-here", None),
        "index.html": ("differs", "digest"),
        "new": ("only-here", None),
        "old": ("only-there", None),
        "�": ("only-there", None),
    }
    assert [one["path_b64"] for one in records if one["path"] == "�"] == ["/w=="]
    del summary["seconds"]
    assert summary == {
        "summary": True,
        "same": 2,
        "differ": 2,
        "only_here": 3,
        "only_there": 2,
        "unreadable": 0,
        "status": 1,
    }


def test_what_can_not_be_read(plain_user, user, both):
    (both[0] / "css").chmod(0)
    done = user.run("check", "site", ":www", status=1)
    done_as_json = user.run("--json", "check", "site", ":www", status=1)
    (both[0] / "css").chmod(0o755)
    assert done.lines[1] == "! css  (site/css: permission denied)"
    assert "1 unreadable" in done.complaint
    record = json.loads(done_as_json.lines[1])
    assert (record["state"], record["error"]) == ("unreadable", "forbidden")


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        pytest.param(["site", "www"], 2, "did you mean ftp check site :www?", id="neither"),
        pytest.param([":a", ":b"], 2, "one of them must be local", id="both"),
        pytest.param(["-r", "site", ":www"], 2, "isn't needed: check takes", id="option"),
        pytest.param(["site", ":no"], 5, "/no", id="not-there"),
        pytest.param(["no", ":www"], 5, "no: ", id="not-here"),
        pytest.param(["site"], 2, "missing argument", id="one"),
    ],
)
def test_mistakes(user, both, words, status, complaint):
    assert complaint in user.run("check", *words, status=status).complaint


def test_sync_by_sizes_alone(user, both):
    user.run("sync", "--size-only", "-x", "kind", "site", ":www")
    assert (both[1] / "index.html").read_text() == "<html>"
    done = user.run("sync", "--size-only", "--checksum", "site", ":www", status=2)
    assert "cannot be used together" in done.complaint


def test_a_server_that_is_named_by_its_path(user, both):
    here = f"ftpd://{user.name}@{user.server}/www"
    assert user.run("check", "site", here, status=1).lines == LINES
    complaint = user.run("check", here, ":/www", status=2).complaint
    assert "are both on a server: one of them must be local" in complaint
