"""Commands about the commands: help, completion."""

from __future__ import annotations

import sys

import click

from ftpclient.cli import records
from ftpclient.cli.app import App
from ftpclient.cli.group import remote_command
from ftpwire import completion
from ftpwire.command_help import help_text


@remote_command("help")
@click.argument("words", metavar="[COMMAND]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Show all commands and all options.")
@click.pass_context
def help_command(ctx: click.Context, app: App, words: tuple[str, ...], everything: bool) -> None:
    """Show the commands, or the help of one."""
    assert ctx.parent is not None
    app.print(_help_of(ctx.parent, list(words), everything=everything))


def _help_of(ctx: click.Context, words: list[str], *, everything: bool) -> str:
    """Return the help of the command that some words name in a group."""
    group = ctx.command
    if not words:
        return help_text(ctx, everything=everything)
    if not isinstance(group, click.Group):
        raise click.UsageError(f"{ctx.info_name} has no commands", ctx)
    name, found, rest = group.resolve_command(ctx, words)
    assert found is not None
    with click.Context(found, info_name=name, parent=ctx) as inner:
        return _help_of(inner, rest, everything=everything)


@remote_command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, app: App, shell: str) -> None:
    """Print a script for Tab completion in bash, zsh or fish."""
    script = completion.script(ctx.find_root().command, "ftp", shell)
    if app.as_json:
        app.print_json(records.script_record(script))
    else:
        sys.stdout.write(script)
