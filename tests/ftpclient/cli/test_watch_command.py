"""`ftp sync --watch`: its rounds, what is printed, and the exit statuses, with scripted changes.

Lives elsewhere: finding changes (../sync/test_tree_changes.py), the real program with inotify, lost
servers and signals (tests/system/test_watch.py).
"""

from __future__ import annotations

import json
import math
import shutil
import signal

import pytest

from ftpclient.cli import watching
from ftpclient.sync import quiet, tree_changes
from ftpclient.sync.tree_changes import Changes, TreeChanges, Unavailable
from ftpclient.transfer.report import Listener
from ftpclient.transfer.retry import Patience
from ftpwire.errors import ConnectionLost


class Scripted(TreeChanges):
    """Does the next thing of a script at each wait, and Ctrl-C after the last.

    Attributes:
        steps: Functions; what they return is told as directories in which something changed.
        renewed: How often everything was begun anew.
    """

    def __init__(self, *steps) -> None:
        self.steps = list(steps)
        self.renewed = 0
        self.is_closed = False

    def wait(self, seconds):
        if not self.steps:
            signal.raise_signal(signal.SIGINT)
            return Changes()
        found = self.steps.pop(0)()
        return found if isinstance(found, Changes) else Changes(set(found))

    def renew(self):
        self.renewed += 1

    def close(self):
        self.is_closed = True


@pytest.fixture
def site(user):
    root = user.home / "site"
    (root / "d").mkdir(parents=True)
    (root / "a").write_text("1")
    (root / "d" / "b").write_text("1")
    return root


@pytest.fixture
def watch(user, site, monkeypatch):
    """Runs `sync --watch` with steps that change something."""
    monkeypatch.setattr(quiet, "QUIET_SECONDS", 0.0)

    def watch(*steps, options=(), status=0, scripted=None):
        found = scripted or Scripted(*steps)
        monkeypatch.setattr(tree_changes, "watching", lambda *_, **__: found)
        done = user.run("sync", "--watch", *options, "site", ":www", status=status)
        assert found.is_closed
        return done

    return watch


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ([":www", "site"], "needs a local SRC"),
        (["-n", "site", ":www"], "--watch and --dry-run cannot be used together"),
        (["--files-from", "list", "site", ":www"], "--watch and --files-from"),
        (["--min-age", "2d", "site", ":www"], "--watch and --min-age"),
        (["--delete", "site", ":www"], "needs -y"),
    ],
)
def test_what_it_can_not_do(user, site, options, reported):
    (user.home / "list").write_text("a\n")
    assert reported in user.run("sync", "--watch", *options, status=2).err
    assert not (user.on_server / "www").exists()


def test_a_first_sync_that_fails(user, site):
    done = user.run("sync", "--watch", "none", ":www", status=5)
    assert done.complaint == "ftp: none: no such file or directory"
    user.at("127.0.0.1:1").run("sync", "--watch", "site", ":www", status=4)


def test_rounds(user, site, watch):
    seen = []

    def change():
        seen.append(sorted(path.name for path in (user.on_server / "www").iterdir()))
        (site / "d" / "b").write_text("22")
        (site / "a").write_text("22")  # not told
        return [b"d"]

    def see():
        www = user.on_server / "www"
        seen.append(((www / "d" / "b").read_text(), (www / "a").read_text()))
        return []

    done = watch(change, see)
    assert seen == [["a", "d"], ("22", "1")]
    lines = done.err.splitlines()
    assert lines[0].startswith("2 sent (2 B), 0 unchanged")
    assert lines[1] == "ftp: watching site (Ctrl-C stops)"
    assert lines[2].startswith("1 sent (2 B), 0 unchanged")
    assert len(lines) == 3


def test_nothing_is_said_of_a_round_that_has_nothing_to_do(watch):
    assert len(watch(lambda: [b"d"]).err.splitlines()) == 2
    assert watch(lambda: [b"d"], options=["-q"]).err == ""


def test_each_round_has_a_summary_in_json(site, watch):
    def change():
        (site / "a").write_text("22")
        return [b""]

    done = watch(change, lambda: [b"d"], options=["--json"])
    records = [json.loads(line) for line in done.lines]
    assert [one["sent"] for one in records if one.get("summary")] == [2, 1, 0]
    assert done.err == ""


def test_everything(user, site, watch):
    def change():
        (site / "d" / "b").write_text("22")
        return Changes(everything=True)

    scripted = Scripted(change)
    watch(scripted=scripted)
    assert scripted.renewed == 1
    assert (user.on_server / "www" / "d" / "b").read_text() == "22"


def test_deletions_and_their_limit(user, site, watch):
    www = user.on_server / "www"

    def delete():
        shutil.rmtree(site / "d")
        return [b""]

    assert "deleted" not in watch(delete).err
    assert (www / "d" / "b").exists()
    (site / "d").mkdir()
    (site / "d" / "b").write_text("1")

    done = watch(delete, lambda: [b"none"], options=["--delete", "-y", "--max-delete", "1"])
    assert done.err.count("2 entries would be deleted, but --max-delete is 1") == 2, "tried again"
    assert (www / "d" / "b").exists()
    (site / "d").mkdir()
    done = watch(delete, options=["--delete", "-y", "--max-delete", "2"])
    assert "1 deleted" in done.err and not (www / "d").exists()


def test_what_failed_is_tried_again_with_the_next_change(user, site, watch):
    def too_deep():
        (user.on_server / "www" / "d" / "x").mkdir()
        (site / "d" / "x").write_text("1")
        return [b"d"]

    def free():
        (user.on_server / "www" / "d" / "x").rmdir()
        return [b""]

    done = watch(too_deep, free)
    assert "is a directory, but a file in the source" in done.err
    assert (user.on_server / "www" / "d" / "x").read_text() == "1"


def test_each_round_is_an_operation_of_its_own(user, site, watch):
    def change(text):
        (site / "a").write_text(text)
        return [b""]

    watch(lambda: change("22"), lambda: change("333"))
    user.run("undo")
    assert (user.on_server / "www" / "a").read_text() == "22", "the earlier rounds stay"


def test_walking_if_the_kernel_reports_no_more(user, site, watch, monkeypatch):
    walked = Scripted()

    def lose():
        (site / "d" / "b").write_text("22")
        raise Unavailable("too many directories")

    monkeypatch.setattr(watching, "Walks", lambda *_: walked)
    walked.steps = [lambda: []]
    lost = Scripted(lose)
    done = watch(scripted=lost)
    assert "ftp: too many directories: looking for changes every 5 seconds" in done.err
    assert (lost.is_closed, walked.is_closed, walked.renewed) == (True, True, 1)
    assert (user.on_server / "www" / "d" / "b").read_text() == "22"


def test_a_tree_that_is_gone(site, watch):
    class Gone(Scripted):
        def renew(self):
            raise FileNotFoundError(2, "No such file or directory")

    scripted = Gone(lambda: Changes(everything=True))
    done = watch(scripted=scripted, status=5)
    assert done.err.endswith("ftp: site: no such file or directory\n")


def test_waits_for_a_lost_server_grow_to_a_minute():
    now, waits = [0.0], []

    def wait(seconds):
        now[0] += seconds
        waits[-1] += seconds

    patience = Patience(math.inf, None, Listener(), wait, lambda: now[0])
    for _ in range(40):
        patience.lost(ConnectionLost("lost"))
        waits.append(0.0)
        patience.pause()
    assert 45 < max(waits) <= 60, "longer than other commands wait, and at most a minute"


def test_ctrl_c_while_files_are_sent_ends_after_the_file(user, site, watch, monkeypatch):
    done_before = watching._Round.finished
    finished = []

    def finish(self, result):
        if result.step.action == "put":
            finished.append(result.target)
            if len(finished) == 1:
                signal.raise_signal(signal.SIGINT)
        done_before(self, result)

    monkeypatch.setattr(watching._Round, "finished", finish)
    monkeypatch.setattr(watching._Round, "all_stored", Listener.all_stored)
    for number in range(3):  # too large to share a request
        (site / f"large{number}").write_bytes(bytes(5_000_000))
    done = watch()
    assert 1 <= len(finished) < 5 and "watching" not in done.err
    for path in finished:
        stored = user.on_server / path.decode().lstrip("/")
        assert (
            stored.read_bytes() == (site / stored.relative_to(user.on_server / "www")).read_bytes()
        )
