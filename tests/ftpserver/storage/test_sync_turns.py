"""Turns of processes at a disk: one after another, and never for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpserver.storage import sync_turns
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.sync_turns import SyncTurns
from ftpserver.storage.upload_locks import try_range

DISK = 7
PATIENCE = 30.0

_TAKES = """
import sys
from pathlib import Path
from ftpserver.storage.sync_turns import SyncTurns
turns = SyncTurns(Path(sys.argv[1]))
turns.take(int(sys.argv[2]))
print("has it", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "syncs"


@contextmanager
def process_with_the_turn(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that keeps the turn until it is killed."""
    command = [sys.executable, "-c", _TAKES, str(path), str(DISK)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "has it\n"
            yield process
        finally:
            process.kill()


class Waiting(threading.Thread):
    """Takes a turn, once it was seen to be taken."""

    def __init__(self, turns: SyncTurns, pauses: Pauses) -> None:
        super().__init__(daemon=True)
        self._turns = turns
        self.start()
        pauses.wait()

    def run(self) -> None:
        self._turns.take(DISK)

    def ended(self) -> None:
        self.join(PATIENCE)
        assert not self.is_alive()


class Pauses:
    """Tells when somebody waits for a turn."""

    def __init__(self, monkeypatch) -> None:
        self._paused = threading.Semaphore(0)
        real_sleep = sync_turns.time.sleep

        def sleep(seconds: float) -> None:
            self._paused.release()
            real_sleep(seconds)

        monkeypatch.setattr(sync_turns.time, "sleep", sleep)

    def wait(self) -> None:
        assert self._paused.acquire(timeout=PATIENCE)


@pytest.fixture
def pauses(monkeypatch) -> Pauses:
    monkeypatch.setattr(sync_turns, "PATIENCE", PATIENCE)
    return Pauses(monkeypatch)


def is_free(path: Path, byte: int = 1) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        return try_range(fd, 2 * DISK + byte)
    finally:
        os.close(fd)


def test_a_turn_is_one_process_s_and_of_one_disk(path, pauses):
    first, second = SyncTurns(path), SyncTurns(path)
    first.take(DISK)
    assert not is_free(path) and is_free(path, 0)
    second.take(DISK + 1)
    second.give_back(DISK + 1)
    waiting = Waiting(second, pauses)
    assert waiting.is_alive()
    first.give_back(DISK)
    waiting.ended()
    assert not is_free(path)
    second.give_back(DISK)
    assert is_free(path) and path.stat().st_mode & 0o777 == 0o600


def test_who_had_the_turn_comes_after_who_waits(path, pauses):
    first, second = SyncTurns(path), SyncTurns(path)
    first.take(DISK)
    waiting = Waiting(second, pauses)
    first.give_back(DISK)
    first.take(DISK)  # at once, while the other one still pauses
    waiting.ended()  # gets it all the same: before
    assert not is_free(path)


def test_the_turn_of_a_process_that_is_killed_is_free(path, pauses):
    with process_with_the_turn(path) as other:
        waiting = Waiting(SyncTurns(path), pauses)
        other.send_signal(signal.SIGKILL)
        waiting.ended()


def test_a_process_that_is_stopped_in_its_turn_is_waited_for_once(path, monkeypatch):
    monkeypatch.setattr(sync_turns, "PATIENCE", 0.01)
    paused: list[float] = []
    monkeypatch.setattr(sync_turns.time, "sleep", paused.append)
    turns = SyncTurns(path)
    with process_with_the_turn(path) as other:
        other.send_signal(signal.SIGSTOP)
        turns.take(DISK)
        turns.give_back(DISK)
        assert paused
        assert not is_free(path)  # what it hasn't, it doesn't give back
        paused.clear()
        turns.take(DISK)
        assert not paused
    turns.take(DISK)  # it is free again
    assert not is_free(path)


def test_where_there_is_no_place_for_turns_nobody_waits(tmp_path):
    turns = SyncTurns(tmp_path / "missing" / "syncs")
    turns.take(DISK)
    turns.give_back(DISK)


def test_closed_turns_are_nobody_s(path):
    turns = SyncTurns(path)
    turns.take(DISK)
    for _ in range(2):
        turns.close()
    assert is_free(path)
    turns.take(DISK)
    turns.give_back(DISK)
    assert is_free(path)


def test_a_round_is_for_all_who_have_come_before_its_turn(path, pauses, tmp_path):
    fds = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "abc"]
    device = os.fstat(fds[0]).st_dev
    rounds: list[list[int]] = []
    other, syncs = SyncTurns(path), Syncs(lambda those: rounds.append(list(those)), SyncTurns(path))
    try:
        syncs.sync(fds[:1])  # of a disk that isn't known to be slow, no turn is taken
        syncs._disks[device].seconds = 1.0
        other.take(device)
        threads = [threading.Thread(target=syncs.sync, args=([fd],)) for fd in fds]
        threads[0].start()
        pauses.wait()
        came = threading.Semaphore(0)
        syncs.before_wait = came.release
        for thread in threads[1:]:
            thread.start()
            assert came.acquire(timeout=PATIENCE)
        other.give_back(device)
        for thread in threads:
            thread.join(PATIENCE)
        assert [sorted(one) for one in rounds] == [fds[:1], sorted(fds)]
        other.take(device)  # it was given back
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_however_a_round_ends_its_turn_is_given_back(path, tmp_path, error: type[BaseException]):
    def fail(fds: object) -> None:
        assert syncs._disks[device].seconds == 1.0
        raise error(5, "it ends")

    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    device = os.fstat(fd).st_dev
    syncs = Syncs(lambda fds: None, SyncTurns(path))
    try:
        syncs.sync([fd])
        syncs._disks[device].seconds = 1.0
        syncs._sync = fail
        with pytest.raises(error):
            syncs.sync([fd])
        probe = os.open(path, os.O_RDWR)
        try:
            assert try_range(probe, 2 * device) and try_range(probe, 2 * device + 1)
        finally:
            os.close(probe)
    finally:
        os.close(fd)
