"""The accounts file where nothing can be written: a copy of it in memory, to be read.

Lives here: making the copy and opening it. Lives elsewhere: the tables, and the file where it can
be written (database.py).

SQLite reads a file in WAL mode on a read-only disk only as "immutable", which passes over the WAL:
a token that was revoked a minute ago would be good again. So the file is copied together with its
WAL, and opened there. Where the disk can be written, an older server may be writing meanwhile, and
of two files that are copied one after the other, one could be from before a checkpoint and one from
after it: there SQLite makes the copy.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext

from ftpserver.errors import StateError
from ftpserver.settings.table import DATABASE

_IN_MEMORY = Path("/dev/shm")


def open_snapshot(
    state: Path,
    refusal: Callable[[], Exception] | None,
    prepare: Callable[[Path], None] = lambda path: None,
) -> Engine:
    """Open a copy of the accounts file of a state directory, as it is now.

    Args:
        refusal: Makes the error that is raised when something is to be changed. None: the copy may
            be changed, which nobody else sees.
        prepare: Changes the copy before it is opened.

    Raises:
        StateError: There is none, or it can't be read.
    """
    place = tempfile.mkdtemp(prefix="ftpd-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None)
    try:
        copy = Path(place, DATABASE)
        if os.statvfs(state).f_flag & os.ST_RDONLY or not _copied(state / DATABASE, copy):
            for suffix in ("", "-wal"):
                source = state / f"{DATABASE}{suffix}"
                if source.exists() or not suffix:
                    shutil.copyfile(source, os.path.join(place, source.name))
        prepare(copy)
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise StateError(f"{state / DATABASE}: can't be read: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    engine = create_engine(
        URL.create("sqlite", database=os.path.join(place, DATABASE)),
        connect_args={"check_same_thread": False},
    )
    weakref.finalize(engine, shutil.rmtree, place, ignore_errors=True)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
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


def _copied(source: Path, copy: Path) -> bool:
    """Have SQLite copy a file that others may be writing to; whether it could, with what this
    process may do, and what room there is."""
    uri = f"{source.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as there:
            with closing(sqlite3.connect(copy)) as here:
                there.backup(here)
    except sqlite3.Error:
        return False
    return True


def _on_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _on_begin says


def _only_read(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
