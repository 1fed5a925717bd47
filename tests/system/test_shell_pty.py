"""The shell as a user has it: the real `ftp connect`, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path

import pytest

from tests import sparse
from tests.system import trees
from tests.system.programs import eventually, finish
from tests.system.shell_support import (
    BEGIN,
    COLUMNS,
    CTRL_C,
    CTRL_D,
    CTRL_Z,
    END,
    TAB,
    UP,
    Terminal,
    plain,
)

GIB = 2**30


@pytest.fixture
def terminal(alice):
    """Alice's shell, at its first prompt."""
    with Terminal(alice) as terminal:
        terminal.greeting = terminal.wait_for_prompt()
        yield terminal


def refused(server) -> str:
    """What is told when nobody listens there any more."""
    return f"ftp: {server.reached}: connection refused: is ftpd running there?"


@pytest.fixture
def big(roomy):
    """A file that takes a while: it costs no time to make, and all its bytes on the way."""
    return sparse.make_solid(roomy / "big.bin", 2 * GIB)


def history_of(user) -> list[str]:
    path = user.home / "config" / "ftp-client" / "history"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.partition("\t")[2] or line for line in lines]  # without the server


# programs of one's own -----------------------------------------------------------------------


def test_a_pager_and_an_editor(alice, server, tmp_path):
    """They have the terminal and its keys, and the shell goes on behind them."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho your turn\nread answer\necho "$answer" > "$1"\n')
    editor.chmod(0o700)
    alice.run("put", "-", "/notes.txt", given=b"first\n")
    with Terminal(alice, PAGER="cat", EDITOR=str(editor)) as terminal:
        terminal.wait_for_prompt()
        assert "first" in terminal.run("more notes.txt")
        terminal.enter("edit notes.txt")
        terminal.expect("your turn")
        terminal.keys("second\r")
        terminal.wait_for_prompt()
        assert terminal.run("cat notes.txt") == ["second"]
    assert alice.run("cat", "/notes.txt").text == "second\n"
    assert "needs a terminal" in alice.run("less", "/notes.txt", status=2).complaint


# a session -----------------------------------------------------------------------------------


@pytest.mark.needs("network")
def test_a_session(server, alice, terminal):
    (alice.home / "report.txt").write_text("quarterly\n")
    (alice.home / "old letters").mkdir()
    (alice.home / "old letters" / "dear.txt").write_text("dear\n")
    name = f"alice@127.0.0.1:{server.port}"
    (greeting,) = terminal.greeting
    assert greeting == (f"Connected to 127.0.0.1:{server.port}: 0 B used. Type help for more.")
    assert terminal.prompt == f"{name}:/>"
    assert terminal.run("mkdir docs") == []
    assert terminal.run("cd docs") == []
    assert terminal.prompt == f"{name}:/docs>"
    assert terminal.run("pwd") == ["/docs"]
    (summary,) = terminal.run("put -r report.txt 'old letters' .")[-1:]
    assert summary.startswith("2 files, 15 B in ")
    assert terminal.run("ls") == ["old letters/  report.txt"]
    assert terminal.run("cat report.txt old\\ letters/*") == ["quarterly", "dear"]
    (summary,) = terminal.run("get -r 'old letters' copy")[-1:]
    assert summary.startswith("1 file, 5 B in ")
    trees.same(alice.home / "old letters", alice.home / "copy")
    assert terminal.run("cd 'old letters'") == []
    assert terminal.prompt == f"{name}:/docs/old letters>"
    terminal.enter("exit")
    assert terminal.end() == ([], 0)


def test_a_list_of_commands_removes_what_it_says(server, alice, terminal):
    """A semicolon was a file name: this removed /x with all in it. At a terminal, with -c, in a
    batch and as a file, the same."""
    line = "rm /old.txt ; cd /x ; rm -rf tmp"
    (alice.home / "lines.ftp").write_text(line + "\n")
    ways = (
        lambda: terminal.run(line),
        lambda: alice.run("-c", line),
        lambda: alice.run("connect", given=line.encode()),
        lambda: alice.run("batch", "lines.ftp"),
        lambda: terminal.run("source lines.ftp"),
    )
    for way in ways:
        alice.run("-c", "mkdir -p /x/tmp/deep; put lines.ftp /old.txt; cp /old.txt /x/keep.txt")
        alice.run("cp", "/old.txt", "/x/tmp/deep/file")
        way()
        assert alice.run("find", "/", "-type", "f").lines == ["/x/keep.txt"]
        assert alice.run("find", "/", "-type", "d").lines == ["/", "/x"]
    assert terminal.prompt.endswith(":/x>")


def test_a_line_that_goes_on(alice, terminal):
    terminal.keys("!echo ready; rm 'x\r")
    assert "ready" in "".join(terminal.wait_for_prompt())  # of a local command it is its own
    terminal.keys("mkdir 'two\r")
    terminal.expect("…")
    terminal.keys("lines' \\\r")
    terminal.expect("…")
    terminal.enter(" other")
    assert terminal.wait_for_prompt() == []
    assert terminal.run("ls -1") == ["other/", "two\\nlines/"]
    terminal.keys("mkdir 'given up\r")
    terminal.expect("…")
    terminal.keys(CTRL_C)
    terminal.child.expect_exact(END)
    terminal.wait_for_prompt()
    terminal.keys("\x1b[200~mkdir 'pa\rsted'\rpwd\x1b[201~", "\r")
    terminal.child.expect_exact(END)
    assert terminal.wait_for_prompt() == ["/"]
    assert terminal.run("ls -1") == ["other/", "pa\\nsted/", "two\\nlines/"]
    terminal.enter("exit 3")
    assert terminal.end() == ([], 3)
    with Terminal(alice) as again:
        again.wait_for_prompt()
        again.keys(UP * 4)
        again.expect("…")  # it is one
        again.keys("2\r")
        again.child.expect_exact(END)
        again.wait_for_prompt()
        assert "pa\\nsted2/" in again.run("ls -1")


def test_output_into_local_programs(alice, terminal):
    """Bars and summaries are the terminal's, and never in the pipe."""
    (alice.home / "one.txt").write_text("one")
    (alice.home / "two.txt").write_text("two")
    lines = terminal.run("put -v one.txt two.txt / | cat -n > log")
    assert [line for line in lines if "->" in line] == []
    assert "2 files, 6 B in " in lines[-1]
    numbered = [line.split("\t")[1] for line in (alice.home / "log").read_text().splitlines()]
    assert numbered == ["one.txt -> /one.txt", "two.txt -> /two.txt"]
    assert terminal.run("ls | cat") == ["one.txt", "two.txt"]
    assert terminal.run("ls > names; ls | diff - names && whoami") == ["alice"]


def test_ctrl_c_ends_both_ends_of_a_pipe(alice, terminal):
    (alice.home / "said").write_text("fed\n")
    # a shell that gets the signal between two programs may go on with the second
    (alice.home / "waiting").write_text("#!/bin/sh\ncat > /dev/null\nexec tail -f said\n")
    (alice.home / "waiting").chmod(0o755)
    alice.run("put", "-", "large", given=bytes(10**6))  # more than a pipe holds
    for line in ("pwd | ./waiting; mkdir never", "cat large | exec tail -f said; mkdir never"):
        terminal.enter(line)
        terminal.expect("fed")
        terminal.keys(CTRL_C)
        terminal.wait_for_prompt()
        assert terminal.run("ls; whoami") == ["large", "alice"]


# jobs ----------------------------------------------------------------------------------------


@pytest.fixture
def slow(alice, terminal):
    """A job that takes longer than its test, and has transferred what can be resumed."""
    (alice.home / "big.bin").write_bytes(os.urandom(2**20) * 90)
    assert terminal.run("put --limit-rate 6MiB big.bin / &") == [
        "[1] put --limit-rate 6MiB big.bin /"
    ]
    eventually(
        lambda: json.loads(terminal.run("jobs --json")[-1])["done"] > 5 * 2**20, "some of it"
    )


def processes_of_jobs(user) -> list[int]:
    """Those that were started from a user's home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes()
            if b"job_child" in words and os.readlink(entry / "cwd") == str(user.home):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue  # no process, or it has ended
    return found


def test_a_job_is_reported_above_what_is_typed(alice, terminal):
    """A message, and the end; and the line that is being typed is run as it was."""
    (alice.home / "go").touch()
    os.mkfifo(alice.home / "wait")
    terminal.keys("ls /nope | sh -c 'cat wait; exit 5' &\r")
    terminal.child.expect_exact(END)
    terminal.wait_for_prompt()
    terminal.keys("mkdir ab")
    with open(alice.home / "wait", "w"):
        pass  # the job ends now, that is, while the line is typed
    terminal.expect("[1] ftp: /nope: no such file or directory")
    terminal.expect("[1] failed 5 ls /nope | sh -c 'cat wait; exit 5'")
    terminal.keys("c\r")
    terminal.child.expect_exact(END)
    terminal.wait_for_prompt()
    assert terminal.run("ls") == ["abc/"]
    assert "failed 5" in " ".join(terminal.run("jobs"))
    assert terminal.run("jobs") == ["no jobs"]


def test_ctrl_c_at_the_prompt_is_not_for_jobs(terminal, slow):
    terminal.keys("half a line", CTRL_C)
    terminal.child.expect_exact(END)
    terminal.wait_for_prompt()
    assert any("running" in line for line in terminal.run("jobs"))


def test_a_job_in_the_foreground(terminal, slow):
    """With Ctrl-Z it goes on behind; with Ctrl-C it stops."""
    terminal.enter("fg")
    terminal.expect("big.bin")
    terminal.keys(CTRL_Z)
    assert terminal.wait_for_prompt()[-1] == "[1] put --limit-rate 6MiB big.bin /"
    terminal.enter("fg 1")
    terminal.expect("big.bin")
    terminal.keys(CTRL_C)
    (line,) = [line for line in terminal.wait_for_prompt() if line.startswith("ftp: ")][:1]
    assert line.startswith("ftp: interrupted: stopped at ")


def test_waiting_can_be_left(terminal, slow):
    terminal.enter("wait")
    terminal.expect("big.bin")  # the line about it
    terminal.keys(CTRL_C)
    assert terminal.wait_for_prompt()[-1] == "ftp: interrupted"
    assert any("running" in line for line in terminal.run("jobs"))


def test_leaving_a_shell_with_jobs(alice, terminal, slow):
    warning = "ftp: 1 job runs: exit again stops it (it can be resumed), exit -w waits"
    terminal.keys(CTRL_D)
    terminal.child.expect_exact(END)
    assert terminal.wait_for_prompt() == [warning]
    assert terminal.run("pwd") == ["/"]
    assert terminal.run("exit") == [warning]
    terminal.keys(CTRL_D)
    terminal.child.expect_exact(END)
    printed, status = terminal.end()
    assert status == 0 and "[1] stopped put --limit-rate 6MiB big.bin /" in printed
    assert processes_of_jobs(alice) == []
    (kept,) = alice.run("kept", "--json").records
    assert kept["path"] == "/big.bin"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_no_job_outlives_its_shell(alice, terminal, slow, number, status):
    """What it has transferred is kept, even if the shell had no chance to stop it."""
    (process,) = processes_of_jobs(alice)
    terminal.child.kill(number)
    assert terminal.end()[1] == status
    eventually(lambda: not processes_of_jobs(alice), "it has ended")
    (kept,) = alice.run("kept", "--json").records
    assert kept["path"] == "/big.bin" and process
    with Terminal(alice) as again:
        assert again.wait_for_prompt()[-1] == "1 transfer of today isn't finished: resume"
        assert again.run("set limit-rate none; resume 1; wait")[0].startswith("[1] put")
        assert "big.bin" in again.run("ls -l")[-1]
        assert again.run("resume") == ["no unfinished transfers"]


def test_signals_end_a_shell_without_running_jobs_as_ever(terminal):
    terminal.run("ls / > listing & wait")
    terminal.child.kill(signal.SIGTERM)
    assert terminal.end()[1] == -signal.SIGTERM


def test_a_prompt_begins_on_its_own_line(server, alice, terminal):
    alice.run("put", "-", "unended", given=b"no newline")
    terminal.enter("cat unended")
    assert "no newline" + " " * (COLUMNS - 1) + "\r" in terminal.expect(BEGIN)


def test_leaving(terminal):
    """By Ctrl-D; other tests leave by `exit`."""
    terminal.keys(CTRL_D)
    terminal.child.expect_exact(END)
    assert terminal.end() == ([], 0)


def test_several_lines_pasted_at_once(terminal):
    terminal.keys("\x1b[200~mkdir a\rcd a\rpwd\x1b[201~", "\r")
    terminal.child.expect_exact(END)
    assert terminal.wait_for_prompt() == ["/a"]


# completion and history ----------------------------------------------------------------------


def test_tab_completes_remote_paths(server, alice, terminal):
    alice.run("mkdir", "-p", "documents/old letters")
    alice.run("put", "-", "documents/old letters/dear aunt.txt", given=b"dear aunt\n")
    assert terminal.run(f"cat doc{TAB}old{TAB}de{TAB}") == ["dear aunt"]
    assert terminal.run(f"cat 'doc{TAB}old{TAB}de{TAB}") == ["dear aunt"]
    assert terminal.run(f"cd do{TAB}") == []
    assert terminal.prompt.endswith(":/documents>")
    assert terminal.run(f"cat o{TAB}d{TAB}") == ["dear aunt"]


def test_the_history_is_kept_between_runs_and_private(alice):
    with Terminal(alice) as terminal:
        terminal.wait_for_prompt()
        assert terminal.run("!echo first") == ["first"]
        assert terminal.run("!echo second") == ["second"]
        assert terminal.run(" !echo not kept") == ["not kept"]
        terminal.keys(CTRL_D)
        assert terminal.end()[1] == 0
    with Terminal(alice) as terminal:
        terminal.wait_for_prompt()
        assert terminal.run(UP) == ["second"]
        assert terminal.run(UP + UP) == ["first"]
    assert history_of(alice) == ["!echo first", "!echo second", "!echo first"]
    path = alice.home / "config" / "ftp-client" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_password_is_asked_for_and_kept_nowhere(server):
    carol = server.add_user("carol")
    if server.has_key:
        carol.options = ()
    with Terminal(carol, FTP_PASSWORD="") as terminal:
        if server.has_key:
            terminal.expect("Trust it (yes/no)? ")
            terminal.keys("yes\r")
        terminal.expect("password: ")
        terminal.keys(carol.password, "\r")
        assert carol.password not in "".join(terminal.wait_for_prompt())
        # typed once more, where it doesn't belong
        terminal.run(carol.password)
        assert terminal.run("whoami") == ["carol"]
    assert history_of(carol) == ["whoami"]
    for directory, _, files in os.walk(carol.home):
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                assert carol.password.encode() not in file.read(), name


# Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_clears_the_line(terminal):
    for _ in range(4):
        terminal.keys("mkdir wrong", CTRL_C)
        terminal.child.expect_exact(END)
        assert terminal.wait_for_prompt() == []
    assert terminal.run("ls") == []


def test_ctrl_c_stops_a_put_and_keeps_the_session(server, alice, terminal, big):
    alice.run("put", "-", "big", given=b"as it was")
    sessions = server.log.count("logged in")
    for _ in range(2):
        terminal.enter(f"put {big} big")
        terminal.expect("B/s")  # there is a speed: bytes are on their way
        terminal.keys(CTRL_C)
        *_, last = terminal.wait_for_prompt()
        assert last.startswith("ftp: interrupted: stopped at ")
        assert terminal.run("ls") == ["big"]
        assert terminal.run("cat big") == ["as it was"]
    assert terminal.run(f"put {__file__} test.py") != []
    assert (server.home() / "test.py").read_bytes() == Path(__file__).read_bytes()
    assert server.log.count("logged in") == sessions, "it was one connection all the time"


def test_ctrl_c_stops_a_get_and_keeps_the_session(server, alice, terminal, roomy):
    sparse.make_solid(roomy / "source", GIB // 16)
    (roomy / "big").write_text("as it was")
    alice.run("put", roomy / "source", "big")
    terminal.run(f"lcd {roomy}")
    terminal.enter("get --limit-rate 1MiB big")
    terminal.expect("B/s")
    terminal.keys(CTRL_C)
    *_, last = terminal.wait_for_prompt()
    assert last.startswith("ftp: interrupted: stopped at ")
    assert (roomy / "big").read_text() == "as it was"
    assert terminal.run("whoami") == ["alice"]
    alice.run("rm", "big")


def test_ctrl_c_belongs_to_a_local_command(alice, terminal):
    terminal.enter("!echo started; sleep 1000")
    terminal.expect("started")
    terminal.keys(CTRL_C)
    terminal.wait_for_prompt()
    assert terminal.run("whoami") == ["alice"]


def test_typed_data_that_is_interrupted_takes_no_more_lines(server, alice, terminal):
    terminal.enter("put - typed")
    eventually(server.staged, "the upload has begun")
    terminal.keys("some text\r")
    terminal.expect("some text")
    terminal.keys(CTRL_C)
    assert terminal.wait_for_prompt()[-1].startswith("^Cftp: interrupted")
    assert terminal.run("whoami") == ["alice"]
    assert terminal.run("ls") == []
    terminal.enter("put - typed")
    eventually(server.staged, "the upload has begun")
    terminal.keys("all of it\r", CTRL_D)
    terminal.wait_for_prompt()
    assert terminal.run("cat typed") == ["all of it"]


# progress ------------------------------------------------------------------------------------


def test_progress_is_one_line_that_goes_away(alice, terminal, roomy):
    """A line that is too long would break, and a part of it stay."""
    for name in ("short", "a-name-that-is-longer-than-there-is-any-room-for-beside-its-bar.bin"):
        sparse.make_solid(roomy / name, GIB // 4)
    terminal.enter(f"put -r {roomy} .")
    drawn = plain(terminal.expect("2 files, 512.0 MiB in "))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]
    assert any("% " in line and "0/2 files" in line and "of 512.0 MiB" in line for line in lines)
    assert max(map(len, lines)) < COLUMNS
    assert "\n" not in drawn.strip()
    terminal.wait_for_prompt()


def test_progress_follows_the_size_of_the_terminal(alice, terminal, big):
    terminal.enter(f"put --limit-rate 10MiB {big} /")
    terminal.child.expect(r"\r *\d+%  [^\r]{11}  [^\r]{7}  [^\r]*big\.bin\x1b\[J")
    narrow, wide = r"[^\r]{8} [^\r]{5}", r"\x1b\[36m━.*bin"
    for columns, drawn in ((30, r"[^\r]{11}  [^\r]{7}"), (20, narrow), (200, wide)):
        terminal.child.setwinsize(24, columns)
        terminal.child.expect(rf"\r *\d+% +{drawn}\x1b\[J")
    terminal.keys(CTRL_C)
    terminal.child.expect_exact("\r \x1b[J\r")  # it is taken away first
    assert "stopped at" in " ".join(terminal.wait_for_prompt())


# the server goes away ------------------------------------------------------------------------


def test_the_server_is_killed_and_comes_back(server, start_server, alice, terminal):
    terminal.run("mkdir docs")
    terminal.run("cd docs")
    server.kill()
    for _ in range(2):
        assert terminal.run("ls") == [refused(server)]
    assert terminal.prompt.endswith(":/docs>")
    start_server(port=server.port)
    assert terminal.run("pwd") == ["/docs"]
    assert terminal.run("whoami") == ["alice"]
    terminal.enter("exit")
    assert terminal.end() == ([], 0)


def test_no_connection_no_shell(server, alice):
    server.kill()
    with Terminal(alice) as terminal:
        assert terminal.end() == ([refused(server)], 4)


# no terminal ---------------------------------------------------------------------------------


def test_commands_from_a_pipe(server, alice):
    (alice.home / "file").write_text("a file\n")
    script = b"""
        # a comment
        mkdir docs
        cd docs
        put file 'my file'
        -rm nothing
        !cat
        cat my\\ file
        pwd"""
    done = alice.run("connect", given=script)
    assert done.text == "a file\n/docs\n"
    assert done.complaint == "ftp: /docs/nothing: no such file or directory"
    assert (server.home() / "docs" / "my file").read_text() == "a file\n"


def test_ctrl_c_while_a_pipe_says_nothing(alice):
    process = alice.start("connect")
    process.stdin.write(b"whoami\n")
    assert process.stdout.readline() == b"alice\n"
    process.send_signal(signal.SIGINT)
    # how far it came is told as well, once the server has acknowledged something
    assert finish(process, status=130).complaint.startswith("ftp: interrupted")


def test_ctrl_c_in_a_batch_ends_it(server, alice, big):
    process = alice.start("connect")
    process.stdin.write(f"-put {big} big\nmkdir later\n".encode())
    eventually(server.staged, "bytes arrive")
    process.send_signal(signal.SIGINT)
    # how far it came is told as well, once the server has acknowledged something
    assert finish(process, status=130).complaint.startswith("ftp: interrupted")
    assert not {"big", "later"} & set(os.listdir(server.home()))


# comfort -------------------------------------------------------------------------------------


def test_what_a_line_may_be_going_to_be(alice, server):
    """Grey behind the cursor, and taken by End; only what this server was given."""
    bob = server.add_user("bob")
    with Terminal(alice) as terminal:
        terminal.wait_for_prompt()
        terminal.run("echo something long")
        terminal.keys("echo so")
        terminal.expect("mething long")
        terminal.keys("\x1b[F")
        terminal.enter("")
        assert terminal.wait_for_prompt() == ["something long"]
        terminal.run("set suggestions off")
        terminal.run("echo so")
    assert history_of(alice)[-1] == "echo so"
    shared = {"XDG_CONFIG_HOME": alice.settings["XDG_CONFIG_HOME"]}
    with Terminal(bob, **shared) as terminal:
        terminal.wait_for_prompt()
        terminal.enter("echo so\x1b[F")
        assert terminal.wait_for_prompt() == ["so"]


def test_the_prompt_shows_a_status_in_red_and_cuts_a_long_directory(terminal):
    long = "/" + "/".join(f"directory-{number}" for number in range(3))
    terminal.run(f"mkdir -p {long}")
    terminal.run(f"cd {long}")
    assert "/directory-0/…/directory-2>" in terminal.prompt
    terminal.enter("cat nope")
    assert "no such file" in terminal.expect("31m[5] ")  # in red
    terminal.run("set prompt full")
    assert terminal.prompt.endswith(f":{long}>")


def test_the_rc_file_comes_before_the_first_prompt(alice):
    rc = alice.home / "config" / "ftp-client" / "rc"
    rc.parent.mkdir(parents=True, exist_ok=True)
    rc.write_text("alias hello='echo hello'\nput x\n")
    with Terminal(alice) as terminal:
        greeting = terminal.wait_for_prompt()
        assert "rc:2: an rc file cannot have put: it moves files" in greeting
        assert terminal.run("hello you") == ["hello you"]
        assert terminal.run("alias") == ["alias hello='echo hello'"]


def test_another_server_with_three_tries_for_its_password(alice, server):
    bob = server.add_user("bob")
    with Terminal(alice, FTP_PASSWORD="") as terminal:
        terminal.expect("password: ")
        terminal.keys(alice.password, "\r")
        terminal.wait_for_prompt()
        terminal.enter(f"open ftpd://bob@{server.reached}")
        for tries in ("2 tries are left", "1 try is left"):
            terminal.expect("password: ")
            terminal.keys("wrong\r")
            terminal.expect(tries)
        terminal.expect("password: ")
        terminal.keys("wrong\r")
        assert any("wrong user name or password" in line for line in terminal.wait_for_prompt())
        assert terminal.prompt.startswith("alice@")
        terminal.enter(f"open ftpd://bob@{server.reached}")
        terminal.expect("password: ")
        terminal.keys(bob.password, "\r")
        terminal.wait_for_prompt()
        assert terminal.prompt.startswith("bob@")
        terminal.run(f"open ftpd://alice@{server.reached}")  # who was logged in there
        assert terminal.prompt.startswith("alice@")
