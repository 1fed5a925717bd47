"""What the database knows of operations in the trash: their names, and answers to their requests.

Lives here: the statements. Lives elsewhere: who asks for them (ledger.py), the operations
themselves (trash/).

A row says which directory of the trash is the one of a client's command; it is needed while
sessions of that command may come, which is a day. What an operation holds is in its own index.
"""

from __future__ import annotations

import time

import msgspec
from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from ftpserver.schema import answer, operation
from ftpserver.storage.incarnations import now
from ftpserver.storage.quota import GivenUp
from ftpserver.storage.trash.names import new_name

DAY = 24 * 3600
_MOST_TOLD = 1000
ANSWER_SECONDS = 15 * 60
"""How long answers are kept."""
MOST_NAMES = 10_000
"""Names of one account that are known. Of a command that had an earlier one, what comes is another
operation."""
MOST_ANSWERS = 64 * 1024 * 1024
"""Bytes of answers that are kept for one account: the latest. A session asks again for what it was
waiting for, which is far less."""
_LARGE = 256 * 1024
_NOW_AND_THEN = 64
"""After so many rows, and after a large one, it is looked whether there are too many."""

_decode = msgspec.msgpack.Decoder(dict[int, bytes]).decode


def name_of(connection: Connection, account_id: int, key: bytes | None) -> str:
    """See `QuotaStore.operation`."""
    if key is not None:
        its = select(operation.c.name).where(
            operation.c.account_id == account_id,
            operation.c.key == key,
            operation.c.closed.is_(False),
            operation.c.given_up.is_(None),
            operation.c.begun > now() - DAY,
        )
        found: str | None = connection.execute(its.order_by(operation.c.name.desc())).scalar()
        if found is not None:
            return found
    name = new_name(time.time_ns())
    connection.execute(
        insert(operation).values(name=name, account_id=account_id, key=key, begun=now())
    )
    return name


def close(connection: Connection, account_id: int, name: str) -> None:
    """See `QuotaStore.close_operation`."""
    its = operation.c.name == name, operation.c.account_id == account_id
    connection.execute(update(operation).where(*its).values(closed=True))


def forget(
    connection: Connection,
    account_id: int,
    name: str,
    freed: int | None,
    words: str,
    client: bytes | None,
) -> None:
    """See `QuotaStore.forget_operation`."""
    its = operation.c.name == name, operation.c.account_id == account_id
    if freed is None:
        connection.execute(delete(operation).where(*its))
        return
    given_up = {
        "closed": True,
        "given_up": now(),
        "freed": freed,
        "words": words,
        "client": client,
    }
    if connection.execute(update(operation).where(*its).values(**given_up)).rowcount:
        return
    # its row was dropped, as it is older than a day; another account's stays what it is
    if connection.execute(select(operation.c.name).where(its[0])).first() is None:
        values = {"name": name, "account_id": account_id, "begun": now(), **given_up}
        connection.execute(insert(operation).values(**values))


def was_given_up(connection: Connection, account_id: int, name: str) -> bool:
    """See `QuotaStore.was_given_up`."""
    its = select(operation.c.name).where(
        operation.c.name == name,
        operation.c.account_id == account_id,
        operation.c.given_up > now() - DAY,
    )
    return connection.execute(its).first() is not None


def given_up(connection: Connection, account_id: int) -> list[GivenUp]:
    """See `QuotaStore.given_up`."""
    columns = (
        *(operation.c.name, operation.c.freed, operation.c.words),
        *(operation.c.key, operation.c.client),
    )
    lately = select(*columns).where(
        operation.c.account_id == account_id, operation.c.given_up > now() - DAY
    )
    found = connection.execute(lately.order_by(operation.c.name.desc()).limit(_MOST_TOLD))
    return [
        GivenUp(row.name, row.freed or 0, row.words or "", row.key, row.client) for row in found
    ]


def given_up_lately(connection: Connection) -> tuple[int, int]:
    """See `Ledger.given_up_lately`."""
    freed = func.coalesce(func.sum(operation.c.freed), 0)
    lately = select(func.count(), freed).where(operation.c.given_up > now() - DAY)
    count, size = connection.execute(lately).one()
    return int(count), int(size)


def note_answers(
    connection: Connection, account_id: int, key: bytes, answers: list[tuple[int, bytes]]
) -> None:
    """See `QuotaStore.note_answers`. One row for all: a batch of removals is one statement."""
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
    """Remove the rows that nobody needs any more, and names of which one account has too many:
    however fast its clients begin operations, the database stays small."""
    connection.execute(delete(answer).where(answer.c.at <= now() - ANSWER_SECONDS))
    day_ago = now() - DAY
    done = or_(operation.c.given_up.is_(None), operation.c.given_up <= day_ago)
    connection.execute(delete(operation).where(and_(operation.c.begun <= day_ago, done)))
    _drop_names(connection)


def _drop_names(connection: Connection) -> None:
    whose = operation.c.account_id
    many = select(whose).group_by(whose).having(func.count() > MOST_NAMES)
    for account_id in connection.execute(many).scalars().all():
        names = select(operation.c.name).where(whose == account_id)
        latest = names.order_by(operation.c.name.desc()).limit(MOST_NAMES)
        its = whose == account_id, operation.c.name.not_in(latest)
        connection.execute(delete(operation).where(*its))


def _drop_answers(connection: Connection, account_id: int) -> None:
    size = func.length(answer.c.payload)
    since = func.sum(size).over(order_by=answer.c.id.desc()).label("since")
    sums = select(answer.c.id, since).where(answer.c.account_id == account_id).subquery()
    early = select(sums.c.id).where(sums.c.since > MOST_ANSWERS)
    connection.execute(delete(answer).where(answer.c.id.in_(early)))
