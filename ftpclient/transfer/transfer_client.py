"""What a transfer needs of the client that runs it.

Lives here: the interface. Lives elsewhere: the clients (base.py, client.py, aio/), going on after a
lost connection (retry.py).
"""

from __future__ import annotations

from typing import Protocol

from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpwire.pacing import Pace


class TransferClient(Protocol):
    """A client, for whoever goes on after a lost connection and may use several.

    Attributes:
        connection: Made (again) when there is none. Raises ConnectionLost, LoginRefused, …
        retry_for: Seconds without progress after which a lost connection is given up.
        retries: The most losses in all; None for no bound.
        interrupt: What stops the client.
        pace: What keeps the bytes of all connections below a rate; None where there is no limit.
    """

    @property
    def address(self) -> ServerAddress: ...

    @property
    def connection(self) -> Connection: ...

    @property
    def retry_for(self) -> float: ...

    @property
    def retries(self) -> int | None: ...

    @property
    def interrupt(self) -> Interrupt | None: ...

    @property
    def pace(self) -> Pace | None: ...

    def connect(self) -> None:
        """Connect and log in; nothing when that is so already."""

    def new_connection(self) -> Connection:
        """A further connection, logged in."""

    def settle_interrupt(self) -> None:
        """Give up what is under way, and keep the session if possible."""
