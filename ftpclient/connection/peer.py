"""Checking who listens at a Unix socket, before a name or a secret is sent to it.

Lives here: asking the kernel, and which users are trusted.
Lives elsewhere: connecting (connection.py), keys of servers on the network (trust.py).

The path proves nothing: another socket may be there a moment later. The kernel reports who listens
at the other end of a connection (SO_PEERCRED, unix(7)). That must be root, this user, or the owner
of the directory, if no other user can put a socket there.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from ftpclient.connection.addresses import ServerAddress
from ftpwire.errors import UnknownHost
from ftpwire.paths import printable
from ftpwire.peers import peer_credentials


def check(sock: socket.socket, address: ServerAddress) -> None:
    """Refuse the socket of a user who is not trusted.

    Raises:
        UnknownHost: Another user listens there.
    """
    uid = _uid_of(sock)
    assert address.path is not None
    if uid is None or uid in (0, os.geteuid()) or _may_listen(uid, address.path):
        return
    directory = printable(os.path.dirname(address.path) or ".")
    raise UnknownHost(
        f"{address.endpoint}: user {uid} listens there, who is neither root, nor you, nor the "
        f"only user who can write to {directory}: it may be another server"
    )


def _uid_of(sock: socket.socket) -> int | None:
    """Return the user who listens; None on systems that do not report it."""
    found = peer_credentials(sock)
    return None if found is None else found.uid


def _may_listen(uid: int, path: str) -> bool:
    """Return True if only that user can write to a socket's directory."""
    named = Path(os.path.abspath(path)).parent
    directory = Path(os.path.realpath(named))
    try:
        info = directory.stat()
        above = [one.stat() for one in {*named.parents, *directory.parents}]
    except OSError:
        return False
    alone = info.st_uid == uid and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return alone and not any(_can_be_swapped(one) for one in above)


def _can_be_swapped(info: os.stat_result) -> bool:
    """Return True if any user may replace a directory in this one."""
    return bool(info.st_mode & stat.S_IWOTH) and not info.st_mode & stat.S_ISVTX
