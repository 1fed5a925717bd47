"""`ftp sync` as a user runs it: scripts, pipes, the shell, a terminal that asks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.shell_support import Terminal

TIME = 1_600_000_000_123_456_789


def write(path: Path, data: str = "some bytes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)
    os.utime(path, ns=(TIME, TIME))
    return path


@pytest.fixture
def site(user):
    """A local tree to be mirrored."""
    root = user.home / "site"
    write(root / "index.html", "<html>")
    write(root / "css" / "site.css", "body {}").chmod(0o600)
    (root / "img").mkdir()
    os.symlink("index.html", root / "home")
    for directory in ("css", "img", "."):
        os.utime(root / directory, ns=(TIME, TIME))
    return root


def home_of(server, user) -> Path:
    return server.home(user.name)


def same(left: Path, right: Path) -> None:
    """As trees.same, apart from the mtimes of links."""
    found = [line for line in trees.differences(left, right) if "b'./home': mtime" not in line]
    assert not found, found


def test_there_and_back(any_user, shared_server, shared_plain_server):
    root = any_user.home / "site"
    write(root / "d" / "file", "x" * 1_000_000)
    write(root / "other")

    any_user.run("sync", root, ":/www")
    any_user.run("sync", ":/www", "back")

    trees.same(root, any_user.home / "back")
    for source, target in ((root, ":/www"), (":/www", "back")):
        done = any_user.run("sync", "--delete", source, target)
        assert done.out == b""
        assert done.complaint.startswith("0 sent, 2 unchanged, in ")


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
        "dry run, nothing was done: 1 sent (12 B), 0 unchanged, 2 deleted, 1 renamed, "
    )
    done = user.run("-q", "sync", "--delete", "site", ":www")
    assert (done.out, done.err) == (b"", "")


def test_json(user, site, shared_server):
    user.run("sync", "site", ":www")
    write(site / "index.html", "<html><body>")
    (site / "css" / "site.css").chmod(0o644)
    (site / "img").rmdir()
    write(site / os.fsdecode(b"\xff"), "1")

    records = user.run("sync", "--delete", "--json", "-n", "site", ":www").records
    *steps, summary = records

    assert {step["status"] for step in steps} == {"planned"}
    by_action = {(step["action"], step.get("path") or step["destination"]): step for step in steps}
    assert by_action["put", "/www/index.html"] == {
        "action": "put",
        "source": "site/index.html",
        "destination": "/www/index.html",
        "size": 12,
        "why": "size",
        "status": "planned",
    }
    assert by_action["put", "/www/\ufffd"]["destination_b64"] == "L3d3dy//"
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
    same(site, home_of(shared_server, user) / "www")


@pytest.mark.parametrize(
    ("prepare", "options", "told"),
    [
        pytest.param(lambda s: trees.remove(s / "css"), ["--max-delete", "1"],
                     "2 things would be deleted, and --max-delete is 1", id="too-many"),
        pytest.param(lambda s: (trees.remove(s), s.mkdir()), [],
                     "site is empty, and 5 things would be deleted", id="empty-source"),
    ],
)  # fmt: skip
def test_safety_limits(user, site, shared_server, prepare, options, told):
    user.run("sync", "site", ":www")
    prepare(site)
    before = trees.names(home_of(shared_server, user) / "www")

    for more in ([], ["--dry-run"]):
        refused = user.run("sync", "--delete", *options, *more, "site", ":www", status=11)
        assert told in refused.err and "nothing was changed" in refused.err
    error = user.run("--json", "sync", "--delete", *options, "site", ":www", status=11)
    assert json.loads(error.complaint)["error"] == "safety-limit"

    assert trees.names(home_of(shared_server, user) / "www") == before
    forced = ["--force"] if not options else ["--max-delete", "2"]
    user.run("sync", "--delete", *forced, "site", ":www")
    assert trees.names(home_of(shared_server, user) / "www") == trees.names(site)


def test_exit_statuses(user, site):
    user.run("sync", "none", ":www", status=5)
    user.run("sync", ":none", "here", status=5)
    user.run("sync", "site/index.html", ":www", status=1)
    user.run("sync", "site", "www", status=2)
    user.run("put", "site/index.html", "/thing")
    user.run("sync", "site", ":/thing", status=1)
    assert not (user.home / "here").exists()


def test_patterns_in_the_order_they_were_given(user, site, shared_server):
    www = home_of(shared_server, user) / "www"
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


def test_options_that_fingers_know(user, site, shared_server):
    done = user.run("sync", "-avn", "--delete", "site/", ":www/")
    assert "put        index.html  (new, 6 B)" in done.lines
    user.run("sync", "-a", "-u", "--checksum", "site/", ":www/")
    same(site, home_of(shared_server, user) / "www")
    assert (
        "bytes travel as they are, without compression"
        in user.run("sync", "-avz", "site/", ":www/", status=2).err
    )


def test_in_the_shell(user, site, shared_server):
    lines = b"mkdir work\ncd work\nsync --delete site :web\nsync :web copy\nls web\n"
    done = user.run("connect", given=lines)
    assert done.lines == ["css/", "home", "img/", "index.html"]
    same(site, home_of(shared_server, user) / "work" / "web")
    same(site, user.home / "copy")
    stopped = user.run("connect", given=b"sync site :\nmkdir never\n", status=2)
    assert "nothing follows the colon" in stopped.complaint


def test_interrupted_and_run_again(user, site, shared_server):
    for number in range(4_000):
        write(site / f"d{number % 100}" / f"{number}", str(number))
    process = user.start("-v", "sync", "site", ":www")
    for _ in range(150):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    stopped = finish(process, status=130)
    assert "interrupted" in stopped.err

    done = user.run("sync", "--json", "site", ":www").records[-1]
    assert done["sent"] < 4_003 and done["failed"] == 0
    same(site, home_of(shared_server, user) / "www")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_killed_and_run_again(user, site, shared_server, direction):
    for number in range(2_000):
        write(site / f"d{number % 100}" / f"{number}", str(number))
    ends = ("site", ":www")
    target = home_of(shared_server, user) / "www"
    if direction == "down":
        user.run("sync", "site", ":www")
        ends, target = (":www", "back"), user.home / "back"
    process = user.start("-v", "sync", *ends)
    for _ in range(150):
        assert process.stdout.readline()
    process.kill()
    process.wait()
    if direction == "up":
        eventually(lambda: not shared_server.staged(user.name))

    user.run("sync", "--delete", *ends)
    same(site, target)


# a terminal that asks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "left"),
    [
        pytest.param("no", 11, True, id="no"),
        pytest.param("yes", 0, False, id="yes"),
        pytest.param("maybe\ry", 0, False, id="asked-again"),
        pytest.param("\x04", 11, True, id="end-of-input"),
        pytest.param("\x03", 130, True, id="ctrl-c"),
    ],
)
def test_deletions_are_confirmed(user, site, shared_server, answer, status, left):
    www = home_of(shared_server, user) / "www"
    user.run("sync", "site", ":www")
    (site / "index.html").unlink()
    write(site / "new")
    with Terminal(user, "sync", "--delete", "site", ":www") as terminal:
        shown = terminal.expect("Delete 1 thing (6 B) (yes/no)? ")
        assert "index.html" in shown
        terminal.keys(answer, "" if answer < " " else "\r")
        printed, ended = terminal.end()

    assert ended == status, printed
    assert (www / "index.html").exists() == left
    assert (www / "new").exists() != left


@pytest.mark.parametrize("options", [["-y"], ["-n"], ["--json"]], ids=" ".join)
def test_when_nobody_is_asked(user, site, shared_server, options):
    user.run("sync", "site", ":www")
    (site / "index.html").unlink()
    with Terminal(user, "sync", "--delete", *options, "site", ":www") as terminal:
        printed, ended = terminal.end()
    assert ended == 0 and not any("yes/no" in line for line in printed)
    gone = not (home_of(shared_server, user) / "www" / "index.html").exists()
    assert gone == (options != ["-n"])


def test_long_lists_of_deletions_are_cut(user, site):
    user.run("sync", "site", ":www")
    for number in range(30):
        write(site / f"file{number}")
    user.run("sync", "site", ":www")
    for number in range(30):
        (site / f"file{number}").unlink()
    with Terminal(user, "sync", "--delete", "site", ":www") as terminal:
        shown = terminal.expect("Delete 30 things (300 B) (yes/no)? ")
        assert "… and 10 more" in shown
        terminal.keys("n\r")
        assert terminal.end()[1] == 11
