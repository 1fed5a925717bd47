"""Locks of open files by flock(2) that are waited for with a limit.

Lives here: trying, and trying again.
Lives elsewhere: what is locked (open_home.py, upload_locks.py, trash/directory.py,
trash/eviction_lock.py).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable

_AGAIN = 0.02
"""Seconds between two attempts to get a lock."""


def try_flock(fd: int, how: int) -> bool:
    """Lock an open file with ``LOCK_SH`` or ``LOCK_EX``. False: another open file holds a lock."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def flock_until(
    fd: int, how: int, deadline: float, tick: Callable[[], None] = lambda: None
) -> bool:
    """Lock an open file as `try_flock` does, as soon as that is possible.

    Args:
        deadline: The time on ``time.monotonic()`` from which on it is not tried again.
        tick: A function that is called while waiting. It may raise, which ends the wait.

    Returns:
        False if the lock was not free in time.
    """
    while not try_flock(fd, how):
        if time.monotonic() >= deadline:
            return False
        tick()
        time.sleep(_AGAIN)  # flock(2) has no timeout
    return True
