"""The commands, which scripts and the shell share.

Lives here: the base classes of commands, and the module in which each command is found.
Lives elsewhere: the commands (commands/). A command handles arguments and output; it takes the
client from the App in click's context.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from ftpclient import light_imports
from ftpclient.cli.app import App, UsageError
from ftpclient.connection.addresses import check_no_password
from ftpwire import likeness
from ftpwire.command_help import (
    Command,
    Option,
    Page,
    RootGroup,
    called,
    offered_names,
    shows_everything,
    write_sections,
)
from ftpwire.errors import FtpError
from ftpwire.units import parse_size

_MODULES = {
    "attributes": ("chmod", "touch"),
    "accounts": ("login", "logout", "passwd", "register", "servers", "token"),
    "browsing": ("cat", "df", "hash", "ls", "pwd", "stat", "whoami"),
    "changing": ("cp", "ln", "mkdir", "mv", "rm", "rmdir"),
    "usage": ("du",),
    "checking": ("check",),
    "diffing": ("diff",),
    "ends": ("head", "tail"),
    "finding": ("find", "tree"),
    "transfers": ("get", "put"),
    "sync": ("sync",),
    "viewing": ("edit", "less"),
    "status": ("status",),
    "session": ("batch", "connect", "forget"),
    "discover": ("discover",),
    "kept": ("kept",),
    "trash": ("restore", "trash", "undo", "versions"),
    "comfort": ("alias", "clear", "echo", "history", "set", "unalias"),
    "jobs": ("bg", "fg", "jobs", "kill", "wait"),
    "unfinished": ("resume",),
    "switching": ("bookmark", "close", "open"),
    "inside": ("cd", "exit", "lcd", "lls", "lmkdir", "lpwd", "source"),
    "helping": ("completion", "help"),
}
MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
SCRIPT_ONLY = frozenset(
    {"batch", "completion", "connect", "discover", "forget", "login", "logout", "register"}
)
"""Commands that exist outside the shell only."""
SHELL_ONLY = frozenset(
    name
    for module in ("inside", "comfort", "jobs", "switching", "unfinished")
    for name in _MODULES[module]
)
NOT_IN_RC = {
    **dict.fromkeys(("get", "put", "sync", "resume"), "it moves files"),
    **dict.fromkeys(("exit", "open", "close"), "it ends the connection"),
}
"""Commands that an rc file cannot have, and why: it runs at every connect."""
_WITHOUT_JSON = frozenset({"connect", "diff", "edit", "less", "pwd"})
"""Commands whose help doesn't list --json: they print no objects, or one line."""
_ONLY_LISTED_INSIDE = frozenset({"help", "pwd"})
"""Commands that the help lists inside the shell only."""
_UNLISTED = frozenset({"forget"})
"""Commands that exist for old scripts: neither listed nor completed."""
STATUS_1_IS_A_RESULT = frozenset({"check", "diff"})
"""Commands whose status 1 means that they found differences: they have not failed."""
RESUMED = frozenset({"get", "put", "sync"})
"""Commands that go on where they were interrupted, if they are given again."""
WITHOUT_OUTPUT = {
    **dict.fromkeys(("edit", "less"), "it needs the terminal"),
    **dict.fromkeys(("cd", "exit", "lcd", "unalias"), "it has no output"),
    **dict.fromkeys(("bookmark", "close", "open"), "it has no output"),
    **dict.fromkeys(("bg", "fg", "jobs", "kill", "resume", "wait"), "it is for the terminal"),
}
"""Commands of the shell whose output cannot be redirected, and why."""


def no_option(error: click.NoSuchOption) -> str:
    """Return the message about an unknown option."""
    params = [] if error.ctx is None else error.ctx.command.get_params(error.ctx)
    shown = [one for one in params if isinstance(one, click.Option) and not one.hidden]
    known = {name for one in shown for name in offered_names(one)}
    return f"unknown option {error.option_name}{likeness.hint(error.option_name, known)}"


class HintingCommand(Command):
    """A command that knows the corresponding options of other tools."""

    @property
    def meant(self) -> Mapping[str, str]:
        """Options of other tools and their values, in the form described in foreign.py."""
        from ftpclient.cli import foreign

        return foreign.OPTIONS.get(self.name or "", {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        try:
            with light_imports.without_suggestions():
                return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            raise click.UsageError(self._no_option(error, args), ctx) from None
        except click.MissingParameter as error:
            if not isinstance(error.param, click.Argument):
                raise
            usage = " ".join(part for part in self.collect_usage_pieces(ctx)[1:])
            text = f"missing argument: {called(ctx) or self.name} {usage}"
            raise click.UsageError(text, ctx) from None

    def _no_option(self, error: click.NoSuchOption, args: list[str]) -> str:
        name = self._of_others(error.option_name, args)
        if name is None:
            return self._of_ftp(error) or no_option(error)
        from ftpclient.cli import foreign

        ctx = error.ctx or click.get_current_context()
        of_shell = foreign.IN_SHELL.get(self.name or "", {}) if in_shell(ctx) else {}
        return hint_of_others(ctx, "option", name, of_shell.get(name, self.meant[name]))

    def _of_ftp(self, error: click.NoSuchOption) -> str | None:
        """Return the message about an option of `ftp` itself; None in the shell or for others."""
        if error.ctx is None or in_shell(error.ctx):
            return None
        name, root = error.option_name, error.ctx.find_root().command
        shown = (option for option in root.params if not getattr(option, "hidden", False))
        if root is self or not any(name in option.opts for option in shown):
            return None  # `ls -b` has nothing to do with the batches of `ftp -b`
        return f"option {name} goes before the command: ftp {name} {self.name}"

    def _of_others(self, unknown: str, args: list[str]) -> str | None:
        """Return the foreign option that was typed: of ``-exec``, click only reports ``-e``."""
        words = [arg.partition("=")[0] for arg in args]
        long = (word for word in words if word.startswith(unknown) and word in self.meant)
        return next(long, unknown if unknown in self.meant else None)


class CommandGroup(RootGroup):
    """A group whose commands are imported when they are used, so that ``--help`` is quick."""

    program = "ftp"

    def pages(self) -> Mapping[str, Page]:
        from ftpclient.cli.pages import PAGES

        return PAGES

    def list_commands(self, ctx: click.Context) -> list[str]:
        here = MODULE_OF.keys() - (SCRIPT_ONLY if in_shell(ctx) else SHELL_ONLY)
        return sorted({*here, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name not in self.list_commands(ctx):
            return found
        module = import_module(f"ftpclient.cli.commands.{MODULE_OF[cmd_name]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help; in the shell, without the options of the program."""
        if not in_shell(ctx):
            super().format_help(ctx, formatter)
            return
        self.format_commands(ctx, formatter)
        from ftpclient.cli.pages import OPERATORS

        write_sections(formatter, {"Lines": OPERATORS})
        formatter.write_paragraph()
        if not shows_everything(ctx):
            formatter.write_text("help --all lists each command.")
            return
        from ftpclient.cli.aliases import ALIASES

        others = ", ".join(f"{alias} ({name})" for alias, name in ALIASES.items())
        formatter.write_text(f"Other names: {others}.")

    def listed(self, ctx: click.Context) -> list[str]:
        unlisted = _UNLISTED if in_shell(ctx) else _UNLISTED | _ONLY_LISTED_INSIDE
        return [name for name in super().listed(ctx) if name not in unlisted]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from ftpclient.cli.offers import server_names

        return [
            *super().shell_complete(ctx, incomplete),
            *(server_names(incomplete) if incomplete and not in_shell(ctx) else ()),
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        light_imports.load_msgspec()  # before a command imports it
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            if in_shell(ctx) or not _is_server(name):
                raise click.UsageError(self._no_command(ctx, name, args[1:]), ctx)
            args = ["connect", *args]
        return super().resolve_command(ctx, args)

    def _no_command(self, ctx: click.Context, name: str, arguments: list[str]) -> str:
        check_no_password(name)  # it would be shown
        if name in SHELL_ONLY:
            return f"{name!r} only works in the shell, which ftp connect starts"
        if name in SCRIPT_ONLY:
            return f"{name!r} doesn't work in the shell: leave it with exit first"
        if not in_shell(ctx) and (instead := _as_server(name)):
            return f"unknown command {name!r}: did you mean {instead}?"
        from ftpclient.cli import foreign

        if meant := foreign.COMMANDS.get(name):
            return _unlike_others(ctx, name, arguments, meant)
        likely = likeness.hint(name, self.list_commands(ctx))
        return f"unknown command {name!r}{likely or ' (help lists all)' * in_shell(ctx)}"


def _is_server(word: str) -> bool:
    """Return whether a word that isn't a command names a server to connect to."""
    from ftpclient.cli import locations

    try:
        return locations.read_server(word) is not None
    except FtpError:
        return False


def _unlike_others(ctx: click.Context, name: str, arguments: list[str], meant: str) -> str:
    """Return the message about a command of other tools."""
    from ftpclient.cli import translations

    here = translations.translate(name, arguments, MODULE_OF, in_shell=in_shell(ctx))
    if here is not None:
        return f"unknown command {name!r}: {translations.line(name, *arguments)} is {here} here"
    return hint_of_others(ctx, "command", repr(name), meant, arguments)


def hint_of_others(
    ctx: click.Context, kind: str, word: str, meant: str, operands: Sequence[str] = ()
) -> str:
    """Return the message about a word of other tools; see `foreign.hint`."""
    from ftpclient.cli import foreign

    here = in_shell(ctx)
    programs = SCRIPT_ONLY if here else MODULE_OF
    return foreign.hint(kind, word, meant, programs=programs, in_shell=here, operands=operands)


def _as_server(word: str) -> str | None:
    """Return the command for a word that names a server, as for ssh, scp or a browser."""
    location = word.partition("://")[2] or word
    server, colon, path = location.partition(":/")
    if "://" in word:
        server, slash, path = location.partition("/")
        colon = slash if path else ""
    if not ("@" in server or "." in server or ":" in server or server == "localhost"):
        return None
    if colon:
        return f"ftp get ftpd://{server}/{path.lstrip('/')} (or ls, put, …)"
    return f"ftp connect {server}"


def in_shell(ctx: click.Context) -> bool:
    return isinstance(ctx.obj, App) and ctx.obj.interactive


class RemoteArgument(click.Argument):
    """An argument of remote paths. They may name the server, see locations.py."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from ftpclient.cli.offers import remote_paths

        return remote_paths(ctx, self, incomplete)


class RemoteOption(Option):
    """An option whose value is a remote path."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from ftpclient.cli.offers import remote_paths

        return remote_paths(ctx, self, incomplete)


def _without_server(app: App, command: click.Command, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with servers cut off from paths, and use the server that they name."""
    names = [
        param.name
        for param in command.params
        if isinstance(param, (RemoteArgument, RemoteOption)) and arguments[param.name or ""]
    ]
    given = {name: arguments[name] for name in names if name is not None}
    words = [word for one in given.values() for word in ((one,) if isinstance(one, str) else one)]
    if not any(":" in word for word in words):
        return arguments
    from ftpclient.cli import locations

    paths = iter(locations.taken(app, words))
    return arguments | {
        name: next(paths) if isinstance(one, str) else tuple(next(paths) for _ in one)
        for name, one in given.items()
    }


_ARGUMENTS = "ftpclient.arguments"
"""The key in a context's ``meta`` of the words after a command, as they were typed."""
_NAMESPACED = frozenset({"restore", "trash", "undo"})
"""Commands that undo operations, and so never belong to the operation of their line."""


def remote_command(
    name: str,
    cls: type[HintingCommand] = HintingCommand,
    *,
    final: str | None = None,
) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a click command of a function of the App and its arguments.

    The command also takes the options of `ftp` that users often write after a command.

    Args:
        final: The parameter that makes the command bypass the trash.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def run(**arguments: Any) -> Any:
            context = click.get_current_context()
            app: App = context.obj
            if app.shell.in_rc and name in NOT_IN_RC:
                raise UsageError(f"an rc file cannot have {name}: {NOT_IN_RC[name]}")
            app.as_json |= arguments.pop("as_json_here")
            app.accept_new |= arguments.pop("accept_new_here")
            app.quiet |= arguments.pop("quiet_here")
            app.verbose |= arguments.pop("verbose_here", False)
            from ftpclient.cli import operations

            words = context.meta.get(_ARGUMENTS, [])
            keep = final is None or not arguments[final]
            with operations.running(
                app,
                lambda: operations.command_line(called(context), words),
                keep=keep,
                apart=name in _NAMESPACED,
            ):
                return function(app, **_without_server(app, command, arguments))

        functools.update_wrapper(run, function)
        command = click.command(name, cls=cls)(run)
        command.params += [
            click.Option(
                ["--json", "as_json_here"],
                is_flag=True,
                hidden=name in _WITHOUT_JSON,
                help="Print JSON, one object per line.",
            ),
            click.Option(
                ["--accept-new", "accept_new_here"],
                is_flag=True,
                hidden=True,
                help="Trust an unknown server's key without asking.",
            ),
            click.Option(
                ["-q", "--quiet", "quiet_here"],
                is_flag=True,
                hidden=True,
                help="Print no progress and no remarks.",
            ),
        ]
        if not any("-v" in param.opts for param in command.params):
            names = ["-v", "--verbose", "verbose_here"]
            command.params.append(
                click.Option(names, is_flag=True, hidden=True, help="Print the name of every file.")
            )
        return command

    return decorate


def size(text: str) -> int:
    """Convert an option's value that is a number of bytes with an optional unit."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def local_paths(ctx: click.Context, param: click.Parameter, begun: str) -> list[Any]:
    """Offer local files, which bash, zsh and fish complete by themselves."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def offers(kind: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Return a completion for bash, zsh and fish: a function of offers.py, imported when used."""

    def offer(ctx: click.Context, param: click.Parameter, begun: str) -> list[Any]:
        function = getattr(import_module("ftpclient.cli.offers"), kind)
        return list(function(ctx, param, begun))

    return offer


saved_servers = offers("saved_servers")


def raise_for(exit_code: int) -> None:
    """End the command with an exit status after its errors were printed."""
    if exit_code:
        raise click.exceptions.Exit(exit_code)
