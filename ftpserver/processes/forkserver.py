"""The fork server: a process with one thread, from which a server's other processes are forked.

Lives here: the fork server's process (``python -m ftpserver.processes.forkserver``), the server's
side of it, and the requests between both.
Lives elsewhere: how requests are sent (rpc.py), what the children do (the module that the fork
server is started with), deciding when to fork.

A server has threads. A fork of it would copy locks that no thread ever releases, database
connections, and the socket of every other session. The fork server is a fresh interpreter that has
imported the modules and loaded the TLS key, and nothing else. A child gets the descriptors that it
is forked with, and shares the TLS context with its ticket keys. Like the fork server, it ends by
itself when the other end of one of its sockets is closed: however the server ends, no process is
left over.
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
from ftpserver.interfaces import Carried, Descriptors, later, make_proxy, notification, request
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
"""Seconds for the fork server to load its modules or a certificate, to take its messages, and to
end."""
_LAST_SECONDS = 2.0
"""Seconds to end for a fork server that couldn't be started, and has no children; then it is
killed."""


# the requests between both -------------------------------------------------------------------


class Forking(Protocol):
    """The requests of a server to its fork server."""

    @request
    def configure(self, settings: Settings, began: float) -> None:
        """Load the certificate that these settings name, for all further children.

        Args:
            began: When the server's clock began: the system's may have been set since.

        Raises:
            StateError: The certificate cannot be used. The previous settings stay in force.
        """

    @request
    def become(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Go on as a child, with what a forked one would get. It takes no requests after
        this."""

    @request
    def fork(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Fork a child with a number, a note and descriptors.

        Returns:
            Its process id, and a descriptor that stands for the process (pidfd_open(2)) if the
            system has them.

        Raises:
            OSError: The system cannot fork another process.
        """


class EndListener(Protocol):
    """The notifications of a fork server to its server."""

    @notification
    def ended(self, number: int, status: int) -> None:
        """Note that a child has ended, after the reply to its ``fork``; see `Ended`."""


@dataclass(frozen=True)
class Ended:
    """The end of a child.

    Attributes:
        status: Its exit status; the negative number of the signal that killed it.
    """

    number: int
    status: int

    @property
    def cause(self) -> str:
        """The cause of its end, for display."""
        if self.status >= 0:
            return f"it exited with status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:  # a real-time signal
            name = f"signal {-self.status}"
        return f"it was killed by {name}"


@dataclass(frozen=True)
class ChildArguments:
    """The arguments of a child's ``main``.

    Attributes:
        number: The number that it was forked with.
        note: The note that it was forked with.
        tls_context: The TLS context; None for a server without TLS.
        descriptors: Its descriptors, in the order given; closed when the child ends.
    """

    number: int
    note: bytes
    settings: Settings
    tls_context: ssl.SSLContext | None
    descriptors: list[int]


# the server's side ----------------------------------------------------------------------------


class ForkServer:
    """Forks children for a server. Safe to use from many threads.

    A fork server that has died, or rests, is started for the next child. Its children live on.
    ``_lock`` guards the process and its endpoint.

    Args:
        module: The module whose ``main`` is called with `ChildArguments` in each child. The child
            ends when it returns. If the module has a ``prepare``, that is called once in the fork
            server, before the first child.
        on_report: Called in a thread of the fork server's own. It must not send requests to the
            fork server: the same thread receives the replies.
        resting: True to start the fork server with the first child.

    Raises:
        StateError: It cannot be started, or the certificate cannot be used.
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
        """For each fork server that became a child, a thread that waits for its end."""
        if not resting:
            with self._lock:
                self._start()

    def configure(self, settings: Settings) -> None:
        """Use other settings for further children. Raises StateError if that fails."""
        with self._lock:
            if not self._resting:
                self._configure(self._ensure(), settings)
            self._settings = settings

    @property
    def is_awake(self) -> bool:
        """True if there is a process, or was one that has died."""
        return self._process is not None

    def go_idle(self) -> None:
        """End the fork server until the next child is needed: it takes as much memory as a child.

        Only if there are no children: otherwise their end would not be reported.
        """
        with self._lock:
            self._resting = True
            self._end()

    def become(
        self, number: int, descriptors: Sequence[int], note: bytes = b""
    ) -> Future[Carried[int]]:
        """As `spawn`, but the fork server itself goes on as the child, which saves a process.

        Only if there are no other children: otherwise their end would not be reported.
        """
        with self._lock:
            endpoint = self._ensure()
            process, self._process, self._endpoint = self._process, None, None
            self._resting = True
            assert process is not None
            becoming = later(make_proxy(Forking, endpoint).become)
            became = becoming(number, note, Descriptors(list(descriptors)))

            def wait() -> None:
                status = process.wait()
                endpoint.close()
                self._on_report(Ended(number, status))

            waiting = threading.Thread(target=wait, name=f"child {number}")
            try:
                waiting.start()
            except RuntimeError as error:  # too many threads
                process.kill()
                process.wait()
                endpoint.close()
                raise StateError(f"no process can be started: {error}") from error
            self._became = [one for one in self._became if one.is_alive()] + [waiting]
            return became

    def spawn(
        self, number: int, descriptors: Sequence[int], note: bytes = b""
    ) -> Future[Carried[int]]:
        """Fork a child, which gets duplicates of the descriptors.

        Args:
            number: The child's number in reports.
            note: What else the child should know.

        Returns:
            A Future of the result of `Forking.fork`, or of the OSError that it raises. It is
            EndpointGone if the fork server has died meanwhile: then there may be a child.

        Raises:
            StateError: The fork server cannot be started.
        """
        with self._lock:
            forking = make_proxy(Forking, self._ensure())
            return later(forking.fork)(number, note, Descriptors(list(descriptors)))

    def stop(self) -> None:
        """End the fork server. Its children are not waited for. Can be called twice."""
        self._stopping = True
        # Without the lock, which a thread may hold while it waits for the fork server's reply: that
        # wait ends here.
        starting = self._endpoint
        if starting is not None:
            starting.give_up()
        with self._lock:
            self._end()
            became, self._became = self._became, []
        for thread in became:
            thread.join(_PATIENCE)

    def ended(self, number: int, status: int) -> None:
        """Report the end of a child: see `EndListener.ended`."""
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
        logger.warning("the fork server has ended; starting another one")
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
        except RuntimeError as error:  # too many threads
            self._end(_LAST_SECONDS)
            raise StateError(f"no process can be started: {error}") from error
        except BaseException:
            self._end(_LAST_SECONDS)
            raise
        return endpoint

    def _configure(self, endpoint: Endpoint, settings: Settings) -> None:
        try:
            later(make_proxy(Forking, endpoint).configure)(settings, RUN.began).result(_PATIENCE)
        except TimeoutError:
            raise StateError("the fork server doesn't answer") from None
        except EndpointGone:
            raise StateError("the fork server has ended: see the log") from None
        except (FtpError, OSError, ValueError) as error:
            raise StateError(f"the fork server cannot use the settings: {error}") from error

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


# the fork server's process --------------------------------------------------------------------


class _Forker(ForkingMixIn, BaseServer):
    """Forks a child for each request of the server: an implementation of `Forking`.

    It has one thread, which receives and answers, so that no lock is held when it forks.
    socketserver's own way of reaping waits for any child at all, and after 40 children for ever.
    Here each is waited for by its process id, when SIGCHLD shows that one has ended.
    """

    max_children = sys.maxsize  # the server decides how many there may be (accounts/limits.py)
    active_children: set[int]

    def __init__(self, sock: socket.socket, children: ModuleType, *, verbose: bool) -> None:
        super().__init__("the server", _no_handler)
        self.endpoint = Endpoint(
            sock, targets={Forking: self}, max_descriptors=MAX_DESCRIPTORS, name="server"
        )
        self._server = make_proxy(EndListener, self.endpoint)
        self._children = children
        self._verbose = verbose
        self.settings: Settings | None = None
        self.tls_context: ssl.SSLContext | None = None
        self._key_identity: bytes | None = None
        self.active_children = set()
        self._numbers: dict[int, int] = {}
        self._becomes: ChildArguments | None = None
        """The arguments with which this process goes on as a child."""
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # the pipe need not hold more than one byte: `run` looks at all children after each
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        return self.endpoint.fileno()

    def run(self) -> None:
        """Serve until the server is gone, or makes this process go on as a child."""
        while not (self.endpoint.gone or self._becomes):
            readable, _, _ = select.select([self.fileno(), self._woken.fileno()], [], [])
            if self._woken.fileno() in readable:
                self._woken.recv(4096)
                self.collect_children()
            if self.fileno() in readable:
                self.endpoint.handle_one()

    # the requests of the server (Forking) --------------------------------------------------

    def configure(self, settings: Settings, began: float) -> None:
        """Use the settings, and prepare to fork."""
        if self.settings is None:
            RUN.follow(began)
            log_to_stderr(settings.log_format, verbose=self._verbose)
            getattr(self._children, "prepare", _nothing)()
            messages.prepare_to_serve()
        self._take_key(settings)
        self.settings = settings
        keep_what_is_there()  # children share this memory

    def _take_key(self, settings: Settings) -> None:
        """Make the TLS context. With the same key it stays the same, and its tickets valid."""
        if settings.plaintext:
            return
        files = tls.files_of(settings)
        identity = tls.identity_of(*files)
        if identity != self._key_identity:
            self.tls_context = tls.make_context(*files)
            self._key_identity = identity

    def fork(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Fork a child. In the child this doesn't return."""
        assert self.settings is not None
        request: Any = given  # socketserver takes it for a socket
        before = set(self.active_children)
        self.process_request(
            request, ChildArguments(number, note, self.settings, self.tls_context, given)
        )
        (pid,) = self.active_children - before
        self._numbers[pid] = number
        # opened before the child can be reaped: its process id cannot be another process's yet
        return Carried(pid, _pidfds_of(pid))

    def become(self, number: int, note: bytes, given: Descriptors) -> Carried[int]:
        """Let `run` return; then `live_on` makes this process the child."""
        assert self.settings is not None
        kept = list(given)
        given.clear()
        self._becomes = ChildArguments(number, note, self.settings, self.tls_context, kept)
        return Carried(os.getpid(), _pidfds_of(os.getpid()))

    def live_on(self) -> None:
        """Live as a child, if this process is to become one."""
        if self._becomes is None:
            return
        try:
            self.finish_request(None, self._becomes)
        except Exception:
            self.handle_error(None, self._becomes)
            sys.exit(1)

    # each child (ForkingMixIn) -------------------------------------------------------------

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Live as a child. Runs in the child."""
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
        """Reap the children that have ended, each by its own process id."""
        for pid in list(self.active_children):
            found, status = os.waitpid(pid, 0 if blocking else os.WNOHANG)
            if found:
                self.active_children.discard(pid)
                number = self._numbers.pop(pid)
                self._server.ended(number, os.waitstatus_to_exitcode(status))


def _pidfds_of(pid: int) -> list[int]:
    """Return a descriptor for a child that is not reaped yet; none if the system has no such
    descriptors."""
    try:
        return [os.pidfd_open(pid)]
    except (OSError, AttributeError):
        return []


def _nothing() -> None:
    """Do nothing: the module has nothing to prepare."""


def _no_handler(request: Any, client_address: Any, server: BaseServer) -> Any:
    raise NotImplementedError("finish_request does it")


def main(descriptor: str, module: str, level: str) -> None:
    """Be the fork server of the server at the other end of a socket."""
    # It ends when the server's end of the socket is closed, and so do its children: not by a Ctrl-C
    # that all processes at a terminal get.
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
    finally:  # children that end from now on must not write to a socket that is closed
        signal.set_wakeup_fd(-1)


if __name__ == "__main__":
    from ftpserver.processes import forkserver  # the module's real name, known to children

    forkserver.main(*sys.argv[1:])
