"""The tables of the accounts file, and the database's clock.

Lives elsewhere: opening the file (database.py), earlier versions of the tables (migration.py), what
the rows mean (accounts/accounts.py, storage/ledger.py).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

SCHEMA_VERSION = 6

metadata = MetaData()

_COUNTS = ("used", "held", "files", "held_files")
"""Columns of an account that are never below 0."""
NOT_BELOW_ZERO = "account_counts_not_below_zero"
TRASH_IN_USED = "account_trash_is_part_of_used"
_PARTS = (("trash_bytes", "used"), ("trash_files", "files"))
"""Counts of an account, and the count that each is a part of: never below 0, never above that."""

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
    Column("trash_bytes", BigInteger, nullable=False, server_default="0"),  # of used: in the trash
    Column("trash_files", BigInteger, nullable=False, server_default="0"),  # of files
    Column("trash_days", Integer, nullable=True),  # how long it keeps; None: as the server says
    Column("trash_max", Integer, nullable=True),  # percent of the quota; None: as the server says
    CheckConstraint(" AND ".join(f"{one} >= 0" for one in _COUNTS), name=NOT_BELOW_ZERO),
    CheckConstraint(
        " AND ".join(f"{part} >= 0 AND {part} <= {whole}" for part, whole in _PARTS),
        name=TRASH_IN_USED,
    ),
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
    Column("pieces", LargeBinary, nullable=True),  # key by which others bring pieces; see state
    Index("lease_by_account", "account_id"),
)

operation = Table(  # names in the trash; for a day, by when all sessions of a command know it
    "operation",
    metadata,
    Column("name", String(25), primary_key=True),  # of its directory in the trash
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("key", LargeBinary, nullable=True),  # the client's id of its command; None: it has none
    Column("begun", BigInteger, nullable=False),  # seconds since 1970
    Column("closed", Boolean, nullable=False, server_default="0"),  # nothing is added any more
    Column("given_up", BigInteger, nullable=True),  # when, for want of room
    Column("freed", BigInteger, nullable=True),  # bytes that became free by that
    Column("words", String(200), nullable=True),  # the command, of what was given up
    Column("client", LargeBinary, nullable=True),  # the client's own id, of what was given up
    Index("operation_by_key", "account_id", "key"),
)

answer = Table(  # to requests that a client may send again, because it didn't get them
    "answer",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("key", LargeBinary, nullable=False),  # of the operation
    Column("first", BigInteger, nullable=False),  # the lowest number of a request in it
    Column("last", BigInteger, nullable=False),  # the highest
    Column("payload", LargeBinary, nullable=False),  # answers by numbers, as msgpack
    Column("at", BigInteger, nullable=False),  # seconds since 1970
    Index("answer_by_key", "account_id", "key", "first"),
    Index("answer_by_time", "at"),
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
