"""Whom a client trusts: named keys, pins, certificate authorities, and impostors of each."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ftpclient.client import Client
from ftpclient.connection.addresses import BadAddress, ServerAddress
from ftpclient.connection.known_hosts import CA, KnownHosts
from ftpclient.connection.trust import Trust
from ftpserver.net import tls
from ftpwire.errors import HostKeyChanged, UnknownHost, UntrustedCertificate

PIN = "SHA256:" + "A" * 43
OTHER = "SHA256:" + "B" * 43
ENDPOINT = "host:1"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def hosts(tmp_path) -> KnownHosts:
    return KnownHosts(tmp_path / "config" / "known_hosts")


# without a server --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept_new", "answer", "trusted"),
    [(True, None, True), (False, True, True), (False, False, False), (False, None, False)],
)
def test_an_unknown_key(hosts, accept_new, answer, trusted):
    requested = []
    ask = None if answer is None else lambda *what: requested.append(what) or answer
    trust = Trust(hosts, accept_new=accept_new, ask=ask)
    if trusted:
        trust.check_key(ENDPOINT, PIN)
    else:
        with pytest.raises(UnknownHost) as caught:
            trust.check_key(ENDPOINT, PIN)
        assert PIN in str(caught.value) and "--accept-key" in str(caught.value)
    assert hosts.get(ENDPOINT) == (PIN if trusted else None)
    assert requested == ([(ENDPOINT, PIN)] if answer is not None and not accept_new else [])


@pytest.mark.parametrize("pinned", [None, OTHER, CA])
@pytest.mark.parametrize("pin_key", [True, False])
def test_a_named_key_wins_over_everything_known(hosts, pinned, pin_key):
    if pinned is not None:
        hosts.add(ENDPOINT, pinned)
    trust = Trust(hosts, key=PIN, pin_key=pin_key)
    assert not trust.wants_authority(ENDPOINT)
    trust.check_key(ENDPOINT, PIN)
    assert hosts.get(ENDPOINT) == (PIN if pin_key else pinned)
    with pytest.raises(HostKeyChanged) as caught:
        trust.check_key(ENDPOINT, OTHER)
    assert PIN in str(caught.value) and OTHER in str(caught.value)
    assert hosts.get(ENDPOINT) == (PIN if pin_key else pinned)


def test_a_pin_that_can_not_be_saved_is_one_remark(tmp_path):
    (tmp_path / "file").touch()
    remarks = []
    hosts = KnownHosts(tmp_path / "file" / "below" / "known_hosts")
    Trust(hosts, accept_new=True, remark=remarks.append).check_key(ENDPOINT, PIN)
    (remark,) = remarks
    assert str(hosts.path) in remark and "cannot be saved" in remark


def test_lines_of_authorities_are_replaced_like_pins(hosts):
    hosts.add(ENDPOINT, CA)
    hosts.add("other:1", PIN)
    assert hosts.path.read_text() == f"@ca {ENDPOINT}\nother:1 {PIN}\n"
    assert hosts.get(ENDPOINT) == CA
    hosts.add(ENDPOINT, PIN)
    assert hosts.get(ENDPOINT) == PIN and "@ca" not in hosts.path.read_text()
    hosts.add(ENDPOINT, CA)
    assert hosts.remove(ENDPOINT)
    assert hosts.path.read_text() == f"other:1 {PIN}\n"


@pytest.mark.parametrize("text", ["", "SHA256:", PIN + "A", "MD5:" + "A" * 43, "A" * 43, PIN[:-1]])
def test_what_is_no_fingerprint_is_refused_before_anything_is_sent(text):
    if not text:
        return  # an empty variable is one that was not set
    with pytest.raises(BadAddress, match="fingerprint"):
        Client("alice@localhost", fingerprint=text)


# servers with certificates of an authority --------------------------------------------------


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, place: Path, name: str = "Test Authority") -> None:
        self.file = place / f"{name.replace(' ', '-')}.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = (
            self._builder(self._name, self._key.public_key(), NOW - DAY, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject, public_key, start, end) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    def certify(self, state: Path, *, host: str = "127.0.0.1", start=NOW - DAY, end=NOW + DAY):
        """Replace a server's certificate by one of this authority, for the same key."""
        certificate, key_path = tls.ensure_key(state)
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        made = (
            self._builder(x509.Name([]), key.public_key(), start, end)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def answer(self, state: Path, request: bytes) -> None:
        """Replace a server's certificate by what it has asked for."""
        requested = x509.load_pem_x509_csr(request)
        assert requested.is_signature_valid
        names = requested.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        made = (
            self._builder(requested.subject, requested.public_key(), NOW - DAY, NOW + DAY)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        (state / "tls" / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**dict.fromkeys(names, False), key_cert_sign=certificates)


class Site:
    """A server that can be replaced by another one at the same port."""

    def __init__(self, start_server) -> None:
        self._start = start_server
        self.server = start_server(plaintext=False)
        self.address = ServerAddress("127.0.0.1", self.server.server_address[1], "alice")

    @property
    def endpoint(self) -> str:
        return self.address.endpoint

    def again(self, *, new_key: bool = False, certify=None) -> None:
        """Stop, change the key or the certificate, and start again."""
        self._start.finish(self.server)
        if new_key:
            for path in (self.server.settings.state / "tls").iterdir():
                path.unlink()
        if certify is not None:
            certify(self.server.settings.state)
        self.server = self._start(plaintext=False, port=self.address.port)


@pytest.fixture
def site(start_server) -> Site:
    return Site(start_server)


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def log_ins(monkeypatch) -> list[str]:
    """The names that have tried to log in anywhere."""
    from ftpserver.serving.commands import COMMANDS, identity
    from ftpwire.messages import Login

    seen: list[str] = []
    row = COMMANDS[Login]

    def noted(client, request):
        seen.append(request.user)
        return identity.login(client, request)

    monkeypatch.setitem(COMMANDS, Login, type(row)(identify=noted, before_login=True))
    return seen


def visit(site: Site, hosts: KnownHosts, **options) -> None:
    with Client(site.address, password="secret", known_hosts=hosts, **options) as client:
        assert client.whoami() == "alice"


def test_a_certificate_for_the_key_that_clients_know_changes_nothing_for_them(
    site, authority, hosts, tmp_path
):
    visit(site, hosts, accept_new=True)
    pin = hosts.get(site.endpoint)
    key = site.server.settings.state / "tls" / "key.pem"
    request = tls.signing_request(key, ["127.0.0.1", "files.example.org"])
    site.again(certify=lambda state: authority.answer(state, request))
    visit(site, hosts)
    assert hosts.get(site.endpoint) == pin
    visit(site, KnownHosts(tmp_path / "new"), ca=authority.file)


def test_a_verified_server_is_remembered_as_such(site, authority, hosts):
    site.again(certify=authority.certify)
    visit(site, hosts, ca=authority.file)
    assert hosts.get(site.endpoint) == CA
    visit(site, hosts, ca=authority.file)
    site.again(new_key=True, certify=authority.certify)
    visit(site, hosts, ca=authority.file)


@pytest.mark.parametrize("accept_new", [True, False])
def test_an_impostor_of_a_verified_server_gets_no_password(
    site, authority, hosts, log_ins, accept_new
):
    site.again(certify=authority.certify)
    visit(site, hosts, ca=authority.file)
    del log_ins[:]
    site.again(new_key=True)  # a self-signed certificate
    with pytest.raises(HostKeyChanged) as caught:
        visit(site, hosts, ca=authority.file, accept_new=accept_new, ask=lambda *_: True)
    assert f"ftp servers --new-key {site.endpoint}" in str(caught.value)
    assert log_ins == []
    assert hosts.get(site.endpoint) == CA
    visit(site, hosts, fingerprint=site.server.fingerprint)
    assert hosts.get(site.endpoint) == site.server.fingerprint


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"end": NOW - DAY / 2}, "expired"),
        ({"start": NOW + DAY / 2}, "not valid yet"),
        ({"host": "192.0.2.7"}, "another name"),
    ],
)
def test_what_an_authority_did_issue_is_not_a_changed_key(
    site, authority, hosts, log_ins, options, reason
):
    site.again(certify=authority.certify)
    visit(site, hosts, ca=authority.file)
    del log_ins[:]
    site.again(certify=lambda state: authority.certify(state, **options))
    with pytest.raises(UntrustedCertificate, match=reason) as caught:
        visit(site, hosts, ca=authority.file, accept_new=True)
    assert "CHANGED" not in str(caught.value) and caught.value.exit_code == 9
    assert log_ins == []


def test_an_authority_alone_replaces_no_pin(site, authority, hosts, log_ins):
    """Whoever inspects TLS has an authority installed on this machine as well."""
    visit(site, hosts, accept_new=True)
    pinned = site.server.fingerprint
    del log_ins[:]
    site.again(new_key=True, certify=authority.certify)
    with pytest.raises(HostKeyChanged):
        visit(site, hosts, ca=authority.file, accept_new=True)
    requested = []

    def refuse(*what) -> bool:
        requested.append(what)
        return False

    with pytest.raises(HostKeyChanged):
        visit(site, hosts, ca=authority.file, ask_takeover=refuse)
    assert requested == [(site.endpoint, pinned, site.server.fingerprint, "Test Authority")]
    assert log_ins == [] and hosts.get(site.endpoint) == pinned
    visit(site, hosts, ca=authority.file, ask_takeover=lambda *_: True)
    assert hosts.get(site.endpoint) == CA
    visit(site, hosts, ca=authority.file)


def test_no_takeover_is_offered_to_a_key_without_an_authority(site, authority, hosts):
    visit(site, hosts, accept_new=True)
    site.again(new_key=True)
    with pytest.raises(HostKeyChanged):
        visit(site, hosts, ca=authority.file, ask_takeover=lambda *_: True)


def test_a_file_without_certificates(site, hosts, tmp_path):
    (tmp_path / "empty.pem").touch()
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(BadAddress, match=name):
            visit(site, hosts, ca=tmp_path / name)


# FTP_SERVER_KEY ----------------------------------------------------------------------------


def test_a_key_of_the_environment_is_compared_and_pins_nothing(site, hosts, monkeypatch, log_ins):
    monkeypatch.setenv("FTP_SERVER", str(site.address))
    monkeypatch.setenv("FTP_SERVER_KEY", site.server.fingerprint)
    visit(site, hosts)
    assert not hosts.path.exists()
    del log_ins[:]
    monkeypatch.setenv("FTP_SERVER_KEY", OTHER)
    with pytest.raises(HostKeyChanged, match="FTP_SERVER_KEY"):
        visit(site, hosts, accept_new=True)
    assert log_ins == []


def test_a_key_of_the_environment_is_about_that_server_only(site, hosts, monkeypatch):
    monkeypatch.setenv("FTP_SERVER", "alice@192.0.2.1")
    monkeypatch.setenv("FTP_SERVER_KEY", OTHER)
    visit(site, hosts, accept_new=True)


# where there is no home ----------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("home", [None, "/dev/null", "/proc/self"])
def test_without_a_home_that_can_be_written(site, home, tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CONFIG_HOME")
    } | {"FTP_PASSWORD": "secret", "FTP_SERVER": str(site.address)}
    if home is not None:
        environment["HOME"] = home
    else:  # a user without an entry: then nothing is left to find a home by
        environment["FTP_TEST_NO_ENTRY"] = "1"
    code = (
        "import os, pwd, sys\n"
        "if os.environ.pop('FTP_TEST_NO_ENTRY', None):\n"
        "    def missing(uid): raise KeyError(uid)\n"
        "    pwd.getpwuid = missing\n"
        "from ftpclient.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "--accept-new", "ls", "/"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (remark,) = done.stderr.splitlines()
    assert "known_hosts: the server's key cannot be saved" in remark
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be in another user's home")
def test_root_leaves_nothing_in_the_home_of_another_user(site, tmp_path, monkeypatch):
    home = tmp_path / "home-of-another"
    home.mkdir()
    os.chown(home, 12345, 12345)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    remarks: list[str] = []
    visit(site, KnownHosts(), accept_new=True, remark=remarks.append)
    assert os.listdir(home) == []
    assert any("belongs to another user" in remark for remark in remarks)
