"""The commands, once: scripts and the shell run the same ones.

Lives here: what they have in common, and in which module each is found. A command holds
arguments and printing; it takes the client from the App that click hands it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from ftpclient.app import App

_MODULES = {
    "browsing": ("cat", "df", "du", "hash", "ls", "pwd", "stat", "whoami"),
    "changing": ("cp", "mkdir", "mv", "rm"),
    "transfers": ("get", "put"),
    "session": ("connect", "forget"),
}
MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
SCRIPT_ONLY = frozenset({"connect", "forget"})
"""Commands that make no sense inside the shell."""


class CommandGroup(click.Group):
    """A group whose commands are imported when they are used: help and version stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*MODULE_OF, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name not in MODULE_OF:
            return found
        module = import_module(f"ftpclient.commands.{MODULE_OF[cmd_name]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


def remote_command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command on the App, with the options that people also write after it."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        def run(**arguments: Any) -> Any:
            app: App = click.get_current_context().obj
            app.as_json |= arguments.pop("as_json_here")
            app.accept_new |= arguments.pop("accept_new_here")
            app.quiet |= arguments.pop("quiet_here")
            return function(app, **arguments)

        functools.update_wrapper(run, function)
        command = click.command(name)(run)
        command.params += [
            click.Option(["--json", "as_json_here"], is_flag=True, help="JSON, an object a line."),
            click.Option(["--accept-new", "accept_new_here"], is_flag=True, hidden=True),
            click.Option(["-q", "--quiet", "quiet_here"], is_flag=True, hidden=True),
        ]
        return command

    return decorate


def raise_for(exit_code: int) -> None:
    """End the command with a status, when its complaints were printed already."""
    if exit_code:
        raise click.exceptions.Exit(exit_code)
