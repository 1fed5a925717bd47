"""What people type who come from sftp, scp, lftp and rsync: one line that says what to do."""

from __future__ import annotations

import os
import socket

import pytest

from ftpclient.__main__ import run_shell
from ftpclient.cli import main
from ftpclient.cli.app import App, UsageError
from ftpclient.connection.addresses import BadAddress
from ftpclient.connection.servers import choose
from ftpwire import standard


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Runs a command line that no server is needed for; its status, output and complaints."""
    monkeypatch.chdir(tmp_path)
    app = App(run_shell=run_shell)

    def run(*words: str) -> tuple[int, str, str]:
        status = main.run(app, list(words))
        out, err = capfd.readouterr()
        return status, out, err

    yield run
    app.close()
    app.interrupt.close()


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        pytest.param(["host.net"], "did you mean ftp connect host.net?", id="host"),
        pytest.param(["localhost"], "did you mean ftp connect localhost?", id="localhost"),
        pytest.param(["ftp://host.net"], "did you mean ftp connect host.net?", id="url"),
        pytest.param(["al@host:/d/f", "x"], "did you mean ftp get al@host:/d/f x?", id="scp"),
        pytest.param(
            ["sftp://host.net/d"],
            "did you mean ftp get ftpd://host.net/d (or ls, put, …)?",
            id="url-with-path",
        ),
        pytest.param(["find", "-name"], "ftp: option -name requires an argument", id="no-value"),
        pytest.param(
            ["-P", "22", "ls"], "unknown option -P: did you mean -s HOST:PORT?", id="port"
        ),
        pytest.param(
            ["-u", "al", "ls"], "unknown option -u: did you mean -s USER@HOST?", id="user"
        ),
        pytest.param(
            ["--password", "x", "ls"],
            "unknown option --password: did you mean --password-stdin, or FTP_PASSWORD?",
            id="password",
        ),
        pytest.param(
            ["passwd", "--password-stdin"],
            "option --password-stdin goes before the command: ftp --password-stdin passwd",
            id="after-the-command",
        ),
        pytest.param(["df", "-b"], "unknown option -b (see ftp df --help)", id="hidden-before-it"),
        pytest.param(["--bogus", "ls"], "unknown option --bogus", id="unknown"),
        pytest.param(["open", "x"], "'open' only works in the shell, which ftp connect", id="open"),
        pytest.param(["symlink", "a", "b"], "did you mean ftp ln -s a b?", id="symlink"),
        pytest.param(["binary"], "isn't needed: files are never converted", id="binary"),
        pytest.param(["cd", "/"], "'cd' only works in the shell, which ftp", id="cd"),
        pytest.param(
            ["connect", "host", "22"],
            "connect takes only a server: did you mean host:22?",
            id="port-of-connect",
        ),
        pytest.param(["connect", "-p", "22", "host"], "did you mean HOST:PORT?", id="p-of-connect"),
        pytest.param(
            ["-s", "", "ls"],
            "an empty server: write [USER@]HOST[:PORT] or a saved name",
            id="empty-server",
        ),
        pytest.param(["mv", "a"], "missing argument: mv SOURCE... TARGET", id="mv-one"),
        pytest.param(["put"], "missing argument: put SOURCE... [TARGET]", id="put-nothing"),
        pytest.param(["sync", "a"], "missing argument: sync SRC DST", id="sync-one"),
        pytest.param(["put", "-z", "x"], "isn't needed: data is not compressed", id="z"),
        pytest.param(["put", "-avz", "x", "y"], "-z isn't needed", id="avz"),
        pytest.param(
            ["put", "--progress", "x"], "progress is shown on every terminal", id="progress"
        ),
        pytest.param(["get", "--delete", "x"], "did you mean ftp sync --delete?", id="delete"),
        pytest.param(["put", "--no-clob", "x"], "did you mean --no-clobber", id="near"),
        pytest.param(["rm", "-i", "x"], "rm asks no questions", id="rm-i"),
        pytest.param(["mv", "-i", "x", "y"], "did you mean -n?", id="mv-i"),
        pytest.param(["sync", "-e", "ssh", "a", ":b"], "a path names the server", id="sync-e"),
        pytest.param(["sync", "a", "b"], "did you mean ftp sync a :b?", id="sync-no-colon"),
        pytest.param(["sync", ":a", ":b"], "did you mean ftp cp -r a b?", id="sync-two-colons"),
        pytest.param(["check", "a b", "c"], "did you mean ftp check a\\ b :c?", id="check-blank"),
        pytest.param(["diff", "a", "b"], "did you mean ftp diff a :b?", id="diff-no-colon"),
        pytest.param(["sync", "me@h:a", "me@h:b"], "(ftp cp -r copies on a server)", id="sync-far"),
        pytest.param(["less", "x"], "less needs a terminal: use ftp cat", id="less"),
        pytest.param(["less", "--json", "x"], "use ftp cat", id="less-json"),
        pytest.param(["edit", "x"], "needs a terminal: use ftp get and ftp put", id="edit"),
        pytest.param(
            ["-s", "ftp://al@host", "ls"],
            "'ftp://al@host' is not a server: the scheme must be ftpd://, e.g. ftpd://al@host",
            id="url-with-another-scheme",
        ),
        pytest.param(["-s", "al@::1", "ls"], "write brackets: al@[::1]", id="brackets"),
    ],
)
def test_one_line_says_what_to_do(run, words, reported):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert reported in err


@pytest.mark.parametrize("scheme", ["ftpd://", "ftp://", ""])
@pytest.mark.parametrize(
    "words",
    [
        ["-s", "{}", "ls"],
        ["{}"],
        ["connect", "{}"],
        ["connect", "{}", "22"],
        ["login", "{}"],
        ["register", "{}"],
        ["forget", "{}"],
        ["logout", "--forget", "{}"],
        ["servers", "--new-key", "{}"],
        ["get", "{}:/d"],
        ["put", "f", "{}:/d"],
        ["sync", "a", "{}:/d"],
        ["sync", "{}/d", "b"],
        ["servers", "--default", "{}"],
        ["servers", "--remove", "{}"],
        ["login", "--name", "{}", "host"],
        ["--json", "-s", "{}", "ls"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_password_in_a_servers_address_is_refused_and_not_repeated(run, words, scheme):
    address = f"{scheme}al:s3cret@host.net"
    status, out, err = run(*(word.format(address) for word in words))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "FTP_PASSWORD" in err and "s3cret" not in err


def test_the_environment_with_a_password_in_the_address(run, monkeypatch):
    monkeypatch.setenv("FTP_SERVER", "ftpd://al:s3cret@host.net")
    status, _, err = run("ls")
    assert status == 2 and "FTP_PASSWORD" in err and "s3cret" not in err


def test_a_local_file_that_is_missing_needs_no_server(run):
    assert run("put", "nope") == (5, "", "ftp: nope: no such local file or directory\n")


def test_nobody_there(run):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
        reported = f"ftp: {where}: connection refused: is ftpd running there?\n"
        assert run("-s", f"alice@{where}", "ls") == (4, "", reported)


def test_help_without_the_shell(run):
    status, out, err = run("help")
    assert (status, err) == (0, "")
    assert out == run("--help")[1]
    assert "!COMMAND" not in out and "\n  put, get " in out
    assert run("help", "put")[1].startswith("Usage: ftp put ")
    assert run("help", "trash", "restore")[1].startswith("Usage: ftp trash restore ")
    assert run("help", "put", "more") == (2, "", "ftp: put has no commands (see ftp put --help)\n")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--help",), "  put         Upload files and directories."),
        (("put", "--help"), "--no-versions"),
        (("put", "--help"), "Also accepted:"),
        (("ls", "--help"), "Print columns even into a pipe."),
        (("help", "put"), "--no-versions"),
        (("trash", "restore", "--help"), "Also accepted:"),
    ],
)
def test_all_of_the_help(run, words, shown):
    assert shown not in run(*words)[1]
    for line in ((*words, "--all"), (*words[:-1], "--all", words[-1])):
        status, out, err = run(*line)
        assert (status, err) == (0, "") and shown in out


def test_all_is_no_option_without_help(run):
    reported = "ftp: unknown option --all (see ftp put --help)\n"
    assert run("put", "--all", "x") == (2, "", reported)
    assert run("--all", "ls") == (2, "", "ftp: unknown option --all (see ftp --help)\n")


def test_names_that_are_not_shown_are_taken(run, tmp_path):
    for name in ("-r", "-R", "-a", "--recursive", "--archive"):
        for more in ((), ("-p",), ("-c",), ("--resume",)):
            reported = run("put", name, *more, str(tmp_path / "missing"), "/")
            assert reported[0] == 5 and "no such local file or directory" in reported[2]


@pytest.mark.parametrize("words", [(), ("put",), ("sync",), ("mv",), ("token",), ("connect",)])
def test_h_is_help_where_it_means_nothing_else(run, words):
    status, out, err = run(*words, "-h")
    assert (status, err) == (0, "") and out == run(*words, "--help")[1]
    assert "-h, --help" in out


@pytest.mark.parametrize("command", ["ls", "du"])
def test_h_is_for_people_where_it_is_in_other_tools(run, command):
    assert "  --help" in run(command, "--help")[1]


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["rn", "x"], "unknown command 'rn'"),
        (["rmdri", "x"], "unknown command 'rmdri'"),
        (["forgot"], "unknown command 'forgot'"),
        (["emtpy"], "unknown command 'emtpy'"),
        (["trahs"], "unknown command 'trahs': did you mean trash?"),
        (["trash", "emtpy"], "emtpy: neither a command of trash nor an ID (ftp trash lists"),
        (
            ["trash", "restor"],
            "a command of trash nor an ID: did you mean restore?",
        ),
        (["gait"], "unknown command 'gait'"),
        (["link"], "unknown command 'link'"),
        (["chmdo", "a"], "unknown command 'chmdo': did you mean chmod?"),
        (
            ["put", "--link-dest", "a", "b"],
            "unknown option --link-dest: there are no hard links (see ftp put --help)",
        ),
        (["sync", "--delte", "a", ":b"], "unknown option --delte (see ftp sync --help)"),
        (["sync", "--checksm", "a", ":b"], "unknown option --checksm: did you mean --checksum?"),
    ],
)
def test_a_guess_is_a_misspelling_and_never_leads_to_what_removes(run, words, reported):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert reported in err and ("mean" in reported) == ("mean" in err)


def test_an_empty_server_is_never_the_default(monkeypatch):
    for empty in ("", " "):
        with pytest.raises(BadAddress, match="an empty server"):
            choose(empty)
    monkeypatch.setenv("FTP_SERVER", "")
    assert choose(None).address.host == "localhost"


# standard streams ---------------------------------------------------------------------------


def test_standard_streams_that_are_there_stay(monkeypatch):
    before = [os.fstat(fd) for fd in range(3)]
    standard.open_standard_streams()
    assert [os.fstat(fd) for fd in range(3)] == before


def test_a_program_without_a_shell_says_so(capfd):
    app = App()
    assert main.run(app, ["connect"]) == UsageError.exit_code
    assert "there is no shell in this program" in capfd.readouterr().err
    app.interrupt.close()
