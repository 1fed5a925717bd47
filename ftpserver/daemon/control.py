"""The control socket: the way in which `ftpd status` and similar commands talk to a running server.

Lives here: the interface, the replies, and the client's side.
Lives elsewhere: the server's side (control_server.py), printing replies (cli/control.py).

It is a Unix socket in the server's state directory, which only the owner of the server can open.
Each connection carries one request and one reply, each as one line of JSON: both ends are on the
same machine, so the pipelining and the limits of the file protocol are not needed, and a line can
be read and written by hand. The server's version may be older or newer than that of `ftpd stop`:
fields keep their names and meanings, and new ones have defaults.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from ftpserver.accounts.startups import RefusedConnection
from ftpserver.daemon import registry
from ftpserver.errors import SettingsError
from ftpserver.interfaces import TAG, Request, make_proxy, request
from ftpserver.net.private_socket import address_of
from ftpserver.serving.stats import SessionInfo
from ftpserver.settings.table import state_of
from ftpwire import errors, paths
from ftpwire.errors import (
    BadMessage,
    CommandError,
    ConnectFailed,
    ConnectionLost,
    Forbidden,
)
from ftpwire.peers import peer_credentials

SOCKET = "control.sock"
PATIENCE = 10.0
"""Seconds that sending a request or a reply may take."""
_PATIENCE_FOR = {"reload": 120.0, "restore_trash": 3600.0, "empty_trash": 3600.0}
"""The same for requests that take long: a reload may have to start other workers first, and there
may be millions of files in the trash."""
_LOOK = 0.05
"""Seconds between two checks whether a server still runs."""

Seconds = Annotated[float, Meta(ge=0)]


class _Tagged(msgspec.Struct, frozen=True, tag_field=TAG):
    """Base of every reply."""


# replies -----------------------------------------------------------------------------------


class DiscoveryInfo(msgspec.Struct, frozen=True):
    """The counters of discovery since the start.

    Attributes:
        port: The UDP port.
        answered: Requests that were answered.
        limited: Requests that were ignored because too many came.
        dropped: Datagrams that were not requests, or came from addresses that cannot connect.
    """

    port: int
    answered: int
    limited: int
    dropped: int


class TrashInfo(msgspec.Struct, frozen=True):
    """The trash of all accounts.

    Attributes:
        size: Bytes, trees that are not measured yet left out.
        operations: The number of operations that contain something, as in `ftpd trash list`.
        given_up_today: Operations that were purged to free space within the last day.
    """

    size: int
    operations: int
    given_up_today: int


class Status(_Tagged, frozen=True, tag="status"):
    """The state of the server.

    Attributes:
        software: The server's name and version.
        process: Its process id.
        state: ``running``, ``draining`` or ``stopping``.
        address: The address where it listens, as HOST:PORT; unix:PATH if it doesn't listen on the
            network. Safe to print.
        fingerprint: The fingerprint of its key; None without TLS.
        since: The time of its start, in seconds since 1970.
        sessions: Connections, including those that haven't logged in yet.
        unauthenticated: Connections that haven't logged in yet.
        transfers: Sessions that are transferring a file.
        bytes_in: Bytes received since the start.
        bytes_out: Bytes sent since the start.
        accounts: The number of accounts.
        discovery: The counters of discovery; None if the server is not discoverable.
        workers: The process ids of the workers; empty if the server's own process serves.
        unix: The path of its Unix socket, safe to print; None if it has none.
        trouble: Problems that keep it from serving everything, one line per problem.
        warnings: Permissions that are too wide, settings that admit unknown users, and processes
            that don't answer, one line per warning.
        trash: The trash of all accounts; None if the accounts database cannot be read.
    """

    software: str
    process: int
    state: str
    address: str
    fingerprint: str | None
    since: float
    sessions: int
    unauthenticated: int = msgspec.field(name="strangers")
    transfers: int
    bytes_in: int
    bytes_out: int
    accounts: int
    discovery: DiscoveryInfo | None = None
    workers: list[int] = []
    unix: str | None = None
    trouble: list[str] = []
    warnings: list[str] = []
    trash: TrashInfo | None = None


class Sessions(_Tagged, frozen=True, omit_defaults=True, tag="sessions"):
    """The connected sessions, by number.

    Attributes:
        sessions: The sessions.
        silent: Processes that don't answer; their sessions are missing.
    """

    sessions: list[SessionInfo]
    silent: list[str] = []


class Ended(_Tagged, frozen=True, omit_defaults=True, tag="ended"):
    """The sessions that were ended.

    Attributes:
        sessions: Their numbers.
        silent: Processes that don't answer; their sessions may be missing.
    """

    sessions: list[int]
    silent: list[str] = []


class BanInfo(msgspec.Struct, frozen=True):
    """One ban.

    Attributes:
        subject: The argument that lifts it: ``ADDRESS``, or ``ADDRESS ACCOUNT``.
        address: The banned address.
        account: The account that it is banned from; None for all accounts.
        failures: The number of failed log-ins.
        until: The end of the ban, in seconds since 1970.
        reason: The reason, if it is not for failed log-ins.
    """

    subject: str
    address: str
    account: str | None
    failures: int
    until: int
    reason: str | None = None


class Bans(_Tagged, frozen=True, tag="bans"):
    """Bans, in the order in which they end."""

    bans: list[BanInfo]


class Entry(_Tagged, frozen=True, tag="entry"):
    """The part of an answer to `ftpd why` that only the running server knows.

    Attributes:
        turned_away: The reason why a connection would be refused, if it would be.
        too_many: The reason why the account cannot have another session, if it cannot.
        note: A further remark about the address.
        banned: The error that a ban would cause at log-in. Its times are by the server's own clock,
            which ignores changes of the system's.
    """

    turned_away: RefusedConnection | None = None
    too_many: str | None = None
    note: str | None = None
    banned: str | None = None


class Report(_Tagged, frozen=True, tag="did"):
    """A report of what was done, as lines of text."""

    lines: list[str]


class TrashConflict(msgspec.Struct, frozen=True):
    """A path that was not restored, and why."""

    path: bytes
    code: str
    message: str


class TrashRestored(_Tagged, frozen=True, tag="trash-restored"):
    """The result of a restore: see `ftpwire.messages.Restored`."""

    operation: str
    items: int
    already: int = 0
    gone: int = 0
    conflicts: list[TrashConflict] = []
    more_conflicts: int = 0


class TrashEmptied(_Tagged, frozen=True, tag="trash-emptied"):
    """The result of purging the trash.

    Attributes:
        operations: The number of operations that were purged.
        size: Bytes that became free.
        files: Files, directories and links that were removed.
        left: Operations that were not purged, and why, one line per operation.
    """

    operations: int
    size: int
    files: int
    left: list[str] = []


class Stopping(_Tagged, frozen=True, tag="stopping"):
    """The server is going to stop. It has stopped when its process has ended."""

    process: int


class Failure(_Tagged, frozen=True, tag="failure", omit_defaults=True):
    """The request failed; codes are those of ftpwire/errors.py.

    Attributes:
        problems: If settings are invalid: one line for each problem.
    """

    code: str
    message: str
    problems: list[str] | None = None


# requests ----------------------------------------------------------------------------------


class TrashControl(Protocol):
    """The requests about the trash of accounts. Each method can raise FtpError."""

    @request
    def restore_trash(
        self, account: str, operation: str, target: bytes | None = None, force: bool = False
    ) -> TrashRestored:
        """Undo an operation. Raises NotFound, Expired, Busy, and others.

        Args:
            account: The account's name.
            operation: The operation's complete name.
            target: A directory to restore to, instead of the former paths.
            force: True to move files that are in the way to the trash.
        """

    @request
    def empty_trash(self, account: str | None = None, before: int | None = None) -> TrashEmptied:
        """Purge the trash. Raises NotFound.

        Args:
            account: The account's name; None for all accounts.
            before: Purge only operations that began before this time, in seconds since 1970.
        """


class Control(TrashControl, Protocol):
    """The requests that `ftpd` sends to a running server. Each method can raise FtpError; it raises
    BadMessage if the server is of an earlier version that doesn't know the method."""

    @request
    def status(self) -> Status:
        """Return the state of the server."""

    @request
    def sessions(self) -> Sessions:
        """Return the connected sessions."""

    @request
    def kick(self, session: int | None = None, user: str | None = None) -> Ended:
        """End a session, or all sessions of a user. Raises NotFound."""

    @request
    def bans(self) -> Bans:
        """Return the bans."""

    @request
    def unban(self, subject: str | None = None) -> Bans:
        """Lift bans, and return them. Raises NotFound.

        Args:
            subject: An address, or ``ADDRESS ACCOUNT``; None for all bans.
        """

    @request
    def reload(self) -> Report:
        """Reload settings, certificate and key. Raises SettingsError."""

    @request
    def drain(self, seconds: Seconds | None = None) -> Stopping:
        """Stop accepting connections, let the sessions finish, then stop.

        Args:
            seconds: Seconds after which the server stops in any case; None for no limit.
        """

    @request
    def stop(self, grace: Seconds | None = None) -> Stopping:
        """Stop, as SIGTERM does.

        Args:
            grace: Seconds that running transfers get to finish; None for the server's setting.
        """

    @request
    def entry(self, host: str, account: str) -> Entry:
        """Return what would keep a client from logging in now.

        Args:
            host: The client's address, or `addresses.LOCAL`.
            account: The account's name.
        """


# the client's side -------------------------------------------------------------------------


def running(state: Path) -> Control:
    """Return a proxy for the server that runs on a state directory.

    Each method raises ConnectFailed if no server runs there.
    """
    return make_proxy(Control, Lines(lambda: _connected(state)))


def ask_until_end(state: Path, end: Callable[[Control], Stopping]) -> Iterator[None]:
    """Stop the server. Yield once it has received the request; return when it has ended.

    Args:
        end: A function that sends the request, by `Control.stop` or `Control.drain`.

    Raises:
        ConnectFailed, FtpError: As any request.
    """
    with _connected(state) as sock:
        process = _peer_process(sock)
        try:
            end(make_proxy(Control, Lines(lambda: nullcontext(sock))))
            yield
            if process is None:
                _wait_for_silence(state)
            else:
                select.select([process], [], [])
        finally:
            if process is not None:
                os.close(process)


class Lines:
    """Sends requests to a server as lines of JSON. Implements `interfaces.Requester`.

    Args:
        connect: A function that returns a connection for one request.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[socket.socket]]) -> None:
        self._connect = connect

    def ask(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Send a request, and return the reply. Raises what `Control` and `running` list."""
        with self._connect() as sock:
            sock.settimeout(_PATIENCE_FOR.get(request.name, PATIENCE))
            line = _exchange(sock, msgspec.json.encode(message) + b"\n")
        try:
            answer = msgspec.json.decode(line, type=request.result | Failure)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadMessage(f"the server runs another version of ftpd: {error}") from None
        if isinstance(answer, Failure):
            if answer.problems:
                raise SettingsError(answer.problems)
            raise errors.BY_CODE.get(answer.code, CommandError)(answer.message)
        return answer


def _exchange(sock: socket.socket, line: bytes) -> bytes:
    """Send a line, and return the line that is the reply. Raises ConnectionLost."""
    try:
        sock.sendall(line)
        with sock.makefile("rb") as file:
            reply = file.readline()
    except TimeoutError:
        raise ConnectionLost("the server doesn't answer") from None
    except OSError as error:
        raise ConnectionLost(f"the server doesn't answer: {error.strerror}") from None
    if not reply:
        raise ConnectionLost("the server ended before it sent a reply")
    return reply


@contextmanager
def _connected(state: Path) -> Iterator[socket.socket]:
    with ExitStack() as stack:
        try:
            sock = stack.enter_context(_socket_of(state))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            from ftpserver.root_lock import RootLock

            process = RootLock.holder(state)
            if process is not None:
                raise ConnectFailed(
                    f"{state.parent}: the server there (process {process}) cannot be reached: it "
                    "has no control socket (its log says why), or is still starting"
                ) from None
            raise ConnectFailed(f"{state.parent}: no server runs there{_others()}") from None
        except PermissionError:
            raise Forbidden(
                f"{state.parent}: only the user that the server runs as may do that"
            ) from None
        except OSError as error:
            raise ConnectFailed(f"{state.parent}: {(error.strerror or str(error))}") from None
        yield sock


def _others() -> str:
    """Return text that names the servers that run on this machine and can be reached."""
    there = [root for root in registry.noted() if is_running(state_of(root))]
    if not there:
        return ""
    names = ", ".join(paths.show(os.fsencode(root)) for root in there)
    one = "one runs" if len(there) == 1 else "some run"
    return f"; {one} on {names} (name it with --root)"


def is_running(state: Path) -> bool:
    """Return whether a server accepts connections at the control socket of a state directory."""
    try:
        with _socket_of(state):
            return True
    except OSError:
        return False


@contextmanager
def _socket_of(state: Path) -> Iterator[socket.socket]:
    """Connect to the control socket of a state directory. Raises OSError."""
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address_of(directory, state, SOCKET))
            yield sock
    finally:
        os.close(directory)


def _peer_process(sock: socket.socket) -> int | None:
    """Return a descriptor that becomes readable when the process at the other end has ended.

    None if the system has no such descriptors, or doesn't show that process.
    """
    found = peer_credentials(sock)
    if not hasattr(os, "pidfd_open") or found is None:
        return None
    try:
        return os.pidfd_open(found.pid) if found.pid > 0 else None
    except OSError:
        return None


def _wait_for_silence(state: Path) -> None:
    """Wait until no server answers at the socket."""
    while True:
        try:
            running(state).status()
        except ConnectionLost:
            return
        time.sleep(_LOOK)
