"""Several connections working on one transfer.

Lives here: the worker threads, each with a connection of its own; the queue of files; when the
threads are started.
Lives elsewhere: what is done with a file (upload.py, download.py), opening connections (retry.py).

The thread that walks the tree gives files to the workers and handles directories itself: it sets
their times and modes after all files are done. All workers report to the parent transfer, one at a
time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ftpclient.connection.connection import Connection
from ftpwire.messages import PIECES

LARGE_IN_TREE = 256 * 1024 * 1024
"""Size in bytes from which a file of a tree is divided among the workers. Sent whole, it could keep
one connection busy after all others are done."""
_WAITING = 64
"""Maximum number of queued groups of jobs. More would only use memory."""
_TOGETHER = 32
"""Number of small jobs to queue at once: queueing one costs as much as sending a small file."""
_LOOK_SECONDS = 0.2


class Worker(Protocol):
    """A transfer that works for a parent, on a connection of its own."""

    @property
    def connection(self) -> Connection: ...

    def send_collected(self) -> None:
        """Send files now that would otherwise wait for more."""

    def settle(self) -> None:
        """Wait for everything under way."""

    def give_back(self) -> None:
        """Release what the worker holds: nothing is left to do."""


_Worker = TypeVar("_Worker", bound=Worker)


class ConnectionPool(Generic[_Worker]):
    """Threads that transfer files, each with a `Worker` on its own connection.

    One thread gives the jobs, owns ``_kept_back``, and finishes or stops the pool. Each worker and
    its connection belong to one thread of the pool until that has been joined. ``_error`` is set by
    the first thread that fails; all others see it and stop.
    """

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._jobs: queue.Queue[list[Callable[[_Worker], None]] | None] = queue.Queue(_WAITING)
        self._kept_back: list[Callable[[_Worker], None]] = []
        """Small jobs that wait for more. Used only by the thread that calls ``give``."""
        self._error: BaseException | None = None
        self._ended = False
        self._workers = workers
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name="transfer", daemon=True)
            for worker in workers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self._workers)

    def give(
        self,
        job: Callable[[_Worker], None],
        *,
        small: bool = False,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Give a job to any worker. Raises the error of a worker that failed.

        Args:
            small: True if it may wait for other jobs, as long as all workers are busy.
            first: Called before the job is queued, once for all jobs that waited together.
        """
        self.check()
        self._kept_back.append(job)
        if not small or len(self._kept_back) >= _TOGETHER or self._jobs.empty():
            first()
            self._give_kept_back()
            self.check()

    def _give_kept_back(self) -> None:
        jobs, self._kept_back = self._kept_back, []
        self._put(jobs)

    def finish(self) -> None:
        """Wait until all jobs are done and replied to. Raises the error of a failed worker."""
        if self._kept_back:
            self._give_kept_back()
        for _ in self._threads:
            self._put(None)
        self._join()
        self.check()

    def stop(self) -> None:
        """Stop all workers and discard the jobs that are not done. May follow ``finish``."""
        self._ended = True
        # each connection belongs to its worker's thread: no method but cut() may be called here
        for worker in self._workers:
            worker.connection.cut()
        self._join()

    def _put(self, jobs: list[Callable[[_Worker], None]] | None) -> None:
        """Queue jobs, or None to end one worker, unless a worker has failed."""
        while self._error is None:
            try:
                self._jobs.put(jobs, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue

    def check(self) -> None:
        """Raise the error of a worker that failed, if any."""
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        # no other thread uses the connections any more
        for worker in self._workers:
            worker.connection.close()

    def _run(self, worker: _Worker) -> None:
        try:
            while (jobs := self._next(worker)) is not None:
                for job in jobs:
                    if self._error is None and not self._ended:
                        job(worker)
            worker.settle()
        except BaseException as error:
            if self._error is None:  # a race between two threads only decides which is raised
                self._error = error
            worker.connection.give_up()
        finally:
            worker.give_back()

    def _next(self, worker: _Worker) -> list[Callable[[_Worker], None]] | None:
        """Return the next jobs, or None at the end. Processes replies while waiting."""
        connection = worker.connection
        while self._error is None and not self._ended:
            try:
                return self._jobs.get_nowait()
            except queue.Empty:
                pass
            if not connection.unanswered:
                # with nothing unanswered, waiting for more files would leave the server idle
                worker.send_collected()
            if connection.unanswered:
                connection.pump()
                continue
            connection.check()
            try:
                return self._jobs.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
        return None


Start = Callable[[], ConnectionPool[Any] | None]
"""Starts a pool; returns None if no further connection could be opened."""


class Workers:
    """The workers of a transfer. They are started once that is worth their connections.

    Attributes:
        pool: The workers for the files of trees; None if there are none, or none yet.
    """

    def __init__(self) -> None:
        self.pool: ConnectionPool[Any] | None = None
        self._start_pool: Start | None = None
        self._for_pieces: ConnectionPool[Any] | None = None
        self._start_for_pieces: Start | None = None
        self._least = self._expected = 0

    def share(self, start: Start, least: int) -> None:
        """Start workers for the files of trees once ``least`` bytes are expected."""
        self._start_pool = start
        self._least = least
        self._expected = 0

    @property
    def may_share(self) -> bool:
        """True if workers transfer the files of trees, or are going to."""
        return self.pool is not None or self._start_pool is not None

    def split(self, start: Start, least: int) -> None:
        """Start workers for pieces when the first file of at least ``least`` bytes comes."""
        self._start_for_pieces = start
        self._least = least

    def expect(self, size: int) -> None:
        """Add to the number of bytes to be transferred."""
        if self._start_pool is None:
            return
        self._expected += size
        if self._expected >= self._least:
            start, self._start_pool = self._start_pool, None
            self.pool = start()

    def for_pieces(self, size: int, connection: Connection) -> ConnectionPool[Any] | None:
        """Return the workers for the pieces of a file of this size; None to send it whole.

        Args:
            connection: A connection to the server, which must support pieces.
        """
        if PIECES not in connection.server.features:
            return None
        if self.pool is not None:
            return self.pool if size >= LARGE_IN_TREE else None
        if self._start_for_pieces is None or size < self._least:
            return None
        if self._for_pieces is None:
            self._for_pieces = self._start_for_pieces()
            if self._for_pieces is None:
                self._start_for_pieces = None  # no connection: don't try again for each file
        return self._for_pieces

    def finish(self) -> None:
        """Wait for all workers. Raises the error of one that failed."""
        if self.pool is not None:
            self.pool.finish()
            self.pool = None
        if self._for_pieces is not None:
            self._for_pieces.finish()
            self._for_pieces = None

    def stop(self) -> None:
        """Stop all workers; none are started any more."""
        self._start_pool = self._start_for_pieces = None
        if self.pool is not None:
            self.pool.stop()
            self.pool = None
        if self._for_pieces is not None:
            self._for_pieces.stop()
            self._for_pieces = None
