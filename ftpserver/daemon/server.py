"""The server: the one process that has a root, and its life from start to stop.

Lives here: opening the root's state and the listeners, what goes on in the background, reloading,
draining, stopping.
Lives elsewhere: what sessions share (serving/service.py), accepting (serving/listeners.py), what a
session does (serving/session.py), the command line (cli/main.py).
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from ftpserver import ballast, modes
from ftpserver.accounts.account import Account
from ftpserver.accounts.session_counts import SessionCounts
from ftpserver.admin.backup import begin_anew, is_backup
from ftpserver.audit.administration import given_by
from ftpserver.audit.notify import start_events
from ftpserver.audit.writer import Audit
from ftpserver.clock import RUN
from ftpserver.daemon.control import start_control
from ftpserver.daemon.discovery import Discovery, start_discovery
from ftpserver.daemon.systemd import check_handed
from ftpserver.database import open_to_serve
from ftpserver.errors import StateError
from ftpserver.migration import upgrade
from ftpserver.net import tls
from ftpserver.net.addresses import host_of
from ftpserver.net.descriptors import raise_descriptor_limit
from ftpserver.root_lock import RootLock
from ftpserver.serving.listeners import Listener, TcpListener, UnixListener
from ftpserver.serving.proxied import Proxied
from ftpserver.serving.service import Service
from ftpserver.serving.stats import Serving
from ftpserver.settings.table import TABLE, Settings, cautions
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import identify
from ftpserver.storage.quota import most_files
from ftpserver.storage.recount import clean, put_back_all, recount
from ftpserver.storage.runs import LEASE_SECONDS
from ftpserver.storage.upload_locks import Owners
from ftpwire.errors import DiskFull, Forbidden
from ftpwire.paths import printable

if TYPE_CHECKING:
    from ftpserver.isolation.supervisor import Isolation
    from ftpserver.processes.supervisor import Crew

logger = logging.getLogger("ftpd")

_TELL_SECONDS = 10.0
"""Seconds between two lines of the log about connections that are turned away."""
_SHORT_PATIENCE = 1.0
"""Seconds that a home's lock is waited for while other homes have to be counted, too."""
_Listener = TypeVar("_Listener", bound="Listener")


class _Key(NamedTuple):
    """A certificate and its key; of a server without TLS, nothing."""

    context: ssl.SSLContext | None = None
    fingerprint: str | None = None
    identity: bytes | None = None


class FtpServer(Service):
    """The server of one root, and the service of those sessions that its own threads serve.

    Raises:
        StateError: The root can't be used, or another server does.
        OSError: The address can't be bound.
    """

    def __init__(self, settings: Settings, listener: socket.socket | None = None) -> None:
        super().__init__(settings)
        self.proxied = Proxied(lambda: self.settings.login_grace)
        """Connections of proxies that haven't said whose they are."""
        self._turned_away = 0
        self._tell_turned_away = 0.0
        self.listeners: list[Listener] = []
        self.started = RUN.now()
        self._drained_at = math.inf
        self.load_settings: Callable[[], Settings] | None = None
        """Reads the settings again, for a reload. Raises StateError."""
        self.on_stop_asked: Callable[[], None] = lambda: None
        """Called, from any thread, when the server should be stopped by whoever runs it."""
        self.discovery: Discovery | None = None
        self.serving: Serving = self
        """Where the sessions are."""
        self.isolation: Isolation | None = None
        """The processes of sessions that have one each; None: they have threads."""
        self.crew: Crew | None = None
        """The workers that serve them; None: this process does."""
        self.session_counts = SessionCounts()
        """Of all sessions, in whichever process they are."""
        self.trouble: list[str] = []
        """What keeps it from serving everything, a line each."""
        self._running = False
        self._told_anothers: set[int] = set()
        self._handed_warnings: list[str] = []
        self._mode_warnings: list[str] = []
        self._look_read, self._look_write = os.pipe()
        self._closing += [lambda: os.close(self._look_read), lambda: os.close(self._look_write)]
        try:
            if listener is not None:
                self._closing.append(listener.close)
            self._open_state(settings)
            self._listen(settings, listener)
            if settings.isolation == "process":
                self._isolate()
            elif settings.workers > 1:
                self._hire(settings.workers)
            else:
                self._park_idle()
        except BaseException:
            self.server_close()
            raise

    def _isolate(self) -> None:
        """Have each session served by a process of its own."""
        from ftpserver.isolation.supervisor import Isolation  # of no use to others

        self.serving = self.isolation = Isolation(self)
        self._closing.append(self.isolation.close)

    def _hire(self, count: int) -> None:
        """Have workers serve the sessions."""
        from ftpserver.processes.supervisor import Crew  # of no use to others

        self.serving = self.crew = Crew(self, count)
        self._closing.append(self.crew.close)

    def _listen(self, settings: Settings, given: socket.socket | None) -> None:
        self.tcp: TcpListener | None = None
        if given is not None:
            self._handed_warnings = check_handed(given, settings)
            for warning in self._handed_warnings:
                logger.warning("%s", warning)
        if not settings.no_tcp or given is not None:
            self.tcp = self._keep(_tcp_listener(self, settings, given))
        if settings.unix is not None:
            self._keep(UnixListener(self, settings.unix, settings.unix_mode))
        if not self.listeners:
            raise StateError("there is nothing to listen at: no TCP, no Unix socket")

    def _keep(self, listener: _Listener) -> _Listener:
        self.listeners.append(listener)
        self._closing.append(listener.server_close)
        return listener

    def _open_state(self, settings: Settings) -> None:
        _make_root(settings)
        self._mend_modes(settings)
        lock = RootLock(settings.state)
        self._closing.append(lock.release)
        engine, trouble = open_to_serve(settings.state)
        self._closing.append(engine.dispose)
        keep = settings.staging_seconds
        ledger = Ledger(engine, keep_seconds=keep, state=settings.state)
        ledger.on_doubt = self.look_soon
        if trouble is None:
            _try_upgrade(settings)
            identify(engine, settings.state, copied=is_backup(settings.root))
            begin_anew(settings.state)
            ledger.doubt_marked()
            ledger.bound_kept()
            ballast.keep(settings.state)
        else:
            self.trouble.append(trouble)
            logger.error("%s", trouble)
        self._open_books(settings.root, engine, ledger, counts=self.session_counts)
        self.limits.strangers.on_dropped = self._drop_stranger
        self.owners = Owners()
        self.audit = Audit(
            settings.state,
            size=settings.audit_size,
            keep=settings.audit_keep,
            own_size=settings.audit_own_size,
        )
        self._closing.append(self.audit.close)
        self.fingerprint: str | None = None
        self._take_key(self._read_key(settings))

    def _mend_modes(self, settings: Settings) -> None:
        self._mode_warnings = modes.mend(settings)
        for warning in self._mode_warnings:
            logger.warning("%s", printable(warning))

    @staticmethod
    def _read_key(settings: Settings) -> _Key:
        """The certificate and key that the settings name. Raises StateError."""
        if settings.plaintext:
            return _Key()
        certificate, key = tls.files_of(settings)
        context = tls.make_context(certificate, key)
        for warning in tls.warnings_about(certificate) if settings.certificate else ():
            logger.warning("%s", warning)
        return _Key(context, tls.fingerprint_of(certificate), tls.identity_of(certificate, key))

    def _take_key(self, key: _Key) -> None:
        """From here on, connections get that one."""
        self._key = key
        self.tls_context = key.context
        self.fingerprint = key.fingerprint

    @property
    def warnings(self) -> list[str]:
        """What others may do that they shouldn't, and what the settings leave open to strangers, a
        line each."""
        return [*self._handed_warnings, *self._mode_warnings, *cautions(self.settings)]

    @property
    def listening(self) -> socket.socket:
        """What listens on the network; else the first that listens."""
        return self.listeners[0].socket

    @property
    def server_address(self) -> tuple[str, int]:
        """Where it listens on the network; an empty host where it doesn't."""
        if self.tcp is None:
            return ("", 0)
        host, port = self.tcp.server_address[:2]
        name = host.decode() if isinstance(host, (bytes, bytearray)) else str(host)
        return name, port

    @property
    def address(self) -> str:
        """Where it listens, as ``HOST:PORT``, or ``unix:PATH`` where it doesn't on the network."""
        if self.tcp is None:
            return f"unix:{self.listeners[0].server_address}"
        name, port = self.server_address
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    # connections -------------------------------------------------------------------------

    def admit(self, request: socket.socket, client_address: object) -> bool:
        """Whether a connection is taken; one too many is closed before it costs a thread."""
        if self.limits.admit(request, host_of(client_address, request)):
            return True
        self._turned_away += 1
        now = time.monotonic()
        if now >= self._tell_turned_away:
            self._tell_turned_away = now + _TELL_SECONDS
            logger.warning(
                "%d connections were turned away, one from %s just now; %d have not logged in",
                self._turned_away,
                host_of(client_address, request),
                len(self.limits.strangers),
            )
        return False

    def _drop_stranger(self, request: Hashable) -> None:
        """End a connection that has not logged in, to make room for another."""
        assert isinstance(request, socket.socket)
        if self.proxied.drop(request):
            return
        if self.crew is not None:
            self.crew.drop(request)
        elif self.isolation is not None:
            self.isolation.drop(request)
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
        self._put_back()
        self._running = True
        threads = [
            threading.Thread(target=self._housekeeping, name="housekeeping"),
            threading.Thread(target=self._keep_leases, name="heartbeat"),
            *self._serving_threads(),
        ]
        for listener in self.listeners:
            threads.append(threading.Thread(target=listener.serve_forever, name="accept"))
        for thread in threads:
            thread.start()
        control = start_control(self)
        self.discovery = start_discovery(self)
        events = start_events(self)
        self.audit.record("start", details={"address": self.address}, **given_by())
        try:
            yield
        finally:
            self.stop()
            self.audit.record("stop")
            self._stop_threads()
            if self.discovery is not None:
                self.discovery.stop()
            if events is not None:
                events.stop()
            if control is not None:
                control.stop()
            for thread in threads:
                thread.join()

    def stop(self) -> None:
        """Stop accepting, let running requests finish for the grace time, close everything.

        Can be called twice.
        """
        if self.stopping:
            return
        self.stopping = True
        self._stop_accepting()
        if self.crew is not None:
            self.crew.stop(lambda: self.grace)
        self._end_sessions()

    def _stop_accepting(self) -> None:
        if self.crew is not None:
            self.crew.accept_no_more()
        for listener in self.listeners:
            if self._running:
                listener.shutdown()
            listener.server_close()
        self.proxied.close()

    def press(self) -> None:
        """See to it that processes of sessions end that should have."""
        if self.isolation is not None:
            self.isolation.press()

    def ask_to_stop(self, grace: float | None = None) -> None:
        """Have whoever runs the server stop it; can be asked again, with another grace time.

        Args:
            grace: Seconds that running transfers get, instead of what the settings say.
        """
        if grace is not None:
            self.grace = grace
        self.on_stop_asked()

    def drain(self, seconds: float | None = None) -> None:
        """Accept nobody any more, let the sessions finish, then stop.

        Args:
            seconds: After which the server stops in any case.
        """
        if seconds is not None:
            self._drained_at = time.monotonic() + seconds
        if self.draining or self.stopping:
            return
        self.draining = True
        self._stop_accepting()
        if self.crew is not None:
            self.crew.drain()
        logger.info("draining: no new connections")

    def is_drained(self, now: float) -> bool:
        """Whether a drain is over: nobody is connected, or its time is up."""
        return not self.connections or now >= self._drained_at

    def reload(self) -> list[str]:
        """Take over what was changed on the disk; returns what that is, for people.

        Raises:
            StateError: It can't be used: all stays as it was.
        """
        before = self.fingerprint
        settings, told = self._changed_settings()
        key = self._read_key(settings)
        self._mend_modes(settings)
        if self.isolation is not None:
            self.isolation.follow(settings)
        if self.crew is not None:
            self.crew.follow(settings, new_key=key.identity != self._key.identity)
        self._take_key(key)
        self.follow(settings)
        if self.fingerprint is not None:
            changed = "the same key" if self.fingerprint == before else f"key {self.fingerprint}"
            told.insert(0, f"certificate: {changed}")
        for line in told:
            logger.info("reloaded: %s", line)
        for caution in cautions(settings):
            logger.warning("%s", caution)
        self.audit.record("reload", details={"changes": told})
        return told

    def _changed_settings(self) -> tuple[Settings, list[str]]:
        """The settings with what can be changed now, and what there is to say of each change."""
        if self.load_settings is None:
            return self.settings, []
        wanted = self.load_settings()
        taken: dict[str, Any] = {}
        told = []
        for name, setting in TABLE.items():
            value = getattr(wanted, name)
            if value == getattr(self.settings, name):
                continue
            if setting.live:
                taken[name] = value
            when = "" if setting.live else " takes a restart"
            told.append(f"{setting.name}: {setting.kind.tell(value)}{when}")
        return replace(self.settings, **taken), told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self.server_close()

    # what goes on in the background ------------------------------------------------------

    def _housekeeping(self) -> None:
        """Repair what a crash left; then what goes wrong while the server runs."""
        if self.trouble:
            return  # nothing can be written
        try:
            self.limits.tidy()
            self.recount_dirty()
            self.clean_all()
            self.registration.warn()
        except Exception:
            logger.exception("recounting failed; quotas keep their last figures")
        while self._wait_for_work():
            try:
                self._look_after_ballast()
                self.limits.tidy()
                self.recount_dirty()
            except Exception:
                logger.exception("housekeeping failed; it is tried again")

    def _keep_leases(self) -> None:
        """Keep what this server holds alive, however long a home takes to be counted meanwhile."""
        while not self.trouble and not _is_readable(self._stop_read, LEASE_SECONDS / 5):
            self.beat()

    def beat(self) -> None:
        """Keep all leases and sessions of this server alive, and end what nobody has any more."""
        beats = [self.ledger.heartbeat, self.limits.sessions.heartbeat]
        if self.isolation is not None:
            beats.append(self.isolation.heartbeat)
        for one in beats:
            try:
                one()
            except (DiskFull, Forbidden, StateError) as error:
                logger.error("leases can't be kept alive: %s; it is tried again", error)
            except Exception:
                logger.exception("leases can't be kept alive; it is tried again")
        jump = RUN.take_jump()
        if jump:
            logger.warning(
                "the system's clock was set %s by %.0f seconds: bans and kept uploads last as long "
                "as before; until a restart, what has expired stays so",
                "forward" if jump > 0 else "back",
                abs(jump),
            )

    def _look_after_ballast(self) -> None:
        """Use the room that is kept back when the disk is full; keep some again when it is not."""
        state = self.settings.state
        if ballast.is_full(state):
            ballast.release(state)
        else:
            ballast.keep(state)

    def _wait_for_work(self) -> bool:
        """Until it is time to look again; False when the server stops."""
        pipes = [self._stop_read, self._look_read]
        readable, _, _ = select.select(pipes, [], [], LEASE_SECONDS / 5)
        if self._look_read in readable:
            os.read(self._look_read, 4096)
        return self._stop_read not in readable

    def look_soon(self) -> None:
        """Have the homes counted that are in doubt, without waiting for the usual time."""
        os.write(self._look_write, b"\0")

    def _own_accounts(self, ids: Collection[int] | None = None) -> Iterator[Account]:
        """The accounts whose homes are not those of another server: there, nothing is touched.

        Args:
            ids: Only these; None: all.
        """
        for account in self.accounts if ids is None or ids else ():
            if ids is not None and account.id not in ids:
                continue
            try:
                other = self.ownership.claim(account.home, use=False)
            except OSError as error:
                logger.error("%s: the home can't be looked at: %s", account.name, error)
                continue
            if other is None:
                yield account
            elif account.id not in self._told_anothers:
                self._told_anothers.add(account.id)
                logger.error("%s: the home belongs to %s: it is left alone", account.name, other)

    def _put_back(self) -> None:
        """Before anybody comes in: what a crash left moved aside goes back to its name."""
        try:
            doubtful = self.ledger.in_doubt()
        except StateError as error:
            logger.error("what a crash left moved aside isn't looked for now: %s", error)
            return
        for account in self._own_accounts(doubtful):
            try:
                put_back_all(account.home)
            except OSError as error:
                logger.error("%s: what was moved aside isn't back: %s", account.name, error)

    def recount_dirty(self) -> None:
        """Count the homes of accounts whose used space is in doubt, and clean their staging.

        Those that others have locked just now come last: they hold up no other.
        """
        dirty = set(self.ledger.reap())
        locked = [
            one for one in self._own_accounts(dirty) if not self._recount(one, _SHORT_PATIENCE)
        ]
        for account in locked:
            if not self._recount(account):
                logger.error("%s: the home is locked by others, and not counted", account.name)

    def _recount(self, account: Account, patience: float | None = None) -> bool:
        """Count a home; False when others have locked it."""
        logger.info("%s: recounting the home", account.name)
        more = {} if patience is None else {"patience": patience}
        try:
            recount(self.ledger, account.id, Home(account.home), account.inner, **more)
        except TimeoutError:
            return False
        except (OSError, DiskFull, StateError) as error:  # it stops no other's recount
            logger.error("%s: the home can't be counted: %s", account.name, error)
        return True

    def clean_all(self) -> None:
        """Remove what nobody owns from the staging of all homes, whatever it is left from."""
        for account in self._own_accounts():
            try:
                clean(self.ledger, account.id, account.home)
            except OSError as error:
                logger.error("%s: staging can't be cleaned: %s", account.name, error)


def _is_readable(fd: int, seconds: float) -> bool:
    """Wait so long for a descriptor to be readable."""
    return bool(select.select([fd], [], [], seconds)[0])


def _make_root(settings: Settings) -> None:
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{settings.root}: can't be written: {error.strerror}") from error
    read_only = os.statvfs(settings.root).f_flag & os.ST_RDONLY
    if not read_only and not os.access(settings.root, os.W_OK | os.X_OK):
        raise StateError(f"{settings.root}: can't be written: permission denied")


def _try_upgrade(settings: Settings) -> None:
    """Bring the accounts file up to date, unless that has to wait: a full disk keeps no server
    from starting."""
    try:
        upgrade(settings.state, most_files)
    except StateError as error:
        logger.warning("%s; the next start tries again", error)


def _tcp_listener(
    service: FtpServer, settings: Settings, given: socket.socket | None
) -> TcpListener:
    """On the settings' address, or on a socket that somebody else has opened and listens on."""
    if given is not None:
        return TcpListener(service, given.family, given.getsockname()[:2], given=given)
    family, address = _address(settings)
    return TcpListener(service, family, address, dual=settings.host is None)


def _address(settings: Settings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and address to bind: all interfaces of both families when no host is given."""
    if settings.host is None:
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", settings.port)
        return socket.AF_INET, ("0.0.0.0", settings.port)
    host = settings.host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StateError(f"--host {settings.host}: {error.strerror}") from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))
