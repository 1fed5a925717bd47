"""A process that was forked for a server: asking it, ending it, and what becomes of its leases.

Lives here: one process as the server sees it, of whatever kind.
Lives elsewhere: forking (forkserver.py), how both ask each other (rpc.py), what a worker and a
session's process are besides (supervisor.py, isolation/isolated_session.py).
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
"""Has a process forked: given its number, its descriptors, and what else it should know. The
result is its process id, with a descriptor that stands for the process (pidfd_open(2)), where the
system has such a thing."""


class ChildProcess:
    """One process, from before it is forked until nothing is left of it. Safe to use from many
    threads; ``_lock`` guards ``_pidfd`` and ``_over``.

    Args:
        name: For the log and for threads.
        ledger: Its leases are there, under its incarnation.
        targets: What the process may call; see `Endpoint`.
        patience: Seconds after which a process that takes nothing of what it is told is given up.
        may_log: See `Endpoint`.
        on_end: Called once, by the thread that reads, when the process says nothing more.

    Raises:
        StateError: There can't be another one.

    Attributes:
        number: It is known by.
        incarnation: What its leases, and its names in staging, begin with.
        endpoint: To ask it.
        pid: 0 before it is known.
        began: On ``time.monotonic()``.
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
        """It is to end, also if it is forked only now."""
        ledger.others.add(incarnation)

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})" if self.pid else self.name

    def begin(self, fork: Fork, descriptors: Sequence[int], note: bytes) -> None:
        """Have it forked. Its end of the pair of sockets is the first of its descriptors.

        If it can't be forked after all, the log tells why, and `endpoint` has ended.

        Raises:
            StateError: It can't be.
        """
        with self._theirs:  # if the process doesn't come to be, its end is noticed
            forked = fork(self.number, [self._theirs.fileno(), *descriptors], note)
        forked.add_done_callback(self._forked)

    def _forked(self, done: Future[Carried[int]]) -> None:
        error = done.exception()
        if error is not None:
            if not self._over:
                logger.error("%s: can't be started: %s", self.name, error)
            self.endpoint.give_up()
            return
        self.pid, descriptors = done.result()
        with self._lock:
            if self._over:
                for pidfd in descriptors:
                    _kill(pidfd)
            elif descriptors:
                self._pidfd = descriptors.pop()
        done.result().close()

    # its end -----------------------------------------------------------------------------

    def kill(self) -> None:
        """End the process at once, whatever it does, and ask it nothing more."""
        with self._lock:
            self._over = True
            if self._pidfd >= 0:
                _kill(self._pidfd)
        self.endpoint.give_up()

    def see_ended(self, seconds: float = 0.0) -> None:
        """Close everything, and wait until the process has ended; kill it if it hasn't in so many
        seconds. Not for the thread that reads. Can be called again."""
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
        """End what it held: its account is counted, what can be resumed is kept.

        Raises what the ledger raises; it is tried again by `Ledger.reap` then.
        """
        self._ledger.mark_dead(self.incarnation)

    def forget(self) -> None:
        """It held nothing."""
        self._ledger.others.discard(self.incarnation)


def _has_ended(pidfd: int, seconds: float) -> bool:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(seconds * 1000))


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended, as it should
