"""The process of each lease, and the leases of dead processes.

Lives here: telling dead processes from living ones, ending their leases, keeping resumable uploads.
Lives elsewhere: leases of living processes (ledger.py), counting the homes (recount.py).

The lease of a living process of this run never expires. That of another node does, by the clock of
the database.
"""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager

from sqlalchemy import ColumnElement, Connection, Engine, Table, and_, or_, select, update

from ftpserver.clock import RUN
from ftpserver.database import Writer, durable, reading
from ftpserver.schema import SecondsNow, account, lease
from ftpserver.storage.account_reservation import end

LEASE_SECONDS = 600
SECONDS_NOW: ColumnElement[int] = SecondsNow()
KEPT = "kept"
"""The state of the lease of an interrupted upload: its staging file waits for a resume."""


class Incarnations:
    """The leases of this run of the server, and of other runs and nodes.

    Args:
        node: The name of this server among those that share the accounts.
        incarnation: The name of this process of it.
        keep_seconds: How long interrupted uploads wait for a resume.
        run: The prefix of the incarnations of all processes of this run. Leases of other runs are
            dead. None: this is the only process.

    Attributes:
        others: The incarnations of the other living processes of this run.
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
        """Dead processes of this run whose leases could not be ended yet."""

    def _writing(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Begin a transaction that writes."""
        return self._writer.begin(engine)

    def reap(self) -> list[int]:
        """End the leases of dead processes, and mark their accounts as dirty.

        Dead are all earlier runs of this node, and any process that let a lease expire. Their
        resumable uploads are kept until these expire by themselves.

        Returns:
            The ids of all accounts that have to be recounted.
        """
        marked_dead = set(self._marked_dead)  # a copy: one that dies now is left for the next call
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
        """Shorten the time of kept uploads to ``keep_seconds`` from now, at start. It can be longer
        if the setting was, or if the system's clock was wrong."""
        latest = now() + self.keep_seconds
        too_late = and_(lease.c.state == KEPT, lease.c.expires > latest)
        with self._reading.connect() as connection:
            if connection.execute(select(lease.c.id).where(too_late)).first() is None:
                return
        with self._writing(self._engine) as connection:
            connection.execute(update(lease).where(too_late).values(expires=latest))

    def in_doubt(self) -> set[int]:
        """Return the ids of the accounts that `reap` would have recounted. Nothing is changed."""
        dead = and_(lease.c.state != KEPT, self.is_dead(lease, thorough=True))
        with self._reading.connect() as connection:
            dirty = connection.execute(select(account.c.id).where(account.c.dirty)).scalars()
            owners = connection.execute(select(lease.c.account_id).where(dead)).scalars()
            return {*dirty, *owners}

    def mark_dead(self, incarnation: str) -> None:
        """End the leases of a dead process of this run. If this fails, `reap` does it later."""
        self._marked_dead.add(incarnation)
        self.others.discard(incarnation)
        of_process = and_(lease.c.node == self.node, lease.c.incarnation == incarnation)
        with self._writing(self._durable) as connection:
            self._end_all(connection, and_(of_process, lease.c.state != KEPT))
        self._marked_dead.discard(incarnation)

    def _end_all(self, connection: Connection, which: ColumnElement[bool]) -> None:
        """End leases without a living owner; keep resumable uploads."""
        rows = connection.execute(
            select(lease.c.id, lease.c.account_id, lease.c.staging, lease.c.state).where(which)
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
        """Return a condition that the process of a row of ``lease`` or ``session`` is dead.

        Args:
            thorough: True to include dead processes of this run. Only the first process of a run
                can tell: it knows the living ones.
        """
        here, owner = table.c.node == self.node, table.c.incarnation
        lapsed = table.c.expires < SECONDS_NOW
        dead = [
            and_(here, ~owner.startswith(self.run, autoescape=True)),
            and_(~here, lapsed),
        ]
        if thorough and self.incarnation == self.run:
            dead.append(and_(here, owner.not_in([self.incarnation, *self.others]), lapsed))
            dead.append(and_(here, owner.in_(list(self._marked_dead))))
        return or_(*dead)

    def live_incarnations(self) -> set[str]:
        """Return the processes that hold leases, and all that are known to be alive.

        Kept uploads don't count: the process that they are from may have ended long ago.
        """
        with self._reading.connect() as connection:
            found = connection.execute(
                select(lease.c.incarnation).where(lease.c.state != KEPT).distinct()
            ).scalars()
            return {*found, self.incarnation, *self.others}


def now() -> int:
    """Return seconds since 1970, for what may outlive this run: uploads that are kept."""
    return int(RUN.now())
