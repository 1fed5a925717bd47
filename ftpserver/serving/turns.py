"""Turns: among the session threads of a process, one at a time does small requests.

Lives here: which thread has the turn, and which is next.
Lives elsewhere: when a session takes it and gives it up (session.py, exchange.py), the threads of
parked sessions and which of them looks for work (thread_pool.py).

Python runs one thread at a time, and passes its lock to another thread at each system call. Threads
that store small files take the lock from each other several times for each file, and get less done
together than one of them (docs/decisions/0032). A thread that waits for the turn stays out of that.

The turn is advisory. It protects no data, and a thread that hangs with it blocks no other one:
after `OVERDUE_SECONDS` the next thread gets the turn, and the first one goes on without it. No
thread can know in advance which ``open`` or ``rename`` waits for a disk. A deadlock is impossible,
because a thread that waits for something loses the turn meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident

SLICE_SECONDS = 0.002
"""Seconds after which a thread passes the turn on, if another one waits."""
OVERDUE_SECONDS = 0.005
"""Seconds after which a thread that hasn't passed the turn on loses it, if another one waits."""

_NOBODY = 0
"""An identifier that no thread has."""


class _Waiting:
    """A thread that waits for the turn.

    Attributes:
        thread: The thread's identifier.
        called: True once it was given the turn. It may have lost the turn again by the time it
            notices.
    """

    __slots__ = ("_baton", "called", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.called = False
        self._baton = threading.Lock()
        self._baton.acquire()

    def call(self) -> None:
        """Give the thread the turn."""
        self.called = True
        self._baton.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the turn, at most ``seconds``. Returns whether the thread was called."""
        return self._baton.acquire(timeout=max(0.0, seconds))


class Turns:
    """The turn of one process. All methods are for all threads, known by their identifiers.

    First come, first served, in two queues: one for threads that have used up a slice since they
    last waited for their clients, one for newcomers that have not. The queues alternate. So a
    session with few requests is answered soon beside many that store thousands of files, and cannot
    keep these from going on.

    ``_lock`` guards all fields, and is held for a few instructions. `take` and `pass_on` first read
    them without it. A thread that reads its own identifier in ``_holder`` has the turn, or has just
    lost it, which does no harm. A newcomer that it overlooks is seen the next time. While no thread
    has the turn, none waits for it.

    Args:
        end_lead: Called by a thread whose slice is over, or that has waited as long as a slice:
            from then on another thread of the pool looks for work.
        clock: Returns seconds, of which only differences count.
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
        """When the holder's slice began, on the clock."""
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
        """True if the calling thread has the turn."""
        return self._holder == get_ident()

    def take(self) -> None:
        """Take the turn, or keep it. Call it before each small step.

        Waits while another thread has the turn. The thread that has it passes it on first if its
        slice is over and another one waits.
        """
        # Without the lock: a stale read costs one step out of turn, and the next call corrects it.
        if self._holder == get_ident():
            if not (self._newcomers or self._again) or not self._is_over():
                return
            self._end_lead()
        self._wait()

    def pass_on(self) -> None:
        """As `take`, for a step that needs no turn: a thread without the turn goes on at once."""
        if self._holder == get_ident():
            self.take()

    def give_up(self) -> None:
        """Give up the turn if the calling thread has it: its next step may take long."""
        if self._holder == get_ident():
            with self._lock:
                if self._holder == get_ident():  # not lost meanwhile
                    self._hand_over()

    def go_idle(self) -> None:
        """Give up the turn: the calling thread waits for its client or for work, or ends."""
        me = get_ident()
        # Without the lock: only the thread itself adds or removes its identifier.
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
                # No thread waits (see the class), so the turn is free to take.
                self._holder, self._since = me, self._clock()
                return
            elif not self.waiting:
                # The holder may have had the turn for long, because no other thread wanted it. Its
                # slice counts as over, but it gets the chance to pass the turn on.
                self._since = max(self._since, self._clock() - SLICE_SECONDS)
            queue = self._again if me in self._spent else self._newcomers
            waiting = _Waiting(me)
            queue.append(waiting)
            patience = self._patience(len(queue))
        if queue is self._newcomers:
            if waiting.wait(min(patience, SLICE_SECONDS)):
                return
            self._end_lead()  # meanwhile another thread finds out which sessions have input
            patience -= SLICE_SECONDS
        while not waiting.wait(patience):
            with self._lock:
                # ``called`` is written under the lock: if it is False here, this thread is still in
                # its queue, and `_hand_over` may take it or one before it.
                if not waiting.called and self._clock() >= self._since + OVERDUE_SECONDS:
                    self._hand_over()
                if waiting.called:
                    return
                patience = self._patience(queue.index(waiting) + 1)

    def _patience(self, position: int) -> float:
        """Return the seconds to wait before checking whether the holder is overdue.

        The first threads in the queues check in time. For the others a check would cost more than
        it gains.
        """
        return self._since + position * OVERDUE_SECONDS - self._clock()

    def _hand_over(self) -> None:
        """Give the turn to the next thread, if any. The caller holds ``_lock``."""
        if not self.waiting:
            self._holder = _NOBODY
            return
        newcomer = bool(self._newcomers) and not (self._newcomer_was_last and self._again)
        self._newcomer_was_last = newcomer
        waiting = (self._newcomers if newcomer else self._again).popleft()
        self._holder, self._since = waiting.thread, self._clock()
        waiting.call()
