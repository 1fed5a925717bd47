"""What those who accept and hand out connections need of their server, and it of them.

Lives here: the interfaces alone.
Lives elsewhere: the server (daemon/server.py); listeners (listeners.py); those who have connections
served by other processes (processes/supervisor.py, isolation/supervisor.py).
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
    """Has a server's connections served by other processes. Safe to use from many threads."""

    @property
    def workers(self) -> list[int]:
        """The numbers of the processes that serve and stay; none where each session has one of its
        own, or the server's own serves alone."""

    @property
    def silent(self) -> list[str]:
        """Those of them that don't answer just now, for people: what is told lacks theirs."""

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Have a connection served, which was accepted and admitted."""

    def drop(self, request: socket.socket) -> None:
        """End a connection that has not logged in."""

    def apply_settings(self, settings: Settings, *, new_key: bool) -> None:
        """Other settings hold from now on.

        Args:
            new_key: The certificate is another one.

        Raises:
            StateError: They can't hold: those before still do.
        """

    def heartbeat(self) -> None:
        """Keep alive what the sessions hold, where their processes don't do that themselves."""

    def enforce(self) -> None:
        """Called a few times a second: end the processes that should have ended."""

    def accept_no_more(self) -> None:
        """No more connections come: those that nobody serves yet are turned away."""

    def drain(self) -> None:
        """No more connections come: idle sessions are closed."""

    def stop(self, grace: Callable[[], float]) -> None:
        """End all sessions: what runs gets the grace time, which may change meanwhile."""

    def close(self) -> None:
        """End what is left, and give everything back.."""


class Host(Protocol):
    """The server, for listeners and supervisors."""

    @property
    def service(self) -> Service:
        """What the sessions share that this process serves itself: settings, limits, audit, …"""

    @property
    def tallies(self) -> Tallies:
        """What is counted for the sessions of all processes."""

    @property
    def supervisor(self) -> Supervisor | None:
        """Has other processes serve the connections; None: this one does."""

    @property
    def proxied(self) -> Proxied:
        """Connections of proxies that haven't said whose they are."""

    def admit(self, request: socket.socket, client_address: object) -> bool:
        """Whether a connection is taken."""

    def look_soon(self) -> None:
        """Have the homes counted that are in doubt, without waiting for the usual time."""
