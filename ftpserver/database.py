"""The accounts file: opening it, and how a transaction begins.

Lives here: the SQLAlchemy engine, and what is done if the file cannot be written.
Lives elsewhere: the tables (schema.py), upgrading those of an earlier version (migration.py), the
meaning of the rows (accounts/accounts.py, storage/ledger.py).

The SQL is what SQLite and PostgreSQL both accept. With SQLite every writing transaction begins
IMMEDIATE: a deferred one that becomes a writer fails as busy, whatever the time-out. Commits are
not synced unless the transaction is ``durable``; a settlement lost in a power cut is repaired from
the disk.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    ClauseElement,
    Connection,
    Engine,
    ExceptionContext,
    Pool,
    PoolProxiedConnection,
    create_engine,
    event,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError
from sqlalchemy.sql.compiler import SQLCompiler

from ftpserver import ballast
from ftpserver.errors import StateError
from ftpserver.migration import BUSY_SECONDS, Outdated, prepare, upgrade_copy
from ftpserver.settings.table import DATABASE
from ftpserver.snapshot import open_snapshot
from ftpwire.beneath import OPEN_DIRECTORY, rename_new
from ftpwire.errors import CommandError, DiskFull, Forbidden

logger = logging.getLogger("ftpd.database")

_SYNCHRONOUS, _BUSY_TIMEOUT = "synchronous", "busy_timeout"
"""The keys in a connection's ``info`` for the current values of these pragmas."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.00005, 0.002
"""Seconds between two checks whether another process still writes. Each pause is 1.5 times the one
before."""
_WRITTEN_BACK_EVERY = 300
"""The number of quick transactions between two checkpoints. They write about the 1,000 pages after
which SQLite makes one by itself."""
_SHORT_PAUSE = 0.0001
"""The longest pause, in seconds, during which a thread keeps its turn of the process."""
_COME_LATER = ("state.db-wal", "audit.jsonl", "first-login")
"""Files that only exist if there is, or was, an accounts file."""
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
    """Open the accounts file in ``directory``; make it if there is none.

    On a full disk, the ballast is released and the file opened once more.

    Args:
        upgrade: True to upgrade a file of an earlier version. Only for the holder of the root lock.

    Raises:
        Outdated: The file is from an earlier version.
        StateError: The file is damaged, from a newer version, or cannot be written.
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
    """Open the accounts file for a command that changes nothing, even if it cannot be written.

    A file of an earlier version is copied to memory, and the copy is upgraded.

    Args:
        trying: True if the command makes changes and rolls them back. A copy allows them then.

    Raises:
        StateError: The file is damaged, from a newer version, or cannot be read.
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
    return _open_snapshot(directory, refusal)


class Opened(NamedTuple):
    """An accounts file to serve from.

    Attributes:
        trouble: Why nothing can be changed; None if everything can.
    """

    engine: Engine
    trouble: str | None = None


def open_to_serve(directory: Path) -> Opened:
    """Open the accounts file for a server. If it cannot be written, the server only allows reading.

    Raises:
        StateError: As `open_state`, for any reason but a full or a read-only disk.
    """
    try:
        return Opened(open_state(directory, upgrade=True))
    except StateError as error:
        refusal = _unwritable(directory)
        if refusal is None or not (directory / DATABASE).exists():
            raise
        trouble = f"{error}: nothing can be changed until the server is restarted"
    return Opened(_open_snapshot(directory, lambda: refusal), trouble)


def _open_snapshot(directory: Path, refusal: Callable[[], Exception] | None) -> Engine:
    engine = open_snapshot(directory, refusal, upgrade_copy)
    Writer.of(engine).refusal = refusal
    return engine


def _unwritable(directory: Path) -> CommandError | None:
    """Return the error for clients that want to change something, or None if the disk allows it."""
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
        where, why = _describe(error, directory)
        raise StateError(f"{where}: cannot be written: {why}") from error
    if empty:
        raise StateError(f"{path}: the file is damaged: it is empty")
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # any name works: ? and % have no meaning here
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=4,
        max_overflow=32,
        pool_use_lifo=True,  # the last one used still has the pages in its cache
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


def _describe(error: OSError | DatabaseError, directory: Path) -> tuple[str, str]:
    """Return what could not be written, and why."""
    if isinstance(error, OSError):
        return os.fsdecode(error.filename or directory), error.strerror or str(error)
    return str(directory), str(error.orig)


def _begin_new(path: Path) -> None:
    """Make the accounts file. It gets its name once it is complete, as an empty one is damaged.

    Raises:
        StateError: Other files show that there was one before. Users must not lose their accounts
            to a new file without any.
    """
    for name in _COME_LATER:
        left = path.with_name(name)
        if left.exists() and not path.exists():  # another server may have made it meanwhile
            raise StateError(
                f"{path}: is missing, but {left.name} exists: restore a backup, or move "
                f"{path.parent} away to begin without accounts"
            )
    new = path.with_name(f"{DATABASE}.{secrets.token_hex(4)}.new")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _fill(new)
        os.fsync(fd)
        directory = os.open(path.parent, OPEN_DIRECTORY)
        try:
            with suppress(FileExistsError):  # another process has just made the same
                rename_new(directory, os.fsencode(new.name), directory, os.fsencode(path.name))
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.close(fd)
        new.unlink(missing_ok=True)


def _fill(new: Path) -> None:
    """Make the tables in a file that no one else uses yet, and that is removed if this fails.

    So there is nothing to roll back, and one sync at the end is enough: SQLite's own syncs, several
    per table, would take most of the time of a first start.
    """
    engine = create_engine(URL.create("sqlite", database=str(new)))
    event.listen(engine, "connect", _on_connect_to_new)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.begin() as connection:
            prepare(connection, new, upgrade=False)
        with closing(engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode=WAL")  # stored in the file
    finally:
        engine.dispose()


def durable(engine: Engine) -> Engine:
    """Return the same engine, with transactions that survive a power cut once committed."""
    return engine.execution_options(durable=True)


def reading(engine: Engine) -> Engine:
    """Return the same engine, with transactions that only read and so wait for no writer."""
    return engine.execution_options(reading=True)


class Writer:
    """The turns of the threads that write to an accounts file: one after another in this process.

    All threads share the one writer of an engine and of the engines derived from it (`of`).

    Where SQLite finds the file busy, it sleeps up to a tenth of a second before it tries again.
    Threads of one process need not wait so long. As they all write over one connection, its page
    cache stays valid.

    Between processes the lock is SQLite's own: it works with any program that has the file open,
    and the kernel releases it when a process dies. But SQLite sleeps for at least a millisecond,
    and a commit's transaction takes a tenth of that, including those of other threads that queue
    behind it. So `begin_quickly` tries again sooner.

    Inside a transaction a thread waits for nothing but the file: for no lock, no client, no other
    process. The turn is the innermost lock: a thread that begins a transaction may hold the home's
    lock (settling, resuming), but takes no lock inside.

    Attributes:
        refusal: Makes the error to raise if nothing can be changed.
        before_wait: Called by a thread before it waits for other writers, to give up its turn of
            the process. Otherwise a transaction runs within that turn: if not, threads would
            compete for Python's lock at each of its many system calls.
    """

    _known: weakref.WeakKeyDictionary[Pool, Writer] = weakref.WeakKeyDictionary()
    _making = threading.Lock()

    def __init__(self, path: str | None) -> None:
        self.refusal: Callable[[], Exception] | None = None
        self.before_wait: Callable[[], None] = lambda: None
        self._turn = threading.Lock()
        self._own: sqlite3.Connection | None = None
        """The connection for quick transactions. ``_turn`` guards it. It isn't in the pool, as
        getting it from there and returning it would take longer than a transaction."""
        self._own_pragmas: dict[Any, Any] = {}
        self._unwritten = 0
        """The number of its transactions since the last checkpoint."""
        self._path = path
        self._log = _Log(path)

    @classmethod
    def of(cls, engine: Engine) -> Writer:
        """Return the writer of an engine."""
        with cls._making:
            writer = cls._known.get(engine.pool)
            if writer is None:
                writer = cls._known[engine.pool] = cls(engine.url.database)
                # a disposed engine gets a new pool, and with it a new writer
                event.listen(engine, "engine_disposed", lambda engine: writer.close())
            return writer

    @contextmanager
    def begin(self, engine: Engine) -> Iterator[Connection]:
        """Begin a transaction that writes, once it is this thread's turn.

        A thread that has waited `BUSY_SECONDS` goes on without the turn: SQLite then reports that
        the file is locked.

        Args:
            engine: The engine of this writer, or one derived from it.
        """
        self.before_wait()  # SQLite may sleep until another process has written
        has_turn = self._turn.acquire(timeout=BUSY_SECONDS)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            if has_turn:
                self._turn.release()

    @contextmanager
    def begin_quickly(self, engine: Engine) -> Iterator[sqlite3.Connection]:
        """Begin a transaction for precompiled statements (`Quick`), as those of each commit.

        Raises:
            DiskFull, StateError: As any transaction, if something is wrong with the file.
        """
        has_turn = self._take_turn()
        pooled: PoolProxiedConnection | None = None
        connection: sqlite3.Connection | None = None
        try:
            # only the thread that has the turn may use `_own`: others take one from the pool
            if has_turn and self._open_own(engine):
                connection, pragmas = self._own, self._own_pragmas
            else:
                pooled = engine.raw_connection()
                connection, pragmas = _driver_connection(pooled), pooled.info
            assert connection is not None
            _set(pragmas, connection.execute, _SYNCHRONOUS, "NORMAL")
            _begin_soon(pragmas, connection, self.before_wait)
            yield connection
            connection.execute("COMMIT")
            if pooled is None:
                self._has_written(connection)
        except BaseException as error:
            self._roll_back(connection)
            if isinstance(error, sqlite3.DatabaseError):
                self._raise_for(engine, error)
            raise
        finally:
            if pooled is not None:
                pooled.close()
            if has_turn:
                self._turn.release()

    def _take_turn(self) -> bool:
        """Wait for this thread's turn. Return False if it did not come within `BUSY_SECONDS`."""
        if self._turn.acquire(blocking=False):
            return True
        self.before_wait()
        return self._turn.acquire(timeout=BUSY_SECONDS)

    def _open_own(self, engine: Engine) -> bool:
        """Open the connection for quick transactions, unless it is open.

        Return False for a database in memory, which ends with its only connection.
        """
        if self._own is not None:
            return True
        if self._path is None:
            return False
        pooled = engine.raw_connection()
        try:
            connection = _driver_connection(pooled)
            connection.execute("PRAGMA wal_autocheckpoint=0")  # see `_has_written`
        except BaseException:
            pooled.close()
            raise
        self._own_pragmas = dict(pooled.info)
        pooled.detach()  # out of the pool for good
        self._own = connection
        return True

    def _raise_for(self, engine: Engine, error: sqlite3.DatabaseError) -> None:
        """Raise the error to report for one of SQLite's; return if it is about the statement."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY and self.refusal is not None:
            raise self.refusal() from None
        raised = _error_for(engine.url.database or "", error)
        if raised is not None:
            raise raised from error

    def _has_written(self, connection: sqlite3.Connection) -> None:
        """Count a transaction, and make a checkpoint after every `_WRITTEN_BACK_EVERY`.

        SQLite would do that within a transaction, and sync both files. Here the turn of the process
        is given up first, so that other threads need not wait."""
        self._unwritten += 1
        if self._unwritten < _WRITTEN_BACK_EVERY:
            return
        self._unwritten = 0
        self.before_wait()
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # the transaction is safe in the log
            logger.warning("%s: checkpoint failed: %s", self._path, error)

    def _roll_back(self, connection: sqlite3.Connection | None) -> None:
        """End a transaction that failed, if one began; SQLite may have ended it by itself."""
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:  # its state is unknown: the next transaction opens another
            logger.warning("closing a database connection: rollback failed", exc_info=True)
            connection.close()
            if connection is self._own:
                self._own = None

    def to_sync(self) -> list[int]:
        """Return the descriptors to sync for all commits so far to survive a power cut.

        Empty if they do already, or if the database is in memory.

        Raises:
            OSError: The log cannot be opened.
        """
        return self._log.descriptors()

    def close(self) -> None:
        """Close all descriptors. No transaction may follow."""
        own, self._own = self._own, None
        if own is not None:
            own.close()
        self._log.close()


class Quick:
    """A statement that each commit runs, compiled once: SQLAlchemy's overhead for each run would
    take several times as long as the statement.

    Args:
        statement: A statement whose parameters and results are of SQLite's own types: numbers, text
            and bytes.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=sqlite.dialect())
        assert isinstance(compiled, SQLCompiler)
        assert not compiled.prefetch, "defaults of columns aren't filled in: name them"
        self._text = compiled.string
        self._defaults = compiled.params
        self._names = compiled.positiontup or []

    def __call__(self, connection: sqlite3.Connection, **values: object) -> sqlite3.Cursor:
        """Run the statement within the connection's transaction."""
        defaults = self._defaults
        found = [values[name] if name in values else defaults[name] for name in self._names]
        return connection.execute(self._text, found)


class _Log:
    """SQLite's write-ahead log. ``_lock`` guards ``_fds``."""

    def __init__(self, path: str | None) -> None:
        self._path = f"{path}-wal" if path else None
        self._lock = threading.Lock()
        self._fds: list[int] = []
        """The last one is of the current log. It stays open, so that its syncs report each write
        error since it was opened."""

    def descriptors(self) -> list[int]:
        if self._path is None:
            return []
        with self._lock:
            try:
                there = os.stat(self._path)
                if not self._fds or not os.path.samestat(there, os.fstat(self._fds[-1])):
                    # the earlier ones stay open: another thread may be about to sync one
                    self._sync_name(self._path)
                    self._fds.append(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                return []  # SQLite has synced the accounts file before it removed the log
            return self._fds[-1:]

    def _sync_name(self, path: str) -> None:
        directory = os.open(os.path.dirname(path), OPEN_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def _driver_connection(pooled: PoolProxiedConnection) -> sqlite3.Connection:
    connection = pooled.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def _on_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # no implicit transactions: see _on_begin
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
    """Turn an error of the file itself, not of the statement, into one clear line."""
    error = context.original_exception
    if isinstance(error, sqlite3.DatabaseError):
        raised = _error_for(path, error)
        if raised is not None:
            raise raised from error


def _error_for(database: str | Path, error: sqlite3.DatabaseError) -> DiskFull | StateError | None:
    """Return the error to raise for one of SQLite's; None if it is about the statement."""
    path = Path(database)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits are details
    if code == sqlite3.SQLITE_FULL or (
        code == sqlite3.SQLITE_IOERR and ballast.is_full(path.parent)
    ):
        ballast.release(path.parent)  # so that the next attempt finds free space
        return DiskFull("the server's disk is full")
    if code in _UNUSABLE:
        return StateError(f"{path}: {error}")
    return None


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    pooled, run = connection.connection, connection.exec_driver_sql
    driver = pooled.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    _set(pooled.info, driver.execute, _BUSY_TIMEOUT, f"{BUSY_SECONDS * 1000:.0f}")
    if options.get("reading", False):
        run("BEGIN")
        return
    wanted = "FULL" if options.get("durable", False) else "NORMAL"
    _set(pooled.info, run, _SYNCHRONOUS, wanted)
    run("BEGIN IMMEDIATE")


def _begin_soon(
    known: dict[Any, Any], connection: sqlite3.Connection, before_wait: Callable[[], None]
) -> None:
    """Begin a transaction that writes, soon after another process has ended its own.

    Args:
        before_wait: Called once, if the wait is longer than most transactions of a commit are.

    Raises:
        sqlite3.OperationalError: The file stayed busy for `BUSY_SECONDS`.
    """
    _set(known, connection.execute, _BUSY_TIMEOUT, "0")
    pause, deadline, waits = _SHORTEST_PAUSE, 0.0, False
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            now = time.monotonic()
            deadline = deadline or now + BUSY_SECONDS
            if now >= deadline:
                raise
        if pause > _SHORT_PAUSE and not waits:
            waits = True
            before_wait()
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _set(known: dict[Any, Any], run: Callable[[str], object], pragma: str, wanted: str) -> None:
    """Set a pragma unless it has that value already; ``known`` has the connection's values."""
    if known.get(pragma) != wanted:
        known.pop(pragma, None)
        run(f"PRAGMA {pragma}={wanted}")
        known[pragma] = wanted
