"""Signs of life: while an answer is owed, the client hears something, whatever the disk does.

Lives here: the one thread of a process that sends them, and who may use a session's channel.
Lives elsewhere: what is sent (session.py), how (ftpwire/channel.py).

A session's thread may wait for minutes, for a sync beside a busy writer as for a network file
system. Meanwhile this thread sends a notice for it. It never touches a file, a lock that is held
across one, or the database; and it never waits for a client.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Protocol

from ftpwire.channel import Sink
from ftpwire.errors import ConnectionLost

PROGRESS_SECONDS = 10.0
"""A client that waits hears something at least so often."""
_SHARE = 3
"""Of the time that a client waits for a silent server: at least so many notices come in it."""


class Owing(Protocol):
    """A session, as far as this module knows it."""

    def say_alive(self) -> None:
        """Send a sign of life if an answer is owed and nothing was sent lately. Must not wait."""


class KeepAlive:
    """The thread. One for each process.

    Args:
        sessions: Those that there are; others may change the collection at any time.
        stall: Seconds that a client waits for a server that is silent.
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
        """Its thread, not started yet; it ends after `stop`."""
        return threading.Thread(target=self._run, name="keep-alive", daemon=True)

    def stop(self) -> None:
        """Have the thread end."""
        self._stop.set()

    @property
    def _every(self) -> float:
        """Seconds from one look to the next. Who was silent from one to another says something."""
        return min(self._seconds, self._stall() / _SHARE) / 2

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for session in list(self._sessions):
                session.say_alive()


class ChannelGuard:
    """Which thread may use a session's channel.

    The session's own thread has it, and gives it `away` for what may wait for the disk. There,
    each use of the channel is a context of the guard; contexts nest.

    ``_depth`` is the owner's alone; ``_lock`` is held exactly while it isn't 0.
    """

    __slots__ = ("_depth", "_is_lost", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._is_lost = False
        """The connection has ended, perhaps within a frame: nothing may follow."""

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
        """A context in which the channel isn't used, except in contexts of the guard."""
        return _Away(self)

    def take(self) -> bool:
        """For another thread: have the channel if its owner doesn't use it; give it `back` then."""
        return not self._is_lost and self._lock.acquire(blocking=False)

    def back(self) -> None:
        """After `take`."""
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
    """A sink that leads to a file."""

    def hole(self, count: int) -> None:
        """So many zeros come next."""

    def go_idle(self) -> None:
        """Nothing comes for a while: hold little."""


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
        """So many zeros come next."""
        with self._guard.away():
            self._sink.hole(count)

    def go_idle(self) -> None:
        """Nothing comes for a while: hold little."""
        with self._guard.away():
            self._sink.go_idle()
