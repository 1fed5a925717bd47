"""Units to write on a shared connection, which are sent without interruption, and their senders.

Lives here: the units and their queues.
Lives elsewhere: whose turn it is (connection.py), what the units contain (thread_connection.py and
connection.py).

No other frame may come between those of an upload. So each task and each thread that sends has a
queue of units, which are sent in order, in turns with those of others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ftpclient.connection.client_id import Operation
from ftpclient.connection.protocol import Call
from ftpwire.messages import RequestBase


class WriteUnit:
    """Frames that are sent without others between them.

    Attributes:
        call: The call of the request that it begins with, if any.
        data: Whole frames; with ``piece``, frames and one header.
        piece: The payload of that header. It must not change until it was sent.
        opens, closes: True if an upload begins here, or ends here. No frame of another sender may
            come in between.
        cancels: ID of the request that it cancels, if it is a CANCEL.
        request: The request of ``call``.
        operation: The operation of the request, which is announced before it.
    """

    __slots__ = ("call", "cancels", "closes", "data", "opens", "operation", "piece", "request")

    def __init__(
        self,
        data: bytes = b"",
        *,
        call: Call | None = None,
        opens: bool = False,
        closes: bool = False,
        cancels: int | None = None,
        request: RequestBase | None = None,
        operation: Operation | None = None,
    ) -> None:
        self.call = call
        self.request = request
        self.operation = operation
        self.data = bytearray(data)
        self.piece: memoryview | None = None
        self.opens = opens
        self.closes = closes
        self.cancels = cancels

    @property
    def size(self) -> int:
        return len(self.data) + (0 if self.piece is None else len(self.piece))


class Sender:
    """A source of units to send. Only the loop may use it, except that a thread may append to
    ``units``.

    Args:
        on_sent: Function to call for each unit that was moved to the socket's buffer.
    """

    def __init__(self, on_sent: Callable[[WriteUnit], None] | None = None) -> None:
        self.units: deque[WriteUnit] = deque()
        self.on_sent = on_sent
        self.queued = False
        """True if it is in the queue of senders."""

    @property
    def units_now(self) -> list[WriteUnit]:
        """A copy of ``units`` for iteration, because a thread may append meanwhile."""
        return list(self.units)

    def withdraw(self, call: Call) -> bool:
        """Take back a request that was not sent yet. Return False if it was."""
        for unit in self.units_now:
            if unit.call is call:
                self.units.remove(unit)
                return True
        return False

    def withdraw_requests(self, is_unanswered: Callable[[int], bool]) -> None:
        """Take back all requests that were not sent yet, with their uploads.

        What remains closes an upload that was begun, or cancels an unanswered request.
        """
        kept: list[WriteUnit] = []
        skipping = False
        for unit in self.units:
            if unit.call is not None:
                skipping = unit.opens and not unit.closes
            elif skipping:
                skipping = not unit.closes
            elif unit.closes or unit.cancels is None or is_unanswered(unit.cancels):
                kept.append(unit)
        self.units.clear()
        self.units.extend(kept)
