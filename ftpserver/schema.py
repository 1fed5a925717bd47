"""The tables of the accounts file, and the database's clock.

Lives here: the columns and their constraints. Lives elsewhere: opening the file (database.py),
earlier versions of the tables (migration.py), the meaning of the rows (accounts/accounts.py,
storage/ledger.py).
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

SCHEMA_VERSION = 7

metadata = MetaData()

_COUNTS = ("used", "held", "files", "held_files")
"""The columns of an account that are never below 0."""
NOT_BELOW_ZERO = "account_counts_not_below_zero"
TRASH_IN_USED = "account_trash_is_part_of_used"
_PARTS = (("trash_bytes", "used"), ("trash_files", "files"))
"""Pairs of an account's counts. The first is part of the second: never below 0 or above it."""

schema = Table(
    "schema_version",
    metadata,
    Column("version", Integer, nullable=False),
)

server = Table(  # one row: the server that this state belongs to
    "server",
    metadata,
    Column("id", String(32), primary_key=True),  # random; a copy gets another
    Column("device", String(32), nullable=False),  # device of ROOT/.ftpd
    Column("inode", String(32), nullable=False),
    Column("boot", String(64), nullable=False),  # the machine's boot id at the server's last start
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
    Column("dirty", Boolean, nullable=False, default=False),  # home must be counted again
    Column("created", BigInteger, nullable=False),  # seconds since 1970
    Column("max_files", BigInteger, nullable=True),  # files, directories, links; None: no limit
    Column("files", BigInteger, nullable=False, server_default="0"),  # present number
    Column("held_files", BigInteger, nullable=False, server_default="0"),  # reserved by leases
    Column("permissions", String, nullable=False, server_default="all"),  # storage/permissions.py
    Column("networks", String, nullable=False, server_default=""),  # CIDR, …; "": any address
    Column("expires", BigInteger, nullable=True),  # seconds since 1970; None: never
    Column("disabled", Boolean, nullable=False, server_default="0"),
    Column("max_sessions", Integer, nullable=True),  # None: no limit
    Column("limit_rate", BigInteger, nullable=True),  # bytes per second, for all sessions
    Column("peer_user", String(64), nullable=True),  # system user who may log in over a Unix socket
    Column("system_user", String(64), nullable=True),  # system user that its sessions run as
    Column("epoch", Integer, nullable=False, server_default="0"),  # changes that close sessions
    Column("trash_bytes", BigInteger, nullable=False, server_default="0"),  # included in used
    Column("trash_files", BigInteger, nullable=False, server_default="0"),  # included in files
    Column("trash_days", Integer, nullable=True),  # None: the server's setting
    Column("trash_max", Integer, nullable=True),  # percent of the quota; None: the server's setting
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
    Column("incarnation", String(32), nullable=False),  # one run of a server or a session process
    Column("state", String(16), nullable=False),  # open, committing, kept
    Column("size", BigInteger, nullable=False),  # bytes reserved
    Column("staging", LargeBinary, nullable=True),  # name of the staging file that it owns
    Column("expires", BigInteger, nullable=False),  # seconds since 1970
    Column("files", BigInteger, nullable=False, server_default="0"),  # files reserved
    Column("pieces", LargeBinary, nullable=True),  # key for sessions that send pieces
    Index("lease_by_account", "account_id"),
)

operation = Table(  # trash directories, kept a day so that a command's sessions share one
    "operation",
    metadata,
    Column("name", String(25), primary_key=True),  # its directory in the trash
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("key", LargeBinary, nullable=True),  # the client's id of the command; None: none given
    Column("begun", BigInteger, nullable=False),  # seconds since 1970
    Column("closed", Boolean, nullable=False, server_default="0"),  # nothing may be added
    Column("given_up", BigInteger, nullable=True),  # when purged to free space
    Column("size", BigInteger, nullable=True),  # bytes to purge when that began; None: not known
    Column("freed", BigInteger, nullable=True),  # bytes freed by that; None: it has only begun
    Column("words", String(200), nullable=True),  # the command, if purged to free space
    Column("client", LargeBinary, nullable=True),  # the client's id, if purged to free space
    Index("operation_by_key", "account_id", "key"),
)

answer = Table(  # replies kept for clients that missed them and send the request again
    "answer",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("key", LargeBinary, nullable=False),  # the key of its operation
    Column("first", BigInteger, nullable=False),  # the lowest request number in payload
    Column("last", BigInteger, nullable=False),  # the highest request number in payload
    Column("payload", LargeBinary, nullable=False),  # replies by request number, as msgpack
    Column("at", BigInteger, nullable=False),  # seconds since 1970
    Index("answer_by_key", "account_id", "key", "first"),
    Index("answer_by_time", "at"),
)

token = Table(
    "token",
    metadata,
    Column("id", String(16), primary_key=True),  # shown to users, to revoke it
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),  # the secret itself isn't stored
    Column("created", BigInteger, nullable=False),  # seconds since 1970, as all times below
    Column("expires", BigInteger, nullable=True),
    Column("used", BigInteger, nullable=True),  # last log-in with it, to the hour
    # the token whose session made this one: revoking that one revokes this one, too
    Column("parent", ForeignKey("token.id", ondelete="CASCADE"), nullable=True),
    Index("token_by_account", "account_id"),
    Index("token_by_parent", "parent"),
)

invitation = Table(
    "invitation",
    metadata,
    Column("id", String(16), primary_key=True),  # shown to users, to revoke it
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("quota", BigInteger, nullable=True),  # quota of the accounts made with it
    Column("uses", Integer, nullable=False),  # remaining uses
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=True),
)

failure = Table(  # failed log-ins
    "failure",
    metadata,
    Column("subject", String(128), primary_key=True),  # an address, or an address and a name
    Column("count", Integer, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("banned_until", BigInteger, nullable=False, server_default="0"),
    Index("failure_by_last", "last"),
)

session = Table(  # sessions that count for limits; a start removes those of dead runs
    "session",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("account_id", ForeignKey("account.id", ondelete="CASCADE"), nullable=False),
    Column("address", String(64), nullable=False),
    Column("node", String, nullable=False),
    Column("incarnation", String(32), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False, server_default="0"),  # unless renewed
    Index("session_by_account", "account_id"),
    Index("session_by_address", "address"),
)


class SecondsNow(FunctionElement[int]):
    """Seconds since 1970 by the database's clock, when the statement runs.

    All nodes that share the database compare their leases by this one clock, and never with a time
    taken before a wait for other writers.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(SecondsNow)
def _seconds_now(element: SecondsNow, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)"


@compiles(SecondsNow, "sqlite")
def _seconds_now_of_sqlite(element: SecondsNow, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(strftime('%s', 'now') AS INTEGER)"
