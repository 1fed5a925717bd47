"""Framing, however the network cuts and glues the stream."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire.errors import FrameTooBig, TruncatedFrame, UnknownKind
from ftpwire.frames import (
    HEADER,
    HEADER_SIZE,
    MAX_CONTROL,
    MAX_CONTROL_BEFORE_LOGIN,
    MAX_DATA,
    FrameReader,
    Header,
    Kind,
    frame,
    pack_header,
)

FRAMES = [
    (Kind.REQUEST, 1, b"FTPW-ish"),
    (Kind.DATA, 2, b"d" * 20),
    (Kind.DATA, 2, b""),
    (Kind.END, 2, b"\x00" * 9),
    (Kind.CANCEL, 2**32 - 1, b""),
    (Kind.NOTICE, 0, b"notice"),
    (Kind.ERROR, 7, b"!"),
    (Kind.REPLY, 3, b"reply"),
]

SMALL = 8 * 1024  # the buffer that a reader starts with, and the least that it keeps


def wire_of(frames) -> bytes:
    return b"".join(frame(*each) for each in frames)


def reader_of(**limits) -> FrameReader:
    return FrameReader(**{"max_control": MAX_CONTROL, "max_data": MAX_DATA} | limits)


def feed(reader: FrameReader, data: bytes) -> None:
    reader.feed(data)


def receive(reader: FrameReader, data: bytes) -> None:
    """As a socket does: into the reader's own buffer, as much as there is room for."""
    while data:
        space = reader.writable()
        count = min(len(space), len(data))
        space[:count] = data[:count]
        reader.received(count)
        data = data[count:]


class Taker:
    """Takes whatever frames a reader has: control payloads whole, DATA piece by piece."""

    def __init__(self, reader: FrameReader, piece: int = 2**30) -> None:
        self.reader = reader
        self.piece = piece
        self.frames: list[tuple[int, int, bytes]] = []
        self._header: Header | None = None
        self._data = b""

    def take(self) -> None:
        reader = self.reader
        while True:
            if self._header is None:
                self._header = reader.next_header()
                if self._header is None:
                    return
                self._data = b""
            if self._header.kind == Kind.DATA:
                while reader.remaining:
                    taken = reader.take(self.piece)
                    if not taken:
                        return
                    self._data += taken
            else:
                payload = reader.payload()
                if payload is None:
                    return
                self._data = bytes(payload)
            assert reader.remaining == 0
            self.frames.append((self._header.kind, self._header.request_id, self._data))
            self._header = None


def drive(reader, put, chunks, piece=2**30):
    """Everything that came out of a reader which was given ``chunks``, in order."""
    taker = Taker(reader, piece)
    for chunk in chunks:
        put(reader, chunk)
        taker.take()
    reader.close()
    return taker.frames


PUTS = pytest.mark.parametrize(
    "put", [pytest.param(feed, id="feed"), pytest.param(receive, id="writable-received")]
)


def test_header_is_the_protocols():
    assert HEADER_SIZE == 9
    assert frame(Kind.DATA, 0x01020304, b"xyz") == b"\0\0\0\3\4\1\2\3\4xyz"
    assert pack_header(3, Kind.DATA, 0x01020304) + b"xyz" == frame(Kind.DATA, 0x01020304, b"xyz")
    assert [int(kind) for kind in Kind] == [1, 2, 3, 4, 5, 6, 7]


@PUTS
@pytest.mark.parametrize("cut", range(len(wire_of(FRAMES)) + 1))
def test_every_cut(put, cut):
    wire = wire_of(FRAMES)
    assert drive(reader_of(), put, [wire[:cut], wire[cut:]]) == FRAMES


@PUTS
@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 10, 1000])
def test_pieces_of_one_size(put, size):
    wire = wire_of(FRAMES * 3)
    chunks = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert drive(reader_of(), put, chunks, piece=3) == FRAMES * 3


@PUTS
def test_stream_much_larger_than_the_buffer(put):
    frames = [(Kind.REQUEST, number, bytes([number % 256]) * number) for number in range(700)]
    wire = wire_of(frames)
    chunks = [wire[at : at + 1000] for at in range(0, len(wire), 1000)]
    reader = reader_of()
    assert drive(reader, put, chunks) == frames
    assert len(reader.writable()) <= 2 * SMALL


@PUTS
@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1, MAX_CONTROL - 1, MAX_CONTROL])
def test_large_control_frames(put, size):
    frames = [(Kind.REPLY, 1, b"a" * size), (Kind.REPLY, 2, b"b" * size)]
    wire = wire_of(frames)
    chunks = [wire[at : at + 4099] for at in range(0, len(wire), 4099)]
    assert drive(reader_of(), put, chunks) == frames


random_frames = st.lists(
    st.tuples(
        st.sampled_from(Kind),
        st.integers(0, 2**32 - 1),
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda size, byte: byte * size, st.integers(0, 20_000), st.binary(max_size=1)
            ),
        ),
    ),
    max_size=12,
)


@pytest.mark.parametrize("put", [feed, receive], ids=["feed", "writable-received"])
@given(frames=random_frames, data=st.data())
def test_any_frames_in_any_chunks(put, frames, data):
    wire = wire_of(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20), label="cuts"))
    edges = [0, *cuts, len(wire)]
    chunks = [wire[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    piece = data.draw(st.sampled_from([1000, 2**30, 1 + len(wire) // 3]), label="piece")
    assert drive(reader_of(), put, chunks, piece) == frames


@given(
    payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=30),
)
def test_data_goes_around_the_reader(payloads, sizes):
    """As a receiver does: headers through the reader, the rest of DATA into its own buffer."""
    wire = memoryview(wire_of([(Kind.DATA, 5, payload) for payload in payloads]))
    reader = reader_of()
    sizes = iter(sizes * len(wire))
    found = []
    while wire or reader.buffered:
        header = reader.next_header()
        if header is None:
            count = min(next(sizes), len(wire))
            receive(reader, bytes(wire[:count]))
            wire = wire[count:]
            continue
        mine = bytearray()
        while reader.remaining:
            if reader.buffered:
                mine += reader.take(reader.remaining)
            else:
                count = min(next(sizes), reader.remaining, len(wire))
                mine += wire[:count]
                wire = wire[count:]
                reader.bypassed(count)
        found.append(bytes(mine))
    reader.close()
    assert found == payloads


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        pytest.param(b"\x00\x00", TruncatedFrame, id="header-cut-short"),
        pytest.param(HEADER.pack(5, Kind.REQUEST, 1), TruncatedFrame, id="payload-missing"),
        pytest.param(HEADER.pack(5, Kind.REQUEST, 1) + b"abc", TruncatedFrame, id="payload-cut"),
        pytest.param(HEADER.pack(5, Kind.DATA, 1) + b"abc", TruncatedFrame, id="data-cut"),
        pytest.param(frame(Kind.END, 1) + b"\0", TruncatedFrame, id="second-header-cut-short"),
        pytest.param(HEADER.pack(1025, Kind.REQUEST, 1), FrameTooBig, id="one-beyond-the-limit"),
        pytest.param(HEADER.pack(2**32 - 1, Kind.REQUEST, 1), FrameTooBig, id="largest-length"),
        pytest.param(HEADER.pack(2**31, Kind.NOTICE, 0), FrameTooBig, id="sign-bit-length"),
        pytest.param(HEADER.pack(2049, Kind.DATA, 1), FrameTooBig, id="data-beyond-the-limit"),
        pytest.param(HEADER.pack(0, 0, 1), UnknownKind, id="kind-0"),
        pytest.param(HEADER.pack(0, 8, 1), UnknownKind, id="kind-8"),
        pytest.param(HEADER.pack(0, 255, 1), UnknownKind, id="kind-255"),
        pytest.param(HEADER.pack(2**32 - 1, 99, 1), UnknownKind, id="unknown-and-oversized"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", UnknownKind, id="http"),
    ],
)
@PUTS
def test_reader_rejects(put, wire, error):
    with pytest.raises(error) as caught:
        drive(reader_of(max_control=1024, max_data=2048), put, [wire])
    assert type(caught.value) is error
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_limit_of_each_kind(kind):
    limit = 60 if kind is Kind.DATA else 50
    reader = reader_of(max_control=50, max_data=60)
    reader.feed(HEADER.pack(limit, kind, 1))
    assert reader.next_header() == Header(limit, kind, 1)
    reader = reader_of(max_control=50, max_data=60)
    reader.feed(HEADER.pack(limit + 1, kind, 1))
    for _ in range(2):  # it stays wrong, however often it is asked
        with pytest.raises(FrameTooBig, match=rf"\b{limit + 1}\b.*\b{limit}\b"):
            reader.next_header()


def test_before_login_no_data_and_small_control():
    reader = FrameReader()
    reader.feed(HEADER.pack(1, Kind.DATA, 1))
    with pytest.raises(FrameTooBig):
        reader.next_header()
    reader = FrameReader()
    reader.feed(HEADER.pack(MAX_CONTROL_BEFORE_LOGIN + 1, Kind.REQUEST, 1))
    with pytest.raises(FrameTooBig):
        reader.next_header()


def test_allow_holds_from_the_next_frame_on():
    reader = FrameReader()
    reader.feed(frame(Kind.REQUEST, 1, b"x") + HEADER.pack(100_000, Kind.DATA, 2))
    reader.next_header()
    reader.payload()
    reader.allow(MAX_CONTROL, MAX_DATA)
    assert reader.next_header() == Header(100_000, Kind.DATA, 2)


@PUTS
@pytest.mark.parametrize(
    "claim", [pytest.param(Kind.REQUEST, id="control"), pytest.param(Kind.DATA, id="data")]
)
def test_a_claim_allocates_nothing(put, claim):
    size = MAX_DATA if claim is Kind.DATA else MAX_CONTROL
    tracemalloc.start()
    try:
        reader = reader_of()
        put(reader, HEADER.pack(size, claim, 1) + b"only this much")
        assert reader.next_header() == Header(size, claim, 1)
        if claim is not Kind.DATA:
            assert reader.payload() is None
        assert len(reader.writable()) <= SMALL
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * SMALL


def test_buffer_grows_with_what_came_and_no_further():
    """Bytes that were received, not announced, decide; at most twice a control frame is kept."""
    reader = reader_of()
    receive(reader, HEADER.pack(MAX_CONTROL, Kind.REQUEST, 1))
    reader.next_header()
    came = 0
    largest = 0
    while came < MAX_CONTROL:
        space = len(reader.writable())
        assert 0 < space <= max(SMALL, 4 * (came + HEADER_SIZE))
        largest = max(largest, space)
        count = min(space, 3000, MAX_CONTROL - came)
        reader.received(count)
        came += count
    assert len(reader.payload()) == MAX_CONTROL
    assert largest <= 2 * (MAX_CONTROL + HEADER_SIZE)


def test_writable_is_never_empty():
    """Even for who takes nothing: then it is little."""
    reader = FrameReader()
    for _ in range(50):
        space = len(reader.writable())
        assert space > 0
        reader.received(space)
    assert reader.buffered <= 2 * (MAX_CONTROL_BEFORE_LOGIN + HEADER_SIZE) + 50


def test_shrink_gives_memory_back():
    reader = reader_of()
    drive(reader, receive, [frame(Kind.REPLY, 1, bytes(MAX_CONTROL))])
    assert len(reader.writable()) > SMALL
    reader.shrink()
    assert len(reader.writable()) == SMALL
    assert drive(reader, receive, [wire_of(FRAMES)]) == FRAMES


def test_shrink_keeps_what_is_buffered():
    reader = reader_of()
    drive(reader, receive, [frame(Kind.REPLY, 1, bytes(MAX_CONTROL))])
    wire = wire_of(FRAMES)
    receive(reader, wire[:5])
    reader.shrink()
    assert reader.buffered == 5
    assert drive(reader, receive, [wire[5:]]) == FRAMES


def test_payload_outlives_feed():
    """Views are good until the next ``writable``, whatever is fed meanwhile."""
    reader = reader_of()
    reader.feed(frame(Kind.REQUEST, 1, b"first"))
    reader.next_header()
    first = reader.payload()
    reader.feed(frame(Kind.REQUEST, 2, b"x" * 50_000))
    assert bytes(first) == b"first"


def test_take_hands_out_no_more_than_is_there():
    reader = reader_of()
    reader.feed(HEADER.pack(10, Kind.DATA, 1) + b"abcd")
    reader.next_header()
    assert bytes(reader.take(3)) == b"abc"
    assert bytes(reader.take(3)) == b"d"
    assert bytes(reader.take(3)) == b""
    assert reader.remaining == 6
    reader.feed(b"efghij" + frame(Kind.END, 1)[:4])
    assert bytes(reader.take(100)) == b"efghij"
    assert reader.remaining == 0
    assert reader.buffered == 4


def test_next_header_needs_the_payload_taken():
    reader = reader_of()
    reader.feed(HEADER.pack(3, Kind.DATA, 1) + b"ab")
    reader.next_header()
    with pytest.raises(RuntimeError):
        reader.next_header()


@pytest.mark.parametrize(
    ("buffered", "count"),
    [
        pytest.param(b"", 4, id="beyond-the-frame"),
        pytest.param(b"a", 1, id="past-what-is-buffered"),
    ],
)
def test_bypassed_must_be_possible(buffered, count):
    reader = reader_of()
    reader.feed(HEADER.pack(3, Kind.DATA, 1) + buffered)
    reader.next_header()
    with pytest.raises(RuntimeError):
        reader.bypassed(count)


def test_close_inside_a_bypassed_frame():
    reader = reader_of()
    reader.feed(HEADER.pack(3, Kind.DATA, 1))
    reader.next_header()
    reader.bypassed(2)
    with pytest.raises(TruncatedFrame):
        reader.close()
    reader.bypassed(1)
    reader.close()


@pytest.mark.parametrize(
    ("wire", "found"),
    [
        pytest.param(b"", False, id="nothing"),
        pytest.param(frame(Kind.CANCEL, 9), True, id="alone"),
        pytest.param(frame(Kind.CANCEL, 9)[:-1], False, id="header-cut-short"),
        pytest.param(frame(Kind.CANCEL, 8), False, id="of-another-request"),
        pytest.param(frame(Kind.END, 9), False, id="another-kind"),
        pytest.param(wire_of(FRAMES) + frame(Kind.CANCEL, 9), True, id="after-others"),
        pytest.param(frame(Kind.REQUEST, 1, frame(Kind.CANCEL, 9)), False, id="in-a-payload"),
        pytest.param(HEADER.pack(50, Kind.DATA, 9) + frame(Kind.CANCEL, 9), False, id="in-data"),
    ],
)
def test_has_cancel(wire, found):
    reader = reader_of()
    reader.feed(wire)
    assert reader.has_cancel(9) is found
    reader = reader_of()
    reader.feed(HEADER.pack(6, Kind.DATA, 9) + b"abcdef" + wire)
    reader.next_header()
    reader.take(2)
    assert reader.has_cancel(9) is found  # behind the rest of the current payload
