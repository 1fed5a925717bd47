"""Handing out: which worker serves which connection.

Lives here: the connections of a server with workers, from accepting them to their end.
Lives elsewhere: accepting (serving/listeners.py), the lives of workers (supervisor.py), serving
(worker.py).

A connection is offered to the worker that has the fewest, by its number alone. The worker claims
it, and gets its descriptor with the reply: only from then on it is that worker's. So a worker that
was stopped, or hangs, keeps no connection that it hasn't begun to serve. What it leaves unclaimed
is offered to others, and when it wakes up, its claim is refused. It is offered nothing else until
it has answered.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ftpserver.interfaces import Carried
from ftpserver.net.addresses import host_of
from ftpserver.processes.worker_interfaces import Client
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    from ftpserver.processes.worker_handle import WorkerHandle
    from ftpserver.serving.service import Service

logger = logging.getLogger("ftpd.workers")

_WAIT_SECONDS = 60.0
"""Seconds that a connection waits for a worker."""
_MOST_OWED = 64
"""Most replies that a worker may owe and still be offered a connection: the socket must have space
for its messages, or the sending thread would wait."""


@dataclass(eq=False)
class _Connection:
    """A connection that no worker has claimed.

    Attributes:
        since: When it came, on the clock.
        worker: The worker that it was offered to; None while no worker is free.
    """

    number: int
    request: socket.socket
    client: Client
    since: float
    worker: WorkerHandle | None = None


class Load(NamedTuple):
    """The numbers of connections.

    Attributes:
        fewest: Those of the worker that would get the next one.
        handed: Those of all workers, and those that wait for one.
    """

    fewest: int
    handed: int


class Handing:
    """Hands out connections. Safe to use from many threads.

    ``_lock`` guards all fields, and the connections of each worker. No message is sent while it is
    held.

    Args:
        clock: Returns seconds, of which only differences count.
        serve_here: Serves a connection that no worker is free for, given the client's address as a
            listener's sessions are. None: such a connection waits for a worker.
    """

    def __init__(
        self,
        service: Service,
        clock: Callable[[], float] = time.monotonic,
        serve_here: Callable[[socket.socket, Any], None] | None = None,
    ) -> None:
        self._service = service
        self._clock = clock
        self._serve_here = serve_here
        self._lock = threading.Lock()
        self._workers: list[WorkerHandle] = []
        self._unclaimed: dict[int, _Connection] = {}
        """By number. Those that are offered to no worker are in ``_waiting`` as well."""
        self._waiting: dict[int, _Connection] = {}
        self._accepting = True

    # connections come --------------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Serve a connection by the worker that has the fewest."""
        host = host_of(client_address, request)
        address = (host, client_address[1]) if isinstance(client_address, tuple) else None
        client = Client(address, self._service.limits.is_known(host))
        number = self._service.next_session_id(request)
        one = _Connection(number, request, client, self._clock())
        self._service.connections.add(request)
        with self._lock:
            self._unclaimed[number] = self._waiting[number] = one
        self._advance()
        if not self._accepting:
            self._turn_away()

    def _advance(self) -> None:
        """Offer waiting connections to free workers, or else serve them in this process."""
        here: list[_Connection] = []
        with self._lock:
            now, offered = self._clock(), []
            while self._waiting and (worker := self._choose(now)) is not None:
                one = self._waiting.pop(next(iter(self._waiting)))
                # Recorded before the offer is sent, as its claim may come at once.
                one.worker = worker
                worker.handed += 1
                worker.connections[one.number] = one.request
                worker.owes[one.number] = now
                offered.append((worker, one.number))
            if self._serve_here is not None and self._accepting:  # no worker is free for these
                here = list(self._waiting.values())
                self._waiting.clear()
                for one in here:
                    del self._unclaimed[one.number]
        for worker, number in offered:
            worker.far.offer(number)
        for one in here:
            assert self._serve_here is not None
            self._serve_here(one.request, one.client.address or "")

    def _choose(self, now: float) -> WorkerHandle | None:
        free = [
            one
            for one in self._workers
            if not (one.retired or one.endpoint.gone or one.is_silent(now))
            and len(one.owes) < _MOST_OWED
        ]
        return min(free, key=lambda one: (len(one.connections), one.handed), default=None)

    def load(self) -> Load | None:
        """Return the numbers of connections; None if no worker would get one."""
        with self._lock:
            worker = self._choose(self._clock())
            if worker is None:
                return None
            handed = sum(len(one.connections) for one in self._workers)
            return Load(len(worker.connections), handed + len(self._waiting))

    def look(self) -> None:
        """Look after connections that wait. Called now and then.

        Takes back what a silent worker doesn't claim, if another process can serve it, and closes
        what has waited for too long.
        """
        with self._lock:
            now = self._clock()
            silent = [one for one in self._workers if one.is_silent(now)]
            late = [one for one in self._unclaimed.values() if one.worker in silent]
            if late and (self._serve_here is not None or self._choose(now) is not None):
                for worker, count in Counter(one.worker for one in late).items():
                    logger.warning("%s doesn't answer: others get %d connections", worker, count)
                self._take_back(late)
        self._advance()
        self._turn_away(now - _WAIT_SECONDS)

    def _take_back(self, some: Iterable[_Connection]) -> None:
        """Let connections wait again that were offered. The caller holds ``_lock``."""
        for one in list(some):
            assert one.worker is not None
            one.worker.connections.pop(one.number, None)
            one.worker = None
            self._waiting[one.number] = one

    def accept_no_more(self) -> None:
        """Accept no further connections, and close those that wait for a worker."""
        self._accepting = False
        self._turn_away()

    def _turn_away(self, before: float = float("inf")) -> None:
        """Close connections that came before a time, and that no worker was free to serve."""
        with self._lock:
            some = [one for one in self._waiting.values() if one.since < before]
            for one in some:
                del self._waiting[one.number], self._unclaimed[one.number]
        for one in some:
            logger.error("a connection was closed: no worker is free to serve it")
            self._end(one)

    def _end(self, one: _Connection) -> None:
        one.request.close()
        self._service.forget_connection(one.request)

    def drop(self, request: socket.socket) -> bool:
        """End a connection that has not logged in. Returns whether it is known here."""
        with self._lock:
            found = next((one for one in self._unclaimed.values() if one.request is request), None)
            if found is not None:
                del self._unclaimed[found.number]
                self._waiting.pop(found.number, None)
                if found.worker is not None:
                    found.worker.connections.pop(found.number, None)
            having = [
                (worker, number)
                for worker in self._workers
                for number, one in worker.connections.items()
                if one is request
            ]
        if found is not None:
            self._end(found)
        for worker, number in having:
            worker.far.drop(number)
        return bool(found or having)

    # workers come and go -----------------------------------------------------------------

    def join(self, worker: WorkerHandle) -> None:
        """Hand out connections to a worker from now on."""
        with self._lock:
            self._workers.append(worker)
        self._advance()

    def leave(self, worker: WorkerHandle) -> int:
        """Note that a worker has ended. What it hasn't claimed goes to others.

        Returns:
            The number of connections that have ended with it.
        """
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
            self._take_back(one for one in self._unclaimed.values() if one.worker is worker)
            lost, worker.connections = list(worker.connections.values()), {}
        for request in lost:
            self._service.forget_connection(request)
        self._advance()
        if not self._accepting:
            self._turn_away()
        return len(lost)

    # the requests of workers -------------------------------------------------------------

    def claim(self, worker: WorkerHandle, number: int) -> Carried[Client]:
        """Give a worker a connection that it claims. Raises NotFound if it isn't its any more."""
        with self._lock:
            worker.owes.pop(number, None)
            one = self._unclaimed.get(number)
            # A connection is removed from ``_unclaimed`` exactly once, with the lock: by a claim,
            # `drop`, `_turn_away` or serving it here. That one owns its socket.
            mine = one is not None and one.worker is worker
            if mine:
                del self._unclaimed[number]
        if self._waiting:
            self._advance()
        if one is None or not mine:
            raise NotFound(f"connection {number} is another's")
        return Carried(one.client, [one.request.detach()])

    def closed(self, worker: WorkerHandle, number: int) -> None:
        """Note that a worker has closed a connection."""
        with self._lock:
            request = worker.connections.pop(number, None)
        if request is not None:
            self._service.forget_connection(request)

    def logged_in(self, worker: WorkerHandle, number: int, host: str) -> None:
        """Note that the client of a worker's connection has logged in."""
        limits = self._service.limits
        limits.spare(host)
        with self._lock:
            request = worker.connections.get(number)
        if request is not None:
            limits.unauthenticated.leave(request)
