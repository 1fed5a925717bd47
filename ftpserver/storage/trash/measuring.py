"""How much is in the trash: counting what was moved there as a whole.

Lives here: counting trees that nobody has counted, and what a recount takes for trash.
Lives elsewhere: walking a tree (walk.py), the books (ledger.py).

A tree gets to the trash by one rename, uncounted: until it is counted here, it counts as used, and
not as trash. It is walked without any lock; whatever takes something out of it meanwhile says so in
the index, which is looked at before the count is taken for true.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable

from ftpserver.storage.open_home import OpenHome
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.trash.directory import Opened, alone, exists, names_in, open_trash
from ftpserver.storage.trash.glance import glance, glances, has_trees, is_of
from ftpserver.storage.trash.index import Gone, Item, Measured, decode
from ftpserver.storage.walk import Usage, counted_size, open_as_it_is, stored_in_tree
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import Busy, Expired

logger = logging.getLogger("ftpd.trash")

OnMeasured = Callable[[str, Item, Usage], None]
"""Told an operation, an item of it, and how much that is."""


def counted_in(home: OpenHome, account_id: int) -> Usage:
    """What is known to be an account's trash. Hold the home's lock alone."""
    trash = open_trash(home)
    if trash is None:
        return Usage(0, 0)
    try:
        total = Usage(0, 0)
        for found in glances(trash, account_id):
            total += found.counted()
        return total
    finally:
        os.close(trash)


def measure(
    home: OpenHome,
    quota_store: QuotaStore,
    account_id: int,
    tick: Callable[[], None] = lambda: None,
    *,
    patience: float = 0.0,
    on_measured: OnMeasured = lambda operation, item, usage: None,
) -> int:
    """Count what nobody has counted of an account's trash; returns how many items were.

    What somebody is at is left for another time.

    Args:
        tick: Called now and then on the way.
        patience: Seconds that others are waited for who hold an operation.
        on_measured: Told of each item what was counted, once that is settled.

    Raises:
        OSError: The trash can't be read.
    """
    trash = open_trash(home)
    if trash is None:
        return 0
    done = 0
    try:
        for name in names_in(trash):
            if not has_trees(trash, name):
                continue
            try:
                done += _measure(
                    home, quota_store, account_id, trash, name, tick, patience, on_measured
                )
            except (Busy, Expired):
                continue
        return done
    finally:
        os.close(trash)


def _measure(
    home: OpenHome,
    quota_store: QuotaStore,
    account_id: int,
    trash: int,
    name: str,
    tick: Callable[[], None],
    patience: float,
    on_measured: OnMeasured,
) -> int:
    seen = glance(trash, name)
    if seen is None or not is_of(seen.contents, account_id):
        return 0
    walked = []
    for item in seen.uncounted:
        usage = _walk(trash, seen.name, item, tick)
        if usage is not None:
            walked.append(Measured(item.name, usage.size, usage.files))
    if not walked:
        return 0
    with alone(home, trash, seen.name, patience=patience) as held:
        changed = _changed_since(held, seen.lines)
        true = [
            one for one in walked if one.name not in changed and exists(held.fd, one.name.encode())
        ]
        if not true:
            return 0
        size = sum(one.size or 0 for one in true)
        files = sum(one.files or 0 for one in true)
        # settled first: who sees the lines holds nothing, and relies on the books. The outer lease
        # stays until both are done: a crash between them has the home counted
        with quota_store.freeing(account_id), home.shared():
            with quota_store.freeing(account_id) as settle:
                settle(0, 0, size, files)
            held.append(true)
    items = {item.name: item for item in seen.uncounted}
    for one in true:
        on_measured(seen.name, items[one.name], Usage(one.size or 0, one.files or 0))
    return len(true)


def _walk(trash: int, name: str, item: Item, tick: Callable[[], None]) -> Usage | None:
    """How much an item is, itself included; None when that can't be told now."""
    try:
        operation = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
        try:
            info = os.stat(item.name, dir_fd=operation, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                return Usage(counted_size(info), 1)
            fd = open_as_it_is(operation, item.name.encode())
        finally:
            os.close(operation)
        try:
            return stored_in_tree(fd, tick) + Usage(0, 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None  # taken meanwhile
    except OSError as error:
        reason = error.strerror
        logger.warning("the trash can't be counted now: %s/%s: %s", name, item.name, reason)
        return None


def _changed_since(held: Opened, lines: int) -> set[str]:
    """The items of which somebody has taken something, or that were counted, since the index was
    so long."""
    new = decode(held.content(lines))
    return {line.name for line in new if isinstance(line, Gone | Measured)}
