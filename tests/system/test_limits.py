"""Limits, as those who meet them see them: bans, too many sessions, idle and slow clients."""

from __future__ import annotations

import os
import signal

from tests.system.programs import PATIENCE, eventually


def guess(user, times: int) -> None:
    """So many log-ins with a wrong password."""
    right, user.password = user.password, "wrong"
    for _ in range(times):
        user.run("ls", status=3)
    user.password = right


# bans --------------------------------------------------------------------------------------


def test_who_guesses_is_banned_until_that_is_lifted(start_server):
    server = start_server("--ban-after", "2")
    alice, bob = server.first_user(), server.add_user("bob")
    guess(alice, 2)

    reported = alice.run("ls", status=3)
    assert f"log-ins to alice failed from {server.counted_as}: refused for another" in reported.err
    assert "minutes" in reported.err
    bob.run("ls")
    assert server.admin.run("bans", "--json").records[0]["account"] == "alice"
    server.admin.run("unban", server.counted_as)
    alice.run("ls")


# how many ----------------------------------------------------------------------------------


def test_one_session_too_many(server):
    bob = server.add_user("bob", "--max-sessions", "1")
    first = bob.start("put", "-", "file")
    eventually(lambda: "bob" in server.log)

    reported = bob.run("ls", status=1)
    assert "too many sessions: bob has 1, the limit is 1" in reported.err
    first.stdin.close()
    assert first.wait(PATIENCE) == 0
    eventually(lambda: bob.run("ls", status=None).status == 0)


# how long, how fast ------------------------------------------------------------------------


def test_an_idle_shell_is_informed_and_comes_back(start_server):
    server = start_server("--idle-timeout", "0.5")
    alice = server.first_user()
    shell = alice.start("connect")
    shell.stdin.write(b"mkdir one\n")
    eventually((server.home() / "one").is_dir)
    eventually(lambda: "B out: no request for 0.5 seconds" in server.log)
    shell.stdin.write(b"mkdir two\n")
    shell.stdin.close()
    assert shell.wait(PATIENCE) == 0, shell.stderr.read()
    assert (server.home() / "two").is_dir()


def test_a_client_that_stops_in_the_middle_is_dropped(start_server, tmp_path):
    server = start_server("--stall", "0.5")
    alice = server.first_user()
    (tmp_path / "file").write_bytes(os.urandom(2**20))
    put = alice.start("put", "--limit-rate", "256KiB", tmp_path / "file", "/file")
    eventually(server.staged)
    put.send_signal(signal.SIGSTOP)
    eventually(lambda: "did not answer in time" in server.log)
    put.kill()
    put.wait()
    alice.run("ls")
