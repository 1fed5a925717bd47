"""Marks of accounts whose used space a full disk has kept from being written down.

Lives here: an empty file for each such account in the state directory, for the next start.
Lives elsewhere: the used space itself (ledger.py), counting (recount.py).

Without room for the accounts file a removal can be made all the same, and it is what makes room.
It is settled later, if the server lives until then. What was just removed has left enough room for
an empty file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger("ftpd.ledger")

_PREFIX = "uncounted-"


def mark(state: Path, account_id: int) -> None:
    """Have the next start count an account's home."""
    path = _path(state, account_id)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        logger.error("%s: can't be made (%s): run ftpd recount", path, error.strerror)


def is_marked(state: Path, account_id: int) -> bool:
    """Whether the next start counts it."""
    return _path(state, account_id).exists()


def marked(state: Path) -> list[int]:
    """The accounts that are marked."""
    names = [path.name.removeprefix(_PREFIX) for path in state.glob(f"{_PREFIX}*")]
    return [int(name) for name in names if name.isdecimal()]


def unmark(state: Path, account_id: int) -> None:
    """It will be counted, whatever happens."""
    _path(state, account_id).unlink(missing_ok=True)


def _path(state: Path, account_id: int) -> Path:
    return state / f"{_PREFIX}{account_id}"
