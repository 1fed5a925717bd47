"""The accounts file where nothing can be written: a copy of it in memory, to be read.

Lives here: making the copy and opening it. Lives elsewhere: the tables, and the file where it can
be written (database.py).

SQLite reads a file in WAL mode on a read-only disk only as "immutable", which passes over the WAL:
a token that was revoked a minute ago would be good again. So it is read without a lock there, which
no one else needs: the index of the WAL is in this process's memory then. Where the disk can be
written, an older server may be writing meanwhile, and SQLite locks it as ever.

The copy holds the hashes of passwords. It has no name in any directory, so that nothing of it is
left of a process that is killed.
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
"""Where the head of an SQLite file says how it is read and written: 1 with a journal, 2 with a WAL,
which a file in memory can't have."""
_LEFT = Path("/dev/shm")
"""Where earlier versions had the copy, in a directory that one which was killed has left."""


def open_snapshot(
    state: Path,
    refusal: Callable[[], Exception] | None,
    prepare: Callable[[Engine, Path], None] = lambda engine, path: None,
) -> Engine:
    """Open a copy of the accounts file of a state directory, as it is now.

    Args:
        refusal: Makes the error that is raised when something is to be changed. None: the copy may
            be changed, which nobody else sees.
        prepare: Changes the copy before it is opened, given what it is a copy of, for messages.

    Raises:
        StateError: There is none, or it can't be read.
    """
    remove_left()
    name = f"file:/ftpd-{secrets.token_hex(8)}?vfs=memdb"  # known to this process only

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(name, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)

    keeper = connect()  # the copy lives as long as somebody has it open
    try:
        _copy(state / DATABASE, keeper)
    except (OSError, sqlite3.Error) as error:
        keeper.close()
        why = error.strerror if isinstance(error, OSError) else error
        raise StateError(f"{state / DATABASE}: can't be read: {why}") from None
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    weakref.finalize(engine, keeper.close)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        prepare(engine, state / DATABASE)
    finally:
        engine.dispose()  # the connections from now on may only read
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
    """Copy an accounts file page by page, damaged ones as well: what is wrong is found later.

    Raises:
        OSError, sqlite3.Error: It can't be read.
    """
    source.stat()  # SQLite doesn't say which of its reasons it has
    try:
        if os.statvfs(source).f_flag & os.ST_RDONLY:
            pages = _pages(source, _unlocked(source))
        else:
            pages = _pages(source, "mode=ro")
    except (
        sqlite3.OperationalError
    ):  # this process may not make the files beside it that locks take
        pages = _pages(source, _unlocked(source))
    pages[_READS] = pages[_WRITES] = 1
    with closing(sqlite3.connect(":memory:")) as there:
        there.deserialize(bytes(pages))
        there.backup(copy)


def _unlocked(source: Path) -> str:
    """How a file is opened that nobody writes to."""
    try:
        has_log = source.with_name(f"{source.name}-wal").stat().st_size > 0
    except FileNotFoundError:
        has_log = False
    return "mode=ro&vfs=unix-none" if has_log else "mode=ro&immutable=1"


def _pages(source: Path, options: str) -> bytearray:
    """An SQLite file as of one moment, with what is in its WAL."""
    uri = f"{source.absolute().as_uri()}?{options}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
        connection.isolation_level = None
        if "vfs" in options:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # no file for the WAL's index
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return bytearray(connection.serialize())


def remove_left() -> None:
    """Remove the copies that earlier versions, which were killed, have left in memory; not those of
    other users, nor one that somebody has open."""
    with suppress(OSError):
        for place in _LEFT.glob("ftpd-????????"):
            with suppress(OSError):
                info = place.lstat()
                mine = info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) == 0o700
                if mine and stat.S_ISDIR(info.st_mode) and _is_left(place):
                    shutil.rmtree(place)


def _is_left(place: Path) -> bool:
    """Whether a directory holds a copy of an accounts file, and nothing else, that nobody uses."""
    if not {DATABASE} <= set(os.listdir(place)) <= {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"}:
        return False
    fd = os.open(place / DATABASE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # refused while others have it open
        return True
    finally:
        os.close(fd)  # and with it the lease


def _on_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _on_begin says


def _only_read(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
