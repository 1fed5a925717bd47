"""The nursery: a process with one thread that all other processes of a server are forked from.

Lives here: the nursery's process (``python -m ftpserver.processes.forkserver``), the server's hold
on it, and what both say to each other.
Lives elsewhere: what the children do (the module that the nursery is started with), deciding that
there shall be one.

A server has threads, and a fork of it would take along locks that nobody ever gives back, database
connections, and every other session's socket. The nursery is a fresh interpreter that has imported
the modules and loaded the TLS key, and nothing else. A child gets the descriptors that it is
spawned with, and shares the TLS context, its ticket keys included. It ends by itself when the
other end of one of its sockets is closed, as the nursery does: whatever becomes of the server,
nobody is left over.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pickle
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socketserver import BaseServer, ForkingMixIn
from typing import Any

from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.logs import log_to_stderr
from ftpserver.net import tls
from ftpserver.net.fd_passing import beside, room_for, taken_from
from ftpserver.processes.malloc import return_memory
from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd.nursery")

_LENGTH = struct.Struct("!I")
_MAX_DESCRIPTORS = 8
"""That one child can be given."""
_PATIENCE = 30.0
"""Seconds for the nursery to load its modules or a certificate."""


# what is said -------------------------------------------------------------------------------
#
# Pickled: both ends are this program, and no child keeps the socket.


@dataclass(frozen=True)
class Configure:
    """Load the certificate that these settings name. Answer: `Configured`.

    Attributes:
        began: Of the server's clock: a nursery may start when the system's was set since.
    """

    settings: Settings
    began: float


@dataclass(frozen=True)
class Spawn:
    """Fork a child, with its descriptors. Answers: `Spawned`; and `Ended` once it is over."""

    number: int
    note: bytes


@dataclass(frozen=True)
class Configured:
    """Children have these settings from now on; or not, and why."""

    error: str | None = None


@dataclass(frozen=True)
class Spawned:
    """A child has begun."""

    number: int
    pid: int


@dataclass(frozen=True)
class Ended:
    """A child has ended, or could not be made.

    Attributes:
        pid: None when there was none.
        status: Its exit status; a signal's number negative.
    """

    number: int
    pid: int | None
    status: int

    @property
    def cause(self) -> str:
        """What it ended of, for people."""
        if self.pid is None:
            return f"it could not be started: {os.strerror(self.status)}"
        if self.status >= 0:
            return f"it ended with status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:  # one of those for real time
            name = f"signal {-self.status}"
        return f"it was ended by {name}"


Report = Configured | Spawned | Ended


@dataclass(frozen=True)
class Born:
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


def _send(sock: socket.socket, said: object, descriptors: Sequence[int] = ()) -> None:
    payload = pickle.dumps(said)
    data = memoryview(_LENGTH.pack(len(payload)) + payload)
    sent = sock.sendmsg([data], beside(descriptors))
    sock.sendall(data[sent:])


def _receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """What is said next, and the descriptors that came along. Raises EOFError at the end."""
    start, ancillary, _, _ = sock.recvmsg(_LENGTH.size, room_for(_MAX_DESCRIPTORS))
    if not start:
        raise EOFError
    (length,) = _LENGTH.unpack(start + _exactly(sock, _LENGTH.size - len(start)))
    return pickle.loads(_exactly(sock, length)), taken_from(ancillary)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


# the server's hold on it ----------------------------------------------------------------------


class Nursery:
    """Has children forked for a server. Safe to use from many threads.

    A nursery that has died is replaced when the next child is asked for; its children live on.
    ``_lock`` guards the process and its socket.

    Args:
        module: Its ``main`` is called with `Born` in each child, which ends when it returns. If it
            has a ``prepare``, that is called once, in the nursery, before there are any.
        on_report: Called with `Spawned` and `Ended`, in a thread of the nursery's own. It must not
            ask the nursery for anything itself: the answer would come to the same thread.

    Raises:
        StateError: It can't be started, or the certificate can't be used.
    """

    def __init__(
        self,
        module: str,
        settings: Settings,
        on_report: Callable[[Spawned | Ended], None],
    ) -> None:
        self._module = module
        self._settings = settings
        self._on_report = on_report
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._answered = threading.Semaphore(0)
        self._answer: Configured | None = None
        self._stopping = False
        with self._lock:
            self._start()

    def configure(self, settings: Settings) -> None:
        """Have further children use other settings. Raises StateError: they don't."""
        with self._lock:
            self._ensure()
            self._configure(settings)
            self._settings = settings

    def spawn(self, number: int, descriptors: Sequence[int], note: bytes = b"") -> None:
        """Have a child forked, which is given duplicates of the descriptors.

        Args:
            number: To know it by in reports.
            note: What else it should know.

        Raises:
            StateError: It can't be.
        """
        with self._lock:
            self._ensure()
            assert self._socket is not None
            try:
                _send(self._socket, Spawn(number, note), descriptors)
            except OSError as error:
                raise StateError(f"no process can be started: {error.strerror}") from error

    def stop(self) -> None:
        """End the nursery; its children are not waited for. Can be called twice."""
        with self._lock:
            self._stopping = True
            self._end()

    def _ensure(self) -> None:
        if self._stopping:
            raise StateError("the server is stopping")
        if self._process is None or self._process.poll() is not None:
            logger.warning("the nursery has ended; another one is started")
            self._end()
            self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
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
        self._socket = ours
        self._reader = threading.Thread(target=self._read, args=(ours,), name="nursery")
        self._reader.start()
        try:
            self._configure(self._settings)
        except BaseException:
            self._end()
            raise

    def _configure(self, settings: Settings) -> None:
        assert self._socket is not None
        try:
            _send(self._socket, Configure(settings, RUN.began))
        except OSError as error:
            raise StateError(f"the nursery has ended: {error.strerror}") from error
        if not self._answered.acquire(timeout=_PATIENCE):
            raise StateError("the nursery doesn't answer")
        answer, self._answer = self._answer, None
        if answer is None:
            raise StateError("the nursery has ended: the log tells why")
        if answer.error is not None:
            raise StateError(answer.error)

    def _read(self, sock: socket.socket) -> None:
        try:
            while True:
                report, _ = _receive(sock)
                if isinstance(report, Configured):
                    self._answer = report
                    self._answered.release()
                else:
                    self._on_report(report)
        except (EOFError, OSError):
            self._answered.release()  # nobody waits in vain

    def _end(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join()
        if self._process is not None:
            self._process.wait()
        if self._socket is not None:
            self._socket.close()
        self._process = self._socket = self._reader = None
        self._answered = threading.Semaphore(0)


# the nursery's process --------------------------------------------------------------------------


class _Forker(ForkingMixIn, BaseServer):
    """Forks a child for each request that comes from the server.

    socketserver's own way of reaping waits for any child at all, and after 40 of them for ever:
    here each is waited for by its number, when SIGCHLD says that one has ended.
    """

    max_children = (
        sys.maxsize
    )  # how many there may be is the server's to decide (accounts/limits.py)
    active_children: set[int]

    def __init__(self, sock: socket.socket, main: Callable[[Born], None]) -> None:
        super().__init__("the server", _no_handler)
        self.socket = sock
        self.main = main
        self.settings: Settings | None = None
        self.tls_context: ssl.SSLContext | None = None
        self._key_identity: bytes | None = None
        self.active_children = set()
        self._numbers: dict[int, int] = {}
        self._over = False
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())

    def fileno(self) -> int:
        return self.socket.fileno()

    def run(self) -> None:
        """Serve until the server is gone."""
        while not self._over:
            readable, _, _ = select.select([self.socket, self._woken], [], [])
            if self._woken in readable:
                self._woken.recv(4096)
                self.collect_children()
            if self.socket in readable:
                self._handle_request_noblock()  # type: ignore[attr-defined]  # of BaseServer

    def get_request(self) -> tuple[Any, Any]:
        """The next word of the server. Raises OSError when there is no child to be made."""
        try:
            said, descriptors = _receive(self.socket)
        except (EOFError, ConnectionError):
            self._over = True
            raise OSError("the server is gone") from None
        if isinstance(said, Configure):
            self._report(self._configure(said.settings))
            raise OSError("there is nothing to serve")
        return descriptors, said

    def _configure(self, settings: Settings) -> Configured:
        try:
            self._take_key(settings)
        except StateError as error:
            return Configured(str(error))
        self.settings = settings
        gc.collect()
        gc.freeze()  # children share what is there already
        return Configured()

    def _take_key(self, settings: Settings) -> None:
        """Make the TLS context; the same key stays in the same one, and its tickets good."""
        if settings.plaintext:
            return
        files = tls.files_of(settings)
        identity = tls.identity_of(*files)
        if identity != self._key_identity:
            self.tls_context = tls.make_context(*files)
            self._key_identity = identity

    def process_request(self, request: Any, client_address: Any) -> None:
        """Fork a child, and say so."""
        before = set(self.active_children)
        try:
            super().process_request(request, client_address)
        except OSError as error:
            self.close_request(request)
            self._report(Ended(client_address.number, None, error.errno or 0))
            return
        (pid,) = self.active_children - before
        self._numbers[pid] = client_address.number
        self._report(Spawned(client_address.number, pid))

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Live as a child."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for ours in (self.socket, self._woken, self._wake):
            ours.close()
        assert self.settings is not None
        spawn = client_address
        self.main(Born(spawn.number, spawn.note, self.settings, self.tls_context, request))

    def close_request(self, request: Any) -> None:
        for descriptor in request:
            with suppress(OSError):  # a child may have closed its own
                os.close(descriptor)

    shutdown_request = close_request

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("process %d failed", client_address.number)

    def collect_children(self, *, blocking: bool = False) -> None:
        """Reap those that have ended, each by its own number."""
        for pid in list(self.active_children):
            found, status = os.waitpid(pid, 0 if blocking else os.WNOHANG)
            if found:
                self.active_children.discard(pid)
                number = self._numbers.pop(pid)
                self._report(Ended(number, pid, os.waitstatus_to_exitcode(status)))

    def _report(self, report: Report) -> None:
        try:
            _send(self.socket, report)
        except OSError:
            self._over = True  # the server is gone


def _nothing() -> None:
    """Where there is nothing to prepare."""


def _no_handler(request: Any, client_address: Any, server: BaseServer) -> Any:
    raise NotImplementedError("finish_request does it")


def main(descriptor: str, module: str, level: str) -> None:
    """Be the nursery of the server at the other end of a socket."""
    # what ends it, and its children, is the server's end: not a Ctrl-C that all of them hear
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    return_memory()
    try:
        said, _ = _receive(sock)
    except EOFError:
        return  # the server has changed its mind
    RUN.follow(said.began)
    log_to_stderr(said.settings.log_format, verbose=level == "debug")
    children = importlib.import_module(module)
    getattr(children, "prepare", _nothing)()
    forker = _Forker(sock, children.main)
    forker._report(forker._configure(said.settings))
    try:
        forker.run()
    finally:  # whoever ends from now on isn't told of by a socket that is closed already
        signal.set_wakeup_fd(-1)


if __name__ == "__main__":
    from ftpserver.processes import forkserver  # under its own name, which is in what is said

    forkserver.main(*sys.argv[1:])
