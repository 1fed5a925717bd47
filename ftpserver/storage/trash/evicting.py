"""Who gives up trash of a home, one after another.

Lives here: taking turns at that, between sessions and processes. Lives elsewhere: what is given up
for want of room (making_room.py), removing it (discarding.py).

What is being given up is in the trash no more, and not free yet either. A session that needs room
just then would be refused, though there is going to be some. So who needs room gives up trash
alone, by a flock of the trash's directory; all others who remove something from it hold that
shared. Each waits for a while only, and goes on without then: nobody hangs with someone who does.

It is taken before any other lock. Who holds another one all the same, as who makes room on a full
disk in the middle of a commit, waits for a moment at most.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpserver.storage.open_home import OpenHome
from ftpserver.storage.trash.directory import open_trash

_AGAIN = 0.01
"""Seconds after which a lock is tried again."""


@contextmanager
def giving_up(
    home: OpenHome,
    *,
    alone: bool,
    patience: float,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Take part in giving up trash, as long as the context lasts.

    Args:
        alone: While nobody else does.
        patience: Seconds that others are waited for.
        tick: Called while it waits. May raise, as when that is cancelled.

    Raises:
        OSError: The trash can't be opened.
    """
    trash = open_trash(home)
    if trash is None:
        yield
        return
    try:
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        if not _try(trash, how):
            home.will_block()
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and not _try(trash, how):
                tick()
                pause(_AGAIN)
        yield
    finally:
        os.close(trash)  # and with it the lock


def _try(trash: int, how: int) -> bool:
    try:
        fcntl.flock(trash, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pause(seconds: float) -> None:
    """Wait before the lock is tried again: flock can't wait with a limit."""
    time.sleep(seconds)
