"""What happens while nothing is there to be sent.

Lives here: keeping the session, or an upload, alive; telling the user what is waited for.
Lives elsewhere: the waits themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpclient.transfer.job import KEEP_ALIVE_SECONDS

SAY_AFTER_SECONDS = 5.0
"""Who waits that long for the other end of a FIFO is told so."""


class KeepAlive:
    """Has something sent each `KEEP_ALIVE_SECONDS`, or the server would end the session.

    Args:
        send: Sends it.
    """

    def __init__(self, send: Callable[[], object]) -> None:
        self._send = send
        self._sent = time.monotonic()

    def tick(self) -> None:
        """Called several times a second."""
        if time.monotonic() - self._sent > KEEP_ALIVE_SECONDS:
            self._sent = time.monotonic()
            self._send()


class Waiting:
    """Waiting for the other end of a FIFO: told once, and kept alive meanwhile.

    Args:
        send: As of `KeepAlive`.
        remark: Tells the user.
        text: What is waited for.

    Attributes:
        is_over: Nothing is to be told (any more).
    """

    def __init__(
        self, send: Callable[[], object], remark: Callable[[str], None], text: str
    ) -> None:
        self.is_over = False
        self._remark = remark
        self._text = text
        self._began = time.monotonic()
        self._keep_alive = KeepAlive(send)

    def look(self) -> None:
        """Called several times a second."""
        if not self.is_over and time.monotonic() - self._began >= SAY_AFTER_SECONDS:
            self.is_over = True
            self._remark(f"{self._text} (Ctrl-C stops)")
        self._keep_alive.tick()
