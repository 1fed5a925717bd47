"""Bringing the accounts file of an earlier version up to date.

Lives here: making the tables, adding what is new in them, mending what an earlier version left.
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
"""Percent of the disk that the trash of an earlier account without a quota may take."""
BUSY_SECONDS = 30.0
"""How long a transaction waits for others, before it is an error."""


class Outdated(StateError):
    """The accounts file is one of an earlier version: the start of a server brings it up to date,
    and nothing else does, for an older server may be using it."""


def upgrade_copy(engine: Engine, path: Path) -> None:
    """Bring a copy of the accounts file at a path, which nobody else has, up to this version."""
    try:
        with engine.begin() as connection:
            version = _version(connection, path)
            if version is not None and version < SCHEMA_VERSION:
                _add_what_is_new(connection, version)
    except DatabaseError as error:
        raise StateError(f"{path}: {error.orig}") from error


def _version(connection: Connection, path: Path) -> int | None:
    """The version of the tables. Raises StateError when it is a later one."""
    version: int | None = connection.execute(select(schema.c.version)).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise StateError(
            f"{path}: written by a newer ftpd (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    return version


def brings_trash(directory: Path) -> bool:
    """Whether the accounts file of a state directory is of a version without trash: a start, which
    brings it up to date, begins to keep what users remove. False where that can't be told."""
    path = directory / DATABASE
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as state:
            row = state.execute("SELECT version FROM schema_version").fetchone()
    except sqlite3.Error:
        return False  # there is none yet, or what is wrong with it is told by whoever opens it
    return row is not None and row[0] is not None and int(row[0]) < _FIRST_WITH_TRASH


def prepare(connection: Connection, path: Path, *, upgrade: bool) -> None:
    """Make the tables, or bring those of an earlier version up to this one."""
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
            f"{SCHEMA_VERSION}): start this one's server, which brings it up to date (ftpd start)"
        )


def _migrate(connection: Connection, path: Path, version: int) -> None:
    """Add what an earlier version didn't have; a copy of the file stays beside it.

    Versions only ever add tables and columns with a default, so the difference is the migration.
    The transaction that this runs in has begun: nobody changes the file meanwhile.
    """
    copy = path.with_name(f"{path.name}.schema-{version}")
    try:
        copy.unlink(missing_ok=True)
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"{copy}: a copy before the upgrade can't be made: {error}") from error
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
        connection.execute(update(account).values(dirty=True))  # files are counted from now on
    if version < _FIRST_WITH_TRASH:  # nothing else bounds what the trash of such accounts takes
        without = update(account).where(account.c.quota.is_(None))
        connection.execute(without.values(trash_max=SHARE_WITHOUT_QUOTA))
    connection.execute(update(schema).values(version=SCHEMA_VERSION))


def _references(key: ForeignKey) -> str:
    """What a column refers to, which SQLAlchemy writes into the table's definition only."""
    return f" REFERENCES {key.column.table.name} ({key.column.name}) ON DELETE {key.ondelete}"


MostFiles = Callable[[int | None, int | None], int | None]
"""How many files an account may have, by its quota and what was set; None for any number."""


def upgrade(directory: Path, most_files: MostFiles) -> None:
    """Bring what an earlier version left in the accounts file up to what this one holds to.

    For the server that starts, and has the root's lock: no other program changes tables that an
    older server may be using. The schema stays the same, and that server can be started again.

    Raises:
        StateError: It can't be done; nothing was changed.
    """
    path = directory / DATABASE
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as state:
            if not _holds(state, TRASH_IN_USED):
                state.create_function("most_files", 2, most_files, deterministic=True)
                _hold_counts(state)
    except sqlite3.Error as error:
        raise StateError(f"{path}: can't be upgraded: {error}") from error


def _holds(state: sqlite3.Connection, constraint: str) -> bool:
    """Whether the table of accounts has a constraint."""
    (made,) = state.execute("SELECT sql FROM sqlite_master WHERE name = 'account'").fetchone()
    return constraint in made


def _hold_counts(state: sqlite3.Connection) -> None:
    """Make the table of accounts anew, with its constraints: SQLite can't add one to a table.

    As https://www.sqlite.org/lang_altertable.html says, in one transaction.
    """
    new = account.to_metadata(MetaData(), name="account_new")
    columns = ", ".join(column.name for column in account.columns)
    state.execute("PRAGMA foreign_keys=OFF")  # dropping a table deletes what refers to it
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
    """Make the counts ones that aren't below 0.

    What is held is what the leases say. All homes are counted anew: links count since then. So does
    the number of files where there is a quota: who has more than half of what that brings gets
    twice what there is.
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
