"""Growing: the server serves by itself, and starts workers while several sessions are busy.

Lives here: when to start another worker and when to end one, which connections the server serves
itself.
Lives elsewhere: the lives of workers (supervisor.py), which worker gets a connection (handing.py),
what counts as busy (serving/busyness.py), the greatest number of workers (settings/table.py).

With one user at a time, a server takes as little memory and as few steps for a reply as one without
workers. Sessions stay in their processes: a new worker serves connections that come later.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ftpserver.errors import StateError
from ftpserver.processes.child import Fork
from ftpserver.processes.shared_rate import SharedPaces
from ftpserver.processes.short_lives import SHORT_LIFE
from ftpserver.processes.supervisor import WorkerSupervisor
from ftpserver.serving.busyness import Busyness
from ftpserver.serving.listeners import Handed
from ftpserver.serving.stats import SessionInfo, Stats
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    from ftpserver.processes.worker_handle import WorkerHandle
    from ftpserver.serving.host import Host

logger = logging.getLogger("ftpd.workers")

_IDLE_SECONDS = 600.0
"""Seconds without a connection after which a worker ends. Starting one takes a second of CPU."""
_TRIES = 3
"""Workers that may die at their start in a row. After that the server goes on alone."""
_PAUSE_SECONDS = 10.0
"""Seconds from then until the next try, at first. Each further try doubles them."""


class GrowingSupervisor(WorkerSupervisor):
    """Serves in the server's own process, and with as many workers beside it as are useful.

    Args:
        most: Most processes that serve, including this one.
    """

    def __init__(self, host: Host, most: int) -> None:
        self._here = Handed(host.service)
        super().__init__(host, None, self._here.take)
        self._most = most
        self._busyness = Busyness(self._service.sessions)
        self._idle: dict[int, float] = {}
        """The workers without a connection by number, and since when, on ``time.monotonic()``."""
        self._changing = self._closed = False
        """True while a worker is being started, or the fork server ended."""
        self._grow_at = 0.0
        """The time, on ``_clock``, before which no worker is started."""
        self._paces = SharedPaces(os.dup(self._page))
        self._service.limits.keep_paces_by(self._paces.pace)

    @property
    def workers(self) -> list[int]:
        """The process ids of the processes that serve; none while this one serves alone."""
        others = super().workers
        return sorted([os.getpid(), *others]) if others else []

    # connections -------------------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Serve a connection by the process that has the fewest; if several have, by this one."""
        load = self._handing.load()
        if load is None or len(self._service.connections) - load.handed <= load.fewest:
            self._here.take(request, client_address)
        else:
            super().serve(request, client_address)

    def drop(self, request: socket.socket) -> None:
        """End a connection that has not logged in."""
        if self._handing.drop(request):
            return
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has just ended

    # requests to all of them -------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the figures of all processes."""
        return self._service.stats() + super().stats()

    def session_infos(self) -> list[SessionInfo]:
        """Return the sessions of all processes, ordered by number."""
        infos = self._service.session_infos() + super().session_infos()
        return sorted(infos, key=lambda one: one.id)

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all sessions of a user. Returns their numbers. Raises NotFound."""
        try:
            ended = self._service.kick(session, user)
        except NotFound:
            return super().kick(session, user)
        try:
            return sorted(ended + super().kick(session, user))
        except NotFound:
            return ended

    # as many as are useful ---------------------------------------------------------------

    def enforce(self) -> None:
        """Enforce what all supervisors do, and start or end workers as needed."""
        super().enforce()
        now = time.monotonic()
        busy = self._busyness.look(now)
        if self._changing or self._over.is_set() or self._service.draining:
            return
        workers = [one for one in self._all() if one.lasting and not one.retired]
        if not all(one.ready and one.pid for one in workers):
            return
        processes = 1 + len(workers)
        busy += sum(one.busy for one in workers)
        if self._quiet and any(self._clock() - one.began >= SHORT_LIFE for one in workers):
            self._do_soon(self._go_on_with_workers)
        elif busy > processes and processes < self._most and self._clock() >= self._grow_at:
            self._do_soon(self._grow)
        elif self._fork_server.is_awake and not self._all():
            self._do_soon(self._fork_server.go_idle)
        self._let_go(workers, now)

    def _fork(self) -> Fork:
        """Return the function that forks the next worker.

        If there can be only one beside this process, the fork server itself becomes that worker,
        and later the one that replaces it.
        """
        alone = self._most == 2 and not self._fork_server.is_awake
        return self._fork_server.become if alone else self._fork_server.spawn

    def _do_soon(self, change: Callable[[], None]) -> None:
        """Let the thread that looks after workers make a change, which takes a moment."""
        self._changing = True

        def task() -> None:
            try:
                change()
            finally:
                self._changing = False

        self._tasks.put(task)

    def _grow(self) -> None:
        try:
            self._spawn(lasting=True)
        except StateError as error:
            if self._over.is_set():
                return
            if not self._quiet:
                logger.error("no worker can be started beside the server: %s", error)
            self._short_lives.failed(str(error))
            self._grow_later()

    def _replace(self, worker: WorkerHandle) -> None:
        """Replace nothing: the next round finds out whether another worker is useful."""
        self._short_lives.ended(self._clock() - worker.began, served=worker.ready)
        self._grow_later()

    def _grow_later(self) -> None:
        """Start no worker for a while, if workers die again and again."""
        lives = self._short_lives
        if lives.count < _TRIES:
            self._quiet = False
            self._grow_at = self._clock() + lives.pause()
            return
        pause = lives.pause(known=_TRIES - 1, first=_PAUSE_SECONDS)
        self._grow_at = self._clock() + pause
        if not self._quiet and not self._over.is_set():
            self._quiet = True
            why = f" ({lives.reason})" if lives.reason else ""
            logger.error(
                "%d workers in a row have died at their start%s: the server goes on alone, and "
                "tries again every few minutes while several sessions are busy",
                lives.count,
                why,
            )

    def _go_on_with_workers(self) -> None:
        """Note that a worker lives: workers can be started again."""
        self._quiet = False
        self._short_lives.count = 0
        logger.info("there are workers beside the server again")

    def _let_go(self, workers: list[WorkerHandle], now: float) -> None:
        """End workers that have had no connection for a long time."""
        self._idle = {
            one.number: self._idle.get(one.number, now) for one in workers if not one.connections
        }
        for worker in workers:
            since = self._idle.get(worker.number)
            if since is not None and now - since >= _IDLE_SECONDS:
                worker.retired = True  # if it gets a connection meanwhile, it ends with that
                worker.far.retire()

    # the end -----------------------------------------------------------------------------

    def stop(self, grace: Callable[[], float]) -> None:
        """End all sessions, here and in the workers at the same time."""
        workers_end = threading.Thread(target=super().stop, args=(grace,), name="workers end")
        try:
            workers_end.start()
        except RuntimeError:  # too many threads: one after the other
            super().stop(grace)
            return
        self._service.end_sessions()
        workers_end.join()

    def close(self) -> None:
        """Kill the remaining workers, and release everything. Can be called twice."""
        super().close()
        if not self._closed:
            self._closed = True
            self._paces.close()
