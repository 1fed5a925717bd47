"""A pool of threads that is fair to whoever waits for one, and of which few run at a time.

Lives here: how many threads there are, which of them works, and who is next. Lives elsewhere: what
they do, and where more of it is found (parking.py).

When nothing waits, one of the threads looks for more to do, and does what it finds without a
hand-over (leader and followers, POSA 2). As long as each work is short, one thread does it all:
threads that take the interpreter's lock from each other at every system call get less done together
than one of them (docs/decisions/0018). Who takes long, or says that it is going to, doesn't hold up
the others: another thread works beside it.

First come, first served. What takes very long (a transfer) doesn't count towards the bound:
otherwise as many slow clients as there are threads would shut out all others. Threads with nothing
to do for a while end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ftpserver.serving.turns import OVERDUE_SECONDS

logger = logging.getLogger("ftpd.pool")

Work = Callable[[], None]

_SHORT_SECONDS = OVERDUE_SECONDS
"""Whoever has worked for so long isn't waited for by the others."""
_LONG_SECONDS = 1.0
"""Whoever has worked for so long doesn't count towards the bound."""
_REST_SECONDS = 10.0
"""Without work, after which a thread ends."""
_OFTEN = 0.5
"""When this part of the works lately was not short, nobody is expected to be short."""
_LATELY = 16


class Pool:
    """Runs what it is given, in threads. All methods are for all threads.

    ``_state`` guards all fields; it is never held while something runs.

    Args:
        most: Threads that work at the same time, those apart whose work takes very long.
        name: Of its threads.
        look: Waits until there is something to do, and returns that. Called by one thread at a
            time.
        before_wait: Called by each thread before it waits for something to do: one that goes
            from one work to the next keeps its turn.
    """

    def __init__(
        self,
        most: int,
        name: str,
        look: Callable[[], Sequence[Work]],
        before_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._most = most
        self._name = name
        self._look = look
        self._before_wait = before_wait
        self._state = threading.Condition(threading.Lock())
        self._waiting: deque[Work] = deque()
        self._busy: dict[threading.Thread, float] = {}
        """Since when each thread has been at its work, on ``time.monotonic()``."""
        self._aside: set[threading.Thread] = set()
        """Those of them that another one works beside."""
        self._ready_to_wait: set[threading.Thread] = set()
        """Those of them that have said so themselves, in time."""
        self._late = 0.0
        """The part of the works lately that was not short and had not said so."""
        self._resting = 0
        self._looking = False
        self._called = False
        """A thread was called, or started, and has not seen yet what there is to do."""
        self._closed = False

    # what there is to do -----------------------------------------------------------------

    @property
    def is_attended(self) -> bool:
        """Whether a thread looks for more, or will as soon as its work is done."""
        return self._looking or self._is_manned

    @property
    def is_watched(self) -> bool:
        """Whether nobody has to `relieve` anybody now."""
        with self._state:
            return not self._is_manned and not self._waiting

    @property
    def has_room(self) -> bool:
        """Whether another thread may work beside those that do."""
        with self._state:
            return self._has_room()

    @property
    def has_waiting(self) -> bool:
        """Whether somebody waits for a thread; or would, but nobody is left to notice."""
        with self._state:
            return bool(self._waiting) or not (self._looking or self._has_room())

    @property
    def _is_manned(self) -> bool:
        return len(self._busy) > len(self._aside)

    def _has_room(self) -> bool:
        """Whether one more thread may work."""
        if len(self._busy) < self._most:
            return True
        long_ago = time.monotonic() - _LONG_SECONDS
        return len(self._busy) - sum(since <= long_ago for since in self._busy.values()) < (
            self._most
        )

    def submit(self, work: Work) -> None:
        """Have it run after all that came before it."""
        with self._state:
            self._waiting.append(work)
            self._call()

    def attend(self) -> None:
        """See to it that somebody looks for more to do."""
        with self._state:
            self._call()

    def will_block(self) -> None:
        """Called by a work that is going to wait for something: others needn't."""
        me = threading.current_thread()
        if me in self._aside or me not in self._busy:
            return
        with self._state:
            self._aside.add(me)
            self._ready_to_wait.add(me)
            self._call()

    def relieve(self) -> None:
        """Have other threads work beside those that take long. To be called every few
        milliseconds, unless ``is_watched``."""
        with self._state:
            too_long = time.monotonic() - _SHORT_SECONDS
            self._aside.update(one for one, since in self._busy.items() if since <= too_long)
            self._call()

    def close(self) -> None:
        """Let the threads end, when they have done what waits. They aren't waited for."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def wait_for_looks(self) -> None:
        """After ``close``: until nobody looks any more."""
        with self._state:
            self._state.wait_for(lambda: not self._looking)

    def _call(self) -> None:
        """Get a thread for what there is to do, if no other comes for it by itself."""
        if self._called or self._is_manned:
            return
        if self._waiting:
            if not self._has_room():
                return  # `relieve` tries again
        elif self._looking or self._closed:
            return
        if self._resting:
            self._called = True
            self._state.notify(self._resting if self._closed else 1)
        else:
            self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._called = True
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system gives no more: `relieve` tries again
            self._called = False
            logger.error("can't start a thread: %d sessions wait for one", len(self._waiting))

    # the threads -------------------------------------------------------------------------

    def _run(self) -> None:
        me = threading.current_thread()
        with self._state:
            work = self._next(me)
        while work is not None:
            try:
                work()
            except Exception:
                logger.exception("a session could not be served")
            with self._state:
                self._done(me)
                work = self._next(me)

    def _done(self, me: threading.Thread) -> None:
        since = self._busy.pop(me)
        self._aside.discard(me)
        if me in self._ready_to_wait:
            self._ready_to_wait.discard(me)
        else:  # on a slow disk hardly anybody is short
            was_late = time.monotonic() - since >= _SHORT_SECONDS
            self._late += (was_late - self._late) / _LATELY

    def _next(self, me: threading.Thread) -> Work | None:
        """What is to be done next, once there is something; None ends the thread."""
        called = True
        while True:
            self._called = False
            if not self._is_manned:
                if self._waiting and self._has_room():
                    self._busy[me] = time.monotonic()
                    work = self._waiting.popleft()
                    if self._late > _OFTEN:
                        self._aside.add(me)
                        self._call()
                    return work
                if not self._looking and not self._closed:
                    self._before_wait()
                    self._waiting.extend(self._looked())
                    continue
            self._before_wait()
            if not called or (self._closed and not self._waiting):
                if self._closed:
                    self._state.notify_all()  # those who rest may end as well
                return None
            self._resting += 1
            called = self._state.wait(_REST_SECONDS)
            self._resting -= 1

    def _looked(self) -> Sequence[Work]:
        """What has come to be done. Gives ``_state`` up meanwhile."""
        self._looking = True
        self._state.release()
        try:
            return self._look()
        finally:
            self._state.acquire()
            self._looking = False
            if self._closed:
                self._state.notify_all()
