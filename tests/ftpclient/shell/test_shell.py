"""Lines and batches of the shell, on a real server; its terminal is in tests/system."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.output import DummyOutput

from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpclient.cli.group import MODULE_OF, SCRIPT_ONLY, SHELL_ONLY
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import Credential
from ftpclient.shell import prompt as prompts
from ftpclient.shell import shell
from ftpclient.shell.running import run_line
from ftpclient.shell.scripts import run_batch
from ftpwire.errors import Interrupted
from tests.ftpclient.shell.shell_support import shell_of


@pytest.fixture
def home(server):
    """Alice's remote files."""
    return server.settings.root / "alice"


@pytest.fixture
def app(server, local, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    with shell_of(server) as app:
        yield app


@pytest.fixture
def batch(server, local, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    with shell_of(server, batch=True) as app:
        yield app


# one line -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "   ", "# ls nope", "  # ls nope", "\t"])
def test_lines_that_say_nothing(app, capfd, line):
    assert run_line(app, line) == 0
    assert capfd.readouterr() == ("", "")


def test_lines_share_the_session(app, home, capfd):
    assert run_line(app, "mkdir -p 'a b/c'") == 0
    connection = app.client.connection
    assert run_line(app, "  cd a\\ b ") == 0
    assert run_line(app, "ls") == 0
    assert run_line(app, "pwd") == 0
    assert capfd.readouterr() == ("c/\n/a b\n", "")
    assert app.client.connection is connection


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        pytest.param("ls nope", 5, "/nope: no such file or directory", id="not-found"),
        pytest.param("lsr", 2, "unknown command 'lsr': did you mean ls?", id="misspelt"),
        pytest.param("del x", 2, "unknown command 'del': did you mean rm x?", id="of-others"),
        pytest.param("xyzzy", 2, "unknown command 'xyzzy' (help lists all)", id="unknown"),
        pytest.param(
            "ls && lsr",
            2,
            "unknown command 'lsr': did you mean ls? (column 7)",
            id="unknown-in-a-list",
        ),
        pytest.param(
            "echo 'a\nb'; xyzzy",
            2,
            "unknown command 'xyzzy' (help lists all) (column 5)",
            id="unknown-in-the-next-line",
        ),
        pytest.param("ls > nope/x", 5, "nope: no such file or directory", id="no-place-for-it"),
        pytest.param("source nope", 5, "nope: no such file or directory", id="source-nothing"),
        pytest.param("help lsr", 2, "unknown command 'lsr': did you mean ls?", id="unknown-help"),
        pytest.param(
            "sync 'a b' c",
            2,
            "neither path begins with a colon, so neither is on the server: "
            "did you mean sync a\\ b :c?",
            id="sync-without-a-colon",
        ),
        pytest.param(
            "sync :a :b",
            2,
            "both paths begin with a colon, so both are on the server: did you mean cp -r a b?",
            id="sync-with-two-colons",
        ),
        pytest.param("less file", 2, "less needs a terminal: use cat", id="instead"),
        pytest.param(
            "connect x",
            2,
            "'connect' doesn't work in the shell: leave it with exit first",
            id="script-only",
        ),
        pytest.param("ls 'a", 2, "unclosed quote: ' (column 4)", id="open-quote"),
        pytest.param("ls a\\", 2, "nothing follows the final backslash (column 5)", id="backslash"),
        pytest.param(
            "--json ls",
            2,
            "options come after the command, e.g. ls --json (column 1)",
            id="option-first",
        ),
        pytest.param(
            "ls --bogus", 2, "unknown option --bogus (see ls --help)", id="no-such-option"
        ),
        pytest.param(
            "mkdir", 2, "missing argument: mkdir PATH... (see mkdir --help)", id="missing"
        ),
        pytest.param("rm -r ''", 1, "an empty path", id="empty-path"),
        pytest.param("cd nope", 5, "/nope: no such file or directory", id="cd-nowhere"),
        pytest.param("cd -", 1, "cd: no previous directory", id="cd-back"),
        pytest.param("cat 'a[1]*'", 5, "/a[1]*: no such file or directory", id="quoted-not-found"),
        pytest.param("cat a[1]*", 5, "/a[1]*: nothing matches", id="pattern-not-found"),
        pytest.param("cd file", 1, "/file: not a directory", id="cd-file"),
        pytest.param("cd f*", 2, "cd: f* matches 2 paths", id="cd-several"),
        pytest.param("lcd nope", 5, "nope: no such file or directory", id="lcd-nowhere"),
        pytest.param("put nope", 5, "nope: no such local file or directory", id="put-nothing"),
        pytest.param("put '' /", 2, "an empty path", id="put-unset-variable"),
        pytest.param("put file '' /", 2, "an empty path", id="put-one-unset"),
        pytest.param("get nope", 5, "/nope: no such file or directory", id="get-nothing"),
        pytest.param("cat \x1b31m", 5, "/\\x1b31m: no such file or directory", id="escape"),
        pytest.param("exit now", 2, None, id="exit-takes-nothing"),
    ],
)
def test_an_error_is_one_line_and_the_shell_goes_on(app, home, capfd, line, status, complaint):
    (home / "file").touch()
    (home / "fine").touch()
    assert run_line(app, line) == status
    out, err = capfd.readouterr()
    assert out == ""
    if complaint is not None:
        assert err == f"ftp: {complaint}\n"
    assert err.count("\n") == 1
    assert not app.shell.leaving
    assert run_line(app, "whoami") == 0
    assert capfd.readouterr() == ("alice\n", "")


def test_an_unexpected_error_is_one_line(app, capfd, monkeypatch):
    monkeypatch.setattr(app.client, "whoami", lambda: 1 // 0)
    assert run_line(app, "whoami") == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_debug_shows_where_an_error_is_from_and_the_shell_goes_on(app, capfd, monkeypatch):
    app.debug = True
    assert run_line(app, "cd nope") == 5
    out, err = capfd.readouterr()
    assert err.startswith("Traceback ")
    assert "NotFound: /nope: no such file or directory\n" in err
    assert err.endswith("ftp: /nope: no such file or directory\n")
    assert run_line(app, "whoami") == 0


@pytest.mark.parametrize("name", ["as_json", "quiet", "accept_new"])
def test_options_of_a_line_don_t_stick(app, capfd, name):
    option = {"as_json": "--json", "quiet": "-q", "accept_new": "--accept-new"}[name]
    assert run_line(app, f"whoami {option}") == 0
    assert getattr(app, name) is False
    assert run_line(app, f"ls nope {option}") == 5
    assert getattr(app, name) is False


def test_options_of_the_shell_stay(app, capfd):
    app.as_json = True
    for _ in range(2):
        assert run_line(app, "whoami") == 0
    assert [json.loads(line)["user"] for line in capfd.readouterr().out.splitlines()] == [
        "alice",
        "alice",
    ]


def test_an_interrupt_from_before_is_no_concern_of_the_next_line(app, capfd):
    app.interrupt.set()
    assert run_line(app, "whoami") == 0


def test_an_interrupt_between_two_lines_of_a_batch_ends_it(server, local, standard_input, capfd):
    with shell_of(server) as app:
        standard_input.write(b"!true\nwhoami\n")
        app.interrupt.set()
        with pytest.raises(Interrupted):
            shell.run_shell(app)
    assert capfd.readouterr().out == ""


def test_an_interrupted_line_leaves_the_session(app, capfd, monkeypatch):
    space = app.client.space
    monkeypatch.setattr(app.client, "space", lambda: app.interrupt.set() or space())
    connection = app.client.connection
    for _ in range(3):
        assert run_line(app, "df") == 130
    assert capfd.readouterr() == ("", "ftp: interrupted\n" * 3)
    assert run_line(app, "whoami") == 0
    assert app.client.connection is connection


def test_ctrl_c_in_many_lines_is_never_too_much(app, capfd, monkeypatch):
    space = app.client.space
    monkeypatch.setattr(app.client, "space", lambda: signal.raise_signal(signal.SIGINT) or space())
    with app.interrupt.on_ctrl_c():
        for _ in range(5):
            assert run_line(app, "df") == 130
        assert run_line(app, "whoami") == 0


def test_a_server_that_left_meanwhile_is_no_concern_of_the_next_line(app, server, capfd):
    (session,) = server.service.sessions
    assert run_line(app, "cd /") == 0
    gone = app.client.connection
    # the session's end, as the client hears of it
    gone.channel.socket.shutdown(2)
    assert run_line(app, "whoami") == 0
    assert capfd.readouterr() == ("alice\n", "")
    assert app.client.connection is not gone
    assert gone.broken


# directories and patterns --------------------------------------------------------------------


def test_cd(app, home, capfd):
    (home / "docs" / "old").mkdir(parents=True)
    for line, cwd in (
        ("cd docs", b"/docs"),
        ("cd old", b"/docs/old"),
        ("cd ..", b"/docs"),
        ("cd -", b"/docs/old"),
        ("cd", b"/"),
        ("cd -", b"/docs/old"),
        ("cd nope", b"/docs/old"),
        ("cd /d*/o*", b"/docs/old"),
        ("cd ../..", b"/"),
    ):
        run_line(app, line)
        assert app.client.cwd == cwd, line
    assert capfd.readouterr().out == "/docs/old\n/docs/old\n"


def test_local_directories(app, local, tmp_path, capfd):
    (local / "sub dir").mkdir()
    (local / "sub dir" / "file").touch()
    for line in ("lcd 'sub dir'", "lpwd", "lls", "lls -d .", "lls f*", "lcd ..", "lls"):
        assert run_line(app, line) == 0
    out = f"{local}/sub dir\nfile\n.\nfile\nsub dir\n"
    assert capfd.readouterr() == (out, "")
    (tmp_path / "user" / "mine").mkdir(parents=True)
    assert run_line(app, "lcd ~/mine") == 0
    assert os.getcwd() == str(tmp_path / "user" / "mine")
    assert run_line(app, "lcd") == 0
    assert os.getcwd() == str(tmp_path / "user")


def test_local_patterns(app, local, home, capfd):
    for name in ("a.txt", "b.txt", "c.md", "l[1].log", "l1.log"):
        (local / name).write_text(name)
    assert run_line(app, "put *.txt l[1].log /") == 0
    assert sorted(os.listdir(home)) == [".ftpd-staging", "a.txt", "b.txt", "l[1].log"]
    assert run_line(app, "put '*.md' /") == 5
    assert "*" in capfd.readouterr().err


def test_the_users_own_directory(app, tmp_path, home):
    (tmp_path / "user").mkdir(exist_ok=True)
    (tmp_path / "user" / "mine").write_text("mine")
    assert run_line(app, "put ~/mine") == 0
    assert (home / "mine").read_text() == "mine"
    assert run_line(app, "get mine ~/back") == 0
    assert (tmp_path / "user" / "back").read_text() == "mine"


def test_a_tilde_is_the_remote_home_in_remote_places(app, local, home, capfd):
    (local / "file").write_text("mine")
    for line in (
        "mkdir -p docs/a ~/b",
        "cd docs",
        "put file ~/b",
        "put file ~/b/put",
        "cp ~/b/put ~",
        "cp ~/b/p* ~/b/copy",
        "mv ~/b/copy ~/docs/a",
        "ln -s ~/b/put ~/link",
        "get ~/link here",
        "sync . :~/c",
        "cd ~/docs/a",
        "cd ~",
    ):
        assert run_line(app, line) == 0, line
    assert app.client.cwd == b"/"
    found = {path.relative_to(home).as_posix() for path in home.rglob("*") if not path.is_dir()}
    assert {"b/file", "b/put", "put", "docs/a/copy", "link", "c/file", "c/here"} <= found
    assert os.readlink(home / "link") == "/b/put"
    assert (local / "here").read_text() == "mine"
    assert run_line(app, "ls ~/nope") == run_line(app, "ls '~/b'") == run_line(app, "ls ~b") == 5
    assert capfd.readouterr().err.splitlines()[-3:] == [
        f"ftp: /{name}: no such file or directory" for name in ("nope", "~/b", "~b")
    ]


def test_a_quoted_tilde_is_a_name(app, local, home):
    (local / "~odd").write_text("odd")
    assert run_line(app, "put '~odd'") == 0
    assert (home / "~odd").read_text() == "odd"


@pytest.mark.parametrize("line", ["rm 'a*'", r"rm a\*", "rm \"a\"*'*'", "rm -f 'a*'"])
def test_quoted_patterns_remove_nothing_else(app, home, capfd, line):
    for name in ("a1", "a2"):
        (home / name).touch()
    run_line(app, line)
    assert {"a1", "a2"} <= set(os.listdir(home))


def test_a_quoted_pattern_that_is_a_name(app, home):
    for name in ("a*", "a1"):
        (home / name).touch()
    assert run_line(app, "rm 'a*'") == 0
    assert "a*" not in os.listdir(home)
    assert run_line(app, "rm a*") == 0
    assert "a1" not in os.listdir(home)


def test_names_that_can_t_be_typed(app, home, local):
    name = b"new\nline \xff"
    (local / os.fsdecode(name)).write_text("odd")
    assert run_line(app, r"put $'new\nline \xff'") == 0
    assert (home / os.fsdecode(name)).read_text() == "odd"


# help, leaving, local commands ---------------------------------------------------------------


def test_help_lists_what_there_is(app, capfd):
    assert run_line(app, "help") == 0
    out, err = capfd.readouterr()
    names = (line[2:].partition("  ")[0] for line in out.splitlines() if line.startswith("  "))
    listed = {name for one in names for name in one.split(", ")}
    assert (MODULE_OF.keys() - SCRIPT_ONLY) < listed
    assert not SCRIPT_ONLY & listed
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("line", ["help put", "? put", "put --help"])
def test_help_with_a_command(app, capfd, line):
    assert run_line(app, line) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Usage: put [OPTIONS] SOURCE... [TARGET]\n")
    assert err == ""


@pytest.mark.parametrize("name", sorted(MODULE_OF.keys() - SCRIPT_ONLY))
def test_every_command_explains_itself(app, capfd, name):
    assert run_line(app, f"{name} --help") == 0
    assert capfd.readouterr().out.startswith(f"Usage: {name} ")


@pytest.mark.parametrize("line", ["exit", "quit", "bye", "  exit "])
def test_leaving(app, line):
    assert run_line(app, line) == 0
    assert app.shell.leaving


@pytest.mark.parametrize("name", sorted(SHELL_ONLY))
def test_commands_of_the_shell_are_not_for_scripts(capfd, name):
    app = App()
    try:
        assert main.run(app, [name]) == 2
        why = "only works in the shell, which ftp connect starts"
        assert capfd.readouterr().err == f"ftp: {name!r} {why} (see ftp --help)\n"
        assert main.run(app, ["--help"]) == 0
        assert f"  {name} " not in capfd.readouterr().out
    finally:
        app.interrupt.close()


def test_local_commands(app, local, capfd):
    assert run_line(app, "!echo 'a  b' | tr a-z A-Z; pwd") == 0
    assert run_line(app, "  ! exit 3") == 3
    assert run_line(app, "!kill -TERM $$") == 128 + signal.SIGTERM
    assert capfd.readouterr() == (f"A  B\n{local}\n", "")


def test_a_local_shell_that_isn_t_there(app, capfd, monkeypatch):
    monkeypatch.setenv("SHELL", "/nowhere/sh")
    assert run_line(app, "!ls") != 0
    assert capfd.readouterr().err == "ftp: /nowhere/sh: no such file or directory\n"


def test_ctrl_c_belongs_to_the_local_command(app, local):
    """Both get the terminal's signal; ours has no effect, neither now nor on the next line."""
    before = signal.getsignal(signal.SIGINT)
    assert run_line(app, f"!kill -INT {os.getpid()}; kill -QUIT {os.getpid()}") == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert run_line(app, "whoami") == 0


def test_a_local_command_has_the_usual_signals(app, capfd):
    assert run_line(app, "!kill -INT $$") == 128 + signal.SIGINT


# batches -------------------------------------------------------------------------------------


def test_a_batch_runs_to_its_end(batch, home, capfd):
    lines = ["# comment\n", "\n", "mkdir a\r\n", "  cd a\n", "pwd"]
    assert run_batch(batch, lines) == 0
    assert capfd.readouterr() == ("/a\n", "")


@pytest.mark.parametrize(
    ("line", "status"),
    [("ls nope", 5), ("lsr", 2), ("ls 'a", 2), ("!exit 7", 7), ("--json ls", 2)],
)
def test_a_batch_stops_at_the_first_that_fails(batch, capfd, line, status):
    assert run_batch(batch, ["pwd", line, "whoami"]) == status
    out, err = capfd.readouterr()
    assert out == "/\n"
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["-ls nope", "- ls nope", "  -ls nope", "-!exit 7", "-lsr"])
def test_a_failure_can_be_ignored(batch, capfd, line):
    assert run_batch(batch, [line, "whoami"]) == 0
    assert capfd.readouterr().out == "alice\n"


def test_ctrl_c_is_never_ignored(batch, monkeypatch, capfd):
    space = batch.client.space
    monkeypatch.setattr(batch.client, "space", lambda: batch.interrupt.set() or space())
    assert run_batch(batch, ["-df", "whoami"]) == 130
    assert capfd.readouterr().out == ""


def test_a_batch_can_end_early(batch, capfd):
    assert run_batch(batch, ["pwd", "exit", "whoami"]) == 0
    assert capfd.readouterr().out == "/\n"


def test_commands_of_a_batch_are_nobodys_data(batch, home, capfd):
    assert run_batch(batch, ["put - x"]) == 2
    complaint = "ftp: put - cannot be used here: standard input holds the commands\n"
    assert capfd.readouterr().err == complaint
    assert run_batch(batch, ["!cat"]) == 0
    assert capfd.readouterr().out == ""


@pytest.fixture
def standard_input(monkeypatch):
    """A pipe in the place of standard input; its other end."""
    reader, writer = os.pipe()
    saved = os.dup(0)
    os.dup2(reader, 0)
    os.close(reader)
    with open(writer, "wb", buffering=0) as file:
        yield file
    os.dup2(saved, 0)
    os.close(saved)


def test_standard_input_has_the_commands(server, local, standard_input, capfd):
    with shell_of(server) as app:
        standard_input.write(b"mkdir a\ncd a\npwd")
        standard_input.close()
        assert shell.run_shell(app) == 0
        assert app.shell.batch
    assert capfd.readouterr() == ("/a\n", "")


def test_the_line_of_the_password_is_none_of_them(server, local, standard_input, capfd):
    with shell_of(server) as app:
        app.close()
        app._client = app.given_password = None
        standard_input.write(b"secret\npwd\nwhoami\n")
        standard_input.close()
        app.read_stdin_password()
        assert shell.run_shell(app) == 0
    assert capfd.readouterr().out == "/\nalice\n"


def test_each_line_is_run_when_it_is_there(server, local, standard_input, home):
    with shell_of(server) as app:
        seen = []

        def type_on() -> None:
            standard_input.write(b"mkdir one\n")
            deadline = time.monotonic() + 60
            while not (home / "one").exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            seen.extend(name for name in os.listdir(home) if name == "one")
            standard_input.close()

        typist = threading.Thread(target=type_on)
        typist.start()
        assert shell.run_shell(app) == 0
        typist.join()
    assert seen == ["one"]


class _Typing:
    """Gives what was typed, then Ctrl-D."""

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)
        self.output = DummyOutput()
        self.history = InMemoryHistory()

    def prompt(self, message: object) -> str:
        if not self._texts:
            raise EOFError
        return self._texts.pop(0)


def test_ctrl_c_ends_all_lines_that_were_pasted(app, home, capfd, monkeypatch):
    space = app.client.space
    monkeypatch.setattr(app.client, "space", lambda: app.interrupt.set() or space())
    typing = _Typing("mkdir a\nls nope\ndf\nmkdir b", "mkdir c")
    monkeypatch.setattr(shell, "_session", lambda app, completer: typing)
    assert shell._talk(app) == 0
    assert (home / "a").exists()
    assert not (home / "b").exists()
    assert (home / "c").exists()


# the prompt ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "cwd", "prompt"),
    [
        pytest.param(ServerAddress("host"), b"/docs", "alice@host:/docs> ", id="usual"),
        pytest.param(ServerAddress("host", 2000), b"/", "alice@host:2000:/> ", id="port"),
        pytest.param(ServerAddress("::1"), b"/", "alice@[::1]:/> ", id="ipv6"),
        pytest.param(
            ServerAddress("h"), b"/\x1b[31m\n\xff", r"alice@h:/\x1b[31m\n\xff> ", id="control"
        ),
    ],
)
def test_prompt(app, address, cwd, prompt):
    client = app.client
    client.address, client.cwd = address, cwd
    assert prompts.text(client) == prompt


@pytest.mark.parametrize(
    ("password", "line", "holds"),
    [
        pytest.param("long secret", "!x long secret", True, id="inside"),
        pytest.param("pw", "lpwd", False, id="by-chance"),
        pytest.param("pw", "pw", True, id="typed-at-the-prompt"),
        pytest.param("pw", "!curl -u alice pw", True, id="a-word"),
        pytest.param("", "ls", False, id="none"),
    ],
)
def test_a_line_with_the_password_is_reported(app, password, line, holds):
    app.client._dialer.credentials.accepted = Credential("alice", password)
    assert app.client.holds_password(line) is holds
