"""Sentences of docs/protocol.md that a second client found to be otherwise."""

from __future__ import annotations

import os

import pytest

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    Done,
    Found,
    List,
    LoggedIn,
    Login,
    Put,
    Sent,
    SetAttributes,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import Peer

DATA = b"some bytes"


def upload(peer: Peer, path: bytes, *between) -> object:
    """Store a file, with other frames between its request and its bytes."""
    number = peer.request(Put(path, len(DATA)))
    for kind, request_id in between:
        peer.frame(kind, request_id)
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
    return peer.answer().message


def test_a_cancel_of_another_request_inside_an_upload_is_ignored(server, dial):
    peer = dial(server)
    before = peer.request(WhoAmI())
    assert peer.answer().message == LoggedIn("alice")
    others = [(Kind.CANCEL, before), (Kind.CANCEL, 12345), (Kind.CANCEL, 0)]
    assert upload(peer, b"/file", *others) == Stored(len(DATA))


def test_bytes_of_a_refused_upload_that_asked_are_discarded(server, dial, files):
    peer = dial(server)
    number = peer.request(Put(b"/missing/file", len(DATA), ask=True))
    assert peer.answer().message.code == "not-found"
    for _ in range(2):
        peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA)))
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    assert os.listdir(files) in ([], [".ftpd-staging"])


def test_a_digest_that_was_true_is_reported_with_a_new_time(server, dial, files):
    peer = dial(server)
    assert upload(peer, b"/file") == Stored(len(DATA))
    try:
        os.getxattr(files / "file", digests.ATTRIBUTE)
    except OSError:
        pytest.skip("this file system keeps no attributes")
    assert peer.ask(SetAttributes(b"/file", mtime_ns=77)) == Done()
    found = peer.ask(Stat(b"/file", digest=True))
    assert isinstance(found, Found)
    assert (found.entry.mtime_ns, found.entry.digest) == (77, digests.digest(DATA))


@pytest.mark.parametrize(("requested", "limit"), [(128 * 1024, 128 * 1024), (0, 4096), (1, 1024)])
@pytest.mark.parametrize("length", [6, 100])
def test_pages_have_at_most_what_the_client_takes(server, dial, files, requested, limit, length):
    for number in range(1200 if limit > 4096 else 100):
        (files / f"{number:0{length}}").touch()
    peer = dial(server, logged_in=False)
    peer.hello(max_control=requested)
    peer.frame(Kind.REQUEST, 1, Login("alice", "secret"))
    assert peer.answer().message == LoggedIn("alice")
    peer.frame(Kind.REQUEST, 2, List(b"/"))
    sizes = []
    while (frame := peer.answer()).kind == Kind.REPLY:
        sizes.append(len(frame.payload))
    assert len(sizes) > 1
    assert limit / 6 < max(sizes) <= limit
