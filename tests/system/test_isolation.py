"""`ftpd start --isolation process`: sessions as processes, on the real programs.

What a hostile one cannot reach is in tests/ftpserver/isolation/. Everything else that is
tested here holds in this mode of serving, too (modes.py).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.modes import MODES
from tests.system.programs import PATIENCE, Server, eventually, finish, program
from tests.system.test_start import bow_to_modes

PROCESS = MODES["process"]
KiB = 1024

pytestmark = [
    pytest.mark.needs("isolation"),
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="looks at processes in /proc"
    ),
]


def children_of(pid: int) -> list[int]:
    """The processes that one has made, and that are there."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def fork_server_of(server: Server) -> int:
    """The process that those of sessions are forked from."""
    return next(
        pid
        for task in os.listdir(f"/proc/{server.process.pid}/task")
        for pid in map(
            int,
            Path(f"/proc/{server.process.pid}/task/{task}/children").read_text().split(),
        )
    )


def sessions_of(server: Server) -> list[int]:
    """The processes of its sessions, the oldest first."""
    return sorted(children_of(fork_server_of(server)))


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def server(start_server) -> Server:
    return start_server(mode=PROCESS)


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(6 * 1024 * KiB))
    return path


def slow_put(user, path: Path):
    """An upload that takes as long as it is let."""
    return user.start("put", "--limit-rate", "256KiB", "--retries", "0", path, "/slow")


def test_a_crash_of_one_session_is_none_of_the_others(server, large):
    alice, bob = server.first_user(), server.add_user("bob")
    crashing = slow_put(alice, large)
    eventually(lambda: server.staged(alice.name))
    (first,) = sessions_of(server)
    going_on = slow_put(bob, large)
    eventually(lambda: server.staged("bob"))
    os.kill(first, signal.SIGSEGV)
    finish(crashing, status=4)
    bob.run("put", large, "/another")
    assert going_on.poll() is None
    server.admin.run("kick", "bob")
    finish(going_on, status=4)
    assert (server.home("bob") / "another").read_bytes() == large.read_bytes()
    eventually(lambda: "SIGSEGV" in server.log)
    eventually(lambda: not sessions_of(server))
    # what was begun is kept for its resume, with its room: the check at the server's stop sees that
    alice.run("put", large, "/slow")
    assert (alice.on_server / "slow").read_bytes() == large.read_bytes()


def test_nobody_is_left_when_the_server_is_killed(server, large):
    alice = server.first_user()
    upload = slow_put(alice, large)
    eventually(lambda: server.staged(alice.name))
    family = [fork_server_of(server), *sessions_of(server)]
    assert len(family) == 2
    server.kill()
    finish(upload, status=4)
    for pid in family:
        eventually(lambda pid=pid: is_gone(pid), f"the end of process {pid}")


COUNTING = """
import os, sys
if "ftpserver.processes.forkserver" in sys.orig_argv:
    fd = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.register_at_fork(after_in_child=lambda: os.write(fd, b"."))
"""
"""Each process that the fork server forks leaves a byte."""
STRANGER = "127.0.0.2"


def touch(server: Server) -> socket.socket:
    """Connect as a stranger."""
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE, (STRANGER, 0))


def come_and_go(server: Server, held: list[socket.socket]) -> None:
    touch(server).close()


def come_and_stay(server: Server, held: list[socket.socket]) -> None:
    held.append(touch(server))


def say_half(server: Server, held: list[socket.socket]) -> None:
    come_and_stay(server, held)
    held[-1].sendall(bytes.fromhex("16030102000100"))


@pytest.mark.parametrize("knock", [come_and_go, come_and_stay, say_half])
def test_unauthenticated_clients_who_connect_cost_no_process_and_hold_up_nobody(
    start_server, tmp_path, knock
):
    """The control: each log-in beside them costs one."""
    (tmp_path / "counting").mkdir()
    born = tmp_path / "born"
    (tmp_path / "counting" / "sitecustomize.py").write_text(COUNTING.format(path=str(born)))
    server = start_server(
        *("--trusted-networks", "none"),
        mode=PROCESS,
        environment={"PYTHONPATH": str(tmp_path / "counting")},
    )
    alice = server.first_user()
    alice.run("ls")
    before, over, knocked = born.stat().st_size, threading.Event(), threading.Semaphore(0)

    def go_on() -> None:
        held: list[socket.socket] = []
        try:
            while not over.is_set():
                with suppress(ConnectionError):  # one too many of them
                    knock(server, held)
                knocked.release()
                while len(held) > 200:
                    held.pop(0).close()
        finally:
            for sock in held:
                sock.close()

    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(go_on)
        try:
            for _ in range(5):
                for _ in range(100):
                    assert knocked.acquire(timeout=PATIENCE) and not going_on.done()
                alice.run("ls")
        finally:
            over.set()
        going_on.result()
    assert born.stat().st_size - before == 5


def test_a_fork_server_that_is_killed_is_replaced(server):
    alice = server.first_user()
    alice.run("ls")
    before = fork_server_of(server)
    os.kill(before, signal.SIGKILL)
    alice.run("ls")
    assert fork_server_of(server) != before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have sessions be others")
def test_what_a_system_user_stores_belongs_to_it(server, tmp_path):
    alice = server.first_user()
    (tmp_path / "file").write_bytes(b"abc")
    alice.run("put", tmp_path / "file", "/before")
    server.admin.run("user", "set", alice.name, "--system-user", "daemon")
    server.admin.run("user", "set", alice.name, "--system-user", "root", status=2)
    alice.run("put", tmp_path / "file", "/after")
    daemon = pwd.getpwnam("daemon")
    for name in ("before", "after", "."):
        info = (alice.on_server / name).stat()
        assert (info.st_uid, info.st_gid) == (daemon.pw_uid, daemon.pw_gid), name
    assert '"system_user": "daemon"' in server.admin.run("user", "export").text.replace(
        '":"', '": "'
    )
    server.admin.run("recount", alice.name)
    alice.run("rm", "/before")


def test_a_user_for_unauthenticated_clients_that_there_isnt(tmp_path, programs):
    if os.geteuid() != 0:
        pytest.skip("only root can have sessions be others")
    command = [*program("ftpd"), "start", "--root", str(tmp_path / "root"), "--port", "0"]
    command += ["--isolation", "process", "--session-user", "no-such-user-here"]
    assert "no such system user" in programs.run(command, status=1).err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_sessions_that_are_roots_are_warned_of(start_server):
    """Also at the first start, whose first account is made after that."""
    server = start_server(mode=PROCESS)
    assert "accounts without --system-user" in server.log
    server.admin.run("user", "set", server.first_user().name, "--system-user", "nobody")
    server.stop()
    assert "accounts without --system-user" not in start_server(mode=PROCESS).log


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_a_root_that_may_nothing_serves_as_any_other_user(start_server, large):
    """As in a container without capabilities: it cannot have sessions be others."""
    server = start_server(mode=PROCESS, preexec_fn=bow_to_modes)
    assert "the user of ftpd, which is root without the needed capabilities" in server.log
    alice = server.first_user()
    alice.run("put", large, "/file")
    alice.run("get", "/file", large.with_name("back"))
    assert large.with_name("back").read_bytes() == large.read_bytes()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="makes a user of its own"
)
def test_who_isnt_root_confines_sessions_by_landlock(start_server, monkeypatch, programs, large):
    """A user namespace makes this process a plain user, whom all files here belong to."""
    wrap = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    if programs.run([*wrap, "true"], status=None).status:
        pytest.skip("the system lets nobody make user namespaces")
    start = programs.start
    monkeypatch.setattr(
        programs,
        "start",
        lambda command, **more: start(
            [*wrap, *command] if command[1:2] == ["start"] else command, **more
        ),
    )
    server = start_server(mode=PROCESS)
    assert "Landlock confines them" in server.log or "NOTHING CONFINES THEM" in server.log
    alice = server.first_user()
    upload = slow_put(alice, large)
    eventually(lambda: server.staged(alice.name))
    (pid,) = sessions_of(server)
    status = status_of(pid)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0
    alice.run("put", large, "/whole")
    alice.run("get", "/whole", large.with_name("back"))
    assert large.with_name("back").read_bytes() == large.read_bytes()
    server.admin.run("kick", alice.name)
    finish(upload, status=4)
