"""Options that select files of a tree: --exclude, --include, --exclude-from, --files-from.

Lives here: the options in the order in which they were given, and reading their files.
Lives elsewhere: what a pattern matches (transfer/patterns.py), walking (transfer/selection.py).

A command that takes them:

    @remote_command("find", SelectingCommand)
    @filter_options
    def find_command(app: App, patterns: Patterns, …) -> None:
        walk = walking(patterns)
        for directory, entries in client.walk(top):
            for entry in walk.selected(directory, entries):
                …
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import HintingCommand, local_paths
from ftpwire import paths, standard
from ftpwire.errors import CommandError, InvalidPath, from_oserror

if TYPE_CHECKING:
    from ftpclient.transfer.selection import Walk

Patterns = tuple[tuple[bool, str], ...]
"""Patterns to exclude (True) and to include (False), in the order of the command line: the last
one that matches decides."""

_EXCLUDE, _INCLUDE, _FROM = "exclude", "include", "exclude_from"


class SelectingCommand(HintingCommand):
    """A command with `filter_options` that keeps their order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, list(args))  # first, as it explains errors
        if not any(ctx.params[name] for name in (_EXCLUDE, _INCLUDE, _FROM)):
            ctx.meta[__name__] = []
            return rest
        values, _, order = self.make_parser(ctx).parse_args(args=args)
        lists = {name: list(values.get(name) or ()) for name in (_EXCLUDE, _INCLUDE, _FROM)}
        ctx.meta[__name__] = [
            (option.name, lists[option.name].pop(0)) for option in order if option.name in lists
        ]
        return rest


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a `SelectingCommand`, which receives them as ``patterns``."""

    @functools.wraps(command)
    def function(*args: Any, **arguments: Any) -> Any:
        for name in (_EXCLUDE, _INCLUDE, _FROM):
            del arguments[name]
        given = click.get_current_context().meta[__name__]
        return command(*args, patterns=_patterns(given), **arguments)

    for option in (
        click.option(
            "--exclude-from",
            _FROM,
            multiple=True,
            metavar="FILE",
            shell_complete=local_paths,
            help="Skip what matches a pattern in FILE, a file like .gitignore.",
        ),
        click.option(
            "--include",
            _INCLUDE,
            multiple=True,
            metavar="PATTERN",
            help="Keep what matches PATTERN; the last match decides.",
        ),
        click.option(
            "-x",
            "--exclude",
            _EXCLUDE,
            multiple=True,
            metavar="PATTERN",
            help="Skip what matches PATTERN (gitignore rules); repeatable.",
        ),
    ):
        function = option(function)
    return function


def files_from_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --files-from and -0 to a command.

    It receives the paths as ``files_from``; None for the whole tree.
    """

    @functools.wraps(command)
    def function(app: App, **arguments: Any) -> Any:
        file, zero = arguments.pop("list_file"), arguments.pop("list_zero")
        if zero and file is None:
            raise UsageError("-0 needs --files-from")
        if file == "-":
            _check_input(app)
        paths_of = None if file is None else _paths_of(file, b"\0" if zero else b"\n")
        return command(app, files_from=paths_of, **arguments)

    for option in (
        click.option(
            "-0",
            "--null",
            "list_zero",
            is_flag=True,
            help="Expect a NUL byte after each path of --files-from.",
        ),
        click.option(
            "--files-from",
            "list_file",
            metavar="FILE",
            shell_complete=local_paths,
            help="Transfer the paths listed in FILE, relative to SOURCE; - reads stdin.",
        ),
    ):
        function = option(function)
    return function


def _check_input(app: App) -> None:
    """Raise an error if standard input cannot have a list of paths."""
    if app.shell.job:
        raise UsageError("--files-from - cannot be used in a job: it reads standard input")
    if app.shell.batch:
        raise UsageError("--files-from - cannot be used here: standard input holds the commands")
    if standard.was_closed(0):
        raise CommandError("cannot read the list of paths: standard input is closed")


def _paths_of(file: str, end: bytes) -> Iterator[bytes]:
    """Yield the paths of a list. Empty lines are skipped; there are no comments.

    Raises UsageError for a path that leads out of the tree.
    """
    from ftpclient.transfer.path_list import path_below

    number = 0
    try:
        with open(0 if file == "-" else file, "rb", closefd=file != "-") as opened:
            for name in _ended_by(end, opened):
                number += 1
                if name:
                    yield path_below(name)
    except InvalidPath as error:
        where = "standard input" if file == "-" else paths.show(file)
        raise UsageError(f"{where}:{number}: {error}") from None
    except OSError as error:
        raise from_oserror(error, paths.show(file)) from None


def _ended_by(end: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """Yield the parts of a file that end with the given byte."""
    if end == b"\n":
        for line in file:
            yield line.removesuffix(end)
        return
    rest = b""
    while data := file.read(64 * 1024):
        *names, rest = (rest + data).split(end)
        if len(rest) > paths.MAX_PATH:
            raise InvalidPath(f"{paths.show(rest[:40])}…: longer than {paths.MAX_PATH} bytes")
        yield from names
    yield rest


def lines_of(patterns: Patterns) -> list[str]:
    """Return the patterns as `Client.put` takes them: a pattern to include begins with ``!``."""
    if not patterns:
        return []
    from ftpclient.transfer.patterns import as_line

    return [as_line(excludes, pattern) for excludes, pattern in patterns]


def walking(patterns: Patterns) -> Walk:
    """Return a `Walk` that applies these patterns to a tree as it is listed."""
    from ftpclient.transfer.patterns import option_rules
    from ftpclient.transfer.selection import Filter, Walk

    return Walk(Filter(option_rules(patterns)))


def _patterns(given: list[tuple[str, str]]) -> Patterns:
    """Return the patterns of options. Raises UsageError for an invalid pattern."""
    if not given:
        return ()  # without importing the parser
    from ftpclient.transfer.patterns import option_rules

    found: list[tuple[bool, str]] = []
    for name, value in given:
        if name == _FROM:
            found += ((True, line) for line in _lines_of(value))
        else:
            found.append((name == _EXCLUDE, value))
    try:
        option_rules(found)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return tuple(found)


def _lines_of(file: str) -> list[str]:
    """Return the patterns of a file; as in git, empty lines and comments are skipped."""
    from ftpclient.transfer.patterns import pattern_lines

    try:
        with open(file, "rb") as opened:
            return pattern_lines(opened.read())
    except OSError as error:
        raise from_oserror(error, paths.show(file)) from None
