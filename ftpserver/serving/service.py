"""Serving: what the sessions of one process share, and what is asked about them.

Lives here: the books and limits as sessions see them, the sessions and connections there are,
ending them, telling of them.
Lives elsewhere: what only the one server of a root does: its lock, listening, repairing, reloading
(daemon/server.py); what a worker asks its server (processes/worker.py); what a session does
(session.py); sessions without a thread (parking.py).
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
"""The requests that count as transfers under way."""
_LAST_SECONDS = 5.0
"""That sessions get to end after they were cut off."""


class ConnectionCounting(Protocol):
    """Where the connections of all processes are numbered, and count for limits."""

    def number(self, request: socket.socket) -> int:
        """The number of a connection's session, that none of this run had yet."""

    def logged_in(self, request: socket.socket, host: str) -> None:
        """The client of a connection has said who it is."""

    def penalize(self, host: str, offence: Offence) -> None:
        """A connection has ended without a log-in, in a way that costs its address something."""

    def closed(self, request: socket.socket) -> None:
        """A connection was closed, and doesn't count any more."""


class LocalConnections:
    """The connections that this process has accepted itself.

    Args:
        limits: What they count for.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._numbers = itertools.count(1)

    def number(self, request: socket.socket) -> int:
        """The next number."""
        return next(self._numbers)

    def logged_in(self, request: socket.socket, host: str) -> None:
        """It doesn't count as a stranger's any more."""
        self._limits.unauthenticated.leave(request)

    def penalize(self, host: str, offence: Offence) -> None:
        """It costs the address something."""
        self._limits.penalize(host, offence)

    def closed(self, request: socket.socket) -> None:
        """It doesn't count as a stranger's any more."""
        self._limits.unauthenticated.leave(request)


class Service:
    """What the sessions of one process share: for them it is what `context.Sharing` says.

    Whoever has sessions has one: the server (daemon/server.py), or each of its workers.

    Args:
        engine: The database; whoever has opened it disposes of it.
        ledger: The books of this process.
        audit: The log; whoever has opened it closes it.
        counting: Where connections count; by default in this process alone.
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
        """Those that were accepted and not closed yet, before and after their sessions."""
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
        """Of sessions that have ended. Guarded by ``_moving``."""
        self._threads: list[threading.Thread] = []
        self._stop_read, self._stop_write = os.pipe()
        self._stack = ExitStack()
        self._stack.callback(self._close_stop_pipe)

    def park_idle(self) -> None:
        """Let idle sessions wait without a thread, if the settings say so. Before `start`."""
        if self.settings.threads:
            self.parking = Parking(self.settings.threads, self.stop_fd, self.turns.go_idle)
            self._stack.callback(self.parking.close)

    def start(self) -> None:
        """Begin to look after sessions, in threads of this service's own."""
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
        """After `end_sessions`: end the threads that looked after them."""
        self.watcher.stop()
        self.keep_alive.stop()
        while self._threads:
            self._threads.pop().join()

    # sessions ----------------------------------------------------------------------------

    @property
    def stop_fd(self) -> int:
        """Readable as soon as the service stops."""
        return self._stop_read

    @property
    def syncs(self) -> Syncs:
        """What is synced together: with the log of the books, which lies on one disk with homes."""
        return self.ledger.syncs

    @property
    def before_wait(self) -> Callable[[], None] | None:
        """Called by a session's thread each time that it is going to wait for its connection."""
        return self._wait_for_client

    def _wait_for_client(self) -> None:
        self.turns.go_idle()
        self._end_lead()

    def will_block(self) -> None:
        """What a session's thread does next waits for something, or takes its time."""
        self.turns.give_up()
        self._end_lead()

    def _end_lead(self) -> None:
        if self.parking is not None:
            self.parking.will_block()

    def next_session_id(self, request: socket.socket) -> int:
        """The number of a connection's session, that none of this run had yet."""
        return self._counting.number(request)

    def logged_in(self, session: Connected) -> None:
        """A session's client has said who it is."""
        self._counting.logged_in(session.request, session.host)

    def penalize(self, session: Connected, offence: Offence) -> None:
        """A session has ended without a log-in, in a way that costs its address something."""
        self._counting.penalize(session.host, offence)

    def _record_ban(self, ban: Ban) -> None:
        self.audit.record(
            "ban",
            outcome=REFUSED,
            guess="ban",  # so that nothing else uses up the room of these
            user=ban.account,
            address=ban.address,
            reason=f"{ban.failures} log-ins failed",
            details={"until": timestamp(ban.until)},
        )

    def forget(self, session: Connected) -> None:
        """A session has ended; its bytes stay counted."""
        with self._moving:
            self._bytes_in += session.channel.bytes_in
            self._bytes_out += session.channel.bytes_out
            self.sessions.discard(session)

    def forget_connection(self, request: socket.socket) -> None:
        """A connection was closed."""
        self.connections.discard(request)
        self._counting.closed(request)

    def give_way(self, transfer: str) -> None:
        """End a transfer of this process: another one needs its place."""
        for session in list(self.sessions):
            session.give_way(transfer)

    def apply_settings(self, settings: Settings) -> None:
        """Other settings hold from now on."""
        if settings.grace != self.settings.grace:
            self.grace = settings.grace
        self.settings = settings
        self.limits.apply_settings(settings)
        self.registration.open = settings.open_registration
        self.registration.default_quota = settings.default_quota

    # telling of them ---------------------------------------------------------------------

    def moved(self) -> tuple[int, int]:
        """Bytes received and sent since the start, of all sessions."""
        with self._moving:
            channels = [one.channel for one in list(self.sessions)]
            return (
                self._bytes_in + sum(one.bytes_in for one in channels),
                self._bytes_out + sum(one.bytes_out for one in channels),
            )

    def stats(self) -> Stats:
        """How much goes on in this process."""
        sessions = list(self.sessions)
        transfers = sum(isinstance(one.doing, TRANSFERS) for one in sessions)
        unauthenticated = sum(one.account is None for one in sessions)
        return Stats(len(sessions), unauthenticated, transfers, *self.moved())

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected to this process, by number."""
        now = time.monotonic()
        return [self.info(one, now) for one in sorted(self.sessions, key=lambda one: one.id)]

    def info(self, session: Connected, now: float) -> SessionInfo:
        """What is told of a session of this process."""
        account, doing = session.account, session.doing
        told = describe(doing)
        return SessionInfo(
            id=session.id,
            user=None if account is None else account.name,
            peer=session.peer,
            since=RUN.by_system(session.since),
            request=told.request,
            path=told.path,
            target=told.target,
            quiet=max(0.0, now - session.quiet_since) if doing is None else 0.0,
            bytes_in=session.channel.bytes_in,
            bytes_out=session.channel.bytes_out,
            speed=self.watcher.speed(session),
        )

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Returns their numbers. Raises NotFound."""
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
        """Have all sessions end: what runs gets the grace time, then it is cut off.

        Can be called again: who comes second has nothing to wait for.
        """
        if self._stop_write < 0:
            return
        os.close(self._stop_write)  # every session that waits wakes up
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
        """Give everything back. The service can't be used afterwards; can be called twice."""
        self._stack.close()

    def _close_stop_pipe(self) -> None:
        os.close(self._stop_read)
        if self._stop_write >= 0:
            os.close(self._stop_write)
