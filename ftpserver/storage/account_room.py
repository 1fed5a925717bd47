"""Room in an account: taking it and giving it back, in a transaction that somebody else begins.

Lives here: the statements that change what is held, and why there is no room.
Lives elsewhere: leases, and settling what they stood for (ledger.py).

Room is taken in one conditional UPDATE, never by looking first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from ftpserver.database import Quick
from ftpserver.schema import account, lease
from ftpserver.storage.quota import BYTES_FOR_A_FILE, FEWEST_FILES, most_files
from ftpwire.errors import BYTES, FILES, Busy, NotFound, QuotaExceeded
from ftpwire.units import human, needed_and_free

STEP = 16 * 1024 * 1024
"""Bytes reserved at a time for batches of small files."""
STEP_FILES = 1000
"""Files, directories and links reserved along with them."""
_STEPS_SPARE = 8
"""Steps are taken only while this many would still be free."""
_TRIES = 10
"""Times that room is looked for, where others give some back between two looks."""


def at_least_zero(count: ColumnElement[int]) -> ColumnElement[int]:
    """A count that the table takes, whatever an earlier version has left in it."""
    return case((count < 0, 0), else_=count)


def within(count: ColumnElement[int], most: ColumnElement[int]) -> ColumnElement[int]:
    """A count that is never below 0, and never above another one that it is part of."""
    return case((count < 0, 0), (count > most, at_least_zero(most)), else_=count)


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

_HOLD_QUICKLY = Quick(_HOLD)


def hold(connection: Connection, account_id: int, size: int, files: int) -> None:
    """Hold so much. Raises QuotaExceeded, NotFound."""
    for _ in range(_TRIES):
        if try_hold(connection, account_id, size, files):
            return
        _refuse(connection, account_id, size, files)
    raise Busy("the account's room changes all the time: try again in a moment", retry_after=1)


def _refuse(connection: Connection, account_id: int, size: int, files: int) -> None:
    """Raise why there is no room, unless some came free since it was looked for.

    What is in the trash counts as free: it is given up before anything is refused. Where that can't
    be done just now, because somebody is at it, the refusal tells what is free beside it.
    """
    row = connection.execute(select(account).where(account.c.id == account_id)).first()
    if row is None:
        raise NotFound("the account was removed")
    free = None if row.quota is None else max(0, row.quota - row.used - row.held)
    if free is not None and size > free:
        free, beside = _with_trash(size, free, row.trash_bytes)
        many, few = needed_and_free(size, free)
        note = f", and {human(beside)} in the trash" if beside else ""
        raise QuotaExceeded(
            f"{many} needed, {few} of the quota of {human(row.quota)} are free{note}",
            needed=size,
            free=free,
            what=BYTES,
        )
    most = most_files(row.quota, row.max_files)
    left = None if most is None else max(0, most - row.files - row.held_files)
    if left is not None and files > left:
        left, beside = _with_trash(files, left, row.trash_files)
        note = f", and {beside} in the trash" if beside else ""
        raise QuotaExceeded(
            f"the limit is {most} files and directories: {files} needed, {left} free{note}",
            needed=files,
            free=left,
            what=FILES,
        )


def _with_trash(needed: int, free: int, trash: int) -> tuple[int, int]:
    """What to call free, and how much is in the trash beside it."""
    return (free + trash, 0) if needed > free + trash else (free, trash)


def hold_plenty(connection: Connection, account_id: int, size: int, files: int) -> tuple[int, int]:
    """Hold steps where they leave plenty of room, else what is needed; what is held now."""
    if size < STEP and files < STEP_FILES:
        if try_hold(connection, account_id, STEP, STEP_FILES, _STEPS_SPARE):
            return STEP, STEP_FILES
    hold(connection, account_id, size, files)
    return size, files


def hold_step(connection: sqlite3.Connection, account_id: int) -> bool:
    """Hold a step of both if that leaves plenty of room; else nothing was changed."""
    held = _HOLD_QUICKLY(
        connection,
        of_account=account_id,
        more=STEP,
        more_files=STEP_FILES,
        needed=STEP * _STEPS_SPARE,
        needed_files=STEP_FILES * _STEPS_SPARE,
    )
    return held.rowcount == 1


def is_room(row: Row[Any], size: int, files: int) -> bool:
    """Whether an account has room for so much, once its trash is given up.

    Args:
        row: With the account's columns.
    """
    if size and row.quota is not None:
        if row.used - row.trash_bytes + row.held + size > row.quota:
            return False
    most = most_files(row.quota, row.max_files)
    return not files or most is None or row.files - row.trash_files + row.held_files + files <= most


def try_hold(
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


def _delete(connection: Connection, *whose: ColumnElement[bool]) -> Sequence[Row[Any, Any]]:
    """Delete leases; what they held, of each that was there.

    What is given back is what the statement itself has deleted: whoever ends a lease at the same
    time finds nothing any more, and gives nothing back.
    """
    statement = delete(lease).where(*whose).returning(lease.c.size, lease.c.files)
    return connection.execute(statement).all()


def end(connection: Connection, account_id: int, *whose: ColumnElement[bool]) -> None:
    """Delete leases of one account, and give back what they held."""
    ended = _delete(connection, *whose)
    if not ended:
        return
    connection.execute(
        update(account)
        .where(account.c.id == account_id)
        .values(
            held=at_least_zero(account.c.held - sum(one.size for one in ended)),
            held_files=at_least_zero(account.c.held_files - sum(one.files for one in ended)),
        )
    )


def sum_of_leases(what: ColumnElement[int]) -> ScalarSelect[int]:
    """What all leases of an account hold together."""
    total = select(func.coalesce(func.sum(what), 0)).where(lease.c.account_id == account.c.id)
    return total.correlate(account).scalar_subquery()
