"""The lock that makes sessions purge the trash of a home one after another.

Lives here: the lock, which works between sessions and processes. Lives elsewhere: what is purged to
free space (evicting_store.py), removing it (discarding.py).

While something is being purged, it no longer counts as trash, and isn't free yet. A session that
needs space at that moment would be refused, although there will be enough soon. So a session that
needs space purges alone: it holds a flock of the trash's directory exclusively, and all others that
purge hold it shared. Each waits for a limited time, then goes on without the lock, so that one
session that hangs doesn't block the others.

This lock is taken before any other. A session that already holds another one (for example, one that
frees space on a full disk in the middle of a commit) waits only for a moment.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftpserver.storage.flock import flock_until, try_flock
from ftpserver.storage.open_home import OpenHome
from ftpserver.storage.trash.directory import open_trash


@contextmanager
def eviction_lock(
    home: OpenHome,
    *,
    alone: bool,
    patience: float,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock for purging within the context; without it, if ``patience`` is over.

    Args:
        alone: True for an exclusive lock, False for a shared one.
        patience: Seconds to wait for other sessions.
        tick: A function that is called while waiting. It may raise, which ends the wait.

    Raises:
        OSError: The trash cannot be opened.
    """
    trash = open_trash(home)
    if trash is None:
        yield
        return
    try:
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        if not try_flock(trash, how):
            home.will_block()
            flock_until(trash, how, time.monotonic() + patience, tick)
        yield
    finally:
        os.close(trash)  # this releases the lock
