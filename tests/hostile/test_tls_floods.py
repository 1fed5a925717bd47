"""TLS records that carry nothing: bounded in number, in what is owed for them, and in time.

The control of each: whoever sends data as well, or changes its keys now and then, is served.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from typing import Any

import pytest

from ftpserver.serving.stats import SessionInfo
from ftpserver.settings.table import Startups
from ftpwire import messages
from ftpwire.frames import HEADER, Kind
from ftpwire.messages import Hello, LoggedIn, Login, WhoAmI
from ftpwire.tls import MOST_ANSWERS, TlsError, TlsPipe
from tests.hostile.conftest import PROCESSES, WAYS, Site, each_way, ended
from tests.hostile.records import HandMade
from tests.peer import PATIENCE, Peer, eventually, frame

LONG = 10 * PATIENCE
MOST = 500_000
"""Key updates, of which a client sends tens of thousands while it is told why it has to go."""
HELLO = frame(Kind.REQUEST, 0, messages.encode_hello(Hello()))
LOGIN = frame(Kind.REQUEST, 1, Login("alice", "secret"))
TLS = {"plaintext": False}

TLS_WAYS = [
    pytest.param(TLS | WAYS[way], id=way, marks=pytest.mark.system if way in PROCESSES else ())
    for way in ("parked", "thread-each", *PROCESSES)
]
"""Unix sockets and plaintext have no TLS records: there it is about parts of frames."""

tls_ways = pytest.mark.parametrize("options", TLS_WAYS)


def each_of(name: str, values: dict[str, Any]) -> pytest.MarkDecorator:
    """All values in the first way of serving, and the last one in the others."""
    rows = [(way, key) for way in TLS_WAYS for key in values if way is TLS_WAYS[0]]
    rows += [(way, list(values)[-1]) for way in TLS_WAYS[1:]]
    return pytest.mark.parametrize(
        ("options", name),
        [
            pytest.param(*way.values, values[key], id=f"{way.id}-{key}", marks=way.marks)
            for way, key in rows
        ],
    )


@pytest.fixture
def hand_made(tmp_path):
    """Opens connections whose records are made by hand."""
    return lambda site: HandMade(site.touch(), tmp_path / "secrets")


def is_alone(site: Site) -> bool:
    """Whether nobody but one user is connected any more."""
    return len(site.server.service.connections) == 1


def user_of(site: Site) -> Peer:
    user = site.user()
    eventually(lambda: is_alone(site))
    return user


def logged_in(site: Site) -> list[SessionInfo]:
    """The sessions of users, whichever process they are in."""
    return [one for one in site.server.serving.session_infos() if one.user is not None]


def received(site: Site) -> int:
    """Bytes that came so far, of all sessions."""
    return site.server.serving.stats().bytes_in


def pour(client: HandMade, *, requested: bool) -> int:
    """Send key updates until the connection ends; returns how many were sent."""
    for count in range(0, MOST, 100):
        try:
            client.socket.sendall(
                b"".join(client.key_update(requested=requested) for _ in range(100))
            )
        except OSError:
            return count
    return MOST


@pytest.mark.system
@tls_ways
def test_key_updates_before_log_in_come_to_an_end(serve, hand_made, options):
    site = serve(login_grace=LONG, stall=LONG, **options)
    user = user_of(site)
    client = hand_made(site)
    assert pour(client, requested=True) < MOST
    eventually(lambda: is_alone(site))
    assert site.is_served(user)


@pytest.mark.long
@pytest.mark.parametrize("options", [way.values[0] for way in TLS_WAYS], ids=lambda way: str(way))
def test_two_hundred_floods_of_them(serve, tmp_path, options):
    """Four at a time, beside a user who is served."""
    site = serve(max_startups=Startups(200, 30, 400), **options)
    user = user_of(site)
    lock, ended_at = threading.Lock(), []

    def flood(number: int) -> None:
        for _ in range(50):
            with site.touch() as sock:
                count = pour(HandMade(sock, tmp_path / f"secrets-{number}"), requested=True)
                with lock:
                    ended_at.append(count)
            (tmp_path / f"secrets-{number}").unlink()

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert site.is_served(user)
    for thread in threads:
        thread.join()
    assert len(ended_at) == 200 and max(ended_at) < MOST
    eventually(lambda: is_alone(site))


@each_of("first", {"greeted": HELLO, "logged-in": HELLO + LOGIN})
@pytest.mark.parametrize("requested", [False, True], ids=["one-way", "both-ways"])
def test_they_come_to_an_end_at_any_time(serve, hand_made, options, first, requested):
    site = serve(login_grace=LONG, stall=LONG, **options)
    client = hand_made(site)
    client.socket.sendall(client.data(first))
    assert pour(client, requested=requested) < MOST


@tls_ways
def test_they_do_not_outlive_the_time_for_log_ins(serve, hand_made, options):
    """Also where a byte now and then pays for them, and something is always there to be read."""
    site = serve(login_grace=0.3, stall=LONG, **options)
    client = hand_made(site)
    client.socket.sendall(client.data(HELLO))
    rest = iter(HEADER.pack(4096, Kind.REQUEST, 1) + bytes(4096))  # one frame, byte by byte
    with pytest.raises(OSError):
        while True:  # the last byte is never sent: nothing else can end it
            update = client.key_update(requested=False)
            client.socket.sendall(update + client.data(bytes([next(rest)])))
            client.socket.settimeout(0.005)
            with suppress(TimeoutError):
                while client.socket.recv(65536):
                    pass
                raise ConnectionResetError
            client.socket.settimeout(PATIENCE)


@tls_ways
def test_a_change_of_keys_now_and_then_is_served(serve, hand_made, options):
    """The control: also many of them, where data comes as well."""
    site = serve(**options)
    client = hand_made(site)
    client.socket.sendall(client.data(HELLO + LOGIN))
    eventually(lambda: logged_in(site))
    requested = frame(Kind.REQUEST, 2, WhoAmI())
    for _ in range(300):
        update = client.key_update(requested=True)
        client.socket.sendall(update + client.data(requested))
    eventually(lambda: received(site) == len(HELLO + LOGIN) + 300 * len(requested))
    assert len(logged_in(site)) == 1


@pytest.mark.system
@each_of("sent", {f"{count}-bytes": count for count in (1, 4, 5, 20)})
def test_a_part_of_a_record_has_a_deadline(serve, hand_made, options, sent):
    """As a part of a frame has."""
    site = serve(stall=0.2, **options)
    client = hand_made(site)
    client.socket.sendall(client.data(HELLO + LOGIN))
    eventually(lambda: logged_in(site))
    client.socket.sendall(client.data(frame(Kind.REQUEST, 2, WhoAmI()))[:sent])
    eventually(lambda: not site.server.service.connections)


@tls_ways
def test_a_whole_record_without_data_has_none(serve, hand_made, options):
    """The control: that session is as idle as before."""
    site = serve(stall=0.2, **options)
    client, other = hand_made(site), hand_made(site)
    for one in (client, other):
        one.socket.sendall(one.data(HELLO + LOGIN))
    eventually(lambda: len(logged_in(site)) == 2)
    client.socket.sendall(client.key_update(requested=False))
    other.socket.sendall(other.data(frame(Kind.REQUEST, 2, WhoAmI()))[:7])
    eventually(lambda: len(site.server.service.connections) == 1)  # after a deadline of both
    before = received(site)
    requested = frame(Kind.REQUEST, 2, WhoAmI())
    client.socket.sendall(client.data(requested))
    eventually(lambda: received(site) == before + len(requested))
    assert len(logged_in(site)) == 1


@each_way
@pytest.mark.parametrize("user", [False, True], ids=["stranger", "user"])
def test_a_part_of_a_frame_has_a_deadline_in_each_way(serve, user):
    """Where there is no TLS, too. Before log-in it is the time for that."""
    site = serve(**({"stall": 0.2} if user else {"login_grace": 0.2, "stall": LONG}))
    idle, peer = (site.user(), site.user()) if user else (None, site.knock())
    peer.send(frame(Kind.REQUEST, 9, WhoAmI())[:-1])
    assert not [one for one in ended(peer) if isinstance(one, LoggedIn)]
    if idle is not None:
        assert site.is_served(idle)  # the control: it was silent for as long


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
    context = serve(**TLS).server.service.tls_context
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
