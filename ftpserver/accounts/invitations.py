"""Invitations: codes that let a person make an account of their own.

Lives here: making, listing, revoking and using them.
Lives elsewhere: registration (registration.py), the table (schema.py).

A code has 144 random bits, and only its SHA-256 is stored. One statement takes a use, in the
transaction that adds the account: no use is taken twice, and none is lost if that fails.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, or_, select, update

from ftpserver.clock import RUN
from ftpserver.database import durable, reading
from ftpserver.schema import invitation
from ftpwire.errors import NotFound, RegistrationClosed

MAX_USES = 1_000_000
_PREFIX = "ftpi_"
CLOSED = "registration needs a valid invitation (none given, unknown, used up or expired)"
"""The text for every reason: a wrong code must not give anything away about others."""


@dataclass(frozen=True)
class Invitation:
    """An invitation. Times are seconds since 1970.

    Attributes:
        id: The id by which it is listed and revoked.
        quota: The quota of each account made with it, in bytes; None for the server's default.
        uses: The number of remaining uses.
        expires: The expiry time; None for never.
    """

    id: str
    quota: int | None
    uses: int
    created: int
    expires: int | None


class Invitations:
    """The invitations of one root. Safe to use from many threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._durable = durable(engine)
        self._reading = reading(engine)

    def make(self, quota: int | None, uses: int, seconds: int | None) -> tuple[Invitation, str]:
        """Make an invitation. Return it with its code, which is stored nowhere."""
        now = int(RUN.latest())
        code = _PREFIX + secrets.token_urlsafe(18)
        made = Invitation(
            secrets.token_hex(4), quota, uses, now, None if seconds is None else now + seconds
        )
        with self._durable.begin() as connection:
            over = or_(invitation.c.expires <= int(RUN.earliest()), invitation.c.uses <= 0)
            connection.execute(delete(invitation).where(over))
            connection.execute(insert(invitation).values(hash=_hash(code), **vars(made)))
        return made, code

    def all(self) -> Sequence[Invitation]:
        """Return the invitations that can still be used, oldest first."""
        good = select(invitation).where(*_is_good()).order_by(invitation.c.created)
        with self._reading.connect() as connection:
            return [_from_row(row) for row in connection.execute(good)]

    def find(self, code: str) -> Invitation:
        """Return the invitation of a code, without using it. Raises RegistrationClosed."""
        mine = select(invitation).where(invitation.c.hash == _hash(code), *_is_good())
        with self._reading.connect() as connection:
            row = connection.execute(mine).first()
        if row is None:
            raise RegistrationClosed(CLOSED)
        return _from_row(row)

    def revoke(self, invitation_id: str) -> None:
        """Revoke an invitation. Accounts that were made with it stay. Raises NotFound."""
        with self._durable.begin() as connection:
            gone = connection.execute(delete(invitation).where(invitation.c.id == invitation_id))
        if not gone.rowcount:
            raise NotFound(f"{invitation_id}: no such invitation")


def take_use(connection: Connection, found: Invitation) -> None:
    """Take one of an invitation's uses, within a transaction.

    Raises:
        RegistrationClosed: The last use was just taken, or it was revoked or has expired.
    """
    taken = connection.execute(
        update(invitation)
        .where(invitation.c.id == found.id, *_is_good())
        .values(uses=invitation.c.uses - 1)
    )
    if not taken.rowcount:
        raise RegistrationClosed(CLOSED)


def _is_good() -> tuple[Any, ...]:
    unexpired = or_(invitation.c.expires.is_(None), invitation.c.expires > int(RUN.latest()))
    return invitation.c.uses > 0, unexpired


def _from_row(row: Row[tuple[object, ...]]) -> Invitation:
    return Invitation(row.id, row.quota, row.uses, row.created, row.expires)


def _hash(code: str) -> bytes:
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).digest()
