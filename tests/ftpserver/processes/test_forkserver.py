"""The nursery: children that are forked for a server, in a real process of its own."""

from __future__ import annotations

import ast
import os
import queue
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.processes.forkserver import Ended, Nursery, Spawned
from ftpserver.settings.table import Settings

pytestmark = pytest.mark.system  # it starts processes

PATIENCE = 60.0


class Born:
    """A nursery, and the reports that came from it."""

    def __init__(self, settings: Settings, module: str = "nursery_child") -> None:
        self.reports: queue.SimpleQueue[Spawned | Ended] = queue.SimpleQueue()
        self.nursery = Nursery(module, settings, self.reports.put)

    def spawn(self, number: int, note: bytes, *descriptors: int) -> Spawned:
        self.nursery.spawn(number, descriptors, note)
        report = self.reports.get(timeout=PATIENCE)
        assert isinstance(report, Spawned) and report.number == number
        return report

    def ended(self) -> Ended:
        report = self.reports.get(timeout=PATIENCE)
        assert isinstance(report, Ended)
        return report


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path / "root", plaintext=True)


@pytest.fixture
def born(settings, monkeypatch) -> Iterator[Callable[..., Born]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with ExitStack() as stack:

        def make(**changes) -> Born:
            made = Born(replace(settings, **changes))
            stack.callback(made.nursery.stop)
            return made

        yield make


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def read_all(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 65536):
        data += piece
    return data


def wait_for_end(pid: int) -> None:
    """Until a process that is nobody's child here has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], PATIENCE)[0]
    finally:
        os.close(fd)


def told(made: Born, pipe: tuple[int, int], number: int = 7) -> dict[str, object]:
    read, write = pipe
    made.spawn(number, b"tell", write)
    os.close(write)
    found = ast.literal_eval(read_all(read).decode())
    assert made.ended().status == 0
    return found


def test_a_child_has_what_it_is_given_and_nothing_else(born, pipe, settings):
    found = told(born(), pipe)
    own = found.pop("open")
    assert found == {
        "number": 7,
        "clock": RUN.began,
        "root": str(settings.root),
        "tls": False,
        "threads": 1,
        "engine": False,
        "interrupt": True,
        "wakeup": -1,
    }
    # 0, 1, the log, and the pipe
    assert [one for one in own if one.startswith(("pipe:", "socket:"))].count(
        os.readlink(f"/proc/self/fd/{pipe[0]}")
    ) == 1
    assert not [one for one in own if one.startswith(("socket:", "anon_inode:"))]


def test_children_share_the_tls_context(born, pipe, settings):
    settings.state.mkdir(parents=True)
    assert told(born(plaintext=False), pipe)["tls"] is True


@pytest.mark.parametrize(
    ("note", "status", "cause"),
    [
        (b"exit 0", 0, "status 0"),
        (b"exit 7", 7, "status 7"),
        (b"signal %d" % signal.SIGSEGV, -signal.SIGSEGV, "SIGSEGV"),
        (b"signal %d" % (signal.SIGRTMIN + 1), -signal.SIGRTMIN - 1, "signal 35"),
        (b"fail", 1, "status 1"),
    ],
)
def test_the_end_of_a_child_is_reported(born, note, status, cause):
    made = born()
    pid = made.spawn(1, note).pid
    ended = made.ended()
    assert (ended.pid, ended.status) == (pid, status)
    assert cause in ended.cause


def test_more_children_than_socketserver_would_allow_are_reaped(born, pipe):
    made = born()
    read, write = pipe
    pids = {made.spawn(number, b"wait", read).pid for number in range(45)}
    os.close(write)  # all of them end now
    ended = [made.ended() for _ in range(45)]
    assert {one.pid for one in ended} == pids
    assert {one.number for one in ended} == set(range(45))


def test_children_live_on_when_the_nursery_dies_and_it_is_replaced(born, pipe, caplog):
    made = born()
    ours, theirs = socket.socketpair()
    with ours:
        child = made.spawn(1, b"wait", theirs.fileno())
        theirs.close()
        assert made.nursery._process is not None
        os.kill(made.nursery._process.pid, signal.SIGKILL)
        made.nursery._process.wait(PATIENCE)
        os.kill(child.pid, 0)  # it is there
        assert told(made, pipe, 2)["number"] == 2
        assert "another one is started" in caplog.text
        os.kill(child.pid, 0)
    wait_for_end(child.pid)


def test_children_have_the_clock_of_the_server(born, pipe, monkeypatch):
    """Also those of a nursery that is started when the system's clock was set meanwhile."""
    monkeypatch.setattr(RUN, "_began", RUN.began - 700)
    assert told(born(), pipe)["clock"] == RUN.began


def test_other_settings_hold_for_the_next_child(born, pipe, settings, tmp_path):
    made = born()
    made.nursery.configure(replace(settings, root=tmp_path / "other"))
    assert told(made, pipe)["root"] == str(tmp_path / "other")


def test_a_certificate_that_cant_be_used_leaves_the_settings_as_they_were(
    born, pipe, settings, tmp_path
):
    made = born()
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(StateError):
        made.nursery.configure(replace(settings, plaintext=False, certificate=bad, key=bad))
    assert told(made, pipe)["tls"] is False


def test_a_nursery_whose_module_is_missing_says_so(settings):
    with pytest.raises(StateError, match="has ended"):
        Nursery("no_such_module_here", settings, lambda report: None)


def test_nothing_is_spawned_after_the_stop(born):
    made = born()
    made.nursery.stop()
    made.nursery.stop()
    with pytest.raises(StateError, match="stopping"):
        made.nursery.spawn(1, [], b"exit 0")
