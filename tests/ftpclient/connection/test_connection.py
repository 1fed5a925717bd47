"""One connection: pipelining, limits, waiting, ends. With servers that are slow, not hostile."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import pytest

from ftpclient.connection import driver, opening, protocol
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.opening import Opened
from ftpclient.connection.protocol import Call
from ftpwire import digests, messages
from ftpwire.errors import (
    BadMagic,
    Busy,
    ConnectFailed,
    ConnectionLost,
    Interrupted,
    LoginRefused,
    NotFound,
)
from ftpwire.frames import Kind
from ftpwire.messages import (
    Failed,
    Found,
    Hello,
    LoggedIn,
    MakeDir,
    Progress,
    Put,
    Sent,
    Space,
    SpaceInfo,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import FakeServer, Peer, eventually, frame


@pytest.fixture
def opened():
    """Opens bare connections; they are closed before their server stops."""
    made: list[Opened] = []

    def connect(server, **options) -> Opened:
        if isinstance(server, FakeServer):
            address = server.address
        else:
            address = ServerAddress("127.0.0.1", server.server_address[1], "alice")
        made.append(opening.connect(address, plaintext=True, **options))
        made[-1].log_in("secret")
        return made[-1]

    yield connect
    for one in made:
        one.close()


class Noted(Call):
    """A call that says when it is done."""

    def __init__(self, done: list) -> None:
        super().__init__()
        self._done_list = done

    def on_done(self) -> None:
        self._done_list.append(self)


# pipelining --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_no_more_requests_than_the_server_wants(fake, opened, limit):
    """It answers only once as many have come; one more would be seen then."""
    rounds = 5

    def script(peer: Peer) -> None:
        peer.greet(max_requests=limit)
        for _ in range(rounds):
            requested = [peer.read() for _ in range(limit)]
            threading.Event().wait(0.02)
            assert peer.is_silent()
            for one in requested:
                peer.reply(one, LoggedIn("alice"))
        peer.read_to_end()

    connection = opened(fake(script))
    done: list[Call] = []
    calls = [Noted(done) for _ in range(limit * rounds)]
    for call in calls:
        connection.submit(call, WhoAmI())
    connection.wait_for_all()
    assert done == calls, "in their order"
    assert connection.unanswered == 0


def test_no_more_bytes_than_the_server_wants(fake, opened):
    """Also when a single request costs more than that: then it goes alone."""
    costs = []

    def script(peer: Peer) -> None:
        peer.greet(max_unanswered=10_000)
        for _ in range(6):
            requested = peer.read()
            size = len(requested.payload)
            while (found := peer.read()).kind == Kind.DATA:
                size += len(found.payload)
            threading.Event().wait(0.01)
            costs.append((size, peer.is_silent()))
            peer.reply(requested, Stored(size))
        peer.read_to_end()

    connection = opened(fake(script))
    for size in (3000, 3000, 3000, 20_000, 20_000, 9000):
        call = Call()
        connection.submit(call, Put(b"/file", size), size)
        connection.send_data(call, bytes(size))
        connection.send_end(call, Sent(size))
    connection.wait_for_all()
    # before a large one, all that was asked before is answered; so it is with what follows it
    assert [silent for size, silent in costs if size > 9000] == [True, True, True]


def test_a_full_pipe_both_ways_is_no_deadlock(start_server, opened, monkeypatch):
    """Both sides have far more to send than the buffers between them hold."""
    connect = opening._connect

    def with_small_buffers(address, interrupt) -> socket.socket:
        sock = connect(address, interrupt)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return sock

    monkeypatch.setattr(opening, "_connect", with_small_buffers)
    server = start_server()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        server.listening.setsockopt(socket.SOL_SOCKET, option, 4096)
    connection = opened(server)
    name = b"/" + b"x" * 250
    connection.ask(MakeDir(name))
    done: list[Call] = []
    for number in range(180):
        connection.submit(Noted(done), Stat(name if number % 3 else b"/missing" + name[9:]))
        if number % 60 == 0:
            data = bytes(20_000)
            call = Noted(done)
            connection.submit(call, Put(b"/file", len(data)), len(data))
            connection.send_data(call, data)
            connection.send_end(call, Sent(len(data), digests.digest(data)))
    connection.wait_for_all()
    assert len(done) == 183
    assert sum(isinstance(call.reply, Found) for call in done) == 120
    assert sum(isinstance(call.error, NotFound) for call in done) == 60
    assert sum(isinstance(call.reply, Stored) for call in done) == 3


def test_replies_that_come_while_a_file_is_sent(fake, opened):
    """The server won't take more before its answers were taken: they are many."""

    def script(peer: Peer) -> None:
        peer.greet()
        put = peer.read()
        peer.send(*(frame(Kind.NOTICE, put.request_id, Progress(n)) for n in range(300_000)))
        while (found := peer.read()).kind == Kind.DATA:
            pass
        assert found.kind == Kind.END
        peer.reply(put, Stored(0))
        peer.read_to_end()

    connection = opened(fake(script))
    call = Call()
    connection.submit(call, Put(b"/file", 30_000_000))
    for _ in range(30):
        connection.send_data(call, bytes(1_000_000))
    connection.send_end(call, Sent(0))
    assert connection.result(call) == Stored(0)


def test_ids_begin_again(server, opened):
    connection = opened(server)
    connection.protocol.ids = itertools.count(2**32 - 3)
    calls = [Call() for _ in range(5)]
    for call in calls:
        connection.submit(call, Space())
    assert all(isinstance(connection.result(call), SpaceInfo) for call in calls)
    assert [call.request_id for call in calls] == [2**32 - 2, 2**32 - 1, 1, 2, 3]


def test_an_error_is_the_call_s_own(server, opened):
    connection = opened(server)
    calls = [Call(), Call(), Call()]
    for call, path in zip(calls, (b"/", b"/nowhere", b"/"), strict=True):
        connection.submit(call, Stat(path))
    with pytest.raises(NotFound):
        connection.result(calls[1])
    assert isinstance(connection.result(calls[2]), Found)
    assert isinstance(connection.result(calls[0]), Found)


def test_answers_may_be_waited_for_in_any_order(server, opened):
    connection = opened(server)
    calls = [Call() for _ in range(20)]
    for call in calls:
        connection.submit(call, WhoAmI())
    for call in reversed(calls):
        assert connection.result(call) == LoggedIn("alice")


# ends --------------------------------------------------------------------------------------


def test_a_silent_server_is_abandoned(fake, opened, monkeypatch):
    monkeypatch.setattr(driver, "STALL_SECONDS", 0.3)

    def script(peer: Peer) -> None:
        peer.greet()
        requested = peer.read()
        until = time.monotonic() + 1.5 * driver.STALL_SECONDS
        while time.monotonic() < until:  # as long as it says something, it is there
            threading.Event().wait(0.005)
            peer.frame(Kind.NOTICE, requested.request_id, Progress(1))
        peer.reply(requested, LoggedIn("alice"))
        peer.read_to_end()

    connection = opened(fake(script))
    assert connection.ask(WhoAmI()) == LoggedIn("alice")
    with pytest.raises(ConnectionLost):
        connection.ask(WhoAmI())
    assert connection.broken


def test_a_lost_connection_ends_every_call(fake, opened):
    def script(peer: Peer) -> None:
        peer.greet()
        requested = peer.read()
        peer.reply(requested, LoggedIn("alice"))
        peer.read()
        peer.reset()

    connection = opened(fake(script))
    done: list[Call] = []
    calls = [Noted(done) for _ in range(5)]
    with pytest.raises(ConnectionLost):
        for call in calls:
            connection.submit(call, WhoAmI())
        connection.wait_for_all()
    assert done == calls
    assert calls[0].error is None
    assert all(isinstance(call.error, ConnectionLost) for call in calls[1:])
    with pytest.raises(ConnectionLost):
        connection.ask(WhoAmI())


def test_closing_gives_up_what_is_unanswered(fake, opened):
    connection = opened(fake(lambda peer: (peer.greet(), peer.read_to_end())))
    done: list[Call] = []
    call = Noted(done)
    connection.submit(call, WhoAmI())
    connection.close()
    connection.close()
    assert done == [call] and call.error is not None and call.done


def test_an_end_after_the_last_answer_is_no_failure(fake, opened):
    def script(peer: Peer) -> None:
        peer.greet()
        peer.reply(peer.read(), LoggedIn("alice"))

    connection = opened(fake(script))
    assert connection.ask(WhoAmI()) == LoggedIn("alice")
    eventually(lambda: connection.take_unsolicited() or connection.broken)


def test_nobody_listens(opened):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        opening.connect(ServerAddress("127.0.0.1", port), plaintext=True)
    assert f"127.0.0.1:{port}" in str(caught.value) and "refused" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_name_that_nobody_knows(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ConnectFailed, match="^nowhere.invalid: name or service") as caught:
        opening.connect(ServerAddress("nowhere.invalid"), plaintext=True)
    assert caught.value.exit_code == 4


def test_a_server_that_says_nothing(fake, monkeypatch):
    monkeypatch.setattr(opening, "CONNECT_SECONDS", 0.2)

    def script(peer: Peer) -> None:
        while peer.socket.recv(65536):
            pass

    for plaintext in (True, False):
        with pytest.raises(ConnectFailed, match="no answer"):
            opening.connect(fake(script).address, plaintext=plaintext)


@pytest.mark.parametrize(
    ("user", "password"),
    [("alice", "wrong"), ("nobody", "secret"), ("alice", "\udcff"), ("alice", "x" * 5000)],
)
def test_log_ins_that_are_refused(server, user, password):
    address = ServerAddress("127.0.0.1", server.server_address[1], user)
    connection = opening.connect(address, plaintext=True)
    try:
        with pytest.raises(LoginRefused) as caught:
            connection.log_in(password)
        assert caught.value.exit_code == 3
    finally:
        connection.close()


# the user wants to stop --------------------------------------------------------------------


@pytest.fixture
def interrupt():
    made = Interrupt()
    yield made
    made.close()


def test_an_interrupt_wakes_who_waits(fake, opened, interrupt):
    waiting = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        requested = peer.read()
        waiting.set()
        assert peer.read().kind == Kind.CANCEL
        peer.reply(requested, LoggedIn("alice"))
        peer.reply(peer.read(), LoggedIn("alice"))
        peer.read_to_end()

    connection = opened(fake(script), interrupt=interrupt)
    thread = threading.Thread(target=lambda: (waiting.wait(30), interrupt.set()))
    thread.start()
    with pytest.raises(Interrupted):
        connection.ask(WhoAmI())
    thread.join()
    connection.cancel_all()
    assert not connection.broken and connection.unanswered == 0
    assert connection.ask(WhoAmI()) == LoggedIn("alice"), "the session goes on"


def test_an_interrupt_comes_before_anything_is_sent(fake, opened, interrupt):
    connection = opened(fake(lambda peer: (peer.greet(), peer.read_to_end())), interrupt=interrupt)
    interrupt.set()
    with pytest.raises(Interrupted):
        connection.submit(Call(), WhoAmI())
    assert connection.unanswered == 0
    connection.cancel_all()
    assert not connection.broken


def test_a_server_that_does_not_hear_a_cancel(fake, opened, interrupt, monkeypatch):
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.1)
    connection = opened(fake(lambda peer: (peer.greet(), peer.read_to_end())), interrupt=interrupt)
    done: list[Call] = []
    connection.submit(Noted(done), WhoAmI())
    interrupt.set()
    with pytest.raises(Interrupted):
        connection.wait_for_all()
    connection.cancel_all()
    assert connection.broken and len(done) == 1


def test_an_interrupt_within_a_frame_leaves_it_whole(fake, opened, interrupt):
    """The server takes nothing until it is interrupted, then must find frames in step."""
    stopped = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        put = peer.read()
        assert stopped.wait(30)
        while (found := peer.read()).kind == Kind.DATA:
            assert found.payload == bytes(len(found.payload))
        assert (found.kind, found.request_id) == (Kind.CANCEL, put.request_id)
        peer.reply(put, Stored(0))
        peer.reply(peer.read(), LoggedIn("alice"))
        peer.read_to_end()

    connection = opened(fake(script), interrupt=interrupt)
    call = Call()
    timer = threading.Timer(0.2, lambda: (interrupt.set(), stopped.set()))
    timer.start()
    with pytest.raises(Interrupted):
        connection.submit(call, Put(b"/file", 2**40))
        while True:
            connection.send_data(call, bytes(1_000_000))
    timer.join()
    connection.cancel_all()
    assert connection.ask(WhoAmI()) == LoggedIn("alice")


# a full server -----------------------------------------------------------------------------


@pytest.mark.parametrize("refusals", [2, 99])
def test_a_log_in_that_has_to_wait_is_tried_again_for_a_while(fake, opened, monkeypatch, refusals):
    pauses: list[float] = []
    monkeypatch.setattr(opening, "pause", lambda seconds, interrupt: pauses.append(seconds))

    def script(peer: Peer) -> None:
        peer.read()
        peer.frame(Kind.REPLY, 0, messages.encode_hello(Hello()))
        for _ in range(refusals):
            peer.reply(peer.read(), Failed("busy", "too many log in just now"))
        peer.reply(peer.read(), LoggedIn("alice"))
        peer.read_to_end()

    server = fake(script)
    if refusals == 2:
        opened(server)
        assert len(pauses) == 2
    else:
        with pytest.raises(Busy, match="too many log in"):
            opened(server)
        assert len(pauses) == opening._FIRST_TRIES - 1
    assert server.connections == 1
    assert pauses == sorted(pauses)


@pytest.mark.parametrize("plaintext", [True, False])
def test_a_server_that_speaks_otherwise_is_reported_with_the_option(start_server, plaintext):
    server = start_server(plaintext=not plaintext)
    address = ServerAddress("127.0.0.1", server.server_address[1])
    with pytest.raises((BadMagic, ConnectFailed)) as caught:
        opening.connect(address, plaintext=plaintext)
    option = "(else leave --plaintext out)?" if plaintext else "(else use --plaintext)?"
    assert str(caught.value).endswith(option)
    assert str(caught.value).count("--plaintext") == 1
