"""How many sessions there may be: in all, of an account, from an address.

Lives here: the table ``session``. Lives elsewhere: when a session needs a slot (limits.py).
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
    """How many sessions there may be; None: any number."""

    in_all: int | None = None
    of_account: int | None = None
    from_address: int | None = None


NO_LIMIT = Most()


class Sessions:
    """The sessions that count for a limit, in the table ``session``.

    With SQLite writers come one after another, so that no two can take the last place. Another
    database needs serializable transactions for it.
    """

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._ledger = ledger
        self._node = ledger.node
        self._incarnation = ledger.incarnation
        self._left: deque[str] = deque()
        """Rows that have to go; a deque is safe between threads."""

    def enter(self, account: Account, slot: str, most: Most, *, only_asking: bool = False) -> str:
        """Take one of the places; returns its name, to give it back by.

        Args:
            only_asking: Whether one could be taken: none is.

        Raises:
            TooMany: None is left.
            NotFound: The account is gone.
        """
        limits = (
            (most.in_all, true(), "the server has"),
            (most.of_account, session.c.account_id == account.id, f"{account.name} has"),
            (most.from_address, session.c.address == slot, f"{slot} has"),
        )
        held = [(limit, self._count(of), text) for limit, of, text in limits if limit is not None]
        taken = secrets.token_hex(8)
        values: dict[str, object] = {
            "id": taken,
            "account_id": account.id,
            "address": slot,
            "node": self._node,
            "incarnation": self._incarnation,
        }
        columns = [*values, "since", "expires"]
        times = SECONDS_NOW, SECONDS_NOW + LEASE_SECONDS
        row = select(*(literal(value) for value in values.values()), *times)
        row = row.where(*(count < limit for limit, count, _ in held))
        try:
            with self._engine.begin() as connection:
                if connection.execute(insert(session).from_select(columns, row)).rowcount:
                    if only_asking:
                        connection.rollback()
                    return taken
                there = [connection.execute(select(count)).scalar() for _, count, _ in held]
        except IntegrityError:
            raise NotFound("the account was removed") from None
        for (limit, _, text), count in zip(held, there, strict=True):
            if count is not None and count >= limit:
                text = f"too many sessions: {text} {count}, and {limit} are allowed"
                raise TooMany(text, retry_after=1)
        raise TooMany("too many sessions", retry_after=1)

    def _count(self, whose: ColumnElement[bool]) -> ColumnElement[int]:
        alive = (
            select(func.count()).select_from(session).where(whose, ~self._ledger.is_dead(session))
        )
        return alive.scalar_subquery()

    def leave(self, slot: str) -> None:
        """A session has ended. Where that can't be written down, the heartbeat tries again."""
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
        """Keep this run's rows alive. To be called well within LEASE_SECONDS."""
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
        """Remove the rows of the dead: of earlier runs here, and of nodes that fell silent."""
        with self._engine.begin() as connection:
            connection.execute(delete(session).where(self._ledger.is_dead(session, thorough=True)))

    def mark_dead(self, incarnation: str) -> None:
        """Remove the rows of a process of this run that has died."""
        its = and_(session.c.node == self._node, session.c.incarnation == incarnation)
        with self._engine.begin() as connection:
            connection.execute(delete(session).where(its))
