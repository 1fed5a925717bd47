"""The process of one session: born of the nursery, confined step by step, over with its session.

Lives here: that process's life, and what the server asks it.
Lives elsewhere: what the session does (serving/session.py), each step of the confinement
(sandbox.py), the interfaces that ask the server (proxies.py), forking (processes/forkserver.py).

Before log-in it is in an empty directory, if it can be, and has nothing to do with any other
process; where the server is root, it is a user without rights besides. The server decides who logs
in; then the process becomes the account's user, the home is all that it sees, and there is no way
back. Only then there are other threads. What is imported is imported before, here.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import threading
import time
from concurrent.futures import Future, thread
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from ftpserver.accounts.account import Account
from ftpserver.clock import RUN
from ftpserver.isolation import sandbox
from ftpserver.isolation.messages import (
    Admitted,
    Answered,
    AnsweredByServer,
    ApplySettings,
    AskedByServer,
    Birth,
    Dismiss,
    End,
    Follow,
    GiveWay,
    Hasten,
    Known,
    Look,
    Over,
    Penalized,
    Seen,
    account_of,
)
from ftpserver.isolation.proxies import (
    RemoteAudit,
    RemoteBooks,
    RemoteEntrance,
    RemoteLog,
    RemotePresence,
)
from ftpserver.isolation.sandbox import Identity
from ftpserver.processes.forkserver import Born
from ftpserver.processes.rpc import Carried, Nothing, Peer, PeerGone, decoder
from ftpserver.processes.shared_rate import SharedPaces
from ftpserver.serving.connected import Connected, describe
from ftpserver.serving.keep_alive import KeepAlive
from ftpserver.serving.session import Session
from ftpserver.settings.table import Settings

if TYPE_CHECKING:
    from ftpserver.accounts.penalties import Offence
    from ftpserver.serving.parking import Parking

logger = logging.getLogger("ftpd.isolation")

_IMPORTED = (thread,)  # concurrent.futures imports it when it is needed: too late
for _kinds in (AskedByServer, AnsweredByServer | Nothing):
    decoder(_kinds)  # once for all sessions
_decode_birth = msgspec.msgpack.Decoder(Birth).decode
_MEASURED = 0.2
"""Seconds over which speed is measured, when somebody wants to know it."""


def prepare() -> None:
    """For the nursery, before it has any children: these have no network but their connection."""
    if not sandbox.leave_network() and os.geteuid() != 0:
        logger.warning(
            "the system permits no user namespaces: before log-in, all files of ftpd's user are "
            "open to a session that is hostile"
        )


def main(born: Born) -> None:
    """Be the process of one session, until it is over."""
    birth = _decode_birth(born.note)
    request, calls, stop, empty = born.descriptors
    sandbox.close_all_but((request, calls, stop, empty))
    can_change_root, failure = False, None
    try:
        can_change_root = _become_stranger(birth, empty)
    except (sandbox.CantConfine, OSError) as error:
        failure = error
    os.close(empty)
    address: object = tuple(birth.address) or ""
    with socket.socket(fileno=request) as connection:
        process = SessionProcess(
            born.settings, born.tls_context, birth, calls, stop, can_change_root
        )
        if failure is not None:
            _cant_be_confined(failure)
        process.serve(connection, address)


def _cant_be_confined(error: Exception) -> NoReturn:
    """End, once the server has the reason in its log: nobody else has the process's own words."""
    logger.error("the session can't be confined, and ends: %s", error)
    os._exit(1)


def _become_stranger(birth: Birth, empty: int) -> bool:
    """Give up what can be given up before log-in; whether the root can be changed then."""
    sandbox.must_be_alone()
    sandbox.limit_resources()
    sandbox.forbid_new_privileges()
    sandbox.keep_to_itself()
    if birth.stranger is not None:
        sandbox.change_root(empty)
        sandbox.become_stranger(Identity(*birth.stranger))
        can_change_root = True
    elif can_change_root := sandbox.enter_user_namespace():
        sandbox.change_root(empty)
    sandbox.hide_from_others()
    return can_change_root


class SessionProcess:
    """What its one session has for its server (context.Sharing).

    Args:
        calls: The descriptor to ask the server by.
        stop: Readable once the server stops, or has ended.
        can_change_root: The process is in an empty directory, and goes from there into the home.
    """

    parking: Parking | None = None

    def __init__(
        self,
        settings: Settings,
        tls_context: ssl.SSLContext | None,
        birth: Birth,
        calls: int,
        stop: int,
        can_change_root: bool,
    ) -> None:
        waited = max(0.0, RUN.now() - birth.since)  # of the time for the log-in
        self.settings = replace(settings, login_grace=max(0.0, settings.login_grace - waited))
        self.tls_context = tls_context
        self._has_answered = False
        self.stop_fd = stop
        self.sessions: set[Connected] = set()
        self._birth = birth
        self._can_change_root = can_change_root
        self._has_entered = False
        """It is confined, and may have other threads."""
        self._ended = threading.Event()
        self._peer = Peer(
            socket.socket(fileno=calls),
            hears=AskedByServer,
            answers=AnsweredByServer,
            handle=self._handle,
            max_descriptors=2,
            on_end=self._left_alone,
            name="server",
        )
        self.entrance = RemoteEntrance(self._peer, self._enter)
        self.ledger = RemoteBooks(self._peer, birth.incarnation)
        self.audit = RemoteAudit(self._peer, enabled=bool(settings.audit_size))
        self.limits = RemotePresence(self._peer)
        self._log_to_server()

    def _log_to_server(self) -> None:
        root = logging.getLogger()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        root.addHandler(RemoteLog(self._peer))

    def serve(self, connection: socket.socket, address: object) -> None:
        """Serve the connection; returns when the session is over."""
        # socketserver's types want a server for the last argument
        session = Session(connection, address, self)  # type: ignore[arg-type]
        self._ended.set()
        try:
            connection.shutdown(socket.SHUT_WR)  # the server holds the connection, too
        except OSError:
            pass  # the client was quicker
        self._tell(Over(session.channel.bytes_in, session.channel.bytes_out))

    # for the session ---------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the server stops."""
        poll = select.poll()
        poll.register(self.stop_fd, select.POLLIN)
        return bool(poll.poll(0))

    def before_wait(self) -> None:
        """The server is told of the first time: the client's first record is done with."""
        if not self._has_answered:
            self._has_answered = True
            self._tell(Answered())

    def next_session_id(self, request: socket.socket) -> int:
        """The one that the server has chosen."""
        return self._birth.number

    def logged_in(self, session: Session) -> None:
        """The server knows."""

    def penalize(self, session: Session, offence: Offence) -> None:
        """The server counts it."""
        self._tell(Penalized(offence))

    def _tell(self, message: msgspec.Struct) -> None:
        try:
            self._peer.tell(message)
        except PeerGone:
            pass  # nobody wants to know

    def forget(self, session: Session) -> None:
        """Nobody looks for it any more."""
        self.sessions.discard(session)

    def _enter(self, carried: Carried) -> Account:
        """The client is let in: be its account's user, see its home, and nothing else.

        When that fails, the process ends: as a stranger it could serve nobody.
        """
        admitted: Admitted = carried.message
        account = self._account_of(admitted.account)
        home, page = carried.descriptors
        try:
            sandbox.must_be_alone()
            if admitted.identity is not None:
                uid, gid, groups = admitted.identity
                sandbox.become(Identity(uid, gid, tuple(groups)), home)
                sandbox.hide_from_others()
            elif self._can_change_root:
                sandbox.enter(home)
            sandbox.restrict_to(home)
            sandbox.forbid_imports()
        except (sandbox.CantConfine, OSError) as error:
            _cant_be_confined(error)
        os.close(carried.descriptors.pop(0))
        self.limits.paces = SharedPaces(os.dup(page))
        self._has_entered = True
        self._peer.start()
        KeepAlive(self.sessions, lambda: self.settings.stall).thread().start()
        return account

    def _account_of(self, told: Known) -> Account:
        """An account with the home as it is seen from here."""
        account = account_of(told)
        return replace(account, home=Path("/")) if self._can_change_root else account

    def _left_alone(self) -> None:
        """The server is gone, or has given this session up: nothing that is done counts."""
        if not self._ended.is_set():
            os._exit(1)

    # asked by the server -----------------------------------------------------------------

    def _handle(self, asked: Any, descriptors: list[int]) -> Any:
        session = next(iter(self.sessions), None)
        match asked:
            case Look(speed):
                return self._seen(session, speed)
            case ApplySettings(stall, idle_timeout, limit_rate):
                self.settings = replace(
                    self.settings, stall=stall, idle_timeout=idle_timeout, limit_rate=limit_rate
                )
            case End() | Hasten() | Dismiss() | GiveWay() | Follow():
                if session is not None:
                    self._have(session, asked)
        return None

    def _seen(self, session: Connected | None, measure: bool) -> Seen | Future[Seen]:
        """What goes on. Who measures doesn't hold up what is said meanwhile."""
        if not measure or session is None or session.doing is None or not self._has_entered:
            return _seen(session, 0.0)
        before, began = _moved(session), time.monotonic()
        seen: Future[Seen] = Future()

        def measured() -> None:
            speed = (_moved(session) - before) / (time.monotonic() - began)
            seen.set_result(_seen(session, speed))

        timer = threading.Timer(_MEASURED, measured)
        timer.daemon = True
        timer.start()
        return seen

    def _have(self, session: Connected, asked: End | Hasten | Dismiss | GiveWay | Follow) -> None:
        match asked:
            case End(why):
                session.end(why)
            case Hasten():
                session.hasten()
            case Dismiss():
                session.dismiss()
            case GiveWay(token):
                session.give_way(token)
            case Follow(account):
                session.follow(self._account_of(account))


def _seen(session: Connected | None, speed: float) -> Seen:
    if session is None:
        return Seen(None, None, None, 0.0, 0, 0, 0.0)
    doing = session.doing
    told = describe(doing)
    return Seen(
        request=told.request,
        path=told.path,
        target=told.target,
        quiet=max(0.0, time.monotonic() - session.quiet_since) if doing is None else 0.0,
        bytes_in=session.channel.bytes_in,
        bytes_out=session.channel.bytes_out,
        speed=speed,
    )


def _moved(session: Connected) -> int:
    return session.channel.bytes_in + session.channel.bytes_out
