"""What the server answers to the process of a session, which may have been taken over.

Lives here: log-in, tokens, books, records and the log, each for the account that this process has
logged in as, and no other.
Lives elsewhere: the questions (messages.py), the processes themselves (isolated_session.py), the
accounts, tokens, limits and books that are asked (accounts/authenticator.py, storage/ledger.py).

A process names leases by their ids alone; how large they are is known here. What it says about the
bytes that it stored can't be checked: see docs/decisions/0020-isolation.md.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission
from ftpserver.audit.allowances import Allowance
from ftpserver.audit.record import EVENTS, MAX_REASON, OK, REQUESTS, Record, line_of, timestamp
from ftpserver.audit.trail import guess_of, has_done_something, share_of
from ftpserver.isolation import homes
from ftpserver.isolation import messages as q
from ftpserver.net.addresses import peer_uid
from ftpserver.processes.rpc import Carried
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.quota import Lease
from ftpwire.errors import (
    BY_CODE,
    Busy,
    CommandError,
    LeaseLost,
    LoginRefused,
    NotLoggedIn,
)
from ftpwire.paths import printable

if TYPE_CHECKING:
    import socket

    from ftpserver.serving.service import Service

logger = logging.getLogger("ftpd.isolation")

TRIES = 3
"""Refused log-ins, after which a process that goes on is not honest."""
_MOST_LEASES = 10_000
_LOG_BURST = 200
_LOG_RATE = 2.0
"""Lines a second of the server's log, and lines at once, that a session may write; the others are
dropped."""
_CLOCK_SECONDS = 10.0
"""So far may the time of a record be from the moment in which it comes."""
_decode_record = msgspec.json.Decoder(Record, strict=True).decode
_EVENTS = frozenset({*EVENTS.values(), "logout"})
_DETAILS = frozenset({"commit", "id", "invitation", "mode", "name", "token", "with"})
_ATTEMPTS = frozenset({"login", "register"})
"""Events with the name that was given, whoever that was."""


class Asking(Protocol):
    """The session whose process asks, as far as answers need it.

    Attributes:
        account, token_id, token_revoked, renewing: See `IsolatedSession`; changed by answers.
    """

    account: Account | None
    token_id: str | None
    token_revoked: bool
    renewing: bool

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def request(self) -> socket.socket:
        """Its connection."""

    @property
    def host(self) -> str:
        """The client's address."""

    @property
    def shown_host(self) -> str:
        """The address as it is recorded."""

    def begin_transfer(self, account: Account) -> str:
        """Count a transfer. Raises TooMany."""

    def tell_idle(self, idle: bool) -> None:
        """Its transfer has moved no bytes for a while, or does so again."""

    def end_transfer(self) -> None:
        """Its transfer is over."""

    def give_up(self, why: str) -> None:
        """It does what no honest session does: end it."""


class Answers:
    """Answers one session's process. For the thread that reads what it asks.

    Args:
        ledger: The books, with an incarnation that this session has for itself.
        on_admitted: Called when the client has logged in, before the process hears of it; returns
            the descriptor of the page with the account's pace, which is not closed.
    """

    def __init__(
        self,
        service: Service,
        session: Asking,
        ledger: Ledger,
        on_admitted: Callable[[Admission], int],
    ) -> None:
        self._service = service
        self._session = session
        self._ledger = ledger
        self._on_admitted = on_admitted
        self._failures = self._told_failures = 0
        self._invitation: str | None = None
        self._log_allowance = Allowance(_LOG_BURST, _LOG_RATE)
        self.leases: dict[str, Lease] = {}
        """What the session holds."""

    def answer(self, asked: Any) -> Any:
        """Answer a question, or hear what is told."""
        match asked:
            case q.Lines():
                self._record(asked.lines)
            case q.Logged():
                if self._log_allowance.take():
                    _log(asked)
            case q.AskDelay():
                return self._delay(asked.code)
            case q.ByPassword() | q.ByToken() | q.ByPeer() | q.Enrol():
                return self._log_in(asked)
            case q.ChangePassword() | q.IssueToken() | q.ListTokens() | q.RevokeToken():
                return self._keys(asked)
            case q.BeginTransfer():
                return q.TransferBegun(self._session.begin_transfer(self._account))
            case q.TransferIdle(idle):
                self._session.tell_idle(idle)
            case q.EndTransfer():
                self._session.end_transfer()
            case _:
                return self._books(asked)
        return None

    @property
    def holds(self) -> bool:
        """Whether the session has leases, or something of it isn't settled yet."""
        return bool(self.leases) or self._ledger.is_waiting

    @property
    def _account(self) -> Account:
        account = self._session.account
        if account is None:
            raise NotLoggedIn("log in first")
        return account

    # log-in ------------------------------------------------------------------------------

    def _log_in(self, asked: q.ByPassword | q.ByToken | q.ByPeer | q.Enrol) -> Carried:
        if self._session.account is not None:
            raise CommandError("logged in already")
        if self._failures >= TRIES:
            self._session.give_up("it goes on trying to log in")
            raise LoginRefused("too many tries")
        entrance, host = self._service.entrance, self._session.host
        try:
            match asked:
                case q.ByPassword(name, password):
                    admission = entrance.by_password(host, name, password)
                case q.ByToken(name, secret):
                    admission = entrance.by_token(host, name, secret)
                case q.ByPeer(name):
                    uid = peer_uid(self._session.request)
                    admission = entrance.by_peer(host, name, uid)
                case q.Enrol(name, password, invitation):
                    admission = entrance.register(host, name, password, invitation)
        except LoginRefused:
            self._failures += 1
            raise
        try:
            return self._admit(admission)
        except BaseException:
            self._service.limits.leave(admission.place)
            raise

    def _admit(self, admission: Admission) -> Carried:
        account = admission.account
        place = homes.open_home(account)
        try:
            page = os.dup(self._on_admitted(admission))
        except BaseException:
            os.close(place.fd)
            raise
        identity = None
        if place.identity is not None:
            of = place.identity
            identity = (of.uid, of.gid, list(of.groups))
        told = q.known(account, place.seen_as)
        self._invitation = admission.invitation
        answer = q.Admitted(told, admission.token_id, identity, admission.invitation)
        return Carried(answer, [place.fd, page])

    def _delay(self, code: str) -> q.Delay:
        kind = BY_CODE.get(code, LoginRefused)
        error = kind("") if issubclass(kind, (LoginRefused, Busy)) else LoginRefused("")
        return q.Delay(self._service.entrance.delay(self._session.host, error))

    # passwords and tokens ----------------------------------------------------------------

    def _keys(self, asked: Any) -> Any:
        session, entrance, account = self._session, self._service.entrance, self._account
        match asked:
            case q.IssueToken(name, seconds):
                made = entrance.issue_token(account, name, seconds, session.token_id)
                return q.TokenMade(made.id, made.secret, made.expires)
            case q.ListTokens():
                return q.TokensKnown(list(entrance.tokens_of(account, session.token_id)))
        session.renewing = True  # what it changes itself doesn't end it
        try:
            if isinstance(asked, q.ChangePassword):
                changed = entrance.change_password(session.host, account, asked.old, asked.new)
                session.account, session.token_id = changed, None
                session.token_revoked = False
                return q.known(changed, homes.seen_as(changed))
            entrance.revoke_token(account, asked.id)
            if asked.id == session.token_id:
                session.token_revoked = True
            return None
        finally:
            session.renewing = False

    # books -------------------------------------------------------------------------------

    def _books(self, asked: Any) -> Any:
        ledger, account_id = self._ledger, self._account.id
        match asked:
            case q.Reserve(size, files, staging, pieces):
                return self._note(
                    ledger.reserve(account_id, size, staging, files=files, pieces=pieces)
                )
            case q.ReserveStep(size, files):
                return self._note(ledger.reserve_step(account_id, size, files))
            case q.TakeOver(staging, pieces):
                taken = ledger.take_over(account_id, staging, pieces)
                return None if taken is None else self._note(taken)
            case q.FindPieces(key):
                return q.Found(ledger.find_pieces(account_id, key))
            case q.Extend(lease, size, files):
                held = self._held(lease)
                ledger.extend(held, size, files)
                return q.Leased(held.id, held.size, held.files)
            case q.Keep(lease):
                ledger.keep(self._held(lease))
                self.leases.pop(lease, None)
            case q.DropKept(staging):
                return q.Dropped(ledger.drop_kept(account_id, staging))
            case q.ListKept():
                return q.Kept(ledger.resumable(account_id))
            case q.BeginCommit(leases):
                ledger.begin_commit([self._held(one) for one in leases])
            case q.Settle():
                return self._settle(asked)
            case q.AskRoom():
                return q.RoomLeft(ledger.room(account_id))
            case _:
                raise TypeError(f"{type(asked).__name__} is not answered here")
        return None

    def _note(self, lease: Lease) -> q.Leased:
        if len(self.leases) >= _MOST_LEASES:
            self._ledger.release(lease)
            raise Busy("too many reservations")
        self.leases[lease.id] = lease
        return q.Leased(lease.id, lease.size, lease.files)

    def _held(self, lease: str) -> Lease:
        held = self.leases.get(lease)
        if held is None:
            raise LeaseLost("the reservation was lost")
        return held

    def _settle(self, asked: q.Settle) -> q.SettledUp:
        # an id that isn't this session's stands for none: the settlement is made, and told lost
        leases = [
            self.leases.pop(one) if one in self.leases else Lease("", self._account.id, 0)
            for one in asked.leases
        ]
        if not leases:
            raise LeaseLost("nothing is settled without a reservation")
        settled = self._ledger.settle(leases, asked.change, asked.files)
        return q.SettledUp(settled.kept, settled.used, settled.quota)

    # records -----------------------------------------------------------------------------

    def _record(self, lines: bytes) -> None:
        """Keep what the session tells of itself: as itself, and as of now."""
        log = self._service.audit
        if not log.enabled:
            return
        good: dict[str | None, list[bytes]] = {}
        account = self._session.account
        for line in lines.splitlines():
            try:
                record = _decode_record(line)
            except (msgspec.MsgspecError, RecursionError):
                logger.warning("%s: a record that is none was dropped", self._session)
                continue
            if not self._vouch(record):
                continue
            share, line = None, line_of(record)
            if record.outcome == OK or has_done_something(record):
                share = share_of(record.event, account.name if account else None)
            elif not log.may_tell_failure(account, self._guess_of(record), len(line)):
                continue
            good.setdefault(share, []).append(line)
        for share, its in good.items():
            log.append(b"".join(its), len(its), share)

    def _guess_of(self, record: Record) -> str | None:
        """What a failure guessed at: as many as were really compared, whatever is claimed."""
        way = (record.details or {}).get("with")
        if way not in ("password", "token") or self._told_failures >= self._failures:
            return None
        guess = guess_of(record.event, record.code, way)
        self._told_failures += guess is not None
        return guess

    def _vouch(self, record: Record) -> bool:
        """Have a record say whose it is, and when. False for one that no session makes."""
        session = self._session
        if record.by or record.sudo_user or record.login_user or record.count is not None:
            return False
        account = session.account
        if account is not None:
            record.user = account.name
        elif record.outcome == OK:
            return False  # a stranger has done nothing yet
        elif record.event not in _ATTEMPTS:
            record.user = None
        if record.event == "register" and record.outcome == OK:
            used = self._invitation
            record.details = {"with": "registration"} | ({"invitation": used} if used else {})
        elif record.details is not None:
            told = {name: one for name, one in record.details.items() if _is_detail(name, one)}
            record.details = told or None
        record.address = session.shown_host
        record.session = str(session.id)
        now = time.time()
        if not _is_near(record.time, now):
            record.time = timestamp(now)
        return record.event in _EVENTS or (record.code is not None and record.event in REQUESTS)


def _is_detail(name: str, value: object) -> bool:
    """Whether a session tells such a detail: others could make the line one that nobody reads."""
    if isinstance(value, str):
        return name in _DETAILS and len(value) <= MAX_REASON
    return name in _DETAILS and isinstance(value, bool)


def _is_near(stamp: str, now: float) -> bool:
    earliest = timestamp(now - _CLOCK_SECONDS)
    return earliest <= stamp <= timestamp(now + 1) and len(stamp) == len(earliest)


def _log(asked: q.Logged) -> None:
    name = asked.name if asked.name.startswith("ftpd") else "ftpd.session"
    text = "\n".join(printable(line) for line in asked.text.splitlines())
    level = max(logging.DEBUG, min(asked.level, logging.ERROR))
    logging.getLogger(printable(name)).log(level, "%s", text)
