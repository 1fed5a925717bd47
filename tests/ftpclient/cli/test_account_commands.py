"""The commands about an account's keys, in the shell; scripts are in tests/system/test_login.py."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from ftpclient.cli.app import App
from ftpclient.cli.group import SCRIPT_ONLY
from ftpclient.cli.main import run
from ftpclient.cli.records import space_record
from ftpclient.cli.render import space_lines, space_words
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import SavedToken, SavedTokens
from ftpclient.connection.servers import SavedServers, Server
from ftpclient.shell.running import run_line
from ftpwire.errors import LoginRefused
from ftpwire.messages import SpaceInfo
from tests.ftpclient.shell.shell_support import shell_of


@pytest.fixture
def app(server):
    with shell_of(server) as made:
        yield made


@pytest.fixture
def answers(monkeypatch):
    """What the user types when asked, in this order; and what was asked."""
    requested: list[str] = []

    def given(*texts: str) -> list[str]:
        rest = list(texts)

        def ask(self, prompt: str) -> str:
            requested.append(prompt)
            return rest.pop(0)

        monkeypatch.setattr(App, "ask_secret", ask)
        monkeypatch.setattr(App, "can_ask", True)
        return requested

    return given


def test_tokens_in_the_shell(app, server, capsys):
    made = app.client.issue_token("of a script\x1b[2J")
    assert run_line(app, "token list") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(made.id) and "of a script" in line and line.isprintable()
    assert made.token not in line
    assert run_line(app, f"token revoke {made.id}") == 0
    assert run_line(app, f"token revoke {made.id}") == 5
    assert run_line(app, "token") == 2
    assert app.client.tokens() == []


def test_passwd_in_the_shell(app, server, answers, capsys):
    requested = answers("another-one", "another-one")
    assert run_line(app, "passwd") == 0
    assert len(requested) == 2 and all("ew" in one or "again" in one for one in requested)
    assert "another-one" not in capsys.readouterr().err
    assert server.accounts.log_in("alice", "another-one")
    app.client._connection.give_up()
    assert run_line(app, "whoami") == 0, "it reconnects with the new one"


def test_two_that_differ_change_nothing(app, server, answers, capsys):
    answers("another-one", "an other")
    assert run_line(app, "passwd") == 1
    assert "do not match" in capsys.readouterr().err
    assert server.accounts.log_in("alice", "secret")


def test_the_old_password_is_asked_for_where_a_token_logged_in(app, server, answers):
    made = app.client.issue_token("laptop")
    SavedTokens().save(app.address, SavedToken(made.id, made.token, made.expires, plaintext=True))
    app.close()
    app._client = app.given_password = None
    requested = answers("secret", "another-one", "another-one")
    assert run_line(app, "passwd") == 0
    assert "Old password" in requested[0] and len(requested) == 3
    renewed = SavedTokens().get(app.address)
    assert renewed.secret != made.token and renewed.id != made.id
    with pytest.raises(LoginRefused):
        server.service.tokens.log_in("alice", made.token)
    account, _ = server.service.tokens.log_in("alice", renewed.secret)
    assert account.name == "alice"


def test_passwd_needs_somebody_to_ask(server, capsys):
    with shell_of(server, batch=True) as app:
        assert run_line(app, "passwd") == 2
    assert "no terminal" in capsys.readouterr().err
    assert server.accounts.log_in("alice", "secret")


@pytest.mark.parametrize("command", ["login", "logout", "register"])
def test_what_the_shell_has_not(app, command, capsys):
    assert command in SCRIPT_ONLY
    assert run_line(app, command) == 2
    assert "leave it with exit first" in capsys.readouterr().err


def test_the_number_of_files_is_shown_where_it_is_limited(app, server, capsys):
    server.accounts.change("alice", max_files=10)
    assert run_line(app, "mkdir a") == run_line(app, "mkdir b") == 0
    assert run_line(app, "df") == 0
    assert "files: 2 of 10" in capsys.readouterr().out
    space = SpaceInfo(5, 0, 10, 5, 100, 7)
    assert space_words(space) == "5 B of 10 B used, files: 7 of 100"
    assert space_record(space)["used_files"] == 7 and space_record(space)["total_files"] == 100
    unlimited = SpaceInfo(5, 0, used_files=7)
    assert space_words(unlimited) == "5 B used" and len(list(space_lines(unlimited))) == 1
    assert space_record(unlimited)["used_files"] == 7
    assert "used_files" not in space_record(SpaceInfo(5, 0)), "an older server doesn't count"


def test_the_trash_is_shown_separately_and_counts_as_free(app, capsys):
    app.client.write("/a", b"12345")
    assert run_line(app, "rm a") == 0
    assert run_line(app, "df") == 0
    (line,) = capsys.readouterr().out.splitlines()[:1]
    assert line.startswith("total unlimited, used 0 B, free ")
    assert line.endswith("; 5 B in the trash, freed when space is needed")
    space = SpaceInfo(0, 0, 10, 10, trash=5, trash_files=1)
    assert (space_record(space)["trash"], space_record(space)["trash_files"]) == (5, 1)
    assert "trash" not in " ".join(space_lines(SpaceInfo(5, 0)))


UNUSED = {
    "ast",
    "asyncio",
    "difflib",
    "dis",
    "fractions",
    "ftpclient.cli.records",
    "ftpclient.connection.peer",
    "ftpclient.errors",
    "ftpclient.transfer.stream_upload",
    "getpass",
    "gettext",
    "glob",
    "inspect",
    "ipaddress",
    "json",
    "locale",
    "logging",
    "msgspec.inspect",
    "platform",
    "platformdirs",
    "prompt_toolkit",
    "random",
    "rich",
    "tempfile",
    "textwrap",
    "typing_extensions",
    "unicodedata",
    "urllib.parse",
}
"""What a plain transfer has no use for. Each takes from 0.1 to 5 milliseconds of a command, which
shows where a script puts one file after the other."""


def run_ftp(*words: str, then: str, first: str = "", **more: Any) -> str:
    """What a statement prints when `ftp` has ended, in a process of its own."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        f"{first}\n"
        "from ftpclient.__main__ import main\n"
        f"sys.argv = ['ftp', *{words!r}]\n"
        "try: main()\n"
        f"finally: {then}\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, **more)
    assert found.returncode == 0, found.stderr.decode()
    return found.stderr.decode()


def test_help_and_version_need_none_of_this():
    """Start-up time counts: what a connection needs is imported by what connects."""
    unused = UNUSED | {"msgspec", "ssl", "netrc", "socket", "pathlib"}
    there = f"print({unused!r} & set(sys.modules) - before, file=sys.stderr)"
    assert run_ftp("--version", then=there) == "set()\n"


def test_a_plain_put_and_get_need_none_of_this(server, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    address = f"alice@127.0.0.1:{server.server_address[1]}"
    there = (
        f"print({UNUSED!r} & set(sys.modules) - before,"
        " *(one for name, module in sys.modules.items() if name.startswith('ftp')"
        " for one in vars(module).values() if hasattr(one, '__dataclass_fields__')),"
        " file=sys.stderr)"
    )
    for words in (["put", "-r", "tree", "/tree"], ["get", "-r", "/tree", "back"]):
        found = run_ftp(
            "-q",
            "--plaintext",
            "-s",
            address,
            *words,
            then=there,
            cwd=tmp_path,
            env=os.environ | {"FTP_PASSWORD": "secret"},
        )
        assert found == "set()\n", "dataclasses compile their methods at each start"
    assert (tmp_path / "back" / "file").read_text() == "content"


def test_starting_is_not_interrupted_by_looking_for_what_could_be_freed():
    rounds = "gc.get_stats()[0]['collections']"
    print_rounds = f"print({rounds} - began, file=sys.stderr)"
    found = run_ftp("put", "--help", first=f"import gc; began = {rounds}", then=print_rounds)
    assert int(found) < 10, "with Python's own threshold there are thirty"


def test_at_its_end_a_command_does_not_look_for_what_could_be_freed():
    code = (
        "import atexit, gc, sys\n"
        "from ftpclient.__main__ import main\n"
        "atexit.register(lambda: print(len(gc.get_objects())))\n"
        "sys.argv = ['ftp', 'help']\n"
        "main()\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout.splitlines()[-1]) < 1000, "some ten thousand are left to the process"


# at a terminal -------------------------------------------------------------------------------


@pytest.fixture
def first(server):
    """Someone's first command: nothing is saved, and no password is set."""
    made = App()
    made.use(f"alice@127.0.0.1:{server.server_address[1]}")
    made.plaintext = True
    yield made
    made.close()
    made.interrupt.close()


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        (("secret",), 0),
        (("wrong", "secret"), 0),
        (("wrong", "wrong", "secret"), 0),
        (("wrong", "wrong", "wrong"), 3),
    ],
)
def test_a_password_may_be_mistyped_twice(first, answers, capsys, typed, status):
    requested = answers(*typed)
    assert run(first, ["-s", first.server, "--plaintext", "whoami"]) == status
    assert len(requested) == len(typed)
    refused = "ftp: wrong user name or password"
    expected = [f"{refused} (2 tries are left)", f"{refused} (1 try is left)", refused]
    assert capsys.readouterr().err.splitlines() == expected[: typed.count("wrong")]


def test_a_given_password_is_tried_once(first, monkeypatch, capsys):
    monkeypatch.setenv("FTP_PASSWORD", "wrong")
    assert run(first, ["-s", first.server, "--plaintext", "whoami"]) == 3
    assert capsys.readouterr().err == "ftp: wrong user name or password\n"


ELSEWHERE = Server(ServerAddress("elsewhere", 1234, "bob"))


@pytest.mark.parametrize(
    ("before", "options", "answer", "becomes"),
    [
        pytest.param(None, (), None, True, id="the-first"),
        pytest.param(ELSEWHERE, (), None, False, id="a-script"),
        pytest.param(ELSEWHERE, ("--default",), None, True, id="asked-for"),
        pytest.param(ELSEWHERE, (), True, True, id="yes"),
        pytest.param(ELSEWHERE, (), False, False, id="no"),
    ],
)
def test_only_the_first_server_becomes_the_default_by_itself(
    first, monkeypatch, capsys, before, options, answer, becomes
):
    monkeypatch.setenv("FTP_PASSWORD", "secret")
    if before is not None:
        SavedServers().save(before)
    if answer is not None:
        monkeypatch.setattr(App, "can_ask", True)
        monkeypatch.setattr(App, "yes_or_no", lambda self, question: answer)
    here = first.server
    assert run(first, ["--plaintext", "login", here, *options]) == 0
    assert SavedServers().default_name() == (here if becomes else str(before.address))
    errors = capsys.readouterr().err
    if before is not None:
        assert (f"default server: {here} (was {before.address})" in errors) == becomes
        assert (f"default server: {before.address}, as before" in errors) != becomes
