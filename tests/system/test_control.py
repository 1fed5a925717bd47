"""`ftpd status`, `sessions`, `kick` and their like, on the real programs."""

from __future__ import annotations

import json
import os
import signal
import sys

import pexpect
import pytest

from tests.system.programs import (
    PATIENCE,
    clean_environment,
    eventually,
    finish,
    program,
)

SLOW = ("--limit-rate", "256KiB")


@pytest.fixture
def upload(alice, tmp_path):
    """Somebody who is busy for longer than any test takes."""
    (tmp_path / "large").write_bytes(os.urandom(32 * 2**20))
    started = alice.start("put", *SLOW, tmp_path / "large", "/large")
    yield started
    started.kill()


def sessions(server) -> list[dict]:
    return server.admin.run("sessions", "--json").records


def at_work(server) -> dict:
    """The one session that is moving a file, once it is."""

    def moving() -> list[dict]:
        return [one for one in sessions(server) if one.get("request") in ("put", "get")]

    (found,) = eventually(moving)
    return found


def test_without_a_running_server(admin):
    for command in (
        "status",
        "sessions",
        "sessions --json --watch",
        "kick alice",
        "bans",
        "unban --all",
        "reload",
        "drain",
        "stop",
    ):
        ended = admin.run(*command.split(), status=4)
        text = f"{admin.root}: no server runs there"
        if "--json" in command:
            error = json.loads(ended.complaint)
            assert (error["error"], error["message"], error["exit"]) == ("connect-failed", text, 4)
        else:
            assert ended.complaint == f"ftpd: {text}"
        assert ended.out == b""
    assert not admin.root.exists()


def test_status_for_people_and_for_programs(server, alice):
    alice.run("ls")
    record = server.admin.run("status", "--json").record
    assert (record["address"], record["process"]) == (server.address, server.process.pid)
    assert record["fingerprint"] == server.admin.run("fingerprint").lines[0]
    assert (record["state"], record["accounts"]) == ("running", 1)
    assert record["bytes_in"] > 0 < record["bytes_out"]
    text = server.admin.run("status").text
    for part in (server.address, record["fingerprint"], record["since"], "running"):
        assert part in text


def test_who_does_what_and_kicking_them(server, alice, upload, tmp_path):
    found = at_work(server)
    assert (found["user"], found["request"], found["path"]) == (alice.name, "put", "/large")
    assert found["from"].partition(":")[0] == server.seen_from
    eventually(lambda: sessions(server)[0]["speed"] > 0, "a speed")
    line = server.admin.run("sessions").lines[0].split("\t")
    assert line[:3] == [str(found["id"]), alice.name, found["from"]]
    assert line[4] == "put /large"
    assert server.admin.run("kick", str(found["id"])).lines == ["ended 1 session"]
    ended = finish(upload, status=4)
    assert "ended by the administrator" in ended.err
    assert "reconnecting" not in ended.err
    assert not (alice.on_server / "large").exists()
    eventually(lambda: not sessions(server))
    assert server.admin.run("kick", alice.name).lines == [f"{alice.name} has no sessions"]
    one, none = server.admin.run("log", "--event", "kick", "--json").records
    assert (one["user"], one["outcome"]) == (str(found["id"]), "ok")
    assert (none["user"], none["outcome"]) == (alice.name, "ok")


def test_a_change_by_another_process_ends_sessions(server, alice, upload):
    at_work(server)
    server.admin.run("user", "passwd", alice.name, "--password-stdin", given=b"another-one\n")
    assert "the password was changed" in finish(upload, status=4).err
    alice.run("ls", status=3)


def replace_key(server) -> str:
    """Put another key beside the accounts, as an administrator would; its fingerprint."""
    for path in (server.root / ".ftpd" / "tls").iterdir():
        path.unlink()
    return server.admin.run("fingerprint").lines[0]


@pytest.mark.needs("tls")
def test_another_key_is_taken_over(server, alice, upload):
    """By a signal; test_workers.py has the command."""
    at_work(server)
    shown = replace_key(server)
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.admin.run("status", "--json").record["fingerprint"] == shown)
    alice.run("ls", status=9)  # the key that it knows is another one
    assert at_work(server)["path"] == "/large"  # who was connected works on


def test_under_nohup_a_hang_up_means_nothing(start_server):
    server = start_server(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    server.process.send_signal(signal.SIGHUP)
    server.process.send_signal(signal.SIGTERM)  # which comes after it
    server.stop_requested = True
    server.stop()
    assert "reloaded" not in server.log


def test_stop_returns_when_the_server_has_ended(server, alice):
    alice.run("ls")
    server.stop_requested = True
    assert server.admin.run("stop").lines == ["the server has exited"]
    assert server.process.wait(PATIENCE) == 0
    server.check()
    server.admin.run("stop", status=4)


def test_stop_without_grace(server, alice, upload, tmp_path):
    """The server was started with ten seconds; this says otherwise."""
    at_work(server)
    server.stop_requested = True
    server.admin.run("stop", "--grace", "0")
    assert server.process.wait(PATIENCE) == 0
    assert "the grace time is over" in server.log


def test_a_drain_lets_who_is_there_finish(server, alice, tmp_path):
    upload = alice.start("put", "-", "/file")
    upload.stdin.write(b"a" * 2**20)
    at_work(server)
    server.stop_requested = True
    drain = server.programs.start(
        [*program("ftpd"), "drain", "--root", str(server.root)],
        env=clean_environment(tmp_path),
        stdin=-3,
        stdout=-1,
        stderr=-1,
    )
    assert b"draining" in drain.stderr.readline()
    eventually(lambda: server.admin.run("status", "--json").record["state"] == "draining")
    alice.run("ls", status=4)
    finish(upload, given=b"b")
    assert (alice.on_server / "file").read_bytes() == b"a" * 2**20 + b"b"
    assert finish(drain).lines == ["the server has exited"]
    assert server.process.wait(PATIENCE) == 0
    server.check()


def test_the_live_table(server, alice, upload, tmp_path):
    at_work(server)
    watch = pexpect.spawn(
        program("ftpd")[0],
        ["sessions", "--watch", "--root", str(server.root)],
        env=clean_environment(tmp_path, TERM="xterm-256color"),
        timeout=PATIENCE,
        dimensions=(24, 100),
        encoding="utf-8",
    )
    try:
        watch.expect("1 session, 1 busy")
        watch.expect("put /large")
        watch.expect("KiB/s")
        watch.expect("1 session, 1 busy")  # again: it is drawn anew
        watch.sendintr()
        watch.expect(pexpect.EOF)
        watch.wait()
        assert (watch.exitstatus, watch.signalstatus) == (0, None)
    finally:
        watch.close(force=True)


def test_the_live_table_needs_a_terminal(server):
    assert "terminal" in server.admin.run("sessions", "--watch", status=2).err


def test_the_live_list_for_programs(server, alice, upload, tmp_path):
    at_work(server)
    watch = server.programs.start(
        [*program("ftpd"), "sessions", "--watch", "--json", "--root", str(server.root)],
        env=clean_environment(tmp_path),
        stdin=-3,
        stdout=-1,
        stderr=-1,
    )
    first, second = (json.loads(watch.stdout.readline()) for _ in range(2))
    assert first["id"] == second["id"] and second["bytes_in"] > first["bytes_in"]
    watch.send_signal(signal.SIGINT)
    assert finish(watch).err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a terminal that can be hung up")
def test_a_server_ends_with_the_terminal_it_was_started_from(programs, tmp_path):
    command = [*program("ftpd"), "start", "--root", str(tmp_path / "root"), "--port", "0"]
    terminal = pexpect.spawn(
        command[0],
        [*command[1:], "--host", "127.0.0.1"],
        env=clean_environment(tmp_path),
        timeout=PATIENCE,
        encoding="utf-8",
    )
    try:
        terminal.expect("connect with")
        terminal.ptyproc.fileobj.close()  # what closing its window does
        eventually(lambda: not (tmp_path / "root" / ".ftpd" / "control.sock").exists())
    finally:
        terminal.close(force=True)
