"""How sessions end: in order, where what was asked before is answered and the client hears the
reason; and what the end costs an address from which nobody has logged in."""

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
"""Seconds that a peer gets to read why it is being dropped."""
PASSED_OVER = 256 * 1024
"""Bytes that are read from somebody who isn't logged in, so that a last word arrives."""


class Dismissed(SessionEnded):
    """The session ends as if the server stopped."""

    code = "dismissed"


class Idle(Dismissed):
    """Nothing was asked for too long."""

    code = "idle"


class GaveWay(Dismissed):
    """Another transfer of the account needs the place."""

    code = "gave-way"


def offence_of(error: FtpError) -> Offence | None:
    """What the end of a connection without a log-in is counted as, if it is worse than leaving."""
    match error:
        case TimedOut():
            return Offence.TOO_LATE
        case BadMagic() | VersionMismatch():
            return None  # a wrong option or an old program: told, and no worse than leaving
        case ProtocolError() | TlsError():
            return Offence.PROTOCOL
    return None
