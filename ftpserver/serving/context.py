"""What a session is given by whoever runs it: its ``server``.

Lives here: the interface alone. Lives elsewhere: those who have it: the service of a process with
many sessions (service.py), that of a process with one (isolation/session_process.py).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from ftpserver.accounts.account import Account
    from ftpserver.accounts.authenticator import Authenticator
    from ftpserver.accounts.penalties import Offence
    from ftpserver.audit.context import Recorder
    from ftpserver.serving.connected import Connected
    from ftpserver.serving.parking import Parking
    from ftpserver.settings.table import Settings
    from ftpserver.storage.group_sync import Syncs
    from ftpserver.storage.quota import QuotaStore
    from ftpwire.pacing import Pace


class SessionLimiting(Protocol):
    """Where sessions and transfers count for limits, and what they keep together."""

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Take one of the places for sessions. ``had``: what the session has of one."""

    def leave(self, slot: str | None) -> None:
        """Give a place back."""

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Count a running transfer, to end it by; see `accounts.transfer_counts`."""

    def tell_idle(self, transfer: str, idle: bool) -> None:
        """Say whether a running transfer has moved no bytes for a while."""

    def end_transfer(self, transfer: str) -> None:
        """A transfer runs no more."""

    def pace(self, account: Account) -> Pace | None:
        """What all sessions of an account keep together."""


class Sharing(Protocol):
    """What sessions share. All of it is safe to use from many threads."""

    @property
    def settings(self) -> Settings:
        """May be others from one moment to the next."""

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """None for a server without TLS."""

    @property
    def stopping(self) -> bool:
        """Whether nothing more is to be begun."""

    @property
    def stop_fd(self) -> int:
        """Readable as soon as ``stopping``."""

    @property
    def parking(self) -> Parking | None:
        """Where idle sessions wait; None: each keeps its thread."""

    def take_turn(self) -> None:
        """Called by a session's thread before each small step: see `Turns.take`."""

    def pass_turn(self) -> None:
        """Called by a session's thread between two steps of long work: see `Turns.pass_on`."""

    def will_block(self) -> None:
        """Called by a session's thread: what it does next waits for something, or takes its time.
        It has neither the turn nor the pool's lead any more."""

    @property
    def before_wait(self) -> Callable[[], None] | None:
        """Called by a session's thread each time that it is going to wait for its connection."""

    @property
    def sessions(self) -> set[Connected]:
        """Those that there are."""

    @property
    def authenticator(self) -> Authenticator:
        """Who is let in."""

    @property
    def limits(self) -> SessionLimiting:
        """Where sessions count."""

    @property
    def ledger(self) -> QuotaStore:
        """Room."""

    @property
    def syncs(self) -> Syncs:
        """What is synced together."""

    @property
    def audit(self) -> Recorder:
        """What was done."""

    def next_session_id(self, request: socket.socket) -> int:
        """The number of a connection's session."""

    def logged_in(self, session: Connected) -> None:
        """A session's client has said who it is."""

    def penalize(self, session: Connected, offence: Offence) -> None:
        """A session has ended without a log-in, in a way that costs its address something."""

    def forget(self, session: Connected) -> None:
        """A session has ended."""
