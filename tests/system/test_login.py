"""Log-in, tokens, registration: the real programs, from the first log-in to the last log-out."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace

import pytest

from ftpclient.connection.addresses import ServerAddress
from tests.system.programs import User, clean_environment, eventually
from tests.system.shell_support import Terminal


def config(user: User, name: str):
    return user.home / "config" / "ftp-client" / name


def tokens_of(user: User) -> dict:
    return json.loads(config(user, "tokens.json").read_text())["tokens"]


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
    told = alice.run("login", place)
    assert "commands need no password until 20" in told.err and told.out == b""
    bare = without_password(alice)
    assert bare.run("whoami").lines == ["alice"]
    bare.run("put", "-", "/file", given=b"data")
    assert bare.run("cat", "/file").out == b"data"
    assert bare.run("connect", given=b"pwd\nwhoami\n").lines == ["/", "alice"]


def test_what_login_saves_is_private(alice, place):
    alice.run("login", place)
    for name in ("tokens.json", "servers.json"):
        assert stat.S_IMODE(config(alice, name).stat().st_mode) == 0o600
    ((key, saved),) = tokens_of(alice).items()
    assert key == place and saved["secret"].startswith("ftpt_")
    for path in (alice.on_server.parent / ".ftpd").rglob("*"):
        assert not path.is_file() or saved["secret"].encode() not in path.read_bytes()
    assert alice.password not in config(alice, "tokens.json").read_text()


def test_login_wants_a_good_password(alice, place):
    wrong = without_password(alice, FTP_PASSWORD="wrong")
    wrong.run("--accept-new", "login", place, status=3)
    assert not config(alice, "tokens.json").exists()
    none = without_password(alice)
    assert "--password-stdin" in none.run("login", place, status=3).complaint
    told = none.run("--json", "--password-stdin", "login", place, given=alice.password.encode())
    assert told.record["user"] == "alice" and told.record["token"]


@pytest.mark.needs("tls")
def test_an_unknown_server_is_not_logged_in_to(alice, place, server):
    bare = without_password(alice, FTP_PASSWORD=alice.password)
    bare.run("login", place, status=9)
    bare.run("login", place, "--accept-new")
    assert "refused" not in server.log


def test_names_stand_for_servers(alice, server, place):
    bob = server.add_user("bob")
    alice.run("login", place, "--name", "mine")
    bob_here = User(alice.programs, alice.home, "bob", bob.password, alice.server, alice.options)
    bob_here.run("login", f"bob@{alice.server}", "--name", "his")
    bare = without_password(alice)
    assert bare.run("whoami").lines == ["bob"], "the last one is the default"
    assert bare.run("-s", "mine", "whoami").lines == ["alice"]
    assert without_password(alice, FTP_SERVER="mine").run("whoami").lines == ["alice"]
    assert bare.run("connect", "mine", given=b"whoami").lines == ["alice"]
    bare.run("login", place, "--name", "a b", status=2)
    lines = bare.run("servers").lines
    noted = "  plaintext" if server.plaintext else ""
    assert lines == [f"his  bob@{alice.server}{noted}  (default)", f"mine  {place}{noted}"]
    bare.run("servers", "--default", "mine")
    assert [one["default"] for one in bare.run("--json", "servers").records] == [False, True]
    bare.run("servers", "--remove", "his")
    bare.run("servers", "--remove", "his", status=5)
    assert bare.run("whoami").lines == ["alice"]


def test_a_login_takes_the_place_of_the_one_before(alice, place):
    alice.run("login", place)
    first = tokens_of(alice)[place]["id"]
    alice.run("login", place, "--token-name", "second", "--expires", "30d")
    (token,) = without_password(alice).run("--json", "token", "list").records
    assert token["id"] == tokens_of(alice)[place]["id"] != first
    assert (token["name"], token["current"]) == ("second", True)


def test_logout_revokes_and_keeps_the_server(alice, place):
    alice.run("login", place, "--name", "mine")
    saved = config(alice, "tokens.json").read_text()
    bare = without_password(alice)
    assert "logged out" in bare.run("logout").err
    bare.run("whoami", status=3)
    bare.run("logout", status=5)
    config(alice, "tokens.json").write_text(saved)
    assert "log in again" in bare.run("whoami", status=3).complaint, "it is good for nothing"
    told = bare.run("logout")
    assert "revoked the token already" in told.err
    assert without_password(alice, FTP_PASSWORD=alice.password).run("whoami").lines == ["alice"]


def test_logout_without_the_server(alice, place, server):
    alice.run("login", place)
    server.stop()
    bare = without_password(alice)
    assert "--local" in bare.run("logout", status=4).err
    assert tokens_of(alice)
    bare.run("logout", "--local")
    assert not tokens_of(alice)


def test_a_revoked_token_falls_back_to_netrc(alice, place, admin):
    alice.run("login", place)
    admin.run("token", "revoke", tokens_of(alice)[place]["id"])
    netrc = alice.home / ".netrc"
    machine = ServerAddress.parse(place).host
    netrc.write_text(f"machine {machine} login alice password {alice.password}\n")
    netrc.chmod(0o600)
    told = without_password(alice).run("whoami")
    assert told.lines == ["alice"] and "was refused" in told.complaint
    told = without_password(alice).run("--json", "whoami")
    assert "was refused" in json.loads(told.complaint)["remark"]
    netrc.chmod(0o644)
    without_password(alice).run("whoami", status=3)


def test_tokens_are_listed_and_revoked(alice, place):
    alice.run("login", place)
    bare = without_password(alice)
    other = replace(alice, home=alice.home.parent / "other")
    other.run("--accept-new", "login", place, "--token-name", "other machine")
    lines = bare.run("token", "list").lines
    assert len(lines) == 2 and "this session's" in lines[0] and "other machine" in lines[1]
    bare.run("token", "revoke", lines[1].split()[0])
    without_password(other).run("whoami", status=3)
    bare.run("token", "revoke", "nothing", status=5)
    bare.run("token", "revoke", lines[0].split()[0])
    assert not tokens_of(alice)


def test_passwd_ends_everything_else(alice, place, server):
    alice.run("login", place)
    other = replace(alice, home=alice.home.parent / "other")
    other.run("--accept-new", "login", place)
    bare = without_password(alice)
    bare.run("--password-stdin", "passwd", given=b"wrong\nnew one\n", status=3)
    bare.run("--password-stdin", "passwd", given=f"{alice.password}\n\n".encode(), status=1)
    bare.run("--password-stdin", "passwd", given=f"{alice.password}\nnew one\n".encode())
    assert bare.run("whoami").lines == ["alice"], "the saved token was renewed"
    without_password(other).run("whoami", status=3)
    alice.run("whoami", status=3)
    without_password(other, FTP_PASSWORD="new one").run("whoami")
    assert "usage" in without_password(alice).run("--json", "passwd", status=2).err


def test_a_new_account_of_the_same_name_is_not_opened_by_an_old_token(alice, place, server):
    alice.run("login", place)
    bare = without_password(alice)
    bare.run("whoami")
    server.admin.run("user", "remove", "alice")
    server.admin.run("user", "add", "alice", "--password-stdin", given=b"another\n")
    bare.run("whoami", status=3)
    without_password(alice, FTP_PASSWORD="another").run("whoami")


# registration ------------------------------------------------------------------------------


@pytest.fixture
def carol(server):
    """Somebody without an account."""
    return server.user("carol", "password of carol")


def test_nobody_registers_unasked(carol, server):
    told = carol.run("register", f"carol@{carol.server}", status=6)
    assert "invitation" in told.complaint
    carol.run("register", f"carol@{carol.server}", "--invite", "ftpi_wrong", status=6)
    assert not server.home("carol").exists()


def test_an_invitation_is_good_once(carol, server, admin):
    code = admin.run("invite", "--quota", "1MiB").text.strip()
    place = f"carol@{carol.server}"
    alice = server.first_user()
    taken = User(carol.programs, carol.home, "alice", "x", carol.server, carol.options)
    taken.run("--accept-new", "register", f"alice@{carol.server}", "--invite", code, status=1)
    told = carol.run("register", place, "--invite", code)
    assert "registered carol" in told.err
    bare = without_password(carol)
    assert bare.run("--json", "df").record["total"] == 2**20, "and logged in for good"
    bare.run("put", "-", "/file", given=b"mine")
    assert (server.home("carol") / "file").read_bytes() == b"mine"
    dave = server.user("dave", "secret")
    dave.run("register", f"dave@{carol.server}", "--invite", code, status=6)
    alice.run("ls", "/carol", status=5)


def test_open_registration(start_server):
    server = start_server("--open-registration", "--default-quota", "5MiB")
    carol = server.user("carol", "hers")
    told = carol.run("--json", "register", f"carol@{carol.server}", "--no-save")
    assert told.record == {"user": "carol", "server": carol.server}
    assert not config(carol, "tokens.json").exists()
    assert carol.run("--json", "df").record["total"] == 5 * 2**20
    carol.run("register", f"carol@{carol.server}", status=1)
    bare = without_password(carol)
    assert "no password" in bare.run("register", f"dave@{carol.server}", status=3).complaint
    given = b"of dave\n"
    bare.run("--password-stdin", "register", f"dave@{carol.server}", given=given)
    assert without_password(carol).run("whoami").lines == ["dave"]
    assert os.listdir(server.home("dave")) in ([], [".ftpd-staging"])


def test_an_invitation_ends(carol, server, admin):
    code = admin.run("invite", "--expires", "1s").text.strip()
    eventually(lambda: not admin.run("invite", "--list").lines, "it has expired")
    told = carol.run("register", f"carol@{carol.server}", "--invite", code, status=6)
    assert "not good any more" in told.complaint
    assert not server.home("carol").exists()


def test_who_registers_too_often_has_to_wait_unless_invited(start_server):
    server = start_server("--open-registration")
    carol = server.user("carol", "hers")
    for _ in range(100):
        told = carol.run("register", f"carol@{carol.server}", "--no-save", status=None)
        if "too many want to register just now: try again in" in told.err:
            break
    assert told.status == 1
    assert "too many want to register" in told.complaint
    code = server.admin.run("invite").text.strip()
    carol.run("register", f"dave@{carol.server}", "--no-save", "--invite", code)
    carol.run("ls")


def test_promises_are_warned_of(start_server, tmp_path, admin):
    admin.run("user", "add", "alice", "--quota", "900000TiB", "--password-stdin", given=b"x")
    server = start_server()
    eventually(lambda: "quotas promise" in server.log)


def test_at_a_terminal_all_is_asked_for(server, admin, carol):
    code = admin.run("invite").text.strip()
    if server.has_key:
        carol.options = ()
    place = f"carol@{carol.server}"
    with Terminal(carol, "register", place, "--invite", code, FTP_PASSWORD="") as terminal:
        if server.has_key:
            terminal.expect("Trust it (yes/no)? ")
            terminal.keys("yes\r")
        for question in ("New password for ", "The same again: "):
            terminal.expect(question)
            terminal.keys("hunter2-hunter2\r")
        printed, status = terminal.end()
        assert status == 0 and "registered carol" in printed[-1]
        assert not any("hunter2" in line for line in printed)
    with Terminal(carol, "passwd", FTP_PASSWORD="") as terminal:
        terminal.expect("Old password")
        terminal.keys("hunter2-hunter2\r")
        for question in ("New password for ", "The same again: "):
            terminal.expect(question)
            terminal.keys("another\r")
        assert terminal.end()[1] == 0
    assert without_password(carol).run("whoami").lines == ["carol"]
