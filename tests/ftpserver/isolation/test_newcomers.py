"""Connections without a process: none is started before a whole first record has come.

There are no processes here: whose turn it is has its connection noted. Connections are TCP, since a
Unix socket has no TLS. The clock stands still until a test says otherwise.
"""

from __future__ import annotations

import errno
import itertools
import os
import queue
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpserver.accounts.penalties import Offence
from ftpserver.isolation import newcomers as module
from ftpserver.isolation.newcomers import Newcomer, Newcomers
from ftpserver.net.proxy_protocol import SIGNATURE
from ftpserver.serving import awaiting
from ftpwire.frames import HEADER_SIZE, Kind
from ftpwire.messages import Hello, decode_failed, encode_hello
from tests.peer import PATIENCE, eventually, frame

GRACE = 20.0
HELLO = frame(Kind.REQUEST, 0, encode_hello(Hello()))


def client_hello() -> bytes:
    """The first record of a TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


CLIENT_HELLO = client_hello()
FIRST = {True: CLIENT_HELLO, False: HELLO}
"""What comes first, with TLS or without."""
both = pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])


class Desk:
    """Newcomers, and what becomes of them.

    Attributes:
        started: Connections whose process would be started.
        ended: Those that ended without one.
        reported: What that has cost.
        now: The time.
    """

    def __init__(self, tls: bool, **limits: bool) -> None:
        self.now = 0.0
        self.started: list[Newcomer] = []
        self.ended: list[socket.socket] = []
        self.reported: list[Offence] = []
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.service = SimpleNamespace(
            settings=SimpleNamespace(login_grace=GRACE),
            tls_context=object() if tls else None,
            stopping=False,
            sessions=set(),
            limits=SimpleNamespace(is_known=lambda _: False, is_trusted=lambda _: False),
            next_session_id=lambda _: next(self._numbers),
            penalize=lambda one, offence: self.reported.append(offence),
            forget=lambda one: self.service.sessions.discard(one),
        )
        self.newcomers = Newcomers(self.service, self._start, self._end, lambda: self.now)
        self._probes: queue.SimpleQueue[Newcomer] = queue.SimpleQueue()
        self._tls = tls

    def _start(self, newcomer: Newcomer) -> None:
        if newcomer.host == "127.0.0.9":
            self._probes.put(newcomer)
        else:
            self.started.append(newcomer)

    def _end(self, request: socket.socket) -> None:
        request.close()
        self.ended.append(request)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """The client's end of a new connection. Its other end is ``accepted``."""
        sock = self.dial(source)
        self.take()
        return sock

    def dial(self, source: str = "127.0.0.1") -> socket.socket:
        """The same, of one that isn't taken yet."""
        sock = self._stack.enter_context(socket.socket())
        sock.settimeout(PATIENCE)
        sock.bind((source, 0))
        sock.connect(self._listener.getsockname())
        self.accepted, self._address = self._listener.accept()
        self._stack.enter_context(self.accepted)
        return sock

    def enter(self, sock: socket.socket) -> socket.socket:
        """Close it at the end."""
        return self._stack.enter_context(sock)

    def take(self) -> None:
        """Take the connection that was dialled last."""
        self.newcomers.take(self.accepted, self._address)

    def settle(self) -> None:
        """Return when all that was sent before has been looked at."""
        sock = self.connect("127.0.0.9")
        sock.sendall(FIRST[self._tls])
        probe = self._probes.get(timeout=PATIENCE)
        self.newcomers.answered(probe)
        probe.request.close()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and return when that was noticed."""
        self.now += seconds
        self.settle()

    def close(self) -> None:
        self.newcomers.close()
        self._stack.close()


@contextmanager
def desk(tls: bool) -> Iterator[Desk]:
    opened = Desk(tls)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def tls() -> bool:
    return True


@pytest.fixture(name="desk")
def _desk(tls):
    with desk(tls) as opened:
        yield opened


# a whole first record ----------------------------------------------------------------------


def check_pieces(opened: Desk, cuts: list[int]) -> None:
    """Send a first record in pieces: the process is started with the last one, and finds it all."""
    first, before = FIRST[opened._tls], len(opened.started)
    ends = sorted({cut % len(first) for cut in cuts} - {0}) + [len(first)]
    sock = opened.connect()
    for start, end in zip([0, *ends], ends, strict=False):
        opened.settle()
        assert len(opened.started) == before, f"started by {start} of {len(first)} bytes"
        sock.sendall(first[start:end])
    opened.settle()
    (newcomer,) = opened.started[before:]
    opened.newcomers.answered(newcomer)
    assert newcomer.request.recv(1 << 16) == first
    newcomer.request.close()
    sock.close()


@settings(deadline=None)
@given(tls=st.booleans(), cuts=st.lists(st.integers(1, 600), max_size=6))
def test_however_a_first_record_is_cut_one_process_is_started_when_it_is_whole(tls, cuts):
    with desk(tls) as opened:
        check_pieces(opened, cuts)


@both
def test_the_control_a_process_for_the_first_byte_is_noticed(desk, monkeypatch, tls):
    monkeypatch.setattr(module.opening, "first_size", lambda head, tls: len(head) or None)
    with pytest.raises(AssertionError, match="started by 3 of"):
        check_pieces(desk, [3, 7])


def test_what_comes_behind_the_first_record_is_left_to_the_process(desk):
    desk.connect().sendall(CLIENT_HELLO + b"more")
    desk.settle()
    assert [one.request.recv(1 << 16) for one in desk.started] == [CLIENT_HELLO + b"more"]


def test_the_largest_record_fits_into_the_socket(desk):
    largest = struct.pack(">BHH", 22, 0x0301, 2**14 + 256) + bytes(2**14 + 256)
    sock = desk.connect()
    sock.sendall(largest[:-1])
    desk.settle()
    assert not desk.started
    sock.sendall(largest[-1:])
    desk.settle()
    assert len(desk.started) == 1


def test_half_a_record_keeps_nobody_busy(desk, monkeypatch):
    """The control: without edges the same half is looked at again and again."""

    def looks() -> int:
        looked = []
        original = Newcomer.look
        with monkeypatch.context() as patch:
            patch.setattr(
                Newcomer,
                "look",
                lambda self, cause: looked.append(self.peer) or original(self, cause),
            )
            sock = desk.connect()
            sock.sendall(CLIENT_HELLO[:50])
            for _ in range(10):
                desk.settle()
            host, port = sock.getsockname()
            return looked.count(f"{host}:{port}")

    assert looks() == 1
    monkeypatch.setattr(awaiting, "_WATCHED", select.POLLIN)
    assert looks() > 5


def looks_at_bytes(desk: Desk, monkeypatch, first: bytes, more: bytes) -> int:
    """How often a connection is looked at that sends something, and then single bytes."""
    looked = []
    original = Newcomer.look
    monkeypatch.setattr(
        Newcomer, "look", lambda self, cause: looked.append(self.peer) or original(self, cause)
    )
    for _ in range(5):  # who has a process is not looked at
        desk.connect("127.0.0.2").sendall(CLIENT_HELLO)
    sock = desk.connect("127.0.0.2")
    host, port = sock.getsockname()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(first)
    desk.settle()
    try:
        for number in range(len(more)):
            sock.sendall(more[number : number + 1])
            desk.settle()
    except ConnectionError:
        pass  # it was ended
    return looked.count(f"{host}:{port}")


@pytest.mark.parametrize(
    ("first", "cost"),
    [(CLIENT_HELLO[:5], [Offence.PROTOCOL]), (b"no TLS", [Offence.NO_LOGIN])],
    ids=["record", "refused"],
)
def test_single_bytes_keep_nobody_busy(desk, monkeypatch, first, cost):
    monkeypatch.setattr(module, "_MOST_LOOKS", 20)
    assert looks_at_bytes(desk, monkeypatch, first, CLIENT_HELLO[5:105]) <= 22
    assert (len(desk.ended), desk.reported) == (1, cost)


def test_a_look_copies_no_more_than_the_head(desk):
    """What has come in thousands of pieces would take milliseconds of the one thread to copy."""

    class Noting(socket.socket):
        requested: list[int] = []

        def recv(self, size: int, flags: int = 0) -> bytes:
            self.requested.append(size)
            return super().recv(size, flags)

    sock = desk.dial()
    desk.accepted = desk.enter(Noting(fileno=desk.accepted.detach()))
    desk.take()
    for piece in CLIENT_HELLO[:300], CLIENT_HELLO[300:]:
        assert not desk.started
        sock.sendall(piece)
        desk.settle()
    assert len(desk.started) == 1
    assert Noting.requested and max(Noting.requested) <= HEADER_SIZE


def test_single_bytes_behind_the_first_record_are_not_looked_at(desk, monkeypatch):
    """And its end still is."""
    assert looks_at_bytes(desk, monkeypatch, CLIENT_HELLO, bytes(30)) == 1
    assert not desk.ended
    desk.newcomers.close()
    assert len(desk.ended) > 0


# what is none ------------------------------------------------------------------------------

OVERFLOW = bytes((21, 3, 3, 0, 2, 2, 22))
BAD = {
    "no-tls": (True, HELLO, "bad-magic", None),
    "tls": (False, CLIENT_HELLO, "bad-magic", None),
    "proxy": (True, SIGNATURE, "bad-message", Offence.PROTOCOL),
    "proxy-plain": (False, SIGNATURE, "bad-message", Offence.PROTOCOL),
    "too-large": (False, struct.pack(">IBI", 4097, 1, 0), "frame-too-big", Offence.PROTOCOL),
    "data": (False, struct.pack(">IBI", 1, Kind.DATA, 0), "frame-too-big", Offence.PROTOCOL),
    "no-kind": (False, struct.pack(">IBI", 1, 99, 0), "unknown-kind", Offence.PROTOCOL),
    "record-too-large": (
        True,
        struct.pack(">BHH", 22, 0x0301, 2**14 + 257),
        OVERFLOW,
        Offence.PROTOCOL,
    ),
    "record-empty": (True, struct.pack(">BHH", 22, 0x0301, 0), OVERFLOW, Offence.PROTOCOL),
}


def all_of(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(4096):
        data += piece
    return data


@pytest.mark.parametrize(("tls", "sent", "answer", "offence"), BAD.values(), ids=BAD)
def test_what_is_no_first_record_is_refused_without_a_process(desk, sent, answer, offence):
    """And told why. The connection ends when the client has closed, or a moment later."""
    sock, other = desk.connect(), desk.connect()
    for one in (sock, other):
        one.sendall(sent)
        reported = all_of(one)
        if isinstance(answer, str):
            reported = decode_failed(reported[HEADER_SIZE:]).code
        assert reported == answer
    assert not desk.ended, "it waits for the client to read that"
    sock.close()
    desk.pass_time(0)
    eventually(lambda: len(desk.ended) == 1)
    desk.pass_time(module.LAST_WORDS)
    eventually(lambda: len(desk.ended) == 2)
    assert desk.reported == [offence or Offence.NO_LOGIN] * 2
    assert not desk.started


def test_who_goes_on_talking_after_a_refusal_is_heard_for_a_bounded_time(desk):
    sock = desk.connect()
    sock.sendall(b"GET / HTTP/1.1\r\n")
    with pytest.raises(ConnectionError):
        for _ in range(10_000):
            sock.sendall(bytes(64 * 1024))
    desk.settle()
    assert (len(desk.ended), desk.started) == (1, [])


# who doesn't send it -----------------------------------------------------------------------

SAID = {"nothing": b"", "half": CLIENT_HELLO[:100]}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_who_does_not_finish_in_time_is_ended(desk, said, caplog):
    caplog.set_level("INFO")
    sock = desk.connect()
    sock.sendall(said)
    desk.pass_time(GRACE - 0.1)
    assert not desk.ended and len(desk.service.sessions) == 1
    desk.pass_time(0.2)
    assert desk.reported == [Offence.TOO_LATE]
    assert (len(desk.ended), desk.started) == (1, [])
    assert "the client did not answer in time" in caplog.text
    assert not desk.service.sessions
    with pytest.raises(ConnectionError) if said else ExitStack():
        assert sock.recv(1) == b""


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("said", "cost"),
    [(b"", []), (CLIENT_HELLO[:100], [Offence.NO_LOGIN]), (CLIENT_HELLO, [Offence.NO_LOGIN])],
    ids=["nothing", "half", "whole"],
)
def test_who_hangs_up_costs_no_process(desk, said, cost, reset):
    """Also after a whole record, if it is noticed before its turn: others are before it here."""
    taken = [desk.connect("127.0.0.2") for _ in range(20)]
    for sock in taken:
        sock.sendall(CLIENT_HELLO)
    sock, gone = desk.connect("127.0.0.2"), desk.accepted
    sock.sendall(said)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    desk.settle()
    assert (desk.ended, desk.reported) == ([gone], cost)
    while desk.service.sessions:
        for one in desk.started:
            desk.newcomers.answered(one)
        desk.settle()
    assert len(desk.started) == 20 and gone not in [one.request for one in desk.started]


def test_a_whole_frame_before_the_end_is_answered_without_tls():
    """Whoever has sent all requests may close that side: the answers go the other way."""
    with desk(False) as opened:
        sock = opened.connect()
        sock.sendall(HELLO)
        sock.shutdown(socket.SHUT_WR)
        opened.settle()
        assert (len(opened.started), opened.ended) == (1, [])


def test_waiting_for_a_turn_until_it_is_late_costs_nothing(desk):
    socks = [desk.connect("127.0.0.2") for _ in range(20)]
    for sock in socks:
        sock.sendall(CLIENT_HELLO)
    desk.settle()
    desk.pass_time(GRACE)
    assert len(desk.ended) == 20 - len(desk.started) > 0
    assert not desk.reported


@pytest.mark.parametrize(("own", "turn", "held"), [(0, 9, False), (0, 11, True), (12, 7, False)])
def test_who_is_kept_waiting_for_a_turn_is_distinguished_from_who_is_slow(desk, own, turn, held):
    for _ in range(20):
        desk.connect("127.0.0.2").sendall(CLIENT_HELLO)
    desk.settle()
    sock = desk.connect("127.0.0.2")
    (newcomer,) = [one for one in desk.service.sessions if one.request is desk.accepted]
    desk.pass_time(own)
    sock.sendall(CLIENT_HELLO)
    desk.settle()
    desk.pass_time(turn)
    assert newcomer.is_held_up is held and newcomer in desk.service.sessions


def test_the_first_one_of_another_place_need_not_wait(desk):
    for _ in range(2):
        desk.connect("127.0.0.2").sendall(CLIENT_HELLO)
    desk.settle()
    other = desk.connect("127.0.0.3")
    other.sendall(CLIENT_HELLO)
    desk.settle()
    hosts = [one.host for one in desk.started]
    assert hosts[-1] == "127.0.0.3"


# the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort", "close_now", "close_idle"])
def test_whoever_looks_after_sessions_can_end_it(desk, how):
    sock = desk.connect()
    (newcomer,) = desk.service.sessions
    getattr(newcomer, how)(*["why"] * (how == "close"))
    assert sock.recv(1) == b""
    eventually(lambda: not desk.service.sessions)


@pytest.mark.parametrize(
    ("said", "cost"),
    [(CLIENT_HELLO, []), (CLIENT_HELLO[:100], [Offence.NO_LOGIN])],
    ids=["whole", "half"],
)
def test_to_make_space_while_waiting_for_a_turn_costs_nothing(desk, said, cost):
    for _ in range(20):
        desk.connect("127.0.0.2").sendall(CLIENT_HELLO)
    sock, dropped = desk.connect("127.0.0.2"), desk.accepted
    sock.sendall(said)
    desk.settle()
    (newcomer,) = [one for one in desk.service.sessions if one.request is dropped]
    newcomer.abort()
    eventually(lambda: newcomer not in desk.service.sessions and desk.ended)
    assert (desk.ended, desk.reported) == ([dropped], cost)


def test_at_the_servers_stop_all_end_and_it_costs_them_nothing(desk):
    socks = [desk.connect() for _ in range(3)]
    socks[1].sendall(CLIENT_HELLO[:50])
    socks[2].sendall(b"no TLS")
    assert all_of(socks[2])
    desk.service.stopping = True
    desk.newcomers.close()
    assert len(desk.ended) == 3 and not desk.reported and not desk.service.sessions
    late = desk.connect()
    assert late.recv(1) == b""
    desk.newcomers.close()


@pytest.mark.parametrize("what", ["epoll", "pipe"])
def test_without_a_descriptor_for_the_thread_that_waits_the_next_one_is_served(
    desk, monkeypatch, what
):
    def fail() -> None:
        raise OSError(errno.EMFILE, "no descriptors")

    with monkeypatch.context() as patch:
        patch.setattr(*{"epoll": (select, "epoll"), "pipe": (os, "pipe")}[what], fail)
        assert desk.connect().recv(1) == b""
    assert len(desk.ended) == 1 and not desk.reported
    desk.settle()


def test_a_process_that_cant_be_started_ends_that_connection_alone(desk, monkeypatch, caplog):
    def fail(newcomer: Newcomer) -> None:
        raise OSError("no descriptors")

    with monkeypatch.context() as patch:
        patch.setattr(desk.newcomers, "_start", fail)
        desk.connect().sendall(CLIENT_HELLO)
        eventually(lambda: len(desk.ended) == 1)
    assert "no descriptors" in caplog.text and not desk.reported
    desk.settle()


@pytest.mark.parametrize("sent", [b"", b"no TLS", CLIENT_HELLO], ids=["nothing", "bad", "whole"])
def test_one_that_comes_after_the_stop_is_ended_whatever_it_has_sent(desk, sent):
    """As one of a proxy does whose header comes late."""
    desk.service.stopping = True
    desk.newcomers.close()
    sock = desk.dial()
    sock.sendall(sent)
    desk.take()
    assert desk.ended == [desk.accepted]
