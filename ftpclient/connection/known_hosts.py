"""Known hosts: the key of each server, saved at first use.

Lives here: the file.
Lives elsewhere: what a saved key decides (trust.py), the handshake (opening.py), fingerprints
(ftpwire/tls.py).

A line ``HOST:PORT SHA256:…`` pins a key: the SHA-256 of its SubjectPublicKeyInfo. A line ``@ca
HOST:PORT`` says that a certificate authority vouched for the server. Clients that don't know such
lines ignore them.
"""

from __future__ import annotations

from pathlib import Path

from ftpclient.connection import files
from ftpwire.errors import HostKeyChanged, UnknownHost

CA = "@ca"
"""Stands for the key of a server that an authority vouched for."""


class KnownHosts:
    """The pinned keys in one file.

    Args:
        path: The file; None for the user's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or files.directory() / "known_hosts"

    def get(self, endpoint: str) -> str | None:
        """Return the fingerprint pinned for ``HOST:PORT``, or `CA`; None if there is none."""
        for line in self._lines():
            name, pin = _fields(line)
            if name == endpoint:
                return pin
        return None

    def _lines(self) -> list[str]:
        try:
            text = self.path.read_text("utf-8", errors="surrogateescape")
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []  # there is no home, or it belongs to another user
        return text.removesuffix("\n").split("\n") if text else []

    def add(self, endpoint: str, pin: str) -> None:
        """Pin a key, or `CA`, replacing any other for that endpoint.

        Raises:
            OSError: The file cannot be written.
        """
        self._rewrite(endpoint, f"{CA} {endpoint}\n" if pin == CA else f"{endpoint} {pin}\n")

    def remove(self, endpoint: str) -> bool:
        """Remove a pinned key. Return False if there was none."""
        known = self.get(endpoint) is not None
        if known:
            self._rewrite(endpoint, "")
        return known

    def _rewrite(self, endpoint: str, line: str) -> None:
        with files.locked(self.path):  # several clients may add servers at the same time
            kept = [old + "\n" for old in self._lines() if _fields(old)[0] != endpoint]
            files.write_private(self.path, "".join(kept) + line)

    def check(self, endpoint: str, fingerprint: str) -> None:
        """Compare a key with the pinned one.

        Raises:
            HostKeyChanged: Another key is pinned.
            UnknownHost: No key is pinned.
        """
        pinned = self.get(endpoint)
        if pinned is None:
            raise UnknownHost(f"{endpoint}: its key {fingerprint} is not known")
        if pinned != fingerprint:
            raise HostKeyChanged(
                f"{endpoint}: THE SERVER'S KEY HAS CHANGED: it is {fingerprint}, and was {pinned}. "
                "The connection may be intercepted. If you know why it changed: "
                f"ftp servers --new-key {endpoint}, or give the right key with --accept-key"
            )


def _fields(line: str) -> tuple[str, str]:
    """Return endpoint and pin of a line, even if someone has edited it."""
    name, _, pin = line.strip().partition(" ")
    return (pin.strip(), CA) if name == CA else (name, pin.strip())
