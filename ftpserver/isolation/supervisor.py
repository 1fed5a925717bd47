"""The processes of isolated sessions, one for each connection of the server.

Lives here: all of them: starting one for each connection, looking after them, asking them.
Lives elsewhere: connections that have none yet (newcomers.py), the server's hold on one
(isolated_session.py), what those of one account share (account_groups.py), forking
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
"""The module whose ``main`` is a session's process."""
_LOOK_SECONDS = 1.0
"""That all processes together get to say what goes on."""
_MEASURED = 0.2
"""Seconds over which speed is measured, when somebody wants to know it."""
_TRANSFERS = frozenset(str(one.__struct_config__.tag) for one in TRANSFERS)
"""Their names, as sessions tell them."""


class IsolationSupervisor:
    """All isolated sessions of a server. Safe to use from many threads; ``_lock`` guards ``_all``.

    Raises:
        StateError: Processes can't be started, or there is no user for strangers.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._service = service = host.service
        self.stranger: tuple[int, int] | None = None
        if homes.is_privileged():
            try:
                found = homes.stranger(service.settings.session_user)
            except KeyError:
                name = service.settings.session_user
                raise StateError(f"--session-user {name}: there is no such system user") from None
            self.stranger = (found.uid, found.gid)
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
        """Say what of the protection is missing here."""
        abi = sandbox.landlock_abi()
        if self.stranger is None:
            logger.warning(
                "sessions run as the user of ftpd, which %s: %s",
                "has none of root's rights" if os.geteuid() == 0 else "isn't root",
                "Landlock confines them to their homes" if abi else "NOTHING CONFINES THEM",
            )
        elif _need_system_users(list(self._service.accounts)):
            logger.warning(
                "accounts without --system-user: their sessions run as root without its rights"
            )
        if abi < 6:
            had = f"version {abi}" if abi else "none"
            logger.warning("this kernel's Landlock (%s) doesn't keep sessions from signals", had)

    @property
    def workers(self) -> list[int]:
        """None of these processes stays: each ends with its session."""
        return []

    @property
    def silent(self) -> list[str]:
        """What is known of those that don't answer is told all the same."""
        return []

    # sessions come and go ----------------------------------------------------------------

    def serve(self, request: socket.socket, client_address: Any) -> None:
        """Serve a connection in a process of its own, once its first record has come."""
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
            session.begin(self._fork_server.spawn, self.empty, self.stranger)
        except StateError as error:
            logger.error("%s: can't be served: %s", session, error)

    def drop(self, request: socket.socket) -> None:
        """End a session that has not logged in."""
        for session in list(self._service.sessions):
            if session.request is request:
                session.abort()

    def _on_report(self, report: Ended) -> None:
        with self._lock:
            session = self._all.get(report.number)
        if report.status:
            who = f"session {report.number}" if session is None else str(session)
            logger.error("%s: its process is gone: %s", who, report.cause)

    def _forget(self, session: IsolatedSession) -> None:
        """A session's process has ended."""
        with self._lock:
            self._all.pop(session.id, None)
        self._service.forget(session)
        session.on_answered()
        self._close(session.request)

    def _close(self, request: socket.socket) -> None:
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client has gone first
        request.close()
        self._service.forget_connection(request)

    def sessions(self) -> list[IsolatedSession]:
        """Those that there are, by number."""
        with self._lock:
            return [self._all[number] for number in sorted(self._all)]

    # looking after them ------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Keep the leases of all sessions alive."""
        failure: Exception | None = None
        for session in self.sessions():
            try:
                session.heartbeat()
            except Exception as error:  # it stops no other's
                failure = error
        if failure is not None:
            raise failure

    def enforce(self) -> None:
        """End the processes that should have ended."""
        now = time.monotonic()
        for session in self.sessions():
            session.enforce(now)

    def apply_settings(self, settings: Settings, *, new_key: bool) -> None:
        """Other settings hold from now on. Raises StateError."""
        self._fork_server.configure(settings)
        for session in self.sessions():
            session.apply_settings(settings)

    def accept_no_more(self) -> None:
        """Those that wait for a process have come before."""

    def drain(self) -> None:
        """The account watcher does it: the sessions are among the service's."""

    def stop(self, grace: Callable[[], float]) -> None:
        """The service does it, for the same reason; nobody gets a process any more."""
        self._newcomers.close()

    def close(self) -> None:
        """End all processes, and the fork server."""
        self._newcomers.close()
        for session in self.sessions():
            session.kill()
        self._fork_server.stop()
        deadline = time.monotonic() + LAST_WORDS
        while self.sessions() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(self.empty)

    # telling of them (stats.Serving) -----------------------------------------------------

    def _look(self, sessions: Iterable[IsolatedSession]) -> None:
        """Have them say what goes on; who doesn't in time is told of as before."""
        wait([looked for one in sessions if (looked := one.look())], _LOOK_SECONDS)

    def stats(self) -> Stats:
        """How much goes on."""
        self._look(self.sessions())
        infos = self._infos()
        return Stats(
            len(infos),
            sum(one.user is None for one in infos),
            sum(one.request in _TRANSFERS for one in infos),
            *self._service.moved(),
        )

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected, by number."""
        self._look(self.sessions())
        busy = [one for one in self.sessions() if one.is_busy]
        if busy:  # how fast they are is known after another look
            time.sleep(_MEASURED)
            self._look(busy)
        return self._infos()

    def _infos(self) -> list[SessionInfo]:
        newcomers = [one for one in list(self._service.sessions) if isinstance(one, Newcomer)]
        found = {one.id: one.info() for one in newcomers}
        found |= {one.id: one.info() for one in self.sessions()}
        return [found[number] for number in sorted(found)]

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Raises NotFound."""
        return self._service.kick(session, user)


def _need_system_users(accounts: Sequence[Account]) -> bool:
    """Whether some session will be root's: also of the first account, which is made later."""
    return not accounts or any(one.system_user is None for one in accounts)


def _open_empty(state: Path) -> int:
    """A directory with nothing in it: all that a stranger's process sees. It is removed already, so
    that nothing can be made in it either, by whomever: chroot(2) tells the way out that leads by a
    directory below."""
    try:
        path = tempfile.mkdtemp(dir=state, prefix="empty-")
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.rmdir(path)
    except OSError as error:
        raise StateError(f"{state}: {error.strerror}") from error
