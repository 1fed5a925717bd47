"""What failures tell besides their text, as a client gets it."""

from __future__ import annotations

import os

import pytest

from ftpwire import digests, messages
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    EndTree,
    Get,
    Hash,
    List,
    Login,
    MakeDir,
    Move,
    Put,
    Remove,
    Sent,
    SetAttributes,
    Stat,
)
from tests.peer import frame

PATH = b"/no/such"


@pytest.fixture
def peer(server, dial):
    return dial(server)


def put(peer, path: bytes, data: bytes = b"data", **options) -> object:
    peer.send(
        frame(Kind.REQUEST, 77, Put(path, len(data), **options)),
        frame(Kind.DATA, 77, data),
        frame(Kind.END, 77, Sent(len(data), digests.digest(data))),
    )
    return peer.answer().message


def facts(failed: object) -> dict[str, object]:
    """What is told besides code and message."""
    assert isinstance(failed, messages.Failed), failed
    reported = {name: getattr(failed, name) for name in failed.__struct_fields__}
    return {
        name: fact for name, fact in reported.items() if fact and name not in ("code", "message")
    } | ({"free": failed.free} if failed.free is not None else {})


@pytest.mark.parametrize(
    "request_",
    [
        Stat(PATH),
        List(PATH),
        Hash(PATH),
        Get(PATH),
        Remove(PATH),
        Remove(PATH, recursive=True),
        MakeDir(PATH),
        SetAttributes(PATH, 0o600),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_failure_reports_its_path(peer, request_):
    assert facts(peer.ask(request_)) == {"path": PATH}


@pytest.mark.parametrize("ask", [False, True])
def test_a_refused_upload_reports_its_path(peer, ask):
    assert facts(put(peer, PATH, ask=ask)) == {"path": PATH}


def test_of_two_paths_the_one_that_it_is_about_is_reported(peer):
    put(peer, b"/a")
    put(peer, b"/b")
    peer.ask(MakeDir(b"/d"))
    peer.ask(MakeDir(b"/d/e"))
    for request, code, path in (
        (Copy(PATH, b"/x"), "not-found", PATH),
        (Move(PATH, b"/x"), "not-found", PATH),
        (Copy(b"/a", PATH), "not-found", PATH),
        (Move(b"/a", PATH), "not-found", PATH),
        (Copy(b"/a", b"/.ftpd-staging"), "invalid-path", b"/.ftpd-staging"),
        (Move(b"/.ftpd-staging", b"/x"), "invalid-path", b"/.ftpd-staging"),
        (Move(b"/a", b"/"), "invalid-path", b"/"),
        (Move(b"/a", b"/b", overwrite="never"), "exists", b"/b"),
        (Move(b"/a", b"/d"), "is-a-directory", b"/d"),
        (Move(b"/d", b"/a"), "exists", b"/a"),
        (Copy(b"/a", b"/d"), "is-a-directory", b"/d"),
        (Copy(b"/d", b"/a", recursive=True), "not-a-directory", b"/a"),
        (Copy(b"/d", b"/d/f", recursive=True), "invalid-path", b"/d"),
        (Move(b"/d", b"/d/f"), "invalid-path", b"/d"),
        (BeginTree(b"/d/e/tree"), "done", None),
        (Move(b"/a", b"/d/e/tree/a"), "failed", b"/d/e/tree/a"),
        (Move(b"/d", b"/x"), "failed", b"/d"),
        (Remove(b"/d", recursive=True), "failed", b"/d"),
        (EndTree(commit=False), "done", None),
    ):
        answer = peer.ask(request)
        assert getattr(answer, "code", "done") == code, request
        assert getattr(answer, "path", None) == path, request


@pytest.mark.parametrize("ask", [False, True])
def test_the_message_names_the_path_whole(peer, files, ask):
    """Not its last part, and not nothing: a client may have nothing else to show."""
    put(peer, b"/d/f", parents=True)
    os.mkfifo(files / "d" / "pipe")
    for path, code, options in (
        (b"/d/f", "exists", {"overwrite": "never"}),
        (b"/d/f", "not-newer", {"overwrite": "older", "mtime_ns": 1}),
        (b"/d", "is-a-directory", {}),
        (b"/d/f/x", "not-a-directory", {}),
        (PATH, "not-found", {}),
    ):
        failed = put(peer, path, ask=ask, **options)
        assert (failed.code, failed.path) == (code, path)
        assert failed.message.startswith(f"{path.decode()}: ")
    for kind in (Get, Hash, lambda path: Copy(path, b"/x"), lambda path: SetAttributes(path, 0)):
        failed = peer.ask(kind(b"/d/pipe"))
        assert (failed.code, failed.path) == ("not-regular", b"/d/pipe")
        assert failed.message.startswith("/d/pipe: ")


def test_a_failure_to_end_a_tree_reports_where_it_was_to_be(peer, files):
    peer.ask(MakeDir(b"/d"))
    peer.ask(BeginTree(b"/d/tree"))
    (files / "d").rmdir()
    failed = peer.ask(EndTree())
    assert (failed.code, facts(failed)) == ("not-found", {"path": b"/d/tree"})
    assert failed.message == "/d/tree: no such file or directory"


def test_a_copy_onto_something_reports_the_target(peer):
    put(peer, b"/a")
    put(peer, b"/b")
    failed = peer.ask(Copy(b"/a", b"/b", overwrite="never"))
    assert (failed.code, facts(failed)) == ("exists", {"path": b"/b"})
    peer.ask(MakeDir(b"/d"))
    failed = peer.ask(Copy(b"/d", b"/e"))
    assert (failed.code, failed.message) == ("is-a-directory", "/d: a directory")
    assert facts(failed) == {"path": b"/d"}


def test_what_a_rule_forbids_reports_the_rule(server, dial):
    server.accounts.change("alice", permissions="/pub=read-only")
    peer = dial(server)
    failed = put(peer, b"/pub/x")
    assert failed.code == "forbidden"
    assert facts(failed) == {"path": b"/pub/x", "rule": "/pub=read-only"}
    failed = peer.ask(Remove(b"/", recursive=True))
    assert "rule" not in facts(failed) or facts(failed)["rule"] == "/pub=read-only"
    failed = peer.ask(Move(b"/pub", b"/x"))
    assert facts(failed)["rule"] == "/pub=read-only"
    server.accounts.change("alice", permissions="/a~%C3%A9%20%25=none")
    failed = dial(server).ask(Stat("/a~é %/x".encode()))
    assert facts(failed)["rule"] == "/a~%C3%A9%20%25=none"


def test_bytes_or_files_are_missing(server, dial):
    server.accounts.change("alice", quota=100, max_files=1)
    peer = dial(server)
    reported = {"needed": 200, "free": 100, "what": "bytes", "path": b"/big"}
    assert facts(put(peer, b"/big", bytes(200))) == reported
    assert put(peer, b"/one", b"") == messages.Stored(0)
    reported = {"needed": 1, "free": 0, "what": "files", "path": b"/two"}
    assert facts(put(peer, b"/two", b"")) == reported


def test_a_ban_reports_when_it_is_over(start_server, dial):
    server = start_server(ban_after=2, ban_time=500, trusted_networks=())
    peer = dial(server, logged_in=False)
    peer.hello()
    for _ in range(2):
        assert peer.ask(Login("alice", "wrong")).code == "login-refused"
    with dial(server, logged_in=False) as other:
        other.hello()
        failed = other.ask(Login("alice", "secret"))
    assert failed.code == "banned" and 400 < failed.retry_after <= 500
