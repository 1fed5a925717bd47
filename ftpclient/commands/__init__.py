"""The commands, once: scripts and the shell run the same ones.

Lives here: what they have in common, and in which module each is found. A command holds
arguments and printing; it takes the client from the App that click hands it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click

from ftpclient.app import App
from ftpwire.units import parse_size

_MODULES = {
    "attributes": ("chmod", "touch"),
    "accounts": ("login", "logout", "passwd", "register", "servers", "token"),
    "browsing": ("cat", "df", "du", "hash", "ls", "pwd", "stat", "whoami"),
    "changing": ("cp", "ln", "mkdir", "mv", "rm", "rmdir"),
    "finding": ("find", "tree"),
    "transfers": ("get", "put"),
    "sync": ("sync",),
    "session": ("connect", "forget"),
    "discover": ("discover",),
    "inside": ("cd", "exit", "help", "lcd", "lls", "lmkdir", "lpwd"),
}
MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
SCRIPT_ONLY = frozenset({"connect", "discover", "forget", "login", "logout", "register"})
"""Commands that make no sense inside the shell."""
SHELL_ONLY = frozenset(_MODULES["inside"])
_MEANT = {
    "cls": "ls",
    "copy": "cp",
    "del": "rm",
    "delete": "rm",
    "dir": "ls",
    "mget": "get",
    "mirror": "sync",
    "move": "mv",
    "mput": "put",
    "mmv": "mv",
    "mrm": "rm",
    "rename": "mv",
    "reget": "get (it goes on with what is there by itself)",
    "reput": "put (it goes on with what is there by itself)",
    "symlink": "ln -s",
    "rsync": "sync",
    "type": "cat",
}
"""What other tools call our commands."""


_NOTHING = "nothing: "


class HintingCommand(click.Command):
    """A command that knows what other tools call its options.

    Attributes:
        meant: For each of them what is meant here: ``--delete``, or ``nothing: that is so anyway``.
    """

    meant: Mapping[str, str] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            name = self._of_others(error.option_name, args)
            if name is None:
                raise
            meant = self.meant[name]
            if meant.startswith(_NOTHING):
                text = f"no option {name}, and none is needed: {meant.removeprefix(_NOTHING)}"
            else:
                text = f"no option {name}: did you mean {meant}?"
            raise click.UsageError(text, ctx) from None

    def _of_others(self, unknown: str, args: list[str]) -> str | None:
        """The option that was meant: of ``-exec``, only its first letter is told as unknown."""
        words = [arg.partition("=")[0] for arg in args]
        long = (word for word in words if word.startswith(unknown) and word in self.meant)
        return next(long, unknown if unknown in self.meant else None)


class CommandGroup(click.Group):
    """A group whose commands are imported when they are used: help and version stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        here = MODULE_OF.keys() - (SCRIPT_ONLY if _in_shell(ctx) else SHELL_ONLY)
        return sorted({*here, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name not in self.list_commands(ctx):
            return found
        module = import_module(f"ftpclient.commands.{MODULE_OF[cmd_name]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(self._no_command(ctx, name), ctx)
        return super().resolve_command(ctx, args)

    def _no_command(self, ctx: click.Context, name: str) -> str:
        if name in SHELL_ONLY:
            return f"{name!r} is for the shell, which ftp connect starts"
        if name in SCRIPT_ONLY:
            return f"{name!r} is no command of the shell: leave it first"
        import difflib

        close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
        meant = _MEANT.get(name) or (close[0] if close else None)
        return f"no command {name!r}" + (f": did you mean {meant}?" if meant else "")


def _in_shell(ctx: click.Context) -> bool:
    return isinstance(ctx.obj, App) and ctx.obj.interactive


def remote_command(
    name: str,
    cls: type[HintingCommand] = HintingCommand,
    *,
    meant: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command on the App, with the options that people also write after it.

    Args:
        meant: See `HintingCommand`.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def run(**arguments: Any) -> Any:
            app: App = click.get_current_context().obj
            app.as_json |= arguments.pop("as_json_here")
            app.accept_new |= arguments.pop("accept_new_here")
            app.quiet |= arguments.pop("quiet_here")
            return function(app, **arguments)

        functools.update_wrapper(run, function)
        command = click.command(name, cls=cls)(run)
        command.meant = meant or {}
        command.params += [
            click.Option(["--json", "as_json_here"], is_flag=True, help="JSON, an object a line."),
            click.Option(["--accept-new", "accept_new_here"], is_flag=True, hidden=True),
            click.Option(["-q", "--quiet", "quiet_here"], is_flag=True, hidden=True),
        ]
        return command

    return decorate


def size(text: str) -> int:
    """The type of options that take bytes as people write them."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def raise_for(exit_code: int) -> None:
    """End the command with a status, when its complaints were printed already."""
    if exit_code:
        raise click.exceptions.Exit(exit_code)
