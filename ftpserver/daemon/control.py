"""The control socket: how `ftpd status` and its relatives talk with the running server.

Lives here: the interface, what is answered, and asking.
Lives elsewhere: the server's end of the socket (control_server.py), what is printed
(cli/control.py).

A Unix socket in the server's state directory, which only the owner of the server can open. Each
connection carries one question and one answer, each a line of JSON: both ends are on one machine,
so that nothing of the file protocol's pipelining and limits is needed, and a line can be read and
written by hand. The server may be of an earlier version than `ftpd stop`, or of a later one: what
is there keeps its name and its place, and what is added has a default.
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

from ftpserver.accounts.startups import TurnedAway
from ftpserver.daemon import registry
from ftpserver.interfaces import TAG, Request, asked, stand_in
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
"""Seconds that a question or an answer may take on its way."""
_PATIENCE_FOR = {"reload": 120.0, "restore_trash": 3600.0, "empty_trash": 3600.0}
"""The same for what takes long: a reload may have to start other workers first, and there may be
millions of files in the trash."""
_LOOK = 0.05
"""Seconds from one look whether a server still runs to the next."""

Seconds = Annotated[float, Meta(ge=0)]


class _Tagged(msgspec.Struct, frozen=True, tag_field=TAG):
    """Base of every answer."""


# answers -----------------------------------------------------------------------------------


class DiscoveryInfo(msgspec.Struct, frozen=True):
    """What discovery has done since the start.

    Attributes:
        port: UDP.
        answered: Questions that were answered.
        limited: Questions that came too often.
        dropped: Datagrams that were no question.
    """

    port: int
    answered: int
    limited: int
    dropped: int


class TrashInfo(msgspec.Struct, frozen=True):
    """The trash of all accounts.

    Attributes:
        size: Bytes, as far as they are counted.
        given_up_today: Operations that were given up for room within a day.
    """

    size: int
    operations: int
    given_up_today: int


class Status(_Tagged, frozen=True, tag="status"):
    """How the server is.

    Attributes:
        state: ``running``, ``draining`` or ``stopping``.
        address: Where it listens, as HOST:PORT, or unix:PATH where it doesn't on the network; safe
            to print.
        fingerprint: Of its key; None without TLS.
        since: Seconds since 1970.
        sessions: Connections, those that haven't logged in yet included.
        unauthenticated: Those that haven't logged in yet.
        transfers: Sessions that are moving a file just now.
        bytes_in: Received since the start.
        bytes_out: Sent since the start.
        discovery: None when nobody can find the server by datagrams.
        workers: The processes that serve; none where the server itself does.
        unix: The path of its Unix socket, safe to print; None when it has none.
        trouble: What keeps it from serving everything, a line each.
        warnings: What others may do that they shouldn't, what its settings leave open to strangers,
            and processes that don't answer, a line each.
        trash: None where the books can't be read.
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
    """Who is connected, by number.

    Attributes:
        silent: The processes that don't answer, whose sessions are missing.
    """

    sessions: list[SessionInfo]
    silent: list[str] = []


class Ended(_Tagged, frozen=True, omit_defaults=True, tag="ended"):
    """The sessions that were ended.

    Attributes:
        silent: The processes that don't answer, whose sessions may be missing.
    """

    sessions: list[int]
    silent: list[str] = []


class BanInfo(msgspec.Struct, frozen=True):
    """One ban.

    Attributes:
        subject: What it is lifted by.
        account: None: whatever account is tried.
        failures: How many log-ins have failed.
        until: Seconds since 1970.
        reason: What else than failed log-ins it is for.
    """

    subject: str
    address: str
    account: str | None
    failures: int
    until: int
    reason: str | None = None


class Bans(_Tagged, frozen=True, tag="bans"):
    """Bans, the one that ends first at the front."""

    bans: list[BanInfo]


class Entry(_Tagged, frozen=True, tag="entry"):
    """What is known of it in the memory of the server alone.

    Attributes:
        turned_away: Why no connection would be taken.
        too_many: Why the account could have no more sessions.
        note: What else there is to say of the address.
        banned: What a log-in would be told of a ban, by the clock of the server's run.
    """

    turned_away: TurnedAway | None = None
    too_many: str | None = None
    note: str | None = None
    banned: str | None = None


class Did(_Tagged, frozen=True, tag="did"):
    """What was done, for people."""

    lines: list[str]


class TrashConflict(msgspec.Struct, frozen=True):
    """Something that was not restored, and why."""

    path: bytes
    code: str
    message: str


class TrashRestored(_Tagged, frozen=True, tag="trash-restored"):
    """What is back: see `ftpwire.messages.Restored`."""

    operation: str
    items: int
    already: int = 0
    gone: int = 0
    conflicts: list[TrashConflict] = []
    more_conflicts: int = 0


class TrashEmptied(_Tagged, frozen=True, tag="trash-emptied"):
    """What was removed from the trash for good.

    Attributes:
        size: Bytes that became free.
        left: What stays, and why, a line each.
    """

    operations: int
    size: int
    files: int
    left: list[str] = []


class Stopping(_Tagged, frozen=True, tag="stopping"):
    """The server stops; it has ended when its process has."""

    process: int


class Failure(_Tagged, frozen=True, tag="failure"):
    """It was refused; codes are those of ftpwire/errors.py."""

    code: str
    message: str


# what can be asked -------------------------------------------------------------------------


class TrashControl(Protocol):
    """What can be done with the trash of accounts. Each method can raise FtpError."""

    @asked
    def restore_trash(
        self, account: str, operation: str, target: bytes | None = None, force: bool = False
    ) -> TrashRestored:
        """Take back what an operation has done. Raises NotFound, Expired, Busy, and others.

        Args:
            account: Its name.
            operation: The operation's whole name.
            target: A directory to restore to, instead of where it was.
            force: What is in the way goes to the trash.
        """

    @asked
    def empty_trash(self, account: str | None = None, before: int | None = None) -> TrashEmptied:
        """Remove from the trash for good. Raises NotFound.

        Args:
            account: Its name; None: all accounts.
            before: Only operations that began before this time, in seconds since 1970.
        """


class Control(TrashControl, Protocol):
    """What `ftpd` asks a running server. Each method can raise FtpError; a server of an earlier
    version, which doesn't know the method, answers with BadMessage."""

    @asked
    def status(self) -> Status:
        """How the server is."""

    @asked
    def sessions(self) -> Sessions:
        """Who is connected."""

    @asked
    def kick(self, session: int | None = None, user: str | None = None) -> Ended:
        """End a session, or all of a user's. Raises NotFound."""

    @asked
    def bans(self) -> Bans:
        """Who is banned."""

    @asked
    def unban(self, subject: str | None = None) -> Bans:
        """Lift bans, and return them. Raises NotFound.

        Args:
            subject: An address, or ``ADDRESS ACCOUNT``; None for all there are.
        """

    @asked
    def reload(self) -> Did:
        """Take over what was changed on the disk."""

    @asked
    def drain(self, seconds: Seconds | None = None) -> Stopping:
        """Accept nobody any more, let the sessions finish, then stop.

        Args:
            seconds: After which the server stops in any case; None for no limit.
        """

    @asked
    def stop(self, grace: Seconds | None = None) -> Stopping:
        """Stop, as by SIGTERM.

        Args:
            grace: Seconds that running transfers get; None for what the server was started with.
        """

    @asked
    def entry(self, host: str, account: str) -> Entry:
        """Whether somebody could come in just now.

        Args:
            host: The address to come from, or `addresses.LOCAL`.
            account: Its name.
        """


# asking ------------------------------------------------------------------------------------


def running(state: Path) -> Control:
    """The server that runs on a state directory, to be asked.

    Each method raises ConnectFailed when no server runs there.
    """
    return stand_in(Control, Lines(lambda: _connected(state)))


def ask_until_end(state: Path, end: Callable[[Control], Stopping]) -> Iterator[None]:
    """Have the server end; the first step returns once it was asked, the last when it has ended.

    Args:
        end: Asks for it, by `Control.stop` or `Control.drain`.

    Raises:
        ConnectFailed, FtpError: As any question.
    """
    with _connected(state) as sock:
        process = _peer_process(sock)
        try:
            end(stand_in(Control, Lines(lambda: nullcontext(sock))))
            yield
            if process is None:
                _wait_for_silence(state)
            else:
                select.select([process], [], [])
        finally:
            if process is not None:
                os.close(process)


class Lines:
    """The way to a server (`interfaces.Asking`): a line of JSON there, and one back.

    Args:
        connect: A connection for one question.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[socket.socket]]) -> None:
        self._connect = connect

    def ask(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """See `Control` and `running` for what it raises."""
        with self._connect() as sock:
            sock.settimeout(_PATIENCE_FOR.get(request.name, PATIENCE))
            line = _exchange(sock, msgspec.json.encode(message) + b"\n")
        try:
            answer = msgspec.json.decode(line, type=request.result | Failure)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadMessage(f"the server is of another version: {error}") from None
        if isinstance(answer, Failure):
            raise errors.BY_CODE.get(answer.code, CommandError)(answer.message)
        return answer


def _exchange(sock: socket.socket, question: bytes) -> bytes:
    try:
        sock.sendall(question)
        with sock.makefile("rb") as file:
            line = file.readline()
    except TimeoutError:
        raise ConnectionLost("the server doesn't answer") from None
    except OSError as error:
        raise ConnectionLost(f"the server doesn't answer: {error.strerror}") from None
    if not line:
        raise ConnectionLost("the server ended without an answer")
    return line


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
                    f"{state.parent}: the server there (process {process}) can't be asked: it has "
                    "no control socket, as its log says, or has not got so far"
                ) from None
            raise ConnectFailed(f"{state.parent}: no server runs there{_others()}") from None
        except PermissionError:
            raise Forbidden(f"{state.parent}: only the owner of its server may do that") from None
        except OSError as error:
            raise ConnectFailed(f"{state.parent}: {(error.strerror or str(error))}") from None
        yield sock


def _others() -> str:
    """Name the servers that do run on this machine, as far as they can be asked."""
    there = [root for root in registry.noted() if is_running(state_of(root))]
    if not there:
        return ""
    names = ", ".join(paths.show(os.fsencode(root)) for root in there)
    one = "one runs" if len(there) == 1 else "some run"
    return f"; {one} on {names} (name it with --root)"


def is_running(state: Path) -> bool:
    """Whether a server answers at the control socket of a state directory."""
    try:
        with _socket_of(state):
            return True
    except OSError:
        return False


@contextmanager
def _socket_of(state: Path) -> Iterator[socket.socket]:
    """A connection to the control socket of a state directory. Raises OSError."""
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address_of(directory, state, SOCKET))
            yield sock
    finally:
        os.close(directory)


def _peer_process(sock: socket.socket) -> int | None:
    """A descriptor that becomes readable when the process at the other end has ended.

    None where the system has no such thing, or doesn't show that process.
    """
    found = peer_credentials(sock)
    if not hasattr(os, "pidfd_open") or found is None:
        return None
    try:
        return os.pidfd_open(found.pid) if found.pid > 0 else None
    except OSError:
        return None


def _wait_for_silence(state: Path) -> None:
    """Until nobody answers at the socket any more."""
    while True:
        try:
            running(state).status()
        except ConnectionLost:
            return
        time.sleep(_LOOK)
