"""The processes of isolated sessions, one for each connection of the server.

Lives here: starting them, supervising them, and requests to all of them.
Lives elsewhere: connections without a process (newcomers.py), one process in the server
(isolated_session.py), what sessions of one account share (account_groups.py), forking
(processes/forkserver.py), accepting connections (serving/listeners.py).
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpserver.accounts.account import Account
from ftpserver.errors import StateError
from ftpserver.isolation import homes, sandbox
from ftpserver.isolation.account_groups import AccountGroups
from ftpserver.isolation.isolated_session import LAST_WORDS, IsolatedSession
from ftpserver.isolation.newcomers import Newcomer, Newcomers
from ftpserver.processes.forkserver import Ended, ForkServer
from ftpserver.serving.service import TRANSFERS
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings.table import Settings

if TYPE_CHECKING:
    from ftpserver.serving.host import Host

logger = logging.getLogger("ftpd.isolation")

CHILD = "ftpserver.isolation.session_process"
"""The module whose ``main`` runs a session's process."""
_LOOK_SECONDS = 1.0
"""Seconds that all processes together have to report their state."""
_MEASURED = 0.2
"""Seconds over which speed is measured for a list of sessions."""
_TRANSFERS = frozenset(str(one.__struct_config__.tag) for one in TRANSFERS)
"""The names of transfers in reports of sessions."""


class IsolationSupervisor:
    """All isolated sessions of a server. Safe to use from many threads; ``_lock`` guards ``_all``.

    Raises:
        StateError: Processes cannot be started, or --session-user doesn't exist.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._service = service = host.service
        self.identity_before_login: tuple[int, int] | None = None
        if homes.is_privileged():
            try:
                found = homes.identity_before_login(service.settings.session_user)
            except KeyError:
                name = service.settings.session_user
                raise StateError(f"--session-user {name}: there is no such system user") from None
            self.identity_before_login = (found.uid, found.gid)
        self._lock = threading.Lock()
        self._all: dict[int, IsolatedSession] = {}
        self._groups = AccountGroups()
        self._newcomers = Newcomers(service, self._start, self._close)
        self.empty = _open_empty(service.settings.state)
        try:
            self._fork_server = ForkServer(CHILD, service.settings, self._on_report)
        except BaseException:
            os.close(self.empty)
            raise
        self._warn()

    def _warn(self) -> None:
        """Log which parts of the protection are missing on this system."""
        abi = sandbox.landlock_abi()
        if self.identity_before_login is None:
            logger.warning(
                "sessions run as the user of ftpd, which %s: %s",
                "is root without the needed capabilities" if os.geteuid() == 0 else "is not root",
                "Landlock confines them to their homes" if abi else "NOTHING CONFINES THEM",
            )
        elif _need_system_users(list(self._service.accounts)):
            logger.warning(
                "sessions of accounts without --system-user run as root without its capabilities"
            )
        if abi < 6:
            had = f"version {abi}" if abi else "none"
            logger.warning(
                "this kernel's Landlock (%s) does not keep sessions from sending signals", had
            )

    @property
    def workers(self) -> list[int]:
        """An empty list: there are no workers, as each process ends with its session."""
        return []

    @property
    def silent(self) -> list[str]:
        """An empty list: a session that doesn't reply is listed with its last known state."""
        return []

    # sessions come and go ----------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Serve a connection in a process of its own, once its first record has arrived."""
        self._service.connections.add(request)
        self._newcomers.take(request, client_address)

    def _start(self, newcomer: Newcomer) -> None:
        service = self._service
        session = IsolatedSession(
            self._host,
            self._groups,
            newcomer.id,
            newcomer.request,
            newcomer.client_address,
            self._forget,
        )
        session.since, session.is_held_up = newcomer.since, newcomer.is_held_up
        session.on_answered = lambda: self._newcomers.answered(newcomer)
        with self._lock:
            self._all[session.id] = session
        service.sessions.add(session)
        try:
            session.begin(self._fork_server.spawn, self.empty, self.identity_before_login)
        except StateError as error:
            logger.error("%s: cannot serve the connection: %s", session, error)

    def drop(self, request: socket.socket) -> None:
        """Abort a session that has not logged in."""
        for session in list(self._service.sessions):
            if session.request is request:
                session.abort()

    def _on_report(self, report: Ended) -> None:
        with self._lock:
            session = self._all.get(report.number)
        if report.status:
            who = f"session {report.number}" if session is None else str(session)
            logger.error("%s: its process has ended: %s", who, report.cause)

    def _forget(self, session: IsolatedSession) -> None:
        """Close the connection of a session whose process has ended."""
        with self._lock:
            self._all.pop(session.id, None)
        self._service.forget(session)
        session.on_answered()
        self._close(session.request)

    def _close(self, request: socket.socket) -> None:
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client has closed first
        request.close()
        self._service.forget_connection(request)

    def sessions(self) -> list[IsolatedSession]:
        """Return all sessions with a process, by number."""
        with self._lock:
            return [self._all[number] for number in sorted(self._all)]

    # supervising them --------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Renew the leases of all sessions."""
        failure: Exception | None = None
        for session in self.sessions():
            try:
                session.heartbeat()
            except Exception as error:  # it must not keep the others from being renewed
                failure = error
        if failure is not None:
            raise failure

    def enforce(self) -> None:
        """Kill the processes that should have ended."""
        now = time.monotonic()
        for session in self.sessions():
            session.enforce(now)

    def apply_settings(self, settings: Settings, *, new_key: bool) -> None:
        """Apply changed settings. Raises StateError."""
        self._fork_server.configure(settings)
        for session in self.sessions():
            session.apply_settings(settings)

    def accept_no_more(self) -> None:
        """Do nothing: connections that wait for a process were accepted before."""

    def drain(self) -> None:
        """Do nothing: the account watcher drains all sessions of the service."""

    def stop(self, grace: Callable[[], float]) -> None:
        """Start no further processes. The service stops its sessions itself."""
        self._newcomers.close()

    def close(self) -> None:
        """Kill all processes, and stop the fork server."""
        self._newcomers.close()
        for session in self.sessions():
            session.kill()
        self._fork_server.stop()
        deadline = time.monotonic() + LAST_WORDS
        while self.sessions() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(self.empty)

    # reporting them (stats.Serving) ------------------------------------------------------

    def _look(self, sessions: Iterable[IsolatedSession]) -> None:
        """Ask sessions for their state. Without a reply in time, the last known state stays."""
        wait([looked for one in sessions if (looked := one.look())], _LOOK_SECONDS)

    def stats(self) -> Stats:
        """Return the present numbers."""
        self._look(self.sessions())
        infos = self._infos()
        return Stats(
            len(infos),
            sum(one.user is None for one in infos),
            sum(one.request in _TRANSFERS for one in infos),
            *self._service.moved(),
        )

    def session_infos(self) -> list[SessionInfo]:
        """Return the connected sessions, by number."""
        self._look(self.sessions())
        busy = [one for one in self.sessions() if one.is_busy]
        if busy:  # their speed is measured by a second report
            time.sleep(_MEASURED)
            self._look(busy)
        return self._infos()

    def _infos(self) -> list[SessionInfo]:
        newcomers = [one for one in list(self._service.sessions) if isinstance(one, Newcomer)]
        found = {one.id: one.info() for one in newcomers}
        found |= {one.id: one.info() for one in self.sessions()}
        return [found[number] for number in sorted(found)]

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """Close a session, or all of a user's. Raises NotFound."""
        return self._service.kick(session, user)


def _need_system_users(accounts: Sequence[Account]) -> bool:
    """Return True if a session would run as root, also one of the first account, made later."""
    return not accounts or any(one.system_user is None for one in accounts)


def _open_empty(state: Path) -> int:
    """Open an empty directory, the root of processes before log-in.

    It is removed already, so that no process can make anything in it: with a directory below its
    root, a process could break out (chroot(2)).
    """
    try:
        path = tempfile.mkdtemp(dir=state, prefix="empty-")
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.rmdir(path)
    except OSError as error:
        raise StateError(f"{state}: {error.strerror}") from error
