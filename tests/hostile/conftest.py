"""Attacks on a server, each with a client beside it that has to be served meanwhile.

Lives here: the ways of serving that an attack is tried on, and connections of strangers from many
addresses. Lives elsewhere: frames and servers (tests/peer.py, tests/conftest.py), the attacks (the
tests of this folder), what is promised (docs/security.md).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from ftpwire.messages import LoggedIn, WhoAmI
from tests.peer import PATIENCE, Peer

WAYS: dict[str, dict[str, Any]] = {
    "parked": {},
    "thread-each": {"threads": 0},
    "tls": {"plaintext": False},
    "unix": {},
    "workers": {"workers": 2},
    "process": {"isolation": "process"},
}
"""Ways of serving, by what a server is started with."""

PROCESSES = ("workers", "process")

ways = [pytest.param(way, marks=pytest.mark.system if way in PROCESSES else ()) for way in WAYS]
"""Their names. What starts processes is not for the tests that run in one."""

each_way = pytest.mark.parametrize("way", ways)
"""For an attack that has to fail in each way of serving."""


@pytest.fixture
def way() -> str:
    """The way of serving, where a test doesn't say another one."""
    return "parked"


@dataclass
class Site:
    """A server, and connections to it, which are closed at the end."""

    server: Any
    context: ssl.SSLContext | None
    unix: str | None
    stack: ExitStack = field(repr=False)

    def knock(self, source: str | None = None) -> Peer:
        """Connect as a stranger, over TLS where the server speaks it.

        Args:
            source: The address to come from: any of 127.0.0.0/8.
        """
        return self.stack.enter_context(Peer(self._wrapped(self.touch(source))))

    def touch(self, source: str | None = None) -> socket.socket:
        """Connect, and say nothing."""
        sock = self._connected(source)
        self.stack.callback(sock.close)
        return sock

    def connect(self) -> socket.socket:
        """As `knock`, of a socket that whoever called closes."""
        return self._wrapped(self._connected(None))

    def _connected(self, source: str | None) -> socket.socket:
        sock = socket.socket(socket.AF_INET if self.unix is None else socket.AF_UNIX)
        try:
            sock.settimeout(PATIENCE)
            if source is not None:
                sock.bind((source, 0))
            sock.connect(self.server.server_address[:2] if self.unix is None else self.unix)
        except BaseException:
            sock.close()
            raise
        return sock

    def _wrapped(self, sock: socket.socket) -> socket.socket:
        return sock if self.context is None else self.context.wrap_socket(sock)

    def user(self, source: str | None = None) -> Peer:
        """Connect and log in as alice."""
        peer = self.knock(source)
        peer.log_in()
        return peer

    def is_served(self, peer: Peer) -> bool:
        """Whether somebody who is logged in gets an answer."""
        return bool(peer.ask(WhoAmI()) == LoggedIn("alice"))


@pytest.fixture
def serve(start_server, tmp_path, way, tls_client_context) -> Any:
    """Starts a server that serves in the test's way, with alice's account."""
    with ExitStack() as stack:

        def started(**options: Any) -> Site:
            unix = tmp_path / "ftpd.sock" if way == "unix" else None
            server = start_server(unix=unix, **WAYS[way] | options)
            context = None if server.settings.plaintext else tls_client_context
            return Site(server, context, None if unix is None else str(unix), stack)

        yield started


def ended(peer: Peer) -> list[Any]:
    """All that the server says until the end of a connection, which has to come."""
    return [frame.message for frame in peer.read_to_end()]


Serve = Callable[..., Site]
