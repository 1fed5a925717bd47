"""One account: its settings and counts, and whether a log-in to it is allowed now.

Lives here: the account as a value, its settings, which names are valid.
Lives elsewhere: the accounts of a root, in the database (accounts.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypedDict

from ftpserver.clock import RUN
from ftpserver.net.addresses import is_in
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.quota import most_files
from ftpwire.errors import BadAccount, LoginRefused
from ftpwire.paths import Parts
from ftpwire.units import iso

Network = IPv4Network | IPv6Network

REFUSED = "wrong user name or password"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


@dataclass(frozen=True)
class Account:
    """One user.

    Attributes:
        id: A number that no other account ever gets.
        home: The directory that is the user's ``/``.
        own_home: True if that is another directory than ROOT/NAME.
        quota: Bytes; None if unlimited.
        used: Bytes of stored files.
        held: Bytes reserved by uploads in progress.
        created: Seconds since 1970.
        max_files: The limit for files, directories and links; None if it isn't set.
        files: The present number of files, directories and links.
        permissions: The operations that are allowed, by path.
        networks: The networks that log-ins may come from; empty for all.
        expires: Seconds since 1970; None for never.
        disabled: True if log-ins are refused.
        max_sessions: The account's own limit; None if it has none.
        peer_user: The system user that needs no password over a Unix socket; None for none.
        system_user: The system user that its session processes run as; None for the server's.
        limit_rate: Bytes per second that all its sessions together may transfer.
        epoch: A counter; sessions and tokens of an earlier epoch are no longer valid.
        inner: Paths in this home where homes of other accounts are.
        trash_bytes, trash_files: The part of ``used`` and ``files`` known to be in the trash.
        trash_days: Days that the trash keeps something; 0: no trash. None: the server's setting.
        trash_max: The largest part of the quota, or without a quota of the disk, that the trash may
            take, in percent. None: the server's setting.
    """

    id: int
    name: str
    home: Path
    own_home: bool
    quota: int | None
    used: int
    held: int
    created: int
    max_files: int | None
    files: int
    permissions: Permissions
    networks: tuple[Network, ...]
    expires: int | None
    disabled: bool
    max_sessions: int | None
    limit_rate: int | None
    peer_user: str | None
    system_user: str | None
    epoch: int
    inner: tuple[Parts, ...] = ()
    trash_bytes: int = 0
    trash_files: int = 0
    trash_days: int | None = None
    trash_max: int | None = None

    @cached_property
    def rights(self) -> Permissions:
        """The effective permissions: in homes of other accounts nothing is allowed."""
        return self.permissions.without(self.inner) if self.inner else self.permissions

    @property
    def free(self) -> int | None:
        """The bytes that a new upload may take; None if unlimited. The trash counts as free, as it
        is purged when an upload needs the space."""
        if self.quota is None:
            return None
        return max(0, self.quota - self.stored - self.held)

    @property
    def stored(self) -> int:
        """The bytes used outside the trash, which the user is shown as used."""
        return self.used - self.trash_bytes

    @property
    def stored_files(self) -> int:
        """The number of files, directories and links outside the trash."""
        return self.files - self.trash_files

    @property
    def most_files(self) -> int | None:
        """The limit for files, directories and links; None if there is none."""
        return most_files(self.quota, self.max_files)

    @property
    def expired(self) -> bool:
        """True if its expiry date has passed."""
        return self.expires is not None and self.expires <= RUN.latest()

    @property
    def ended(self) -> str | None:
        """The reason why log-ins are refused from any address; None if they aren't."""
        if self.disabled:
            return "the account is disabled"
        if self.expired:
            return f"the account expired on {iso(self.expires or 0)}"
        return None

    def check_open(self, host: str, refusal: str = REFUSED) -> None:
        """Check that a user who has proved to be the owner may log in from an address.

        Args:
            refusal: The error text for a wrong address: the same as for a wrong secret.

        Raises:
            Refused: The account is closed, which the client is shown; or its networks exclude the
                address, which only the log shows: a stolen password must not be recognized as
                right from elsewhere.
        """
        if self.ended is not None:
            raise Refused(self.ended, self.ended)
        if reason := self.closed_to(host):
            raise Refused(refusal, reason)

    def closed_to(self, host: str) -> str | None:
        """Return why log-ins from an address are refused; None if they aren't."""
        if self.ended is not None:
            return self.ended
        if self.networks and not is_in(host, self.networks):
            return f"the account is closed to {host}"
        return None


class Refused(LoginRefused):
    """A log-in that is refused. The client is shown less than the log.

    Attributes:
        reason: The true reason, for the administrator.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Changes(TypedDict, total=False):
    """Settings of an account to change; those that are missing stay."""

    quota: int | None
    max_files: int | None
    permissions: Permissions
    networks: Sequence[Network]
    expires: int | None
    disabled: bool
    max_sessions: int | None
    peer_user: str | None
    system_user: str | None
    limit_rate: int | None
    trash_days: int | None
    trash_max: int | None


@dataclass(frozen=True)
class NewAccount:
    """An account to be made. ``home`` is None for ROOT/NAME."""

    name: str
    password_hash: str
    home: Path | None = None
    given: Changes = field(default_factory=Changes)


def check_name(name: str) -> str:
    """Return ``name`` if it is valid for an account; else raise BadAccount."""
    if not NAME.fullmatch(name):
        raise BadAccount(
            f"{name!r}: a user name has 1 to 32 characters (a-z 0-9 . _ -), first a letter or digit"
        )
    return name
