"""What a copy of a tree counts, and what it tells of the rest."""

from __future__ import annotations

import errno
import os

import pytest

from ftpserver.storage.commit import Commit
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests
from ftpwire.errors import AlreadyExists, DiskFull, NotADirectory, NotFound
from ftpwire.messages import Copied, Copy, MakeDir, MakeLink, Move, Put, Sent
from tests.ftpserver.workspace.conftest import Site


def put(workspace: Workspace, path: bytes, data: bytes = b"data") -> None:
    sent = Sent(len(data), digests.digest(data))
    workspace.stage(Put(path, len(data), parents=True), data, sent)


def problems(copied: Copied) -> set[tuple[bytes, str]]:
    return {(problem.path, problem.code) for problem in copied.problems}


def test_only_what_was_copied_counts_and_each_problem_has_its_own_path(site: Site):
    """Refusals show when the batch is committed, with those of many other files."""
    with site.open() as workspace:
        for number in range(20):
            put(workspace, b"/from/in/f%d" % number)
        for number in range(0, 20, 2):
            put(workspace, b"/to/in/f%d" % number, b"mine")
        workspace.change(MakeLink(b"/from/link", b"there"))
        workspace.change(MakeLink(b"/to/link", b"mine"))
        workspace.commit()
        copied = workspace.copy(Copy(b"/from", b"/to", True, "never"))
        assert (copied.files, copied.directories, copied.size_bytes) == (10, 2, 40)
        left = {(b"in/f%d" % number, "exists") for number in range(0, 20, 2)}
        assert problems(copied) == left | {(b"link", "exists")}
        assert (copied.skipped, copied.more_problems) == (11, 0)
        for problem in copied.problems:
            assert b"/to/" + problem.path in problem.message.encode()
        assert workspace.copy(Copy(b"/from", b"/to", True)) == Copied(21, 2, 80)
    assert site.agrees()


def test_how_many_problems_there_were_is_reported_and_failures_come_first(site: Site):
    """A client that was asked to leave what exists would not see among 100 of these what failed."""
    with site.open() as workspace:
        for number in range(130):
            put(workspace, b"/from/f%d" % number)
        workspace.commit()
        workspace.copy(Copy(b"/from", b"/to", True))
        os.mkfifo(site.files / "from" / "pipe")
        copied = workspace.copy(Copy(b"/from", b"/to", True, "never"))
        assert (copied.files, copied.directories, copied.size_bytes) == (0, 1, 0)
        assert (len(copied.problems), copied.more_problems, copied.skipped) == (100, 31, 130)
        assert (copied.problems[0].path, copied.problems[0].code) == (b"pipe", "not-regular")
        assert len(problems(copied)) == 100
        (site.files / "from" / "pipe").unlink()
    assert site.agrees()


def test_a_file_where_a_directory_is_to_go_keeps_its_mode_and_time(site: Site):
    with site.open() as workspace:
        put(workspace, b"/to/in", b"mine")
        put(workspace, b"/from/in/file")
        put(workspace, b"/from/other")
        workspace.commit()
        (site.files / "from" / "in").chmod(0o700)
        there = site.files / "to" / "in"
        before = there.stat()
        copied = workspace.copy(Copy(b"/from", b"/to", True))
        assert (copied.files, copied.directories) == (1, 1)
        assert problems(copied) == {(b"in", "not-a-directory"), (b"in/file", "not-a-directory")}
        after = there.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert site.agrees()


@pytest.mark.parametrize("overwrite", ["always", "never"])
def test_a_file_that_finds_no_place_at_the_last_moment_is_not_copied(
    site: Site, monkeypatch, overwrite
):
    """Of a file that is copied alone, the refusal is the answer, whatever its code is."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with site.open() as workspace:
        put(workspace, b"/from")
        workspace.commit()
        with monkeypatch.context() as patch:
            patch.setattr(Commit, "place", full)
            with pytest.raises(DiskFull, match="/to"):
                workspace.copy(Copy(b"/from", b"/to", overwrite=overwrite))
        workspace.change(MakeDir(b"/d"))
        put(workspace, b"/to")
        workspace.commit()
        with pytest.raises(AlreadyExists, match="/to"):
            workspace.copy(Copy(b"/from", b"/to", overwrite="never"))
        workspace.move(Move(b"/from", b"/d/f"))
    assert site.agrees()


@pytest.mark.parametrize(
    ("target", "error"), [(b"/no/x", NotFound), (b"/f/x", NotADirectory)], ids=["none", "file"]
)
def test_a_target_that_can_not_be_is_named(site: Site, target, error):
    with site.open() as workspace:
        put(workspace, b"/f")
        workspace.commit()
        with pytest.raises(error) as caught:
            workspace.copy(Copy(b"/f", target))
    assert str(caught.value).startswith(target.decode())
    assert caught.value.path == target
