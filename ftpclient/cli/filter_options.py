"""Options that say what of a tree is meant: --exclude, --include, --exclude-from.

Lives here: the options in the order in which they were given, reading the file of patterns.
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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ftpclient.cli.app import UsageError
from ftpclient.cli.group import HintingCommand, local_paths
from ftpwire import paths
from ftpwire.errors import from_oserror

if TYPE_CHECKING:
    from ftpclient.transfer.selection import Walk

Patterns = tuple[tuple[bool, str], ...]
"""What is left out (True) and what is not (False), in the order of the command line: the last
pattern that matches decides."""

_EXCLUDE, _INCLUDE, _FROM = "exclude", "include", "exclude_from"


class SelectingCommand(HintingCommand):
    """A command with `filter_options`. It keeps their order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, list(args))  # first: it explains what is wrong
        values, _, order = self.make_parser(ctx).parse_args(args=args)
        lists = {name: list(values.get(name) or ()) for name in (_EXCLUDE, _INCLUDE, _FROM)}
        ctx.meta[__name__] = [
            (option.name, lists[option.name].pop(0)) for option in order if option.name in lists
        ]
        return rest


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a `SelectingCommand`, which gets them as ``patterns``."""

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
            help="Leave out what a file of patterns says, as a .gitignore file.",
        ),
        click.option(
            "--include",
            _INCLUDE,
            multiple=True,
            metavar="PATTERN",
            help="Don't leave out; the last match decides.",
        ),
        click.option(
            "-x",
            "--exclude",
            _EXCLUDE,
            multiple=True,
            metavar="PATTERN",
            help="Leave out; gitignore rules, repeatable.",
        ),
    ):
        function = option(function)
    return function


def walking(patterns: Patterns) -> Walk:
    """Tells what these patterns leave of a tree that is listed."""
    from ftpclient.transfer.patterns import option_rules
    from ftpclient.transfer.selection import Filter, Walk

    return Walk(Filter(option_rules(patterns)))


def _patterns(given: list[tuple[str, str]]) -> Patterns:
    """The patterns of options. Raises UsageError for what is no pattern."""
    if not given:
        return ()  # and what reads them need not be imported
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
    """The patterns of a file: as in git, other lines are passed over."""
    from ftpclient.transfer.patterns import pattern_lines

    try:
        with open(file, "rb") as opened:
            return pattern_lines(opened.read())
    except OSError as error:
        raise from_oserror(error, paths.show(file)) from None
