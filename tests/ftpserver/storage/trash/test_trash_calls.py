"""What `rm -r` into the trash costs: as many system calls for any number of files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.ftpserver.storage.trash.steps import Site

REMOVES = """
import os, sys
from pathlib import Path
from ftpserver.accounts.accounts import Accounts
from ftpserver.database import open_state
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.trash.policy import NO_TRASH, Policy
from ftpserver.workspace.workspace import Workspace
from ftpwire.messages import Operation, Remove

root, keeps = Path(sys.argv[1]), sys.argv[2] == "True"
policy = Policy if keeps else lambda: NO_TRASH
engine = open_state(root / ".ftpd")
(account,) = Accounts(engine, root)
with Workspace(account, Ledger(engine), policy=policy) as workspace:
    for number, path in enumerate((b"/first", b"/tree")):
        workspace.begin_operation(Operation(bytes([number]) * 8))
        os.access("/begin", 0)
        assert workspace.remove(Remove(path, recursive=True)).trashed == keeps
        os.access("/end", 0)
engine.dispose()
"""
_BY_DESCRIPTOR = frozenset(
    {"close", "dup", "fcntl", "fdatasync", "flock", "fstat", "fsync", "ioctl", "lseek", "write"}
)
"""System calls that look at no name and change none: locks, syncs, lines of the index."""


def calls(root: Path, home: Path, log: Path, keeps: bool) -> list[Counter[str]]:
    """The system calls in the home, of each removal."""
    if shutil.which("strace") is None:
        pytest.skip("strace isn't installed")
    command = ["strace", "-f", "-y", "-s", "4096", "-o", log, sys.executable, "-c", REMOVES]
    command += [root, str(keeps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(f"no process can be traced here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    found: list[Counter[str]] = []
    within = False
    for line in log.read_text("utf-8", "backslashreplace").splitlines():
        call = re.match(r"(?:\d+ +)?(\w+)\(", line)
        if call is None:
            continue
        if '"/begin"' in line:
            within = True
            found.append(Counter())
        elif '"/end"' in line:
            within = False
        elif within and f"{home}" in line and _is_about_a_name(call[1], line):
            found[-1][call[1]] += 1
    return found


def _is_about_a_name(call: str, line: str) -> bool:
    return call not in _BY_DESCRIPTOR and "AT_EMPTY_PATH" not in line


def make_tree(top: Path, files: int) -> None:
    for number in range(files):
        directory = top / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        (directory / f"f{number}").write_bytes(b"")


def calls_for(place: Path, new_state: Path, files: int, *, keeps: bool = True) -> Counter[str]:
    """Those of removing a tree of so many files, which isn't the first thing that is removed."""
    place.mkdir()
    site = Site.made(place, new_state)
    site.renew()
    make_tree(site.files / "first", 1)
    make_tree(site.files / "tree", files)
    _, found = calls(site.root, site.files, place / "log", keeps)
    left = [".ftpd-staging", ".ftpd-trash"] if keeps else [".ftpd-staging"]
    assert sorted(os.listdir(site.files)) == left
    return found


@pytest.mark.system
def test_a_tree_of_any_size_costs_as_many_system_calls(tmp_path, new_state, quick_passwords):
    few, many = (calls_for(tmp_path / str(n), new_state, n) for n in (10, 10_000))
    assert few == many
    assert sum(few.values()) <= 10, few


@pytest.mark.system
def test_control_what_is_final_costs_more_for_more_files(tmp_path, new_state, quick_passwords):
    few, many = (calls_for(tmp_path / str(n), new_state, n, keeps=False) for n in (10, 1000))
    assert many["unlinkat"] > few["unlinkat"] + 900 or many["unlink"] > few["unlink"] + 900
