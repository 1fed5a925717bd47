"""A child process as its server sees it; here a program that sleeps is the child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

import pytest

from ftpserver.errors import StateError
from ftpserver.interfaces import Carried, request
from ftpserver.processes.child import ChildProcess

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
END = [sys.executable, "-S", "-c", ""]


class Interface(Protocol):
    @request
    def nothing(self) -> None: ...


class Forking:
    """Forks when it is told to; knows the processes, and ends them."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.request: Future[Carried[int]] = Future()

    def __call__(self, number, descriptors, note) -> Future[Carried[int]]:
        self.request = Future()
        return self.request

    def fork(self, command) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command)
        self.processes.append(process)
        self.request.set_result(Carried(process.pid, [os.pidfd_open(process.pid)]))
        return process


@pytest.fixture
def forking() -> Iterator[Forking]:
    made = Forking()
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.fixture
def make(ledger) -> Iterator[Callable[..., ChildProcess]]:
    children: list[ChildProcess] = []

    def make() -> ChildProcess:
        child = ChildProcess(1, "child 1", "run1", ledger, {Interface: object()}, patience=1.0)
        children.append(child)
        return child

    yield make
    for child in children:
        child.see_ended()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_kill_ends_it_whatever_it_does(make, forking):
    child = make()
    child.begin(forking, [], b"")
    process = forking.fork(SLEEP)
    process.send_signal(signal.SIGSTOP)
    child.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert child.endpoint.gone
    assert str(child) == f"child 1 (process {process.pid})"


def test_who_ends_by_itself_is_not_killed(make, forking, caplog):
    child = make()
    child.begin(forking, [], b"")
    process = forking.fork(END)
    child.see_ended(30.0)
    assert process.wait(30) == 0
    assert "killed" not in caplog.text


def test_who_does_not_end_is_killed(make, forking, caplog):
    child = make()
    child.begin(forking, [], b"")
    process = forking.fork(SLEEP)
    child.see_ended(0.01)
    assert process.wait(30) == -signal.SIGKILL
    assert "is killed" in caplog.text


@pytest.mark.parametrize("end", [ChildProcess.kill, ChildProcess.see_ended])
def test_who_is_forked_after_its_end_is_killed(make, forking, end):
    child = make()
    child.begin(forking, [], b"")
    end(child)
    process = forking.fork(SLEEP)
    assert process.wait(30) == -signal.SIGKILL


def test_who_can_not_be_forked_is_gone(make, forking, caplog):
    child = make()
    child.begin(forking, [], b"")
    forking.request.set_exception(OSError(11, "Resource temporarily unavailable"))
    assert child.endpoint.gone
    assert "child 1: cannot be started" in caplog.text


def test_nothing_stays_open(make, forking):
    before = open_descriptors()
    for end in (ChildProcess.kill, ChildProcess.see_ended):
        child = make()
        child.begin(forking, [], b"")
        forking.fork(SLEEP)
        end(child)
        child.see_ended()
    child = make()

    def refuse(number, descriptors, note):
        raise StateError("the server is stopping")

    with pytest.raises(StateError):
        child.begin(refuse, [], b"")
    child.see_ended()
    assert open_descriptors() == before


def test_its_leases_are_known_to_be_of_the_living(make, ledger):
    child = make()
    assert child.incarnation in ledger.others
    child.end_leases()
    assert child.incarnation not in ledger.others
