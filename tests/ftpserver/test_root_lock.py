"""The lock that the one server of a root holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ftpserver.errors import RootBusy, StateError
from ftpserver.root_lock import RootLock


def test_one_server_has_a_root(root):
    lock = RootLock(root)
    with pytest.raises(RootBusy) as caught:
        RootLock(root)
    assert str(os.getpid()) in str(caught.value)
    lock.release()
    RootLock(root).release()


def test_a_dead_server_has_no_root(root):
    """However it ended: the lock ends with its process."""
    code = (
        "import os, sys; from pathlib import Path; from ftpserver.root_lock import RootLock;"
        "lock = RootLock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RootBusy, match=str(process.pid)):
            RootLock(root)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    RootLock(root).release()


def test_the_lock_says_who_has_it_and_no_more(root):
    (root / "lock").write_text("a longer text than a process id\n")
    lock = RootLock(root)
    assert (root / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_lock_that_can_not_be_made(root):
    (root / "lock").mkdir()
    with pytest.raises(StateError):
        RootLock(root)
