"""`ftp sync` as a command line: what is printed, as records, and the exit statuses.

Lives elsewhere: what is done (sync/test_sync.py), what needs a terminal (tests/system).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftpserver.storage.permissions import Permissions
from tests.system import trees

TIME = 1_600_000_000_123_456_789


def write(path: Path, data: str = "some bytes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)
    os.utime(path, ns=(TIME, TIME))
    return path


@pytest.fixture
def site(user) -> Path:
    """A local tree to be mirrored."""
    root = user.home / "site"
    write(root / "index.html", "<html>")
    write(root / "css" / "site.css", "body {}").chmod(0o600)
    (root / "img").mkdir()
    os.symlink("index.html", root / "home")
    for directory in ("css", "img", "."):
        os.utime(root / directory, ns=(TIME, TIME))
    return root


def same(left: Path, right: Path) -> None:
    """As trees.same, apart from the mtimes of links."""
    found = [line for line in trees.differences(left, right) if "b'./home': mtime" not in line]
    assert not found, found


def test_what_is_printed(user, site):
    done = user.run("-v", "sync", "site", ":www")
    assert sorted(done.lines) == [
        "mkdir      ./",
        "mkdir      css/",
        "mkdir      img/",
        "put        css/site.css  (7 B)",
        "put        home",
        "put        index.html  (6 B)",
    ]
    assert done.complaint.startswith("3 sent (13 B), 0 unchanged, in ")
    (site / "home").unlink()
    (site / "css" / "site.css").rename(site / "all.css")
    (site / "css").rmdir()
    write(site / "index.html", "<html><body>")

    plan = user.run("sync", "--delete", "-n", "site", ":www")

    assert sorted(plan.lines) == [
        "attributes ./  (time)",
        "delete     css/",
        "delete     home",
        "put        index.html  (size, 12 B)",
        "rename     css/site.css -> all.css",
    ]
    assert plan.complaint.startswith(
        "dry run: would send 1 file (12 B), delete 2, rename 1, update 1 time or mode; 0 unchanged"
    )
    done = user.run("-q", "sync", "--delete", "site", ":www")
    assert (done.out, done.err) == (b"", "")


def test_json(user, site):
    user.run("sync", "site", ":www")
    write(site / "index.html", "<html><body>")
    (site / "css" / "site.css").chmod(0o644)
    (site / "img").rmdir()
    write(site / os.fsdecode(b"\xff"), "1")

    *steps, summary = user.run("sync", "--delete", "--json", "-n", "site", ":www").records

    assert {step["status"] for step in steps} == {"planned"}
    by_action = {(step["action"], step["target"] or step["path"]): step for step in steps}
    assert by_action["put", "/www/index.html"] == {
        "action": "put",
        "path": "site/index.html",
        "target": "/www/index.html",
        "error": None,
        "source": "site/index.html",
        "destination": "/www/index.html",
        "size": 12,
        "why": "size",
        "status": "planned",
    }
    assert by_action["put", "/www/\ufffd"]["target_b64"] == "L3d3dy//"
    assert by_action["delete", "/www/img"]["count"] == 1
    assert by_action["attributes", "/www/css/site.css"]["why"] == "mode"
    assert summary["summary"] and summary["dry_run"]
    assert (summary["sent"], summary["bytes"], summary["deleted"]) == (2, 13, 1)

    *steps, done = user.run("--json", "sync", "--delete", "site", ":www").records
    assert {step["status"] for step in steps} == {"done"}
    assert len({step.get("digest") for step in steps if step["action"] == "put"}) == 2
    assert {k: v for k, v in done.items() if k not in ("seconds", "dry_run")} == {
        k: v for k, v in summary.items() if k not in ("seconds", "dry_run")
    }
    same(site, user.on_server / "www")


@pytest.mark.parametrize(
    ("prepare", "options", "reported"),
    [
        pytest.param(lambda s: trees.remove(s / "css"), ["--max-delete", "1"],
                     "2 entries would be deleted, but --max-delete is 1", id="too-many"),
        pytest.param(lambda s: (trees.remove(s), s.mkdir()), [],
                     "site is empty, and 5 entries would be deleted", id="empty-source"),
    ],
)  # fmt: skip
def test_safety_limits(user, site, prepare, options, reported):
    user.run("sync", "site", ":www")
    prepare(site)
    before = trees.names(user.on_server / "www")

    for more in ([], ["--dry-run"]):
        refused = user.run("sync", "--delete", *options, *more, "site", ":www", status=11)
        assert reported in refused.err and "nothing was changed" in refused.err
    error = user.run("--json", "sync", "--delete", *options, "site", ":www", status=11)
    assert json.loads(error.complaint)["error"] == "safety-limit"

    assert trees.names(user.on_server / "www") == before
    forced = ["--force"] if not options else ["--max-delete", "2"]
    user.run("sync", "--delete", *forced, "site", ":www")
    assert trees.names(user.on_server / "www") == trees.names(site)


def test_exit_statuses(user, site):
    user.run("sync", "none", ":www", status=5)
    user.run("sync", ":none", "here", status=5)
    user.run("sync", "site/index.html", ":www", status=1)
    user.run("sync", "site", "www", status=2)
    user.run("put", "site/index.html", "/thing")
    user.run("sync", "site", ":/thing", status=1)
    assert not (user.home / "here").exists()


def test_patterns_in_the_order_they_were_given(user, site):
    www = user.on_server / "www"
    user.run("sync", "--exclude", "*.css", "--include=site.css", "site", ":www")
    assert (www / "css" / "site.css").exists()
    user.run("rm", "-r", "/www")
    user.run("sync", "--include=site.css", "--exclude", "*.css", "site", ":www")
    assert not (www / "css" / "site.css").exists()
    write(site / ".ftpignore", "img/\n*.html\n!index.html\n")
    write(site / "other.html")
    user.run("sync", "--delete", "site", ":www")
    assert trees.names(www) == {b".ftpignore", b"css", b"css/site.css", b"home", b"img",
                                b"index.html"}  # fmt: skip


def test_options_that_fingers_know(user, site):
    done = user.run("sync", "-avn", "--delete", "site/", ":www/")
    assert "put        index.html  (new, 6 B)" in done.lines
    user.run("sync", "-a", "-u", "--checksum", "site/", ":www/")
    same(site, user.on_server / "www")
    reported = user.run("sync", "-avz", "site/", ":www/", status=2).err
    assert "data is not compressed" in reported


def test_in_the_shell(user, site):
    lines = b"mkdir work\ncd work\nsync --delete site :web\nsync :web copy\nls web\n"
    done = user.run("connect", given=lines)
    assert done.lines == ["css/", "home", "img/", "index.html"]
    same(site, user.on_server / "work" / "web")
    same(site, user.home / "copy")
    stopped = user.run("connect", given=b"sync site :\nmkdir never\n", status=2)
    assert "nothing follows the colon" in stopped.complaint


def test_accounts_with_permissions(user, site):
    """What may not be deleted is added to; what may only be read is fetched."""
    accounts = user.running.accounts
    accounts.change("alice", permissions=Permissions.parse("no-delete"))
    user.run("sync", "site/", ":/kept/")
    write(site / "new")
    user.run("sync", "site/", ":/kept/")
    same(site, user.on_server / "kept")
    (site / "new").unlink()
    user.run("sync", "site/", ":/kept/")
    for words in ("rm /kept/new", "mv /kept/new /new", "sync --delete site/ :/kept/"):
        user.run(*words.split(), status=6)
    assert (user.on_server / "kept" / "new").exists()

    accounts.change("alice", permissions=Permissions.parse("read-only"))
    user.run("sync", ":/kept/", "back/")
    assert trees.names(user.home / "back") == trees.names(user.on_server / "kept")
    reported = user.run("put", "-", "/x", given=b"x", status=6).complaint
    assert reported.endswith("read-only account: /x cannot be changed (rule: /=read-only)")
