"""Limits: who may connect and try to log in, how often, how many at once, and how fast.

Lives here: when a password or a token is checked, how failures are counted, lifting bans.
Lives elsewhere: accepting connections (admission.py), sessions and transfers (session_limits.py),
the queue for passwords (turns.py), failures and bans (bans.py), passwords (accounts.py), deadlines
(serving/session.py), quotas (storage/ledger.py).
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
"""Seconds before a banned client gets its reply, so that repeated tries cost little."""
BUSY_DELAY = 2.0
"""The same if too many wait: a reply at once would only bring the next try."""
MAX_WAITING = 100
"""The number of passwords that may wait for a check: two seconds of work for two cores."""
_Result = TypeVar("_Result")


class LimitsOptions(Counting, total=False):
    """Options for a process that is one of several; see Limits."""

    queue: Queueing
    changes: Changing


class Limits(Admission, SessionLimits):
    """All limits of one server. Safe to use from its many threads.

    Attributes:
        queue: The queue in which passwords wait for a check.
        changes: The password changes in progress.

    Args:
        queue, changes: None for ones that only this process uses.
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
        if queue is None:  # an empty queue is false, too
            queue = Queue(HASHES_AT_ONCE, MAX_WAITING)
        self.queue: Queueing = queue
        self.changes: Changing = changes or Changes()
        self.on_banned: Callable[[Ban], None] = lambda ban: None
        """Called with each ban caused by failures in this process."""

    def apply_settings(self, settings: Settings) -> None:
        """Apply changed settings."""
        self.settings = settings
        self.unauthenticated.limits = settings.max_startups
        self._bans.after, self._bans.seconds = settings.ban_after, settings.ban_time

    def heard_of_ban(self, network: str, until: int) -> None:
        """Remember an address that another process has banned."""
        self._bans.hear(network, until)

    def report_bans(self, report: Callable[[str, int], None]) -> None:
        """Set the function to call with each ban that this process makes or finds: an address, and
        the end of the ban."""
        self._bans.on_heard = report

    # logging in --------------------------------------------------------------------------

    def by_password(self, host: str, name: str, prove: Callable[[], _Result]) -> _Result:
        """Wait for a turn, check a password with ``prove``, and count a failure.

        Bans are checked, and failures counted, within the turn: no matter how many clients try at
        once, the number of turns limits that of guesses.

        Raises:
            Banned: Passwords from there aren't checked.
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
        """Wait for a turn to hash a password, for as long as a log-in may take.

        Raises Busy.
        """
        seconds = self.settings.login_grace
        return self.queue.turn(host, known=host in self._known, seconds=seconds)

    def by_token(self, host: str, name: str, prove: Callable[[], _Result]) -> _Result:
        """Check a token with ``prove``, and count a failure.

        Tokens cannot be guessed, so a valid one is accepted from a banned address, too: a user who
        shares that address with an attacker can go on working.

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
        """Return the seconds to wait before a log-in from there is refused."""
        if isinstance(error, Busy):
            return BUSY_DELAY
        return BANNED_DELAY if isinstance(error, Banned) else self._bans.delay(host)

    # administration ----------------------------------------------------------------------

    def bans(self) -> Sequence[Ban]:
        """Return all bans and penalties in force; the one that ends first comes first."""
        return sorted([*self._bans.all(), *self.penalties.all()], key=lambda ban: ban.until)

    def ban_of(self, host: str, name: str) -> Banned | None:
        """Return the ban for which a log-in to that account from there would be refused."""
        try:
            self._bans.check(host, name)
        except Banned as error:
            return error
        return None

    def unban(self, subject: str) -> Sequence[Ban]:
        """Lift the bans of an address, or of ``ADDRESS ACCOUNT`` alone, and return them.

        Raises:
            NotFound: There are none, nor failures that could lead to one.
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
        """Remove what has ended. Called at the start and regularly."""
        self.sessions.reap()
        self._bans.tidy()
        self.penalties.tidy()
