"""Which process each lease is of, and what becomes of those of the dead.

Lives here: telling the dead from the living, ending what they held, keeping what can be resumed.
Lives elsewhere: leases of the living (ledger.py), counting the homes (recount.py).

Time ends no lease of a process of this run that lives. It does end those of other nodes, by the
clock of the database.
"""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager

from sqlalchemy import ColumnElement, Connection, Engine, Table, and_, or_, select, update

from ftpserver.clock import RUN
from ftpserver.database import Writer, durable, reading
from ftpserver.schema import SecondsNow, account, lease
from ftpserver.storage.account_room import end

LEASE_SECONDS = 600
SECONDS_NOW: ColumnElement[int] = SecondsNow()
KEPT = "kept"
"""State of a lease whose upload was interrupted: it owns a staging file that waits for a resume."""


class Incarnations:
    """The leases of this run of the server, and of others.

    Args:
        node: Name of this server among those that share the accounts.
        incarnation: This process of it.
        keep_seconds: How long interrupted uploads wait for a resume.
        run: What the incarnations of all processes of this run of the server begin with; leases
            of other runs are dead. None: it has this one process.

    Attributes:
        others: The incarnations of its other processes that are alive.
    """

    def __init__(
        self, engine: Engine, node: str, incarnation: str, keep_seconds: int, run: str | None
    ) -> None:
        self.keep_seconds = keep_seconds
        self._engine = engine
        self._writer = Writer.of(engine)
        self._durable = durable(engine)
        self._reading = reading(engine)
        self.node = node
        self.incarnation = incarnation or secrets.token_hex(8)
        self.run = run or self.incarnation
        self.others: set[str] = set()
        self._marked_dead: set[str] = set()
        """Processes of this run that have died, and whose leases could not be ended yet."""

    def _writing(self, engine: Engine) -> AbstractContextManager[Connection]:
        """A transaction that writes."""
        return self._writer.begin(engine)

    def reap(self) -> list[int]:
        """End the leases of the dead, and mark their accounts dirty.

        Dead is an earlier run of this node, and whoever let a lease expire. What they were
        uploading is kept if it can be resumed, until its own time is over.

        Returns:
            Ids of all accounts that have to be recounted.
        """
        marked_dead = set(self._marked_dead)  # first: who dies now is left to the next time
        dead = or_(
            and_(lease.c.state == KEPT, lease.c.expires < now()),
            and_(lease.c.state != KEPT, self.is_dead(lease, thorough=True)),
        )
        with self._writing(self._durable) as connection:
            self._end_all(connection, dead)
            dirty = connection.execute(select(account.c.id).where(account.c.dirty)).scalars()
            found = list(dirty)
        self._marked_dead -= marked_dead
        return found

    def bound_kept(self) -> None:
        """At the start: nothing is kept for longer than it may be from now on, as when the system's
        clock was wrong before."""
        latest = now() + self.keep_seconds
        too_late = and_(lease.c.state == KEPT, lease.c.expires > latest)
        with self._reading.connect() as connection:
            if connection.execute(select(lease.c.id).where(too_late)).first() is None:
                return
        with self._writing(self._engine) as connection:
            connection.execute(update(lease).where(too_late).values(expires=latest))

    def in_doubt(self) -> set[int]:
        """Ids of the accounts that `reap` would have recounted; nothing is changed."""
        dead = and_(lease.c.state != KEPT, self.is_dead(lease, thorough=True))
        with self._reading.connect() as connection:
            dirty = connection.execute(select(account.c.id).where(account.c.dirty)).scalars()
            owners = connection.execute(select(lease.c.account_id).where(dead)).scalars()
            return {*dirty, *owners}

    def mark_dead(self, incarnation: str) -> None:
        """End the leases of a process of this run that has died, as `reap` does, which does it
        later where this fails."""
        self._marked_dead.add(incarnation)
        self.others.discard(incarnation)
        its = and_(lease.c.node == self.node, lease.c.incarnation == incarnation)
        with self._writing(self._durable) as connection:
            self._end_all(connection, and_(its, lease.c.state != KEPT))
        self._marked_dead.discard(incarnation)

    def _end_all(self, connection: Connection, whose: ColumnElement[bool]) -> None:
        """End leases whose owners are no more; what can be resumed is kept."""
        rows = connection.execute(
            select(lease.c.id, lease.c.account_id, lease.c.staging, lease.c.state).where(whose)
        ).all()
        for row in rows:
            connection.execute(
                update(account).where(account.c.id == row.account_id).values(dirty=True)
            )
            if row.staging is not None and row.state != KEPT:
                connection.execute(
                    update(lease)
                    .where(lease.c.id == row.id)
                    .values(state=KEPT, expires=now() + self.keep_seconds)
                )
            else:
                end(connection, row.account_id, lease.c.id == row.id)

    def is_dead(self, table: Table, *, thorough: bool = False) -> ColumnElement[bool]:
        """Whether the process is dead that a row of ``lease`` or ``session`` is of.

        Args:
            thorough: Look also for dead ones of this run. The first process knows those that live.
        """
        here, its = table.c.node == self.node, table.c.incarnation
        lapsed = table.c.expires < SECONDS_NOW
        dead = [
            and_(here, ~its.startswith(self.run, autoescape=True)),
            and_(~here, lapsed),
        ]
        if thorough and self.incarnation == self.run:
            dead.append(and_(here, its.not_in([self.incarnation, *self.others]), lapsed))
            dead.append(and_(here, its.in_(list(self._marked_dead))))
        return or_(*dead)

    def live_incarnations(self) -> set[str]:
        """The processes that hold leases, and all that are known to be alive.

        A kept upload says nothing about the run that it is from: that may be long over.
        """
        with self._reading.connect() as connection:
            found = connection.execute(
                select(lease.c.incarnation).where(lease.c.state != KEPT).distinct()
            ).scalars()
            return {*found, self.incarnation, *self.others}


def now() -> int:
    """Seconds since 1970, for what waits much longer than a run may: uploads that are kept."""
    return int(RUN.now())
