"""Service: what the sessions of one process share, and what can be asked about them.

Lives here: the quota store and the limits as sessions see them, the current sessions and
connections, ending them, describing them.
Lives elsewhere: what only the one server of a root does: its lock, listening, repairing, reloading
(daemon/server.py); what a worker requests from its server (processes/worker.py); what a session
does (session.py); sessions without a thread (parking.py).
"""

from __future__ import annotations

import itertools
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, Unpack

from sqlalchemy import Engine

from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.authenticator import LocalAuthenticator
from ftpserver.accounts.limits import Limits, LimitsOptions
from ftpserver.accounts.registration import Probing, Registration, Throttling
from ftpserver.accounts.tokens import Tokens
from ftpserver.audit.record import REFUSED, timestamp
from ftpserver.audit.writer import Audit
from ftpserver.clock import RUN
from ftpserver.database import Writer
from ftpserver.serving.account_watch import AccountWatcher
from ftpserver.serving.connected import Connected, describe
from ftpserver.serving.keep_alive import KeepAlive
from ftpserver.serving.parking import Parking
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.serving.turns import Turns
from ftpserver.settings.table import Settings
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import Ownership, identity
from ftpwire import messages
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    import socket

    from ftpserver.accounts.bans import Ban
    from ftpserver.accounts.penalties import Offence

logger = logging.getLogger("ftpd")

_KICKED = "the session was ended by the administrator"
TRANSFERS = (messages.Get, messages.Put, messages.GetFiles, messages.PutFiles)
"""The requests that count as running transfers."""
_LAST_SECONDS = 5.0
"""Seconds that sessions get to end after they were aborted."""


class ConnectionCounting(Protocol):
    """Numbers the connections of all processes, and counts them for limits."""

    def number(self, request: socket.socket) -> int:
        """Return the number of a connection's session: a new one in this run."""

    def logged_in(self, request: socket.socket, host: str) -> None:
        """Note that the client of a connection has logged in."""

    def penalize(self, host: str, offence: Offence) -> None:
        """Count the end of a connection without a log-in against its address."""

    def closed(self, request: socket.socket) -> None:
        """Stop counting a connection that was closed."""


class LocalConnections:
    """The connections that this process has accepted itself.

    Args:
        limits: The limits for which they count.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._numbers = itertools.count(1)

    def number(self, request: socket.socket) -> int:
        """Return the next number."""
        return next(self._numbers)

    def logged_in(self, request: socket.socket, host: str) -> None:
        """Stop counting it as an unauthenticated connection."""
        self._limits.unauthenticated.leave(request)

    def penalize(self, host: str, offence: Offence) -> None:
        """Count an offence against an address."""
        self._limits.penalize(host, offence)

    def closed(self, request: socket.socket) -> None:
        """Stop counting it as an unauthenticated connection."""
        self._limits.unauthenticated.leave(request)


class Service:
    """The state that the sessions of one process share: it implements `context.SessionContext`.

    Each process with sessions has one: the server (daemon/server.py), and each worker.

    Args:
        engine: The database. The caller disposes of it.
        ledger: The quota store of this process.
        audit: The audit log. The caller closes it.
        counting: Counts connections; by default those of this process alone.
        throttle, probes: See `Registration`.
        limits: See `Limits`.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        ledger: Ledger,
        audit: Audit,
        *,
        counting: ConnectionCounting | None = None,
        throttle: Throttling | None = None,
        probes: Probing | None = None,
        **limits: Unpack[LimitsOptions],
    ) -> None:
        root = settings.root
        self.settings = settings
        self.engine = engine
        self.ledger = ledger
        self.audit = audit
        self.sessions: set[Connected] = set()
        self.connections: set[socket.socket] = set()
        """The connections that are accepted and not closed, also before and after their session."""
        self.tls_context: ssl.SSLContext | None = None
        self.parking: Parking | None = None
        self.turns = Turns(self._end_lead)
        self.take_turn = self.turns.take
        self.pass_turn = self.turns.pass_on
        ledger.syncs.before_wait = self.will_block
        Writer.of(engine).before_wait = self.will_block
        self.stopping = False
        self.draining = False
        self.grace = settings.grace
        self.accounts = Accounts(engine, root)
        self.tokens = Tokens(engine, self.accounts)
        self.registration = Registration(
            engine,
            self.accounts,
            root,
            open=settings.open_registration,
            default_quota=settings.default_quota,
            throttle=throttle,
            probes=probes,
        )
        self.limits = Limits(engine, settings, ledger, **limits)
        self.limits.on_banned = self._record_ban
        self.ownership = Ownership(identity(engine), root)
        self.authenticator = LocalAuthenticator(
            self.accounts, self.tokens, self.registration, self.limits, self.ownership
        )
        self.keep_alive = KeepAlive(self.sessions, lambda: self.settings.stall)
        self.watcher = AccountWatcher(engine, self.accounts, self.sessions, lambda: self.draining)
        self._counting: ConnectionCounting = counting or LocalConnections(self.limits)
        self._moving = threading.Lock()
        self._bytes_in = self._bytes_out = 0
        """The bytes of sessions that have ended. Guarded by ``_moving``."""
        self._threads: list[threading.Thread] = []
        self._stop_read, self._stop_write = os.pipe()
        self._stack = ExitStack()
        self._stack.callback(self._close_stop_pipe)

    def park_idle(self) -> None:
        """Park idle sessions, if the settings say so. Call it before `start`."""
        if self.settings.threads:
            self.parking = Parking(self.settings.threads, self.stop_fd, self.turns.go_idle)
            self._stack.callback(self.parking.close)

    def start(self) -> None:
        """Begin to look after sessions, in threads of the service's own."""
        threads = [
            threading.Thread(target=self.watcher.run, name="watch"),
            self.keep_alive.thread(),
        ]
        if self.parking is not None:
            threads.append(threading.Thread(target=self.parking.run, name="parking"))
        for thread in threads:
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads that look after sessions. Call it after `end_sessions`."""
        self.watcher.stop()
        self.keep_alive.stop()
        while self._threads:
            self._threads.pop().join()

    # sessions ----------------------------------------------------------------------------

    @property
    def stop_fd(self) -> int:
        """A descriptor that is readable as soon as the service stops."""
        return self._stop_read

    @property
    def syncs(self) -> Syncs:
        """The syncs that sessions share with the quota store's log, which is on the homes' disk."""
        return self.ledger.syncs

    @property
    def before_wait(self) -> Callable[[], None] | None:
        """Called by a session's thread before it waits for its connection."""
        return self._wait_for_client

    def _wait_for_client(self) -> None:
        self.turns.go_idle()
        self._end_lead()

    def will_block(self) -> None:
        """Announce that a session's thread is going to wait for something, or to take long."""
        self.turns.give_up()
        self._end_lead()

    def _end_lead(self) -> None:
        if self.parking is not None:
            self.parking.will_block()

    def next_session_id(self, request: socket.socket) -> int:
        """Return the number of a connection's session: a new one in this run."""
        return self._counting.number(request)

    def logged_in(self, session: Connected) -> None:
        """Note that a session's client has logged in."""
        self._counting.logged_in(session.request, session.host)

    def penalize(self, session: Connected, offence: Offence) -> None:
        """Count the end of a session without a log-in against its address."""
        self._counting.penalize(session.host, offence)

    def _record_ban(self, ban: Ban) -> None:
        self.audit.record(
            "ban",
            outcome=REFUSED,
            guess="ban",  # an allowance of their own: other failures don't use it up
            user=ban.account,
            address=ban.address,
            reason=f"{ban.failures} log-ins failed",
            details={"until": timestamp(ban.until)},
        )

    def forget(self, session: Connected) -> None:
        """Forget a session that has ended; its bytes stay counted."""
        # One lock for both, so that `moved` counts the bytes of a session exactly once.
        with self._moving:
            self._bytes_in += session.channel.bytes_in
            self._bytes_out += session.channel.bytes_out
            self.sessions.discard(session)

    def forget_connection(self, request: socket.socket) -> None:
        """Forget a connection that was closed."""
        self.connections.discard(request)
        self._counting.closed(request)

    def give_way(self, transfer: str) -> None:
        """End a transfer of this process whose slot another transfer needs."""
        for session in list(self.sessions):
            session.give_way(transfer)

    def apply_settings(self, settings: Settings) -> None:
        """Use other settings from now on."""
        if settings.grace != self.settings.grace:
            self.grace = settings.grace
        self.settings = settings
        self.limits.apply_settings(settings)
        self.registration.open = settings.open_registration
        self.registration.default_quota = settings.default_quota

    # figures and descriptions ------------------------------------------------------------

    def moved(self) -> tuple[int, int]:
        """Return the bytes received and sent since the start, by all sessions."""
        with self._moving:
            channels = [one.channel for one in list(self.sessions)]
            return (
                self._bytes_in + sum(one.bytes_in for one in channels),
                self._bytes_out + sum(one.bytes_out for one in channels),
            )

    def stats(self) -> Stats:
        """Return the figures of this process."""
        sessions = list(self.sessions)
        transfers = sum(isinstance(one.doing, TRANSFERS) for one in sessions)
        unauthenticated = sum(one.account is None for one in sessions)
        return Stats(len(sessions), unauthenticated, transfers, *self.moved())

    def session_infos(self) -> list[SessionInfo]:
        """Return the sessions of this process, ordered by number."""
        now = time.monotonic()
        return [self.info(one, now) for one in sorted(self.sessions, key=lambda one: one.id)]

    def info(self, session: Connected, now: float) -> SessionInfo:
        """Return the description of a session of this process."""
        account, doing = session.account, session.doing
        described = describe(doing)
        return SessionInfo(
            id=session.id,
            user=None if account is None else account.name,
            peer=session.peer,
            since=RUN.by_system(session.since),
            request=described.request,
            path=described.path,
            target=described.target,
            quiet=max(0.0, now - session.quiet_since) if doing is None else 0.0,
            bytes_in=session.channel.bytes_in,
            bytes_out=session.channel.bytes_out,
            speed=self.watcher.speed(session),
        )

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all sessions of a user. Returns their numbers. Raises NotFound."""
        chosen = [
            one
            for one in list(self.sessions)
            if one.id == session or (user is not None and one.account and one.account.name == user)
        ]
        if not chosen:
            named = user if session is None else session
            raise NotFound(f"{named}: no such session (see ftpd sessions)")
        for one in chosen:
            self.watcher.close(one, _KICKED)
        return sorted(one.id for one in chosen)

    # the end -----------------------------------------------------------------------------

    def end_sessions(self) -> None:
        """End all sessions. What runs gets the grace time, then it is aborted.

        Can be called twice; the second call doesn't wait.
        """
        if self._stop_write < 0:
            return
        os.close(self._stop_write)  # wakes all waiting sessions
        self._stop_write = -1
        self._wait_for_sessions(lambda: self.grace, warns=True)
        for session in list(self.sessions):
            logger.warning("%s: cut off: the grace time is over", session)
            session.abort()
        self._wait_for_sessions(lambda: _LAST_SECONDS)

    def _wait_for_sessions(self, seconds: Callable[[], float], *, warns: bool = False) -> None:
        began = time.monotonic()
        while self.connections and time.monotonic() - began < seconds():
            for session in list(self.sessions) if warns else ():
                session.warn()
            time.sleep(0.02)

    def close(self) -> None:
        """Release everything. The service cannot be used afterwards. Can be called twice."""
        self._stack.close()

    def _close_stop_pipe(self) -> None:
        os.close(self._stop_read)
        if self._stop_write >= 0:
            os.close(self._stop_write)
