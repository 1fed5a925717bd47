"""The requests between a session's process and the server, besides those of `quota.QuotaStore`.

Lives here: the two interfaces, and the part of an account that is sent.
Lives elsewhere: sending messages (processes/rpc.py), carrying them out: in the server (handler.py,
session_quota_store.py), in the process (session_process.py).

A session never says which account it has or where its client is: the server knows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from ftpserver.accounts.account import Account
from ftpserver.accounts.penalties import Offence
from ftpserver.accounts.tokens import Issued
from ftpserver.interfaces import Carried, notification, request
from ftpserver.isolation.sandbox import Identity
from ftpserver.settings.table import Settings
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.quota import Amount
from ftpwire.messages import TokenInfo

Name = Annotated[str, Meta(max_length=1024)]
Secret = Annotated[str, Meta(max_length=8192)]
_Path = Annotated[bytes, Meta(max_length=8192)]
_Lifetime = Annotated[int, Meta(ge=1, le=2**40)]
_Seconds = Annotated[float, Meta(ge=0)]


class ChildNote(msgspec.Struct, frozen=True):
    """The first message to a session's process, besides its descriptors.

    Attributes:
        number: The session's number.
        since: When it was opened, by the clock of the run (ftpserver/clock.py).
        address: The client's address; empty for a Unix socket.
        incarnation: The prefix of its names in staging.
    """

    number: int
    since: float
    address: list[str | int]
    incarnation: str
    identity_before_login: tuple[int, int] | None
    """The user and group to run as before log-in; None for the server's, if that isn't root."""


class Known(msgspec.Struct, frozen=True):
    """The part of an account that its session must know.

    Attributes:
        home: The home's path as the process sees it.
    """

    id: int
    name: str
    home: bytes
    permissions: str
    limit_rate: int | None
    epoch: int
    max_sessions: int | None
    trash_days: int | None
    trash_max: int | None

    @classmethod
    def of(cls, account: Account, home: Path) -> Known:
        """Make it of an account, with the home's path as the process sees it."""
        return cls(
            account.id,
            account.name,
            bytes(home),
            str(account.rights),
            account.limit_rate,
            account.epoch,
            account.max_sessions,
            account.trash_days,
            account.trash_max,
        )

    def account(self) -> Account:
        """Return the account as its session has it: fields that it doesn't need are empty."""
        return Account(
            id=self.id,
            name=self.name,
            home=Path(self.home.decode("utf-8", "surrogateescape")),
            own_home=False,
            quota=None,
            used=0,
            held=0,
            created=0,
            max_files=None,
            files=0,
            permissions=Permissions.parse(self.permissions),
            networks=(),
            expires=None,
            disabled=False,
            max_sessions=self.max_sessions,
            limit_rate=self.limit_rate,
            peer_user=None,
            system_user=None,
            epoch=self.epoch,
            trash_days=self.trash_days,
            trash_max=self.trash_max,
        )


@dataclass(frozen=True)
class Admitted:
    """A successful log-in. The descriptors of the home and of the page for paces are sent along.

    Attributes:
        token_id: The token that was used; None for another log-in.
        identity: The user to become, with the home as the root; None for no change of either.
        invitation: The id of the invitation that the account was just made with.
    """

    account: Known
    token_id: str | None
    identity: Identity | None
    invitation: str | None


class ServerForSession(Protocol):
    """The requests of a session's process to its server.

    See `Authenticator`, `SessionLimiting` and `Recorder`.
    """

    @request
    def by_password(self, name: Name, password: Secret) -> Carried[Admitted]:
        """Log in. Raises LoginRefused, Banned, Busy; TooMany if it is over the session limit."""

    @request
    def by_token(self, name: Name, secret: Secret) -> Carried[Admitted]:
        """Log in with a token. Raises the same errors."""

    @request
    def by_peer(self, name: Name) -> Carried[Admitted]:
        """Log in as the system user at the other end of a Unix socket. Raises the same errors."""

    @request
    def register(self, name: Name, password: Secret, invitation: Name | None) -> Carried[Admitted]:
        """Make an account, and log in to it. Raises as `Authenticator.register`."""

    @request
    def delay(self, code: Name) -> float:
        """Return the seconds to wait before a log-in is refused with that error."""

    @request
    def change_password(self, old: Secret, new: Secret) -> Known:
        """Set another password, and return the changed account."""

    @request
    def issue_token(self, name: Name, seconds: _Lifetime | None) -> Issued:
        """See `Authenticator.issue_token`."""

    @request
    def list_tokens(self) -> list[TokenInfo]:
        """Return the account's tokens, oldest first."""

    @request
    def revoke_token(self, token_id: Name) -> None:
        """See `Authenticator.revoke_token`."""

    @notification
    def answered(self) -> None:
        """Report that the client's first record has been handled: the process waits for more."""

    @request
    def begin_transfer(self) -> str:
        """Count a transfer, and return the token that `SessionForServer.give_way` is called with.
        Raises TooMany."""

    @notification
    def report_idle(self, idle: bool) -> None:
        """Report that the transfer has moved no bytes for a while, or moves some again."""

    @notification
    def end_transfer(self) -> None:
        """Count the transfer as ended."""

    @notification
    def record(self, lines: bytes) -> None:
        """Add whole lines to the audit log."""

    @notification
    def log(
        self,
        level: Annotated[int, Meta(ge=0, le=50)],
        name: Annotated[str, Meta(max_length=64)],
        text: Annotated[str, Meta(max_length=20_000)],
    ) -> None:
        """Write a line to the server's own log."""

    @notification
    def penalize(self, offence: Offence) -> None:
        """Report why the session ends without a log-in, if that means a penalty for its address."""

    @notification
    def over(self, bytes_in: Amount, bytes_out: Amount) -> None:
        """Report the end of the session, and the bytes it has transferred."""


@dataclass(frozen=True)
class LiveSettings:
    """The settings whose changes a session's process applies. See `Settings`."""

    stall: _Seconds
    idle_timeout: _Seconds
    limit_rate: Amount | None
    trash_days: Amount
    trash_versions: Amount
    trash_items: Amount
    trash_max: Amount | None

    @classmethod
    def of(cls, settings: Settings) -> LiveSettings:
        """Take them from a server's settings."""
        return cls(**{one.name: getattr(settings, one.name) for one in fields(cls)})

    def applied_to(self, settings: Settings) -> Settings:
        """Return a process's settings with these changed."""
        return replace(settings, **{one.name: getattr(self, one.name) for one in fields(self)})


@dataclass(frozen=True)
class Seen:
    """The present state of a session. See `stats.SessionInfo`."""

    request: Name | None
    path: _Path | None
    target: _Path | None
    quiet: _Seconds
    bytes_in: Amount
    bytes_out: Amount


class SessionForServer(Protocol):
    """The server's requests to the process of a session after log-in; see `Connected`."""

    @request
    def look(self) -> Seen:
        """Return what the session is doing."""

    @notification
    def close(self, why: str) -> None:
        """See `Session.close`."""

    @notification
    def close_now(self) -> None:
        """See `Session.close_now`."""

    @notification
    def close_idle(self) -> None:
        """See `Session.close_idle`."""

    @notification
    def give_way(self, transfer: str) -> None:
        """See `Session.give_way`."""

    @notification
    def apply_account(self, account: Known) -> None:
        """Apply changes of the account."""

    @notification
    def apply_settings(self, settings: LiveSettings) -> None:
        """Apply changed settings."""
