"""The fork server: children that are forked for a server, in a real process of its own."""

from __future__ import annotations

import ast
import os
import queue
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.interfaces import Carried
from ftpserver.processes import forkserver
from ftpserver.processes.forkserver import Ended, ForkServer
from ftpserver.processes.rpc import EndpointGone
from ftpserver.settings.table import Settings
from tests.peer import eventually

pytestmark = pytest.mark.system  # it starts processes

PATIENCE = 60.0


class Children:
    """A fork server, and the reports that came from it."""

    def __init__(self, settings: Settings, *, resting: bool = False) -> None:
        self.reports: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self.fork_server = ForkServer(
            "forkserver_child", settings, self.reports.put, resting=resting
        )

    def spawn(self, number: int, note: bytes, *descriptors: int) -> int:
        """Have a child, and return its process id."""
        carried = self.fork_server.spawn(number, descriptors, note).result(PATIENCE)
        carried.close()
        return carried.message

    def ended(self) -> Ended:
        return self.reports.get(timeout=PATIENCE)

    def signal(self, number: int) -> None:
        """Send the fork server a signal."""
        assert self.fork_server._process is not None
        self.fork_server._process.send_signal(number)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path / "root", plaintext=True)


@pytest.fixture
def start(settings, monkeypatch) -> Iterator[Callable[..., Children]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with ExitStack() as stack:

        def make(*, resting: bool = False, **changes) -> Children:
            made = Children(replace(settings, **changes), resting=resting)
            stack.callback(made.fork_server.stop)
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


def reported(made: Children, pipe: tuple[int, int], number: int = 7) -> dict[str, object]:
    read, write = pipe
    made.spawn(number, b"tell", write)
    os.close(write)
    found = ast.literal_eval(read_all(read).decode())
    assert made.ended().status == 0
    return found


def test_a_child_has_what_it_is_given_and_nothing_else(start, pipe, settings):
    found = reported(start(), pipe)
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


def test_children_share_the_tls_context(start, pipe, settings):
    settings.state.mkdir(parents=True)
    assert reported(start(plaintext=False), pipe)["tls"] is True


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
def test_the_end_of_a_child_is_reported(start, note, status, cause):
    made = start()
    made.spawn(1, note)
    ended = made.ended()
    assert (ended.number, ended.status) == (1, status)
    assert cause in ended.cause


def test_more_children_than_socketserver_would_allow_are_reaped(start, pipe):
    made = start()
    read, write = pipe
    pids = {made.spawn(number, b"wait", read) for number in range(45)}
    assert len(pids) == 45
    os.close(write)  # all of them end now
    assert {made.ended().number for _ in range(45)} == set(range(45))


def test_children_live_on_when_the_fork_server_dies_and_it_is_replaced(start, pipe, caplog):
    made = start()
    ours, theirs = socket.socketpair()
    with ours:
        child = made.spawn(1, b"wait", theirs.fileno())
        theirs.close()
        made.signal(signal.SIGKILL)
        made.fork_server._process.wait(PATIENCE)
        os.kill(child, 0)  # it is there
        assert reported(made, pipe, 2)["number"] == 2
        assert "starting another one" in caplog.text
        os.kill(child, 0)
    wait_for_end(child)


def test_children_have_the_clock_of_the_server(start, pipe, monkeypatch):
    """Also those of a fork server that is started when the system's clock was set meanwhile."""
    monkeypatch.setattr(RUN, "_began", RUN.began - 700)
    assert reported(start(), pipe)["clock"] == RUN.began


def test_other_settings_hold_for_the_next_child(start, pipe, settings, tmp_path):
    made = start()
    made.fork_server.configure(replace(settings, root=tmp_path / "other"))
    assert reported(made, pipe)["root"] == str(tmp_path / "other")


def test_a_certificate_that_cant_be_used_leaves_the_settings_as_they_were(
    start, pipe, settings, tmp_path
):
    made = start()
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(StateError):
        made.fork_server.configure(replace(settings, plaintext=False, certificate=bad, key=bad))
    assert reported(made, pipe)["tls"] is False


def test_a_fork_server_whose_module_is_missing_says_so(settings):
    with pytest.raises(StateError, match="has ended"):
        ForkServer("no_such_module_here", settings, lambda report: None)


def test_nothing_is_spawned_after_the_stop(start):
    made = start()
    made.fork_server.stop()
    made.fork_server.stop()
    with pytest.raises(StateError, match="stopping"):
        made.fork_server.spawn(1, [], b"exit 0")


def test_a_child_that_cant_be_forked_is_an_error_of_that_child(start, pipe, monkeypatch):
    monkeypatch.setenv("FTPD_TEST_NO_FORK", "1")
    made = start()
    with pytest.raises(BlockingIOError):
        made.fork_server.spawn(1, [pipe[1]], b"exit 0").result(PATIENCE)
    assert reported(made, pipe)["number"] == 7  # nobody has kept the descriptor


# while it forks -------------------------------------------------------------------------------


def test_what_is_asked_while_a_child_is_forked_is_not_lost(start, pipe, settings, tmp_path):
    """No child takes anything of what comes after the message that it is forked for."""
    made = start()
    read, write = pipe
    made.signal(signal.SIGSTOP)  # so that all of it lies there before the first fork
    forked = [made.fork_server.spawn(number, [read], b"wait") for number in range(5)]
    with ThreadPoolExecutor(1) as pool:
        other = replace(settings, root=tmp_path / "other")
        configured = pool.submit(made.fork_server.configure, other)
        made.signal(signal.SIGCONT)
        configured.result(PATIENCE)
    carried = [one.result(PATIENCE) for one in forked]
    for one in carried:
        one.close()
    assert len({one.message for one in carried}) == 5
    os.close(write)
    assert {made.ended().number for _ in range(5)} == set(range(5))


def test_a_storm_of_signals_loses_no_child(start, monkeypatch, capfd):
    monkeypatch.setenv("FTPD_TEST_STORM", "1")
    made = start()
    assert made.fork_server._process is not None
    fork_server, over = made.fork_server._process.pid, threading.Event()

    def storm() -> None:
        while not over.wait(0.0001):
            os.kill(fork_server, signal.SIGCHLD)

    with ThreadPoolExecutor(1) as pool:
        storming = pool.submit(storm)
        try:
            forked = [made.fork_server.spawn(number, [], b"exit 3") for number in range(200)]
            carried = [one.result(PATIENCE) for one in forked]
        finally:
            over.set()
        storming.result(PATIENCE)
    for one in carried:
        one.close()
    assert len({one.message for one in carried}) == 200
    ended = [made.ended() for _ in range(200)]
    assert {one.number for one in ended} == set(range(200))
    assert {one.status for one in ended} == {3}
    assert "wakeup fd" not in capfd.readouterr().err


def test_who_waits_for_a_child_hears_that_the_fork_server_was_killed(start, pipe):
    made = start()
    made.signal(signal.SIGSTOP)
    forked = [made.fork_server.spawn(number, [pipe[1]], b"wait") for number in range(3)]
    made.signal(signal.SIGKILL)
    for one in forked:
        with pytest.raises(EndpointGone):
            one.result(PATIENCE)
    assert reported(made, pipe)["number"] == 7  # and its descriptors are no longer held by anybody


def test_a_fork_server_that_is_killed_while_it_forks_leaves_nobody_waiting(start, pipe):
    made = start()
    read, write = pipe
    forked = [made.fork_server.spawn(number, [read], b"wait") for number in range(30)]
    forked[0].result(PATIENCE)
    made.signal(signal.SIGKILL)
    results = [one.exception(PATIENCE) or one.result() for one in forked]
    pids = []
    for one in results:
        assert isinstance(one, Carried | EndpointGone)
        if isinstance(one, Carried):
            one.close()
            pids.append(one.message)
    assert len(set(pids)) == len(pids) >= 1
    pids.append(made.spawn(30, b"wait", read))
    os.close(write)
    for pid in pids:
        wait_for_end(pid)
    assert made.ended().number == 30


def test_a_fork_server_that_hangs_is_killed(start, monkeypatch, caplog):
    made = start()
    process = made.fork_server._process
    made.signal(signal.SIGSTOP)
    monkeypatch.setattr(forkserver, "_PATIENCE", 0.05)
    with pytest.raises(StateError, match="doesn't answer"):
        made.fork_server.configure(made.fork_server._settings)
    made.fork_server.stop()
    assert process.returncode == -signal.SIGKILL
    assert "it doesn't end" in caplog.text


# the descriptor that stands for a child ---------------------------------------------------------


def test_the_descriptor_stands_for_the_child(start, pipe):
    made = start()
    with closing_all(made.fork_server.spawn(1, [pipe[0]], b"wait").result(PATIENCE)) as carried:
        (pidfd,) = carried.descriptors
        assert process_of(pidfd) == carried.message
        assert not select.select([pidfd], [], [], 0)[0]
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert made.ended() == Ended(1, -signal.SIGKILL)
        assert select.select([pidfd], [], [], PATIENCE)[0]


def test_the_descriptor_stands_also_for_a_child_that_has_ended_at_once(start):
    """And never for another process that has got its number."""
    made = start()
    forked = [made.fork_server.spawn(number, [], b"exit 0") for number in range(20)]
    for _ in forked:
        made.ended()
    for one in forked:
        with closing_all(one.result(PATIENCE)) as carried:
            (pidfd,) = carried.descriptors
            assert select.select([pidfd], [], [], PATIENCE)[0]
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)


@contextmanager
def closing_all(carried: Carried[int]) -> Iterator[Carried[int]]:
    try:
        yield carried
    finally:
        carried.close()


def process_of(pidfd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    (number,) = [line.removeprefix("Pid:").strip() for line in lines if line.startswith("Pid:")]
    return int(number)


# without one, or as a child itself --------------------------------------------------------------


def test_one_that_rests_is_started_for_the_first_child(start, settings):
    made = start(resting=True)
    assert not made.fork_server.is_awake
    made.fork_server.configure(replace(settings, grace=3.0))
    assert not made.fork_server.is_awake
    made.spawn(7, b"exit 2")
    assert made.ended() == Ended(7, 2)
    assert made.fork_server.is_awake
    made.fork_server.go_idle()
    assert not made.fork_server.is_awake
    made.spawn(8, b"exit 3")
    assert made.ended() == Ended(8, 3)


def test_it_becomes_a_child(start, pipe, settings):
    """The child has what one has that was forked."""
    made = start(resting=True)
    read, write = pipe
    carried = made.fork_server.become(7, [write], b"tell").result(PATIENCE)
    carried.close()
    os.close(write)
    found = ast.literal_eval(read_all(read).decode())
    found.pop("open")
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
    assert made.ended() == Ended(7, 0)


@pytest.mark.parametrize(
    ("note", "status"), [(b"exit 4", 4), (b"signal 9", -9), (b"fail", 1)], ids=str
)
def test_how_it_has_ended_as_a_child(start, note, status):
    made = start()
    made.fork_server.become(7, [], note).result(PATIENCE).close()
    assert made.ended() == Ended(7, status)
    assert not made.fork_server.is_awake
    made.spawn(8, b"exit 3")
    assert made.ended() == Ended(8, 3), "the next one is another's"


def test_its_descriptor_as_a_child(start, pipe):
    made = start()
    with closing_all(made.fork_server.become(1, [pipe[0]], b"wait").result(PATIENCE)) as carried:
        (pidfd,) = carried.descriptors
        assert process_of(pidfd) == carried.message
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert made.ended() == Ended(1, -signal.SIGKILL)


def test_one_that_hangs_as_it_starts_doesnt_keep_the_server_from_stopping(
    settings, tmp_path, monkeypatch
):
    """Nor is it left behind."""
    (tmp_path / "hanging.py").write_text("import os; os.kill(os.getpid(), 19)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(forkserver, "_PATIENCE", PATIENCE * 10)
    fork_server = ForkServer("hanging", settings, lambda ended: None, resting=True)
    with ThreadPoolExecutor() as others:
        spawning = others.submit(fork_server.spawn, 1, [])
        process = eventually(lambda: fork_server._process)
        eventually(lambda: "State:\tT" in Path(f"/proc/{process.pid}/status").read_text())
        others.submit(fork_server.stop).result(PATIENCE)
        with pytest.raises(StateError):
            spawning.result(PATIENCE)
    assert process.returncode == -signal.SIGKILL
