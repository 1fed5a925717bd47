"""The account watcher: changes of accounts and tokens reach running sessions within a second.

Lives here: a thread that compares the accounts and tokens of running sessions with the database,
ends sessions, makes sure that they do end, and measures their speed.
Lives elsewhere: what it sees of a session (connected.py), how a session ends (session.py), changing
accounts (accounts/accounts.py), requests to end a session (daemon/control.py).

It finds changes in the database, wherever they were made: by this process, by `ftpd user` in
another one, or on another node. That costs two small queries per round, and none without sessions.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Engine, Select, or_, select

from ftpserver.clock import RUN
from ftpserver.database import reading
from ftpserver.net.addresses import host_of, is_in
from ftpserver.schema import account as table
from ftpserver.schema import token
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.serving.connected import Connected

logger = logging.getLogger("ftpd.watch")

_EVERY = 0.3
"""Least seconds between two rounds."""
_SHARE = 0.05
"""The share of one CPU that the rounds may take."""
_PATIENCE = 0.4
"""Seconds that a session gets to end by itself before its connection is aborted."""
_FAREWELL = 5.0
"""Seconds more for a session that is telling its client why it ends."""
_MEASURED = 1.0
"""Least seconds over which speed is measured."""
_IDLE = 30.0
"""Seconds without a request after which a drain closes a session."""
_AT_ONCE = 500
"""Most accounts or tokens in one query."""

_WATCHED = (
    table.c.id,
    table.c.name,
    table.c.epoch,
    table.c.disabled,
    table.c.expires,
    table.c.home,
    table.c.permissions,
    table.c.networks,
    table.c.quota,
    table.c.max_files,
    table.c.max_sessions,
    table.c.peer_user,
    table.c.system_user,
    table.c.limit_rate,
    table.c.trash_days,
    table.c.trash_max,
)
"""The columns that are compared. Not usage and reservations: these change with every upload."""


@dataclass
class _Meter:
    """The bytes of a session at some moment, and its speed up to then in bytes per second."""

    moment: float
    count: int
    speed: float = 0.0


def pause_after(cost: float) -> float:
    """Return the seconds until the next round, after one that has cost ``cost`` seconds of CPU.

    With thousands of sessions, a round takes time from the sessions that have something to do.
    """
    return max(_EVERY, cost / _SHARE)


class AccountWatcher:
    """Looks after the sessions of one process. One thread runs it; `close` is for all threads.

    Args:
        engine: The database.
        sessions: The current sessions. Other threads may change the collection at any time.
        is_draining: Returns whether idle sessions are to be closed.

    Attributes:
        on_look: Called in each round with its time, on ``time.monotonic()``.
    """

    def __init__(
        self,
        engine: Engine,
        accounts: Accounts,
        sessions: Collection[Connected],
        is_draining: Callable[[], bool],
    ) -> None:
        self._all_accounts = accounts
        self._sessions = sessions
        self._is_draining = is_draining
        self.on_look: Callable[[float], None] = lambda now: None
        self._reading = reading(engine)
        self._over = threading.Event()
        self._accounts: dict[int, tuple[tuple[Any, ...], Account]] = {}
        """The accounts of the running sessions, each with the row that it was made from."""
        self._meters: dict[Connected, _Meter] = {}
        self._ending: dict[Connected, float] = {}
        """When each session that is to end will be aborted. Guarded by ``_lock``."""
        self._lock = threading.Lock()
        self._failed = False

    def run(self) -> None:
        """Do one round after the other, until `stop`."""
        pause = _EVERY
        while not self._over.wait(pause):
            began = time.thread_time()
            try:
                self.look()
                self._failed = False
            except Exception:
                if not self._failed:  # while the database is away, it is logged once
                    logger.exception("accounts cannot be checked; trying again")
                self._failed = True
            pause = pause_after(time.thread_time() - began)

    def stop(self) -> None:
        """Let `run` return."""
        self._over.set()

    def speed(self, session: Connected) -> float:
        """Return the bytes per second, both ways, over the last moments."""
        meter = self._meters.get(session)
        return 0.0 if meter is None else meter.speed

    def close(self, session: Connected, why: str) -> None:
        """End a session, and tell its client why. If it doesn't end soon, it is aborted."""
        with self._lock:
            self._ending.setdefault(session, time.monotonic() + _PATIENCE)
        session.close(why)

    def look(self) -> None:
        """Do one round."""
        sessions = [one for one in list(self._sessions) if one.channel.ended is None]
        now = time.monotonic()
        self._enforce(now)
        self._measure(sessions, now)
        if self._is_draining():
            self._dismiss_idle(sessions, now)
        self.on_look(now)
        self._compare(sessions)

    def _enforce(self, now: float) -> None:
        """Escalate the end of sessions that have not ended yet: `close_now`, then `abort`."""
        with self._lock:
            running = self._sessions
            self._ending = {one: when for one, when in self._ending.items() if one in running}
            ending = list(self._ending.items())
        for session, when in ending:  # when: the time to abort it
            if now >= when + (_FAREWELL if session.leaving else 0):
                logger.info("%s: cut off: it could not be ended in order", session)
                session.abort()
                with self._lock:
                    self._ending[session] = math.inf  # its own thread notices
            elif not session.leaving:
                session.close_now()

    def _measure(self, sessions: list[Connected], now: float) -> None:
        meters = {}
        for session in sessions:
            count = session.channel.bytes_in + session.channel.bytes_out
            meter = self._meters.get(session)
            if meter is None:
                meter = _Meter(now, count)
            elif now - meter.moment >= _MEASURED:
                meter = _Meter(now, count, (count - meter.count) / (now - meter.moment))
            meters[session] = meter
        self._meters = meters

    def _dismiss_idle(self, sessions: list[Connected], now: float) -> None:
        """During a drain, close the sessions that have made no request for a while."""
        for session in sessions:
            if session.doing is None and now - session.quiet_since >= _IDLE:
                with self._lock:
                    self._ending[session] = now + _PATIENCE
                session.close_idle()

    # accounts and tokens -----------------------------------------------------------------

    def _compare(self, sessions: list[Connected]) -> None:
        """Apply changed accounts to their sessions, or end the sessions.

        The state of a session is read before the database is, so that the answer is at least as
        recent. A session whose account or token has changed meanwhile waits for the next round.
        """
        noted = [
            (session, account, session.token_id)
            for session in sessions
            if (account := session.account) is not None
        ]
        self._look_up({account.id for _, account, _ in noted})
        good = self._good_tokens({token_id for _, _, token_id in noted if token_id is not None})
        for session, account, token_id in noted:
            if session.renewing:
                continue
            if session.account is not account or session.token_id != token_id:
                continue
            why = self._why_over(session, account)
            if why is None and not (token_id in good or token_id is None or session.token_revoked):
                why = "the token that it was opened with was revoked or has expired"
            if why is not None:
                self.close(session, why)
            else:
                self._have_follow(session, account)

    def _have_follow(self, session: Connected, account: Account) -> None:
        fresh = self._accounts[account.id][1]
        if fresh is not account:
            try:
                session.apply_account(fresh)
            except NotFound:
                pass  # removed since: the next round ends it

    def _why_over(self, session: Connected, account: Account) -> str | None:
        """Return why a session cannot go on with its account; None if it can."""
        found = self._accounts.get(account.id)
        if found is None:
            return "the account was removed"
        fresh = found[1]
        if fresh.disabled:
            return "the account is disabled"
        if fresh.expired:
            return "the account has expired"
        if fresh.name != account.name:
            return "the account was renamed"
        if fresh.epoch != account.epoch:
            return "the password was changed"
        if fresh.home != account.home:
            return "the account has another home now"
        if fresh.system_user != account.system_user:
            return "the account has another system user now"
        if fresh.networks and not is_in(host_of(session.client_address), fresh.networks):
            return "the account cannot be used from this address"
        return None

    def _look_up(self, ids: Collection[int]) -> None:
        """Bring ``_accounts`` up to date: exactly the accounts with a session."""
        found = {}
        for row in self._rows(select(*_WATCHED), table.c.id, ids):
            known = self._accounts.get(row[0])
            if known is None or known[0] != row:
                try:
                    known = row, self._all_accounts.by_id(row[0])
                except NotFound:
                    continue  # removed since
            found[row[0]] = known
        self._accounts = found

    def _good_tokens(self, ids: Collection[str]) -> set[str]:
        good = or_(token.c.expires.is_(None), token.c.expires > int(RUN.latest()))
        return {row[0] for row in self._rows(select(token.c.id).where(good), token.c.id, ids)}

    def _rows(
        self, query: Select[Any], column: Column[Any], values: Collection[Any]
    ) -> list[tuple[Any, ...]]:
        """Return the rows with these values in a column."""
        wanted = list(values)
        rows: list[tuple[Any, ...]] = []
        if wanted:
            with self._reading.connect() as connection:
                for start in range(0, len(wanted), _AT_ONCE):
                    some = column.in_(wanted[start : start + _AT_ONCE])
                    rows += map(tuple, connection.execute(query.where(some)))
        return rows
