"""The shell's own comfort: aliases, settings, the rc file, the prompt, suggestions, and going from
one server to another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prompt_toolkit.utils import get_cwidth

from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.servers import SavedServers, Server
from ftpclient.shell import prompt, scripts
from ftpclient.shell.completion import ShellCompleter
from ftpclient.shell.expansion import check_command
from ftpclient.shell.history import LineHistory
from ftpclient.shell.running import begins_with_command
from ftpwire.errors import ConnectFailed


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FTP_PASSWORD", raising=False)
    monkeypatch.setenv("SHELL", "/bin/sh")
    role = tmp_path / "config" / "ftp-client"
    role.mkdir(parents=True)
    return role


@pytest.fixture
def app(app):
    app.shell.check_command = check_command
    return app


# aliases ------------------------------------------------------------------------------------


def test_an_alias_is_the_first_word_only(run, files):
    (files / "ll").write_text("x")
    assert run("alias ll='ls -1 --sort name' ls='ls -1'") == (0, "", "")
    assert run("ll ll") == run("ls ll") == (0, "ll\n", "")
    assert run("ll; ls ll | cat && ll > out; !cat out")[0] == 2
    assert run("ll; ls ll | cat") == (0, "ll\nll\n", "")
    assert run("alias") == (0, "alias ll='ls -1 --sort name'\nalias ls='ls -1'\n", "")
    assert run("alias ll") == (0, "alias ll='ls -1 --sort name'\n", "")
    assert run("unalias ll ls") == (0, "", "")
    assert run("ll")[0] == 2
    assert run("unalias ll")[0] == run("alias ll")[0] == 5


def test_patterns_of_an_alias_are_as_they_were_quoted(run, files):
    for name in ("ab", "ac"):
        (files / name).write_text(name)
    run("alias one='cat \"a*\"' all='cat a*'")
    assert run("one")[0] == 5
    assert run("all") == (0, "abac", "")


@pytest.mark.parametrize("line", ["", "ls | cat", "ls; ls", "ls > x", "!ls", "- ls", "a && b", "'"])
def test_what_is_no_alias(run, line):
    quoted = "'" + line.replace("'", "'\\''") + "'"
    assert run(f"alias x={quoted}")[0] == 2
    assert run("alias 'a b'=ls")[0] == 2
    assert run("alias") == (0, "", "")


def test_what_an_alias_stands_for_is_completed(app, run, files):
    (files / "name").touch()
    run("alias show='cat --json'")
    _, names = ShellCompleter(app)._fitting("show na")
    assert [one.text for one in names] == ["name"]
    _, names = ShellCompleter(app)._fitting("sho")
    assert [one.text for one in names] == ["show"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("open fi", ["files"]),
        ("open files /", []),
        ("set para", ["parallel"]),
        ("unalias l", ["ll"]),
        ("bookmark ", []),
        ("echo d", []),
        ("set /par", []),
    ],
)
def test_what_is_offered(app, run, files, typed, offered):
    (files / "docs").mkdir()
    SavedServers().save(Server(ServerAddress("host")), "files")
    run("alias ll=ls")
    assert [one.text for one in ShellCompleter(app)._fitting(typed)[1]] == offered


# settings -----------------------------------------------------------------------------------


def test_settings_are_shown_and_set(run):
    assert run("set parallel 3") == (0, "", "")
    assert run("set parallel") == (0, "3\n", "")
    assert "parallel     3\n" in run("set")[1]


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("set nope", "unknown setting nope (settings: bell, color, jobs, limit-rate"),
        ("set colour x", "did you mean color?"),
        ("set parallel 0", "parallel cannot be '0': use auto or a number from 1 to 32"),
        ("set bell loud", "use one of on, off"),
        ("set limit-rate fast", "limit-rate cannot be 'fast'"),
        ("set jobs many", "jobs cannot be 'many': use a number from 1 to 32"),
    ],
)
def test_settings_that_can_not_be(run, line, reported):
    status, out, err = run(line)
    assert (status, out) == (2, "") and reported in err


def test_settings_are_defaults_of_options(app, run, files, local, monkeypatch):
    (local / "f").write_text("x")
    seen = []
    put = type(app.client).put
    monkeypatch.setattr(
        type(app.client),
        "put",
        lambda self, *a, **more: (
            seen.append((more["parallel"], self.limit_rate)) or put(self, *a, **more)
        ),
    )
    run("set parallel 2; set limit-rate 1MiB; set color always")
    assert run("put f")[0] == run("put -P 3 --limit-rate 2MiB f")[0] == 0
    run("set parallel auto; set limit-rate none")
    assert run("put f")[0] == 0
    assert seen == [(2, 2**20), (3, 2 * 2**20), (None, None)]
    (files / "d").mkdir()
    assert run("ls")[1].startswith("\x1b[")
    assert "\x1b" not in run("ls --color=never")[1]


def test_echo_and_history(app, run, local):
    assert run("echo a 'b  c' -n --json") == (0, "a b  c -n --json\n", "")
    run("echo x > out")
    assert (local / "out").read_text() == "x\n"
    assert run("history") == (0, "", "")
    app.shell.history = lambda: ["ls", "cat 'a\nb'", "pwd"]
    assert run("history 2") == (0, "    2  cat 'a\\nb'\n    3  pwd\n", "")
    assert run("clear") == (0, "", "")  # no terminal


# the rc file --------------------------------------------------------------------------------


def test_the_rc_file(app, capfd, settings, local):
    rc = settings / "rc"
    scripts.run_rc(app)  # there is none
    rc.write_text("alias ll='ls -l'\n# a comment\nfrob\nput x\nexit\nopen y\nset prompt full\n")
    rc.chmod(0o600)
    scripts.run_rc(app)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.partition(" ")[0] for line in err.splitlines()] == [
        *("rc:3:", "rc:4:", "rc:5:", "rc:6:"),
    ]
    assert "rc:4: an rc file cannot have put: it moves files" in err
    assert app.shell.aliases == {"ll": "ls -l"} and app.shell.settings["prompt"] == "full"
    assert not (app.shell.leaving or app.shell.batch or app.shell.in_rc or app.shell.where)


def test_an_rc_file_that_others_can_write_is_not_run(app, capfd, settings):
    (settings / "rc").write_text("alias ll='ls -l'\n")
    (settings / "rc").chmod(0o622)
    scripts.run_rc(app)
    assert "chmod go-w" in capfd.readouterr().err
    assert not app.shell.aliases


def test_rc_of_a_batch_is_named(app, capfd, settings, local):
    (settings / "rc").write_text("echo mine\n")
    (local / "other").write_text("echo other\n")
    app.interactive = False
    assert main.run(app, ["-s", app.server, "--plaintext", "-c", "echo x"]) == 0
    assert capfd.readouterr().out == "x\n"
    app.interactive = False
    assert main.run(app, ["--rc", "other", "-c", "echo x"]) == 0
    assert capfd.readouterr().out == "other\nx\n"
    app.interactive = False
    assert main.run(app, ["--rc", "nope", "-c", "echo x"]) == 5


# from one server to another -----------------------------------------------------------------


@pytest.fixture
def other(start_server, tmp_path):
    """Another server, saved as ``other``, to which bob's token leads."""
    from ftpclient.client import Client
    from ftpclient.connection.credentials import SavedToken, SavedTokens

    server = start_server(root=tmp_path / "other")
    server.accounts.add("bob", "secret")
    address = ServerAddress(*server.server_address[:2], "bob")
    with Client(address, password="secret", plaintext=True) as client:
        client.make_dir("/work/deep", parents=True)
        made = client.issue_token("tests")
    SavedServers().save(Server(address, plaintext=True), "other")
    SavedTokens().save(address, SavedToken(made.id, made.token, None, plaintext=True))
    return server


def test_each_server_is_as_it_was_left(app, run, files, other):
    """Also when nothing but what was given at the start logs in to the first one."""
    (files / "docs").mkdir()
    address = app.server
    SavedServers().save(Server(app.address, plaintext=True), "first")
    run("cd docs")
    assert run("open other:work; pwd") == (0, "/work\n", "")
    assert (app.plaintext, app.given_password) == (False, None)
    assert run("cd deep; bookmark deep")[0] == 0
    assert run("open first; pwd") == (0, "/docs\n", "")
    assert run(f"open {address}:/")[0] == 2  # with a port, a path needs a URL
    assert run(f"open ftpd://{address}/; pwd") == (0, "/\n", "")
    assert run("open other; pwd") == (0, "/work/deep\n", "")
    assert run("cd /; open deep; pwd") == (0, "/work/deep\n", "")


def test_a_bookmark_leads_to_its_directory(app, run, files, settings):
    (files / "docs").mkdir()
    run("cd docs")
    assert run("bookmark here")[0] == 0
    assert run("bookmark 'a b'")[0] == 2
    saved = json.loads((settings / "servers.json").read_text())
    assert saved["servers"]["here"]["path"] == "/docs" and saved.get("default") is None
    shown = f"here  {app.address}:/docs  plaintext\n"
    assert run("servers") == (0, shown, "")
    assert json.loads(run("servers --json")[1])["path"] == "/docs"
    SavedServers().save(Server(ServerAddress("elsewhere")), "there")
    assert run("bookmark there")[0] == 1


def test_a_server_that_can_not_be_reached_changes_nothing(app, run, files):
    (files / "docs").mkdir()
    run("cd docs")
    connection = app.client.connection
    assert run("open al@127.0.0.1:1")[0] == ConnectFailed.exit_code
    assert run("pwd") == (0, "/docs\n", "")
    assert app.client.connection is connection
    assert (app.plaintext, app.given_password) == (True, "secret")


def test_a_directory_that_is_gone(app, run, files, other):
    SavedServers().save(Server(app.address, plaintext=True), "first")
    run("mkdir d; cd d; open other")
    (files / "d").rmdir()
    assert run("open first")[2] == "ftp: /d no longer exists; the current directory is /\n"
    assert run("pwd") == (0, "/\n", "")
    assert run("open other:nope")[0] == 5


def test_close_and_open(app, run, files, local):
    (files / "docs").mkdir()
    run("cd docs")
    assert run("open")[0] == 2
    assert run("close") == (0, "", "")
    (local / "x").touch()
    reported = "ftp: not connected: use open to reconnect, or open SERVER\n"
    for line in ("ls", "put x", "get x", "sync . :b", "whoami", "bookmark x"):
        assert run(line) == (2, "", reported)
    assert prompt.parts(app, 0, 80) == [("bold", "(not connected)> ")]
    assert run("echo x") == (0, "x\n", "")
    assert run("open; pwd") == (0, "/docs\n", "")


def test_passwords_of_all_servers_are_kept_out_of_the_history(app, run, other):
    assert app.holds_password("x secret")
    run("open other")
    assert app.client.user == "bob" and app.holds_password("x secret")
    assert not app.holds_password("x")


def test_what_was_given_without_a_server_is_for_the_first_that_is_opened(app, other, monkeypatch):
    where = "ftpd://bob@{}:{}".format(*other.server_address[:2])
    fresh = App(run_shell=app.run_shell)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(App, "read_secret_line", lambda self: "secret")
            words = ["--plaintext", "--password-stdin", "-c", f"open {where}; whoami"]
            assert main.run(fresh, words) == 0
        assert fresh.client.user == "bob"
    finally:
        fresh.close()
        fresh.interrupt.close()


def test_a_batch_goes_from_one_to_another(app, run, other):
    assert run("open other && ls && open al@127.0.0.1:1 || pwd")[:2] == (0, "work/\n/\n")


def test_a_word_of_another_server_says_how_to_get_there(app, run, other):
    status, _, err = run("ls other:work")
    assert status == 2 and "use open other first" in err
    assert run("open other; ls other:work") == (0, "deep/\n", "")


# the prompt and suggestions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "most", "shown"),
    [
        ("/", 12, "/"),
        ("/a/b", 12, "/a/b"),
        ("/a/bb/cc/dd/and-more", 15, "/a/…/and-more"),
        ("/a/bb/cc/dd/and-more", 16, "/a/…/dd/and-more"),
        ("/a-directory-of-many-letters", 12, "/a-…-letters"),
        ("/a/a-directory-of-many-letters", 12, "/a/…-letters"),
        ("/täglich/x/日本語日本語日本語", 12, "/tä…語日本語"),
    ],
)
def test_a_long_directory_is_cut_in_the_middle(path, most, shown):
    assert get_cwidth(prompt.shortened(path, most)) <= most
    assert prompt.shortened(path, most) == shown


def test_the_prompt_reports_how_the_last_line_ended(app):
    app.client.cwd = b"/" + b"/".join([b"directory"] * 20)
    (red, status), (_, text) = prompt.parts(app, 5, 90)
    assert (red, status) == ("ansired", "[5] ")
    assert "…" in text and len(text.partition(":/")[2]) <= 31
    app.shell.settings.set("prompt", "full")
    app.shell.settings.set("color", "never")
    assert "…" not in prompt.parts(app, 0, 90)[0][1]
    assert prompt.parts(app, 5, 90)[0] == ("", "[5] ")


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("ls", True),
        ("  - rm x", True),
        ("ls;cd", True),
        ("ll -a", True),
        ("!make", True),
        ("# to do", True),
        ("dir", True),
        ("correct-horse", False),
        ("hunter2 ls", False),
        (">x", False),
    ],
)
def test_which_lines_begin_with_a_command(app, line, begins):
    app.shell.aliases["ll"] = "ls -l"
    assert begins_with_command(app, line) is begins


def test_lines_of_another_server_are_not_suggested(tmp_path):
    path = tmp_path / "history"
    at = ["al@one:1234"]
    history = LineHistory(path, server=lambda: at[0])
    history.append_string("rm -r /old")
    at[0] = "al@two:1234"
    history.append_string("ls /new")
    history.append_string("ls 'a\nb'")
    for one in (history, LineHistory(path, server=lambda: at[0])):
        loaded(one)
        assert one.last_of_server("rm") is None
        assert one.last_of_server("ls /") == "ls /new"
        assert one.last_of_server("ls") == "ls 'a\nb'"
        assert one.last_of_server("ls /new") is None  # nothing more
        at[0] = "al@one:1234"
        assert one.last_of_server("rm") == "rm -r /old"
        at[0] = "al@two:1234"


def test_a_history_of_before_has_lines_of_no_server(tmp_path):
    path = tmp_path / "history"
    path.write_text("ls /old\n")
    history = LineHistory(path, server=lambda: "al@one:1234")
    loaded(history)
    assert history.get_strings() == ["ls /old"]
    assert history.last_of_server("ls") is None


def loaded(history: LineHistory) -> None:
    """Have a history read its file, as the shell does before its first prompt."""
    if not history.get_strings():
        for line in reversed(list(history.load_history_strings())):
            history._loaded_strings.insert(0, line)
