"""The running transfer of a session, as it counts for its account.

Lives here: when it begins to count, when it makes way for another one, when it has been silent for
too long. Lives elsewhere: the count and its limit (accounts/transfer_counts.py), moving the bytes
(exchange.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ftpserver.serving.endings import Idle
from ftpwire.errors import ConnectionLost, TooMany

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.serving.context import SessionContext

SHORT = 0.5
"""Seconds that a transfer may wait for its client before it counts as a running one."""
LONG = 1024 * 1024
"""Bytes from which a transfer counts as a running one from the beginning."""
_IDLE_SHARE = 12
"""The share of the stall time, one of this many, that an open upload may be without bytes before
it makes way for another transfer."""


class RunningTransfer:
    """The running transfer of one session. For the session's thread, except ``is_called``.

    Args:
        give_way: Called with the transfer's name, by another thread, when another transfer of the
            account needs its slot.

    Attributes:
        moves_bytes: True if the current request is a transfer, and not refused yet.
    """

    moves_bytes = False
    _name: str | None = None
    """The name under which it counts; None while it doesn't."""
    _reported_idle = False
    """True if it was reported that it moves no bytes."""
    _bytes_came = 0.0
    """When bytes of the upload came last, on ``time.monotonic()``."""

    def __init__(self, server: SessionContext, give_way: Callable[[str], None]) -> None:
        self._server = server
        self._give_way = give_way
        self._account: Account | None = None

    def is_called(self, name: str) -> bool:
        """Return whether that is the running transfer. Called by another thread."""
        return name == self._name

    def requested(self, account: Account | None, *, transfers: bool) -> None:
        """Begin a request: it continues the transfer that counts, or ends it.

        Args:
            transfers: True if the request moves the bytes of a file.
        """
        self._account = account
        self.moves_bytes = transfers and account is not None
        if not transfers:
            self.end()
        elif self._reported_idle:
            self._report_idle(False)

    def begin(self) -> None:
        """Count the transfer, if it isn't counted yet.

        Raises:
            TooMany: The account has as many transfers as it may have.
        """
        if self._name is None and self._account is not None:
            self._name = self._server.limits.begin_transfer(self._account, self._give_way)

    def begin_waiting(self, *, in_frame: bool) -> None:
        """Count the transfer because it waits for its client.

        Raises:
            ConnectionLost: It is one too many, and a frame to the client is incomplete, so that no
                error can be sent.
        """
        try:
            self.begin()
        except TooMany as error:
            if in_frame:
                raise ConnectionLost(str(error)) from None
            raise

    def end(self) -> None:
        """Stop counting the transfer."""
        name, self._name, self._reported_idle = self._name, None, False
        if name is not None:
            self._server.limits.end_transfer(name)

    # uploads without bytes ---------------------------------------------------------------

    def await_bytes(self) -> None:
        """Note that the bytes of an upload are to come from now on."""
        self._bytes_came = time.monotonic()

    def frame_came(self, size: int, came: Callable[[], bool] | None = None) -> None:
        """Note a DATA frame of an upload.

        Empty frames are a sign of life, when the source is silent or the bytes come in pieces.

        Args:
            came: Returns whether bytes came another way since its last call.

        Raises:
            Idle: Only empty frames came for the idle timeout.
        """
        now, settings = time.monotonic(), self._server.settings
        idle = settings.idle_timeout
        if size or (came is not None and came()):
            self._bytes_came = now
        elif idle and now >= self._bytes_came + idle:
            raise Idle(f"no bytes came for {idle:g} seconds")
        self._look_whether_idle(now)

    def waits(self, came: Callable[[], bool] | None) -> None:
        """Note that no frame of an upload came for a while. ``came``: as for `frame_came`."""
        now = time.monotonic()
        if came is not None and came():
            self._bytes_came = now
        self._look_whether_idle(now)

    def _look_whether_idle(self, now: float) -> None:
        idles = now >= self._bytes_came + self._server.settings.stall / _IDLE_SHARE
        if idles != self._reported_idle:
            self._report_idle(idles)

    def _report_idle(self, idle: bool) -> None:
        """Report whether the transfer may make way for another one."""
        if self._name is not None:
            self._reported_idle = idle
            self._server.limits.report_idle(self._name, idle)
