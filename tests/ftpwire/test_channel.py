"""The stream over a socket, plain and TLS: waiting, waking, both directions at once, the end."""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire.channel import Channel, Ready, TimedOut
from ftpwire.errors import ConnectionLost
from ftpwire.frames import HEADER, MAX_CONTROL, MAX_DATA, FrameReader, Header, Kind, frame
from ftpwire.streams import WriteBehind
from ftpwire.tls import TlsError, TlsPipe

NOISE = random.Random(11).randbytes(5 * 1024 * 1024)


def soon() -> float:
    """A deadline that is only met when something is stuck."""
    return time.monotonic() + 30


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):  # so that no system takes NOISE without a reader
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    return one, other


class Sockets:
    """Connected sockets, and channels over them; all are closed in the end."""

    def __init__(self, client_context, server_context, background) -> None:
        self._contexts = client_context, server_context
        self._background = background
        self._open: list[socket.socket | Channel] = []

    def raw(self, connect=socket_pair) -> tuple[socket.socket, socket.socket]:
        pair = connect()
        self._open += pair
        return pair

    def pipes(self) -> tuple[TlsPipe, TlsPipe]:
        client_context, server_context = self._contexts
        return (
            TlsPipe(client_context, server_side=False, server_name="localhost"),
            TlsPipe(server_context, server_side=True),
        )

    def channel(self, sock, pipe=None, **options) -> Channel:
        channel = Channel(sock, pipe, **options)
        self._open.append(channel)
        return channel

    def channels(self, secure: bool, connect=socket_pair, **options) -> tuple[Channel, Channel]:
        """Client and server; options are the client's."""
        one, other = self.raw(connect)
        pipes = self.pipes() if secure else (None, None)
        client = self.channel(one, pipes[0], **options)
        server = self.channel(other, pipes[1])
        if secure:
            server_done = self._background(server.handshake, soon())
            client.handshake(soon())
            server_done.result()
            assert nothing_there(client)  # tickets come first
        return client, server

    def close(self) -> None:
        for each in self._open:
            each.abort() if isinstance(each, Channel) else each.close()


@pytest.fixture
def background():
    """Runs a function in a thread: ``background(function, *arguments).result()``."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def sockets(client_context, server_context, background):
    sockets = Sockets(client_context, server_context, background)
    yield sockets
    sockets.close()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def secure(request):
    return request.param


@pytest.fixture
def pair(sockets, secure):
    return sockets.channels(secure)


def send(channel: Channel, data: bytes) -> None:
    channel.queue(data)
    channel.flush(soon())


def receive(channel: Channel, size: int, piece: int = 64 * 1024) -> bytes:
    """Exactly ``size`` bytes."""
    found = bytearray()
    scratch = memoryview(bytearray(piece))
    while len(found) < size:
        count = channel.receive_into(scratch[: size - len(found)])
        if not count:
            channel.wait(read=True, deadline=soon())
        found += scratch[:count]
    return bytes(found)


def receive_all(channel: Channel) -> tuple[bytes, ConnectionLost]:
    """Everything until the end, and how it ended."""
    found = bytearray()
    scratch = memoryview(bytearray(64 * 1024))
    while True:
        try:
            count = channel.receive_into(scratch)
            if not count:
                channel.wait(read=True, deadline=soon())
        except TimedOut:
            raise
        except ConnectionLost as end:
            return bytes(found), end
        found += scratch[:count]


def nothing_there(channel: Channel) -> bool:
    return not channel.receive_into(memoryview(bytearray(10)))


# Bytes -------------------------------------------------------------------------------------


def test_a_few_bytes_each_way(pair):
    client, server = pair
    send(client, b"hello")
    assert receive(server, 5) == b"hello"
    send(server, b"hello yourself")
    assert receive(client, 14) == b"hello yourself"
    assert nothing_there(client) and nothing_there(server)


def test_much_over_tls_in_both_directions(sockets, background):
    """From a megabyte on, OpenSSL is used in another way: with the same bytes before and after."""
    client, server = sockets.channels(True)

    def send_view(channel: Channel) -> None:
        view = memoryview(NOISE)
        while view:
            sent = channel.try_send(view)
            if not sent:
                channel.wait(write=True, deadline=soon())
            view = view[sent:]
        channel.flush(soon())

    for sender, receiver in [(client, server), (server, client)]:
        sending = background(send_view, sender)
        assert receive(receiver, len(NOISE), 512 * 1024) == NOISE
        sending.result()
        assert sender.tls._ring is not None
        assert receiver.tls._records is not None
    for sender, receiver in [(client, server), (server, client)]:
        send(sender, b"and a little")
        assert receive(receiver, 12) == b"and a little"
        assert nothing_there(receiver) and not receiver.input_ready()
    client.close()
    assert receive_all(server)[0] == b""


def test_queue_sends_nothing_by_itself(pair):
    client, server = pair
    client.queue(b"one ", bytearray(b"two "), memoryview(b"three"))
    client.queue()
    assert client.has_output
    assert not client.output_full
    assert not server.input_ready()
    client.flush(soon())
    assert not client.has_output
    assert receive(server, 13) == b"one two three"


def test_output_full_is_a_hint(pair):
    client, server = pair
    while not client.output_full:
        client.queue(b"x" * 1000)
    client.queue(b"y")  # nothing is refused
    client.flush(soon())
    assert not client.output_full
    assert receive(server, 60_000, 7000) == b"x" * 60_000


def test_nothing_to_flush(pair):
    for channel in pair:
        assert not channel.has_output
        assert channel.try_flush() is True
        channel.flush(time.monotonic() - 1)


@pytest.mark.parametrize("piece", [1, 100, 16 * 1024, 1024 * 1024])
def test_receiving_in_pieces(pair, piece):
    client, server = pair
    data = NOISE[: 100 * piece if piece < 1000 else 3_000_000]
    client.queue(data)
    found = bytearray()
    scratch = memoryview(bytearray(piece))
    while len(found) < len(data):
        if client.has_output:
            client.try_flush()
        found += scratch[: server.receive_into(scratch)]
    assert found == data


def exchange(channel: Channel, out: bytes, wanted: int, *, queued: bool) -> bytes:
    """Send and receive at the same time, in one thread."""
    left = memoryview(out)
    found = bytearray()
    scratch = memoryview(bytearray(256 * 1024))
    if queued:
        channel.queue(left)
        left = left[:0]
    while left or channel.has_output or len(found) < wanted:
        sent = channel.try_send(left) if left else 0
        left = left[sent:]
        if not left and channel.has_output:
            channel.try_flush()
        count = channel.receive_into(scratch) if len(found) < wanted else 0
        found += scratch[:count]
        if not sent and not count:
            writing = bool(left) or channel.has_output
            reading = len(found) < wanted
            if writing or reading:
                channel.wait(read=reading, write=writing, deadline=soon())
    return bytes(found)


@pytest.mark.parametrize("queued", [False, True], ids=["try-send", "queued"])
@pytest.mark.parametrize("connect", [socket_pair, tcp_pair])
def test_large_transfers_both_ways(sockets, background, secure, connect, queued):
    """Far more than any buffer holds: one side that only sent would wait for ever."""
    client, server = sockets.channels(secure, connect)
    there, back = NOISE, NOISE[::-1][:-1]
    answer = background(exchange, server, back, len(there), queued=queued)
    assert exchange(client, there, len(back), queued=queued) == back
    assert answer.result() == there
    if not secure:
        assert (client.bytes_out, client.bytes_in) == (len(there), len(back))
        assert (server.bytes_out, server.bytes_in) == (len(back), len(there))


def test_a_slow_reader(pair):
    """What the peer doesn't take stays here, in order, and nothing blocks."""
    client, server = pair
    client.queue(NOISE)
    assert client.try_flush() is False
    assert client.has_output
    for _ in range(3):
        assert client.try_flush() is False
        assert client.try_send(memoryview(b"overtaking")) == 0
    client.queue(b"the end")
    found = bytearray()
    scratch = memoryview(bytearray(10_000))
    while client.has_output:
        found += scratch[: server.receive_into(scratch)]
        client.try_flush()
    found += receive(server, len(NOISE) + 7 - len(found))
    assert found == NOISE + b"the end"


def test_try_send_reports_what_was_taken(pair):
    client, server = pair
    left = memoryview(NOISE)
    taken = 0
    while count := client.try_send(left):
        taken += count
        left = left[count:]
    assert 0 < taken < len(NOISE)
    found = bytearray()
    scratch = memoryview(bytearray(64 * 1024))
    while len(found) < taken:
        found += scratch[: server.receive_into(scratch)]
        if client.has_output:
            client.try_flush()
    assert found == NOISE[:taken]
    assert nothing_there(server)


def test_try_send_comes_after_what_is_queued(pair):
    client, server = pair
    client.queue(b"first ")
    assert client.try_send(memoryview(b"second")) == 6
    client.flush(soon())
    assert receive(server, 12) == b"first second"


def pushed(channel: Channel, data: memoryview) -> int:
    """Send all that is taken at once, without a reader; returns how much that was."""
    taken = 0
    while count := channel.try_send(data[taken:]):
        taken += count
    return taken


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no such limit")
def test_a_peer_that_takes_nothing_gets_little(sockets, secure):
    """And all as soon as it takes some."""
    least, most = [], []
    for slowly, found in ((True, least), (False, most)):
        client, server = sockets.channels(secure, free_tcp_pair)
        if slowly:
            client.start_slowly()
        found.append(pushed(client, memoryview(NOISE)))
    assert least[0] < most[0] / 2
    client, server = sockets.channels(secure, free_tcp_pair)
    client.start_slowly()
    first = pushed(client, memoryview(NOISE))
    found, scratch = bytearray(), memoryview(bytearray(64 * 1024))
    sent = first
    while sent < len(NOISE):
        found += scratch[: server.receive_into(scratch)]
        sent += client.try_send(memoryview(NOISE)[sent:])
    assert client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) != 128 * 1024
    while client.has_output:
        found += scratch[: server.receive_into(scratch)]
        client.try_flush()
    found += receive(server, len(NOISE) - len(found))
    assert found == NOISE


def free_tcp_pair() -> tuple[socket.socket, socket.socket]:
    """With the system's own buffers for what is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


class Counting:
    """A socket that counts the calls that sent something, or might have received something."""

    def __init__(self, sock: socket.socket, most: int | None = None) -> None:
        self._sock = sock
        self._most = most
        self.calls = self.looks = 0

    def recv(self, size: int) -> bytes:
        self.looks += 1
        return self._sock.recv(size)

    def recvmsg_into(self, views: list[memoryview]) -> tuple:
        self.looks += 1
        return self._sock.recvmsg_into(views)

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def send(self, data) -> int:
        self.calls += 1
        return self._sock.send(data[: self._most])

    def sendmsg(self, parts) -> int:
        self.calls += 1
        return self._sock.send(b"".join(parts)[: self._most])


def test_a_header_goes_out_with_its_data(pair):
    client, server = pair
    client.socket = counting = Counting(client.socket)
    client.queue(b"header")
    assert client.try_send(memoryview(NOISE[:40_000])) == 40_000
    assert not client.has_output
    assert counting.calls == 1
    assert receive(server, 40_006) == b"header" + NOISE[:40_000]


def test_a_small_request_is_received_by_one_call(sockets):
    client, server = sockets.channels(secure=True)
    server.socket = counting = Counting(server.socket)
    send(client, b"request")
    server.wait(read=True, deadline=soon())
    assert server.receive_into(memoryview(bytearray(1000))) == 7
    assert counting.looks == 1


@pytest.mark.parametrize("most", [1, 3, 6, 7, 1000])
def test_a_kernel_that_takes_little(pair, most):
    """Of what goes out together nothing is lost or sent twice, wherever it is cut."""
    client, server = pair
    client.socket = Counting(client.socket, most)
    client.queue(b"header")
    left = memoryview(NOISE[:100])  # few enough calls that no reader is needed meanwhile
    for _ in range(200):
        left = left[client.try_send(left) :]
        if not left:
            break
    assert not left
    client.flush(soon())
    assert receive(server, 106) == b"header" + NOISE[:100]


def test_input_ready(pair):
    client, server = pair
    assert not server.input_ready()
    send(client, b"0123456789")
    server.wait(read=True, deadline=soon())
    assert server.input_ready()
    assert receive(server, 3) == b"012"
    assert server.input_ready()  # through TLS nothing of it is left in the socket
    assert receive(server, 7) == b"3456789"
    assert not server.input_ready()


def test_input_ready_at_the_end(pair):
    client, server = pair
    client.close()
    assert server.input_ready()


# Frames ------------------------------------------------------------------------------------


class Collected:
    """A sink with little room."""

    def __init__(self, space: int) -> None:
        self.found = bytearray()
        self._buffer = bytearray(space)

    def buffer(self) -> memoryview:
        return memoryview(self._buffer)

    def filled(self, count: int) -> None:
        assert count <= len(self._buffer)
        self.found += self._buffer[:count]

    def write(self, data: memoryview) -> None:
        self.found += data


def next_header(channel: Channel, reader: FrameReader) -> Header:
    while (header := reader.next_header()) is None:
        if not channel.fill(reader):
            channel.wait(read=True, deadline=soon())
    return header


@pytest.mark.parametrize("space", [1000, 300_000])
def test_data_frames_go_into_the_sink(pair, background, space):
    client, server = pair
    sizes = [1, 0, 10, 70_000, 2_000_000, 5]
    payloads = [NOISE[:size] for size in sizes]
    wire = b"".join(frame(Kind.DATA, 1, payload) for payload in payloads)
    sending = background(send, client, wire + frame(Kind.END, 1, b"the end"))
    reader, sink = FrameReader(MAX_CONTROL, MAX_DATA), Collected(space)
    while next_header(server, reader).kind == Kind.DATA:
        while not server.move_payload(reader, sink):
            server.wait(read=True, deadline=soon())
    while (ending := reader.payload()) is None:
        server.wait(read=True, deadline=soon())
        server.fill(reader)
    assert bytes(ending) == b"the end"
    assert sink.found == b"".join(payloads)
    assert len(reader.writable()) < 600_000  # no payload grew the reader's buffer
    sending.result()


def test_a_file_is_received(pair, background, tmp_path):
    client, server = pair
    sending = background(send, client, frame(Kind.DATA, 1, NOISE[: 4 * 1024 * 1024]))
    reader = FrameReader(MAX_CONTROL, MAX_DATA)
    next_header(server, reader)
    with open(tmp_path / "f", "wb") as file, WriteBehind(file.fileno()) as sink:
        while not server.move_payload(reader, sink):
            server.wait(read=True, deadline=soon())
        sink.finish()
    assert (tmp_path / "f").read_bytes() == NOISE[: 4 * 1024 * 1024]
    sending.result()


class CutSocket:
    """A socket of which each call receives only as much as it is to."""

    def __init__(self, sock: socket.socket, cuts: list[int]) -> None:
        self._sock = sock
        self._cuts = cycle(cuts)

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv_into(self, view: memoryview) -> int:
        return self._sock.recv_into(view[: next(self._cuts)])

    def recvmsg_into(self, views: list[memoryview]) -> tuple:
        most, kept = next(self._cuts), []
        for view in views:
            kept.append(view[:most])
            most -= len(kept[-1])
        return self._sock.recvmsg_into(kept)


@given(
    st.lists(st.integers(0, 40), max_size=12),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.integers(1, 50),
)
def test_a_payload_is_received_together_with_the_next_header(sizes, cuts, space):
    """However the bytes come, they end up where they belong, and the reader never holds any of a
    later payload."""
    with ExitStack() as stack:
        one, other = (stack.enter_context(sock) for sock in socket_pair())
        server = Channel(other)
        server.socket = CutSocket(other, cuts)
        payloads = [NOISE[:size] for size in sizes]
        wire = b"".join(frame(Kind.DATA, 1, payload) for payload in payloads)
        one.sendall(wire + frame(Kind.END, 1, b"the end"))
        reader, sink = FrameReader(MAX_CONTROL, MAX_DATA), Collected(space)
        while True:
            while (header := reader.next_header()) is None:
                assert server.fill(reader, HEADER.size - reader.buffered)
            if header.kind == Kind.END:
                break
            assert server.move_payload(reader, sink)
            assert reader.buffered <= HEADER.size
        assert sink.found == b"".join(payloads)
        assert server.bytes_in == len(wire) + HEADER.size
        while (ending := reader.payload()) is None:
            assert server.fill(reader)
        assert bytes(ending) == b"the end"


def test_a_large_frame_and_the_next_header_take_one_call(sockets):
    client, server = sockets.channels(secure=False)
    send(client, HEADER.pack(1000, Kind.DATA, 1))
    reader, sink = FrameReader(MAX_CONTROL, MAX_DATA), Collected(1000)
    next_header(server, reader)
    server.socket = counting = Counting(server.socket)
    send(client, NOISE[:1000] + frame(Kind.DATA, 1, b"more"))
    assert server.move_payload(reader, sink)
    assert counting.looks == 1
    assert sink.found == NOISE[:1000]
    assert reader.buffered == HEADER.size
    assert reader.next_header() == Header(4, Kind.DATA, 1)


@pytest.mark.parametrize("connect", [socket_pair, tcp_pair])
def test_a_peer_on_the_same_machine(sockets, connect):
    one, _ = sockets.raw(connect)
    assert Channel(one).is_local


def test_a_peer_with_another_address(sockets):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), source_address=("127.0.0.2", 0))
        with one, listener.accept()[0] as other:
            assert not Channel(one).is_local
            assert not Channel(other).is_local


def test_a_peer_that_has_gone_is_not_local():
    one, other = tcp_pair()
    with one, other:
        channel = Channel(one)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()  # with a reset
        channel.wait(read=True, deadline=soon())
        assert not channel.is_local


def test_fill_takes_no_more_than_its_limit(pair):
    client, server = pair
    reader = FrameReader(MAX_CONTROL)
    assert server.fill(reader, 10) is False
    send(client, frame(Kind.REQUEST, 1, bytes(1000)))
    server.wait(read=True, deadline=soon())
    assert server.fill(reader, 10) is True
    assert reader.buffered <= 10
    while server.fill(reader):
        pass
    assert reader.buffered == 1000 + HEADER.size


def test_the_peer_ends_inside_a_payload(pair):
    client, server = pair
    send(client, HEADER.pack(100, Kind.DATA, 1) + b"some")
    client.close()
    reader, sink = FrameReader(MAX_CONTROL, MAX_DATA), Collected(1000)
    next_header(server, reader)
    with pytest.raises(ConnectionLost):
        while not server.move_payload(reader, sink):
            server.wait(read=True, deadline=soon())
    assert sink.found == b"some"
    assert reader.remaining == 96


# Waiting -----------------------------------------------------------------------------------


def test_wait_reports_what_is_ready(pair):
    client, server = pair
    assert client.wait(read=True, write=True) == Ready(readable=False, writable=True)
    assert client.wait(write=True, deadline=soon()) == Ready(False, True)
    send(server, b"x")
    assert client.wait(read=True) == Ready(readable=True, writable=False)
    assert client.wait(read=True, write=True, deadline=soon()) == Ready(True, True)


@pytest.mark.parametrize("seconds", [-5, 0, 0.02], ids=["past", "now", "soon"])
def test_wait_ends_at_the_deadline(pair, seconds):
    client, _ = pair
    with pytest.raises(TimedOut):
        client.wait(read=True, deadline=time.monotonic() + seconds)


def test_what_is_ready_at_the_deadline_is_reported(pair):
    """A thread that came late itself blames nobody."""
    client, server = pair
    send(server, b"x")
    client.wait(read=True, deadline=soon())
    assert client.wait(read=True, deadline=time.monotonic() - 5).readable


def test_flush_ends_at_the_deadline(pair):
    client, _ = pair
    client.queue(NOISE)
    with pytest.raises(TimedOut):
        client.flush(time.monotonic() + 0.02)
    assert client.has_output


def test_timed_out_is_a_lost_connection():
    assert issubclass(TimedOut, ConnectionLost)
    assert not issubclass(TimedOut, OSError)  # nor TimeoutError, which the file system may raise


class Waker:
    """A pipe to wake a channel through, and how often it was woken."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self.calls = 0
        self.called = threading.Event()
        self.error: Exception | None = None

    def wake(self) -> None:
        os.write(self._writer, b"!")

    def woken(self) -> None:
        self.calls += 1
        self.called.set()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._writer)


@pytest.fixture
def waker():
    waker = Waker()
    yield waker
    waker.close()


@pytest.fixture
def woken_pair(sockets, secure, waker):
    return sockets.channels(secure, tcp_pair, wake_fd=waker.fd, on_wake=waker.woken)


def test_waking_ends_a_wait(woken_pair, waker, background):
    client, _ = woken_pair
    waiting = background(client.wait, read=True, deadline=soon())
    waker.wake()
    assert waiting.result() == Ready(False, False)
    assert waker.calls == 1


def test_on_wake_is_called_once_until_rearm(woken_pair, waker):
    client, server = woken_pair
    waker.wake()
    assert client.wait(read=True, deadline=soon()) == Ready(False, False)
    for _ in range(3):
        with pytest.raises(TimedOut):  # it is still readable, and nobody is told again
            client.wait(read=True, deadline=time.monotonic())
    send(server, b"x")
    assert client.wait(read=True, deadline=soon()).readable
    assert waker.calls == 1
    receive(client, 1)
    client.rearm()
    client.rearm()
    assert client.wait(read=True, deadline=soon()) == Ready(False, False)
    assert waker.calls == 2


def test_waking_and_data_at_once(woken_pair, waker):
    client, server = woken_pair
    send(server, b"x")
    client.wait(read=True, deadline=soon())
    waker.wake()
    assert client.wait(read=True, deadline=soon()) == Ready(True, False)
    assert waker.calls == 1


def test_on_wake_is_called_from_waits_only(woken_pair, waker):
    client, server = woken_pair
    waker.wake()
    assert not client.input_ready()
    send(server, b"hello")
    assert server.wait(write=True, deadline=soon()).writable
    client.queue(b"x")
    assert client.try_flush()
    assert waker.calls == 0
    client.wait(write=True, deadline=soon())
    assert waker.calls == 1


def test_on_wake_may_raise(woken_pair, waker):
    client, server = woken_pair
    waker.error = KeyError("stop")
    waker.wake()
    with pytest.raises(KeyError):
        client.wait(read=True, deadline=soon())
    send(client, b"still in step")
    assert receive(server, 13) == b"still in step"


def test_on_wake_interrupts_a_flush(woken_pair, waker):
    client, server = woken_pair
    client.queue(NOISE)
    waker.error = KeyError("stop")
    waker.wake()
    with pytest.raises(KeyError):
        client.flush(soon())
    while client.has_output:  # and half a frame can still be completed
        client.try_flush()
        server.receive_into(memoryview(bytearray(100_000)))


def test_a_wake_up_without_a_callback(sockets, waker):
    client, _ = sockets.channels(False, wake_fd=waker.fd)
    waker.wake()
    assert client.wait(read=True, deadline=soon()) == Ready(False, False)
    with pytest.raises(TimedOut):
        client.wait(read=True, deadline=time.monotonic())


# Handshakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_silent_peer_in_the_handshake(sockets, side):
    one, _ = sockets.raw()
    channel = sockets.channel(one, sockets.pipes()[side == "server"])
    with pytest.raises(TimedOut):
        channel.handshake(time.monotonic() + 0.02)


def test_a_peer_without_tls_in_the_handshake(sockets):
    one, other = sockets.raw()
    server = sockets.channel(one, sockets.pipes()[1])
    other.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(TlsError):
        server.handshake(soon())


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_peer_that_goes_in_the_handshake(sockets, side):
    one, other = sockets.raw(tcp_pair)
    channel = sockets.channel(one, sockets.pipes()[side == "server"])
    other.close()
    with pytest.raises(ConnectionLost):
        channel.handshake(soon())


def test_an_untrusted_server_is_reported_with_the_reason(sockets, background):
    one, other = sockets.raw()
    unauthenticated_client = TlsPipe(
        ssl.create_default_context(), server_side=False, server_name="localhost"
    )
    client = sockets.channel(one, unauthenticated_client)
    server = sockets.channel(other, sockets.pipes()[1])
    reported = background(server.handshake, soon())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake(soon())
    # TLS 1.3: the server may be done before the client's alert comes
    error = reported.exception()
    if error is None:
        _, error = receive_all(server)
    assert isinstance(error, TlsError)
    assert "unknown ca" in str(error)


def test_data_that_came_with_the_handshake_is_there(sockets, background):
    """It is in TLS and no longer in the socket, which nobody would be woken for."""
    one, other = sockets.raw()
    client, server_pipe = sockets.pipes()
    server = sockets.channel(other, server_pipe)
    done = background(server.handshake, soon())
    client.handshake()
    one.sendall(client.outgoing())
    while not client.handshake():
        client.feed(one.recv(100_000))
    client.write(b"hello")
    one.sendall(client.outgoing())
    done.result()
    assert server.input_ready()
    assert receive(server, 5) == b"hello"


# Files -------------------------------------------------------------------------------------


def test_try_send_file(sockets, background, tmp_path):
    client, server = sockets.channels(False)
    (tmp_path / "f").write_bytes(NOISE)
    receiving = background(receive, server, len(NOISE) + 4)
    with open(tmp_path / "f", "rb") as file:
        client.queue(b"head")
        at = 0
        while at < len(NOISE):
            count = client.try_send_file(file.fileno(), at, len(NOISE) - at)
            if not count:
                client.wait(write=True, deadline=soon())
            at += count
        assert receiving.result() == b"head" + NOISE
        with pytest.raises(EOFError):
            client.try_send_file(file.fileno(), len(NOISE), 1)
    assert client.bytes_out == len(NOISE) + 4


def test_try_send_file_under_a_slow_reader(sockets, tmp_path):
    client, _ = sockets.channels(False)
    (tmp_path / "f").write_bytes(NOISE)
    with open(tmp_path / "f", "rb") as file:
        client.queue(NOISE)
        assert client.try_flush() is False
        assert client.try_send_file(file.fileno(), 0, 100) == 0


def test_try_send_file_to_nobody(sockets, tmp_path):
    client, server = sockets.channels(False)
    server.abort()
    (tmp_path / "f").write_bytes(NOISE)
    with open(tmp_path / "f", "rb") as file, pytest.raises(ConnectionLost):
        client.try_send_file(file.fileno(), 0, 100)


# Ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("connect", [socket_pair, tcp_pair])
@pytest.mark.parametrize("size", [0, 5, 20_000, 100_000])
def test_what_came_before_the_end_comes_before_it(sockets, background, secure, connect, size):
    """In whatever pieces: the last words of a peer are not lost with it."""
    client, server = sockets.channels(secure, connect)
    client.queue(NOISE[:size])
    receiving = background(receive_all, server)
    client.flush(soon())
    client.close()
    found, end = receiving.result()
    assert found == NOISE[:size]
    assert type(end) is ConnectionLost
    assert "closed" in str(end)


@pytest.mark.parametrize("space", [5, 6, 100])
def test_last_words_and_the_end_in_one_piece(sockets, secure, space):
    client, server = sockets.channels(secure, tcp_pair)
    client.queue(b"hello")
    client.close()
    assert client.socket.fileno() == -1
    server.wait(read=True, deadline=soon())
    scratch = memoryview(bytearray(space))
    found = bytearray()
    while len(found) < 5:
        found += scratch[: server.receive_into(scratch)]
    assert found == b"hello"
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            while not server.receive_into(scratch):
                server.wait(read=True, deadline=soon())


def test_a_cut_is_distinguished_from_an_end(sockets):
    client, server = sockets.channels(True)
    send(client, b"hello")
    client.abort()
    found, end = receive_all(server)
    assert found == b"hello"
    assert "cut" in str(end)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset(sockets, secure):
    client, server = sockets.channels(secure, tcp_pair)
    reset(client.socket)
    _, end = receive_all(server)
    assert type(end) is ConnectionLost
    assert "errno" not in str(end).lower()


def test_sending_to_nobody(sockets, secure):
    client, server = sockets.channels(secure)
    server.abort()
    with pytest.raises(ConnectionLost):
        while True:
            client.try_send(memoryview(NOISE))
    client.queue(b"x")
    with pytest.raises(ConnectionLost):
        client.flush(soon())


def test_closing_twice(pair):
    for channel in pair:
        channel.close()
        channel.close()
        channel.abort()
        channel.close()


def test_closing_waits_for_nobody(pair):
    client, _ = pair
    client.queue(NOISE)
    client.close()
    assert client.socket.fileno() == -1


@pytest.mark.parametrize("end", ["close", "close_after_error", "abort"])
def test_closing_when_the_peer_is_gone(pair, end):
    client, server = pair
    server.abort()
    client.queue(b"anybody there?")
    client.close_after_error(1) if end == "close_after_error" else getattr(client, end)()
    assert client.socket.fileno() == -1


def test_closing_before_the_handshake(sockets):
    one, other = sockets.raw()
    sockets.channel(one, sockets.pipes()[0]).close()
    other.settimeout(30)
    assert other.recv(10) == b""


def talk_then_listen(channel: Channel, size: int) -> bytes:
    """Send all of it before reading anything, as an upload does; then read to the end."""
    left = memoryview(NOISE)[:size]
    while left:
        sent = channel.try_send(left)
        left = left[sent:]
        if not sent:
            channel.wait(write=True, deadline=soon())
    channel.flush(soon())
    found, _ = receive_all(channel)
    channel.close()
    return found


@pytest.mark.parametrize("connect", [socket_pair, tcp_pair])
def test_last_words_arrive_though_the_peer_is_talking(sockets, background, secure, connect):
    client, server = sockets.channels(secure, connect)
    talking = background(talk_then_listen, client, len(NOISE))
    server.wait(read=True, deadline=soon())
    server.queue(b"enough!")
    server.close_after_error(30)
    assert server.socket.fileno() == -1
    assert talking.result() == b"enough!"


def test_large_last_words(pair, background):
    client, server = pair
    talking = background(talk_then_listen, client, 100)
    server.queue(NOISE)
    server.close_after_error(30)
    assert talking.result() == NOISE


def test_a_peer_that_never_stops_is_left(sockets, background, secure):
    """There is always something to pass over: the time is bounded all the same."""
    client, server = sockets.channels(secure, tcp_pair)

    def talk_for_ever() -> None:
        with pytest.raises(ConnectionLost):
            while True:
                if not client.try_send(memoryview(NOISE)):
                    client.wait(write=True, deadline=soon())

    talking = background(talk_for_ever)
    closing = background(server.close_after_error, 0.1)
    try:
        closing.result(timeout=20)
    finally:
        server.abort()
        talking.result()
    assert server.socket.fileno() == -1


class Endless:
    """A socket that always has more, however fast it is read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv_into(self, view) -> int:
        return len(view)

    def __getattr__(self, name: str):
        return getattr(self._sock, name)


def test_a_peer_that_is_faster_than_this_side_is_left(pair, monkeypatch):
    client, server = pair
    server.socket = Endless(server.socket)
    monkeypatch.setattr(server, "wait", lambda **_: Ready(readable=True, writable=True))
    server.close_after_error(0.02)
    assert server.socket.fileno() == -1


def test_a_silent_peer_is_left(pair):
    client, server = pair
    server.queue(b"enough!")
    server.close_after_error(0.02)
    assert server.socket.fileno() == -1
    found, _ = receive_all(client)
    assert found == b"enough!"


def test_a_peer_that_takes_nothing_is_left(pair):
    _, server = pair
    server.queue(NOISE)
    server.close_after_error(0.02)
    assert server.socket.fileno() == -1


def test_a_wake_up_does_not_cut_last_words_short(woken_pair, waker, background):
    """The server's stop wakes every session, those that are saying goodbye too."""
    channel, peer = woken_pair

    def hear_and_go_on() -> None:
        assert receive(peer, 7) == b"enough!"
        waker.wake()
        assert waker.called.wait(30)
        assert talk_then_listen(peer, len(NOISE)) == b""  # nobody throws it back

    hearing = background(hear_and_go_on)
    channel.queue(b"enough!")
    channel.close_after_error(30)
    hearing.result()
    assert waker.calls == 1


def test_whatever_on_wake_raises_the_socket_is_closed(woken_pair, waker):
    channel, _ = woken_pair
    waker.error = KeyError("stop")
    waker.wake()
    with pytest.raises(KeyError):
        channel.close_after_error(30)
    assert channel.socket.fileno() == -1


def test_a_handshake_ends_also_where_there_is_always_more_to_read(sockets):
    """Its peer sends what brings it no further."""
    ours, theirs = sockets.raw()
    theirs.sendall(bytes(64 * 1024))

    class Endless:
        def handshake(self) -> bool:
            return False

        def outgoing(self) -> bytes:
            return b""

        def feed(self, data: bytes) -> None:
            pass

    channel = Channel(ours, Endless())
    with pytest.raises(TimedOut):
        channel.handshake(time.monotonic() - 1)
    assert ours.recv(1), "not all of it was read first"
