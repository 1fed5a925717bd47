"""Certificates: made and read in a separate process, because the library for it takes 17 MiB.

Lives here: a new key with its certificate, the dates of a certificate, and the process that does
this (``python -m ftpserver.net.certificates``).
Lives elsewhere: the files they are in, and warnings about them (tls.py).

A server makes one key in its life, and reads dates when it starts. With the library loaded, it
would keep that memory for as long as it runs.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from typing import NamedTuple

from ftpserver.errors import StateError

_YEARS = 20
"""Years that a certificate is valid. Clients pin the key: expiry would only break them."""
_HEAVY = "cryptography"
_BETWEEN = b"\0"


class Dates(NamedTuple):
    """The dates between which a certificate is valid, in seconds since 1970."""

    since: float
    until: float


def new_key(host: str) -> tuple[bytes, bytes]:
    """Make a key (ECDSA P-256) and its self-signed certificate, in PEM. Raises StateError."""
    if _HEAVY in sys.modules:
        return _make(host)
    key, _, certificate = _elsewhere(["new-key", host]).partition(_BETWEEN)
    return key, certificate


def dates_of(pem: bytes) -> Dates:
    """Return the dates of the first certificate in a text. Raises StateError if there is none."""
    if _HEAVY in sys.modules:
        return _look(pem)
    since, until = _elsewhere(["dates"], pem).split()
    return Dates(float(since), float(until))


def _elsewhere(words: list[str], given: bytes = b"") -> bytes:
    """Run a process that does it, and return its output. Raises StateError."""
    command = [sys.executable, "-P", "-m", __spec__.name, *words]
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=True)
    except OSError as error:
        raise StateError(f"no process can be started: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or ["no error was shown"]
        raise StateError(f"cannot make or read certificates: {lines[-1]}") from error
    return done.stdout


def _make(host: str) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host), x509.DNSName("localhost")]), False
        )
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


def _look(pem: bytes) -> Dates:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise StateError(f"not a certificate: {error}") from error
    return Dates(found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp())


def main(what: str, *words: str) -> None:
    """Do it in this process, and write the result to standard output."""
    match what:
        case "new-key":
            sys.stdout.buffer.write(_BETWEEN.join(_make(*words)))
        case "dates":
            print(*_look(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main(*sys.argv[1:])
