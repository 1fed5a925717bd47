"""Repairs after a crash: the disk is the truth, and the quota store is corrected from it.

Lives here: counting a home again, and removing files without an owner from its staging directory.
Lives elsewhere: which accounts are in doubt (ledger.py), when they are counted (daemon/server.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import NOT_STAGED
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.put_back import is_note, put_back
from ftpserver.storage.resumable import staging_of
from ftpserver.storage.trash.directory import operations_in
from ftpserver.storage.trash.measuring import counted_in
from ftpserver.storage.walk import Usage
from ftpwire import paths
from ftpwire.paths import Parts

_PATIENCE = 60.0
"""Seconds to wait for a home's lock. Sessions hold it only for a commit."""


def recount(
    ledger: Ledger,
    account_id: int,
    home: Home,
    closed: Collection[Parts] = (),
    *,
    patience: float = _PATIENCE,
) -> Usage:
    """Set an account's usage to what its home contains; return that. Closes the home.

    Evictions that a crash has interrupted were done, or not, as the trash says.

    Args:
        closed: The homes of other accounts inside it, which are neither counted nor changed.
        patience: Seconds to wait for the home's lock.

    Raises:
        OSError: The home cannot be read.
        TimeoutError: Its sessions don't release the lock.
    """
    try:
        with home.alone(patience):
            in_use, _ = _clean_staging(ledger, account_id, home)
            counted = home.count(lambda directory: home.clean_beside(directory, in_use), closed)
            trash = counted_in(home, account_id)
            ledger.end_evictions(account_id, operations_in(home))
            ledger.recounted(account_id, counted.size, counted.files, trash.size, trash.files)
            return counted
    finally:
        home.close()


def clean(ledger: Ledger, account_id: int, directory: Path) -> bool:
    """Remove files without an owner from a home's staging. Fast if there are none.

    Returns:
        True if the home has to be counted: a tree was removed, for example the rest of a removal
        that failed, and how much of it was settled isn't known.

    Raises:
        OSError: The home cannot be opened.
    """
    try:
        names = os.listdir(os.fsencode(directory) + b"/" + paths.STAGING)
    except FileNotFoundError:
        return False  # the home was never used
    if set(names) <= NOT_STAGED:
        return False
    home = Home(directory)
    try:
        with home.alone(_PATIENCE):
            return _clean_staging(ledger, account_id, home)[1]
    finally:
        home.close()


def put_back_all(directory: Path) -> None:
    """Move back trees that an interrupted replacement has left in staging. Fast if there are none.

    Raises:
        OSError: The home cannot be opened.
        TimeoutError: Its sessions don't release the lock.
    """
    try:
        names = os.listdir(os.fsencode(directory) + b"/" + paths.STAGING)
    except FileNotFoundError:
        return  # the home was never used
    if not any(is_note(name) for name in names):
        return
    home = Home(directory)
    try:
        with home.alone(_PATIENCE):
            put_back(home)
    finally:
        home.close()


def _clean_staging(
    ledger: Ledger, account_id: int, home: Home
) -> tuple[Callable[[bytes], bool], bool]:
    """Clean a home's staging.

    Returns:
        A function that returns True if a name in staging has an owner; and True if a tree was
        removed.
    """
    left_alone = put_back(home)
    # Read the names before the leases, and remove only these: a file that is staged later may have
    # a lease that isn't seen here.
    there = home.staged()
    live = {run.encode() for run in ledger.live_incarnations()}
    owned = ledger.owned_staging()  # of all accounts: several may have this home
    # a lease whose file is gone: it was renamed to its target before a crash
    for name in sorted(ledger.owned_staging(account_id) - there):
        ledger.drop_kept(account_id, name)

    def in_use(name: bytes) -> bool:
        return name in left_alone or staging_of(name) in owned or name.partition(b"-")[0] in live

    trees = home.clean_staging(lambda name: in_use(name) or name not in there)
    return in_use, trees
