"""Connections that have to send something first: one thread waits for all of them.

Lives here: the thread, deadlines, making room, the end.
Lives elsewhere: what is waited for: the header of a proxy (proxied.py), the first record of a
session before it gets a process (isolation/newcomers.py).

A connection that waits costs no thread, and no descriptor but its own. What has come of it wakes
the thread once (edge-triggered epoll): half a header or half a record doesn't keep it busy, though
it stays in the socket.
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
"""Without epoll every look at a connection has to receive what is there: it comes again and again
otherwise."""


class Cause(Enum):
    """Why a connection is looked at."""

    CAME = "came"
    """Something has come."""
    CLOSED = "closed"
    """Its peer sends no more than what is there. Also said as `CAME` where there is no epoll."""
    GONE = "gone"
    """Its peer hears nothing any more either."""
    LATE = "late"
    """Its deadline has passed."""
    OVER = "over"
    """Nobody waits any more."""


class Expecting(Protocol):
    """A connection that waits. What it says and does is for the thread that waits."""

    @property
    def request(self) -> socket.socket:
        """The connection."""

    @property
    def client_address(self) -> Any:
        """Of the peer, as ``socket.accept`` gives it."""

    @property
    def deadline(self) -> float:
        """By the clock of those who wait. It may change with each look."""

    @property
    def is_deaf(self) -> bool:
        """Whether it isn't to be looked at again because something has come. Stays so."""

    def look(self, cause: Cause) -> Callable[[], None] | None:
        """What is to be done with the connection, which waits no more then; None: it goes on
        waiting, which it can't when it is late or all is over."""

    def abandon(self) -> None:
        """Close the connection: a fault in this program."""


class Awaiting:
    """Where they wait. ``take``, ``drop``, ``wake`` and ``close`` are for all threads, `forget` is
    for the one that waits.

    ``_lock`` guards ``_new``, ``_there``, ``_over``, and the beginning of the thread; it is not
    held while anybody is called.

    Args:
        name: Of the thread.
        after_looks: Called after each round of looks; returns until when to call it again at the
            latest, by the same clock.
        clock: Seconds, of which only differences count.
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
        """By their descriptors. For the thread."""

    def take(self, one: Expecting) -> None:
        """Wait for a connection from now on.

        Raises:
            OSError, RuntimeError: No descriptors, or no more threads.
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
        """Most servers never need the thread: it is begun with the first connection."""
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
        """End a connection that waits here, to make room for another; False if it doesn't."""
        with self._lock:
            if request not in self._there:
                return False
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has just ended
            return True

    def wake(self) -> None:
        """Have the thread look around: at deadlines, and after looks."""
        with self._lock:
            if self._thread is not None:
                self._nudge()

    def _nudge(self) -> None:
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is going to be awake anyway

    def forget(self, one: Expecting) -> None:
        """A connection waits no more: somebody else goes on with it."""
        del self._waiting[one.request.fileno()]
        self._poll.unregister(one.request)
        with self._lock:
            self._there.discard(one.request)

    def close(self) -> None:
        """Have all that wait end, and take no more. Can be called twice."""
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
        """What has happened; waited for until the next deadline."""
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
        """Look at each connection that something has happened to; whether all is over."""
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
            self._poll.register(one.request, _WATCHED)  # what has come already is told of as well
        except OSError:  # no memory, or more than the system watches for a user
            with self._lock:
                self._there.discard(one.request)
            _tell_failure(one)
            one.abandon()
        else:
            self._waiting[one.request.fileno()] = one

    def _settle(self, one: Expecting, cause: Cause) -> None:
        done = self._looked(one, cause)
        if done is not None:
            self.forget(one)
            self._do(one, done)
        elif one.is_deaf and cause is Cause.CAME:
            self._poll.modify(one.request, _WATCHED & ~select.POLLIN)

    def _looked(self, one: Expecting, cause: Cause) -> Callable[[], None] | None:
        try:
            return one.look(cause)
        except Exception:
            _tell_failure(one)
            return one.abandon

    def _do(self, one: Expecting, done: Callable[[], None] | None) -> None:
        try:
            if done is not None:
                done()
        except Exception:
            _tell_failure(one)
            one.abandon()


def _cause(event: int) -> Cause:
    if event & _GONE:
        return Cause.GONE
    return Cause.CLOSED if event & _CLOSED else Cause.CAME


def _tell_failure(one: Expecting) -> None:
    logger.exception("a connection from %s could not be served", peer_name(one.client_address))
