"""One isolated session in the server: its process, from start to end.

Lives here: starting the process, knowing its state, ending it, and cleaning up after it, for
whatever reason it ended. It represents its session where the server handles sessions
(serving/connected.py).
Lives elsewhere: all of them together (supervisor.py), child processes in general
(processes/child.py), the process's requests (handler.py, session_quota_store.py), the process
itself (session_process.py).

The end of a process is noticed by its socket, which closes with it; the fork server's report only
has the cause. All that it held is released at once: its session slot and its leases.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission
from ftpserver.accounts.penalties import Offence
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.interfaces import later, make_proxy
from ftpserver.isolation import homes
from ftpserver.isolation.handler import Answers
from ftpserver.isolation.interfaces import (
    ChildNote,
    Known,
    LiveSettings,
    Seen,
    ServerForSession,
    SessionForServer,
)
from ftpserver.isolation.session_quota_store import SessionQuotaStore
from ftpserver.net.addresses import host_of
from ftpserver.processes.child import ChildProcess, Fork
from ftpserver.serving.session import peer_name
from ftpserver.serving.stats import SessionInfo
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.quota import QuotaStore
from ftpwire.errors import SessionEnded

if TYPE_CHECKING:
    from ftpserver.isolation.account_groups import AccountGroups
    from ftpserver.serving.host import Host

logger = logging.getLogger("ftpd.isolation")

_PATIENCE = 2.0
"""Seconds that a process has to receive a message, before it is killed."""
_FRESH = 0.5
"""Seconds for which a process's report of its state is used again, for a drain."""
LAST_WORDS = 5.0
"""Seconds from aborting a connection until its process is killed."""
_LEAST_MEASURED = 0.1
"""The shortest time, in seconds, over which speed is measured."""
_SLACK = 5.0
"""Seconds after the time limit for a log-in until the process is killed."""


@dataclass
class Moved:
    """The bytes of a session, as last reported: a `connected.Traffic`."""

    bytes_in: int = 0
    bytes_out: int = 0
    ended: SessionEnded | None = None


class IsolatedSession:
    """One session's process. Safe to use from many threads.

    Args:
        groups: What the sessions of each account share.
        on_end: Called once its process has ended.

    Raises:
        StateError: The process cannot be started.

    Attributes:
        id: The session's number.
        request: The connection, which the process has as well.
        shown_host: The address as audit records have it.
        account: The account of the session; None before log-in.
        token_id: The token that was used to log in.
        token_revoked: True if this session itself revoked its token; it stays open.
        renewing: True while it changes its own password or tokens.
        leaving: True if it is closing, and informs its client.
        offence: The offence of its client before log-in; None for none known.
        is_held_up: True if it waited long for its process: then lateness is not its client's fault.
        doing: The last known state, for a drain; not None either if that is unknown.
    """

    def __init__(
        self,
        server: Host,
        groups: AccountGroups,
        number: int,
        request: socket.socket,
        address: Any,
        on_end: Callable[[IsolatedSession], None],
    ) -> None:
        self._server, self._service = server, server.service
        self._groups = groups
        self._on_end = on_end
        self.on_answered: Callable[[], None] = lambda: None
        """Called once its process has handled the client's first record, or the client has logged
        in. May be called again."""
        self.id = number
        self.since = RUN.now()
        self.request = request
        self.client_address = address
        self.peer, self.host = peer_name(address), host_of(address, request)
        self.shown_host = (self.peer.rpartition(":")[0] or self.peer).strip("[]")
        self.account: Account | None = None
        self.token_id: str | None = None
        self.token_revoked = False
        self.renewing = False
        self.leaving = False
        self.channel = Moved()
        self.offence: Offence | None = None
        self.is_held_up = False
        self._slot: str | None = None
        self._cut_at: float | None = None
        self._over = False
        self._seen: Seen | None = None
        self._seen_at = 0.0
        self._measured: tuple[float, int] | None = None
        """The time of the last measurement of its speed, and the bytes transferred by then."""
        self._speed = 0.0
        self._looking: Future[None] | None = None
        main = self._service.ledger
        self.incarnation = f"{main.run}.{number}"
        self.ledger = Ledger(
            self._service.engine,
            main.node,
            self.incarnation,
            main.keep_seconds,
            main.run,
            state=main.state,
            syncs=main.syncs,
        )
        self.ledger.on_doubt = main.on_doubt
        self.ledger.on_unmeasured = lambda account_id: main.on_unmeasured(account_id)
        self.ledger.on_disk_full = lambda account_id, size: main.on_disk_full(account_id, size)
        self._answers = Answers(self._service, self)
        self.quota_store = SessionQuotaStore(self.ledger, self._answers.account)
        self._child = ChildProcess(
            number,
            f"session {number}",
            self.incarnation,
            main,
            self.targets(),
            patience=_PATIENCE,
            may_log=self._answers.log_allowance.take,
        )
        self._process = make_proxy(SessionForServer, self._child.endpoint)

    def targets(self) -> dict[type, object]:
        """Return the objects whose methods its process may call."""
        return {QuotaStore: self.quota_store, ServerForSession: self._answers}

    def __str__(self) -> str:
        return f"{self.account.name}@{self.peer}" if self.account else self.peer

    # its process -------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process id; 0 before it is known."""
        return self._child.pid

    def begin(self, fork: Fork, empty: int, before_login: tuple[int, int] | None) -> None:
        """Start the process.

        Args:
            fork: See `ForkServer.spawn`.
            empty: The descriptor of the directory that is the process's root before log-in.
            before_login: The user and group that it runs as before log-in; None for the server's.

        Raises:
            StateError: It cannot be started.
        """
        try:
            threading.Thread(target=self._run, name=f"isolated {self.id}", daemon=True).start()
        except RuntimeError as error:  # the limit of threads
            self._clear_up()
            raise StateError(f"cannot start a process: {error}") from error
        address = list(self.client_address) if isinstance(self.client_address, tuple) else []
        note = ChildNote(self.id, self.since, address, self.incarnation, before_login)
        descriptors = (self.request.fileno(), self._service.stop_fd, empty)
        self._child.begin(fork, descriptors, msgspec.msgpack.encode(note))

    def kill(self) -> None:
        """Kill the process at once, whatever it is doing."""
        self._child.kill()

    def give_up(self, why: str) -> None:
        """Kill a process that does what no honest session does."""
        logger.warning("%s: killing its process: %s", self, why)
        self.offence = Offence.CRASH
        self.kill()

    def _run(self) -> None:
        try:
            self._child.endpoint.run()
        finally:
            self._clear_up()

    def _clear_up(self) -> None:
        """Release all that the process held, once it has ended or broken off its connection."""
        try:
            self._end()
        except Exception:
            logger.exception("%s: cleaning up after its process failed", self)
        finally:
            self._child.forget()
            self._on_end(self)

    def _end(self) -> None:
        self._over = True
        self._child.see_ended()
        self._answers.end_transfer()  # first, as the rest may need the disk and fail
        account = self.account
        if account is not None:
            self._groups.leave(account.id, self.id)
        elif self.offence is not None and not (
            self.is_held_up and self.offence is Offence.TOO_LATE
        ):
            self._service.limits.penalize(self.host, self.offence)
        self._service.limits.leave(self._slot)
        self._service.ledger.take_over_waiting(self.ledger)
        if self.quota_store.leases:
            logger.warning("%s: its process ended during an operation", self)
        if self.quota_store.holds:
            self._child.end_leases()
            self._server.look_soon()

    def heartbeat(self) -> None:
        """Renew its leases."""
        if self.quota_store.holds:
            self.ledger.heartbeat()

    # its requests ------------------------------------------------------------------------

    def admit(self, admission: Admission) -> int:
        """Take note of a log-in, before the process is notified. Return the descriptor of the
        page with the account's pace, which stays open."""
        self.account, self.token_id = admission.account, admission.token_id
        self._slot = admission.slot
        self._service.limits.unauthenticated.leave(self.request)
        self.on_answered()
        return self._groups.join(admission.account.id, self.id)

    def moved(self, bytes_in: int, bytes_out: int) -> None:
        """Take note of the bytes transferred, as its process reports them."""
        self.channel = Moved(bytes_in, bytes_out, self.channel.ended)

    # messages to it ----------------------------------------------------------------------

    def _notify(self, notify: Callable[[], None]) -> None:
        # before log-in its process handles no messages: its connection is aborted instead
        if self.account is not None:
            notify()

    def close(self, why: str) -> None:
        """See `Session.close`."""
        self.channel.ended = SessionEnded(why)
        if self.account is None:
            self.abort()
        else:
            self._notify(lambda: self._process.close(why))
            self.leaving = True

    def warn(self) -> None:
        """Do nothing: its process notices by itself that the server stops."""

    def say_alive(self) -> None:
        """Do nothing: its process does so itself."""

    def close_now(self) -> None:
        """See `Session.close_now`."""
        self._notify(self._process.close_now)

    def close_idle(self) -> None:
        """See `Session.close_idle`."""
        self._notify(self._process.close_idle)

    def give_way(self, transfer: str) -> None:
        """See `Session.give_way`."""
        self._notify(lambda: self._process.give_way(transfer))

    def abort(self) -> None:
        """See `Session.abort`. A process that doesn't end because of it is killed soon."""
        if self._cut_at is None:
            self._cut_at = time.monotonic()
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection is closed already

    def apply_account(self, account: Account) -> None:
        """See `Session.apply_account`."""
        self.account = account
        known = Known.of(account, homes.seen_as(account))
        self._notify(lambda: self._process.apply_account(known))
        limits, had = self._service.limits, self._slot
        slot = limits.enter(account, self.host, at_any_rate=True, had=had)
        if slot != had:
            self._slot = slot
            # `_end` runs in another thread: it sets `_over` before it releases `_slot`, so a slot
            # that it may have missed is released here; releasing one twice does no harm
            if self._over:
                slot, self._slot = self._slot, None
                limits.leave(slot)

    def apply_settings(self, settings: Settings) -> None:
        """Apply changed settings."""
        changed = LiveSettings.of(settings)
        self._notify(lambda: self._process.apply_settings(changed))

    def enforce(self, now: float) -> None:
        """Kill the process if it should have ended."""
        settings = self._service.settings
        if self._cut_at is not None and now >= self._cut_at + LAST_WORDS:
            self.give_up("it didn't end after its connection was aborted")
        elif self.account is None and now >= self._child.began + settings.login_grace + _SLACK:
            self.give_up("it didn't log in in time")

    # its state ---------------------------------------------------------------------------

    def look(self) -> Future[None] | None:
        """Ask the process for its state. Return a Future that is done once the reply has come or
        the process has ended; None before log-in, when it handles no requests."""
        if self.account is None:
            return None
        looked: Future[None] = Future()

        def came(future: Future[Seen]) -> None:
            if future.exception() is None:
                self._see(future.result())
            looked.set_result(None)

        later(self._process.look)().add_done_callback(came)
        return looked

    def _see(self, seen: Seen) -> None:
        now, moved = time.monotonic(), seen.bytes_in + seen.bytes_out
        self._seen, self._seen_at = seen, now
        self.channel.bytes_in, self.channel.bytes_out = seen.bytes_in, seen.bytes_out
        before, had = self._measured or (now - 1, moved)
        if now - before >= _LEAST_MEASURED:
            self._speed = max(0, moved - had) / (now - before)
            self._measured = now, moved

    @property
    def is_busy(self) -> bool:
        """True if it was handling a request when it last reported."""
        return self._seen is not None and self._seen.request is not None

    @property
    def doing(self) -> object:
        """None if it was lately waiting for a request. For a drain; renews an old report."""
        now = time.monotonic()
        if now - self._seen_at >= _FRESH and (self._looking is None or self._looking.done()):
            self._looking = self.look()
        return self._seen is None or self._seen.request

    @property
    def quiet_since(self) -> float:
        """The time since when it has been quiet, by ``time.monotonic()``."""
        return self._seen_at - (0.0 if self._seen is None else self._seen.quiet)

    def info(self) -> SessionInfo:
        """Return the session's last known state."""
        seen = self._seen or Seen(None, None, None, time.monotonic() - self._child.began, 0, 0)
        return SessionInfo(
            id=self.id,
            user=None if self.account is None else self.account.name,
            peer=self.peer,
            since=RUN.by_system(self.since),
            request=seen.request,
            path=seen.path,
            target=seen.target,
            quiet=seen.quiet,
            bytes_in=seen.bytes_in,
            bytes_out=seen.bytes_out,
            speed=self._speed if self.is_busy else 0.0,
        )
