"""What the server's log says about the end of a connection: one line, at a fitting level."""

from __future__ import annotations

import logging
import re
import ssl

import pytest

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Failed, Login, Put, Sent, Stored
from tests.peer import Peer, eventually

SESSION = "ftpd.session"


@pytest.fixture
def lines(caplog):
    """Gives the level and text of each line about a connection, without addresses."""
    caplog.set_level(logging.DEBUG)

    def found() -> list[tuple[str, str]]:
        return [
            (one.levelname, re.sub(r"127\.0\.0\.1:\d+", "CLIENT", one.getMessage()))
            for one in caplog.records
            if one.name == SESSION
        ]

    return found


def test_the_end_of_a_session_has_its_reason_duration_and_bytes(server, dial, lines):
    data = bytes(3 * 1024)
    with dial(server) as peer:
        peer.frame(Kind.REQUEST, 7, Put(b"/a", size=len(data)))
        peer.frame(Kind.DATA, 7, data)
        peer.frame(Kind.END, 7, Sent(len(data), digests.digest(data)))
        assert peer.answer().message == Stored(len(data))
        (session,) = server.service.sessions
        session.since -= 3 * 3600 + 65  # it has lasted so long
    eventually(lambda: not server.service.sessions)
    logged_in, (level, end) = lines()
    assert logged_in == ("INFO", "alice@CLIENT: logged in")
    assert level == "INFO"
    form = r"alice@CLIENT: session ended after 3:01:0\d, 3\.\d KiB in, \d\d\d B out: (.*)"
    assert re.fullmatch(form, end)[1] == "the client closed the connection"


def kick(server, peer: Peer) -> None:
    server.service.kick(None, "alice")


def break_rules(server, peer: Peer) -> None:
    peer.frame(Kind.DATA, 9, b"no request was made")


def abort(server, peer: Peer) -> None:
    peer.reset()


ENDS = {
    "ended": (kick, "the session was ended by the administrator"),
    "dropped": (break_rules, "dropped: file bytes outside an upload"),
    "lost": (abort, "connection lost: connection reset by peer"),
}


def test_a_short_session_has_a_fraction_of_a_second(server, dial, lines):
    dial(server).close()
    eventually(lambda: not server.service.sessions)
    assert re.search(r"session ended after \d\.\d s, ", lines()[-1][1])


@pytest.mark.parametrize(("end", "reason"), ENDS.values(), ids=ENDS)
def test_why_a_session_ended_is_said_once(server, dial, lines, end, reason):
    peer = dial(server)
    end(server, peer)
    eventually(lambda: not server.service.sessions)
    (_, (level, text)) = lines()
    assert level == "INFO" and text.endswith(f" B out: {reason}")


def test_a_stop_of_the_server_ends_sessions_with_that_reason(start_server, dial, lines):
    server = start_server()
    dial(server)
    start_server.finish(server)
    (_, (level, text)) = lines()
    assert level == "INFO" and text.endswith(" B out: the server is shutting down")


# without a log-in --------------------------------------------------------------------------


def test_a_client_that_distrusts_the_certificate_is_one_line(start_server, dial, lines):
    server = start_server(plaintext=False)
    trusting_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting_nobody.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError):
        dial(server, logged_in=False, context=trusting_nobody)
    eventually(lines)
    eventually(lambda: not server.service.sessions)
    ((level, text),) = lines()
    assert level == "INFO"
    assert text.startswith("CLIENT: the client does not trust the server's certificate (TLS ")
    assert text.endswith("alert unknown ca)")


SILENT = {
    "health check": (b"", "closed before the first byte"),
    "half a handshake": (b"\x16\x03\x01\x02\x00\x01", "closed within the TLS handshake"),
}


@pytest.mark.parametrize(("sent", "reason"), SILENT.values(), ids=SILENT)
def test_a_client_that_only_leaves_is_logged_at_debug(start_server, dial, lines, sent, reason):
    server = start_server(plaintext=False)
    with dial(server, logged_in=False) as peer:
        peer.send(sent)
    eventually(lines)
    eventually(lambda: not server.service.sessions)
    assert lines() == [("DEBUG", f"CLIENT: {reason}")]


def test_a_client_that_speaks_something_else_is_logged_at_info(start_server, dial, lines):
    server = start_server(plaintext=False)
    with dial(server, logged_in=False) as peer:
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        peer.read_to_end()
    eventually(lambda: not server.service.sessions)
    assert lines() == [("INFO", "CLIENT: dropped: this server speaks TLS only")]


def test_after_a_refused_log_in_its_warning_is_the_only_line(server, dial, lines):
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert isinstance(peer.ask(Login("alice", "wrong")), Failed)
    eventually(lambda: not server.service.sessions)
    refused, left = lines()
    assert refused == ("WARNING", "CLIENT: log-in refused for alice: wrong password")
    assert left == ("DEBUG", "CLIENT: the client closed the connection")
