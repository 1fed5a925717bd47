"""Limits: who may connect and try to log in, how often, how many at once, and how fast.

Lives here: when a password or a token is checked, what is counted against a failure, lifting bans.
Lives elsewhere: which connections are taken (admission.py), sessions and transfers
(session_limits.py), the queue for passwords (turns.py), failures and bans (bans.py), passwords
(accounts.py), deadlines (serving/session.py), space (storage/ledger.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar, Unpack

from sqlalchemy import Engine

from ftpserver.accounts.admission import Admission
from ftpserver.accounts.bans import Ban, Bans
from ftpserver.accounts.passwords import HASHES_AT_ONCE
from ftpserver.accounts.session_limits import Counting, SessionLimits
from ftpserver.accounts.turns import Changes, Changing, Queue, Queueing
from ftpserver.net.addresses import source_of
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import Banned, Busy, LoginRefused, NotFound

BANNED_DELAY = 1.0
"""Seconds before somebody who is banned is told so: asking again and again costs us little."""
BUSY_DELAY = 2.0
"""The same where too many wait: an answer at once would only bring the next question."""
MAX_WAITING = 100
"""Passwords that may wait to be checked: two seconds of work for two cores."""
_Result = TypeVar("_Result")


class LimitsOptions(Counting, total=False):
    """What a process that is one of several says of itself; see Limits."""

    queue: Queueing
    changes: Changing


class Limits(Admission, SessionLimits):
    """All limits of one server. Safe to use from its many threads.

    Attributes:
        queue: Where passwords wait to be checked.
        changes: Passwords that are being changed.

    Args:
        queue, changes: By default, those of this process alone.
        counting: See `SessionLimits`.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        ledger: Ledger,
        *,
        queue: Queueing | None = None,
        changes: Changing | None = None,
        **counting: Unpack[Counting],
    ) -> None:
        Admission.__init__(self, settings, Bans(engine, settings.ban_after, settings.ban_time))
        SessionLimits.__init__(self, engine, settings, ledger, **counting)
        if queue is None:  # an empty one is false
            queue = Queue(HASHES_AT_ONCE, MAX_WAITING)
        self.queue: Queueing = queue
        self.changes: Changing = changes or Changes()
        self.on_banned: Callable[[Ban], None] = lambda ban: None
        """Called with each ban that failures of this process bring about."""

    def apply_settings(self, settings: Settings) -> None:
        """Other limits hold from now on."""
        self.settings = settings
        self.unauthenticated.limits = settings.max_startups
        self._bans.after, self._bans.seconds = settings.ban_after, settings.ban_time

    def heard_of_ban(self, network: str, until: int) -> None:
        """Another process has banned an address."""
        self._bans.hear(network, until)

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
        self._known.add(host)
        return proved

    def turn(self, host: str) -> AbstractContextManager[None]:
        """A turn at hashing a password; it is waited for as long as a log-in may take.

        Raises Busy.
        """
        seconds = self.settings.login_grace
        return self.queue.turn(host, known=host in self._known, seconds=seconds)

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
        self._known.add(host)
        return proved

    def _failed(self, host: str, name: str) -> None:
        for ban in self._bans.failed(host, name):
            self.on_banned(ban)

    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        """Seconds to wait before a log-in from there is refused."""
        if isinstance(error, Busy):
            return BUSY_DELAY
        return BANNED_DELAY if isinstance(error, Banned) else self._bans.delay(host)

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
