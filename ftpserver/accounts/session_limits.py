"""Limits after the log-in: how many sessions and transfers at once, and how fast.

Lives here: which counts a session takes part in, one pace for all sessions of an account.
Lives elsewhere: the counts themselves (session_counts.py, session_slots.py, transfer_counts.py).

Limits across processes are decided in the database, by one statement that checks and inserts. A
session has a row there only while a limit applies to it, so that other log-ins write nothing.
Counts that workers share without the database are in the memory of the server's process, to which
they send requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypedDict
from weakref import WeakValueDictionary

from sqlalchemy import Engine

from ftpserver.accounts.account import Account
from ftpserver.accounts.session_counts import MOST, SessionCounting, SessionCounts
from ftpserver.accounts.session_slots import NO_LIMIT, Most, Sessions
from ftpserver.accounts.transfer_counts import TransferCounting, TransferCounts
from ftpserver.net.addresses import network_of
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpwire.pacing import Pace

_AND = "/"
"""Separates the two parts of a session slot: its token, and the id of its row if it has one."""


class Counting(TypedDict, total=False):
    """The counters of a process that is one of several; see `SessionLimits`."""

    counts: SessionCounting
    transfers: TransferCounting
    make_pace: Callable[[int, int], Pace]


def most_sessions(settings: Settings, own: int | None = None) -> int:
    """Return how many sessions an account may have from one address.

    Args:
        own: The account's own limit; None if it has none.
    """
    of_account = (settings.max_user_sessions or MOST) if own is None else own
    limits = (of_account, settings.max_sessions, settings.max_address_sessions)
    return min(limit for limit in limits if limit is not None)


class SessionLimits:
    """The limits of sessions, and the counts for them.

    Args:
        ledger: The ledger of this process; its node and incarnation own the sessions' rows.
        counts, transfers: The counters of sessions and running transfers; None for ones that only
            this process uses.
        make_pace: Makes the pace of an account, given its id and rate.

    Attributes:
        settings: May be replaced while the server runs.
        sessions: The sessions that count for a limit.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        ledger: Ledger,
        *,
        counts: SessionCounting | None = None,
        transfers: TransferCounting | None = None,
        make_pace: Callable[[int, int], Pace] = lambda account_id, rate: Pace(rate),
    ) -> None:
        self.settings = settings
        self.sessions = Sessions(engine, ledger)
        self.counts: SessionCounting = counts or SessionCounts()
        self._transfers: TransferCounting = transfers or TransferCounts(
            lambda: self.settings.max_user_transfers
        )
        self._paces: WeakValueDictionary[int, Pace] = WeakValueDictionary()
        self._pacing = threading.Lock()
        self._make_pace = make_pace

    def keep_paces_by(self, make_pace: Callable[[int, int], Pace]) -> None:
        """Replace the function that makes accounts' paces. Only before there are sessions."""
        self._make_pace = make_pace

    def check_enter(self, account: Account, host: str) -> None:
        """Raise TooMany if `enter` would, without taking a slot."""
        most = self._most(account)
        if most != NO_LIMIT:
            self.sessions.enter(account, network_of(host), most, only_asking=True)

    def check_cap(self, account: Account) -> None:
        """Raise TooMany if an account without a limit has reached the cap.

        Does nothing in a process that doesn't count the sessions itself.
        """
        if self._most(account).of_account is None and isinstance(self.counts, SessionCounts):
            self.counts.check(account.id, account.name)

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Take a session slot, and return it for `leave`.

        Args:
            at_any_rate: True for a session that is already running: it is never refused, but it
                counts for others.
            had: The slot that the session has already; it gets the part that is missing.

        Raises:
            TooMany: All slots are taken.
        """
        most = self._most(account)
        token, _, slot = (had or "").partition(_AND)
        if slot:
            return had
        if not token:
            capped = most.of_account is None and not at_any_rate
            token = self.counts.enter(account.id, account.name, capped=capped)
        if most == NO_LIMIT:
            return token
        try:
            most = NO_LIMIT if at_any_rate else most
            slot = self.sessions.enter(account, network_of(host), most)
        except BaseException:
            if had is None:  # else the session keeps the token that it had
                self.counts.leave(token)
            raise
        return f"{token}{_AND}{slot}"

    def _most(self, account: Account) -> Most:
        settings = self.settings
        mine = account.max_sessions
        return Most(
            in_all=settings.max_sessions,
            of_account=settings.max_user_sessions if mine is None else mine,
            from_address=settings.max_address_sessions,
        )

    def leave(self, slot: str | None) -> None:
        """Release a session slot."""
        if slot is None:
            return
        token, _, slot = slot.partition(_AND)
        self.counts.leave(token)
        if slot:
            self.sessions.leave(slot)

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Count a running transfer, and return its token: see `TransferCounting`."""
        return self._transfers.begin(account.id, account.name, give_way)

    def report_idle(self, transfer: str, idle: bool) -> None:
        """Report whether a running transfer has moved no bytes for a while."""
        self._transfers.report_idle(transfer, idle)

    def end_transfer(self, transfer: str) -> None:
        """Count a transfer as ended. Can be called twice."""
        self._transfers.leave(transfer)

    def pace(self, account: Account) -> Pace | None:
        """Return the pace that all sessions of an account share here; None without a limit."""
        if account.limit_rate is None:
            return None
        with self._pacing:
            pace = self._paces.get(account.id)
            if pace is None:
                pace = self._make_pace(account.id, account.limit_rate)
                # a weak dictionary: the sessions keep the pace, and it goes with the last one
                self._paces[account.id] = pace
            pace.rate = max(1, account.limit_rate)
            return pace
