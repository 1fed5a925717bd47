"""Trust: which keys and certificates a client accepts for a server.

Lives here: the order in which a given key, the known hosts, a certificate authority and the user
decide.
Lives elsewhere: the file of known hosts (known_hosts.py), handshakes (opening.py), fingerprints
(ftpwire/tls.py).

The order: if a key was given (``--accept-key``, FTP_SERVER_KEY), only that counts. Otherwise the
pinned key in the known hosts; or, if they say that an authority vouched for the server, an
authority must do so again. An unknown server is verified by the authorities, and if none vouches
for it, the user decides. Only then are name and password sent.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ftpclient.connection.addresses import BadAddress
from ftpclient.connection.known_hosts import CA, KnownHosts
from ftpclient.connection.servers import KEY
from ftpwire.errors import HostKeyChanged, UnknownHost, UntrustedCertificate
from ftpwire.paths import printable

Ask = Callable[[str, str], bool]
"""Asks the user whether to trust an endpoint with this fingerprint."""
AskTakeover = Callable[[str, str, str, str], bool]
"""Asks the user whether an authority's certificate may replace a pinned key. The arguments are the
endpoint, the pinned fingerprint, the new one, and the issuer."""
Remark = Callable[[str], None]

_FINGERPRINT = r"SHA256:[A-Za-z0-9+/]{43}"
# OpenSSL's X509_V_ERR_*: errors of a certificate that an authority did issue
_NOT_YET_VALID, _EXPIRED = 9, 10
_MISMATCHES = frozenset({62, 63, 64})


def check_fingerprint(text: str) -> str:
    """Return ``text`` if it is a valid fingerprint. Raises BadAddress."""
    if not re.fullmatch(_FINGERPRINT, text):
        raise BadAddress(
            f"{text!r} is not a fingerprint of a key: write SHA256: and 43 letters and digits, as "
            "printed by `ftpd fingerprint`"
        )
    return text


class Trust(msgspec.Struct):
    """The settings by which one client decides whether to trust a server.

    Attributes:
        known_hosts: The file of pinned keys.
        accept_new: True to pin an unknown server's key without asking.
        key: The required fingerprint of the server's key, which overrides everything else.
        pin_key: True to pin ``key``.
        ca: File of certificates to trust instead of the system's authorities.
        ask: Function that asks about an unknown server's key.
        ask_takeover: Function that asks whether an authority's certificate replaces a pinned key.
        remark: Function to call with texts that the user should see, e.g. that a key cannot be
            saved.
    """

    known_hosts: KnownHosts
    accept_new: bool = False
    key: str | None = None
    pin_key: bool = True
    ca: Path | None = None
    ask: Ask | None = None
    ask_takeover: AskTakeover | None = None
    remark: Remark | None = None

    def wants_authority(self, endpoint: str) -> bool:
        """Return True if the certificate is to be verified first, before the key is compared."""
        return self.key is None and self.known_hosts.get(endpoint) in (None, CA)

    def authority_context(self) -> ssl.SSLContext:
        """Return a context that verifies certificates and names.

        Raises:
            BadAddress: The file of authorities cannot be read.
        """
        if self.ca is None:
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=str(self.ca))
        except OSError as error:
            reason = error.strerror or "the file contains no certificates"
            raise BadAddress(f"{self.ca}: {reason.lower()}") from None

    def verified(self, endpoint: str) -> None:
        """Save that an authority has vouched for a server."""
        if self.known_hosts.get(endpoint) != CA:
            self._save(endpoint, CA)

    def not_verified(self, endpoint: str, error: ssl.SSLCertVerificationError) -> None:
        """Check whether a server that no authority vouches for may be identified by its key.

        Raises:
            UntrustedCertificate: An authority vouched for it before, and the certificate is not
                valid now, or not for this name.
            HostKeyChanged: An authority vouched for it before, and none does now.
        """
        if self.known_hosts.get(endpoint) != CA:
            return
        if (reason := invalidity(error)) is not None:
            raise UntrustedCertificate(f"{endpoint}: {reason}") from None
        raise HostKeyChanged(
            f"{endpoint}: THE SERVER'S KEY HAS CHANGED: a certificate authority vouched for it "
            f"before, and none does now ({error.verify_message}). The connection may be "
            f"intercepted. {_remedy(endpoint)}"
        ) from None

    def check_key(self, endpoint: str, fingerprint: str) -> None:
        """Decide about a server by its key.

        Raises:
            HostKeyChanged: Another key was given, or is pinned.
            UnknownHost: The key is unknown, and the user does not accept it.
        """
        if self.key is not None:
            self._check_named(endpoint, fingerprint)
            return
        pinned = self.known_hosts.get(endpoint)
        if pinned not in (None, CA):
            self.known_hosts.check(endpoint, fingerprint)
            return
        if not self.accept_new and not (self.ask is not None and self.ask(endpoint, fingerprint)):
            raise UnknownHost(
                f"{endpoint}: its key {fingerprint} is not known: compare it with what "
                "`ftpd fingerprint` prints there, and connect with --accept-key FINGERPRINT "
                "(or --accept-new, which accepts any key)"
            )
        self._save(endpoint, fingerprint)

    def _check_named(self, endpoint: str, fingerprint: str) -> None:
        if fingerprint != self.key:
            raise HostKeyChanged(
                f"{endpoint}: the server's key is {fingerprint}, but {self.key} was given by "
                f"{'--accept-key' if self.pin_key else KEY}: it may be another server"
            )
        if self.pin_key and self.known_hosts.get(endpoint) != fingerprint:
            self._save(endpoint, fingerprint)

    def takes_over(self, endpoint: str, fingerprint: str, certificate: dict[str, Any]) -> bool:
        """Ask whether a verified certificate replaces the pinned key. If so, save that."""
        pinned = self.known_hosts.get(endpoint)
        if self.ask_takeover is None or pinned is None:
            return False
        if not self.ask_takeover(endpoint, pinned, fingerprint, issuer_of(certificate)):
            return False
        self._save(endpoint, CA)
        return True

    def _save(self, endpoint: str, pin: str) -> None:
        try:
            self.known_hosts.add(endpoint, pin)
        except OSError as error:
            reason = error.strerror or str(error)
            if self.remark is not None:
                self.remark(f"{self.known_hosts.path}: the server's key cannot be saved: {reason}")


def invalidity(error: ssl.SSLCertVerificationError) -> str | None:
    """Return what is wrong with a certificate that an authority issued; None if none issued it."""
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired: its administrator has to renew it"
    if error.verify_code == _NOT_YET_VALID:
        return "the server's certificate is not valid yet: check this machine's clock"
    if error.verify_code in _MISMATCHES:
        return f"the server's certificate is for another name: {error.verify_message}"
    return None


def issuer_of(certificate: dict[str, Any]) -> str:
    """Return the issuer of a verified certificate, given in the form of ``getpeercert``."""
    names = dict(pair for part in certificate.get("issuer", ()) for pair in part)
    return printable(str(names.get("organizationName") or names.get("commonName") or "unknown"))


def _remedy(endpoint: str) -> str:
    return (
        f"If you know why it changed: ftp servers --new-key {endpoint}, or give the right key with "
        "--accept-key"
    )


@cache
def pinned_context() -> ssl.SSLContext:
    """Return the context for keys that are compared with a pinned one; certificates are not
    verified.

    It is shared by all connections of a process: the first one leaves a ticket that the next ones
    resume TLS with, which saves both sides the expensive part of the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
