"""The entrance: who is let in, by what, and what they may change of the keys they came with.

Lives here: what a session may ask about its log-in, and the answers where the accounts are.
Lives elsewhere: passwords (accounts.py), tokens (tokens.py), who registers (registration.py), how
often and how many (limits.py), asking another process for all of this (isolation/proxies.py).
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
    "the files of this account belong to another server, which may be using them: ask the "
    "administrator of this one"
)


class TooManySessions(TooMany):
    """Whoever it is has proved it, and can't come in: there are too many sessions, or the account
    has gone just now."""


@dataclass(frozen=True)
class Admission:
    """Somebody is let in.

    Attributes:
        token_id: Of the token that was shown; None for another way.
        slot: Where the session counts for a limit; to be given back. None: it counts nowhere.
        invitation: The id of the one that the account was just made with.
    """

    account: Account
    token_id: str | None = None
    slot: str | None = None
    invitation: str | None = None


class Authenticator(ABC):
    """Logging in and registering. ``host`` is always the address that a session comes from."""

    @abstractmethod
    def by_password(self, host: str, name: str, password: str) -> Admission:
        """Let somebody in. Raises LoginRefused, Banned, Busy, NoPlace."""

    @abstractmethod
    def by_token(self, host: str, name: str, secret: str) -> Admission:
        """The same, by a token."""

    @abstractmethod
    def by_peer(self, host: str, name: str, uid: int | None) -> Admission:
        """The same, for the system user at the other end of a Unix socket."""

    @abstractmethod
    def register(self, host: str, name: str, password: str, invitation: str | None) -> Admission:
        """Make an account, and let its owner in.

        Raises:
            RegistrationClosed, NameTaken, BadAccount, Busy: There is no new account.
            TooManySessions: There is.
        """

    @abstractmethod
    def delay(self, host: str, error: LoginRefused | Busy) -> float:
        """Seconds to wait before a log-in from there is refused with that error."""

    @abstractmethod
    def change_password(self, host: str, account: Account, old: str, new: str) -> Account:
        """Set another password; returns the account as it is then.

        Raises:
            LoginRefused, Banned: The old one is not right, or isn't looked at.
            Busy: The same, or another session is changing the account's password.
            BadAccount: The new one can't be used.
        """

    @abstractmethod
    def issue_token(
        self, account: Account, name: str, seconds: int | None, parent: str | None
    ) -> Issued:
        """Make a token. Raises TooMany, Forbidden.

        Args:
            parent: The token of the session that asks for it.
        """

    @abstractmethod
    def tokens_of(self, account: Account, current: str | None) -> Sequence[TokenInfo]:
        """The account's tokens, oldest first."""

    @abstractmethod
    def revoke_token(self, account: Account, token_id: str) -> None:
        """Make one of the account's tokens good for nothing, with all that were made with it.

        Raises NotFound.
        """


class LocalAuthenticator(Authenticator):
    """The entrance where the accounts are. Safe to use from many threads."""

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
        with suppress(OSError):  # whoever uses the home finds out, and says so
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

        # what costs nothing comes before a place in the queue that all log-ins wait in
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
