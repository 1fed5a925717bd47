"""Connections that have to send something first: one thread waits for all of them.

Lives here: the thread, deadlines, dropping a connection, the end.
Lives elsewhere: what is waited for: the header of a proxy (proxied.py), the first record of a
session before it gets a process (isolation/newcomers.py).

A waiting connection costs no thread, and no descriptor but its own. Received bytes wake the thread
once (edge-triggered epoll): half a header or half a record doesn't keep it busy, though it stays in
the socket.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from ftpserver.serving.session import peer_name

logger = logging.getLogger("ftpd.session")

_HAS_EPOLL = hasattr(select, "epoll")
_GONE = select.POLLHUP | select.POLLERR
_CLOSED = getattr(select, "EPOLLRDHUP", 0)
_WATCHED = select.POLLIN | _CLOSED | getattr(select, "EPOLLET", 0)
"""Without epoll, each look at a connection has to receive what has come, or the thread is woken
again and again."""


class Cause(Enum):
    """Why a connection is looked at."""

    CAME = "came"
    """Something has come."""
    CLOSED = "closed"
    """The peer sends nothing after what has come. Reported as `CAME` where there is no epoll."""
    GONE = "gone"
    """The peer no longer receives either."""
    LATE = "late"
    """Its deadline has passed."""
    OVER = "over"
    """The waiting has been closed."""


class Expecting(Protocol):
    """A connection that waits. Its methods are for the thread that waits."""

    @property
    def request(self) -> socket.socket:
        """The connection."""

    @property
    def client_address(self) -> Any:
        """The peer's address, as ``socket.accept`` returns it."""

    @property
    def deadline(self) -> float:
        """The deadline, on the clock of `Awaiting`. It may change with each look."""

    @property
    def is_deaf(self) -> bool:
        """True if further input is no reason to look at it again. Stays True."""

    def look(self, cause: Cause) -> Callable[[], None] | None:
        """Look at the connection.

        Returns:
            A function that goes on with the connection, which doesn't wait any more; None to wait
            on, which isn't possible when it is late or the waiting is over.
        """

    def abandon(self) -> None:
        """Close the connection after a failure of this program."""


class Awaiting:
    """Waits for connections. ``take``, ``drop``, ``wake`` and ``close`` are for all threads;
    ``forget`` is for the thread that waits.

    ``_lock`` guards ``_new``, ``_there``, ``_over`` and the start of the thread. It is not held
    while any method of a connection runs.

    Args:
        name: The name of the thread.
        after_looks: Called after each round of looks. Returns the latest time, on the same clock,
            to call it again.
        clock: Returns seconds, of which only differences count.
    """

    def __init__(
        self,
        name: str,
        after_looks: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._after_looks = after_looks
        self._clock = clock
        self._lock = threading.Lock()
        self._new: deque[Expecting] = deque()
        self._there: set[socket.socket] = set()
        self._thread: threading.Thread | None = None
        self._read = self._write = -1
        self._over = False
        self._poll: Any = None
        self._waiting: dict[int, Expecting] = {}
        """The waiting connections by descriptor. For the waiting thread alone."""

    def take(self, one: Expecting) -> None:
        """Wait for a connection from now on.

        Raises:
            OSError, RuntimeError: There are too many descriptors or threads.
        """
        with self._lock:
            over = self._over
            if not over:
                self._begin()
                self._new.append(one)
                self._there.add(one.request)
                self._nudge()
        if over:
            self._do(one, self._looked(one, Cause.OVER))

    def _begin(self) -> None:
        """Start the thread with the first connection: most servers never need it."""
        if self._thread is not None:
            return
        if self._read < 0:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
        if self._poll is None:
            self._poll = select.epoll() if _HAS_EPOLL else select.poll()
            self._poll.register(self._read, select.POLLIN)
        thread = threading.Thread(target=self._run, name=self._name)
        thread.start()
        self._thread = thread

    def drop(self, request: socket.socket) -> bool:
        """End a waiting connection in favour of another one. Returns False if it doesn't wait."""
        # The thread closes a connection only after it has removed it from ``_there`` under the
        # lock: so the socket is still open here.
        with self._lock:
            if request not in self._there:
                return False
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has just ended
            return True

    def wake(self) -> None:
        """Wake the thread to check deadlines, and to call ``after_looks``."""
        with self._lock:
            if self._thread is not None:
                self._nudge()

    def _nudge(self) -> None:
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full: the thread is awake, or about to be

    def forget(self, one: Expecting) -> None:
        """Stop waiting for a connection, which another part of the program goes on with."""
        del self._waiting[one.request.fileno()]
        self._poll.unregister(one.request)
        with self._lock:
            self._there.discard(one.request)

    def close(self) -> None:
        """End all waiting, and accept no further connections. Can be called twice."""
        with self._lock:
            self._over = True
            thread = self._thread
            if thread is not None:
                self._nudge()
        if thread is not None:
            thread.join()
        with self._lock:
            self._thread = None
            if self._read >= 0:
                os.close(self._read)
                os.close(self._write)
                self._read = self._write = -1
            poll, self._poll = self._poll, None
            getattr(poll, "close", lambda: None)()

    # its thread --------------------------------------------------------------------------

    def _run(self) -> None:
        due: float | None = None
        while not self._look_around(self._events(due)):
            due = self._after_looks()

    def _events(self, due: float | None) -> list[tuple[int, int]]:
        """Wait for events, at most until the next deadline, and return them."""
        moments = [one.deadline for one in self._waiting.values()]
        if due is not None:
            moments.append(due)
        if not moments:
            events = self._poll.poll()
        else:
            left = max(0.0, min(moments) - self._clock())
            events = self._poll.poll(left if _HAS_EPOLL else left * 1000)
        return list(events)

    def _look_around(self, events: list[tuple[int, int]]) -> bool:
        """Look at each connection with an event. Returns whether the waiting is over."""
        if any(fd == self._read for fd, _ in events):
            os.read(self._read, 4096)
        with self._lock:
            new, self._new = self._new, deque()
            over = self._over
        for one in new:
            self._watch(one)
        for fd, event in events:
            if fd in self._waiting:
                self._settle(self._waiting[fd], _cause(event))
        now = self._clock()
        for one in list(self._waiting.values()):
            if over or one.deadline <= now:
                self._settle(one, Cause.OVER if over else Cause.LATE)
        return over

    def _watch(self, one: Expecting) -> None:
        try:
            self._poll.register(one.request, _WATCHED)  # also reports what has come already
        except OSError:  # no memory, or the system's limit of watches for a user
            with self._lock:
                self._there.discard(one.request)
            _report_failure(one)
            one.abandon()
        else:
            self._waiting[one.request.fileno()] = one

    def _settle(self, one: Expecting, cause: Cause) -> None:
        done = self._looked(one, cause)
        if done is not None:
            self.forget(one)  # first: ``done`` may close the socket, and its number be used again
            self._do(one, done)
        elif one.is_deaf and cause is Cause.CAME:
            self._poll.modify(one.request, _WATCHED & ~select.POLLIN)

    def _looked(self, one: Expecting, cause: Cause) -> Callable[[], None] | None:
        try:
            return one.look(cause)
        except Exception:
            _report_failure(one)
            return one.abandon

    def _do(self, one: Expecting, done: Callable[[], None] | None) -> None:
        try:
            if done is not None:
                done()
        except Exception:
            _report_failure(one)
            one.abandon()


def _cause(event: int) -> Cause:
    if event & _GONE:
        return Cause.GONE
    return Cause.CLOSED if event & _CLOSED else Cause.CAME


def _report_failure(one: Expecting) -> None:
    logger.exception("a connection from %s could not be served", peer_name(one.client_address))
