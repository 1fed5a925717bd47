"""TLS in memory: bytes in, bytes out. Does no I/O.

Lives here: one TLS connection as an SSLObject between two MemoryBIOs, and the fingerprint of a key.
Blocking threads, parked sessions and asyncio all use the same object.
Lives elsewhere: sockets (channel.py), contexts and key files (ftpserver/net/tls.py), known keys
(ftpclient/connection/known_hosts.py), how OpenSSL does the same faster (openssl.py).

A MemoryBIO never shrinks, so both directions move at most ``PIECE`` bytes at a time.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from typing import TYPE_CHECKING

from ftpwire.errors import ConnectionLost, ProtocolError

if TYPE_CHECKING:
    from ftpwire.openssl import OutputRing, RecordReader

PIECE = 128 * 1024
"""Most bytes, plain or encrypted, to put into a MemoryBIO at once."""

HANDSHAKE_RECORD = 0x16
"""The first byte of a TLS connection."""

MOST_BESIDES = 64 * 1024
"""Most encrypted bytes that may arrive without any plain bytes: key updates, and half a record."""
MOST_ANSWERS = 16 * 1024
"""Most bytes that TLS itself may have to send to a peer that keeps asking for key updates."""
_PAID_BY_ONE = 32
"""Encrypted bytes that one plain byte accounts for: enough for the overhead of small messages."""
_RECORD_HEADER = 5
_WORTHWHILE_READ = 32 * 1024
"""Smallest space, in bytes, into which it pays to decrypt several records with one call."""
_RING_SIZE = PIECE + 32 * 1024
"""Bytes of encrypted output to hold: a piece with what encryption adds, and answers."""

_CUT = "UNEXPECTED_EOF_WHILE_READING"  # some builds of Python raise a plain SSLError for it


class TlsError(ConnectionLost):
    """TLS itself failed: the peer does not speak TLS, or nothing that this side accepts."""

    code = "tls"


class TlsPipe:
    """One TLS connection without a socket.

    Usage: ``feed`` what the network brought, ``read_into`` plain bytes until it returns 0;
    ``write`` plain bytes, and send what ``outgoing`` returns.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        # Many builds of Python set this by default: a cut would then look like an orderly close.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming: ssl.MemoryBIO | RecordReader = incoming
        self._outgoing: ssl.MemoryBIO | OutputRing = outgoing
        self._records: RecordReader | None = None
        """``_incoming``, once much is expected to come."""
        self._ring: OutputRing | None = None
        """``_outgoing``, once much is expected to be sent."""
        self._failure: ssl.SSLError | None = None
        """The error that ended reading. OpenSSL reports it once, and then an unexpected end."""
        self._besides = 0
        """Encrypted bytes that arrived and are not yet accounted for by plain ones."""
        self._header = b""
        """The incomplete header of the last record."""
        self._left = 0
        """Bytes of the current record that have not arrived yet."""
        name: str | bytes | None = server_name
        if server_name is not None and server_name.isascii():
            name = server_name.encode()  # a str would load the tables for non-ASCII names
        self.object = context.wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=name,
            session=session,
        )

    def handshake(self) -> bool:
        """Continue the handshake; True when it is done. Send ``outgoing`` after each call."""
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
        self._besides = 0  # the handshake's own bytes do not count
        return True

    def feed(self, data: bytes) -> None:
        """Take encrypted bytes as they arrived (at most PIECE before `expect_much_input`)."""
        self._incoming.write(data)
        self._besides += len(data)
        at = self._left
        if self._header:  # then the record before it is complete
            data = self._header + data
        size = len(data)
        while at + _RECORD_HEADER <= size:
            at += _RECORD_HEADER + (data[at + 3] << 8 | data[at + 4])
        self._header = data[at:] if at < size else b""
        self._left = max(0, at - size)

    @property
    def is_amid_record(self) -> bool:
        """True if only a part of a record has arrived."""
        return bool(self._left or self._header)

    def feed_eof(self) -> None:
        """Report the end of the connection. Without a close_notify before, it counts as a cut."""
        self._incoming.write_eof()

    def read_into(self, view: memoryview) -> int:
        """Decrypt into ``view``. Return the number of bytes; 0 if more must be fed first.

        Raises:
            ConnectionLost: The peer closed, or the connection was cut.
            TlsError: The peer keeps sending records without data.
        """
        got = 0
        size = len(view)
        read = self.object.read
        try:
            if self._records is not None and size >= _WORTHWHILE_READ and self._failure is None:
                got = self._records.read_into(view)
                self._failure = self._records.failure
                size = got or size  # the next call finds out what ended it
            if self._failure is not None and not got:
                raise self._failure
            while got < size:
                count = read(size - got, view[got:])
                if not count:  # close_notify: read() returns 0, unless this side closed first
                    raise ssl.SSLZeroReturnError
                got += count  # type: ignore[operator]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:  # no space for the answers
            raise TlsError("TLS failed: too many key updates") from None
        except ssl.SSLZeroReturnError:
            if not got:
                raise ConnectionLost("the peer closed the connection") from None
        except ssl.SSLError as error:
            self._failure = error.with_traceback(None)  # which would keep the view
            if not got:
                if isinstance(error, ssl.SSLEOFError) or error.reason == _CUT:
                    raise ConnectionLost("the connection was cut") from None
                raise TlsError(f"TLS failed: {_reason(error)}") from None
        if self._records is not None:
            self._records.release()
        self._besides = max(0, self._besides - got * _PAID_BY_ONE)
        if not got and self._besides > MOST_BESIDES:
            raise TlsError("TLS failed: too many records without data")
        if self._outgoing.pending > MOST_ANSWERS:
            raise TlsError("TLS failed: too many key updates")
        return got

    def expect_much_input(self) -> bool:
        """Prepare for decrypting much, which is faster from then on. Return whether that is so.

        To be called when ``read_into`` has returned 0. It takes a few milliseconds, which pay only
        when megabytes follow.
        """
        from ftpwire.openssl import NotKnown, RecordReader

        if self._records is None and not self._incoming.pending:
            try:
                self._incoming = self._records = RecordReader(self.object)
            except NotKnown:
                pass
        return self._records is not None

    def expect_much_output(self) -> None:
        """Prepare for encrypting much, in the same way. To be called when all has been sent."""
        from ftpwire.openssl import NotKnown, OutputRing

        if self._ring is None and not self._outgoing.pending:
            try:
                self._outgoing = self._ring = OutputRing(self.object, _RING_SIZE)
            except NotKnown:
                pass

    def pending(self) -> int:
        """Return 0 if nothing can be read without feeding; otherwise something may be there."""
        return self.object.pending() or self._incoming.pending

    def write(self, view: memoryview | bytes | bytearray) -> int:
        """Encrypt up to PIECE bytes of ``view``. Return how many.

        What ``outgoing`` has returned before is not valid any more.
        """
        if self._ring is not None:
            self._ring.release()
        try:
            return self.object.write(memoryview(view)[:PIECE])
        except ssl.SSLError as error:
            raise TlsError(f"TLS failed: {_reason(error)}") from None

    def outgoing(self) -> bytes | memoryview:
        """Return the encrypted bytes to send."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """End the outgoing side. Return the bytes to send (close_notify)."""
        try:
            self.object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # WantRead: this does not wait for the peer's close_notify
        return bytes(self._outgoing.read())

    def peer_certificate(self) -> bytes:
        """Return the peer's certificate in DER."""
        certificate = self.object.getpeercert(binary_form=True)
        if certificate is None:
            raise ProtocolError("the server showed no certificate")
        return certificate


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def fingerprint(certificate: bytes) -> str:
    """Return ``SHA256:…`` of the certificate's SubjectPublicKeyInfo (as in RFC 7469 pins).

    It stays the same if a certificate is renewed with the same key.
    """
    digest = hashlib.sha256(public_key_info(certificate)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def public_key_info(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a DER certificate (RFC 5280, section 4.1).

    Parsed by hand, because loading a certificate library takes a client more time than its whole
    connection. Raises ProtocolError if it is not a certificate.
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
    """Return tag, start of contents and end of the DER element at ``at``."""
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
