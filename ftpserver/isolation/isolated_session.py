"""The server's hold on the process of one isolated session, from birth to end.

Lives here: having it born, knowing how it is, ending it, and what is done when it has ended, in
whatever way. It stands for its session where the server looks at sessions (serving/connected.py).
Lives elsewhere: all of them together (supervisor.py), answers to what they ask (handler.py), their
side (session_process.py), forking (processes/forkserver.py).

A process that has ended is noticed by its socket, which closes with it; what the nursery reports is
only the cause. Whatever it held then ends at once: its place, its leases.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ftpserver import interfaces
from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission
from ftpserver.accounts.penalties import Offence
from ftpserver.clock import RUN
from ftpserver.isolation import homes
from ftpserver.isolation import messages as q
from ftpserver.isolation.handler import Answers
from ftpserver.net.addresses import host_of
from ftpserver.net.fd_passing import close_all
from ftpserver.processes.child import Fork
from ftpserver.processes.rpc import Carried, Peer, PeerGone
from ftpserver.serving.session import peer_name
from ftpserver.serving.stats import SessionInfo
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
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

    Attributes:
        id: Of the session.
        pid: Of the process; 0 before it is known.
        request: The connection, which the process has as well.
        shown_host: The address as it is recorded.
        account: Who is logged in; None before.
        token_id: Of the token that was logged in with.
        token_revoked: By this session itself, which goes on.
        renewing: It changes its own keys just now.
        leaving: It was told to end, and tells its client so.
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
        """Called when its process has done with the client's first record."""
        self.id = number
        self.pid = 0
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
        self._place: str | None = None
        self._transfer: str | None = None
        """Its running transfer. For the thread that reads what it asks."""
        self._began = time.monotonic()
        self._cut_at: float | None = None
        self._pidfd = -1
        self._lock = threading.Lock()
        """Guards ``_pidfd`` and ``_over``."""
        self._over = False
        self._offence: Offence | None = None
        self._seen: q.Seen | None = None
        self._seen_at = 0.0
        self._looking: Future[Carried] | None = None
        main = self._service.ledger
        self.incarnation = f"{main.run}.{number}"
        self.ledger = Ledger(
            self._service.engine,
            main.node,
            self.incarnation,
            main.keep_seconds,
            main.run,
            state=main.state,
        )
        self.ledger.on_doubt = main.on_doubt
        self._answers = Answers(self._service, self, self.ledger, self._admitted)
        ours, self._theirs = socket.socketpair()
        self._peer = Peer(
            ours,
            hears=q.AskedBySession,
            answers=q.AnsweredBySession,
            handle=self._handle,
            patience=_PATIENCE,
            name=f"session {number}",
        )

    def __str__(self) -> str:
        return f"{self.account.name}@{self.peer}" if self.account else self.peer

    # its process -------------------------------------------------------------------------

    def begin(
        self,
        spawn: Fork,
        empty: int,
        stranger: tuple[int, int] | None,
    ) -> None:
        """Have the process born.

        Args:
            spawn: See `Nursery.spawn`.
            empty: A descriptor of the directory that it sees before log-in.
            stranger: The user and group that it is then; None: as the server.

        Raises:
            StateError: There can't be one more.
        """
        threading.Thread(target=self._run, name=f"isolated {self.id}", daemon=True).start()
        try:
            note = q.Birth(
                self.id,
                self.since,
                list(self.client_address) if isinstance(self.client_address, tuple) else [],
                self.incarnation,
                stranger,
            )
            descriptors = (
                self.request.fileno(),
                self._theirs.fileno(),
                self._service.stop_fd,
                empty,
            )
            forked = spawn(self.id, descriptors, msgspec.msgpack.encode(note))
            forked.add_done_callback(self.born)
        finally:
            self._theirs.close()  # if it wasn't born, its end is noticed

    def born(self, done: Future[interfaces.Carried[int]]) -> None:
        """The process is there; or can't be, and its socket ends."""
        if (error := done.exception()) is not None:
            logger.error("%s: its process is gone: it could not be started: %s", self, error)
            return
        pid, descriptors = done.result()
        with self._lock:
            if not self._over:
                self.pid = pid
                if descriptors:
                    self._pidfd = descriptors.pop()
        close_all(descriptors)

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        with self._lock:
            if self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has ended
        self._peer.give_up()

    def give_up(self, why: str) -> None:
        """It does what no honest session does."""
        logger.warning("%s: its process is ended: %s", self, why)
        self._offence = Offence.CRASH
        self.kill()

    def _run(self) -> None:
        self._peer.run()
        try:
            self._finish()
        except Exception:
            logger.exception("%s: what it left could not be cleared up", self)
        finally:
            self._on_end(self)

    def _finish(self) -> None:
        """The process is gone, or doesn't speak any more: nothing of it stays."""
        with self._lock:
            self._over = True
            pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended, as it should
            finally:
                os.close(pidfd)
        self._peer.close()
        self.end_transfer()  # whatever comes of the rest, which may need the disk
        account = self.account
        if account is not None:
            self._groups.leave(account.id, self.id)
        elif self._offence is not None:
            self._service.limits.penalize(self.host, self._offence)
        self._service.limits.leave(self._place)
        self._service.ledger.take_over_waiting(self.ledger)
        if self._answers.leases:
            logger.warning("%s: ended in the middle of its work", self)
        if self._answers.holds:
            self._service.ledger.bury(self.incarnation)
            self._server.look_soon()

    def heartbeat(self) -> None:
        """Keep its leases alive."""
        if self._answers.holds:
            self.ledger.heartbeat()

    # what it asks ------------------------------------------------------------------------

    def _handle(self, asked: Any, descriptors: list[int]) -> Any:
        if isinstance(asked, q.Penalized):
            self._offence = self._offence or asked.offence
            return None
        if isinstance(asked, q.Answered):
            self.on_answered()
            return None
        if isinstance(asked, q.Over):
            self.channel = Moved(asked.bytes_in, asked.bytes_out, self.channel.ended)
            return None
        return self._answers.answer(asked)

    def _admitted(self, admission: Admission) -> int:
        self.account, self.token_id = admission.account, admission.token_id
        self._place = admission.place
        self._service.limits.strangers.leave(self.request)
        self.on_answered()
        return self._groups.join(admission.account.id, self.id)

    def begin_transfer(self, account: Account) -> str:
        """Count a transfer: a session has one at most. Raises TooMany."""
        self.end_transfer()
        self._transfer = self._service.limits.begin_transfer(account, self.give_way)
        return self._transfer

    def tell_idle(self, idle: bool) -> None:
        """Its transfer has moved no bytes for a while, or does so again."""
        if self._transfer is not None:
            self._service.limits.tell_idle(self._transfer, idle)

    def end_transfer(self) -> None:
        """Its transfer is over. Can be called twice."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            self._service.limits.end_transfer(transfer)

    # what it is told ---------------------------------------------------------------------

    def _tell(self, message: msgspec.Struct) -> None:
        if self.account is None:
            return  # a stranger's process listens to nobody: it is cut
        try:
            self._peer.tell(message)
        except PeerGone:
            pass  # it has ended

    def end(self, why: str) -> None:
        """As `Session.end`."""
        self.channel.ended = SessionEnded(why)
        if self.account is None:
            self.cut()
        else:
            self._tell(q.End(why))
            self.leaving = True

    def say_alive(self) -> None:
        """Its own process does."""

    def hasten(self) -> None:
        """As `Session.hasten`."""
        self._tell(q.Hasten())

    def dismiss(self) -> None:
        """As `Session.dismiss`."""
        self._tell(q.Dismiss())

    def give_way(self, transfer: str) -> None:
        """As `Session.give_way`."""
        self._tell(q.GiveWay(transfer))

    def cut(self) -> None:
        """As `Session.cut`; a process that doesn't end of it is killed soon."""
        if self._cut_at is None:
            self._cut_at = time.monotonic()
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is over

    def follow(self, account: Account) -> None:
        """As `Session.follow`."""
        self.account = account
        self._tell(q.Follow(q.known(account, homes.seen_as(account))))
        limits, had = self._service.limits, self._place
        place = limits.enter(account, self.host, at_any_rate=True, had=had)
        if place != had:
            self._place = place
            if self._over:
                place, self._place = self._place, None
                limits.leave(place)

    def apply_settings(self, settings: Settings) -> None:
        """Other settings hold from now on."""
        self._tell(q.ApplySettings(settings.stall, settings.idle_timeout, settings.limit_rate))

    def enforce(self, now: float) -> None:
        """End the process if it should have ended."""
        settings = self._service.settings
        if self._cut_at is not None and now >= self._cut_at + LAST_WORDS:
            self.give_up("its connection was cut")
        elif self.account is None and now >= self._began + settings.login_grace + _SLACK:
            self.give_up("it didn't log in in time")

    # what goes on ------------------------------------------------------------------------

    def look(self, *, speed: bool = False) -> Future[Carried] | None:
        """Ask it what goes on; None for a stranger, of whom nothing is to be known."""
        return None if self.account is None else self._peer.ask_later(q.Look(speed))

    def saw(self, seen: q.Seen) -> None:
        """It has said so."""
        self._seen, self._seen_at = seen, time.monotonic()
        self.channel.bytes_in, self.channel.bytes_out = seen.bytes_in, seen.bytes_out

    @property
    def doing(self) -> object:
        """None when it was waiting for a request lately. For a drain; asks for the next time."""
        now = time.monotonic()
        if now - self._seen_at >= _FRESH and (self._looking is None or self._looking.done()):
            self._looking = self.look()
            if self._looking is not None:
                self._looking.add_done_callback(self._looked)
        return self._seen is None or self._seen.request

    @property
    def quiet_since(self) -> float:
        """On ``time.monotonic()``."""
        return self._seen_at - (0.0 if self._seen is None else self._seen.quiet)

    def _looked(self, done: Future[Carried]) -> None:
        if done.exception() is None and isinstance(done.result().message, q.Seen):
            self.saw(done.result().message)

    def info(self) -> SessionInfo:
        """What is told of it, as it was last seen."""
        seen = self._seen or q.Seen(None, None, None, time.monotonic() - self._began, 0, 0, 0.0)
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
            speed=seen.speed,
        )
