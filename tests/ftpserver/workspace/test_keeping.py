"""What is removed and replaced goes to the trash: once, durably announced, and counted."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpserver.errors import StateError
from ftpserver.storage import home_staging
from ftpserver.storage.trash import directory
from ftpserver.storage.trash import operation as operation_module
from ftpserver.storage.trash.directory import PATIENCE, Opened, alone, open_trash
from ftpserver.storage.trash.index import Contents, Item, decode
from ftpserver.storage.trash.operation import Operation
from ftpserver.storage.trash.policy import Policy
from ftpserver.workspace.workspace import Workspace
from ftpwire import beneath, digests, messages
from ftpwire.errors import (
    CommandError,
    DiskFull,
    Forbidden,
    IsADirectory,
    NotEmpty,
    QuotaExceeded,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import (
    BeginTree,
    Copy,
    EndTree,
    Failed,
    ListTrash,
    MakeDir,
    MakeLink,
    Move,
    Purge,
    Put,
    Remove,
    Removed,
    Restore,
    Sent,
    Space,
)
from tests.ftpserver.workspace.conftest import MIB, Site
from tests.ftpserver.workspace.test_open_trees import Listener

KEY = b"12345678"


@pytest.fixture
def keeping(site: Site) -> Iterator[Workspace]:
    """A workspace with a trash, of a client that has said its command."""
    workspace = site.open(policy=Policy)
    workspace.begin_operation(messages.Operation(KEY, "the command"))
    yield workspace


def put(
    workspace: Workspace, path: bytes, data: bytes = b"old", mtime_ns: int | None = None
) -> None:
    stage(workspace, path, data, mtime_ns)
    for _, outcome in workspace.commit():
        if isinstance(outcome, Failed):
            raise outcome.to_error()


def stage(workspace: Workspace, path: bytes, data: bytes, mtime_ns: int | None = None) -> None:
    sent = Sent(len(data), digests.digest(data))
    workspace.stage(Put(path, len(data), mtime_ns=mtime_ns, parents=True), data, sent)


def operations(site: Site) -> list[Path]:
    trash = site.files / ".ftpd-trash"
    return sorted(trash.iterdir()) if trash.exists() else []


def items(site: Site) -> list[tuple[Item, Path]]:
    """All lines of all operations, with the path where each thing is."""
    found = []
    for operation in operations(site):
        contents = Contents.of(decode((operation / "index").read_bytes()))
        found += [(item, operation / item.name) for item in contents.items]
    return found


def counts(site: Site) -> tuple[int, int, int, int]:
    """Bytes and files that users see, and those in the trash."""
    space = site.ledger.space(site.account.id)
    return space.used, space.used_files, space.trash, space.trash_files


def test_a_removed_file(site: Site, keeping: Workspace):
    put(keeping, b"/a/b", b"precious")
    os.utime(site.files / "a/b", ns=(1, 5))
    removed = keeping.remove(Remove(b"/a/b"))
    assert removed == Removed(1, 0, 8, keeping.keeping.name, trashed=True)
    [(item, thing)] = items(site)
    assert (item.what, item.path.value) == ("removed", b"/a/b")
    assert thing.read_bytes() == b"precious"
    assert thing.stat().st_mtime_ns == 5
    assert counts(site) == (0, 1, 8, 1)
    assert site.agrees()


def test_many_removed_by_one_batch_are_announced_by_one_write(site: Site, keeping, monkeypatch):
    for n in range(20):
        put(keeping, b"/f%d" % n, b"x")
    writes = []
    announce = Operation.announce

    def counted(self, items, **options):
        writes.append(len(items))
        announce(self, items, **options)

    monkeypatch.setattr(Operation, "announce", counted)
    for n in range(20):
        assert keeping.remove_later(Remove(b"/f%d" % n, number=n + 1), request_id=n)
    outcomes = keeping.commit()
    assert [one.trashed for _, one in outcomes] == [True] * 20
    assert writes == [20]
    assert [item.number for item, _ in items(site)] == list(range(1, 21))
    assert all(thing.read_bytes() == b"x" for _, thing in items(site))
    assert counts(site) == (0, 0, 20, 20)
    assert site.agrees()


def test_a_tree_is_one_rename_and_is_not_counted(site: Site, keeping: Workspace):
    for n in range(5):
        put(keeping, b"/tree/in/f%d" % n, b"x")
    removed = keeping.remove(Remove(b"/tree", recursive=True))
    assert removed == Removed(0, 0, 0, keeping.keeping.name, trashed=True)
    [(item, thing)] = items(site)
    assert (item.what, item.path.value) == ("tree", b"/tree")
    assert sorted(os.listdir(thing / "in")) == [f"f{n}" for n in range(5)]
    assert counts(site) == (5, 7, 0, 0)
    assert site.agrees()


def test_an_empty_directory(site: Site, keeping: Workspace):
    keeping.change(MakeDir(b"/empty", 0o750))
    keeping.commit()
    removed = keeping.remove(Remove(b"/empty"))
    assert removed == Removed(0, 1, 0, keeping.keeping.name, trashed=True)
    [(item, thing)] = items(site)
    assert item.what == "removed"
    assert thing.stat().st_mode & 0o777 == 0o750
    assert counts(site) == (0, 0, 0, 1)
    assert site.agrees()


def test_a_directory_that_is_not_empty_stays(site: Site, keeping: Workspace):
    put(keeping, b"/d/f")
    with pytest.raises(NotEmpty):
        try:
            keeping.remove(Remove(b"/d"))
        except OSError as error:
            raise from_oserror(error, "/d") from None
    assert (site.files / "d/f").read_bytes() == b"old"
    assert site.agrees()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replaced_file(site: Site, keeping: Workspace, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(beneath, "exchange", _unsupported)
        monkeypatch.setattr(beneath, "can_exchange", lambda *names: False)
    put(keeping, b"/f", b"old")
    put(keeping, b"/f", b"newer")
    [(item, thing)] = items(site)
    assert (item.what, item.path.value) == ("replaced", b"/f")
    assert thing.read_bytes() == b"old"
    assert (site.files / "f").read_bytes() == b"newer"
    now = (site.files / "f").stat()
    assert item.after is not None
    assert (item.after.inode, item.after.size, item.after.mtime_ns) == (
        now.st_ino,
        5,
        now.st_mtime_ns,
    )
    assert item.after.digest == digests.digest(b"newer").hex()
    assert counts(site) == (5, 1, 3, 1)
    assert site.agrees()


def _unsupported(*names):
    raise beneath.Unsupported(errno.EINVAL, "")


@pytest.mark.parametrize(
    ("size", "times", "kept"), [(10, (5, 5), 0), (10, (5, 6), 1), (100_000, (5, 6), 0)]
)
def test_the_same_contents_replace_nothing(site: Site, keeping: Workspace, size, times, kept):
    """Of a small one with another time that isn't looked at: thinning finds it."""
    data = bytes(size)
    for mtime_ns in times:
        put(keeping, b"/f", data, mtime_ns)
    assert len(items(site)) == kept
    assert counts(site) == (size, 1, kept * size, kept)
    assert site.agrees()


def test_one_name_twice_in_a_batch(site: Site, keeping: Workspace):
    put(keeping, b"/f", b"0")
    for data in (b"1", b"22"):
        stage(keeping, b"/f", data)
    keeping.commit()
    assert [thing.read_bytes() for _, thing in items(site)] == [b"0", b"1"]
    assert counts(site) == (2, 1, 2, 2)
    assert site.agrees()


def test_a_replaced_link_and_one_that_replaces(site: Site, keeping: Workspace):
    put(keeping, b"/f", b"old")
    for target in (b"to", b"where"):
        keeping.change(MakeLink(b"/f", target))
        keeping.commit()
    (_, first), (_, second) = items(site)
    assert first.read_bytes() == b"old"
    assert os.readlink(second) == "to"
    assert counts(site) == (5, 1, 5, 2)
    assert site.agrees()


@pytest.mark.parametrize("links", [True, False])
def test_moving_over_a_file(site: Site, keeping: Workspace, monkeypatch, links):
    put(keeping, b"/a", b"a")
    put(keeping, b"/b", b"bb")
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    keeping.move(Move(b"/a", b"/b", number=7))
    assert (site.files / "b").read_bytes() == b"a"
    *replaced, (moved, _) = items(site)
    assert (moved.what, moved.path.value, moved.number) == ("moved", b"/a", 7)
    assert moved.target is not None
    assert moved.target.value == b"/b"
    assert moved.after is not None
    assert moved.after.inode == (site.files / "b").stat().st_ino
    assert [item.what for item, _ in replaced] == ["replaced"]
    if links:
        assert replaced[0][1].read_bytes() == b"bb"
        assert counts(site) == (1, 1, 2, 1)
    else:
        assert counts(site) == (1, 1, 0, 0)
    assert site.agrees()


def _no_links(*names, **options):
    raise OSError(errno.EPERM, "")


def test_copying_over_a_file(site: Site, keeping: Workspace):
    put(keeping, b"/a", b"a")
    put(keeping, b"/b", b"bb")
    keeping.copy(Copy(b"/a", b"/b"))
    [(item, thing)] = items(site)
    assert (item.what, thing.read_bytes()) == ("replaced", b"bb")
    assert site.agrees()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_tree_that_a_tree_replaces(site: Site, keeping: Workspace, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(beneath, "exchange", _unsupported)
        monkeypatch.setattr(beneath, "can_exchange", lambda *names: False)
    put(keeping, b"/www/old", b"old")
    keeping.begin_tree(BeginTree(b"/www"))
    put(keeping, b"/www/new", b"newer")
    keeping.end_tree(EndTree())
    assert os.listdir(site.files / "www") == ["new"]
    [(item, thing)] = items(site)
    assert (item.what, item.path.value) == ("tree", b"/www")
    assert (thing / "old").read_bytes() == b"old"
    assert item.after is not None
    assert item.after.inode == (site.files / "www").stat().st_ino
    assert counts(site) == (8, 4, 0, 0)
    assert site.agrees()


def test_a_file_that_a_tree_replaces(site: Site, keeping: Workspace):
    put(keeping, b"/www", b"old")
    keeping.begin_tree(BeginTree(b"/www"))
    keeping.end_tree(EndTree())
    [(item, thing)] = items(site)
    assert (item.what, thing.read_bytes()) == ("replaced", b"old")
    assert counts(site) == (0, 1, 3, 1)
    assert site.agrees()


def test_what_is_written_again_and_again_replaces_itself_once(site: Site, keeping: Workspace):
    put(keeping, b"/f", b"old")
    with keeping.write(Put(b"/f")) as writer:
        for at in range(3):
            writer.write(at, b"x")
            writer.publish()
    assert [thing.read_bytes() for _, thing in items(site)] == [b"old"]
    assert site.agrees()


def test_final_removals_leave_nothing(site: Site, keeping: Workspace):
    for path in (b"/a", b"/b", b"/d/f"):
        put(keeping, path)
    assert not keeping.remove(Remove(b"/a", final=True)).trashed
    assert keeping.remove_later(Remove(b"/b", final=True))
    [(_, outcome)] = keeping.commit()
    assert outcome == Removed(1, 0, 3)
    assert keeping.remove(Remove(b"/d", recursive=True, final=True)) == Removed(1, 1, 3)
    assert operations(site) == []
    assert counts(site) == (0, 0, 0, 0)


def test_a_command_that_keeps_nothing(site: Site, keeping: Workspace):
    put(keeping, b"/f", b"old")
    keeping.begin_operation(messages.Operation(KEY, "put --no-versions", keep=False))
    put(keeping, b"/f", b"new")
    keeping.remove(Remove(b"/f"))
    assert operations(site) == []


@pytest.mark.parametrize("policy", [Policy(days=0), Policy(versions=0)])
def test_the_policy_of_the_moment_holds(site: Site, policy):
    now = [policy]
    workspace = site.open(policy=lambda: now[0])
    put(workspace, b"/f", b"old")
    put(workspace, b"/f", b"new")
    assert items(site) == []
    assert workspace.remove(Remove(b"/f")).trashed == policy.on
    now[0] = Policy()
    put(workspace, b"/f", b"old")
    put(workspace, b"/f", b"new")
    assert [item.what for item, _ in items(site)][-1] == "replaced"


def test_sessions_of_one_command_share_its_operation(site: Site, keeping: Workspace):
    other = site.open(policy=Policy)
    other.begin_operation(messages.Operation(KEY, "the command"))
    for n, workspace in enumerate((keeping, other, keeping)):
        put(workspace, b"/f%d" % n)
        workspace.remove(Remove(b"/f%d" % n))
    assert len(operations(site)) == 1
    assert len(items(site)) == 3
    another = site.open(policy=Policy)
    another.begin_operation(messages.Operation(b"another ", ""))
    put(another, b"/f")
    another.remove(Remove(b"/f"))
    assert len(operations(site)) == 2


def test_one_that_was_given_up_meanwhile_is_made_again(site: Site, keeping: Workspace):
    put(keeping, b"/a")
    keeping.remove(Remove(b"/a"))
    [operation] = operations(site)
    operation.rename(site.files.parent / "elsewhere")
    put(keeping, b"/b")
    keeping.remove(Remove(b"/b"))
    assert operations(site) == [operation]
    assert [item.path.value for item, _ in items(site)] == [b"/b"]


def test_what_is_another_file_by_now_stays(site: Site, keeping: Workspace):
    put(keeping, b"/f", b"old")
    with pytest.raises(SourceChanged):
        keeping.remove(Remove(b"/f", size=99))
    keeping.remove_later(Remove(b"/f", size=99))
    [(_, outcome)] = keeping.commit()
    assert isinstance(outcome, Failed)
    assert (site.files / "f").read_bytes() == b"old"
    assert site.agrees()


def test_a_directory_that_came_just_now_stays(site: Site, keeping: Workspace, monkeypatch):
    put(keeping, b"/f", b"old")
    take = Operation.take

    def swapped(self, directory, name, item):
        os.unlink(site.files / "f")
        os.mkdir(site.files / "f")
        return take(self, directory, name, item)

    monkeypatch.setattr(Operation, "take", swapped)
    with pytest.raises(IsADirectory):
        keeping.remove(Remove(b"/f"))
    assert (site.files / "f").is_dir()


def test_a_full_disk_removes_for_good_and_says_so(site: Site, monkeypatch):
    listener = Listener()
    workspace = site.open(policy=Policy, observer=listener)
    put(workspace, b"/f")
    put(workspace, b"/g")
    mkdir = os.mkdir

    def full(name, *arguments, **options):
        if name == b".ftpd-trash":
            raise OSError(errno.ENOSPC, "")
        mkdir(name, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", full)
    assert workspace.remove(Remove(b"/f")) == Removed(1, 0, 3)
    assert workspace.remove_later(Remove(b"/g"))
    [(_, outcome)] = workspace.commit()
    assert outcome == Removed(1, 0, 3)
    assert listener.heard == ["/f: it could not be moved to the trash, so it was purged"]
    assert workspace.batch is not None
    assert "it was purged" in " ".join(workspace.batch.remarks)


def test_a_trash_that_can_not_be_written_to_refuses(site: Site, keeping: Workspace):
    put(keeping, b"/f")
    (site.files / ".ftpd-trash").write_bytes(b"not a directory")
    with pytest.raises(Forbidden, match=r"\.ftpd-trash in this home is not a directory"):
        keeping.remove(Remove(b"/f"))
    assert (site.files / "f").read_bytes() == b"old"


def test_names_and_targets_never_lead_to_the_trash(site: Site, keeping: Workspace):
    put(keeping, b"/f")
    keeping.remove(Remove(b"/f"))
    for request in (Remove(b"/.ftpd-trash", recursive=True), Move(b"/.ftpd-trash/x", b"/y")):
        with pytest.raises(CommandError, match="reserved"):
            keeping.remove(request) if isinstance(request, Remove) else keeping.move(request)
    keeping.change(MakeLink(b"/l", b".ftpd-trash"))
    [(_, outcome)] = keeping.commit()
    assert isinstance(outcome, Failed)
    assert "reserved" in outcome.message
    assert [entry for _, entry in keeping.list(messages.List(b"/")) if entry is not None] == []


def test_a_directory_that_its_mode_closes_keeps_its_mode(site: Site, keeping, monkeypatch):
    """Moving it needs write permission in itself, for who isn't root."""
    rename = home_staging._rename

    def as_its_owner(source, name, *rest):
        if not os.stat(name, dir_fd=source).st_mode & 0o200:
            raise PermissionError(errno.EACCES, "")
        rename(source, name, *rest)

    monkeypatch.setattr(home_staging, "_rename", as_its_owner)
    put(keeping, b"/d/f")
    os.chmod(site.files / "d", 0o555)
    keeping.remove(Remove(b"/d", recursive=True))
    [(_, thing)] = items(site)
    assert thing.stat().st_mode & 0o777 == 0o555


def test_space_is_taken_from_the_trash(site: Site, monkeypatch):
    """A full quota still takes an upload: the oldest goes, and the user is told once a command."""
    listener = Listener()
    workspace = site.open(policy=Policy, observer=listener)
    workspace.begin_operation(messages.Operation(KEY, "rm"))
    big = bytes(3 * MIB)
    for n in range(25):
        put(workspace, b"/f%d" % n, big)
        workspace.remove(Remove(b"/f%d" % n))
    assert 64 * MIB - 3 * MIB < counts(site)[2] <= 64 * MIB
    workspace.begin_operation(messages.Operation(b"another ", "put"))
    for n in range(20):
        put(workspace, b"/g%d" % n, big)
    assert counts(site)[0] == 60 * MIB
    assert listener.heard == ["3.0 MiB of the trash were purged to free space"] * 2
    assert site.agrees()


def test_a_batch_that_want_of_space_ends_keeps_what_goes(site: Site, keeping: Workspace):
    put(keeping, b"/a", b"precious")
    put(keeping, b"/b", b"old")
    keeping.go_idle()
    keeping.begin_operation(messages.Operation(b"anotherr", "another command"))
    assert keeping.remove_later(Remove(b"/a"), request_id=1)
    stage(keeping, b"/b", b"newer", None)
    with pytest.raises(QuotaExceeded):
        with keeping.receive(Put(b"/c", 65 * MIB), request_id=3):
            raise AssertionError("it has no room")
    keeping.commit()
    kept = {item.path.value: thing.read_bytes() for item, thing in items(site)}
    assert kept == {b"/a": b"precious", b"/b": b"old"}
    assert site.agrees()


@pytest.mark.parametrize("look", [True, False], ids=["dry-run", "done"])
def test_undo_reports_what_the_command_itself_has_cost(site: Site, look):
    """It needed the space of what it had removed: the operation was evicted, and made again."""
    listener = Listener()
    workspace = site.open(policy=Policy, observer=listener)
    workspace.begin_operation(messages.Operation(KEY, "sync"))
    for path in (b"/a", b"/b", b"/c"):
        put(workspace, path, bytes(40 * MIB))
        name = workspace.remove(Remove(path)).operation
    assert [item.path.value for item, _ in items(site)] == [b"/c"]
    workspace.begin_operation(messages.Operation(b"undoing.", "undo"))
    listener.heard.clear()
    restored = workspace.restore(Restore(name, look=look))
    assert (restored.items, restored.gone) == (1, 0)
    text = "80.0 MiB of this operation were purged to free space and cannot be brought back"
    assert listener.heard == [text]
    assert site.agrees()


def test_what_was_evicted_is_not_made_again_for_nothing(site: Site, keeping: Workspace):
    put(keeping, b"/a")
    name = keeping.remove(Remove(b"/a")).operation
    keeping.purge(Purge(name))
    put(keeping, b"/b")
    assert operations(site) == []
    put(keeping, b"/b", b"newer")
    [(item, _)] = items(site)
    assert item.path.value == b"/b"
    assert site.agrees()


def test_what_was_evicted_for_space_is_reported_for_a_day(site: Site):
    """Or the user would take back an earlier command, believing that it is the last one."""
    workspace = site.open(policy=Policy)
    put(workspace, b"/small")
    workspace.begin_operation(messages.Operation(b"earlier.", "rm /small", b"client.."))
    workspace.remove(Remove(b"/small"))
    put(workspace, b"/big", bytes(40 * MIB))
    workspace.begin_operation(messages.Operation(KEY, "rm /big", b"client.."))
    workspace.remove(Remove(b"/big"))
    workspace.begin_operation(messages.Operation())
    put(workspace, b"/other", bytes(40 * MIB))
    reported = [one for page in workspace.list_trash(ListTrash()) for one in page.operations]
    assert {(one.words, one.key, one.client, one.given_up) for one in reported} == {
        ("rm /big", KEY, b"client..", 40 * MIB),
        ("rm /small", b"earlier.", b"client..", 3),
    }
    [given_up, *_] = reported
    assert (given_up.words, given_up.kept, given_up.expires) == ("rm /big", 0, None)
    assert [page for page in workspace.list_trash(ListTrash(items=True))] == []


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "at-once"])
def test_books_without_space_keep_nobody_from_removing(site, keeping, monkeypatch, batched):
    """Removing is what mends a full disk. What cannot be named in the books is removed for good."""
    put(keeping, b"/a")

    def full(account_id, key):
        raise DiskFull("the server's disk is full")

    monkeypatch.setattr(site.ledger, "operation", full)
    if batched:
        assert keeping.remove_later(Remove(b"/a"), request_id=1)
        ((_, done),) = keeping.commit()
    else:
        done = keeping.remove(Remove(b"/a"))
    assert isinstance(done, Removed) and not done.trashed
    assert not (site.files / "a").exists() and site.agrees()


def fill_trash_names(monkeypatch, times: int, error: int = errno.ENOSPC) -> None:
    """Have renames into the trash fail so often, as if the disk had no room for one more name."""
    left, rename = [times], beneath.rename_new

    def fails(source_dir, name, target_dir, target):
        if left[0] and b".ftpd-trash" in os.readlink(f"/proc/self/fd/{target_dir}").encode():
            left[0] -= 1
            raise OSError(error, os.strerror(error))
        rename(source_dir, name, target_dir, target)

    monkeypatch.setattr(beneath, "rename_new", fails)


@pytest.mark.parametrize("later", [False, True], ids=["now", "later"])
def test_removing_works_while_the_trash_has_no_space_for_a_name(
    site: Site, keeping: Workspace, monkeypatch, later: bool
):
    put(keeping, b"/a")
    fill_trash_names(monkeypatch, 100)
    if later:
        assert keeping.remove_later(Remove(b"/a"))
        [(_, removed)] = keeping.commit()
    else:
        removed = keeping.remove(Remove(b"/a"))
    assert (removed.files, removed.trashed) == (1, False)
    assert not (site.files / "a").exists()
    assert site.agrees()


def test_space_for_a_name_is_made(site: Site, keeping: Workspace, monkeypatch):
    put(keeping, b"/old")
    put(keeping, b"/a", b"precious")
    keeping.remove(Remove(b"/old"))
    keeping.begin_operation(messages.Operation(b"anotherr", "another command"))
    fill_trash_names(monkeypatch, 1)
    assert keeping.remove(Remove(b"/a")).trashed
    assert [thing.read_bytes() for _, thing in items(site)] == [b"precious"]
    assert site.agrees()


def test_one_that_cannot_go_to_the_trash_costs_no_other(
    site: Site, keeping: Workspace, monkeypatch
):
    for n in range(10):
        put(keeping, b"/f%d" % n, b"old %d" % n)
    for n in range(10):
        stage(keeping, b"/f%d" % n, b"the new one", None)
    fill_trash_names(monkeypatch, 1, errno.EIO)
    keeping.commit()
    kept = {thing.read_bytes() for _, thing in items(site) if thing.exists()}
    assert kept == {b"old %d" % n for n in range(1, 10)}
    assert site.agrees()


def test_books_that_cannot_be_asked_for_a_name_cost_the_versions_alone(
    site: Site, keeping: Workspace, monkeypatch
):
    put(keeping, b"/a", b"old")

    def fails(account_id, key):
        raise StateError("the database cannot be read")

    monkeypatch.setattr(site.ledger, "operation", fails)
    put(keeping, b"/a", b"newer")
    assert (site.files / "a").read_bytes() == b"newer"
    assert counts(site) == (5, 1, 0, 0)
    assert site.agrees()


def test_versions_go_to_another_operation_while_theirs_is_taken_back(
    site: Site, keeping: Workspace, monkeypatch
):
    """Who takes it back waits for the home's lock, which the batch has."""
    put(keeping, b"/a", b"precious")
    put(keeping, b"/b", b"other")
    other = site.open(policy=Policy)
    other.begin_operation(messages.Operation(KEY, "the command"))
    name = other.remove(Remove(b"/b")).operation
    trash = open_trash(other.home)
    began = time.monotonic()
    with alone(other.home, trash, name):
        put(keeping, b"/a", b"newer")
    os.close(trash)
    assert time.monotonic() - began < PATIENCE
    assert {thing.read_bytes() for _, thing in items(site)} == {b"precious", b"other"}
    assert len(operations(site)) == 2
    assert site.agrees()


def test_nothing_is_added_to_what_was_undone(site: Site, keeping: Workspace):
    put(keeping, b"/a", b"precious")
    put(keeping, b"/b", b"more")
    name = keeping.remove(Remove(b"/a")).operation
    other = site.open(policy=Policy)
    assert other.restore(messages.Restore(name)).items == 1
    removed = keeping.remove(Remove(b"/b"))
    assert removed.trashed
    assert removed.operation == keeping.keeping.name != name
    assert not any(thing.exists() for item, thing in items(site) if thing.parent.name == name)


def test_what_became_a_file_is_counted_once(site: Site, keeping: Workspace, monkeypatch):
    put(keeping, b"/d/a", b"precious")
    announce = Operation.announce

    def replaced_meanwhile(self, items, **options):
        announce(self, items, **options)
        (site.files / "d").rename(site.files / "e")
        (site.files / "d").write_bytes(b"new")

    monkeypatch.setattr(Operation, "announce", replaced_meanwhile)
    assert keeping.remove(Remove(b"/d", recursive=True)).trashed
    monkeypatch.setattr(Operation, "announce", announce)
    keeping.space(Space())
    space = site.ledger.space(site.account.id)
    assert (space.trash, space.trash_files) == (3, 1)


def test_a_move_that_cannot_be_noted_is_done(site: Site, keeping: Workspace, monkeypatch):
    put(keeping, b"/a")
    append = Opened.append

    def fails(self, lines, *, sync=True):
        if not sync:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, lines, sync=sync)

    monkeypatch.setattr(Opened, "append", fails)
    monkeypatch.setattr(site.ledger, "free_disk_space", lambda *_: pytest.fail("for a note"))
    keeping.move(Move(b"/a", b"/b"))
    assert (site.files / "b").exists()


def test_a_read_only_home_says_so(site: Site, keeping: Workspace):
    put(keeping, b"/a")
    keeping.home.read_only = True
    with pytest.raises(Forbidden, match="read-only file system"):
        keeping.remove(Remove(b"/a"))
    assert operations(site) == []


def test_a_replaced_tree_that_cannot_go_to_the_trash_is_reported(site: Site, monkeypatch):
    listener = Listener()
    workspace = site.open(policy=Policy, observer=listener)
    put(workspace, b"/d/a", b"old")
    fill_trash_names(monkeypatch, 100, errno.EIO)
    workspace.begin_tree(BeginTree(b"/d"))
    put(workspace, b"/d/a", b"newer")
    workspace.end_tree(EndTree(True))
    assert (site.files / "d/a").read_bytes() == b"newer"
    # there may be one of fresh files
    reported = [text for text in listener.heard if "trash" in text]
    assert reported == ["/d: it could not be moved to the trash, so it was purged"]
    assert site.agrees()


def test_a_command_of_very_many_things_has_several_operations(
    site: Site, keeping: Workspace, monkeypatch
):
    monkeypatch.setattr(directory, "MOST_WRITTEN", 100)
    other = site.open(policy=Policy)
    other.begin_operation(messages.Operation(KEY, "the command"))
    names = []
    for n, session in enumerate([keeping, keeping, other]):
        put(keeping, b"/%d" % n, b"%d" % n)
        names.append(session.remove(Remove(b"/%d" % n)).operation)
    assert len(set(names)) == 3
    assert site.ledger.operation(site.account.id, KEY) == names[-1]
    assert {thing.read_bytes() for _, thing in items(site)} == {b"0", b"1", b"2"}


def test_of_an_endless_index_only_so_much_is_read(site: Site, keeping: Workspace, monkeypatch):
    monkeypatch.setattr(directory, "MOST_READ", 1000)
    put(keeping, b"/a")
    name = keeping.remove(Remove(b"/a")).operation
    os.truncate(site.files / ".ftpd-trash" / name / "index", 1 << 40)
    [page] = keeping.list_trash(ListTrash(items=True))
    assert [one.path for one in page.items] == [b"/a"]


def test_an_upload_waits_for_nobody_who_restores(site: Site, keeping: Workspace, monkeypatch):
    """It was refused as busy, though it replaced nothing."""
    monkeypatch.setattr(operation_module, "PATIENCE", 0.05)
    put(keeping, b"/f")
    keeping.remove(Remove(b"/f"))
    [held] = operations(site)
    index = os.open(held / "index", os.O_RDWR)
    try:
        fcntl.flock(index, fcntl.LOCK_EX)
        put(keeping, b"/new")
        put(keeping, b"/new", b"newer")
    finally:
        os.close(index)
    assert (site.files / "new").read_bytes() == b"newer"
    assert [item.path.value for item, _ in items(site)] == [b"/f", b"/new"]
    assert site.agrees()
