"""The home of a new account: checking a directory, and making it.

Lives elsewhere: finding nested homes (nesting.py), removing homes (removal.py), the operations in
homes (storage/home.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ftpserver.accounts.nesting import Homes
from ftpserver.settings.table import state_of
from ftpwire import paths
from ftpwire.errors import BadAccount


def check_home(directory: Path, name: str, root: Path, homes: Homes) -> None:
    """Raise BadAccount if the server's own state or another account's home is in the way.

    Args:
        name: The name of the new account.
        homes: The homes of the other accounts.
    """
    real, state = directory.resolve(), state_of(root).resolve()
    if real.is_relative_to(state) or state.is_relative_to(real):
        raise BadAccount(f"{_shown(directory)}: the server keeps its state there: choose another")
    if (outer := homes.outer(directory)) is not None:
        raise BadAccount(
            f"{_shown(directory)}: it is inside the home of {outer}, who could remove it: choose "
            "another, or give both the same home"
        )
    if (inner := homes.inner(directory)) is not None:
        raise BadAccount(
            f"{_shown(directory)}: the home of {inner} is inside it, and {name} could remove that: "
            "choose another"
        )


def make_home(directory: Path, name: str, *, given: bool) -> None:
    """Make the directory, or use the one that exists.

    Args:
        given: True if it was named, and so may have contents.

    Raises:
        BadAccount: It cannot be a home.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if given:
            _try_staging(directory)
        elif _has_contents(directory):
            raise BadAccount(
                f"{_shown(directory)}: it exists and isn't empty: "
                f"use --home {_shown(directory)} to give its files to {name}"
            )
    except OSError as error:
        why = (error.strerror or "").lower()
        raise BadAccount(f"{_shown(directory)}: it cannot be a home: {why}") from error


def _try_staging(directory: Path) -> None:
    """Raise OSError if sessions couldn't make a staging directory there."""
    staging = directory / os.fsdecode(paths.STAGING)
    try:
        staging.mkdir(mode=0o700)
    except FileExistsError:
        return
    staging.rmdir()


def _shown(directory: Path) -> str:
    return paths.show(os.fsencode(directory))


def _has_contents(directory: Path) -> bool:
    """Return True if there is more than what a session without uploads leaves."""
    from ftpserver.storage.home_staging import NOT_STAGED

    raw = os.fsencode(directory)
    found = set(os.listdir(raw))
    if found - paths.RESERVED:
        return True
    inside: set[bytes] = set()
    for name in found:
        inside.update(os.listdir(raw + b"/" + name))
    return bool(inside - NOT_STAGED)


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove homes that were just made for accounts that couldn't be added."""
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            pass  # it isn't empty any longer: it stays
