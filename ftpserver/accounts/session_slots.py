"""Session slots: the limits in all, of an account, and from an address.

Lives here: the table ``session``. Lives elsewhere: when a session needs a slot (session_limits.py).
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Engine,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from ftpserver.accounts.account import Account
from ftpserver.database import reading
from ftpserver.schema import session
from ftpserver.storage.incarnations import LEASE_SECONDS, SECONDS_NOW
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import NotFound, TooMany


class Most(NamedTuple):
    """The limits for sessions; None for no limit."""

    in_all: int | None = None
    of_account: int | None = None
    from_address: int | None = None


NO_LIMIT = Most()


class Sessions:
    """The sessions that count for a limit, in the table ``session``.

    With SQLite one transaction writes at a time, so no two sessions can take the last slot. Another
    database needs serializable transactions for that.
    """

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._ledger = ledger
        self._node = ledger.node
        self._incarnation = ledger.incarnation
        self._left: deque[str] = deque()
        """Rows to be removed. A deque is safe between threads."""

    def enter(
        self, account: Account, network: str, most: Most, *, only_asking: bool = False
    ) -> str:
        """Take a session slot, and return its id for `leave`.

        Args:
            network: The network of the client's address.
            only_asking: True to check whether a slot is free, without taking it.

        Raises:
            TooMany: No slot is free.
            NotFound: The account was removed.
        """
        limits = (
            (most.in_all, true(), "the server has"),
            (most.of_account, session.c.account_id == account.id, f"{account.name} has"),
            (most.from_address, session.c.address == network, f"{network} has"),
        )
        held = [(limit, self._count(of), text) for limit, of, text in limits if limit is not None]
        taken = secrets.token_hex(8)
        values: dict[str, object] = {
            "id": taken,
            "account_id": account.id,
            "address": network,
            "node": self._node,
            "incarnation": self._incarnation,
        }
        columns = [*values, "since", "expires"]
        times = SECONDS_NOW, SECONDS_NOW + LEASE_SECONDS
        row = select(*(literal(value) for value in values.values()), *times)
        row = row.where(*(count < limit for limit, count, _ in held))
        try:
            with self._engine.begin() as connection:
                # one statement counts and inserts, so no other session comes in between
                if connection.execute(insert(session).from_select(columns, row)).rowcount:
                    if only_asking:
                        connection.rollback()
                    return taken
                there = [connection.execute(select(count)).scalar() for _, count, _ in held]
        except IntegrityError:
            raise NotFound("the account was removed") from None
        for (limit, _, text), count in zip(held, there, strict=True):
            if count is not None and count >= limit:
                text = f"too many sessions: {text} {count}, the limit is {limit}"
                raise TooMany(text, retry_after=1)
        raise TooMany("too many sessions", retry_after=1)

    def _count(self, condition: ColumnElement[bool]) -> ColumnElement[int]:
        alive = (
            select(func.count())
            .select_from(session)
            .where(condition, ~self._ledger.is_dead(session))
        )
        return alive.scalar_subquery()

    def leave(self, slot: str) -> None:
        """Release a slot. If its row cannot be removed now, `heartbeat` tries again."""
        self._left.append(slot)
        self._remove_left()

    def _remove_left(self) -> None:
        while self._left:
            try:
                slot = self._left.popleft()
            except IndexError:
                return  # another thread has taken it
            try:
                with self._engine.begin() as connection:
                    connection.execute(delete(session).where(session.c.id == slot))
            except BaseException:
                self._left.append(slot)
                raise

    def heartbeat(self) -> None:
        """Renew this run's rows. Must be called well within every LEASE_SECONDS."""
        self._remove_left()
        mine = and_(session.c.node == self._node, session.c.incarnation == self._incarnation)
        with self._reading.connect() as connection:
            if connection.execute(select(session.c.id).where(mine)).first() is None:
                return
        with self._engine.begin() as connection:
            connection.execute(
                update(session).where(mine).values(expires=SECONDS_NOW + LEASE_SECONDS)
            )

    def reap(self) -> None:
        """Remove the rows of earlier runs of this node, and of nodes that have stopped renewing."""
        with self._engine.begin() as connection:
            connection.execute(delete(session).where(self._ledger.is_dead(session, thorough=True)))

    def mark_dead(self, incarnation: str) -> None:
        """Remove the rows of a process of this run that has died."""
        owned = and_(session.c.node == self._node, session.c.incarnation == incarnation)
        with self._engine.begin() as connection:
            connection.execute(delete(session).where(owned))
