"""Workers as they are of use: the server serves by itself, and has workers beside it while several
sessions are busy.

Lives here: when there is another one and when it ends, which connections the server serves itself.
Lives elsewhere: the lives of workers (supervisor.py), who of them gets a connection (handing.py),
what counts as busy (serving/busyness.py), how many there may be (settings/table.py).

A server that one person uses at a time has no more memory and no more steps on the way to an answer
than one without workers. Sessions stay where they are: a worker that is started is for those that
come from then on.
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
"""Without a connection, after which a worker ends: starting one again takes a second of CPU."""
_TRIES = 3
"""So many that die at their start, one after the other, are enough: the server goes on alone."""
_PAUSE_SECONDS = 10.0
"""From then until one is tried again at first; each time it is twice as long."""


class GrowingSupervisor(WorkerSupervisor):
    """The server's own process serves, and as many workers beside it as are of use.

    Args:
        most: Processes that serve, this one included.
    """

    def __init__(self, host: Host, most: int) -> None:
        self._here = Handed(host.service)
        super().__init__(host, None, self._here.take)
        self._most = most
        self._busyness = Busyness(self._service.sessions)
        self._idle: dict[int, float] = {}
        """The workers without a connection, by number, since when on ``time.monotonic()``."""
        self._changing = self._closed = False
        """A worker is being started, or the fork server ended."""
        self._grow_at = 0.0
        """No worker is started before, on ``_clock``."""
        self._paces = SharedPaces(os.dup(self._page))
        self._service.limits.keep_paces_by(self._paces.pace)

    @property
    def workers(self) -> list[int]:
        """The numbers of the processes that serve; none while this one does alone."""
        others = super().workers
        return sorted([os.getpid(), *others]) if others else []

    # connections -------------------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Have a connection served by the process that has the fewest; here, if several have."""
        load = self._handing.load()
        if load is None or len(self._service.connections) - load.handed <= load.fewest:
            self._here.take(request, client_address)
        else:
            super().serve(request, client_address)

    def drop(self, request: socket.socket) -> None:
        """Have a connection end that has not logged in."""
        if self._handing.drop(request):
            return
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has just ended

    # asking all of them ------------------------------------------------------------------

    def stats(self) -> Stats:
        """How much goes on in all of them."""
        return self._service.stats() + super().stats()

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected, by number."""
        infos = self._service.session_infos() + super().session_infos()
        return sorted(infos, key=lambda one: one.id)

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Returns their numbers. Raises NotFound."""
        try:
            ended = self._service.kick(session, user)
        except NotFound:
            return super().kick(session, user)
        try:
            return sorted(ended + super().kick(session, user))
        except NotFound:
            return ended

    # as many as are of use ---------------------------------------------------------------

    def enforce(self) -> None:
        """Look also whether there should be more workers, or fewer."""
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
        """Where there is only one besides this process, it needs no fork server of its own; nor
        does another one that takes its place."""
        alone = self._most == 2 and not self._fork_server.is_awake
        return self._fork_server.become if alone else self._fork_server.spawn

    def _do_soon(self, change: Callable[[], None]) -> None:
        """Have the thread do it that looks after workers: both take a moment."""
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
        """Whether another one is of use is seen in a moment, as if there had been none."""
        self._short_lives.ended(self._clock() - worker.began, served=worker.ready)
        self._grow_later()

    def _grow_later(self) -> None:
        """Start none for a while, where they die again and again."""
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
                "tries one again every few minutes while more sessions are busy",
                lives.count,
                why,
            )

    def _go_on_with_workers(self) -> None:
        """One lives: whatever it was is over."""
        self._quiet = False
        self._short_lives.count = 0
        logger.info("there are workers beside the server again")

    def _let_go(self, workers: list[WorkerHandle], now: float) -> None:
        """End the workers that have had no connection for long."""
        self._idle = {
            one.number: self._idle.get(one.number, now) for one in workers if not one.connections
        }
        for worker in workers:
            since = self._idle.get(worker.number)
            if since is not None and now - since >= _IDLE_SECONDS:
                worker.retired = True  # if it gets one meanwhile, it ends with that
                worker.far.retire()

    # the end -----------------------------------------------------------------------------

    def stop(self, grace: Callable[[], float]) -> None:
        """End all sessions, here and in the workers at the same time."""
        workers_end = threading.Thread(target=super().stop, args=(grace,), name="workers end")
        try:
            workers_end.start()
        except RuntimeError:  # no more threads: one after the other
            super().stop(grace)
            return
        self._service.end_sessions()
        workers_end.join()

    def close(self) -> None:
        """End what is left of them, and give everything back. Can be called twice."""
        super().close()
        if not self._closed:
            self._closed = True
            self._paces.close()
