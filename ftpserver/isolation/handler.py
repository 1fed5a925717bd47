"""What the server does for a session's process that asks it: for its own session only.

Lives here: log-in, keys, transfers, records and lines for the log, as one session may ask for them.
Lives elsewhere: what can be asked (interfaces.py), the quota store
(session_quota_store.py), the processes themselves (isolated_session.py), the accounts, tokens and
limits that are asked (accounts/authenticator.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission
from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.tokens import Issued
from ftpserver.audit.allowances import Allowance
from ftpserver.audit.context import MOST_NAMED, guess_of, has_done_something, share_of
from ftpserver.audit.record import EVENTS, MAX_REASON, OK, REQUESTS, Record, line_of, timestamp
from ftpserver.interfaces import Carried
from ftpserver.isolation import homes
from ftpserver.isolation.interfaces import Admitted, Known, ServerForSession
from ftpserver.net.addresses import peer_uid
from ftpserver.storage.trash.names import is_name
from ftpwire.errors import BY_CODE, Busy, CommandError, LoginRefused, NotLoggedIn
from ftpwire.messages import TokenInfo
from ftpwire.paths import printable

if TYPE_CHECKING:
    import socket

    from ftpserver.serving.service import Service

logger = logging.getLogger("ftpd.isolation")

TRIES = 3
"""Refused log-ins, after which a process that goes on is not honest."""
_LOG_BURST = 200
_LOG_RATE = 2.0
"""Lines a second of the server's log, and lines at once, that a session may write; the others are
dropped."""
_CLOCK_SECONDS = 10.0
"""So far may the time of a record be from the moment in which it comes."""
_decode_record = msgspec.json.Decoder(Record, strict=True).decode
_EVENTS = frozenset({*EVENTS.values(), "logout", "evict", "measured"})
_DETAILS = frozenset({"by", "commit", "id", "invitation", "mode", "name", "token", "why", "with"})
_COUNTS = frozenset({"conflicts", "operations"})
_MOST_COUNTED = 2**53
_ATTEMPTS = frozenset({"login", "register"})
"""Events with the name that was given, whoever that was."""


class Asking(Protocol):
    """The session whose process asks, as far as answers need it.

    Attributes:
        account, token_id, token_revoked, renewing, offence: See `IsolatedSession`; changed by
            answers.
        on_answered: The same.
    """

    account: Account | None
    token_id: str | None
    token_revoked: bool
    renewing: bool
    offence: Offence | None
    on_answered: Callable[[], None]

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

    def admit(self, admission: Admission) -> int:
        """Its client has logged in, and its process hears of it next. Returns the descriptor of the
        page with the account's pace, which stays open."""

    def moved(self, bytes_in: int, bytes_out: int) -> None:
        """So many bytes, as its process says."""

    def give_way(self, transfer: str) -> None:
        """As `Session.give_way`."""

    def give_up(self, why: str) -> None:
        """It does what no honest session does: end it."""


class Answers(ServerForSession):
    """Answers one session's process. For the thread that reads what it asks.

    Attributes:
        log_allowance: For lines that it has the server log, in whatever way.
    """

    def __init__(self, service: Service, session: Asking) -> None:
        self._service = service
        self._session = session
        self._failures = self._told_failures = 0
        self._invitation: str | None = None
        self.log_allowance = Allowance(_LOG_BURST, _LOG_RATE)
        self._transfer: str | None = None

    def account(self) -> Account:
        """The session's. Raises NotLoggedIn."""
        account = self._session.account
        if account is None:
            raise NotLoggedIn("log in first")
        return account

    # log-in ------------------------------------------------------------------------------

    def by_password(self, name: str, password: str) -> Carried[Admitted]:
        authenticator = self._service.authenticator
        return self._log_in(lambda host: authenticator.by_password(host, name, password))

    def by_token(self, name: str, secret: str) -> Carried[Admitted]:
        authenticator = self._service.authenticator
        return self._log_in(lambda host: authenticator.by_token(host, name, secret))

    def by_peer(self, name: str) -> Carried[Admitted]:
        authenticator, connection = self._service.authenticator, self._session.request
        return self._log_in(lambda host: authenticator.by_peer(host, name, peer_uid(connection)))

    def register(self, name: str, password: str, invitation: str | None) -> Carried[Admitted]:
        authenticator = self._service.authenticator
        return self._log_in(lambda host: authenticator.register(host, name, password, invitation))

    def _log_in(self, prove: Callable[[str], Admission]) -> Carried[Admitted]:
        if self._session.account is not None:
            raise CommandError("logged in already")
        if self._failures >= TRIES:
            self._session.give_up("it goes on trying to log in")
            raise LoginRefused("too many tries")
        try:
            admission = prove(self._session.host)
        except LoginRefused:
            self._failures += 1
            raise
        try:
            return self._admit(admission)
        except BaseException:
            self._service.limits.leave(admission.slot)
            raise

    def _admit(self, admission: Admission) -> Carried[Admitted]:
        slot = homes.open_home(admission.account)
        try:
            page = os.dup(self._session.admit(admission))
        except BaseException:
            os.close(slot.fd)
            raise
        self._invitation = admission.invitation
        known = Known.of(admission.account, slot.seen_as)
        admitted = Admitted(known, admission.token_id, slot.identity, admission.invitation)
        return Carried(admitted, [slot.fd, page])

    def delay(self, code: str) -> float:
        kind = BY_CODE.get(code, LoginRefused)
        error = kind("") if issubclass(kind, (LoginRefused, Busy)) else LoginRefused("")
        return self._service.authenticator.delay(self._session.host, error)

    # passwords and tokens ----------------------------------------------------------------

    def change_password(self, old: str, new: str) -> Known:
        session, account = self._session, self.account()
        with self._renewing():
            changed = self._service.authenticator.change_password(session.host, account, old, new)
            session.account, session.token_id = changed, None
            session.token_revoked = False
        return Known.of(changed, homes.seen_as(changed))

    def issue_token(self, name: str, seconds: int | None) -> Issued:
        parent = self._session.token_id
        return self._service.authenticator.issue_token(self.account(), name, seconds, parent)

    def list_tokens(self) -> list[TokenInfo]:
        return list(self._service.authenticator.tokens_of(self.account(), self._session.token_id))

    def revoke_token(self, token_id: str) -> None:
        account = self.account()
        with self._renewing():
            self._service.authenticator.revoke_token(account, token_id)
            if token_id == self._session.token_id:
                self._session.token_revoked = True

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """What a session changes itself doesn't end it."""
        self._session.renewing = True
        try:
            yield
        finally:
            self._session.renewing = False

    # transfers, and the end --------------------------------------------------------------

    def answered(self) -> None:
        self._session.on_answered()

    def begin_transfer(self) -> str:
        """A session has one at most."""
        account, limits = self.account(), self._service.limits
        self.end_transfer()
        self._transfer = limits.begin_transfer(account, self._session.give_way)
        return self._transfer

    def tell_idle(self, idle: bool) -> None:
        if self._transfer is not None:
            self._service.limits.tell_idle(self._transfer, idle)

    def end_transfer(self) -> None:
        """Can be called twice."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            self._service.limits.end_transfer(transfer)

    def penalize(self, offence: Offence) -> None:
        self._session.offence = self._session.offence or offence

    def over(self, bytes_in: int, bytes_out: int) -> None:
        self._session.moved(bytes_in, bytes_out)

    # the server's log --------------------------------------------------------------------

    def log(self, level: int, name: str, text: str) -> None:
        if not self.log_allowance.take():
            return
        name = printable(name) if name.startswith("ftpd") else "ftpd.session"
        text = "\n".join(printable(line) for line in text.splitlines())
        level = max(logging.DEBUG, min(level, logging.ERROR))
        logging.getLogger(name).log(level, "%s", text)

    # records -----------------------------------------------------------------------------

    def record(self, lines: bytes) -> None:
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
    if isinstance(value, bool):
        return name in _DETAILS
    if isinstance(value, int):
        return name in _COUNTS and 0 <= value <= _MOST_COUNTED
    return name == "names" and _are_operations(value)


def _are_operations(value: object) -> bool:
    if not isinstance(value, list) or len(value) > MOST_NAMED:
        return False
    return all(isinstance(one, str) and is_name(one.encode()) for one in value)


def _is_near(stamp: str, now: float) -> bool:
    earliest = timestamp(now - _CLOCK_SECONDS)
    return earliest <= stamp <= timestamp(now + 1) and len(stamp) == len(earliest)
