"""The accounts file: its tables, its version, and how a transaction begins.

Lives here: the schema, the SQLAlchemy engine, the lock that one server holds on a root.
Lives elsewhere: what the rows mean (accounts/accounts.py, storage/ledger.py).

SQL that SQLite and PostgreSQL both speak. With SQLite every transaction begins IMMEDIATE: a
deferred one that turns into a writer fails as busy whatever the time-out. Commits are not
synced (a lost settlement is repaired from the disk) unless the transaction is ``durable``.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    ExceptionContext,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateTable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ftpserver import ballast
from ftpserver.errors import RootBusy, StateError
from ftpserver.settings.table import DATABASE
from ftpserver.snapshot import open_snapshot
from ftpwire.beneath import OPEN_DIRECTORY, rename_new
from ftpwire.errors import CommandError, DiskFull, Forbidden

SCHEMA_VERSION = 4
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
_BUSY_SECONDS = 30.0
"""How long a transaction waits for others, before it is an error."""

metadata = MetaData()

_COUNTS = ("used", "held", "files", "held_files")
"""Columns of an account that are never below 0."""
_NOT_BELOW_ZERO = "account_counts_not_below_zero"

schema = Table(
    "schema_version",
    metadata,
    Column("version", Integer, nullable=False),
)

server = Table(  # one row: whose state this is
    "server",
    metadata,
    Column("id", String(32), primary_key=True),  # random; a copy draws another one
    Column("device", String(32), nullable=False),  # of ROOT/.ftpd
    Column("inode", String(32), nullable=False),
    Column("boot", String(64), nullable=False),  # of the machine, when it was last started
)

account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(32), nullable=False, unique=True),
    Column("password_hash", String, nullable=False),
    Column("home", LargeBinary, nullable=True),  # None: ROOT/NAME
    Column("quota", BigInteger, nullable=True),  # bytes; None: unlimited
    Column("used", BigInteger, nullable=False, default=0),  # bytes of stored files
    Column("held", BigInteger, nullable=False, default=0),  # bytes reserved by leases
    Column("dirty", Boolean, nullable=False, default=False),  # used has to be recounted
    Column("created", BigInteger, nullable=False),  # seconds since 1970
    Column("max_files", BigInteger, nullable=True),  # files, directories, links; None: no limit
    Column("files", BigInteger, nullable=False, server_default="0"),  # how many there are
    Column("held_files", BigInteger, nullable=False, server_default="0"),  # reserved by leases
    Column("permissions", String, nullable=False, server_default="all"),  # storage/permissions.py
    Column("networks", String, nullable=False, server_default=""),  # CIDR, …; "": everywhere
    Column("expires", BigInteger, nullable=True),  # seconds since 1970; None: never
    Column("disabled", Boolean, nullable=False, server_default="0"),
    Column("max_sessions", Integer, nullable=True),  # None: no limit
    Column("limit_rate", BigInteger, nullable=True),  # bytes a second, all sessions together
    Column("peer_user", String(64), nullable=True),  # may log in so over a Unix socket
    Column("system_user", String(64), nullable=True),  # whose process its sessions are
    Column("epoch", Integer, nullable=False, server_default="0"),  # counts what ends sessions
    CheckConstraint(" AND ".join(f"{one} >= 0" for one in _COUNTS), name=_NOT_BELOW_ZERO),
    sqlite_autoincrement=True,  # a removed account's id is never given out again
)

lease = Table(
    "lease",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("node", String, nullable=False),
    Column("incarnation", String(32), nullable=False),  # one run of one server
    Column("state", String(16), nullable=False),  # open, committing, kept
    Column("size", BigInteger, nullable=False),  # bytes reserved
    Column("staging", LargeBinary, nullable=True),  # name of the staging file that it owns
    Column("expires", BigInteger, nullable=False),  # seconds since 1970
    Column("files", BigInteger, nullable=False, server_default="0"),  # of them reserved
    Index("lease_by_account", "account_id"),
)

token = Table(
    "token",
    metadata,
    Column("id", String(16), primary_key=True),  # for people, to revoke it by
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),  # the secret itself is nowhere
    Column("created", BigInteger, nullable=False),  # seconds since 1970, as all times
    Column("expires", BigInteger, nullable=True),
    Column("used", BigInteger, nullable=True),  # last log-in with it, to the hour
    # the token of the session that made it: it goes with that one
    Column("parent", ForeignKey("token.id", ondelete="CASCADE"), nullable=True),
    Index("token_by_account", "account_id"),
    Index("token_by_parent", "parent"),
)

invitation = Table(
    "invitation",
    metadata,
    Column("id", String(16), primary_key=True),  # for people, to revoke it by
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("quota", BigInteger, nullable=True),  # of the accounts made with it
    Column("uses", Integer, nullable=False),  # how many are left
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=True),
)

failure = Table(  # of log-ins
    "failure",
    metadata,
    Column("subject", String(128), primary_key=True),  # an address, or an address and a name
    Column("count", Integer, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("banned_until", BigInteger, nullable=False, server_default="0"),
    Index("failure_by_last", "last"),
)

session = Table(  # those that count for a limit; rows of dead runs are removed at start
    "session",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("address", String(64), nullable=False),
    Column("node", String, nullable=False),
    Column("incarnation", String(32), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False, server_default="0"),  # unless kept alive
    Index("session_by_account", "account_id"),
    Index("session_by_address", "address"),
)


class Outdated(StateError):
    """The accounts file is one of an earlier version: the start of a server brings it up to date,
    and nothing else does, for an older server may be using it."""


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
    return open_snapshot(directory, refusal, _upgrade_copy)


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
    return Opened(open_snapshot(directory, lambda: refusal, _upgrade_copy), trouble)


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
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        pool_size=4,
        max_overflow=32,
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        with engine.begin() as connection:
            _prepare(connection, path, upgrade=upgrade)
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
        if (left := path.with_name(name)).exists():
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
            _prepare(connection, new, upgrade=False)
        with closing(engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode=WAL")  # lasts, once set
    finally:
        engine.dispose()


def _upgrade_copy(path: Path) -> None:
    """Bring a copy of the accounts file that nobody else has up to this version."""
    engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        with engine.begin() as connection:
            version = _version(connection, path)
            if version is not None and version < SCHEMA_VERSION:
                _add_what_is_new(connection, version)
    except DatabaseError as error:
        raise StateError(f"{path}: {error.orig}") from error
    finally:
        engine.dispose()


def _version(connection: Connection, path: Path) -> int | None:
    """The version of the tables. Raises StateError when it is a later one."""
    version: int | None = connection.execute(select(schema.c.version)).scalar()
    if version is not None and version > SCHEMA_VERSION:
        raise StateError(
            f"{path}: written by a newer ftpd (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    return version


def _prepare(connection: Connection, path: Path, *, upgrade: bool) -> None:
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
    connection.execute(update(schema).values(version=SCHEMA_VERSION))


def _references(key: ForeignKey) -> str:
    """What a column refers to, which SQLAlchemy writes into the table's definition only."""
    return f" REFERENCES {key.column.table.name} ({key.column.name}) ON DELETE {key.ondelete}"


class SecondsNow(FunctionElement[int]):
    """Seconds since 1970 by the database's clock, at the moment of the statement.

    All nodes that share the database compare their leases by this one clock, and none of them with
    a time that has passed while it waited for others to write.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(SecondsNow)
def _seconds_now(element: SecondsNow, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)"


@compiles(SecondsNow, "sqlite")
def _seconds_now_of_sqlite(element: SecondsNow, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(strftime('%s', 'now') AS INTEGER)"


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
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as state:
            if not _holds_counts(state):
                state.create_function("most_files", 2, most_files, deterministic=True)
                _hold_counts(state)
    except sqlite3.Error as error:
        raise StateError(f"{path}: can't be upgraded: {error}") from error


def _holds_counts(state: sqlite3.Connection) -> bool:
    """Whether the table of accounts refuses counts below 0."""
    (made,) = state.execute("SELECT sql FROM sqlite_master WHERE name = 'account'").fetchone()
    return _NOT_BELOW_ZERO in made


def _hold_counts(state: sqlite3.Connection) -> None:
    """Make the table of accounts anew, with its constraint: SQLite can't add one to a table.

    As https://www.sqlite.org/lang_altertable.html says, in one transaction. What is held is what
    the leases say. All homes are counted anew: links count since then. So does the number of files
    where there is a quota: who has more than half of what that brings gets twice what there is.
    """
    new = account.to_metadata(MetaData(), name="account_new")
    columns = ", ".join(column.name for column in account.columns)
    state.execute("PRAGMA foreign_keys=OFF")  # dropping a table deletes what refers to it
    state.execute("PRAGMA synchronous=FULL")
    state.execute("BEGIN IMMEDIATE")
    try:
        if _holds_counts(state):
            return
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


class RootLock:
    """Held by the one server of a root, until it ends in whatever way.

    Raises:
        RootBusy: Another one holds it.
        StateError: It can't be made.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            self._fd = self._open(path)
        except OSError as error:
            raise StateError(f"{path}: can't be written: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise RootBusy(
                f"{directory.parent}: another ftpd serves this root (process {owner or '?'})"
            ) from None
        with suppress(OSError):  # whose it is is told to administrators only; the lock holds anyway
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())

    @staticmethod
    def _open(path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @staticmethod
    def holder(directory: Path) -> int | None:
        """The process that holds it, where the kernel says so (/proc/locks).

        It isn't tried: a server that starts in this moment would find it taken.
        """
        try:
            info = os.stat(directory / "lock")
            lines = Path("/proc/locks").read_text().splitlines()
        except OSError:
            return None
        file = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
        for line in lines:
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == file:
                return int(fields[4])
        return None

    def release(self) -> None:
        """Let another server have the root."""
        os.close(self._fd)
