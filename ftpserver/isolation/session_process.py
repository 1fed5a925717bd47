"""The process of one session: forked, confined step by step, over with its session.

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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from ftpserver import interfaces
from ftpserver.accounts.account import Account
from ftpserver.clock import RUN
from ftpserver.interfaces import Carried, stand_in
from ftpserver.isolation import sandbox
from ftpserver.isolation.interfaces import (
    Admitted,
    ChildNote,
    Known,
    LiveSettings,
    Seen,
    ServerForSession,
    SessionForServer,
)
from ftpserver.isolation.proxies import (
    RemoteAudit,
    RemoteAuthenticator,
    RemoteLog,
    RemoteSessionLimits,
)
from ftpserver.isolation.sandbox import Identity
from ftpserver.processes.forkserver import ChildArguments
from ftpserver.processes.rpc import Endpoint
from ftpserver.processes.shared_rate import SharedPaces
from ftpserver.serving.connected import Connected, describe
from ftpserver.serving.keep_alive import KeepAlive
from ftpserver.serving.session import Session
from ftpserver.settings.table import Settings
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.quota import QuotaStore

if TYPE_CHECKING:
    from ftpserver.accounts.penalties import Offence
    from ftpserver.serving.parking import Parking

logger = logging.getLogger("ftpd.isolation")

interfaces.make_ready(asked=(QuotaStore, ServerForSession), answered=(SessionForServer,))
_decode_note = msgspec.msgpack.Decoder(ChildNote).decode


def prepare() -> None:
    """For the fork server, before it has any children: these have no network but their
    connection."""
    if not sandbox.leave_network() and os.geteuid() != 0:
        logger.warning(
            "the system permits no user namespaces: before log-in, all files of ftpd's user are "
            "open to a session that is hostile"
        )


def main(arguments: ChildArguments) -> None:
    """Be the process of one session, until it is over."""
    note = _decode_note(arguments.note)
    calls, request, stop, empty = arguments.descriptors
    sandbox.close_all_but((request, calls, stop, empty))
    can_change_root, failure = False, None
    try:
        can_change_root = _become_stranger(note, empty)
    except (sandbox.CantConfine, OSError) as error:
        failure = error
    os.close(empty)
    address: object = tuple(note.address) or ""
    with socket.socket(fileno=request) as connection:
        process = SessionProcess(
            arguments.settings, arguments.tls_context, note, calls, stop, can_change_root
        )
        if failure is not None:
            _cant_be_confined(failure)
        process.serve(connection, address)


def _cant_be_confined(error: Exception) -> NoReturn:
    """End, once the server has the reason in its log: nobody else has the process's own words."""
    logger.error("the session can't be confined, and ends: %s", error)
    os._exit(1)


def _become_stranger(note: ChildNote, empty: int) -> bool:
    """Give up what can be given up before log-in; whether the root can be changed then."""
    sandbox.must_be_alone()
    sandbox.limit_resources()
    sandbox.forbid_new_privileges()
    sandbox.keep_to_itself()
    if note.stranger is not None:
        sandbox.change_root(empty)
        sandbox.become_stranger(Identity(*note.stranger))
        can_change_root = True
    elif can_change_root := sandbox.enter_user_namespace():
        sandbox.change_root(empty)
    sandbox.hide_from_others()
    return can_change_root


class SessionProcess(SessionForServer):
    """What its one session has for its server (context.Sharing), and what the server asks of it.

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
        note: ChildNote,
        calls: int,
        stop: int,
        can_change_root: bool,
    ) -> None:
        waited = max(0.0, RUN.now() - note.since)  # of the time for the log-in
        self.settings = replace(settings, login_grace=max(0.0, settings.login_grace - waited))
        self.tls_context = tls_context
        self._has_answered = False
        self.stop_fd = stop
        self.sessions: set[Connected] = set()
        self._note = note
        self._can_change_root = can_change_root
        self._ended = threading.Event()
        self._endpoint = Endpoint(
            socket.socket(fileno=calls),
            targets={SessionForServer: self},
            max_descriptors=2,
            on_end=self._left_alone,
            name="server",
        )
        self.syncs = Syncs()
        self._server = server = stand_in(ServerForSession, self._endpoint)
        self.authenticator = RemoteAuthenticator(server, self._enter)
        self.ledger = stand_in(QuotaStore, self._endpoint)
        self.ledger.incarnation = note.incarnation
        self.audit = RemoteAudit(server, enabled=bool(settings.audit_size))
        self.limits = RemoteSessionLimits(server)
        self._log_to_server()

    def _log_to_server(self) -> None:
        root = logging.getLogger()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        root.addHandler(RemoteLog(self._server))

    def serve(self, connection: socket.socket, address: object) -> None:
        """Serve the connection; returns when the session is over."""
        # socketserver's types want a server for the last argument
        session = Session(connection, address, self)  # type: ignore[arg-type]
        self._ended.set()
        try:
            connection.shutdown(socket.SHUT_WR)  # the server holds the connection, too
        except OSError:
            pass  # the client was quicker
        self._server.over(session.channel.bytes_in, session.channel.bytes_out)

    # for the session ---------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the server stops."""
        poll = select.poll()
        poll.register(self.stop_fd, select.POLLIN)
        return bool(poll.poll(0))

    def take_turn(self) -> None:
        """There is no other session in this process."""

    def pass_turn(self) -> None:
        """There is no other session in this process."""

    def will_block(self) -> None:
        """There is no other session in this process."""

    def before_wait(self) -> None:
        """The server is told of the first time: the client's first record is done with."""
        if not self._has_answered:
            self._has_answered = True
            self._server.answered()

    def next_session_id(self, request: socket.socket) -> int:
        """The one that the server has chosen."""
        return self._note.number

    def logged_in(self, session: Session) -> None:
        """The server knows."""

    def penalize(self, session: Session, offence: Offence) -> None:
        """The server counts it."""
        self._server.penalize(offence)

    def forget(self, session: Session) -> None:
        """Nobody looks for it any more."""
        self.sessions.discard(session)

    def _enter(self, carried: Carried[Admitted]) -> Account:
        """The client is let in: be its account's user, see its home, and nothing else.

        When that fails, the process ends: as a stranger it could serve nobody.
        """
        admitted = carried.message
        account = self._account_of(admitted.account)
        home, page = carried.descriptors
        try:
            sandbox.must_be_alone()
            if admitted.identity is not None:
                sandbox.become(admitted.identity, home)
                sandbox.hide_from_others()
            elif self._can_change_root:
                sandbox.enter(home)
            sandbox.restrict_to(home)
            sandbox.forbid_imports()
        except (sandbox.CantConfine, OSError) as error:
            _cant_be_confined(error)
        os.close(carried.descriptors.pop(0))
        self.limits.paces = SharedPaces(os.dup(page))
        self._endpoint.start()
        KeepAlive(self.sessions, lambda: self.settings.stall).thread().start()
        return account

    def _account_of(self, told: Known) -> Account:
        """An account with the home as it is seen from here."""
        account = told.account()
        return replace(account, home=Path("/")) if self._can_change_root else account

    def _left_alone(self) -> None:
        """The server is gone, or has given this session up: nothing that is done counts."""
        if not self._ended.is_set():
            os._exit(1)

    # asked by the server -----------------------------------------------------------------

    def look(self) -> Seen:
        for session in list(self.sessions):
            doing = session.doing
            told = describe(doing)
            return Seen(
                request=told.request,
                path=told.path,
                target=told.target,
                quiet=max(0.0, time.monotonic() - session.quiet_since) if doing is None else 0.0,
                bytes_in=session.channel.bytes_in,
                bytes_out=session.channel.bytes_out,
            )
        return Seen(None, None, None, 0.0, 0, 0)

    def apply_settings(self, settings: LiveSettings) -> None:
        self.settings = settings.applied_to(self.settings)

    def close(self, why: str) -> None:
        for session in list(self.sessions):
            session.close(why)

    def close_now(self) -> None:
        for session in list(self.sessions):
            session.close_now()

    def close_idle(self) -> None:
        for session in list(self.sessions):
            session.close_idle()

    def give_way(self, transfer: str) -> None:
        for session in list(self.sessions):
            session.give_way(transfer)

    def apply_account(self, account: Known) -> None:
        for session in list(self.sessions):
            session.apply_account(self._account_of(account))
