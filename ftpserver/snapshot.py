"""A snapshot: a copy of the accounts file in memory, to read where the file cannot be written.

Lives here: making the copy and opening it. Lives elsewhere: the tables (schema.py), and the file
where it can be written (database.py).

On a read-only disk, SQLite reads a file in WAL mode only as "immutable", which ignores the WAL: a
token that was revoked a minute ago would be valid again. So the file is read without locks there:
no one can write to it, and SQLite then keeps the WAL's index in the memory of this process. Where
the disk can be written, an older server may be writing, and SQLite locks the file as usual.

The copy holds password hashes. It has no name in any directory, so that nothing is left of it if
the process is killed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sqlite3
import stat
import weakref
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.engine import ExceptionContext

from ftpserver.errors import StateError
from ftpserver.settings.table import DATABASE

_BUSY_SECONDS = 30.0
_READS, _WRITES = 18, 19
"""The offsets in an SQLite file's header of its read and write version: 1 for a journal, 2 for a
WAL, which a database in memory cannot have."""
_LEFT = Path("/dev/shm")
"""The directory in which earlier versions made copies, and left them if they were killed."""


def open_snapshot(
    state: Path,
    refusal: Callable[[], Exception] | None,
    prepare: Callable[[Engine, Path], None] = lambda engine, path: None,
) -> Engine:
    """Open a copy of the present accounts file of a state directory.

    Args:
        refusal: Makes the error to raise for a change. None: the copy, which no one else sees, may
            be changed.
        prepare: Changes the copy before it is opened; called with its engine, and with the path of
            the file for messages.

    Raises:
        StateError: There is no such file, or it cannot be read.
    """
    remove_left()
    name = f"file:/ftpd-{secrets.token_hex(8)}?vfs=memdb"  # only this process can open it

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(name, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)

    keeper = connect()  # the copy exists as long as a connection is open
    try:
        _copy(state / DATABASE, keeper)
    except (OSError, sqlite3.Error) as error:
        keeper.close()
        why = error.strerror if isinstance(error, OSError) else error
        raise StateError(f"{state / DATABASE}: cannot be read: {why}") from None
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    weakref.finalize(engine, keeper.close)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        prepare(engine, state / DATABASE)
    finally:
        engine.dispose()  # later connections may only read
    if refusal is None:
        return engine
    event.listen(engine, "connect", _only_read)

    def on_error(context: ExceptionContext) -> None:
        error = context.original_exception
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY:
            raise refusal() from None

    event.listen(engine, "handle_error", on_error)
    return engine


def _copy(source: Path, copy: sqlite3.Connection) -> None:
    """Copy an accounts file page by page, even a damaged one: reading it finds the damage.

    Raises:
        OSError, sqlite3.Error: It cannot be read.
    """
    source.stat()  # SQLite's error would not name the reason
    try:
        if os.statvfs(source).f_flag & os.ST_RDONLY:
            pages = _pages(source, _unlocked(source))
        else:
            pages = _pages(source, "mode=ro")
    except sqlite3.OperationalError:
        # this process may not make the files beside it that locks need
        pages = _pages(source, _unlocked(source))
    pages[_READS] = pages[_WRITES] = 1
    with closing(sqlite3.connect(":memory:")) as there:
        there.deserialize(bytes(pages))
        there.backup(copy)


def _unlocked(source: Path) -> str:
    """Return the URI options to open a file that no process writes to."""
    try:
        has_log = source.with_name(f"{source.name}-wal").stat().st_size > 0
    except FileNotFoundError:
        has_log = False
    return "mode=ro&vfs=unix-none" if has_log else "mode=ro&immutable=1"


def _pages(source: Path, options: str) -> bytearray:
    """Read a consistent state of an SQLite file, including its WAL."""
    uri = f"{source.absolute().as_uri()}?{options}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
        connection.isolation_level = None
        if "vfs" in options:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # no file for the WAL's index
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return bytearray(connection.serialize())


def remove_left() -> None:
    """Remove copies that killed processes of earlier versions have left in memory; not those of
    other users, nor one that is still open."""
    with suppress(OSError):
        for directory in _LEFT.glob("ftpd-????????"):
            with suppress(OSError):
                info = directory.lstat()
                mine = info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) == 0o700
                if mine and stat.S_ISDIR(info.st_mode) and _is_left(directory):
                    shutil.rmtree(directory)


def _is_left(directory: Path) -> bool:
    """Return True if a directory holds only a copy of an accounts file, which is not open."""
    if (
        not {DATABASE}
        <= set(os.listdir(directory))
        <= {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"}
    ):
        return False
    fd = os.open(directory / DATABASE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # refused while others have it open
        return True
    finally:
        os.close(fd)  # this also releases the lease


def _on_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # no implicit transactions: see _on_begin


def _only_read(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
