"""Partial files that somebody else has made, in a directory that others write to.

Lives here: what a download does with them. Lives elsewhere: those of its own (test_resume.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpclient.transfer import local_tree
from ftpclient.transfer.job import RESUME_FROM
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.placing import partial_name
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Get, Page, Sending, Sent
from tests.lying_server import DATA, LyingServer, file_entry, link_entry
from tests.peer import Frame, Peer

BEGINNING = b"b" * (RESUME_FROM + 1000)
STRANGER = 54321


def another_name(partial: Path, canary: Path) -> None:
    partial.write_bytes(BEGINNING)
    os.link(partial, canary / "kept")


def unauthenticated(partial: Path, canary: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    partial.write_bytes(BEGINNING)
    os.chown(partial, STRANGER, STRANGER)


def a_link(partial: Path, canary: Path) -> None:
    (canary / "kept").write_bytes(BEGINNING)
    partial.symlink_to(canary / "kept")


def a_directory(partial: Path, canary: Path) -> None:
    partial.mkdir()


def a_fifo(partial: Path, canary: Path) -> None:
    os.mkfifo(partial)


PLANTED = [another_name, unauthenticated, a_link, a_directory, a_fifo]


@pytest.fixture
def there(tmp_path) -> Path:
    directory = tmp_path / "there"
    directory.mkdir()
    return directory


@pytest.fixture
def beside(tmp_path) -> Path:
    directory = tmp_path / "beside"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("resume", [True, False], ids=["resume", "anew"])
def test_a_file_that_is_not_ours_is_not_written_to(there, beside, plant, resume):
    partial = there / os.fsdecode(partial_name((b"name",)))
    plant(partial, beside)
    before = partial.lstat()
    tree = LocalTree(os.fsencode(there))
    try:
        file = PartialFile(tree, (b"name",), resume=resume)
        assert file.offset == 0
        os.write(file.fd, DATA)
        file.place(0o644, 5)
    finally:
        tree.close()
    got, after = there / "name", partial.lstat()
    assert got.read_bytes() == DATA
    assert (got.stat().st_uid, got.stat().st_nlink) == (os.geteuid(), 1)
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert sorted(there.iterdir()) == sorted([got, partial])
    if (beside / "kept").exists():
        assert (beside / "kept").read_bytes() == BEGINNING


@pytest.mark.parametrize("mount", [False, True], ids=["disk", "mount-with-one-owner"])
def test_what_is_ours_is_gone_on_with(there, monkeypatch, mount):
    """The control; also where all files belong to somebody else by the mount's options."""
    (there / os.fsdecode(partial_name((b"name",)))).write_bytes(BEGINNING)
    if mount:
        monkeypatch.setattr(local_tree.os, "geteuid", lambda: STRANGER)
    tree = LocalTree(os.fsencode(there))
    try:
        file = PartialFile(tree, (b"name",), resume=True)
        assert file.offset == len(BEGINNING)
        file.drop()
    finally:
        tree.close()
    assert list(there.iterdir()) == []


def server_of_one_file(asked_from: list[int]) -> LyingServer:
    """It has a file that begins as what was planted does."""
    data = BEGINNING + DATA

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Get):
            return False
        offset = requested.message.offset
        asked_from.append(offset)
        peer.reply(requested, Sending(len(data), 0o644, 5, offset))
        for at in range(offset, len(data), 65536):
            peer.frame(Kind.DATA, requested.request_id, data[at : at + 65536])
        peer.frame(Kind.END, requested.request_id, Sent(len(data), digests.digest(data)))
        return True

    entry = file_entry(b"file", size=len(data))
    return LyingServer(pages=[Page(b"", [entry], [], True)], root=lambda path: entry, ask=ask)


@pytest.mark.parametrize("planted", [True, False], ids=["planted", "control"])
def test_get_asks_for_all_of_the_file(fake, connect, there, beside, planted):
    partial = there / os.fsdecode(partial_name((b"file",)))
    partial.write_bytes(BEGINNING)
    if planted:
        os.link(partial, beside / "kept")
    asked_from: list[int] = []
    client = connect(fake(server_of_one_file(asked_from)), retries=0)
    summary = client.get(["/file"], str(there / "file"))
    assert (summary.done, summary.failed) == (1, 0)
    assert asked_from == [0 if planted else len(BEGINNING)]
    assert (there / "file").read_bytes() == BEGINNING + DATA
    assert (there / "file").stat().st_nlink == 1


def test_a_link_is_made_beside_what_was_planted(fake, connect, there, beside):
    (there / os.fsdecode(partial_name((b"link",)))).mkdir()
    server = LyingServer(root=lambda path: link_entry(path, b"target"))
    summary = connect(fake(server), retries=0).get(["/link"], str(there / "link"))
    assert (summary.done, summary.failed) == (1, 0)
    assert os.readlink(there / "link") == "target"
