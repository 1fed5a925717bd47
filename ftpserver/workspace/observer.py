"""The observer of long work: it receives the progress, and can cancel the work.

Lives here: the interface, and an observer that does nothing. Lives elsewhere: the one that reports
to a client (serving/exchange.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from ftpwire.errors import ConnectionLost


class Observer(Protocol):
    """The interface that the verbs use for reporting while they work."""

    def progressed(self, count: int) -> None:
        """Count ``count`` more bytes of long work as done.

        Raises:
            Cancelled: The client has cancelled the request.
            SessionEnded: The session is to end.
        """

    def look_for_cancel(self) -> None:
        """Check at once, between two steps of long work, for a CANCEL. Raises Cancelled."""

    def progress_reporter(self, total: int | None) -> Callable[[int], None]:
        """Return a function to call with the bytes done so far. It reports them now and then.

        Args:
            total: The total number of bytes, if known.
        """

    def take_turn(self) -> None:
        """Wait for this thread's turn. Call this before each of many small steps, or every few
        steps. One thread at a time has the turn: running in parallel would slow all of them
        down."""

    def will_block(self) -> None:
        """Pass the turn on until the next `take_turn`. Call this before waiting for the disk or a
        lock, and before anything else that takes long."""

    def remark(self, text: str) -> None:
        """Show the user a message that is not an error."""

    def has_removed(self, files: int, size: int) -> None:
        """Report how many files and bytes a verb has removed before it failed."""

    def evicted(self, size: int, operations: Sequence[str]) -> None:
        """Report that operations in the trash were purged to free space.

        Args:
            size: The bytes that became free.
            operations: The names of the operations.
        """

    def measured(self, operation: str, path: bytes, size: int, files: int) -> None:
        """Report the size of a tree in the trash, which was not known when it was removed.

        Args:
            operation: The name of its operation.
            path: The tree's former path.
            size: Its bytes.
            files: Its files, directories and links.
        """


class SilentObserver:
    """The observer of work that no client waits for. It does nothing."""

    def progressed(self, count: int) -> None:
        """Do nothing."""

    def look_for_cancel(self) -> None:
        """Do nothing."""

    def progress_reporter(self, total: int | None) -> Callable[[int], None]:
        """Return a function that does nothing."""
        return _ignore

    def take_turn(self) -> None:
        """Do nothing."""

    def will_block(self) -> None:
        """Do nothing."""

    def remark(self, text: str) -> None:
        """Do nothing."""

    def has_removed(self, files: int, size: int) -> None:
        """Do nothing."""

    def evicted(self, size: int, operations: Sequence[str]) -> None:
        """Do nothing."""

    def measured(self, operation: str, path: bytes, size: int, files: int) -> None:
        """Do nothing."""


def _ignore(done: int) -> None:
    pass


def ticker(observer: Observer) -> Callable[[], None]:
    """Return a function to call often during long work, so that the client knows that it goes
    on."""
    report = observer.progress_reporter(None)
    return lambda: report(0)


def ticker_on(observer: Observer) -> Callable[[], None]:
    """Return a function like `ticker`'s that ignores a lost connection, for work that must be
    finished once it has begun: otherwise the quota that it frees would not be given back."""
    tick = ticker(observer)

    def tick_on() -> None:
        with suppress(ConnectionLost):
            tick()

    return tick_on
