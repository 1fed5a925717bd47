"""Workers: the processes that serve a server's connections, where it has more than one.

Lives here: starting them and replacing those that die, handing connections out, changing what holds
for all.
Lives elsewhere: what is known of one (child_process.py), asking them (asking.py), a worker itself
(worker.py), what is said (messages.py), what workers ask (handler.py), forking (forkserver.py).

The server accepts, and hands each connection to the worker that has the fewest. So the load is
even however few connections there are, and limits for connections are those of one process.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace as with_changes
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver.errors import StateError
from ftpserver.interfaces import Carried
from ftpserver.net.addresses import host_of
from ftpserver.net.fd_passing import close_all
from ftpserver.processes.asking import ask_all
from ftpserver.processes.child_process import WorkerHandle
from ftpserver.processes.forkserver import Ended, Nursery
from ftpserver.processes.handler import Answers
from ftpserver.processes.messages import (
    MAX_SIZE,
    ApplySettings,
    AskSessions,
    AskStats,
    Birth,
    Bye,
    Closed,
    Drain,
    Drop,
    GiveWay,
    Kick,
    Kicked,
    LoggedIn,
    Ready,
    Retire,
    Serve,
    SessionsNow,
    StatsNow,
    Stop,
    WorkerAnswers,
    WorkerSays,
)
from ftpserver.processes.rpc import Peer, PeerGone
from ftpserver.processes.shared_rate import make_page
from ftpserver.serving.stats import SessionInfo, Stats
from ftpwire.errors import DiskFull, Forbidden, FtpError, NotFound

if TYPE_CHECKING:
    from ftpserver.serving.host import Host
    from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd.workers")

CHILD = "ftpserver.processes.worker"
"""The module whose ``main`` is a worker."""
_START_SECONDS = 60.0
"""That a worker gets until it can serve."""
_DEAF_SECONDS = 30.0
"""After which a worker that takes nothing of what it is told is given up."""
_END_SECONDS = 10.0
"""That workers get to end beyond the grace time, before they are given up."""
_SHORT_LIFE = 5.0
"""A worker that lived no longer than so many seconds is replaced after a while."""
_FIRST_PAUSE = 0.4
_LONGEST_PAUSE = 10.0


class WorkerSupervisor:
    """The workers of a server. Safe to use from many threads.

    ``_changed`` guards ``_workers``, ``_ended`` and what each worker has; nobody is asked while it
    is held.

    Args:
        count: How many there are.

    Raises:
        StateError: They can't be started.
    """

    def __init__(self, host: Host, count: int) -> None:
        self._host = host
        self._service = host.service
        self._ledger = host.service.ledger
        self._count = count
        self._changed = threading.Condition()
        self._workers: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count(1)
        self._ended = Stats()
        """Of workers that are no more."""
        self._lost: queue.SimpleQueue[WorkerHandle | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._accepting = True
        self._short_lives = 0
        self._nursery = Nursery(CHILD, self._service.settings, self._reported)
        self._page = make_page()
        self._tallies = host.tallies
        self._answers = Answers(self._service, host.tallies)
        self._thread = threading.Thread(target=self._look_after, name="workers")
        self._thread.start()
        try:
            self._start(count)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> list[int]:
        """The numbers of the processes that serve."""
        with self._changed:
            ready = [one.process for one in self._workers.values() if one.ready]
        return sorted(process for process in ready if process is not None)

    # handing out -------------------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Hand a connection to the worker that has the fewest."""
        host = host_of(client_address, request)
        address = (host, client_address[1]) if isinstance(client_address, tuple) else None
        spared = self._service.limits.is_spared(host)
        number = self._service.next_session_id(request)
        said = Serve(number, address, spared)
        try:
            while (worker := self._choose(number, request)) is not None:
                try:
                    worker.peer.tell(said, [request.fileno()])
                    return
                except PeerGone:
                    with self._changed:
                        if worker.connections.pop(number, None) is None:
                            return  # it was counted among those that the worker took along
            self._service.forget_connection(request)
            logger.error("a connection was turned away: there is no worker to serve it")
        finally:
            request.close()  # the worker has its own

    def drop(self, request: socket.socket) -> None:
        """Have a connection end that has not logged in."""
        with self._changed:
            found = [
                (worker, number)
                for worker in self._workers.values()
                for number, one in worker.connections.items()
                if one is request
            ]
        for worker, number in found:
            self._tell_all(Drop(number), [worker])

    def _choose(self, number: int, request: socket.socket) -> WorkerHandle | None:
        """The worker for a connection, which it has from now on. None: there is none."""

        def free() -> list[WorkerHandle]:
            return [one for one in self._workers.values() if one.is_free]

        with self._changed:
            self._changed.wait_for(lambda: free() or not self._accepting, _START_SECONDS)
            found = free()
            if not found or self._over.is_set():
                return None
            worker = min(found, key=lambda one: (len(one.connections), one.handed))
            worker.handed += 1
            worker.connections[number] = request
            self._service.connections.add(request)
            return worker

    # asking all of them ------------------------------------------------------------------

    def stats(self) -> Stats:
        """How much goes on in all of them."""
        with self._changed:  # at one moment: who ends in between is in one of them, and once
            total, workers = self._ended, list(self._workers.values())
        for worker, answer in ask_all(workers, AskStats(), StatsNow):
            if answer is not None:
                worker.stats = answer.stats
            total += worker.stats
        return total

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected, by number."""
        answers = ask_all(self._all(), AskSessions(), SessionsNow)
        found = [one for _, answer in answers if answer is not None for one in answer.sessions]
        return sorted(found, key=lambda one: one.id)

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Returns their numbers. Raises NotFound."""
        answers = ask_all(self._all(), Kick(session, user), Kicked)
        ended = [one for _, answer in answers if answer is not None for one in answer.sessions]
        if not ended:
            named = user if session is None else session
            raise NotFound(f"{named}: no such session (see ftpd sessions)")
        return sorted(ended)

    def _all(self) -> list[WorkerHandle]:
        with self._changed:
            return list(self._workers.values())

    def _tell_all(self, message: msgspec.Struct, workers: Sequence[WorkerHandle]) -> None:
        for worker in workers:
            try:
                worker.peer.tell(message)
            except PeerGone:
                pass  # it is being looked after

    # changes -----------------------------------------------------------------------------

    def apply_settings(self, settings: Settings, *, new_key: bool) -> None:
        """Have other settings hold from now on.

        Args:
            new_key: The certificate is another one: others take the workers' place, which share
                it from the first, and these end with their last connection.

        Raises:
            StateError: It can't be: the ones before go on, as they were.
        """
        settings = with_changes(settings, workers=self._count)
        self._nursery.configure(settings)
        before = self._all()
        try:
            self._ask_to_apply(before, settings)
            if new_key:
                self._start(self._count)
        except StateError:
            self._take_back(before)
            raise
        if new_key:
            with self._changed:
                for worker in before:
                    worker.retired = True
            self._tell_all(Retire(), before)

    def _ask_to_apply(self, workers: Sequence[WorkerHandle], settings: Settings) -> None:
        """Have workers take settings over. Raises StateError."""
        for worker in workers:
            try:
                worker.peer.ask(ApplySettings(pickle.dumps(settings)), timeout=_START_SECONDS)
            except PeerGone:
                continue  # who comes in its place has them already
            except (OSError, FtpError, StateError) as error:
                why = str(error) or "it doesn't answer"
                raise StateError(f"{worker} doesn't follow: {why}") from error

    def _take_back(self, workers: Sequence[WorkerHandle]) -> None:
        """Have the server's own settings hold again, which it keeps, for all that live and come."""
        settings = with_changes(self._service.settings, workers=self._count)
        try:
            self._nursery.configure(settings)
        except StateError as error:
            logger.error("workers that are started later can't have the old settings: %s", error)
        for worker in workers:
            worker.peer.ask_later(ApplySettings(pickle.dumps(settings)))

    def heartbeat(self) -> None:
        """Workers keep alive themselves what they hold."""

    def enforce(self) -> None:
        """Workers end their sessions themselves."""

    def accept_no_more(self) -> None:
        """No more connections come: have who accepts them wait for no worker."""
        with self._changed:
            self._accepting = False
            self._changed.notify_all()

    def drain(self) -> None:
        """No more connections come: idle sessions are sent away."""
        self._tell_all(Drain(), self._all())

    def stop(self, grace: Callable[[], float]) -> None:
        """End all of them: what runs gets the grace time, which may change meanwhile."""
        self._over.set()
        self.accept_no_more()
        told = -1.0
        began = time.monotonic()
        while workers := self._all():
            seconds = grace()
            if seconds != told:
                told = seconds
                self._tell_all(Stop(seconds), workers)
            if time.monotonic() - began > seconds + _END_SECONDS:
                break
            with self._changed:
                self._changed.wait(0.1)
        left = self._all()
        for worker in left:
            logger.warning("%s is given up: it doesn't end", worker)
        self._give_up(left)

    def _give_up(self, workers: Sequence[WorkerHandle]) -> None:
        """End workers, whatever they do, and let go of them; nobody takes their place."""
        with self._changed:
            for worker in workers:
                worker.retired = worker.given_up = True
        for worker in workers:
            worker.peer.close()

    def close(self) -> None:
        """End what is left of them, and give everything back. Can be called twice."""
        self._over.set()
        self._give_up(self._all())
        self._lost.put(None)  # whoever isn't among all of them any more is in front of this
        self._thread.join()
        self._nursery.stop()
        page, self._page = self._page, -1
        if page >= 0:
            os.close(page)

    # their lives -------------------------------------------------------------------------

    def _start(self, count: int) -> None:
        """Start so many, and wait until they can serve. Raises StateError: none of them is left."""
        workers: list[WorkerHandle] = []
        try:
            for _ in range(count):
                workers.append(self._spawn(lasting=False))
            self._wait_for(workers)
        except BaseException:
            self._give_up(workers)
            raise

    def _wait_for(self, workers: Sequence[WorkerHandle]) -> None:
        """Until they can serve; from then on they are replaced. Raises StateError."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(one.ready or one.peer.gone for one in workers), _START_SECONDS
            )
            if not all(one.ready for one in workers):
                raise StateError("the workers can't be started: the log tells why")

    def _spawn(self, *, lasting: bool) -> WorkerHandle:
        """Have another one forked. Raises StateError."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise StateError(f"no worker can be started: {error.strerror}") from error
        with theirs:
            worker = self._enlist(ours, lasting)
            try:
                self._begin(worker, theirs)
            except BaseException:
                worker.begun = False
                self._remove(worker)
                worker.peer.close()
                worker.see_ended()
                raise
        return worker

    def _enlist(self, ours: socket.socket, lasting: bool) -> WorkerHandle:
        """Have one more among them, with no process yet."""
        number = next(self._numbers)
        worker: WorkerHandle
        peer = Peer(
            ours,
            hears=WorkerSays,
            answers=WorkerAnswers,
            handle=lambda said, _: self._hear(worker, said),
            patience=_DEAF_SECONDS,
            max_size=MAX_SIZE,
            max_descriptors=1,
            on_end=lambda: self._ended_now(worker),
            name=f"worker {number}",
        )
        incarnation = f"{self._ledger.run}w{number}"
        worker = WorkerHandle(number, incarnation, peer, lasting=lasting)
        self._ledger.others.add(incarnation)
        with self._changed:
            self._workers[number] = worker
        return worker

    def _begin(self, worker: WorkerHandle, theirs: socket.socket) -> None:
        """Have its process forked, and listen to it. Raises StateError."""
        if self._over.is_set():  # whoever ends all of them from now on sees this one
            raise StateError("the server is stopping")
        ledger = self._ledger
        birth = Birth(ledger.node, ledger.run, worker.incarnation)
        descriptors = [theirs.fileno(), self._page]
        forked = self._nursery.spawn(worker.number, descriptors, msgspec.msgpack.encode(birth))
        forked.add_done_callback(lambda done: self._forked(worker, done))
        worker.begun = True
        try:
            worker.peer.start()
        except RuntimeError as error:  # no more threads
            raise StateError(f"no worker can be started: {error}") from error

    def _remove(self, worker: WorkerHandle) -> None:
        with self._changed:
            if self._workers.pop(worker.number, None) is None:
                return
            if worker.begun:
                self._lost.put(worker)
            self._ledger.others.discard(worker.incarnation)
            self._ended += _of_the_past(worker.stats)
            connections, worker.connections = list(worker.connections.values()), {}
            self._changed.notify_all()
        for request in connections:
            self._service.forget_connection(request)

    def _ended_now(self, worker: WorkerHandle) -> None:
        """A worker is gone. In the thread that reads what it says."""
        had = len(worker.connections)
        wanted = worker.said_bye or worker.given_up or self._over.is_set()
        if worker.begun and not wanted:
            logger.error("%s has died, and with it %d connections", worker, had)
        self._tallies.free_turns(worker.number)  # at once, and not when it was seen to
        self._remove(worker)

    def _forked(self, worker: WorkerHandle, done: Future[Carried[int]]) -> None:
        """A worker has a process; or not."""
        if (error := done.exception()) is not None:
            logger.error("%s: it could not be started: %s", worker, error)
            return  # the socket that it would have had ends
        process, descriptors = done.result()
        with self._changed:
            if self._workers.get(worker.number) is worker:
                worker.hold(process, descriptors)
        close_all(descriptors)

    def _reported(self, report: Ended) -> None:
        """The nursery tells of a process."""
        if report.status:
            logger.error("worker %d: %s", report.number, report.cause)

    def _look_after(self) -> None:
        """Put right what those that ended have left, and replace them."""
        while (worker := self._lost.get()) is not None:
            worker.peer.close()
            worker.see_ended()
            try:
                self._reap(worker)
            except (DiskFull, Forbidden, StateError) as error:
                logger.error("what %s has left is put right later: %s", worker, error)
            except Exception:
                logger.exception("what %s has left could not be put right yet", worker)
            if worker.is_missed:
                self._replace(worker)

    def _reap(self, worker: WorkerHandle) -> None:
        """End what a worker held that has ended."""
        self._tallies.forget_sessions(worker.number)
        self._ledger.bury(worker.incarnation)
        self._service.limits.sessions.bury(worker.incarnation)
        if not worker.said_bye:
            self._host.look_soon()

    def _replace(self, worker: WorkerHandle) -> None:
        """Start another one; after a while, where they die again and again."""
        lived = time.monotonic() - worker.born
        self._short_lives = self._short_lives + 1 if lived < _SHORT_LIFE else 0
        while not (self._over.wait(_pause(self._short_lives)) or self._service.draining):
            try:
                self._spawn(lasting=True)
                return
            except StateError as error:
                self._short_lives += 1
                logger.error("no worker can be started in its place: %s", error)

    # what they say -----------------------------------------------------------------------

    def _hear(self, worker: WorkerHandle, said: Any) -> Any:
        match said:
            case Closed(number):
                with self._changed:
                    request = worker.connections.pop(number, None)
                if request is not None:
                    self._service.forget_connection(request)
            case LoggedIn(number, host):
                self._service.limits.spare(host)
                with self._changed:
                    request = worker.connections.get(number)
                if request is not None:
                    self._service.limits.strangers.leave(request)
            case Ready():
                with self._changed:
                    worker.ready = worker.lasting = True
                    self._changed.notify_all()
            case Bye(stats):
                worker.stats = stats
                worker.said_bye = True
            case _:
                return self._answers.answer(
                    worker.number, said, lambda token: self._tell_all(GiveWay(token), [worker])
                )
        return None


def _pause(short_lives: int) -> float:
    """Seconds until a worker is replaced, when so many one after the other lived only shortly."""
    if short_lives < 2:
        return 0.0
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(16, short_lives - 2))


def _of_the_past(stats: Stats) -> Stats:
    """What stays counted of a worker that is no more."""
    return Stats(bytes_in=stats.bytes_in, bytes_out=stats.bytes_out)
