"""What a user may do with files, without a server."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.open_home import OpenHome
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.recount import clean, recount
from ftpserver.workspace.needs import NEEDS
from ftpserver.workspace.observer import SilentObserver
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests, messages
from ftpwire.errors import (
    Cancelled,
    CommandError,
    Forbidden,
    NotFound,
    QuotaExceeded,
    VerificationFailed,
)
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    Done,
    DropKept,
    EndTree,
    Failed,
    Get,
    Hash,
    Hashed,
    List,
    ListKept,
    MakeDir,
    MakeLink,
    Move,
    Put,
    PutPiece,
    Remove,
    Removed,
    Sent,
    SetAttributes,
    Space,
    Stat,
    Stored,
)
from tests.ftpserver.workspace.conftest import MIB, Site

DATA = os.urandom(1000)


def put(workspace: Workspace, path: bytes, data: bytes = DATA, **options) -> None:
    sent = Sent(len(data), digests.digest(data))
    workspace.stage(Put(path, len(data), **options), data, sent)


def receive(workspace: Workspace, path: bytes, data: bytes) -> None:
    with workspace.receive(Put(path, len(data))) as receiving:
        receiving.expect(len(data))
        receiving.staging.sink.write(memoryview(data))
        receiving.finish(Sent(len(data), digests.digest(data)))


def listed(workspace: Workspace, path: bytes = b"/") -> set[bytes]:
    return {
        b"/".join(filter(None, (directory, item.path)))
        for directory, item in workspace.list(List(path, recursive=True))
        if item is not None
    }


def test_a_days_work(site: Site):
    """Every verb, one after another, as a session or a gateway would use them."""
    with site.open() as workspace:
        assert listed(workspace) == set()
        workspace.change(MakeDir(b"/docs"), request_id=1)
        put(workspace, b"/docs/a")
        workspace.change(MakeLink(b"/link", b"docs/a"), request_id=2)
        assert not (site.files / "docs").exists(), "nothing is visible before the commit"
        assert workspace.commit() == [(1, Done()), (0, Stored(len(DATA))), (2, Done())]
        large = os.urandom(3 * MIB)
        receive(workspace, b"/docs/large", large)
        assert workspace.commit() == [(0, Stored(len(large)))]
        assert listed(workspace) == {b"docs", b"docs/a", b"docs/large", b"link"}

        assert workspace.stat(Stat(b"/docs/a", digest=True)).digest == digests.digest(DATA)
        assert workspace.hash(Hash(b"/docs/large")) == Hashed(digests.digest(large), len(large))
        with workspace.open(Get(b"/link")) as file:
            assert file.read(10, 20) == DATA[10:30]
            assert file.kept_digest() == digests.digest(DATA)
            assert file.is_as_before()

        workspace.change(SetAttributes(b"/docs/a", 0o600, 5_000_000_000))
        assert workspace.commit() == [(0, Done())]
        entry = workspace.stat(Stat(b"/docs/a"))
        assert (entry.mode & 0o777, entry.mtime_ns) == (0o600, 5_000_000_000)

        assert workspace.copy(Copy(b"/docs", b"/copy", recursive=True)) == Copied(
            2, 1, len(DATA) + len(large), []
        )
        workspace.move(Move(b"/copy/a", b"/copy/b"))
        assert workspace.remove_later(Remove(b"/link"), request_id=3)
        assert workspace.commit() == [(3, Removed(1, 0, 6))]
        assert not workspace.remove_later(Remove(b"/docs", recursive=True))
        assert workspace.remove(Remove(b"/docs", recursive=True)) == Removed(
            2, 1, len(DATA) + len(large)
        )

        workspace.begin_tree(BeginTree(b"/site"))
        put(workspace, b"/site/index")
        workspace.commit()
        assert b"site" not in listed(workspace)
        workspace.end_tree(EndTree(commit=True))
        assert listed(workspace) == {b"copy", b"copy/b", b"copy/large", b"site", b"site/index"}

        space = workspace.space(Space())
        assert (space.used, space.held) == (2 * len(DATA) + len(large), 0)
        assert list(workspace.kept(ListKept())) == []
        assert workspace.drop_kept(DropKept()).count == 0
    assert site.agrees()


def test_another_thread_may_change_the_account(site: Site):
    with site.open() as workspace:
        put(workspace, b"/a")
        workspace.commit()
        workspace.account = replace(site.account, permissions=Permissions.parse("read-only"))
        with pytest.raises(Forbidden):
            put(workspace, b"/b")
        assert workspace.stat(Stat(b"/a")).size == len(DATA)


# permissions -------------------------------------------------------------------------------


def requested(workspace: Workspace, request: messages.Message) -> object:
    """The verb that a request is for."""
    match request:
        case Put():
            return workspace.stage(request, b"", Sent(0))
        case PutPiece():
            return workspace.receive_piece(request)
        case MakeDir() | MakeLink() | SetAttributes():
            return workspace.change(request)
        case Get():
            return workspace.open(request).__exit__()
        case ListKept():
            return list(workspace.kept(request))
    verb = str(request.__struct_config__.tag).replace("-", "_")
    return getattr(workspace, verb)(request)


EXAMPLES = {
    Stat: Stat(b"/in/f"),
    List: List(b"/in"),
    Hash: Hash(b"/in/f"),
    Get: Get(b"/in/f"),
    Put: Put(b"/in/f", 0),
    MakeDir: MakeDir(b"/in/d"),
    MakeLink: MakeLink(b"/in/l", b"f"),
    SetAttributes: SetAttributes(b"/in/f", 0o600),
    BeginTree: BeginTree(b"/in/t"),
    Remove: Remove(b"/in/f"),
    Move: Move(b"/in/f", b"/out/f"),
    Copy: Copy(b"/in/f", b"/out/f"),
}


def test_every_request_that_needs_something_has_an_example():
    assert set(EXAMPLES) == {kind for kind, needs in NEEDS.items() if needs}


@pytest.mark.parametrize("request_", EXAMPLES.values(), ids=lambda one: type(one).__name__)
def test_every_verb_checks_permissions_itself(site: Site, request_):
    """Without any dispatch before it: a gateway has none."""
    with site.open() as workspace:
        workspace.change(MakeDir(b"/in"))
        workspace.change(MakeDir(b"/out"))
        put(workspace, b"/in/f")
        workspace.commit()
    with site.open(permissions="all /in=none") as workspace:
        with pytest.raises((Forbidden, NotFound)):
            requested(workspace, request_)
        assert workspace.commit() in ((), [])
    with site.open() as workspace:
        assert listed(workspace) == {b"in", b"in/f", b"out"}


@pytest.mark.parametrize("open_", ["write", "receive", "expect", "check", "remove_later"])
def test_other_ways_to_the_same_verbs_check_them_too(site: Site, open_):
    with site.open(permissions="read-only") as workspace, pytest.raises(Forbidden):
        request = Remove(b"/f") if open_ == "remove_later" else Put(b"/f", 5)
        getattr(workspace, open_)(request)


# what goes wrong ---------------------------------------------------------------------------


def test_what_is_refused_changes_nothing(site: Site):
    with site.open() as workspace:
        put(workspace, b"/a")
        workspace.commit()
        with pytest.raises(VerificationFailed):
            workspace.stage(Put(b"/a", 3), b"abc", Sent(3, bytes(32)))
        with pytest.raises(QuotaExceeded):
            workspace.receive(Put(b"/b", 65 * MIB)).__enter__()
        with pytest.raises(CommandError):
            workspace.end_tree(EndTree(commit=True))
        put(workspace, b"/missing/c")
        ((_, outcome),) = workspace.commit()
        assert isinstance(outcome, Failed) and outcome.code == "not-found"
        assert listed(workspace) == {b"a"}
        with workspace.open(Get(b"/a")) as file:
            assert file.read(0, 2000) == DATA
    assert site.agrees()


def test_what_was_not_committed_goes_with_the_workspace(site: Site):
    with site.open() as workspace:
        put(workspace, b"/a")
        workspace.begin_tree(BeginTree(b"/site"))
        put(workspace, b"/site/index")
        workspace.commit()
        put(workspace, b"/site/more")
    with site.open() as workspace:
        assert listed(workspace) == {b"a"}
    assert site.agrees()


def test_long_work_is_observed_and_cancelled(site: Site):
    class Impatient(SilentObserver):
        seen = 0

        def progressed(self, count: int) -> None:
            self.seen += count
            if self.seen > MIB:
                raise Cancelled("cancelled")

    observer = Impatient()
    with site.open(observer=observer) as workspace:
        receive(workspace, b"/large", bytes(2 * MIB))
        workspace.commit()
        path = site.files / "large"
        os.truncate(path, 3 * MIB)  # its digest isn't true any more
        with pytest.raises(Cancelled):
            workspace.hash(Hash(b"/large"))
        assert observer.seen > MIB


def test_an_unusable_home_is_reported_without_its_path(site: Site):
    site.files.rmdir()
    site.files.write_bytes(b"")
    with site.open() as workspace, pytest.raises(CommandError, match="home directory") as error:
        workspace.stat(Stat(b"/"))
    assert str(site.files) not in str(error.value)


def test_resting_closes_what_is_open_and_no_more(site: Site):
    with site.open() as workspace:
        put(workspace, b"/a")
        workspace.commit()
        before = len(os.listdir("/proc/self/fd"))
        workspace.go_idle()
        assert len(os.listdir("/proc/self/fd")) < before
        assert workspace.stat(Stat(b"/a")).size == len(DATA)


# counting meanwhile ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["tree", "empty", "file", "replaced-tree", "moved-over"])
def test_a_count_between_the_steps_of_a_change_finds_it_once(site: Site, monkeypatch, what):
    """The home's lock is let go of while a tree is on its way out: a recount may come then."""
    with site.open() as workspace:
        for name in (b"/d", b"/empty"):
            workspace.change(MakeDir(name))
        put(workspace, b"/d/a")
        put(workspace, b"/f")
        put(workspace, b"/g")
        workspace.commit()
        counted = []

        def count(self, *arguments):
            if not counted:
                counted.append(recount(site.ledger, site.account.id, Home(site.files)))
            return shared(self, *arguments)

        shared = OpenHome.shared
        monkeypatch.setattr(OpenHome, "shared", count)
        match what:
            case "tree":
                workspace.remove(Remove(b"/d", recursive=True))
            case "empty":
                workspace.remove(Remove(b"/empty"))
            case "file":
                workspace.remove(Remove(b"/f"))
            case "moved-over":
                workspace.move(Move(b"/f", b"/g"))
            case "replaced-tree":
                workspace.begin_tree(BeginTree(b"/d"))
                put(workspace, b"/d/new")
                workspace.commit()
                counted.clear()
                workspace.end_tree(EndTree(commit=True))
        assert counted or what in ("moved-over", "empty"), "these are settled in one hold"
    assert site.agrees()


def test_a_removal_that_failed_in_the_middle_is_made_up_for_by_the_next_start(
    site: Site, engine, monkeypatch
):
    """Nobody knows how much of it was settled: the rest is removed, and all is counted."""
    with site.open() as workspace:
        workspace.change(MakeDir(b"/d"))
        for number in range(5):
            put(workspace, b"/d/%d" % number)
        workspace.commit()
        unlink, left = os.unlink, [3]

        def failing(path, **options):
            if not left[0]:
                raise OSError(5, os.strerror(5))
            left[0] -= 1
            unlink(path, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", failing)
            with pytest.raises(OSError, match="Input/output"):
                workspace.remove(Remove(b"/d", recursive=True))
    started = Ledger(engine)
    started.reap()
    assert clean(started, site.account.id, site.files), "it is to be counted"
    recount(started, site.account.id, Home(site.files))
    assert site.agrees()
    assert not clean(started, site.account.id, site.files)
