"""The commands head and tail, which print a part of remote files.

Lives here: finding the part, and following a growing file. Lives elsewhere: whole files (cat in
browsing.py, less in viewing.py), fetching a range (transfer/ranges.py).

A range has no digest to verify; only TLS protects it.
"""

from __future__ import annotations

import re
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import click

from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.browsing import for_each
from ftpclient.cli.group import HintingCommand, RemoteArgument, raise_for, remote_command, size
from ftpclient.cli.patience import patient_client
from ftpclient.cli.printer import Printer
from ftpclient.connection.interrupt import wait_for
from ftpclient.transfer import retry
from ftpwire import paths, standard
from ftpwire.errors import IsADirectory, NotFound, NotRegular
from ftpwire.messages import Entry
from ftpwire.paths import RemotePath

_FIRST, _MOST = 64 * 1024, 1024 * 1024
"""Bytes of the first and the largest request; the size doubles until enough was fetched."""
_LINES = 10
_NUMBER = re.compile(r"-(\d+)")
_POLL_SECONDS = 1.0
"""Interval at which `tail -f` looks at a file."""
_OVERLAP = 1024
"""Bytes before its position that `tail -f` compares: if they differ, the file was replaced."""


class _CountCommand(HintingCommand):
    """A command that takes -20 for -n 20, as POSIX head and tail do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words: list[str] = []
        for at, word in enumerate(args):
            if word == "--":
                words += args[at:]
                break
            number = _NUMBER.fullmatch(word)
            words += [word] if number is None else ["-n", number[1]]
        return super().parse_args(ctx, words)


def _count_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("-c", "--bytes", "count", type=size, metavar="N", help="Print N bytes."),
        click.option(
            *("-n", "--lines", "lines"),
            type=click.IntRange(0),
            metavar="N",
            help=f"Print N lines (default: {_LINES}).",
        ),
    ):
        function = option(function)
    return function


@remote_command("head", _CountCommand)
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@_count_options
def head_command(app: App, patterns: tuple[str, ...], lines: int | None, count: int | None) -> None:
    """Print the first lines of files."""
    amount = _Amount.of(lines, count)
    printing = _Printing(app, headings=len(patterns) > 1 and not app.quiet)

    def show(path: RemotePath) -> None:
        _check_file(app, path)
        printing.begin(path)
        _head(app, path, amount)

    raise_for(for_each(app, patterns, show))


@remote_command("tail", _CountCommand)
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@_count_options
@click.option("-f", "--follow", is_flag=True, help="Print what is appended, until Ctrl-C.")
def tail_command(
    app: App,
    patterns: tuple[str, ...],
    lines: int | None,
    count: int | None,
    follow: bool,
) -> None:
    """Print the last lines of files.

    -f prints a file from its beginning when it became shorter or was replaced, and waits for one
    that was removed.
    """
    amount = _Amount.of(lines, count)
    printing = _Printing(app, headings=len(patterns) > 1 and not app.quiet)
    followed: list[_Followed] = []
    if follow:
        patient_client(app, None, None, None)  # to wait for a server that restarts

    def show(path: RemotePath) -> None:
        entry = _check_file(app, path)
        printing.begin(path)
        begin = _beginning_of_tail(app, path, entry.size, amount)
        file = _Followed(path, entry, begin)
        file.go_on(app, entry.size)
        followed.append(file)

    status = for_each(app, patterns, show)
    while follow and followed:
        sys.stdout.flush()
        _check_reader()
        wait_for(_POLL_SECONDS, app.interrupt)
        for file in followed:
            file.look(app, printing)
    raise_for(status)


@dataclass(frozen=True)
class _Amount:
    """The part of a file to print: a number of lines or of bytes."""

    lines: int = 0
    count: int | None = None

    @classmethod
    def of(cls, lines: int | None, count: int | None) -> _Amount:
        """Return the amount that the options give. Raises UsageError."""
        if lines is not None and count is not None:
            raise UsageError("-n and -c cannot be used together")
        return cls(_LINES if lines is None else lines, count)


class _Printing:
    """The headings of head and tail: one whenever the output changes to another file."""

    def __init__(self, app: App, *, headings: bool) -> None:
        self._app = app
        self._headings = headings
        self._current: RemotePath | None = None

    def begin(self, path: RemotePath) -> None:
        """Print the heading of a file, unless its output continues."""
        if self._headings and path != self._current:
            blank = "" if self._current is None else "\n"
            self._app.print(f"{blank}==> {paths.show(path)} <==")
            sys.stdout.flush()
        self._current = path


def _check_file(app: App, path: RemotePath) -> Entry:
    """Return the entry of a file, following links. Raises CommandError for other types."""
    entry = app.client.stat(path, follow=True)
    if entry.type != "file":
        raise NotRegular(f"{paths.show(path)}: not a file")
    return entry


def _head(app: App, path: RemotePath, amount: _Amount) -> None:
    offset, lines, window = 0, 0, _FIRST
    while True:
        if amount.count is not None:
            window = min(window, amount.count - offset)
        elif lines >= amount.lines:
            window = 0
        if not window:
            return
        data = app.client.fetch_range(path, offset, window).data
        end = len(data)
        if amount.count is None:
            end, found = _after_lines(data, amount.lines - lines)
            lines += found
        _write(data[:end])
        if len(data) < window:
            return  # the end of the file
        offset += len(data)
        window = min(window * 2, _MOST)


def _after_lines(data: bytearray, count: int) -> tuple[int, int]:
    """Return the offset after ``count`` lines or all data, and the number of lines ended."""
    end = found = 0
    while found < count:
        newline = data.find(b"\n", end)
        if newline < 0:
            return len(data), found
        end, found = newline + 1, found + 1
    return end, found


def _beginning_of_tail(app: App, path: RemotePath, size: int, amount: _Amount) -> int:
    """Return the offset of the last lines or bytes of a file of this size."""
    if amount.count is not None:
        return max(0, size - amount.count)
    if not amount.lines:
        return size
    begin, newlines, window = size, 0, _FIRST
    while begin:
        length = min(window, begin)
        begin -= length
        data = app.client.fetch_range(path, begin, length).data
        at = len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            if begin + at == size - 1:
                continue  # it ends the last line
            newlines += 1
            if newlines == amount.lines:
                return begin + at + 1
        window = min(window * 2, _MOST)
    return 0


class _Followed:
    """A file that `tail -f` follows."""

    def __init__(self, path: RemotePath, entry: Entry, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._last = bytearray()
        self._seen = entry.size, entry.mtime_ns
        self._missing = False

    def look(self, app: App, printing: _Printing) -> None:
        """Print what was appended since the last call."""
        with suppress(NotFound, NotRegular, IsADirectory):  # just removed: reported next time
            self._look(app, printing)

    def _look(self, app: App, printing: _Printing) -> None:
        entry = self._there(app)
        if entry is None or (entry.size, entry.mtime_ns) == self._seen:
            return
        if entry.size < self._offset:
            self._begin_anew(app, "became shorter")
        elif self._last != self._before(app):
            self._begin_anew(app, "was replaced")
        if entry.size > self._offset:
            printing.begin(self._path)
            self.go_on(app, entry.size)
        self._seen = entry.size, entry.mtime_ns

    def go_on(self, app: App, end: int) -> None:
        """Print the bytes from the position up to ``end``, as far as they still exist."""
        window = _FIRST
        while self._offset < end:
            length = min(window, end - self._offset)
            data = app.client.fetch_range(self._path, self._offset, length).data
            if not data:
                return
            _write(data)
            self._offset += len(data)
            self._last = (self._last + data)[-_OVERLAP:]
            window = min(window * 2, _MOST)

    def _there(self, app: App) -> Entry | None:
        try:
            entry = retry.query(app.client, Printer(app), lambda: _check_file(app, self._path))
        except (NotFound, NotRegular) as error:
            if not self._missing:
                what = "was removed" if isinstance(error, NotFound) else "is no longer a file"
                app.remark(f"{paths.show(self._path)} {what}; waiting for it")
            self._missing = True
            return None
        if self._missing:
            self._missing = False
            self._begin_anew(app, "exists again")
        return entry

    def _before(self, app: App) -> bytearray:
        """Return the bytes before the position, as they are now."""
        length = len(self._last)
        if not length:
            return self._last
        return app.client.fetch_range(self._path, self._offset - length, length).data

    def _begin_anew(self, app: App, why: str) -> None:
        app.remark(f"{paths.show(self._path)} {why}; printing it from the beginning")
        self._offset, self._last = 0, bytearray()
        self._seen = -1, 0


def _write(data: bytearray) -> None:
    """Write bytes to standard output. Raises ReaderLeft."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _check_reader() -> None:
    """Raise ReaderLeft if the reader of a pipe has left.

    While no file grows, nothing is written that would fail.
    """
    if standard.output() is None:
        return
    poll = select.poll()
    poll.register(1, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        standard.fail(BrokenPipeError(32, "Broken pipe"))
