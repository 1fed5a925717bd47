"""Clients that take long to hash what is there, before they go on with an upload behind it."""

from __future__ import annotations

import time

import pytest

from ftpserver.serving import exchange
from ftpserver.storage.resumable import RESUME_FROM
from ftpwire import digests
from ftpwire.frame_stream import FrameStream
from ftpwire.frames import Kind
from ftpwire.messages import GoingDown, Put, Ready, Sent, Stored
from tests.peer import Peer, eventually

MIB = 1024 * 1024
THERE = 6 * MIB
DATA = bytes(RESUME_FROM + 8 * MIB)


def begin(peer: Peer, **options) -> int:
    """The request for an upload of which something is there, and its `ready`."""
    number = peer.request(Put(b"/large", len(DATA), mtime_ns=5, ask=True, **options))
    assert isinstance(peer.answer().message, Ready)
    return number


def leave_some(peer: Peer) -> None:
    """Have so much of an upload kept."""
    number = begin(peer)
    for _ in range(THERE // MIB):
        peer.frame(Kind.DATA, number, bytes(MIB))
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"


@pytest.mark.parametrize("pieces", [False, True])
def test_the_first_frame_after_an_offset_is_awaited_as_long_as_hashing_takes(
    start_server, dial, monkeypatch, pieces
):
    """Those that follow are not, nor is the first one of an upload that begins from nothing."""
    server = start_server(stall=1.0)
    waits, header = [], FrameStream.header

    def timed(self, deadline=None, *, exactly=False):
        if exactly:
            waits.append(None if deadline is None else round(deadline - time.monotonic(), 1))
        return header(self, deadline, exactly=exactly)

    monkeypatch.setattr(FrameStream, "header", timed)
    peer = dial(server)
    leave_some(peer)
    assert set(waits) == {None}
    waits.clear()
    number = begin(peer, pieces=pieces)
    if pieces:
        peer.frame(Kind.DATA, number)
        peer.frame(Kind.CANCEL, number)
        assert peer.answer().message.code == "cancelled"
    else:
        peer.frame(Kind.DATA, number, DATA[THERE : THERE + MIB])
        for start in range(THERE + MIB, len(DATA), MIB):
            peer.frame(Kind.DATA, number, DATA[start : start + MIB])
        peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
        assert peer.answer().message == Stored(len(DATA))
    first, *others = waits
    assert first is not None and 2 < first <= THERE / MIB
    assert set(others) == {None}


def test_an_idle_time_ends_it_with_a_word(start_server, dial):
    server = start_server()
    with dial(server) as peer:
        leave_some(peer)
    start_server.finish(server)
    peer = dial(start_server(stall=0.05, idle_timeout=0.2))
    begin(peer)
    last = peer.read_to_end()[-1]
    assert last.kind == Kind.NOTICE
    assert last.message == GoingDown("no bytes came for 0.2 seconds")


def test_who_hashes_makes_space_for_another_transfer(start_server, dial, monkeypatch):
    """It is waited for much longer than others are, and without a byte."""
    monkeypatch.setattr(exchange, "SHORT", 0.01)
    monkeypatch.setattr(exchange, "_LOOK_SECONDS", 0.01)
    server = start_server(stall=2.0, max_user_transfers=1)
    peer, other = dial(server), dial(server)
    leave_some(peer)
    begin(peer)

    def gets_in() -> bool:
        number = other.request(Put(b"/other", len(DATA), ask=True))
        found = other.answer().message
        if not isinstance(found, Ready):
            other.frame(Kind.CANCEL, number)
        return isinstance(found, Ready)

    eventually(gets_in)
    assert [type(one.message) for one in peer.read_to_end()] == [GoingDown]
