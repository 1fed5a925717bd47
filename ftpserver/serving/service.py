"""Serving: what the sessions of one process share, and what is asked about them.

Lives here: the books and limits as sessions see them, the sessions and connections there are,
ending them, telling of them.
Lives elsewhere: what only the one server of a root does: its lock, listening, repairing, reloading
(daemon/server.py); what a session does (session.py); sessions without a thread (parking.py).
"""

from __future__ import annotations

import itertools
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from sqlalchemy import Engine

from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.authenticator import Entrance, LocalEntrance
from ftpserver.accounts.limits import Limits, LimitsOptions
from ftpserver.accounts.registration import Probing, Registration, Throttling
from ftpserver.accounts.tokens import Tokens
from ftpserver.audit.record import REFUSED, timestamp
from ftpserver.audit.writer import Audit
from ftpserver.clock import RUN
from ftpserver.serving.account_watch import Watch
from ftpserver.serving.keep_alive import KeepAlive
from ftpserver.serving.parking import Parking
from ftpserver.serving.stats import Figures, SessionInfo
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import Ownership, identity
from ftpserver.storage.upload_locks import Owners
from ftpwire import messages
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    import socket

    from ftpserver.accounts.bans import Ban
    from ftpserver.accounts.penalties import Offence
    from ftpserver.serving.session import Session

logger = logging.getLogger("ftpd")

_KICKED = "the session was ended by the administrator"
_LAST_SECONDS = 5.0
"""That sessions get to end after they were cut off."""


class Service:
    """What the sessions of one process share.

    For them it is what `sharing.Sharing` says. What was opened is closed by `server_close`, the
    last first.
    """

    engine: Engine
    accounts: Accounts
    tokens: Tokens
    registration: Registration
    ledger: Ledger
    limits: Limits
    entrance: Entrance
    owners: Owners
    audit: Audit
    watch: Watch

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions: set[Session] = set()
        self.connections: set[socket.socket] = set()
        """Those that were accepted and not closed yet, before and after their sessions."""
        self.tls_context: ssl.SSLContext | None = None
        self.parking: Parking | None = None
        self.keep_alive = KeepAlive(self.sessions, lambda: self.settings.stall)
        self.stopping = False
        self.draining = False
        self.grace = settings.grace
        self._session_ids = itertools.count(1)
        self._counting = threading.Lock()
        self._bytes_in = self._bytes_out = 0
        """Of sessions that have ended. Guarded by ``_counting``."""
        self._stop_read, self._stop_write = os.pipe()
        self._closing: list[Callable[[], None]] = [self._close_stop_pipe]

    def _open_books(
        self,
        root: Path,
        engine: Engine,
        ledger: Ledger,
        *,
        throttle: Throttling | None = None,
        probes: Probing | None = None,
        **limits: Unpack[LimitsOptions],
    ) -> None:
        """Have everything that is asked of the database.

        Args:
            throttle, probes: See Registration. ``limits``: see Limits.
        """
        settings = self.settings
        self.engine = engine
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
        self.ledger = ledger
        self.limits = Limits(engine, settings, ledger, **limits)
        self.limits.on_banned = self._record_ban
        self.ownership = Ownership(identity(engine), root)
        self.entrance = LocalEntrance(
            self.accounts, self.tokens, self.registration, self.limits, self.ownership
        )
        self.watch = Watch(self)

    def _park_idle(self) -> None:
        """Let idle sessions wait without a thread, if the settings say so."""
        if self.settings.threads:
            self.parking = Parking(self.settings.threads, self.stop_fd)
            self._closing.append(self.parking.close)

    def _serving_threads(self) -> list[threading.Thread]:
        """Threads that serving takes, besides those of the sessions; not started yet. They end
        when the service stops, and by ``_stop_threads``."""
        threads = [
            threading.Thread(target=self.watch.run, name="watch"),
            self.keep_alive.thread(),
        ]
        if self.parking is not None:
            threads.append(threading.Thread(target=self.parking.run, name="parking"))
        return threads

    def _stop_threads(self) -> None:
        """No session is left: what looks after them ends."""
        self.watch.stop()
        self.keep_alive.stop()

    # sessions ----------------------------------------------------------------------------

    @property
    def stop_fd(self) -> int:
        """Readable as soon as the service stops."""
        return self._stop_read

    def next_session_id(self, request: socket.socket) -> int:
        """The number of a connection's session, that none of this run had yet."""
        return next(self._session_ids)

    def logged_in(self, session: Session) -> None:
        """A session's client has said who it is."""
        self.limits.strangers.leave(session.request)

    def penalize(self, session: Session, offence: Offence) -> None:
        """A session has ended without a log-in, in a way that costs its address something."""
        self.limits.penalize(session.host, offence)

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

    def forget(self, session: Session) -> None:
        """A session has ended; its bytes stay counted."""
        with self._counting:
            self._bytes_in += session.channel.bytes_in
            self._bytes_out += session.channel.bytes_out
            self.sessions.discard(session)

    def forget_connection(self, request: socket.socket) -> None:
        """A connection was closed."""
        self.limits.strangers.leave(request)
        self.connections.discard(request)

    def is_drained(self, now: float) -> bool:
        """Whether a drain is over: nobody is connected."""
        return not self.connections

    def ask_to_stop(self, grace: float | None = None) -> None:
        """A drain is over. Who runs the service may stop it then; here, nobody has to."""

    def press(self) -> None:
        """Called a few times a second: see to it that ends what should. Here nothing is to do."""

    def give_way(self, transfer: str) -> None:
        """End a transfer of this process: another one needs its place."""
        for session in list(self.sessions):
            session.give_way(transfer)

    def follow(self, settings: Settings) -> None:
        """Other settings hold from now on."""
        if settings.grace != self.settings.grace:
            self.grace = settings.grace
        self.settings = settings
        self.limits.follow(settings)
        self.registration.open = settings.open_registration
        self.registration.default_quota = settings.default_quota

    # telling of them ---------------------------------------------------------------------

    def moved(self) -> tuple[int, int]:
        """Bytes received and sent since the start, of all sessions."""
        with self._counting:
            channels = [one.channel for one in list(self.sessions)]
            return (
                self._bytes_in + sum(one.bytes_in for one in channels),
                self._bytes_out + sum(one.bytes_out for one in channels),
            )

    def figures(self) -> Figures:
        """How much goes on in this process."""
        sessions = list(self.sessions)
        transfers = sum(isinstance(one.doing, (messages.Get, messages.Put)) for one in sessions)
        strangers = sum(one.account is None for one in sessions)
        return Figures(len(sessions), strangers, transfers, *self.moved())

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected to this process, by number."""
        now = time.monotonic()
        return [self._info(one, now) for one in sorted(self.sessions, key=lambda one: one.id)]

    def _info(self, session: Session, now: float) -> SessionInfo:
        account, doing = session.account, session.doing
        path = getattr(doing, "path", None) or getattr(doing, "source", None)
        target = getattr(doing, "target", None)
        return SessionInfo(
            id=session.id,
            user=None if account is None else account.name,
            peer=session.peer,
            since=RUN.by_system(session.since),
            request=None if doing is None else str(type(doing).__struct_config__.tag),
            path=path,
            target=target,
            quiet=max(0.0, now - session.quiet_since) if doing is None else 0.0,
            bytes_in=session.channel.bytes_in,
            bytes_out=session.channel.bytes_out,
            speed=self.watch.speed(session),
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
            self.watch.end(one, _KICKED)
        return sorted(one.id for one in chosen)

    # the end -----------------------------------------------------------------------------

    def _end_sessions(self) -> None:
        """Have all sessions end: what runs gets the grace time, then it is cut off."""
        os.close(self._stop_write)  # every session that waits wakes up
        self._stop_write = -1
        self._wait_for_sessions(lambda: self.grace)
        for session in list(self.sessions):
            logger.warning("%s: cut off: the grace time is over", session)
            session.cut()
        self._wait_for_sessions(lambda: _LAST_SECONDS)

    def _wait_for_sessions(self, seconds: Callable[[], float]) -> None:
        began = time.monotonic()
        while self.connections and time.monotonic() - began < seconds():
            time.sleep(0.02)

    def server_close(self) -> None:
        """Give everything back. The service can't be used afterwards."""
        while self._closing:
            self._closing.pop()()

    def _close_stop_pipe(self) -> None:
        os.close(self._stop_read)
        if self._stop_write >= 0:
            os.close(self._stop_write)
