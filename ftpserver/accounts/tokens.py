"""Tokens: random secrets that log in instead of the password.

Lives here: issuing, checking, listing and revoking them. Lives elsewhere: accounts (accounts.py).

A token has 256 random bits, so its plain SHA-256 is stored: it cannot be guessed from that, and a
log-in by token needs no argon2.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from ftpserver.accounts.account import Account, Refused
from ftpserver.accounts.accounts import Accounts
from ftpserver.clock import RUN
from ftpserver.database import durable, reading
from ftpserver.net.addresses import LOCAL
from ftpserver.schema import account as account_table
from ftpserver.schema import token
from ftpwire.errors import BadAccount, Forbidden, NotFound, TooMany
from ftpwire.messages import MAX_TOKEN_NAME, TokenInfo
from ftpwire.paths import printable

MAX_TOKENS = 64
"""The most tokens that an account can have."""
DEFAULT_SECONDS = 365 * 24 * 3600
_PREFIX = "ftpt_"
"""The prefix of every token, by which scanners can recognize a leaked one."""
_REFUSED = "wrong user name or token"
NO_MORE = "the token of this session was revoked or has expired: log in again"
_USED_EVERY = 3600
"""The shortest time, in seconds, between two updates of a token's last use."""

# Everything for a log-in in one statement, built once: that takes 80 µs instead of 290.
_BY_HASH = (
    select(
        account_table,
        token.c.id.label("token_id"),
        token.c.expires.label("token_expires"),
        token.c.used.label("token_used"),
    )
    .join(token, token.c.account_id == account_table.c.id)
    .where(token.c.hash == bindparam("secret"))
)


@dataclass(frozen=True)
class Issued:
    """A new token, with its secret, which is stored nowhere. ``expires``: seconds since 1970."""

    id: str
    secret: str
    expires: int | None


class Tokens:
    """The tokens of one root's accounts. Safe to use from many threads and processes."""

    def __init__(self, engine: Engine, accounts: Accounts) -> None:
        self._engine = engine
        self._durable = durable(engine)
        self._reading = reading(engine)
        self._accounts = accounts

    def issue(
        self,
        account: Account,
        name: str,
        seconds: int | None = DEFAULT_SECONDS,
        parent: str | None = None,
    ) -> Issued:
        """Make a token.

        Args:
            name: At most 64 characters, without NUL.
            parent: The token of the requesting session. The new one ends with it at the latest, and
                is revoked with it.

        Raises:
            TooMany: The account has too many.
            BadAccount: The name cannot be used.
            Forbidden: The parent was revoked or has expired.
            NotFound: The account was removed.
        """
        if len(name) > MAX_TOKEN_NAME or "\0" in name:
            raise BadAccount(f"a token's name has at most {MAX_TOKEN_NAME} characters, and no NUL")
        now = int(RUN.latest())
        expires = None if seconds is None else now + seconds
        mine = select(func.count()).where(token.c.account_id == account.id).scalar_subquery()
        owner = select(account_table.c.id).where(account_table.c.id == account.id)
        with self._durable.begin() as connection:
            connection.execute(delete(token).where(token.c.expires < int(RUN.earliest())))
            # a database with concurrent writers serializes those of one account here
            if connection.execute(owner.with_for_update()).first() is None:
                raise NotFound("the account was removed")
            if parent is not None:
                expires = _within(connection, account, parent, expires, now)
            made = Issued(secrets.token_hex(4), _PREFIX + secrets.token_urlsafe(32), expires)
            values = {
                "id": made.id,
                "account_id": account.id,
                "name": name,
                "hash": _hash(made.secret),
                "created": now,
                "expires": made.expires,
                "parent": parent,
            }
            row = select(*(literal(value, token.c[name].type) for name, value in values.items()))
            adding = insert(token).from_select(list(values), row.where(mine < MAX_TOKENS))
            if not connection.execute(adding).rowcount:
                raise TooMany(f"there are {MAX_TOKENS} tokens: revoke one first")
        return made

    def log_in(self, name: str, secret: str, host: str = LOCAL) -> tuple[Account, str]:
        """Return the account and the token's id, if the token is that account's and valid.

        Args:
            host: The address that the log-in comes from.

        Raises:
            Refused: The same error for anything wrong with the token or the address. Only that the
                account is disabled or has expired is shown.
        """
        now = int(RUN.latest())
        with self._reading.connect() as connection:
            row = connection.execute(_BY_HASH, {"secret": _hash(secret)}).first()
        if row is None or row.name != name:
            raise Refused(_REFUSED, "no such token")
        if (row.token_expires or now + 1) <= now:
            raise Refused(_REFUSED, "the token has expired")
        account = self._accounts.from_row(row)
        account.check_open(host, _REFUSED)
        if row.token_used is None or row.token_used < now - _USED_EVERY:
            with self._engine.begin() as connection:
                connection.execute(update(token).where(token.c.id == row.token_id).values(used=now))
        return account, str(row.token_id)

    def of(self, account: Account, current: str | None = None) -> Sequence[TokenInfo]:
        """Return the account's tokens, oldest first."""
        mine = select(token).where(token.c.account_id == account.id).order_by(token.c.created)
        with self._reading.connect() as connection:
            rows = connection.execute(mine).all()
        return [
            TokenInfo(
                row.id,
                row.name,
                row.created,
                row.expires,
                row.used,
                row.id == current,
                row.parent,
            )
            for row in rows
        ]

    def is_good(self, token_id: str) -> bool:
        """Return True if the token has not been revoked."""
        with self._reading.connect() as connection:
            found = connection.execute(select(token.c.id).where(token.c.id == token_id))
            return found.first() is not None

    def revoke(self, account: Account | None, token_id: str) -> int:
        """Revoke a token, of that account or of any, and all tokens made with it.

        Return how many were revoked. Raises NotFound.
        """
        first = select(token.c.id).where(token.c.id == token_id)
        if account is not None:
            first = first.where(token.c.account_id == account.id)
        line = first.cte("line", recursive=True)
        line = line.union(select(token.c.id).join(line, token.c.parent == line.c.id))
        with self._durable.begin() as connection:
            ids = connection.execute(select(line.c.id)).scalars().all()
            connection.execute(delete(token).where(token.c.id.in_(ids)))
        if not ids:
            raise NotFound(f"{printable(token_id)}: no such token")
        return len(ids)

    def revoke_all(self, account: Account) -> int:
        """Revoke all tokens of an account, and return how many there were."""
        with self._durable.begin() as connection:
            mine = delete(token).where(token.c.account_id == account.id)
            return connection.execute(mine).rowcount


def _within(
    connection: Connection, account: Account, parent: str, expires: int | None, now: int
) -> int | None:
    """Return when a token that is made with another one expires. Raises Forbidden."""
    statement = select(token.c.expires).where(
        token.c.id == parent, token.c.account_id == account.id
    )
    row = connection.execute(statement).first()
    if row is None or (row.expires is not None and row.expires <= now):
        raise Forbidden(NO_MORE)
    ends = [one for one in (row.expires, expires) if one is not None]
    return min(ends) if ends else None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
