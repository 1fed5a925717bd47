"""Limits: who may connect and try to log in, how often, how many at once, and how fast.

Lives here: who is taken in, when a password is checked, counting sessions and transfers, one pace
for all sessions of an account.
Lives elsewhere: connections without a log-in (startups.py), what they are refused for
(penalties.py), the queue for passwords (turns.py), failures and bans (bans.py), passwords
(accounts.py), what an address is (net/addresses.py), deadlines (serving/session.py), space
(storage/ledger.py).

What sessions of several processes must agree on is decided in the database, by one statement that
looks and acts: how many sessions there are, and who is banned. A session has a row there only while
a limit applies to it, so that other log-ins write nothing. What workers must agree on without the
database is decided in the memory of the server's process, which they ask.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import TypedDict, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Engine

from ftpserver.accounts.accounts import Account
from ftpserver.accounts.bans import Ban, Bans, duration
from ftpserver.accounts.passwords import HASHES_AT_ONCE
from ftpserver.accounts.penalties import Offence, Penalties
from ftpserver.accounts.session_counts import SessionCounting, SessionCounts
from ftpserver.accounts.session_slots import NO_LIMIT, Most, Sessions
from ftpserver.accounts.startups import Spared, Strangers, TurnedAway
from ftpserver.accounts.transfer_counts import TransferCounting, TransferCounts
from ftpserver.accounts.turns import Changes, Changing, Queue, Queueing
from ftpserver.net.addresses import LOCAL, is_in, place_of, source_of
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import Banned, Busy, LoginRefused, NotFound
from ftpwire.pacing import Pace

BANNED_DELAY = 1.0
"""Seconds before somebody who is banned is told so: asking again and again costs us little."""
BUSY_DELAY = 2.0
"""The same where too many wait: an answer at once would only bring the next question."""
MAX_WAITING = 100
"""Passwords that may wait to be checked: two seconds of work for two cores."""
_AND = "/"
"""Parts the two halves of a session's place: its token, and its row if it has one."""
_Result = TypeVar("_Result")


class LimitsOptions(TypedDict, total=False):
    """What a process that is one of several says of itself; see Limits."""

    counts: SessionCounting
    transfers: TransferCounting
    queue: Queueing
    changes: Changing
    make_pace: Callable[[int, int], Pace]


class Limits:
    """All limits of one server. Safe to use from its many threads.

    Attributes:
        settings: May be replaced while the server runs.
        strangers: Connections that have not logged in.
        penalties: Of addresses from which too many of them came.
        sessions: Those that count for a limit.
        queue: Where passwords wait to be checked.
        changes: Passwords that are being changed.

    Args:
        ledger: Whose processes the sessions are of.
        counts, transfers: Where sessions and running transfers are counted; by default for this
            process alone.
        queue: The same of passwords that wait to be checked.
        changes: The same of passwords that are being changed.
        make_pace: Makes the pace of an account, of its id and rate.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        ledger: Ledger,
        *,
        counts: SessionCounting | None = None,
        transfers: TransferCounting | None = None,
        queue: Queueing | None = None,
        changes: Changing | None = None,
        make_pace: Callable[[int, int], Pace] = lambda account_id, rate: Pace(rate),
    ) -> None:
        self._bans = Bans(engine, settings.ban_after, settings.ban_time)
        self._spared = Spared()
        self._paces: WeakValueDictionary[int, Pace] = WeakValueDictionary()
        self._pacing = threading.Lock()
        self._make_pace = make_pace
        self.strangers = Strangers(settings.max_startups)
        self.penalties = Penalties()
        self.sessions = Sessions(engine, ledger)
        self.counts: SessionCounting = counts or SessionCounts()
        self._transfers: TransferCounting = transfers or TransferCounts(
            lambda: self.settings.max_user_transfers
        )
        if queue is None:  # an empty one is false
            queue = Queue(HASHES_AT_ONCE, MAX_WAITING)
        self.queue: Queueing = queue
        self.changes: Changing = changes or Changes()
        self.settings = settings
        self.on_banned: Callable[[Ban], None] = lambda ban: None
        """Called with each ban that failures of this process bring about."""

    def follow(self, settings: Settings) -> None:
        """Other limits hold from now on."""
        self.settings = settings
        self.strangers.limits = settings.max_startups
        self._bans.after, self._bans.seconds = settings.ban_after, settings.ban_time

    # connecting --------------------------------------------------------------------------

    def admit(self, connection: Hashable, host: str) -> bool:
        """Whether a connection is taken; before it costs a thread.

        Where somebody has logged in lately, only the connections from there count: whoever else
        knocks, and no penalty holds: one of many behind an address shuts out none of the others.
        Who is banned, and hasn't, gets one at a time, to be told so; a proxy that tells the
        addresses of its clients goes on bringing them.
        """
        spared, trusted = host in self._spared, self.is_trusted(host)
        if not spared and not trusted and self.penalties.refuses(host):
            return False
        one_at_a_time = not spared and not self.is_proxy(host) and self._bans.may_be_banned(host)
        if one_at_a_time and self.strangers.count(host):
            return False
        return self.strangers.take(connection, host, spared=spared, trusted=trusted)

    def turned_away(self, host: str) -> TurnedAway | None:
        """Why a connection from there would not be taken just now; None if it would. For people.

        Whoever is banned gets one, to be told so: `ban_of`.
        """
        spared, trusted = host in self._spared, self.is_trusted(host)
        left = 0.0 if spared or trusted else self.penalties.left(host)
        if left:
            return TurnedAway(
                "penalty",
                f"connections from {source_of(host)} are refused for another "
                f"{duration(math.ceil(left))}: too many ended without a log-in",
            )
        if self.strangers.has_room(host, spared=spared, trusted=trusted):
            return None
        return TurnedAway("connections", self.crowd(host) or "too many connections have no log-in")

    def crowd(self, host: str) -> str | None:
        """What there is to say of a place that has its share of connections without a log-in."""
        count, most = self.strangers.count(host), self.strangers.share(self.is_trusted(host))
        if count < most:
            return None
        return (
            f"{place_of(host)} has {count} connections that have not logged in, and {most} are "
            "allowed: a new one ends the oldest"
        )

    def is_trusted(self, host: str) -> bool:
        """Whether an address has no share and no penalties: it stands for many clients."""
        return is_in(host, self.settings.trusted_networks) or self.is_proxy(host)

    def is_proxy(self, host: str) -> bool:
        """Whether an address is that of a proxy which says whose its connections are."""
        networks = self.settings.proxy_from
        return bool(networks) and host != LOCAL and is_in(host, networks)

    def penalize(self, host: str, offence: Offence) -> None:
        """A connection from there has ended without a log-in, in a way that costs something."""
        if not self.is_trusted(host):
            self.penalties.add(host, offence)

    def is_spared(self, host: str) -> bool:
        """Whether somebody has logged in from there lately."""
        return host in self._spared

    def spare(self, host: str) -> None:
        """Somebody has logged in from there."""
        self._spared.add(host)

    def heard_of_ban(self, place: str, until: int) -> None:
        """Another process has banned an address."""
        self._bans.hear(place, until)

    def tell_bans(self, tell: Callable[[str, int], None]) -> None:
        """Call something with each address that this process bans, or finds banned, and until
        when."""
        self._bans.on_heard = tell

    # logging in --------------------------------------------------------------------------

    def by_password(self, host: str, name: str, prove: Callable[[], _Result]) -> _Result:
        """Check a password with ``prove``, if its turn comes, and count it when it is refused.

        Bans are looked at, and failures counted, within the turn: however many try at once, no
        more guesses get through than turns.

        Raises:
            Banned: No password from there is looked at.
            Busy: Too many wait.
            LoginRefused: From ``prove``.
        """
        with self.turn(host):
            self._bans.check(host, name)
            try:
                proved = prove()
            except LoginRefused:
                self._failed(host, name)
                raise
            self._bans.succeeded(host, name)
        self._spared.add(host)
        return proved

    def turn(self, host: str) -> AbstractContextManager[None]:
        """A turn at hashing a password; it is waited for as long as a log-in may take.

        Raises Busy.
        """
        seconds = self.settings.login_grace
        return self.queue.turn(host, spared=host in self._spared, seconds=seconds)

    def by_token(self, host: str, name: str, prove: Callable[[], _Result]) -> _Result:
        """Check a token with ``prove``, and count it when it is refused.

        Nobody guesses a token, so a good one comes in from a banned address, too: who shares
        that address with somebody who doesn't know the password goes on working.

        Raises:
            Banned, LoginRefused
        """
        try:
            proved = prove()
        except LoginRefused:
            self._bans.check(host, name)
            self._failed(host, name)
            raise
        self._spared.add(host)
        return proved

    def _failed(self, host: str, name: str) -> None:
        for ban in self._bans.failed(host, name):
            self.on_banned(ban)

    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        """Seconds to wait before a log-in from there is refused."""
        if isinstance(error, Busy):
            return BUSY_DELAY
        return BANNED_DELAY if isinstance(error, Banned) else self._bans.delay(host)

    # being there -------------------------------------------------------------------------

    def check_enter(self, account: Account, host: str) -> None:
        """Raise TooMany if `enter` would; no place is taken."""
        most = self._most(account)
        if most != NO_LIMIT:
            self.sessions.enter(account, place_of(host), most, only_asking=True)

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
            place = place_of(host)
            slot = self.sessions.enter(account, place, NO_LIMIT if at_any_rate else most)
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

    def leave(self, place: str | None) -> None:
        """Give a place back."""
        if place is None:
            return
        token, _, slot = place.partition(_AND)
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

    # looking after it --------------------------------------------------------------------

    def bans(self) -> Sequence[Ban]:
        """The bans in force, the one that ends first at the front."""
        return sorted([*self._bans.all(), *self.penalties.all()], key=lambda ban: ban.until)

    def ban_of(self, host: str, name: str) -> Banned | None:
        """Why a log-in from there to that account would be refused, if a ban does it."""
        try:
            self._bans.check(host, name)
        except Banned as error:
            return error
        return None

    def unban(self, subject: str) -> Sequence[Ban]:
        """Lift the bans of an address, or of ``ADDRESS ACCOUNT`` alone; returns them.

        Raises:
            NotFound: There are none, and no failures that would count for one.
        """
        penalties = self._lift_penalties(subject)
        try:
            return [*self._bans.lift(subject), *penalties]
        except NotFound:
            if not penalties:
                raise
            return penalties

    def _lift_penalties(self, subject: str) -> Sequence[Ban]:
        given = subject.strip()
        try:
            return () if " " in given else self.penalties.lift(source_of(given.partition("/")[0]))
        except ValueError:
            return ()

    def tidy(self) -> None:
        """Forget what has ended. Now and then, and at the start."""
        self.sessions.reap()
        self._bans.tidy()
        self.penalties.tidy()
