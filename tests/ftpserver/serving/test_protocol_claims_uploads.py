"""What docs/protocol.md says of uploads, of resuming them, and of batches.

Lives here: what no other test shows. checked_sentences.txt tells which test shows which sentence.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from ftpserver.storage import batch
from ftpserver.storage.batch import SMALL
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    Done,
    Listed,
    ListKept,
    LoggedIn,
    MakeDir,
    Put,
    Ready,
    Remove,
    Sent,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import Peer, eventually

MIB = 1024 * 1024
KEPT_FROM = 4 * MIB
LARGE = random.Random(21).randbytes(5 * MIB)


def staged(home: Path) -> list[Path]:
    """The files that are in staging just now."""
    found = home.glob(".ftpd-staging/*")
    return [path for path in found if path.name != "lock"]


def begin(peer: Peer, request: Put) -> tuple[int, Ready]:
    """Ask for an upload; its id, and `ready`."""
    number = peer.request(request)
    ready = peer.answer().message
    assert isinstance(ready, Ready), ready
    return number, ready


def send(peer: Peer, number: int, data: bytes) -> None:
    for at in range(0, len(data), MIB):
        peer.frame(Kind.DATA, number, data[at : at + MIB])


def end(peer: Peer, number: int, data: bytes) -> object:
    """Close an upload of these bytes; its answer."""
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    return peer.answer().message


def upload(peer: Peer, path: bytes, data: bytes = b"data", **options) -> object:
    number = peer.request(Put(path, len(data), **options))
    send(peer, number, data)
    return end(peer, number, data)


def cancel(peer: Peer, number: int) -> None:
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"


# uploads -----------------------------------------------------------------------------------


def test_the_bytes_go_to_a_hidden_file(server, dial, files):
    peer, data = dial(server), bytes(SMALL + 1)
    number = peer.request(Put(b"/file", len(data)))
    peer.frame(Kind.DATA, number, data[:-1])
    eventually(lambda: [path for path in staged(files) if path.is_file()])
    assert not (files / "file").exists()
    peer.frame(Kind.DATA, number, data[-1:])
    assert end(peer, number, data) == Stored(len(data))
    assert (files / "file").read_bytes() == data and staged(files) == []
    assert dial(server).ask(Stat(b"/.ftpd-staging")).code == "invalid-path"


@pytest.mark.parametrize("size", [4, SMALL + 4])
@pytest.mark.parametrize("becomes_free", [True, False])
def test_the_name_is_looked_at_once_the_bytes_have_arrived(server, dial, files, size, becomes_free):
    """Without `ask`: whatever was there at the beginning doesn't matter."""
    (files / "t").write_bytes(b"taken")
    (files / "d").mkdir()
    peer, other, data = dial(server), dial(server), bytes(size)
    cases = {
        Put(b"/m/file", size): (MakeDir(b"/m"), "not-found"),
        Put(b"/t", size, overwrite="never"): (Remove(b"/t"), "exists"),
        Put(b"/d", size): (Remove(b"/d"), "is-a-directory"),
    }
    for request, (change, code) in cases.items():
        number = peer.request(request)
        send(peer, number, data[:-1])
        if size > SMALL:
            eventually(lambda: staged(files))
        if becomes_free:
            other.ask(change)
        send(peer, number, data[-1:])
        answer = end(peer, number, data)
        assert answer == Stored(size) if becomes_free else answer.code == code
    number = peer.request(Put(b"/n/file", size, parents=True))
    send(peer, number, data)
    assert end(peer, number, data) == Stored(size)


@pytest.mark.parametrize(
    ("request_", "data", "code"),
    [
        (Put(b"/file", 3), b"four", "verification-failed"),
        (Put(b"/file", SMALL + 1), bytes(SMALL + 2), "verification-failed"),
        (Put(b"/file", None), bytes(MIB), "quota"),
        (Put(b"/file", MIB), b"one", "quota"),
    ],
    ids=["small", "large", "of-unknown-size", "quota"],
)
def test_a_refusal_comes_while_bytes_still_come(start_server, dial, request_, data, code):
    peer = dial(start_server(quota=MIB // 2))
    number = peer.request(request_)
    send(peer, number, data)
    refused = peer.answer()
    assert (refused.request_id, refused.message.code) == (number, code)
    send(peer, number, data)  # discarded
    peer.frame(Kind.CANCEL, number)  # which has no answer of its own
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    number = peer.request(request_)
    send(peer, number, data)
    assert peer.answer().request_id == number
    peer.request(WhoAmI())  # of another id, before END or CANCEL
    (last,) = peer.read_to_end()
    assert (last.kind, last.request_id, last.message.code) == (Kind.ERROR, 0, "bad-message")


def test_ftp_asks_for_files_above_4_mib(server, client, tmp_path, monkeypatch):
    """And where it doesn't know the size."""
    requested, real = {}, Workspace.expect

    def expect(self, request: Put) -> None:
        requested[request.path] = request.size, request.ask
        real(self, request)

    monkeypatch.setattr(Workspace, "expect", expect)
    for size in (4 * MIB, 4 * MIB + 1):
        with (tmp_path / f"{size}").open("wb") as file:
            file.truncate(size)
        client.put([tmp_path / f"{size}"], f"/{size}")
    os.mkfifo(tmp_path / "fifo")
    writing = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(b"data",))
    writing.start()
    client.put([tmp_path / "fifo"], "/pipe")
    writing.join()
    small, large = 4 * MIB, 4 * MIB + 1
    assert requested[b"/%d" % small] == (small, False)
    assert requested[b"/%d" % large] == (large, True)
    assert requested[b"/pipe"] == (None, True)


# resuming ----------------------------------------------------------------------------------


def keep(peer: Peer, request: Put, data: bytes) -> None:
    """Send the beginning of an upload, and give it up."""
    number, ready = begin(peer, request)
    send(peer, number, data[ready.offset :])
    cancel(peer, number)


def kept(peer: Peer) -> list[tuple[bytes | None, int, int]]:
    """Path, size and total of what is kept."""
    peer.request(ListKept())
    found = []
    while (part := peer.answer().message) != Listed():
        found += [(one.path, one.size, one.total) for one in part.uploads]
    return found


def test_what_is_kept_is_large(server, dial):
    peer = dial(server)
    number = peer.request(Put(b"/no-ask", KEPT_FROM + 1, mtime_ns=7))
    send(peer, number, LARGE[:KEPT_FROM])
    cancel(peer, number)
    for size, count in ((KEPT_FROM, KEPT_FROM), (KEPT_FROM + 1, KEPT_FROM - 1)):
        keep(peer, Put(b"/file", size, mtime_ns=7, ask=True), LARGE[:count])
        assert kept(peer) == []
    keep(peer, Put(b"/file", KEPT_FROM + 1, mtime_ns=7, ask=True), LARGE[:KEPT_FROM])
    assert kept(peer) == [(b"/file", KEPT_FROM, KEPT_FROM + 1)]
    space = server.service.ledger.space(server.accounts.get("alice").id)
    assert space.kept == KEPT_FROM + 1


def test_the_same_upload_finds_what_is_kept(server, dial, files):
    server.accounts.add("bob", "secret")
    peer, bob = dial(server), dial(server, logged_in=False)
    bob.log_in("bob")
    request, sent = Put(b"/file", len(LARGE), mtime_ns=7, ask=True), len(LARGE) - 1000
    keep(peer, request, LARGE[:sent])
    others = [
        (bob, request),
        (peer, Put(b"/other", len(LARGE), mtime_ns=7, ask=True)),
        (peer, Put(b"/file", len(LARGE) + 1, mtime_ns=7, ask=True)),
        (peer, Put(b"/file", len(LARGE), mtime_ns=8, ask=True)),
        (peer, Put(b"/file", len(LARGE), ask=True)),
    ]
    for who, other in others:
        number, ready = begin(who, other)
        assert ready == Ready(0, None, None)
        cancel(who, number)
    number, ready = begin(peer, request)
    assert ready == Ready(sent, digests.digest(LARGE[:sent]), None)
    send(peer, number, LARGE[sent:])
    assert end(peer, number, LARGE) == Stored(len(LARGE))
    assert (files / "file").read_bytes() == LARGE


def test_of_two_without_a_time_only_the_digest_distinguishes_them(server, dial, files):
    """As a client finds out that its source is another one: it goes on without what is kept."""
    peer, other = dial(server), LARGE[::-1]
    request = Put(b"/file", len(LARGE), ask=True)
    keep(peer, request, LARGE[:KEPT_FROM])
    number, ready = begin(peer, request)
    assert ready.offset == KEPT_FROM
    assert ready.digest == digests.digest(LARGE[:KEPT_FROM]) != digests.digest(other[:KEPT_FROM])
    cancel(peer, number)
    number, ready = begin(peer, Put(b"/file", len(LARGE), ask=True, resume=False))
    assert ready == Ready(0, None, None)
    send(peer, number, other)
    assert end(peer, number, other) == Stored(len(LARGE))
    assert (files / "file").read_bytes() == other


@pytest.mark.parametrize("sends", ["all-of-it", "another-rest", "its-own-size-and-digest"])
def test_the_offset_has_to_be_honoured(server, dial, files, sends):
    peer, request = dial(server), Put(b"/file", len(LARGE), mtime_ns=7, ask=True)
    keep(peer, request, LARGE[:KEPT_FROM])
    number, ready = begin(peer, request)
    assert ready.offset == KEPT_FROM
    rest = LARGE[KEPT_FROM:]
    match sends:
        case "all-of-it":
            send(peer, number, LARGE)
            answer = end(peer, number, LARGE)
        case "another-rest":
            send(peer, number, rest)
            answer = end(peer, number, LARGE[::-1])
        case _:  # `sent` tells of the whole file, not of the bytes that were sent
            send(peer, number, rest)
            answer = end(peer, number, rest)
    assert answer.code == "verification-failed"
    assert not (files / "file").exists()


# batches -----------------------------------------------------------------------------------


def test_a_batch_and_what_shares_space_have_the_sizes_that_are_written():
    assert (batch.BATCH_FILES, batch.BATCH_BYTES) == (1000, 64 * MIB)
    assert batch.SHARES_STEP == 4 * MIB  # uploads up to this share steps of room


def test_a_batch_ends_before_an_upload_that_asks(server, dial, files):
    peer = dial(server)
    peer.frame(Kind.REQUEST, 1, MakeDir(b"/dir"))
    peer.frame(Kind.REQUEST, 2, Put(b"/dir/file", 4, ask=True))
    answers = [peer.answer() for _ in range(2)]
    assert [(one.request_id, one.message) for one in answers] == [(1, Done()), (2, Ready())]
    send(peer, 2, b"data")
    assert end(peer, 2, b"data") == Stored(4)


def test_answers_wait_while_a_later_upload_is_open(server, dial, files):
    peer, data = dial(server), bytes(SMALL + 1)
    first = peer.request(Put(b"/first", 4))
    send(peer, first, b"data")
    peer.frame(Kind.END, first, Sent(4, digests.digest(b"data")))
    second = peer.request(Put(b"/second", len(data)))
    send(peer, second, data[:-1])
    eventually(lambda: any(path.stat().st_size > 4 for path in staged(files)))
    assert peer.is_silent() and not (files / "first").exists()
    send(peer, second, data[-1:])
    peer.frame(Kind.END, second, Sent(len(data), digests.digest(data)))
    assert [peer.answer().request_id for _ in range(2)] == [first, second]
