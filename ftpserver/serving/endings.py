"""How sessions end, what the end of a connection without a log-in counts as, and what is logged.

A session that ends in order answers what was asked before, and tells the client the reason.
docs/architecture.md ("How things end") lists the ways to end one.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from ftpserver.accounts.penalties import Offence
from ftpwire.channel import TimedOut
from ftpwire.errors import (
    BadMagic,
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


class Ending(NamedTuple):
    """The end of a connection, as it is logged.

    Attributes:
        reason: Why it ended.
        level: The level if its client had not logged in. A client that only left is logged at
            DEBUG: health checks and port scans do that, and so does a client that fetches the
            server's key to show it, or whose log-in was refused, which was logged.
    """

    reason: str
    level: int = logging.INFO


def ending_of(error: FtpError) -> Ending:
    """Return what is logged about the end of a connection because of an error.

    The error itself must not be kept: it has the frames that it passed, and with them leases.
    """
    text = printable(str(error))
    if isinstance(error, ProtocolError):
        return Ending(f"dropped: {text}")
    if isinstance(error, TlsError) and text.endswith(_DISTRUSTING):
        return Ending(f"the client does not trust the server's certificate ({text})")
    if isinstance(error, SessionEnded):
        return Ending(text)
    # the texts are also those of clients, to whom the peer is the server
    text = text.replace("the peer", "the client")
    return Ending(text, logging.INFO if isinstance(error, (TlsError, TimedOut)) else logging.DEBUG)
