"""Repairing what a crash left: the disk is the truth, and the ledger follows it.

Lives here: counting a home anew, and removing from its staging what nobody owns.
Lives elsewhere: which accounts are in doubt (ledger.py), when it is done (daemon/server.py).
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
from ftpserver.storage.trash.measuring import counted_in
from ftpserver.storage.walk import Usage
from ftpwire import paths
from ftpwire.paths import Parts

_PATIENCE = 60.0
"""Seconds that a home's lock is waited for: sessions hold it for the moment of a commit."""


def recount(
    ledger: Ledger,
    account_id: int,
    home: Home,
    closed: Collection[Parts] = (),
    *,
    patience: float = _PATIENCE,
) -> Usage:
    """Set an account's used space to what its home holds; returns that. Closes the home.

    Args:
        closed: Where homes of other accounts lie in it: nothing there is touched or counted.
        patience: Seconds that the home's lock is waited for.

    Raises:
        OSError: It can't be read; TimeoutError: its sessions don't let go of it.
    """
    try:
        with home.alone(patience):
            in_use, _ = _clean_staging(ledger, account_id, home)
            counted = home.count(lambda directory: home.clean_beside(directory, in_use), closed)
            trash = counted_in(home, account_id)
            ledger.recounted(account_id, counted.size, counted.files, trash.size, trash.files)
            return counted
    finally:
        home.close()


def clean(ledger: Ledger, account_id: int, directory: Path) -> bool:
    """Remove from a home's staging what nobody owns. Cheap when there is nothing in it.

    Returns:
        Whether the home has to be counted: a tree was there, as of a removal that has failed in the
        middle of it, and nobody knows how much of it was settled.

    Raises:
        OSError: The home can't be opened.
    """
    try:
        names = os.listdir(os.fsencode(directory) + b"/" + paths.STAGING)
    except FileNotFoundError:
        return False  # never used
    if set(names) <= NOT_STAGED:
        return False
    home = Home(directory)
    try:
        with home.alone(_PATIENCE):
            return _clean_staging(ledger, account_id, home)[1]
    finally:
        home.close()


def put_back_all(directory: Path) -> None:
    """Put back what a replacement of a tree in two steps left moved aside. Cheap when nothing was.

    Raises:
        OSError: The home can't be opened; TimeoutError: its sessions don't let go of it.
    """
    try:
        names = os.listdir(os.fsencode(directory) + b"/" + paths.STAGING)
    except FileNotFoundError:
        return  # never used
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
    """Returns what says whether a name in staging belongs to somebody; and whether a tree went."""
    spared = put_back(home)
    # looked at first: what comes into it later has a lease that is not looked for any more
    there = home.staged()
    live = {run.encode() for run in ledger.live_incarnations()}
    owned = ledger.owned_staging()  # of all accounts: several may have this home
    for name in sorted(ledger.owned_staging(account_id) - there):  # it got its name before a crash
        ledger.drop_kept(account_id, name)

    def in_use(name: bytes) -> bool:
        return name in spared or staging_of(name) in owned or name.partition(b"-")[0] in live

    trees = home.clean_staging(lambda name: in_use(name) or name not in there)
    return in_use, trees
