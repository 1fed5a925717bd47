"""Uploads before log-in, after a refusal, and without bytes: none keeps a connection open for ever.

The control of each: the deadlines move for whoever sends bytes, or has an upload accepted.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager, suppress

import pytest

from ftpwire.frames import Kind
from ftpwire.messages import (
    Failed,
    GoingDown,
    LoggedIn,
    Login,
    Put,
    PutPiece,
    Ready,
    Sent,
    Stored,
    Taken,
    WhoAmI,
)
from tests.hostile.conftest import each_way, ended
from tests.peer import PATIENCE, Peer, eventually, frame

MIB = 1024 * 1024
LONG = 10 * PATIENCE


@contextmanager
def pouring(peer: Peer, flood: bytes):
    """Send it again and again, so that the server always has something to read."""
    stop = threading.Event()

    def pour() -> None:
        with suppress(OSError):
            while not stop.is_set():
                peer.send(flood)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@each_way
def test_file_bytes_before_log_in_end_the_connection(serve):
    """However much comes, nothing of it is passed over."""
    site = serve(login_grace=LONG, stall=LONG)
    user = site.user()
    peer = site.knock()
    peer.hello()
    number = peer.request(Put(b"/x"))
    with pouring(peer, frame(Kind.DATA, number) * 1000):
        said = ended(peer)
    assert [one.code for one in said] in (
        ["not-logged-in", "bad-message"],
        [],  # a reset, because more was sent than the server read, may overtake them
    )
    assert site.is_served(user)


@pytest.mark.parametrize(
    "requested", [Put(b"/x"), PutPiece(bytes(16), 0, 10)], ids=["put", "piece"]
)
def test_who_sends_no_bytes_hears_the_reason(serve, requested):
    peer = serve(login_grace=LONG).knock()
    peer.hello()
    peer.request(requested)
    assert [one.code for one in ended(peer)] == ["not-logged-in", "bad-message"]


@each_way
def test_empty_data_after_a_refusal_moves_no_deadline(serve):
    site = serve(stall=0.3, quota=MIB)
    user, peer = site.user(), site.user()
    number = peer.request(Put(b"/x", 10 * MIB))
    with pouring(peer, frame(Kind.DATA, number) * 1000):
        refused = ended(peer)
    assert all(one.code == "quota" for one in refused if isinstance(one, Failed))
    assert site.is_served(user)


@pytest.mark.parametrize("op", [b"\xa3put", b"\xa5later"], ids=["bad", "unknown"])
def test_nor_after_a_request_that_was_not_understood(serve, op):
    site = serve(stall=0.3)
    user, peer = site.user(), site.user()
    peer.frame(Kind.REQUEST, 7, b"\x81\xa2op" + op)
    with pouring(peer, frame(Kind.DATA, 7) * 1000):
        said = ended(peer)
    assert [one.code for one in said] in (["bad-request"], ["unknown-request"], [])
    assert site.is_served(user)


@pytest.mark.long
def test_bytes_after_a_refusal_are_passed_over_as_long_as_they_come(serve):
    """The control: the rest of a large file may take longer than one deadline."""
    site = serve(stall=1.0, quota=MIB)
    peer = site.user()
    number = peer.request(Put(b"/x", 10 * MIB))
    assert peer.answer().message.code == "quota"
    pause = threading.Event()
    for _ in range(15):
        peer.frame(Kind.DATA, number, b"x")
        pause.wait(0.1)
    peer.frame(Kind.CANCEL, number)
    assert site.is_served(peer)


def test_cancels_of_others_do_not_keep_an_upload_open(serve):
    site = serve(stall=0.3)
    user, peer = site.user(), site.user()
    peer.request(Put(b"/x", 10 * MIB))
    with pouring(peer, frame(Kind.CANCEL, 77) * 1000):
        ended(peer)
    assert site.is_served(user)


@pytest.mark.parametrize("size", [100, 10 * MIB], ids=["small", "large"])
def test_an_upload_without_bytes_ends_with_the_idle_timeout(serve, size):
    site = serve(idle_timeout=LONG)
    peer = site.user()
    number = peer.request(Put(b"/x", size))
    (session,) = site.server.service.sessions
    eventually(lambda: session._transfer._bytes_came)
    session._transfer._bytes_came = -math.inf  # so long ago
    peer.frame(Kind.DATA, number)
    assert ended(peer) == [GoingDown(f"no bytes came for {LONG:g} seconds")]


@pytest.mark.long
def test_a_silent_source_is_waited_for_without_an_idle_timeout(serve):
    """The control: empty DATA is the sign of life of an upload that was accepted."""
    site = serve(stall=1.0)
    peer = site.user()
    number = peer.request(Put(b"/x"))
    pause = threading.Event()
    for _ in range(15):
        peer.frame(Kind.DATA, number)
        pause.wait(0.1)
    peer.frame(Kind.DATA, number, b"x")
    peer.frame(Kind.END, number, Sent(1))
    assert peer.answer().message == Stored(1)


def test_pieces_are_bytes_of_the_upload_that_they_belong_to(serve):
    """Its owner sends nothing but empty DATA."""
    site = serve(idle_timeout=LONG)
    owner, helper = site.user(), site.user()
    size = 10 * MIB
    number = owner.request(Put(b"/x", size, ask=True, pieces=True, mtime_ns=1))
    ready = owner.answer().message
    assert isinstance(ready, Ready) and ready.key
    (session,) = [one for one in site.server.service.sessions if isinstance(one.doing, Put)]

    def bring(offset: int) -> None:
        piece = helper.request(PutPiece(ready.key, offset, MIB))
        helper.frame(Kind.DATA, piece, bytes(MIB))
        helper.frame(Kind.END, piece, Sent(MIB))
        assert isinstance(helper.answer().message, Taken)

    for offset in range(0, 3 * MIB, MIB):
        bring(offset)
        session._transfer._bytes_came = -math.inf
        owner.frame(Kind.DATA, number)
        eventually(lambda: session._transfer._bytes_came > 0)
    session._transfer._bytes_came = -math.inf
    owner.frame(Kind.DATA, number)
    assert isinstance(ended(owner)[-1], GoingDown)


def test_a_request_without_bytes_before_log_in_is_refused_alone(serve):
    """The control: what needs no bytes leaves the connection as it is."""
    site = serve()
    peer = site.knock()
    peer.hello()
    assert isinstance(peer.ask(WhoAmI()), Failed)
    assert isinstance(peer.ask(Login("alice", "secret")), LoggedIn)
    assert site.is_served(peer)
