"""Who is logged in on a connection, with what, and where that counts.

Lives here: opening a session for an account, refusing one, and the account's changes meanwhile.
Lives elsewhere: whether somebody may log in (accounts/authenticator.py), the requests that ask for
it (commands/identity.py), where sessions count (accounts/limits.py).
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
    from ftpserver.serving.context import Sharing
    from ftpserver.serving.exchange import Exchange

logger = logging.getLogger("ftpd.session")

_LOGIN_TRIES = 3


class Authentication:
    """Of one connection. For the session's thread, except ``follow``.

    Args:
        peer: The client's address, for people.
        host: The same without its port.
        uid: Tells the system user at the other end; None where that isn't known.
        on_log_in: Called when somebody has logged in: gives the exchange its workspace.

    Attributes:
        token_id: Of the token that was logged in with; None: by password.
        token_revoked: By this session itself, which goes on, and makes no tokens any more.
        renewing: The session changes its own password or token just now, which is no reason
            to end it.
        is_closing: The connection ends as soon as the answer is sent.
        is_excused: The client could have logged in, had there been room.
    """

    token_id: str | None = None
    token_revoked = False
    renewing = False
    is_closing = False
    is_excused = False
    _failures = 0
    _slot: str | None = None
    """Where the session counts for a limit."""
    _has_left = False

    def __init__(
        self,
        server: Sharing,
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
        """Who is logged in, as the account is now; None before."""
        workspace = self._exchange.workspace
        return None if workspace is None else workspace.account

    @property
    def user(self) -> Account:
        """Who is logged in. Raises NotLoggedIn."""
        if (account := self.account) is None:
            raise NotLoggedIn("log in first")
        return account

    @property
    def authenticator(self) -> Authenticator:
        """Who decides."""
        return self._server.authenticator

    # log-ins -----------------------------------------------------------------------------

    def send_answers(self) -> None:
        """Send the answers to what was asked before, which is HELLO: a password takes long to
        check, and the delay of HELLO tells the client how far away the server is."""
        self._exchange.flush()

    def logged_in(self) -> LoggedIn:
        """What is told of the account that is logged in."""
        own = self.user.max_sessions
        most = 0 if own is None else most_sessions(self._server.settings, own)
        workspace = self._exchange.workspace
        final = workspace is not None and not workspace.policy().on
        return LoggedIn(self.user.name, most, final)

    def log_in(self, admitted: Admission) -> LoggedIn:
        """The client has proved who it is, and there is room: open the session."""
        self._slot = admitted.slot
        self.token_id = admitted.token_id
        try:
            self._set_pace(admitted.account)
            self._on_log_in(admitted.account)  # last: others may change the account from here on
        except BaseException:
            self._give_back()
            raise
        self._audit_context.logged_in(admitted.token_id or admitted.invitation)
        logger.info("%s: logged in", self)
        return self.logged_in()

    def refuse(self, name: str, error: LoginRefused) -> None:
        """Count a refused log-in, and take some time; the last one allowed ends the connection."""
        self._failures += 1
        reason = error.reason if isinstance(error, Refused) else str(error)
        logger.warning("%s: log-in refused for %s: %s", self, paths.show(name), reason)
        self._audit_context.note(reason)
        self.hold_back(error)
        self.is_closing = self._failures >= _LOGIN_TRIES or isinstance(error, Banned)

    def turn_away(self, name: str, error: CommandError) -> None:
        """The client is who it says, over the limit of sessions: the connection ends."""
        logger.warning("%s: log-in refused for %s: %s", self, paths.show(name), error)
        self.is_closing = self.is_excused = True

    def hold_back(self, error: LoginRefused | Busy) -> None:
        """Let the time pass that a refusal takes, unless the server stops or the client leaves."""
        exchange = self._exchange
        delay = self._server.authenticator.delay(self.host, error)
        until = min(time.monotonic() + delay, exchange.login_deadline)
        try:
            with exchange.guard:
                while time.monotonic() < until and not any(exchange.channel.wait(deadline=until)):
                    pass
        except TimedOut:
            pass  # it has passed

    # afterwards --------------------------------------------------------------------------

    @contextmanager
    def renewal(self) -> Iterator[None]:
        """While the session's own keys become others: what ends the account's other sessions
        doesn't end it."""
        self.renewing = True
        try:
            yield
        finally:
            self.renewing = False

    def renew(self, account: Account) -> None:
        """The account was changed by this very session, which goes on."""
        self._use(account)
        self.token_id = None
        self.token_revoked = False

    def apply_account(self, account: Account) -> None:
        """The account was changed by somebody else: what is asked for from now on obeys that.

        From another thread.
        """
        self._use(account)
        self._set_pace(account)
        had = self._slot
        slot = self._server.limits.enter(account, self.host, at_any_rate=True, had=had)
        if slot != had:  # a limit is new: this session counts for the next ones
            self._slot = slot
            if self._has_left:
                self._give_back()

    def _use(self, account: Account) -> None:
        if (workspace := self._exchange.workspace) is not None:
            workspace.account = account

    def _set_pace(self, account: Account) -> None:
        """The server's rate is for each session, the account's for all of its sessions."""
        shared, own = self._server.limits.pace(account), self._server.settings.limit_rate
        self._exchange.channel.pace = shared if own is None else Pace(own, within=shared)

    def leave(self) -> None:
        """The session has ended: it counts no more."""
        self._has_left = True
        self._give_back()

    def _give_back(self) -> None:
        slot, self._slot = self._slot, None
        self._server.limits.leave(slot)
