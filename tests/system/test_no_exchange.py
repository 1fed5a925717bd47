"""Servers on file systems without the flags of rename(2): what replaces, and what a kill leaves."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from ftpserver.accounts.account import Account
from ftpserver.accounts.accounts import Accounts
from ftpserver.admin import verify
from ftpserver.database import open_state
from ftpserver.storage import atomic_tree
from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.recount import put_back_all, recount
from ftpwire import beneath
from tests.system import trees
from tests.system.crash_support import WITHOUT_RENAME_FLAGS, Disk
from tests.system.modes import MODES
from tests.system.programs import PATIENCE, clean_environment, eventually, finish
from tests.system.test_atomic import version, versions
from tests.system.test_crash import plugged_in

MIB = 1024 * 1024
DYING = WITHOUT_RENAME_FLAGS | {"DIES_BETWEEN_RENAMES": "1"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="turned off by seccomp")


def test_control_the_flags_are_refused(programs, tmp_path):
    tried = (
        "import os; from ftpwire import beneath; fd = os.open('.', os.O_RDONLY);"
        "print(beneath.can_exchange(fd, b'one', b'other'))"
    )
    for more, can in (({}, "True"), (WITHOUT_RENAME_FLAGS, "False")):
        environment = clean_environment(tmp_path, **more)
        done = programs.run([sys.executable, "-c", tried], cwd=tmp_path, env=environment)
        assert done.text == f"{can}\n"


@pytest.mark.telling
def test_everything_is_replaced(start_server, tmp_path):
    server = start_server(environment=WITHOUT_RENAME_FLAGS)
    alice = server.first_user()
    for number in (1, 2):
        tree = version(tmp_path / str(number), number, large=9 * MIB)
        alice.run("put", "-r", f"{tree}/.", "/plain")
        alice.run("put", "-r", "--atomic", tree, "/atomic")
        alice.run("sync", tree, ":/synced", "--delete", "--yes")
        alice.run("put", "-P", "2", tree / "large", "/large")
        alice.run("put", "-", "/pipe", given=b"%d" % number)
        alice.run("cp", "/pipe", "/copied")
        alice.run("put", "-", "/new", given=b"%d" % number)
        alice.run("mv", "/new", "/moved")
        for name in ("plain", "atomic", "synced"):
            trees.same(tree, alice.on_server / name)
        assert (alice.on_server / "large").read_bytes() == (tree / "large").read_bytes()
        for name in ("pipe", "copied", "moved"):
            assert (alice.on_server / name).read_bytes() == b"%d" % number
    alice.run("rm", "-r", "/plain")
    server.stop()  # the books are right


@pytest.mark.parametrize("name", ["threads", "workers-2", "process"])
def test_a_kill_between_the_two_renames_loses_nothing(start_server, tmp_path, name):
    """The server's, a worker's, that of a session's own process."""
    server = start_server(mode=MODES[name], environment=DYING)
    alice = server.first_user()
    old = version(tmp_path / "1", 1)
    alice.run("put", "-r", "--atomic", old, "/site")
    new = version(tmp_path / "2", 2)
    killed = alice.start("put", "-r", "--atomic", "--retry-for", "0", new, "/site")
    finish(killed, status=4)
    site = alice.on_server / "site"
    if name == "threads":
        server.stop_requested = True
        assert server.process.wait(PATIENCE) == -signal.SIGKILL
        assert not site.exists()
        assert "moved: alice: /site" in server.admin.run("check").text
        again = start_server(mode=MODES[name], environment=WITHOUT_RENAME_FLAGS)
        trees.same(old, site)  # before anybody can come in
    else:
        eventually(lambda: "/site: moved back" in server.log, "the old tree is back")
        trees.same(old, site)
        server.stop()
        again = start_server(mode=MODES[name], environment=WITHOUT_RENAME_FLAGS)
    alice.at(again.reached).run("put", "-r", "--atomic", new, "/site")
    trees.same(new, site)
    assert versions(site) == {b"2"}
    again.stop()


@pytest.mark.parametrize("note", [True, False], ids=["note", "control-no-note"])
@pytest.mark.parametrize("moved", [True, False], ids=["moved", "not-yet-on-the-disk"])
def test_a_power_cut_between_the_two_renames_loses_nothing(tmp_path, moved, note):
    """Whether or not the first one has reached the disk; without a note it would be lost."""
    with plugged_in(tmp_path) as disk:
        root = disk.mount_point / "root"
        engine = open_state(root / ".ftpd")
        account = Accounts(engine, root).add("alice", "correct-horse")
        engine.dispose()
        old = version(account.home / "site", 1)
        copy = shutil.copytree(old, tmp_path / "copy")
        os.sync()
        child = os.fork()
        if not child:
            try:
                replace_until_the_power_goes(disk, root, account, moved=moved, note=note)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        disk.unmount()
        disk.mount()
        assert old.exists() is not moved
        engine = open_state(root / ".ftpd")
        try:
            ledger = Ledger(engine)
            assert ledger.in_doubt() == {account.id}
            put_back_all(account.home)
            ledger.reap()
            recount(ledger, account.id, Home(account.home))
        finally:
            engine.dispose()
        if note or not moved:
            trees.same(copy, old)
            assert verify.check(root, read=True) == []
        else:
            assert not old.exists()


def replace_until_the_power_goes(
    disk: Disk, root: Path, account: Account, *, moved: bool, note: bool
) -> None:
    """Replace /site by an empty tree, in two renames, and cut the power after the first one."""
    beneath._renameat2 = None
    ledger = Ledger(open_state(root / ".ftpd"))
    tree = AtomicTree(
        Home(account.home, incarnation=ledger.incarnation), ledger, account.id, b"/site"
    )
    rename = os.rename

    def cut_off(*arguments, **options):
        rename(*arguments, **options)
        if moved:
            os.sync()
        disk.cut()
        os.kill(os.getpid(), signal.SIGKILL)

    if not note:
        atomic_tree.write_note = lambda *arguments: b"none"
    os.rename = cut_off
    tree.commit(lambda: None)
