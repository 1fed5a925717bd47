"""TLS over memory: bytes in, bytes out. Does no I/O.

Lives here: one TLS connection as an SSLObject between two MemoryBIOs, and the fingerprint of
a key. Blocking threads, parked sessions and asyncio all drive the same object.
Lives elsewhere: sockets (channel.py), contexts and key files (ftpserver/net/tls.py), pins
(ftpclient/connection/known_hosts.py).

A MemoryBIO never shrinks, so both directions move in pieces of at most ``PIECE`` bytes.
"""

from __future__ import annotations

import base64
import hashlib
import ssl

from ftpwire.errors import ConnectionLost, ProtocolError

PIECE = 128 * 1024
"""Most bytes, in plain or encrypted form, put into a MemoryBIO at once."""

HANDSHAKE_RECORD = 0x16
"""First byte of a TLS connection."""

MOST_BESIDES = 64 * 1024
"""Encrypted bytes that may come and bring no plain ones: key updates, and half a record."""
MOST_ANSWERS = 16 * 1024
"""Bytes that TLS itself may owe the peer, who has asked for its keys to be changed."""
_PAID_BY_ONE = 32
"""Encrypted bytes that a plain byte accounts for, so that small messages are as good as any."""
_RECORD_HEADER = 5

_CUT = "UNEXPECTED_EOF_WHILE_READING"  # some builds of Python raise it as a plain SSLError


class TlsError(ConnectionLost):
    """TLS itself failed: not TLS on the other side, or nothing in common."""

    code = "tls"


class TlsPipe:
    """One TLS connection without a socket.

    Use: ``feed`` what the network brought, ``read_into`` plain bytes until it returns 0;
    ``write`` plain bytes, send what ``outgoing`` returns.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        # Many builds of Python set it by default: a cut would then look like an end in order.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._besides = 0
        """Encrypted bytes that came and are not accounted for by plain ones."""
        self._header = b""
        """The part of a record's header that came last."""
        self._left = 0
        """Bytes of the current record that are still to come."""
        name: str | bytes | None = server_name
        if server_name is not None and server_name.isascii():
            name = server_name.encode()  # a text takes the tables for names of other alphabets
        self.object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=name,
            session=session,
        )

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is done. Send ``outgoing`` after each call."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLEOFError:
            raise ConnectionLost("closed within the TLS handshake") from None
        except ssl.SSLError as error:
            raise TlsError(f"TLS handshake failed: {_reason(error)}") from None
        self._besides = 0  # what the handshake itself took
        return True

    def feed(self, data: bytes) -> None:
        """Take encrypted bytes as they came (at most PIECE)."""
        self._incoming.write(data)
        self._besides += len(data)
        at = self._left
        if self._header:  # nothing is left of the record before it
            data = self._header + data
        size = len(data)
        while at + _RECORD_HEADER <= size:
            at += _RECORD_HEADER + (data[at + 3] << 8 | data[at + 4])
        self._header = data[at:] if at < size else b""
        self._left = max(0, at - size)

    @property
    def is_amid_record(self) -> bool:
        """Whether a part of a record came, and the rest didn't yet."""
        return bool(self._left or self._header)

    def feed_eof(self) -> None:
        """The network side ended. A close without close_notify is then a cut."""
        self._incoming.write_eof()

    def read_into(self, view: memoryview) -> int:
        """Decrypt into ``view``; 0 when more has to be fed first.

        Raises:
            ConnectionLost: The peer closed, in order or by a cut.
            TlsError: It sends records that carry nothing, without an end.
        """
        got = 0
        size = len(view)
        read = self.object.read
        try:
            while got < size:
                count = read(size - got, view[got:])
                if not count:  # close_notify: read() tells it so, unless this side closed first
                    raise ssl.SSLZeroReturnError
                got += count  # type: ignore[operator]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not got:
                raise ConnectionLost("the peer closed the connection") from None
        except ssl.SSLError as error:
            if not got:
                if isinstance(error, ssl.SSLEOFError) or error.reason == _CUT:
                    raise ConnectionLost("the connection was cut") from None
                raise TlsError(f"TLS failed: {_reason(error)}") from None
        self._besides = max(0, self._besides - got * _PAID_BY_ONE)
        if not got and self._besides > MOST_BESIDES:
            raise TlsError("TLS failed: too many records without data")
        if self._outgoing.pending > MOST_ANSWERS:
            raise TlsError("TLS failed: too many key updates")
        return got

    def pending(self) -> int:
        """Plain bytes that can be read without feeding."""
        return self.object.pending() or self._incoming.pending

    def write(self, view: memoryview | bytes | bytearray) -> int:
        """Encrypt up to PIECE bytes of ``view``; returns how many."""
        try:
            return self.object.write(memoryview(view)[:PIECE])
        except ssl.SSLError as error:
            raise TlsError(f"TLS failed: {_reason(error)}") from None

    def outgoing(self) -> bytes:
        """Encrypted bytes to send."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Say that nothing more will be written; returns what to send (close_notify)."""
        try:
            self.object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # WantRead: the peer's own close_notify isn't waited for
        return self._outgoing.read()

    def peer_certificate(self) -> bytes:
        """The peer's certificate, DER."""
        certificate = self.object.getpeercert(binary_form=True)
        if certificate is None:
            raise ProtocolError("the server showed no certificate")
        return certificate


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def fingerprint(certificate: bytes) -> str:
    """``SHA256:…`` over the certificate's SubjectPublicKeyInfo (as in RFC 7469 pins).

    It stays the same when a certificate is renewed for the same key.
    """
    digest = hashlib.sha256(public_key_info(certificate)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a DER certificate (RFC 5280, section 4.1).

    Walked by hand, because loading a certificate library costs a client more time than its
    whole connection. Raises ProtocolError when it is not a certificate.
    """
    try:
        _, start, _ = _element(certificate, 0)  # Certificate
        _, at, end = _element(certificate, start)  # TBSCertificate
        tag, _, after = _element(certificate, at)
        if tag == 0xA0:  # explicit version
            at = after
        for _ in range(5):  # serialNumber, signature, issuer, validity, subject
            _, _, at = _element(certificate, at)
        tag, _, after = _element(certificate, at)
    except IndexError:
        raise ProtocolError("the server's certificate is malformed") from None
    if tag != 0x30 or after > end:
        raise ProtocolError("the server's certificate is malformed")
    return certificate[at:after]


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start of contents and end of the DER element at ``at``."""
    tag = der[at]
    length = der[at + 1]
    start = at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    if start + length > len(der):
        raise IndexError(at)
    return tag, start, start + length
