"""The heartbeat: it keeps leases and session slots alive, however long anything else takes.

Lives here: the thread. Lives elsewhere: what each beat does: leases (storage/ledger.py), session
slots (accounts/session_slots.py), what isolated sessions hold (isolation/supervisor.py).
"""

from __future__ import annotations

import logging
import select
import threading
from typing import Protocol

from ftpserver.errors import StateError
from ftpserver.storage.incarnations import LEASE_SECONDS
from ftpwire.errors import DiskFull, Forbidden

logger = logging.getLogger("ftpd")

EVERY = LEASE_SECONDS / 5
"""Seconds between two beats. A lease survives several failed ones."""


class Holder(Protocol):
    """An object that holds something which has to be kept alive."""

    def heartbeat(self) -> None:
        """Keep it alive for another while."""


class Heartbeat:
    """Calls its holders regularly until the process stops. A failure of one affects no other.

    Args:
        stop_fd: Readable once the process stops.
    """

    def __init__(self, *holders: Holder, stop_fd: int) -> None:
        self._holders = holders
        self._stop_fd = stop_fd
        self._thread = threading.Thread(target=self._run, name="heartbeat")

    def start(self) -> None:
        """Start the heartbeat's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has ended, once the process stops. Can be called twice."""
        self._thread.join()

    def _run(self) -> None:
        while not select.select([self._stop_fd], [], [], EVERY)[0]:
            self.beat()

    def beat(self) -> None:
        """Keep everything alive for another while."""
        for one in self._holders:
            try:
                one.heartbeat()
            except (DiskFull, Forbidden, StateError) as error:
                logger.error("leases cannot be kept alive: %s; trying again", error)
            except Exception:
                logger.exception("leases cannot be kept alive; trying again")
