"""`ftp sync --watch` in the real program: inotify, a lost server, signals."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading

import pytest

from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.proxy import Proxy

pytest.importorskip("inotify_simple")
MIB = 1024 * 1024


class Lines:
    """What a program writes to a stream, read while it runs."""

    def __init__(self, stream) -> None:
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=[stream])
        self._thread.start()

    def _read(self, stream) -> None:
        for line in stream:
            self.lines.append(line.decode())

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def all(self) -> list[str]:
        """All lines, after the program has ended."""
        self._thread.join()
        return self.lines


def text_at(path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def site_of(user):
    root = user.home / "site"
    (root / "d" / "e").mkdir(parents=True)
    (root / "a").write_text("1")
    return root


def test_a_server_that_is_away_for_a_while(start_server):
    server = start_server()
    alice = server.first_user()
    site, www = site_of(alice), server.home() / "www"
    watch = alice.start("sync", "--watch", "--delete", "-y", "site", ":/www")
    reported = Lines(watch.stderr)
    eventually(lambda: reported.has("watching site"))
    assert text_at(www / "a") == "1"
    (site / "d" / "new").mkdir()
    (site / "d" / "new" / "b").write_text("2")
    eventually(lambda: text_at(www / "d" / "new" / "b") == "2")
    (site / "a").unlink()
    eventually(lambda: not (www / "a").exists())

    server.kill()
    (site / "d" / "e" / "c").write_text("3")
    eventually(lambda: reported.has("reconnecting") or reported.has("no connection"))
    again = start_server(port=server.port)
    eventually(lambda: text_at(again.home() / "www" / "d" / "e" / "c") == "3")
    (site / "d" / "new" / "b").write_text("4")
    eventually(lambda: text_at(again.home() / "www" / "d" / "new" / "b") == "4")

    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    assert "Traceback" not in "".join(reported.all())


def test_a_server_that_stays_away(start_server):
    """--retry-for limits the wait, and Ctrl-C ends it at once."""
    server = start_server()
    alice = server.first_user()
    site = site_of(alice)
    limited = alice.start("sync", "--watch", "--retry-for", "1s", "site", ":/limited")
    watch = alice.start("sync", "--watch", "site", ":/www")
    reported = [Lines(one.stderr) for one in (limited, watch)]
    eventually(lambda: all(one.has("watching site") for one in reported))
    server.kill()
    (site / "a").write_text("22")
    assert limited.wait(60) == 4
    eventually(lambda: reported[1].has("reconnecting"))
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    assert "Traceback" not in "".join(reported[0].all() + reported[1].all())


def test_a_session_that_idles(start_server):
    server = start_server("--idle-timeout", "1s")
    alice = server.first_user()
    site, www = site_of(alice), server.home() / "www"
    watch = alice.start("sync", "--watch", "--json", "site", ":/www")
    out, reported = Lines(watch.stdout), Lines(watch.stderr)
    eventually(lambda: out.has('"summary": true'))
    eventually(lambda: server.admin.run("status", "--json").record["sessions"] == 0)
    (site / "a").write_text("22")
    eventually(lambda: text_at(www / "a") == "22")
    eventually(lambda: sum('"summary": true' in line for line in out.lines) == 2)
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(60) == -signal.SIGTERM
    records = [json.loads(line) for line in out.all()]
    assert [one["sent"] for one in records if one.get("summary")] == [1, 1]
    assert "Traceback" not in "".join(reported.all())


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_file(start_server, presses):
    """The first lets it end, the second doesn't."""
    server = start_server()
    alice = server.first_user()
    site, www = site_of(alice), server.home() / "www"
    for number in range(2):
        (site / f"large{number}").write_bytes(bytes(12 * MIB))
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 6 * MIB)
        watch = alice.at(proxy.address).start("sync", "--watch", "-q", "site", ":/www")
        eventually(lambda: proxy.passed("up") >= 6 * MIB, "half of a file is sent")
        watch.send_signal(signal.SIGINT)
        if presses == 2:
            eventually(lambda: watch.poll() is not None or watch.send_signal(signal.SIGINT))
        proxy.release()
        done = finish(watch, status=0)
    assert done.err == ""
    stored = [path for path in www.iterdir() if path.name.startswith("large")]
    assert len(stored) == 2 - presses
    assert all(path.stat().st_size == 12 * MIB for path in stored)


def test_without_the_library(start_server):
    """As installed without the extra: the tree is walked, which is said once."""
    server = start_server()
    alice = server.first_user()
    site = site_of(alice)
    (alice.home / "inotify_simple.py").write_text("raise ImportError('not installed')\n")
    alice.environment = {**alice.environment, "PYTHONPATH": str(alice.home)}
    watch = alice.start("sync", "--watch", "site", ":/www")
    reported = Lines(watch.stderr)
    eventually(lambda: reported.has("watching site"))
    (site / "d" / "b").write_text("2")
    eventually(lambda: text_at(server.home() / "www" / "d" / "b") == "2")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    walking = [line for line in reported.all() if "looking for changes every 5 seconds" in line]
    assert len(walking) == 1 and "inotify-simple is not installed" in walking[0]


def churn(root, outside, seed: int) -> None:
    """Change a tree in every way, as fast as possible."""
    choice = random.Random(seed)
    for number in range(150):
        directories = [path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()]
        place = choice.choice([root, *directories])
        others = [path for path in root.rglob("*") if not path.is_relative_to(place)]
        kind = choice.randrange(9)
        if kind < 4:
            below = place / f"n{choice.randrange(6)}" / f"n{choice.randrange(6)}"
            if not below.parent.exists() or below.parent.is_dir():
                below.mkdir(parents=True, exist_ok=True)
                (below / f"f{number}").write_text(str(number))
        elif kind == 4 and place != root:
            shutil.rmtree(place)
        elif kind == 5 and place != root and place.parent != root:
            place.rename(root / f"moved{seed}-{number}")
        elif kind == 6 and place != root:
            place.rename(outside / f"{seed}-{number}")
        elif kind == 7 and (left := list(outside.iterdir())):
            choice.choice(left).rename(place / f"back{seed}-{number}")
        elif others:
            other = choice.choice(others)
            other.chmod(0o755 if other.is_dir() else 0o600)


def test_any_changes(start_server):
    """The changes take longer than a round waits for quiet, so some are made during rounds."""
    server = start_server("--durability", "none")
    alice = server.first_user()
    site, www = site_of(alice), server.home() / "www"
    outside = alice.home / "outside"
    outside.mkdir()
    watch = alice.start("sync", "--watch", "--delete", "-y", "site", ":/www")
    reported = Lines(watch.stderr)
    eventually(lambda: reported.has("watching site"))
    for seed in range(3):
        churn(site, outside, seed)
        eventually(lambda: not different(site, www), "the trees are the same")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    assert "Traceback" not in "".join(reported.all())


def different(site, www) -> bool:
    """Whether the trees differ, as far as can be said while one of them changes."""
    try:
        return any(trees.differences(site, www))
    except FileNotFoundError:
        return True
