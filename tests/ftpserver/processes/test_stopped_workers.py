"""Workers that were stopped by a signal, or hang: real processes, of a server in this one."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftpserver.cli.control import _summary, sessions
from ftpserver.daemon import control
from ftpserver.daemon.server import FtpServer
from ftpserver.processes import asking, supervisor, worker_handle
from ftpserver.processes.handing import Handing
from ftpserver.processes.supervisor import WorkerSupervisor
from ftpwire import messages
from ftpwire.errors import CommandError, NotFound
from ftpwire.messages import LoggedIn
from tests.peer import Peer, eventually

pytestmark = pytest.mark.system

HOOKS = "STOPPED_AT_START", "HANGS_AT_START", "STOPPED_AT_OFFER"


@pytest.fixture
def start(start_server, monkeypatch) -> Callable[..., FtpServer]:
    """Starts a server with two workers; hooks name their numbers."""

    def start(**hooks: str) -> FtpServer:
        monkeypatch.setattr(supervisor, "CHILD", "stopping_worker")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        for hook, numbers in hooks.items():
            assert hook in HOOKS
            monkeypatch.setenv(hook, numbers)
        return start_server(workers=2)

    return start


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def crew_of(server: FtpServer) -> WorkerSupervisor:
    assert isinstance(server.supervisor, WorkerSupervisor)
    return server.supervisor


def handing_of(server: FtpServer) -> Handing:
    return crew_of(server)._handing


def stop(process: int) -> None:
    """Stop a process, and wait until it is."""
    os.kill(process, signal.SIGSTOP)
    eventually(lambda: state_of(process) == "T")


def go_on(*processes: int) -> None:
    for process in processes:
        os.kill(process, signal.SIGCONT)


def state_of(process: int) -> str:
    """As ps shows it; empty when there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""


def connect(server: FtpServer, stack: ExitStack, count: int) -> list[Peer]:
    return [stack.enter_context(Peer.connect(server.server_address)) for _ in range(count)]


def log_in(peers: list[Peer]) -> None:
    for peer in peers:
        peer.log_in("alice", "secret")
        assert peer.ask(messages.WhoAmI()) == LoggedIn("alice")


def served(server: FtpServer) -> list[int]:
    """The numbers of all sessions, as the workers tell them."""
    return [one.id for one in crew_of(server).session_infos()]


def test_a_stopped_worker_gets_no_connections(start, stack):
    server = start()
    stopped, _ = server.supervisor.workers
    before = connect(server, stack, 2)  # one of these is its own
    log_in(before)
    stop(stopped)
    log_in(connect(server, stack, 20))
    go_on(stopped)
    log_in(connect(server, stack, 4))
    for peer in before:
        assert peer.ask(messages.WhoAmI()) == LoggedIn("alice")
    assert served(server) == list(range(1, 27)), "each is served, and once"


def test_those_that_it_was_offered_hang_if_they_are_not_taken_back(start, stack, monkeypatch):
    """The control: of a server that hands out as if nobody were ever stopped."""
    monkeypatch.setattr(worker_handle.WorkerHandle, "is_silent", lambda *arguments: False)
    server = start()
    stopped, _ = server.supervisor.workers
    stop(stopped)
    peers = connect(server, stack, 20)
    eventually(lambda: len(handing_of(server)._unclaimed) == 10)
    eventually(lambda: len(server.service.connections) == 20)
    server.supervisor.enforce()
    hanging = [one for one in handing_of(server)._unclaimed.values()]
    assert len(hanging) == 10
    assert not select.select([one.request for one in hanging], [], [], 0)[0]
    go_on(stopped)
    log_in(peers)


def test_one_that_is_stopped_between_the_offer_and_its_claim(start, stack):
    server = start(STOPPED_AT_OFFER="1,2")
    first = connect(server, stack, 1)
    crew = crew_of(server)
    (stopped,) = eventually(lambda: [one for one in crew.workers if state_of(one) == "T"])
    eventually(lambda: crew.silent)
    (other,) = set(crew.workers) - {stopped}
    eventually(lambda: state_of(other) == "T")  # now the other one is offered it
    go_on(stopped)  # and it is too late for this one
    eventually(lambda: len(crew.silent) == 1)
    go_on(other)
    log_in(first)
    assert served(server) == [1]


def test_when_all_are_stopped_connections_wait(start, stack):
    server = start()
    workers = server.supervisor.workers
    for process in workers:
        stop(process)
    peers = connect(server, stack, 6)
    eventually(lambda: len(crew_of(server).silent) == 2)
    peers += connect(server, stack, 2)
    eventually(lambda: len(handing_of(server)._waiting) == 2)
    go_on(*workers)
    log_in(peers)
    assert served(server) == list(range(1, 9))


def test_what_is_asked_is_answered_without_a_stopped_worker(start, stack, monkeypatch):
    for module in (asking, worker_handle):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 2.0)
    server = start()
    log_in(connect(server, stack, 2))
    stopped = server.supervisor.workers[0]
    stop(stopped)

    ask = control.running(server.settings.state)
    name = f"worker 1 (process {stopped})"
    reported = ask.sessions()
    assert (len(reported.sessions), reported.silent) == (1, [name])
    assert f"{name} doesn't answer" in ask.status().warnings
    shown = CliRunner().invoke(sessions, ["--root", str(server.settings.root)])
    assert shown.stderr == f"ftpd: {name} doesn't answer: its sessions are not included\n"
    assert len(shown.stdout.splitlines()) == 1
    assert f", {name} doesn't answer, " in _summary(reported)
    (living,) = reported.sessions
    with pytest.raises(NotFound, match=f"no such session .*{stopped}.*doesn't answer"):
        ask.kick(session=living.id + 100)
    ended = ask.kick(user="alice")
    assert (ended.sessions, ended.silent) == ([living.id], [name])
    with pytest.raises(
        CommandError, match=f"{stopped}.* didn't apply the settings: it doesn't answer"
    ):
        ask.reload()
    go_on(stopped)
    eventually(lambda: not ask.sessions().silent)


def test_a_server_with_a_stopped_worker_stops(start, start_server, monkeypatch):
    monkeypatch.setattr(supervisor, "_END_SECONDS", 0.0)
    server = start()
    server.service.grace = 0.0
    workers = server.supervisor.workers
    stop(workers[0])
    start_server.finish(server)
    for process in workers:
        eventually(lambda process=process: state_of(process) in ("", "Z"))


@pytest.mark.parametrize("how", ["STOPPED_AT_START", "HANGS_AT_START"])
@pytest.mark.parametrize("when", ["death", "reload"])
def test_one_that_never_gets_ready_is_replaced(start, stack, monkeypatch, caplog, how, when):
    server = start(**{how: "3"})
    crew = crew_of(server)
    before = crew.workers
    monkeypatch.setattr(supervisor, "_START_SECONDS", 2.0)
    if when == "reload":
        crew.apply_settings(server.settings, new_key=True)
        eventually(lambda: len(crew.workers) == 2)
        assert not set(crew.workers) & set(before)
    else:
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(crew.workers) - {before[0]}) == 2)
    log_in(connect(server, stack, 2))
    lines = [one.getMessage() for one in caplog.records if "worker 3" in one.getMessage()]
    (line,) = lines
    assert line.endswith("is killed: it isn't ready after 2 s")
