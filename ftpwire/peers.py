"""The process at the other end of a Unix socket, as the kernel reports it (SO_PEERCRED, unix(7)).

Lives here: asking the kernel.
Lives elsewhere: how a server uses it (ftpserver/net/addresses.py), and how a client does
(ftpclient/connection/peer.py).
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=iII")


class PeerCredentials(NamedTuple):
    """Process, user and group of the peer. ``pid`` is 0 if it is hidden."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connection: socket.socket) -> PeerCredentials | None:
    """Return the credentials of the peer of a Unix socket; None on systems without this call.

    Raises:
        OSError: The socket cannot be queried.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(found))
