"""Several connections working on one transfer.

Lives here: the crew of threads, each with a connection of its own, and the queue of files.
Lives elsewhere: what is done with a file (upload.py, download.py), who makes connections
(client.py).

The thread that walks the tree gives files away and keeps directories to itself: their times and
modes come when all files are done. Results of all go through the first transfer, one at a time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ftpclient.transfer.job import Transfer

_WAITING = 256
"""Files that are given away and not begun: more would only use memory."""
_LOOK_SECONDS = 0.2

_Worker = TypeVar("_Worker", bound=Transfer)


class Crew(Generic[_Worker]):
    """Threads that transfer files, each by a `Transfer` on its own connection.

    ``_error`` is set once, by the first that fails; the others then stop.
    """

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._jobs: queue.Queue[Callable[[_Worker], None] | None] = queue.Queue(_WAITING)
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

    def give(self, job: Callable[[_Worker], None]) -> None:
        """Have some worker do it. Raises what made a worker fail."""
        while True:
            self.check()
            try:
                self._jobs.put(job, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue

    def finish(self) -> None:
        """Wait until all is done and answered. Raises what made a worker fail."""
        for _ in self._threads:
            self._end_one()
        self._join()
        self.check()

    def stop(self) -> None:
        """Give up what is not done yet. Can be called after ``finish``."""
        self._ended = True
        for worker in self._workers:
            worker.connection.cut()
        self._join()

    def _end_one(self) -> None:
        while self._error is None:
            try:
                self._jobs.put(None, timeout=_LOOK_SECONDS)
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
            while (job := self._next(worker)) is not None:
                job(worker)
            worker.settle()
        except BaseException as error:
            if self._error is None:
                self._error = error
            worker.connection.give_up()
        finally:
            worker.give_back()

    def _next(self, worker: _Worker) -> Callable[[_Worker], None] | None:
        """The next job; replies are taken in meanwhile."""
        while self._error is None and not self._ended:
            try:
                if worker.connection.unanswered:
                    return self._jobs.get_nowait()
                worker.connection.check()
                return self._jobs.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if worker.connection.unanswered:
                    worker.connection.pump()
        return None
