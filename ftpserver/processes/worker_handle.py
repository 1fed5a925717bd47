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
from ftpserver.interfaces import stand_in
from ftpserver.processes.child import ChildProcess
from ftpserver.processes.worker_interfaces import MAX_SIZE, WorkerForServer
from ftpserver.serving.stats import Stats
from ftpserver.storage.ledger import Ledger

ANSWER_SECONDS = 8.0
"""That a worker gets to answer; then the answer is given without it. Less than who asks the server
waits for (daemon/control.py)."""
SILENT_SECONDS = 1.0
"""A worker that owes an answer for so long gets no connections: it was stopped, or hangs."""
_DEAF_SECONDS = 30.0
"""After which a worker that takes nothing of what it is told is given up."""
_Answer = TypeVar("_Answer")


class WorkerHandle(ChildProcess):
    """One of them.

    Args:
        on_end: Called by the thread that reads, when the worker says nothing more.

    Attributes:
        far: To ask it.
        connections: Those that it has or was offered, by number. Handing's lock guards it.
        handed: How many connections it has got so far. The same.
        owes: What it was asked and has not answered yet, since when on ``time.monotonic()``.
        stats: The last ones known.
        busy: So many of its sessions are busy, as it has said last.
        ready: It can serve.
        lasting: When it dies, another one takes its place.
        retired: It gets no more connections, and nobody takes its place.
        given_up: It was ended without being asked.
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
        self.retired = self.given_up = self.said_bye = False
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
        self.far = stand_in(WorkerForServer, self.endpoint)

    @property
    def is_missed(self) -> bool:
        """Whether another one takes its place now that it has ended."""
        return self.lasting and not self.retired and not self.said_bye

    def is_silent(self, now: float, seconds: float = SILENT_SECONDS) -> bool:
        """Whether it has owed an answer for so long."""
        return now - min(list(self.owes.values()), default=now) > seconds

    def ask(self, ask: Callable[[WorkerForServer], Future[_Answer]]) -> Future[_Answer]:
        """Ask it; one that has long owed another answer isn't asked, so that nothing piles up."""
        if self.is_silent(time.monotonic(), ANSWER_SECONDS):
            failed: Future[_Answer] = Future()
            failed.set_exception(StateError("it doesn't answer"))
            return failed
        token = object()
        self.owes[token] = time.monotonic()
        answer = ask(self.far)
        answer.add_done_callback(lambda _: self.owes.pop(token))
        return answer
