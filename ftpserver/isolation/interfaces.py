"""What a session's process and its server ask each other, beside `quota.QuotaStore`.

Lives here: the two interfaces, and what of an account travels.
Lives elsewhere: how messages travel (processes/rpc.py), who answers: the server (handler.py,
session_quota_store.py), the process (session_process.py).

A session says neither whose account it is nor where its client is: the server knows.
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
from ftpserver.interfaces import Carried, asked, told
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
    """What a session's process begins with, beside its descriptors.

    Attributes:
        number: Of the session.
        since: When it was opened, by the clock of the run (ftpserver/clock.py).
        address: Of the client; empty for a Unix socket.
        incarnation: What names in staging begin with.
        stranger: User and group to be before log-in; None: as the server, which isn't root.
    """

    number: int
    since: float
    address: list[str | int]
    incarnation: str
    stranger: tuple[int, int] | None


class Known(msgspec.Struct, frozen=True):
    """What a session has to know of its account.

    Attributes:
        home: As its process sees it.
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
        """An account whose home is seen as that."""
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
        """The account as its session has it: what it doesn't need to know is left out."""
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
    """The client is let in. The descriptors of the home and of a page for paces come along.

    Attributes:
        token_id: Of the token that was shown.
        identity: To become, with the home as the root; None: neither.
        invitation: That the account was just made with.
    """

    account: Known
    token_id: str | None
    identity: Identity | None
    invitation: str | None


class ServerForSession(Protocol):
    """What a session's process asks its server.

    See `Authenticator`, `SessionLimiting` and `Recorder`.
    """

    @asked
    def by_password(self, name: Name, password: Secret) -> Carried[Admitted]:
        """Log in. Raises LoginRefused, Banned, Busy, TooMany: there is no place."""

    @asked
    def by_token(self, name: Name, secret: Secret) -> Carried[Admitted]:
        """The same, by a token."""

    @asked
    def by_peer(self, name: Name) -> Carried[Admitted]:
        """The same, as the system user at the other end of a Unix socket."""

    @asked
    def register(self, name: Name, password: Secret, invitation: Name | None) -> Carried[Admitted]:
        """The same, after making an account."""

    @asked
    def delay(self, code: Name) -> float:
        """Seconds to wait before a log-in is refused with that error."""

    @asked
    def change_password(self, old: Secret, new: Secret) -> Known:
        """Returns the account as it is then."""

    @asked
    def issue_token(self, name: Name, seconds: _Lifetime | None) -> Issued:
        """See `Authenticator.issue_token`."""

    @asked
    def list_tokens(self) -> list[TokenInfo]:
        """The account's tokens, oldest first."""

    @asked
    def revoke_token(self, token_id: Name) -> None:
        """See `Authenticator.revoke_token`."""

    @told
    def answered(self) -> None:
        """The first record of the client is answered: the process waits for more."""

    @asked
    def begin_transfer(self) -> str:
        """A transfer begins, which `SessionForServer.give_way` knows by the result. Raises
        TooMany."""

    @told
    def tell_idle(self, idle: bool) -> None:
        """The transfer has moved no bytes for a while, or does so again."""

    @told
    def end_transfer(self) -> None:
        """The transfer is over."""

    @told
    def record(self, lines: bytes) -> None:
        """Whole lines for the audit log."""

    @told
    def log(
        self,
        level: Annotated[int, Meta(ge=0, le=50)],
        name: Annotated[str, Meta(max_length=64)],
        text: Annotated[str, Meta(max_length=20_000)],
    ) -> None:
        """A line for the server's own log."""

    @told
    def penalize(self, offence: Offence) -> None:
        """The session ends without a log-in, in a way that costs its address something."""

    @told
    def over(self, bytes_in: Amount, bytes_out: Amount) -> None:
        """The session has ended, having moved so many bytes."""


@dataclass(frozen=True)
class LiveSettings:
    """The settings that a session's process obeys when they are changed. As in `Settings`."""

    stall: _Seconds
    idle_timeout: _Seconds
    limit_rate: Amount | None
    trash_days: Amount
    trash_versions: Amount
    trash_items: Amount
    trash_max: Amount | None

    @classmethod
    def of(cls, settings: Settings) -> LiveSettings:
        """Those of a server's settings."""
        return cls(**{one.name: getattr(settings, one.name) for one in fields(cls)})

    def applied_to(self, settings: Settings) -> Settings:
        """A process's settings with these."""
        return replace(settings, **{one.name: getattr(self, one.name) for one in fields(self)})


@dataclass(frozen=True)
class Seen:
    """What a session does. As `stats.SessionInfo`."""

    request: Name | None
    path: _Path | None
    target: _Path | None
    quiet: _Seconds
    bytes_in: Amount
    bytes_out: Amount


class SessionForServer(Protocol):
    """What a server asks the process of a session whose client has logged in; see `Connected`."""

    @asked
    def look(self) -> Seen:
        """What goes on?"""

    @told
    def close(self, why: str) -> None:
        """As `Session.close`."""

    @told
    def close_now(self) -> None:
        """As `Session.close_now`."""

    @told
    def close_idle(self) -> None:
        """As `Session.close_idle`."""

    @told
    def give_way(self, transfer: str) -> None:
        """As `Session.give_way`."""

    @told
    def apply_account(self, account: Known) -> None:
        """The account was changed."""

    @told
    def apply_settings(self, settings: LiveSettings) -> None:
        """Settings that were changed, as they are now."""
