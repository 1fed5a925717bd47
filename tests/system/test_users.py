"""Accounts by `ftpd user`, also while the server runs: who may log in, and with how much room."""

from __future__ import annotations

import stat

from tests.system.programs import eventually, finish

MIB = 1024 * 1024


# adding ------------------------------------------------------------------------------------


def test_an_account_works_as_soon_as_it_was_added(server):
    bob = server.add_user("bob")

    assert bob.run("whoami").lines == ["bob"]
    bob.run("put", "-", "hello", given=b"hello")
    assert (server.home("bob") / "hello").read_bytes() == b"hello"
    assert stat.S_IMODE(server.home("bob").stat().st_mode) == 0o700


def test_users_do_not_see_each_other(server, alice):
    bob = server.add_user("bob")
    alice.run("put", "-", "mine", given=b"alice's")

    assert bob.run("ls").out == b""
    reported = bob.run(
        "cat", "/mine", "../alice/mine", "/../alice/mine", "../../root/alice/mine", status=5
    )
    assert len(reported.err.splitlines()) == 4


# passwords ---------------------------------------------------------------------------------


def test_a_new_password_counts_at_once(server, admin, alice):
    alice.run("ls")

    assert admin.run(
        "user", "passwd", "alice", "--password-stdin", given=b"new-password\n"
    ).lines == ["password of alice changed"]

    alice.run("ls", status=3)
    alice.password = "new-password"
    alice.run("ls")


def test_no_password_is_shown_anywhere(server, admin, alice):
    passwords = [alice.password, "another password"]
    shown = alice.run("--debug", "-v", "ls").err
    alice.password = passwords[1]
    shown += alice.run("ls", status=3).err
    shown += admin.run("user", "show", "alice", "--json").text

    for password in passwords:
        assert password not in shown + server.log


# room --------------------------------------------------------------------------------------


def test_what_an_upload_holds_is_shown(server, admin, alice):
    upload = alice.start("put", "-", "file")
    upload.stdin.write(bytes(MIB))
    eventually(server.staged, "an upload under way")

    assert eventually(lambda: admin.run("user", "show", "alice", "--json").record["held"])

    finish(upload, given=b"")
    assert admin.run("user", "show", "alice", "--json").record["held"] == 0


# removing ----------------------------------------------------------------------------------


def test_a_removed_account_is_out_and_its_files_stay(server, admin, alice):
    alice.run("put", "-", "kept", given=b"kept")

    assert str(server.home()) in admin.run("user", "remove", "alice").text

    alice.run("ls", status=3)
    assert (server.home() / "kept").read_bytes() == b"kept"
    assert admin.run("user", "list").out == b""


def test_sessions_and_tokens_are_counted(server, admin, alice):
    alice.run("login", alice.server)
    shell = alice.start("connect")

    def shown():
        return admin.run("user", "show", "alice", "--json").record

    eventually(lambda: shown()["sessions"] == 1, "the shell is logged in")
    assert shown()["tokens"] == 1
    assert "1 now, unlimited" in admin.run("user", "show", "alice").text
    finish(shell, given=b"")
    eventually(lambda: shown()["sessions"] == 0, "it has left")


# as an administrator has it ------------------------------------------------------------------


def test_changes_hold_for_the_next_log_in(server, admin, alice):
    admin.run("user", "disable", "alice")
    alice.run("ls", status=3)
    admin.run("user", "enable", "alice")
    alice.run("ls")
    admin.run("user", "set", "alice", "--quota", "3B")
    alice.run("put", "-", "four", given=b"four", status=7)
    admin.run("user", "rename", "alice", "anna")
    alice.run("ls", status=3)
    server.user("anna", alice.password).run("whoami")
