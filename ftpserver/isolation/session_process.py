"""The process of one session: forked, confined step by step, and ended with its session.

Lives here: the life of that process, and the server's requests to it.
Lives elsewhere: the session (serving/session.py), each step of the confinement (sandbox.py), the
proxies for the server (proxies.py), forking (processes/forkserver.py).

Before log-in it is in an empty directory, if possible, and cut off from other processes; if the
server is root, it also runs as a user without rights. The server decides about the log-in. Then the
process becomes the account's user and sees only the home, irrevocably. Other threads are started
only after that. All modules are imported before, here.
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
from ftpserver.interfaces import Carried, make_proxy
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
from ftpwire import openssl

if TYPE_CHECKING:
    from ftpserver.accounts.penalties import Offence
    from ftpserver.serving.parking import Parking

logger = logging.getLogger("ftpd.isolation")

interfaces.make_ready(proxies=(QuotaStore, ServerForSession), targets=(SessionForServer,))
_decode_note = msgspec.msgpack.Decoder(ChildNote).decode


def prepare() -> None:
    """Prepare the fork server, before it has children: these have no network but their own
    connection, and cannot load anything once they are confined."""
    openssl.prepare()
    if not sandbox.leave_network() and os.geteuid() != 0:
        logger.warning(
            "the system does not permit user namespaces: before log-in, a hostile session can "
            "reach all files of ftpd's user"
        )


def main(arguments: ChildArguments) -> None:
    """Run the process of one session, until it has ended."""
    note = _decode_note(arguments.note)
    calls, request, stop, empty = arguments.descriptors
    sandbox.close_all_but((request, calls, stop, empty))
    can_change_root, failure = False, None
    try:
        can_change_root = _give_up_privileges(note, empty)
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
    """Log the reason through the server, the only one that can receive it, and exit."""
    logger.error("cannot confine the session, so it is closed: %s", error)
    os._exit(1)


def _give_up_privileges(note: ChildNote, empty: int) -> bool:
    """Give up all rights not needed before log-in. Return True if chroot is still possible."""
    sandbox.must_be_alone()
    sandbox.limit_resources()
    sandbox.forbid_new_privileges()
    sandbox.keep_to_itself()
    if note.identity_before_login is not None:
        sandbox.change_root(empty)
        sandbox.give_up_privileges(Identity(*note.identity_before_login))
        can_change_root = True
    elif can_change_root := sandbox.enter_user_namespace():
        sandbox.change_root(empty)
    sandbox.hide_from_others()
    return can_change_root


class SessionProcess(SessionForServer):
    """The context of its one session (`context.SessionContext`), and the handler of requests.

    Args:
        calls: The descriptor of the rpc connection to the server.
        stop: A descriptor that is readable once the server stops, or has ended.
        can_change_root: True if the process is in an empty directory and can enter the home.
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
        waited = max(0.0, RUN.now() - note.since)  # counts towards the time for the log-in
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
        self._server = server = make_proxy(ServerForSession, self._endpoint)
        self.authenticator = RemoteAuthenticator(server, self._enter)
        self.ledger = make_proxy(QuotaStore, self._endpoint)
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
        """Serve the connection; return when the session has ended."""
        # socketserver's types want a server for the last argument
        session = Session(connection, address, self)  # type: ignore[arg-type]
        self._ended.set()
        try:
            connection.shutdown(socket.SHUT_WR)  # the server holds the connection, too
        except OSError:
            pass  # the client has closed first
        self._server.over(session.channel.bytes_in, session.channel.bytes_out)

    # for the session ---------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """True if the server is stopping."""
        poll = select.poll()
        poll.register(self.stop_fd, select.POLLIN)
        return bool(poll.poll(0))

    def take_turn(self) -> None:
        """Do nothing: there is no other session in this process."""

    def pass_turn(self) -> None:
        """Do nothing: there is no other session in this process."""

    def will_block(self) -> None:
        """Do nothing: there is no other session in this process."""

    def before_wait(self) -> None:
        """Notify the server of the first wait, which means that the first record is handled."""
        if not self._has_answered:
            self._has_answered = True
            self._server.answered()

    def next_session_id(self, request: socket.socket) -> int:
        """Return the number that the server has chosen."""
        return self._note.number

    def logged_in(self, session: Session) -> None:
        """Do nothing: the server knows."""

    def penalize(self, session: Session, offence: Offence) -> None:
        """Report the offence to the server."""
        self._server.penalize(offence)

    def forget(self, session: Session) -> None:
        """Remove an ended session."""
        self.sessions.discard(session)

    def _enter(self, carried: Carried[Admitted]) -> Account:
        """Become the user of the account that has logged in, and see only its home.

        If that fails, the process ends: without it, no account can be served.
        """
        admitted = carried.message
        account = self._account_of(admitted.account)
        home, page = carried.descriptors
        try:
            # invariant: other threads start only below, as the steps confine just this thread
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

    def _account_of(self, known: Known) -> Account:
        """Return the account, with the home's path as seen from here."""
        account = known.account()
        return replace(account, home=Path("/")) if self._can_change_root else account

    def _left_alone(self) -> None:
        """Exit: the server has ended or closed the connection, so no further work would count."""
        if not self._ended.is_set():
            os._exit(1)

    # requests of the server --------------------------------------------------------------

    def look(self) -> Seen:
        for session in list(self.sessions):
            doing = session.doing
            described = describe(doing)
            return Seen(
                request=described.request,
                path=described.path,
                target=described.target,
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
