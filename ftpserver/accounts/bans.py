"""Failed log-ins: counted, slowed down, and after too many of them refused for a time.

Lives here: the table ``failure`` and the rules. Lives elsewhere: when they are asked (limits.py),
what an address is (net/addresses.py), lifting a ban by command (daemon/control.py).

What is counted are an address, and an address together with an account: never an account alone,
because then anybody could keep its owner out. Names that nobody has count like all others, so a
ban tells nothing about who exists. While a ban lasts, no password from there is looked at.
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
"""Addresses and pairs that are remembered at most; those without a ban go first."""
ADDRESS_FACTOR = 3
"""An address is banned from all accounts after so many times the failures that ban a pair."""
_FREE_FAILURES = 2
"""So many typing errors slow nobody down."""
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 5.0
_LONGEST_NAME = 40
"""Characters of a name that are kept; no account has as many."""


@dataclass(frozen=True)
class Ban:
    """What is refused.

    Attributes:
        address: An IPv4 address, or an IPv6 network.
        account: None: whatever account is tried.
        failures: How many log-ins have failed.
        until: Seconds since 1970, by the clock of the run (ftpserver/clock.py).
        reason: What else than failed log-ins it is for.
    """

    address: str
    account: str | None
    failures: int
    until: int
    reason: str | None = None

    @property
    def subject(self) -> str:
        """What it is lifted by."""
        return _subject(self.address, self.account)


class Bans:
    """The failures of one root's accounts. Safe to use from many threads and processes.

    ``_lock`` guards ``_banned``; it is never held across a statement.

    Args:
        after: Failures that ban a pair; 0 bans nobody.
        seconds: How long a ban lasts, and how long a failure counts.
        clock: Seconds since 1970 that no change of the system's clock moves.
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
        """Banned addresses that this process has heard of, and until when."""
        self.on_heard: Callable[[str, int], None] = lambda network, until: None
        """Called with each of them that it finds out by itself."""

    # asking ------------------------------------------------------------------------------

    def check(self, host: str, name: str) -> None:
        """Raises Banned when log-ins from there, or from there to that account, are refused."""
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
        whom = "" if ban.account is None else f" to {name}"
        left = ban.until - now
        raise Banned(
            f"too many log-ins{whom} failed from {network}: refused for another {duration(left)}",
            retry_after=left,
        )

    def may_be_banned(self, host: str) -> bool:
        """Whether this process knows of a ban on the address; costs no statement."""
        if not self._banned:
            return False
        return self._banned.get(source_of(host), 0) > self._clock()

    def delay(self, host: str) -> float:
        """Seconds to wait before another failure is answered: more with each one."""
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
        """The bans in force, the one that ends first at the front."""
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
        """Count a failed log-in. Returns the bans that it brought about."""
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

    def _count(self, connection: Connection, now: int, whose: Ban, most: int) -> Ban | None:
        """One more for a subject. A ban that is over, or a long silence, begins anew."""
        this = failure.c.subject == whose.subject
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
                    connection.execute(insert(failure).values(subject=whose.subject, **values))
            except IntegrityError:  # another session's first failure was quicker
                return self._count(connection, now, whose, most)
        else:
            connection.execute(update(failure).where(this).values(**values))
        return Ban(whose.address, whose.account, count, until) if until else None

    def succeeded(self, host: str, name: str) -> None:
        """Somebody came in: that address's failures with that account are forgotten.

        Not those of the address: who has one account could guess at the others for ever.
        """
        this = failure.c.subject == _subject(source_of(host), name)
        with self._reading.connect() as connection:
            if connection.execute(select(failure.c.count).where(this)).first() is None:
                return  # as nearly always: a log-in needs no write
        with self._engine.begin() as connection:
            connection.execute(delete(failure).where(this))

    def lift(self, subject: str) -> Sequence[Ban]:
        """Forget the failures of an address with all its accounts, or of ``ADDRESS ACCOUNT``.

        Returns:
            The bans that were in force.

        Raises:
            NotFound: There are none of that subject.
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
            raise NotFound(f"{subject}: no ban, and no failed log-ins")
        return [_ban(row) for row in rows if row.banned_until > now]

    def tidy(self) -> None:
        """Forget what counts no more."""
        now = int(self._clock())
        last, until = failure.c.last, failure.c.banned_until
        with self._engine.begin() as connection:
            # from an earlier run, with a clock that was wrong: it lasts as long as it should
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
        """An address is banned."""
        with self._lock:
            if len(self._banned) >= MAX_ROWS:
                self._banned.clear()  # the table knows them all the same
            self._banned[network] = until


def _bound(connection: Connection) -> None:
    """Keep the table small, whoever fills it."""
    count = connection.execute(select(func.count()).select_from(failure)).scalar() or 0
    if count > MAX_ROWS:
        oldest = (
            select(failure.c.subject)
            .order_by(failure.c.banned_until, failure.c.last)
            .limit(count - MAX_ROWS)
        )
        connection.execute(delete(failure).where(failure.c.subject.in_(oldest)))


def _is_over(banned_until: int, now: int) -> bool:
    """Whether there was a ban that has ended."""
    return 0 < banned_until <= now


def _subject(network: str, name: str | None = None) -> str:
    return network if name is None else f"{network} {_name(name)}"


def _name(name: str) -> str:
    """A name as it is counted: whatever was sent, it is text that a database takes, on one line."""
    kept = name[:_LONGEST_NAME].encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() and letter != " " else "?" for letter in kept)


def _ban(row: Row[Any]) -> Ban:
    subject, count, _, until = tuple(row)
    network, _, account = subject.partition(" ")
    return Ban(network, account or None, count, until)


def duration(seconds: int) -> str:
    """So long, for people."""
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"
