"""Users of this machine, and a Unix socket: they ban only themselves, and no client of theirs is
taken in by a socket of somebody else.

Lives here: failures by user, who may listen at a path, the mode of the socket.
Lives elsewhere: bans (test_bans.py), logging in as a system user (test_session.py).
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ftpclient.client import Client
from ftpclient.connection import peer
from ftpclient.connection.addresses import ServerAddress
from ftpserver.accounts import limits
from ftpserver.errors import StateError
from ftpserver.net import addresses
from ftpserver.serving import listeners
from ftpwire.errors import UnknownHost
from ftpwire.messages import LoggedIn, Login
from tests.peer import Peer

# bans ------------------------------------------------------------------------------------------


@contextmanager
def connected(path: Path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(path))
    with Peer(sock) as found:
        found.hello()
        yield found


def test_failures_of_one_user_ban_no_other(start_server, tmp_path, monkeypatch):
    """All of them come without an address: it is the kernel that tells them apart."""
    users = [1001]
    monkeypatch.setattr(addresses, "peer_uid", lambda connection: users[0])
    path = tmp_path / "socket"
    server = start_server(unix=path, ban_after=1)
    monkeypatch.setattr(limits, "BANNED_DELAY", 0.0)
    with connected(path) as guesser:
        guesser.ask(Login("alice", "wrong"))
    with connected(path) as guesser:
        assert guesser.ask(Login("alice", "secret")).code == "banned"
    assert {ban.address for ban in server.service.limits.bans()} == {"local:1001"}
    users[0] = 1002
    with connected(path) as another:
        assert another.ask(Login("alice", "secret")) == LoggedIn("alice")
    server.service.limits.unban("local:1001")
    users[0] = 1001
    with connected(path) as forgiven:
        assert forgiven.ask(Login("alice", "secret")) == LoggedIn("alice")


def test_the_kernel_reports_who_it_is(tmp_path):
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(tmp_path / "socket"))
            served, address = listener.accept()
            with closing(served):
                assert addresses.host_of(address, served) == f"local:{os.geteuid()}"
                assert peer._uid_of(client) == os.geteuid()
    for of in (addresses.network_of, addresses.source_of):
        assert of("local:7") == "local:7" != of("local:8")
    assert addresses.is_in("local:7", ())


# who listens -----------------------------------------------------------------------------------


@pytest.fixture
def listening(tmp_path):
    """A socket of somebody, and what comes to it."""
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(60)
        yield listener


def test_nothing_is_sent_to_somebody_elses_socket(listening, tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "_uid_of", lambda sock: 4242)
    address = ServerAddress("localhost", 0, "alice", str(tmp_path / "socket"))
    with closing(Client(address, password="secret", retries=0)) as client:
        with pytest.raises(UnknownHost, match="user 4242") as caught:
            client.connect()
    assert caught.value.exit_code == 9
    served, _ = listening.accept()
    with closing(served):
        assert served.recv(1) == b""


@pytest.mark.parametrize("uid", [0, os.geteuid(), None], ids=["root", "me", "unknown"])
def test_whose_sockets_are_trusted(listening, tmp_path, monkeypatch, uid):
    monkeypatch.setattr(peer, "_uid_of", lambda sock: uid)
    tmp_path.chmod(0o777)
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        peer.check(sock, ServerAddress("localhost", 0, None, str(tmp_path / "socket")))


@pytest.mark.parametrize(
    ("mode", "above", "trusted"),
    [
        pytest.param(0o755, 0o755, True, id="own"),
        pytest.param(0o700, 0o1777, True, id="below-tmp"),
        pytest.param(0o777, 0o755, False, id="all-write"),
        pytest.param(0o1777, 0o755, False, id="tmp-itself"),
        pytest.param(0o775, 0o755, False, id="a-group-writes"),
        pytest.param(0o755, 0o777, False, id="may-be-swapped"),
    ],
)
def test_the_owner_of_the_directory(tmp_path, mode, above, trusted):
    directory = tmp_path / "above" / "directory"
    directory.mkdir(parents=True)
    directory.chmod(mode)
    directory.parent.chmod(above)
    assert peer._may_listen(os.geteuid(), str(directory / "socket")) is trusted
    assert not peer._may_listen(os.geteuid() + 1, str(directory / "socket"))


def test_a_link_that_others_can_put_there_leads_to_nobody(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "link").symlink_to(tmp_path / "real")
    assert peer._may_listen(os.geteuid(), str(tmp_path / "real" / "socket"))
    assert not peer._may_listen(os.geteuid(), str(tmp_path / "open" / "link" / "socket"))


# the socket's mode -----------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_the_socket_has_the_mode_that_was_asked_for(start_server, tmp_path, umask):
    before = os.umask(umask)
    try:
        start_server(unix=tmp_path / "socket", unix_mode=0o606)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o606


def test_no_other_file_gets_its_mode(start_server, tmp_path, monkeypatch):
    """Somebody who may write to the directory puts a link to a secret in the socket's place."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    bind = listeners.UnixListener.server_bind

    def swap(self) -> None:
        bind(self)
        os.unlink(self.server_address)
        os.symlink(secret, self.server_address)

    monkeypatch.setattr(listeners.UnixListener, "server_bind", swap)
    with pytest.raises(StateError, match="another user"):
        start_server(unix=tmp_path / "socket", unix_mode=0o666)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_socket_that_is_swapped_before_its_name_is_noticed(start_server, tmp_path, monkeypatch):
    activate = listeners.UnixListener.server_activate

    def swap(self) -> None:
        activate(self)
        os.unlink(self.server_address)
        with closing(socket.socket(socket.AF_UNIX)) as other:
            other.bind(self.server_address)

    monkeypatch.setattr(listeners.UnixListener, "server_activate", swap)
    with pytest.raises(StateError, match="another user"):
        start_server(unix=tmp_path / "socket")
