"""Marks of accounts whose usage could not be recorded, because the disk was full.

Lives here: an empty file for each such account in the state directory, for the next start.
Lives elsewhere: the usage itself (ledger.py), counting (recount.py).

A removal succeeds even if the accounts database cannot be written, because removing is what frees
the disk. It is settled later if the server lives until then; otherwise the mark makes the next
start count. The space freed by the removal is enough for an empty file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger("ftpd.ledger")

_PREFIX = "uncounted-"


def mark(state: Path, account_id: int) -> None:
    """Make the next start count an account's home."""
    path = _path(state, account_id)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        logger.error("%s: cannot be created (%s): run ftpd recount", path, error.strerror)


def is_marked(state: Path, account_id: int) -> bool:
    """Return whether the next start counts an account's home."""
    return _path(state, account_id).exists()


def marked(state: Path) -> list[int]:
    """Return the ids of the marked accounts."""
    names = [path.name.removeprefix(_PREFIX) for path in state.glob(f"{_PREFIX}*")]
    return [int(name) for name in names if name.isdecimal()]


def unmark(state: Path, account_id: int) -> None:
    """Remove the mark of an account that is certain to be counted."""
    _path(state, account_id).unlink(missing_ok=True)


def _path(state: Path, account_id: int) -> Path:
    return state / f"{_PREFIX}{account_id}"
