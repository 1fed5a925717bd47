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


def keep_alive_after(stall: float | None) -> float:
    """Seconds without a byte after which something is sent, so that the server goes on waiting.

    Args:
        stall: So long it waits inside an upload; None: not known, or not inside one.
    """
    return KEEP_ALIVE_SECONDS if stall is None else min(KEEP_ALIVE_SECONDS, stall / 2)


class KeepAlive:
    """Has something sent now and then, or the server would end the session.

    Args:
        send: Sends it.
        stall: As of `keep_alive_after`.
    """

    def __init__(self, send: Callable[[], object], stall: float | None = None) -> None:
        self._send = send
        self._every = keep_alive_after(stall)
        self._sent = time.monotonic()

    def tick(self) -> None:
        """Called several times a second."""
        if time.monotonic() - self._sent > self._every:
            self._sent = time.monotonic()
            self._send()


class Waiting:
    """Waiting for the other end of a FIFO: told once, and kept alive meanwhile.

    Args:
        send, stall: As of `KeepAlive`.
        remark: Tells the user.
        text: What is waited for.

    Attributes:
        is_over: Nothing is to be told (any more).
    """

    def __init__(
        self,
        send: Callable[[], object],
        remark: Callable[[str], None],
        text: str,
        stall: float | None = None,
    ) -> None:
        self.is_over = False
        self._remark = remark
        self._text = text
        self._began = time.monotonic()
        self._keep_alive = KeepAlive(send, stall)

    def look(self) -> None:
        """Called several times a second."""
        if not self.is_over and time.monotonic() - self._began >= SAY_AFTER_SECONDS:
            self.is_over = True
            self._remark(f"{self._text} (Ctrl-C stops)")
        self._keep_alive.tick()
