"""The errors that docs/protocol.md names for each request, and for all of them."""

from __future__ import annotations

import os
import re

import pytest

from ftpwire import digests, errors, messages
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    ChangePassword,
    Copy,
    Failed,
    Get,
    Hash,
    IssueToken,
    List,
    LoggedIn,
    MakeDir,
    MakeLink,
    Move,
    Put,
    Remove,
    RevokeToken,
    Sent,
    SetAttributes,
    Stat,
    WhoAmI,
)
from tests.peer import Peer, frame
from tests.protocol_document import section

DATA = b"some bytes"


@pytest.fixture
def stocked(files):
    (files / "dir").mkdir()
    (files / "file").write_bytes(DATA)
    os.utime(files / "file", ns=(10, 10))
    (files / "closed-dir").mkdir(mode=0)
    os.mkfifo(files / "fifo")
    yield files
    (files / "closed-dir").chmod(0o700)


MISSING, INSIDE_FILE, DIR, FILE, FIFO = b"/missing/x", b"/file/x", b"/dir", b"/file", b"/fifo"

SHOWN = {
    "stat": {"not-found": Stat(MISSING), "not-a-directory": Stat(INSIDE_FILE)},
    "list": {
        "not-found": List(MISSING),
        "not-a-directory": List(INSIDE_FILE),
        "forbidden": List(b"/closed-dir"),
        "bad-request": List(DIR, prefix=b"a/b"),
    },
    "hash": {
        "not-found": Hash(MISSING),
        "not-a-directory": Hash(INSIDE_FILE),
        "is-a-directory": Hash(DIR),
        "not-regular": Hash(FIFO),
    },
    "space": {},
    "get": {
        "not-found": Get(MISSING),
        "not-a-directory": Get(INSIDE_FILE),
        "is-a-directory": Get(DIR),
        "not-regular": Get(FIFO),
    },
    "put": {
        "exists": Put(FILE, len(DATA), overwrite="never"),
        "not-newer": Put(FILE, len(DATA), overwrite="older", mtime_ns=10),
        "is-a-directory": Put(DIR, len(DATA)),
        "not-found": Put(MISSING, len(DATA)),
        "not-a-directory": Put(INSIDE_FILE, len(DATA)),
        "verification-failed": Put(FILE, len(DATA) + 1),
    },
    "make-dir": {
        "exists": MakeDir(DIR),
        "not-found": MakeDir(MISSING),
        "not-a-directory": MakeDir(INSIDE_FILE),
    },
    "make-link": {
        "exists": MakeLink(FILE, b"x", overwrite="never"),
        "not-newer": MakeLink(FILE, b"x", 10, "older"),
        "is-a-directory": MakeLink(DIR, b"x"),
        "not-found": MakeLink(MISSING, b"x"),
        "not-a-directory": MakeLink(INSIDE_FILE, b"x"),
    },
    "set-attributes": {
        "not-found": SetAttributes(MISSING, 0o600),
        "not-a-directory": SetAttributes(INSIDE_FILE, 0o600),
        "not-regular": SetAttributes(FIFO, 0o600),
    },
    "change-password": {
        "login-refused": ChangePassword("wrong", "good enough"),
        "bad-account": ChangePassword("secret", "short"),
    },
    "issue-token": {"bad-account": IssueToken("a\0b")},
    "revoke-token": {"not-found": RevokeToken("unknown")},
}
"""For each request: how its errors come about."""

ELSEWHERE = {
    "stat": {"expired"},
    "list": {"cancelled", "expired"},
    "hash": {"source-changed", "cancelled", "expired"},
    "space": {"not-found"},
    "get": {"source-changed", "stored-file-damaged", "too-many", "cancelled", "expired"},
    "put": {"quota", "busy", "lease-lost", "too-many", "cancelled"},
    "set-attributes": {"forbidden"},
    "change-password": {"banned", "busy"},
    "issue-token": {"too-many", "forbidden"},
}
"""Those that other tests show, which checked_sentences.txt names."""


@pytest.mark.parametrize("op", SHOWN)
def test_the_errors_that_a_section_names(op):
    [paragraph] = [text for text in section(op).split("\n\n") if "Errors: " in text]
    said = re.findall(r"`([a-z-]+)`", paragraph.split("Errors: ")[1])
    assert {code for code in said if code in errors.BY_CODE} == (
        set(SHOWN[op]) | ELSEWHERE.get(op, set())
    )


def ask(peer: Peer, request: messages.Request) -> Failed:
    """Ask, with the bytes that belong to it."""
    number = peer.request(request)
    if isinstance(request, Put):
        peer.send(
            frame(Kind.DATA, number, DATA),
            frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA))),
        )
    answer = peer.answer()
    assert (answer.kind, answer.request_id) == (Kind.ERROR, number), (request, answer.message)
    return answer.message


def test_how_errors_come_about(plain_user, server, dial, stocked):
    peer = dial(server)
    for op, shown in SHOWN.items():
        for code, request in shown.items():
            assert request.__struct_config__.tag == op
            assert ask(peer, request).code == code, request
    assert ask(peer, Put(FILE, len(DATA), overwrite="older", mtime_ns=9)).code == "not-newer"
    assert ask(peer, RevokeToken()).code == "not-found"
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    assert (stocked / "file").read_bytes() == DATA


WITH_PATH = [
    *(lambda path, kind=kind: kind(path) for kind in (Stat, List, Hash, Get, MakeDir, BeginTree)),
    lambda path: Put(path, len(DATA)),
    lambda path: Put(path, len(DATA), ask=True),
    lambda path: MakeLink(path, b"target"),
    lambda path: SetAttributes(path, 0o600),
    Remove,
    lambda path: Remove(path, recursive=True),
    lambda path: Move(path, b"/new"),
    lambda path: Move(FILE, path),
    lambda path: Copy(path, b"/new"),
    lambda path: Copy(FILE, path),
]


def test_what_is_wrong_on_the_way_to_a_path(server, dial, stocked):
    peer = dial(server)
    for path, code in (
        (b"/missing/x/y", "not-found"),
        (b"/file/x", "not-a-directory"),
        (b"relative", "invalid-path"),
    ):
        for request in WITH_PATH:
            assert ask(peer, request(path)).code == code, request(path)
    assert set(os.listdir(stocked)) - {".ftpd-trash"} == {
        *(".ftpd-staging", "dir", "file", "closed-dir", "fifo")
    }
