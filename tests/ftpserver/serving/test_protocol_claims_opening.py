"""Sentences of docs/protocol.md about connections, HELLO and log-ins that no other test shows."""

from __future__ import annotations

import re
import socket

import pytest

from ftpserver.serving.opening import MAX_REQUESTS
from ftpwire.errors import FrameTooBig
from ftpwire.frames import MAX_CONTROL_BEFORE_LOGIN, Kind
from ftpwire.messages import (
    Failed,
    Hello,
    LoggedIn,
    Login,
    LoginPeer,
    LoginToken,
    Register,
    Stat,
    WhoAmI,
    encode_hello,
)
from tests.peer import Peer, frame
from tests.protocol_document import section


@pytest.fixture
def unauthenticated_client(server, dial) -> Peer:
    """A peer that has said HELLO."""
    peer = dial(server, logged_in=False)
    peer.hello()
    return peer


# connections and frames --------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_neither_side_waits_for_more_to_send(server, client, side):
    (session,) = server.service.sessions
    sock = session.request if side == "server" else client.connection.channel.socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_unix_socket_carries_the_protocol_without_tls(start_server, tmp_path):
    server = start_server(unix=tmp_path / "socket", plaintext=False)
    for first, outcome in ((b"", "served"), (b"\x16", "bad-magic")):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(server.settings.unix))
        with Peer(sock) as peer:
            if first:
                peer.send(first)
                (last,) = peer.read_to_end()
                assert (last.kind, last.request_id) == (Kind.ERROR, 0)
                assert last.message.code == outcome
            else:
                peer.log_in()
                assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_the_example_of_a_frame():
    lines = [line for line in section("Frames").splitlines() if re.match(r" +[0-9a-f]{2}\b", line)]
    reported = " ".join(re.match(r" *((?:[0-9a-f]{2} ?)+)", line)[1] for line in lines)
    assert bytes.fromhex(reported) == frame(Kind.REQUEST, 5, Stat(b"/a"))


@pytest.mark.parametrize("more", [0, 1])
def test_the_answer_to_hello_has_at_most_4_kib(fake, connect, more):
    """The client's limit, too, holds before anything was agreed."""
    assert MAX_CONTROL_BEFORE_LOGIN == 4096
    empty = len(encode_hello(Hello(software="x" * 300)))
    software = "x" * (300 + MAX_CONTROL_BEFORE_LOGIN - empty + more)

    def script(peer: Peer) -> None:
        peer.read()
        answer = encode_hello(Hello(software=software))
        assert len(answer) == MAX_CONTROL_BEFORE_LOGIN + more
        peer.frame(Kind.REPLY, 0, answer)
        if not more:
            peer.reply(peer.read(), LoggedIn("alice"))
            assert peer.read_to_end() == []

    if more:
        with pytest.raises(FrameTooBig):
            connect(fake(script))
    else:
        assert connect(fake(script)).connection is not None


def test_more_may_be_unanswered_than_the_server_wishes(server, dial):
    peer, count = dial(server), MAX_REQUESTS + 100
    peer.send(b"".join(frame(Kind.REQUEST, number, WhoAmI()) for number in range(1, count + 1)))
    for number in range(1, count + 1):
        assert peer.answer().request_id == number


# log-ins -----------------------------------------------------------------------------------


def test_a_password_of_more_than_1024_bytes_is_wrong(unauthenticated_client):
    wrong = unauthenticated_client.ask(Login("alice", "wrong"))
    assert unauthenticated_client.ask(Login("alice", "é" * 513)) == wrong
    assert isinstance(wrong, Failed) and wrong.code == "login-refused"


@pytest.mark.parametrize("kind", ["login", "login-token", "login-peer", "register"])
def test_a_session_is_logged_in_once(server, dial, kind):
    token = server.service.tokens.issue(server.accounts.get("alice"), "laptop")
    again = {
        "login": Login("alice", "secret"),
        "login-token": LoginToken("alice", token.secret),
        "login-peer": LoginPeer("alice"),
        "register": Register("bob", "good enough"),
    }
    peer = dial(server)
    assert peer.ask(again[kind]).code == "failed"
    assert peer.ask(WhoAmI()) == LoggedIn("alice")


def test_a_token_counts_among_the_sessions(start_server, dial):
    server = start_server(max_user_sessions=1)
    token = server.service.tokens.issue(server.accounts.get("alice"), "laptop")
    with dial(server), dial(server, logged_in=False) as other:
        other.hello()
        assert other.ask(LoginToken("alice", token.secret)).code == "too-many"
        assert other.read_to_end() == []


def test_names_and_passwords_of_new_accounts(start_server, dial):
    server = start_server(open_registration=True)

    def register(user: str, password: str = "8 enough") -> object:
        with dial(server, logged_in=False) as peer:
            peer.hello()
            return peer.ask(Register(user, password))

    for user in ("b" * 33, "", "-b", "B"):
        assert register(user).code == "bad-account", user
    for password in ("7 chars", "é" * 513):
        assert register("b", password).code == "bad-account", password
    for user in ("b" * 32, "0", "b.c_d-e"):
        assert register(user) == LoggedIn(user)
    assert register("b", "é" * 512) == LoggedIn("b")
