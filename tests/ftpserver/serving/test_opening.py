"""Before log-in: what HELLO says, what a stranger may use up, and how a dead peer is noticed."""

from __future__ import annotations

import select
import socket

import pytest
from msgspec import msgpack, structs

from ftpserver.serving.opening import MAX_REQUESTS, MAX_UNANSWERED
from ftpwire import SOFTWARE, frames
from ftpwire.frames import Kind
from ftpwire.messages import Failed, Hello, LoggedIn, Login, WhoAmI, encode_hello
from tests.peer import PATIENCE, frame
from tests.system.programs import eventually

REQUESTS = b"".join(frame(Kind.REQUEST, number, WhoAmI()) for number in range(1, 1001))
LONG = 10 * PATIENCE


def test_hello_says_all_its_fields(server, dial):
    """Another version may have other defaults: what is not said would be guessed."""
    peer = dial(server, logged_in=False)
    peer.frame(Kind.REQUEST, 0, encode_hello(Hello()))
    answer = peer.read().payload
    assert answer[:4] == b"FTPW"
    assert msgpack.decode(answer[4:]) == {
        "op": "hello",
        "version": 1,
        "software": SOFTWARE,
        "features": [
            *("pieces", "alive", "kept", "alone", "if-same", "holes", "trash", "many-files"),
            "list-prefix",
        ],
        "max_control": frames.MAX_CONTROL,
        "max_data": frames.MAX_DATA,
        "max_requests": MAX_REQUESTS,
        "max_unanswered": MAX_UNANSWERED,
        "stall_ms": 60_000,
        "versions": [1],
        "max_sessions": 100,
    }


def test_a_client_says_all_fields_of_hello(fake, connect):
    reported = []

    def script(peer):
        reported.append(peer.read().payload)
        peer.frame(Kind.REPLY, 0, encode_hello(Hello()))
        peer.reply(peer.read(), LoggedIn("alice"))
        peer.read_to_end()

    connect(fake(script))
    fields = {field.name for field in structs.fields(Hello)}
    hello = msgpack.decode(reported[0][4:])
    assert set(hello) == {"op"} | fields
    assert hello["features"] == []
    assert hello["max_control"] == 131_072


def test_who_never_pauses_still_has_to_log_in_in_time(start_server, dial):
    server = start_server(login_grace=0.3, stall=LONG)
    peer = dial(server, logged_in=False)
    peer.socket.setblocking(False)
    peer.send(frame(Kind.REQUEST, 0, encode_hello(Hello())))
    unsent, poll = b"", select.poll()
    poll.register(peer.socket, select.POLLIN | select.POLLOUT)

    def ended() -> bool:
        """Send and receive what goes, so that the server always finds something to do."""
        nonlocal unsent
        for _, event in poll.poll(PATIENCE * 1000):
            try:
                if event & select.POLLIN and not peer.socket.recv(1 << 20):
                    return True
                if event & select.POLLOUT:
                    unsent = unsent or REQUESTS
                    unsent = unsent[peer.socket.send(unsent) :]
            except BlockingIOError:
                continue
            except ConnectionError:
                return True
        return False

    eventually(ended, "the end of a connection that talks on without a log-in")


def test_nothing_is_answered_after_that_deadline(start_server, dial):
    """Not even where the next request has come already, so that nothing is waited for."""
    server = start_server(login_grace=LONG)
    peer = dial(server, logged_in=False)
    peer.hello()
    (session,) = server.service.sessions
    session.exchange.login_deadline = 0.0  # long ago; it waits for a request now
    peer.send(REQUESTS)
    assert peer.read_to_end() == []


def test_who_takes_no_answers_still_has_to_log_in_in_time(start_server, dial):
    """The server waits to send then, and not for the next request."""
    server = start_server(login_grace=0.5, stall=LONG)
    server.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer = dial(server, logged_in=False, buffers=4096)
    peer.hello()
    assert server.service.sessions
    peer.socket.setblocking(False)

    def ended() -> bool:
        try:
            peer.send(REQUESTS)
        except (BlockingIOError, ConnectionError):
            pass
        return not server.service.sessions

    eventually(ended, "the end of a connection that takes no answers")


def test_after_log_in_that_deadline_is_over(start_server, dial):
    server = start_server(login_grace=0.5, stall=LONG)
    peer = dial(server)
    (session,) = server.service.sessions
    session.exchange.login_deadline = 0.0  # long ago
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_a_refused_log_in_does_not_move_the_deadline(start_server, dial):
    server = start_server(stall=LONG)
    peer = dial(server, logged_in=False)
    peer.hello()
    (session,) = server.service.sessions
    deadline = session.exchange.login_deadline
    assert isinstance(peer.ask(Login("alice", "wrong")), Failed)
    assert session.exchange.login_deadline == deadline


PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


@pytest.mark.parametrize("side", ["client", "server"])
def test_tcp_looks_for_dead_peers(server, client, side):
    (session,) = server.service.sessions
    sock = session.request if side == "server" else client.connection.channel.socket
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    for name, seconds in PROBES.items():
        assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == seconds
