"""Which way a few things are synced: the one that took less time lately, if little is dirty."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from ftpserver.storage import group_sync, sync_costs
from ftpserver.storage.group_sync import SYNC_EACH, Syncs, sync_all
from ftpserver.storage.sync_costs import FEW_DIRTY, SyncCosts, dirty_bytes
from ftpwire import beneath


@pytest.fixture
def costs(monkeypatch) -> SyncCosts:
    """Of a disk on a machine with little to write."""
    monkeypatch.setattr(sync_costs, "dirty_bytes", lambda: 0)
    return SyncCosts()


@pytest.fixture
def fds(tmp_path) -> Iterator[list[int]]:
    found = [os.open(tmp_path / f"f{number}", os.O_RDWR | os.O_CREAT) for number in range(9)]
    yield found
    for fd in found:
        os.close(fd)


class SlowDisk:
    """A disk and its clock: each sync of a thing takes a second, and one of all of it so many."""

    def __init__(self, monkeypatch, together: float) -> None:
        self.now = 0.0
        self.together = together
        self.done: list[str] = []
        monkeypatch.setattr(group_sync.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(group_sync.os, "fsync", self._one)
        monkeypatch.setattr(beneath, "sync_file_system", self._all)
        for name in ("begin_writing", "wait_until_written"):
            monkeypatch.setattr(beneath, name, lambda fd: None)

    def _one(self, fd: int) -> None:
        self.now += 1.0
        self.done.append("one")

    def _all(self, fd: int) -> None:
        self.now += self.together
        self.done.append("all")


def test_a_few_are_synced_together_where_that_is_quicker(costs, fds, monkeypatch):
    disk = SlowDisk(monkeypatch, together=2.5)
    sync_all(fds[:3], costs)  # nothing is known yet
    assert disk.done == ["one"] * 3
    for few in (3, 4, SYNC_EACH):
        disk.done.clear()
        sync_all(fds[:few], costs)
        assert disk.done == ["all"]
    disk.done.clear()
    sync_all(fds[:2], costs)  # two seconds
    sync_all(fds[:1], costs)
    assert disk.done == ["one"] * 3


def test_what_was_slow_is_tried_again_after_some_time(costs, fds, monkeypatch):
    disk = SlowDisk(monkeypatch, together=6.0)
    sync_all(fds[:3], costs)
    sync_all(fds[:3], costs)
    assert disk.done == ["one"] * 3 + ["all"]
    disk.together = 0.5
    disk.done.clear()
    rounds = 0
    while "all" not in disk.done:
        sync_all(fds[:3], costs)
        rounds += 1
    assert 10 < rounds < 100


def test_more_are_synced_together_whatever_that_takes(costs, fds, monkeypatch):
    disk = SlowDisk(monkeypatch, together=100.0)
    sync_all(fds[:1], costs)
    sync_all(fds, costs)
    assert disk.done == ["one", "all"]
    sync_all(fds[:2], costs)  # they say nothing of few, so that is tried
    assert disk.done == ["one", "all", "all"]


@pytest.mark.parametrize("dirty", [None, FEW_DIRTY + 1])
def test_no_few_wait_for_what_unauthenticated_clients_have_written(costs, fds, monkeypatch, dirty):
    monkeypatch.setattr(sync_costs, "dirty_bytes", lambda: dirty)
    disk = SlowDisk(monkeypatch, together=0.0)
    for _ in range(5):
        sync_all(fds[:4], costs)
    assert disk.done == ["one"] * 20


def test_an_error_of_one_of_few_is_found_as_well(costs, fds, monkeypatch):
    SlowDisk(monkeypatch, together=0.0)
    sync_all(fds[:3], costs)

    def failed(fd: int) -> None:
        if fd == fds[2]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(beneath, "wait_until_written", failed)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_all(fds[:3], costs)


def test_without_syncfs_a_few_are_synced_one_by_one(costs, fds, monkeypatch):
    disk = SlowDisk(monkeypatch, together=0.0)

    def unsupported(fd: int) -> None:
        raise beneath.Unsupported(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(beneath, "sync_file_system", unsupported)
    for _ in range(2):
        sync_all(fds[:3], costs)
    assert disk.done == ["one"] * 6


def test_rounds_learn_from_each_other(fds, monkeypatch):
    monkeypatch.setattr(sync_costs, "dirty_bytes", lambda: 0)
    disk = SlowDisk(monkeypatch, together=0.5)
    syncs = Syncs()
    syncs.sync(fds[:3])
    syncs.sync(fds[:3])
    assert disk.done == ["one"] * 3 + ["all"]


def test_a_log_that_all_have_is_one(fds, monkeypatch):
    disk = SlowDisk(monkeypatch, together=0.0)
    sync_all([fds[0], fds[1], fds[0], fds[0]])
    assert disk.done == ["one"] * 2


def test_what_the_machine_has_to_write(tmp_path, monkeypatch):
    memory = tmp_path / "meminfo"
    monkeypatch.setattr(sync_costs, "_MEMORY", str(memory))
    assert dirty_bytes() is None
    memory.write_text("MemTotal:  8 kB\nDirty:     12 kB\nWriteback:   3 kB\nWritebackTmp: 9 kB\n")
    assert dirty_bytes() == 15 * 1024
    memory.write_text("MemTotal:  8 kB\nDirty:     12 kB\n")
    assert dirty_bytes() is None
