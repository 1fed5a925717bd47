"""The worker supervisor: the processes that serve a server's connections, if it has several.

Lives here: starting workers and replacing those that die, requests to all of them, changing their
settings.
Lives elsewhere: which worker gets a connection (handing.py), what is known of one worker
(worker_handle.py), when to retry after repeated deaths (short_lives.py), a worker itself
(worker.py), the requests (worker_interfaces.py), forking (forkserver.py), having only as many
workers as are useful (growing.py).

The server accepts, and hands each connection to the worker that has the fewest. So the load is even
however few connections there are, and connection limits are counted in one process.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace as with_changes
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver.accounts.registration import Probing, Throttling
from ftpserver.accounts.session_counts import SessionCounting
from ftpserver.accounts.turns import Changing
from ftpserver.audit.allowances import FailureLimiting
from ftpserver.errors import StateError
from ftpserver.interfaces import later
from ftpserver.processes.asking import ask_all
from ftpserver.processes.child import Fork
from ftpserver.processes.forkserver import Ended, ForkServer
from ftpserver.processes.handing import Handing
from ftpserver.processes.shared_rate import make_page
from ftpserver.processes.short_lives import ShortLives
from ftpserver.processes.worker_handle import WorkerHandle
from ftpserver.processes.worker_interfaces import (
    AuditLines,
    ChildNote,
    ServerForWorker,
    ServerQueue,
    ServerTransfers,
)
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings.table import AUTO
from ftpwire.errors import DiskFull, Forbidden, NotFound

if TYPE_CHECKING:
    import socket

    from ftpserver.serving.host import Host
    from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd.workers")

CHILD = "ftpserver.processes.worker"
"""The module whose ``main`` is a worker."""
_START_SECONDS = 50.0
"""Seconds in which a worker must become ready. Twice this is less than the time for which a reload
is waited for (daemon/control.py)."""
_CANT_START = "the workers cannot be started: see the log"
_END_SECONDS = 10.0
"""Seconds that workers get to end beyond the grace time, before they are killed."""
_LAST_SECONDS = 2.0
"""Seconds that a worker's process gets to end once its connection is closed; then it is killed."""


class WorkerSupervisor:
    """The workers of a server. Safe to use from many threads.

    ``_changed`` guards ``_workers``, ``_ended`` and the state of each worker. It is not held while
    a request is sent.

    Args:
        count: The number of workers; None for none at first: a subclass starts some.
        serve_here: See `Handing`.

    Raises:
        StateError: The workers cannot be started.
    """

    def __init__(
        self,
        host: Host,
        count: int | None,
        serve_here: Callable[[socket.socket, Any], None] | None = None,
    ) -> None:
        self._host = host
        self._service = host.service
        self._ledger = host.service.ledger
        self._count = count
        self._changed = threading.Condition()
        self._workers: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count(1)
        self._ended = Stats()
        """The figures of workers that have ended."""
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """Tasks of the thread that looks after workers; None ends it."""
        self._over = threading.Event()
        self._clock = time.monotonic
        self._short_lives = ShortLives()
        """The deaths of workers that were to stay. For the thread that looks after workers."""
        self._missing: list[float] = []
        """When to replace dead workers, on ``_clock``. For that thread as well."""
        self._quiet = False
        """True while further deaths are not reported in the log: there were enough."""
        self._killed: set[int] = set()
        """The numbers of workers whose end was wanted, and is not logged."""
        self._handing = Handing(self._service, serve_here=serve_here)
        settings = self._service.settings
        self._fork_server = ForkServer(CHILD, settings, self._reported, resting=count is None)
        self._page = make_page()
        self._tallies = host.tallies
        self._thread = threading.Thread(target=self._look_after, name="workers")
        self._thread.start()
        try:
            self._start(count or 0)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers that serve."""
        return sorted(one.pid for one in self._all() if one.ready and one.pid)

    @property
    def silent(self) -> list[str]:
        """The workers that don't answer now, for display."""
        now = time.monotonic()
        return [str(one) for one in self._all() if one.ready and one.is_silent(now)]

    # connections -------------------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Hand a connection to the worker that has the fewest."""
        self._handing.serve(request, client_address)

    def drop(self, request: socket.socket) -> None:
        """End a connection that has not logged in."""
        self._handing.drop(request)

    def accept_no_more(self) -> None:
        """Accept no further connections, and close those that no worker is free for."""
        self._handing.accept_no_more()

    # requests to all of them -------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the figures of all workers."""
        with self._changed:  # one lock: a worker that ends meanwhile is counted exactly once
            total, workers = self._ended, list(self._workers.values())
        for worker, stats in ask_all(workers, lambda far: later(far.stats)()).given.items():
            worker.stats = stats
        for worker in workers:
            total += worker.stats
        return total

    def session_infos(self) -> list[SessionInfo]:
        """Return the sessions of all workers, ordered by number."""
        given = ask_all(self._all(), lambda far: later(far.session_infos)()).given
        return sorted(itertools.chain(*given.values()), key=lambda one: one.id)

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all sessions of a user. Returns their numbers. Raises NotFound."""
        answers = ask_all(self._all(), lambda far: later(far.kick)(session, user))
        ended = sorted(itertools.chain(*answers.given.values()))
        if not ended:
            named = user if session is None else session
            missing = [f"; {worker}: {why}" for worker, why in answers.missing.items()]
            raise NotFound(f"{named}: no such session (see ftpd sessions){''.join(missing)}")
        return ended

    def _all(self) -> list[WorkerHandle]:
        with self._changed:
            return list(self._workers.values())

    @property
    def _lasting(self) -> int:
        """The number of workers that are to stay, ready or not."""
        return sum(one.lasting and not one.retired for one in self._all())

    def _of_workers(self, settings: Settings) -> Settings:
        """Return settings for workers. Their number stays as it is."""
        return with_changes(settings, workers=AUTO if self._count is None else self._count)

    # changes -----------------------------------------------------------------------------

    def apply_settings(self, settings: Settings, *, new_key: bool) -> None:
        """Use other settings from now on.

        Args:
            new_key: True if the certificate has changed: new workers, which share it from the
                start, replace the current ones, which end with their last connection.

        Raises:
            StateError: They cannot be applied: the previous ones stay in force.
        """
        settings = self._of_workers(settings)
        self._fork_server.configure(settings)
        before = self._all()
        count = self._lasting if self._count is None else self._count
        for worker in [one for one in before if not one.ready]:
            # Not waited for: messages keep their order, so it has them before its first connection.
            later(worker.far.apply_settings)(settings)
        try:
            answers = ask_all(before, lambda far: later(far.apply_settings)(settings))
            for worker, why in answers.missing.items():
                raise StateError(f"{worker} didn't apply the settings: {why}")
            if new_key:
                self._start(count, tries=2)
        except StateError:
            self._take_back()
            raise
        if new_key:
            for worker in before:
                worker.retired = True
                worker.far.retire()

    def _take_back(self) -> None:
        """Restore the server's own settings, which haven't changed, in all present and future
        workers."""
        settings = self._of_workers(self._service.settings)
        try:
            self._fork_server.configure(settings)
        except StateError as error:
            logger.error("workers that are started later cannot have the old settings: %s", error)
        for worker in self._all():  # also one that was started meanwhile
            later(worker.far.apply_settings)(settings)

    def heartbeat(self) -> None:
        """Do nothing: workers keep alive themselves what they hold."""

    def enforce(self) -> None:
        """Look after connections that no worker claims, and workers that don't become ready."""
        self._handing.look()
        began = self._clock() - _START_SECONDS
        for worker in self._all():
            starting = worker.lasting and not (worker.ready or worker.is_abandoned)
            if starting and worker.began < began:
                self._kill_unready(worker)
        if any(moment <= self._clock() for moment in self._missing.copy()):
            self._tasks.put(self._start_missing)

    def drain(self) -> None:
        """Close idle sessions; no further connections come."""
        for worker in self._all():
            worker.far.drain()

    def stop(self, grace: Callable[[], float]) -> None:
        """End all workers. What runs gets the grace time, which may change meanwhile."""
        self._over.set()
        self.accept_no_more()
        sent = -1.0
        began = time.monotonic()
        while workers := self._all():
            seconds = grace()
            if seconds != sent:
                sent = seconds
                for worker in workers:
                    worker.far.stop(seconds)
            if time.monotonic() - began > seconds + _END_SECONDS:
                break
            with self._changed:
                self._changed.wait(0.1)
        left = self._all()
        for worker in left:
            logger.warning("%s is killed: it doesn't end", worker)
        self._abandon(left)

    def _abandon(self, workers: Sequence[WorkerHandle]) -> None:
        """Kill workers and close their connections. No other workers replace them."""
        for worker in workers:
            worker.retired = True
            self._kill(worker)
        for worker in workers:
            worker.endpoint.close()

    def _kill(self, worker: WorkerHandle) -> None:
        """Kill a worker, without reporting its end in the log."""
        worker.is_abandoned = True
        self._killed.add(worker.number)
        worker.kill()

    def _kill_unready(self, worker: WorkerHandle) -> None:
        logger.error("%s is killed: it isn't ready after %g s", worker, _START_SECONDS)
        self._kill(worker)

    def close(self) -> None:
        """Kill the remaining workers, and release everything. Can be called twice."""
        self._over.set()
        self.accept_no_more()
        self._abandon(self._all())
        self._fork_server.stop()  # the thread may be waiting for it to start
        # A worker that isn't in `_all` any more has its task in front of this (see `_ended_now`).
        self._tasks.put(None)
        self._thread.join()
        page, self._page = self._page, -1
        if page >= 0:
            os.close(page)

    # their lives -------------------------------------------------------------------------

    def _start(self, count: int, *, tries: int = 1) -> None:
        """Start ``count`` workers and wait until they are ready. From then on they are replaced.

        Args:
            tries: The number of tries for each worker that doesn't become ready in time. One that
                dies is not tried again.

        Raises:
            StateError: They cannot be started. None of them is left.
        """
        workers: list[WorkerHandle] = []
        try:
            for _ in range(tries):
                while len(workers) < count:
                    workers.append(self._spawn(lasting=False))
                if self._wait_for(workers):
                    return
                for worker in [one for one in workers if not one.ready]:
                    workers.remove(worker)
                    worker.retired = True
                    self._kill_unready(worker)
                    worker.endpoint.close()  # so that nothing of it is left when this returns
            raise StateError(_CANT_START)
        except BaseException:
            self._abandon(workers)
            raise

    def _wait_for(self, workers: Sequence[WorkerHandle]) -> bool:
        """Return whether all become ready in time. Raises StateError if one dies."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(one.ready or one.endpoint.gone for one in workers), _START_SECONDS
            )
            if any(one.endpoint.gone for one in workers):
                raise StateError(_CANT_START)
            return all(one.ready for one in workers)

    def _fork(self) -> Fork:
        """Return the function that forks the next worker."""
        return self._fork_server.spawn

    def _spawn(self, *, lasting: bool) -> WorkerHandle:
        """Fork another worker. Raises StateError."""
        number = next(self._numbers)
        worker = WorkerHandle(
            number, self._ledger, self._targets_for, self._ended_now, lasting=lasting
        )
        worker.began = self._clock()
        with self._changed:
            self._workers[number] = worker
        try:
            self._begin(worker)
        except BaseException:
            self._abandon([worker])
            worker.see_ended()
            raise
        return worker

    def _begin(self, worker: WorkerHandle) -> None:
        """Fork its process, and start its endpoint. Raises StateError."""
        # It is in ``_workers`` already: a `stop` or `close` that isn't noticed here finds it there.
        if self._over.is_set():
            raise StateError("the server is stopping")
        ledger = self._ledger
        note = ChildNote(ledger.node, ledger.run, worker.incarnation)
        worker.begin(self._fork(), [self._page], msgspec.msgpack.encode(note))
        try:
            worker.endpoint.start()
        except RuntimeError as error:  # too many threads
            raise StateError(f"no worker can be started: {error}") from error

    def _ended_now(self, worker: WorkerHandle) -> None:
        """Note that a worker is gone. Called by its endpoint's reader."""
        self._tallies.free_turns(worker.number)  # at once: other sessions wait for these turns
        worker.forget()
        with self._changed:  # the task is added with the lock: see `close`
            del self._workers[worker.number]
            self._ended += Stats(bytes_in=worker.stats.bytes_in, bytes_out=worker.stats.bytes_out)
            self._tasks.put(partial(self._put_right, worker))
            self._changed.notify_all()
        had = self._handing.leave(worker)
        if not (worker.said_bye or worker.is_abandoned or self._over.is_set()):
            level = logging.DEBUG if self._quiet and not had else logging.ERROR
            logger.log(level, "%s has died, and with it %d connections", worker, had)

    def _reported(self, report: Ended) -> None:
        """Handle the fork server's report of a child's end."""
        if report.status and report.number not in self._killed:
            self._short_lives.reason = report.cause
            level = logging.DEBUG if self._quiet else logging.ERROR
            logger.log(level, "worker %d: %s", report.number, report.cause)

    def _look_after(self) -> None:
        """Do one task after the other, until the end. This is a thread of its own."""
        while (task := self._tasks.get()) is not None:
            task()

    def _put_right(self, worker: WorkerHandle) -> None:
        """Repair what a worker has left behind, and replace it."""
        worker.see_ended(_LAST_SECONDS)
        try:
            self._reap(worker)
        except (DiskFull, Forbidden, StateError) as error:
            logger.error("what %s has left behind is repaired later: %s", worker, error)
        except Exception:
            logger.exception("what %s has left behind could not be repaired yet", worker)
        if worker.is_missed:
            self._replace(worker)

    def _reap(self, worker: WorkerHandle) -> None:
        """Release what a worker held, after it has ended."""
        self._tallies.forget_sessions(worker.number)
        worker.end_leases()
        self._service.limits.sessions.mark_dead(worker.incarnation)
        if not worker.said_bye:
            self._host.look_soon()

    def _replace(self, worker: WorkerHandle) -> None:
        """Replace a worker; after a pause if workers die again and again. The pause doesn't block
        the thread, which may have other workers to look after."""
        self._short_lives.ended(self._clock() - worker.began, served=worker.ready)
        self._miss_one()
        self._start_missing()

    def _miss_one(self) -> None:
        self._missing.append(self._clock() + self._short_lives.pause())

    def _start_missing(self) -> None:
        """Start the workers whose time has come."""
        now = self._clock()
        due = [moment for moment in self._missing if moment <= now]
        self._missing = [moment for moment in self._missing if moment > now]
        for _ in due:
            if self._over.is_set() or self._service.draining:
                return
            try:
                self._spawn(lasting=True)
            except StateError as error:
                self._short_lives.failed(str(error))
                self._miss_one()
                if not self._over.is_set():
                    logger.error("no worker can be started to replace it: %s", error)

    # the requests of workers -------------------------------------------------------------

    def _targets_for(self, worker: WorkerHandle) -> Mapping[type, object]:
        """Return the objects that a worker may call, which count for all processes."""
        service, tallies, handing = self._service, self._tallies, self._handing
        limits, registration, number = service.limits, service.registration, worker.number
        return {
            ServerForWorker: SimpleNamespace(
                ready=partial(self._ready, worker),
                claim=partial(handing.claim, worker),
                logged_in=partial(handing.logged_in, worker),
                closed=partial(handing.closed, worker),
                busy=partial(setattr, worker, "busy"),
                penalize=limits.penalize,
                heard_of_ban=limits.heard_of_ban,
                measure_soon=self._ledger.measure_soon,
                free_disk_space=self._free_disk_space,
                bye=partial(self._said_bye, worker),
            ),
            SessionCounting: SimpleNamespace(
                enter=partial(tallies.sessions.enter, worker=number), leave=tallies.sessions.leave
            ),
            ServerTransfers: SimpleNamespace(
                begin_here=partial(
                    tallies.transfers.begin,
                    give_way=lambda token: worker.far.give_way(token),
                    worker=number,
                ),
                report_idle=tallies.transfers.report_idle,
                leave=tallies.transfers.leave,
            ),
            ServerQueue: SimpleNamespace(
                enter=partial(self._turn, worker=number), leave=tallies.queue.leave
            ),
            Changing: SimpleNamespace(
                begin=partial(tallies.changes.begin, worker=number), end=tallies.changes.end
            ),
            Throttling: registration.throttle,
            Probing: registration.probes,
            FailureLimiting: service.audit.failures,
            AuditLines: service.audit,
        }

    def _free_disk_space(self, account_id: int, size: int) -> Future[bool]:
        """Free space on the disk, in a thread of its own: the endpoint's reader must not wait."""
        made: Future[bool] = Future()

        def make() -> None:
            try:
                made.set_result(self._ledger.free_disk_space(account_id, size))
            except BaseException as error:
                made.set_exception(error)

        threading.Thread(target=make, name="disk space", daemon=True).start()
        return made

    def _ready(self, worker: WorkerHandle) -> None:
        with self._changed:
            worker.ready = worker.lasting = True
            self._changed.notify_all()
        self._handing.join(worker)

    def _said_bye(self, worker: WorkerHandle, stats: Stats) -> None:
        worker.stats = stats
        worker.said_bye = True

    def _turn(self, host: str, worker: int) -> Future[str]:
        """Wait for a turn in the queue. Returns a Future of its token."""
        known = self._service.limits.is_known(host)
        turn = self._tallies.queue.enter(host, known=known, worker=worker)
        given: Future[str] = Future()
        turn.began.add_done_callback(lambda _: given.set_result(turn.token))
        return given
