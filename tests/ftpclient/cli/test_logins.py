"""`login`, `logout`, `token`, `passwd` and `register` as command lines, without a terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftpclient.connection.addresses import ServerAddress
from ftpserver.cli.main import cli
from tests.ftpclient.cli.command_lines import CommandLine


def config(user: CommandLine, name: str) -> Path:
    return user.home / "config" / "ftp-client" / name


def tokens_of(user: CommandLine) -> dict:
    return json.loads(config(user, "tokens.json").read_text())["tokens"]


@pytest.fixture
def alice(start_server, at_a_command_line) -> CommandLine:
    """Alice, whose server has a key, which she trusts."""
    return at_a_command_line(start_server(plaintext=False))


@pytest.fixture
def place(alice) -> str:
    return f"alice@{alice.server}"


def bare(user: CommandLine, **environment: str) -> CommandLine:
    """The same user at the same machine, with this environment and no other: trusting nobody."""
    return replace(user, password="", server="", options=(), environment=environment)


def elsewhere(user: CommandLine) -> CommandLine:
    """The same user at another machine."""
    return replace(user, home=user.home.parent / "other")


def test_login_wants_a_good_password(alice, place):
    wrong = bare(alice, FTP_PASSWORD="wrong")
    wrong.run("--accept-new", "login", place, status=3)
    assert not config(alice, "tokens.json").exists()
    wrong.run("--accept-new", "-s", place, "connect", given=b"whoami\n", status=3)
    none = bare(alice)
    assert "--password-stdin" in none.run("login", place, status=3).complaint
    reported = none.run("--json", "--password-stdin", "login", place, given=alice.password.encode())
    assert reported.record["user"] == "alice" and reported.record["token"]


def test_an_unknown_server_is_not_logged_in_to(alice, place):
    unknown = bare(alice, FTP_PASSWORD=alice.password)
    unknown.run("login", place, status=9)
    assert not config(alice, "tokens.json").exists()
    unknown.run("login", place, "--accept-new")


def test_a_login_takes_the_place_of_the_one_before(alice, place):
    alice.run("login", place)
    first = tokens_of(alice)[place]["id"]
    alice.run("login", place, "--token-name", "second", "--expires", "30d")
    (token,) = bare(alice).run("--json", "token", "list").records
    assert token["id"] == tokens_of(alice)[place]["id"] != first
    assert (token["name"], token["current"]) == ("second", True)


def test_logout_without_the_server(alice, place, start_server):
    alice.run("login", place)
    start_server.finish(alice.running)
    assert "--local" in bare(alice).run("logout", status=4).err
    assert tokens_of(alice)
    bare(alice).run("logout", "--local")
    assert not tokens_of(alice)


def saved_about(user: CommandLine) -> set[str]:
    """The files of this user's client in which the server's name is."""
    directory = config(user, ".")
    port = user.server.rpartition(":")[2]
    return {one.name for one in directory.iterdir() if f":{port}" in one.read_text()}


def test_logout_forget_leaves_nothing(alice, place):
    alice.run("login", place, "--name", "mine")
    bare(alice).run("-s", "mine", "-c", "bookmark docs")
    assert saved_about(alice) == {"servers.json", "tokens.json", "known_hosts"}
    bare(alice).run("logout", "--forget", "docs")
    assert not saved_about(alice) and not bare(alice).run("servers").lines
    assert json.loads(config(alice, "servers.json").read_text())["default"] is None
    assert "nothing is saved" in bare(alice).run("logout", "--forget", place, status=5).complaint
    alice.run("login", place)  # the token itself was revoked
    assert len(bare(alice).run("token", "list").lines) == 1


def test_logout_forget_keeps_what_others_use(alice, place):
    """The key of a server with another user, and the other servers."""
    alice.running.accounts.add("bob", "secret")
    alice.run("login", place, "--name", "mine")
    replace(alice, name="bob").run("login", f"bob@{alice.server}", "--name", "his", "--default")
    bare(alice).run("logout", "--forget", "--local", "mine")
    (left,) = bare(alice).run("--json", "servers").records
    assert (left["name"], left["default"]) == ("his", True)
    assert bare(alice).run("whoami").lines == ["bob"]


def test_logout_forget_without_the_server(alice, place, start_server):
    alice.run("login", place)
    start_server.finish(alice.running)
    bare(alice).run("logout", "--forget", status=4)
    assert saved_about(alice) == {"servers.json", "tokens.json", "known_hosts"}
    bare(alice).run("logout", "--forget", "--local")
    assert not saved_about(alice)


@pytest.mark.parametrize("words", [("servers", "--new-key"), ("forget",)])
def test_a_saved_key_is_replaced(alice, place, words):
    alice.run("login", place, "--name", "mine")
    bare(alice).run(*words, "mine")
    bare(alice).run("whoami", status=9)
    assert bare(alice).run("--accept-new", "whoami").lines == ["alice"]
    assert bare(alice).run("servers").lines == [f"mine  {place}  (default)"]


def test_a_revoked_token_falls_back_to_netrc(alice, place):
    alice.run("login", place)
    root = str(alice.running.settings.root)
    revoke = ["token", "revoke", tokens_of(alice)[place]["id"], "--root", root]
    assert CliRunner().invoke(cli, revoke).exit_code == 0
    netrc = alice.home / ".netrc"
    machine = ServerAddress.parse(place).host
    netrc.write_text(f"machine {machine} login alice password {alice.password}\n")
    netrc.chmod(0o600)
    reported = bare(alice).run("whoami")
    assert reported.lines == ["alice"] and "was refused" in reported.complaint
    reported = bare(alice).run("--json", "whoami")
    assert "was refused" in json.loads(reported.complaint)["remark"]
    netrc.chmod(0o644)
    bare(alice).run("whoami", status=3)


def test_tokens_are_listed_and_revoked(alice, place):
    alice.run("login", place)
    other = elsewhere(alice)
    other.run("--accept-new", "login", place, "--token-name", "other machine")
    lines = bare(alice).run("token", "list").lines
    assert len(lines) == 2 and "this session's" in lines[0] and "other machine" in lines[1]
    bare(alice).run("token", "revoke", lines[1].split()[0])
    bare(other).run("whoami", status=3)
    bare(alice).run("token", "revoke", "nothing", status=5)
    bare(alice).run("token", "revoke", lines[0].split()[0])
    assert not tokens_of(alice)


def test_passwd_ends_everything_else(alice, place):
    alice.run("login", place)
    other = elsewhere(alice)
    other.run("--accept-new", "login", place)
    here = bare(alice)
    here.run("--password-stdin", "passwd", given=b"wrong\nnew one!\n", status=3)
    here.run("--password-stdin", "passwd", given=f"{alice.password}\n\n".encode(), status=1)
    here.run("--password-stdin", "passwd", given=f"{alice.password}\nnew one!\n".encode())
    assert here.run("whoami").lines == ["alice"], "the saved token was renewed"
    bare(other).run("whoami", status=3)
    alice.run("whoami", status=3)
    bare(other, FTP_PASSWORD="new one!").run("whoami")
    assert "usage" in bare(alice).run("--json", "passwd", status=2).err


def test_a_new_account_of_the_same_name_is_not_opened_by_an_old_token(alice, place):
    alice.run("login", place)
    bare(alice).run("whoami")
    accounts = alice.running.accounts
    accounts.remove("alice")
    accounts.add("alice", "another")
    bare(alice).run("whoami", status=3)
    bare(alice, FTP_PASSWORD="another").run("whoami")


def test_a_ban_outlasts_the_server(start_server, at_a_command_line):
    server = start_server(ban_after=1)
    guessing = at_a_command_line(server, password="wrong")
    guessing.run("ls", status=3)
    start_server.finish(server)
    alice = at_a_command_line(start_server(ban_after=1))
    assert "too many log-ins" in alice.run("ls", status=3).err


# registration ------------------------------------------------------------------------------


def test_nobody_registers_unasked(alice):
    carol = replace(alice, name="carol", password="of carol", home=alice.home.parent / "carol")
    reported = carol.run("register", f"carol@{carol.server}", status=6)
    assert "invitation" in reported.complaint
    carol.run("register", f"carol@{carol.server}", "--invite", "ftpi_wrong", status=6)
    assert not carol.on_server.exists()
