"""Quota reservations of one account: making and returning them, in the caller's transaction.

Lives here: the statements that change what an account holds, and the reasons for a refusal.
Lives elsewhere: leases, and settling the changes made under them (ledger.py).

Quota is reserved in one conditional UPDATE. Reading first and writing afterwards would let two
sessions reserve the same bytes.
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
"""Bytes reserved at a time for batches of small files: one step."""
STEP_FILES = 1000
"""Files, directories and links reserved along with a step."""
_STEPS_SPARE = 8
"""A whole step is reserved only while this many steps are free."""
_TRIES = 10
"""Attempts to reserve, when other sessions return quota between an attempt and its diagnosis."""


def at_least_zero(count: ColumnElement[int]) -> ColumnElement[int]:
    """Return a count of at least 0, as the table requires, even if an earlier version left less."""
    return case((count < 0, 0), else_=count)


def within(count: ColumnElement[int], most: ColumnElement[int]) -> ColumnElement[int]:
    """Return a count limited to the range from 0 to ``most``, the total that it is part of."""
    return case((count < 0, 0), (count > most, at_least_zero(most)), else_=count)


_OF_QUOTA = account.c.quota // BYTES_FOR_A_FILE
_MOST_FILES = func.coalesce(
    account.c.max_files,
    case((_OF_QUOTA > FEWEST_FILES, _OF_QUOTA), (_OF_QUOTA.is_not(None), FEWEST_FILES)),
)
"""The same limit as `most_files` computes, in SQL."""

# Every batch runs this statement. It is built once: building costs more than running it.

_HOLD = (
    update(account)
    .where(
        account.c.id == bindparam("of_account"),
        or_(
            account.c.quota.is_(None),
            account.c.used + account.c.held + bindparam("needed") <= account.c.quota,
            bindparam("more", type_=BigInteger) == 0,  # a user over the quota may still remove
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
    """Hold ``size`` bytes and ``files``. Raises QuotaExceeded, NotFound, Busy."""
    for _ in range(_TRIES):
        if try_hold(connection, account_id, size, files):
            return
        _refuse(connection, account_id, size, files)
    raise Busy("the account's free space keeps changing: try again in a moment", retry_after=1)


def _refuse(connection: Connection, account_id: int, size: int, files: int) -> None:
    """Raise the reason for a refusal, unless enough quota has become free since the attempt.

    The trash counts as free, because it is evicted before anything is refused. Where it cannot be
    evicted now, because another session is using it, the error also names the bytes in the trash.
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
            f"{many} needed, {few} free of a quota of {human(row.quota)}{note}",
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
    """Return what to report as free, and what to report as being in the trash besides."""
    return (free + trash, 0) if needed > free + trash else (free, trash)


def hold_plenty(connection: Connection, account_id: int, size: int, files: int) -> tuple[int, int]:
    """Hold whole steps if plenty of quota is free, else exactly what is needed.

    Returns:
        The bytes and files that are held now.
    """
    if size < STEP and files < STEP_FILES:
        if try_hold(connection, account_id, STEP, STEP_FILES, _STEPS_SPARE):
            return STEP, STEP_FILES
    hold(connection, account_id, size, files)
    return size, files


def hold_step(connection: sqlite3.Connection, account_id: int) -> bool:
    """Hold one step of bytes and files if plenty of quota is free. False: nothing was changed."""
    held = _HOLD_QUICKLY(
        connection,
        of_account=account_id,
        more=STEP,
        more_files=STEP_FILES,
        needed=STEP * _STEPS_SPARE,
        needed_files=STEP_FILES * _STEPS_SPARE,
    )
    return held.rowcount == 1


def has_space(row: Row[Any], size: int, files: int) -> bool:
    """Return whether an account has this much free once its trash is evicted.

    Args:
        row: A row with the account's columns.
    """
    if size and row.quota is not None:
        if row.used - row.trash_bytes + row.held + size > row.quota:
            return False
    most = most_files(row.quota, row.max_files)
    return not files or most is None or row.files - row.trash_files + row.held_files + files <= most


def try_hold(
    connection: Connection, account_id: int, size: int, files: int, times: int = 1
) -> bool:
    """Hold ``size`` and ``files`` if ``times`` that much is free. False: nothing was changed."""
    values = {
        "of_account": account_id,
        "more": size,
        "more_files": files,
        "needed": size * times,
        "needed_files": files * times,
    }
    return bool(connection.execute(_HOLD, values).rowcount)


def _delete(connection: Connection, *which: ColumnElement[bool]) -> Sequence[Row[Any, Any]]:
    """Delete leases; return what each deleted one held.

    Only what this statement itself deleted is returned to the account. A session that ends the
    same lease at the same time finds no row, and returns nothing: no lease is returned twice.
    """
    statement = delete(lease).where(*which).returning(lease.c.size, lease.c.files)
    return connection.execute(statement).all()


def end(connection: Connection, account_id: int, *which: ColumnElement[bool]) -> None:
    """Delete leases of one account, and return what they held to it."""
    ended = _delete(connection, *which)
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


def sum_of_leases(column: ColumnElement[int]) -> ScalarSelect[int]:
    """Return a subquery for the total of a column over all leases of an account."""
    total = select(func.coalesce(func.sum(column), 0)).where(lease.c.account_id == account.c.id)
    return total.correlate(account).scalar_subquery()
