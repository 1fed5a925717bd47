"""Names of accounts, for the completion of bash, zsh and fish.

Lives here: reading the names from the accounts file. Lives elsewhere: the shells' scripts
(ftpwire/completion.py), accounts (accounts/accounts.py).

The Tab key changes nothing: an older file is not migrated, and root creates no files that the
server's user cannot write. If the names cannot be read that way, none are offered.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ftpserver.settings.table import DATABASE, DEFAULT_ROOT, state_of

_SECONDS = 0.3
"""Seconds to wait for a lock on the file."""


def account_names(
    ctx: click.Context, param: click.Parameter, begun: str
) -> list[CompletionItem[str]]:
    """Offer the accounts of the root that the line or the environment names."""
    import sqlite3  # imported here: only the Tab key needs it

    root = Path(ctx.params.get("root") or DEFAULT_ROOT)
    try:
        return [CompletionItem(name) for name in _names(root) if name.startswith(begun)]
    except sqlite3.Error:
        return []  # completion cannot print errors: the command itself will


def _names(root: Path) -> list[str]:
    """Return the names of all accounts. Raises sqlite3.Error."""
    import sqlite3

    file = state_of(root.absolute()) / DATABASE
    beside = [file.with_name(f"{DATABASE}{suffix}").exists() for suffix in ("-wal", "-shm")]
    if any(beside) and not all(beside):
        return []  # SQLite would create the other one
    mode = "mode=ro" if all(beside) else "immutable=1"  # without -wal, no process has it open
    with closing(sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True, timeout=_SECONDS)) as state:
        return [name for (name,) in state.execute("SELECT name FROM account ORDER BY name")]
