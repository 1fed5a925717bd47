"""The log-in of one connection: its account, the credentials that were used, and its session slot.

Lives here: opening a session for an account, refusing one, and changes of the account meanwhile.
Lives elsewhere: whether a client may log in (accounts/authenticator.py), the requests that ask for
it (commands/identity.py), counting sessions (accounts/limits.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpserver.accounts.account import Account, Refused
from ftpserver.accounts.session_limits import most_sessions
from ftpwire import paths
from ftpwire.channel import TimedOut
from ftpwire.errors import Banned, Busy, CommandError, LoginRefused, NotLoggedIn
from ftpwire.messages import LoggedIn
from ftpwire.pacing import Pace

if TYPE_CHECKING:
    from ftpserver.accounts.authenticator import Admission, Authenticator
    from ftpserver.audit.context import AuditContext
    from ftpserver.serving.context import SessionContext
    from ftpserver.serving.exchange import Exchange

logger = logging.getLogger("ftpd.session")

_LOGIN_TRIES = 3


class Authentication:
    """The log-in of one connection. For the session's thread, except ``apply_account``.

    Args:
        peer: The client's address, for display.
        host: The client's address without its port.
        uid: Returns the system user at the other end; None if it isn't known.
        on_log_in: Called after a log-in: gives the exchange its workspace.

    Attributes:
        token_id: The id of the token that the client logged in with; None after a password.
        token_revoked: True if this session itself has revoked it. The session goes on, but can make
            no tokens.
        renewing: True while the session changes its own password or token, which is no reason to
            end it.
        is_closing: True if the connection is to be closed once the reply is sent.
        is_excused: True if the client was refused only because there were too many sessions.
    """

    token_id: str | None = None
    token_revoked = False
    renewing = False
    is_closing = False
    is_excused = False
    _failures = 0
    _slot: str | None = None
    """The session slot, by which the session counts for limits."""
    _has_left = False

    def __init__(
        self,
        server: SessionContext,
        exchange: Exchange,
        audit_context: AuditContext,
        *,
        peer: str,
        host: str,
        uid: Callable[[], int | None],
        on_log_in: Callable[[Account], None],
    ) -> None:
        self.host = host
        self.uid = uid
        self._peer = peer
        self._server = server
        self._exchange = exchange
        self._audit_context = audit_context
        self._on_log_in = on_log_in

    def __str__(self) -> str:
        account = self.account
        return self._peer if account is None else f"{account.name}@{self._peer}"

    @property
    def account(self) -> Account | None:
        """The account that is logged in, in its current state; None before."""
        workspace = self._exchange.workspace
        return None if workspace is None else workspace.account

    @property
    def user(self) -> Account:
        """The account that is logged in. Raises NotLoggedIn."""
        if (account := self.account) is None:
            raise NotLoggedIn("log in first")
        return account

    @property
    def authenticator(self) -> Authenticator:
        """The authenticator of the server."""
        return self._server.authenticator

    # log-ins -----------------------------------------------------------------------------

    def send_answers(self) -> None:
        """Send pending replies, which is the one to HELLO: checking a password takes long, and the
        client measures the round trip by that reply."""
        self._exchange.flush()

    def logged_in(self) -> LoggedIn:
        """Return the reply that describes the account that is logged in."""
        own = self.user.max_sessions
        most = 0 if own is None else most_sessions(self._server.settings, own)
        workspace = self._exchange.workspace
        final = workspace is not None and not workspace.policy().on
        return LoggedIn(self.user.name, most, final)

    def log_in(self, admitted: Admission) -> LoggedIn:
        """Open the session of an authenticated client for which a session slot was taken."""
        self._slot = admitted.slot
        self.token_id = admitted.token_id
        try:
            self._set_pace(admitted.account)
            self._on_log_in(admitted.account)  # last: other threads may change it from here on
        except BaseException:
            self._give_back()
            raise
        self._audit_context.logged_in(admitted.token_id or admitted.invitation)
        logger.info("%s: logged in", self)
        return self.logged_in()

    def refuse(self, name: str, error: LoginRefused) -> None:
        """Count a refused log-in, and wait. After the last one allowed, close the connection."""
        self._failures += 1
        reason = error.reason if isinstance(error, Refused) else str(error)
        logger.warning("%s: log-in refused for %s: %s", self, paths.show(name), reason)
        self._audit_context.note(reason)
        self.hold_back(error)
        self.is_closing = self._failures >= _LOGIN_TRIES or isinstance(error, Banned)

    def turn_away(self, name: str, error: CommandError) -> None:
        """Close the connection of an authenticated client that is over the session limit."""
        logger.warning("%s: log-in refused for %s: %s", self, paths.show(name), error)
        self.is_closing = self.is_excused = True

    def hold_back(self, error: LoginRefused | Busy) -> None:
        """Wait as long as a refusal takes, unless the server stops or the client leaves."""
        exchange = self._exchange
        delay = self._server.authenticator.delay(self.host, error)
        until = min(time.monotonic() + delay, exchange.login_deadline)
        try:
            with exchange.guard:
                while time.monotonic() < until and not any(exchange.channel.wait(deadline=until)):
                    pass
        except TimedOut:
            pass  # the time has passed

    # afterwards --------------------------------------------------------------------------

    @contextmanager
    def renewal(self) -> Iterator[None]:
        """Return a context in which the session changes its own credentials: a change that ends the
        account's other sessions doesn't end it."""
        self.renewing = True
        try:
            yield
        finally:
            self.renewing = False

    def renew(self, account: Account) -> None:
        """Use the account as this session itself has changed it, and go on."""
        self._use(account)
        self.token_id = None
        self.token_revoked = False

    def apply_account(self, account: Account) -> None:
        """Use a changed account from the next request on. Called by another thread."""
        self._use(account)
        self._set_pace(account)
        had = self._slot
        slot = self._server.limits.enter(account, self.host, at_any_rate=True, had=had)
        if slot != had:  # a new limit: the session counts for it from now on
            self._slot = slot
            # `leave` sets this before it looks at the slot: one of both releases it
            if self._has_left:
                self._give_back()

    def _use(self, account: Account) -> None:
        if (workspace := self._exchange.workspace) is not None:
            workspace.account = account

    def _set_pace(self, account: Account) -> None:
        """Set the pace: the server's rate is per session, the account's for all its sessions."""
        shared, own = self._server.limits.pace(account), self._server.settings.limit_rate
        self._exchange.channel.pace = shared if own is None else Pace(own, within=shared)

    def leave(self) -> None:
        """Release the session slot when the session has ended."""
        self._has_left = True
        self._give_back()

    def _give_back(self) -> None:
        slot, self._slot = self._slot, None
        self._server.limits.leave(slot)
