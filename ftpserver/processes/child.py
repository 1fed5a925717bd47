"""A process that was forked for a server: requests to it, ending it, and the end of its leases.

Lives here: one process as the server sees it, of whatever kind.
Lives elsewhere: forking (forkserver.py), requests between processes (rpc.py), what workers and
session processes have besides (supervisor.py, isolation/isolated_session.py).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from ftpserver.errors import StateError
from ftpserver.interfaces import Carried
from ftpserver.processes.rpc import MAX_SIZE, Endpoint
from ftpserver.storage.ledger import Ledger

logger = logging.getLogger("ftpd.processes")

Fork = Callable[[int, Sequence[int], bytes], "Future[Carried[int]]"]
"""Forks a process, given its number, its descriptors, and a note for it. The result is its process
id, and a descriptor that stands for the process (pidfd_open(2)) if the system has them."""


class ChildProcess:
    """One process, from before it is forked until nothing is left of it. For many threads.

    ``_lock`` guards ``_pidfd`` and ``_over``.

    Args:
        name: Its name in the log, and that of its threads.
        ledger: The quota store, with its leases under its incarnation.
        targets: The objects that the process may call; see `Endpoint`.
        patience: Seconds after which a process that doesn't take its messages is given up.
        may_log: See `Endpoint`.
        on_end: Called once, by the endpoint's reader, when the process has ended its connection.

    Raises:
        StateError: There cannot be another process.

    Attributes:
        number: Its number.
        incarnation: The prefix of its leases, and of its names in staging.
        endpoint: The endpoint for requests to it.
        pid: Its process id; 0 before it is known.
        began: When it was made, on ``time.monotonic()``.
    """

    def __init__(
        self,
        number: int,
        name: str,
        incarnation: str,
        ledger: Ledger,
        targets: Mapping[type, object],
        *,
        patience: float,
        max_size: int = MAX_SIZE,
        max_descriptors: int = 0,
        may_log: Callable[[], bool] = lambda: True,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            ours, self._theirs = socket.socketpair()
        except OSError as error:
            raise StateError(f"no process can be started: {error.strerror}") from error
        self.number = number
        self.name = name
        self.incarnation = incarnation
        self.pid = 0
        self.began = time.monotonic()
        self.endpoint = Endpoint(
            ours,
            targets=targets,
            patience=patience,
            max_size=max_size,
            max_descriptors=max_descriptors,
            may_log=may_log,
            on_end=on_end,
            name=name,
        )
        self._ledger = ledger
        self._lock = threading.Lock()
        self._pidfd = -1
        self._over = False
        """True if the process is to end, even if it is forked only later."""
        ledger.others.add(incarnation)

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})" if self.pid else self.name

    def begin(self, fork: Fork, descriptors: Sequence[int], note: bytes) -> None:
        """Fork the process. Its end of the pair of sockets is the first of its descriptors.

        If that fails later, the reason is logged, and ``endpoint`` has ended.

        Raises:
            StateError: It cannot be forked.
        """
        with self._theirs:  # closed here: if the process dies, the endpoint notices its end
            forked = fork(self.number, [self._theirs.fileno(), *descriptors], note)
        forked.add_done_callback(self._forked)

    def _forked(self, done: Future[Carried[int]]) -> None:
        error = done.exception()
        if error is not None:
            if not self._over:
                logger.error("%s: cannot be started: %s", self.name, error)
            self.endpoint.give_up()
            return
        self.pid, descriptors = done.result()
        # `kill` may have run before the process was known: under the lock, one of both kills it.
        with self._lock:
            if self._over:
                for pidfd in descriptors:
                    _kill(pidfd)
            elif descriptors:
                self._pidfd = descriptors.pop()
        done.result().close()

    # its end -----------------------------------------------------------------------------

    def kill(self) -> None:
        """End the process at once, whatever it does, and its connection."""
        with self._lock:
            self._over = True
            # The descriptor stands for this very process, even after its id is reused.
            if self._pidfd >= 0:
                _kill(self._pidfd)
        self.endpoint.give_up()

    def see_ended(self, seconds: float = 0.0) -> None:
        """Close everything, and wait until the process has ended. Kill it after ``seconds``.

        Not for the endpoint's reader. Can be called twice.
        """
        self._theirs.close()
        with self._lock:
            self._over = True
            pidfd, self._pidfd = self._pidfd, -1
        self.endpoint.close()
        if pidfd < 0:
            return
        try:
            if seconds and not _has_ended(pidfd, seconds):
                logger.warning("%s is killed: its process doesn't end", self)
            _kill(pidfd)
        finally:
            os.close(pidfd)

    def end_leases(self) -> None:
        """End its leases: count the usage of its account, and keep uploads that can be resumed.

        Raises the errors of the quota store. `Ledger.reap` tries again later.
        """
        self._ledger.mark_dead(self.incarnation)

    def forget(self) -> None:
        """Forget its incarnation, which holds nothing."""
        self._ledger.others.discard(self.incarnation)


def _has_ended(pidfd: int, seconds: float) -> bool:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(seconds * 1000))


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended already
