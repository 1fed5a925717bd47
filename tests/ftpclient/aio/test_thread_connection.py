"""What passes between a transfer's thread and the loop, without either of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ftpclient.aio.thread_connection import Forward, ThreadChannel, ThreadConnection
from ftpclient.aio.write_units import Sender, WriteUnit
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.protocol import Call, ClientProtocol
from ftpwire import frames, messages
from ftpwire.errors import BadMessage, ConnectionLost
from ftpwire.frames import HEADER_SIZE, Kind
from ftpwire.messages import Done, Get, LoggedIn, Progress, Put, Sent, Stat, WhoAmI
from tests.peer import frame


class Loop:
    """The other side, which notes what it is told."""

    def __init__(self) -> None:
        self.posted: list[Sender] = []
        self.woken: set[ThreadChannel] = set()
        self.ended: list[Exception] = []
        self.abandoned: list[ThreadChannel] = []

    def post(self, sender: Sender) -> None:
        self.posted.append(sender)

    def wake_later(self, channel: ThreadChannel) -> None:
        self.woken.add(channel)

    def stop_reading(self, reader: object) -> None:
        raise AssertionError("so much did not come")

    def read_on(self, reader: object) -> None:
        raise AssertionError("it never stopped")

    def end(self, error: Exception) -> None:
        self.ended.append(error)

    def abandon(self, channel: ThreadChannel) -> None:
        self.abandoned.append(channel)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def carrier() -> Loop:
    return Loop()


@pytest.fixture
def connection(carrier, loop) -> ThreadConnection:
    protocol = ClientProtocol("server:2121")
    protocol.max_requests, protocol.max_unanswered = 10, 2**20
    address = ServerAddress("server", 2121, "alice")
    return ThreadConnection(carrier, loop, address, protocol.beside(), context=None, interrupt=None)


def run(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop do what is due."""
    loop.run_until_complete(asyncio.sleep(0))


def units(connection: ThreadConnection) -> list[tuple]:
    return [
        (bytes(one.data), one.call is not None, one.opens, one.closes, one.cancels)
        for one in connection.channel.sender.units
    ]


def test_each_request_goes_as_a_whole(connection, carrier, loop):
    question, upload = Call(), Call()
    connection.submit(question, WhoAmI())
    connection.submit(upload, Put(b"/x", 3), 3)
    connection.send_data(upload, b"abc")
    connection.send_end(upload, Sent(3))
    connection.send_cancel(question)
    connection.channel.try_flush()
    run(loop)
    assert carrier.posted == [connection.channel.sender]
    whole = frame(Kind.REQUEST, 2, Put(b"/x", 3)) + frame(Kind.DATA, 2, b"abc")
    assert units(connection) == [
        (frame(Kind.REQUEST, 1, WhoAmI()), True, False, False, None),
        (whole + frame(Kind.END, 2, Sent(3)), True, True, True, None),
        (frame(Kind.CANCEL, 1), False, False, False, 1),
    ]


def test_an_upload_that_is_cancelled_is_closed_by_that(connection, loop):
    upload = Call()
    connection.submit(upload, Put(b"/x", 3), 3)
    connection.channel.try_flush()
    connection.send_cancel(upload)
    connection.channel.try_flush()
    assert [one[1:] for one in units(connection)] == [
        (True, True, False, None),
        (False, False, True, 1),
    ]


def test_last_words_come_before_the_end(connection):
    """What the server has said before the connection ended is an answer all the same."""
    call = Call()
    connection.submit(call, WhoAmI())
    forward = connection.channel.sender.units[0].call if connection.channel.sender.units else None
    assert forward is None, "it was not posted yet"
    connection.channel.feed(frame(Kind.REPLY, call.request_id, LoggedIn("alice")))
    connection.channel.hand_over()
    connection.channel.ended = ConnectionLost("server:2121: gone")
    connection.take_input()
    assert call.reply == LoggedIn("alice")
    other = Call()
    connection.submit(other, WhoAmI())
    with pytest.raises(ConnectionLost, match="^server:2121: gone$"):
        connection.take_input()
    assert connection.broken and isinstance(other.error, ConnectionLost)


def test_an_end_of_another_kind(connection):
    call = Call()
    connection.submit(call, WhoAmI())
    connection.channel.ended = BadMessage("nonsense")
    with pytest.raises(BadMessage, match="nonsense"):
        connection.take_input()
    assert connection.broken and isinstance(call.error, BadMessage)


def test_nonsense_for_one_thread_ends_the_connection_of_all(connection, carrier, loop):
    connection.submit(Call(), WhoAmI())
    connection.channel.feed(frame(Kind.REPLY, 1, Done()))
    connection.channel.hand_over()
    with pytest.raises(BadMessage):
        connection.take_input()
    run(loop)
    assert [type(error) for error in carrier.ended] == [BadMessage]


def test_an_answer_that_is_not_understood_fails_its_request_alone(connection, carrier, loop):
    call, other = Call(), Call()
    connection.submit(call, WhoAmI())
    connection.submit(other, WhoAmI())
    connection.channel.feed(frame(Kind.REPLY, 1, Sent(1)))
    connection.channel.feed(frame(Kind.REPLY, 2, LoggedIn("alice")))
    connection.channel.hand_over()
    while connection.take_input():
        pass
    run(loop)
    assert isinstance(call.error, BadMessage) and call.done
    assert other.reply == LoggedIn("alice") and not connection.broken and not carrier.ended


def test_bytes_that_a_sink_can_t_take_end_the_connection(connection):
    class Wrong(Call):
        streams = True

        def on_frame(self, size: int) -> None:
            self.sink = self

        def write(self, data: memoryview) -> None:
            raise BadMessage("more than was announced")

    call = Wrong()
    connection.submit(call, Get(b"/x"))
    connection.channel.feed(frame(Kind.DATA, 1, b"abc"))
    connection.channel.hand_over()
    with pytest.raises(BadMessage, match="announced"):
        connection.take_input()
    assert connection.broken and isinstance(call.error, BadMessage)


# what the loop sees of it --------------------------------------------------------------------


def handed_over(channel: ThreadChannel) -> bytes:
    channel.hand_over()
    view = memoryview(bytearray(1_000_000))
    return bytes(view[: channel.receive_into(view)])


def forwarded(connection: ThreadConnection, request, *, streams: bool = False) -> Forward:
    call = Call()
    call.request_id, call.streams = 7, streams
    return Forward(connection.channel, request, call)


@pytest.mark.parametrize(
    ("request_", "streams", "kind", "payload", "is_last"),
    [
        (Stat(b"/"), False, Kind.REPLY, LoggedIn("alice"), True),
        (Stat(b"/"), False, Kind.ERROR, messages.Failed("busy", ""), True),
        (Put(b"/x"), False, Kind.REPLY, messages.Ready(), False),
        (Put(b"/x"), False, Kind.REPLY, messages.Stored(1), True),
        (Get(b"/x"), True, Kind.REPLY, messages.Sending(1, 1, 1), False),
        (Get(b"/x"), True, Kind.END, Sent(1), True),
    ],
)
def test_what_comes_is_handed_over_as_it_is(connection, request_, streams, kind, payload, is_last):
    forward = forwarded(connection, request_, streams=streams)
    data = messages.encode(payload)
    assert forward.on_control(kind, memoryview(data)) is is_last
    forward.on_notice(Progress(1))
    forward.on_frame(3)
    forward.on_data(memoryview(b"abc"))
    assert handed_over(connection.channel) == frame(kind, 7, data) + frame(
        Kind.NOTICE, 7, Progress(1)
    ) + frame(Kind.DATA, 7, b"abc")


def test_large_pieces_go_into_the_thread_s_own_buffers(connection):
    forward = forwarded(connection, Get(b"/x"), streams=True)
    size = 100_000
    forward.on_frame(size)
    assert forward.sink is connection.channel
    reader = frames.FrameReader(0, size)
    reader.feed(frame(Kind.DATA, 7, bytes(size)))
    reader.next_header()
    connection.channel.write(reader.take(size))
    assert handed_over(connection.channel)[HEADER_SIZE:] == bytes(size)
    forward.abandon()
    assert forward.sink is not connection.channel and forward.is_dropped
    forward.on_frame(3)
    forward.on_data(memoryview(b"abc"))
    assert handed_over(connection.channel) == b""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param([WriteUnit(b"r", call=Call())], b"", id="a-request"),
        pytest.param(
            [
                WriteUnit(b"p", call=Call(), opens=True),
                WriteUnit(b"d"),
                WriteUnit(b"e", closes=True),
            ],
            b"",
            id="an-upload",
        ),
        pytest.param([WriteUnit(b"d"), WriteUnit(b"e", closes=True)], b"de", id="an-open-upload"),
        pytest.param([WriteUnit(b"c", cancels=1), WriteUnit(b"c", cancels=2)], b"c", id="cancels"),
        pytest.param(
            [WriteUnit(b"e", closes=True, cancels=2), WriteUnit(b"r", call=Call())],
            b"e",
            id="the-end-of-an-open-one",
        ),
    ],
)
def test_what_was_not_sent_is_taken_back(given, kept):
    """Nothing of it may leave an upload open, or be asked for by nobody."""
    sender = Sender()
    sender.units.extend(given)
    sender.withdraw_requests({1}.__contains__)
    assert b"".join(bytes(one.data) for one in sender.units) == kept


def test_a_thread_may_append_while_the_loop_withdraws_a_request():
    """Their order is the operating system's affair: here it appends between two looks."""
    sender = Sender()

    class Unit(WriteUnit):
        @property
        def call(self):
            sender.units.append(WriteUnit(b"d"))
            return None

        @call.setter
        def call(self, call):
            pass

    sender.units.extend([Unit(), WriteUnit()])
    assert not sender.withdraw(Call())
