"""Syncs that several sessions share: who is in which round, who is told of what."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpserver.storage import group_sync
from ftpserver.storage.group_sync import SYNC_EACH, Syncs, sync_all
from ftpwire import beneath
from tests.ftpserver.storage.sync_scene import PATIENCE, Client, Scene, Stopped


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def fds(tmp_path) -> Iterator[list[int]]:
    """Files on one file system."""
    found = [os.open(tmp_path / f"f{number}", os.O_RDWR | os.O_CREAT) for number in range(12)]
    yield found
    for fd in found:
        os.close(fd)


def test_who_comes_alone_syncs_at_once_and_in_his_own_thread(scene, fds):
    scene.disk.end()
    scene.syncs.sync(fds[:2])
    assert scene.disk.begun == [(fds[:2], threading.current_thread())]


def test_nothing_to_sync_waits_for_nobody(scene, fds):
    first = scene.lead(fds[0])
    scene.syncs.sync([])
    scene.disk.end()
    assert first.ended() is None


def test_those_who_come_during_a_sync_are_in_the_next_one_together(scene, fds):
    clients = [scene.lead(fds[0])]
    clients += [scene.join(fd) for fd in fds[1:6]]
    scene.disk.end()
    assert clients[0].ended() is None
    scene.disk.wait_for(2)
    assert all(one.is_alive() for one in clients[1:])  # not by the one that was under way
    scene.disk.end()
    assert [one.ended() for one in clients] == [None] * 6
    assert scene.disk.files == [fds[:1], fds[1:6]]


def test_the_disk_is_free_again_afterwards(scene, fds):
    first, second = scene.lead(fds[0]), scene.join(fds[1])
    for _ in range(3):
        scene.disk.end()
    assert (first.ended(), second.ended()) == (None, None)
    scene.syncs.sync(fds[2:3])
    assert scene.disk.begun[-1] == (fds[2:3], threading.current_thread())


def test_a_failed_sync_fails_all_that_it_was_for_and_nobody_else(scene, fds):
    first = scene.lead(fds[0])
    failing = [scene.join(fd) for fd in fds[1:4]]
    scene.disk.end()
    scene.disk.wait_for(2)
    after = scene.join(fds[4])
    scene.disk.end(OSError(errno.EIO, os.strerror(errno.EIO)))
    scene.disk.end()
    errors = [one.ended() for one in failing]
    assert [getattr(error, "errno", None) for error in errors] == [errno.EIO] * 3
    assert len(set(map(id, errors))) == 3  # each thread has its own
    assert (first.ended(), after.ended()) == (None, None)
    assert scene.disk.files == [fds[:1], fds[1:4], fds[4:5]]  # and none of it was tried again


def test_when_the_one_who_leads_ends_another_one_does(scene, fds):
    first = scene.lead(fds[0])
    clients = [scene.join(fd) for fd in fds[1:4]]
    scene.disk.end()
    scene.disk.wait_for(2)
    scene.disk.end(Stopped())
    scene.disk.end()
    assert first.ended() is None
    assert isinstance(clients[0].ended(), Stopped)
    assert [one.ended() for one in clients[1:]] == [None, None]
    assert scene.disk.files == [fds[:1], fds[1:4], fds[2:4]]


def test_those_who_come_later_stay_behind_those_who_are_led_again(scene, fds):
    first, second = scene.lead(fds[0]), scene.join(fds[1])
    scene.disk.end()
    scene.disk.wait_for(2)
    third = scene.join(fds[2])
    scene.disk.end(Stopped())
    scene.disk.end()
    assert first.ended() is None and isinstance(second.ended(), Stopped)
    assert third.ended() is None
    scene.disk.end()
    scene.syncs.sync(fds[3:4])
    assert scene.disk.files == [fds[:1], fds[1:2], fds[2:3], fds[3:4]]


def test_who_ends_while_he_waits_is_not_synced_and_holds_up_nobody(scene, fds):
    first = scene.lead(fds[0])
    stays = scene.join(fds[1])
    before_wait = scene.syncs.before_wait

    def stop() -> None:
        raise Stopped

    scene.syncs.before_wait = stop
    gone = Client(scene.syncs, fds[2])
    assert isinstance(gone.ended(), Stopped)
    scene.syncs.before_wait = before_wait
    scene.disk.end()
    scene.disk.end()
    assert (first.ended(), stays.ended()) == (None, None)
    assert scene.disk.files == [fds[:1], fds[1:2]]


def _stopping_once(scene: Scene, when: threading.Event, fd: int) -> Client:
    """Somebody who is stopped in the middle of his wait, once ``when`` is set."""
    waits, before_wait = threading.Event(), scene.syncs.before_wait

    def stop() -> None:
        waits.set()
        assert when.wait(PATIENCE)
        raise Stopped

    scene.syncs.before_wait = stop
    client = Client(scene.syncs, fd)
    assert waits.wait(PATIENCE)
    scene.syncs.before_wait = before_wait
    return client


def test_who_ends_just_as_it_is_his_turn_to_lead_hands_that_on(scene, fds):
    stop = threading.Event()
    first = scene.lead(fds[0])
    gone = _stopping_once(scene, stop, fds[1])
    stays = scene.join(fds[2])
    scene.disk.end()
    assert first.ended() is None  # so the turn is his by now
    stop.set()
    scene.disk.end()
    assert isinstance(gone.ended(), Stopped)
    assert stays.ended() is None
    assert scene.disk.files == [fds[:1], fds[2:3]]


def test_who_ends_while_he_is_synced_stays_until_his_files_are_not_in_use(scene, fds):
    stop = threading.Event()
    first, leads = scene.lead(fds[0]), scene.join(fds[1])
    gone = _stopping_once(scene, stop, fds[2])
    scene.disk.end()
    assert sorted(scene.disk.wait_for(2)) == fds[1:3]
    stop.set()
    assert first.ended() is None
    assert gone.is_alive()
    scene.disk.end()
    assert isinstance(gone.ended(), Stopped) and leads.ended() is None


def test_nobody_waits_for_another_disk(scene, fds):
    read, write = os.pipe()  # on no disk at all
    try:
        first = scene.lead(fds[0])
        other = scene.lead(read)
        scene.disk.end()
        scene.disk.end()
        assert (first.ended(), other.ended()) == (None, None)
        scene.disk.end()
        scene.disk.end()
        scene.syncs.sync([fds[1], write, fds[2]])
        assert scene.disk.files[2:] == [[fds[1], fds[2]], [write]]
    finally:
        os.close(read)
        os.close(write)


def test_others_have_the_turn_of_who_waits_for_a_slow_disk(scene, fds, monkeypatch):
    calls = []
    scene.syncs.before_wait = lambda: calls.append(threading.current_thread())
    now = iter([0.0, 0.0001, 1.0, 2.0, 3.0, 3.0])
    monkeypatch.setattr(group_sync.time, "perf_counter", lambda: next(now))
    for _ in range(3):
        scene.disk.end()
        scene.syncs.sync(fds[:1])
    assert calls == [threading.current_thread()]  # the third: the second has shown that it is slow


def test_a_disk_is_as_quick_as_it_was_lately(fds):
    disk = group_sync._Disk(0)
    for _ in range(20):
        disk.took(0.01)
    assert 0.005 < disk.seconds < 0.01
    disk.took(0.0001)  # the others had waited for the interpreter
    assert disk.seconds == 0.0001


# a round begins after what it is for was written --------------------------------------------


class LateJoiners(Syncs):
    """What must not be: who has come while a sync runs is told that it was for him, too."""

    def _hand_on(self, disk, done):
        with self._lock:
            late, disk.waiting = disk.waiting, []
        super()._hand_on(disk, [*done, *late])


ENDINGS = {"well": None, "failed": OSError(errno.EIO, "it failed"), "stopped": Stopped()}
STEPS = st.lists(st.sampled_from(["write", "write", *ENDINGS]), max_size=14)


class Play:
    """Clients write and ask for a sync, syncs end. What was acknowledged has to be of a sync that
    began after it was written."""

    def __init__(self, fds: list[int], syncs=Syncs) -> None:
        self._scene = Scene(syncs)
        self._fds = iter(fds)
        self._keeps_order = syncs is Syncs
        self._written: dict[Client, tuple[int, int]] = {}
        """The file of each, and how many syncs had begun when it was written."""
        self._running: list[Client] = []
        """Who is in the round under way; he who leads it first."""
        self._waiting: list[Client] = []
        self._ended = 0

    def write(self) -> None:
        fd, begun = next(self._fds), len(self._scene.disk.begun)
        if self._running:
            client = self._scene.join(fd)
            self._waiting.append(client)
        else:
            client = self._scene.lead(fd)
            self._running = [client]
        self._written[client] = fd, begun

    def end(self, ending: BaseException | None) -> None:
        if not self._running:
            return
        done = self._running
        if isinstance(ending, Stopped):
            done, again = done[:1], done[1:]
            self._waiting = again + self._waiting
        self._scene.disk.end(ending)
        self._ended += 1
        for client in done if self._keeps_order else [*done, *self._waiting]:
            client.ended()
        self._check()
        self._running, self._waiting = self._waiting, []
        if self._running:
            self._scene.disk.wait_for(self._ended + 1)

    def finish(self) -> None:
        while self._running:
            self.end(None)

    def _check(self) -> None:
        disk = self._scene.disk
        for client, (fd, begun) in self._written.items():
            if client.is_alive() or client.error is not None:
                continue
            assert any(
                number >= begun and disk.endings[number] is None and fd in fds
                for number, (fds, _) in enumerate(disk.begun[: self._ended])
            ), "acknowledged by a sync that had begun before"


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_what_is_acknowledged_was_written_before_its_sync_began(steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("syncs")
    fds = [os.open(path / str(number), os.O_RDWR | os.O_CREAT) for number in range(14)]
    try:
        play = Play(fds)
        for step in steps:
            if step == "write":
                play.write()
            else:
                play.end(ENDINGS[step])
        play.finish()
    finally:
        for fd in fds:
            os.close(fd)


def test_the_same_check_finds_those_who_join_a_sync_that_runs(fds):
    play = Play(fds, LateJoiners)
    play.write()
    play.write()
    with pytest.raises(AssertionError, match="had begun before"):
        play.end(None)


# the system calls ---------------------------------------------------------------------------


class Calls:
    """Records the system calls of a sync."""

    def __init__(self, monkeypatch) -> None:
        self.each: list[int] = []
        self.together: list[int] = []
        self.written: list[int] = []
        self.requested: list[int] = []
        monkeypatch.setattr(group_sync.os, "fsync", self.each.append)
        monkeypatch.setattr(beneath, "begin_writing", self.written.append)
        monkeypatch.setattr(beneath, "sync_file_system", self.together.append)
        monkeypatch.setattr(beneath, "wait_until_written", self.requested.append)


def test_few_are_synced_one_by_one_and_more_by_their_file_system(fds, monkeypatch):
    calls = Calls(monkeypatch)
    sync_all(fds[:SYNC_EACH])
    assert (calls.each, calls.together) == (fds[:SYNC_EACH], [])
    calls.each.clear()
    calls.requested.clear()
    sync_all(fds[: SYNC_EACH + 1])
    assert (calls.each, calls.together) == ([], fds[:1])
    assert calls.requested == fds[: SYNC_EACH + 1]  # each file for its own errors


def test_the_bytes_of_several_are_written_before_the_first_is_synced(tmp_path, fds, monkeypatch):
    calls = []
    for module, name in (
        (beneath, "begin_writing"),
        (beneath, "wait_until_written"),
        (group_sync.os, "fsync"),
    ):
        monkeypatch.setattr(module, name, lambda fd, name=name: calls.append((name, fd)))
    directory = os.open(tmp_path, beneath.OPEN_DIRECTORY)
    try:
        sync_all([fds[0], directory, fds[1]])
        in_turn = ("begin_writing", "wait_until_written")
        assert calls[:4] == [(name, fd) for name in in_turn for fd in fds[:2]]
        assert calls[4:] == [("fsync", fd) for fd in (fds[0], directory, fds[1])]
        calls.clear()
        sync_all([fds[0], directory])  # nothing for it to be with
        assert calls == [("fsync", fds[0]), ("fsync", directory)]
    finally:
        os.close(directory)


@pytest.mark.parametrize("name", ["begin_writing", "wait_until_written"])
def test_few_that_can_not_be_written_are_not_synced(fds, monkeypatch, name):
    calls = Calls(monkeypatch)

    def failed(fd: int) -> None:
        if fd == fds[1]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(beneath, name, failed)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_all(fds[:2])
    assert calls.each == []


def test_a_directory_that_several_have_open_is_one(tmp_path, fds, monkeypatch):
    calls = Calls(monkeypatch)
    directories = [os.open(tmp_path, beneath.OPEN_DIRECTORY) for _ in range(SYNC_EACH)]
    try:
        sync_all([*directories, fds[0], fds[0], fds[1]])
        assert calls.each == [directories[0], fds[0], fds[1]]
    finally:
        for fd in directories:
            os.close(fd)


def test_two_descriptors_of_a_file_are_two(tmp_path, fds, monkeypatch):
    calls = Calls(monkeypatch)
    again = os.open(tmp_path / "f0", os.O_RDONLY)
    try:
        sync_all([fds[0], again])  # an error is told to each descriptor once
        assert calls.each == [fds[0], again]
    finally:
        os.close(again)


def test_without_syncfs_each_is_synced(fds, monkeypatch):
    calls = Calls(monkeypatch)

    def unsupported(fd: int) -> None:
        raise beneath.Unsupported(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(beneath, "sync_file_system", unsupported)
    sync_all(fds)
    assert calls.each == fds


def test_an_error_of_one_file_is_found_though_its_file_system_reports_none(fds, monkeypatch):
    calls = Calls(monkeypatch)

    def failed(fd: int) -> None:
        if fd == fds[3]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(beneath, "wait_until_written", failed)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_all(fds)
    assert calls.each == []


def test_files_and_directories_are_really_synced(tmp_path, fds):
    directory = os.open(tmp_path, beneath.OPEN_DIRECTORY)
    try:
        for fd in fds:
            os.write(fd, b"data")
        Syncs().sync([*fds, directory])
        Syncs().sync([fds[0], directory])
    finally:
        os.close(directory)
