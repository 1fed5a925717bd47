"""The accounts file: opening it, and how a transaction begins.

Lives here: the SQLAlchemy engine, what is done where nothing can be written.
Lives elsewhere: the tables (schema.py), bringing those of an earlier version up to date
(migration.py), what the rows mean (accounts/accounts.py, storage/ledger.py).

SQL that SQLite and PostgreSQL both speak. With SQLite every transaction begins IMMEDIATE: a
deferred one that turns into a writer fails as busy whatever the time-out. Commits are not
synced (a lost settlement is repaired from the disk) unless the transaction is ``durable``.
"""

from __future__ import annotations

import functools
import os
import secrets
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
)
from sqlalchemy.exc import DatabaseError

from ftpserver import ballast
from ftpserver.errors import StateError
from ftpserver.migration import BUSY_SECONDS, Outdated, prepare, upgrade_copy
from ftpserver.settings.table import DATABASE
from ftpserver.snapshot import open_snapshot
from ftpwire.beneath import OPEN_DIRECTORY, rename_new
from ftpwire.errors import CommandError, DiskFull, Forbidden

_COME_LATER = ("state.db-wal", "audit.jsonl", "first-login")
"""Files that are only made where there are accounts."""
_UNUSABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


def open_state(directory: Path, *, upgrade: bool = False) -> Engine:
    """Open the accounts file in ``directory``, made at first use.

    On a full disk the room that is kept back for that is used.

    Args:
        upgrade: Bring a file of an earlier version up to date. For who has the root's lock.

    Raises:
        Outdated: It is from an earlier version.
        StateError: It is damaged, from a newer version, or can't be written.
    """
    try:
        return _open_state(directory, upgrade)
    except Outdated:
        raise
    except StateError:
        if not ballast.is_full(directory) or not ballast.release(directory):
            raise
    return _open_state(directory, upgrade)


def open_to_look(directory: Path, *, trying: bool = False) -> Engine:
    """Open the accounts file for a command that changes nothing, also where nothing can be written.

    One of an earlier version is copied to memory, and the copy brought up to date.

    Args:
        trying: It tries out changes, and rolls them back. In a copy, too, they are possible then.

    Raises:
        StateError: It is damaged, from a newer version, or can't be read.
    """
    try:
        return open_state(directory)
    except Outdated as error:
        why = str(error)
    except StateError as error:
        if _is_writable(directory) or not (directory / DATABASE).exists():
            raise
        why = str(error)
    refusal = None if trying else lambda: StateError(why)
    return open_snapshot(directory, refusal, upgrade_copy)


class Opened(NamedTuple):
    """An accounts file to serve from.

    Attributes:
        trouble: Why nothing can be changed; None when it can.
    """

    engine: Engine
    trouble: str | None = None


def open_to_serve(directory: Path) -> Opened:
    """Open the accounts file for a server, which serves what it can where nothing can be written.

    Raises:
        StateError: As `open_state`, for another reason than a full or a read-only disk.
    """
    try:
        return Opened(open_state(directory, upgrade=True))
    except StateError as error:
        refusal = _unwritable(directory)
        if refusal is None or not (directory / DATABASE).exists():
            raise
        trouble = f"{error}: nothing can be changed until the server is started anew"
    return Opened(open_snapshot(directory, lambda: refusal, upgrade_copy), trouble)


def _unwritable(directory: Path) -> CommandError | None:
    """What to tell clients who want to change something, if the disk does not let anybody."""
    if ballast.is_full(directory):
        return DiskFull("the server's disk is full")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return Forbidden("the server's disk is read-only")
    return None


def _is_writable(directory: Path) -> bool:
    probe = directory / f".probe-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"x")
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True


def _open_state(directory: Path, upgrade: bool) -> Engine:
    path = directory / DATABASE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _begin_new(path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            empty = os.fstat(fd).st_size == 0
        finally:
            os.close(fd)
    except (OSError, DatabaseError) as error:
        where, why = _told(error, directory)
        raise StateError(f"{where}: can't be written: {why}") from error
    if empty:
        raise StateError(f"{path}: the file is damaged: it is empty")
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # any name: ? and % mean nothing there
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=4,
        max_overflow=32,
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        with engine.begin() as connection:
            prepare(connection, path, upgrade=upgrade)
    except DatabaseError as error:
        engine.dispose()
        raise StateError(f"{path}: {error.orig}") from error
    except StateError:
        engine.dispose()
        raise
    event.listen(engine, "handle_error", functools.partial(_on_error, path))
    return engine


def _told(error: OSError | DatabaseError, directory: Path) -> tuple[str, str]:
    """What could not be written, and why."""
    if isinstance(error, OSError):
        return os.fsdecode(error.filename or directory), error.strerror or str(error)
    return str(directory), str(error.orig)


def _begin_new(path: Path) -> None:
    """Make the accounts file, which gets its name when it is whole: an empty one is damaged.

    Raises:
        StateError: There was one before, for something of it is left: nobody is to find himself
            without accounts, and with a new server that lets nobody in.
    """
    for name in _COME_LATER:
        left = path.with_name(name)
        if left.exists() and not path.exists():  # which another start may have made meanwhile
            raise StateError(
                f"{path}: is missing, though {left.name} is there: restore a backup, or move "
                f"{path.parent} away to begin without accounts"
            )
    new = path.with_name(f"{DATABASE}.{secrets.token_hex(4)}.new")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _fill(new)
        os.fsync(fd)
        directory = os.open(path.parent, OPEN_DIRECTORY)
        try:
            with suppress(FileExistsError):  # somebody else was quicker, with the same
                rename_new(directory, os.fsencode(new.name), directory, os.fsencode(path.name))
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.close(fd)
        new.unlink(missing_ok=True)


def _fill(new: Path) -> None:
    """Make the tables in a file that nobody knows yet, and that is dropped if this fails.

    So there is nothing to roll back, and one sync at the end does for all: SQLite's own, several
    for each table, would be most of a first start.
    """
    engine = create_engine(URL.create("sqlite", database=str(new)))
    event.listen(engine, "connect", _on_connect_to_new)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.begin() as connection:
            prepare(connection, new, upgrade=False)
        with closing(engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode=WAL")  # lasts, once set
    finally:
        engine.dispose()


def durable(engine: Engine) -> Engine:
    """The same engine, with transactions that survive a power cut once committed."""
    return engine.execution_options(durable=True)


def reading(engine: Engine) -> Engine:
    """The same engine, with transactions that only read: they wait for no writer."""
    return engine.execution_options(reading=True)


def _on_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _on_begin says
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_connect_to_new(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=OFF")
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


def _on_error(path: Path, context: ExceptionContext) -> None:
    """Turn what is wrong with the file, and not with what was asked, into one clear line."""
    error = context.original_exception
    if not isinstance(error, sqlite3.DatabaseError):
        return
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest are details of it
    if code == sqlite3.SQLITE_FULL:
        ballast.release(path.parent)  # so that the next try finds some
        raise DiskFull("the server's disk is full") from None
    if code == sqlite3.SQLITE_IOERR and ballast.is_full(path.parent):
        ballast.release(path.parent)
        raise DiskFull("the server's disk is full") from None
    if code in _UNUSABLE:
        raise StateError(f"{path}: {error}") from error


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reading", False):
        connection.exec_driver_sql("BEGIN")
        return
    full = options.get("durable", False)
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
