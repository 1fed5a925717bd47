"""The errors that docs/protocol.md names for trees, removing, moving, copying and what is kept.

Lives here: for each request and each code, what gets it, or which other test shows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftpwire.errors import BY_CODE
from ftpwire.messages import (
    BeginTree,
    Copy,
    DropKept,
    EndTree,
    Failed,
    LoggedIn,
    MakeDir,
    Move,
    Remove,
    WhoAmI,
)
from tests.protocol_document import section

TESTS = Path(__file__).parents[2]
IN_A_TREE = BeginTree(b"/dir/tree")
"""What is asked for after this fails because a tree is on its way."""

NONE, FILE = b"/none/x", b"/file/x"
"""In a directory that is missing, and in a file."""

ERRORS: Mapping[str, Mapping[str, Any]] = {
    "begin-tree": {
        "not-found": BeginTree(NONE),
        "not-a-directory": BeginTree(FILE),
        "is-a-directory": BeginTree(b"/"),
        "failed": [(IN_A_TREE, BeginTree(b"/other"))],
        "not-atomic": "test_a_tree_at_once_is_refused_before_the_first_byte",
        "invalid-path": "test_a_tree_at_once_is_refused_before_the_first_byte",
    },
    "end-tree": {"failed": EndTree()},
    "remove": {
        "not-found": [Remove(b"/none"), Remove(NONE), Remove(b"/none", recursive=True)],
        "not-a-directory": Remove(FILE),
        "not-empty": Remove(b"/dir"),
        "is-a-directory": [Remove(b"/dir", mtime_ns=1), Remove(b"/dir", True, 4096)],
        "source-changed": [Remove(b"/file", size=5), Remove(b"/file", mtime_ns=10**18 + 1)],
        "invalid-path": [Remove(b"/"), Remove(b"/", recursive=True)],
        "failed": [(IN_A_TREE, Remove(b"/dir", recursive=True))],
        "cancelled": "test_a_cancelled_removal_leaves_the_rest",
    },
    "move": {
        "not-found": [Move(b"/none", b"/new"), Move(b"/file", NONE)],
        "not-a-directory": [Move(FILE, b"/new"), Move(b"/other", FILE)],
        "exists": [
            Move(b"/file", b"/other", overwrite="never"),
            Move(b"/file", b"/link", overwrite="never"),
            Move(b"/dir", b"/file"),
        ],
        "is-a-directory": [Move(b"/file", b"/dir"), Move(b"/empty", b"/dir")],
        "invalid-path": [Move(b"/", b"/new"), Move(b"/file", b"/"), Move(b"/dir", b"/dir/x")],
        "quota": "test_a_move_to_another_file_system_needs_space_for_both",
        "source-changed": "test_what_comes_while_a_tree_is_moved_stays",
        "failed": [
            (IN_A_TREE, Move(b"/file", b"/dir/tree/x")),
            (IN_A_TREE, Move(b"/dir", b"/new")),
        ],
        "cancelled": "test_a_cancelled_move_leaves_the_source",
    },
    "copy": {
        "not-found": [Copy(b"/none", b"/new"), Copy(b"/file", NONE)],
        "not-a-directory": [Copy(FILE, b"/new"), Copy(b"/dir", b"/file", recursive=True)],
        "exists": Copy(b"/file", b"/other", overwrite="never"),
        "is-a-directory": [Copy(b"/dir", b"/new"), Copy(b"/file", b"/dir")],
        "not-regular": Copy(b"/fifo", b"/new"),
        "quota": "test_a_copy_counts_in_the_quota",
        "invalid-path": [
            Copy(b"/dir", b"/dir/x", recursive=True),
            Copy(b"/dir", b"/dir", recursive=True),
        ],
        "source-changed": "test_copy_of_a_file_that_is_rewritten_meanwhile",
        "cancelled": "test_cancelling_a_copy",
    },
    "drop-kept": {
        "not-found": [DropKept(b"/file"), DropKept(b"/file", 4, 7)],
        "busy": "test_what_a_session_writes_just_now_is_not_dropped",
        "forbidden": "test_on_a_disk_that_can_only_be_read",
    },
}
"""A request or several, each after others where it is a tuple; or a test."""


@pytest.fixture
def stocked(start_server) -> Any:
    server = start_server(quota=2**30)
    home = server.settings.root / "alice"
    home.mkdir(exist_ok=True)
    for name in ("file", "other"):
        (home / name).write_bytes(b"data")
        os.utime(home / name, ns=(10**18, 10**18))
    for name in ("dir", "dir/inner", "empty"):
        (home / name).mkdir()
    (home / "link").symlink_to("file")
    os.mkfifo(home / "fifo")
    return server


def state(home: Path) -> dict[str, tuple[int, int, int]]:
    """What is in a home, without staging and the trash."""
    found = {}
    for path in home.rglob("*"):
        if not {".ftpd-staging", ".ftpd-trash"} & set(path.parts):
            info = path.lstat()
            found[str(path.relative_to(home))] = (info.st_ino, info.st_mode, info.st_mtime_ns)
    return found


@pytest.mark.parametrize("op", ERRORS)
def test_what_gets_the_errors_of_a_section(stocked, dial, op):
    """Each leaves what is there as it was, and the session goes on."""
    home, peer = stocked.settings.root / "alice", dial(stocked)
    peer.ask(MakeDir(b"/dir", parents=True))  # so that staging is there
    before = state(home)
    for code, requests in ERRORS[op].items():
        if isinstance(requests, str):
            continue
        for request in requests if isinstance(requests, list) else [requests]:
            first, request = request if isinstance(request, tuple) else (None, request)
            if first is not None:
                assert not isinstance(peer.ask(first), Failed)
            failed = peer.ask(request)
            assert isinstance(failed, Failed) and failed.code == code, (request, failed)
            if first is not None:
                peer.ask(EndTree(commit=False))
    assert state(home) == before
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


@pytest.mark.parametrize("op", ERRORS)
def test_a_section_names_these_errors_and_no_others(op):
    reported = set(re.findall(r"`([a-z-]+)`", section(op))) & set(BY_CODE)
    assert reported <= set(ERRORS[op])
    common = {"invalid-path", "forbidden", "failed", "disk-full", "internal"}
    assert set(ERRORS[op]) - reported <= common, "only what any request may get is not repeated"


def test_the_other_tests_exist():
    named = {test for codes in ERRORS.values() for test in codes.values() if type(test) is str}
    text = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert named <= set(re.findall(r"^def (test_\w+)", text, re.M))
