"""An interpreter that has the libraries loaded, and becomes `ftp` or `ftpd` by forking.

Lives here: both sides of it. Run as a program, this is that interpreter; imported, it is how to
have it start something. Lives elsewhere: what is started, and when not in this way (programs.py).

Most of what a start of `ftpd` or `ftp` costs is the import of other people's libraries, and the
tests start thousands. Only those are loaded before the fork. The packages of this project are
imported after it, by each program itself, in the order in which it needs them.

The new process is a child of whoever asked, as after a start of the usual kind: the interpreter
forks twice, and orphans go to a subreaper (prctl(2)), which the one who asks is for that moment.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
from typing import Any

LIBRARIES = (
    *("argon2", "blake3", "click", "cryptography.x509", "msgspec.json", "msgspec.msgpack"),
    *("platformdirs", "prompt_toolkit", "rich.console", "sqlalchemy"),
    *("sqlalchemy.dialects.sqlite", "concurrent.futures", "hashlib", "logging", "socketserver"),
    *("sqlite3", "ssl", "subprocess"),
)
_SET_CHILD_SUBREAPER = 36
_LENGTH = struct.Struct(">I")
_OF_THE_INTERPRETER = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "TZ")
"""Variables that have done their work by the time of a fork begin with one of these."""


def of_the_interpreter(environment: Any) -> dict[str, str]:
    """What of an environment an interpreter that runs cannot take over any more."""
    return {
        name: value for name, value in environment.items() if name.startswith(_OF_THE_INTERPRETER)
    }


# who asks ----------------------------------------------------------------------------------


class Warm:
    """The interpreter, as seen from who wants programs of it. For one process; `close` ends it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lock = threading.Lock()
        self._environment = of_the_interpreter(os.environ)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def can_start(self, command: list[str], environment: Any) -> bool:
        """Whether that is an installed program, in an environment like this one's."""
        return (
            os.path.dirname(command[0]) == sysconfig.get_path("scripts")
            and os.path.basename(command[0]) in ("ftp", "ftpd")
            and of_the_interpreter(environment) == self._environment
        )

    def start(
        self, command: list[str], environment: Any, directory: Any, streams: tuple[int, int, int]
    ) -> int:
        """Start a program; returns the id of a new child of this process."""
        job = json.dumps([command, dict(environment), os.fspath(directory)]).encode()
        with self._lock:
            self._reap_orphans(True)
            try:
                message = _LENGTH.pack(len(job)) + job
                sent = self._socket.sendmsg(
                    [message],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))],
                )
                self._socket.sendall(message[sent:])
                (pid,) = _LENGTH.unpack(_exactly(self._socket, _LENGTH.size))
            finally:
                self._reap_orphans(False)
        return pid

    def _reap_orphans(self, wanted: bool) -> None:
        if self._libc.prctl(_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")

    def close(self) -> None:
        """End it. What it started goes on."""
        self._socket.close()
        self._process.wait()


# the interpreter ---------------------------------------------------------------------------


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _next_job(sock: socket.socket) -> tuple[list[Any], list[int]] | None:
    """What to start, and its standard streams; None when nobody asks any more."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = sock.recvmsg(_LENGTH.size, socket.CMSG_SPACE(3 * size))
    if not data:
        return None
    streams = array.array("i")
    for _, _, content in ancillary:
        streams.frombytes(content)
    data += _exactly(sock, _LENGTH.size - len(data))
    (length,) = _LENGTH.unpack(data)
    return json.loads(_exactly(sock, length)), list(streams)


def _wait_for_jobs(sock: socket.socket) -> list[str] | None:
    """In each program: its command line, everything being as after a start of its own."""
    while job := _next_job(sock):
        (command, environment, directory), streams = job
        pids, reported = os.pipe()
        wait, go = os.pipe()
        between = os.fork()
        if between == 0:
            if pid := os.fork():
                os.write(reported, _LENGTH.pack(pid))
                os._exit(0)
            os.read(wait, 1)
            _become(environment, directory, streams)
            return command
        os.waitpid(between, 0)  # from now on the program is a child of who asked
        os.write(go, b"\0")
        sock.sendall(os.read(pids, _LENGTH.size))
        for fd in (pids, reported, wait, go, *streams):
            os.close(fd)
    return None


def _become(environment: dict[str, str], directory: str, streams: list[int]) -> None:
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = _stream(0, "r", sys.stdin, unbuffered)
    sys.stdout = sys.__stdout__ = _stream(1, "w", sys.stdout, unbuffered)
    sys.stderr = sys.__stderr__ = _stream(2, "w", sys.stderr, unbuffered)


def _stream(fd: int, mode: str, before: Any, unbuffered: bool) -> io.TextIOWrapper:
    """A standard stream, as an interpreter opens it that finds this descriptor at its start."""
    direct = unbuffered and mode == "w"
    return io.TextIOWrapper(
        open(fd, mode + "b", buffering=0 if direct else -1, closefd=False),
        encoding=before.encoding,
        errors=before.errors,
        newline="\n",
        line_buffering=not unbuffered and (fd == 2 or os.isatty(fd)),
        write_through=unbuffered,
    )


def _load() -> None:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):  # the program will tell
            importlib.import_module(name)


def _end_at_once(ended: SystemExit) -> None:
    """Do what an interpreter does at its end, but for taking every module apart.

    With all that is loaded here, that would be most of what a command costs.
    """
    if not isinstance(ended.code, int | None):
        return  # it is to be printed
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # it is to be told, and gives another status
    os._exit((ended.code or 0) & 0xFF)


if __name__ == "__main__":
    _load()
    gc.freeze()  # what is loaded is nothing to collect, and stays shared
    _command = _wait_for_jobs(socket.socket(fileno=int(sys.argv[1])))
    if _command is not None:
        sys.argv[:] = _command
        sys.path.insert(0, os.path.dirname(_command[0]))
        try:
            runpy.run_path(_command[0], run_name="__main__")
        except SystemExit as _ended:
            if os.path.basename(_command[0]) == "ftp":
                _end_at_once(_ended)
            raise
