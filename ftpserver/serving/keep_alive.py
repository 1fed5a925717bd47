"""Signs of life: while a reply is due, the client gets a notice from time to time.

Lives here: the one thread of a process that sends them, and who may use a session's channel.
Lives elsewhere: what is sent (session.py), how (ftpwire/channel.py).

A session's thread may wait for minutes, for a sync beside a busy writer or for a network file
system. Meanwhile this thread sends a notice for it. It never touches a file, the database, or a
lock that is held while a file is used; and it never waits for a client.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Protocol

from ftpwire.channel import Sink
from ftpwire.errors import ConnectionLost

PROGRESS_SECONDS = 10.0
"""Most seconds between two signs of life for a waiting client."""
_SHARE = 3
"""At least this many notices come while a client would wait for a silent server."""


class Owing(Protocol):
    """A session, as far as this module uses it."""

    def say_alive(self) -> None:
        """Send a sign of life if a reply is due and nothing was sent lately. Must not wait."""


class KeepAlive:
    """The thread that sends signs of life. One for each process.

    Args:
        sessions: The current sessions. Other threads may change the collection at any time.
        stall: Returns the seconds that a client waits for a silent server.
        seconds: As `PROGRESS_SECONDS`.
    """

    def __init__(
        self,
        sessions: Collection[Owing],
        stall: Callable[[], float],
        seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self._sessions = sessions
        self._stall = stall
        self._seconds = seconds
        self._stop = threading.Event()

    def thread(self) -> threading.Thread:
        """Return the thread, not started yet. It ends after `stop`."""
        return threading.Thread(target=self._run, name="keep-alive", daemon=True)

    def stop(self) -> None:
        """Let the thread end."""
        self._stop.set()

    @property
    def _every(self) -> float:
        """Seconds between two rounds. A session that was silent in between sends a sign of life."""
        return min(self._seconds, self._stall() / _SHARE) / 2

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for session in list(self._sessions):
                session.say_alive()


class ChannelGuard:
    """Says which thread may use a session's channel.

    The session's own thread has it, and gives it `away` for steps that may wait for the disk.
    Within these, each use of the channel is a context of the guard. Contexts nest.

    ``_depth`` belongs to the owner alone. ``_lock`` is held exactly while ``_depth`` isn't 0, or
    while another thread has the channel.
    """

    __slots__ = ("_depth", "_is_lost", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._is_lost = False
        """True once the connection is lost, perhaps within a frame: nothing may follow."""

    def __enter__(self) -> None:
        if not self._depth:
            self._lock.acquire()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None = None, error: object = None, trace: object = None
    ) -> None:
        if kind is not None and issubclass(kind, ConnectionLost):
            self._is_lost = True
        self._depth -= 1
        if not self._depth:
            self._lock.release()

    def away(self) -> _Away:
        """Return a context in which the channel isn't used, except in contexts of the guard."""
        return _Away(self)

    def take(self) -> bool:
        """Take the channel for another thread, if its owner doesn't use it; then give it `back`."""
        # Never waits: the keep-alive thread serves all sessions. An owner within a frame holds the
        # lock, so a notice is sent only between two frames.
        return not self._is_lost and self._lock.acquire(blocking=False)

    def back(self) -> None:
        """Give the channel back after `take`."""
        self._lock.release()


class _Away:
    __slots__ = ("_before", "_guard")

    def __init__(self, guard: ChannelGuard) -> None:
        self._guard = guard
        self._before = 0

    def __enter__(self) -> None:
        guard = self._guard
        self._before = guard._depth
        if self._before:
            guard._depth = 0
            guard._lock.release()

    def __exit__(self, *exception: object) -> None:
        if self._before:
            self._guard._lock.acquire()
            self._guard._depth = self._before


class FileSink(Sink, Protocol):
    """A sink that writes to a file."""

    def hole(self, count: int) -> None:
        """Take ``count`` zeros."""

    def go_idle(self) -> None:
        """Release what isn't needed while nothing comes for a while."""


class DiskSink:
    """A sink that may wait for its disk, and gives the channel away meanwhile."""

    def __init__(self, sink: FileSink, guard: ChannelGuard) -> None:
        self._sink = sink
        self._guard = guard

    def buffer(self) -> memoryview:
        with self._guard.away():
            return self._sink.buffer()

    def filled(self, count: int) -> None:
        with self._guard.away():
            self._sink.filled(count)

    def write(self, data: memoryview) -> None:
        with self._guard.away():
            self._sink.write(data)

    def hole(self, count: int) -> None:
        """Take ``count`` zeros."""
        with self._guard.away():
            self._sink.hole(count)

    def go_idle(self) -> None:
        """Release what isn't needed while nothing comes for a while."""
        with self._guard.away():
            self._sink.go_idle()
