"""What clients hear that are in the middle of something when the server stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ftpserver.storage.batch import Uploads
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Get, GoingDown, Put, Ready, Sending, Sent, Stored
from tests.hostile.conftest import PROCESSES, each_way
from tests.peer import Peer, eventually

LARGE = 24 * 1024 * 1024
"""More than all buffers of a connection hold."""
DATA = b"some bytes"


@pytest.fixture
def stopping(start_server) -> Callable[[Any], Any]:
    """A context in which a server stops, from its beginning on. It has stopped at the end."""

    @contextmanager
    def stopping(server: Any) -> Iterator[None]:
        thread = threading.Thread(target=start_server.finish, args=(server,))
        thread.start()
        try:
            eventually(lambda: server.service.stopping)
            yield
        finally:
            thread.join()

    return stopping


def finish(peer: Peer, number: int) -> None:
    """Bring the bytes of an upload to their end, and see it stored."""
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
    assert peer.answer().message == Stored(len(DATA))


def heard(peer: Peer) -> list[Any]:
    """All frames until the server ends the connection; it waits for this end then."""
    with peer:
        return peer.read_to_end()


def is_warning(frame: Any) -> bool:
    """Whether it says that the server stops."""
    return (frame.kind, frame.request_id) == (Kind.NOTICE, 0) and frame.message == GoingDown()


@each_way
def test_an_upload_is_warned_when_the_stop_begins_and_goes_on(serve, stopping, way):
    site = serve()
    peer = site.user()
    number = peer.request(Put(b"/file", len(DATA), ask=True))
    assert peer.answer().message == Ready()
    with stopping(site.server):
        assert is_warning(peer.read())
        finish(peer, number)
        assert heard(peer) == [], "it is said once"


@pytest.mark.parametrize(
    "way",
    ["parked", "tls", *(pytest.param(way, marks=pytest.mark.system) for way in PROCESSES)],
)
def test_a_download_is_warned_between_two_frames(serve, stopping, way):
    """All of it comes, in step."""
    site = serve()
    with open(site.server.settings.root / "alice" / "large", "xb") as file:
        file.truncate(LARGE)
    peer = site.user()
    peer.request(Get(b"/large"))
    assert isinstance(peer.answer().message, Sending)
    with stopping(site.server):
        frames = heard(peer)
    last = next(at for at, frame in enumerate(frames) if frame.kind == Kind.END)
    warnings = [at for at, frame in enumerate(frames) if is_warning(frame)]
    assert len(warnings) == 1 and warnings[0] < last
    data = [frame for frame in frames if frame.kind == Kind.DATA]
    assert sum(len(frame.payload) for frame in data) == LARGE
    assert last == len(frames) - 1


def test_who_waits_for_the_disk_is_warned_meanwhile(serve, stopping, monkeypatch):
    """The session's own thread cannot: another one does."""
    site = serve()
    peer = site.user()
    began, goes_on, commit = threading.Event(), threading.Event(), Uploads.commit

    def slow(self: Uploads, *, late: bool = False) -> Any:
        began.set()
        goes_on.wait()
        return commit(self, late=late)

    monkeypatch.setattr(Uploads, "commit", slow)
    number = peer.request(Put(b"/file", len(DATA)))
    peer.frame(Kind.DATA, number, DATA)
    peer.frame(Kind.END, number, Sent(len(DATA), digests.digest(DATA)))
    began.wait()
    with stopping(site.server):
        try:
            assert is_warning(peer.read())
        finally:
            goes_on.set()
        assert peer.answer().message == Stored(len(DATA))
        assert heard(peer) == []
