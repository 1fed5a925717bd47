"""Hints for users who know other tools.

Lives here: commands and options of other tools, and their counterparts here. Lives elsewhere: the
commands (the other cli modules), their group (main.py), the help (pages.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ftpwire import likeness
from ftpwire.command_help import Command, Group, Page, RootGroup, offered_names, usage_message

_SUGGESTIONS = {
    "adduser": "ftpd user add",
    "useradd": "ftpd user add",
    "userdel": "ftpd user remove",
    "deluser": "ftpd user remove",
    "passwd": "ftpd user passwd",
    "list": "ftpd user list",
    "ls": "ftpd user list",
    "who": "ftpd sessions",
    "ps": "ftpd sessions",
    "run": "ftpd start",
    "serve": "ftpd start",
    "restart": "ftpd reload, or ftpd stop and ftpd start",
    "shutdown": "ftpd stop",
    "logs": "ftpd log",
    "restore": "ftpd trash restore (for a backup, see docs/admin.md)",
    "undelete": "ftpd trash restore",
    "undo": "ftpd trash restore",
    "purge": "ftpd trash empty",
    "version": "ftpd --version",
    "users": "ftpd user list",
    "accounts": "ftpd user list",
    "tokens": "ftpd user tokens",
}
"""Commands of other tools, and their counterparts."""
_OF_USER = {
    **dict.fromkeys(("del", "delete", "rm"), "ftpd user remove"),
    **dict.fromkeys(("create", "new", "register"), "ftpd user add"),
    **dict.fromkeys(("mod", "modify", "edit", "change", "quota"), "ftpd user set"),
    **dict.fromkeys(("password", "pw"), "ftpd user passwd"),
    **dict.fromkeys(("lock", "block", "ban"), "ftpd user disable"),
    **dict.fromkeys(("unlock", "unblock"), "ftpd user enable"),
    **dict.fromkeys(("info", "get"), "ftpd user show"),
    "ls": "ftpd user list",
    "mv": "ftpd user rename",
}
"""The same below `ftpd user`."""
_UNLISTED = frozenset({"token"})
"""Commands that work, but have another name in the help."""

NO_PASSWORD = (
    "other users could see a password among the arguments: use --password-stdin or the variable "
    "FTPD_PASSWORD, or type it on a terminal"
)
PASSWORD_HINTS = dict.fromkeys(("--password", "--pass", "--passwd", "--pw", "-p"), NO_PASSWORD)
ACCOUNT_HINTS = {
    "--dir": "did you mean --home?",
    "--directory": "did you mean --home?",
    "--read-only": "did you mean --permit read-only?",
    "--readonly": "did you mean --permit read-only?",
    "--permissions": "did you mean --permit?",
    "--rights": "did you mean --permit?",
    "--disabled": "did you mean ftpd user disable NAME?",
    "--rate": "did you mean --limit-rate?",
    "--bwlimit": "did you mean --limit-rate?",
}
START_HINTS = {
    "--bind": "did you mean --host?",
    "--listen": "did you mean --host?",
    "--address": "did you mean --host?",
    "--dir": "did you mean --root?",
    "--directory": "did you mean --root?",
    "--cert": "did you mean --certificate?",
    "--tls": "TLS is the default; --plaintext turns it off",
    "--ssl": "TLS is the default; --plaintext turns it off",
    "--daemon": "ftpd stays in the foreground; ftpd service prints a systemd unit",
    "--background": "ftpd stays in the foreground; ftpd service prints a systemd unit",
    "-p": "did you mean --port?",
    "-d": "did you mean --root? (To run in the background: ftpd service)",
}


WORDS = "ftpd.words"
"""The key in a context's ``meta`` of the arguments of a `HintingCommand`."""


class HintingCommand(Command):
    """A command that knows the corresponding options of other tools.

    Args:
        hints: The advice for each unknown option.
    """

    def __init__(self, *arguments: Any, hints: Mapping[str, str], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._hints = hints

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = self._hints.get(error.option_name)
            if hint is None:
                raise
            raise click.UsageError(f"unknown option {error.option_name}: {hint}", ctx) from None


class UserCommands(Group):
    """The commands of `ftpd user`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _suggest(self, ctx, args[0], _OF_USER)
        return super().resolve_command(ctx, args)


class Commands(RootGroup):
    """All commands of `ftpd`."""

    program = "ftpd"

    def pages(self) -> Mapping[str, Page]:
        from ftpserver.cli.pages import PAGES

        return PAGES

    def listed(self, ctx: click.Context) -> list[str]:
        return [name for name in super().listed(ctx) if name not in _UNLISTED]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if not any(name in one.opts for command in _all(self) for one in command.params):
                raise
            raise click.UsageError(
                f"option {name} goes after the command: ftpd COMMAND {name} …", ctx
            ) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _suggest(self, ctx, args[0], _SUGGESTIONS)
        return super().resolve_command(ctx, args)


def _suggest(
    group: click.Group, ctx: click.Context, name: str, suggestions: Mapping[str, str]
) -> None:
    """Raise UsageError if a command is unknown, but has a counterpart."""
    if name not in group.commands and name in suggestions:
        raise click.UsageError(f"unknown command {name!r}: did you mean {suggestions[name]}?", ctx)


def usage_text(error: click.UsageError) -> str:
    """Return the error of a command line in one line, with the command that shows its help."""
    text, ctx = usage_message(error), error.ctx
    if ctx is None:
        return text
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        usage = " ".join(ctx.command.collect_usage_pieces(ctx)[1:])
        text = f"missing argument: {ctx.command_path} {usage}"
    if isinstance(error, click.NoSuchOption):
        shown = (one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option))
        names = [name for one in shown if not one.hidden for name in offered_names(one)]
        text = f"unknown option {error.option_name}{likeness.hint(error.option_name, names)}"
    name = getattr(error, "command_name", None)  # NoSuchCommand, since click 8.4
    if isinstance(name, str) and isinstance(ctx.command, click.Group):
        text = f"unknown command {name!r}{likeness.hint(name, ctx.command.list_commands(ctx))}"
    return f"{text} (see {ctx.command_path} --help)"


def _all(group: click.Group) -> list[click.Command]:
    """Return the commands of a group and of its subgroups."""
    found: list[click.Command] = []
    for command in group.commands.values():
        found += _all(command) if isinstance(command, click.Group) else [command]
    return found
