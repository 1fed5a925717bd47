"""Which key a server has: pins, and when to refuse one."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from ftpclient.client import Client
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.known_hosts import KnownHosts
from ftpserver.net import tls
from ftpwire.errors import ConnectFailed, FtpError, HostKeyChanged, UnknownHost
from ftpwire.messages import Login
from tests.peer import eventually

PIN, OTHER = "SHA256:" + "a" * 43, "SHA256:" + "b" * 43


@pytest.fixture
def hosts(tmp_path) -> KnownHosts:
    return KnownHosts(tmp_path / "config" / "known_hosts")


# the file ----------------------------------------------------------------------------------


def test_pins(hosts):
    assert hosts.get("host:1") is None
    assert not hosts.remove("host:1")
    hosts.add("host:1", PIN)
    hosts.add("host:2", OTHER)
    hosts.add("[::1]:1", PIN)
    assert (hosts.get("host:1"), hosts.get("host:2"), hosts.get("[::1]:1")) == (PIN, OTHER, PIN)
    assert hosts.get("host") is None and hosts.get("host:11") is None and hosts.get("ost:1") is None
    hosts.add("host:1", OTHER)
    assert hosts.get("host:1") == OTHER
    assert hosts.remove("host:1")
    assert hosts.get("host:1") is None and hosts.get("host:2") == OTHER
    assert hosts.path.read_text() == f"host:2 {OTHER}\n[::1]:1 {PIN}\n"


def test_the_file_is_private(hosts):
    before = os.umask(0)
    try:
        hosts.add("host:1", PIN)
    finally:
        os.umask(before)
    assert stat.S_IMODE(hosts.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(hosts.path.parent.stat().st_mode) == 0o700
    assert sorted(os.listdir(hosts.path.parent)) == [".known_hosts.lock", "known_hosts"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"host:1 %(pin)s", id="no-newline-at-the-end"),
        pytest.param(b"  host:1   %(pin)s  \n", id="spaces"),
        pytest.param(b"# a remark\n\nhost:1 %(pin)s\n", id="remark"),
        pytest.param(b"\xff\xfe rubbish\nhost:1 %(pin)s\n", id="no-utf-8"),
        pytest.param(b"host:1 %(pin)s\r\nhost:3 x\r\n", id="carriage-returns"),
        pytest.param(b"host:1 %(pin)s\nhost:1 %(pin)s\n", id="twice"),
        pytest.param(b"host:3\nhost:1 %(pin)s\n", id="no-pin"),
    ],
)
def test_files_that_somebody_edited(hosts, text):
    hosts.path.parent.mkdir()
    hosts.path.write_bytes(text % {b"pin": PIN.encode()})
    assert hosts.get("host:1") == PIN
    hosts.add("host:2", OTHER)
    assert (hosts.get("host:1"), hosts.get("host:2")) == (PIN, OTHER)
    hosts.add("host:1", OTHER)
    assert hosts.get("host:1") == OTHER
    assert hosts.remove("host:1") and hosts.get("host:1") is None
    assert hosts.get("host:2") == OTHER
    remarks = [line for line in text.splitlines() if b"host:1" not in line]
    assert all(line in hosts.path.read_bytes() for line in remarks)


def test_several_meet_new_servers_at_once(hosts):
    together = threading.Barrier(8)

    def add(number: int) -> None:
        together.wait()
        KnownHosts(hosts.path).add(f"host:{number}", PIN)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(hosts.get(f"host:{number}") == PIN for number in range(8))


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert KnownHosts().path == tmp_path / "elsewhere" / "ftp-client" / "known_hosts"


# the decision ------------------------------------------------------------------------------


def test_checking(hosts):
    with pytest.raises(UnknownHost):
        hosts.check("host:1", PIN)
    hosts.add("host:1", PIN)
    hosts.check("host:1", PIN)
    with pytest.raises(HostKeyChanged) as caught:
        hosts.check("host:1", OTHER)
    assert PIN in str(caught.value) and OTHER in str(caught.value)
    assert "ftp servers --new-key host:1" in str(caught.value)
    assert caught.value.exit_code == UnknownHost.exit_code == 9


# on a server -------------------------------------------------------------------------------


@pytest.fixture
def server(start_server):
    return start_server(plaintext=False)


@pytest.fixture
def log_ins(monkeypatch) -> list[str]:
    """The passwords that have reached a server."""
    from ftpserver.serving.commands import COMMANDS, identity

    seen: list[str] = []
    row = COMMANDS[Login]

    def noted(client, request):
        seen.append(request.password)
        return identity.login(client, request)

    monkeypatch.setitem(COMMANDS, Login, type(row)(identify=noted, before_login=True))
    return seen


def address_of(server) -> ServerAddress:
    return ServerAddress("127.0.0.1", server.server_address[1], "alice")


def test_an_unknown_server_gets_no_password(server, hosts, log_ins):
    client = Client(address_of(server), password="secret", known_hosts=hosts)
    for _ in range(2):
        with pytest.raises(UnknownHost) as caught:
            client.connect()
        assert server.fingerprint in str(caught.value)
    assert log_ins == []
    assert not hosts.path.exists()


def test_the_first_use_pins_the_key(server, hosts, log_ins):
    endpoint = address_of(server).endpoint
    options = {"password": "secret", "known_hosts": hosts}
    with Client(address_of(server), accept_new=True, **options) as client:
        assert client.whoami() == "alice"
    assert hosts.get(endpoint) == server.fingerprint
    with Client(address_of(server), **options) as client:
        assert client.whoami() == "alice"
    assert log_ins == ["secret"] * 2


def test_who_is_asked_sees_the_fingerprint(server, hosts):
    requested = []

    def ask(*what) -> bool:
        requested.append(what)
        return True

    options = {"password": "secret", "known_hosts": hosts, "ask": ask}
    for _ in range(2):
        with Client(address_of(server), **options) as client:
            assert client.whoami() == "alice"
    assert requested == [(address_of(server).endpoint, server.fingerprint)]


@pytest.mark.parametrize("accept_new", [True, False])
def test_a_changed_key_is_always_refused(server, start_server, hosts, log_ins, accept_new):
    options = {"password": "secret", "known_hosts": hosts, "ask": lambda *_: True}
    Client(address_of(server), accept_new=True, **options).__enter__().close()
    del log_ins[:]
    port = server.server_address[1]
    start_server.finish(server)
    for path in (server.settings.state / "tls").iterdir():
        path.unlink()
    other = start_server(plaintext=False, port=port)
    client = Client(address_of(other), accept_new=accept_new, **options)
    for _ in range(2):
        with pytest.raises(HostKeyChanged) as caught:
            client.connect()
    assert other.fingerprint in str(caught.value)
    assert log_ins == []
    assert hosts.remove(address_of(other).endpoint)
    with Client(address_of(other), accept_new=True, **options) as client:
        assert client.whoami() == "alice"


def test_an_expired_certificate_of_a_pinned_key(server, start_server, hosts, monkeypatch):
    """What was pinned is the key: dates are of no interest then."""
    options = {"password": "secret", "known_hosts": hosts}
    Client(address_of(server), accept_new=True, **options).__enter__().close()
    port = server.server_address[1]
    start_server.finish(server)
    reissue(server.settings.state)
    again = start_server(plaintext=False, port=port)
    assert again.fingerprint == server.fingerprint
    with Client(address_of(again), **options) as client:
        assert client.whoami() == "alice"


def reissue(state) -> None:
    """Another certificate for the same key, which has expired already."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    certificate, key_path = tls.ensure_key(state)
    key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    then = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(then)
        .not_valid_after(then + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def test_a_server_that_somebody_vouches_for_needs_no_pin(server, hosts, monkeypatch, log_ins):
    """A certificate that the system's authorities have signed, for the name that was typed."""
    certificate, _ = tls.ensure_key(server.settings.state)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    address = ServerAddress("localhost", server.server_address[1], "alice")
    with Client(address, password="secret", known_hosts=hosts) as client:
        assert client.whoami() == "alice"
    assert hosts.get(address.endpoint) == "@ca"
    with pytest.raises(UnknownHost):  # not by this name
        Client(address_of(server), password="secret", known_hosts=hosts).connect()
    assert log_ins == ["secret"]


@pytest.mark.parametrize("pinned", [True, False])
def test_tls_where_there_is_none(start_server, hosts, pinned):
    server = start_server(plaintext=True)
    if pinned:
        hosts.add(address_of(server).endpoint, PIN)
    with pytest.raises(ConnectFailed, match="--plaintext") as caught:
        Client(address_of(server), password="secret", known_hosts=hosts, accept_new=True).connect()
    assert caught.value.exit_code == 4


def test_no_tls_where_there_is_some(server, hosts, log_ins):
    with pytest.raises(FtpError, match="TLS"):
        Client(address_of(server), password="secret", known_hosts=hosts, plaintext=True).connect()
    assert log_ins == []


def test_every_connection_is_given_back(server, hosts):
    """Refused ones too: their sockets would be reported by the fixture that every test has."""
    for accept_new in (False, True):
        try:
            client = Client(
                address_of(server), password="wrong", known_hosts=hosts, accept_new=accept_new
            )
            client.connect()
        except FtpError as error:
            assert error.exit_code == (3 if accept_new else 9)
    eventually(lambda: not server.service.sessions)
