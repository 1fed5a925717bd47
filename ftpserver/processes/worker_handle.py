"""A worker as the server sees it: its process, and what is known of it.

Lives here: one worker's record, and whether it answers.
Lives elsewhere: its process (child.py), all workers together (supervisor.py), their connections
(handing.py), the worker's own side (worker.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from ftpserver.errors import StateError
from ftpserver.interfaces import make_proxy
from ftpserver.processes.child import ChildProcess
from ftpserver.processes.worker_interfaces import MAX_SIZE, WorkerForServer
from ftpserver.serving.stats import Stats
from ftpserver.storage.ledger import Ledger

ANSWER_SECONDS = 8.0
"""Seconds in which a worker must reply; after that the result is made without it. Less than the
time for which a request on the control socket is waited for (daemon/control.py)."""
SILENT_SECONDS = 1.0
"""Seconds. A worker that owes a reply for longer gets no connections: it was stopped, or hangs."""
_DEAF_SECONDS = 30.0
"""Seconds after which a worker that doesn't take its messages is given up."""
_Answer = TypeVar("_Answer")


class WorkerHandle(ChildProcess):
    """One worker of the server.

    Args:
        on_end: Called by the endpoint's reader when the worker is gone.

    Attributes:
        far: The proxy that sends requests to the worker.
        connections: The connections that it has or was offered, by number. Handing's lock guards
            it.
        handed: The number of connections that it has got so far. Guarded by the same lock.
        owes: The requests that it hasn't answered, and when they were sent, on
            ``time.monotonic()``.
        stats: Its last known figures.
        busy: The number of its busy sessions, as last reported.
        ready: True if it can serve.
        lasting: True if it is replaced when it dies.
        retired: True if it gets no further connections, and is not replaced.
        is_abandoned: True if it was killed.
    """

    def __init__(
        self,
        number: int,
        ledger: Ledger,
        targets: Callable[[WorkerHandle], Mapping[type, object]],
        on_end: Callable[[WorkerHandle], None],
        *,
        lasting: bool,
    ) -> None:
        self.number = number
        self.connections: dict[int, socket.socket] = {}
        self.handed = 0
        self.owes: dict[Hashable, float] = {}
        self.stats = Stats()
        self.busy = 0
        self.ready = False
        self.lasting = lasting
        self.retired = self.is_abandoned = self.said_bye = False
        super().__init__(
            number,
            f"worker {number}",
            f"{ledger.run}w{number}",
            ledger,
            targets(self),
            patience=_DEAF_SECONDS,
            max_size=MAX_SIZE,
            on_end=lambda: on_end(self),
        )
        self.far = make_proxy(WorkerForServer, self.endpoint)

    @property
    def is_missed(self) -> bool:
        """True if another worker is to replace it, now that it has ended."""
        return self.lasting and not self.retired and not self.said_bye

    def is_silent(self, now: float, seconds: float = SILENT_SECONDS) -> bool:
        """Return whether it has owed a reply for more than ``seconds``."""
        return now - min(list(self.owes.values()), default=now) > seconds

    def ask(self, ask: Callable[[WorkerForServer], Future[_Answer]]) -> Future[_Answer]:
        """Send it a request. Fails at once if it has long owed another reply, so that requests
        don't pile up."""
        if self.is_silent(time.monotonic(), ANSWER_SECONDS):
            failed: Future[_Answer] = Future()
            failed.set_exception(StateError("it doesn't answer"))
            return failed
        token = object()
        self.owes[token] = time.monotonic()
        answer = ask(self.far)
        answer.add_done_callback(lambda _: self.owes.pop(token))
        return answer
