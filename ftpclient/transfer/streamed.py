"""Requests with any number of replies, which are yielded as they arrive.

Lives here: lists that the caller reads to the end.
Lives elsewhere: listings, of which only a limited part is in transit at a time (listing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpwire.messages import StreamFor

R = TypeVar("R")


class _Streamed(Call, Generic[R]):
    """A list being received."""

    streams = True
    reads_only = True

    def __init__(self, checked: Callable[[R], R]) -> None:
        super().__init__()
        self.waiting: list[R] = []
        self._checked = checked

    def on_reply(self, reply: R) -> bool:
        self.waiting.append(self._checked(reply))
        return False


def replies(
    connection: Connection,
    request: StreamFor[R, Any],
    checked: Callable[[R], R] = lambda reply: reply,
) -> Iterator[R]:
    """Send a request, and yield each reply as it arrives.

    Args:
        checked: Called with each reply on arrival. If it raises, the connection is closed.
    """
    call = _Streamed(checked)
    connection.submit(call, request)
    while True:
        yield from call.waiting
        call.waiting = []
        if call.done:
            break
        connection.pump()
    if call.error is not None:
        raise call.error
