"""Known hosts: which key each server has, pinned at first use.

Lives here: the file of pins, and the decision about a key.
Lives elsewhere: the handshake (connection.py), fingerprints (ftpwire/tls.py).

A pin is the SHA-256 of the key's SubjectPublicKeyInfo, by host and port. Name and password go
out only after the server's key was found good.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftpclient.connection import files
from ftpwire.errors import HostKeyChanged, UnknownHost

Ask = Callable[[str, str], bool]
"""Asks the user whether to trust an endpoint with this fingerprint."""


class KnownHosts:
    """The pins in one file: a line ``HOST:PORT SHA256:…`` each.

    Args:
        path: The file; None for the user's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or files.directory() / "known_hosts"

    def get(self, endpoint: str) -> str | None:
        """The fingerprint pinned for ``HOST:PORT``."""
        for line in self._lines():
            name, pin = _fields(line)
            if name == endpoint:
                return pin
        return None

    def _lines(self) -> list[str]:
        try:
            text = self.path.read_text("utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return []
        return text.removesuffix("\n").split("\n") if text else []

    def add(self, endpoint: str, fingerprint: str) -> None:
        """Pin a key, instead of any other for that endpoint."""
        self._rewrite(endpoint, f"{endpoint} {fingerprint}\n")

    def remove(self, endpoint: str) -> bool:
        """Forget a pin; False when there was none."""
        known = self.get(endpoint) is not None
        if known:
            self._rewrite(endpoint, "")
        return known

    def _rewrite(self, endpoint: str, line: str) -> None:
        with files.locked(self.path):  # several clients may meet new servers at once
            kept = [old + "\n" for old in self._lines() if _fields(old)[0] != endpoint]
            files.write_private(self.path, "".join(kept) + line)

    def check(self, endpoint: str, fingerprint: str) -> None:
        """Compare with the pin.

        Raises:
            HostKeyChanged: Another key is pinned.
            UnknownHost: None is.
        """
        pinned = self.get(endpoint)
        if pinned is None:
            raise UnknownHost(f"{endpoint}: its key {fingerprint} is not known")
        if pinned != fingerprint:
            raise HostKeyChanged(
                f"{endpoint}: THE SERVER'S KEY HAS CHANGED: it is {fingerprint}, "
                f"and was {pinned}. Somebody may be listening in. If you know why it changed: "
                f"ftp forget {endpoint}"
            )

    def meet(self, endpoint: str, fingerprint: str, *, accept_new: bool, ask: Ask | None) -> None:
        """Decide about a key that is not pinned, and pin it.

        Raises:
            UnknownHost: Nobody said that it is good.
        """
        if not accept_new and not (ask is not None and ask(endpoint, fingerprint)):
            raise UnknownHost(
                f"{endpoint}: its key {fingerprint} is not known: compare it with what "
                "`ftpd fingerprint` prints there, and connect with --accept-new"
            )
        self.add(endpoint, fingerprint)


def _fields(line: str) -> tuple[str, str]:
    """Endpoint and pin of a line, also of one that somebody edited."""
    name, _, pin = line.strip().partition(" ")
    return name, pin.strip()
