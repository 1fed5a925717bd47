"""Several connections working on one transfer.

Lives here: the threads, each with a connection of its own, and the queue of files; when they are
started.
Lives elsewhere: what is done with a file (upload.py, download.py), who makes connections
(retry.py).

The thread that walks the tree gives files away and keeps directories to itself: their times and
modes come when all files are done. Results of all go through the first transfer, one at a time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ftpclient.connection.connection import Connection
from ftpwire.messages import PIECES

LARGE_IN_TREE = 256 * 1024 * 1024
"""Files of so many bytes are cut among those who transfer a tree: whole, one of them would keep
one connection busy when all others are done."""
_WAITING = 64
"""Jobs, or groups of them, that are given away and not begun: more would only use memory."""
_TOGETHER = 32
"""Small jobs that are given away at once: handing one over costs as much as a small file."""
_LOOK_SECONDS = 0.2


class Worker(Protocol):
    """A transfer that works for another one, on a connection of its own."""

    @property
    def connection(self) -> Connection: ...

    def send_collected(self) -> None:
        """Ask now for what would wait for more."""

    def settle(self) -> None:
        """Wait for all that is under way."""

    def give_back(self) -> None:
        """Nothing more is to do."""


_Worker = TypeVar("_Worker", bound=Worker)


class ConnectionPool(Generic[_Worker]):
    """Threads that transfer files, each by a `Worker` on its own connection.

    ``_error`` is set once, by the first that fails; the others then stop.
    """

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._jobs: queue.Queue[list[Callable[[_Worker], None]] | None] = queue.Queue(_WAITING)
        self._kept_back: list[Callable[[_Worker], None]] = []
        """Small jobs that wait for more. They are the giving thread's alone."""
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
        """How many work."""
        return len(self._workers)

    def give(
        self,
        job: Callable[[_Worker], None],
        *,
        small: bool = False,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Have some worker do it. Raises what made a worker fail.

        Args:
            small: It may wait for others, as long as all workers have something to do.
            first: What is to be done before a worker gets it, once for all that waited.
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
        """Wait until all is done and answered. Raises what made a worker fail."""
        if self._kept_back:
            self._give_kept_back()
        for _ in self._threads:
            self._put(None)
        self._join()
        self.check()

    def stop(self) -> None:
        """Give up what is not done yet. Can be called after ``finish``."""
        self._ended = True
        for worker in self._workers:
            worker.connection.cut()
        self._join()

    def _put(self, jobs: list[Callable[[_Worker], None]] | None) -> None:
        """Queue jobs, or the end of one worker, unless a worker has failed."""
        while self._error is None:
            try:
                self._jobs.put(jobs, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue

    def check(self) -> None:
        """Raises what made a worker fail."""
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
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
            if self._error is None:
                self._error = error
            worker.connection.give_up()
        finally:
            worker.give_back()

    def _next(self, worker: _Worker) -> list[Callable[[_Worker], None]] | None:
        """The next jobs; replies are taken in meanwhile."""
        connection = worker.connection
        while self._error is None and not self._ended:
            try:
                return self._jobs.get_nowait()
            except queue.Empty:
                pass
            if not connection.unanswered:
                # while something is unanswered, more comes to go with it until the answer does
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
"""Makes a pool; None where no further connection is to be had."""


class Workers:
    """Those who work for a transfer. They are started once that is worth their connections.

    Attributes:
        pool: Who transfers the files of trees; None: nobody does, or not yet.
    """

    def __init__(self) -> None:
        self.pool: ConnectionPool[Any] | None = None
        self._start_pool: Start | None = None
        self._for_pieces: ConnectionPool[Any] | None = None
        self._start_for_pieces: Start | None = None
        self._least = self._expected = 0

    def share(self, start: Start, least: int) -> None:
        """Have others transfer the files of trees, from so many bytes on."""
        self._start_pool = start
        self._least = least
        self._expected = 0

    @property
    def may_share(self) -> bool:
        """Whether others transfer the files of trees, or are going to."""
        return self.pool is not None or self._start_pool is not None

    def split(self, start: Start, least: int) -> None:
        """Have others transfer the pieces of files of so many bytes, when the first one comes."""
        self._start_for_pieces = start
        self._least = least

    def expect(self, size: int) -> None:
        """So many bytes more are to be transferred."""
        if self._start_pool is None:
            return
        self._expected += size
        if self._expected >= self._least:
            start, self._start_pool = self._start_pool, None
            self.pool = start()

    def for_pieces(self, size: int, connection: Connection) -> ConnectionPool[Any] | None:
        """Who transfers the pieces of a file of so many bytes; None: it goes whole.

        Args:
            connection: To the server that must know pieces.
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
                self._start_for_pieces = None  # nobody comes: this isn't asked for each file
        return self._for_pieces

    def finish(self) -> None:
        """Wait for them. Raises what made one of them fail."""
        if self.pool is not None:
            self.pool.finish()
            self.pool = None
        if self._for_pieces is not None:
            self._for_pieces.finish()
            self._for_pieces = None

    def stop(self) -> None:
        """Stop them, if there are any; none are started any more."""
        self._start_pool = self._start_for_pieces = None
        if self.pool is not None:
            self.pool.stop()
            self.pool = None
        if self._for_pieces is not None:
            self._for_pieces.stop()
            self._for_pieces = None
