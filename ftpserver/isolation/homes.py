"""Homes as the server opens them for session processes, and who owns the files in them.

Lives here: which user a session process becomes, opening its home, giving files to that user.
Lives elsewhere: what is in a home (../homes.py), becoming that user (sandbox.py).

The server may be root here, and the home may belong to a hostile user. So no link is followed, and
a file with several hard links is left alone, as one of them may be outside the home.
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
class ProcessHome:
    """The home of a session process, and its user.

    Attributes:
        fd: The descriptor of the home; the holder of this object must close it.
        seen_as: The home's path as the process sees it.
        identity: The user it becomes, with the home as its root; None for no change of either.
    """

    fd: int
    seen_as: Path
    identity: Identity | None


def is_privileged() -> bool:
    """Return True if this server can run sessions as other users."""
    return sandbox.can_become_others()


def identity_of(name: str) -> Identity:
    """Return a system user with its groups. Raises KeyError if there is none of that name."""
    user = pwd.getpwnam(name)
    groups = [group for group in os.getgrouplist(name, user.pw_gid) if group != user.pw_gid]
    return Identity(user.pw_uid, user.pw_gid, tuple(groups))


def identity_before_login(name: str) -> Identity:
    """Return the user that a process runs as before log-in. Raises KeyError."""
    user = pwd.getpwnam(name)
    try:
        gid = grp.getgrnam("nogroup").gr_gid if name == "nobody" else user.pw_gid
    except KeyError:
        gid = user.pw_gid
    return Identity(user.pw_uid, gid)


def seen_as(account: Account) -> Path:
    """Return an account's home as its session processes see it."""
    return Path("/") if is_privileged() else account.home


def open_home(account: Account) -> ProcessHome:
    """Open an account's home for a session process. Raises Internal; the log has the reason."""
    try:
        identity = _identity(account) if is_privileged() else None
        fd = os.open(account.home, OPEN_ANY | os.O_DIRECTORY)
    except (OSError, KeyError) as error:
        logger.error("%s: cannot open the home: %s", account.name, error)
        raise Internal("your home directory cannot be opened on the server") from None
    if identity is not None:
        try:
            hand_over(account, fd, identity)
        except (OSError, RecursionError) as error:
            logger.error(
                "%s: cannot change the owner of files in the home: %s", account.name, error
            )
    return ProcessHome(fd, seen_as(account), identity)


def _identity(account: Account) -> Identity:
    if account.system_user is None:
        return Identity(os.geteuid(), os.getegid())
    try:
        identity = identity_of(account.system_user)
    except KeyError:
        raise KeyError(f"there is no system user {account.system_user}") from None
    if identity.uid == 0:
        raise KeyError(f"sessions must not run as root ({account.system_user})")
    return identity


def hand_over(account: Account, home: int, identity: Identity) -> None:
    """Give a home that the server made to its sessions' user, with all that belongs to its owner.

    In a home that an administrator has chosen, only staging and the trash are given. If all belongs
    to that user already, this costs a few system calls.

    Raises:
        OSError: Some of it could not be given.
        OSError: Some of it could not be handed over.
    """
    if not account.own_home:
        before = os.fstat(home).st_uid
        if before != identity.uid:
            logger.info("%s: changing the owner of the home to user %d", account.name, identity.uid)
            _hand_over_below(home, before, identity)
            _give(home, identity)
    for name in sorted(paths.RESERVED):
        try:
            fd = os.open(name, OPEN_ANY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
        except (FileNotFoundError, NotADirectoryError):
            continue  # there is none yet, or it is not a directory
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
            continue  # removed meanwhile
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
    """Change the owner of an O_PATH descriptor's file, whatever its name refers to by now."""
    if _libc.fchownat(fd, b"", identity.uid, identity.gid, _AT_EMPTY_PATH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
