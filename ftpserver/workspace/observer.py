"""Whoever asked for something long: is told how far it is, and can cancel it.

Lives here: the interface, and the observer of work that nobody watches. Lives elsewhere: the one
that speaks to a client (serving/exchange.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from ftpwire.errors import ConnectionLost


class Observer(Protocol):
    """What the verbs tell, and ask, while they work."""

    def progressed(self, count: int) -> None:
        """Say that ``count`` more bytes of long work were done.

        Raises:
            Cancelled: Whoever asked for it doesn't want it any more.
            SessionEnded: Its session is to end.
        """

    def look_for_cancel(self) -> None:
        """Look at once, between two steps of long work. Raises Cancelled."""

    def tell_progress(self, total: int | None) -> Callable[[int], None]:
        """Something to call with the bytes done so far; it tells them now and then.

        Args:
            total: How many there will be, if that is known.
        """

    def take_turn(self) -> None:
        """Called before one of many small steps, or every few of them. Of the threads that are at
        such steps one at a time goes on: they would only get in each other's way."""

    def will_block(self) -> None:
        """What follows waits for the disk or a lock, or takes its time: other threads go on, until
        the next `take_turn`."""

    def remark(self, text: str) -> None:
        """Tell the user something that is no error."""

    def has_removed(self, files: int, size: int) -> None:
        """The verb fails, and so many files and bytes were removed by it before."""

    def gave_up(self, size: int, operations: Sequence[str]) -> None:
        """So many bytes of these operations in the trash were given up, because something else
        needed the room."""

    def measured(self, operation: str, path: bytes, size: int, files: int) -> None:
        """A tree in the trash was counted: so much was removed from a path then."""


class Unobserved:
    """The observer of work that nobody watches or cancels."""

    def progressed(self, count: int) -> None:
        """Nobody asks."""

    def look_for_cancel(self) -> None:
        """Nobody cancels."""

    def tell_progress(self, total: int | None) -> Callable[[int], None]:
        return _tell_nobody

    def take_turn(self) -> None:
        """Nobody else is known of."""

    def will_block(self) -> None:
        """Nobody else is known of."""

    def remark(self, text: str) -> None:
        """Nobody listens."""

    def has_removed(self, files: int, size: int) -> None:
        """Nobody counts."""

    def gave_up(self, size: int, operations: Sequence[str]) -> None:
        """Nobody counts."""

    def measured(self, operation: str, path: bytes, size: int, files: int) -> None:
        """Nobody counts."""


def _tell_nobody(done: int) -> None:
    pass


def ticker(observer: Observer) -> Callable[[], None]:
    """Something to call often during long work, so that whoever asked knows that it goes on."""
    tell = observer.tell_progress(None)
    return lambda: tell(0)


def ticker_on(observer: Observer) -> Callable[[], None]:
    """As `ticker`, for work that is finished also when the client is gone: it has begun, and
    its room would be lost."""
    tick = ticker(observer)

    def tick_on() -> None:
        with suppress(ConnectionLost):
            tick()

    return tick_on
