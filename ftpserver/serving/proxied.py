"""Connections of proxies, until each has sent its client's address.

Lives here: waiting for the header of the PROXY protocol, and what happens without one.
Lives elsewhere: reading the header (net/proxy_protocol.py), the thread that waits (awaiting.py),
the addresses of proxies (settings/table.py), what is done with the connections then (listeners.py).

They wait in the process that accepts: it checks connection limits, penalties and bans, by the
address behind the proxy. Only connections from the addresses of proxies come here, so that no other
client can choose its address.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ftpserver.net.proxy_protocol import HEAD_SIZE, BadProxyHeader, rest_of, source_in
from ftpserver.serving.awaiting import Awaiting, Cause
from ftpserver.serving.session import peer_name

logger = logging.getLogger("ftpd.proxy")

HEADER_SECONDS = 5.0
"""Seconds in which a proxy has to send its header; fewer if the log-in grace is shorter."""


@dataclass(eq=False)
class _Waiting:
    """A connection whose header has not come.

    Attributes:
        client_address: The proxy's address.
        on_known: Called with the client's address.
        abandon: Called if the header is invalid or doesn't come.
    """

    request: socket.socket
    client_address: Any
    deadline: float
    on_known: Callable[[Any], None]
    abandon: Callable[[], None]
    header: bytearray = field(default_factory=bytearray)
    is_deaf: bool = False

    def look(self, cause: Cause) -> Callable[[], None] | None:
        """Look at the connection: see `awaiting.Expecting`."""
        try:
            if self._receive():
                source = source_in(bytes(self.header)) or self.client_address
                return lambda: self.on_known(source)
            if cause not in (Cause.LATE, Cause.OVER):
                return None
            raise BadProxyHeader("no PROXY header came in time")
        except (BadProxyHeader, OSError) as error:
            # Closed without a byte: a health check that only connects.
            level = logging.WARNING if self.header else logging.DEBUG
            logger.log(level, "%s: dropped: %s", peer_name(self.client_address), error)
            return self.abandon

    def _receive(self) -> bool:
        """Receive what has come of the header, and nothing after it. Returns whether it is whole.

        Raises:
            BadProxyHeader, OSError: It is invalid or was closed, or cannot be received.
        """
        while (wanted := self._wanted()) > len(self.header):
            try:
                data = self.request.recv(wanted - len(self.header), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if not data:
                raise BadProxyHeader("closed before the end of its PROXY header")
            self.header += data
        return True

    def _wanted(self) -> int:
        if len(self.header) < HEAD_SIZE:
            return HEAD_SIZE
        return HEAD_SIZE + rest_of(bytes(self.header[:HEAD_SIZE]))


class Proxied(Awaiting):
    """Waits for the headers of proxies.

    Args:
        login_grace: Returns the seconds that a log-in may take.
    """

    def __init__(self, login_grace: Callable[[], float]) -> None:
        super().__init__("proxied")
        self._login_grace = login_grace

    def wait_for_header(
        self,
        request: socket.socket,
        address: Any,
        on_known: Callable[[Any], None],
        on_failed: Callable[[], None],
    ) -> None:
        """Wait for the header of a connection that was accepted.

        Args:
            address: The proxy's address.
            on_known: Called with the address in the header; with the proxy's own if there is none.
            on_failed: Called instead if the connection is to be closed.

        Raises:
            OSError, RuntimeError: There are too many descriptors or threads.
        """
        seconds = min(HEADER_SECONDS, self._login_grace())
        self.take(_Waiting(request, address, time.monotonic() + seconds, on_known, on_failed))
