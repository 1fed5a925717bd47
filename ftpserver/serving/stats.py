"""Stats: what is told of sessions, wherever they are served.

Lives here: the structs, and what whoever has sessions can be asked.
Lives elsewhere: sessions of one process (service.py), asking from outside (daemon/control.py),
printing (cli/control.py).
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class SessionInfo(msgspec.Struct, frozen=True):
    """One session.

    Attributes:
        user: None before log-in.
        peer: HOST:PORT, or ``local``.
        since: Seconds since 1970, by the system's clock as it is now.
        request: What it is doing, by the name of the request; None when it waits for one.
        path: What the request is about; None when about no file.
        target: Where a move or a copy goes.
        quiet: Seconds for which nothing was asked; 0 while something is done.
        bytes_in: Received.
        bytes_out: Sent.
        speed: Bytes a second, both ways, over the last moments.
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
    """How much goes on.

    Attributes:
        sessions: Connections, those that haven't logged in yet included.
        unauthenticated: Those that haven't logged in yet.
        transfers: Sessions that are moving a file just now.
        bytes_in: Received since the start, also by sessions that have ended.
        bytes_out: Sent since the start.
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
    """Sessions, wherever they are served: what the control socket asks about them."""

    def stats(self) -> Stats:
        """How much goes on."""

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected, by number."""

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Returns their numbers.

        Raises:
            NotFound: There is none.
        """
