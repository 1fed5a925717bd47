"""How sessions end, what the end of a connection without a log-in counts as, and what is logged.

A session that ends in order answers what was asked before, and tells the client the reason.
docs/architecture.md ("How things end") lists the ways to end one.
"""

from __future__ import annotations

import logging

from ftpserver.accounts.penalties import Offence
from ftpwire.channel import TimedOut
from ftpwire.errors import (
    BadMagic,
    ConnectionLost,
    FtpError,
    ProtocolError,
    SessionEnded,
    VersionMismatch,
)
from ftpwire.paths import printable
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


_DISTRUSTING = ("unknown ca", "bad certificate", "certificate unknown")
"""Alerts of TLS with which a client rejects the server's certificate."""


def reason_of(error: FtpError) -> str:
    """Return why a connection ended, for the server's log."""
    text = printable(str(error))
    if isinstance(error, ProtocolError):
        return f"dropped: {text}"
    if isinstance(error, TlsError) and text.endswith(_DISTRUSTING):
        return f"the client does not trust the server's certificate ({text})"
    # the texts are also those of clients, to whom the peer is the server
    return text.replace("the peer", "the client") if isinstance(error, ConnectionLost) else text


def level_of(error: FtpError) -> int:
    """Return the level at which the end of a connection without a log-in is logged.

    A client that only leaves is logged at DEBUG: health checks and port scans do that, and so does
    a client that fetches the server's key to show it, or whose log-in was refused, which was
    logged.
    """
    if isinstance(error, (ProtocolError, TlsError, TimedOut, SessionEnded)):
        return logging.INFO
    return logging.DEBUG
