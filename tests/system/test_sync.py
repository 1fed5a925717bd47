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


def test_there_and_back(user):
    root = user.home / "site"
    write(root / "d" / "file", "x" * 1_000_000)
    write(root / "other")

    user.run("sync", root, ":/www")
    user.run("sync", ":/www", "back")

    trees.same(root, user.home / "back")
    for source, target in ((root, ":/www"), (":/www", "back")):
        done = user.run("sync", "--delete", source, target)
        assert done.out == b""
        assert done.complaint.startswith("0 sent, 2 unchanged, in ")


def test_a_safety_limit(user, site, shared_server):
    user.run("sync", "site", ":www")
    trees.remove(site / "css")
    before = trees.names(home_of(shared_server, user) / "www")
    limited = ("--json", "sync", "--delete", "--max-delete", "1", "site", ":www")
    error = json.loads(user.run(*limited, status=11).complaint)
    assert error["error"] == "safety-limit"
    assert trees.names(home_of(shared_server, user) / "www") == before


def test_interrupted_and_run_again(user, site, shared_server):
    for number in range(2_000):
        write(site / f"d{number % 100}" / f"{number}", str(number))
    process = user.start("-v", "sync", "site", ":www")
    for _ in range(150):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    stopped = finish(process, status=130)
    assert "interrupted" in stopped.err

    done = user.run("sync", "--json", "site", ":www").records[-1]
    assert done["sent"] < 2_003 and done["failed"] == 0
    same(site, home_of(shared_server, user) / "www")


def test_killed_and_run_again(user, site, shared_server):
    for number in range(1_000):
        write(site / f"d{number % 100}" / f"{number}", str(number))
    process = user.start("-v", "sync", "site", ":www")
    for _ in range(150):
        assert process.stdout.readline()
    process.kill()
    process.wait()
    eventually(lambda: not shared_server.staged(user.name))

    user.run("sync", "--delete", "site", ":www")
    same(site, home_of(shared_server, user) / "www")


# a terminal that asks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "left"),
    [
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
        shown = terminal.expect("Delete 1 entry (6 B) (yes/no)? ")
        assert "index.html" in shown
        terminal.keys(answer, "" if answer < " " else "\r")
        printed, ended = terminal.end()

    assert ended == status, printed
    assert (www / "index.html").exists() == left
    assert (www / "new").exists() != left


@pytest.mark.parametrize("options", [["-y"], ["-n"]], ids=" ".join)
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
        shown = terminal.expect("Delete 30 entries (300 B) (yes/no/list)? ")
        assert "… and 10 more" in shown and "file9 " not in shown
        terminal.keys("list\r")
        shown = terminal.expect("Delete 30 entries (300 B) (yes/no/list)? ")
        listed = [line.split()[0] for line in shown.splitlines() if "(10 B)" in line]
        assert listed == sorted(f"file{number}" for number in range(30))
        terminal.keys("n\r")
        assert terminal.end()[1] == 11
