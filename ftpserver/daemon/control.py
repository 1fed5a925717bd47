"""The control socket: how `ftpd status` and its relatives talk with the running server.

Lives here: what can be asked and answered, and asking it.
Lives elsewhere: the server's end of the socket (control_server.py), what is printed
(cli/control.py).

A Unix socket in the server's state directory, which only the owner of the server can open. Each
connection carries one question and one answer, each a line of JSON with a struct behind it: both
ends are always of one installation and on one machine, so that nothing of the file protocol's
pipelining, limits and versions is needed, and a line can be read and written by hand.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ftpserver.accounts.startups import TurnedAway
from ftpserver.daemon import registry
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
_RELOAD_PATIENCE = 120.0
"""The same for a reload, which may have to start other workers first."""
_LOOK = 0.05
"""Seconds from one look whether a server still runs to the next."""

Seconds = Annotated[float, Meta(ge=0)]


class _Tagged(msgspec.Struct, frozen=True, tag_field="is"):
    """Base of everything that is asked and answered."""


# questions ---------------------------------------------------------------------------------


class AskStatus(_Tagged, frozen=True, tag="status"):
    """How the server is. Answer: `Status`."""


class AskSessions(_Tagged, frozen=True, tag="sessions"):
    """Who is connected. Answer: `Sessions`."""


class Kick(_Tagged, frozen=True, tag="kick"):
    """End a session, or all of a user's. Answer: `Ended`; or `Failure` with ``not-found``."""

    session: int | None = None
    user: str | None = None


class AskBans(_Tagged, frozen=True, tag="bans"):
    """Who is banned. Answer: `Bans`."""


class Unban(_Tagged, frozen=True, tag="unban"):
    """Lift bans. Answer: `Bans`, those that were lifted; or `Failure` with ``not-found``.

    Attributes:
        subject: An address, or ``ADDRESS ACCOUNT``; None for all there are.
    """

    subject: str | None = None


class Reload(_Tagged, frozen=True, tag="reload"):
    """Take over what was changed on the disk. Answer: `Did`."""


class Drain(_Tagged, frozen=True, tag="drain"):
    """Accept nobody any more, let the sessions finish, then stop. Answer: `Stopping`.

    Attributes:
        seconds: After which the server stops in any case; None for no limit.
    """

    seconds: Seconds | None = None


class Stop(_Tagged, frozen=True, tag="stop"):
    """Stop, as by SIGTERM. Answer: `Stopping`.

    Attributes:
        grace: Seconds that running transfers get; None for what the server was started with.
    """

    grace: Seconds | None = None


class AskEntry(_Tagged, frozen=True, tag="entry"):
    """Whether somebody could come in just now. Answer: `Entry`.

    Attributes:
        host: The address to come from, or `addresses.LOCAL`.
        account: Its name.
    """

    host: str
    account: str


Question = AskStatus | AskSessions | Kick | AskBans | Unban | Reload | Drain | Stop | AskEntry


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


class Status(_Tagged, frozen=True, tag="status"):
    """How the server is.

    Attributes:
        state: ``running``, ``draining`` or ``stopping``.
        address: Where it listens, as HOST:PORT, or unix:PATH where it doesn't on the network; safe
            to print.
        fingerprint: Of its key; None without TLS.
        since: Seconds since 1970.
        sessions: Connections, those that haven't logged in yet included.
        strangers: Those that haven't logged in yet.
        transfers: Sessions that are moving a file just now.
        bytes_in: Received since the start.
        bytes_out: Sent since the start.
        discovery: None when nobody can find the server by datagrams.
        workers: The processes that serve; none where the server itself does.
        unix: The path of its Unix socket, safe to print; None when it has none.
        trouble: What keeps it from serving everything, a line each.
        warnings: What others may do that they shouldn't, and what its settings leave open to
            strangers, a line each.
    """

    software: str
    process: int
    state: str
    address: str
    fingerprint: str | None
    since: float
    sessions: int
    strangers: int
    transfers: int
    bytes_in: int
    bytes_out: int
    accounts: int
    discovery: DiscoveryInfo | None = None
    workers: list[int] = []
    unix: str | None = None
    trouble: list[str] = []
    warnings: list[str] = []


class Sessions(_Tagged, frozen=True, tag="sessions"):
    """Who is connected, by number."""

    sessions: list[SessionInfo]


class Ended(_Tagged, frozen=True, tag="ended"):
    """The sessions that were ended."""

    sessions: list[int]


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


class Stopping(_Tagged, frozen=True, tag="stopping"):
    """The server stops; it has ended when its process has."""

    process: int


class Failure(_Tagged, frozen=True, tag="failure"):
    """It was refused; codes are those of ftpwire/errors.py."""

    code: str
    message: str


Answer = Status | Sessions | Ended | Bans | Did | Stopping | Entry | Failure

decode_question: Callable[[bytes], Question] = msgspec.json.Decoder(Question).decode
_decode_answer: Callable[[bytes], Answer] = msgspec.json.Decoder(Answer).decode
encode: Callable[[Question | Answer], bytes] = msgspec.json.Encoder().encode


# asking ------------------------------------------------------------------------------------


def ask(state: Path, question: Question) -> Answer:
    """Ask the server that runs on a state directory.

    Raises:
        ConnectFailed: No server runs there.
        FtpError: The server refused.
    """
    with _connected(state) as sock:
        if isinstance(question, Reload):
            sock.settimeout(_RELOAD_PATIENCE)
        return _ask(sock, question)


def ask_until_end(state: Path, question: Stop | Drain) -> Iterator[None]:
    """Ask the server to end; the first step returns once it was asked, the last when it has ended.

    Raises:
        ConnectFailed, FtpError: As `ask`.
    """
    with _connected(state) as sock:
        process = _peer_process(sock)
        try:
            _ask(sock, question)
            yield
            if process is None:
                _wait_for_silence(state)
            else:
                select.select([process], [], [])
        finally:
            if process is not None:
                os.close(process)


def _ask(sock: socket.socket, question: Question) -> Answer:
    try:
        sock.sendall(encode(question) + b"\n")
        with sock.makefile("rb") as file:
            line = file.readline()
    except TimeoutError:
        raise ConnectionLost("the server doesn't answer") from None
    except OSError as error:
        raise ConnectionLost(f"the server doesn't answer: {error.strerror}") from None
    if not line:
        raise ConnectionLost("the server ended without an answer")
    try:
        answer = _decode_answer(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(f"the server is of another version: {error}") from None
    if isinstance(answer, Failure):
        raise errors.BY_CODE.get(answer.code, CommandError)(answer.message)
    return answer


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
            ask(state, AskStatus())
        except ConnectionLost:
            return
        time.sleep(_LOOK)
