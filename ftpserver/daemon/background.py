"""Background services: they run beside serving, from the server's start to its stop.

Lives here: the interface, and a background service made from a function that starts it.
Lives elsewhere: the services (housekeeping.py, trash_keeping.py, control_server.py, discovery.py,
audit/notify.py), their list (assembly.py), starting and stopping them (server.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Background(Protocol):
    """A background service, with a thread of its own."""

    def start(self) -> None:
        """Start the service."""

    def stop(self) -> None:
        """Stop the service, and wait until it has ended. Can be called twice."""


class _Stoppable(Protocol):
    def stop(self) -> None:
        """Stop, and wait for the end."""


_Running = TypeVar("_Running", bound=_Stoppable)


class OptionalBackground(Generic[_Running]):
    """A background service that a server can run without.

    Args:
        begin: A function that starts the service. It returns None, and logs the reason, if that is
            impossible or not wanted.

    Attributes:
        running: The running service; None if there is none.
    """

    def __init__(self, begin: Callable[[], _Running | None]) -> None:
        self._begin = begin
        self.running: _Running | None = None

    def start(self) -> None:
        """Start the service, if possible."""
        self.running = self._begin()

    def stop(self) -> None:
        """Stop the service, if it runs."""
        running, self.running = self.running, None
        if running is not None:
            running.stop()
