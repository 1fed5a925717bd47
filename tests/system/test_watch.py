"""`ftp sync --watch` in the real program: inotify, a lost server, signals."""

from __future__ import annotations

import json
import signal
import threading

import pytest

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
    told = Lines(watch.stderr)
    eventually(lambda: told.has("watching site"))
    assert text_at(www / "a") == "1"
    (site / "d" / "new").mkdir()
    (site / "d" / "new" / "b").write_text("2")
    eventually(lambda: text_at(www / "d" / "new" / "b") == "2")
    (site / "a").unlink()
    eventually(lambda: not (www / "a").exists())

    server.kill()
    (site / "d" / "e" / "c").write_text("3")
    eventually(lambda: told.has("reconnecting") or told.has("no connection"))
    again = start_server(port=server.port)
    eventually(lambda: text_at(again.home() / "www" / "d" / "e" / "c") == "3")
    (site / "d" / "new" / "b").write_text("4")
    eventually(lambda: text_at(again.home() / "www" / "d" / "new" / "b") == "4")

    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    assert "Traceback" not in "".join(told.all())


def test_a_session_that_idles(start_server):
    server = start_server("--idle-timeout", "1s")
    alice = server.first_user()
    site, www = site_of(alice), server.home() / "www"
    watch = alice.start("sync", "--watch", "--json", "site", ":/www")
    out, told = Lines(watch.stdout), Lines(watch.stderr)
    eventually(lambda: out.has('"summary": true'))
    eventually(lambda: server.admin.run("status", "--json").record["sessions"] == 0)
    (site / "a").write_text("22")
    eventually(lambda: text_at(www / "a") == "22")
    eventually(lambda: sum('"summary": true' in line for line in out.lines) == 2)
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(60) == -signal.SIGTERM
    records = [json.loads(line) for line in out.all()]
    assert [one["sent"] for one in records if one.get("summary")] == [1, 1]
    assert "Traceback" not in "".join(told.all())


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
    told = Lines(watch.stderr)
    eventually(lambda: told.has("watching site"))
    (site / "d" / "b").write_text("2")
    eventually(lambda: text_at(server.home() / "www" / "d" / "b") == "2")
    watch.send_signal(signal.SIGINT)
    assert watch.wait(60) == 0
    walking = [line for line in told.all() if "looking for changes every 5 seconds" in line]
    assert len(walking) == 1 and "inotify-simple is not installed" in walking[0]
