"""Bans: failed log-ins are counted and slowed down; after too many, log-ins are refused for a time.

Lives here: the table ``failure`` and the rules. Lives elsewhere: when they apply (limits.py), kinds
of addresses (net/addresses.py), lifting a ban by command (daemon/control.py).

Failures are counted by address, and by address and account together: never by account alone,
because any client could then lock out its owner. Names without an account count like all others, so
a ban doesn't show which names exist. While a ban lasts, no password from there is checked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ftpserver.clock import RUN
from ftpserver.database import reading
from ftpserver.net.addresses import is_local, source_of
from ftpserver.schema import failure
from ftpwire.errors import Banned, NotFound

MAX_ROWS = 10_000
"""The most rows, of addresses and pairs; those without a ban are removed first."""
ADDRESS_FACTOR = 3
"""An address is banned from all accounts after this many times the failures that ban a pair."""
_FREE_FAILURES = 2
"""The number of failures, such as typing errors, that are not slowed down."""
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 5.0
_LONGEST_NAME = 40
"""The number of characters of a name that are stored; account names are shorter."""


@dataclass(frozen=True)
class Ban:
    """One ban.

    Attributes:
        address: An IPv4 address, or an IPv6 network.
        account: The account that the address is banned from; None for all.
        failures: The number of failed log-ins.
        until: Seconds since 1970, by the clock of the run (ftpserver/clock.py).
        reason: The reason, if it isn't failed log-ins.
    """

    address: str
    account: str | None
    failures: int
    until: int
    reason: str | None = None

    @property
    def subject(self) -> str:
        """The text by which it is lifted: ``ADDRESS`` or ``ADDRESS ACCOUNT``."""
        return _subject(self.address, self.account)


class Bans:
    """The failures of one root's accounts. Safe to use from many threads and processes.

    ``_lock`` guards ``_banned``; it is never held across a statement.

    Args:
        after: The number of failures that ban a pair; 0 for no bans.
        seconds: How long a ban lasts, and how long a failure counts.
        clock: Seconds since 1970 that don't follow changes of the system's clock.
    """

    def __init__(
        self, engine: Engine, after: int, seconds: float, clock: Callable[[], float] = RUN.now
    ) -> None:
        self.after = after
        self.seconds = seconds
        self._engine = engine
        self._reading = reading(engine)
        self._clock = clock
        self._lock = threading.Lock()
        self._banned: dict[str, int] = {}
        """Banned addresses that this process knows of, each with the end of its ban."""
        self.on_heard: Callable[[str, int], None] = lambda network, until: None
        """Called with each ban that this process makes or finds in the table."""

    # checking ----------------------------------------------------------------------------

    def check(self, host: str, name: str) -> None:
        """Raise Banned if log-ins from there, or from there to that account, are refused."""
        now = int(self._clock())
        network = source_of(host)
        subjects = [_subject(network), _subject(network, name)]
        refused = select(failure).where(
            failure.c.subject.in_(subjects), failure.c.banned_until > now
        )
        with self._reading.connect() as connection:
            rows = connection.execute(refused.order_by(failure.c.banned_until.desc())).all()
        if not rows:
            return
        ban = _ban(rows[0])
        if ban.account is None:
            self._heard(network, ban.until)
        target = "" if ban.account is None else f" to {name}"
        left = ban.until - now
        raise Banned(
            f"too many log-ins{target} failed from {network}: refused for another {duration(left)}",
            retry_after=left,
        )

    def may_be_banned(self, host: str) -> bool:
        """Return True if this process knows of a ban on the address. Runs no statement."""
        if not self._banned:
            return False
        return self._banned.get(source_of(host), 0) > self._clock()

    def delay(self, host: str) -> float:
        """Return the seconds to wait before a failure is reported: more with each one."""
        wanted = select(failure.c.count).where(
            failure.c.subject == _subject(source_of(host)),
            failure.c.last > self._clock() - self.seconds,
        )
        with self._reading.connect() as connection:
            count = connection.execute(wanted).scalar() or 0
        if count <= _FREE_FAILURES:
            return 0.0
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(16, count - _FREE_FAILURES - 1))

    def all(self) -> Sequence[Ban]:
        """Return the bans in force; the one that ends first comes first."""
        now = int(self._clock())
        with self._reading.connect() as connection:
            rows = connection.execute(
                select(failure)
                .where(failure.c.banned_until > now)
                .order_by(failure.c.banned_until, failure.c.subject)
            ).all()
        return [_ban(row) for row in rows]

    # counting ----------------------------------------------------------------------------

    def failed(self, host: str, name: str) -> Sequence[Ban]:
        """Count a failed log-in. Return the bans that it causes."""
        network = source_of(host)
        now = int(self._clock())
        with self._engine.begin() as connection:
            made = [
                self._count(connection, now, Ban(network, None, 0, 0), self.after * ADDRESS_FACTOR),
                self._count(connection, now, Ban(network, _name(name), 0, 0), self.after),
            ]
            _bound(connection)
        bans = [ban for ban in made if ban is not None]
        for ban in bans:
            if ban.account is None:
                self._heard(network, ban.until)
        return bans

    def _count(self, connection: Connection, now: int, counted: Ban, most: int) -> Ban | None:
        """Count one failure of a subject. After an ended ban or a long pause, start at 1 again."""
        this = failure.c.subject == counted.subject
        earlier = select(failure.c.count, failure.c.last, failure.c.banned_until).where(this)
        row = connection.execute(earlier.with_for_update()).first()
        count = 1
        if row is not None:
            before, last, banned_until = row
            if last > now - self.seconds and not _is_over(banned_until, now):
                count += before
        until = now + max(1, int(self.seconds)) if most and count >= most else 0
        values = {"count": count, "last": now, "banned_until": until}
        if row is None:
            try:
                with connection.begin_nested():
                    connection.execute(insert(failure).values(subject=counted.subject, **values))
            except IntegrityError:  # another session has just inserted the row
                return self._count(connection, now, counted, most)
        else:
            connection.execute(update(failure).where(this).values(**values))
        return Ban(counted.address, counted.account, count, until) if until else None

    def succeeded(self, host: str, name: str) -> None:
        """Forget the failures of an address with an account, after a log-in.

        The failures of the address alone stay: otherwise the owner of one account could guess other
        passwords without limit.
        """
        this = failure.c.subject == _subject(source_of(host), name)
        with self._reading.connect() as connection:
            if connection.execute(select(failure.c.count).where(this)).first() is None:
                return  # the usual case: a log-in needs no write
        with self._engine.begin() as connection:
            connection.execute(delete(failure).where(this))

    def lift(self, subject: str) -> Sequence[Ban]:
        """Forget the failures of an address with all accounts, or of ``ADDRESS ACCOUNT`` alone.

        Returns:
            The bans that were in force.

        Raises:
            NotFound: The subject has no failures.
        """
        given, _, account = subject.strip().partition(" ")
        try:
            network = given if is_local(given) else source_of(given.partition("/")[0])
        except ValueError:
            raise NotFound(f"{subject}: not an address") from None
        only = failure.c.subject == _subject(network, account.strip() or None)
        if not account.strip():
            only |= failure.c.subject.startswith(network + " ", autoescape=True)
        now = int(self._clock())
        with self._engine.begin() as connection:
            rows = connection.execute(select(failure).where(only)).all()
            connection.execute(delete(failure).where(only))
        with self._lock:
            if not account.strip():
                self._banned.pop(network, None)
        if not rows:
            raise NotFound(f"{subject}: no ban and no failed log-ins")
        return [_ban(row) for row in rows if row.banned_until > now]

    def tidy(self) -> None:
        """Remove rows that no longer count."""
        now = int(self._clock())
        last, until = failure.c.last, failure.c.banned_until
        with self._engine.begin() as connection:
            # an earlier run's clock was ahead: keep the duration of its bans
            connection.execute(
                update(failure)
                .where(last > now)
                .values(last=now, banned_until=case((until > last, until - last + now), else_=0))
            )
            connection.execute(
                delete(failure).where(
                    failure.c.last <= now - self.seconds, failure.c.banned_until <= now
                )
            )
        with self._lock:
            self._banned = {
                address: until for address, until in self._banned.items() if until > now
            }

    def _heard(self, network: str, until: int) -> None:
        self.hear(network, until)
        self.on_heard(network, until)

    def hear(self, network: str, until: int) -> None:
        """Remember a banned address, which another process may have found."""
        with self._lock:
            if len(self._banned) >= MAX_ROWS:
                self._banned.clear()  # they are still in the table
            self._banned[network] = until


def _bound(connection: Connection) -> None:
    """Limit the size of the table, which any client can fill."""
    count = connection.execute(select(func.count()).select_from(failure)).scalar() or 0
    if count > MAX_ROWS:
        oldest = (
            select(failure.c.subject)
            .order_by(failure.c.banned_until, failure.c.last)
            .limit(count - MAX_ROWS)
        )
        connection.execute(delete(failure).where(failure.c.subject.in_(oldest)))


def _is_over(banned_until: int, now: int) -> bool:
    """Return True if there was a ban and it has ended."""
    return 0 < banned_until <= now


def _subject(network: str, name: str | None = None) -> str:
    return network if name is None else f"{network} {_name(name)}"


def _name(name: str) -> str:
    """Convert any name that a client may send to one line of text that a database accepts."""
    kept = name[:_LONGEST_NAME].encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() and letter != " " else "?" for letter in kept)


def _ban(row: Row[Any]) -> Ban:
    subject, count, _, until = tuple(row)
    network, _, account = subject.partition(" ")
    return Ban(network, account or None, count, until)


def duration(seconds: int) -> str:
    """Return a duration as text, in seconds or minutes."""
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"
