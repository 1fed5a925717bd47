"""A worker as the server sees it: its pair of sockets, its process, and what is known of it.

Lives here: one worker's record, holding on to its process, and seeing that this ends.
Lives elsewhere: all workers together (supervisor.py), the worker's own side (worker.py).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field

from ftpserver.processes.rpc import Peer
from ftpserver.serving.stats import Stats

logger = logging.getLogger("ftpd.workers")

LAST_SECONDS = 2.0
"""That the process of a worker gets to end once it says nothing more; then it is killed."""


@dataclass(eq=False)
class WorkerHandle:
    """One of them. What changes is guarded by the supervisor's lock.

    Attributes:
        process: Its number; None before it is known.
        stats: The last ones known.
        handed: How many connections it has got so far.
        begun: There is a process for it, or was.
        ready: It can serve.
        lasting: When it dies, another one takes its place.
        retired: It gets no more connections, and nobody takes its place.
        given_up: It was ended without being asked.
    """

    number: int
    incarnation: str
    peer: Peer
    connections: dict[int, socket.socket] = field(default_factory=dict)
    born: float = field(default_factory=time.monotonic)
    process: int | None = None
    stats: Stats = Stats()
    handed: int = 0
    begun: bool = False
    ready: bool = False
    lasting: bool = False
    retired: bool = False
    given_up: bool = False
    said_bye: bool = False
    _pidfd: int = -1

    def __str__(self) -> str:
        process = "" if self.process is None else f" (process {self.process})"
        return f"worker {self.number}{process}"

    @property
    def is_free(self) -> bool:
        """Whether connections can be handed to it."""
        return self.ready and not self.retired and not self.peer.gone

    @property
    def is_missed(self) -> bool:
        """Whether another one takes its place now that it has ended."""
        return self.lasting and not self.retired and not self.said_bye

    def hold(self, process: int, descriptors: list[int]) -> None:
        """Its process is that one; the descriptor that stands for it is taken off the list."""
        self.process = process
        if descriptors:
            self._pidfd = descriptors.pop()

    def see_ended(self) -> None:
        """Wait until its process has ended, and kill it if it doesn't soon. Not while locked."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd < 0:
            return
        try:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            if not ended.poll(LAST_SECONDS * 1000):
                logger.warning("%s is killed: its process doesn't end", self)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended in this moment
        finally:
            os.close(pidfd)
