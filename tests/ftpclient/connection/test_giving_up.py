"""Interrupted and lost: what becomes of the calls under way, and of the session."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator

import pytest

from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.protocol import Call
from ftpclient.transfer.job import RESUME_FROM, SMALL
from ftpclient.transfer.report import Listener
from ftpwire.errors import ConnectionLost, Interrupted
from ftpwire.frames import Kind
from ftpwire.messages import Failed, LoggedIn, Put, WhoAmI

MIB = 1024 * 1024


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    made = Interrupt()
    yield made
    made.close()


class StopsAtFirst(Listener):
    """Presses Ctrl-C when the first large file begins."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def started(self, name: bytes, size: int | None) -> None:
        self._interrupt.set()


SIZES = [
    pytest.param(SMALL + 2 * MIB, id="sent-at-once"),
    pytest.param(RESUME_FROM + 2 * MIB, id="asked-first"),
]


@pytest.mark.parametrize("size", SIZES)
def test_ctrl_c_within_an_upload_keeps_the_session(server, connect, tmp_path, interrupt, size):
    """The small files before it may still wait for their answers then."""
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"small{number}").write_bytes(b"small")
    (tmp_path / "large").write_bytes(os.urandom(size))
    client = connect(server, interrupt=interrupt)
    connection = client.connection
    with pytest.raises(Interrupted):
        client.put(
            [tmp_path / "tree", tmp_path / "large"],
            "/",
            recursive=True,
            listener=StopsAtFirst(interrupt),
        )
    client.settle_interrupt()
    assert client.connected
    assert client.connection is connection
    assert b"large" not in {entry.path for entry in client.list_dir("/")}
    assert client.put([tmp_path / "tree", tmp_path / "large"], "/", recursive=True).done == 21


def test_the_open_upload_is_cancelled_before_what_was_asked_earlier(fake, connect, interrupt):
    """No frame of another request may stand within an upload."""
    frames = []

    def script(peer):
        peer.greet()
        while (frame := peer.read()).kind != Kind.CANCEL:
            frames.append(frame)
        frames.append(frame)
        peer.reply(1 + frames[0].request_id, Failed("cancelled", "cancelled"))
        frames.append(peer.read())
        peer.reply(frames[0].request_id, LoggedIn("alice"))
        peer.read_to_end()

    connection = connect(fake(script), interrupt=interrupt).connection
    earlier, upload = Call(), Call()
    connection.submit(earlier, WhoAmI())
    connection.submit(upload, Put(b"/a", 2 * MIB))
    interrupt.set()
    with pytest.raises(Interrupted):
        connection.send_data(upload, bytes(MIB))
    connection.cancel_all()
    assert not connection.broken
    assert upload.error is not None and upload.error.code == "cancelled"
    assert earlier.reply == LoggedIn("alice")
    cancelled = [frame.request_id for frame in frames if frame.kind == Kind.CANCEL]
    assert cancelled == [upload.request_id, earlier.request_id]


def test_a_connection_lost_within_a_piece_ends_every_call(fake, connect):
    leave, left = threading.Event(), threading.Event()

    def script(peer):
        peer.greet()
        leave.wait()
        peer.reset()
        left.set()

    connection = connect(fake(script)).connection
    calls = [Call(), Call()]
    connection.submit(calls[0], WhoAmI())
    connection.submit(calls[1], Put(b"/a", 4 * MIB))
    leave.set()
    left.wait()
    poll = select.poll()
    poll.register(connection.channel.socket, select.POLLIN)
    poll.poll()  # the reset has come
    with pytest.raises(ConnectionLost):
        connection.send_data(calls[1], bytes(4 * MIB))
    assert connection.broken
    assert connection.unanswered == 0
    for call in calls:
        assert call.done
        assert isinstance(call.error, ConnectionLost)
