"""Copies of remote files for local programs, in temporary directories that only this user can read.

Lives here: making and removing them. Lives elsewhere: running the programs (ftpwire/foreground.py),
the commands (commands/viewing.py, commands/diffing.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from ftpclient.cli.app import App
from ftpclient.cli.group import raise_for
from ftpclient.cli.progress import listening
from ftpclient.transfer.report import Listener, Summary
from ftpwire import digests, paths
from ftpwire.errors import NotRegular
from ftpwire.paths import RemotePath

_PIECE = 1024 * 1024
_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end `ftp`, and would leave the copies behind."""


@contextmanager
def private_directory() -> Iterator[Path]:
    """Yield a temporary directory that only this user can read.

    It is removed at the end of the context, and when SIGTERM or SIGHUP ends the process.
    """
    with tempfile.TemporaryDirectory(prefix="ftp-") as directory, _removing(directory):
        yield Path(directory)


@contextmanager
def _removing(directory: str) -> Iterator[None]:
    """Remove a directory if a signal ends the process within the context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        shutil.rmtree(directory, ignore_errors=True)  # errors can no longer be reported
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    found = {number: signal.getsignal(number) for number in _ENDING}
    # others have a purpose: nohup ignores SIGHUP
    before = {number: one for number, one in found.items() if one is signal.SIG_DFL}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def local_name(path: RemotePath) -> str:
    """Return a local name that isn't taken for an option, with the remote name's extension."""
    name = paths.name_of(path)
    return "file" if name.startswith(b"-") or not name else os.fsdecode(name)


def fetch(app: App, path: RemotePath, directory: Path) -> Path:
    """Download a file into a directory and return its path.

    Raises CommandError, or Exit if the error was already printed.
    """
    copy = directory / local_name(path)
    with listening_to_copy(app) as listener:
        summary = app.client.get([_literally(path)], copy, copy_links=True, listener=listener)
    raise_for_summary(app, summary)
    if not copy.is_file():
        raise NotRegular(f"{paths.show(path)}: not a file")
    return copy


@contextmanager
def listening_to_copy(app: App) -> Iterator[Listener]:
    """Yield the listener of a transfer; with --json, one that prints nothing about the copy.

    The copy is removed at the end, so the same command cannot resume the transfer.
    """
    with nullcontext(Listener()) if app.as_json else listening(app) as listener:
        listener.advises = False
        yield listener


def raise_for_summary(app: App, summary: Summary) -> None:
    """End the command if a transfer failed.

    Raises CommandError, or Exit if the error was already printed.
    """
    if summary.first_error is not None and app.as_json:
        raise summary.first_error
    raise_for(summary.exit_code)


def _literally(path: RemotePath) -> bytes:
    """Return a pattern that matches only this path."""
    return b"".join(b"[%c]" % c if c in b"*?[" else b"%c" % c for c in path)


def local_digest(file: Path, check: Callable[[], None] = lambda: None) -> bytes:
    """Return the digest of a local file. Raises OSError.

    Args:
        check: Called for each MiB; may raise.
    """
    hasher = digests.new()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            hasher.update(piece)
            check()
    return hasher.digest()
