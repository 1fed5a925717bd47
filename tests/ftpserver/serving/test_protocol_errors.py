"""The errors that docs/protocol.md names for each request that reads or changes files.

Lives here: for each request and each code, what gets it, or which other test shows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftpserver.storage.batch import SMALL
from ftpwire import digests
from ftpwire.errors import BY_CODE
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    DropKept,
    EndTree,
    Failed,
    Get,
    Hash,
    LoggedIn,
    MakeDir,
    MakeLink,
    Move,
    Put,
    PutPiece,
    Ready,
    Remove,
    Sent,
    SetAttributes,
    WhoAmI,
)
from tests.peer import Peer
from tests.protocol_document import section

TESTS = Path(__file__).parents[2]
IN_A_TREE = BeginTree(b"/dir/tree")
"""What is asked for after this fails because a tree is on its way."""

NONE, FILE = b"/none/x", b"/file/x"
"""In a directory that is missing, and in a file."""

ERRORS: Mapping[str, Mapping[str, Any]] = {
    "hash": {
        "not-found": [Hash(b"/none"), Hash(NONE)],
        "not-a-directory": Hash(FILE),
        "is-a-directory": [Hash(b"/dir"), Hash(b"/")],
        "not-regular": Hash(b"/fifo"),
        "source-changed": "test_hash_of_a_file_that_changes",
        "cancelled": "test_cancelling_a_digest",
    },
    "get": {
        "not-found": [Get(b"/none"), Get(NONE)],
        "not-a-directory": Get(FILE),
        "is-a-directory": [Get(b"/dir"), Get(b"/")],
        "not-regular": Get(b"/fifo"),
        "source-changed": "test_a_file_that_is_rewritten_is_not_what_was_sent",
        "stored-file-damaged": "test_a_file_that_rotted_is_never_passed_off_as_good",
        "too-many": "test_an_account_has_a_bounded_number_of_running_transfers",
        "cancelled": "test_cancelling_a_download",
    },
    "put": {
        "quota": Put(b"/new", 2**40),
        "exists": [Put(b"/file", 4, overwrite="never"), Put(b"/link", 4, overwrite="never")],
        "not-newer": [
            Put(b"/file", 4, mtime_ns=0, overwrite="older"),
            Put(b"/file", 4, mtime_ns=10**18, overwrite="older"),  # the same
        ],
        "is-a-directory": [Put(b"/dir", 4), Put(b"/", 4)],
        "not-found": Put(NONE, 4),
        "not-a-directory": [Put(FILE, 4), Put(FILE + b"/y", 4, parents=True)],
        "verification-failed": [Put(b"/new", 3), Put(b"/new", 5)],
        "busy": "test_another_process_that_holds_it_is_told",
        "lease-lost": "test_a_reservation_that_was_ended_stores_nothing",
        "too-many": "test_an_account_has_a_bounded_number_of_running_transfers",
        "cancelled": "test_cancelling_an_upload",
    },
    "put-piece": {
        "lease-lost": PutPiece(bytes(16), 0, 4),
        "failed": "test_pieces_that_are_not_missing",
        "too-many": "test_gaps_are_limited",
        "verification-failed": "test_a_piece_of_another_size_than_it_said",
        "disk-full": "test_a_full_disk_fails_the_piece_and_the_file",
        "cancelled": "test_cancelling_a_piece_keeps_the_session",
    },
    "make-dir": {
        "exists": [MakeDir(b"/dir"), MakeDir(b"/file"), MakeDir(b"/")],
        "not-found": MakeDir(NONE),
        "not-a-directory": [MakeDir(FILE), MakeDir(b"/file", parents=True)],
    },
    "make-link": {
        "exists": [
            MakeLink(b"/file", b"x", overwrite="never"),
            MakeLink(b"/link", b"x", overwrite="never"),
        ],
        "not-newer": MakeLink(b"/file", b"x", 0, overwrite="older"),
        "is-a-directory": MakeLink(b"/dir", b"x"),
        "not-found": MakeLink(NONE, b"x"),
        "not-a-directory": MakeLink(FILE, b"x"),
    },
    "set-attributes": {
        "not-found": [SetAttributes(b"/none", 0o600), SetAttributes(NONE, 0o600)],
        "not-a-directory": [SetAttributes(FILE, 0o600), SetAttributes(b"/file", setgid=True)],
        "not-regular": SetAttributes(b"/fifo", 0o600),
        "forbidden": "test_a_member_who_is_not_the_owner",
    },
    "begin-tree": {
        "not-found": BeginTree(NONE),
        "not-a-directory": BeginTree(FILE),
        "is-a-directory": BeginTree(b"/"),
        "failed": [(IN_A_TREE, BeginTree(b"/other"))],
        "invalid-path": "test_a_tree_at_once_is_refused_before_the_first_byte",
    },
    "end-tree": {"failed": EndTree()},
    "remove": {
        "not-found": [Remove(b"/none"), Remove(NONE), Remove(b"/none", recursive=True)],
        "not-a-directory": Remove(FILE),
        "not-empty": Remove(b"/dir"),
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
        "quota": "test_a_move_to_another_file_system_needs_room_for_both",
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
    """What is in a home, without staging."""
    found = {}
    for path in home.rglob("*"):
        if ".ftpd-staging" not in path.parts:
            info = path.lstat()
            found[str(path.relative_to(home))] = (info.st_ino, info.st_mode, info.st_mtime_ns)
    return found


def answer(peer: Peer, request: Any) -> Any:
    """The last answer to a request; an upload's four bytes are sent with it."""
    if not isinstance(request, (Put, PutPiece)):
        return peer.ask(request)
    number = peer.request(request)
    found = peer.answer().message if getattr(request, "ask", False) else Ready()
    if isinstance(found, Ready):
        peer.frame(Kind.DATA, number, b"data")
        peer.frame(Kind.END, number, Sent(4, digests.digest(b"data")))
        return peer.answer().message
    peer.frame(Kind.CANCEL, number)
    return found


@pytest.mark.parametrize("op", ERRORS)
def test_the_errors_that_a_section_names(stocked, dial, op):
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
            variants = [request]
            if isinstance(request, Put) and not (request.size == 5 or request.size == 2**40):
                variants.append(Put(**fields(request) | {"ask": True}))
            for one in variants:
                failed = answer(peer, one)
                assert isinstance(failed, Failed) and failed.code == code, (one, failed)
            if first is not None:
                peer.ask(EndTree(commit=False))
    assert state(home) == before
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def fields(request: Put) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


@pytest.mark.parametrize("op", ERRORS)
def test_a_section_names_these_errors_and_no_others(op):
    told = set(re.findall(r"`([a-z-]+)`", section(op))) & set(BY_CODE)
    assert told <= set(ERRORS[op])
    common = {"invalid-path", "forbidden", "failed", "disk-full", "internal"}
    assert set(ERRORS[op]) - told <= common, "only what any request may get is not repeated"


def test_the_other_tests_exist():
    named = {test for codes in ERRORS.values() for test in codes.values() if type(test) is str}
    text = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert named <= set(re.findall(r"^def (test_\w+)", text, re.M))
