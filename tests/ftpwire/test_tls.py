"""TLS over memory, in any pieces; and a key's fingerprint, whatever a certificate holds."""

from __future__ import annotations

import base64
import hashlib
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ftpwire.errors import ConnectionLost, ProtocolError
from ftpwire.tls import HANDSHAKE_RECORD, PIECE, TlsError, TlsPipe, fingerprint, public_key_info

KINDS = ["ec", "ec-p384", "rsa", "ed25519"]
CHUNKS = pytest.mark.parametrize("chunk", [1, 5, 1000, PIECE])


def carry(source: TlsPipe, target: TlsPipe, chunk: int = PIECE) -> int:
    """What the network does; returns how many bytes it carried."""
    data = bytes(source.outgoing())
    for at in range(0, len(data), chunk):
        target.feed(data[at : at + chunk])
    return len(data)


def shake_hands(client: TlsPipe, server: TlsPipe, chunk: int = PIECE) -> None:
    client_done = server_done = False
    while not (client_done and server_done):
        client_done = client_done or client.handshake()
        moved = carry(client, server, chunk)
        server_done = server_done or server.handshake()
        moved += carry(server, client, chunk)
        assert moved or client_done and server_done


def read(pipe: TlsPipe, size: int = 2 * PIECE) -> bytes:
    view = memoryview(bytearray(size))
    return bytes(view[: pipe.read_into(view)])


class Pair:
    """Two ends, hands shaken."""

    def __init__(self, client_context, server_context, chunk: int = PIECE, session=None) -> None:
        self.client = TlsPipe(
            client_context, server_side=False, server_name="localhost", session=session
        )
        self.server = TlsPipe(server_context, server_side=True)
        shake_hands(self.client, self.server, chunk)
        assert read(self.client) == b""  # tickets come first

    def expect_much(self) -> None:
        for pipe in (self.client, self.server):
            assert pipe.expect_much_input()
            pipe.expect_much_output()


@pytest.fixture(params=["little", "much"])
def pair(request, client_context, server_context):
    """Before and after much was expected: all has to be the same."""
    made = Pair(client_context, server_context)
    if request.param == "much":
        made.expect_much()
    return made


@CHUNKS
def test_any_chunking(client_context, server_context, chunk):
    pair = Pair(client_context, server_context, chunk)
    for sender, receiver in [(pair.client, pair.server), (pair.server, pair.client)]:
        assert sender.write(b"hello") == 5
        carry(sender, receiver, chunk)
        assert read(receiver) == b"hello"
        assert read(receiver) == b""
        assert receiver.pending() == 0


def test_chunks_that_complete_nothing_are_nothing_yet(pair):
    pair.client.write(b"hello")
    record = bytes(pair.client.outgoing())
    for at in range(len(record) - 1):
        pair.server.feed(record[at : at + 1])
        assert read(pair.server) == b""
    pair.server.feed(record[-1:])
    assert read(pair.server) == b"hello"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=12),
    chunk=st.integers(1, 400),
    piece=st.integers(1, 400),
)
def test_any_bytes_both_ways(pair, writes, chunk, piece):
    sent = {True: b"", False: b""}
    found = {True: b"", False: b""}
    for from_client, data in writes:
        sender, receiver = pair.client, pair.server
        if not from_client:
            sender, receiver = receiver, sender
        assert sender.write(data) == len(data)
        sent[from_client] += data
        carry(sender, receiver, chunk)
        while data := read(receiver, piece):
            found[from_client] += data
    assert found == sent


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 17])
def test_large_writes_go_in_pieces(pair, form, size):
    data = bytes(range(256)) * (size // 256 + 1)
    left = memoryview(form(data[:size]))
    found = b""
    while left:
        taken = pair.client.write(left)
        assert taken == min(PIECE, len(left))
        left = left[taken:]
        carry(pair.client, pair.server)
        found += read(pair.server)
    assert found == data[:size]


def test_reading_less_than_there_is(pair):
    pair.client.write(b"0123456789")
    carry(pair.client, pair.server)
    assert read(pair.server, 4) == b"0123"
    assert pair.server.pending()
    assert read(pair.server, 0) == b""
    assert read(pair.server, 4) == b"4567"
    assert read(pair.server, 4) == b"89"
    assert not pair.server.pending()


def test_a_read_takes_all_records_that_fit(pair):
    for _ in range(10):
        pair.client.write(b"0123456789")
        carry(pair.client, pair.server)
    assert pair.server.pending()  # fed, though not even decrypted yet
    assert read(pair.server, 95) == b"0123456789" * 9 + b"01234"
    assert read(pair.server, 95) == b"56789"


def test_the_first_byte_decides(client_context):
    client = TlsPipe(client_context, server_side=False, server_name="localhost")
    assert client.handshake() is False
    assert client.outgoing()[0] == HANDSHAKE_RECORD


def test_a_session_is_resumed(client_context, server_context, pair):
    again = Pair(client_context, server_context, session=pair.client.object.session)
    assert not pair.client.object.session_reused
    assert again.client.object.session_reused
    again.client.write(b"hello")
    carry(again.client, again.server)
    assert read(again.server) == b"hello"


def test_peer_certificate(pair, identities):
    assert pair.client.peer_certificate() == identities["ec"].der
    with pytest.raises(ProtocolError):
        pair.server.peer_certificate()  # clients show none


# Ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["client", "server"])
def test_an_end_in_order(pair, sender):
    """Also before the network's own end comes: nothing more will."""
    one, other = pair.client, pair.server
    if sender == "server":
        one, other = other, one
    one.write(b"last words")
    goodbye = bytes(one.outgoing()) + one.close()
    other.feed(goodbye)
    assert read(other) == b"last words"
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="closed"):
            read(other)
    other.feed_eof()
    with pytest.raises(ConnectionLost, match="closed"):
        read(other)
    one.feed(other.close())  # who closed first hears the answer
    with pytest.raises(ConnectionLost, match="closed"):
        read(one)


def test_an_end_in_order_and_the_networks_at_once(pair):
    pair.client.write(b"last words")
    pair.server.feed(bytes(pair.client.outgoing()) + pair.client.close())
    pair.server.feed_eof()
    assert read(pair.server, 5) == b"last "
    assert read(pair.server, 50) == b"words"
    with pytest.raises(ConnectionLost, match="closed"):
        read(pair.server)


@pytest.mark.parametrize("kept", [0, 1, 5, 20], ids=lambda kept: f"{kept}-bytes-of-a-record")
def test_a_cut_is_no_end(pair, kept):
    """Without close_notify anybody on the way may have ended it."""
    pair.client.write(b"whole")
    carry(pair.client, pair.server)
    pair.client.write(b"never complete")
    pair.server.feed(bytes(pair.client.outgoing())[:kept])
    pair.server.feed_eof()
    assert read(pair.server) == b"whole"
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="cut"):
            read(pair.server)


def test_a_cut_is_no_end_whatever_python_was_built_with(client_context, server_context):
    for context in (client_context, server_context):
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    pair = Pair(client_context, server_context)
    for pipe in (pair.client, pair.server):
        pipe.feed_eof()
        with pytest.raises(ConnectionLost, match="cut"):
            read(pipe)


def test_a_cut_before_anything(pair):
    pair.server.feed_eof()
    with pytest.raises(ConnectionLost, match="cut"):
        read(pair.server)


@pytest.mark.parametrize("at", [0, 3, 5, 12, -1], ids=lambda at: f"byte-{at}")
def test_a_damaged_record(pair, at):
    pair.client.write(b"whole")
    carry(pair.client, pair.server)
    pair.client.write(b"to be damaged")
    record = bytearray(pair.client.outgoing())
    record[at] ^= 0x40
    pair.server.feed(bytes(record))
    pair.server.feed_eof()
    assert read(pair.server) == b"whole"  # what came before it is good
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            read(pair.server)


def test_a_replayed_record(pair):
    pair.client.write(b"once")
    record = bytes(pair.client.outgoing())
    pair.server.feed(record)
    assert read(pair.server) == b"once"
    pair.server.feed(record)
    with pytest.raises(TlsError):
        read(pair.server)


def test_closing_before_hands_are_shaken(client_context):
    pipe = TlsPipe(client_context, server_side=False, server_name="localhost")
    assert pipe.close() == b""
    assert pipe.close() == b""


def test_closing_twice(pair):
    assert pair.client.close()
    assert pair.client.close() == b""


# Handshakes that fail ------------------------------------------------------------------------

NO_TLS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "http-answer": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "this-protocol-in-plain": b"\x00\x00\x00\x20\x01\x00\x00\x00\x00FTPW" + bytes(28),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(100),
    "handshake-of-noise": b"\x16\x03\x01\x00\x20" + bytes(range(32)),
    "oversized-record": b"\x16\x03\x01\xff\xff" + bytes(100),
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
}


@pytest.mark.parametrize("wire", NO_TLS.values(), ids=NO_TLS)
@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
def test_no_tls_on_the_other_side(client_context, server_context, server_side, wire):
    if server_side:
        pipe = TlsPipe(server_context, server_side=True)
    else:
        pipe = TlsPipe(client_context, server_side=False, server_name="localhost")
    pipe.handshake()
    pipe.feed(wire)
    with pytest.raises(TlsError) as caught:
        pipe.handshake()
    assert str(caught.value).isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wire=st.binary(min_size=1, max_size=300))
def test_noise_on_the_other_side(server_context, wire):
    pipe = TlsPipe(server_context, server_side=True)
    pipe.feed(wire)
    pipe.feed_eof()
    with pytest.raises(ConnectionLost):
        pipe.handshake()


def test_an_end_in_the_handshake(client_context, server_context):
    client = TlsPipe(client_context, server_side=False, server_name="localhost")
    client.handshake()
    hello = client.outgoing()
    for size in (0, 1, 5, len(hello) // 2, len(hello)):
        server = TlsPipe(server_context, server_side=True)
        server.feed(hello[:size])
        server.handshake()
        server.feed_eof()
        with pytest.raises(ConnectionLost, match="closed") as caught:
            server.handshake()
        assert caught.value.code != TlsError.code  # a busy server may do so: worth another try


@pytest.mark.parametrize(
    ("trusted", "name"),
    [pytest.param(False, "localhost", id="unknown"), pytest.param(True, "other", id="other-name")],
)
def test_a_server_that_is_not_trusted(client_context, server_context, trusted, name):
    context = client_context if trusted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = TlsPipe(context, server_side=False, server_name=name)
    server = TlsPipe(server_context, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server)
    carry(client, server)  # the alert tells the server why
    with pytest.raises(TlsError):
        server.handshake()


def test_nothing_in_common(client_context, server_context):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    client = TlsPipe(old, server_side=False)
    server = TlsPipe(server_context, server_side=True)
    client.handshake()
    carry(client, server)
    with pytest.raises(TlsError):
        server.handshake()
    carry(server, client)
    with pytest.raises(TlsError, match="version"):
        client.handshake()


def test_tls_errors_are_lost_connections():
    assert issubclass(TlsError, ConnectionLost)
    assert not issubclass(TlsError, OSError)


# Fingerprints --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_public_key_info(identities, kind):
    assert public_key_info(identities[kind].der) == identities[kind].public_key_info


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprint(identities, kind):
    digest = hashlib.sha256(identities[kind].public_key_info).digest()
    text = fingerprint(identities[kind].der)
    assert text.startswith("SHA256:") and not text.endswith("=")
    assert base64.b64decode(text.removeprefix("SHA256:") + "=") == digest


def test_a_renewed_certificate_has_the_same_fingerprint(new_identity):
    key = ec.generate_private_key(ec.SECP256R1())
    one, other = new_identity("one", key), new_identity("other", key)
    assert one.der != other.der
    assert fingerprint(one.der) == fingerprint(other.der)


def test_other_keys_have_other_fingerprints(identities):
    assert len({fingerprint(identity.der) for identity in identities.values()}) == len(KINDS)


def element(tag: int, *contents: bytes) -> bytes:
    """A DER element, however long."""
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


KEY = element(0x30, element(0x30, b"\x06\x01\x2a"), element(0x03, b"\0key"))


def certificate(*, version: bytes = element(0xA0, b"\x02\x01\x02"), issuer: int = 10) -> bytes:
    name = element(0x30, b"n" * issuer)
    signed = element(
        0x30,
        version,
        element(0x02, b"\x05"),
        element(0x30, b"alg"),
        name,
        element(0x30, b"validity"),
        name,
        KEY,
        element(0xA3, b"extensions"),
    )
    return element(0x30, signed, element(0x30, b"alg"), element(0x03, b"\0signature"))


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(certificate(), id="version-3"),
        pytest.param(certificate(version=b""), id="version-1"),
        pytest.param(certificate(issuer=127), id="longest-short-form"),
        pytest.param(certificate(issuer=128), id="shortest-long-form"),
        pytest.param(certificate(issuer=70_000), id="three-bytes-of-length"),
    ],
)
def test_forms_of_certificates(der):
    assert public_key_info(der) == KEY


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30", id="a-tag"),
        pytest.param(b"\x30\x80", id="indefinite"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", id="four-gib"),
        pytest.param(b"\x30\xff" + b"\xff" * 127, id="longest-length"),
        pytest.param(b"\x30\xfe" + b"\xff" * 3, id="length-cut-short"),
        pytest.param(b"\x30\x00", id="empty-sequence"),
        pytest.param(b"\x30\x02\x30\x00", id="empty-inside"),
        pytest.param(bytes(100), id="zeros"),
        pytest.param(b"\xff" * 100, id="ones"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\n", id="pem"),
        pytest.param(certificate().replace(KEY, element(0x31, KEY[2:])), id="a-set-for-a-key"),
        pytest.param(certificate().replace(KEY, b""), id="no-key"),
        pytest.param(
            element(0x30, element(0x30, element(0x02, b"\x05"), element(0x30) * 4), KEY),
            id="a-key-after-what-is-signed",
        ),
    ],
)
def test_what_is_no_certificate(der):
    for read_it in (public_key_info, fingerprint):
        with pytest.raises(ProtocolError):
            read_it(der)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_a_certificate(identities, kind):
    der = identities[kind].der
    for size in range(len(der)):
        with pytest.raises(ProtocolError):
            public_key_info(der[:size])


def try_it(der: bytes) -> None:
    try:
        found = public_key_info(der)
    except ProtocolError:
        return
    assert found in der and found[0] == 0x30


@given(der=st.binary(max_size=100))
def test_noise_for_a_certificate(der):
    try_it(der)


nested = st.recursive(
    st.binary(max_size=5),
    lambda inner: st.builds(
        lambda tag, parts: element(tag, *parts),
        st.sampled_from([0x30, 0xA0, 0x02, 0x03]),
        st.lists(inner, max_size=8),
    ),
    max_leaves=15,
)


@given(der=nested)
def test_anything_in_the_form_of_der(der):
    try_it(der)


@given(
    changes=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.none() | st.integers(0, 200),
)
@example(changes=[(1, 0x80)], end=None)
@example(changes=[(1, 0xFF)], end=None)
def test_damaged_certificates(changes, end):
    der = bytearray(certificate(issuer=30))
    for at, value in changes:
        der[at % len(der)] = value
    try_it(bytes(der[:end]))
