"""What goes out through a connection that many share: units that stay whole, and whose they are.

Lives here: the units and their queues. Lives elsewhere: whose turn it is (connection.py), what is
in them (thread_connection.py and connection.py).

No other frame may stand inside an upload. So each task and each thread that sends has a queue of
units, which go out in order, by turns with others'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ftpclient.connection.client_id import Operation
from ftpclient.connection.protocol import Call
from ftpwire.messages import RequestBase


class WriteUnit:
    """Frames that go out without others between them.

    Attributes:
        call: The request that it begins with, if it does.
        data: Whole frames, or, with ``piece``, frames and one header.
        piece: The payload of that header. It must stay as it is until it was sent.
        opens, closes: An upload begins here, and ends here. In between no other's frame may stand.
        cancels: It is the CANCEL of this request.
        request: That of ``call``.
        operation: What that belongs to: the server is told before.
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
    """Whoever has units to send. The loop's own, but for ``units``, to which a thread may append.

    Args:
        on_sent: Told of each unit that was handed to the socket's buffer.
    """

    def __init__(self, on_sent: Callable[[WriteUnit], None] | None = None) -> None:
        self.units: deque[WriteUnit] = deque()
        self.on_sent = on_sent
        self.queued = False
        """Whether it is among those whose turn comes."""

    @property
    def units_now(self) -> list[WriteUnit]:
        """A copy, to go through: a thread may append meanwhile."""
        return list(self.units)

    def withdraw(self, call: Call) -> bool:
        """Take back a request that was not sent; False when it was."""
        for unit in self.units_now:
            if unit.call is call:
                self.units.remove(unit)
                return True
        return False

    def withdraw_requests(self, is_unanswered: Callable[[int], bool]) -> None:
        """Take back all requests that were not sent, with their uploads.

        What stays closes an upload that was begun, or cancels what is unanswered.
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
