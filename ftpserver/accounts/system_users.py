"""Users of the system that the server runs on, as accounts know them.

Lives here: whom the kernel names at the other end of a Unix socket, who starts the server first.
Lives elsewhere: asking the kernel (ftpwire/peers.py), who sessions run as (isolation/sandbox.py).
"""

from __future__ import annotations

import getpass
import pwd

from ftpserver.accounts.account import NAME

_NOBODY = 65534
"""The overflow uid: whoever the kernel can't tell, as users of another namespace (proc(5))."""


def uid_of(system_user: str) -> int | None:
    """The id of a system user; None where there is none, or the kernel can't tell it."""
    try:
        uid = pwd.getpwnam(system_user).pw_uid
    except KeyError:
        return None
    return None if uid == _NOBODY else uid


def can_be_peer(system_user: str) -> bool:
    """Whether the kernel can ever tell that it is this user who connects to a Unix socket."""
    return uid_of(system_user) is not None


def first_account_name() -> str:
    """A name for the account of whoever runs the server first."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError):
        name = ""
    return name if NAME.fullmatch(name) else "admin"
