"""Handling the requests of a session's process, only for its own session.

Lives here: log-ins, passwords and tokens, transfers, audit records and log lines of one session.
Lives elsewhere: the requests (interfaces.py), the quota store (session_quota_store.py), the
processes themselves (isolated_session.py), the accounts, tokens and limits behind log-ins
(accounts/authenticator.py).
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
from ftpserver.audit.context import MAX_NAMED, guess_of, has_done_something, share_of
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
"""The number of refused log-ins after which no honest process tries again."""
_LOG_BURST = 200
_LOG_RATE = 2.0
"""The log lines that a session may write at once, and per second. Further ones are dropped."""
_CLOCK_SECONDS = 10.0
"""The most seconds that a record's time may differ from the time of its arrival."""
_decode_record = msgspec.json.Decoder(Record, strict=True).decode
_EVENTS = frozenset({*EVENTS.values(), "logout", "evict", "measured"})
_DETAILS = frozenset({"by", "commit", "id", "invitation", "mode", "name", "token", "why", "with"})
_COUNTS = frozenset({"conflicts", "operations"})
_MOST_COUNTED = 2**53
_ATTEMPTS = frozenset({"login", "register"})
"""Events recorded with the name that the client gave."""


class RequestingSession(Protocol):
    """The session whose process sends requests, as far as handling them needs it.

    Attributes:
        account, token_id, token_revoked, renewing, offence: See `IsolatedSession`; changed by
            requests.
        on_answered: See `IsolatedSession`.
    """

    account: Account | None
    token_id: str | None
    token_revoked: bool
    renewing: bool
    offence: Offence | None
    on_answered: Callable[[], None]

    @property
    def id(self) -> int:
        """The session's number."""

    @property
    def request(self) -> socket.socket:
        """The client's connection."""

    @property
    def host(self) -> str:
        """The client's address."""

    @property
    def shown_host(self) -> str:
        """The address as audit records have it."""

    def admit(self, admission: Admission) -> int:
        """Take note of a log-in, before the process is notified. Return the descriptor of the
        page with the account's pace, which stays open."""

    def moved(self, bytes_in: int, bytes_out: int) -> None:
        """Take note of the bytes transferred, as its process reports them."""

    def give_way(self, transfer: str) -> None:
        """See `Session.give_way`."""

    def give_up(self, why: str) -> None:
        """End a process that does what no honest session does."""


class Answers(ServerForSession):
    """Handles one session's requests. For the thread that reads them.

    Attributes:
        log_allowance: The allowance for all lines that it makes the server log.
    """

    def __init__(self, service: Service, session: RequestingSession) -> None:
        self._service = service
        self._session = session
        self._failures = self._guesses = 0
        self._invitation: str | None = None
        self.log_allowance = Allowance(_LOG_BURST, _LOG_RATE)
        self._transfer: str | None = None

    def account(self) -> Account:
        """Return the session's account. Raises NotLoggedIn."""
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
            self._session.give_up("it keeps trying to log in")
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
        """Keep the session open although it changes its own password or tokens."""
        self._session.renewing = True
        try:
            yield
        finally:
            self._session.renewing = False

    # transfers, and the end --------------------------------------------------------------

    def answered(self) -> None:
        self._session.on_answered()

    def begin_transfer(self) -> str:
        """Begin the session's only transfer."""
        account, limits = self.account(), self._service.limits
        self.end_transfer()
        self._transfer = limits.begin_transfer(account, self._session.give_way)
        return self._transfer

    def report_idle(self, idle: bool) -> None:
        if self._transfer is not None:
            self._service.limits.report_idle(self._transfer, idle)

    def end_transfer(self) -> None:
        """End the session's transfer. Can be called twice."""
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
        """Record what the session reports, but only as itself and with the present time."""
        log = self._service.audit
        if not log.enabled:
            return
        good: dict[str | None, list[bytes]] = {}
        account = self._session.account
        for line in lines.splitlines():
            try:
                record = _decode_record(line)
            except (msgspec.MsgspecError, RecursionError):
                logger.warning("%s: dropped a malformed audit record", self._session)
                continue
            if not self._vouch(record):
                continue
            share, line = None, line_of(record)
            if record.outcome == OK or has_done_something(record):
                share = share_of(record.event, account.name if account else None)
            elif not log.may_record_failure(account, self._guess_of(record), len(line)):
                continue
            good.setdefault(share, []).append(line)
        for share, rest in good.items():
            log.append(b"".join(rest), len(rest), share)

    def _guess_of(self, record: Record) -> str | None:
        """Return what a failure guessed at; None for more failures than there really were."""
        way = (record.details or {}).get("with")
        if way not in ("password", "token") or self._guesses >= self._failures:
            return None
        guess = guess_of(record.event, record.code, way)
        self._guesses += guess is not None
        return guess

    def _vouch(self, record: Record) -> bool:
        """Correct a record's account, address and time. Return False if it must be dropped."""
        session = self._session
        if record.by or record.sudo_user or record.login_user or record.count is not None:
            return False
        account = session.account
        if account is not None:
            record.user = account.name
        elif record.outcome == OK:
            return False  # nothing can succeed before log-in
        elif record.event not in _ATTEMPTS:
            record.user = None
        if record.event == "register" and record.outcome == OK:
            used = self._invitation
            record.details = {"with": "registration"} | ({"invitation": used} if used else {})
        elif record.details is not None:
            kept = {name: one for name, one in record.details.items() if _is_detail(name, one)}
            record.details = kept or None
        record.address = session.shown_host
        record.session = str(session.id)
        now = time.time()
        if not _is_near(record.time, now):
            record.time = timestamp(now)
        return record.event in _EVENTS or (record.code is not None and record.event in REQUESTS)


def _is_detail(name: str, value: object) -> bool:
    """Return True if a session may record such a detail; others could make the line unreadable."""
    if isinstance(value, str):
        return name in _DETAILS and len(value) <= MAX_REASON
    if isinstance(value, bool):
        return name in _DETAILS
    if isinstance(value, int):
        return name in _COUNTS and 0 <= value <= _MOST_COUNTED
    return name == "names" and _are_operations(value)


def _are_operations(value: object) -> bool:
    if not isinstance(value, list) or len(value) > MAX_NAMED:
        return False
    return all(isinstance(one, str) and is_name(one.encode()) for one in value)


def _is_near(stamp: str, now: float) -> bool:
    earliest = timestamp(now - _CLOCK_SECONDS)
    return earliest <= stamp <= timestamp(now + 1) and len(stamp) == len(earliest)
