"""Background: what goes on beside serving, for as long as a server runs.

Lives here: the interface, and a background made of a function that begins it.
Lives elsewhere: those that there are (housekeeping.py, control_server.py, discovery.py,
audit/notify.py), which of them a server has (assembly.py), when they begin and end (server.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Background(Protocol):
    """Something with a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End, and wait for the end. Can be called twice."""


class _Stoppable(Protocol):
    def stop(self) -> None:
        """End, and wait for the end."""


_Running = TypeVar("_Running", bound=_Stoppable)


class OptionalBackground(Generic[_Running]):
    """A background that a server can do without.

    Args:
        begin: Begins it; returns None, having told why, where that is impossible or not wanted.

    Attributes:
        running: What it has begun.
    """

    def __init__(self, begin: Callable[[], _Running | None]) -> None:
        self._begin = begin
        self.running: _Running | None = None

    def start(self) -> None:
        """Begin, if it is possible."""
        self.running = self._begin()

    def stop(self) -> None:
        """End it, if it has begun."""
        running, self.running = self.running, None
        if running is not None:
            running.stop()
