"""A program that is forked finds the same as one that is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.system.programs import Programs, finish, program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are forked on Linux only")

TELL = """
import json, os, resource, signal, sys, threading
print("an error", file=sys.stderr)
fds = sorted(int(one) for one in os.listdir("/proc/self/fd"))
streams = [sys.stdin, sys.stdout, sys.stderr]
print(json.dumps({
    "arguments": sys.argv,
    "directory": os.getcwd(),
    "environment": dict(os.environ),
    "main": __name__,
    "parent": os.getppid(),
    "session": os.getsid(0),
    "descriptors": [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")],
    "path": sys.path[0],
    "ours": sorted(name for name in sys.modules if name.startswith("ftp")),
    "threads": threading.active_count(),
    "umask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "signals": [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())],
    "streams": [
        [one.encoding, one.errors, one.line_buffering, one.write_through, type(one.buffer).__name__]
        for one in streams
    ],
    "given": sys.stdin.read(),
}))
sys.exit(3)
"""


@pytest.fixture
def reported(tmp_path, programs, monkeypatch):
    """What a program finds that is started in one of the two ways."""
    script = tmp_path / "tell"
    script.write_text(f"#!{sys.executable}\n{TELL}")
    script.chmod(0o700)
    environment = dict(os.environ) | {"OF_THE_TEST": "ä\n"}

    def run(*, warm: bool) -> dict:
        with monkeypatch.context() as patch:
            if warm:
                patch.setattr(Programs.warm, "can_start", lambda *_: True)
            else:
                patch.setattr(Programs, "warm", None)
            ended = programs.run(
                [str(script), "an argument", "ü"],
                given=b"given\n",
                status=3,
                cwd=tmp_path,
                env=environment,
            )
        assert ended.err == "an error\n"
        return ended.record

    return run


@pytest.fixture
def with_warm_starts():
    if Programs.warm is None:
        pytest.skip("--cold-starts: nothing is forked")


def test_it_finds_the_same(with_warm_starts, reported):
    warm, cold = reported(warm=True), reported(warm=False)
    assert warm == cold
    assert warm["parent"] == os.getpid() and warm["ours"] == []


def test_its_signals_come_and_its_end_is_seen(with_warm_starts, programs, tmp_path, monkeypatch):
    monkeypatch.setattr(Programs.warm, "can_start", lambda *_: True)
    script = tmp_path / "wait"
    script.write_text("import signal\nprint('here', flush=True)\nsignal.pause()\n")
    process = programs.start(
        [str(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"here\n"
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    finish(process, status=-signal.SIGTERM)


def test_what_it_may_not_do_is_started(with_warm_starts, monkeypatch):
    can = Programs.warm.can_start
    assert can(program("ftp"), os.environ) and can(program("ftpd"), os.environ)
    assert not can([sys.executable], os.environ)
    assert not can(program("ftp"), dict(os.environ) | {"LC_ALL": "tr_TR.UTF-8"})
    assert not can(program("ftp"), dict(os.environ) | {"PYTHONWARNINGS": "error"})
