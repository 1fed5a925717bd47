"""The interface between a transfer and the client that runs it.

Lives here: the interface.
Lives elsewhere: the clients (base.py, client.py, aio/), retrying after a lost connection
(retry.py).
"""

from __future__ import annotations

from typing import Protocol

from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpwire.pacing import Pace


class TransferClient(Protocol):
    """A client, as needed to reconnect, and to open further connections.

    Attributes:
        connection: The connection; opened (again) if there is none. Raises ConnectionLost,
            LoginRefused, …
        retry_for: Seconds without progress after which to stop retrying.
        retries: The maximum number of lost connections; None for no limit.
        interrupt: Stops the client, if set.
        pace: The rate limit for all connections together; None for no limit.
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
        """Connect and log in, if not connected."""

    def new_connection(self) -> Connection:
        """Open a further connection and log in."""

    def settle_interrupt(self) -> None:
        """Cancel what is under way, and keep the session if possible."""
