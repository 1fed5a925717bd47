"""The server's key, and TLS with it."""

from __future__ import annotations

import datetime
import os
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ftpserver.errors import StateError
from ftpserver.net import tls
from ftpwire import messages
from ftpwire.frames import Kind
from ftpwire.messages import Get, Hello, LoggedIn, Put, Sending, WhoAmI
from ftpwire.tls import fingerprint
from tests.peer import Peer, eventually, frame


@pytest.fixture
def state(tmp_path):
    return tmp_path / ".ftpd"


# the key -----------------------------------------------------------------------------------


def test_a_key_is_made_once_and_is_private(state):
    certificate, key = tls.ensure_key(state)
    before = certificate.read_bytes(), key.read_bytes()
    assert tls.ensure_key(state) == (certificate, key)
    assert (certificate.read_bytes(), key.read_bytes()) == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert sorted(os.listdir(key.parent)) == sorted([certificate.name, key.name])
    tls.make_context(certificate, key)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_key_is_private_whatever_the_umask(state, umask):
    state.mkdir()
    before = os.umask(umask)
    try:
        _, key = tls.ensure_key(state)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) & 0o077 == 0
    tls.make_context(*tls.ensure_key(state))


def test_what_the_certificate_says(state):
    certificate, _ = tls.ensure_key(state)
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert isinstance(loaded.public_key().curve, ec.SECP256R1)
    loaded.verify_directly_issued_by(loaded)
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    now = datetime.datetime.now(datetime.UTC)
    assert loaded.not_valid_before_utc < now
    assert loaded.not_valid_after_utc > now + datetime.timedelta(days=3650)


@pytest.mark.parametrize("name", ["x" * 200, "", "with space", "ümlaut"])
def test_a_host_of_any_name(state, monkeypatch, name):
    monkeypatch.setattr(tls.socket, "gethostname", lambda: name)
    tls.make_context(*tls.ensure_key(state))


def test_an_interrupted_first_start_is_repaired(state):
    certificate, key = tls.ensure_key(state)
    certificate.unlink()
    key.with_suffix(".new").write_text("half a key")
    tls.make_context(*tls.ensure_key(state))
    assert sorted(os.listdir(key.parent)) == sorted([certificate.name, key.name])


def test_the_fingerprint_is_of_the_key(state, tmp_path):
    certificate, _ = tls.ensure_key(state)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert tls.fingerprint_of(certificate) == fingerprint(der)
    other, _ = tls.ensure_key(tmp_path / "other")
    assert tls.fingerprint_of(other) != tls.fingerprint_of(certificate)
    chain = tmp_path / "chain.pem"
    chain.write_text(certificate.read_text() + other.read_text())
    assert tls.fingerprint_of(chain) == tls.fingerprint_of(certificate)


def test_a_key_that_is_no_key(state, tmp_path):
    certificate, key = tls.ensure_key(state)
    _, other = tls.ensure_key(tmp_path / "other")
    for bad in (tmp_path / "missing", certificate, other):
        with pytest.raises(StateError) as caught:
            tls.make_context(certificate, bad)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "\ufffd" * 10,
    ],
)
def test_a_certificate_that_is_none(tmp_path, text):
    path = tmp_path / "cert.pem"
    path.write_text(text)
    with pytest.raises(StateError) as caught:
        tls.fingerprint_of(path)
    assert "\n" not in str(caught.value)


def test_a_state_that_can_not_be_written(tmp_path):
    (tmp_path / ".ftpd").write_text("")
    with pytest.raises(StateError):
        tls.ensure_key(tmp_path / ".ftpd")


# serving with it ---------------------------------------------------------------------------


@pytest.fixture
def server(start_server):
    return start_server(plaintext=False)


@pytest.fixture
def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def is_served(peer: Peer) -> bool:
    return peer.ask(WhoAmI()) == LoggedIn("alice")


def test_tls_1_3_and_nothing_older(server, dial, context):
    peer = dial(server, context=context)
    assert peer.socket.version() == "TLSv1.3"
    assert fingerprint(peer.socket.getpeercert(binary_form=True)) == server.fingerprint
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError) as caught:
        dial(server, context=context)
    assert "ALERT_PROTOCOL_VERSION" in caught.value.reason
    assert is_served(peer)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(Kind.REQUEST, 0, messages.encode_hello(Hello())), id="hello"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\x00", id="zero"),
    ],
)
def test_who_speaks_without_tls_is_informed_in_plain(server, dial, sent):
    peer = dial(server, logged_in=False)
    peer.send(sent)
    (last,) = peer.read_to_end()
    assert (last.kind, last.request_id, last.message.code) == (Kind.ERROR, 0, "bad-magic")
    assert "TLS" in last.message.message


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x16", id="first-byte"),
        pytest.param(b"\x16\x03\x01\x00\x05hello", id="no-hello"),
        pytest.param(b"\x16\x03\x01\xff\xff" + bytes(70000), id="large-record"),
        pytest.param(b"\x16" * 1000, id="nonsense"),
    ],
)
def test_broken_handshakes_are_dropped(start_server, dial, context, sent):
    server = start_server(plaintext=False, login_grace=0.5)
    peer = dial(server, logged_in=False)
    try:
        peer.send(sent)
        while peer.socket.recv(65536):
            pass
    except ConnectionError:
        pass
    eventually(lambda: not server.service.sessions)
    assert is_served(dial(server, context=context))


def test_a_handshake_blocks_nobody_else(server, dial, context):
    """It is done in the session's own thread."""
    silent = [dial(server, logged_in=False) for _ in range(5)]
    for peer in silent:
        peer.send(b"\x16\x03\x01")
    assert is_served(dial(server, context=context))


def test_a_cut_is_no_end(server, dial, context):
    """Without close_notify, in the middle of an upload: nothing is stored of it."""
    peer = dial(server, context=context)
    number = peer.request(Put(b"/file", None))
    peer.frame(Kind.DATA, number, b"x" * 1000)
    raw = peer.socket.detach()
    os.close(raw)
    eventually(lambda: not server.service.sessions)
    assert not (server.settings.root / "alice" / "file").exists()


def test_large_frames_both_ways(server, dial, context):
    data = os.urandom(3_000_000)
    peer = dial(server, context=context)
    number = peer.request(Put(b"/file", len(data)))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, messages.Sent(len(data)))
    assert peer.answer().message.size == len(data)
    peer.request(Get(b"/file"))
    assert isinstance(peer.answer().message, Sending)
    found = b""
    while (answer := peer.answer()).kind == Kind.DATA:
        found += answer.payload
    assert found == data


def test_the_next_start_has_the_same_key(start_server, server):
    before = server.fingerprint
    start_server.finish(server)
    assert start_server(plaintext=False).fingerprint == before
