"""The reader of what the programs print leaves, or it cannot be written at all."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from ftpclient.cli.group import MODULE_OF, SHELL_ONLY
from tests.system.programs import clean_environment, eventually, finish, program
from tests.system.proxy import Proxy

FULL = b"standard output: the disk is full\n"


@pytest.fixture
def unread() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("words", [["ls"], ["--help"], ["cat", "/large"], ["put", "-v", "x", "/"]])
def test_ftp(user, unread, words):
    user.run("put", "-", "/large", given=bytes(1_000_000))
    (user.home / "x").write_bytes(b"x")
    ended = finish(user.start(*words, stdout=unread), status=141)
    assert ended.err == ""


@pytest.mark.parametrize("words", [["user", "list"], ["log"], ["status"], ["--help"]])
def test_ftpd(server, programs, unread, tmp_path, words):
    def start(stdout) -> subprocess.Popen[bytes]:
        root = [] if words[0].startswith("-") else ["--root", str(server.root)]
        return programs.start(
            [*program("ftpd"), *words, *root],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=clean_environment(tmp_path),
        )

    # records are written together, some 0.1 s after what they tell: `log` needs one to print
    audit = server.root / ".ftpd" / "audit.jsonl"
    eventually(lambda: audit.exists() and audit.stat().st_size, "a record of the start")
    ended = finish(start(unread), status=141)
    assert ended.err == ""
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            ended = finish(start(full), status=1)
        assert ended.err == "ftpd: " + FULL.decode()


def test_a_server_serves_whether_or_not_its_output_is_read(programs, unread, tmp_path):
    running = programs.start(
        [*program("ftpd"), "start", "--root", str(tmp_path / "root"), "--no-tcp"]
        + ["--unix", str(tmp_path / "socket")],
        stdout=unread,
        stderr=subprocess.DEVNULL,
        env=clean_environment(tmp_path),
    )
    eventually((tmp_path / "socket").exists)
    running.terminate()
    finish(running, status=0)


# each command that prints -------------------------------------------------------------------

MIB = 1024 * 1024
MANY = 3000
"""Files: their names don't fit a pipe."""

FTP = {
    "batch": ["batch lines", "batch --keep-going lines"],
    "cat": ["cat /many/large"],
    "check": ["check -v many :/many", "check --json -v many :/many"],
    "completion": ["completion bash", "completion zsh"],
    "chmod": ["chmod -v 600 /many/large"],
    "df": ["df", "df --json"],
    "diff": ["diff lines :/many/large"],
    "du": ["du -a /many", "du -a --json /many"],
    "find": ["find /", "find / -ls", "find / -0", "find / --json", "find /many -delete -print"],
    "get": ["get /many/large -", "get -v -r /many ./", "get --json -r /many ./"],
    "hash": ["hash /many/*", "hash --json /many/*"],
    "head": ["head -n 90000 /many/large"],
    "help": ["help", "help put"],
    "kept": ["kept", "kept --json"],
    "ls": ["ls /many", "ls -l /many", "ls --json /many", "ls -R /"],
    "put": ["put -v -r many /new", "put --json -r many /new"],
    "pwd": ["pwd"],
    "rm": ["rm -v -r /many"],
    "rmdir": ["rmdir -v /empty"],
    "servers": ["servers", "servers --json"],
    "status": ["status", "status --json"],
    "stat": ["stat /many/*", "stat --json /many/*"],
    "sync": ["sync -n many :/new", "sync -v many :/new", "sync --json many :/new"],
    "tail": ["tail -n 90000 /many/large"],
    "token": ["token list", "token list --json"],
    "trash": ["trash", "trash -l", "trash --json", "trash -l --json"],
    "tree": ["tree /"],
    "versions": ["versions /many/large", "versions --json /many/large"],
    "whoami": ["whoami", "whoami --json"],
}
SILENT = {
    *("connect", "edit", "forget", "less", "login", "logout", "passwd", "register"),
    *("cp", "discover", "ln", "mkdir", "mv", "restore", "touch", "undo"),
}
"""What of these is printed is for a terminal, or on stderr; and no server answers discover here."""
FTPD = [
    *("user list", "user list --json", "user show alice", "log", "log --json", "status"),
    *("status --json", "config show", "config check", "fingerprint", "scrub", "recount", "invite"),
    *("why alice ls /", "trash empty alice -y", "trash --help", "--help", "user --help"),
]


def test_no_command_is_forgotten():
    assert set(MODULE_OF) - SHELL_ONLY == set(FTP) | SILENT


@pytest.fixture
def stocked(user, shared_server):
    """Many files, here and on the server, one of them large; a token; a kept upload; a version of
    that file."""
    many = user.home / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"a file with a long name, so that the pipe is full soon {number}").touch()
    (many / "large").write_bytes(b"line\n" * 100_000)
    (user.home / "lines").write_text("find /\nls -R / ; pwd\n")
    user.run("put", "-r", "many", "/")
    user.run("put", "-", "/many/large", given=b"an earlier version")
    user.run("put", "many/large", "/many/")
    user.run("mkdir", "/empty")
    user.run("login")
    (user.home / "interrupted").write_bytes(bytes(8 * MIB))
    with Proxy(shared_server.reached) as proxy:
        proxy.cut_after("up", 6 * MIB)
        user.at(proxy.address).run("put", "interrupted", "/", "--retry-for", "0", status=4)
    return user


LINES = [line for lines in FTP.values() for line in lines]


@pytest.mark.long
@pytest.mark.parametrize("line", LINES)
def test_head_of_each_command_of_ftp(stocked, programs, line):
    head(programs, stocked.command(*line.split()), env=stocked.settings, cwd=stocked.home)


@pytest.mark.long
@pytest.mark.parametrize("line", LINES)
def test_each_command_of_ftp_whose_reader_has_left_before(stocked, unread, line):
    ended = finish(stocked.start(*line.split(), stdout=unread), status=141)
    assert ended.err == ""


@pytest.mark.long
@pytest.mark.parametrize("line", FTPD)
def test_head_of_each_command_of_ftpd(server, programs, unread, tmp_path, line):
    root = (
        [] if line.split()[0] in ("--help", "config", "service") else ["--root", str(server.root)]
    )
    words = [*program("ftpd"), *line.split(), *(root if "--help" not in line else [])]
    environment = clean_environment(tmp_path)
    head(programs, words, env=environment, cwd=tmp_path)
    pipes = {"stdout": unread, "stderr": subprocess.PIPE}
    ended = finish(programs.start(words, env=environment, cwd=tmp_path, **pipes), status=141)
    assert ended.err == ""


def head(programs, words: list[str], **options) -> None:
    """Run a command with ``| head -1``, as a shell does."""
    script = f"{shlex.join(words)} | head -1; echo ${{PIPESTATUS[0]}} >&2"
    ended = programs.run(["bash", "-c", script], **options)
    *complaints, status = ended.err.splitlines()
    assert complaints == [] and status in ("0", "141"), ended.err
    assert ended.out.count(b"\n") <= 1
