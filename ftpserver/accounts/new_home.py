"""The home of a new account: whether a directory can be one, and making it.

Lives elsewhere: finding homes that lie in others (nesting.py), removing homes (removal.py), what
sessions do in them (storage/home.py).
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
    """Raise BadAccount where the server's own state or the homes of others are in the way.

    Args:
        name: Of the new account.
        homes: Those of the others.
    """
    real, state = directory.resolve(), state_of(root).resolve()
    if real.is_relative_to(state) or state.is_relative_to(real):
        raise BadAccount(f"{_shown(directory)}: the server's own state is there: take another")
    if (outer := homes.outer(directory)) is not None:
        raise BadAccount(
            f"{_shown(directory)}: lies in the home of {outer}, who could remove it: take "
            "another, or give both the same"
        )
    if (inner := homes.inner(directory)) is not None:
        raise BadAccount(
            f"{_shown(directory)}: the home of {inner} lies in it, and {name} could remove it: "
            "take another"
        )


def make_home(directory: Path, name: str, *, given: bool) -> None:
    """Make the directory, or take the one that is there.

    Args:
        given: It was named, and may have contents.

    Raises:
        BadAccount: It can't be a home.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if given:
            _try_staging(directory)
        elif _has_contents(directory):
            raise BadAccount(
                f"{_shown(directory)}: exists and has contents: "
                f"give --home {_shown(directory)} to hand them to {name}"
            )
    except OSError as error:
        why = (error.strerror or "").lower()
        raise BadAccount(f"{_shown(directory)}: can't be a home: {why}") from error


def _try_staging(directory: Path) -> None:
    """Raise OSError when sessions couldn't make what they need in a home."""
    staging = directory / os.fsdecode(paths.STAGING)
    try:
        staging.mkdir(mode=0o700)
    except FileExistsError:
        return
    staging.rmdir()


def _shown(directory: Path) -> str:
    return paths.show(os.fsencode(directory))


def _has_contents(directory: Path) -> bool:
    """Whether there is more than a session leaves that stored nothing."""
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
    """Take back homes that were made just now for accounts that weren't."""
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            pass  # somebody has put something into it: it stays
