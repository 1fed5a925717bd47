"""What the children of test_forkserver.py do: as the note says."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading

from ftpserver.clock import RUN
from ftpserver.processes.forkserver import ChildArguments


def prepare() -> None:
    """Have the first fork fail, or a thousand signals come before anybody sees to them, where a
    test wants that."""
    fork = os.fork

    def fails_once() -> int:
        os.fork = fork
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    if "FTPD_TEST_NO_FORK" in os.environ:
        os.fork = fails_once
    if "FTPD_TEST_STORM" in os.environ:
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGCHLD)


def main(arguments: ChildArguments) -> None:
    """Do what the note says."""
    what, _, argument = arguments.note.partition(b" ")
    match what:
        case b"exit":
            os._exit(int(argument))
        case b"signal":
            os.kill(os.getpid(), int(argument))
        case b"fail":
            raise KeyError("a child that fails")
        case b"tell":
            os.write(arguments.descriptors[0], repr(about(arguments)).encode())
        case b"wait":  # until the other end is closed
            os.read(arguments.descriptors[0], 1)


def about(arguments: ChildArguments) -> dict[str, object]:
    """What a child finds."""
    directory = "/proc/self/fd"
    links = {name: f"{directory}/{name}" for name in os.listdir(directory)}
    return {
        "number": arguments.number,
        "clock": RUN.began,
        "root": str(arguments.settings.root),
        "tls": arguments.tls_context is not None,
        "threads": threading.active_count(),
        "engine": "sqlalchemy.dialects.sqlite" in sys.modules and _has_engine(),
        "open": sorted(os.readlink(path) for path in links.values() if os.path.exists(path)),
        "interrupt": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "wakeup": signal.set_wakeup_fd(-1),
    }


def _has_engine() -> bool:
    import gc

    from sqlalchemy import Engine

    return any(isinstance(one, Engine) for one in gc.get_objects())
