"""The server: the one process that has a root, and its life from start to stop.

Lives here: opening the root's state and the listeners, reloading, draining, stopping.
Lives elsewhere: what sessions share (serving/service.py), accepting (serving/listeners.py), what a
session does (serving/session.py), repairing homes (housekeeping.py), limits of the trash
(trash_keeping.py), other background services (assembly.py), the command line (cli/main.py).
"""

from __future__ import annotations

import logging
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Self, TypeVar

from ftpserver import ballast, modes
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.tallies import Tallies
from ftpserver.admin.backup import begin_anew, is_backup
from ftpserver.audit.administration import given_by
from ftpserver.audit.writer import Audit
from ftpserver.clock import RUN
from ftpserver.daemon.background import Background
from ftpserver.daemon.housekeeping import ClockWatch, Housekeeping
from ftpserver.daemon.systemd import check_handed
from ftpserver.daemon.trash_keeping import TrashKeeping, log_trash_policy
from ftpserver.database import open_to_serve
from ftpserver.errors import StateError
from ftpserver.migration import brings_trash, upgrade
from ftpserver.net import tls
from ftpserver.net.addresses import host_of
from ftpserver.net.descriptors import raise_descriptor_limit
from ftpserver.root_lock import RootLock
from ftpserver.serving.heartbeat import Heartbeat, Holder
from ftpserver.serving.host import Supervisor
from ftpserver.serving.listeners import Listener, TcpListener, UnixListener, tcp_listener
from ftpserver.serving.proxied import Proxied
from ftpserver.serving.quiet import Quiet
from ftpserver.serving.service import Service
from ftpserver.serving.stats import Serving
from ftpserver.settings.table import AUTO, TABLE, Settings, cautions
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import identify
from ftpserver.storage.quota import most_files
from ftpwire.paths import printable

logger = logging.getLogger("ftpd")

_LOG_SECONDS = 10.0
"""Seconds between two lines of the log about connections that were turned away."""
_Listener = TypeVar("_Listener", bound="Listener")


class _Key(NamedTuple):
    """A certificate and its key; without TLS, all of its fields are None."""

    context: ssl.SSLContext | None = None
    fingerprint: str | None = None
    identity: bytes | None = None


class FtpServer:
    """The server of one root. For listeners and supervisors it is a `serving.host.Host`.

    Args:
        settings: The server's settings.
        listener: A socket that listens already, handed over by systemd.

    Attributes:
        service: The objects that the sessions in this process share.
        supervisor: Manages the processes that serve the connections; None if this process does.
        tallies: Counters for the sessions of all processes.
        housekeeping: Repairs what a crash left in the homes.
        trash: Keeps the trash of all accounts within its limits.
        heartbeat: Keeps the leases of this process alive.
        backgrounds: Further services that `running` starts and stops; add them before.
        trouble: Problems that keep it from serving everything, one line per problem.

    Raises:
        StateError: The root cannot be used, or another server uses it.
        OSError: The address cannot be bound.
    """

    service: Service
    housekeeping: Housekeeping
    trash: TrashKeeping

    def __init__(self, settings: Settings, listener: socket.socket | None = None) -> None:
        self.proxied = Proxied(lambda: self.settings.login_grace)
        self.listeners: list[Listener] = []
        self.supervisor: Supervisor | None = None
        self.backgrounds: list[Background] = []
        self.tallies = Tallies.empty(lambda: self.settings.max_user_transfers)
        self.started = RUN.now()
        self.load_settings: Callable[[], Settings] | None = None
        """Reads the settings again, for a reload. Raises StateError."""
        self.on_stop_requested: Callable[[], None] = lambda: None
        """Called, from any thread, when the caller of `running` should leave its context."""
        self.on_quiet: Callable[[], None] = lambda: None
        """Called when the sessions of this process have become idle."""
        self.fingerprint: str | None = None
        self.trouble: list[str] = []
        self._turned_away = 0
        self._log_turned_away = 0.0
        self._drained_at = math.inf
        self._accepting: dict[Listener, threading.Thread] = {}
        self._handed_warnings: list[str] = []
        self._mode_warnings: list[str] = []
        with ExitStack() as stack:
            if listener is not None:
                stack.callback(listener.close)
            self._open_state(settings, stack)
            self._listen(settings, listener, stack)
            self._begin_to_serve(settings, stack)
            self._stack = stack.pop_all()

    def _open_state(self, settings: Settings, stack: ExitStack) -> None:
        _make_root(settings)
        self._mend_modes(settings)
        lock = RootLock(settings.state)
        stack.callback(lock.release)
        is_first_with_trash = brings_trash(settings.state)
        engine, trouble = open_to_serve(settings.state)
        stack.callback(engine.dispose)
        ledger = Ledger(engine, keep_seconds=settings.staging_seconds, state=settings.state)
        if trouble is None:
            _try_upgrade(settings)
            identify(engine, settings.state, copied=is_backup(settings.root))
            begin_anew(settings.state)
            ledger.doubt_marked()
            ledger.bound_kept()
            ballast.keep(settings.state)
            if is_first_with_trash:
                log_trash_policy(settings)
        else:
            self.trouble.append(trouble)
            logger.error("%s", trouble)
        audit = Audit(
            settings.state,
            size=settings.audit_size,
            keep=settings.audit_keep,
            own_size=settings.audit_own_size,
        )
        stack.callback(audit.close)
        tallies = self.tallies
        self.service = Service(
            settings,
            engine,
            ledger,
            audit,
            counts=tallies.sessions,
            transfers=tallies.transfers,
            queue=tallies.queue,
            changes=tallies.changes,
        )
        stack.callback(self.service.close)
        self.service.limits.unauthenticated.on_dropped = self._drop_unauthenticated
        service = self.service
        self._quiet = Quiet(service.connections, service.moved, lambda: self.on_quiet())
        service.watcher.on_look = self._looked
        self.housekeeping = Housekeeping(self.service)
        stack.callback(self.housekeeping.close)
        self.trash = TrashKeeping(self.service, self.housekeeping.own_accounts)
        stack.callback(self.trash.close)
        ledger.on_doubt = self.look_soon
        ledger.on_unmeasured = self.trash.measure_soon
        ledger.on_disk_full = self.trash.free_disk_space
        self._take_key(self._read_key(settings))

    def _listen(self, settings: Settings, given: socket.socket | None, stack: ExitStack) -> None:
        def keep(listener: _Listener) -> _Listener:
            self.listeners.append(listener)
            stack.callback(listener.server_close)
            return listener

        self.tcp: TcpListener | None = None
        if given is not None:
            self._handed_warnings = check_handed(given, settings)
            for warning in self._handed_warnings:
                logger.warning("%s", warning)
        if not settings.no_tcp or given is not None:
            self.tcp = keep(tcp_listener(self, settings, given))
        if settings.unix is not None:
            keep(UnixListener(self, settings.unix, settings.unix_mode))
        if not self.listeners:
            raise StateError("nothing to listen on: TCP is turned off, and there is no Unix socket")

    def _begin_to_serve(self, settings: Settings, stack: ExitStack) -> None:
        """Set up serving: by session processes, by workers, or by this process."""
        # each mode's modules are imported only when needed, to save memory
        if settings.isolation == "process":
            from ftpserver.isolation.supervisor import IsolationSupervisor

            self.supervisor = IsolationSupervisor(self)
        elif settings.most_workers == 1:
            self.service.park_idle()
        elif settings.workers == AUTO:
            from ftpserver.processes.growing import GrowingSupervisor

            self.service.park_idle()
            self.supervisor = GrowingSupervisor(self, settings.most_workers)
        else:
            from ftpserver.processes.supervisor import WorkerSupervisor

            self.supervisor = WorkerSupervisor(self, settings.most_workers)
        holders: list[Holder] = [self.service.ledger, self.service.limits.sessions]
        if self.supervisor is not None:
            stack.callback(self.supervisor.close)
            holders.append(self.supervisor)
        self.heartbeat = Heartbeat(*holders, ClockWatch(), stop_fd=self.service.stop_fd)

    def _mend_modes(self, settings: Settings) -> None:
        self._mode_warnings = modes.mend(settings)
        for warning in self._mode_warnings:
            logger.warning("%s", printable(warning))

    @staticmethod
    def _read_key(settings: Settings) -> _Key:
        """Read the certificate and key that the settings name. Raises StateError."""
        if settings.plaintext:
            return _Key()
        certificate, key = tls.files_of(settings)
        context = tls.make_context(certificate, key)
        for warning in tls.warnings_about(certificate) if settings.certificate else ():
            logger.warning("%s", warning)
        return _Key(context, tls.fingerprint_of(certificate), tls.identity_of(certificate, key))

    def _take_key(self, key: _Key) -> None:
        """Use a key for connections from now on."""
        self._key = key
        self.service.tls_context = key.context
        self.fingerprint = key.fingerprint

    @property
    def warnings(self) -> list[str]:
        """Permissions that are too wide, settings that admit unknown users, and processes that
        don't answer; one line per warning."""
        silent = [f"{one} doesn't answer" for one in self.silent]
        return [*self._handed_warnings, *self._mode_warnings, *cautions(self.settings), *silent]

    @property
    def silent(self) -> list[str]:
        """Human-readable names of processes with sessions that don't answer at the moment."""
        return [] if self.supervisor is None else self.supervisor.silent

    @property
    def settings(self) -> Settings:
        """The present settings. A reload replaces them at any time."""
        return self.service.settings

    @property
    def accounts(self) -> Accounts:
        """The accounts of this root."""
        return self.service.accounts

    @property
    def serving(self) -> Serving:
        """The object that knows the sessions: the supervisor, else the service."""
        return self.service if self.supervisor is None else self.supervisor

    @property
    def listening(self) -> socket.socket:
        """The socket that listens on the network; if there is none, the first one."""
        return self.listeners[0].socket

    @property
    def server_address(self) -> tuple[str, int]:
        """The host and port where it listens on the network; an empty host if it doesn't."""
        if self.tcp is None:
            return ("", 0)
        host, port = self.tcp.server_address[:2]
        name = host.decode() if isinstance(host, (bytes, bytearray)) else str(host)
        return name, port

    @property
    def address(self) -> str:
        """The address where it listens: ``HOST:PORT``, or ``unix:PATH`` if it doesn't listen on the
        network."""
        if self.tcp is None:
            return f"unix:{self.listeners[0].server_address}"
        name, port = self.server_address
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    # connections -------------------------------------------------------------------------

    def admit(self, request: socket.socket, client_address: object) -> bool:
        """Return whether to accept a connection. One that exceeds a limit is closed before it costs
        a thread."""
        if self.service.limits.admit(request, host_of(client_address, request)):
            return True
        self._turned_away += 1
        now = time.monotonic()
        if now >= self._log_turned_away:
            self._log_turned_away = now + _LOG_SECONDS
            logger.warning(
                "%d connections were turned away, one from %s just now; unauthenticated: %d",
                self._turned_away,
                host_of(client_address, request),
                len(self.service.limits.unauthenticated),
            )
        return False

    def _drop_unauthenticated(self, request: Hashable) -> None:
        """Close an unauthenticated connection, so that another one can be accepted."""
        assert isinstance(request, socket.socket)
        if self.proxied.drop(request):
            return
        if self.supervisor is not None:
            self.supervisor.drop(request)
        else:
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has just ended

    # running -----------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve in the background while the context is open; then stop."""
        raise_descriptor_limit()
        # before any connection is accepted: no client must see a directory missing that a crash
        # left moved aside
        self.housekeeping.put_back()
        # with trouble, nothing can be written
        own: list[Background] = (
            [] if self.trouble else [self.housekeeping, self.trash, self.heartbeat]
        )
        started: list[Background] = []
        audit = self.service.audit
        try:
            for one in own:
                one.start()
                started.append(one)
            self.service.start()
            for listener in self.listeners:
                self._accept(listener)
            for one in self.backgrounds:
                one.start()
                started.append(one)
            audit.record("start", details={"address": self.address}, **given_by())
            yield
        finally:
            self.stop()
            audit.record("stop")  # after the sessions' last records: they have ended
            self.service.stop()
            while started:
                # in reverse order; the threads end because `self.stop` made `stop_fd` readable
                started.pop().stop()
            for thread in self._accepting.values():
                thread.join()

    def _accept(self, listener: Listener) -> None:
        """Accept a listener's connections, in a thread of its own."""
        thread = threading.Thread(target=listener.serve_forever, name="accept")
        thread.start()
        self._accepting[listener] = thread

    def stop(self) -> None:
        """Stop accepting connections, give running requests the grace time to finish, then close
        all sessions. Can be called twice.
        """
        service = self.service
        if service.stopping:
            return
        service.stopping = True
        self._stop_accepting()
        if self.supervisor is not None:
            self.supervisor.stop(lambda: service.grace)
        service.end_sessions()

    def _stop_accepting(self) -> None:
        if self.supervisor is not None:
            self.supervisor.accept_no_more()
        for listener in self.listeners:
            if listener in self._accepting:
                listener.shutdown()
            listener.server_close()
        self.proxied.close()

    def _looked(self, now: float) -> None:
        """Called in each round of the account watcher. Apply account changes to the sessions of
        other processes, and stop the server when it is drained."""
        self._quiet.look(now)
        if self.supervisor is not None:
            self.supervisor.enforce()
        if self.service.draining and self.is_drained(now):
            self.ask_to_stop()

    def look_soon(self) -> None:
        """Count the homes that are in doubt soon, without waiting for the usual time."""
        self.housekeeping.look_soon()

    def ask_to_stop(self, grace: float | None = None) -> None:
        """Ask the caller of `running` to stop the server. Can be called again, with another grace
        time.

        Args:
            grace: Seconds that running transfers get to finish; None for the setting.
        """
        if grace is not None:
            self.service.grace = grace
        self.on_stop_requested()

    def drain(self, seconds: float | None = None) -> None:
        """Stop accepting connections, let the sessions finish, then stop.

        Args:
            seconds: Seconds after which the server stops in any case; None for no limit.
        """
        if seconds is not None:
            self._drained_at = time.monotonic() + seconds
        if self.service.draining or self.service.stopping:
            return
        self.service.draining = True
        self._stop_accepting()
        if self.supervisor is not None:
            self.supervisor.drain()
        logger.info("draining: no new connections")

    def is_drained(self, now: float) -> bool:
        """Return whether a drain is over: no connection is left, or its time is up."""
        return not self.service.connections or now >= self._drained_at

    def reload(self) -> list[str]:
        """Reload settings, certificate and key. Return a human-readable line for each change.

        Raises:
            StateError: They cannot be used; nothing is changed.
        """
        before = self._key
        # what can fail comes before any change of this process, so a failure changes nothing
        settings, changes = self._changed_settings()
        key = self._read_key(settings)
        self._mend_modes(settings)
        if self.supervisor is not None:
            self.supervisor.apply_settings(settings, new_key=key.identity != before.identity)
        self._take_key(key)
        self.service.apply_settings(settings)
        self.trash.look_soon()
        if key.identity not in (None, before.identity):
            same = key.fingerprint == before.fingerprint
            change = "renewed for the same key" if same else f"key {key.fingerprint}"
            changes.insert(0, f"certificate: {change}")
        for line in changes:
            logger.info("reloaded: %s", line)
        for caution in cautions(settings):
            logger.warning("%s", caution)
        self.service.audit.record("reload", details={"changes": changes})
        return changes

    def _changed_settings(self) -> tuple[Settings, list[str]]:
        """Return the settings with the changes that a reload can apply, and a line about each
        changed setting."""
        if self.load_settings is None:
            return self.settings, []
        wanted = self.load_settings()
        taken: dict[str, Any] = {}
        changes = []
        for name, setting in TABLE.items():
            value = getattr(wanted, name)
            if value == getattr(self.settings, name):
                continue
            if setting.live:
                taken[name] = value
            when = "" if setting.live else " takes effect after a restart"
            changes.append(f"{setting.name}: {setting.kind.to_text(value)}{when}")
        return replace(self.settings, **taken), changes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and release everything. Can be called twice."""
        self.stop()
        self._stack.close()


def _make_root(settings: Settings) -> None:
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{settings.root}: cannot be written: {error.strerror}") from error
    read_only = os.statvfs(settings.root).f_flag & os.ST_RDONLY
    if not read_only and not os.access(settings.root, os.W_OK | os.X_OK):
        raise StateError(f"{settings.root}: cannot be written: permission denied")


def _try_upgrade(settings: Settings) -> None:
    """Upgrade the accounts database. If that fails, log it and go on: a full disk must not keep the
    server from starting."""
    try:
        upgrade(settings.state, most_files)
    except StateError as error:
        logger.warning("%s; the next start tries again", error)
