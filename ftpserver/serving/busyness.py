"""Busyness: how many sessions have been at work for a while, so that another process pays off.

Lives here: what counts as busy. Lives elsewhere: the regular checks (daemon/server.py,
processes/worker.py, in the rounds of account_watch.py), starting processes (processes/growing.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpserver.serving.connected import Connected


class Busyness:
    """Counts the busy sessions of one process. For one thread.

    A session is busy if it is logged in and has worked in two consecutive rounds. So one short
    request makes no session busy, nor does anything that an unauthenticated connection does.

    Args:
        sessions: The current sessions. Other threads may change the collection at any time.
    """

    def __init__(self, sessions: Collection[Connected]) -> None:
        self._sessions = sessions
        self._looked = math.inf
        self._worked: set[Connected] = set()

    def look(self, now: float) -> int:
        """Do one round. Returns the number of busy sessions.

        Args:
            now: The time on ``time.monotonic()``.
        """
        since, self._looked = self._looked, now
        working = {
            one
            for one in list(self._sessions)
            if (one.doing is not None or one.quiet_since >= since) and one.account is not None
        }
        worked, self._worked = self._worked, working
        return len(worked & working)
