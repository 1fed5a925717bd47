"""File systems that cannot exchange two names: overwrites, whole trees, and what a kill leaves."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from ftpserver.admin import verify
from ftpserver.storage import atomic_tree
from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.open_home import LOCK_NAME
from ftpserver.storage.recount import recount
from ftpserver.storage.walk import Usage
from ftpwire import beneath
from tests.ftpserver.storage.test_batch import alice, session  # noqa: F401


def without_flags(*arguments) -> int:
    """renameat2(2) of a file system that knows none of its flags."""
    ctypes.set_errno(errno.EINVAL)
    return -1


@pytest.fixture(params=["no-call", "no-flags"])
def no_exchange(request, monkeypatch) -> None:
    """Neither RENAME_EXCHANGE nor RENAME_NOREPLACE."""
    what = None if request.param == "no-call" else without_flags
    monkeypatch.setattr(beneath, "_renameat2", what)


def may_be_shared(directory: Path) -> bool:
    """Whether another session could hold the home's lock now, with others."""
    with open(directory / ".ftpd-staging" / os.fsdecode(LOCK_NAME), "r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("can", [True, False])
def test_what_is_measured_first_is_replaced_under_the_lock_alone(
    alice,  # noqa: F811
    session,  # noqa: F811
    monkeypatch,
    can,
):
    """Else another session could replace it in between, and what it had would count twice."""
    if not can:
        monkeypatch.setattr(beneath, "_renameat2", without_flags)
    session.store(b"/f", b"old")
    rename, seen = os.rename, []

    def looking(source, target, **where):
        if target == b"f":
            seen.append(may_be_shared(alice.files))
        return rename(source, target, **where)

    def looked(*arguments):
        seen.append(may_be_shared(alice.files))
        return exchange(*arguments)

    exchange = beneath.exchange
    monkeypatch.setattr(os, "rename", looking)
    if can:
        monkeypatch.setattr(beneath, "exchange", looked)
    session.store(b"/f", b"newer")
    assert set(seen) == {can}
    assert alice.space == (5, 0)
    assert alice.agrees()


def test_a_batch_without_replacing(alice, session, no_exchange):  # noqa: F811
    for number in range(20):
        session.put(b"/f%d" % number, b"data")
    session.commit()
    session.put(b"/f1", b"da")
    session.put(b"/new/f", b"data", parents=True)
    session.commit()
    assert alice.space == (20 * 4 - 2 + 4, 0)
    assert alice.agrees()


def test_files_without_hard_links(alice, session, no_exchange, monkeypatch):  # noqa: F811
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert session.store(b"/f", b"old").size == 3
    assert session.store(b"/f", b"newer").size == 5
    assert alice.agrees()


# trees at once -----------------------------------------------------------------------------


@pytest.fixture
def site(alice) -> Path:  # noqa: F811
    """A tree that is to be replaced."""
    directory = alice.files / "site"
    (directory / "sub").mkdir(parents=True)
    (directory / "old").write_bytes(b"old")
    directory.chmod(0o555)
    return directory


def kill_between(alice, root: Path, *, note: bool = True, after: int = 1) -> None:  # noqa: F811
    """Replace /site in a process that is killed after so many of its renames."""
    child = os.fork()
    if not child:
        try:
            from ftpserver.database import open_state

            ledger = Ledger(open_state(root / ".ftpd"))
            home = Home(alice.files, durable=True, incarnation=ledger.incarnation)
            tree = AtomicTree(home, ledger, alice.id, b"/site")
            staged = alice.files / ".ftpd-staging" / os.fsdecode(tree._name)
            (staged / "new").write_bytes(b"new")
            rename, left = os.rename, after

            def killed(source, target, **where):
                nonlocal left
                rename(source, target, **where)
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            if not note:
                atomic_tree.write_note = lambda *arguments: b"none"
            os.rename = killed
            tree.commit(lambda: None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.mark.parametrize("privileged", [True, False])
def test_a_tree_is_replaced_and_its_note_goes(
    alice,  # noqa: F811
    site,
    ledger,
    no_exchange,
    privileged,
    request,
):
    if not privileged:
        request.getfixturevalue("plain_user")
    recount(ledger, alice.id, Home(alice.files))
    home = Home(alice.files)
    try:
        tree = AtomicTree(home, ledger, alice.id, b"/site")
        tree.commit(lambda: None)
    finally:
        home.close()
    assert names(site) == []
    assert alice.agrees()


def test_a_kill_between_the_two_renames_loses_nothing(
    alice,  # noqa: F811
    site,
    root,
    ledger,
    no_exchange,
):
    recount(ledger, alice.id, Home(alice.files))
    kill_between(alice, root)
    assert not site.exists()
    kinds = [(one.kind, one.path) for one in verify.check(root)]
    assert ("moved", b"/site") in kinds
    ledger.reap()
    assert recount(ledger, alice.id, Home(alice.files)) == Usage(3, 3)
    assert names(site) == ["old", "sub"]
    assert site.stat().st_mode & 0o7777 == 0o555
    assert alice.agrees()
    assert verify.check(root) == []


def test_control_without_the_note_the_tree_is_lost(
    alice,  # noqa: F811
    site,
    root,
    ledger,
    no_exchange,
):
    """So the kill comes at the moment that the note is for."""
    kill_between(alice, root, note=False)
    ledger.reap()
    recount(ledger, alice.id, Home(alice.files))
    assert not site.exists()


def test_a_kill_after_both_renames_keeps_the_new_tree(
    alice,  # noqa: F811
    site,
    root,
    ledger,
    no_exchange,
):
    kill_between(alice, root, after=2)
    ledger.reap()
    assert recount(ledger, alice.id, Home(alice.files)) == Usage(3, 2)
    assert names(site) == ["new"]
    assert alice.agrees()


def test_a_name_that_is_taken_by_then_stays(alice, site, root, ledger, no_exchange):  # noqa: F811
    kill_between(alice, root)
    site.mkdir()
    (site / "later").write_bytes(b"later")
    ledger.reap()
    recount(ledger, alice.id, Home(alice.files))
    assert names(site) == ["later"]
    assert alice.agrees()


def test_what_can_not_be_put_back_now_is_kept(
    alice,  # noqa: F811
    site,
    root,
    ledger,
    no_exchange,
    monkeypatch,
    caplog,
):
    from ftpserver.storage import put_back

    kill_between(alice, root)

    def fail(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    ledger.reap()
    with monkeypatch.context() as patch:
        patch.setattr(put_back, "rename_closed", fail)
        recount(ledger, alice.id, Home(alice.files))
    assert "cannot be moved back" in caplog.text
    recount(ledger, alice.id, Home(alice.files))
    assert names(site) == ["old", "sub"]
    assert alice.agrees()


def test_the_start_puts_it_back_before_anybody_comes_in(
    alice,  # noqa: F811
    site,
    root,
    no_exchange,
    start_server,
    monkeypatch,
):
    from ftpserver.daemon.housekeeping import Housekeeping

    kill_between(alice, root)
    monkeypatch.setattr(Housekeeping, "_run", lambda self: None)
    server = start_server(root=root)
    assert names(site) == ["old", "sub"]
    server.housekeeping.recount_dirty()


def test_a_second_rename_that_fails_gives_the_tree_back(
    alice,  # noqa: F811
    site,
    ledger,
    no_exchange,
    monkeypatch,
):
    recount(ledger, alice.id, Home(alice.files))
    home = Home(alice.files)
    rename, count = os.rename, []

    def failing(source, target, **where):
        count.append(target)
        if len(count) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target, **where)

    try:
        tree = AtomicTree(home, ledger, alice.id, b"/site")
        with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
            patch.setattr(os, "rename", failing)
            tree.commit(lambda: None)
        tree.abort(lambda: None)
    finally:
        home.close()
    assert names(site) == ["old", "sub"]
    assert not alice.staged
