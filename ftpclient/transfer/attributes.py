"""Setting the attributes of many remote files without waiting for each reply.

Lives here: the calls.
Lives elsewhere: the attributes of a single file (client.py), how a mode is computed
(cli/chmod_modes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpwire.errors import Cancelled, CommandError
from ftpwire.messages import SetAttributes

OnDone = Callable[[SetAttributes, CommandError | None], None]
"""Called when a request has ended, with the error if it failed."""


def set_each(connection: Connection, requests: Iterable[SetAttributes], on_done: OnDone) -> None:
    """Send the requests in this order. One that fails does not stop the others.

    Raises:
        ConnectionLost, Interrupted
    """
    for request in requests:
        connection.check()
        connection.submit(_SetCall(request, on_done), request)
    connection.wait_for_all()


class _SetCall(Call):
    def __init__(self, request: SetAttributes, on_done: OnDone) -> None:
        super().__init__()
        self._request = request
        self._on_done = on_done

    def on_done(self) -> None:
        if isinstance(self.error, Cancelled):
            return  # cancelled together with all others, by the caller
        if self.error is None or isinstance(self.error, CommandError):
            self._on_done(self._request, self.error)
