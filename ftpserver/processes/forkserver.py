"""The fork server: a process with one thread that all other processes of a server are forked from.

Lives here: the fork server's process (``python -m ftpserver.processes.forkserver``), the server's
hold on it, and what both can be asked.
Lives elsewhere: how they ask each other (rpc.py), what the children do (the module that the
fork server is started with), deciding that there shall be one.

A server has threads, and a fork of it would take along locks that nobody ever gives back, database
connections, and every other session's socket. The fork server is a fresh interpreter that has
imported the modules and loaded the TLS key, and nothing else. A child gets the descriptors that it
is spawned with, and shares the TLS context, its ticket keys included. It ends by itself when the
other end of one of its sockets is closed, as the fork server does: whatever becomes of the server,
nobody is left over.
"""

from __future__ import annotations

import importlib
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from socketserver import BaseServer, ForkingMixIn
from types import ModuleType
from typing import Any, Protocol

from ftpserver import light_sqlalchemy
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.interfaces import Carried, Descriptors, asked, later, stand_in, told
from ftpserver.logs import log_to_stderr
from ftpserver.net import tls
from ftpserver.net.fd_passing import close_all
from ftpserver.processes.malloc import keep_what_is_there, return_memory
from ftpserver.processes.rpc import MAX_DESCRIPTORS, Endpoint, EndpointGone
from ftpserver.settings.table import Settings
from ftpwire import messages
from ftpwire.errors import FtpError

logger = logging.getLogger("ftpd.forkserver")

_PATIENCE = 30.0
"""Seconds for the fork server to load its modules or a certificate, to take what it is told, and to
end."""
_LAST_SECONDS = 2.0
"""To end for one that couldn't be started, and has no children; then it is killed."""


# what both can be asked ---------------------------------------------------------------------


class Forking(Protocol):
    """What a server asks of its fork server."""

    @asked
    def configure(self, settings: Settings, began: float) -> None:
        """Load the certificate that these settings name; further children have them.

        Args:
            began: Of the server's clock: a fork server may start when the system's was set since.

        Raises:
            StateError: The certificate can't be used: the settings before hold.
        """

    @asked
    def become(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Go on as a child, which is told the same as one that was forked. Nothing else can be
        asked any more."""

    @asked
    def fork(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Fork a child, which is told a number and a note, and has the descriptors.

        Returns:
            Its process id, with a descriptor that stands for the process (pidfd_open(2)), where
            the system has such a thing.

        Raises:
            OSError: There can't be one more.
        """


class EndListener(Protocol):
    """What a fork server tells its server."""

    @told
    def ended(self, number: int, status: int) -> None:
        """A child has ended, whose ``fork`` was answered before; see `Ended`."""


@dataclass(frozen=True)
class Ended:
    """A child has ended.

    Attributes:
        status: Its exit status; a signal's number negative.
    """

    number: int
    status: int

    @property
    def cause(self) -> str:
        """What it ended of, for people."""
        if self.status >= 0:
            return f"it ended with status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:  # one of those for real time
            name = f"signal {-self.status}"
        return f"it was ended by {name}"


@dataclass(frozen=True)
class ChildArguments:
    """What a child begins with.

    Attributes:
        number: That it was spawned with.
        note: The same.
        tls_context: None for a server without TLS.
        descriptors: In the order in which they were given; closed when the child ends.
    """

    number: int
    note: bytes
    settings: Settings
    tls_context: ssl.SSLContext | None
    descriptors: list[int]


# the server's hold on it ----------------------------------------------------------------------


class ForkServer:
    """Has children forked for a server. Safe to use from many threads.

    A fork server that has died, or rests, is started when the next child is asked for; its children
    live on. ``_lock`` guards the process and the way to it.

    Args:
        module: Its ``main`` is called with `ChildArguments` in each child, which ends when it
            returns. If it has a ``prepare``, that is called once, in the fork server, before there
            are any.
        on_report: Called in a thread of the fork server's own. It must not ask the fork server for
            anything itself: the answer would come to the same thread.
        resting: Don't start it before there is a child to be forked.

    Raises:
        StateError: It can't be started, or the certificate can't be used.
    """

    def __init__(
        self,
        module: str,
        settings: Settings,
        on_report: Callable[[Ended], None],
        *,
        resting: bool = False,
    ) -> None:
        self._module = module
        self._settings = settings
        self._on_report = on_report
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None
        self._stopping = False
        self._resting = resting
        self._became: list[threading.Thread] = []
        """For each fork server that has become a child, a thread that waits for its end."""
        if not resting:
            with self._lock:
                self._start()

    def configure(self, settings: Settings) -> None:
        """Have further children use other settings. Raises StateError: they don't."""
        with self._lock:
            if not self._resting:
                self._configure(self._ensure(), settings)
            self._settings = settings

    @property
    def is_awake(self) -> bool:
        """Whether there is a process, or was one that has died."""
        return self._process is not None

    def go_idle(self) -> None:
        """End the fork server until there is another child to be had: it takes as much memory as
        one. For when there are none, or nobody would hear of their end."""
        with self._lock:
            self._resting = True
            self._end()

    def become(
        self, number: int, descriptors: Sequence[int], note: bytes = b""
    ) -> Future[Carried[int]]:
        """The same as `spawn`, but the fork server itself goes on as the child, which saves a
        process. For when there are no other children: nobody would hear of their end."""
        with self._lock:
            endpoint = self._ensure()
            process, self._process, self._endpoint = self._process, None, None
            self._resting = True
            assert process is not None
            becoming = later(stand_in(Forking, endpoint).become)
            became = becoming(number, note, Descriptors(list(descriptors)))

            def wait() -> None:
                status = process.wait()
                endpoint.close()
                self._on_report(Ended(number, status))

            waiting = threading.Thread(target=wait, name=f"child {number}")
            try:
                waiting.start()
            except RuntimeError as error:  # no more threads
                process.kill()
                process.wait()
                endpoint.close()
                raise StateError(f"no process can be started: {error}") from error
            self._became = [one for one in self._became if one.is_alive()] + [waiting]
            return became

    def spawn(
        self, number: int, descriptors: Sequence[int], note: bytes = b""
    ) -> Future[Carried[int]]:
        """Have a child forked, which is given duplicates of the descriptors.

        Args:
            number: To know it by in reports.
            note: What else it should know.

        Returns:
            What `Forking.fork` returns, or the OSError that it raises; PeerGone when the fork
            server has died meanwhile: then there may be a child.

        Raises:
            StateError: It can't be.
        """
        with self._lock:
            forking = stand_in(Forking, self._ensure())
            return later(forking.fork)(number, note, Descriptors(list(descriptors)))

    def stop(self) -> None:
        """End the fork server; its children are not waited for. Can be called twice."""
        self._stopping = True
        starting = self._endpoint
        if starting is not None:
            starting.give_up()  # who waits for its answer, with the lock, hears that it is over
        with self._lock:
            self._end()
            became, self._became = self._became, []
        for thread in became:
            thread.join(_PATIENCE)

    def ended(self, number: int, status: int) -> None:
        """`EndListener.ended`."""
        self._on_report(Ended(number, status))

    def _ensure(self) -> Endpoint:
        if self._stopping:
            raise StateError("the server is stopping")
        if self._resting:
            started = self._start()
            self._resting = False
            return started
        endpoint, process = self._endpoint, self._process
        if (
            endpoint is not None
            and not endpoint.gone
            and process is not None
            and process.poll() is None
        ):
            return endpoint
        logger.warning("the fork server has ended; another one is started")
        self._end()
        return self._start()

    def _start(self) -> Endpoint:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise StateError(f"no process can be started: {error.strerror}") from error
        with theirs:
            verbose = logging.getLogger().isEnabledFor(logging.DEBUG)
            command = [sys.executable, "-P", "-m", "ftpserver.processes.forkserver"]
            command += [str(theirs.fileno()), self._module, "debug" if verbose else "info"]
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise StateError(f"no process can be started: {error.strerror}") from error
        self._endpoint = endpoint = Endpoint(
            ours,
            targets={EndListener: self},
            patience=_PATIENCE,
            max_descriptors=1,
            name="fork server",
        )
        try:
            endpoint.start()
            self._configure(endpoint, self._settings)
        except RuntimeError as error:  # no more threads
            self._end(_LAST_SECONDS)
            raise StateError(f"no process can be started: {error}") from error
        except BaseException:
            self._end(_LAST_SECONDS)
            raise
        return endpoint

    def _configure(self, endpoint: Endpoint, settings: Settings) -> None:
        try:
            later(stand_in(Forking, endpoint).configure)(settings, RUN.began).result(_PATIENCE)
        except TimeoutError:
            raise StateError("the fork server doesn't answer") from None
        except EndpointGone:
            raise StateError("the fork server has ended: the log tells why") from None
        except (FtpError, OSError, ValueError) as error:
            raise StateError(f"the fork server can't take the settings over: {error}") from error

    def _end(self, seconds: float = _PATIENCE) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                logger.warning("the fork server is killed: it doesn't end")
                self._process.kill()
                self._process.wait()
        self._process = self._endpoint = None


# the fork server's process ------------------------------------------------------------------------


class _Forker(ForkingMixIn, BaseServer):
    """Forks a child for each request that comes from the server: it does what `Forking` says.

    It has one thread, which reads and answers, so that what is forked is never in the middle of
    anything. socketserver's own way of reaping waits for any child at all, and after 40 of them for
    ever: here each is waited for by its number, when SIGCHLD says that one has ended.
    """

    max_children = (
        sys.maxsize
    )  # how many there may be is the server's to decide (accounts/limits.py)
    active_children: set[int]

    def __init__(self, sock: socket.socket, children: ModuleType, *, verbose: bool) -> None:
        super().__init__("the server", _no_handler)
        self.endpoint = Endpoint(
            sock, targets={Forking: self}, max_descriptors=MAX_DESCRIPTORS, name="server"
        )
        self._server = stand_in(EndListener, self.endpoint)
        self._children = children
        self._verbose = verbose
        self.settings: Settings | None = None
        self.tls_context: ssl.SSLContext | None = None
        self._key_identity: bytes | None = None
        self.active_children = set()
        self._numbers: dict[int, int] = {}
        self._becomes: ChildArguments | None = None
        """What this process goes on as."""
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # one byte that wakes up is as good as many
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        return self.endpoint.fileno()

    def run(self) -> None:
        """Serve until the server is gone, or has this process go on as a child."""
        while not (self.endpoint.gone or self._becomes):
            readable, _, _ = select.select([self.fileno(), self._woken.fileno()], [], [])
            if self._woken.fileno() in readable:
                self._woken.recv(4096)
                self.collect_children()
            if self.fileno() in readable:
                self.endpoint.handle_one()

    # what the server asks (Forking) --------------------------------------------------------

    def configure(self, settings: Settings, began: float) -> None:
        """Take settings over, and be ready to fork."""
        if self.settings is None:
            RUN.follow(began)
            log_to_stderr(settings.log_format, verbose=self._verbose)
            getattr(self._children, "prepare", _nothing)()
            messages.prepare_to_serve()
        self._take_key(settings)
        self.settings = settings
        keep_what_is_there()  # and children share it

    def _take_key(self, settings: Settings) -> None:
        """Make the TLS context; the same key stays in the same one, and its tickets good."""
        if settings.plaintext:
            return
        files = tls.files_of(settings)
        identity = tls.identity_of(*files)
        if identity != self._key_identity:
            self.tls_context = tls.make_context(*files)
            self._key_identity = identity

    def fork(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Fork a child. In the child this never returns."""
        assert self.settings is not None
        request: Any = given  # for socketserver it is a socket
        before = set(self.active_children)
        self.process_request(
            request, ChildArguments(number, note, self.settings, self.tls_context, given)
        )
        (pid,) = self.active_children - before
        self._numbers[pid] = number
        return Carried(pid, _pidfds_of(pid))

    def become(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Have `live_on` be called next."""
        assert self.settings is not None
        kept = list(given)
        given.clear()
        self._becomes = ChildArguments(number, note, self.settings, self.tls_context, kept)
        return Carried(os.getpid(), _pidfds_of(os.getpid()))

    def live_on(self) -> None:
        """Live as the child that this process has become, if it has."""
        if self._becomes is None:
            return
        try:
            self.finish_request(None, self._becomes)
        except Exception:
            self.handle_error(None, self._becomes)
            sys.exit(1)

    # each child (ForkingMixIn) -------------------------------------------------------------

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Live as a child."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self.endpoint.abandon()
        for ours in (self._woken, self._wake):
            ours.close()
        self._children.main(client_address)

    def close_request(self, request: Any) -> None:
        close_all(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("process %d failed", client_address.number)

    def collect_children(self, *, blocking: bool = False) -> None:
        """Reap those that have ended, each by its own number."""
        for pid in list(self.active_children):
            found, status = os.waitpid(pid, 0 if blocking else os.WNOHANG)
            if found:
                self.active_children.discard(pid)
                number = self._numbers.pop(pid)
                self._server.ended(number, os.waitstatus_to_exitcode(status))


def _pidfds_of(pid: int) -> list[int]:
    """A descriptor that stands for a child, which is not reaped yet; none where there is no such
    thing."""
    try:
        return [os.pidfd_open(pid)]
    except (OSError, AttributeError):
        return []


def _nothing() -> None:
    """Where there is nothing to prepare."""


def _no_handler(request: Any, client_address: Any, server: BaseServer) -> Any:
    raise NotImplementedError("finish_request does it")


def main(descriptor: str, module: str, level: str) -> None:
    """Be the fork server of the server at the other end of a socket."""
    # what ends it, and its children, is the server's end: not a Ctrl-C that all of them hear
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    return_memory()
    light_sqlalchemy.load()  # before the module does it
    forker = _Forker(sock, importlib.import_module(module), verbose=level == "debug")
    try:
        forker.run()
        forker.live_on()
    finally:  # whoever ends from now on isn't told of by a socket that is closed already
        signal.set_wakeup_fd(-1)


if __name__ == "__main__":
    from ftpserver.processes import forkserver  # under its own name, by which children know it

    forkserver.main(*sys.argv[1:])
