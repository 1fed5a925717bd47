"""Homes as the server opens them for the processes of sessions, and whose files these are.

Lives here: which user a session's process becomes, opening its home, handing files over to it.
Lives elsewhere: what is in a home (../homes.py), becoming that user (sandbox.py).

The server may be root here, and the home somebody's who is hostile. So nothing is followed, and a
file with several names is left as it is: one of these names may lead out of the home.
"""

from __future__ import annotations

import ctypes
import grp
import logging
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from ftpserver.accounts.account import Account
from ftpserver.isolation import sandbox
from ftpserver.isolation.sandbox import Identity
from ftpserver.storage.walk import walk
from ftpwire import paths
from ftpwire.beneath import OPEN_ANY
from ftpwire.errors import Internal

logger = logging.getLogger("ftpd.isolation")

_AT_EMPTY_PATH = 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """Where a session's process is to be.

    Attributes:
        fd: Of the home; it belongs to whoever has this.
        seen_as: The home's path as the process sees it.
        identity: Whom it becomes, with the home as its root; None: neither.
    """

    fd: int
    seen_as: Path
    identity: Identity | None


def is_privileged() -> bool:
    """Whether this server can have its sessions be other users."""
    return sandbox.can_become_others()


def identity_of(name: str) -> Identity:
    """A system user and its groups. Raises KeyError: there is none of that name."""
    user = pwd.getpwnam(name)
    groups = [group for group in os.getgrouplist(name, user.pw_gid) if group != user.pw_gid]
    return Identity(user.pw_uid, user.pw_gid, tuple(groups))


def stranger(name: str) -> Identity:
    """Whom a process is before log-in. Raises KeyError."""
    user = pwd.getpwnam(name)
    try:
        gid = grp.getgrnam("nogroup").gr_gid if name == "nobody" else user.pw_gid
    except KeyError:
        gid = user.pw_gid
    return Identity(user.pw_uid, gid)


def seen_as(account: Account) -> Path:
    """An account's home as its sessions' processes see it."""
    return Path("/") if is_privileged() else account.home


def open_home(account: Account) -> Place:
    """Open an account's home for a session's process. Raises Internal; the log tells why."""
    try:
        identity = _identity(account) if is_privileged() else None
        fd = os.open(account.home, OPEN_ANY | os.O_DIRECTORY)
    except (OSError, KeyError) as error:
        logger.error("%s: the home can't be opened: %s", account.name, error)
        raise Internal("your home directory can't be opened on the server") from None
    if identity is not None:
        try:
            hand_over(account, fd, identity)
        except (OSError, RecursionError) as error:
            logger.error("%s: files can't be handed over: %s", account.name, error)
    return Place(fd, seen_as(account), identity)


def _identity(account: Account) -> Identity:
    if account.system_user is None:
        return Identity(os.geteuid(), os.getegid())
    try:
        identity = identity_of(account.system_user)
    except KeyError:
        raise KeyError(f"there is no system user {account.system_user}") from None
    if identity.uid == 0:
        raise KeyError(f"{account.system_user} may do everything")
    return identity


def hand_over(account: Account, home: int, identity: Identity) -> None:
    """Have a home that the server made belong to its sessions' user, with what it had before.

    Of a home that the administrator has chosen, it is only staging and the trash. When nothing is
    to be done, that costs a few looks.

    Raises:
        OSError: Some of it could not be handed over.
    """
    if not account.own_home:
        before = os.fstat(home).st_uid
        if before != identity.uid:
            logger.info("%s: handing the home over to user %d", account.name, identity.uid)
            _hand_over_below(home, before, identity)
            _give(home, identity)
    for name in sorted(paths.RESERVED):
        try:
            fd = os.open(name, OPEN_ANY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
        except (FileNotFoundError, NotADirectoryError):
            continue  # there is none yet; or nothing that could be one
        try:
            before = os.fstat(fd).st_uid
            if before != identity.uid:
                _hand_over_below(fd, before, identity)
                _give(fd, identity)
        finally:
            os.close(fd)


def _hand_over_below(top: int, before: int, identity: Identity) -> None:
    for found in walk(top, lambda path, error: None, staging=True):
        try:
            fd = os.open(found.name, OPEN_ANY | os.O_NOFOLLOW, dir_fd=found.directory)
        except FileNotFoundError:
            continue  # it has gone meanwhile
        try:
            info = os.fstat(fd)
            if info.st_uid == before and _has_one_name(info):
                _give(fd, identity)
        finally:
            os.close(fd)


def _has_one_name(info: os.stat_result) -> bool:
    if stat.S_ISREG(info.st_mode):
        return info.st_nlink == 1
    return stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode)


def _give(fd: int, identity: Identity) -> None:
    """chown of what an O_PATH descriptor stands for, whatever its name leads to by now."""
    if _libc.fchownat(fd, b"", identity.uid, identity.gid, _AT_EMPTY_PATH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
