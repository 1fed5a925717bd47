"""Running the server in the foreground: its output, its log and its signals.

Lives here: `ftpd start` after its options were parsed. Lives elsewhere: serving
(daemon/server.py).
"""

from __future__ import annotations

import json
import logging
import os
import select
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.passwords import random_password
from ftpserver.accounts.system_users import first_account_name
from ftpserver.cli.options import EXIT_FAILED, complain
from ftpserver.cli.records import action_record
from ftpserver.daemon.assembly import whole_server
from ftpserver.daemon.server import FtpServer
from ftpserver.daemon.systemd import inherited_socket, notify
from ftpserver.errors import StateError
from ftpserver.logs import log_to_stderr
from ftpserver.processes.malloc import keep_what_is_there, return_memory, return_what_is_free
from ftpserver.processes.time_slices import lengthen_slices
from ftpserver.settings.table import Settings
from ftpwire import standard
from ftpwire.errors import from_oserror
from ftpwire.paths import printable

logger = logging.getLogger("ftpd")


def serve(
    settings: Settings,
    *,
    verbose: bool,
    again: Callable[[], Settings] | None = None,
    warnings: Sequence[str] = (),
    as_json: bool = False,
) -> int:
    """Serve until a signal comes, and return the exit status.

    Args:
        again: A function that reads the settings again, for a reload, and may raise StateError.
        warnings: Warnings about the settings, for the log.
        as_json: True to print the address and the first account as JSON.
    """
    log_to_stderr(settings.log_format, verbose=verbose)
    for warning in warnings:
        logger.warning("%s", printable(warning))
    return_memory()
    lengthen_slices()  # before other threads and processes start
    signals = _Signals()
    try:
        server = whole_server(settings, inherited_socket())
    except StateError as error:
        return _failed(str(error))
    except OSError as error:
        where = f"{settings.host or '*'}:{settings.port}"
        return _failed(f"cannot listen on {where}: {(error.strerror or str(error)).lower()}")
    with server:
        first = _first_account(settings, server.accounts)
        server.on_stop_requested = signals.ask_to_stop
        server.on_quiet = return_what_is_free
        server.load_settings = again
        with server.running():
            _try_to_announce(server, first, as_json)
            notify("READY=1", f"STATUS=listening on {server.address}")
            keep_what_is_there()
            while not signals.wait_for_end():
                _reload(server)
            signals.restore()  # a second signal ends the process at once
            logger.info("stopping")
            notify("STOPPING=1", "STATUS=stopping: waiting for running transfers")
    logger.info("stopped")
    return 0


def _reload(server: FtpServer) -> None:
    try:
        server.reload()
    except StateError as error:
        logger.error("not reloaded: %s", error)


def _failed(message: str) -> int:
    complain(message)
    return EXIT_FAILED


class _Signals:
    """Waiting for SIGINT, SIGTERM and SIGHUP, whose handlers do nothing themselves.

    SIGHUP asks to reload, or to stop if the terminal that the server was started from is gone.
    If it was ignored at the start (nohup), it stays ignored.
    """

    _ENDING = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write)
        for number in self._ENDING:
            signal.signal(number, lambda *_: None)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda *_: None)
        self._on_terminal = os.isatty(2)

    def wait_for_end(self) -> bool:
        """Wait for a signal. Returns True if it asks to stop, False if to reload."""
        while True:
            select.select([self._read], [], [])
            came = os.read(self._read, 64)
            if any(byte in self._ENDING for byte in came):
                return True
            if signal.SIGHUP in came:
                return self._on_terminal and not os.isatty(2)

    def ask_to_stop(self) -> None:
        """Act as if SIGTERM had come. Any thread may call it."""
        try:
            os.write(self._write, bytes([signal.SIGTERM]))
        except BlockingIOError:
            pass  # the pipe is full of signals that wait to be read

    def restore(self) -> None:
        """Make the next signal end the process at once."""
        signal.set_wakeup_fd(-1)
        for number in self._ENDING:
            signal.signal(number, _exit_now)


def _exit_now(number: int, frame: object) -> None:
    os._exit(128 + number)


def _try_to_announce(server: FtpServer, first: _First, as_json: bool) -> None:
    """Print the server's address. A closed or failing output doesn't stop the server."""
    with suppress(standard.ReaderLeft):
        _announce(server, first, as_json)
    error = standard.flush()
    if error is not None and not standard.reader_left():
        logger.warning("%s", from_oserror(error, standard.OUTPUT))
    if error is not None:
        standard.do_without()


def _announce(server: FtpServer, first: _First, as_json: bool) -> None:
    host, port = server.server_address[:2]
    shown = str(host)
    if shown in ("::", "0.0.0.0"):
        shown = socket.gethostname()
    elif ":" in shown:
        shown = f"[{shown}]"
    plain = " --plaintext" if server.fingerprint is None and host else ""  # on TCP only
    where = [f"{shown}:{port}"] if host else []
    path = None
    if server.settings.unix is not None:
        path = server.settings.unix.absolute()  # works in any directory
        where.append(shlex.quote(f"unix:{path}"))
    connect = f"ftp{plain} connect {first.name or 'USER'}@{where[0]}"
    if as_json:
        record = action_record(
            "start",
            address=server.address,
            unix=None if path is None else str(path),
            fingerprint=server.fingerprint,
            connect=connect,
            user=first.name,
            password=first.password,
            password_file=None if first.file is None else str(first.file),
        )
        print(json.dumps(record), flush=True)
        return
    print(f"listening on {server.address}", flush=True)
    if host and path is not None:
        print(f"and on          unix:{path}")
    print(f"key fingerprint {server.fingerprint or 'none: plaintext'}")
    print(f"connect with    {connect}")
    if first.password is not None:
        print(f"first account   {first.name}, password {first.password} (shown only now)")
    elif first.file is not None:
        print(f"first account   {first.name}, password in {first.file}")
    sys.stdout.flush()


class _First(NamedTuple):
    """An account to log in with; of a new one also its password, or the file that has it."""

    name: str | None
    password: str | None = None
    file: Path | None = None


def _first_account(settings: Settings, accounts: Accounts) -> _First:
    """Return the account to show; a first start creates one for the user who runs it.

    Its password is printed on a terminal only. Otherwise it is written to a private file, so that
    it doesn't end up in a log.
    """
    existing = next(iter(accounts), None)
    if existing is not None:
        return _First(existing.name)
    name, password = first_account_name(), random_password()
    try:
        accounts.add(name, password)
    except Exception as error:
        raise StateError(f"the first account could not be created: {error}") from error
    if sys.stdout.isatty():
        return _First(name, password)
    path = settings.state / "first-login"
    _write_private(path, f"{name}\n{password}\n")
    return _First(name, file=path)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
