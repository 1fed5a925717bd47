"""One account: what is known of it, and whether somebody may log in to it now.

Lives here: the account as a value, what can be set of it, which names there can be.
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
        id: Never given out twice.
        home: The directory that is the user's ``/``.
        own_home: Whether that is another one than ROOT/NAME.
        quota: Bytes; None when unlimited.
        used: Bytes of stored files.
        held: Bytes reserved by uploads under way.
        created: Seconds since 1970.
        max_files: Most files, directories and links; None where nobody has set it.
        files: How many there are.
        permissions: What it may do where.
        networks: Where log-ins may come from; empty for everywhere.
        expires: Seconds since 1970; None for never.
        disabled: Log-ins are refused.
        max_sessions: None for no limit of its own.
        peer_user: The system user that needs no password over a Unix socket; None: nobody.
        system_user: Whom its sessions are to the system, where each has a process; None: whom the
            server is.
        limit_rate: Bytes a second that all its sessions together may move.
        epoch: Sessions and tokens of an earlier one are over.
        inner: Where homes of other accounts lie in this one.
        trash_bytes, trash_files: What of ``used`` and ``files`` is known to be in the trash.
        trash_days: How long the trash keeps something; 0: there is none. None: as the server says.
        trash_max: Most of the quota, or without one of the disk, that the trash may take, in
            percent. None: as the server says.
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
        """The permissions that hold: nothing is permitted in homes of others."""
        return self.permissions.without(self.inner) if self.inner else self.permissions

    @property
    def free(self) -> int | None:
        """Bytes that a new upload may take; None when unlimited. What is in the trash is given up
        for it."""
        if self.quota is None:
            return None
        return max(0, self.quota - self.stored - self.held)

    @property
    def stored(self) -> int:
        """Bytes that are used, and not in the trash: what its user sees as used."""
        return self.used - self.trash_bytes

    @property
    def stored_files(self) -> int:
        """How many of the files, directories and links aren't in the trash."""
        return self.files - self.trash_files

    @property
    def most_files(self) -> int | None:
        """How many files, directories and links it may have; None for any number."""
        return most_files(self.quota, self.max_files)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= RUN.latest()

    @property
    def ended(self) -> str | None:
        """Why nobody may log in, from anywhere; None for an account that is in use."""
        if self.disabled:
            return "the account is disabled"
        if self.expired:
            return f"the account expired on {iso(self.expires or 0)}"
        return None

    def check_open(self, host: str, refusal: str = REFUSED) -> None:
        """See whether someone who has proved to be its user may log in from an address.

        Args:
            refusal: The text for a wrong address: that of a wrong secret.

        Raises:
            Refused: Not now, which is told; or not from there, which only the log says: the
                networks are there so that a stolen password is worth nothing elsewhere.
        """
        if self.ended is not None:
            raise Refused(self.ended, self.ended)
        if reason := self.closed_to(host):
            raise Refused(refusal, reason)

    def closed_to(self, host: str) -> str | None:
        """Why nobody may log in from an address; None: who knows the password may."""
        if self.ended is not None:
            return self.ended
        if self.networks and not is_in(host, self.networks):
            return f"the account is closed to {host}"
        return None


class Refused(LoginRefused):
    """A log-in that is refused. The client is told less than the log.

    Attributes:
        reason: The true one, for the administrator.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Changes(TypedDict, total=False):
    """What can be set of an account; what isn't named stays."""

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
    """An account to be made. ``home``: another directory than ROOT/NAME."""

    name: str
    password_hash: str
    home: Path | None = None
    given: Changes = field(default_factory=Changes)


def check_name(name: str) -> str:
    """Return ``name`` if an account can have it; else raise BadAccount."""
    if not NAME.fullmatch(name):
        raise BadAccount(
            f"{name!r}: a user name is 1 to 32 of a-z 0-9 . _ - and starts with a letter or digit"
        )
    return name
