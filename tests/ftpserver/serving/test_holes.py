"""Holes in the place of DATA, by the frame: what a server takes, sends and refuses.

Lives elsewhere: `ftp` with such files (tests/ftpclient/transfer/test_sparse.py), finding holes and
leaving them (tests/ftpwire/test_holes.py).
"""

from __future__ import annotations

import itertools
import os
import threading
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpserver.storage import batch, resumable
from ftpserver.storage.batch import SMALL
from ftpserver.storage.resumable import Checkpoint
from ftpwire import digests, frames, holes
from ftpwire.frames import Kind
from ftpwire.messages import (
    Failed,
    Get,
    Hole,
    Progress,
    Put,
    PutPiece,
    Ready,
    Remove,
    Sending,
    Sent,
    Stored,
    Taken,
    WhoAmI,
)
from tests import sparse
from tests.peer import Peer, eventually, frame
from tests.sparse import BLOCK, KIB

pytestmark = pytest.mark.usefixtures("client_is_local")


MIB = 1024 * KIB
numbers = itertools.count(1)


def put(peer: Peer, path: bytes, layout: sparse.Layout, **options) -> Failed | Stored | Ready:
    """Store a file; returns the last answer."""
    data = sparse.contents(layout)
    request = Put(path, **{"size": len(data)} | options)
    request_id = peer.request(request)
    offset = 0
    if request.ask:
        ready = peer.answer().message
        if not isinstance(ready, Ready):
            peer.frame(Kind.CANCEL, request_id)
            return ready
        offset = ready.offset
        assert ready.digest == (digests.digest(data[:offset]) if offset else None)
    send(peer, request_id, layout, offset)
    peer.frame(Kind.END, request_id, Sent(len(data), digests.digest(data)))
    return peer.answer().message


def send(
    peer: Peer, request_id: int, layout: sparse.Layout, offset: int = 0, data: bytes = b""
) -> None:
    """Send the bytes of a file, and its holes, from an offset on."""
    data, at = data or sparse.contents(layout), 0
    for hole, size in layout:
        start, at = max(at, offset), at + size
        if start >= at:
            continue
        if hole:
            peer.frame(Kind.NOTICE, request_id, Hole(at - start))
        else:
            peer.frame(Kind.DATA, request_id, data[start:at])


def get(peer: Peer, request: Get) -> tuple[Sending, bytes, int, Sent]:
    """Get a file: what was told, the bytes, how many of them came as holes, and the end."""
    peer.request(request)
    sending = peer.answer().message
    assert isinstance(sending, Sending), sending
    data, in_holes = bytearray(), 0
    while (found := peer.read()).kind != Kind.END:
        if found.kind == Kind.DATA:
            data += found.payload
        elif isinstance(found.message, Hole):
            assert found.message.size <= holes.MOST
            in_holes += found.message.size
            data += bytes(found.message.size)
        else:
            assert isinstance(found.message, Progress), found.message
    return sending, bytes(data), in_holes, found.message


@pytest.fixture
def small_holes(monkeypatch):
    """Have small files have holes."""
    monkeypatch.setattr(holes, "LEAST", 2 * BLOCK)
    monkeypatch.setattr(holes, "MOST", 9 * BLOCK)
    monkeypatch.setattr(holes, "_LOOKED_FROM", 0)


def test_any_layout_any_part(server, files, dial, small_holes):
    """A hole is where it was, for whoever asks for it, and zeros for the others."""
    peer = dial(server)

    @given(layout=sparse.layouts(largest=30 * BLOCK), choose=st.data())
    def check(layout, choose):
        draw = choose.draw
        name, data = b"/file-%d" % next(numbers), sparse.contents(layout)
        path = files / os.fsdecode(name[1:])
        assert put(peer, name, layout, ask=draw(st.booleans())) == Stored(len(data))
        assert path.read_bytes() == data
        offset = draw(st.integers(0, len(data)))
        length = draw(st.none() | st.integers(0, len(data)))
        compares = length is None and offset and draw(st.booleans())
        prefix = digests.digest(data[:offset]) if compares else None
        if draw(st.booleans()):
            os.removexattr(path, digests.ATTRIBUTE)
        end = len(data) if length is None else min(len(data), offset + length)
        for asks in (True, False):
            reported, came, in_holes, sent = get(peer, Get(name, offset, prefix, length, asks))
            assert reported.offset == offset and came == data[offset:end]
            assert sent.size == len(data) and sent.digest in (None, digests.digest(data))
            assert asks or not in_holes
        path.unlink()

    check()


def test_any_layout_any_cut(server, files, dial, small_holes, monkeypatch):
    """However often it is cut: the next try goes on after what came, in a hole or not."""
    for module in (batch, resumable):
        monkeypatch.setattr(module, "RESUME_FROM", BLOCK)
    own = dial(server)

    @given(
        layout=sparse.layouts(largest=20 * BLOCK),
        cuts=st.lists(st.floats(0, 1), max_size=3),
        ends=st.sampled_from(["lost", "cancelled", "taken-over"]),
    )
    @settings(max_examples=settings().max_examples // 2)
    def check(layout, cuts, ends):
        name, data = b"/cut-%d" % next(numbers), sparse.contents(layout)
        request = Put(name, len(data), mtime_ns=5, ask=True)
        reached, others = 0, []
        for cut in [*(int(one * len(data)) for one in sorted(cuts)), len(data)]:
            peer = dial(server)
            others.append(peer)
            request_id = peer.request(request)
            ready = peer.answer().message
            assert isinstance(ready, Ready), ready
            assert ready.digest == (digests.digest(data[: ready.offset]) if ready.offset else None)
            # what one that was cut off has sent may be on its way still
            assert ends != "cancelled" or ready.offset == (reached if reached >= BLOCK else 0)
            send(peer, request_id, up_to(layout, cut), ready.offset, data)
            reached = max(cut, ready.offset)
            if cut == len(data):
                peer.frame(Kind.END, request_id, Sent(len(data), digests.digest(data)))
                assert peer.answer().message == Stored(len(data))
                break
            if ends == "cancelled":
                peer.frame(Kind.CANCEL, request_id)
                assert peer.answer().message.code == "cancelled"
            elif ends == "lost":
                peer.close()
        for peer in others:
            peer.close()
        assert (files / os.fsdecode(name[1:])).read_bytes() == data
        assert own.ask(Remove(name)).files == 1

    check()


def up_to(layout: sparse.Layout, cut: int) -> sparse.Layout:
    """The beginning of a layout."""
    found, at = [], 0
    for hole, size in layout:
        found.append((hole, min(size, cut - at)))
        at += size
        if at >= cut:
            break
    return found


LARGE = [(False, MIB), (True, 2 * MIB), (False, MIB), (True, 3 * MIB), (False, BLOCK)]
SIZE = sum(size for _, size in LARGE)
DATA = sum(size for hole, size in LARGE if not hole)


def test_the_disk_has_the_holes(server, files, dial):
    sparse.need_holes(files)
    assert put(dial(server), b"/file", LARGE, ask=True) == Stored(SIZE)
    assert sparse.taken(files / "file") <= DATA + 8 * BLOCK


def test_a_hole_is_reported_in_parts_of_64_mib(server, files, dial):
    sparse.need_holes(files)
    with open(files / "large", "wb") as file:
        file.truncate(150 * MIB)
    peer = dial(server)
    peer.request(Get(b"/large", holes=True))
    peer.answer()
    sizes = [peer.read().message.size for _ in range(3)]
    assert sizes == [64 * MIB, 64 * MIB, 22 * MIB]
    assert peer.answer().message.size == 150 * MIB


def test_a_hole_of_less_than_64_kib_is_sent(server, files, dial):
    sparse.make(files / "file", [(False, BLOCK), (True, 60 * KIB), (False, BLOCK), (True, MIB)])
    _, _, in_holes, _ = get(dial(server), Get(b"/file", holes=True))
    assert in_holes == MIB


def test_a_small_upload_may_have_holes(server, files, dial):
    layout = [(True, 10), (False, 5), (True, SMALL - 20)]
    assert put(dial(server), b"/file", layout) == Stored(SMALL - 5)
    assert (files / "file").read_bytes() == sparse.contents(layout)


def test_a_resume_begins_anywhere_in_a_hole(server, files, dial):
    """What came is kept, as bytes are; what stands behind it is not believed."""
    layout = [(False, MIB), (True, 5 * MIB), (False, MIB)]
    data = sparse.contents(layout)
    for cut in (4 * MIB, 4 * MIB + 1, 6 * MIB, 6 * MIB + 10):
        peer = dial(server)
        request_id = peer.request(Put(b"/file", len(data), mtime_ns=5, ask=True))
        offset = peer.answer().message.offset
        part = [(False, MIB), (True, min(cut, 6 * MIB) - MIB), (False, max(0, cut - 6 * MIB))]
        send(peer, request_id, part, offset, data)
        peer.close()
        eventually(lambda: not server.service.sessions)
    peer = dial(server)
    request_id = peer.request(Put(b"/file", len(data), mtime_ns=5, ask=True))
    ready = peer.answer().message
    assert ready.offset == 6 * MIB + 10
    assert ready.digest == digests.digest(data[: ready.offset])
    peer.frame(Kind.CANCEL, request_id)
    assert peer.answer().message.code == "cancelled"
    assert put(peer, b"/file", layout, mtime_ns=5, ask=True) == Stored(len(data))
    assert (files / "file").read_bytes() == data


def test_holes_leave_checkpoints(server, files, dial):
    """As bytes do: after each 16 MiB, with the digest of all that came."""
    peer = dial(server)
    request_id = peer.request(Put(b"/file", 40 * MIB, ask=True))
    assert isinstance(peer.answer().message, Ready)
    peer.frame(Kind.DATA, request_id, b"data" * KIB)
    peer.frame(Kind.NOTICE, request_id, Hole(20 * MIB))
    peer.frame(Kind.NOTICE, request_id, Hole(16 * MIB))
    staging = os.open(files / ".ftpd-staging", os.O_RDONLY)
    try:
        (name,) = (name for name in os.listdir(staging) if name.endswith(".ck"))
        with Checkpoint(staging, os.fsencode(name)) as checkpoint:
            records = eventually(lambda: len(found := checkpoint.read(40 * MIB)) == 2 and found)
    finally:
        os.close(staging)
    ends = [20 * MIB + 4 * KIB, 36 * MIB + 4 * KIB]
    assert records == [(end, digests.digest((b"data" * KIB).ljust(end, b"\0"))) for end in ends]


def test_pieces_may_be_holes(server, files, dial):
    """In any order, and the last of them at the file's end."""
    sparse.need_holes(files)
    layout = [(False, 4 * MIB), (True, 4 * MIB)]
    data = sparse.contents(layout)
    owner, helper = dial(server), dial(server)
    request_id = owner.request(Put(b"/file", len(data), ask=True, pieces=True))
    key = owner.answer().message.key
    for start in (6 * MIB, 2 * MIB, 4 * MIB, 0):
        piece = helper.request(PutPiece(key, start, 2 * MIB))
        if start >= 4 * MIB:
            helper.frame(Kind.NOTICE, piece, Hole(MIB))
            helper.frame(Kind.NOTICE, piece, Hole(MIB))
        else:
            helper.frame(Kind.DATA, piece, data[start : start + 2 * MIB])
        helper.frame(Kind.END, piece, Sent(2 * MIB))
        assert helper.answer().message == Taken()
    owner.frame(Kind.END, request_id, Sent(len(data), digests.digest(data)))
    assert owner.answer().message == Stored(len(data))
    assert (files / "file").read_bytes() == data
    assert sparse.taken(files / "file") <= 4 * MIB + 8 * BLOCK


# what is refused ---------------------------------------------------------------------------


def reported(size: object) -> bytes:
    return msgspec.msgpack.encode({"op": "hole", "size": size})


WRONG = {
    "of-nothing": reported(0),
    "larger-than-64-mib": reported(64 * MIB + 1),
    "of-16-eib": reported(2**64 - 1),
    "negative": reported(-5),
    "no-number": reported("5"),
    "no-size": msgspec.msgpack.encode({"op": "hole"}),
    "another-notice": msgspec.msgpack.encode({"op": "progress", "done": 1}),
}


@pytest.mark.parametrize("payload", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("ask", [True, False], ids=["ask", "at-once"])
def test_a_hole_that_can_not_be_fails_alone(server, files, dial, payload, ask):
    """And so does each one that follows it, until the end of that upload."""
    peer = dial(server)
    request_id = peer.request(Put(b"/file", 8 * MIB, ask=ask))
    if ask:
        assert isinstance(peer.answer().message, Ready)
    for _ in range(3):
        peer.frame(Kind.NOTICE, request_id, payload)
    assert peer.answer().message.code == "bad-request"
    peer.frame(Kind.NOTICE, request_id, payload)
    peer.frame(Kind.END, request_id, Sent(8 * MIB))
    assert peer.ask(WhoAmI()).user == "alice"
    assert not (files / "file").exists()


@pytest.mark.parametrize("size", [SMALL, 3 * MIB, 20 * MIB])
def test_a_hole_is_not_larger_than_its_file(server, files, dial, size):
    peer = dial(server)
    answer = put(peer, b"/file", [(True, size), (True, 1)], size=size)
    assert (answer.code, peer.ask(WhoAmI()).user) == ("verification-failed", "alice")
    request_id = peer.request(Put(b"/file", size))
    peer.frame(Kind.NOTICE, request_id, Hole(size))
    peer.frame(Kind.END, request_id, Sent(size, digests.digest(b"x" * size)))
    assert peer.answer().message.code == "verification-failed"
    assert not (files / "file").exists()


def test_a_hole_has_to_fit_into_the_quota(start_server, dial):
    """Before anything is made of it, its size told or not. It counts as its bytes do."""
    server = start_server(quota=10 * MIB)
    peer = dial(server)
    assert put(peer, b"/file", [(True, 11 * MIB)], ask=True).code == "quota"
    request_id = peer.request(Put(b"/file", None, ask=True))
    assert isinstance(peer.answer().message, Ready)
    for _ in range(5):
        peer.frame(Kind.NOTICE, request_id, Hole(4 * MIB))
    assert peer.answer().message.code == "quota"
    peer.frame(Kind.CANCEL, request_id)
    assert put(peer, b"/file", [(True, 9 * MIB)]) == Stored(9 * MIB)
    space = server.service.ledger.space(server.accounts.get("alice").id)
    assert (space.used, space.held) == (9 * MIB, 0)
    assert put(peer, b"/other", [(False, 2 * MIB)]).code == "quota"


def test_holes_stand_only_in_uploads(server, dial):
    for send_first in ([], [(Kind.REQUEST, 9, Put(b"/f", MIB))]):
        peer = dial(server)
        for one in send_first:
            peer.frame(*one)
        peer.frame(Kind.NOTICE, 7, Hole(5))
        *_, last = peer.read_to_end()
        assert (last.kind, last.request_id, last.message.code) == (Kind.ERROR, 0, "bad-message")


def test_a_cancel_behind_many_holes_is_seen(server, files, dial, monkeypatch):
    """They are few bytes on the wire, and long in the making."""
    hashed = []
    hash_zeros = holes.hash_zeros

    def count(hasher, size) -> None:
        hashed.append(size)
        hash_zeros(hasher, BLOCK)

    monkeypatch.setattr(holes, "hash_zeros", count)
    peer = dial(server)
    size = 1000 * MIB
    request_id = peer.request(Put(b"/file", size, ask=True, resume=False))
    assert isinstance(peer.answer().message, Ready)
    hole = frame(Kind.NOTICE, request_id, Hole(MIB))
    peer.send(hole * 999, frame(Kind.CANCEL, request_id))
    assert peer.answer().message.code == "cancelled"
    assert len(hashed) < 999
    assert peer.ask(WhoAmI()).user == "alice"


def test_signs_of_life_come_while_holes_are_hashed(start_server, dial, monkeypatch):
    """Also while the client sends nothing more, because it has sent all of them."""
    server = start_server(stall=0.6)
    go_on = threading.Event()
    monkeypatch.setattr(holes, "hash_zeros", lambda hasher, size: go_on.wait(30))
    peer = dial(server)
    request_id = peer.request(Put(b"/file", 2**30, ask=True, resume=False))
    assert isinstance(peer.answer().message, Ready)
    peer.send(frame(Kind.NOTICE, request_id, Hole(MIB)) * 20)
    try:
        assert isinstance(peer.read().message, Progress)
        assert isinstance(peer.read().message, Progress)
    finally:
        go_on.set()
        peer.close()


def test_a_client_has_time_to_hash_the_holes_that_it_got(server, dial, files):
    """A second for each 64 MiB, beside the time that every client has."""
    sparse.need_holes(files)
    with open(files / "large", "wb") as file:
        file.truncate(1024 * MIB)
    peer = dial(server)
    before = time.monotonic()
    peer.request(Get(b"/large", offset=1, holes=True))
    while peer.read().kind != Kind.END:
        pass
    (session,) = server.service.sessions
    exchange, stall = session.exchange, server.settings.stall
    assert before + stall + 15 <= exchange.stall() <= time.monotonic() + stall + 16
    assert before + stall + 15 <= time.monotonic() + exchange.stream.steady()._seconds
    exchange._hashes_until = before  # once that is over
    assert exchange.stall() <= time.monotonic() + stall


def test_holes_cost_no_rate(server, dial):
    server.accounts.change("alice", limit_rate=64 * KIB)
    peer = dial(server)
    assert put(peer, b"/file", [(True, 32 * MIB)], ask=True) == Stored(32 * MIB)
    assert get(peer, Get(b"/file", holes=True))[2] == 32 * MIB


def test_the_frame_of_a_hole():
    """As docs/protocol.md has it."""
    assert frame(Kind.NOTICE, 2, Hole(MIB)).hex(" ") == (
        "00 00 00 13 07 00 00 00 02 82 a2 6f 70 a4 68 6f 6c 65 a4 73 69 7a 65 ce 00 10 00 00"
    )
    assert frames.HEADER_SIZE == 9
