"""Files that are written at any offset: what they hold, and what a crash leaves of them."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpserver.admin import verify
from ftpserver.database import open_state
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.recount import recount
from ftpserver.workspace.workspace import Workspace
from ftpserver.workspace.writer import Writer
from ftpwire import beneath, digests
from ftpwire.errors import (
    AlreadyExists,
    Busy,
    CommandError,
    Forbidden,
    IsADirectory,
    NotFound,
    QuotaExceeded,
)
from ftpwire.messages import (
    BeginTree,
    DropKept,
    EndTree,
    Get,
    ListKept,
    MakeDir,
    Move,
    Put,
    Remove,
    Sent,
    Stat,
    Stored,
)
from tests.ftpserver.workspace.conftest import MIB, Site

OLD = b"as it was before"


def content(workspace: Workspace, path: bytes = b"/f") -> bytes:
    """What is stored, which has the digest that is kept beside it."""
    with workspace.open(Get(path)) as file:
        data = file.read(0, file.size)
        assert file.kept_digest() == digests.digest(data)
        return data


def put(workspace: Workspace, path: bytes, data: bytes) -> None:
    workspace.stage(Put(path, len(data)), data, Sent(len(data)))
    assert workspace.commit() == [(0, Stored(len(data)))]


def is_there(workspace: Workspace, path: bytes = b"/f") -> bool:
    try:
        workspace.stat(Stat(path))
    except FileNotFoundError:
        return False
    return True


def test_it_appears_whole(site: Site):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f", mode=0o640, mtime_ns=7_000_000_000))
        writer.write(5, b"world")
        writer.write(0, b"hello")
        assert not is_there(workspace)
        assert writer.publish() == Stored(10)
        assert content(workspace) == b"helloworld"
        writer.write(4, b"O W")
        assert writer.read(0, 100) == b"hellO Wrld"
        assert content(workspace) == b"helloworld", "until it is published"
        assert writer.close() == Stored(10)
        assert content(workspace) == b"hellO Wrld"
        entry = workspace.stat(Stat(b"/f"))
        assert (entry.mode & 0o777, entry.mtime_ns) == (0o640, 7_000_000_000)
    assert site.agrees()


def test_an_empty_one_is_a_file_too(site: Site):
    with site.open() as workspace:
        assert workspace.write(Put(b"/f")).close() == Stored(0)
        assert content(workspace) == b""
    assert site.agrees()


def test_holes_and_ends(site: Site):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.truncate(10)
        writer.write(20, b"x")
        writer.write(3, b"")
        assert writer.size == 21
        writer.publish()
        assert content(workspace) == bytes(20) + b"x"
        writer.truncate(2)
        writer.truncate(4)
        assert writer.read(1, 100) == bytes(3)
        assert writer.read(50, 3) == b""
        writer.close()
        assert content(workspace) == bytes(4)
    assert site.agrees()


def test_it_can_begin_with_what_is_there(site: Site):
    with site.open() as workspace:
        put(workspace, b"/f", OLD)
        with workspace.write(Put(b"/f"), keep_content=True) as writer:
            assert writer.read(0, 100) == OLD
            writer.write(len(OLD), b"!")
            writer.close()
        assert content(workspace) == OLD + b"!"
        with workspace.write(Put(b"/new"), keep_content=True) as writer:
            assert writer.size == 0
    assert site.agrees()


def test_attributes_of_one_that_was_published(site: Site):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"data")
        writer.publish()
        writer.set_attributes(mode=0o600, mtime_ns=9_000_000_000)
        entry = workspace.stat(Stat(b"/f"))
        assert (entry.mode & 0o777, entry.mtime_ns) == (0o600, 9_000_000_000)
        writer.write(0, b"D")
        writer.close()
        entry = workspace.stat(Stat(b"/f"))
        assert (entry.mode & 0o777, entry.mtime_ns) == (0o600, 9_000_000_000)
        assert content(workspace) == b"Data"
    assert site.agrees()


def test_two_of_one_path_each_publish_theirs(site: Site):
    with site.open() as workspace:
        one, other = workspace.write(Put(b"/f")), workspace.write(Put(b"/f"))
        one.write(0, b"one")
        other.write(0, b"other")
        one.publish()
        assert content(workspace) == b"one"
        other.close()
        assert content(workspace) == b"other"
        one.write(3, b"!")
        one.close()
        assert content(workspace) == b"one!"
    assert site.agrees()


def test_other_verbs_go_on_meanwhile(site: Site):
    """What waits in the batch is committed with a publication; its outcomes are not lost."""
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"data")
        workspace.change(MakeDir(b"/d"), request_id=5)
        writer.publish()
        assert is_there(workspace, b"/d")
        ((number, _),) = workspace.commit()
        assert number == 5
        workspace.go_idle()  # it is open: nothing is closed
        writer.write(4, b"!")
        workspace.move(Move(b"/f", b"/g"))
        writer.close()
        assert (content(workspace), content(workspace, b"/g")) == (b"data!", b"data")
    assert site.agrees()


# what goes wrong ---------------------------------------------------------------------------


def test_one_that_was_dropped_leaves_nothing(site: Site):
    with site.open() as workspace:
        put(workspace, b"/f", OLD)
        with workspace.write(Put(b"/f")) as writer:
            writer.write(0, bytes(MIB))
        for act in (writer.publish, writer.close, lambda: writer.write(0, b"x")):
            with pytest.raises(CommandError, match="closed"):
                act()
        assert content(workspace) == OLD
        assert writer.keep() is False
    assert site.agrees()


def test_the_workspace_drops_what_is_open(site: Site):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"data")
    assert site.agrees()
    assert not (site.files / "f").exists()


@pytest.mark.parametrize("overwrite", ["never", "older"])
def test_what_may_not_be_replaced(site: Site, overwrite):
    with site.open() as workspace:
        request = Put(b"/f", overwrite=overwrite, mtime_ns=1)
        writer = workspace.write(request)
        writer.write(0, b"mine")
        put(workspace, b"/f", OLD)
        with pytest.raises(CommandError) as refused:
            writer.publish()
        with pytest.raises(type(refused.value)):
            writer.close()
        assert content(workspace) == OLD
        with pytest.raises(type(refused.value)):
            workspace.write(request)
        first = workspace.write(Put(b"/new", overwrite="never"))
        first.publish()
        first.write(0, b"its own")
        first.close()
        assert content(workspace, b"/new") == b"its own"
    assert site.agrees()


@pytest.mark.parametrize("overwrite", ["never", "older"])
def test_another_file_that_came_meanwhile_is_not_its_own(site: Site, overwrite):
    """What it has published may be replaced again, and nothing else."""
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f", overwrite=overwrite, mtime_ns=1))
        writer.write(0, b"mine")
        writer.publish()
        writer.write(0, b"MINE")
        workspace.remove_later(Remove(b"/f"))
        workspace.commit()
        put(workspace, b"/f", OLD)
        with pytest.raises(CommandError):
            writer.publish()
        assert content(workspace) == OLD
        other = workspace.write(Put(b"/g"))
        other.publish()
        workspace.move(Move(b"/f", b"/g"))
        with pytest.raises(NotFound):
            other.set_attributes(mode=0o600)
        assert workspace.stat(Stat(b"/g")).mode & 0o777 == 0o644
    assert site.agrees()


def test_what_can_not_be_written_to(site: Site):
    with site.open() as workspace:
        workspace.change(MakeDir(b"/d"))
        workspace.commit()
        put(workspace, b"/f", OLD)
        with pytest.raises(IsADirectory):
            workspace.write(Put(b"/d"))
        with pytest.raises(FileNotFoundError):
            workspace.write(Put(b"/none/f")).close()
        with pytest.raises(AlreadyExists):
            workspace.write(Put(b"/f", overwrite="never"))
    with site.open(permissions="upload-only") as workspace, pytest.raises(Forbidden):
        workspace.write(Put(b"/f"), keep_content=True)
    assert site.agrees()


def test_space_is_held_while_it_is_written(site: Site):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        with pytest.raises(QuotaExceeded):
            writer.truncate(65 * MIB)
        with pytest.raises(QuotaExceeded):
            writer.write(0, b"x")
        writer.drop()
        writer = workspace.write(Put(b"/f"))
        writer.truncate(40 * MIB)
        assert site.ledger.space(site.account.id).held >= 40 * MIB
        with pytest.raises(QuotaExceeded):
            workspace.write(Put(b"/g")).truncate(40 * MIB)
        writer.close()
    assert site.agrees()


def test_an_error_is_the_last_word(site: Site, monkeypatch):
    """Nobody knows what was written: it must not be published as if nothing had happened."""
    with site.open() as workspace:
        put(workspace, b"/f", OLD)
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"whole")
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", _fail)
            with pytest.raises(OSError, match="No space"):
                writer.write(5, b"!")
        for act in (writer.publish, lambda: writer.write(5, b"!"), lambda: writer.read(0, 1)):
            with pytest.raises(OSError, match="No space"):
                act()
        assert writer.keep() is False
        assert content(workspace) == OLD
    assert site.agrees()


def _fail(*arguments: object) -> int:
    raise OSError(28, os.strerror(28))


# keeping -----------------------------------------------------------------------------------


def test_what_was_kept_is_gone_on_with(site: Site):
    data = os.urandom(MIB)
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, data)
        assert writer.keep() is True
        (kept,) = workspace.kept(ListKept())
        assert (kept.path, kept.size, kept.total) == (b"/f", MIB, MIB)
    space = site.ledger.space(site.account.id)
    assert (space.used, space.held) == (0, MIB)
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"), resume=True)
        assert writer.size == MIB
        writer.write(MIB, b"the rest")
        writer.close()
        assert content(workspace) == data + b"the rest"
        assert list(workspace.kept(ListKept())) == []
    assert site.agrees()


def test_what_was_kept_can_be_dropped_and_kept_anew(site: Site):
    with site.open() as workspace:
        for data in (b"first", b"the second"):
            writer = workspace.write(Put(b"/f"))
            writer.write(0, data)
            assert writer.keep()
        (kept,) = workspace.kept(ListKept())
        assert kept.size == len(b"the second")
        assert workspace.drop_kept(DropKept(b"/f")).count == 1
        assert workspace.write(Put(b"/f"), resume=True).size == 0
    assert site.agrees()


def test_going_on_needs_the_space_once(site: Site):
    """What was kept holds it already."""
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.truncate(40 * MIB)
        assert writer.keep()
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"), resume=True)
        assert writer.size == 40 * MIB
        writer.write(40 * MIB, b"the rest")
        writer.close()
    assert site.agrees()


def test_two_can_not_go_on_with_the_same(site: Site):
    with site.open() as one, site.open() as other:
        writer = one.write(Put(b"/f"))
        writer.write(0, b"kept")
        assert writer.keep()
        (name,) = [name for name in _staged(site) if not name.endswith(".ck")]
        with open(site.files / ".ftpd-staging" / name, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # as the other session, in the middle of it
            with pytest.raises(Busy):
                other.write(Put(b"/f"), resume=True)
        assert other.write(Put(b"/f"), resume=True).size == 4
        assert one.write(Put(b"/f"), resume=True).size == 0
    assert site.agrees()


def test_nothing_is_left_where_keeping_fails(site: Site, monkeypatch):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"data")
        rename = os.rename

        def failing(source, target, **options):
            if target.startswith(b"u-"):
                raise OSError(5, os.strerror(5))
            rename(source, target, **options)

        monkeypatch.setattr(os, "rename", failing)
        assert writer.keep() is False
    assert site.agrees()


def test_what_rotted_while_it_was_kept_is_not_gone_on_with(site: Site):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"whole")
        writer.keep()
        (name,) = [one for one in _staged(site) if not one.endswith(".ck")]
        (site.files / ".ftpd-staging" / name).write_bytes(b"WHOLE")
        with workspace.write(Put(b"/f"), resume=True) as writer:
            assert writer.size == 0
    assert site.agrees()


def test_nothing_is_kept_where_there_is_no_space_for_it(site: Site, monkeypatch):
    with site.open() as workspace:
        writer = workspace.write(Put(b"/f"))
        writer.write(0, b"data")
        reserve = Ledger.reserve

        def full(self, account_id, size, staging=None, **options):
            if staging is not None:
                raise QuotaExceeded("full")
            return reserve(self, account_id, size, staging, **options)

        monkeypatch.setattr(Ledger, "reserve", full)
        assert writer.keep() is False
    assert site.agrees()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another group")
def test_others_find_directories_as_they_are_meanwhile(site: Site):
    directory = site.files / "d"

    def share() -> None:
        os.chown(directory, -1, 12345)
        directory.chmod(0o2770)

    with site.open() as workspace:
        workspace.change(MakeDir(b"/d"))
        workspace.commit()
        with workspace.write(Put(b"/long")) as writer:
            put(workspace, b"/d/before", b"data")
            share()
            put(workspace, b"/d/after", b"data")
            assert (directory / "after").stat().st_gid == 12345
            assert sorted(os.listdir(directory)) == ["after", "before"]
            workspace.remove(Remove(b"/d", recursive=True))
            directory.mkdir()
            share()
            put(workspace, b"/d/again", b"data")
            workspace.remove(Remove(b"/d", recursive=True))
            writer.close()
    assert site.agrees()


def test_it_obeys_the_account_as_it_is(site: Site):
    with site.open() as workspace:
        first, second = workspace.write(Put(b"/f", mode=0o640)), workspace.write(Put(b"/g"))
        for writer in (first, second):
            writer.write(0, b"data")
        first.publish()
        workspace.account = replace(workspace.account, permissions=Permissions.parse("read-only"))
        for refused in (lambda: first.set_attributes(mode=0o600), second.publish):
            with pytest.raises(Forbidden):
                refused()
        assert workspace.stat(Stat(b"/f")).mode & 0o777 == 0o640
        assert not is_there(workspace, b"/g")
    assert site.agrees()


def test_all_is_closed_also_where_staging_fails(site: Site):
    before = len(os.listdir("/proc/self/fd"))
    workspace = site.open()
    for path in (b"/a", b"/b"):
        workspace.write(Put(path)).write(0, b"data")
    workspace.begin_tree(BeginTree(b"/t"))
    for name in _staged(site):
        if (file := site.files / ".ftpd-staging" / name).is_file():
            file.unlink()  # as somebody has done who cleans up by hand
    with pytest.raises(FileNotFoundError):
        workspace.close()
    assert len(os.listdir("/proc/self/fd")) == before
    workspace.close()
    assert site.agrees()


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("parents", [True, False])
def test_the_end_of_a_tree_ends_what_was_not_published_in_it(site: Site, commits, parents):
    with site.open() as workspace:
        beside = workspace.write(Put(b"/beside"))
        workspace.begin_tree(BeginTree(b"/t"))
        for path in (b"/t/published", b"/t/not"):
            writer = workspace.write(Put(path, parents=parents))
            writer.write(0, b"data")
            if path == b"/t/published":
                writer.publish()
        workspace.end_tree(EndTree(commits))
        with pytest.raises(CommandError):
            writer.publish()
        assert is_there(workspace, b"/t/published") is commits
        assert not is_there(workspace, b"/t/not")
        assert beside.close() == Stored(0)
    assert site.agrees()


def test_nothing_is_kept_of_a_tree_on_its_way(site: Site):
    with site.open() as workspace:
        workspace.begin_tree(BeginTree(b"/t"))
        writer = workspace.write(Put(b"/t/f"))
        writer.write(0, b"data")
        assert writer.keep() is False
        assert list(workspace.kept(ListKept())) == []
    assert site.agrees()


def _staged(site: Site) -> list[str]:
    return sorted(set(os.listdir(site.files / ".ftpd-staging")) - {"lock", "owner"})


# a model -----------------------------------------------------------------------------------

OFFSETS = st.integers(0, 3000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.binary(max_size=300)),
        st.tuples(st.just("append"), st.binary(max_size=300)),
        st.tuples(st.just("truncate"), OFFSETS),
        st.tuples(st.just("read"), OFFSETS, OFFSETS),
        st.tuples(st.just("publish")),
        st.tuples(st.just("keep")),
        st.tuples(st.just("drop")),
    ),
    max_size=25,
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(STEPS)
def test_random_steps_against_a_model(site: Site, steps):
    with site.open() as workspace:
        if is_there(workspace):
            workspace.remove(Remove(b"/f"))
        workspace.drop_kept(DropKept())
        stored: bytes | None = None
        mine = bytearray()
        writer = workspace.write(Put(b"/f"))
        for step in steps:
            match step:
                case ("write", offset, data):
                    writer.write(offset, data)
                    if data:
                        mine += bytes(max(0, offset + len(data) - len(mine)))
                        mine[offset : offset + len(data)] = data
                case ("append", data):
                    writer.write(len(mine), data)
                    mine += data
                case ("truncate", size):
                    writer.truncate(size)
                    mine = mine[:size] + bytes(max(0, size - len(mine)))
                case ("read", offset, count):
                    assert writer.read(offset, count) == mine[offset : offset + count]
                case ("publish",):
                    assert writer.publish() == Stored(len(mine))
                    stored = bytes(mine)
                case ("keep",):
                    changed = writer._receiving is not None and bool(mine)
                    assert writer.keep() is changed
                    writer = workspace.write(Put(b"/f"), resume=True)
                    mine = mine if changed else bytearray()
                case ("drop",):
                    writer.drop()
                    writer, mine = workspace.write(Put(b"/f"), keep_content=True), bytearray()
                    mine += stored or b""
            assert writer.size == len(mine)
            assert (content(workspace) if is_there(workspace) else None) == stored
        writer.close()
        assert content(workspace) == mine
        workspace.drop_kept(DropKept())
    assert site.agrees()


# crashes -----------------------------------------------------------------------------------

_CALLS = {
    os: (
        *("open", "rename", "link", "unlink", "fsync", "fdatasync", "pwrite", "ftruncate"),
        *("utime", "chmod", "mkdir", "dup"),
    ),
    beneath: ("rename_new", "exchange", "sync_file_system"),
    Ledger: (*("reserve", "extend", "begin_commit", "settle", "keep", "drop_kept", "release"),),
}


@contextmanager
def killed_before(call: int) -> Iterator[Callable[[], int]]:
    """SIGKILL for this process before its so-many-th change of a file, a name or the books."""
    count = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return wrapped

    before = [(of, name, getattr(of, name)) for of, names in _CALLS.items() for name in names]
    try:
        for of, name, real in before:
            setattr(of, name, counted(real))
        yield lambda: count
    finally:
        for of, name, real in before:
            setattr(of, name, real)


def _work(root: Path, account: object, call: int) -> int:
    """Write, publish, write on, publish, keep; returns how many calls that were."""
    engine = open_state(root / ".ftpd")
    with Workspace(account, Ledger(engine)) as workspace, killed_before(call) as count:
        writer = workspace.write(Put(b"/f"))
        writer.write(3, b"one")
        writer.write(0, b"ONE")
        writer.publish()
        writer.write(6, b" and two")
        writer.publish()
        writer.truncate(2)
        writer.keep()
        return count()


STATES = {OLD, b"ONEone", b"ONEone and two"}


def _after(root: Path, account_id: int, files: Path) -> bytes:
    """As the next start would: end the leases, count; what is stored then."""
    engine = open_state(root / ".ftpd")
    try:
        ledger = Ledger(engine)
        ledger.reap()
        recount(ledger, account_id, Home(files))
        assert verify.check(root, read=True) == []
        space = ledger.space(account_id)
        kept = ledger.resumable(account_id)
        assert space.held == sum(one.size for one in kept)
        return (files / "f").read_bytes()
    finally:
        engine.dispose()


def _crashed(site: Site, root: Path, call: int, work: Callable[..., int] = _work) -> bool:
    """Do the work in a process of its own; whether it was killed."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work(root, site.account, call)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.long)])
def test_a_crash_at_any_step_leaves_one_published_state(site: Site, root, engine, step):
    with site.open() as workspace:
        put(workspace, b"/f", OLD)
    engine.dispose()
    seen = set()
    for call in range(step, 1000, step):
        killed = _crashed(site, root, call)
        found = _after(root, site.account.id, site.files)
        assert found in STATES, f"call {call}"
        seen.add(found)
        if not killed:
            break
        (site.files / "f").write_bytes(OLD)
        _after(root, site.account.id, site.files)
    assert seen == STATES


def test_control_writing_in_place_is_noticed(site: Site, root, engine):
    """The same crashes, of a writer that goes on in the published file."""
    with site.open() as workspace:
        put(workspace, b"/f", OLD)
    engine.dispose()

    def work(root: Path, account: object, call: int) -> int:
        def in_place(self: Writer, offset: int, data: bytes) -> None:
            os.pwrite(self._published if self._published >= 0 else self._staged.staging.fd, data, 0)
            self._size = len(data)

        Writer.write = in_place
        return _work(root, account, call)

    found = set()
    for call in range(3, 1000, 3):
        killed = _crashed(site, root, call, work)
        found.add((site.files / "f").read_bytes())
        if not killed:
            break
        (site.files / "f").write_bytes(OLD)
    assert found - STATES
