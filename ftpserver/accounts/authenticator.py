"""The authenticator: log-ins, registration, and changing the account's password and tokens.

Lives here: what a session can request about log-ins, and the implementation where the accounts are.
Lives elsewhere: passwords (accounts.py), tokens (tokens.py), registration (registration.py), limits
and their order (limits.py), forwarding all of this to another process (isolation/proxies.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ftpserver.accounts.account import Account, Refused
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.limits import Limits
from ftpserver.accounts.passwords import check_new_password
from ftpserver.accounts.registration import Registration
from ftpserver.accounts.tokens import Issued, Tokens
from ftpserver.storage.ownership import Ownership, belongs_to
from ftpwire.errors import Busy, CommandError, LoginRefused, TooMany
from ftpwire.messages import TokenInfo

_ANOTHERS = (
    "the files of this account belong to another server, which may be using them: ask this "
    "server's administrator"
)


class TooManySessions(TooMany):
    """The user is authenticated, but cannot log in: there are too many sessions, or the account was
    removed at this moment."""


@dataclass(frozen=True)
class Admission:
    """A successful log-in.

    Attributes:
        token_id: The token that was used; None for any other log-in.
        slot: The session slot to release at the end; None if the session counts for no limit.
        invitation: The id of the invitation that the account was just made with.
    """

    account: Account
    token_id: str | None = None
    slot: str | None = None
    invitation: str | None = None


class Authenticator(ABC):
    """Logging in and registering. ``host`` is the address of the session's client."""

    @abstractmethod
    def by_password(self, host: str, name: str, password: str) -> Admission:
        """Log in with a password. Raises LoginRefused, Banned, Busy, TooManySessions."""

    @abstractmethod
    def by_token(self, host: str, name: str, secret: str) -> Admission:
        """Log in with a token. Raises the same errors."""

    @abstractmethod
    def by_peer(self, host: str, name: str, uid: int | None) -> Admission:
        """Log in as the system user at the other end of a Unix socket. Raises the same errors."""

    @abstractmethod
    def register(self, host: str, name: str, password: str, invitation: str | None) -> Admission:
        """Make an account, and log in to it.

        Raises:
            RegistrationClosed, NameTaken, BadAccount, Busy: No account was made.
            TooManySessions: The account was made, but the log-in is over a limit.
        """

    @abstractmethod
    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        """Return the seconds to wait before a log-in from there is refused with that error."""

    @abstractmethod
    def change_password(self, host: str, account: Account, old: str, new: str) -> Account:
        """Set another password, and return the changed account.

        Raises:
            LoginRefused, Banned: The old password is wrong, or isn't checked because of a ban.
            Busy: Too many checks are waiting, or another session is changing this password.
            BadAccount: The new password cannot be used.
        """

    @abstractmethod
    def issue_token(
        self, account: Account, name: str, seconds: int | None, parent: str | None
    ) -> Issued:
        """Make a token. Raises TooMany, Forbidden.

        Args:
            parent: The token that the requesting session logged in with; None without one.
        """

    @abstractmethod
    def tokens_of(self, account: Account, current: str | None) -> Sequence[TokenInfo]:
        """Return the account's tokens, oldest first."""

    @abstractmethod
    def revoke_token(self, account: Account, token_id: str) -> None:
        """Revoke one of the account's tokens, and all tokens made by sessions that used it.

        Raises NotFound.
        """


class LocalAuthenticator(Authenticator):
    """The authenticator in the process that has the accounts. Safe to use from many threads."""

    def __init__(
        self,
        accounts: Accounts,
        tokens: Tokens,
        registration: Registration,
        limits: Limits,
        ownership: Ownership,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._registration = registration
        self._limits = limits
        self._ownership = ownership

    def by_password(self, host: str, name: str, password: str) -> Admission:
        def prove() -> Account:
            return self._accounts.log_in(name, password, host)

        return self._admit(host, self._limits.by_password(host, name, prove))

    def by_token(self, host: str, name: str, secret: str) -> Admission:
        def prove() -> tuple[Account, str]:
            return self._tokens.log_in(name, secret, host)

        return self._admit(host, *self._limits.by_token(host, name, prove))

    def by_peer(self, host: str, name: str, uid: int | None) -> Admission:
        def prove() -> Account:
            return self._accounts.log_in_peer(name, uid)

        return self._admit(host, self._limits.by_token(host, name, prove))

    def register(self, host: str, name: str, password: str, invitation: str | None) -> Admission:
        invited = self._registration.permit(invitation, host)
        self._registration.check(name, password)
        with self._limits.turn(host):
            account = self._registration.register(name, password, invited)
        admitted = self._admit(host, account)
        return admitted if invited is None else replace(admitted, invitation=invited.id)

    def _admit(self, host: str, account: Account, token_id: str | None = None) -> Admission:
        other = None
        with suppress(OSError):  # opening the home reports the error
            other = self._ownership.claim(account.home)
        if other is not None:
            raise Refused(_ANOTHERS, f"{belongs_to(other)} (ftpd user set --take-home)")
        try:
            return Admission(account, token_id, self._limits.enter(account, host))
        except CommandError as error:
            raise error.with_text(str(error), TooManySessions) from None

    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        return self._limits.delay(host, error)

    def change_password(self, host: str, account: Account, old: str, new: str) -> Account:
        def prove() -> None:
            if not self._accounts.check_password(account.name, old):
                raise LoginRefused("that is not your password")

        # a free check comes before the queue, in which all log-ins wait for their turn
        check_new_password(new)
        with self._limits.changes.one(account.id, account.name):
            self._limits.by_password(host, account.name, prove)
            with self._limits.turn(host):
                return self._accounts.set_password(account.name, new)

    def issue_token(
        self, account: Account, name: str, seconds: int | None, parent: str | None
    ) -> Issued:
        return self._tokens.issue(account, name, seconds, parent)

    def tokens_of(self, account: Account, current: str | None) -> Sequence[TokenInfo]:
        return self._tokens.of(account, current)

    def revoke_token(self, account: Account, token_id: str) -> None:
        self._tokens.revoke(account, token_id)
