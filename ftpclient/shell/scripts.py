"""Scripts: lines from standard input, files, -c and source.

Lives here: reading lines, numbering them, stopping at a failure. Lives elsewhere: running a line
(running.py), the terminal (shell.py).
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ftpclient.cli.app import App, Script, ShellState, UsageError, Where
from ftpclient.connection import files
from ftpclient.shell import background
from ftpclient.shell.expansion import check_command
from ftpclient.shell.lexer import whole_lines
from ftpclient.shell.running import run_line, understood
from ftpwire import standard
from ftpwire.errors import Interrupted

_DEEPEST = 8
"""How deep `source` may be nested."""


def run_script(app: App, script: Script) -> int:
    """Run a script in a new shell and return its exit status. Raises OSError, FtpError."""
    app.interactive = True
    app.shell = ShellState(batch=True, on_stdin=script.path == "-", check_command=check_command)
    with background.running(app):
        return background.finish(app, _run_script(app, script))


def _run_script(app: App, script: Script) -> int:
    if app.rc and not script.check:
        run_rc(app, Path(app.rc))
    if script.lines:
        return _run_lines(app, script.lines)
    with _opened(app, script.path) as stream:
        parts = _parts(app, stream)
        if script.check:
            return _check(app, parts, script.name)
        client = app.client
        if app.first_directory:
            client.change_dir(app.first_directory)
        return run_batch(app, parts, script.name, keep_going=script.keep_going)


def _run_lines(app: App, lines: Iterable[str]) -> int:
    """Run the lines of -c until one fails, and return its exit status.

    A line doesn't continue in the next -c.
    """
    before = status = 0
    for line in lines:
        parts = line.split("\n")
        status = run_batch(app, parts, before=before)
        if status or app.shell.leaving:
            break
        before += len(parts)
    return status


def source(app: App, path: str) -> int:
    """Run the lines of a file in this shell; return the status of the one that failed, or 0.

    Raises:
        UsageError: It is nested too deeply.
        OSError: The file cannot be read.
    """
    if app.shell.depth >= _DEEPEST:
        raise UsageError(f"source: nested more than {_DEEPEST} levels deep")
    before = app.shell.batch, app.shell.where
    app.shell.batch = True
    app.shell.depth += 1
    try:
        with _opened(app, os.path.expanduser(path)) as stream:
            return run_batch(app, _parts(app, stream), path)
    finally:
        app.shell.depth -= 1
        app.shell.batch, app.shell.where = before


def run_rc(app: App, path: Path | None = None) -> None:
    """Run all lines of an rc file. A line that fails is reported and has no other effect.

    Args:
        path: The file; None for the user's own, which may be missing.

    Raises:
        OSError: The file given by ``path`` cannot be read.
    """
    own = files.directory() / "rc"
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(_opened(app, str(path or own)))
        except OSError:
            if path is not None:
                raise
            return
        if path is None and not _is_ours(os.fstat(stream.fileno())):
            app.remark(f"{own}: ignored because other users can write to it (chmod go-w)")
            return
        before = app.shell.batch
        app.shell.batch = app.shell.in_rc = True
        try:
            run_batch(app, _parts(app, stream), str(path or "rc"), keep_going=True)
        finally:
            app.shell.batch, app.shell.in_rc, app.shell.where = before, False, None


def _is_ours(info: os.stat_result) -> bool:
    """Return whether only this user and root can write to a file."""
    return info.st_uid in (os.geteuid(), 0) and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def run_batch(
    app: App,
    parts: Iterable[str],
    name: str = "",
    *,
    before: int = 0,
    keep_going: bool = False,
) -> int:
    """Run lines until one fails, and return its exit status.

    Args:
        parts: The lines, before continued ones are joined.
        name: The file's name for error messages; if empty, they show no line numbers.
        before: The number of lines before them.
        keep_going: True to run all lines unless Ctrl-C is pressed; the status is 1 if one failed.
    """
    failed = False
    for number, line in whole_lines(part.rstrip("\r\n") for part in parts):
        app.shell.where = Where(name, before + number)
        status = run_line(app, line)
        if standard.reader_left():
            return standard.READER_LEFT
        if app.shell.leaving:
            return app.shell.status or int(failed)
        if status == Interrupted.exit_code or (status and not keep_going):
            return status
        failed |= status != 0
    return int(failed)


def _check(app: App, parts: Iterable[str], name: str) -> int:
    """Print all syntax errors of a script without running it. Returns 2 if there are any."""
    status = 0
    for number, line in whole_lines(part.rstrip("\r\n") for part in parts):
        app.shell.where = Where(name, number)
        found = understood(app, line)
        if isinstance(found, int):
            status = found
    return status


@contextmanager
def _opened(app: App, path: str) -> Iterator[BinaryIO]:
    """Open a script's file; ``-`` is standard input. Raises OSError."""
    with app.interrupt.at_once():  # opening a FIFO may wait
        stream = open(0, "rb", closefd=False) if path == "-" else open(path, "rb")
    with stream:
        yield stream


def _parts(app: App, stream: BinaryIO) -> Iterator[str]:
    """Yield the lines of a file, each as soon as it can be read.

    From standard input, the line with the password may have been read before, unbuffered. No
    command reads from it.
    """
    first = True
    while True:
        try:
            with app.interrupt.at_once():  # no connection is in use while this waits
                app.interrupt.check()
                line = stream.readline()
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        if not line:
            return
        yield (line.removeprefix(codecs.BOM_UTF8) if first else line).decode(
            "utf-8", "surrogateescape"
        )
        first = False
