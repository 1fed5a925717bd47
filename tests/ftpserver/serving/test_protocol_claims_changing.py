"""Sentences of docs/protocol.md about put, make-dir and make-link that no other test shows."""

from __future__ import annotations

import os

import pytest

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Done, MakeDir, MakeLink, Put, Ready, Sent, SetAttributes, Stored
from tests.peer import Peer, frame

DATA = b"some bytes"
THERE = 1000
"""The mtime of what is there, in nanoseconds."""


@pytest.fixture
def peer(server, dial) -> Peer:
    return dial(server)


def put(peer: Peer, path: bytes, **options) -> object:
    number = peer.request(Put(path, len(DATA), **options))
    peer.send(
        frame(Kind.DATA, number, DATA),
        frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA))),
    )
    return peer.answer().message


OVERWRITES = [
    ("always", 1, None),
    ("never", THERE + 1, "exists"),
    ("older", THERE - 1, "not-newer"),
    ("older", THERE, "not-newer"),
    ("older", THERE + 1, None),
    ("older", None, None),
]


@pytest.mark.parametrize("there", ["file", "link"])
def test_what_is_replaced(peer, files, there):
    """By a file, and by a link."""
    at = files / "there"
    for overwrite, mtime_ns, code in OVERWRITES:
        for kind in ("file", "link"):
            at.unlink(missing_ok=True)
            if there == "file":
                at.write_bytes(b"before")
            else:
                at.symlink_to("before")
            os.utime(at, ns=(0, THERE), follow_symlinks=False)
            if at.lstat().st_mtime_ns != THERE:
                pytest.skip("this file system keeps no such times")
            if kind == "file":
                answer = put(peer, b"/there", overwrite=overwrite, mtime_ns=mtime_ns)
            else:
                answer = peer.ask(MakeLink(b"/there", b"new", mtime_ns, overwrite))
            what = (overwrite, mtime_ns, kind)
            if code is not None:
                assert answer.code == code, what
                assert (at.read_bytes() if there == "file" else os.readlink(at).encode()) == (
                    b"before"
                )
            elif kind == "file":
                assert answer == Stored(len(DATA)) and not at.is_symlink(), what
            else:
                assert answer == Done() and os.readlink(at) == "new", what


def test_parents_are_made_with_0755(peer, files):
    assert put(peer, b"/a/b/file", parents=True, mode=0o600) == Stored(len(DATA))
    assert peer.ask(MakeDir(b"/c/d/e", 0o700, parents=True)) == Done()
    assert peer.ask(MakeDir(b"/c/d/e", 0o711, parents=True)) == Done(), "it exists"
    modes = {name: (files / name).stat().st_mode & 0o777 for name in ("a", "a/b", "c", "c/d")}
    assert set(modes.values()) == {0o755}
    assert (files / "c/d/e").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_to_be_filled_is_opened(peer, files):
    (files / "dir").mkdir(mode=0o055)
    assert peer.ask(MakeDir(b"/dir", 0o500, parents=True)) == Done()
    assert (files / "dir").stat().st_mode & 0o777 == 0o055, "the control"
    assert peer.ask(MakeDir(b"/dir", 0o500, parents=True, fill=True)) == Done()
    assert (files / "dir").stat().st_mode & 0o700 == 0o700
    assert put(peer, b"/dir/file") == Stored(len(DATA))
    assert peer.ask(SetAttributes(b"/dir", 0o500)) == Done()
    assert (files / "dir").stat().st_mode & 0o777 == 0o500
    (files / "dir").chmod(0o700)


@pytest.mark.parametrize("ask", [False, True])
def test_only_a_put_that_asks_has_ready(peer, ask):
    number = peer.request(Put(b"/file", len(DATA), ask=ask))
    if ask:
        assert peer.answer().message == Ready(0)
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
    assert peer.answer().message == Stored(len(DATA))
