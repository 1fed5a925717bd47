"""A disk that is full, read-only or gone, and an account without room: the end of the whole job, in
both directions, and for `cp -r` on the server."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from ftpclient.aio import AsyncClient
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.errors import TABLE
from ftpclient.sync.plan import Options
from ftpclient.transfer import file_call, partial_file
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.whole_file import WholeFiles
from ftpserver.storage import staging
from ftpwire import streams
from ftpwire.errors import CommandError, DiskFailed, DiskFull, DiskGone, QuotaExceeded, ReadOnly
from ftpwire.job_end import IN_A_ROW, SMALL, JobEnd
from tests.ftpclient.sync.test_sync import Recording, write

COUNT = 160
MANY_WITHOUT_ROOM = 50
"""Each that is refused costs the server a look at the ledger."""
STAYS = "what was done is kept; run the same command again to continue"
ENDS = [
    pytest.param(errno.ENOSPC, DiskFull, 7, "the disk is full", id="ENOSPC"),
    pytest.param(errno.EDQUOT, DiskFull, 7, "the disk quota is used up", id="EDQUOT"),
    pytest.param(errno.EROFS, ReadOnly, 6, "read-only file system", id="EROFS"),
    pytest.param(errno.EIO, DiskGone, 7, "input/output error", id="EIO"),
    pytest.param(errno.ENODEV, DiskGone, 7, "no such device", id="ENODEV"),
    pytest.param(errno.ESTALE, DiskGone, 7, "stale file handle", id="ESTALE"),
    pytest.param(errno.ENOTCONN, DiskGone, 7, "transport endpoint is not connected", id="ENOTCONN"),
]


def ends_with(one: object, other: object) -> list:
    """Each end, in turns with one and the other value of something else."""
    return [
        pytest.param(*end.values, value, id=f"{end.id}-{value}")
        for end, value in zip(ENDS, cycle([one, other]), strict=False)
    ]


def tree(top: Path, count: int = COUNT, *, times: int = 1) -> Path:
    for number in range(count):
        write(top / f"d{number % 4}" / f"{number:04}", f"number {number}" * times)
    return top


def files_in(top: Path) -> int:
    """How many files are there; what is staged doesn't count."""
    return sum(len(files) for at, _, files in os.walk(top) if ".ftpd-staging" not in at)


def failing(number: int, good: int, real: Callable) -> Callable:
    """As ``real``, until it was called so often."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls > good:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return call


@pytest.fixture
def server_disk(monkeypatch):
    """Has the server's disk fail after so many files."""

    def fail(number: int, good: int) -> None:
        keep = staging._keep_time_and_digest  # of each file, however it comes
        monkeypatch.setattr(staging, "_keep_time_and_digest", failing(number, good, keep))

    return fail


@pytest.fixture
def disk_here(monkeypatch):
    """Has the disk here fail after so many files."""

    def fail(number: int, good: int) -> None:
        write = failing(number, good, streams.write_all)
        monkeypatch.setattr(WholeFiles, "place", lambda *_, **options: False)  # as where it cannot
        for module in (file_call, partial_file):
            monkeypatch.setattr(module, "write_all", write)

    return fail


def failures(reported: Recording) -> list[str]:
    return [str(one.error) for one in reported.results if one.status == "failed"]


# a disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "kind", "status", "text", "parallel"), ends_with(1, 3))
def test_put_ends(
    client, files, tmp_path, server_disk, monkeypatch, number, kind, status, text, parallel
):
    source = tree(tmp_path / "t")
    reported = Recording()
    with monkeypatch.context():
        server_disk(number, 100)
        summary = client.put([source], "/t", recursive=True, listener=reported, parallel=parallel)
        assert (summary.exit_code, type(summary.first_error)) == (status, TABLE[kind])
        (failure,) = failures(reported)
        assert failure.startswith("/t/d")
        assert failure.endswith(f": {text} (the server's disk): {STAYS}")
        assert files_in(files / "t") <= 100
        monkeypatch.undo()
    assert client.put([f"{source}/."], "/t", recursive=True).exit_code == 0
    assert files_in(files / "t") == COUNT


@pytest.mark.parametrize(("number", "kind", "status", "text", "parallel"), ends_with(1, 3))
def test_get_ends(
    client, files, tmp_path, disk_here, monkeypatch, number, kind, status, text, parallel
):
    tree(files / "t")
    reported = Recording()
    disk_here(number, 100)
    summary = client.get(
        ["/t"], tmp_path / "t", recursive=True, listener=reported, parallel=parallel
    )
    assert (summary.exit_code, type(summary.first_error)) == (status, TABLE[kind])
    (failure,) = failures(reported)
    assert failure.startswith(f"{tmp_path}/t/d")
    assert failure.endswith(f": {text} (the local disk): {STAYS}")
    assert files_in(tmp_path / "t") == 100
    monkeypatch.undo()
    assert client.get(["/t/."], tmp_path / "t", recursive=True).exit_code == 0
    assert files_in(tmp_path / "t") == COUNT
    assert client.whoami() == "alice"


@pytest.mark.parametrize(("number", "kind", "status", "text", "way"), ends_with("up", "down"))
def test_sync_ends(
    client, files, tmp_path, server_disk, disk_here, monkeypatch, number, kind, status, text, way
):
    upload = way == "up"
    here, there = tmp_path / "here", files / "there"
    tree(here if upload else there)
    target = there if upload else here
    write(target / "extra")
    ends = (str(here), ":/there") if upload else (":/there", str(here))
    reported = Recording()
    (server_disk if upload else disk_here)(number, 100)
    summary = client.sync(*ends, Options(delete=True), listener=reported)
    assert (summary.exit_code, type(summary.first_error)) == (status, TABLE[kind])
    (failure,) = failures(reported)
    whose = "the server's disk" if upload else "the local disk"
    hint = " (--delete-before deletes first)" if kind is DiskFull else ""
    assert failure.endswith(f": {text} ({whose}): {STAYS}{hint}")
    assert files_in(target) <= 101
    assert (target / "extra").exists(), "nothing was deleted"
    monkeypatch.undo()
    assert client.sync(*ends, Options(delete=True)).exit_code == 0
    assert files_in(target) == COUNT


def test_sync_into_a_root_that_can_not_be_made(client, files, tmp_path, monkeypatch):
    write(files / "there" / "file")

    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ftpclient.sync.local_replica.os.makedirs", refuse)
    with pytest.raises(DiskFull) as caught:
        client.sync(":/there", str(tmp_path / "here"))
    assert str(caught.value) == f"{tmp_path}/here: the disk is full (the local disk)"


def test_what_was_under_way_is_not_reported_besides(client, files, tmp_path, monkeypatch):
    """A directory that finds no room, and all that was sent after it."""
    from ftpserver.storage.commit import Commit

    write(tmp_path / "t" / "d" / "first", "x")
    tree(tmp_path / "t" / "d")
    make = failing(errno.ENOSPC, 1, Commit.make_directory)
    monkeypatch.setattr(Commit, "make_directory", make)
    reported = Recording()
    summary = client.put([tmp_path / "t"], "/t", recursive=True, listener=reported)
    assert summary.exit_code == 7
    (failure,) = failures(reported)
    assert failure == f"/t/d: the disk is full (the server's disk): {STAYS}"


def test_the_status_is_that_of_the_end_whatever_comes_afterwards(
    client, files, tmp_path, disk_here, monkeypatch
):
    tree(files / "t", times=2000)  # much more than comes at once
    reported, ended = Recording(), []
    close, settle = Transfer.close, client.settle_interrupt

    def settle_late() -> None:  # what was under way when the job ended is answered just now
        settle()
        ended[0].end(b"/t/late", b"late", 1)

    monkeypatch.setattr(Transfer, "close", lambda self: (ended.append(self), close(self))[1])
    monkeypatch.setattr(client, "settle_interrupt", settle_late)
    disk_here(errno.ENOSPC, 100)
    summary = client.get(["/t"], tmp_path / "t", recursive=True, listener=reported)
    assert reported.results[-1].target == b"late"
    assert (summary.exit_code, type(summary.first_error)) == (7, TABLE[DiskFull])
    assert len(failures(reported)) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE])
def test_sync_ends_with_directories(client, files, tmp_path, monkeypatch, number):
    for name in range(COUNT):
        (files / "there" / str(name)).mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(LocalTree, "make_dir", failing(number, 10, LocalTree.make_dir))
    reported = Recording()
    summary = client.sync(":/there", str(tmp_path / "here"), listener=reported)
    monkeypatch.undo()
    assert len(failures(reported)) == 1 and summary.exit_code in (6, 7)
    assert len(list((tmp_path / "here").iterdir())) == 10


@pytest.mark.parametrize(
    ("number", "kind", "status", "text"), [one for one in ENDS if one.id != "EIO"]
)
def test_cp_ends(client, files, server_disk, monkeypatch, number, kind, status, text):
    tree(files / "t")
    server_disk(number, 100)
    monkeypatch.setattr(staging, "apply_metadata", failing(number, 100, staging.apply_metadata))
    with pytest.raises(CommandError) as caught:
        client.copy("/t", "/copy", recursive=True)
    assert type(caught.value) is TABLE[kind] and caught.value.exit_code == status
    assert str(caught.value).startswith("/copy/d")
    assert str(caught.value).endswith(f": {text} (the server's disk): {STAYS}")
    assert 0 < files_in(files / "copy") <= 100
    monkeypatch.undo()
    assert client.copy("/t", "/copy", recursive=True).problems == []
    assert files_in(files / "copy") == COUNT


def test_the_rest_of_a_large_file_does_not_come(client, files, tmp_path):
    size = 96 * 1024 * 1024
    (files / "large").write_bytes(bytes(size))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    moved = 0

    class Counting(Recording):
        def advanced(self, count: int) -> None:
            nonlocal moved
            moved += count

    reported = Counting()
    client.limit_rate = 64 * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * 1024 * 1024, before[1]))
    try:
        summary = client.get(["/large"], tmp_path / "large", listener=reported)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert summary.exit_code == 7
    (failure,) = failures(reported)
    assert failure == f"{tmp_path}/large: file too large (the local disk)"
    assert moved < size // 2
    assert client.whoami() == "alice"
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith(".ftp-")) == []


@pytest.mark.parametrize("sync", [False, True])
def test_a_target_that_is_removed_meanwhile(client, files, tmp_path, sync):
    tree(files / "t", 600, times=100)  # more than come at once
    target = tmp_path / "t"

    class Removing(Recording):
        def finished(self, result) -> None:
            super().finished(result)
            if result.status == "done" and target.exists():
                target.rename(tmp_path / "away")
                shutil.rmtree(tmp_path / "away")

    reported = Removing()
    if sync:
        summary = client.sync(":/t", str(target), listener=reported)
    else:
        summary = client.get(["/t"], target, recursive=True, listener=reported)
    assert summary.exit_code == 7
    assert [type(one.error) for one in reported.results if one.error is not None] == [
        TABLE[DiskGone]
    ]


# an account ---------------------------------------------------------------------------------


MIB = 1024 * 1024


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def no_preflight(monkeypatch):
    """The job begins, as if others had taken the room meanwhile."""
    from ftpclient.transfer import preflight

    monkeypatch.setattr(preflight, "check", lambda *_: None)


@pytest.fixture(params=["put", "sync", "cp"])
def verb(client, files, tmp_path, request):
    """Copies a tree to the server; its totals, and what was told."""

    def run(source: Path) -> tuple[int, list[str]]:
        reported = Recording()
        if request.param == "put":
            summary = client.put([source], "/copy", recursive=True, listener=reported)
        elif request.param == "sync":
            summary = client.sync(str(source), ":/copy", listener=reported)
        else:
            shutil.copytree(source, files / "t")
            try:
                problems = client.copy("/t", "/copy", recursive=True).problems
            except CommandError as error:
                return error.exit_code, [str(error)]
            return int(bool(problems)), [one.code for one in problems]
        return summary.exit_code, failures(reported)

    return run


def test_a_file_that_alone_does_not_fit_fails_alone(
    server, client, files, tmp_path, verb, no_preflight
):
    server.accounts.change("alice", quota=3 * MIB)
    sparse(tmp_path / "t" / "b-film", 10 * MIB)
    for name in ("a", "c", "d"):
        write(tmp_path / "t" / name, name)
    status, failed = verb(tmp_path / "t")
    assert status in (1, 7) and len(failed) == 1
    assert sorted(one.name for one in (files / "copy").iterdir()) == ["a", "c", "d"]


def test_the_third_in_a_row_is_the_end(server, files, tmp_path, verb, no_preflight):
    server.accounts.change("alice", quota=3 * MIB)
    for number in range(9):
        sparse(tmp_path / "t" / f"film{number}", 10 * MIB)
    status, failed = verb(tmp_path / "t")
    assert status == 7
    assert len(failed) in (1, 3)
    assert failed[-1].endswith(STAYS) and failed[-1].startswith("/copy/film")
    assert list((files / "copy").iterdir()) == []


def test_a_small_file_without_space_is_the_end(server, files, tmp_path, verb, no_preflight):
    server.accounts.change("alice", quota=20_000)
    for number in range(MANY_WITHOUT_ROOM):
        write(tmp_path / "t" / f"{number:04}", "x" * 1000)
    status, failed = verb(tmp_path / "t")
    assert status == 7
    (failure,) = failed
    assert failure.startswith("/copy/") and failure.endswith(f": {STAYS}")
    assert files_in(files / "copy") == 20


def test_too_many_files_are_reported_once_with_the_path(server, files, tmp_path, verb):
    server.accounts.change("alice", max_files=10)
    for number in range(MANY_WITHOUT_ROOM):
        write(tmp_path / "t" / f"{number:04}", "x")
    status, failed = verb(tmp_path / "t")
    assert status == 7
    (failure,) = failed
    assert failure.startswith("/copy/") and "the limit is 10 files and directories" in failure
    assert files_in(files / "copy") == 9


def test_a_single_file_without_space(server, client, tmp_path):
    server.accounts.change("alice", quota=10)
    reported = Recording()
    summary = client.put([write(tmp_path / "x", "x" * 20)], "/x", listener=reported)
    assert summary.exit_code == 7 and isinstance(summary.first_error, QuotaExceeded)
    (failure,) = failures(reported)
    assert failure.startswith("/x: ") and STAYS not in failure


def test_atomic_replaces_nothing(server, client, files, tmp_path, no_preflight):
    write(files / "copy" / "old", "old")
    server.accounts.change("alice", quota=20_000)
    for number in range(MANY_WITHOUT_ROOM):
        write(tmp_path / "t" / f"{number:04}", "x" * 1000)
    reported = Recording()
    summary = client.put([tmp_path / "t"], "/copy", recursive=True, atomic=True, listener=reported)
    assert summary.exit_code == 7
    (failure,) = failures(reported)
    assert failure.endswith(": nothing was replaced")
    assert [one.name for one in (files / "copy").iterdir()] == ["old"]
    server.accounts.change("alice", quota=None)
    again = client.put([tmp_path / "t"], "/copy", recursive=True, atomic=True)
    assert again.exit_code == 0 and files_in(files / "copy") == MANY_WITHOUT_ROOM


def test_the_asyncio_client_ends_as_well(server, files, tmp_path, no_preflight):
    server.accounts.change("alice", quota=20_000)
    for number in range(MANY_WITHOUT_ROOM):
        write(tmp_path / "t" / f"{number:04}", "x" * 1000)
    host, port = server.server_address[:2]

    async def put():
        async with AsyncClient(
            f"alice@{host}:{port}",
            password="secret",
            plaintext=True,
            known_hosts=KnownHosts(tmp_path / "known"),
        ) as client:
            summary = await client.put([tmp_path / "t"], "/copy", recursive=True)
            assert await client.whoami() == "alice"
            return summary

    summary = asyncio.run(put())
    assert (summary.exit_code, summary.failed) == (7, 1)
    assert isinstance(summary.first_error, QuotaExceeded)
    assert files_in(files / "copy") == 20


# the rule -----------------------------------------------------------------------------------


def test_the_rule():
    end = JobEnd()
    film = QuotaExceeded("x")
    for _ in range(5):
        for _ in range(IN_A_ROW - 1):
            assert not end.is_reached(film, SMALL + 1)
        end.stored()
    assert [end.is_reached(film, SMALL + 1) for _ in range(IN_A_ROW)] == [False, False, True]
    assert JobEnd().is_reached(film, SMALL)
    assert JobEnd().is_reached(DiskFailed("x"), 0)
    assert not any(JobEnd().is_reached(DiskFailed("x"), 0, at_target=False) for _ in range(5))
    assert not JobEnd().is_reached(DiskFull("x", needed=SMALL + 1, free=1), 0)
    assert JobEnd().is_reached(DiskFull("x"), 10 * SMALL)
    assert not JobEnd().is_reached(CommandError("x"), 0)
    gone = JobEnd()
    assert [gone.is_reached(DiskGone("x"), 0, at_target=False) for _ in range(3)] == [
        False,
        False,
        True,
    ]
