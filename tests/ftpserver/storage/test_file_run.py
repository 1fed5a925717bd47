"""Many small files of one request in a batch: syncs that fail, full disks, crashes at each step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ftpserver.errors import StateError
from ftpserver.storage.batch import Uploads
from ftpserver.storage.batch_reservation import BatchReservation
from ftpserver.storage.commit import SYNC_EACH
from ftpserver.storage.file_run import FilesOutcome, path_of
from ftpserver.workspace.workspace import Workspace
from ftpwire import beneath, digests
from ftpwire.messages import Failed, Finished, MakeDir, NewFile, NewFiles, PutFiles
from tests.ftpserver.storage.test_batch import MIB, Alice, Failing
from tests.ftpserver.storage.trash.scenes import commit, put, write
from tests.ftpserver.storage.trash.steps import Scene, Site, print_of, run

TIME = 1_700_000_000_000_000_000


def file_of(name: bytes, data: bytes) -> NewFile:
    return NewFile(name, len(data), 0o640, TIME + len(data), digests.digest(data))


def run_of(directory: bytes, *contents: bytes, make: int | None = 0o755) -> tuple[PutFiles, bytes]:
    """Files named by their number."""
    files = [file_of(b"%d" % number, data) for number, data in enumerate(contents)]
    return PutFiles([NewFiles(directory, files, make)]), b"".join(contents)


@pytest.fixture
def alice(accounts, ledger, open_home, root):
    made = Alice(accounts, ledger, open_home, root, 64 * MIB)
    yield made
    assert made.agrees(), (made.space, made.staged)


@pytest.fixture
def uploads(alice) -> Uploads:
    return alice.session().uploads


def failures(uploads: Uploads) -> dict[int, str]:
    ((_, outcome),) = uploads.commit()
    assert isinstance(outcome, FilesOutcome)
    return {index: failure.code for index, failure in outcome.failures.items()}


# disks that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, SYNC_EACH, SYNC_EACH + 1, 30])
def test_files_that_can_not_be_synced_fail_by_their_index(alice, uploads, monkeypatch, count):
    request, data = run_of(b"/d", *[b"x"] * count)
    bad = NewFiles(b"/d", [NewFile(b"bad", 0, 0o644, TIME, bytes(32))])
    uploads.stage_files(1, PutFiles([*request.directories, bad]), data)
    with monkeypatch.context() as patch:
        Failing(patch, os, "fsync")
        Failing(patch, beneath, "sync_file_system")
        reported = failures(uploads)
    # of the second directory nothing was asked, so that it cannot have failed
    assert reported == dict.fromkeys(range(count + 1), "disk-failed") | {
        count + 2: "verification-failed"
    }
    assert not alice.staged and os.listdir(alice.files) == [".ftpd-staging"]
    uploads.stage_files(1, request, data)
    assert not failures(uploads)


def test_a_disk_that_is_full_takes_what_it_has_space_for(alice, uploads, monkeypatch):
    request, data = run_of(b"/d", b"a", b"bb", b"ccc")
    real = os.write

    def write(fd, its):
        if len(its) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, its)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        uploads.stage_files(1, request, data)
    assert failures(uploads) == {2: "disk-full"}
    assert sorted(os.listdir(alice.files / "d")) == ["0", "2"]


def test_writing_that_the_kernel_cuts_goes_on(alice, uploads, monkeypatch):
    request, data = run_of(b"/d", b"a" * 100, b"b" * 3)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, its: real(fd, its[:7]))
        uploads.stage_files(1, request, data)
    assert not failures(uploads)
    assert (alice.files / "d" / "0").read_bytes() == b"a" * 100


def test_a_fault_of_the_server_drops_what_was_staged(alice, uploads, monkeypatch):
    uploads.add_change(1, MakeDir(b"/before"))
    request, data = run_of(b"/d", b"a", b"bb", b"ccc")
    real = Uploads.stage_bytes

    def stage(self, its, *rest):
        if len(its) == 3:
            raise StateError("the books cannot be read")
        return real(self, its, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Uploads, "stage_bytes", stage)
        with pytest.raises(StateError):
            uploads.stage_files(2, request, data)
    assert not alice.staged
    assert [number for number, _ in uploads.commit()] == [1]
    assert not (alice.files / "d").exists()


def test_space_that_runs_out_ends_the_batch_in_the_middle(accounts, ledger, open_home, root):
    """Each replaces what is there: there is room for one more at a time only."""
    alice = Alice(accounts, ledger, open_home, root, 2500)
    uploads = alice.session().uploads
    request, data = run_of(b"/d", *[b"x" * 600] * 3)
    uploads.stage_files(1, request, data)
    assert not failures(uploads)
    again = PutFiles(
        [NewFiles(b"/d", [file_of(b"%d" % n, b"y" * 600) for n in range(3)])],
        [Finished(b"/d", 0o700, TIME)],
    )
    uploads.add_change(1, MakeDir(b"/other"))
    uploads.stage_files(2, again, b"y" * 1800)
    outcomes = uploads.commit()
    assert outcomes[1:] == [(2, FilesOutcome(5, {}))] and outcomes[0][0] == 1
    assert {(alice.files / "d" / name).read_bytes() for name in "012"} == {b"y" * 600}
    assert alice.agrees()
    much = PutFiles([NewFiles(b"/d", [file_of(b"%d" % n, b"z" * 600) for n in range(5)])])
    uploads.stage_files(3, much, b"z" * 3000)
    assert failures(uploads) == {5: "quota"} and alice.space == (2400, 0)
    assert alice.agrees()


def test_space_is_asked_for_once(alice, uploads, monkeypatch):
    """And what isn't used of it comes back with the batch."""
    requested = []
    for name in ("take", "take_together"):
        real = getattr(BatchReservation, name)
        monkeypatch.setattr(
            BatchReservation,
            name,
            lambda self, *rest, real=real, name=name: requested.append(name) or real(self, *rest),
        )
    request, data = run_of(b"/d/e", *[b"x"] * 50)
    uploads.stage_files(1, request, data)
    assert requested == ["take_together"] and not failures(uploads)


def test_the_path_of_each_index():
    request = PutFiles(
        [
            NewFiles(b"/d", [file_of(b"a", b""), file_of(b"b", b"")], 0o755),
            NewFiles(b"/"),
            NewFiles(b"/e/", [file_of(b"c", b"")]),
        ],
        [Finished(b"/d", 0o700, 1), Finished(b"/e", 0o700, 1)],
    )
    found = [path_of(request, index) for index in range(8)]
    assert found == [b"/d", b"/d/a", b"/d/b", b"/", b"/e/", b"/e/c", b"/d", b"/e"]


# ended before each step --------------------------------------------------------------------


class PutRun(Scene):
    """New files and replaced ones, in new directories and in one that was there."""

    request = PutFiles(
        [
            NewFiles(b"/new", [file_of(b"a", b"1"), file_of(b"b", b"22")], 0o750),
            NewFiles(b"/new/sub", [file_of(b"c", b"333")], 0o700),
            NewFiles(b"/old", [file_of(b"there", b"new!"), file_of(b"d", b"55555")]),
        ],
        [Finished(b"/new/sub", 0o711, TIME), Finished(b"/new", 0o700, TIME)],
    )
    data = b"122333new!55555"
    files = {"new/a": b"1", "new/b": b"22", "new/sub/c": b"333", "old/d": b"55555"}
    modes = {"new": 0o700, "new/sub": 0o711}

    def prepare(self, workspace: Workspace, home: Path) -> None:
        (home / "old").mkdir()
        write(home / "old" / "there", b"before")

    def act(self, workspace: Workspace) -> None:
        put(workspace, b"/old/single", b"beside")
        workspace.stage_files(self.request, self.data, request_id=1)
        ((_, single), (_, outcome)) = workspace.commit()
        assert not isinstance(single, Failed) and outcome == FilesOutcome(10, {})


class PutLongRun(PutRun):
    """As many files as are synced together."""

    files = {f"new/{number}": b"x" * number for number in range(SYNC_EACH + 4)}
    request = PutFiles(
        [
            NewFiles(
                b"/new", [file_of(name[4:].encode(), its) for name, its in files.items()], 0o750
            )
        ],
        [Finished(b"/new", 0o700, TIME)],
    )
    data = b"".join(files.values())
    modes = {"new": 0o700}

    def act(self, workspace: Workspace) -> None:
        workspace.stage_files(self.request, self.data, request_id=1)
        commit(workspace)


@pytest.mark.parametrize(("ends", "every"), [("power", 2), ("killed", 4)])
@pytest.mark.parametrize("scene", [PutRun, PutLongRun])
def test_what_is_acknowledged_is_there_and_nothing_is_half(
    tmp_path, new_state, quick_passwords, ends, every, scene
):
    site = Site.made(tmp_path, new_state)
    steps = run(site, scene(), ends, 0).steps
    assert steps > 20
    for last in [*range(1, steps + 1, every), 0]:
        ended = run(site, scene(), ends, last)
        wrong = site.start_again()
        assert not wrong, f"before step {last} of {steps}: {wrong}"
        for name, content in scene.files.items():
            path = os.fsencode(site.files / name)
            if ended.acknowledged or os.path.lexists(path):
                whole = ("file", 0o640, TIME + len(content), content)
                assert print_of(path) == whole, f"{name}, before step {last} of {steps}"
        there = (site.files / "old" / "there").read_bytes()
        assert there in (b"before", b"new!")
        if ended.acknowledged:
            assert there == (b"new!" if scene is PutRun else b"before")
            for name, mode in scene.modes.items():
                info = os.stat(site.files / name)
                assert (info.st_mode & 0o7777, info.st_mtime_ns) == (mode, TIME)
