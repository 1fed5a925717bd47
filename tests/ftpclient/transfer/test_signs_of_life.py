"""Uploads that send nothing for a while: how often they give a sign of life.

Lives here: each kind of upload with a server that waits for a shorter time than most.
Lives elsewhere: what a server does with them (tests/ftpserver/serving), the clock
(test_waiting.py).
"""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from ftpclient import Client
from ftpclient.connection.interrupt import Interrupt
from ftpclient.transfer import waiting
from ftpclient.transfer.job import RESUME_FROM
from ftpwire import digests
from ftpwire.errors import Interrupted, SessionEnded
from ftpwire.frames import Kind
from ftpwire.messages import ALIVE, PIECES, Failed, Put, PutPiece, Ready, Stored, Taken
from tests.ftpclient.aio.async_support import Blocking
from tests.lying_server import MIB, LyingServer
from tests.peer import Frame, Peer

SIZE = RESUME_FROM + 4 * MIB
OFFSET = RESUME_FROM + MIB
DATA = os.urandom(SIZE)
STALL_MS = 2000
KEY = bytes(16)


class Receives:
    """A server that takes one upload, of which it has the beginning, and counts its signs of life.

    Attributes:
        signs: Empty DATA frames.
        signed: The first of them has come.
    """

    def __init__(self, *, pieces: bool, known: int) -> None:
        self.signs = 0
        self.signed = threading.Event()
        features = [ALIVE, PIECES] if pieces else [ALIVE]
        self.server = LyingServer(
            root=lambda path: None,
            ask=self._ask,
            greet=lambda peer: peer.greet(features=features, stall_ms=STALL_MS),
        )
        self._known = known

    def _ask(self, peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Put | PutPiece):
            return False
        size = self._known
        if isinstance(requested.message, Put):
            key = KEY if requested.message.pieces else None
            peer.reply(requested, Ready(self._known, digests.digest(DATA[: self._known]), key))
        while (found := peer.read()).kind not in (Kind.END, Kind.CANCEL):
            assert found.kind == Kind.DATA
            size += len(found.payload)
            if not found.payload:
                self.signs += 1
                self.signed.set()
        if found.kind == Kind.CANCEL:
            peer.reply(requested, Failed("cancelled", "cancelled"))
            return True
        if isinstance(requested.message, PutPiece):
            peer.reply(requested, Taken())
        else:
            peer.reply(requested, Stored(SIZE if requested.message.pieces else size))
        return True


@pytest.fixture(autouse=True)
def seldom(monkeypatch):
    """Nothing but what the server has said makes an upload give signs of life."""
    monkeypatch.setattr(waiting, "KEEP_ALIVE_SECONDS", 10.0**6)


@pytest.fixture
def clock(monkeypatch):
    """A second passes from each look at the clock to the next."""
    looks = []

    class Time:
        @staticmethod
        def monotonic() -> float:
            looks.append(1)
            return float(len(looks))

    monkeypatch.setattr(waiting, "time", Time)
    return looks


@pytest.mark.parametrize("kind", [Client, Blocking])
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "pieces"])
def test_while_it_hashes_what_is_there_and_while_others_send(
    fake, connect, clock, tmp_path, kind, pieces
):
    (tmp_path / "source").write_bytes(DATA)
    received = Receives(pieces=pieces, known=OFFSET)
    client = connect(fake(received.server), kind=kind, retry_for=0)
    summary = client.put([tmp_path / "source"], "/x", parallel=2 if pieces else 1)
    assert summary.done == 1
    assert received.signs > 3


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "pieces"])
def test_ctrl_c_is_heard_meanwhile(fake, connect, monkeypatch, tmp_path, pieces):
    """At once: not when all of it is hashed, or sent."""
    (tmp_path / "source").write_bytes(DATA)
    received = Receives(pieces=pieces, known=OFFSET)
    interrupt, ticks = Interrupt(), []
    client = connect(fake(received.server), interrupt=interrupt, retry_for=0)

    def tick(self) -> None:
        ticks.append(1)
        if len(ticks) == 3:
            interrupt.set()

    monkeypatch.setattr(waiting.KeepAlive, "tick", tick)
    with pytest.raises(Interrupted):
        client.put([tmp_path / "source"], "/x", parallel=2 if pieces else 1)
    assert len(ticks) == 3
    client.close()
    interrupt.close()


# while a source is silent ----------------------------------------------------------------------


def refused(peer: Peer, requested: Frame) -> None:
    peer.reply(requested, Failed("quota", "full"))


def kicked(peer: Peer, requested: Frame) -> None:
    peer.frame(Kind.ERROR, 0, Failed("session-ended", "kicked"))


@pytest.mark.parametrize("kind", [Client, Blocking])
@pytest.mark.parametrize("end", [refused, kicked])
def test_a_silent_source_is_not_waited_for_when_the_upload_is_over(fake, connect, kind, end):
    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Put):
            return False
        peer.reply(requested, Ready())
        end(peer, requested)
        peer.read_to_end()
        return True

    left = threading.Event()
    client = connect(fake(LyingServer(root=lambda path: None, ask=ask)), kind=kind)
    ours, theirs = os.pipe()
    end_of_pipe, waited = os.fdopen(theirs, "wb"), threading.Event()

    def is_late() -> None:
        waited.set()
        end_of_pipe.close()

    async def silent():
        try:
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        finally:
            left.set()
        yield b"too late"

    late = threading.Timer(5, is_late)
    late.start()
    try:
        if kind is Client:
            summary = client.put_stream(ours, "/x")
        else:
            summary = client.run(client.client.put_stream(silent(), "/x"))
        assert end is refused and summary.exit_code == 7
    except SessionEnded as error:
        assert end is kicked and "kicked" in str(error)
    finally:
        late.cancel()
        late.join()
        os.close(ours)
        end_of_pipe.close()
    assert left.is_set() == (kind is Blocking)
    assert not waited.is_set()
