"""The control socket: how `ftpd status` and its relatives talk with the running server.

Lives here: what can be asked and answered, the server's end of the socket, and asking it.
Lives elsewhere: what is printed (cli/control.py), what is done (server.py,
serving/account_watch.py).

A Unix socket in the server's state directory, which only the owner of the server can open. Each
connection carries one question and one answer, each a line of JSON with a struct behind it: both
ends are always of one installation and on one machine, so that nothing of the file protocol's
pipelining, limits and versions is needed, and a line can be read and written by hand.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from ftpserver.accounts.startups import TurnedAway
from ftpserver.clock import RUN
from ftpserver.daemon import registry
from ftpserver.errors import StateError
from ftpserver.net.stoppable import Stoppable
from ftpserver.serving.stats import SessionInfo
from ftpserver.settings.table import state_of
from ftpwire import SOFTWARE, errors, paths
from ftpwire.errors import (
    BadMessage,
    CommandError,
    ConnectFailed,
    ConnectionLost,
    Forbidden,
    FtpError,
    Internal,
    NotFound,
    TooMany,
)
from ftpwire.peers import peer_credentials

if TYPE_CHECKING:
    from ftpserver.accounts.bans import Ban
    from ftpserver.daemon.discovery import Discovery
    from ftpserver.daemon.server import FtpServer

logger = logging.getLogger("ftpd.control")

SOCKET = "control.sock"
_MAX_QUESTION = 64 * 1024
_PATIENCE = 10.0
"""Seconds that a question or an answer may take on its way."""
_RELOAD_PATIENCE = 120.0
"""The same for a reload, which may have to start other workers first."""
_BREATHER = 0.25
"""Seconds of rest after an accept that failed: waiting doesn't spin."""
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

_decode_question: Callable[[bytes], Question] = msgspec.json.Decoder(Question).decode
_decode_answer: Callable[[bytes], Answer] = msgspec.json.Decoder(Answer).decode
_encode: Callable[[Question | Answer], bytes] = msgspec.json.Encoder().encode


# the server's end --------------------------------------------------------------------------


class Control(Stoppable, ThreadingMixIn, UnixStreamServer):
    """Answers questions about a running server, in threads of its own.

    Raises:
        OSError: The socket can't be made.
    """

    daemon_threads = False  # stop() waits for them

    def __init__(self, server: FtpServer) -> None:
        self.server = server
        self._connections: set[socket.socket] = set()
        self._over = threading.Event()
        self._directory = os.open(server.settings.state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._unlink()  # what a crash left: nobody else serves this root
            super().__init__(_address(self._directory, server.settings.state), _Handler)
        except BaseException:
            os.close(self._directory)
            raise
        self._thread = threading.Thread(target=self.serve_forever, name="control")
        self._thread.start()

    def server_bind(self) -> None:
        """Bind, so that at no moment anybody else can connect."""
        os.fchmod(self.fileno(), 0o600)  # Linux gives this mode to what it makes
        super().server_bind()
        os.chmod(SOCKET, 0o600, dir_fd=self._directory)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; when descriptors ran out, wait a moment instead of spinning."""
        try:
            return super().get_request()
        except OSError:
            self._over.wait(_BREATHER)
            raise  # serve_forever goes on

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, which `stop` ends and waits for."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection's thread is at its end, or could not be started."""
        super().shutdown_request(request)
        self._connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A question that couldn't be answered: logged, the rest goes on."""
        logger.exception("a control command could not be answered")

    def stop(self) -> None:
        """Answer what was asked, and remove the socket."""
        self._over.set()
        registry.remove(self.server.settings.root.absolute())
        self.shutdown()
        self._unlink()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RD)  # who hasn't asked yet won't any more
            except OSError:
                pass  # it has ended by itself
        self.server_close()  # waits for the threads
        self._thread.join()
        os.close(self._directory)

    def _unlink(self) -> None:
        try:
            os.unlink(SOCKET, dir_fd=self._directory)
        except FileNotFoundError:
            pass  # there is none


def start_control(server: FtpServer) -> Control | None:
    """Open the control socket. Where that is impossible, the server serves without."""
    try:
        control = Control(server)
    except OSError as error:
        logger.warning(
            "no control socket, so that ftpd status and its like can't reach this server: %s", error
        )
        return None
    registry.add(server.settings.root.absolute())
    return control


class _Handler(StreamRequestHandler):
    """One question, one answer."""

    server: Control
    timeout = _PATIENCE

    def handle(self) -> None:
        try:
            line = self.rfile.readline(_MAX_QUESTION)
            if not line:
                return  # a look at whether anybody is there
            answer, then = self._answer(line)
            self.wfile.write(_encode(answer) + b"\n")
        except OSError as error:
            logger.info("a control command was given up: %s", error)
            return
        if then is not None:
            then()

    def _answer(self, line: bytes) -> tuple[Answer, Callable[[], None] | None]:
        """The answer, and what is to be done once it is sent."""
        server = self.server.server
        try:
            question = _decode_question(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Failure("bad-message", f"{SOFTWARE} doesn't know this command: {error}"), None
        try:
            match question:
                case Stop():
                    return _stopping(question, lambda: server.ask_to_stop(question.grace))
                case Drain():
                    return _stopping(question, lambda: server.drain(question.seconds))
                case _:
                    return _ANSWERS[type(question)](server, question), None
        except FtpError as error:
            return Failure(error.code, paths.printable(str(error))), None
        except StateError as error:
            return Failure(CommandError.code, paths.printable(str(error))), None
        except Exception:
            logger.exception("%s failed", type(question).__name__)
            return Failure(Internal.code, "internal error: the server's log tells more"), None


def _stopping(
    question: Question, act: Callable[[], None]
) -> tuple[Answer, Callable[[], None] | None]:
    """The answer goes out first: after it there may be nobody left to give it."""
    logger.info("asked to %s", type(question).__name__.lower())
    return Stopping(os.getpid()), act


def _status(server: FtpServer, question: AskStatus) -> Answer:
    figures, path = server.serving.figures(), server.settings.unix
    return Status(
        software=SOFTWARE,
        process=os.getpid(),
        state="stopping" if server.stopping else "draining" if server.draining else "running",
        address=paths.printable(server.address),  # a path may be no text
        unix=None if path is None else paths.printable(str(path.absolute())),
        fingerprint=server.fingerprint,
        since=RUN.by_system(server.started),
        sessions=figures.sessions,
        strangers=figures.strangers,
        transfers=figures.transfers,
        bytes_in=figures.bytes_in,
        bytes_out=figures.bytes_out,
        accounts=len(server.accounts),
        discovery=_discovery_info(server.discovery),
        workers=[] if server.crew is None else server.crew.processes,
        trouble=[paths.printable(one) for one in server.trouble],
        warnings=[paths.printable(one) for one in server.warnings],
    )


def _discovery_info(found: Discovery | None) -> DiscoveryInfo | None:
    if found is None:
        return None
    return DiscoveryInfo(found.port, found.answered, found.limited, found.dropped)


def _sessions(server: FtpServer, question: AskSessions) -> Answer:
    return Sessions(server.serving.session_infos())


def _kick(server: FtpServer, question: Kick) -> Answer:
    return Ended(server.serving.kick(question.session, question.user))


def _bans(server: FtpServer, question: AskBans) -> Answer:
    return Bans([_ban_info(one) for one in server.limits.bans()])


def _unban(server: FtpServer, question: Unban) -> Answer:
    if question.subject is not None:
        lifted = list(server.limits.unban(question.subject))
    else:
        lifted = []
        for ban in server.limits.bans():
            try:
                lifted += server.limits.unban(ban.subject)
            except NotFound:
                continue  # with an earlier one, which was of the whole address
    return Bans([_ban_info(one) for one in lifted])


def _ban_info(ban: Ban) -> BanInfo:
    until = round(RUN.by_system(ban.until))
    return BanInfo(ban.subject, ban.address, ban.account, ban.failures, until, ban.reason)


def _entry(server: FtpServer, question: AskEntry) -> Answer:
    limits, too_many = server.limits, None
    try:
        limits.check_cap(server.accounts.get(question.account))
    except TooMany as error:
        too_many = str(error)
    ban = limits.ban_of(question.host, question.account)
    return Entry(
        limits.turned_away(question.host),
        too_many,
        limits.crowd(question.host),
        None if ban is None else str(ban),
    )


def _reload(server: FtpServer, question: Reload) -> Answer:
    return Did(server.reload())


_ANSWERS: dict[type[_Tagged], Callable[[FtpServer, Any], Answer]] = {
    AskStatus: _status,
    AskSessions: _sessions,
    Kick: _kick,
    AskBans: _bans,
    Unban: _unban,
    Reload: _reload,
    AskEntry: _entry,
}


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
        sock.sendall(_encode(question) + b"\n")
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
            sock.settimeout(_PATIENCE)
            sock.connect(_address(directory, state))
            yield sock
    finally:
        os.close(directory)


def _address(directory: int, state: Path) -> str:
    """A path of the socket that fits into the 108 bytes that there are for one, for any root."""
    by_descriptor = f"/proc/self/fd/{directory}"
    return f"{by_descriptor if os.path.exists(by_descriptor) else state}/{SOCKET}"


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
