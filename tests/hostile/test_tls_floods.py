"""TLS records that carry nothing: bounded in number, in what is owed for them, and in time.

The control of each: whoever sends data as well, or changes its keys now and then, is served.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest

from ftpwire import messages
from ftpwire.frames import Kind
from ftpwire.messages import Hello, Login, WhoAmI
from ftpwire.tls import MOST_ANSWERS, TlsError, TlsPipe
from tests.hostile.conftest import Site
from tests.hostile.records import HandMade
from tests.peer import PATIENCE, Peer, eventually, frame

LONG = 10 * PATIENCE
HELLO = frame(Kind.REQUEST, 0, messages.encode_hello(Hello()))
LOGIN = frame(Kind.REQUEST, 1, Login("alice", "secret"))
TLS = {"plaintext": False}

tls_ways = pytest.mark.parametrize(
    "options",
    [TLS, TLS | {"threads": 0}, TLS | {"workers": 2}, TLS | {"isolation": "process"}],
    ids=["parked", "thread-each", "workers", "process"],
)


@pytest.fixture
def hand_made(tmp_path):
    """Opens connections whose records are made by hand."""
    return lambda site: HandMade(site.touch(), tmp_path / "secrets")


def is_alone(site: Site) -> bool:
    """Whether nobody but one user is connected any more."""
    return len(site.server.connections) == 1


def user_of(site: Site) -> Peer:
    user = site.user()
    eventually(lambda: is_alone(site))
    return user


def pour(client: HandMade, *, requested: bool, most: int = 50_000) -> int:
    """Send key updates until the connection ends; returns how many were sent."""
    for count in range(0, most, 100):
        try:
            client.socket.sendall(
                b"".join(client.key_update(requested=requested) for _ in range(100))
            )
        except OSError:
            return count
    return most


@tls_ways
def test_key_updates_before_log_in_come_to_an_end(serve, hand_made, options):
    site = serve(login_grace=LONG, stall=LONG, **options)
    user = user_of(site)
    client = hand_made(site)
    assert pour(client, requested=True) < 50_000
    eventually(lambda: is_alone(site))
    assert site.is_served(user)


@pytest.mark.parametrize("first", [HELLO, HELLO + LOGIN], ids=["greeted", "logged-in"])
@pytest.mark.parametrize("requested", [False, True], ids=["one-way", "both-ways"])
def test_they_come_to_an_end_at_any_time(serve, hand_made, first, requested):
    site = serve(login_grace=LONG, stall=LONG, **TLS)
    client = hand_made(site)
    client.socket.sendall(client.data(first))
    assert pour(client, requested=requested) < 50_000


def test_a_change_of_keys_now_and_then_is_served(serve, hand_made):
    """The control: also many of them, where data comes as well."""
    site = serve(**TLS)
    client = hand_made(site)
    client.socket.sendall(client.data(HELLO + LOGIN))
    (session,) = eventually(lambda: [one for one in site.server.sessions if one.account])
    asked = frame(Kind.REQUEST, 2, WhoAmI())
    for _ in range(300):
        update = client.key_update(requested=True)
        client.socket.sendall(update + client.data(asked))
    eventually(lambda: session.channel.bytes_in == len(HELLO + LOGIN) + 300 * len(asked))
    assert session.channel.ended is None and session in site.server.sessions


@pytest.mark.parametrize("sent", [1, 4, 5, 20], ids=lambda count: f"{count}-bytes")
def test_a_part_of_a_record_has_a_deadline(serve, hand_made, sent):
    """As a part of a frame has."""
    site = serve(stall=0.2, **TLS)
    client = hand_made(site)
    client.socket.sendall(client.data(HELLO + LOGIN))
    eventually(lambda: [one for one in site.server.sessions if one.account])
    client.socket.sendall(client.data(frame(Kind.REQUEST, 2, WhoAmI()))[:sent])
    eventually(lambda: not site.server.sessions)


def test_a_whole_record_without_data_has_none(serve, hand_made):
    """The control: that session is as idle as before."""
    site = serve(stall=0.2, **TLS)
    client, other = hand_made(site), hand_made(site)
    for one in (client, other):
        one.socket.sendall(one.data(HELLO + LOGIN))
    eventually(lambda: len([one for one in site.server.sessions if one.account]) == 2)
    client.socket.sendall(client.key_update(requested=False))
    other.socket.sendall(other.data(frame(Kind.REQUEST, 2, WhoAmI()))[:7])
    eventually(lambda: len(site.server.sessions) == 1)  # after a deadline of both
    client.socket.sendall(client.data(frame(Kind.REQUEST, 2, WhoAmI())))
    (session,) = site.server.sessions
    eventually(lambda: session.doing is not None or session.channel.bytes_in)
    assert session in site.server.sessions


# the pipe alone ------------------------------------------------------------------------------


class Wire:
    """A socket for HandMade's handshake, with a pipe as its other end."""

    def __init__(self, pipe: TlsPipe) -> None:
        self._pipe = pipe

    def sendall(self, data: bytes) -> None:
        self._pipe.feed(data)
        self._pipe.handshake()

    def recv(self, size: int) -> bytes:
        return self._pipe.outgoing()


@pytest.fixture
def pipe(serve) -> TlsPipe:
    context = serve(**TLS).server.tls_context
    assert isinstance(context, ssl.SSLContext)
    return TlsPipe(context, server_side=True)


def test_what_is_owed_for_key_updates_is_bounded(pipe, tmp_path):
    """Also where data between them shows that they are no mere flood."""
    client = HandMade(Wire(pipe), tmp_path / "secrets")
    view = memoryview(bytearray(65536))
    longest = 0
    with pytest.raises(TlsError, match="key updates"):
        for _ in range(5_000):
            pipe.feed(client.key_update(requested=True) + client.data(bytes(100)))
            pipe.read_into(view)
            longest = max(longest, pipe._outgoing.pending)
    assert MOST_ANSWERS // 2 < longest <= MOST_ANSWERS


def test_each_small_message_pays_for_itself(pipe, tmp_path):
    """The control: a byte a record, for ever."""
    client = HandMade(Wire(pipe), tmp_path / "secrets")
    view = memoryview(bytearray(65536))
    for _ in range(10_000):
        pipe.feed(client.data(b"x"))
        assert pipe.read_into(view) == 1


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 100, 10**6])
def test_a_pipe_knows_where_records_end(pipe, tmp_path, chunk):
    client = HandMade(Wire(pipe), tmp_path / "secrets")
    records = [client.data(bytes(size)) for size in (1, 3, 200, 16_000, 1)]
    ends, at = set(), 0
    for record in records:
        at += len(record)
        ends.add(at)
    sent = b"".join(records)
    view = memoryview(bytearray(65536))
    assert not pipe.is_amid_record
    for start in range(0, len(sent), chunk):
        pipe.feed(sent[start : start + chunk])
        with suppress(ssl.SSLError):
            pipe.read_into(view)
        assert pipe.is_amid_record == (min(start + chunk, len(sent)) not in ends)
