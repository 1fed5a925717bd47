"""The reader of what the programs print leaves, or it can't be written at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.system.programs import clean_environment, eventually, finish, program

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
