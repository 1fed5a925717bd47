"""What docs/protocol.md says of downloads, digests, cancelling and progress.

Lives here: what no other test shows. checked_sentences.txt tells which test shows which sentence.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpserver.serving import exchange
from ftpserver.workspace import reading
from ftpwire import digests, growing, streams
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    Done,
    EndTree,
    Failed,
    Get,
    Hash,
    Hashed,
    LoggedIn,
    Move,
    Operation,
    Progress,
    Remove,
    Sending,
    Sent,
    Stat,
    WhoAmI,
)
from tests import sparse
from tests.peer import Peer, frame

MIB = 1024 * 1024
LARGE = bytes(range(256)) * 4096
BEFORE = 10**18
"""mtime of a file before it is written to."""


@pytest.fixture
def large(files) -> Path:
    path = files / "large"
    path.write_bytes(LARGE)
    os.utime(path, ns=(BEFORE, BEFORE))
    return path


@pytest.fixture
def talkative(monkeypatch):
    """Tell of progress at every opportunity."""
    monkeypatch.setattr(exchange, "_PROGRESS_SECONDS", 0.0)


def keep_digest(peer: Peer, path: Path) -> None:
    """Have the server store a digest beside a file, or skip."""
    assert peer.ask(Hash(b"/" + os.fsencode(path.name))).size
    if not os.listxattr(path):
        pytest.skip("this file system keeps no attributes")


def download(peer: Peer, request: Get) -> tuple[Sending, bytes, object, list[Progress]]:
    """`sending`, the bytes, how it ended, and the progress that was told on the way."""
    number, reported, data = peer.request(request), [], b""
    sending: object = None
    while True:
        found = peer.read()
        if found.kind == Kind.NOTICE:
            assert found.request_id == number
            reported.append(found.message)
        elif found.kind == Kind.REPLY:
            sending = found.message
        elif found.kind == Kind.DATA:
            data += found.payload
        else:
            assert isinstance(sending, Sending)
            return sending, data, found.message, reported


# files that change -------------------------------------------------------------------------


@pytest.fixture
def before_the_check(monkeypatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen to a file once its bytes were sent, before it is looked whether they
    are still so."""

    def arrange(happens: Callable[[], object]) -> None:
        real = growing.has_grown

        def has_grown(*arguments):
            happens()
            return real(*arguments)

        monkeypatch.setattr(growing, "has_grown", has_grown)

    return arrange


def append(path: Path, data: bytes = b"more") -> None:
    with path.open("ab") as file:
        file.write(data)


def rewrite(path: Path) -> None:
    """Other bytes, and more of them, as a database has it."""
    with path.open("r+b") as file:
        file.write(b"other")
    append(path)


def test_a_file_that_grows_is_sent_as_it_was(server, dial, large, before_the_check, talkative):
    peer = dial(server)
    before_the_check(lambda: append(large))
    sending, data, sent, reported = download(peer, Get(b"/large"))
    assert (sending.size, sending.mtime_ns, data) == (len(LARGE), BEFORE, LARGE)
    assert sent == Sent(len(LARGE), digests.digest(LARGE), grew=True)
    assert reported and reported[-1] == Progress(len(LARGE), len(LARGE))  # it was read once more


def test_after_a_prefix_it_is_reported_too(server, dial, large, before_the_check):
    before_the_check(lambda: append(large))
    request = Get(b"/large", 1000, digests.digest(LARGE[:1000]))
    _, data, sent, _ = download(dial(server), request)
    assert data == LARGE[1000:]
    assert sent == Sent(len(LARGE), digests.digest(LARGE), grew=True)


@pytest.mark.parametrize("offset", [0, 1000])
def test_a_file_that_is_rewritten_is_not_what_was_sent(
    server, dial, large, before_the_check, offset
):
    before_the_check(lambda: rewrite(large))
    _, _, failed, _ = download(dial(server), Get(b"/large", offset))
    assert failed.code == "source-changed"


@pytest.mark.parametrize("stored", [True, False])
def test_after_an_offset_alone_only_a_stored_digest_decides(
    server, dial, large, before_the_check, stored
):
    peer = dial(server)
    if stored:
        keep_digest(peer, large)
    before_the_check(lambda: append(large))
    _, data, ending, _ = download(peer, Get(b"/large", 1000))
    assert data == LARGE[1000:]
    if stored:
        assert ending == Sent(len(LARGE), digests.digest(LARGE), grew=True)
    else:
        assert ending.code == "source-changed"


def test_whether_a_file_in_ranges_has_just_grown(server, dial, large):
    """As a client finds it out that fetches a file over several connections."""
    peer, half = dial(server), len(LARGE) // 2
    first = download(peer, Get(b"/large", 0, None, half))
    append(large)
    second = download(peer, Get(b"/large", half, None, half))
    assert [first[0].size, second[0].size] == [len(LARGE), len(LARGE) + 4]
    assert first[0].mtime_ns != second[0].mtime_ns
    whole = first[1] + second[1]
    assert whole == LARGE and first[2].digest is second[2].digest is None
    asks = Get(b"/large", len(LARGE), digests.digest(whole), 0)
    assert download(peer, asks)[0].offset == len(LARGE)
    rewrite(large)
    assert download(peer, asks)[0].offset == 0
    assert peer.ask(Hash(b"/large")) == Hashed(digests.digest(large.read_bytes()), len(LARGE) + 8)


def test_a_file_is_sent_with_what_a_listing_reports_it(server, dial, large):
    peer = dial(server)
    large.chmod(0o4751)
    for time in (BEFORE, -1, 1_700_000_000_123_456_789):
        os.utime(large, ns=(time, time))
        sending, *_ = download(peer, Get(b"/large"))
        entry = peer.ask(Stat(b"/large")).entry
        assert (sending.size, sending.mode, sending.mtime_ns) == (len(LARGE), 0o4751, time)
        assert (entry.size, entry.mode, entry.mtime_ns) == (len(LARGE), 0o4751, time)


# progress ----------------------------------------------------------------------------------


def notices(peer: Peer, request: object) -> tuple[list[Progress], object]:
    """What progress a request tells, and its answer."""
    number, reported = peer.request(request), []
    while (found := peer.read()).kind == Kind.NOTICE:
        assert found.request_id == number
        reported.append(found.message)
    return reported, found.message


def test_progress_of_a_hash_has_its_bytes(server, dial, large, talkative):
    reported, hashed = notices(dial(server), Hash(b"/large"))
    assert hashed == Hashed(digests.digest(LARGE), len(LARGE))
    assert {one.total for one in reported} == {len(LARGE)}
    assert [one.done for one in reported] == sorted({one.done for one in reported})
    assert reported[-1].done == len(LARGE)


def test_progress_without_bytes(server, dial, files, talkative):
    """It tells that the work goes on, and no more."""
    for name in ("dir", "tree"):
        (files / name).mkdir()
        for number in range(600):
            (files / name / f"{number}").touch()
    peer = dial(server)
    assert peer.ask(Operation(keep=False)) == Done()
    assert peer.ask(BeginTree(b"/tree")) == Done()
    for request in (
        EndTree(),
        Copy(b"/dir", b"/copy", recursive=True),
        Remove(b"/dir", recursive=True),
    ):
        reported, answer = notices(peer, request)
        assert not isinstance(answer, Failed), answer
        assert {(one.done, one.total) for one in reported} == {(0, None)}, request


def test_a_sign_of_life_reports_how_far_it_is(server, dial, large, monkeypatch):
    """Not that it was set back: a client may show these figures."""
    reached, go_on = threading.Event(), threading.Event()
    real = reading.OpenFile._tick

    def wait_on_the_way(self, count: int) -> None:
        real(self, count)
        if self._done < self.size and not reached.is_set():
            reached.set()
            assert go_on.wait(60)

    monkeypatch.setattr(reading.OpenFile, "_tick", wait_on_the_way)
    monkeypatch.setattr(streams, "BUFFER_SIZE", 64 * 1024)
    peer = dial(server)
    number = peer.request(Hash(b"/large"))
    assert reached.wait(60)
    (session,) = server.service.sessions
    try:
        for _ in range(2):  # nothing moved since the one before
            session.say_alive()
        found = peer.read()
    finally:
        go_on.set()
    assert (found.kind, found.request_id) == (Kind.NOTICE, number)
    assert 0 < found.message.done < found.message.total == len(LARGE)
    assert isinstance(peer.answer().message, Hashed)
    peer.frame(Kind.REQUEST, number, WhoAmI())  # an id may come again: its figures don't
    assert peer.answer().message == LoggedIn("alice")
    assert session.exchange._reached == (number, Progress(0))


# cancelling --------------------------------------------------------------------------------


@pytest.mark.parametrize(("between", "is_seen"), [(10, True), (400, False)])
def test_a_cancel_is_looked_for_among_what_has_arrived_first(
    server, dial, files, monkeypatch, between, is_seen
):
    """So many requests come between another one and its CANCEL."""
    assert (exchange._CANCEL_EVERY, exchange._LOOKED_AT) == (4 * MIB, 64 * 1024)
    monkeypatch.setattr(exchange, "_CANCEL_EVERY", 1)
    sparse.make_solid(files / "zeros", 32 * MIB)
    peer = dial(server)
    long = frame(Kind.REQUEST, 7, Stat(b"/." * 2000))
    assert (between * len(long) > MIB) != is_seen
    sent = [
        *(frame(Kind.REQUEST, 1, WhoAmI()), frame(Kind.REQUEST, 2, Hash(b"/zeros"))),
        *[long] * between,
        frame(Kind.CANCEL, 2),
    ]
    sender = threading.Thread(target=lambda: peer.send(*sent))
    sender.start()
    answers = [peer.answer() for _ in range(2 + between)]
    sender.join()
    assert [one.request_id for one in answers] == [1, 2, *[7] * between]
    if is_seen:
        assert answers[1].message.code == "cancelled"
    else:
        assert isinstance(answers[1].message, Hashed)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_what_is_done_at_once_runs_to_its_end(server, dial, files, monkeypatch):
    """Of `move` and `remove` CANCEL stops those only that go step by step."""
    monkeypatch.setattr(exchange, "_CANCEL_EVERY", 1)
    (files / "dir").mkdir()
    (files / "dir" / "file").write_bytes(b"data")
    peer = dial(server)
    for request in (Move(b"/dir", b"/moved"), Remove(b"/moved", recursive=True)):
        peer.request(request, cancelled=True)
        assert not isinstance(peer.answer().message, Failed)
    assert set(os.listdir(files)) == {".ftpd-staging", ".ftpd-trash"}
