"""Upgrading the accounts file of an earlier version.

Lives here: making the tables, adding what is new in them, correcting data of an earlier version.
Lives elsewhere: the tables themselves (schema.py), opening the file (database.py).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import (
    Connection,
    Engine,
    ForeignKey,
    MetaData,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateColumn, CreateTable

from ftpserver.errors import StateError
from ftpserver.schema import (
    NOT_BELOW_ZERO,
    SCHEMA_VERSION,
    TRASH_IN_USED,
    account,
    metadata,
    schema,
)
from ftpserver.settings.table import DATABASE

_FIRST_WITH_TRASH = 6
SHARE_WITHOUT_QUOTA = 10
"""The trash limit, in percent of the disk, that older accounts without a quota get."""
BUSY_SECONDS = 30.0
"""Seconds that a transaction waits for others before it fails."""


class Outdated(StateError):
    """The accounts file is from an earlier version. Only the start of a server upgrades it, because
    an older server may be using it."""


def upgrade_copy(engine: Engine, path: Path) -> None:
    """Upgrade a copy of the accounts file, which no one else has; ``path`` is for error texts."""
    try:
        with engine.begin() as connection:
            version = _version(connection, path)
            if version is not None and version < SCHEMA_VERSION:
                _add_what_is_new(connection, version)
    except DatabaseError as error:
        raise StateError(f"{path}: {error.orig}") from error


def _version(connection: Connection, path: Path) -> int | None:
    """Return the version of the tables. Raises StateError if it is a later one."""
    version: int | None = connection.execute(select(schema.c.version)).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise StateError(
            f"{path}: written by a newer ftpd (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    return version


def brings_trash(directory: Path) -> bool:
    """Return True if the accounts file of a state directory is from a version without trash: once
    a start has upgraded it, the server keeps what users remove. False if that is unknown."""
    path = directory / DATABASE
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as state:
            row = state.execute("SELECT version FROM schema_version").fetchone()
    except sqlite3.Error:
        return False  # no file yet, or damaged: opening it reports that
    return row is not None and row[0] is not None and int(row[0]) < _FIRST_WITH_TRASH


def prepare(connection: Connection, path: Path, *, upgrade: bool) -> None:
    """Make the tables, or upgrade those of an earlier version."""
    if not inspect(connection).has_table(schema.name):
        metadata.create_all(connection, checkfirst=False)
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
        return
    version = _version(connection, path)
    if version == SCHEMA_VERSION:
        return
    if version is None:
        metadata.create_all(connection)
    elif upgrade:
        _migrate(connection, path, version)
    else:
        raise Outdated(
            f"{path}: written by an earlier ftpd (schema {version}, this one has "
            f"{SCHEMA_VERSION}): start this server to upgrade it (ftpd start)"
        )


def _migrate(connection: Connection, path: Path, version: int) -> None:
    """Add what an earlier version didn't have, and leave a copy of the old file beside it.

    Versions only ever add tables, and columns with a default, so the difference is the migration.
    The caller's transaction has begun: no one can change the file meanwhile.
    """
    copy = path.with_name(f"{path.name}.schema-{version}")
    try:
        copy.unlink(missing_ok=True)
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"{copy}: cannot copy the file before the upgrade: {error}") from error
    _add_what_is_new(connection, version)


def _add_what_is_new(connection: Connection, version: int) -> None:
    metadata.create_all(connection)
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                foreign = "".join(_references(key) for key in column.foreign_keys)
                added = f"ALTER TABLE {table.name} ADD COLUMN {definition}{foreign}"
                connection.execute(text(added))
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    if version < 2:
        connection.execute(update(account).values(dirty=True))  # files are counted since then
    if version < _FIRST_WITH_TRASH:  # the trash of such accounts has no other limit
        without = update(account).where(account.c.quota.is_(None))
        connection.execute(without.values(trash_max=SHARE_WITHOUT_QUOTA))
    connection.execute(update(schema).values(version=SCHEMA_VERSION))


def _references(key: ForeignKey) -> str:
    """Return the REFERENCES clause of a column, which SQLAlchemy only writes for new tables."""
    return f" REFERENCES {key.column.table.name} ({key.column.name}) ON DELETE {key.ondelete}"


MostFiles = Callable[[int | None, int | None], int | None]
"""Returns how many files an account may have, given its quota and its own limit; None: no limit."""


def upgrade(directory: Path, most_files: MostFiles) -> None:
    """Correct the data that an earlier version left in the accounts file.

    Only for a starting server that holds the root lock: no other program changes tables that an
    older server may be using. The schema stays the same, so the older server can be started again.

    Raises:
        StateError: It failed; nothing was changed.
    """
    path = directory / DATABASE
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as state:
            if not _holds(state, TRASH_IN_USED):
                state.create_function("most_files", 2, most_files, deterministic=True)
                _hold_counts(state)
    except sqlite3.Error as error:
        raise StateError(f"{path}: cannot be upgraded: {error}") from error


def _holds(state: sqlite3.Connection, constraint: str) -> bool:
    """Return True if the table of accounts has a constraint."""
    (made,) = state.execute("SELECT sql FROM sqlite_master WHERE name = 'account'").fetchone()
    return constraint in made


def _hold_counts(state: sqlite3.Connection) -> None:
    """Recreate the table of accounts with its constraints, as SQLite cannot add one to a table.

    This follows https://www.sqlite.org/lang_altertable.html, in one transaction.
    """
    new = account.to_metadata(MetaData(), name="account_new")
    columns = ", ".join(column.name for column in account.columns)
    state.execute("PRAGMA foreign_keys=OFF")  # else DROP TABLE deletes the rows that refer to it
    state.execute("PRAGMA synchronous=FULL")
    state.execute("BEGIN IMMEDIATE")
    try:
        if _holds(state, TRASH_IN_USED):
            return
        if not _holds(state, NOT_BELOW_ZERO):
            _mend_counts(state)
        state.execute(str(CreateTable(new).compile(dialect=sqlite.dialect())))
        state.execute(f"INSERT INTO account_new ({columns}) SELECT {columns} FROM account")
        (last,) = state.execute(
            "SELECT max(seq) FROM sqlite_sequence WHERE name LIKE 'account%'"
        ).fetchone()
        state.execute("DROP TABLE account")
        state.execute("ALTER TABLE account_new RENAME TO account")
        state.execute("DELETE FROM sqlite_sequence WHERE name = 'account'")
        state.execute("INSERT INTO sqlite_sequence VALUES ('account', ?)", (last or 0,))
        state.execute("COMMIT")
    finally:
        if state.in_transaction:
            state.execute("ROLLBACK")


def _mend_counts(state: sqlite3.Connection) -> None:
    """Correct the counts so that none is below 0.

    The reserved amounts are summed from the leases. All homes are counted again, because links
    count since then. With a quota, the number of files is limited since then, too: an account that
    uses more than half of what its quota allows gets a limit of twice its present number.
    """
    for name, of_lease in (("held", "size"), ("held_files", "files")):
        state.execute(
            f"UPDATE account SET {name} = (SELECT coalesce(sum(lease.{of_lease}), 0)"
            " FROM lease WHERE lease.account_id = account.id)"
        )
    state.execute("UPDATE account SET used = max(used, 0), files = max(files, 0), dirty = 1")
    state.execute(
        "UPDATE account SET max_files = 2 * files WHERE max_files IS NULL"
        " AND quota IS NOT NULL AND 2 * files > most_files(quota, max_files)"
    )
