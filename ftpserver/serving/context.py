"""The ``server`` of a session: the interface to the process that runs it.

Lives here: the interface alone. Lives elsewhere: the implementations: the service of a process with
many sessions (service.py), and of a process with one (isolation/session_process.py).
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
    """Counts sessions and transfers for limits, and keeps their common pace."""

    def enter(
        self, account: Account, host: str, *, at_any_rate: bool = False, had: str | None = None
    ) -> str | None:
        """Take a session slot. ``had``: the slot that the session has already."""

    def leave(self, slot: str | None) -> None:
        """Release a session slot."""

    def begin_transfer(self, account: Account, give_way: Callable[[str], None]) -> str:
        """Count a running transfer. Returns its name; see `accounts.transfer_counts`."""

    def report_idle(self, transfer: str, idle: bool) -> None:
        """Report whether a running transfer has moved no bytes for a while."""

    def end_transfer(self, transfer: str) -> None:
        """Stop counting a running transfer."""

    def pace(self, account: Account) -> Pace | None:
        """Return the pace that all sessions of an account keep together; None without a limit."""


class SessionContext(Protocol):
    """The objects that sessions share. All are safe to use from many threads."""

    @property
    def settings(self) -> Settings:
        """The current settings. They may change at any time."""

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS context; None for a server without TLS."""

    @property
    def stopping(self) -> bool:
        """True if nothing new may begin."""

    @property
    def stop_fd(self) -> int:
        """Readable as soon as ``stopping``."""

    @property
    def parking(self) -> Parking | None:
        """The parking of idle sessions; None if each session keeps its thread."""

    def take_turn(self) -> None:
        """Take the turn. Called by a session's thread before each small step: see `Turns.take`."""

    def pass_turn(self) -> None:
        """Pass on the turn. Called between two steps of long work: see `Turns.pass_on`."""

    def will_block(self) -> None:
        """Announce that the session's thread is going to wait for something, or to take long. It
        loses the turn, and no longer looks for work for the pool."""

    @property
    def before_wait(self) -> Callable[[], None] | None:
        """Called by a session's thread before it waits for its connection."""

    @property
    def sessions(self) -> set[Connected]:
        """The current sessions."""

    @property
    def authenticator(self) -> Authenticator:
        """The authenticator, which decides about log-ins."""

    @property
    def limits(self) -> SessionLimiting:
        """The limits for which sessions and transfers count."""

    @property
    def ledger(self) -> QuotaStore:
        """The quota store."""

    @property
    def syncs(self) -> Syncs:
        """The syncs that sessions share."""

    @property
    def audit(self) -> Recorder:
        """The audit log."""

    def next_session_id(self, request: socket.socket) -> int:
        """Return the number of a connection's session."""

    def logged_in(self, session: Connected) -> None:
        """Note that a session's client has logged in."""

    def penalize(self, session: Connected, offence: Offence) -> None:
        """Count the end of a session without a log-in against its address."""

    def forget(self, session: Connected) -> None:
        """Forget a session that has ended."""
