"""Attributes of many remote files, set without waiting for each answer.

Lives here: the calls. Lives elsewhere: one file's (client.py), what a mode becomes
(cli/chmod_modes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpwire.errors import Cancelled, CommandError
from ftpwire.messages import SetAttributes

Told = Callable[[SetAttributes, CommandError | None], None]
"""Hears of each request's end, and why it failed."""


def set_each(connection: Connection, requests: Iterable[SetAttributes], told: Told) -> None:
    """Set what is asked for, in this order; one that fails does not stop the others.

    Raises:
        ConnectionLost, Interrupted
    """
    for request in requests:
        connection.check()
        connection.submit(_SetCall(request, told), request)
    connection.wait_for_all()


class _SetCall(Call):
    def __init__(self, request: SetAttributes, told: Told) -> None:
        super().__init__()
        self._request = request
        self._told = told

    def on_done(self) -> None:
        if isinstance(self.error, Cancelled):
            return  # with all the others: whoever wanted that knows
        if self.error is None or isinstance(self.error, CommandError):
            self._told(self._request, self.error)
