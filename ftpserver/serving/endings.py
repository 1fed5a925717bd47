"""How sessions end, and what the end of a connection without a log-in counts as.

A session that ends in order answers what was asked before, and tells the client the reason.
docs/architecture.md ("How things end") lists the ways to end one.
"""

from __future__ import annotations

from ftpserver.accounts.penalties import Offence
from ftpwire.channel import TimedOut
from ftpwire.errors import (
    BadMagic,
    FtpError,
    ProtocolError,
    SessionEnded,
    VersionMismatch,
)
from ftpwire.tls import TlsError

LAST_WORDS = 2.0
"""Seconds that a client gets to read why its connection is closed."""
PASSED_OVER = 256 * 1024
"""Bytes to read from a client that isn't logged in, so that the last message arrives."""


class Dismissed(SessionEnded):
    """The session ends as if the server stopped."""

    code = "dismissed"


class Idle(Dismissed):
    """The session made no request for too long."""

    code = "idle"


class GaveWay(Dismissed):
    """Another transfer of the account needs the slot of this session's transfer."""

    code = "gave-way"


def offence_of(error: FtpError) -> Offence | None:
    """Return the offence that the end of a connection without a log-in counts as.

    None if it is no worse than leaving.
    """
    match error:
        case TimedOut():
            return Offence.TOO_LATE
        case BadMagic() | VersionMismatch():
            return None  # a wrong option or an old program: it gets an error, that's enough
        case ProtocolError() | TlsError():
            return Offence.PROTOCOL
    return None
