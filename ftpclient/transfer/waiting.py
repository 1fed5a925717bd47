"""Waiting while there is nothing to send.

Lives here: keeping the session or an upload alive; telling the user what is being waited for.
Lives elsewhere: the waits themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpclient.transfer.job import KEEP_ALIVE_SECONDS

SAY_AFTER_SECONDS = 5.0
"""Seconds of waiting for the other end of a FIFO after which the user is informed."""


def keep_alive_after(stall: float | None) -> float:
    """Return the seconds of silence after which to send something, so that the server waits.

    Args:
        stall: Seconds that the server waits inside an upload; None if unknown, or outside.
    """
    return KEEP_ALIVE_SECONDS if stall is None else min(KEEP_ALIVE_SECONDS, stall / 2)


class KeepAlive:
    """Sends something regularly, because the server would end a silent session.

    Args:
        send: Sends something.
        stall: As in `keep_alive_after`.
    """

    def __init__(self, send: Callable[[], object], stall: float | None = None) -> None:
        self._send = send
        self._every = keep_alive_after(stall)
        self._sent = time.monotonic()

    def tick(self) -> None:
        """Send something if it is time. To be called several times per second."""
        if time.monotonic() - self._sent > self._every:
            self._sent = time.monotonic()
            self._send()


class Waiting:
    """A wait for the other end of a FIFO: informs the user once, and keeps the session alive.

    Args:
        send, stall: As in `KeepAlive`.
        remark: Shows a message to the user.
        text: What is being waited for.

    Attributes:
        is_over: True if there is nothing to show (any more).
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
        """Show the message and keep alive if it is time. To be called several times per second."""
        if not self.is_over and time.monotonic() - self._began >= SAY_AFTER_SECONDS:
            self.is_over = True
            self._remark(f"{self._text} (Ctrl-C stops)")
        self._keep_alive.tick()
