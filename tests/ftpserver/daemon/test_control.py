"""The control socket: who can open it, what it answers, whatever is sent to it."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
from contextlib import closing, nullcontext

import pytest

from ftpserver.accounts.penalties import Offence
from ftpserver.cli import control as cli_control
from ftpserver.cli import records, tables
from ftpserver.clock import RUN
from ftpserver.daemon import control, control_server
from ftpserver.daemon.control import Control, ask_until_end, running
from ftpserver.errors import SettingsError
from ftpserver.interfaces import make_proxy
from ftpserver.net import tls
from ftpserver.serving import account_watch
from ftpserver.serving.stats import SessionInfo
from ftpwire.errors import (
    BadMessage,
    CommandError,
    ConnectFailed,
    ConnectionLost,
    Forbidden,
    Internal,
    NotFound,
)
from ftpwire.messages import Get, LoggedIn, Login, Sending, WhoAmI
from tests.peer import Peer, eventually


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(account_watch, "_EVERY", 0.02)


@pytest.fixture
def state(server):
    """Where the running server can be asked."""
    return server.settings.state


def raw(state, data: bytes) -> bytes:
    """What comes back for these bytes."""
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(30)
        sock.connect(str(state / control.SOCKET))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := sock.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass  # it left some of ours unread
        return answer


# the socket --------------------------------------------------------------------------------


def test_only_the_owner_can_open_it(state):
    info = os.stat(state / control.SOCKET)
    assert stat.S_ISSOCK(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o600


def test_it_goes_with_the_server(start_server):
    server = start_server()
    path = server.settings.state / control.SOCKET
    assert path.exists()
    start_server.finish(server)
    assert not path.exists()
    with pytest.raises(ConnectFailed):
        running(server.settings.state).status()


def test_what_a_crash_left_is_replaced(tmp_path, start_server):
    state = tmp_path / "root" / ".ftpd"
    state.mkdir(parents=True)
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(state / control.SOCKET))
    with pytest.raises(ConnectFailed):
        running(state).status()
    start_server()
    assert running(state).status().state == "running"


def test_a_root_whose_path_is_longer_than_a_sockets(tmp_path, start_server):
    root = tmp_path / ("long" * 25) / ("longer" * 20)
    root.mkdir(parents=True)
    server = start_server(root=root)
    assert len(str(server.settings.state)) > 200
    assert running(server.settings.state).status().accounts == 1


def test_where_no_socket_can_be_made_the_server_serves(start_server, monkeypatch, dial, caplog):
    def fail(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(control_server.ControlSocket, "server_bind", fail)
    server = start_server()
    assert dial(server).ask(WhoAmI()) == LoggedIn("alice")
    assert "no control socket" in caplog.text


@pytest.mark.parametrize("made", ["nothing", "root", "state"])
def test_without_a_server(tmp_path, made):
    state = tmp_path / "root" / ".ftpd"
    if made != "nothing":
        (state if made == "state" else state.parent).mkdir(parents=True)
    with pytest.raises(ConnectFailed, match="no server runs there") as raised:
        running(state).status()
    assert raised.value.exit_code == 4


def test_somebody_else_s_server(state, plain_user):
    os.chmod(state / control.SOCKET, 0)
    with pytest.raises(Forbidden, match="only the user that the server runs as"):
        running(state).status()


# questions and answers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"garbage\n", id="garbage"),
        pytest.param(b'{"is":"sing"}\n', id="unknown"),
        pytest.param(b'{"is":"stop","grace":-1}\n', id="out of range"),
        pytest.param(b'{"is":"stop"', id="cut short"),
        pytest.param(b'{"is":"' + b"x" * 200_000 + b'"}\n', id="endless"),
        pytest.param(b"[" * 60_000 + b"\n", id="deep"),
        pytest.param(b"\xff\xfe\n", id="no text"),
    ],
)
def test_what_is_no_question(server, state, dial, line):
    answer = raw(state, line)
    if answer:  # of the endless one, what isn't read may undo the answer
        assert json.loads(answer)["code"] == BadMessage.code
    assert not server.service.stopping
    assert running(state).status().state == "running"


def test_silence(state):
    assert raw(state, b"") == b""


def test_one_question_and_no_more(state):
    assert raw(state, b'{"is":"status"}\n{"is":"status"}\n').count(b"\n") == 1


@pytest.mark.parametrize(
    ("answer", "error", "reported"),
    [
        pytest.param(b"", ConnectionLost, "before it sent a reply", id="none"),
        pytest.param(b'{"is":"song"}\n', BadMessage, "another version", id="unknown"),
        pytest.param(b"\xff\n", BadMessage, "another version", id="no text"),
        pytest.param(
            b'{"is":"failure","code":"new","message":"no"}\n', CommandError, "no", id="new code"
        ),
    ],
)
def test_answers_of_another_version(answer, error, reported):
    here, there = socket.socketpair()
    with here, there:
        there.sendall(answer)
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(error, match=reported):
            make_proxy(Control, control.Lines(lambda: nullcontext(here))).status()


def test_a_failure_of_our_own_is_reported_in_two_words(state, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(control_server.Commands, "status", fail)
    with pytest.raises(Internal) as raised:
        running(state).status()
    assert "secret" not in str(raised.value)
    assert "a secret" in caplog.text


def test_status(server, state, dial):
    dial(server), dial(server, logged_in=False)
    eventually(lambda: len(server.service.sessions) == 2)
    found = running(state).status()
    assert (found.process, found.address, found.fingerprint) == (os.getpid(), server.address, None)
    assert (found.sessions, found.unauthenticated, found.transfers, found.accounts) == (2, 1, 0, 1)
    assert found.state == "running"
    assert abs(found.since - time.time()) < 60
    assert found.bytes_in > 0 < found.bytes_out


def test_bytes_stay_counted_when_their_session_has_ended(server, state, dial):
    peer = dial(server)
    before = running(state).status()
    assert before.bytes_in > 0
    peer.close()
    eventually(lambda: not server.service.sessions)
    after = running(state).status()
    assert after.bytes_in == before.bytes_in
    assert after.bytes_out >= before.bytes_out > 0  # a client may be quicker than the count


def test_sessions_report_who_does_what(server, state, dial, files):
    (files / "large").write_bytes(bytes(64 * 2**20))
    idle, busy, unauthenticated_client = (
        dial(server),
        dial(server, buffers=4096),
        dial(server, logged_in=False),
    )
    busy.request(Get(b"/large"))
    assert isinstance(busy.answer().message, Sending)
    eventually(lambda: len(server.service.sessions) == 3 and server.service.moved()[1] > 2**16)
    first, second, third = running(state).sessions().sessions
    assert first.id < second.id < third.id
    assert (first.user, first.request, first.path) == ("alice", None, None)
    assert (second.user, second.request, second.path) == ("alice", "get", b"/large")
    assert (third.user, third.request) == (None, None)
    host, port = busy.socket.getsockname()
    assert second.peer == f"{host}:{port}"
    assert second.bytes_out > 2**16 > first.bytes_out
    assert second.quiet == 0 <= first.quiet
    assert abs(second.since - time.time()) < 60
    assert running(state).status().transfers == 1
    assert idle.ask(WhoAmI()) == LoggedIn("alice")
    assert unauthenticated_client.is_silent()


def test_the_password_of_a_log_in_is_revealed_to_nobody(server, state, dial, monkeypatch):
    peer = dial(server, logged_in=False)
    peer.hello()
    (session,) = server.service.sessions
    session.doing = Login("alice", "the password")
    assert b"the password" not in raw(state, b'{"is":"sessions"}\n')
    session.doing = None


def last_word(peer: Peer) -> str:
    (frame,) = peer.read_to_end()
    return frame.message.message


@pytest.mark.parametrize("seconds", [-365 * 24 * 3600, 365 * 24 * 3600])
def test_durations_are_right_when_the_clock_was_set(server, state, dial, monkeypatch, seconds):
    dial(server)
    monkeypatch.setattr(RUN, "_wall", lambda: time.time() + seconds)
    (one,) = running(state).sessions().sessions
    for since in (one.since, running(state).status().since):
        assert abs(since - (time.time() + seconds)) < 60


def test_kicking_by_number(server, state, dial):
    first, second = dial(server), dial(server)
    number = running(state).sessions().sessions[0].id
    assert running(state).kick(session=number).sessions == [number]
    assert last_word(first) == "the session was ended by the administrator"
    assert second.ask(WhoAmI()) == LoggedIn("alice")


def test_kicking_by_name(server, state, dial):
    server.accounts.add("bob", "secret")
    first, second, other = dial(server), dial(server), dial(server, logged_in=False)
    other.log_in("bob")
    assert len(running(state).kick(user="alice").sessions) == 2
    for peer in (first, second):
        assert last_word(peer) == "the session was ended by the administrator"
    assert other.ask(WhoAmI()) == LoggedIn("bob")


@pytest.mark.parametrize("words", [("user:12",), ("12", "--user")], ids=["named", "option"])
def test_a_user_whose_name_is_a_number(root, start_server, dial, ftpd, words):
    server = start_server(root=root)
    server.accounts.add("12", "secret")
    peer = dial(server, logged_in=False)
    peer.log_in("12")
    status, _, reported = ftpd("kick", "12")
    assert status == 5 and "no such session" in reported
    status, reported, _ = ftpd("kick", *words)
    assert (status, reported) == (0, "ended 1 session\n")
    assert last_word(peer) == "the session was ended by the administrator"


def test_an_account_without_sessions(root, start_server, ftpd):
    start_server(root=root).accounts.add("bob", "secret")
    assert ftpd("kick", "bob") == (0, "bob has no sessions\n", "")
    status, out, _ = ftpd("kick", "bob", "--json")
    assert status == 0 and json.loads(out)["ended"] == []
    status, out, reported = ftpd("kick", "nobody")
    assert (status, out) == (5, "") and "nobody: no such account" in reported


@pytest.mark.parametrize("who", [{"session": 10**6}, {"user": "nobody"}, {}], ids=str)
def test_kicking_who_is_not_there(server, state, dial, who):
    peer, unauthenticated_client = dial(server), dial(server, logged_in=False)
    with pytest.raises(NotFound):
        running(state).kick(**who)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    unauthenticated_client.hello()


def test_bans_are_listed_and_lifted(start_server, dial, monkeypatch):
    server = start_server(ban_after=1)
    state = server.settings.state
    server.service.limits._bans.failed("192.0.2.1", "alice")
    server.service.limits._bans.failed("192.0.2.2", "bob")
    found = running(state).bans().bans
    assert {(one.subject, one.address, one.account) for one in found} == {
        ("192.0.2.1 alice", "192.0.2.1", "alice"),
        ("192.0.2.2 bob", "192.0.2.2", "bob"),
    }
    assert all(one.failures == 1 and one.until > time.time() for one in found)
    lifted = running(state).unban("192.0.2.1").bans
    assert [one.subject for one in lifted] == ["192.0.2.1 alice"]
    with pytest.raises(NotFound):
        running(state).unban("192.0.2.1")
    assert [one.subject for one in running(state).unban().bans] == ["192.0.2.2 bob"]
    assert running(state).bans().bans == running(state).unban().bans == []


def test_penalties_are_shown_and_lifted_like_bans(ftpd, start_server, monkeypatch):
    server = start_server()
    server.service.limits.penalize("192.0.2.1", Offence.CRASH)
    status, out, _ = ftpd("bans")
    assert status == 0
    record = json.loads(ftpd("bans", "--json")[1])
    assert record["reason"] == "connections without a log-in"
    assert out == f"192.0.2.1\t-\t{record['until']}\t0\tconnections without a log-in\n"
    with monkeypatch.context() as terminal:
        terminal.setattr(tables, "on_terminal", lambda: True)
        head, line = ftpd("bans")[1].splitlines()
        assert re.split("  +", head) == ["ADDRESS", "ACCOUNT", "FOR ANOTHER", "AFTER"]
        address, account, _, why = re.split("  +", line)
        assert (address, account, why) == ("192.0.2.1", "all", "connections without a log-in")
    assert ftpd("unban", "--all")[1] == "lifted 1 ban\n"
    assert not server.service.limits.bans()
    server.service.limits.penalize("192.0.2.1", Offence.CRASH)
    assert ftpd("unban", "192.0.2.1")[1] == "lifted 1 ban\n"
    assert ftpd("bans")[1] == ""


# reload, stop, drain -----------------------------------------------------------------------


def presented(server, dial, context) -> bytes:
    peer = dial(server, context=context)
    certificate = peer.socket.getpeercert(binary_form=True)
    peer.close()
    return certificate


def new_key(state) -> None:
    for path in (state / "tls").iterdir():
        path.unlink()
    tls.ensure_key(state)


def test_another_key_is_taken_over_and_sessions_go_on(start_server, dial, tls_client_context):
    server = start_server(plaintext=False)
    state = server.settings.state
    going_on = dial(server, context=tls_client_context)
    before, shown = presented(server, dial, tls_client_context), server.fingerprint
    assert running(state).reload().lines == []
    assert presented(server, dial, tls_client_context) == before
    new_key(state)
    assert server.fingerprint == shown
    (line,) = running(state).reload().lines
    assert server.fingerprint != shown and server.fingerprint in line
    assert running(state).status().fingerprint == server.fingerprint
    assert presented(server, dial, tls_client_context) != before
    assert going_on.ask(WhoAmI()) == LoggedIn("alice")


def test_a_key_that_does_not_fit_changes_nothing(start_server, dial, tls_client_context):
    server = start_server(plaintext=False)
    state = server.settings.state
    before, shown = presented(server, dial, tls_client_context), server.fingerprint
    (state / "tls" / "key.pem").write_text("no key at all")
    with pytest.raises(CommandError, match="key.pem"):
        running(state).reload()
    assert server.fingerprint == shown
    assert presented(server, dial, tls_client_context) == before


def test_a_reload_with_mistakes_reports_each_and_changes_nothing(root, start_server, ftpd):
    server = start_server(root=root)

    def broken():
        raise SettingsError(["ftpd.toml:1: unknown key prot", "ftpd.toml:2: stall"])

    before = server.settings
    server.load_settings = broken
    assert ftpd("reload") == (
        2,
        "",
        "ftpd: ftpd.toml:1: unknown key prot\nftpd: ftpd.toml:2: stall\n"
        "ftpd: the running settings were not changed\n",
    )
    assert server.settings is before
    status, _, err = ftpd("reload", "--json")
    error, remark = map(json.loads, err.splitlines())
    assert status == 2
    assert error["problems"] == ["ftpd.toml:1: unknown key prot", "ftpd.toml:2: stall"]
    assert remark == {"remark": "the running settings were not changed"}


def test_the_sessions_on_a_terminal_have_an_age(root, start_server, dial, ftpd, monkeypatch):
    dial(start_server(root=root))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    head, line = ftpd("sessions")[1].splitlines()
    assert head.split() == ["ID", "USER", "FROM", "AGE", "DOING", "IN", "OUT", "SPEED"]
    assert " 0 s " in line or " 1 s " in line


def test_a_reload_that_changes_nothing(root, start_server, ftpd):
    start_server(root=root, plaintext=False)
    assert ftpd("reload") == (0, "nothing has changed\n", "")


def test_stopping_is_asked_for_and_answered_first(server, state):
    requested = []
    server.on_stop_requested = lambda: requested.append(server.service.grace)
    assert running(state).stop().process == os.getpid()
    eventually(lambda: requested == [10.0])
    running(state).stop(grace=0.5)
    eventually(lambda: requested == [10.0, 0.5])


def test_draining_is_reported(server, state, dial):
    peer = dial(server)
    running(state).drain()
    eventually(lambda: running(state).status().state == "draining")
    with pytest.raises(OSError):
        dial(server)
    assert peer.ask(WhoAmI()) == LoggedIn("alice")
    running(state).drain(seconds=3600)  # again: with another end


def test_a_connection_that_says_nothing_does_not_hold_up_the_stop(start_server):
    server = start_server()
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.connect(str(server.settings.state / control.SOCKET))
        began = time.monotonic()
        start_server.finish(server)
        assert time.monotonic() - began < control.PATIENCE


def test_waiting_for_the_end_where_processes_can_not_be_watched(start_server, monkeypatch):
    monkeypatch.setattr(control, "_peer_process", lambda sock: None)
    server = start_server()
    steps = ask_until_end(server.settings.state, lambda server: server.stop())
    next(steps)
    start_server.finish(server)
    assert list(steps) == []


# what is printed ---------------------------------------------------------------------------

SESSION = SessionInfo(
    id=7,
    user="alice",
    peer="192.0.2.1:1234",
    since=0.0,
    request="move",
    path=b"/a\x1b[31m\xff\n",
    target=b"/b",
    quiet=0.0,
    bytes_in=1536,
    bytes_out=0,
    speed=2048.0,
)


def test_a_session_as_a_row_is_safe_to_print():
    cells = cli_control._cells(SESSION)
    assert "".join(cells).isprintable()
    assert cells[4] == "move /a\\x1b[31m\\xff\\n → /b"
    assert (cells[0], cells[1], cells[2]) == ("7", "alice", "192.0.2.1:1234")
    assert cells[5:] == ("1.5 KiB", "0 B", "2.0 KiB/s")


def test_a_session_for_programs_is_exact():
    record = records.session_record(SESSION)
    assert record["path"] == "/a\x1b[31m\ufffd\n"
    assert record["path_b64"] == "L2EbWzMxbf8K"
    assert (record["target"], "target_b64" in record) == ("/b", False)
    assert (record["bytes_in"], record["speed"], record["idle"]) == (1536, 2048, 0.0)
    assert record["since"] == "1970-01-01T00:00:00Z"


# where none runs ---------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    directory = tmp_path / "runtime"
    directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def test_servers_that_run_elsewhere_are_named(start_server, tmp_path, runtime):
    server = start_server()
    with pytest.raises(ConnectFailed) as raised:
        running(tmp_path / "empty" / ".ftpd").status()
    assert f"one runs on {server.settings.root} (name it with --root)" in str(raised.value)
    start_server.finish(server)
    assert list(runtime.glob("ftpd/*")) == []
    with pytest.raises(ConnectFailed) as raised:
        running(tmp_path / "empty" / ".ftpd").status()
    assert str(raised.value).endswith("no server runs there")


def test_a_note_of_a_server_that_was_killed_is_not_believed(tmp_path, runtime):
    from ftpserver.daemon import registry

    registry.add(tmp_path / "root")
    assert list(registry.noted()) == [tmp_path / "root"]
    with pytest.raises(ConnectFailed) as raised:
        running(tmp_path / "empty" / ".ftpd").status()
    assert str(raised.value).endswith("no server runs there")


def test_a_server_runs_where_no_note_can_be_left(start_server, runtime):
    (runtime / "ftpd").write_text("a file")
    server = start_server()
    assert running(server.settings.state).status().state == "running"
