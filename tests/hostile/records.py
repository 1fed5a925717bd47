"""TLS 1.3 records made by hand, for what no library sends: key updates without an end.

Lives here: a client's handshake over a socket, and its records after that (RFC 8446, sections
4.6.3, 5.2, 7.1 and 7.2). Lives elsewhere: what is done with them (test_tls_floods.py).
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_SUITES = {
    "TLS_AES_128_GCM_SHA256": (AESGCM, 16, hashes.SHA256()),
    "TLS_AES_256_GCM_SHA384": (AESGCM, 32, hashes.SHA384()),
    "TLS_CHACHA20_POLY1305_SHA256": (ChaCha20Poly1305, 32, hashes.SHA256()),
}
_HANDSHAKE, _DATA = 22, 23


class HandMade:
    """A client's connection. After the handshake it only sends; nothing is decrypted.

    Args:
        log: Where the secrets of the handshake are written to.
    """

    def __init__(self, sock: socket.socket, log: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.keylog_filename = str(log)
        self.socket = sock
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        sock.sendall(outgoing.read())
        suite = tls.cipher()
        assert suite is not None
        self._aead, self._key_size, self._hash = _SUITES[suite[0]]
        secrets = dict(line.split()[::2] for line in log.read_text().splitlines() if line[0] != "#")
        self._use(bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]))

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = self._aead(self._expand(b"key", self._key_size))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._number = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def _record(self, kind: int, plain: bytes) -> bytes:
        inner = plain + bytes([kind])
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._cipher.encrypt(nonce, inner, header)

    def data(self, plain: bytes) -> bytes:
        """A record with bytes."""
        return self._record(_DATA, plain)

    def key_update(self, *, requested: bool) -> bytes:
        """A record that changes this side's keys. ``requested``: and wants the other's changed."""
        record = self._record(_HANDSHAKE, b"\x18\x00\x00\x01" + bytes([requested]))
        self._use(self._expand(b"traffic upd", self._hash.digest_size))
        return record
