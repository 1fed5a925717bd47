"""What only real processes show of named operands: a shell's pipes, closed streams, Ctrl-C."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.system.programs import Finished, User, eventually, finish

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash makes <(…) and >(…)")


def in_bash(user: User, line: str, place: Path, status: int = 0) -> Finished:
    """Run a line of bash, in which ``ftp`` is this user's."""
    script = f'ftp() {{ {shlex.join(user.command())} "$@"; }}\n{line}'
    process = user.programs.start(
        ["bash", "-c", script],
        cwd=place,
        env=user.settings,
        stdout=-1,
        stderr=-1,
    )
    return finish(process, status=status)


@needs_bash
def test_process_substitution_is_read(user, tmp_path):
    in_bash(user, "ftp put <(echo from a pipe) /x; echo piped | ftp put /dev/stdin /y", tmp_path)
    assert (user.on_server / "x").read_bytes() == b"from a pipe\n"
    assert (user.on_server / "y").read_bytes() == b"piped\n"


@needs_bash
def test_own_streams_are_written_where_they_are(user, tmp_path):
    user.run("put", "-", "/x", given=b"middle\n")
    line = "{ echo before; ftp get /x /dev/stdout; ftp get /x /dev/fd/3 3>&1; echo after; } >out"
    in_bash(user, line, tmp_path)
    assert (tmp_path / "out").read_bytes() == b"before\nmiddle\nmiddle\nafter\n"


@needs_bash
def test_a_closed_input_empties_nothing(user, tmp_path):
    user.run("put", "-", "/keep", given=b"good")
    for source in ("-", "/dev/stdin"):
        reported = in_bash(user, f"ftp put {source} /keep <&-", tmp_path, status=1)
        assert "standard input is closed" in reported.complaint
    reported = in_bash(user, "ftp put --no-empty - /keep </dev/null", tmp_path, status=1)
    assert "empty, so it is not stored" in reported.complaint
    assert (user.on_server / "keep").read_bytes() == b"good"
    in_bash(user, "ftp put - /keep </dev/null", tmp_path)
    assert (user.on_server / "keep").read_bytes() == b""


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        pytest.param(["get", "/x", "fifo"], "waiting for a reader", id="get"),
        pytest.param(["put", "fifo", "/y"], "waiting for a writer", id="put"),
    ],
)
def test_a_fifo_is_waited_for_until_ctrl_c(user, tmp_path, words, reported):
    """It is said after 5 seconds, and not before."""
    user.run("put", "-", "/x", given=b"x")
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "err", "wb") as err:
        began = time.monotonic()
        running = user.start(*words, cwd=tmp_path, stderr=err)
        eventually(lambda: reported in (tmp_path / "err").read_text(), reported)
        assert time.monotonic() - began >= 5
        running.send_signal(signal.SIGINT)
        finish(running, status=130)
    assert (tmp_path / "err").read_text().count(reported) == 1
    assert (tmp_path / "fifo").is_fifo()
    assert not (user.on_server / "y").exists()
