"""Restoring that is killed at any step, by another session's side, and on other file systems."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import threading
from pathlib import Path

import pytest

from ftpserver.database import open_state
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.recount import recount
from ftpserver.storage.trash import operation as trash_operation
from ftpserver.storage.trash import restoring
from ftpserver.storage.trash.directory import Opened, alone, open_trash
from ftpserver.storage.trash.policy import Policy
from ftpserver.workspace.observer import SilentObserver
from ftpserver.workspace.workspace import Workspace
from ftpwire import beneath
from ftpwire.errors import Busy, Cancelled, DiskFull, Forbidden
from ftpwire.messages import MakeDir, Move, Purge, Remove, Restore


def without_flags(*arguments) -> int:
    """renameat2(2) of a file system that knows none of its flags."""
    ctypes.set_errno(errno.EINVAL)
    return -1


@pytest.fixture
def mixed(bin_) -> str:
    """An operation with one line of each kind: a file, a tree, a version, a move."""
    bin_.put(b"/file", b"file")
    bin_.put(b"/deep/er/file", b"deep", parents=True)
    bin_.put(b"/tree/in", b"tree", parents=True)
    bin_.put(b"/version", b"old")
    bin_.put(b"/moved", b"moved")
    bin_.begin("all kinds")
    session = bin_.session
    session.remove(Remove(b"/file"))
    session.remove(Remove(b"/deep/er/file"))
    session.remove(Remove(b"/tree", recursive=True))
    bin_.put(b"/version", b"new")
    session.move(Move(b"/moved", b"/elsewhere"))
    name = session.keeping.name
    session.go_idle()
    os.rmdir(bin_.files / "deep" / "er")  # by somebody else
    return name


def contents(files: Path) -> set[bytes]:
    """What all files hold, in the home and in the trash."""
    found = set()
    for above, _, names in os.walk(files):
        for name in names:
            if name not in ("index", "lock") or ".ftpd-" not in above:
                found.add(Path(above, name).read_bytes())
    return found


def killed_at(bin_, root: Path, name: str, step: int, conflict: str) -> bool:
    """Restore in a process that is killed before its ``step``-th change; whether it came so far."""
    child = os.fork()
    if not child:
        try:
            left = step

            def counting(original):
                def counted(*arguments, **options):
                    nonlocal left
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
                    return original(*arguments, **options)

                return counted

            beneath.rename_new = counting(beneath.rename_new)
            beneath.exchange = counting(beneath.exchange)
            Opened.append = counting(Opened.append)
            os.link, os.rename = counting(os.link), counting(os.rename)
            ledger = Ledger(open_state(root / ".ftpd"))
            with Workspace(bin_.account, ledger, policy=Policy) as session:
                session.restore(Restore(name, conflict=conflict))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_step_loses_nothing(bin_, mixed, root, ledger, monkeypatch, exchange):
    """Each kill finds what the last one left, as a client does that asks again."""
    if not exchange:
        monkeypatch.setattr(beneath, "_renameat2", without_flags)
    (bin_.files / "file").write_bytes(b"newer")
    before = contents(bin_.files)
    step = kills = 0
    while killed_at(bin_, root, mixed, step, "replace"):
        kills += 1
        step = step + 1 if step < 12 else step + 5
        assert contents(bin_.files) >= before
        assert kills < 60
        ledger.reap()
        recount(ledger, bin_.account.id, Home(bin_.files))
        if exchange:
            assert bin_.agrees()
    restored = bin_.restore(mixed)
    assert restored.conflicts == []
    assert contents(bin_.files) >= before
    there = {
        path: reported for path, reported in bin_.tree().items() if isinstance(reported, tuple)
    }
    assert {path: reported[1] for path, reported in there.items()} == {
        "file": b"file",
        "deep/er/file": b"deep",
        "tree/in": b"tree",
        "version": b"old",
        "moved": b"moved",
    }
    assert kills > 5


def test_what_was_exchanged_when_the_kill_came_is_finished(bin_, root, ledger):
    """What is exchanged and not in the trash yet lies there under the other's name: it is no
    conflict."""
    bin_.put(b"/a", b"old")
    name = bin_.over(b"/a", b"new")
    bin_.session.go_idle()
    child = os.fork()
    if not child:
        try:
            trash_operation.Operation.take = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            quota_store = Ledger(open_state(root / ".ftpd"))
            with Workspace(bin_.account, quota_store, policy=Policy) as session:
                session.restore(Restore(name))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (bin_.files / "a").read_bytes() == b"old"
    ledger.reap()
    recount(ledger, bin_.account.id, Home(bin_.files))
    restored = bin_.restore(name)
    assert (restored.items, restored.conflicts) == (1, [])
    assert (bin_.files / "a").read_bytes() == b"old"
    assert bin_.things(name) == []
    assert bin_.agrees()
    assert bin_.restore(restored.operation).conflicts == []
    assert (bin_.files / "a").read_bytes() == b"new"


def test_a_second_name_that_a_kill_has_left_goes(bin_, root, ledger):
    """What was to be replaced by a move had its second name in the trash already."""
    bin_.put(b"/a", b"a")
    bin_.put(b"/b", b"b")
    name = bin_.mv(b"/a", b"/b")
    bin_.mv(b"/b", b"/a")
    (thing,) = bin_.things(name)
    os.link(bin_.directory(name) / thing, bin_.files / "b")
    recount(ledger, bin_.account.id, Home(bin_.files))
    restored = bin_.restore(name)
    assert (restored.items, restored.already, restored.conflicts) == (0, 2, [])
    assert (bin_.files / "b").read_bytes() == b"b"
    assert bin_.things(name) == []
    assert bin_.agrees()


# other sessions ----------------------------------------------------------------------------


def test_two_sessions_undo_the_same(bin_, mixed):
    """Each thing is back once, and nobody is told of a failure."""
    barrier, reported = threading.Barrier(2), []

    def undo(session):
        barrier.wait()
        reported.append(session.restore(Restore(mixed)))

    sessions = [bin_.open(), bin_.open()]
    threads = [threading.Thread(target=undo, args=(one,)) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reported) == 2
    assert sum(one.items for one in reported) == 5
    assert sum(one.already for one in reported) == 5
    assert all(one.conflicts == [] for one in reported)
    assert bin_.tree()["version"][1] == b"old"


def test_one_that_others_hold_is_busy(bin_, mixed, monkeypatch):
    monkeypatch.setattr(restoring, "alone", functools.partial(alone, patience=0.0))
    home = Home(bin_.files, durable=False)
    try:
        trash = open_trash(home)
        with alone(home, trash, mixed):
            assert len(bin_.items(operation=mixed)) == 5, "it can be looked at"
            assert bin_.restore(mixed, look=True).items == 5
            with pytest.raises(Busy):
                bin_.restore(mixed)
        os.close(trash)
    finally:
        home.close()


def test_what_comes_in_between_stays(bin_, monkeypatch):
    """Another session puts a file there, between looking and renaming."""
    bin_.put(b"/a", b"old")
    name = bin_.rm(b"/a")
    rename_new = beneath.rename_new

    def slow(source_dir, source, target_dir, target):
        if target == b"a":
            (bin_.files / "a").write_bytes(b"just now")
        rename_new(source_dir, source, target_dir, target)

    monkeypatch.setattr(beneath, "rename_new", slow)
    restored = bin_.restore(name)
    assert [one.code for one in restored.conflicts] == ["conflict"]
    assert (bin_.files / "a").read_bytes() == b"just now"
    assert len(bin_.things(name)) == 1


def test_what_is_exchanged_in_between_is_given_back(bin_, monkeypatch):
    bin_.put(b"/a", b"old")
    name = bin_.over(b"/a", b"new")
    exchange, done = beneath.exchange, []

    def slow(*arguments):
        if not done and arguments[3] == b"a":
            done.append(True)
            other = bin_.files / "other"
            other.write_bytes(b"just now")
            other.rename(bin_.files / "a")
        exchange(*arguments)

    monkeypatch.setattr(beneath, "exchange", slow)
    restored = bin_.restore(name)
    assert done
    assert [one.code for one in restored.conflicts] == ["conflict"]
    assert (bin_.files / "a").read_bytes() == b"just now"
    assert len(bin_.things(name)) == 1


def test_a_session_that_waits_for_the_home_is_let_in(bin_, mixed, monkeypatch):
    """Nothing is walked while the home is locked, and between two steps it isn't."""
    other = bin_.open()
    stored = []

    def tick():
        if not stored:
            other.change(MakeDir(b"/meanwhile"))
            stored.append(other.commit())

    run = restoring.Restoring.run

    def ticking(self):
        self._tick = tick
        return run(self)

    monkeypatch.setattr(restoring.Restoring, "run", ticking)
    assert bin_.restore(mixed).conflicts == []
    assert (bin_.files / "meanwhile").is_dir()


# file systems that cannot do everything -----------------------------------------------------


@pytest.fixture(params=["no-call", "no-flags", "no-links"])
def poor(request, monkeypatch) -> None:
    """Neither RENAME_EXCHANGE nor RENAME_NOREPLACE; nor hard links."""
    what = None if request.param == "no-call" else without_flags
    monkeypatch.setattr(beneath, "_renameat2", what)
    if request.param == "no-links":

        def refuse(*arguments, **options):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("conflict", ["skip", "replace", "beside"])
def test_without_exchange(bin_, mixed, poor, conflict):
    (bin_.files / "file").write_bytes(b"newer")
    recount(bin_.ledger, bin_.account.id, Home(bin_.files))
    restored = bin_.restore(mixed, conflict=conflict)
    assert len(restored.conflicts) == (conflict == "skip")
    tree = bin_.tree()
    assert tree["version"][1] == b"old"
    assert tree["moved"][1] == b"moved"
    assert tree["file"][1] == (b"file" if conflict == "replace" else b"newer")
    assert bin_.agrees()


def test_a_file_is_replaced_without_ever_being_missing(bin_, monkeypatch):
    """With a second name for it in the trash first."""
    monkeypatch.setattr(beneath, "_renameat2", without_flags)
    bin_.put(b"/a", b"old")
    name = bin_.over(b"/a", b"new")
    rename, seen = os.rename, []

    def looking(source, target, **where):
        seen.append((bin_.files / "a").exists())
        rename(source, target, **where)
        seen.append((bin_.files / "a").exists())

    monkeypatch.setattr(os, "rename", looking)
    assert bin_.restore(name).conflicts == []
    assert seen and all(seen)


def test_a_home_that_can_only_be_looked_at(bin_, mixed):
    session = bin_.open()
    session.home.read_only = True
    assert len(bin_.items(session)) == 5
    assert session.restore(Restore(mixed, look=True)).items == 5
    for requested in (lambda: session.restore(Restore(mixed)), lambda: session.purge(Purge(mixed))):
        with pytest.raises(Forbidden, match="read-only file system"):
            requested()


def test_a_disk_without_space_for_notes(bin_, mixed, monkeypatch):
    """It says so, and nothing is lost."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trash_operation, "open_operation", full)
        with pytest.raises(DiskFull):
            bin_.restore(mixed)
    assert bin_.restore(mixed).conflicts == []


def test_what_is_durable_when(bin_, monkeypatch):
    """The line about what is replaced before the exchange; all names before the books."""
    bin_.put(b"/d/a", b"old", parents=True)
    name = bin_.over(b"/d/a", b"new")
    trash = bin_.files / ".ftpd-trash"
    log = []

    def reported(what: str, original):
        def logged(*arguments, **options):
            if what in ("fsync", "fdatasync"):
                path = os.readlink(f"/proc/self/fd/{arguments[0]}")
                log.append((what, os.path.relpath(path, bin_.files)))
            else:
                log.append((what, ""))
            return original(*arguments, **options)

        return logged

    session = bin_.open(durable=True)
    session.home.can_exchange()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", reported("fsync", os.fsync))
        patch.setattr(os, "fdatasync", reported("fdatasync", os.fdatasync))
        patch.setattr(beneath, "exchange", reported("exchange", beneath.exchange))
        patch.setattr(Ledger, "settle", reported("settle", Ledger.settle))
        restored = bin_.restore(name, session)
    assert restored.conflicts == [] and trash.is_dir()
    into = f".ftpd-trash/{restored.operation}"
    exchange, settle = log.index(("exchange", "")), log.index(("settle", ""))
    before, between = log[:exchange], log[exchange:settle]
    assert ("fdatasync", f"{into}/index") in before
    assert {("fsync", into), ("fsync", ".ftpd-trash")} <= set(before)
    assert {("fsync", "d"), ("fsync", into), ("fsync", f".ftpd-trash/{name}")} <= set(between)
    assert ("fdatasync", f".ftpd-trash/{name}/index") in between


def test_many_files_share_their_syncs(bin_, monkeypatch):
    """What a sync costs is paid for a hundred files at once."""
    for number in range(150):
        bin_.put(b"/%d" % number, b"old")
    bin_.begin("put all")
    for number in range(150):
        bin_.put(b"/%d" % number, b"new")
    name = bin_.session.keeping.name
    session, synced = bin_.open(durable=True), []
    fdatasync, fsync = os.fdatasync, os.fsync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fdatasync(fd)))
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(fsync(fd)))
    undone = bin_.restore(name, session)
    assert (undone.items, undone.conflicts) == (150, [])
    assert len(synced) < 30
    assert bin_.agrees()
    bin_.rm(b"/0")
    removed = bin_.session.keeping.name
    assert bin_.restore(removed, session).items == 1


def test_a_restore_that_is_cancelled_goes_on_later(bin_):
    """What is back stays, and is settled."""
    for number in range(250):
        bin_.put(b"/%d" % number)
    bin_.begin("rm all")
    for number in range(250):
        bin_.session.remove(Remove(b"/%d" % number))
    name = bin_.session.keeping.name

    class Impatient(SilentObserver):
        looks = 0

        def look_for_cancel(self) -> None:
            self.looks += 1
            if self.looks == 3:
                raise Cancelled("the client cancelled it")

    with pytest.raises(Cancelled):
        bin_.restore(name, bin_.open(observer=Impatient()))
    assert len(bin_.tree()) == 200
    assert bin_.agrees()
    (reported,) = bin_.operations(operation=name)
    assert (reported.kept, reported.undone) == (50, False)
    rest = bin_.restore(name)
    assert (rest.items, rest.already) == (50, 200)
    assert bin_.agrees()
