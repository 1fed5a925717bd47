"""Busyness: how many sessions have work for a while, so that another process is worth its memory.

Lives here: what counts as busy. Lives elsewhere: who looks (daemon/server.py, processes/worker.py,
in the rounds of account_watch.py), what follows from it (processes/growing.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpserver.serving.connected import Connected


class Busyness:
    """Counts the busy sessions of one process. For one thread.

    A session is busy that somebody has logged in to, and that has worked in two rounds one after
    the other: one short request makes none busy, nor does anything that strangers do.

    Args:
        sessions: Those that there are; others may change the set at any time.
    """

    def __init__(self, sessions: Collection[Connected]) -> None:
        self._sessions = sessions
        self._looked = math.inf
        self._worked: set[Connected] = set()

    def look(self, now: float) -> int:
        """One round. Returns how many are busy.

        Args:
            now: On ``time.monotonic()``.
        """
        since, self._looked = self._looked, now
        working = {
            one
            for one in list(self._sessions)
            if (one.doing is not None or one.quiet_since >= since) and one.account is not None
        }
        worked, self._worked = self._worked, working
        return len(worked & working)
