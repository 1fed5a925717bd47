"""Limits, as those who meet them see them: bans, too many sessions, idle and slow clients."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import fields

import pytest

from tests.system.programs import User, eventually


class WithToken(User):
    """The same user, without a password in the environment."""

    def __init__(self, user: User) -> None:
        super().__init__(**{field.name: getattr(user, field.name) for field in fields(user)})

    @property
    def settings(self) -> dict[str, str]:
        return {name: value for name, value in super().settings.items() if name != "FTP_PASSWORD"}


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

    told = alice.run("ls", status=3)
    assert (
        f"too many log-ins to alice failed from {server.seen_from}: refused for another" in told.err
    )
    assert "minutes" in told.err
    bob.run("ls")
    assert server.admin.run("bans", "--json").records[0]["account"] == "alice"
    server.admin.run("unban", server.seen_from)
    alice.run("ls")


def test_a_saved_token_works_during_a_ban(start_server):
    server = start_server("--ban-after", "1")
    alice = server.first_user()
    alice.run("login", f"alice@{server.reached}")
    guess(alice, 1)
    told = alice.run("ls", status=3)
    assert "too many log-ins" in told.err, "what is in the environment comes first"
    WithToken(alice).run("ls")


def test_a_ban_ends_by_itself(start_server):
    server = start_server("--ban-after", "1", "--ban-time", "1")
    alice = server.first_user()
    guess(alice, 1)
    eventually(lambda: alice.run("ls", status=None).status == 0)


def test_a_ban_outlasts_the_server(start_server):
    server = start_server("--ban-after", "1")
    alice = server.first_user()
    guess(alice, 1)
    server.stop()
    server = start_server("--ban-after", "1")
    assert "too many log-ins" in server.user("alice", alice.password).run("ls", status=3).err


@pytest.mark.needs("network")
def test_only_the_log_says_why_a_right_password_is_refused(server):
    bob = server.add_user("bob")
    guess(bob, 1)
    for changes, reason in (
        (("disable", "bob"), "the account is disabled"),
        (("set", "bob", "--expires", "2020-01-01"), "the account has expired"),
        (("set", "bob", "--network", "192.0.2.0/24"), "the account is closed to 127.0.0.1"),
    ):
        server.admin.run("user", *changes)
        assert "wrong user name or password" in bob.run("ls", status=3).complaint
        assert reason in server.log
        server.admin.run("user", "enable", "bob")
        server.admin.run("user", "set", "bob", "--expires", "never", "--network", "any")
        server.admin.run("unban", server.seen_from)
    bob.run("ls")
    bob.name = "nobody"
    assert "wrong user name or password" in bob.run("ls", status=3).complaint
    assert "no such account" in server.log and "wrong password" in server.log


# how many ----------------------------------------------------------------------------------


def test_one_session_too_many(server):
    bob = server.add_user("bob", "--max-sessions", "1")
    first = bob.start("put", "-", "file")
    eventually(lambda: "bob" in server.log)

    told = bob.run("ls", status=1)
    assert "too many sessions: bob has 1, and 1 are allowed" in told.err
    first.stdin.close()
    assert first.wait(60) == 0
    eventually(lambda: bob.run("ls", status=None).status == 0)


def test_sessions_in_all_and_from_an_address(start_server):
    server = start_server("--max-sessions", "1")
    alice, bob = server.first_user(), server.add_user("bob")
    first = alice.start("put", "-", "file")
    eventually(lambda: f"alice@{server.seen_from}" in server.log)
    assert "the server has 1, and 1 are allowed" in bob.run("ls", status=1).err
    first.kill()
    first.wait()
    eventually(lambda: bob.run("ls", status=None).status == 0)


def test_places_are_free_after_a_crash(start_server):
    server = start_server("--max-user-sessions", "1")
    alice = server.first_user()
    first = alice.start("put", "-", "file")
    eventually(lambda: f"alice@{server.seen_from}" in server.log)
    server.kill()
    first.kill()
    first.wait()

    server = start_server("--max-user-sessions", "1")
    server.user("alice", alice.password).run("ls")


def test_the_client_comes_again_when_it_was_turned_away(start_server):
    server = start_server("--max-startups", "3")
    alice = server.first_user()
    with ExitStack() as stack:
        strangers = [stack.enter_context(server.connection()) for _ in range(3)]
        listing = alice.start("ls")
        eventually(lambda: "1 connections were turned away" in server.log)
        for one in strangers[:2]:  # a first contact with TLS may take two connections
            one.close()
        assert listing.wait(60) == 0, listing.stderr.read()


# how long, how fast ------------------------------------------------------------------------


def test_an_idle_shell_is_told_and_comes_back(start_server):
    server = start_server("--idle-timeout", "0.5")
    alice = server.first_user()
    shell = alice.start("connect")
    shell.stdin.write(b"mkdir one\n")
    eventually((server.home() / "one").is_dir)
    eventually(lambda: "ended: nothing was asked for 0.5 seconds" in server.log)
    shell.stdin.write(b"mkdir two\n")
    shell.stdin.close()
    assert shell.wait(60) == 0, shell.stderr.read()
    assert (server.home() / "two").is_dir()


def test_who_says_nothing_is_dropped_after_the_grace(start_server):
    server = start_server("--login-grace", "0.5")
    with server.connection() as stranger:
        began = time.monotonic()
        assert stranger.recv(1) == b""
        assert time.monotonic() - began < 10
    alice = server.first_user()
    alice.run("ls")


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


def test_the_rate_of_an_account_holds_for_all_of_its_sessions(server, tmp_path):
    rate, size = 2 * 2**20, 2**20
    bob = server.add_user("bob", "--limit-rate", str(rate))
    (tmp_path / "file").write_bytes(os.urandom(size))
    began = time.monotonic()
    puts = [bob.start("put", tmp_path / "file", f"/file{number}") for number in range(3)]
    assert [put.wait(60) for put in puts] == [0, 0, 0]
    assert time.monotonic() - began >= (3 * size - 4 * 0.1 * rate) / rate
    assert (server.home("bob") / "file2").stat().st_size == size
