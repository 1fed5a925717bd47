"""Who is at the other end of a Unix socket, as the kernel tells (SO_PEERCRED, unix(7)).

Lives here: asking it. Lives elsewhere: what a server makes of it (ftpserver/net/addresses.py), and
what a client does (ftpclient/connection/peer.py).
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=iII")


class PeerCredentials(NamedTuple):
    """Process, user and group of whoever connected or listened. ``pid``: 0 where it isn't shown."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connection: socket.socket) -> PeerCredentials | None:
    """Who is at the other end of a Unix socket; None where the system doesn't tell.

    Raises:
        OSError: The connection can't be asked.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(found))
