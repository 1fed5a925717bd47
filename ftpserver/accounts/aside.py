"""Work that has to give way: hashing passwords while others wait for their files.

Lives here: a thread for it, with a small right to the processor. Lives elsewhere: what is done in
it (accounts.py), how much of it at once (limits.py).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

_NICE = 15
"""So much nicer than the sessions. Next to others that want the processor it gets a thirtieth of
what they do; with 19 it would be less than half of that, and log-ins would take seconds while many
transfers run."""
_Result = TypeVar("_Result")


def aside(work: Callable[[], _Result]) -> _Result:
    """Do it in a thread that leaves the processor to others; returns what it returns.

    A thread can give up its share of the processor, and can't take it back: so it is a new one
    each time, which costs a hundredth of what a hash does. The work should not hold the
    interpreter's lock for long: whoever waits for that would wait for this thread's turn.
    """
    if sys.platform != "linux":
        return work()  # elsewhere the whole process would give way
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            mine = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, mine) + _NICE
            os.setpriority(os.PRIO_PROCESS, mine, min(19, nice))
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="aside")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
