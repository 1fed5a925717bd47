"""The server's side of isolated sessions: its hold on their processes, from birth to end.

Lives here: having processes born, knowing how they are, ending them, and what is done when one has
ended, in whatever way. It stands for its session where the server looks at sessions
(serving/account_watch.py, serving/service.py).
Lives elsewhere: answers to what they ask (handler.py), their side (session_process.py), forking
(processes/forkserver.py), accepting connections (serving/listeners.py).

A process that has ended is noticed by its socket, which closes with it; what the nursery reports is
only the cause. Whatever it held then ends at once: its place, its leases, its pieces.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ftpserver.accounts.account import Account
from ftpserver.accounts.authenticator import Admission
from ftpserver.accounts.penalties import Offence
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.isolation import homes, sandbox
from ftpserver.isolation import messages as q
from ftpserver.isolation.handler import Answers
from ftpserver.net.addresses import host_of
from ftpserver.processes.brokering import Broker, Brokered, Share, Unshare
from ftpserver.processes.forkserver import Ended, Nursery, Spawned
from ftpserver.processes.rpc import Carried, Peer, PeerGone
from ftpserver.processes.shared_rate import make_page
from ftpserver.serving.session import peer_name
from ftpserver.serving.stats import Figures, SessionInfo
from ftpserver.settings.table import Settings
from ftpserver.storage.ledger import Ledger
from ftpwire.errors import Busy, SessionEnded

if TYPE_CHECKING:
    from ftpserver.daemon.server import FtpServer
    from ftpserver.serving.session import Session

logger = logging.getLogger("ftpd.isolation")

CHILD = "ftpserver.isolation.session_process"
"""The module whose ``main`` is a session's process."""
_PATIENCE = 2.0
"""Seconds that a process gets to take what it is told; else it is ended."""
_LOOK_SECONDS = 1.0
"""That all processes together get to say what goes on."""
_FRESH = 0.5
"""Seconds for which what a process said of itself holds, for a drain."""
_LAST_WORDS = 5.0
"""Seconds from the moment a connection is cut until its process is killed."""
_SLACK = 5.0
"""Seconds beyond the time for log-ins, after which a stranger's process is killed."""
_MOST_SHARED = 64
"""Uploads of one session that others bring pieces of; an honest one has one."""


@dataclass
class Moved:
    """A session's bytes, as far as they are known. Stands for its channel."""

    bytes_in: int = 0
    bytes_out: int = 0
    ended: SessionEnded | None = None


class IsolatedSession:
    """One session's process. Safe to use from many threads.

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
        self, isolation: Isolation, number: int, request: socket.socket, address: Any
    ) -> None:
        self._isolation = isolation
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
        self._shared: set[bytes] = set()
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
        self.incarnation = f"{isolation.run}.{number}"
        self.ledger = isolation.ledger_for(self.incarnation)
        self._answers = Answers(isolation.service, self, self.ledger, self._admitted)
        ours, self._theirs = socket.socketpair()
        self._peer = Peer(
            ours,
            hears=q.AskedBySession,
            answers=q.AnsweredBySession,
            handle=self._handle,
            patience=_PATIENCE,
            max_descriptors=1,
            name=f"session {number}",
        )

    def __str__(self) -> str:
        return f"{self.account.name}@{self.peer}" if self.account else self.peer

    # its process -------------------------------------------------------------------------

    def begin(self, spawn: Callable[[int, Sequence[int], bytes], None]) -> None:
        """Have the process born. Raises StateError."""
        threading.Thread(target=self._run, name=f"isolated {self.id}", daemon=True).start()
        try:
            note = q.Birth(
                self.id,
                self.since,
                list(self.client_address) if isinstance(self.client_address, tuple) else [],
                self.incarnation,
                self._isolation.stranger,
            )
            descriptors = (
                self.request.fileno(),
                self._theirs.fileno(),
                self._isolation.service.stop_fd,
                self._isolation.empty,
            )
            spawn(self.id, descriptors, msgspec.msgpack.encode(note))
        finally:
            self._theirs.close()  # if it wasn't born, its end is noticed

    def born(self, pid: int) -> None:
        """The process is there."""
        with self._lock:
            if self._over:
                return
            self.pid = pid
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                pass  # it has ended already

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
            self._isolation.forget(self)

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
            self._isolation.left(self, account)
        elif self._offence is not None:
            self._isolation.service.limits.penalize(self.host, self._offence)
        self._isolation.service.limits.leave(self._place)
        self._isolation.service.ledger.take_over_waiting(self.ledger)
        if self._answers.leases:
            logger.warning("%s: ended in the middle of its work", self)
        if self._answers.holds:
            self._isolation.bury(self)

    def heartbeat(self) -> None:
        """Keep its leases alive."""
        if self._answers.holds:
            self.ledger.heartbeat()

    # what it asks ------------------------------------------------------------------------

    def _handle(self, asked: Any, descriptors: list[int]) -> Any:
        if isinstance(asked, Brokered):
            return self._broker(asked)
        if isinstance(asked, q.Penalized):
            self._offence = self._offence or asked.offence
            return None
        if isinstance(asked, q.Over):
            self.channel = Moved(asked.bytes_in, asked.bytes_out, self.channel.ended)
            return None
        return self._answers.answer(asked)

    def _broker(self, asked: Any) -> Any:
        account = self.account
        if account is None or getattr(asked, "account_id", account.id) != account.id:
            raise PermissionError(1, "not this session's")
        if isinstance(asked, Share):
            if len(self._shared) >= _MOST_SHARED:
                raise Busy("too many uploads come in pieces")
            self._shared.add(asked.key)
        elif isinstance(asked, Unshare):
            self._shared.discard(asked.key)
        return self._isolation.broker_of(account).handle(self.id, asked)

    def _admitted(self, admission: Admission) -> int:
        self.account, self.token_id = admission.account, admission.token_id
        self._place = admission.place
        self._isolation.service.limits.strangers.leave(self.request)
        return self._isolation.entered(self, admission.account, self._peer)

    def begin_transfer(self, account: Account) -> str:
        """Count a transfer: a session has one at most. Raises TooMany."""
        self.end_transfer()
        self._transfer = self._isolation.service.limits.begin_transfer(account, self.give_way)
        return self._transfer

    def tell_idle(self, idle: bool) -> None:
        """Its transfer has moved no bytes for a while, or does so again."""
        if self._transfer is not None:
            self._isolation.service.limits.tell_idle(self._transfer, idle)

    def end_transfer(self) -> None:
        """Its transfer is over. Can be called twice."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            self._isolation.service.limits.end_transfer(transfer)

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
        limits, had = self._isolation.service.limits, self._place
        place = limits.enter(account, self.host, at_any_rate=True, had=had)
        if place != had:
            self._place = place
            if self._over:
                place, self._place = self._place, None
                limits.leave(place)

    def heed(self, settings: Settings) -> None:
        """Settings have changed."""
        self._tell(q.Heed(settings.stall, settings.idle_timeout, settings.limit_rate))

    def press(self, now: float) -> None:
        """See to it that the process ends that should have."""
        settings = self._isolation.service.settings
        if self._cut_at is not None and now >= self._cut_at + _LAST_WORDS:
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


class Isolation:
    """All isolated sessions of a server. Safe to use from many threads.

    ``_lock`` guards ``_all``, ``_brokers`` and ``_pages``.

    Args:
    Raises:
        StateError: Processes can't be born, or there is no user for strangers.
    """

    def __init__(self, service: FtpServer) -> None:
        self.service = service
        self.run = service.ledger.run
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
        self._brokers: dict[int, Broker] = {}
        self._pages: dict[int, int] = {}
        self.empty = _open_empty(service)
        try:
            self._nursery = Nursery(CHILD, service.settings, self._on_report)
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
        elif _need_system_users(list(self.service.accounts)):
            logger.warning(
                "accounts without --system-user: their sessions run as root without its rights"
            )
        if abi < 6:
            had = f"version {abi}" if abi else "none"
            logger.warning("this kernel's Landlock (%s) doesn't keep sessions from signals", had)

    # sessions come and go ----------------------------------------------------------------

    def open(self, request: socket.socket, address: Any) -> None:
        """Serve a connection in a process of its own."""
        session = IsolatedSession(self, self.service.next_session_id(request), request, address)
        with self._lock:
            self._all[session.id] = session
        self.service.sessions.add(cast("Session", session))
        self.service.ledger.others.add(session.incarnation)
        try:
            session.begin(self._nursery.spawn)
        except StateError as error:
            logger.error("%s: can't be served: %s", session, error)
        except RuntimeError as error:  # no more threads
            logger.error("%s: can't be served: %s", session, error)
            self.forget(session)

    def drop(self, request: socket.socket) -> None:
        """End a session that has not logged in."""
        for session in self.sessions():
            if session.request is request:
                session.cut()

    def _on_report(self, report: Spawned | Ended) -> None:
        with self._lock:
            session = self._all.get(report.number)
        if isinstance(report, Spawned):
            if session is not None:
                session.born(report.pid)
        elif report.status:
            who = f"session {report.number}" if session is None else str(session)
            logger.error("%s: its process is gone: %s", who, report.cause)

    def forget(self, session: IsolatedSession) -> None:
        """A session's process has ended."""
        with self._lock:
            self._all.pop(session.id, None)
        self.service.ledger.others.discard(session.incarnation)
        self.service.forget(cast("Session", session))
        try:
            session.request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client has gone first
        session.request.close()
        self.service.forget_connection(session.request)

    def ledger_for(self, incarnation: str) -> Ledger:
        """The books for one session."""
        main = self.service.ledger
        made = Ledger(
            self.service.engine,
            main.node,
            incarnation,
            main.keep_seconds,
            main.run,
            state=main.state,
        )
        made.on_doubt = main.on_doubt
        return made

    def bury(self, session: IsolatedSession) -> None:
        """End what a session held that ended without giving it back."""
        self.service.ledger.bury(session.incarnation)
        self.service.look_soon()

    def entered(self, session: IsolatedSession, account: Account, peer: Peer) -> int:
        """A session has logged in; returns the descriptor of its account's page."""
        with self._lock:
            if account.id not in self._pages:
                self._pages[account.id] = make_page()
                self._brokers[account.id] = Broker()
            self._brokers[account.id].join(session.id, peer)
            return self._pages[account.id]

    def left(self, session: IsolatedSession, account: Account) -> None:
        """A session of an account has ended."""
        with self._lock:
            broker = self._brokers[account.id]
        broker.leave(session.id)
        with self._lock:
            others = [one for one in self._all.values() if one is not session and one.account]
            if not any(one.account and one.account.id == account.id for one in others):
                del self._brokers[account.id]
                os.close(self._pages.pop(account.id))

    def broker_of(self, account: Account) -> Broker:
        """What sessions of an account ask each other by, and of no other account."""
        with self._lock:
            return self._brokers[account.id]

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

    def press(self) -> None:
        """See to it that processes end that should have."""
        now = time.monotonic()
        for session in self.sessions():
            session.press(now)

    def follow(self, settings: Settings) -> None:
        """Other settings hold from now on. Raises StateError."""
        self._nursery.configure(settings)
        for session in self.sessions():
            session.heed(settings)

    def close(self) -> None:
        """End all processes, and the nursery."""
        for session in self.sessions():
            session.kill()
        self._nursery.stop()
        deadline = time.monotonic() + _LAST_WORDS
        while self.sessions() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(self.empty)

    # telling of them (figures.Serving) ---------------------------------------------------

    def _look(self, *, speed: bool) -> None:
        """Have all of them say what goes on; who doesn't in time is told of as before."""
        asked = [(one, future) for one in self.sessions() if (future := one.look(speed=speed))]
        deadline = time.monotonic() + _LOOK_SECONDS
        for session, future in asked:
            try:
                carried = future.result(max(0.0, deadline - time.monotonic()))
            except (TimeoutError, PeerGone):
                continue
            if isinstance(carried.message, q.Seen):
                session.saw(carried.message)

    def figures(self) -> Figures:
        """How much goes on."""
        self._look(speed=False)
        infos = [one.info() for one in self.sessions()]
        return Figures(
            len(infos),
            sum(one.user is None for one in infos),
            sum(one.request in ("get", "put") for one in infos),
            *self.service.moved(),
        )

    def session_infos(self) -> list[SessionInfo]:
        """Who is connected, by number."""
        self._look(speed=True)
        return [one.info() for one in self.sessions()]

    def kick(self, session: int | None, user: str | None) -> list[int]:
        """End a session, or all of a user's. Raises NotFound."""
        return self.service.kick(session, user)


def _need_system_users(accounts: Sequence[Account]) -> bool:
    """Whether some session will be root's: also of the first account, which is made later."""
    return not accounts or any(one.system_user is None for one in accounts)


def _open_empty(service: FtpServer) -> int:
    """A directory with nothing in it: all that a stranger's process sees. It is removed already, so
    that nothing can be made in it either, by whomever: chroot(2) tells the way out that leads by a
    directory below."""
    try:
        path = tempfile.mkdtemp(dir=service.settings.state, prefix="empty-")
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.rmdir(path)
    except OSError as error:
        raise StateError(f"{service.settings.state}: {error.strerror}") from error
