"""Limits of those who have logged in: how many sessions and transfers at once, and how fast.

Lives here: which counts a session has a place in, one pace for all sessions of an account.
Lives elsewhere: the counts themselves (session_counts.py, session_slots.py, transfer_counts.py).

What sessions of several processes must agree on is decided in the database, by one statement that
looks and acts. A session has a row there only while a limit applies to it, so that other log-ins
write nothing. What workers must agree on without the database is decided in the memory of the
server's process, which they ask.
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
"""Parts the two halves of a session's place: its token, and its row if it has one."""


class Counting(TypedDict, total=False):
    """How a process that is one of several counts; see `SessionLimits`."""

    counts: SessionCounting
    transfers: TransferCounting
    make_pace: Callable[[int, int], Pace]


def most_sessions(settings: Settings, own: int | None = None) -> int:
    """How many sessions an account may have, which all come from one address.

    Args:
        own: The account's own limit; None: it has none.
    """
    of_account = (settings.max_user_sessions or MOST) if own is None else own
    limits = (of_account, settings.max_sessions, settings.max_address_sessions)
    return min(limit for limit in limits if limit is not None)


class SessionLimits:
    """The limits of sessions, and what is counted for them.

    Args:
        ledger: Whose processes the sessions are of.
        counts, transfers: Where sessions and running transfers are counted; by default for this
            process alone.
        make_pace: Makes the pace of an account, of its id and rate.

    Attributes:
        settings: May be replaced while the server runs.
        sessions: Those that count for a limit.
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
        """Have accounts' paces made by something else from now on. Before there are sessions."""
        self._make_pace = make_pace

    def check_enter(self, account: Account, host: str) -> None:
        """Raise TooMany if `enter` would; no place is taken."""
        most = self._most(account)
        if most != NO_LIMIT:
            self.sessions.enter(account, network_of(host), most, only_asking=True)

    def check_cap(self, account: Account) -> None:
        """Raise TooMany if an account has the sessions that it may have without a limit of its own.

        Only where the sessions are counted.
        """
        if self._most(account).of_account is None and isinstance(self.counts, SessionCounts):
            self.counts.check(account.id, account.name)

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Take one of the places for sessions, to give it back by.

        Args:
            at_any_rate: It is there already, and counts for the others.
            had: The place that the session has; it gets what that lacks.

        Raises:
            TooMany: All are taken.
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
            slot = network_of(host)
            slot = self.sessions.enter(account, slot, NO_LIMIT if at_any_rate else most)
        except BaseException:
            if had is None:
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
        """Give a place back."""
        if slot is None:
            return
        token, _, slot = slot.partition(_AND)
        self.counts.leave(token)
        if slot:
            self.sessions.leave(slot)

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Count a running transfer, to end it by. Raises TooMany. See `TransferCounting`."""
        return self._transfers.begin(account.id, account.name, give_way)

    def tell_idle(self, transfer: str, idle: bool) -> None:
        """Say whether a running transfer has moved no bytes for a while."""
        self._transfers.tell_idle(transfer, idle)

    def end_transfer(self, transfer: str) -> None:
        """A transfer runs no more. Can be called twice."""
        self._transfers.leave(transfer)

    def pace(self, account: Account) -> Pace | None:
        """What all sessions of an account here keep together; its rate follows the account."""
        if account.limit_rate is None:
            return None
        with self._pacing:
            pace = self._paces.get(account.id)
            if pace is None:
                pace = self._make_pace(account.id, account.limit_rate)
                self._paces[account.id] = pace
            pace.rate = max(1, account.limit_rate)
            return pace
