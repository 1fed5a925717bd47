"""Commands for interactive use of the shell: alias, unalias, set, history, clear, echo."""

from __future__ import annotations

import re
import shlex
import sys

import click

from ftpclient.cli import records
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import remote_command
from ftpwire.command_help import Command
from ftpwire.errors import NotFound
from ftpwire.paths import printable

_NAME = re.compile(r"[A-Za-z0-9?][A-Za-z0-9_.-]*")


@remote_command("alias")
@click.argument("definitions", metavar="[NAME[='COMMAND']]...", nargs=-1)
def alias_command(app: App, definitions: tuple[str, ...]) -> None:
    """Define or show aliases of commands.

    As the first word of a line, NAME stands for COMMAND. An alias inside COMMAND is not expanded,
    so ls can stand for ls -l.
    """
    aliases = app.shell.aliases
    for definition in definitions:
        name, equals, line = definition.partition("=")
        if not equals:
            if name not in aliases:
                raise NotFound(f"alias: no alias {printable(name)}")
            _show(app, name, aliases[name])
            continue
        if not _NAME.fullmatch(name):
            raise UsageError(f"alias: invalid name {printable(name)!r}")
        app.shell.check_command(line)
        aliases[name] = line
    if not definitions:
        for name, line in sorted(aliases.items()):
            _show(app, name, line)


def _show(app: App, name: str, line: str) -> None:
    if app.as_json:
        app.print_json(records.alias_record(name, line))
    else:
        app.print(f"alias {name}={printable(shlex.quote(line))}")


@remote_command("unalias")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def unalias_command(app: App, names: tuple[str, ...]) -> None:
    """Remove aliases."""
    for name in names:
        if app.shell.aliases.pop(name, None) is None:
            raise NotFound(f"unalias: no alias {printable(name)}")


@remote_command("set")
@click.argument("name", required=False)
@click.argument("value", required=False)
def set_command(app: App, name: str | None, value: str | None) -> None:
    """Show or change the settings of this shell.

    \b
    jobs         jobs that run at once; the others are queued
    parallel     connections of put, get and sync: auto, or a number
    limit-rate   bytes per second of each command: none, or e.g. 10MiB
    color        colors in listings: auto, always or never
    pager        the program that less runs; empty: $PAGER
    bell         ring after jobs and commands of more than 10 s: on or off
    suggestions  suggest the rest of a line from the history: on or off
    prompt       short: shorten a long directory; full: show all of it
    """
    settings = app.shell.settings
    try:
        if name is None:
            for one, current in settings:
                if app.as_json:
                    app.print_json(records.setting_record(one, current))
                else:
                    app.print(f"{one:<12} {printable(current)}".rstrip())
        elif value is None and app.as_json:
            app.print_json(records.setting_record(name, settings[name]))
        elif value is None:
            app.print(printable(settings[name]))
        else:
            settings.set(name, value)
            if name == "jobs" and app.shell.jobs is not None:
                app.shell.jobs.limit_changed()
    except ValueError as error:
        raise UsageError(f"set: {error}") from None


@remote_command("history")
@click.argument("count", metavar="[N]", type=click.IntRange(0), required=False)
def history_command(app: App, count: int | None) -> None:
    """Show the lines typed in this shell, or the last N."""
    lines = list(app.shell.history())
    first = 0 if count is None else max(0, len(lines) - count)
    for number, line in enumerate(lines[first:], first + 1):
        if app.as_json:
            app.print_json(records.history_record(number, line))
        else:
            app.print(f"{number:>5}  {printable(line)}")


@remote_command("clear")
def clear_command(app: App) -> None:
    """Clear the screen."""
    if sys.stdout.isatty() and not app.as_json:
        sys.stdout.write("\x1b[H\x1b[2J\x1b[3J")


@click.command(
    "echo",
    cls=Command,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("words", metavar="[WORD]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def echo_command(app: App, words: tuple[str, ...]) -> None:
    """Print words."""
    app.print(" ".join(words))
