"""Many records with one call, and output without a copy: the same bytes, ends and errors."""

from __future__ import annotations

import ctypes
import gc
import itertools
import ssl
import sys
import weakref
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ftpwire import openssl, tls
from ftpwire.errors import ConnectionLost
from ftpwire.tls import PIECE, TlsError, TlsPipe

RECORD = 16 * 1024


@pytest.fixture
def new_pair(client_context, server_context):
    """Makes two ends, hands shaken, for which much is expected."""

    def make(*, much: bool = True) -> tuple[TlsPipe, TlsPipe]:
        client = TlsPipe(client_context, server_side=False, server_name="localhost")
        server = TlsPipe(server_context, server_side=True)
        client.handshake()
        server.feed(bytes(client.outgoing()))
        server.handshake()
        client.feed(bytes(server.outgoing()))
        assert client.handshake()
        server.feed(bytes(client.outgoing()))
        assert server.handshake()
        client.feed(bytes(server.outgoing()))
        assert read(client) == b""  # tickets
        if much:
            for pipe in (client, server):
                assert pipe.expect_much_input()
                pipe.expect_much_output()
        return client, server

    return make


def read(pipe: TlsPipe, size: int = 4 * PIECE) -> bytes:
    view = memoryview(bytearray(size))
    return bytes(view[: pipe.read_into(view)])


def encrypted(pipe: TlsPipe, data: bytes) -> bytes:
    assert pipe.write(data) == len(data)
    return bytes(pipe.outgoing())


def numbered(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.integers(1, PIECE), min_size=1, max_size=6),
    chunk=st.integers(1, 2 * PIECE),
    space=st.integers(1, 3 * PIECE),
)
@example(sizes=[PIECE, PIECE], chunk=RECORD + 22, space=RECORD)  # exactly a record
@example(sizes=[PIECE], chunk=5, space=PIECE)
@example(sizes=[PIECE, 1], chunk=2 * PIECE, space=openssl.SMALLEST_READ)
def test_any_sizes_chunks_and_spaces(new_pair, sizes, chunk, space):
    """Also data that is fed before what came earlier was read."""
    client, server = new_pair()
    sent = found = b""
    for size in sizes:
        data = numbered(size)
        wire = encrypted(client, data)
        sent += data
        for at in range(0, len(wire), max(chunk, len(wire) // 50)):
            server.feed(wire[at : at + max(chunk, len(wire) // 50)])
            found += read(server, space)
    while piece := read(server, space):
        found += piece
    assert found == sent
    assert not server.pending()


def test_all_records_come_with_one_call(new_pair, monkeypatch):
    client, server = new_pair()
    server.feed(encrypted(client, bytes(PIECE)))
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(server_object, name)

        def read(self, *arguments):
            calls.append(arguments)
            return server_object.read(*arguments)

    server_object = server.object
    server.object = Counting()
    assert len(read(server)) == PIECE
    assert not calls


def test_output_is_not_copied(new_pair):
    client, _ = new_pair()
    client.write(bytes(PIECE))
    first = client.outgoing()
    assert isinstance(first, memoryview)
    kept = bytes(first)
    assert bytes(first) == kept
    client.write(bytes(PIECE))  # which needs the place of what was sent
    assert bytes(client.outgoing()) != kept


def ask_for_new_keys(pipe: TlsPipe) -> None:
    """Ask the other end to change its keys (RFC 8446, section 4.6.3) with the next bytes."""
    held, _, pointer = openssl._find(pipe.object)
    held.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    assert held.SSL_key_update(pointer, 1)


def test_output_that_is_still_to_be_sent_survives_answers(new_pair):
    """The answer to a key update is put behind it, not over it."""
    client, server = new_pair()
    server.write(numbered(PIECE))
    wire = server.outgoing()
    before = bytes(wire)
    ask_for_new_keys(client)
    server.feed(encrypted(client, b"a request"))
    assert read(server) == b"a request"
    assert bytes(wire) == before
    client.feed(before)
    assert read(client) == numbered(PIECE)
    client.feed(encrypted(server, b"with new keys"))
    assert read(client) == b"with new keys"


@pytest.mark.parametrize("much", [False, True])
def test_a_peer_that_keeps_asking_for_new_keys(new_pair, much):
    client, server = new_pair(much=much)
    with pytest.raises(TlsError, match="too many"):
        for _ in range(2000):
            ask_for_new_keys(client)
            server.feed(encrypted(client, b"x"))
            assert read(server) == b"x"


def test_more_requests_for_new_keys_at_once_than_answers_have_space(new_pair, monkeypatch):
    monkeypatch.setattr(tls, "_RING_SIZE", 1000)
    client, server = new_pair()
    held, _, pointer = openssl._find(client.object)
    held.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    requests = b""
    for _ in range(50):
        ask_for_new_keys(client)
        held.SSL_do_handshake(pointer)  # sends it without data
        requests += bytes(client.outgoing())
    server.feed(requests)
    with pytest.raises(TlsError, match="too many key updates"):
        read(server)
    assert server._outgoing.pending <= 1000


def test_output_that_goes_on_at_the_beginning_of_the_ring(new_pair):
    client, server = new_pair(much=False)
    ring = openssl.OutputRing(client.object, 1000)
    client._outgoing = client._ring = ring
    found = b""
    for number in range(40):  # each is read a write later, so the ring never empties
        client.object.write(bytes([number]) * 300)
        if number % 2:
            server.feed(bytes(ring.read()))
            ring.release()
            client.object.write(bytes([100 + number]) * 200)
            found += read(server)
    server.feed(bytes(ring.read()))
    found += read(server)
    sent = b"".join(
        bytes([number]) * 300 + (bytes([100 + number]) * 200 if number % 2 else b"")
        for number in range(40)
    )
    assert found == sent


def test_a_ring_that_is_full_is_an_error(new_pair):
    client, _ = new_pair()
    with pytest.raises(TlsError):
        for _ in range(3):
            client.object.write(bytes(1000))  # never sent
            client.write(bytes(PIECE))


@pytest.mark.parametrize("records", [0, 1, 3, 7])
def test_what_came_before_a_damaged_record_is_read(new_pair, records):
    client, server = new_pair()
    good = encrypted(client, numbered(records * RECORD)) if records else b""
    bad = bytearray(encrypted(client, bytes(RECORD)))
    bad[100] ^= 1
    server.feed(good + bytes(bad))
    if records:
        assert read(server) == numbered(records * RECORD)
    for size in (PIECE, PIECE, 1, PIECE):
        with pytest.raises(TlsError, match="bad record mac"):
            read(server, size)


class Damage(NamedTuple):
    """A change to a stream of records. The numbers are reduced to what there is."""

    kind: str
    record: int = 0
    other: int = 0

    def apply(self, records: list[bytes]) -> None:
        if not any(records):
            return
        at, other = self.record % len(records), self.other % len(records)
        record = bytearray(records[at]) or bytearray(1)
        match self.kind:
            case "flip":
                record[self.other // 8 % len(record)] ^= 1 << self.other % 8
                records[at] = bytes(record)
            case "shorten":
                records[at] = bytes(record[: self.other % len(record)])
            case "end":
                records[at:] = [bytes(record[: self.other % len(record)])]
            case "drop":
                del records[at]
            case "repeat":
                records.insert(other, records[at])
            case "swap":
                records[at], records[other] = records[other], records[at]


def split_records(wire: bytes) -> list[bytes]:
    records = []
    while wire:
        size = 5 + int.from_bytes(wire[3:5], "big")
        records.append(wire[:size])
        wire = wire[size:]
    return records


def outcome(sender, receiver, sizes, damages, chunk, space, *, closed) -> tuple[bytes, Exception]:
    """Send damaged records. Return what was read, and the error that ended it."""
    records = []
    for number, size in enumerate(sizes):
        if number % 3 == 1:
            ask_for_new_keys(sender)
        records += split_records(encrypted(sender, numbered(size)))
    if closed:
        records += split_records(sender.close())
    for damage in damages:
        damage.apply(records)
    wire, found = b"".join(records), b""
    chunk = max(chunk, len(wire) // 50)
    try:
        for at in range(0, len(wire), chunk):
            receiver.feed(wire[at : at + chunk])
            while data := read(receiver, space):
                found += data
            receiver.outgoing()
        receiver.feed_eof()
        while data := read(receiver, space):
            found += data
    except ConnectionLost as error:
        return found, error
    raise AssertionError("it has no end")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.integers(1, PIECE) | st.just(PIECE), max_size=24),
    damages=st.lists(
        st.builds(
            Damage,
            st.sampled_from(["flip", "shorten", "end", "drop", "repeat", "swap"]),
            st.integers(0, 200),
            st.integers(0, 2**17),
        ),
        max_size=3,
    ),
    chunk=st.integers(1, 4 * PIECE),
    space=st.integers(1, 8 * PIECE),
    closed=st.booleans(),
)
@example(
    sizes=[PIECE, PIECE],
    damages=[Damage("flip", 6, 8 * 3000)],
    chunk=4 * PIECE,
    space=4 * PIECE,
    closed=True,
)
def test_damaged_streams_end_as_before(new_pair, sizes, damages, chunk, space, closed):
    """The same bytes, and the same error."""
    space = max(space, sum(sizes) // 50)
    results = []
    for much in (True, False):
        client, server = new_pair(much=False)
        if much:
            assert server.expect_much_input()
            server.expect_much_output()
        results.append(outcome(client, server, sizes, damages, chunk, space, closed=closed))
    (found, error), (found_before, error_before) = results
    assert found == found_before
    assert type(error) is type(error_before)
    assert str(error) == str(error_before)


def test_another_connection_is_not_harmed_by_a_damaged_record(new_pair):
    """OpenSSL keeps errors for each thread, and would give them to whoever asks next."""
    client, server = new_pair()
    others = [new_pair(), new_pair(much=False)]
    good, bad = encrypted(client, bytes(RECORD)), bytearray(encrypted(client, bytes(RECORD)))
    bad[100] ^= 1
    server.feed(good + bytes(bad))
    assert len(read(server)) == RECORD
    for other_client, other_server in others:
        assert read(other_server) == b""
        other_server.feed(encrypted(other_client, b"well"))
        assert read(other_server) == b"well"


def test_another_connection_is_not_harmed_when_one_is_dropped(new_pair):
    client, server = new_pair()
    other_client, other_server = new_pair()
    server.feed(encrypted(client, bytes(RECORD))[:-1])
    read(server)
    del client, server
    gc.collect()
    assert read(other_server) == b""
    other_server.feed(encrypted(other_client, b"well"))
    assert read(other_server) == b"well"


def test_dropping_a_connection_sends_nothing(new_pair):
    client, server = new_pair()
    reader = server._records
    server._records = None
    server._incoming = ssl.MemoryBIO()
    del reader
    gc.collect()
    assert bytes(server.outgoing()) == b""


def leave_an_error(held) -> int:
    """Leave an error in OpenSSL's queue of this thread. Return its code."""
    held.BIO_write.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    source, _ = openssl._new_source(held)
    held.BIO_write(source, b"not possible", 1)
    held.BIO_free(source)
    code = held.ERR_peek_error()
    assert code
    return code


def test_an_error_of_another_session_is_not_taken_for_ones_own(new_pair):
    client, server = new_pair()
    leave_an_error(server._records._held)
    for _ in range(2):
        server.feed(encrypted(client, b"well"))
        assert read(server) == b"well"


def test_dropping_a_connection_leaves_the_errors_of_others(new_pair):
    """The garbage collector may drop it between a call of OpenSSL and the look at its errors."""
    client, server = new_pair()
    bad = bytearray(encrypted(client, b"damaged"))
    bad[-1] ^= 1
    server.feed(bytes(bad))
    with pytest.raises(TlsError):  # SSL_shutdown is then an error, too
        read(server)
    held = server._records._held
    held.ERR_peek_last_error.restype = ctypes.c_ulong
    code = leave_an_error(held)
    try:
        del client, server
        gc.collect()
        assert held.ERR_peek_error() == held.ERR_peek_last_error() == code
    finally:
        held.ERR_clear_error()


def test_output_keeps_the_memory_that_it_is_in(new_pair):
    client, server = new_pair()
    client.write(numbered(PIECE))
    view = client.outgoing()[RECORD:]
    before = bytes(view)
    owner = weakref.ref(client.object)
    del client
    gc.collect()
    assert owner() is not None
    assert bytes(view) == before
    del view
    gc.collect()
    assert owner() is None


@pytest.mark.parametrize(("name", "call"), [("BIO_new", 0), ("BIO_new", 1), ("BIO_new_mem_buf", 0)])
def test_no_memory_for_it(new_pair, monkeypatch, name, call):
    """OpenSSL has none: that is an error, and harms neither the connection nor its end."""
    client, server = new_pair(much=False)
    held, _ = openssl.prepare()
    make, calls = getattr(held, name), itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(held, name, lambda *given: make(*given) if next(calls) != call else None)
        with pytest.raises(MemoryError):
            server.expect_much_input()
    server.feed(encrypted(client, b"well"))
    assert read(server) == b"well"


def test_the_memory_of_the_input_before_is_freed(new_pair):
    """That of a MemoryBIO: OpenSSL's own objects keep nothing but what replaces it."""
    _, server = new_pair()
    reader = server._records
    reader._held.BIO_next.argtypes = [ctypes.c_void_p]
    reader._held.BIO_next.restype = ctypes.c_void_p
    kept = [reader._bio]
    while following := reader._held.BIO_next(kept[-1]):
        kept.append(following)
    assert len(kept) == 3
    assert kept[-1] == reader._source


@pytest.mark.parametrize("size", [4 * PIECE, PIECE, RECORD])
def test_an_idle_connection_holds_nothing_of_what_came(new_pair, size):
    """Whether the last read had space for more, for just that, or only for a record."""
    client, server = new_pair()
    wire = encrypted(client, bytes(PIECE))
    held = sys.getrefcount(wire)
    server.feed(wire)
    for _ in range(PIECE // min(size, PIECE)):
        read(server, size)
    assert not server.pending()
    assert sys.getrefcount(wire) == held


@pytest.fixture
def unknown(request, monkeypatch):
    """A Python in which nothing is known, for a reason."""
    openssl.path.cache_clear()
    openssl.prepare.cache_clear()
    request.param(monkeypatch)
    yield
    monkeypatch.undo()
    openssl.path.cache_clear()
    openssl.prepare.cache_clear()


def _another_version(monkeypatch) -> None:
    monkeypatch.setattr(openssl, "_KNOWN", ((4, 0), (5, 0)))


def _a_function_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(openssl._SIGNATURES, "BIO_no_such_function", (None,))


def _memory_is_read_otherwise(monkeypatch) -> None:
    monkeypatch.setattr(openssl, "_reads_as_expected", lambda held: False)


def _pointers_lead_elsewhere(monkeypatch) -> None:
    monkeypatch.setattr(openssl, "context_pointer", lambda context: 1)


@pytest.mark.parametrize(
    "unknown",
    [
        _another_version,
        _a_function_is_missing,
        _memory_is_read_otherwise,
        _pointers_lead_elsewhere,
    ],
    indirect=True,
)
def test_without_it_all_goes_on_as_before(unknown, new_pair):
    client, server = new_pair(much=False)
    assert not server.expect_much_input()
    client.expect_much_output()
    server.feed(encrypted(client, numbered(PIECE)))
    assert read(server) == numbered(PIECE)
    server.feed_eof()
    with pytest.raises(ConnectionLost, match="cut"):
        read(server)


def test_it_is_not_begun_while_something_waits(new_pair):
    client, server = new_pair(much=False)
    server.feed(encrypted(client, b"first"))
    assert not server.expect_much_input()
    client.write(b"second")
    client.expect_much_output()
    assert read(server) == b"first"
    server.feed(bytes(client.outgoing()))
    assert read(server) == b"second"
    assert server.expect_much_input()
