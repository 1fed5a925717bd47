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
"""What a connection's pragma of that name is, in its ``info``."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.00005, 0.002
"""Seconds between two looks whether another process still writes; each one is half as long again as
the one before."""
_WRITTEN_BACK_EVERY = 300
"""Quick transactions: about the 1,000 pages after which SQLite does it for others."""
_SHORT_PAUSE = 0.0001
"""Longer ones aren't made with the turn of the process."""
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
    return _open_snapshot(directory, refusal)


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
    return Opened(_open_snapshot(directory, lambda: refusal), trouble)


def _open_snapshot(directory: Path, refusal: Callable[[], Exception] | None) -> Engine:
    engine = open_snapshot(directory, refusal, upgrade_copy)
    Writer.of(engine).refusal = refusal
    return engine


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
        pool_use_lifo=True,  # who has written last still knows the pages
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


class Writer:
    """Those who write to an accounts file in this process: one after another, and with one sync for
    all of them. For all threads; one for each engine and what is made of it (`of`).

    SQLite has whoever finds the file busy sleep and look again, up to a tenth of a second: threads
    of one process needn't. And as they write over one connection, it still knows the pages.

    Between processes the lock is SQLite's own: so it holds for any program that has the file open,
    and the kernel takes it back from the dead. But a transaction of a commit is over in a tenth of
    the millisecond that SQLite sleeps at least, with all that have this turn behind it. So
    `begin_quickly` looks again sooner.

    In a transaction nothing is waited for but the file itself: no lock, no client, no other
    process. It is the innermost of all that is held: whoever begins one may hold the home's lock
    (settling, resuming), and none is taken inside.

    Attributes:
        refusal: Makes what is raised where nothing can be changed.
        before_wait: Called by a thread that is going to wait for others that write: it gives up
            the turn of its process. A transaction is otherwise run with that, or threads would
            take Python's lock from each other at each of its many system calls.
    """

    _known: weakref.WeakKeyDictionary[Pool, Writer] = weakref.WeakKeyDictionary()
    _making = threading.Lock()

    def __init__(self, path: str | None) -> None:
        self.refusal: Callable[[], Exception] | None = None
        self.before_wait: Callable[[], None] = lambda: None
        self._turn = threading.Lock()
        self._own: sqlite3.Connection | None = None
        """That of quick transactions; for who has the turn. The pool knows nothing of it: to ask
        for one and to give it back there takes longer than what is done with it."""
        self._own_pragmas: dict[Any, Any] = {}
        self._unwritten = 0
        """Of its transactions, how many were made since the log was written back."""
        self._path = path
        self._log = _Log(path)

    @classmethod
    def of(cls, engine: Engine) -> Writer:
        """That of an engine."""
        with cls._making:
            writer = cls._known.get(engine.pool)
            if writer is None:
                writer = cls._known[engine.pool] = cls(engine.url.database)
                # whoever uses the engine after that has another pool, and another writer
                event.listen(engine, "engine_disposed", lambda engine: writer.close())
            return writer

    @contextmanager
    def begin(self, engine: Engine) -> Iterator[Connection]:
        """A transaction that writes, when it is this thread's turn. Whoever has waited as long as
        for another process goes on without, and is told by SQLite that it is locked.

        Args:
            engine: That engine, maybe with options.
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
        """As `begin`, for statements that were compiled once (`Quick`): for what each commit does.

        Raises:
            DiskFull, StateError: As any transaction, of what is wrong with the file.
        """
        has_turn = self._turn.acquire(blocking=False)
        if not has_turn:
            self.before_wait()
            has_turn = self._turn.acquire(timeout=BUSY_SECONDS)
        pooled = None
        try:
            if not has_turn or self._own is None:
                pooled = engine.raw_connection()
                has_own = has_turn and self._keep(pooled)
                pooled = None if has_own else pooled
            if pooled is None:
                assert self._own is not None
                connection, pragmas = self._own, self._own_pragmas
            else:
                assert isinstance(pooled.driver_connection, sqlite3.Connection)
                connection, pragmas = pooled.driver_connection, pooled.info
            try:
                _set(pragmas, connection.execute, _SYNCHRONOUS, "NORMAL")
                _begin_soon(pragmas, connection, self.before_wait)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise
            if pooled is None:
                self._has_written(connection)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_READONLY and self.refusal is not None:
                raise self.refusal() from None
            told = _told_of(engine.url.database or "", error)
            if told is None:
                raise
            raise told from error
        finally:
            if pooled is not None:
                pooled.close()
            if has_turn:
                self._turn.release()

    def _keep(self, pooled: PoolProxiedConnection) -> bool:
        """Take a connection out of the pool for good; False of a database in memory, which ends
        with its only connection."""
        connection = pooled.driver_connection
        if not isinstance(connection, sqlite3.Connection) or self._path is None:
            return False
        connection.execute("PRAGMA wal_autocheckpoint=0")  # see `_has_written`
        self._own_pragmas = dict(pooled.info)
        pooled.detach()
        self._own = connection
        return True

    def _has_written(self, connection: sqlite3.Connection) -> None:
        """Now and then, have the log written back to the accounts file. SQLite would do so within
        a transaction, and sync both: by then the process needn't wait for this thread's turn."""
        self._unwritten += 1
        if self._unwritten < _WRITTEN_BACK_EVERY:
            return
        self._unwritten = 0
        self.before_wait()
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # the transaction is in the log all the same
            logger.warning("%s: its log can't be written back: %s", self._path, error)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        """End a transaction that failed; SQLite may have done so by itself."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:  # it can't be told what state it is in: the next one has a new one
            logger.warning("a connection to the database is given up", exc_info=True)
            connection.close()
            if connection is self._own:
                self._own = None

    def to_sync(self) -> list[int]:
        """Descriptors of what has to be synced for all commits so far to survive a power cut;
        nothing, where they do already, or never will: in memory.

        Raises:
            OSError: It can't be opened.
        """
        return self._log.descriptors()

    def close(self) -> None:
        """Give the descriptors back: nobody writes any more."""
        own, self._own = self._own, None
        if own is not None:
            own.close()
        self._log.close()


class Quick:
    """A statement that each commit runs, compiled once: what SQLAlchemy does around every single
    one costs several times the statement.

    Args:
        statement: Its parameters and results have to be what SQLite has: numbers, text and bytes.
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=sqlite.dialect())
        assert isinstance(compiled, SQLCompiler)
        assert not compiled.prefetch, "defaults of columns aren't filled in: name them"
        self._text = compiled.string
        self._defaults = compiled.params
        self._names = compiled.positiontup or []

    def __call__(self, connection: sqlite3.Connection, **values: object) -> sqlite3.Cursor:
        """Run it, as a part of the transaction."""
        defaults = self._defaults
        found = [values[name] if name in values else defaults[name] for name in self._names]
        return connection.execute(self._text, found)


class _Log:
    """SQLite's log, which commits go to before they go to the accounts file."""

    def __init__(self, path: str | None) -> None:
        self._path = f"{path}-wal" if path else None
        self._lock = threading.Lock()
        self._fds: list[int] = []
        """The last one is that of today. It stays open, so that it hears of each error."""

    def descriptors(self) -> list[int]:
        if self._path is None:
            return []
        with self._lock:
            try:
                there = os.stat(self._path)
                if not self._fds or not os.path.samestat(there, os.fstat(self._fds[-1])):
                    # those before stay open: somebody may be about to sync one
                    self._sync_name(self._path)
                    self._fds.append(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                return []  # all of it is in the accounts file: who removes the log has synced that
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
    if isinstance(error, sqlite3.DatabaseError):
        told = _told_of(path, error)
        if told is not None:
            raise told from error


def _told_of(database: str | Path, error: sqlite3.DatabaseError) -> DiskFull | StateError | None:
    """The error to raise for one of SQLite's; None: it is about what was asked, not the file."""
    path = Path(database)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest are details of it
    if code == sqlite3.SQLITE_FULL or (
        code == sqlite3.SQLITE_IOERR and ballast.is_full(path.parent)
    ):
        ballast.release(path.parent)  # so that the next try finds some
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
        before_wait: Called once if that takes longer than most transactions of a commit do.

    Raises:
        sqlite3.OperationalError: It is busy for as long as any transaction waits.
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
    """Set a pragma of a connection, unless it is so; ``known`` is what is known of it."""
    if known.get(pragma) != wanted:
        known.pop(pragma, None)
        run(f"PRAGMA {pragma}={wanted}")
        known[pragma] = wanted
