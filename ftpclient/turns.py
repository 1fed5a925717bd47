"""Turns: which of several threads may use a client's connection.

Lives here: the lock.
Lives elsewhere: what is done around a verb (guard.py).

This is like a `threading.RLock`, but a stream of entries holds it between its steps, and another
thread than the one that began the stream may end it: a generator is closed by the thread that drops
its last reference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK_SECONDS = 0.2


class Hold:
    """One verb, or one open stream, which keeps other threads from using the connection."""


class Turns:
    """A lock for one thread at a time.

    ``_changed`` guards all attributes; it is never held while waiting for anything else. Its lock
    is reentrant, because the garbage collector may close a stream anywhere, also inside of these
    methods.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._owner: int | None = None
        """The thread that has the turn."""
        self._holds: set[Hold] = set()
        self._is_running = False
        """True while a verb, or a step of a stream, is running; False if streams are only open."""

    @property
    def held(self) -> bool:
        """True if a thread has the turn."""
        return bool(self._holds)

    @property
    def is_mine(self) -> bool:
        """True if this thread is in a verb, or in a step of a stream."""
        return self._is_running and self._owner == threading.get_ident()

    @contextmanager
    def taken(
        self, stream: Hold | None, look: Callable[[], None] | None, *, closing: bool = False
    ) -> Iterator[None]:
        """Take the turn for a verb, or for one step of a stream.

        Args:
            stream: Keeps the turn after this step, until ``leave``.
            look: Function to call several times per second while another thread has the turn; may
                raise.
            closing: True to wait only for a running verb or step: open streams lose their turn.
        """
        hold, me = stream or Hold(), threading.get_ident()
        with self._changed:
            while not self._may_run(hold, me, closing):
                if look is not None:
                    look()
                self._changed.wait(None if look is None else _LOOK_SECONDS)
            if closing:
                self._holds.clear()
            self._owner = me
            self._is_running = True
            self._holds.add(hold)
        try:
            yield
        finally:
            with self._changed:
                self._is_running = False
                if stream is None:
                    self.leave(hold)
                self._changed.notify_all()

    def _may_run(self, hold: Hold, me: int, closing: bool) -> bool:
        if self._is_running:
            return False
        return closing or not self._holds or self._owner == me or hold in self._holds

    def leave(self, hold: Hold) -> None:
        """End a stream: other threads may have the turn. Can be called twice."""
        with self._changed:
            self._holds.discard(hold)
            if not self._holds:
                self._owner = None
            self._changed.notify_all()
