"""Quotas: reserve, settle, release; the same for threads, processes and nodes.

Lives here: every statement that changes ``used``, ``files`` and what is held, and the leases.
Lives elsewhere: what sessions may ask of it (quota.py), what the bytes are (batch.py, home.py),
the tables (schema.py).

Whoever changes what is stored holds a lease while doing so, also when it frees room. A lease
that outlived its server therefore marks its account as dirty: the disk is the truth, and the
account is recounted from it. Room is taken in one conditional UPDATE, never by looking first.
A change is settled while the home's lock is held under which it was made, or a recount between
the two would count it, and the settlement count it again. So a settlement that comes late, or whose
lease somebody has ended, adds nothing: the home is counted.

A lease belongs to the session that has the `Lease`; when nobody has that any more, it is ended as
a dead one's. Time ends no lease of a process of this run that lives. It does end those of other
nodes, by the clock of the database.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Engine,
    Row,
    ScalarSelect,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ftpserver.clock import RUN
from ftpserver.database import durable, reading
from ftpserver.errors import StateError
from ftpserver.schema import SecondsNow, account, lease
from ftpserver.storage import uncounted
from ftpserver.storage.quota import (
    BYTES_FOR_A_FILE,
    FEWEST_FILES,
    Books,
    Lease,
    Resumable,
    Settled,
    most_files,
)
from ftpwire.errors import Busy, DiskFull, LeaseLost, NotFound, QuotaExceeded
from ftpwire.messages import Room

logger = logging.getLogger("ftpd.ledger")

STEP = 16 * 1024 * 1024
"""Bytes reserved at a time for batches of small files."""
STEP_FILES = 1000
"""Files, directories and links reserved along with them."""
_STEPS_SPARE = 8
"""Steps are taken only while this many would still be free."""
_AT_ONCE = 500
"""Leases that are named in one statement."""
_TRIES = 10
"""Times that room is looked for, where others give some back between two looks."""
LEASE_SECONDS = 600
SECONDS_NOW: ColumnElement[int] = SecondsNow()
KEPT = "kept"
"""State of a lease whose upload was interrupted: it owns a staging file that waits for a resume."""


def _at_least_zero(count: ColumnElement[int]) -> ColumnElement[int]:
    """A count that the table takes, whatever an earlier version has left in it."""
    return case((count < 0, 0), else_=count)


_OF_QUOTA = account.c.quota // BYTES_FOR_A_FILE
_MOST_FILES = func.coalesce(
    account.c.max_files,
    case((_OF_QUOTA > FEWEST_FILES, _OF_QUOTA), (_OF_QUOTA.is_not(None), FEWEST_FILES)),
)
"""As `most_files`."""

# What each batch asks for, built once: that is most of what a statement costs.

_HOLD = (
    update(account)
    .where(
        account.c.id == bindparam("of_account"),
        or_(
            account.c.quota.is_(None),
            account.c.used + account.c.held + bindparam("needed") <= account.c.quota,
            bindparam("more", type_=BigInteger) == 0,  # who is over the quota may still remove
        ),
        or_(
            _MOST_FILES.is_(None),
            account.c.files + account.c.held_files + bindparam("needed_files") <= _MOST_FILES,
            bindparam("more_files", type_=BigInteger) == 0,
        ),
    )
    .values(
        held=account.c.held + bindparam("more", type_=BigInteger),
        held_files=account.c.held_files + bindparam("more_files", type_=BigInteger),
    )
)
_DELETE_ONE = (
    delete(lease)
    .where(lease.c.id == bindparam("its_id"), lease.c.incarnation == bindparam("its_incarnation"))
    .returning(lease.c.size, lease.c.files)
)
_USED = account.c.used + bindparam("more", type_=BigInteger)
_FILES = account.c.files + bindparam("more_files", type_=BigInteger)
_SETTLE = (
    update(account)
    .where(account.c.id == bindparam("of_account"))
    .values(
        used=_at_least_zero(_USED),
        held=_at_least_zero(account.c.held - bindparam("ended", type_=BigInteger)),
        files=_at_least_zero(_FILES),
        held_files=_at_least_zero(
            account.c.held_files - bindparam("ended_files", type_=BigInteger)
        ),
        # when more went than was counted, the disk has to say what is left
        dirty=or_(account.c.dirty, bindparam("in_doubt", type_=Boolean), _USED < 0, _FILES < 0),
    )
    .returning(account.c.used, account.c.quota)
)
_KEPT_OF = select(lease.c.staging).where(
    lease.c.account_id == bindparam("of_account"), lease.c.state == KEPT
)


class Ledger(Books):
    """The used and held bytes of all accounts. Safe to use from many threads and processes.

    Args:
        node: Name of this server among those that share the accounts.
        incarnation: This process of it.
        keep_seconds: How long interrupted uploads wait for a resume.
        run: What the incarnations of all processes of this run of the server begin with; leases
            of other runs are dead. None: it has this one process.
        state: Where accounts are marked whose change a full disk keeps from being settled; None:
            they aren't.

    Attributes:
        others: The incarnations of its other processes that are alive.
        on_doubt: Called when a home has to be counted.
    """

    def __init__(
        self,
        engine: Engine,
        node: str = "local",
        incarnation: str = "",
        keep_seconds: int = 7 * 24 * 3600,
        run: str | None = None,
        state: Path | None = None,
    ) -> None:
        self.keep_seconds = keep_seconds
        self._engine = engine
        self._durable = durable(engine)
        self._reading = reading(engine)
        self.node = node
        self.incarnation = incarnation or secrets.token_hex(8)
        self.run = run or self.incarnation
        self.state = state
        self.others: set[str] = set()
        self.on_doubt: Callable[[], None] = lambda: None
        self._waiting: deque[tuple[list[Lease], int, int]] = deque()
        """Settlements that failed; a deque is safe between threads."""
        self._owning = threading.Lock()
        self._owned: WeakValueDictionary[str, Lease] = WeakValueDictionary()
        """Leases that somebody has, by their ids; additions are guarded by ``_owning``."""
        self._unburied: set[str] = set()
        """Processes of this run that have died, and whose leases could not be ended yet."""

    def reserve(
        self, account_id: int, size: int, staging: bytes | None = None, *, files: int = 1
    ) -> Lease:
        """Hold exactly ``size`` bytes and ``files``. Durable, so that a crash is noticed later.

        Args:
            staging: Name of the staging file that the lease owns, for uploads that can be kept.

        Raises:
            QuotaExceeded: There is less room; nothing is held.
        """
        self.settle_waiting()
        with self._durable.begin() as connection:
            self._hold(connection, account_id, size, files)
            return self._insert(connection, account_id, size, files, staging)

    def check_room(self, account_id: int, size: int, files: int = 1) -> None:
        """Raise QuotaExceeded if `reserve` would; nothing is held."""
        with self._engine.connect() as connection:
            self._hold(connection, account_id, size, files)
            connection.rollback()

    def take_over(self, account_id: int, staging: bytes) -> Lease | None:
        """The lease that owns a staging file, now this session's; None when there is none.

        The caller holds the file. Whoever had the lease before can't commit under it any more.
        """
        owned = and_(
            lease.c.account_id == account_id,
            lease.c.staging == staging,
            or_(lease.c.state != "committing", self.is_dead(lease)),  # that one is being stored
        )
        with self._durable.begin() as connection:
            row = connection.execute(
                select(lease.c.id, lease.c.size, lease.c.files).where(owned)
            ).first()
            if row is None:
                return None
            taken = self._own(account_id, row.size, row.files)
            connection.execute(
                update(lease)
                .where(lease.c.id == row.id)
                .values(
                    id=taken.id,
                    node=self.node,
                    incarnation=self.incarnation,
                    state="open",
                    expires=SECONDS_NOW + LEASE_SECONDS,
                )
            )
            return taken

    def keep(self, held: Lease) -> None:
        """Keep the room of an upload that was interrupted, for whoever resumes it."""
        with self._durable.begin() as connection:
            connection.execute(
                update(lease)
                .where(lease.c.id == held.id)
                .values(state=KEPT, expires=_now() + self.keep_seconds)
            )

    def drop_kept(self, account_id: int, staging: bytes) -> None:
        """Give back the room of a kept upload whose staging file was removed."""
        with self._engine.begin() as connection:
            _end(
                connection,
                account_id,
                lease.c.account_id == account_id,
                lease.c.staging == staging,
                lease.c.state == KEPT,
            )

    def owned_staging(self, account_id: int | None = None) -> set[bytes]:
        """The staging files that leases of an account own; without one, those of any."""
        owned = select(lease.c.staging).where(lease.c.staging.is_not(None))
        if account_id is not None:
            owned = owned.where(lease.c.account_id == account_id)
        with self._reading.connect() as connection:
            return set(connection.execute(owned).scalars())

    def resumable(self, account_id: int) -> list[Resumable]:
        """The uploads that own a staging file: those under way, and those that are kept."""
        columns = (lease.c.staging, lease.c.size, lease.c.expires, lease.c.state)
        with self._reading.connect() as connection:
            found = connection.execute(
                select(*columns).where(
                    lease.c.account_id == account_id, lease.c.staging.is_not(None)
                )
            )
            return [
                Resumable(row.staging, row.size, row.expires, row.state == KEPT) for row in found
            ]

    def reserve_step(self, account_id: int, size: int, files: int = 1) -> Lease:
        """Hold at least so many bytes and files, and whole steps where there is plenty of room."""
        self.settle_waiting()
        with self._durable.begin() as connection:
            size, files = self._hold_plenty(connection, account_id, size, files)
            return self._insert(connection, account_id, size, files)

    def extend(self, held: Lease, size: int, files: int = 0) -> None:
        """Hold so many bytes and files more, or whole steps where there is plenty of room.

        Raises:
            QuotaExceeded: There is less room; the lease is as it was.
            LeaseLost: The lease is gone.
        """
        with self._engine.begin() as connection:
            size, files = self._hold_plenty(connection, held.account_id, size, files)
            self._change(connection, held, size=lease.c.size + size, files=lease.c.files + files)
        held.size += size
        held.files += files

    def begin_commit(self, leases: Sequence[Lease]) -> None:
        """Say that renames follow.

        Raises:
            LeaseLost: One is gone or lapsed: nothing may be stored under them.
        """
        with self._engine.begin() as connection:
            for held in leases:
                self._change(connection, held, state="committing")

    def settle(self, leases: Sequence[Lease], change: int, files: int = 0) -> Settled:
        """End leases of one account: so many bytes and files more (or fewer) are stored now.

        Raises:
            LeaseLost: One is gone, and what it stood for may not be acknowledged.
            DiskFull, StateError: The books can't be written. It is tried again.
        """
        try:
            try:
                return self._settle(leases, change, files)
            except DiskFull:  # which has just given up the room that is kept back for this
                return self._settle(leases, change, files)
        except LeaseLost:
            raise
        except Exception:
            self._waiting.append((list(leases), change, files))
            if self.state is not None and (change or files):
                for held in leases:
                    if not held.id:  # with a lease the next start counts the home in any case
                        uncounted.mark(self.state, held.account_id)
            raise

    @property
    def is_waiting(self) -> bool:
        """Whether something isn't settled yet that should be."""
        return bool(self._waiting)

    def take_over_waiting(self, other: Ledger) -> None:
        """Settle, in time, what waits there without a lease: its session has ended."""
        self._waiting.extend(one for one in other._waiting if not any(held.id for held in one[0]))

    def settle_waiting(self) -> None:
        """Settle what has failed to be, unless it still does.

        The home's lock isn't held any more: a recount may have found what was changed. So that
        isn't added, and the home is counted.
        """
        while self._waiting:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                return  # another thread has taken it
            leases, change, files = waiting
            try:
                self._settle(leases, 0, 0, in_doubt=bool(change or files))
            except LeaseLost:
                pass  # whoever ended it gave its room back
            except Exception as error:
                self._waiting.appendleft(waiting)
                if not isinstance(error, (DiskFull, StateError)):
                    logger.exception("what is held can't be given back; it is tried again")
                return
            if change or files:
                self.on_doubt()

    def _settle(
        self, leases: Sequence[Lease], change: int, files: int, *, in_doubt: bool = False
    ) -> Settled:
        account_id = leases[0].account_id
        with self._engine.begin() as connection:
            lost, size, count = False, 0, 0
            for held in leases:
                its = {"its_id": held.id, "its_incarnation": self.incarnation}
                ended = connection.execute(_DELETE_ONE, its).first()
                if ended is None:
                    lost = True
                    # who ended it may have had the home counted before the change, or after
                    in_doubt = in_doubt or bool(held.id and (change or files))
                else:
                    size += ended.size
                    count += ended.files
            values = {
                "of_account": account_id,
                "more": 0 if in_doubt else change,
                "more_files": 0 if in_doubt else files,
                "ended": size,
                "ended_files": count,
                "in_doubt": in_doubt,
            }
            row = connection.execute(_SETTLE, values).first()
            names = list(connection.execute(_KEPT_OF, {"of_account": account_id}).scalars())
        if lost:
            raise LeaseLost("the reservation was lost")
        return Settled(names) if row is None else Settled(names, row.used, row.quota)

    def room(self, account_id: int) -> Room:
        """The account's room. Raises NotFound when the account is gone."""
        kept = lease.c.account_id == account_id, lease.c.state == KEPT
        size = select(func.coalesce(func.sum(lease.c.size), 0)).where(*kept).scalar_subquery()
        count = select(func.count()).select_from(lease).where(*kept).scalar_subquery()
        columns = (account, size.label("kept"), count.label("kept_uploads"))
        with self._reading.connect() as connection:
            row = connection.execute(select(*columns).where(account.c.id == account_id)).first()
        if row is None:
            raise NotFound("the account was removed")
        free = None if row.quota is None else max(0, row.quota - row.used - row.held)
        return Room(
            row.used,
            row.held,
            row.quota,
            free,
            most_files(row.quota, row.max_files),
            row.files,
            kept=row.kept,
            kept_uploads=row.kept_uploads,
        )

    # after crashes -----------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Keep this process's leases alive, and end those that nobody has any more. To be called
        well within LEASE_SECONDS."""
        self.settle_waiting()
        mine = and_(
            lease.c.node == self.node,
            lease.c.incarnation == self.incarnation,
            lease.c.state != KEPT,  # these lapse at their own time
        )
        with self._engine.begin() as connection:
            there = connection.execute(select(lease.c.id).where(mine)).scalars().all()
            with self._owning:  # after the rows were read: a new row has its owner before
                owned = set(self._owned.keys())
            left = [one for one in there if one not in owned]
            for start in range(0, len(left), _AT_ONCE):
                self._end_all(connection, lease.c.id.in_(left[start : start + _AT_ONCE]))
            connection.execute(
                update(lease).where(mine).values(expires=SECONDS_NOW + LEASE_SECONDS)
            )
        if left:
            logger.error("%d reservations that nobody had any more were ended", len(left))
            self.on_doubt()

    def reap(self) -> list[int]:
        """End the leases of the dead, and mark their accounts dirty.

        Dead is an earlier run of this node, and whoever let a lease expire. What they were
        uploading is kept if it can be resumed, until its own time is over.

        Returns:
            Ids of all accounts that have to be recounted.
        """
        unburied = set(self._unburied)  # first: who dies now is left to the next time
        dead = or_(
            and_(lease.c.state == KEPT, lease.c.expires < _now()),
            and_(lease.c.state != KEPT, self.is_dead(lease, thorough=True)),
        )
        with self._durable.begin() as connection:
            self._end_all(connection, dead)
            dirty = connection.execute(select(account.c.id).where(account.c.dirty)).scalars()
            found = list(dirty)
        self._unburied -= unburied
        return found

    def bound_kept(self) -> None:
        """At the start: nothing is kept for longer than it may be from now on, as when the system's
        clock was wrong before."""
        latest = _now() + self.keep_seconds
        too_late = and_(lease.c.state == KEPT, lease.c.expires > latest)
        with self._reading.connect() as connection:
            if connection.execute(select(lease.c.id).where(too_late)).first() is None:
                return
        with self._engine.begin() as connection:
            connection.execute(update(lease).where(too_late).values(expires=latest))

    def doubt_marked(self) -> None:
        """At the start: have the accounts recounted that an earlier run has marked."""
        marked = uncounted.marked(self.state) if self.state is not None else []
        if not marked:
            return
        assert self.state is not None
        with self._durable.begin() as connection:
            connection.execute(update(account).where(account.c.id.in_(marked)).values(dirty=True))
        for account_id in marked:
            uncounted.unmark(self.state, account_id)

    def in_doubt(self) -> set[int]:
        """Ids of the accounts that `reap` would have recounted; nothing is changed."""
        dead = and_(lease.c.state != KEPT, self.is_dead(lease, thorough=True))
        with self._reading.connect() as connection:
            dirty = connection.execute(select(account.c.id).where(account.c.dirty)).scalars()
            owners = connection.execute(select(lease.c.account_id).where(dead)).scalars()
            return {*dirty, *owners}

    def bury(self, incarnation: str) -> None:
        """End the leases of a process of this run that has died, as `reap` does, which does it
        later where this fails."""
        self._unburied.add(incarnation)
        self.others.discard(incarnation)
        its = and_(lease.c.node == self.node, lease.c.incarnation == incarnation)
        with self._durable.begin() as connection:
            self._end_all(connection, and_(its, lease.c.state != KEPT))
        self._unburied.discard(incarnation)

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
                    .values(state=KEPT, expires=_now() + self.keep_seconds)
                )
            else:
                _end(connection, row.account_id, lease.c.id == row.id)

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
            dead.append(and_(here, its.in_(list(self._unburied))))
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

    def recounted(self, account_id: int, used: int, files: int) -> None:
        """Set what was counted on the disk, while the home was locked."""
        with self._durable.begin() as connection:
            connection.execute(
                update(account)
                .where(account.c.id == account_id)
                .values(
                    used=used,
                    files=files,
                    held=_sum_of_leases(lease.c.size),
                    held_files=_sum_of_leases(lease.c.files),
                    dirty=False,
                )
            )

    # statements --------------------------------------------------------------------------

    def _hold(self, connection: Connection, account_id: int, size: int, files: int) -> None:
        """Hold so much. Raises QuotaExceeded, NotFound."""
        for _ in range(_TRIES):
            if self._try_hold(connection, account_id, size, files):
                return
            self._refuse(connection, account_id, size, files)
        raise Busy("the account's room changes all the time: try again in a moment")

    @staticmethod
    def _refuse(connection: Connection, account_id: int, size: int, files: int) -> None:
        """Raise why there is no room, unless some came free since it was looked for."""
        row = connection.execute(select(account).where(account.c.id == account_id)).first()
        if row is None:
            raise NotFound("the account was removed")
        free = None if row.quota is None else max(0, row.quota - row.used - row.held)
        if free is not None and size > free:
            raise QuotaExceeded(
                f"the quota is {row.quota} bytes: {size} needed, {free} free",
                needed=size,
                free=free,
            )
        most = most_files(row.quota, row.max_files)
        left = None if most is None else max(0, most - row.files - row.held_files)
        if left is not None and files > left:
            raise QuotaExceeded(
                f"the limit is {most} files and directories: {files} needed, {left} free"
            )

    def _hold_plenty(
        self, connection: Connection, account_id: int, size: int, files: int
    ) -> tuple[int, int]:
        """Hold steps where they leave plenty of room, else what is needed; what is held now."""
        if size < STEP and files < STEP_FILES:
            if self._try_hold(connection, account_id, STEP, STEP_FILES, _STEPS_SPARE):
                return STEP, STEP_FILES
        self._hold(connection, account_id, size, files)
        return size, files

    @staticmethod
    def _try_hold(
        connection: Connection, account_id: int, size: int, files: int, times: int = 1
    ) -> bool:
        """Hold so much if ``times`` as much is free."""
        values = {
            "of_account": account_id,
            "more": size,
            "more_files": files,
            "needed": size * times,
            "needed_files": files * times,
        }
        return bool(connection.execute(_HOLD, values).rowcount)

    def _insert(
        self,
        connection: Connection,
        account_id: int,
        size: int,
        files: int,
        staging: bytes | None = None,
    ) -> Lease:
        made = self._own(account_id, size, files)
        connection.execute(
            insert(lease).values(
                id=made.id,
                account_id=account_id,
                node=self.node,
                incarnation=self.incarnation,
                state="open",
                size=size,
                files=files,
                staging=staging,
                expires=SECONDS_NOW + LEASE_SECONDS,
            )
        )
        return made

    def _own(self, account_id: int, size: int, files: int) -> Lease:
        """A new lease, known as somebody's before its row is seen."""
        made = Lease(secrets.token_hex(16), account_id, size, files)
        with self._owning:
            self._owned[made.id] = made
        return made

    def _change(self, connection: Connection, held: Lease, **values: object) -> None:
        changed = connection.execute(
            update(lease)
            .where(
                lease.c.id == held.id,
                lease.c.incarnation == self.incarnation,
            )
            .values(**values)
        )
        if not changed.rowcount:
            raise LeaseLost("the reservation was lost")


def _delete(connection: Connection, *whose: ColumnElement[bool]) -> Sequence[Row[Any, Any]]:
    """Delete leases; what they held, of each that was there.

    What is given back is what the statement itself has deleted: whoever ends a lease at the same
    time finds nothing any more, and gives nothing back.
    """
    statement = delete(lease).where(*whose).returning(lease.c.size, lease.c.files)
    return connection.execute(statement).all()


def _end(connection: Connection, account_id: int, *whose: ColumnElement[bool]) -> None:
    """Delete leases of one account, and give back what they held."""
    ended = _delete(connection, *whose)
    if not ended:
        return
    connection.execute(
        update(account)
        .where(account.c.id == account_id)
        .values(
            held=_at_least_zero(account.c.held - sum(one.size for one in ended)),
            held_files=_at_least_zero(account.c.held_files - sum(one.files for one in ended)),
        )
    )


def _sum_of_leases(what: ColumnElement[int]) -> ScalarSelect[int]:
    """What all leases of an account hold together."""
    total = select(func.coalesce(func.sum(what), 0)).where(lease.c.account_id == account.c.id)
    return total.correlate(account).scalar_subquery()


def _now() -> int:
    """Seconds since 1970, for what waits much longer than a run may: uploads that are kept."""
    return int(RUN.now())
