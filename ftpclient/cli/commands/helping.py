"""Explaining the commands, and completing them: help, completion."""

from __future__ import annotations

import sys

import click

from ftpclient.cli import records
from ftpclient.cli.aliases import ALIASES
from ftpclient.cli.app import App
from ftpclient.cli.group import CommandGroup, remote_command
from ftpwire import completion


@remote_command("help")
@click.argument("command", required=False)
@click.pass_context
def help_command(ctx: click.Context, app: App, command: str | None) -> None:
    """List the commands, or explain one."""
    parent = ctx.parent
    assert parent is not None and isinstance(parent.command, CommandGroup)
    if command is None:
        app.print(_overview(parent, parent.command, interactive=app.interactive))
        return
    name, found, _ = parent.command.resolve_command(parent, [command])
    assert found is not None
    with click.Context(found, info_name=name, parent=parent) as inner:
        app.print(found.get_help(inner))


@remote_command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, app: App, shell: str) -> None:
    """Print a script for the Tab key of bash, zsh or fish."""
    script = completion.script(ctx.find_root().command, "ftp", shell)
    if app.as_json:
        app.print_json(records.script_record(script))
    else:
        sys.stdout.write(script)


def _overview(ctx: click.Context, group: CommandGroup, *, interactive: bool) -> str:
    formatter = ctx.make_formatter()
    rows = []
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and not command.hidden:
            rows.append((name, command.get_short_help_str(formatter.width)))
    if not interactive:
        formatter.write_dl(rows)
        return formatter.getvalue() + "ftp help COMMAND, or ftp COMMAND --help, tells more."
    rows.append(("A; B && C || D", "Run one after another, as each one's status says."))
    rows.append(("COMMAND | LOCAL", "Send the output to a local command."))
    rows.append(("COMMAND > FILE", "Write the output to a local file; >> appends to it."))
    rows.append(("!COMMAND", "Run a local command; ! alone starts your shell."))
    formatter.write_dl(rows)
    formatter.write_text(
        "help COMMAND, or COMMAND --help, tells more. Other names: "
        + ", ".join(f"{alias} ({name})" for alias, name in ALIASES.items())
        + "."
    )
    return formatter.getvalue().rstrip()
