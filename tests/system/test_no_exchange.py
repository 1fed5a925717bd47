"""Servers on file systems without the flags of rename(2): what replaces, and what a kill leaves."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.system import trees
from tests.system.crash_support import WITHOUT_RENAME_FLAGS
from tests.system.modes import MODES
from tests.system.programs import PATIENCE, clean_environment, eventually, finish
from tests.system.test_atomic import version, versions

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
        server.asked_to_stop = True
        assert server.process.wait(PATIENCE) == -signal.SIGKILL
        assert not site.exists()
        assert "moved: alice: /site" in server.admin.run("check").text
        again = start_server(mode=MODES[name], environment=WITHOUT_RENAME_FLAGS)
        trees.same(old, site)  # before anybody can come in
    else:
        eventually(lambda: "/site: put back" in server.log, "the old tree is back")
        trees.same(old, site)
        server.stop()
        again = start_server(mode=MODES[name], environment=WITHOUT_RENAME_FLAGS)
    alice.at(again.reached).run("put", "-r", "--atomic", new, "/site")
    trees.same(new, site)
    assert versions(site) == {b"2"}
    again.stop()
