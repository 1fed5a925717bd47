"""Operations of the trash in the database: their names, and replies to their requests.

Lives here: the statements. Lives elsewhere: the store that runs them (ledger.py), the operations
themselves (trash/).

A row says which directory of the trash belongs to a client's command. It is needed for a day, as
long as sessions of that command may connect. The contents of an operation are in its own index.

A row with `given_up` and without `freed`, or with `size`, says that an eviction has begun. Whether
it was done, the trash says: the operation is in it, or no longer. So it goes on as an operation
until `forget` or a recount (`end_evictions`) ends that.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import msgspec
from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from ftpserver.schema import answer, operation
from ftpserver.storage.incarnations import now
from ftpserver.storage.quota import EvictedOperation
from ftpserver.storage.trash.names import new_name

DAY = 24 * 3600
_MAX_LISTED = 1000
ANSWER_SECONDS = 15 * 60
"""How long replies are kept."""
MOST_NAMES = 10_000
"""Maximum names remembered for one account. A command whose name was dropped gets another
operation for what it still does."""
MOST_ANSWERS = 64 * 1024 * 1024
"""Maximum bytes of replies kept for one account, latest first. A session only asks again for what
it was waiting for, which is far less."""
_LARGE = 256 * 1024
_NOW_AND_THEN = 64
"""The number of rows after which the limits are checked; they also are after a large row."""

_decode = msgspec.msgpack.Decoder(dict[int, bytes]).decode


def name_of(connection: Connection, account_id: int, key: bytes | None) -> str:
    """See `QuotaStore.operation`."""
    if key is not None:
        wanted = select(operation.c.name).where(
            operation.c.account_id == account_id,
            operation.c.key == key,
            operation.c.closed.is_(False),
            operation.c.freed.is_(None),
            operation.c.begun > now() - DAY,
        )
        found: str | None = connection.execute(wanted.order_by(operation.c.name.desc())).scalar()
        if found is not None:
            return found
    name = new_name(time.time_ns())
    connection.execute(
        insert(operation).values(name=name, account_id=account_id, key=key, begun=now())
    )
    return name


def close(connection: Connection, account_id: int, name: str) -> None:
    """See `QuotaStore.close_operation`."""
    this_operation = operation.c.name == name, operation.c.account_id == account_id
    connection.execute(update(operation).where(*this_operation).values(closed=True))


def begin_eviction(
    connection: Connection,
    account_id: int,
    name: str,
    size: int | None,
    words: str,
    client: bytes | None,
) -> None:
    """See `QuotaStore.begin_eviction`."""
    # `freed` stays: it is set if the operation was evicted before, and made again since; then what
    # this eviction frees is added
    begun: dict[str, object] = {
        "given_up": now(),
        "size": size,
        "words": words,
        "client": client,
    }
    _set(connection, account_id, name, begun)


def end_evictions(connection: Connection, account_id: int, there: Collection[str]) -> None:
    """See `Ledger.end_evictions`."""
    begun = and_(
        operation.c.account_id == account_id,
        operation.c.given_up.is_not(None),
        or_(operation.c.freed.is_(None), operation.c.size.is_not(None)),
    )
    rows = select(operation.c.name, operation.c.size, operation.c.freed).where(begun)
    for name, size, freed in connection.execute(rows).all():
        ended: dict[str, object] = {"size": None}
        if name not in there:  # the clean-up of staging has removed what was left of it
            ended |= {"closed": True, "freed": (freed or 0) + (size or 0)}
        elif freed is None:
            ended |= {"given_up": None, "words": None, "client": None}
        connection.execute(update(operation).where(operation.c.name == name).values(**ended))


def forget(
    connection: Connection,
    account_id: int,
    name: str,
    freed: int | None,
    words: str,
    client: bytes | None,
) -> None:
    """See `QuotaStore.forget_operation`."""
    if freed is None:
        this_operation = operation.c.name == name, operation.c.account_id == account_id
        connection.execute(delete(operation).where(*this_operation))
        return
    before = select(operation.c.freed).where(
        operation.c.name == name, operation.c.account_id == account_id
    )
    evicted: dict[str, object] = {
        "closed": True,
        "given_up": now(),
        "size": None,
        "freed": (connection.execute(before).scalar() or 0) + freed,
        "words": words,
        "client": client,
    }
    _set(connection, account_id, name, evicted)


def _set(connection: Connection, account_id: int, name: str, changed: dict[str, object]) -> None:
    """Change the row of an operation, or make it."""
    this_operation = operation.c.name == name, operation.c.account_id == account_id
    if connection.execute(update(operation).where(*this_operation).values(**changed)).rowcount:
        return
    # The row was dropped, because it is older than a day. A row of another account isn't changed.
    if connection.execute(select(operation.c.name).where(this_operation[0])).first() is None:
        values = {"name": name, "account_id": account_id, "begun": now(), **changed}
        connection.execute(insert(operation).values(**values))


def was_evicted(connection: Connection, account_id: int, name: str) -> bool:
    """See `QuotaStore.was_evicted`."""
    wanted = select(operation.c.name).where(
        operation.c.name == name,
        operation.c.account_id == account_id,
        operation.c.given_up > now() - DAY,
    )
    return connection.execute(wanted).first() is not None


def evicted(connection: Connection, account_id: int) -> list[EvictedOperation]:
    """See `QuotaStore.evicted`."""
    columns = (
        *(operation.c.name, operation.c.size, operation.c.freed, operation.c.words),
        *(operation.c.key, operation.c.client),
    )
    lately = select(*columns).where(
        operation.c.account_id == account_id, operation.c.given_up > now() - DAY
    )
    found = connection.execute(lately.order_by(operation.c.name.desc()).limit(_MAX_LISTED))
    return [
        EvictedOperation(
            row.name,
            # while it is being removed, and if that was interrupted: all that is going to be freed
            (row.freed or 0) + (row.size or 0),
            row.words or "",
            row.key,
            row.client,
            row.freed or 0,
        )
        for row in found
    ]


def evicted_lately(connection: Connection) -> tuple[int, int]:
    """See `Ledger.evicted_lately`."""
    freed = func.coalesce(func.sum(operation.c.freed), 0)
    done = operation.c.given_up > now() - DAY, operation.c.freed.is_not(None)
    lately = select(func.count(), freed).where(*done)
    count, size = connection.execute(lately).one()
    return int(count), int(size)


def note_answers(
    connection: Connection, account_id: int, key: bytes, answers: list[tuple[int, bytes]]
) -> None:
    """See `QuotaStore.note_answers`. One row for all, so that a batch of removals takes one
    statement."""
    by_number = dict(answers)
    payload = msgspec.msgpack.encode(by_number)
    noted = connection.execute(
        insert(answer).values(
            account_id=account_id,
            key=key,
            first=min(by_number),
            last=max(by_number),
            payload=payload,
            at=now(),
        )
    )
    (row_id,) = noted.inserted_primary_key or (0,)
    if len(payload) >= _LARGE or row_id % _NOW_AND_THEN == 0:
        _drop_answers(connection, account_id)


def answer_to(connection: Connection, account_id: int, key: bytes, number: int) -> bytes | None:
    """See `QuotaStore.answer`."""
    near = select(answer.c.payload).where(
        answer.c.account_id == account_id,
        answer.c.key == key,
        answer.c.first <= number,
        answer.c.last >= number,
        answer.c.at > now() - ANSWER_SECONDS,
    )
    for payload in connection.execute(near.order_by(answer.c.id.desc())).scalars():
        found = _decode(payload).get(number)
        if found is not None:
            return found
    return None


def drop_old(connection: Connection) -> None:
    """Remove rows that are no longer needed, and the oldest names of accounts with too many: the
    database stays small however fast clients begin operations."""
    connection.execute(delete(answer).where(answer.c.at <= now() - ANSWER_SECONDS))
    day_ago = now() - DAY
    done = or_(operation.c.given_up.is_(None), operation.c.given_up <= day_ago)
    connection.execute(delete(operation).where(and_(operation.c.begun <= day_ago, done)))
    _drop_names(connection)


def _drop_names(connection: Connection) -> None:
    owner = operation.c.account_id
    many = select(owner).group_by(owner).having(func.count() > MOST_NAMES)
    for account_id in connection.execute(many).scalars().all():
        names = select(operation.c.name).where(owner == account_id)
        latest = names.order_by(operation.c.name.desc()).limit(MOST_NAMES)
        surplus = owner == account_id, operation.c.name.not_in(latest)
        connection.execute(delete(operation).where(*surplus))


def _drop_answers(connection: Connection, account_id: int) -> None:
    size = func.length(answer.c.payload)
    since = func.sum(size).over(order_by=answer.c.id.desc()).label("since")
    sums = select(answer.c.id, since).where(answer.c.account_id == account_id).subquery()
    early = select(sums.c.id).where(sums.c.since > MOST_ANSWERS)
    connection.execute(delete(answer).where(answer.c.id.in_(early)))
