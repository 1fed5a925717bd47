"""Two clients that upload the same file: one goes on, the other hears so and leaves it be."""

from __future__ import annotations

import os
import threading

import pytest

from ftpclient.errors import UploadTakenOver
from ftpclient.transfer.report import Listener
from ftpserver.serving import exchange
from ftpserver.storage.batch import Uploads
from ftpserver.storage.resumable import RESUME_FROM
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Done, Failed, MakeDir, Put, Ready, Sent, Stored
from tests.hostile.conftest import Site, each_way
from tests.peer import Peer, eventually, frame

MIB = 1024 * 1024
DATA = os.urandom(RESUME_FROM + 2 * MIB)
THERE = RESUME_FROM + MIB


def begin(peer: Peer, path: bytes = b"/large") -> tuple[int, Ready]:
    """Ask for the upload; returns the request's id, and the answer."""
    number = peer.request(Put(path, len(DATA), mtime_ns=5, ask=True))
    ready = peer.answer().message
    assert isinstance(ready, Ready), ready
    return number, ready


def send(peer: Peer, number: int, start: int, stop: int) -> None:
    for at in range(start, stop, MIB):
        peer.frame(Kind.DATA, number, DATA[at : min(at + MIB, stop)])


def finish(peer: Peer, number: int, start: int) -> None:
    send(peer, number, start, len(DATA))
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
    assert peer.answer().message == Stored(len(DATA))


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """Have a session find out soon that its upload isn't its own any more."""
    monkeypatch.setattr(exchange, "_LOOK_SECONDS", 0.05)


@each_way
def test_the_earlier_session_is_informed_that_another_goes_on(serve, way):
    check_that_the_earlier_one_is_told(serve(), pieces=False)


def test_so_is_one_whose_upload_comes_in_pieces(serve):
    check_that_the_earlier_one_is_told(serve(), pieces=True)


def check_that_the_earlier_one_is_told(site: Site, *, pieces: bool) -> None:
    first, second = site.user(), site.user()
    assert first.ask(MakeDir(b"/before")) == Done()
    number = first.request(Put(b"/large", len(DATA), mtime_ns=5, ask=True, pieces=pieces))
    assert isinstance(first.answer().message, Ready)
    if not pieces:
        send(first, number, 0, THERE)
    mine, ready = begin(second)
    assert ready.offset <= THERE
    with first:
        *_, last = first.read_to_end()
    assert (last.kind, last.request_id) == (Kind.ERROR, 0)
    text = "/large: another session uploads the same file and has taken over"
    assert last.message == Failed("taken-over", text, path=b"/large")
    finish(second, mine, ready.offset)


def test_so_is_one_that_is_about_to_be_stored(serve, monkeypatch):
    """At once, and by the right name: nothing more might come that would let it find out."""
    site = serve()
    first, second = site.user(), site.user()
    number, _ = begin(first)
    send(first, number, 0, len(DATA))
    began, goes_on, commit = threading.Event(), threading.Event(), Uploads.commit

    def slow(self: Uploads, *, late: bool = False) -> object:
        if self.pending and not began.is_set():
            began.set()
            goes_on.wait()
        return commit(self, late=late)

    monkeypatch.setattr(Uploads, "commit", slow)
    first.send(
        frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA))),
        frame(Kind.REQUEST, 50, Put(b"/other", 1)),
        frame(Kind.DATA, 50, b"x"),
        frame(Kind.END, 50, Sent(1)),
    )
    began.wait()
    try:
        mine, ready = begin(second)
    finally:
        goes_on.set()
    with first:
        lost, stored, last = first.read_to_end()
    assert (lost.request_id, lost.message.code) == (number, "lease-lost")
    assert (stored.request_id, stored.message) == (50, Stored(1))
    assert (last.kind, last.request_id, last.message.code) == (Kind.ERROR, 0, "taken-over")
    assert last.message.message.startswith("/large: ")
    finish(second, mine, ready.offset)


class Meanwhile(Listener):
    """Has another client take the upload over, once some of it was sent."""

    def __init__(self, other: Peer) -> None:
        self._other = other
        self._sent = 0
        self.begun: tuple[int, Ready] | None = None

    def advanced(self, count: int) -> None:
        self._sent += count
        if self.begun is None and self._sent > THERE:
            self.begun = begin(self._other)


@pytest.mark.parametrize("way", ["parked", "tls"])
def test_ftp_does_not_take_it_back(serve, connect, tmp_path, way):
    """It would be taken over in turn, and so on: it ends, and says why."""
    source = tmp_path / "large"
    source.write_bytes(DATA)
    os.utime(source, ns=(5, 5))
    site = serve()
    client = connect(site.server, retries=5)
    other = Meanwhile(site.user())
    with pytest.raises(UploadTakenOver, match="another session uploads the same file") as raised:
        client.put([source], "/large", listener=other)
    assert (raised.value.exit_code, raised.value.path) == (4, b"/large")
    assert "the same command" not in str(raised.value), "that would take it back"
    assert not client.connected
    assert other.begun is not None
    number, ready = other.begun
    finish(other._other, number, ready.offset)


@pytest.mark.parametrize("sent", [0, THERE])
def test_a_request_of_a_client_that_has_gone_takes_nothing_over(serve, monkeypatch, sent):
    """It lay here while the session was busy. Its next connection has the upload by now, and would
    be told that somebody else goes on with it, where nobody does."""
    site = serve()
    first, second = site.user(), site.user()
    began, goes_on, commit = threading.Event(), threading.Event(), Uploads.commit

    def slow(self: Uploads, *, late: bool = False) -> object:
        if self.pending and not began.is_set():
            began.set()
            goes_on.wait()
        return commit(self, late=late)

    monkeypatch.setattr(Uploads, "commit", slow)
    first.send(
        frame(Kind.REQUEST, 1, Put(b"/other", 1)),
        frame(Kind.DATA, 1, b"x"),
        frame(Kind.END, 1, Sent(1)),
        frame(Kind.REQUEST, 2, Put(b"/large", len(DATA), mtime_ns=5, ask=True)),
    )
    began.wait()
    try:
        first.reset()
        mine, ready = begin(second)
        send(second, mine, ready.offset, sent)
    finally:
        goes_on.set()
    eventually(lambda: len(site.server.service.sessions) == 1, "the first session to end")
    finish(second, mine, max(ready.offset, sent))
