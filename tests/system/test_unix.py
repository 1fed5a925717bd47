"""Unix sockets: serving on them beside TCP or instead, and logging in as who one is."""

from __future__ import annotations

import os
import pwd
import shlex
import socket
import stat
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ftpwire.messages import LoggedIn, Login, LoginPeer
from tests.peer import Peer
from tests.system.programs import Admin, eventually

pytestmark = pytest.mark.needs("network")  # with a Unix socket of its own beside it

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def place(tmp_path):
    return tmp_path / "socket"


@pytest.fixture
def served(start_server, place):
    """A server on a Unix socket as well as on TCP."""
    return start_server("--unix", str(place))


@pytest.fixture
def admin(served, programs, tmp_path):
    return Admin(programs, served.root, tmp_path)


def at_socket(user, place):
    """The same user, over the Unix socket."""
    return replace(user, server=f"unix:{place}")


def without_password(user):
    return replace(user, password="")


def test_its_mode_says_who_may_connect(start_server, place):
    start_server("--unix", str(place), "--unix-mode", "0600")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_who_is_named_needs_no_password(served, place, admin):
    alice = without_password(at_socket(served.first_user(), place))
    assert "needs a password here: set FTP_PASSWORD" in alice.run("ls", status=3).err
    admin.run("user", "set", "alice", "--peer-user", ME)
    assert alice.run("whoami").text == "alice\n"
    admin.run("user", "set", "alice", "--peer-user", "none")
    alice.run("whoami", status=3)


def test_nobody_is_nobody(served, place, admin):
    reported = admin.run("user", "set", "alice", "--peer-user", "nobody")
    assert "it needs a password" in reported.err
    assert admin.run("user", "set", "alice", "--peer-user", "root").err == ""
    admin.run("user", "set", "alice", "--peer-user", "nobody")
    without_password(at_socket(served.first_user(), place)).run("ls", status=3)
    admin.run("user", "set", "alice", "--peer-user", "no-such-user", status=2)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can come as somebody else")
@pytest.mark.parametrize("uid", [1, 65534])
def test_the_kernel_says_who_comes(start_server, tmp_path, monkeypatch, uid):
    """Whoever is named is let in; but nobody, who may be anybody, isn't even where it is named."""
    server = start_server("--unix", str(tmp_path / "socket"), "--unix-mode", "0666")
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # others cannot reach it by its whole path
    alice = server.first_user()
    for named in (pwd.getpwuid(uid).pw_name, pwd.getpwuid(2).pw_name):
        server.admin.run("user", "set", alice.name, "--peer-user", named)
        with socket.socket(socket.AF_UNIX) as sock, Peer(sock) as peer:
            os.seteuid(uid)
            try:
                sock.connect("socket")
            finally:
                os.seteuid(0)
            peer.hello()
            answer = peer.ask(LoginPeer(alice.name))
        if uid == 65534 or named == pwd.getpwuid(2).pw_name:
            assert answer.code == "login-refused"
        else:
            assert answer == LoggedIn(alice.name)


@contextmanager
def come_as(uid: int):
    """A connection that the kernel says is of that user."""
    with socket.socket(socket.AF_UNIX) as sock, Peer(sock) as peer:
        os.seteuid(uid)
        try:
            sock.connect("socket")
        finally:
            os.seteuid(0)
        peer.hello()
        yield peer


@pytest.mark.skipif(os.getuid() != 0, reason="only root can come as somebody else")
@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--isolation", "process")], ids=str)
def test_failures_of_one_user_ban_no_other(start_server, tmp_path, monkeypatch, options):
    server = start_server(
        *("--unix", str(tmp_path / "socket"), "--unix-mode", "0666", "--ban-after", "1"), *options
    )
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    alice = server.first_user()
    with come_as(1) as guesser:
        assert guesser.ask(Login(alice.name, "wrong")).code == "login-refused"
    with come_as(1) as guesser:
        assert guesser.ask(Login(alice.name, alice.password)).code == "banned"
    with come_as(2) as another:
        assert another.ask(Login(alice.name, alice.password)) == LoggedIn(alice.name)
    assert "local:1\t" in server.admin.run("bans").text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can listen as somebody else")
def test_nothing_is_reported_to_somebody_who_listens_there(served, tmp_path):
    alice = at_socket(served.first_user(), tmp_path / "other")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "other"))
        os.seteuid(1)
        try:
            listening.listen()
        finally:
            os.seteuid(0)
        assert "user 1 listens there" in alice.run("ls", status=9).err
        heard, _ = listening.accept()
        with heard:
            assert heard.recv(1) == b""


def test_only_unix(start_server, place):
    server = start_server("--no-tcp", "--unix", str(place))
    assert server.announced[0] == f"listening on unix:{place}"
    assert at_socket(server.first_user(), place).run("whoami").text == "alice\n"


def test_what_is_announced_is_good_from_anywhere(start_server, tmp_path):
    for options, heard in (
        (("--no-tcp",), f"listening on unix:{tmp_path}/my socket"),
        (("--no-tcp", "--plaintext"), f"listening on unix:{tmp_path}/my socket"),
        ((), f"and on          unix:{tmp_path}/my socket"),
    ):
        server = start_server(*options, "--unix", "my socket")
        assert heard in server.announced
        server.stop()
        if options:
            (line,) = [line for line in server.announced if line.startswith("connect with")]
            words = shlex.split(line.removeprefix("connect with"))
            assert words == ["ftp", "connect", f"alice@unix:{tmp_path}/my socket"]


def test_no_tcp_alone_is_refused(programs, tmp_path):
    admin = Admin(programs, tmp_path / "root", tmp_path)
    refused = admin.run("start", "--no-tcp", "--port", "0", status=2)
    assert "--unix" in refused.err
    assert not admin.root.exists()


def test_what_a_killed_server_left_is_replaced(start_server, place, tmp_path):
    first = start_server("--unix", str(place), root=tmp_path / "one")
    first.kill()
    assert place.exists()
    second = start_server("--unix", str(place), root=tmp_path / "two")
    assert at_socket(second.first_user(), place).run("whoami").text == "alice\n"
    second.stop()
    assert not place.exists()


def test_a_place_that_is_taken(served, place, programs, tmp_path):
    other = Admin(programs, tmp_path / "other", tmp_path)
    refused = other.run("start", "--port", "0", "--unix", str(place), status=1)
    assert "another server listens on it" in refused.err
    (tmp_path / "file").write_bytes(b"mine")
    refused = other.run("start", "--port", "0", "--unix", str(tmp_path / "file"), status=1)
    assert "not a socket" in refused.err
    assert (tmp_path / "file").read_bytes() == b"mine"
    long = tmp_path / ("x" * 100)
    assert "longer than" in other.run("start", "--port", "0", "--unix", str(long), status=1).err


def test_the_status_reports_it(served, place, admin, start_server, tmp_path):
    assert admin.run("status", "--json").record["unix"] == str(place)
    assert f"listening on  {served.address} and unix:{place}" in admin.run("status").text
    name = os.fsdecode(b"no-\xff-text")
    only = start_server("--no-tcp", "--unix", str(tmp_path / name), root=tmp_path / "other")
    assert f"listening on  unix:{tmp_path}/no-\\xff-text\n" in only.admin.run("status").text
    assert only.admin.run("status", "--json").record["unix"] == f"{tmp_path}/no-\\xff-text"


def test_a_server_that_is_not_there(tmp_path, programs, served):
    alice = served.first_user()
    gone = at_socket(alice, tmp_path / "nothing")
    assert "no such file" in gone.run("ls", status=4).err
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        refused = at_socket(alice, tmp_path / "silent").run("ls", status=4)
    assert "refused" in refused.err
    long = at_socket(alice, tmp_path / ("x" * 200)).run("ls", status=4)
    assert "longer than a socket's path can be" in long.err


def test_the_sessions_report_where_they_are_from(served, place, admin):
    alice = at_socket(served.first_user(), place)
    waiting = alice.start("put", "-", "/pipe")
    eventually(lambda: "local" in admin.run("sessions", "--json").text)
    waiting.stdin.close()
    assert waiting.wait() == 0
