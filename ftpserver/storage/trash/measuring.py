"""Measuring the trash: counting trees that were moved there as a whole.

Lives here: measuring trees that have no size yet, and what a recount counts as trash.
Lives elsewhere: walking a tree (walk.py), the quota store (ledger.py).

A tree gets to the trash by one rename, without being counted: until it is measured here, it counts
as used space, not as trash. It is walked without any lock. A session that takes something out of it
meanwhile writes a line to the index, and the index is read before the count is accepted.
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
"""Called with an operation, an item of it, and the item's size."""


def counted_in(home: OpenHome, account_id: int) -> Usage:
    """Return how much is known to be an account's trash. Hold the home's lock exclusively."""
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
    """Measure the items of an account's trash that have no size yet. Return how many were measured.

    Operations that another session holds for longer than ``patience`` are left for the next call.

    Args:
        tick: A function that is called now and then.
        patience: Seconds to wait for other sessions that hold an operation.
        on_measured: A function that is called for each item, once its size is settled.

    Raises:
        OSError: The trash cannot be read.
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
        # the walk held no lock: a size is true only if no line about the item was added since
        changed = _changed_since(held, seen.lines)
        true = [
            one for one in walked if one.name not in changed and exists(held.fd, one.name.encode())
        ]
        if not true:
            return 0
        size = sum(one.size or 0 for one in true)
        files = sum(one.files or 0 for one in true)
        # settle before the lines are written: readers of the lines hold no lock, and rely on the
        # quota store being up to date. The outer lease stays until both are done: after a crash
        # between the two, the home is counted again
        with quota_store.freeing(account_id), home.shared():
            with quota_store.freeing(account_id) as settle:
                settle(0, 0, size, files)
            held.append(true)
    items = {item.name: item for item in seen.uncounted}
    for one in true:
        on_measured(seen.name, items[one.name], Usage(one.size or 0, one.files or 0))
    return len(true)


def _walk(trash: int, name: str, item: Item, tick: Callable[[], None]) -> Usage | None:
    """Return the size of an item, itself included; None if it cannot be measured now."""
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
        return None  # taken out meanwhile
    except OSError as error:
        reason = error.strerror
        logger.warning("trash item %s/%s cannot be measured now: %s", name, item.name, reason)
        return None


def _changed_since(held: Opened, lines: int) -> set[str]:
    """Return the items that were measured, or lost a part, since the index had ``lines`` bytes."""
    new = decode(held.content(lines))
    return {line.name for line in new if isinstance(line, Gone | Measured)}
