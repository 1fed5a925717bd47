"""The server's key and certificate, made at the first start, and its TLS context.

Lives here: key files and SSLContext.
Lives elsewhere: making a key (certificates.py), the order of ciphers (ciphers.py), TLS on a
connection (ftpwire/tls.py).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftpserver.errors import StateError
from ftpserver.net import certificates, ciphers
from ftpserver.settings.table import Settings
from ftpwire.errors import ProtocolError
from ftpwire.tls import fingerprint

if TYPE_CHECKING:
    from cryptography import x509

_KEY = "key.pem"
_CERTIFICATE = "cert.pem"
_SOON = 14 * 24 * 3600
"""Seconds before a certificate's end from which on a warning is given."""
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
"""A part of a host name (RFC 1123), as used on the network."""


def ensure_key(state: Path) -> tuple[Path, Path]:
    """Return the paths of certificate and key. Makes them if missing (ECDSA P-256, self-signed).

    Raises:
        StateError: They cannot be written.
    """
    directory = state / "tls"
    certificate, key = directory / _CERTIFICATE, directory / _KEY
    if certificate.exists() and key.exists():
        return certificate, key
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        host = socket.gethostname()[:64]
        key_pem, certificate_pem = certificates.new_key(
            host if host and host.isascii() else "localhost"
        )
        _write(key, key_pem, 0o600)
        _write(certificate, certificate_pem, 0o644)
    except OSError as error:
        raise StateError(f"{directory}: cannot be written: {error.strerror}") from error
    return certificate, key


def files_of(settings: Settings) -> tuple[Path, Path]:
    """Return the paths of certificate and key: from the settings, or else the server's own.

    Raises:
        StateError: The server's own cannot be written.
    """
    if settings.certificate is not None and settings.key is not None:
        return settings.certificate, settings.key
    return ensure_key(settings.state)


def signing_request(key: Path, names: Sequence[str]) -> bytes:
    """Make a certificate signing request (PKCS #10, RFC 2986) in PEM, with an existing key.

    The certificate made from it has this key: clients that have pinned the key go on working.

    Args:
        names: Host names and addresses that clients connect to; the first is the common name.

    Raises:
        StateError: The key cannot be read.
        ValueError: A name is neither a host name nor an address.
    """
    # imported here: slow to import, and needed by one command only
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        loaded = serialization.load_pem_private_key(_read(key), None)
    except ValueError as error:
        raise StateError(f"{key}: not a private key without a passphrase") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise StateError(f"{key}: not an elliptic-curve key, as the server makes")
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])]))
        .add_extension(alternatives, critical=False)
        .sign(loaded, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{name!r} is neither a host name nor an address")
    return x509.DNSName(name)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file as a whole or not at all, with its mode from the first byte on."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def make_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a context for TLS 1.3, and nothing older.

    Args:
        certificate: A PEM file; certificates of its issuers may follow the first.

    Raises:
        StateError: The files don't hold a key and its certificate.
    """
    if b"-----BEGIN CERTIFICATE-----" not in _read(certificate):
        raise StateError(f"{certificate}: holds no certificate in PEM form")
    key_text = _read(key)
    if b"PRIVATE KEY-----" not in key_text:
        raise StateError(f"{key}: holds no private key in PEM form")
    if b"ENCRYPTED" in key_text:  # OpenSSL would ask at the terminal, if there is one
        raise StateError(f"{key}: is protected by a passphrase: remove it, e.g. with openssl pkey")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    ciphers.prefer_fast(context)
    context.num_tickets = 1  # clients use one, and each takes time in every handshake
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StateError(f"{key}: is not the key of the certificate {certificate}") from None
        raise StateError(f"{certificate}: not a usable certificate and key: {error}") from error
    except OSError as error:
        raise StateError(f"{certificate}: cannot be read: {error.strerror}") from error
    return context


def identity_of(certificate: Path, key: Path) -> bytes:
    """Return a value that changes with a certificate or its key. Raises StateError."""
    return hashlib.sha256(_read(certificate) + b"\0" + _read(key)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise StateError(f"{path}: cannot be read: {reason}") from error


def warnings_about(certificate: Path) -> list[str]:
    """Return warnings about a usable certificate that clients refuse, or soon will."""
    since, until = certificates.dates_of(_read(certificate))
    now = time.time()
    if until <= now:
        return [f"{certificate}: expired on {_day(until)}: only clients that pin its key accept it"]
    if since > now:
        return [f"{certificate}: is not valid before {_day(since, '%Y-%m-%d %H:%M')} UTC"]
    if until - now < _SOON:
        return [f"{certificate}: expires on {_day(until)}: renew it, then ftpd reload"]
    return []


def _day(moment: float, form: str = "%Y-%m-%d") -> str:
    return time.strftime(form, time.gmtime(moment))


def fingerprint_of(certificate: Path) -> str:
    """Return the fingerprint of the key in a PEM file, as clients show it. Raises StateError."""
    try:
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text().partition("-----END")[0] + _END)
        return fingerprint(der)
    except (OSError, ValueError, ProtocolError) as error:
        raise StateError(f"{certificate}: not a certificate: {error}") from error


_END = "-----END CERTIFICATE-----\n"
