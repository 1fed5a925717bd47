"""Log-in, tokens, registration: the real programs, from the first log-in to the last log-out."""

from __future__ import annotations

import os

import pytest

from tests.system.programs import User, clean_environment
from tests.system.shell_support import Terminal


def config(user: User, name: str):
    return user.home / "config" / "ftp-client" / name


class Bare(User):
    """Somebody who sets neither a password nor a server, nor trusts new ones."""

    @property
    def settings(self) -> dict[str, str]:
        return clean_environment(self.home, **self.environment)


def without_password(user: User, **environment: str) -> Bare:
    """The same user at the same machine, with this environment and no other: trusting nobody."""
    return Bare(
        user.programs,
        user.home,
        user.name,
        user.password,
        user.server,
        tuple(option for option in user.options if option == "--plaintext"),
        user.on_server,
        environment,
    )


@pytest.fixture
def place(alice):
    return f"{alice.name}@{alice.server}"


def test_after_a_login_nothing_has_to_be_said(alice, place):
    reported = alice.run("login", place)
    assert "commands need no password until 20" in reported.err and reported.out == b""
    bare = without_password(alice)
    assert bare.run("whoami").lines == ["alice"]
    bare.run("put", "-", "/file", given=b"data")
    assert bare.run("cat", "/file").out == b"data"
    assert bare.run("connect", given=b"pwd\nwhoami\n").lines == ["/", "alice"]


def test_names_stand_for_servers(alice, server, place):
    bob = server.add_user("bob")
    alice.run("login", place, "--name", "mine")
    bob_here = User(alice.programs, alice.home, "bob", bob.password, alice.server, alice.options)
    bob_here.run("login", f"bob@{alice.server}", "--name", "his")
    bare = without_password(alice)
    assert bare.run("whoami").lines == ["alice"], "the first one stays the default"
    assert bare.run("-s", "mine", "whoami").lines == ["alice"]
    assert without_password(alice, FTP_SERVER="mine").run("whoami").lines == ["alice"]
    assert bare.run("connect", "mine", given=b"whoami").lines == ["alice"]
    bare.run("login", place, "--name", "a b", status=2)
    lines = bare.run("servers").lines
    noted = "  plaintext" if server.plaintext else ""
    assert lines == [f"his  bob@{alice.server}{noted}", f"mine  {place}{noted}  (default)"]
    bare.run("servers", "--default", "his")
    assert [one["default"] for one in bare.run("--json", "servers").records] == [True, False]
    bare.run("servers", "--default", "mine")
    bare.run("servers", "--remove", "his")
    bare.run("servers", "--remove", "his", status=5)
    assert bare.run("whoami").lines == ["alice"]


def test_logout_revokes_and_keeps_the_server(alice, place):
    alice.run("login", place, "--name", "mine")
    saved = config(alice, "tokens.json").read_text()
    bare = without_password(alice)
    assert "logged out" in bare.run("logout").err
    bare.run("whoami", status=3)
    bare.run("logout", status=5)
    config(alice, "tokens.json").write_text(saved)
    assert "log in again" in bare.run("whoami", status=3).complaint, "it is good for nothing"
    reported = bare.run("logout")
    assert "the token was already revoked" in reported.err
    assert without_password(alice, FTP_PASSWORD=alice.password).run("whoami").lines == ["alice"]


# registration ------------------------------------------------------------------------------


@pytest.fixture
def carol(server):
    """Somebody without an account."""
    return server.user("carol", "password of carol")


def test_an_invitation_is_good_once(carol, server, admin):
    code = admin.run("invite", "--quota", "1MiB").text.strip()
    place = f"carol@{carol.server}"
    alice = server.first_user()
    taken = User(carol.programs, carol.home, "alice", "x", carol.server, carol.options)
    taken.run("--accept-new", "register", f"alice@{carol.server}", "--invite", code, status=1)
    reported = carol.run("register", place, "--invite", code)
    assert "registered carol" in reported.err
    bare = without_password(carol)
    assert bare.run("--json", "df").record["total"] == 2**20, "and logged in for good"
    bare.run("put", "-", "/file", given=b"mine")
    assert (server.home("carol") / "file").read_bytes() == b"mine"
    dave = server.user("dave", "secret-word")
    dave.run("register", f"dave@{carol.server}", "--invite", code, status=6)
    alice.run("ls", "/carol", status=5)


def test_open_registration(start_server):
    server = start_server("--open-registration", "--default-quota", "5MiB")
    carol = server.user("carol", "her-own-one")
    reported = carol.run("--json", "register", f"carol@{carol.server}", "--no-save")
    record = reported.record
    assert (record["user"], record["server"]) == ("carol", carol.server)
    assert record["token"] is None
    assert not config(carol, "tokens.json").exists()
    assert carol.run("--json", "df").record["total"] == 5 * 2**20
    carol.run("register", f"carol@{carol.server}", status=1)
    bare = without_password(carol)
    assert "no password" in bare.run("register", f"dave@{carol.server}", status=3).complaint
    given = b"of dave alone\n"
    bare.run("--password-stdin", "register", f"dave@{carol.server}", given=given)
    assert without_password(carol).run("whoami").lines == ["dave"]
    assert os.listdir(server.home("dave")) in ([], [".ftpd-staging"])


def test_at_a_terminal_all_is_asked_for(server, admin, carol):
    code = admin.run("invite").text.strip()
    if server.has_key:
        carol.options = ()
    place = f"carol@{carol.server}"
    with Terminal(carol, "register", place, "--invite", code, FTP_PASSWORD="") as terminal:
        if server.has_key:
            terminal.expect("Trust it (yes/no)? ")
            terminal.keys("yes\r")
        for question in ("New password for ", "Retype new password: "):
            terminal.expect(question)
            terminal.keys("hunter2-hunter2\r")
        printed, status = terminal.end()
        assert status == 0 and "registered carol" in printed[-1]
        assert not any("hunter2" in line for line in printed)
    with Terminal(carol, "passwd", FTP_PASSWORD="") as terminal:
        terminal.expect("Old password")
        terminal.keys("hunter2-hunter2\r")
        for question in ("New password for ", "Retype new password: "):
            terminal.expect(question)
            terminal.keys("another-one\r")
        assert terminal.end()[1] == 0
    assert without_password(carol).run("whoami").lines == ["carol"]
