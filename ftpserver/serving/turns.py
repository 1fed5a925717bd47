"""Turns: of the session threads of a process, one at a time works off small requests.

Lives here: which thread has the turn, and which is next.
Lives elsewhere: when a session takes it and gives it up (session.py, exchange.py), the threads of
parked sessions and which of them looks for work (thread_pool.py).

Python runs one thread at a time and gives its lock to another one at each system call. Threads that
put small files take it from each other several times for each file, and get less done together
than one of them (docs/decisions/0032). A thread that waits here doesn't take part in that.

The turn is advice. It protects nothing, and a thread that hangs with it stops no other one: after
`OVERDUE_SECONDS` the next one has it, and the thread that had it goes on without. Nobody can know
beforehand which ``open`` or ``rename`` waits for a disk. For the same reason there can be no
deadlock: whatever the thread with the turn waits for, it has the turn no longer then.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident

SLICE_SECONDS = 0.002
"""After so long a thread passes the turn on, if another one waits."""
OVERDUE_SECONDS = 0.005
"""After so long a thread that has not passed it on loses it, if another one waits."""

_NOBODY = 0
"""No thread has this identifier."""


class _Waiting:
    """A thread that waits for the turn.

    Attributes:
        thread: Its identifier.
        called: It was given the turn. It may have lost it by the time it finds that out.
    """

    __slots__ = ("_baton", "called", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.called = False
        self._baton = threading.Lock()
        self._baton.acquire()

    def call(self) -> None:
        """Give it the turn."""
        self.called = True
        self._baton.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is called, for so many seconds at most. Returns whether it was."""
        return self._baton.acquire(timeout=max(0.0, seconds))


class Turns:
    """The turn of one process. All methods are for all threads, known by their identifiers.

    First come, first served, in two queues: threads that have used up a slice since they waited for
    their clients, and newcomers that have not. They are called by turns, so a session that asks for
    little is answered soon beside many that put thousands of files, and can't keep these from going
    on.

    ``_lock`` guards all fields, and is held for a few instructions. `take` and `pass_on` look at
    them without it first. A thread that reads its own identifier in ``_holder`` has the turn, or
    has just lost it, which does no harm; and a newcomer that it overlooks is seen the next time.
    While no thread has the turn, none waits for it.

    Args:
        end_lead: Called by a thread whose slice is over, or that has waited for as long: another
            thread of the pool looks for work from now on.
        clock: Seconds, of which only differences count.
    """

    def __init__(
        self,
        end_lead: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end_lead = end_lead
        self._clock = clock
        self._lock = threading.Lock()
        self._holder = _NOBODY
        self._since = 0.0
        """Since when, on the clock, as far as slices and patience count."""
        self._newcomers: deque[_Waiting] = deque()
        self._again: deque[_Waiting] = deque()
        self._spent: set[int] = set()
        """Threads that have used up a slice since they last called `go_idle`."""
        self._newcomer_was_last = False

    @property
    def waiting(self) -> int:
        """Threads that wait for the turn."""
        return len(self._newcomers) + len(self._again)

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self._holder == get_ident()

    def take(self) -> None:
        """Have the turn, or go on with it: to be called before each small step.

        Waits while another thread has it. A thread that has it passes it on first if its slice is
        over and another one waits.
        """
        if self._holder == get_ident():
            if not (self._newcomers or self._again) or not self._is_over():
                return
            self._end_lead()
        self._wait()

    def pass_on(self) -> None:
        """As `take`, for a step that needs no turn: a thread without it goes on at once."""
        if self._holder == get_ident():
            self.take()

    def give_up(self) -> None:
        """Give the turn up, if the calling thread has it: what it does next may take long."""
        if self._holder == get_ident():
            with self._lock:
                if self._holder == get_ident():  # not lost meanwhile
                    self._hand_over()

    def go_idle(self) -> None:
        """Give the turn up: the calling thread waits for its client, or for other work, or ends."""
        me = get_ident()
        if me in self._spent:
            self._spent.discard(me)
        self.give_up()

    def _is_over(self) -> bool:
        return self._clock() >= self._since + SLICE_SECONDS

    def _wait(self) -> None:
        """Wait for the turn, at the end of the queue."""
        me = get_ident()
        with self._lock:
            had_it = self._holder == me
            if had_it and not self.waiting:
                return
            if had_it:
                self._spent.add(me)
                self._hand_over()
            elif self._holder == _NOBODY:
                self._holder, self._since = me, self._clock()
                return
            elif not self.waiting:
                # The other thread may have had it for long, as none wanted it. Its slice is over,
                # but it has had no chance to pass the turn on.
                self._since = max(self._since, self._clock() - SLICE_SECONDS)
            queue = self._again if me in self._spent else self._newcomers
            waiting = _Waiting(me)
            queue.append(waiting)
            patience = self._patience(len(queue))
        if queue is self._newcomers:
            if waiting.wait(min(patience, SLICE_SECONDS)):
                return
            self._end_lead()  # meanwhile another thread sees which sessions have input
            patience -= SLICE_SECONDS
        while not waiting.wait(patience):
            with self._lock:
                if not waiting.called and self._clock() >= self._since + OVERDUE_SECONDS:
                    self._hand_over()
                if waiting.called:
                    return
                patience = self._patience(queue.index(waiting) + 1)

    def _patience(self, position: int) -> float:
        """Seconds that a thread waits before it looks whether the one with the turn is overdue. The
        first ones in the queues look in time; for the others a look would cost more than it
        brings."""
        return self._since + position * OVERDUE_SECONDS - self._clock()

    def _hand_over(self) -> None:
        """Give the turn to the thread that is next, if any."""
        if not self.waiting:
            self._holder = _NOBODY
            return
        newcomer = bool(self._newcomers) and not (self._newcomer_was_last and self._again)
        self._newcomer_was_last = newcomer
        waiting = (self._newcomers if newcomer else self._again).popleft()
        self._holder, self._since = waiting.thread, self._clock()
        waiting.call()
