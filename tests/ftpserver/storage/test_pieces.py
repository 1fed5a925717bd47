"""Pieces of one upload from several sessions: who may bring them, which, and until when."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading

import pytest

from ftpserver.serving import exchange
from ftpserver.storage import piece_table, resumable
from ftpwire import digests, pieces
from ftpwire.frames import Kind
from ftpwire.messages import (
    Get,
    Hash,
    Hashed,
    LoggedIn,
    Put,
    PutPiece,
    Ready,
    Sending,
    Sent,
    Stored,
    Taken,
    WhoAmI,
)
from tests.peer import Peer, eventually

MIB = 1024 * 1024
SIZE = 20 * MIB
DATA = random.Random(11).randbytes(SIZE)
DIGEST = digests.digest(DATA)
UPLOAD = Put(b"/file", SIZE, mtime_ns=10**18, ask=True, pieces=True)


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def owner(server, dial) -> Peer:
    return dial(server)


@pytest.fixture
def helper(server, dial) -> Peer:
    return dial(server)


def begin(peer: Peer, upload: Put = UPLOAD) -> tuple[int, Ready]:
    number = peer.request(upload)
    ready = peer.answer().message
    assert isinstance(ready, Ready), ready
    return number, ready


def send(peer: Peer, key: bytes, offset: int, data: bytes, *, size: int | None = None) -> int:
    """Send a piece, and close it."""
    number = peer.request(PutPiece(key, offset, len(data) if size is None else size))
    for at in range(0, len(data), MIB):
        peer.frame(Kind.DATA, number, data[at : at + MIB])
    peer.frame(Kind.END, number, Sent(len(data)))
    return number


def bring(peer: Peer, key: bytes, offset: int, data: bytes, **options):
    """Send a piece; what comes back."""
    send(peer, key, offset, data, **options)
    return peer.answer().message


def end(peer: Peer, number: int, digest: bytes = DIGEST, size: int = SIZE):
    peer.frame(Kind.END, number, Sent(size, digest))
    return peer.answer().message


def cancel(peer: Peer, number: int) -> None:
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"


def space(server):
    return server.service.ledger.space(server.accounts.get("alice").id)


def staged(server) -> list[str]:
    found = os.listdir(server.settings.root / "alice" / ".ftpd-staging")
    return sorted(name for name in found if name != "lock")


def written(server, offset: int, size: int) -> bool:
    """Whether these bytes are in the staged file of an upload."""
    staging = server.settings.root / "alice" / ".ftpd-staging"
    return any(
        file.read_bytes()[offset : offset + size] == DATA[offset : offset + size]
        for file in staging.iterdir()
        if file.name != "lock"
    )


def test_pieces_from_several_sessions_become_one_file(server, files, owner, helper, dial):
    number, ready = begin(owner)
    assert (ready.offset, ready.digest) == (0, None) and ready.key is not None
    third = dial(server)
    assert bring(third, ready.key, 15 * MIB, DATA[15 * MIB :]) == Taken()
    assert bring(helper, ready.key, 0, DATA[: 7 * MIB]) == Taken()
    owner.frame(Kind.DATA, number)  # it is still there
    assert bring(third, ready.key, 7 * MIB, DATA[7 * MIB : 15 * MIB]) == Taken()
    assert not (files / "file").exists()
    assert end(owner, number) == Stored(SIZE)
    assert (files / "file").read_bytes() == DATA
    assert (files / "file").stat().st_mtime_ns == 10**18
    assert staged(server) == []
    assert (space(server).used, space(server).held) == (SIZE, 0)
    assert owner.ask(Hash(b"/file")) == Hashed(DIGEST, SIZE)
    assert bring(helper, ready.key, 0, b"late").code == "lease-lost"


def test_many_pieces_are_sent_ahead_of_their_answers(server, files, owner, helper):
    number, ready = begin(owner)
    numbers = [
        send(helper, ready.key, at, DATA[at : at + MIB // 2]) for at in range(0, SIZE, MIB // 2)
    ]
    answers = [helper.answer() for _ in numbers]
    assert [(one.request_id, one.message) for one in answers] == [(n, Taken()) for n in numbers]
    assert end(owner, number) == Stored(SIZE)


@pytest.mark.parametrize(
    "upload",
    [
        pytest.param(Put(b"/file", SIZE, ask=True), id="not-asked-for"),
        pytest.param(Put(b"/file", None, ask=True, pieces=True), id="size-unknown"),
        pytest.param(Put(b"/file", 4 * MIB, ask=True, pieces=True), id="small"),
    ],
)
def test_not_every_upload_takes_pieces(server, owner, upload):
    number, ready = begin(owner, upload)
    assert ready.key is None
    data = DATA[: upload.size or SIZE]
    for at in range(0, len(data), MIB):
        owner.frame(Kind.DATA, number, data[at : at + MIB])
    assert end(owner, number, digests.digest(data), len(data)) == Stored(len(data))


def test_nobody_else_brings_pieces(server, owner, dial):
    """Not even with the key; and what is told is the same as for a key that never was."""
    server.accounts.add("mallory", "secret")
    number, ready = begin(owner)
    mallory = dial(server, logged_in=False)
    mallory.log_in("mallory")
    refused = bring(mallory, ready.key, 0, b"x" * MIB)
    assert (refused.code, refused) == ("lease-lost", bring(mallory, bytes(16), 0, b"x" * MIB))
    assert bring(dial(server), ready.key, 0, DATA) == Taken()
    assert end(owner, number) == Stored(SIZE)


@pytest.mark.parametrize(
    ("offset", "size", "code"),
    [
        pytest.param(SIZE - 10, 11, "failed", id="beyond-the-end"),
        pytest.param(2**62, 1, "failed", id="far-beyond"),
        pytest.param(MIB, MIB, "failed", id="there-already"),
        pytest.param(5 * MIB, 2 * MIB, "failed", id="partly-there"),
    ],
)
def test_pieces_that_are_not_missing(server, files, owner, helper, offset, size, code):
    number, ready = begin(owner)
    assert bring(helper, ready.key, 0, DATA[: 6 * MIB]) == Taken()
    assert bring(helper, ready.key, offset, b"?" * min(size, MIB), size=size).code == code
    assert bring(helper, ready.key, 6 * MIB, DATA[6 * MIB :]) == Taken()
    assert end(owner, number) == Stored(SIZE)
    assert (files / "file").read_bytes() == DATA


@pytest.mark.parametrize("more", [-1, 1])
def test_a_piece_of_another_size_than_it_said(server, owner, helper, more):
    number, ready = begin(owner)
    wrong = bring(helper, ready.key, 0, DATA[: MIB + more], size=MIB)
    assert wrong.code == "verification-failed"
    assert bring(helper, ready.key, MIB, DATA[MIB : 2 * MIB]) == Taken()
    cancel(owner, number)


def test_a_gap_is_no_file(server, files, owner, helper):
    number, ready = begin(owner)
    assert bring(helper, ready.key, 0, DATA[: 6 * MIB]) == Taken()
    assert bring(helper, ready.key, 7 * MIB, DATA[7 * MIB :]) == Taken()
    assert end(owner, number).code == "verification-failed"
    assert not (files / "file").exists() and staged(server) == []
    assert (space(server).used, space(server).held) == (0, 0)


def test_wrong_bytes_are_no_file(server, files, owner, helper):
    number, ready = begin(owner)
    assert bring(helper, ready.key, 0, DATA[:-1] + b"!") == Taken()
    assert end(owner, number).code == "verification-failed"
    assert not (files / "file").exists() and staged(server) == []


def test_the_owner_sends_no_bytes_beside(server, files, owner, helper):
    number, ready = begin(owner)
    owner.frame(Kind.DATA, number, b"beside")
    assert owner.answer().message.code == "verification-failed"
    owner.frame(Kind.CANCEL, number)
    assert bring(helper, ready.key, 0, DATA).code == "lease-lost"
    assert staged(server) == []


def test_cancelling_a_piece_keeps_the_session(server, owner, helper):
    number, ready = begin(owner)
    piece = helper.request(PutPiece(ready.key, 0, MIB))
    helper.frame(Kind.DATA, piece, DATA[:1000])
    cancel(helper, piece)
    assert bring(helper, ready.key, MIB, DATA[MIB : 2 * MIB]) == Taken()
    cancel(owner, number)


def test_a_piece_that_was_begun_is_not_begun_again(server, owner, helper, dial):
    """Whatever became of it: its place is missing only once the upload is begun again."""
    number, ready = begin(owner)
    assert bring(helper, ready.key, 0, DATA[: 5 * MIB]) == Taken()
    for offset in (5 * MIB, 6 * MIB):
        piece = helper.request(PutPiece(ready.key, offset, MIB))
        helper.frame(Kind.DATA, piece, DATA[offset : offset + 1000])
        eventually(lambda at=offset: written(server, at, 1000), "it to be begun")
        if offset == 5 * MIB:
            cancel(helper, piece)
        else:  # it is under way
            other = dial(server)
            assert bring(other, ready.key, offset, DATA[offset:][:MIB]).code == "failed"
            cancel(helper, piece)
        assert bring(helper, ready.key, offset, DATA[offset:][:MIB]).code == "failed"
    cancel(owner, number)
    number, ready = begin(owner)
    assert ready.offset == 5 * MIB + 1000, "what came without a gap before it"
    assert bring(helper, ready.key, ready.offset, DATA[ready.offset :]) == Taken()
    assert end(owner, number) == Stored(SIZE)


def test_a_refused_piece_is_closed_like_an_upload(server, helper):
    send(helper, bytes(16), 0, b"data")
    assert helper.answer().message.code == "lease-lost"
    assert helper.ask(WhoAmI()) == LoggedIn("alice")  # nothing was answered to its END
    number = helper.request(PutPiece(bytes(16), 0, 4))
    assert helper.answer().message.code == "lease-lost"
    helper.frame(Kind.CANCEL, number)
    assert helper.ask(WhoAmI()) == LoggedIn("alice")
    helper.request(PutPiece(bytes(16), 0, 4))
    assert helper.answer().message.code == "lease-lost"
    helper.request(WhoAmI())
    assert [one.message.code for one in helper.read_to_end()] == ["bad-message"]


def test_the_digest_of_a_piece_is_not_looked_at(server, owner, helper):
    number, ready = begin(owner)
    piece = helper.request(PutPiece(ready.key, 0, 4))
    helper.frame(Kind.DATA, piece, b"data")
    helper.frame(Kind.END, piece, Sent(4, digests.digest(b"other")))
    assert helper.answer().message == Taken()
    cancel(owner, number)


def test_the_rest_is_hashed_with_progress(server, owner, helper, monkeypatch):
    go_on, real = threading.Event(), piece_table.Collector.note_hashed

    def note_late(self, at: int) -> None:
        assert go_on.wait(60)
        real(self, at)

    monkeypatch.setattr(exchange, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(piece_table, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(piece_table.Collector, "note_hashed", note_late)
    data = DATA[: 5 * MIB]
    number, ready = begin(owner, Put(b"/file", len(data), mtime_ns=7, ask=True, pieces=True))
    assert bring(helper, ready.key, 0, data) == Taken()
    owner.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    found = owner.read()
    go_on.set()
    assert (found.kind, found.request_id) == (Kind.NOTICE, number)
    assert found.message.total == len(data)
    assert owner.answer().message == Stored(len(data))


@pytest.mark.parametrize("leave", ["cancel", "reset"])
def test_when_the_owner_goes_so_do_the_pieces(server, owner, helper, dial, leave):
    """What is there without a gap is kept, and counts for the next try."""
    number, ready = begin(owner)
    assert bring(helper, ready.key, 9 * MIB, DATA[9 * MIB : 12 * MIB]) == Taken()
    assert bring(helper, ready.key, 0, DATA[: 6 * MIB]) == Taken()
    piece = helper.request(PutPiece(ready.key, 6 * MIB, 3 * MIB))
    helper.frame(Kind.DATA, piece, DATA[6 * MIB : 7 * MIB])
    if leave == "cancel":
        eventually(lambda: server.settings.root / "alice/.ftpd-staging" / staged(server)[0])
        cancel(owner, number)
    else:
        owner.reset()
        eventually(lambda: len(server.service.sessions) == 1)
    helper.frame(Kind.DATA, piece, DATA[7 * MIB : 8 * MIB])
    helper.frame(Kind.END, piece, Sent(3 * MIB))
    assert helper.answer().message.code == "lease-lost"
    assert space(server).held == SIZE
    kept = server.settings.root / "alice/.ftpd-staging" / staged(server)[0]
    assert kept.stat().st_size <= 7 * MIB, "nothing behind the gap stays"
    again = dial(server)
    number, ready = begin(again)
    assert 6 * MIB <= ready.offset <= 7 * MIB
    assert ready.digest == digests.digest(DATA[: ready.offset])
    assert bring(helper, ready.key, ready.offset, DATA[ready.offset :]) == Taken()
    assert end(again, number) == Stored(SIZE)


def test_all_of_it_was_there(server, files, owner, helper, dial):
    number, ready = begin(owner)
    assert bring(helper, ready.key, 0, DATA) == Taken()
    cancel(owner, number)
    number, ready = begin(owner)
    assert (ready.offset, ready.digest) == (SIZE, DIGEST)
    assert end(owner, number) == Stored(SIZE)
    assert (files / "file").read_bytes() == DATA and staged(server) == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="threads"),
        pytest.param({"workers": 2}, marks=pytest.mark.system, id="workers"),
        pytest.param({"isolation": "process"}, marks=pytest.mark.system, id="process"),
    ],
)
def test_sessions_take_an_upload_over_from_each_other(start_server, dial, monkeypatch, options):
    """Whoever had it says nothing meanwhile, and is cut; in whatever processes they are."""
    monkeypatch.setattr(exchange, "_LOOK_SECONDS", 0.05)
    server = start_server(durable=False, **options)
    helpers, before, key = [dial(server) for _ in range(3)], None, bytes(16)
    for start, until in ((0, 5), (5, 9), (9, 12), (12, 20)):
        owner = dial(server)
        number, ready = begin(owner)
        assert ready.offset == start * MIB and ready.key != key
        assert bring(helpers[0], key, start * MIB, b"x" * MIB).code == "lease-lost"
        if before is not None:
            assert [one.message.code for one in before.read_to_end()] == ["taken-over"]
        for at in range(start, until):
            helper = helpers[at % 3]
            assert bring(helper, ready.key, at * MIB, DATA[at * MIB : (at + 1) * MIB]) == Taken()
        before, key = owner, ready.key
    assert end(owner, number) == Stored(SIZE)
    assert (server.settings.root / "alice" / "file").read_bytes() == DATA
    assert staged(server) == []
    assert (space(server).used, space(server).held) == (SIZE, 0)


def test_a_client_that_is_silent_holds_up_nobody(start_server, dial, monkeypatch):
    """An upload that doesn't come in pieces: what was written of it is there for the next one."""
    monkeypatch.setattr(exchange, "_LOOK_SECONDS", 0.05)
    server = start_server(durable=False, stall=600)
    owner = dial(server)
    upload = Put(b"/file", SIZE, mtime_ns=10**18, ask=True)
    number, _ = begin(owner, upload)
    for at in range(0, 8 * MIB, MIB):
        owner.frame(Kind.DATA, number, DATA[at : at + MIB])
    name = server.settings.root / "alice" / ".ftpd-staging"
    eventually(lambda: max(one.stat().st_size for one in name.iterdir()) >= 6 * MIB)
    later = dial(server)
    number, ready = begin(later, upload)
    assert 6 * MIB <= ready.offset <= 8 * MIB
    with owner:  # which sends nothing
        assert [one.message.code for one in owner.read_to_end()] == ["taken-over"]
    eventually(lambda: len(server.service.sessions) == 1)
    for at in range(ready.offset, SIZE, MIB):
        later.frame(Kind.DATA, number, DATA[at : at + MIB])
    assert end(later, number) == Stored(SIZE)
    assert (server.settings.root / "alice" / "file").read_bytes() == DATA


def test_checkpoints_are_left_on_the_way(server, owner, helper, dial, monkeypatch):
    """A crash leaves what is synced without a gap."""
    monkeypatch.setattr(pieces, "STEP", 4 * MIB)
    marks = []
    real = resumable.Checkpoint.append

    def append(self, offset, digest):
        marks.append(offset)
        real(self, offset, digest)

    monkeypatch.setattr(resumable.Checkpoint, "append", append)
    number, ready = begin(owner)
    assert bring(helper, ready.key, 12 * MIB, DATA[12 * MIB :]) == Taken()
    assert bring(helper, ready.key, 0, DATA[: 10 * MIB]) == Taken()
    eventually(lambda: len(marks) == 2)
    assert 4 * MIB <= marks[0] < 5 * MIB and 8 * MIB <= marks[1] < 9 * MIB
    cancel(owner, number)
    assert marks[2:] == [10 * MIB]


def test_space_is_reserved_before_the_first_piece(start_server, dial):
    server = start_server(durable=False, quota=SIZE - 1)
    refused = dial(server)
    number = refused.request(UPLOAD)
    assert refused.answer().message.code == "quota"
    refused.frame(Kind.CANCEL, number)
    assert staged(server) == []


def test_a_full_disk_fails_the_piece_and_the_file(server, files, owner, helper):
    number, ready = begin(owner)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB, before[1]))
        assert bring(helper, ready.key, 0, DATA[: 8 * MIB]).code == "disk-full"
        assert end(owner, number).code == "disk-full"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert staged(server) == [] and not (files / "file").exists()
    assert space(server).held == 0


# downloads ---------------------------------------------------------------------------------


def fetch(peer: Peer, request: Get) -> tuple[Sending, bytes, object]:
    peer.request(request)
    info = peer.answer().message
    data = b""
    while (answer := peer.answer()).kind == Kind.DATA:
        data += answer.payload
    return info, data, answer.message


RANGES = [
    *((0, 0), (0, 1), (3, MIB), (MIB, 5 * MIB)),
    *((SIZE - 5, 5), (SIZE - 5, 50), (SIZE, 1), (0, SIZE)),
]


@pytest.mark.parametrize("plaintext", [True, False], ids=["plain", "tls"])
def test_ranges(start_server, dial, tls_client_context, plaintext):
    server = start_server(durable=False, plaintext=plaintext)
    home = server.settings.root / "alice"
    home.mkdir(exist_ok=True)
    (home / "file").write_bytes(DATA)
    peer = dial(server, context=None if plaintext else tls_client_context)
    for kept in (None, DIGEST):
        for offset, length in RANGES:
            info, data, ending = fetch(peer, Get(b"/file", offset, length=length))
            assert (info.size, info.offset) == (SIZE, offset)
            assert data == DATA[offset : offset + length]
            assert ending == Sent(SIZE, kept)  # nothing is hashed for it
        peer.ask(Hash(b"/file"))


def test_a_prefix_is_compared_before_any_range(server, owner, files):
    (files / "file").write_bytes(DATA)
    right, wrong = digests.digest(DATA[:MIB]), digests.digest(b"")
    info, data, _ = fetch(owner, Get(b"/file", MIB, right, 0))
    assert (info.offset, data) == (MIB, b"")
    info, data, _ = fetch(owner, Get(b"/file", MIB, wrong, 0))
    assert (info.offset, data) == (0, b"")
