"""Frames as they come in: whole, in parts, moved elsewhere, and too slowly."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpwire.channel import Channel, Ready, TimedOut
from ftpwire.errors import BadMessage, ConnectionLost
from ftpwire.frame_stream import STEADY, FrameStream, Steady
from ftpwire.frames import MAX_CONTROL, MAX_DATA, Kind, frame
from ftpwire.streams import WriteBehind


class Ends:
    """A peer that sends what it is told to, and the stream at the other end.

    Attributes:
        waited: For how long each wait was to be.
    """

    def __init__(self) -> None:
        mine, self.peer = socket.socketpair()
        self.channel = Channel(mine)
        self.waited: list[float] = []
        self.before_wait: Callable[[], None] = lambda: None
        self.stream = FrameStream(
            self.channel, lambda: 30.0, lambda: time.monotonic() + 30, self._wait
        )
        self.stream.reader.allow(MAX_CONTROL, MAX_DATA)

    def _wait(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready:
        self.waited.append(math.inf if deadline is None else deadline - time.monotonic())
        self.before_wait()
        return self.channel.wait(read=read, write=write, deadline=deadline)

    def send(self, data: bytes) -> None:
        self.peer.sendall(data)

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


FRAMES = st.lists(
    st.tuples(st.sampled_from([Kind.REPLY, Kind.DATA]), st.binary(max_size=3000)), max_size=6
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FRAMES, st.integers(1, 4000), st.sampled_from(["append", "into", "discard"]))
def test_whatever_the_cuts(frames, cut, way):
    """Frames come out as they went in, however the bytes arrive."""
    ends = Ends()
    try:
        data = b"".join(frame(kind, 7, payload) for kind, payload in frames)
        pieces = iter([data[at : at + cut] for at in range(0, len(data), cut)])
        ends.before_wait = lambda: ends.send(next(pieces))
        for kind, payload in frames:
            header = ends.stream.header(exactly=way == "into")
            assert (header.kind, header.size, header.request_id) == (kind, len(payload), 7)
            if kind != Kind.DATA:
                assert bytes(ends.stream.payload(header)) == payload
            elif way == "append":
                taken = bytearray(b"before")
                ends.stream.append_to(taken)
                assert taken == b"before" + payload
            elif way == "discard":
                ends.stream.discard()
            else:
                sink = Sink()
                ends.stream.into(sink)
                assert sink.data == payload
    finally:
        ends.close()


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self._buffer = bytearray(1000)

    def buffer(self) -> memoryview:
        return memoryview(self._buffer)

    def filled(self, count: int) -> None:
        self.data += self._buffer[:count]

    def write(self, data: memoryview) -> None:
        self.data += data


def test_nothing_is_waited_for_that_is_there(ends):
    ends.send(frame(Kind.REPLY, 1, b"one") + frame(Kind.REPLY, 2, b"two"))
    for number in (1, 2):
        header = ends.stream.header()
        assert header.request_id == number
        ends.stream.payload(header)
    assert ends.waited == []


def test_bytes_of_a_file_are_no_message(ends):
    ends.send(frame(Kind.DATA, 1, b"x"))
    header = ends.stream.header()
    with pytest.raises(BadMessage):
        ends.stream.payload(header)


def test_the_deadline_is_for_the_whole_frame(ends):
    """Also for a peer that always has a little more to send."""
    ends.send(frame(Kind.REPLY, 1, bytes(100))[:20])
    ends.before_wait = lambda: ends.send(b"x")
    header = ends.stream.header(time.monotonic() + 30)
    with pytest.raises(TimedOut):
        ends.stream.payload(header, time.monotonic() - 1)
    assert len(ends.waited) <= 1


def test_a_peer_has_to_keep_moving(ends, monkeypatch):
    """The time that is left goes down, until enough has moved."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left = []

    def wait(*, read=False, write=False, deadline=None):
        left.append(deadline - now[0])
        now[0] += 10
        if len(left) == 3:
            ends.channel.bytes_in += STEADY
        return Ready(True, False)

    steady = Steady(ends.channel, 30.0, wait)
    for _ in range(4):
        steady.wait(read=True)
    assert left == [30.0, 20.0, 10.0, 30.0]


def test_a_peer_that_leaves_in_the_middle(ends, tmp_path):
    ends.send(frame(Kind.DATA, 1, bytes(100))[:50])
    ends.peer.close()
    ends.stream.header(exactly=True)
    with (tmp_path / "file").open("wb") as file, WriteBehind(file.fileno()) as sink:
        with pytest.raises(ConnectionLost):
            ends.stream.into(sink)


def test_at_rest_it_holds_no_memory(ends):
    ends.send(frame(Kind.REPLY, 1, bytes(5000)))
    ends.stream.payload(ends.stream.header())
    ends.stream.go_idle()
    assert len(ends.stream.reader._buffer) == 0
