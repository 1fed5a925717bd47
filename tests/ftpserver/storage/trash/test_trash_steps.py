"""The trash, ended before each step: what is acknowledged holds, and nothing is lost.

One thing is allowed: what is overwritten comes out of an exchange, and goes to the trash after
that. A crash between the two may lose this version; its name has the new content then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpserver.storage.trash.names import INDEX_NAME
from ftpwire import beneath, paths
from tests.ftpserver.storage.mounts import mount  # noqa: F401
from tests.ftpserver.storage.test_no_exchange import without_flags
from tests.ftpserver.storage.trash.scenes import (
    CHANGING,
    RESTORING,
    MakeRoom,
    MakeRoomOfItems,
    MoveOver,
    PutOver,
    PutTree,
    RemoveAgain,
    RemoveFile,
    RemoveOnMount,
    RemoveTree,
    RestoreOver,
    UndoPutOver,
    UndoPutTree,
)
from tests.ftpserver.storage.trash.steps import Scene, Site, run, seen, violations
from tests.system.crash_support import CannotMount, Disk

ALL = CHANGING + RESTORING
EXCHANGING = [PutOver, MoveOver, PutTree, UndoPutOver, UndoPutTree, RestoreOver]
"""What does something else where names cannot be exchanged."""


@pytest.fixture
def site(tmp_path, new_state, quick_passwords) -> Site:
    return Site.made(tmp_path, new_state)


@pytest.fixture
def no_exchange(monkeypatch) -> None:
    monkeypatch.setattr(beneath, "_renameat2", without_flags)


def scenes(*of: type[Scene]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", of, ids=lambda scene: scene.__name__)


def survives(site: Site, scene: type[Scene], ends: str, every: int = 1) -> None:
    wrong = violations(site, scene(), ends, every=every)  # type: ignore[arg-type]
    assert not wrong, "\n".join(wrong)


@scenes(*ALL)
def test_the_worst_disk_loses_its_power(site, scene):
    survives(site, scene, "power")


@scenes(*ALL)
def test_killed(site, scene):
    """The kernel goes on: of what a power cut leaves, that is the other end."""
    survives(site, scene, "killed", every=4)


@scenes(*EXCHANGING)
def test_the_worst_disk_without_exchanging_names(site, scene, no_exchange):
    survives(site, scene, "power", every=3)


@pytest.mark.long
@scenes(*ALL)
def test_killed_before_each_step(site, scene):
    survives(site, scene, "killed")


@pytest.mark.long
@pytest.mark.parametrize("ends", ["power", "killed"])
@scenes(*ALL)
def test_without_exchanging_names(site, scene, ends, no_exchange):
    """Undoing a tree that replaced another one leaves its name without either for a moment: both
    are in the trash then, and undoing it again goes on."""
    survives(site, _in_parts(scene) if scene is UndoPutTree else scene, ends)


def _in_parts(scene: type[Scene]) -> type[Scene]:
    return type(scene.__name__, (scene,), {"in_parts": True})


@pytest.mark.parametrize("ends", ["power", "killed"])
@scenes(MakeRoom, MakeRoomOfItems)
def test_space_is_made_for_an_upload(tmp_path, new_state, quick_passwords, scene, ends):
    site = Site.made(tmp_path, new_state, quota=100_000)
    survives(site, scene, ends)


def test_what_lies_on_a_mount_is_gone_for_good(site, mount):  # noqa: F811
    """Killed before each step: what was acknowledged is gone, nothing comes to the trash, and the
    books are right."""
    site.renew()
    mount("tmpfs", site.files / "mount")
    scene = RemoveOnMount()
    steps = run(site, scene, "killed", 0).steps
    for last in [*range(1, steps + 1, 2), 0]:
        ended = run(site, scene, "killed", last)
        assert not site.start_again(), f"before step {last} of {steps}"
        there = seen(site.files)
        assert not there.kept and not there.wrong
        if ended.acknowledged:
            assert not os.listdir(site.files / "mount")
        elif (site.files / "mount" / "f").exists():
            assert (site.files / "mount" / "f").read_bytes() == b"content"


# a real disk -------------------------------------------------------------------------------


@pytest.fixture
def on_a_disk(tmp_path, new_state, quick_passwords) -> Iterator[Site]:
    """A site on an ext4 file system of its own."""
    with made_on_a_disk(tmp_path, new_state) as site:
        yield site


@contextmanager
def made_on_a_disk(tmp_path: Path, new_state: Path, **options: int) -> Iterator[Site]:
    disk = Disk(tmp_path, 64 << 20)
    try:
        try:
            disk.make()
        except CannotMount as why:
            pytest.skip(str(why))
        yield Site.made(tmp_path, new_state, disk, **options)
    finally:
        disk.close()


@scenes(RemoveTree, PutOver)
def test_a_disk_loses_its_power(on_a_disk, scene):
    survives(on_a_disk, scene, "cut", every=6)


@scenes(MakeRoom, MakeRoomOfItems)
def test_a_disk_loses_its_power_while_space_is_made(tmp_path, new_state, quick_passwords, scene):
    """Also the database: what was evicted is recorded there before it is gone."""
    with made_on_a_disk(tmp_path, new_state, quota=100_000) as site:
        survives(site, scene, "cut", every=3)


@pytest.mark.long
@scenes(*ALL)
def test_a_disk_loses_its_power_before_each_step(on_a_disk, scene):
    survives(on_a_disk, scene, "cut")


@pytest.mark.long
@scenes(*EXCHANGING)
def test_a_disk_without_exchanging_names(on_a_disk, scene, no_exchange):
    survives(on_a_disk, scene, "cut")


# controls ----------------------------------------------------------------------------------


def _way(fd: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


def _unless(spared: str) -> None:
    """Leave out the syncs of indexes, or of the directories of operations."""
    fsync, fdatasync = os.fsync, os.fdatasync

    def is_spared(fd: int) -> bool:
        way = _way(fd)
        if spared == "index":
            return way.name == os.fsdecode(INDEX_NAME)
        return way.parent.name == os.fsdecode(paths.TRASH)

    os.fsync = lambda fd: None if is_spared(fd) else fsync(fd)
    os.fdatasync = lambda fd: None if is_spared(fd) else fdatasync(fd)


@pytest.mark.parametrize("spared", ["index", "directory"])
@scenes(RemoveFile, RemoveAgain, RemoveTree, PutOver)
def test_a_power_cut_finds_out(site, scene, spared):
    """The same with a session that leaves a sync out: it has to be noticed."""
    assert violations(site, scene(), "power", lambda: _unless(spared), every=5)


@scenes(RemoveFile, RemoveTree)
def test_a_real_disk_finds_out(on_a_disk, scene):
    """Of an index that isn't synced; ext4 syncs the names of both directories together. A busy
    machine may have written it by then: so it is tried a few times."""

    def found() -> list[str]:
        return violations(on_a_disk, scene(), "cut", lambda: _unless("index"), every=20)

    assert any(found() for _ in range(20))
