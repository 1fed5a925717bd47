"""The server chooses AES-128-GCM where that is right, and touches nothing elsewhere."""

from __future__ import annotations

import ssl

import pytest

from ftpserver.net import ciphers
from ftpserver.net.tls import ensure_key, make_context
from ftpwire import openssl
from ftpwire.tls import TlsPipe

AES = "processor : 0\nflags : fpu vme aes avx2\n"
NO_AES = "processor : 0\nflags : fpu vme vaes_not avx2\n"


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Says which processor this is."""

    def is_(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(ciphers, "_CPUINFO", path)

    is_(AES)
    return is_


@pytest.fixture(autouse=True)
def looked_up_anew():
    """The path of OpenSSL: within a test it may be another."""
    openssl.path.cache_clear()
    yield
    openssl.path.cache_clear()


@pytest.fixture
def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if ciphers._names(made) != ciphers._OPENSSLS_OWN:
        pytest.skip("this system's OpenSSL is configured with an order of its own")
    return made


def offered(context) -> list[str]:
    return [cipher["name"] for cipher in context.get_ciphers()]


def test_the_fast_one_comes_first_and_none_is_lost(cpu, context):
    before = offered(context)
    assert ciphers.prefer_fast(context)
    assert offered(context)[:3] == list(ciphers.FAST_FIRST)
    assert sorted(offered(context)) == sorted(before)
    assert not ciphers.prefer_fast(context), "it is somebody's choice now"


def test_it_is_what_is_spoken(cpu, context, tmp_path):
    server = TlsPipe(make_context(*ensure_key(tmp_path)), server_side=True)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client = TlsPipe(client_context, server_side=False)
    done = False
    while not done:
        done = client.handshake()
        server.feed(client.outgoing())
        server.handshake()
        client.feed(server.outgoing())
    assert client.object.cipher()[0] == "TLS_AES_128_GCM_SHA256"
    assert server.handshake() and server.object.cipher() == client.object.cipher()


@pytest.mark.parametrize("text", [NO_AES, "", "Features : fp asimd sha1\n"])
def test_a_processor_without_aes(cpu, context, text):
    cpu(text)
    before = offered(context)
    assert not ciphers.prefer_fast(context)
    assert offered(context) == before


def test_an_arm_with_aes(cpu, context):
    cpu("processor : 0\nFeatures : fp asimd aes pmull\n")
    assert ciphers.prefer_fast(context)


def test_no_cpuinfo(cpu, context, tmp_path, monkeypatch):
    monkeypatch.setattr(ciphers, "_CPUINFO", tmp_path / "nowhere")
    assert not ciphers.prefer_fast(context)


@pytest.mark.parametrize("known", [((3, 0), (3, 1)), ((4, 0), (5, 0))], ids=["newer", "older"])
def test_a_python_whose_objects_are_not_known(cpu, context, monkeypatch, known):
    monkeypatch.setattr(openssl, "_KNOWN", known)
    before = offered(context)
    assert not ciphers.prefer_fast(context)
    assert offered(context) == before


def test_a_python_that_has_a_call_for_it(cpu, context, monkeypatch):
    requested = []

    class Newer(ssl.SSLContext):
        def set_ciphersuites(self, order):
            requested.append(order)

    monkeypatch.setattr(ciphers, "_set_by_pointer", None)
    ciphers.prefer_fast(Newer(ssl.PROTOCOL_TLS_SERVER))
    assert requested == [":".join(ciphers.FAST_FIRST)]


def test_an_ssl_module_inside_the_interpreter(cpu, context, monkeypatch):
    import _ssl

    monkeypatch.delattr(_ssl, "__file__")
    assert not ciphers.prefer_fast(context)
