"""System users, as far as accounts refer to them.

Lives here: the ids of system users at the other end of a Unix socket, the first account's name.
Lives elsewhere: asking the kernel (ftpwire/peers.py), the user of sessions (isolation/sandbox.py).
"""

from __future__ import annotations

import getpass
import pwd

from ftpserver.accounts.account import NAME

_NOBODY = 65534
"""The overflow uid, which stands for users that have no id in this namespace (proc(5))."""


def uid_of(system_user: str) -> int | None:
    """Return the id of a system user; None if there is no such user or it is the overflow uid."""
    try:
        uid = pwd.getpwnam(system_user).pw_uid
    except KeyError:
        return None
    return None if uid == _NOBODY else uid


def can_be_peer(system_user: str) -> bool:
    """Return True if the kernel can identify this user at the other end of a Unix socket."""
    return uid_of(system_user) is not None


def first_account_name() -> str:
    """Return a name for the first account: that of the user who runs the server, if valid."""
    try:
        name = getpass.getuser().lower()
    except (OSError, KeyError):
        name = ""
    return name if NAME.fullmatch(name) else "admin"
