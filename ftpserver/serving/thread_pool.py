"""A pool of threads that serves work in the order it came, usually with one thread running.

Lives here: how many threads there are, which of them works, and which work is next. Lives
elsewhere: the work, and where more of it is found (parking.py).

When no work waits, one of the threads looks for more, and does what it finds without a hand-over
(the leader/followers pattern of POSA 2). As long as each work is short, one thread does it all:
threads that take the interpreter's lock from each other at every system call get less done together
than one of them (docs/decisions/0018). A thread whose work takes long, or that announces that it
will block, does not delay the others: another thread works beside it.

First come, first served. Work that takes very long (a transfer) doesn't count towards the bound:
otherwise as many slow clients as there are threads would shut out all others. Threads that find no
work for a while end.
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
"""Seconds of work after which another thread works beside a thread."""
_LONG_SECONDS = 1.0
"""Seconds of work after which a thread doesn't count towards the bound."""
_REST_SECONDS = 10.0
"""Seconds without work after which a thread ends."""
_OFTEN = 0.5
"""If more than this share of recent work was late, all work is expected to be."""
_LATELY = 16
"""The number of works over which that share is averaged, roughly."""


class Pool:
    """Runs work in threads. All methods are for all threads.

    ``_state`` guards all fields. It is never held while work or ``look`` runs.

    A thread is in ``_busy`` while it works. It is also in ``_aside`` if the others don't wait for
    it. A thread in ``_busy`` alone is the one that all others wait for. There is at most one, and
    after its work it takes the next work or looks for more.

    Args:
        most: Most threads that work at the same time, not counting work that takes very long.
        name: The name of the threads.
        look: Waits until there is work, and returns it. Called by one thread at a time.
        before_wait: Called by each thread before it waits for work: a thread that goes from one
            work to the next keeps its turn.
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
        """When each working thread began its work, on ``time.monotonic()``."""
        self._aside: set[threading.Thread] = set()
        """The working threads that the others don't wait for."""
        self._ready_to_wait: set[threading.Thread] = set()
        """The threads of ``_aside`` that announced it themselves, in time."""
        self._late = 0.0
        """The share of recent work that took long without announcing it."""
        self._resting = 0
        self._looking = False
        self._called = False
        """True from when a thread is called or started until it looks at what there is to do."""
        self._closed = False

    # what there is to do -----------------------------------------------------------------

    @property
    def is_attended(self) -> bool:
        """True if a thread looks for more work, or will as soon as its own is done."""
        return self._looking or self._is_manned

    @property
    def is_watched(self) -> bool:
        """True if no call of `relieve` is needed now."""
        with self._state:
            return not self._is_manned and not self._waiting

    @property
    def has_capacity(self) -> bool:
        """True if another thread may work beside those that do."""
        with self._state:
            return self._has_capacity()

    @property
    def has_waiting(self) -> bool:
        """True if work waits for a thread, or would without any thread noticing it."""
        with self._state:
            return bool(self._waiting) or not (self._looking or self._has_capacity())

    @property
    def _is_manned(self) -> bool:
        return len(self._busy) > len(self._aside)

    def _has_capacity(self) -> bool:
        """Return whether one more thread may work."""
        if len(self._busy) < self._most:
            return True
        long_ago = time.monotonic() - _LONG_SECONDS
        return len(self._busy) - sum(since <= long_ago for since in self._busy.values()) < (
            self._most
        )

    def submit(self, work: Work) -> None:
        """Run a work after all that came before it."""
        with self._state:
            self._waiting.append(work)
            self._call()

    def attend(self) -> None:
        """Ensure that a thread looks for more work."""
        with self._state:
            self._call()

    def will_block(self) -> None:
        """Announce that the calling thread's work is going to wait: others go on without it."""
        me = threading.current_thread()
        # Without the lock: only the calling thread removes itself from these, and ``relieve``
        # adding it to ``_aside`` at this moment does what would be done here.
        if me in self._aside or me not in self._busy:
            return
        with self._state:
            self._aside.add(me)
            self._ready_to_wait.add(me)
            self._call()

    def relieve(self) -> None:
        """Let other threads work beside those that take long. Call it every few milliseconds,
        unless ``is_watched``."""
        with self._state:
            too_long = time.monotonic() - _SHORT_SECONDS
            self._aside.update(one for one, since in self._busy.items() if since <= too_long)
            self._call()

    def close(self) -> None:
        """Let the threads end when all waiting work is done. Doesn't wait for them."""
        with self._state:
            self._closed = True
            self._state.notify_all()

    def wait_for_looks(self) -> None:
        """After ``close``, wait until no thread looks for work any more."""
        with self._state:
            self._state.wait_for(lambda: not self._looking)

    def _call(self) -> None:
        """Get a thread for what there is to do, unless one comes for it by itself."""
        # One thread is called at a time, and none while another works: that one does all the work
        # until one has to work beside it (`will_block`, `relieve`). So few threads compete.
        if self._called or self._is_manned:
            return
        if self._waiting:
            if not self._has_capacity():
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
        except (RuntimeError, MemoryError):  # too many threads: `relieve` tries again
            self._called = False
            logger.error("cannot start a thread: %d sessions wait for one", len(self._waiting))

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
        else:  # on a slow disk most work is late
            was_late = time.monotonic() - since >= _SHORT_SECONDS
            self._late += (was_late - self._late) / _LATELY

    def _next(self, me: threading.Thread) -> Work | None:
        """Wait for the next work and return it; None ends the thread."""
        called = True
        while True:
            # Cleared under the lock right before the fields are read: work that comes later calls
            # a thread again.
            self._called = False
            if not self._is_manned:
                if self._waiting and self._has_capacity():
                    # From here to `_done` the thread is in ``_busy``: `_call` starts no other one
                    # until it is in ``_aside`` as well.
                    self._busy[me] = time.monotonic()
                    work = self._waiting.popleft()
                    if self._late > _OFTEN:
                        self._aside.add(me)
                        self._call()
                    return work
                if not self._looking and not self._closed:
                    # `_looked` gives the lock up: ``_looking`` keeps other threads from looking.
                    self._before_wait()
                    self._waiting.extend(self._looked())
                    continue
            self._before_wait()
            if not called or (self._closed and not self._waiting):
                if self._closed:
                    self._state.notify_all()  # resting threads may end as well
                return None
            self._resting += 1
            called = self._state.wait(_REST_SECONDS)
            self._resting -= 1

    def _looked(self) -> Sequence[Work]:
        """Look for work, and return what was found. ``_state`` is released meanwhile."""
        self._looking = True
        self._state.release()
        try:
            return self._look()
        finally:
            self._state.acquire()
            self._looking = False
            if self._closed:
                self._state.notify_all()
