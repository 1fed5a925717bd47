"""The interfaces between a server and the code that accepts and hands out its connections.

Lives here: the interfaces alone.
Lives elsewhere: the server (daemon/server.py); listeners (listeners.py); supervisors of other
processes that serve connections (processes/supervisor.py, isolation/supervisor.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ftpserver.serving.stats import Serving

if TYPE_CHECKING:
    import socket

    from ftpserver.accounts.tallies import Tallies
    from ftpserver.serving.proxied import Proxied
    from ftpserver.serving.service import Service
    from ftpserver.settings.table import Settings


class Supervisor(Serving, Protocol):
    """Lets other processes serve a server's connections. Safe to use from many threads."""

    @property
    def workers(self) -> list[int]:
        """The numbers of the worker processes that stay; none if each session has a process of its
        own, or only the server's process serves."""

    @property
    def silent(self) -> list[str]:
        """The workers that don't answer now, for display: figures of sessions lack theirs."""

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Let a process serve a connection that was accepted and admitted."""

    def drop(self, request: socket.socket) -> None:
        """End a connection that has not logged in."""

    def apply_settings(self, settings: Settings, *, new_key: bool) -> None:
        """Use other settings from now on.

        Args:
            new_key: True if the certificate has changed.

        Raises:
            StateError: They cannot be applied: the previous ones stay in force.
        """

    def heartbeat(self) -> None:
        """Keep alive what the sessions hold, if their processes don't do that themselves."""

    def enforce(self) -> None:
        """End the processes that should have ended. Called a few times per second."""

    def accept_no_more(self) -> None:
        """Accept no further connections, and close those that no process serves yet."""

    def drain(self) -> None:
        """Close idle sessions; no further connections come."""

    def stop(self, grace: Callable[[], float]) -> None:
        """End all sessions. What runs gets the grace time, which may change meanwhile."""

    def close(self) -> None:
        """End what is left, and release everything."""


class Host(Protocol):
    """The server, for listeners and supervisors."""

    @property
    def service(self) -> Service:
        """The service of the sessions of this process: settings, limits, the audit log, …"""

    @property
    def tallies(self) -> Tallies:
        """The counters of the sessions of all processes."""

    @property
    def supervisor(self) -> Supervisor | None:
        """The supervisor of the processes that serve; None if this process serves itself."""

    @property
    def proxied(self) -> Proxied:
        """The connections of proxies whose client is not known yet."""

    def admit(self, request: socket.socket, client_address: object) -> bool:
        """Return whether a connection is accepted."""

    def look_soon(self) -> None:
        """Count the usage of homes that are in doubt now, not at the usual time."""
