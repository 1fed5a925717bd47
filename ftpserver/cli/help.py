"""Hints of `ftpd` for who knows other tools.

Lives here: what words and options of other tools mean here. Lives elsewhere: the commands (the
other cli modules), the group that they are in (main.py), what help shows (pages.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ftpwire import likeness
from ftpwire.command_help import Command, Page, RootGroup, offered_names

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
    "restore": "ftpd trash restore, or a backup's copy by hand, as docs/admin.md tells",
    "undelete": "ftpd trash restore",
    "undo": "ftpd trash restore",
    "purge": "ftpd trash empty",
    "version": "ftpd --version",
}
"""Commands of other tools, and what is meant here."""

NO_PASSWORD = (
    "a password is never an argument, where others can see it: use --password-stdin, the variable "
    "FTPD_PASSWORD, or a terminal, which is asked"
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
    "--tls": "none is needed: TLS is spoken unless --plaintext is given",
    "--ssl": "none is needed: TLS is spoken unless --plaintext is given",
    "--daemon": "it stays where it was started: ftpd service prints a unit for systemd",
    "--background": "it stays where it was started: ftpd service prints a unit for systemd",
    "-p": "did you mean --port?",
    "-d": "did you mean --root? (To run in the background: ftpd service)",
}


WORDS = "ftpd.words"
"""In a context's ``meta``: the arguments of its `HintingCommand`."""


class HintingCommand(Command):
    """A command that knows what other tools call its options.

    Args:
        hints: What to say of an option that there isn't.
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
            raise click.UsageError(f"no option {error.option_name}: {hint}", ctx) from None


class Commands(RootGroup):
    """All commands of `ftpd`."""

    program = "ftpd"

    def pages(self) -> Mapping[str, Page]:
        from ftpserver.cli.pages import PAGES

        return PAGES

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if not any(name in one.opts for command in _all(self) for one in command.params):
                raise
            raise click.UsageError(
                f"no option {name} before the command: say ftpd COMMAND {name} …", ctx
            ) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and args[0] in _SUGGESTIONS:
            raise click.UsageError(
                f"no command {args[0]}: did you mean {_SUGGESTIONS[args[0]]}?", ctx
            )
        return super().resolve_command(ctx, args)


def usage_text(error: click.UsageError) -> str:
    """What is wrong with a command line, in one line, and where to read how it is written."""
    text, ctx = error.format_message(), error.ctx
    if ctx is None:
        return text
    if isinstance(error, click.NoSuchOption):
        shown = (one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option))
        names = [name for one in shown if not one.hidden for name in offered_names(one)]
        text = f"no option {error.option_name}{likeness.hint(error.option_name, names)}"
    name = getattr(error, "command_name", None)  # of NoSuchCommand, which click has since 8.4
    if isinstance(name, str) and isinstance(ctx.command, click.Group):
        text = f"no command {name}{likeness.hint(name, ctx.command.list_commands(ctx))}"
    return f"{text} (see {ctx.command_path} --help)"


def _all(group: click.Group) -> list[click.Command]:
    """The commands of a group, and of the groups in it."""
    found: list[click.Command] = []
    for command in group.commands.values():
        found += _all(command) if isinstance(command, click.Group) else [command]
    return found
