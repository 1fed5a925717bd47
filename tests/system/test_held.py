"""After a fault nothing stays held, and `ftpd check` agrees, without a restart.

In each way of serving, workers included, with faults from outside. Lives elsewhere: every step of
the books (tests/ftpserver/serving/test_after_faults.py), processes that are killed
(test_workers.py, test_isolation.py, test_crash.py).
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tests.system.programs import Server, User, eventually, finish
from tests.system.proxy import Proxy
from tests.system.test_limits import guess
from tests.system.wall_clock import WallClock

MIB = 1024 * 1024
ABILITIES = {"PYTHONPATH": str(Path(__file__).parent / "abilities")}
IMPATIENT = ABILITIES | {"BUSY_SECONDS": "1"}  # also for the turn among threads
HURRIED = ABILITIES | {"LEASE_SECONDS": "1"}

pytestmark = [
    pytest.mark.needs("workers"),
    pytest.mark.parametrize(
        "options",
        [(), ("--workers", "2"), ("--isolation", "process")],
        ids=["threads", "workers", "process"],
    ),
]


YEAR = 365 * 24 * 3600


def half_sent(alice: User, proxy: Proxy, source: Path) -> subprocess.Popen[bytes]:
    """A `put` of which half has come."""
    half = source.stat().st_size // 2
    proxy.hold("up", half)
    running = alice.at(proxy.address).start("put", "--retries=0", source, "/file")
    eventually(lambda: proxy.passed("up") >= half, "half of it is sent")
    eventually(lambda: held(alice), "room is held")
    return running


def held(alice: User) -> int:
    return alice.run("--json", "df").record["held"]


def is_right(server: Server, alice: User) -> bool:
    """Whether nothing is held, and the verifier finds nothing beside the running server."""
    alice.run("put", "-", "/probe", given=b"x", status=None)
    checked = server.admin.run("check", "--strict", status=None)
    return not held(alice) and checked.status == 0


def rests(server: Server, alice: User, why: str) -> None:
    eventually(lambda: is_right(server, alice), f"all is right after {why}")


def test_faults_from_outside(start_server, tmp_path, options):
    server = start_server(*options, environment=IMPATIENT)
    alice = server.first_user()
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB))
    state = server.root / ".ftpd" / "state.db"

    with Proxy(server.reached) as proxy:
        half_sent(alice, proxy, source).kill()
    rests(server, alice, "the client was killed")

    with Proxy(server.reached) as proxy, closing(sqlite3.connect(state)) as other:
        running = half_sent(alice, proxy, source)
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        proxy.release()
        assert running.wait(60) != 0
        other.execute("ROLLBACK")
    rests(server, alice, "the accounts file was locked when it was to be committed")

    with Proxy(server.reached) as proxy, closing(sqlite3.connect(state)) as other:
        running = half_sent(alice, proxy, source)
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        running.send_signal(signal.SIGKILL)
        running.wait(60)
        eventually(lambda: "returned later" in server.log, "its end could not be written down")
        other.execute("ROLLBACK")
    rests(server, alice, "the accounts file was locked when it ended")

    with Proxy(server.reached) as proxy:
        running = half_sent(alice, proxy, source)
        with open(server.home() / ".ftpd-staging" / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            proxy.release()
            bob = server.add_user("bob")
            bob.run("put", source, "/file")
        finish(running)
    rests(server, alice, "the home was locked")
    assert (server.home() / "file").read_bytes() == source.read_bytes()


def test_a_clock_that_is_set(start_server, tmp_path, monkeypatch, options):
    """For all programs, in the middle of uploads: they go on and are stored. What lasts for some
    time lasts just that: a ban, an upload that is kept. What is over stays so: a token."""
    clock = WallClock(tmp_path)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    server = start_server("--ban-after", "2", *options, environment=HURRIED)
    alice, bob, carol = (server.first_user(), *map(server.add_user, ("bob", "carol")))
    source, large = tmp_path / "source", tmp_path / "large"
    source.write_bytes(os.urandom(MIB))
    large.write_bytes(bytes(40 * MIB))
    with Proxy(server.reached) as proxy:
        half_sent(bob, proxy, large).kill()
    eventually(lambda: bob.run("--json", "kept").records, "the upload is kept")
    guess(carol, 2)
    alice.run("login", f"alice@{alice.server}", "--expires", "5s")

    noticed: list[str] = []
    for steps in ((700, YEAR), (-YEAR,)):
        with Proxy(server.reached) as proxy:
            running = half_sent(alice, proxy, source)
            for ahead in steps:
                clock.set(ahead)
                noticed.append("the system's clock was set")
                eventually(lambda: server.log.count(noticed[0]) == len(noticed), "it is logged")
            proxy.release()
            finish(running)
        assert (server.home() / "file").read_bytes() == source.read_bytes()
        rests(server, alice, f"the clock was set to {ahead}")
        (ban,) = server.admin.run("bans", "--json").records
        assert 0 < seconds_of(ban["until"]) - clock.now() <= 600
        reported = carol.run("ls", status=3).err
        assert re.search(r"for another (\d+ seconds|([2-9]|10) minutes)$", reported.strip()), (
            reported
        )
        started = server.admin.run("status", "--json").record["since"]
        assert abs(seconds_of(started) - clock.now()) < 600

    if "--workers" in options:  # those that are started now have the clock of the server, too
        for process in descendants(server.process.pid):
            os.kill(process, signal.SIGKILL)
        eventually(lambda: bob.run("ls", status=None).status == 0, "others serve")
        assert "the fork server has ended; starting another one" in server.log
        carol.run("ls", status=3)
    token = replace(alice, password="")
    eventually(lambda: token.run("ls", status=None).status == 3, "the token is over")
    with Proxy(server.reached) as proxy:
        bob.at(proxy.address).run("put", large, "/file")
        assert proxy.passed("up") < 30 * MIB, "it was gone on with"
    rests(server, bob, "the upload was gone on with")


def seconds_of(text: str) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def descendants(process: int) -> list[int]:
    """The processes that one has started, each before its own."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [one for child in map(int, children) for one in (child, *descendants(child))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk(start_server, tmp_path, options):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
    try:
        server = start_server(*options, root=disk / "root")
        alice = server.first_user()
        alice.run("put", "-", "/old", given=os.urandom(MIB))
        source = tmp_path / "source"
        source.write_bytes(os.urandom(MIB))
        with Proxy(server.reached) as proxy:
            running = half_sent(alice, proxy, source)
            with open(disk / "filler", "wb", buffering=0) as filler:
                fill(filler)
                proxy.release()
                assert running.wait(60) != 0
                alice.run("rm", "/old")
                fill(filler)
            (disk / "filler").unlink()
        rests(server, alice, "the disk was full")
        server.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(filler) -> None:
    """Leave not a byte of room."""
    for size in (65536, 4096, 1):
        try:
            while filler.write(bytes(size)):
                pass
        except OSError:
            continue
