"""Stats: the figures and descriptions of sessions, whichever process serves them.

Lives here: the structs, and the interface to ask for them.
Lives elsewhere: the sessions of one process (service.py), asking from outside (daemon/control.py),
printing (cli/control.py).
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class SessionInfo(msgspec.Struct, frozen=True):
    """One session.

    Attributes:
        user: The account's name; None before log-in.
        peer: HOST:PORT, or ``local``.
        since: Seconds since 1970, by the system's clock as it is now.
        request: The name of the request under way; None while it waits for one.
        path: The path that the request is about, if any.
        target: The target of a move or a copy.
        quiet: Seconds without a request; 0 during a request.
        bytes_in: Bytes received.
        bytes_out: Bytes sent.
        speed: Bytes per second, both ways, over the last moments.
    """

    id: int
    user: str | None
    peer: str
    since: float
    request: str | None
    path: bytes | None
    target: bytes | None
    quiet: float
    bytes_in: int
    bytes_out: int
    speed: float


class Stats(msgspec.Struct, frozen=True):
    """Figures of all sessions.

    Attributes:
        sessions: Connections, including unauthenticated ones.
        unauthenticated: Connections that haven't logged in yet.
        transfers: Sessions that are moving a file now.
        bytes_in: Bytes received since the start, also by sessions that have ended.
        bytes_out: Bytes sent since the start.
    """

    sessions: int = 0
    unauthenticated: int = 0
    transfers: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: Stats) -> Stats:
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Stats(*(a + b for a, b in zip(mine, theirs, strict=True)))


class Serving(Protocol):
    """The sessions of one or more processes, as the control socket sees them."""

    def stats(self) -> Stats:
        """Return the figures of all sessions."""

    def session_infos(self) -> list[SessionInfo]:
        """Return the sessions, ordered by number."""

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all sessions of a user. Returns their numbers.

        Raises:
            NotFound: There is no such session.
        """
