"""Trees that appear at once: interrupted uploads in them, clients that vanish, disks that fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ftpserver.serving import exchange as exchange_module
from ftpserver.storage.home import Home
from ftpserver.storage.resumable import RESUME_FROM
from ftpserver.storage.trash.operation import Operation
from ftpserver.storage.walk import Usage
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Done,
    EndTree,
    Found,
    Put,
    Ready,
    Remove,
    Sent,
    Stat,
    Stored,
)
from tests.ftpserver.storage.quota_store import held_files
from tests.system.programs import eventually

MIB = 1024 * 1024
LARGE = bytes(RESUME_FROM + MIB)


@pytest.fixture
def files(server):
    """Alice's files on the server."""
    return server.settings.root / "alice"


@pytest.fixture
def quota_store(server, files):
    """Checks that the ledger says what is stored, that nothing is held and nothing staged."""

    def check() -> None:
        account = server.accounts.get("alice")
        space = server.service.ledger.space(account.id)
        home = Home(account.home)
        try:
            used = Usage(space.used + space.trash, space.used_files + space.trash_files)
            assert used == home.count()
            assert (space.held, held_files(server.service.engine)) == (0, 0)
        finally:
            home.close()
        assert set(os.listdir(files / ".ftpd-staging")) <= {"lock", "numbers"}

    return check


def put(peer, files: dict[bytes, bytes]) -> None:
    """Upload small files, as one batch."""
    for path, data in files.items():
        request_id = peer.request(Put(path, len(data)))
        peer.frame(Kind.DATA, request_id, data)
        peer.frame(Kind.END, request_id, Sent(len(data), digests.digest(data)))
    for data in files.values():
        assert peer.answer().message == Stored(len(data))


MANY = 300
"""Files, among whose removals the client is told of progress."""


@pytest.fixture
def site(server, dial, files):
    """A directory that a client has put there."""
    peer = dial(server)
    peer.ask(BeginTree(b"/site"))
    put(peer, {b"/site/old%d" % number: b"x" * number for number in range(MANY)})
    assert peer.ask(EndTree()) == Done()
    peer.close()
    return files / "site"


@pytest.fixture
def no_trash(server):
    """What is removed and replaced is gone for good."""
    server.accounts.change("alice", trash_days=0)


# interrupted uploads -----------------------------------------------------------------------


def begin_large(peer) -> int:
    """In a tree on its way: a large upload, of which more came than is worth keeping."""
    assert peer.ask(BeginTree(b"/site")) == Done()
    request_id = peer.request(Put(b"/site/big", 2 * len(LARGE), ask=True, mtime_ns=5))
    assert peer.answer().message == Ready()
    for at in range(0, len(LARGE), MIB):
        peer.frame(Kind.DATA, request_id, LARGE[at : at + MIB])
    return request_id


def test_what_is_interrupted_in_a_tree_is_not_kept(server, dial, quota_store):
    """It could not be gone on with: the tree ends with its session."""
    peer = dial(server)
    peer.frame(Kind.CANCEL, begin_large(peer))
    assert peer.answer().message.code == "cancelled"
    assert peer.ask(EndTree(commit=False)) == Done()
    quota_store()


def test_nothing_is_left_of_a_tree_whose_client_has_vanished(server, dial, quota_store, files):
    peer = dial(server)
    begin_large(peer)
    peer.reset()
    eventually(lambda: not server.service.sessions, "the end of the session")
    quota_store()
    assert not (files / "site").exists()


# after the swap ----------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [True, False])
def test_a_client_that_vanishes_while_the_rest_is_removed(
    server, dial, no_trash, site, quota_store, monkeypatch, commit
):
    """What has begun is finished, and settled to the byte."""
    monkeypatch.setattr(exchange_module, "_PROGRESS_SECONDS", 0.0)
    peer = dial(server)
    assert peer.ask(BeginTree(b"/site")) == Done()
    put(peer, {b"/site/new%d" % number: b"new" for number in range(1 if commit else MANY)})
    discard_tree = Home.discard_tree

    def watched(self, staged, tally, tick):
        peer.reset()
        discard_tree(self, staged, tally, tick)

    monkeypatch.setattr(Home, "discard_tree", watched)
    peer.request(EndTree(commit))
    eventually(lambda: not server.service.sessions, "the end of the session")
    assert len(list(site.iterdir())) == (1 if commit else MANY)
    quota_store()


def test_what_fails_after_the_swap_is_no_failure_of_it(
    server, dial, no_trash, site, files, monkeypatch, caplog
):
    """The new tree is there: to call that a failure would say that nothing was changed."""

    def failing(self, staged, tally, tick):
        raise OSError(errno.EIO, "the disk fails")

    peer = dial(server)
    assert peer.ask(BeginTree(b"/site")) == Done()
    put(peer, {b"/site/new": b"new"})
    with monkeypatch.context() as patched:
        patched.setattr(Home, "discard_tree", failing)
        assert peer.ask(EndTree()) == Done()
    assert os.listdir(site) == ["new"]
    assert "could not be removed" in caplog.text
    assert isinstance(peer.ask(Stat(b"/site/new")), Found)
    assert peer.ask(BeginTree(b"/site")) == Done()  # and the next tree can begin
    assert peer.ask(EndTree(commit=False)) == Done()
    space = server.service.ledger.space(server.accounts.get("alice").id)
    assert space.held == 0


def trashed(files) -> list[Path]:
    """What lies in the trash."""
    return [path for path in files.glob(".ftpd-trash/*/*") if path.name != "index"]


@pytest.mark.parametrize("kept", [True, False], ids=["trash", "final"])
@pytest.mark.parametrize("there", [True, False])
def test_a_tree_that_is_there_but_could_not_be_synced(
    server, dial, site, files, quota_store, monkeypatch, there, kept
):
    """It cannot be called durable: the disk's own error is told, and the books are right."""
    target = b"/site" if there else b"/other"
    if not kept:
        server.accounts.change("alice", trash_days=0)
    peer = dial(server)
    if kept:
        put(peer, {b"/file": b"1"})
        assert peer.ask(Remove(b"/file")).trashed
    in_trash = len(trashed(files))
    assert peer.ask(BeginTree(target)) == Done()
    put(peer, {target + b"/new": b"new"})

    def failing(self, directory):
        if os.fstat(directory).st_ino == files.stat().st_ino:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(Home, "sync_dir", failing)
        answer = peer.ask(EndTree())
    assert answer.code == "disk-failed"
    assert "input/output error" in answer.message
    assert os.listdir(os.fsencode(files) + target) == [b"new"]
    quota_store()
    assert len(trashed(files)) == in_trash + (kept and there)
    assert peer.ask(BeginTree(target)) == Done()
    assert peer.ask(EndTree(commit=False)) == Done()


def failing_to_write(self, *arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_trash_that_can_not_be_written_to_leaves_all_as_it_was(
    server, dial, site, quota_store, files, monkeypatch
):
    """The kind of the disk's error is told, and that it is about the trash."""
    peer = dial(server)
    assert peer.ask(BeginTree(b"/site")) == Done()
    put(peer, {b"/site/new": b"new"})
    with monkeypatch.context() as patched:
        patched.setattr(Home, "sync_dir", failing_to_write)
        answer = peer.ask(EndTree())
    assert answer.code == "disk-failed"
    assert "the trash cannot be written to: input/output error" in answer.message
    assert len(os.listdir(site)) == MANY
    quota_store()


@pytest.mark.parametrize("step", ["take", "sync"])
def test_what_can_not_go_to_the_trash_after_the_swap(
    server, dial, site, quota_store, files, monkeypatch, caplog, step
):
    """The new tree is there, so it is no failure of it; what cannot be renamed is removed."""
    peer = dial(server)
    assert peer.ask(BeginTree(b"/site")) == Done()
    put(peer, {b"/site/new": b"new"})
    with monkeypatch.context() as patched:
        patched.setattr(Operation, step, failing_to_write)
        assert peer.ask(EndTree()) == Done()
    assert os.listdir(site) == ["new"]
    assert "what an atomic upload replaced" in caplog.text
    assert len(trashed(files)) == (step == "sync")
    quota_store()
