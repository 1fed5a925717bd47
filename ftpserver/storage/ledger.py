"""The quota store in the database: reserve, settle, release, across threads, processes and nodes.

Lives here: the leases of living sessions, their settlement, every statement that changes ``used``
and ``files``.
Lives elsewhere: the interface for sessions (quota.py), reserving quota (account_reservation.py),
leases of dead processes (incarnations.py), the bytes themselves (batch.py, home.py), the tables
(schema.py).

Every change of what is stored is made under a lease, also one that frees space. A lease that
outlives its server therefore marks its account as dirty: the disk is the truth, and the account is
recounted from it.
A change is settled under the same hold of the home's lock under which it was made. Otherwise a
recount between the two would count it, and the settlement would count it again. For the same reason
a settlement that comes late, or whose lease was ended by another process, adds nothing: the home is
recounted.

A lease belongs to the session that has the `Lease` object. Once no session has that any more, the
lease is ended as that of a dead process is.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Engine,
    and_,
    bindparam,
    delete,
    event,
    func,
    insert,
    or_,
    select,
    update,
)

from ftpserver.database import Quick
from ftpserver.errors import StateError
from ftpserver.schema import account, lease
from ftpserver.storage import operations, uncounted
from ftpserver.storage.account_reservation import (
    STEP,
    STEP_FILES,
    at_least_zero,
    end,
    has_space,
    hold,
    hold_plenty,
    hold_step,
    sum_of_leases,
    try_hold,
    within,
)
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.incarnations import KEPT, LEASE_SECONDS, SECONDS_NOW, Incarnations, now
from ftpserver.storage.quota import (
    EvictedOperation,
    Lease,
    QuotaStore,
    Resumable,
    Settled,
    most_files,
)
from ftpserver.storage.sync_turns import SyncTurns
from ftpwire.errors import DiskFull, LeaseLost, NotFound
from ftpwire.messages import SpaceInfo

logger = logging.getLogger("ftpd.ledger")

_AT_ONCE = 500
"""Maximum leases named in one statement."""

# Every batch runs these statements. They are compiled once.

_THIS_LEASE = (
    lease.c.id == bindparam("lease_id"),
    lease.c.incarnation == bindparam("lease_incarnation"),
)
_BEGIN_COMMIT = Quick(update(lease).where(*_THIS_LEASE).values(state="committing"))
_INSERT_STEP = Quick(
    insert(lease).values(
        id=bindparam("lease_id"),
        account_id=bindparam("of_account"),
        node=bindparam("lease_node"),
        incarnation=bindparam("lease_incarnation"),
        state="open",
        size=bindparam("lease_size"),
        files=bindparam("lease_files"),
        expires=SECONDS_NOW + LEASE_SECONDS,
    )
)
_DELETE_ONE = Quick(delete(lease).where(*_THIS_LEASE).returning(lease.c.size, lease.c.files))
_USED = account.c.used + bindparam("more", type_=BigInteger)
_FILES = account.c.files + bindparam("more_files", type_=BigInteger)
_TRASH = account.c.trash_bytes + bindparam("more_trash", type_=BigInteger)
_TRASH_FILES = account.c.trash_files + bindparam("more_trash_files", type_=BigInteger)
_NOW_USED = at_least_zero(_USED)
_NOW_FILES = at_least_zero(_FILES)
_SETTLE = (
    update(account)
    .where(account.c.id == bindparam("of_account"))
    .values(
        used=_NOW_USED,
        held=at_least_zero(account.c.held - bindparam("ended", type_=BigInteger)),
        files=_NOW_FILES,
        held_files=at_least_zero(account.c.held_files - bindparam("ended_files", type_=BigInteger)),
        trash_bytes=within(_TRASH, _NOW_USED),
        trash_files=within(_TRASH_FILES, _NOW_FILES),
        # if more went away than was counted, the disk decides how much is left
        dirty=or_(
            account.c.dirty,
            bindparam("in_doubt", type_=Boolean),
            *(_USED < 0, _FILES < 0, _TRASH < 0, _TRASH_FILES < 0),
            *(_TRASH > _NOW_USED, _TRASH_FILES > _NOW_FILES),
        ),
    )
    .returning(account.c.used, account.c.quota, account.c.trash_bytes)
)
_SETTLE_QUICKLY = Quick(_SETTLE)
_KEPT_OF = Quick(
    select(lease.c.staging).where(
        lease.c.account_id == bindparam("of_account"), lease.c.state == KEPT
    )
)


_Changes = tuple[int, int, int, int]
"""Changes of: bytes, files, bytes in the trash, files in the trash."""
_NOTHING: _Changes = 0, 0, 0, 0


def _settling(
    account_id: int, changes: _Changes, ended: int, ended_files: int, *, in_doubt: bool = False
) -> dict[str, object]:
    """Return the parameters of `_SETTLE`. If in doubt, no count changes: the home is recounted."""
    more, files, trash, trash_files = _NOTHING if in_doubt else changes
    return {
        "of_account": account_id,
        "more": more,
        "more_files": files,
        "more_trash": trash,
        "more_trash_files": trash_files,
        "ended": ended,
        "ended_files": ended_files,
        "in_doubt": in_doubt,
    }


def _device(directory: Path) -> int | None:
    """Return the device number of a directory's file system; None if it cannot be determined."""
    try:
        return os.stat(directory).st_dev
    except OSError:
        return None


def _syncs_of(engine: Engine, state: Path | None) -> Syncs:
    """Return this process's syncs, which take turns with other processes of the same state."""
    if state is None:
        return Syncs()
    turns = SyncTurns(state / "syncs")
    event.listen(engine, "engine_disposed", lambda engine: turns.close())
    return Syncs(turns=turns)


class Ledger(Incarnations, QuotaStore):
    """The used and held bytes and files of all accounts. Safe for many threads and processes.

    Args:
        node, incarnation, keep_seconds, run: See `Incarnations`.
        state: The state directory, where accounts are marked whose changes a full disk keeps from
            being settled, and where processes take turns at syncing. None: neither is done.
        syncs: Groups the syncs of this process. None: the ledger makes its own group, which lasts
            until the engine is disposed of.

    Attributes:
        syncs: Groups the syncs of this process.
        on_doubt: Called when a home has to be recounted.
        on_unmeasured: Called with an account id when its trash may contain trees that were not
            measured, or a very large number of operations.
        on_disk_full: Called with an account id and a number of bytes. Evicts trash of all accounts
            until the disk has that many bytes free, waits for it, and returns whether it has.
    """

    def __init__(
        self,
        engine: Engine,
        node: str = "local",
        incarnation: str = "",
        keep_seconds: int = 7 * 24 * 3600,
        run: str | None = None,
        state: Path | None = None,
        syncs: Syncs | None = None,
    ) -> None:
        super().__init__(engine, node, incarnation, keep_seconds, run)
        self.syncs = _syncs_of(engine, state) if syncs is None else syncs
        self.state = state
        self.on_doubt: Callable[[], None] = lambda: None
        self.on_unmeasured: Callable[[int], None] = lambda account_id: None
        self.on_disk_full: Callable[[int, int], bool] = lambda account_id, size: False
        self._waiting: deque[tuple[list[Lease], bool]] = deque()
        """Settlements that failed: their leases, and whether anything was changed. Threads share it
        without a lock: a deque's methods are atomic."""
        self._owning = threading.Lock()
        self._owned: WeakValueDictionary[str, Lease] = WeakValueDictionary()
        """Leases that are still referenced, by id. ``_owning`` guards additions."""

    def reserve(
        self,
        account_id: int,
        size: int,
        staging: bytes | None = None,
        *,
        files: int = 1,
        pieces: bytes | None = None,
    ) -> Lease:
        """See `LeaseStore.reserve`."""
        self.settle_waiting()
        with self._writing(self._durable) as connection:
            hold(connection, account_id, size, files)
            return self._insert(connection, account_id, size, files, staging, pieces)

    def check_space(self, account_id: int, size: int, files: int = 1) -> None:
        """Raise QuotaExceeded if `reserve` would, even after the account's trash is evicted.
        Nothing is held."""
        statement = select(account).where(account.c.id == account_id)
        with self._engine.connect() as connection:
            row = connection.execute(statement).first()
            if row is None or not has_space(row, size, files):
                hold(connection, account_id, size, files)
            connection.rollback()

    def take_over(
        self, account_id: int, staging: bytes, pieces: bytes | None = None
    ) -> Lease | None:
        """See `LeaseStore.take_over`."""
        owned = and_(
            lease.c.account_id == account_id,
            lease.c.staging == staging,
            # a lease in state committing is being stored at this moment, if its process is alive
            or_(lease.c.state != "committing", self.is_dead(lease)),
        )
        with self._writing(self._durable) as connection:
            row = connection.execute(
                select(lease.c.id, lease.c.size, lease.c.files).where(owned)
            ).first()
            if row is None:
                return None
            # a new id: a commit or a settlement of the previous owner finds no lease any more
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
                    pieces=pieces,
                )
            )
            return taken

    def find_pieces(self, account_id: int, key: bytes) -> bytes | None:
        """See `LeaseStore.find_pieces`."""
        found = select(lease.c.staging).where(
            lease.c.account_id == account_id, lease.c.pieces == key, lease.c.state == "open"
        )
        with self._reading.connect() as connection:
            staging: bytes | None = connection.execute(found).scalar()
            return staging

    def keep(self, held: Lease) -> None:
        """See `LeaseStore.keep`."""
        with self._writing(self._durable) as connection:
            connection.execute(
                update(lease)
                .where(lease.c.id == held.id)
                .values(state=KEPT, expires=now() + self.keep_seconds)
            )

    def drop_kept(self, account_id: int, staging: bytes) -> bool:
        """See `LeaseStore.drop_kept`."""
        matches = lease.c.account_id == account_id, lease.c.staging == staging
        with self._writing(self._engine) as connection:
            end(connection, account_id, *matches, lease.c.state == KEPT)
            return connection.execute(select(lease.c.id).where(*matches)).first() is None

    def owned_staging(self, account_id: int | None = None) -> set[bytes]:
        """Return the staging files that leases own: those of one account, or of all accounts."""
        owned = select(lease.c.staging).where(lease.c.staging.is_not(None))
        if account_id is not None:
            owned = owned.where(lease.c.account_id == account_id)
        with self._reading.connect() as connection:
            return set(connection.execute(owned).scalars())

    def resumable(self, account_id: int) -> list[Resumable]:
        """See `LeaseStore.resumable`."""
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
        """See `LeaseStore.reserve_step`."""
        self.settle_waiting()
        if size < STEP and files < STEP_FILES:
            with self._writer.begin_quickly(self._engine) as quick:
                if hold_step(quick, account_id):
                    made = self._own(account_id, STEP, STEP_FILES)
                    _INSERT_STEP(
                        quick,
                        lease_id=made.id,
                        of_account=account_id,
                        lease_node=self.node,
                        lease_incarnation=self.incarnation,
                        lease_size=made.size,
                        lease_files=made.files,
                    )
                    return made
        with self._writing(self._engine) as connection:
            size, files = hold_plenty(connection, account_id, size, files)
            return self._insert(connection, account_id, size, files)

    def extended(self, held: Lease, size: int, files: int = 0) -> Lease:
        """See `LeaseStore.extended`."""
        with self._writing(self._engine) as connection:
            size, files = hold_plenty(connection, held.account_id, size, files)
            self._change(connection, held, size=lease.c.size + size, files=lease.c.files + files)
        return replace(held, size=held.size + size, files=held.files + files)

    def begin_commit(self, leases: Sequence[Lease]) -> None:
        """See `LeaseStore.begin_commit`."""
        with self._writer.begin_quickly(self._engine) as connection:
            for held in leases:
                key = {"lease_id": held.id, "lease_incarnation": self.incarnation}
                if not _BEGIN_COMMIT(connection, **key).rowcount:
                    raise LeaseLost("the reservation was lost")

    def make_durable(self) -> None:
        """See `LeaseStore.make_durable`. The log is synced outside of any transaction, so that
        other sessions write meanwhile and share the sync."""
        self.syncs.sync(self._writer.to_sync())

    def to_sync(self) -> Sequence[int]:
        """See `LeaseStore.to_sync`."""
        return self._writer.to_sync()

    def settle(
        self,
        leases: Sequence[Lease],
        change: int,
        files: int = 0,
        trash: int = 0,
        trash_files: int = 0,
    ) -> Settled:
        """See `LeaseStore.settle`."""
        changes = change, files, trash, trash_files
        try:
            try:
                return self._settle(leases, changes)
            except DiskFull:  # the writer has just freed the space it reserves for this case
                return self._settle(leases, changes)
        except LeaseLost:
            raise
        except Exception:
            self._settle_later(leases, changed=any(changes))
            raise

    def _settle_later(self, leases: Sequence[Lease], *, changed: bool) -> None:
        self._waiting.append((list(leases), changed))
        if self.state is not None and changed:
            for held in leases:
                if not held.id:  # with a lease, the next start recounts the home in any case
                    uncounted.mark(self.state, held.account_id)

    @property
    def is_waiting(self) -> bool:
        """True if a settlement has failed and is still to be retried."""
        return bool(self._waiting)

    def take_over_waiting(self, other: Ledger) -> None:
        """Adopt another ledger's waiting settlements that have no lease: its session has ended."""
        self._waiting.extend(one for one in other._waiting if not any(held.id for held in one[0]))

    def settle_waiting(self) -> None:
        """Retry settlements that have failed.

        The home's lock is no longer held, so a recount may have counted the changes already. They
        are not added; the home is recounted instead.
        """
        while self._waiting:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                return  # another thread has taken the last one
            leases, changed = waiting
            try:
                self._settle(leases, _NOTHING, in_doubt=changed)
            except LeaseLost:
                pass  # the process that ended it has returned what it held
            except Exception as error:
                self._waiting.appendleft(waiting)
                if not isinstance(error, (DiskFull, StateError)):
                    logger.exception("a reservation cannot be returned; it is retried")
                return
            if changed:
                self.on_doubt()

    def _settle(
        self, leases: Sequence[Lease], changes: _Changes, *, in_doubt: bool = False
    ) -> Settled:
        account_id = leases[0].account_id
        with self._writer.begin_quickly(self._engine) as connection:
            lost, size, count = False, 0, 0
            for held in leases:
                key = {"lease_id": held.id, "lease_incarnation": self.incarnation}
                ended = _DELETE_ONE(connection, **key).fetchall()
                if not ended:
                    lost = True
                    # the process that ended it may have recounted before the change, or after it
                    in_doubt = in_doubt or bool(held.id and any(changes))
                else:
                    size += ended[0][0]
                    count += ended[0][1]
            settling = _settling(account_id, changes, size, count, in_doubt=in_doubt)
            rows = _SETTLE_QUICKLY(connection, **settling).fetchall()
            names = [name for (name,) in _KEPT_OF(connection, of_account=account_id)]
        # After the transaction: the other leases are ended, and the change is recorded or in doubt.
        if lost:
            raise LeaseLost("the reservation was lost")
        if not rows:
            return Settled(names)
        ((used, quota, trash_bytes),) = rows
        return Settled(names, used - trash_bytes, quota)

    def space(self, account_id: int) -> SpaceInfo:
        """See `QuotaStore.space`."""
        kept = lease.c.account_id == account_id, lease.c.state == KEPT
        size = select(func.coalesce(func.sum(lease.c.size), 0)).where(*kept).scalar_subquery()
        count = select(func.count()).select_from(lease).where(*kept).scalar_subquery()
        columns = (account, size.label("kept"), count.label("kept_uploads"))
        with self._reading.connect() as connection:
            row = connection.execute(select(*columns).where(account.c.id == account_id)).first()
        if row is None:
            raise NotFound("the account was removed")
        used = row.used - row.trash_bytes
        free = None if row.quota is None else max(0, row.quota - used - row.held)
        return SpaceInfo(
            used,
            row.held,
            row.quota,
            free,
            most_files(row.quota, row.max_files),
            row.files - row.trash_files,
            kept=row.kept,
            kept_uploads=row.kept_uploads,
            trash=row.trash_bytes,
            trash_files=row.trash_files,
        )

    # the trash ---------------------------------------------------------------------------

    def reserve_freed(
        self, held: Lease, freed: int, freed_files: int, size: int, files: int
    ) -> Lease:
        """See `QuotaStore.reserve_freed`."""
        changes = -freed, -freed_files, 0, 0
        try:
            with self._writing(self._engine) as connection:
                connection.execute(_SETTLE, _settling(held.account_id, changes, 0, 0))
                if not try_hold(connection, held.account_id, size, files):
                    size, files = min(size, freed), min(files, freed_files)
                    more = {
                        "held": account.c.held + size,
                        "held_files": account.c.held_files + files,
                    }
                    this_account = account.c.id == held.account_id
                    connection.execute(update(account).where(this_account).values(**more))
                more_held = {"size": lease.c.size + size, "files": lease.c.files + files}
                self._change(connection, held, **more_held)
        except Exception:
            self._settle_later([Lease("", held.account_id, 0)], changed=True)
            raise
        return replace(held, size=held.size + size, files=held.files + files)

    def operation(self, account_id: int, key: bytes | None) -> str:
        """See `QuotaStore.operation`."""
        with self._writing(self._engine) as connection:
            name = operations.name_of(connection, account_id, key)
        # three digits of the name's random part: true for one name in 4096, in any session
        if int(name[-3:], 16) == 0:
            self.on_unmeasured(account_id)
        return name

    def close_operation(self, account_id: int, name: str) -> None:
        """See `QuotaStore.close_operation`."""
        with self._writing(self._engine) as connection:
            operations.close(connection, account_id, name)

    def begin_eviction(
        self,
        account_id: int,
        name: str,
        size: int | None = None,
        words: str = "",
        client: bytes | None = None,
    ) -> None:
        """See `QuotaStore.begin_eviction`."""
        with self._writing(self._durable) as connection:
            operations.begin_eviction(connection, account_id, name, size, words, client)

    def end_evictions(self, account_id: int, there: Collection[str]) -> None:
        """End the evictions of an account that had only begun. Hold the home's lock exclusively.

        Args:
            there: The operations in the trash: these were not evicted.
        """
        with self._writing(self._durable) as connection:
            operations.end_evictions(connection, account_id, there)

    def forget_operation(
        self,
        account_id: int,
        name: str,
        freed: int | None = None,
        words: str = "",
        client: bytes | None = None,
    ) -> None:
        """See `QuotaStore.forget_operation`."""
        with self._writing(self._engine) as connection:
            operations.forget(connection, account_id, name, freed, words, client)

    def evicted(self, account_id: int) -> list[EvictedOperation]:
        """See `QuotaStore.evicted`."""
        with self._reading.connect() as connection:
            return operations.evicted(connection, account_id)

    def was_evicted(self, account_id: int, name: str) -> bool:
        """See `QuotaStore.was_evicted`."""
        with self._reading.connect() as connection:
            return operations.was_evicted(connection, account_id, name)

    def evicted_lately(self) -> tuple[int, int]:
        """Return how many operations of all accounts were evicted from the trash within the last
        day, and how many bytes that freed."""
        with self._reading.connect() as connection:
            return operations.evicted_lately(connection)

    def note_answers(self, account_id: int, key: bytes, answers: list[tuple[int, bytes]]) -> None:
        """See `QuotaStore.note_answers`."""
        if answers:
            with self._writing(self._engine) as connection:
                operations.note_answers(connection, account_id, key, answers)

    def answer(self, account_id: int, key: bytes, number: int) -> bytes | None:
        """See `QuotaStore.answer`."""
        with self._reading.connect() as connection:
            return operations.answer_to(connection, account_id, key, number)

    def measure_soon(self, account_id: int) -> None:
        """See `QuotaStore.measure_soon`."""
        self.on_unmeasured(account_id)

    def trash_of_all(self, account_id: int) -> int:
        """See `QuotaStore.trash_of_all`."""
        columns = account.c.id, account.c.home, account.c.trash_bytes
        asking = account.c.id == account_id
        with self._reading.connect() as connection:
            rows = connection.execute(
                select(*columns).where(or_(account.c.trash_bytes > 0, asking))
            )
            found = rows.all()
        root = None if self.state is None else self.state.parent
        of_root = None if root is None else _device(root)

        def disk(owner: int, home: bytes | None) -> int | None:
            """Return the disk of a home. Homes that the server has chosen share the root's."""
            if home is None:
                return of_root
            return -owner if root is None else _device(root / os.fsdecode(home))

        own = [disk(row.id, row.home) for row in found if row.id == account_id]
        return sum(row.trash_bytes for row in found if disk(row.id, row.home) in own)

    def free_disk_space(self, account_id: int, size: int) -> bool:
        """See `QuotaStore.free_disk_space`."""
        return self.on_disk_full(account_id, size)

    # after crashes -----------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Extend this process's leases, and end those that no session references any more. Must be
        called well within every LEASE_SECONDS."""
        self.settle_waiting()
        mine = and_(
            lease.c.node == self.node,
            lease.c.incarnation == self.incarnation,
            lease.c.state != KEPT,  # these expire at their own time
        )
        with self._writing(self._engine) as connection:
            there = connection.execute(select(lease.c.id).where(mine)).scalars().all()
            # Read the rows first: `_own` registers a lease before its row is visible, so a row
            # without an owner really has none.
            with self._owning:
                owned = set(self._owned.keys())
            left = [one for one in there if one not in owned]
            for start in range(0, len(left), _AT_ONCE):
                self._end_all(connection, lease.c.id.in_(left[start : start + _AT_ONCE]))
            connection.execute(
                update(lease).where(mine).values(expires=SECONDS_NOW + LEASE_SECONDS)
            )
            operations.drop_old(connection)
        if left:
            logger.error("%d abandoned reservations were ended", len(left))
            self.on_doubt()

    def doubt_marked(self) -> None:
        """Mark accounts as dirty at start, if an earlier run left a mark file for them."""
        marked = uncounted.marked(self.state) if self.state is not None else []
        if not marked:
            return
        assert self.state is not None
        with self._writing(self._durable) as connection:
            connection.execute(update(account).where(account.c.id.in_(marked)).values(dirty=True))
        for account_id in marked:
            uncounted.unmark(self.state, account_id)

    def recounted(
        self, account_id: int, used: int, files: int, trash: int = 0, trash_files: int = 0
    ) -> None:
        """Store what was counted on the disk while the home was locked.

        Args:
            trash, trash_files: The part of it known to be in the trash, at most the whole.
        """
        with self._writing(self._durable) as connection:
            connection.execute(
                update(account)
                .where(account.c.id == account_id)
                .values(
                    used=used,
                    files=files,
                    trash_bytes=min(trash, used),
                    trash_files=min(trash_files, files),
                    held=sum_of_leases(lease.c.size),
                    held_files=sum_of_leases(lease.c.files),
                    dirty=False,
                )
            )

    # statements --------------------------------------------------------------------------

    def _insert(
        self,
        connection: Connection,
        account_id: int,
        size: int,
        files: int,
        staging: bytes | None = None,
        pieces: bytes | None = None,
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
                pieces=pieces,
                expires=SECONDS_NOW + LEASE_SECONDS,
            )
        )
        return made

    def _own(self, account_id: int, size: int, files: int) -> Lease:
        """Return a new lease. It is registered before its row is visible (see `heartbeat`)."""
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
