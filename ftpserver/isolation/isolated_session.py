"""The server's hold on the process of one isolated session, from start to end.

Lives here: having it forked, knowing how it is, ending it, and what is done when it has ended, in
whatever way. It stands for its session where the server looks at sessions (serving/connected.py).
Lives elsewhere: all of them together (supervisor.py), the process (processes/child.py), what is
done for it (handler.py, session_quota_store.py), its side (session_process.py).

A process that has ended is noticed by its socket, which closes with it; what the fork server
reports is only the cause. Whatever it held then ends at once: its place, its leases.
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
from ftpserver.interfaces import later, stand_in
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
"""Seconds that a process gets to take what it is told; else it is ended."""
_FRESH = 0.5
"""Seconds for which what a process said of itself holds, for a drain."""
LAST_WORDS = 5.0
"""Seconds from the moment a connection is cut until its process is killed."""
_LEAST_MEASURED = 0.1
"""Seconds over which speed is measured, at least."""
_SLACK = 5.0
"""Seconds beyond the time for log-ins, after which a stranger's process is killed."""


@dataclass
class Moved:
    """A session's bytes, as far as they are known: `connected.Traffic`."""

    bytes_in: int = 0
    bytes_out: int = 0
    ended: SessionEnded | None = None


class IsolatedSession:
    """One session's process. Safe to use from many threads.

    Args:
        groups: What the sessions of each account share.
        on_end: Called once its process has ended.

    Raises:
        StateError: There can't be one more.

    Attributes:
        id: Of the session.
        request: The connection, which the process has as well.
        shown_host: The address as it is recorded.
        account: Who is logged in; None before.
        token_id: Of the token that was logged in with.
        token_revoked: By this session itself, which goes on.
        renewing: It changes its own keys just now.
        leaving: It was told to end, and tells its client so.
        offence: What its client has done without logging in; None: nothing, as far as it is known.
        is_held_up: It has waited long for its process: to be late isn't its client's fault.
        doing: What it did when it was last asked, for a drain; not None also when it isn't known.
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
        """Called when its process has done with the client's first record, or its client is let in.
        Can be called again."""
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
        """When its bytes were counted for its speed, and how many it had moved."""
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
        self._process = stand_in(SessionForServer, self._child.endpoint)

    def targets(self) -> dict[type, object]:
        """All that its process may call."""
        return {QuotaStore: self.quota_store, ServerForSession: self._answers}

    def __str__(self) -> str:
        return f"{self.account.name}@{self.peer}" if self.account else self.peer

    # its process -------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the process; 0 before it is known."""
        return self._child.pid

    def begin(self, fork: Fork, empty: int, stranger: tuple[int, int] | None) -> None:
        """Have the process forked.

        Args:
            fork: See `ForkServer.spawn`.
            empty: A descriptor of the directory that it sees before log-in.
            stranger: The user and group that it is then; None: as the server.

        Raises:
            StateError: There can't be one more.
        """
        try:
            threading.Thread(target=self._run, name=f"isolated {self.id}", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._clear_up()
            raise StateError(f"no process can be started: {error}") from error
        address = list(self.client_address) if isinstance(self.client_address, tuple) else []
        note = ChildNote(self.id, self.since, address, self.incarnation, stranger)
        descriptors = (self.request.fileno(), self._service.stop_fd, empty)
        self._child.begin(fork, descriptors, msgspec.msgpack.encode(note))

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._child.kill()

    def give_up(self, why: str) -> None:
        """It does what no honest session does."""
        logger.warning("%s: its process is ended: %s", self, why)
        self.offence = Offence.CRASH
        self.kill()

    def _run(self) -> None:
        try:
            self._child.endpoint.run()
        finally:
            self._clear_up()

    def _clear_up(self) -> None:
        """The process is gone, or doesn't speak any more: nothing of it stays."""
        try:
            self._end()
        except Exception:
            logger.exception("%s: what it left could not be cleared up", self)
        finally:
            self._child.forget()
            self._on_end(self)

    def _end(self) -> None:
        self._over = True
        self._child.see_ended()
        self._answers.end_transfer()  # whatever comes of the rest, which may need the disk
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
            logger.warning("%s: ended in the middle of its work", self)
        if self.quota_store.holds:
            self._child.end_leases()
            self._server.look_soon()

    def heartbeat(self) -> None:
        """Keep its leases alive."""
        if self.quota_store.holds:
            self.ledger.heartbeat()

    # what it asks ------------------------------------------------------------------------

    def admit(self, admission: Admission) -> int:
        """Its client has logged in, and its process hears of it next. Returns the descriptor of the
        page with the account's pace, which stays open."""
        self.account, self.token_id = admission.account, admission.token_id
        self._slot = admission.slot
        self._service.limits.unauthenticated.leave(self.request)
        self.on_answered()
        return self._groups.join(admission.account.id, self.id)

    def moved(self, bytes_in: int, bytes_out: int) -> None:
        """So many bytes, as its process says."""
        self.channel = Moved(bytes_in, bytes_out, self.channel.ended)

    # what it is told ---------------------------------------------------------------------

    def _tell(self, tell: Callable[[], None]) -> None:
        if self.account is not None:  # a stranger's process listens to nobody: it is cut
            tell()

    def close(self, why: str) -> None:
        """As `Session.close`."""
        self.channel.ended = SessionEnded(why)
        if self.account is None:
            self.abort()
        else:
            self._tell(lambda: self._process.close(why))
            self.leaving = True

    def warn(self) -> None:
        """Nothing: its process finds out by itself that the server stops."""

    def say_alive(self) -> None:
        """Its own process does."""

    def close_now(self) -> None:
        """As `Session.close_now`."""
        self._tell(self._process.close_now)

    def close_idle(self) -> None:
        """As `Session.close_idle`."""
        self._tell(self._process.close_idle)

    def give_way(self, transfer: str) -> None:
        """As `Session.give_way`."""
        self._tell(lambda: self._process.give_way(transfer))

    def abort(self) -> None:
        """As `Session.abort`; a process that doesn't end of it is killed soon."""
        if self._cut_at is None:
            self._cut_at = time.monotonic()
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over

    def apply_account(self, account: Account) -> None:
        """As `Session.follow`."""
        self.account = account
        known = Known.of(account, homes.seen_as(account))
        self._tell(lambda: self._process.apply_account(known))
        limits, had = self._service.limits, self._slot
        slot = limits.enter(account, self.host, at_any_rate=True, had=had)
        if slot != had:
            self._slot = slot
            if self._over:
                slot, self._slot = self._slot, None
                limits.leave(slot)

    def apply_settings(self, settings: Settings) -> None:
        """Other settings hold from now on."""
        told = LiveSettings.of(settings)
        self._tell(lambda: self._process.apply_settings(told))

    def enforce(self, now: float) -> None:
        """End the process if it should have ended."""
        settings = self._service.settings
        if self._cut_at is not None and now >= self._cut_at + LAST_WORDS:
            self.give_up("its connection was cut")
        elif self.account is None and now >= self._child.began + settings.login_grace + _SLACK:
            self.give_up("it didn't log in in time")

    # what goes on ------------------------------------------------------------------------

    def look(self) -> Future[None] | None:
        """Ask it what goes on; done once that is known, or the process has ended. None for a
        stranger, of whom nothing is to be known."""
        if self.account is None:
            return None
        looked: Future[None] = Future()

        def came(asked: Future[Seen]) -> None:
            if asked.exception() is None:
                self._see(asked.result())
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
        """Whether it was at a request when it was last asked."""
        return self._seen is not None and self._seen.request is not None

    @property
    def doing(self) -> object:
        """None when it was waiting for a request lately. For a drain; asks for the next time."""
        now = time.monotonic()
        if now - self._seen_at >= _FRESH and (self._looking is None or self._looking.done()):
            self._looking = self.look()
        return self._seen is None or self._seen.request

    @property
    def quiet_since(self) -> float:
        """On ``time.monotonic()``."""
        return self._seen_at - (0.0 if self._seen is None else self._seen.quiet)

    def info(self) -> SessionInfo:
        """What is told of it, as it was last seen."""
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
