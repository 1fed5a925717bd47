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

from ftpclient import light_imports
from ftpclient.cli.app import App, UsageError
from ftpclient.connection.addresses import check_no_password
from ftpwire import likeness
from ftpwire.command_help import (
    Command,
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
    "switching": ("bookmark", "close", "open"),
    "inside": ("cd", "exit", "lcd", "lls", "lmkdir", "lpwd", "source"),
    "helping": ("completion", "help"),
}
MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
SCRIPT_ONLY = frozenset(
    {"batch", "completion", "connect", "discover", "forget", "login", "logout", "register"}
)
"""Commands that make no sense inside the shell."""
SHELL_ONLY = frozenset(
    name for module in ("inside", "comfort", "switching") for name in _MODULES[module]
)
NOT_IN_RC = {
    **dict.fromkeys(("get", "put", "sync"), "it moves files"),
    **dict.fromkeys(("exit", "open", "close"), "it ends the connection"),
}
"""Commands that an rc file can't have, and why: it runs whenever somebody connects."""
_WITHOUT_JSON = frozenset({"connect", "edit", "less", "pwd"})
"""Commands that take --json without saying so: they print nothing, or one line."""
_ONLY_LISTED_INSIDE = frozenset({"help", "pwd"})
"""Commands that are of use in the shell, and elsewhere only don't fail."""
WITHOUT_OUTPUT = {
    **dict.fromkeys(("edit", "less"), "it needs the terminal"),
    **dict.fromkeys(("cd", "exit", "lcd", "unalias"), "it has no output"),
    **dict.fromkeys(("bookmark", "close", "open"), "it has no output"),
}
"""Commands of the shell whose output can't go anywhere, and why."""


def no_option(error: click.NoSuchOption) -> str:
    """What to say of an option that nothing knows."""
    params = [] if error.ctx is None else error.ctx.command.get_params(error.ctx)
    shown = [one for one in params if isinstance(one, click.Option) and not one.hidden]
    known = {name for one in shown for name in offered_names(one)}
    return f"no option {error.option_name}{likeness.hint(error.option_name, known)}"


class HintingCommand(Command):
    """A command that knows what other tools call its options."""

    @property
    def meant(self) -> Mapping[str, str]:
        """For each of them what is meant here, as foreign.py says it."""
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
            text = f"something is missing: {called(ctx) or self.name} {usage}"
            raise click.UsageError(text, ctx) from None

    def _no_option(self, error: click.NoSuchOption, args: list[str]) -> str:
        name = self._of_others(error.option_name, args)
        if name is None:
            return self._of_ftp(error) or no_option(error)
        from ftpclient.cli import foreign

        return foreign.hint("option", name, self.meant[name])

    def _of_ftp(self, error: click.NoSuchOption) -> str | None:
        """What to say of an option of ``ftp`` itself; in the shell it is too late for one."""
        if error.ctx is None or _in_shell(error.ctx):
            return None
        name, root = error.option_name, error.ctx.find_root().command
        shown = (option for option in root.params if not getattr(option, "hidden", False))
        if root is self or not any(name in option.opts for option in shown):
            return None  # `ls -b` has nothing to do with the batches of `ftp -b`
        return f"no option {name} here: it goes before the command: ftp {name} {self.name}"

    def _of_others(self, unknown: str, args: list[str]) -> str | None:
        """The option that was meant: of ``-exec``, only its first letter is told as unknown."""
        words = [arg.partition("=")[0] for arg in args]
        long = (word for word in words if word.startswith(unknown) and word in self.meant)
        return next(long, unknown if unknown in self.meant else None)


class CommandGroup(RootGroup):
    """A group whose commands are imported when they are used: help and version stay quick."""

    program = "ftp"

    def pages(self) -> Mapping[str, Page]:
        from ftpclient.cli.pages import PAGES

        return PAGES

    def list_commands(self, ctx: click.Context) -> list[str]:
        here = MODULE_OF.keys() - (SCRIPT_ONLY if _in_shell(ctx) else SHELL_ONLY)
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
        """In the shell, only what can be typed there: it is too late for options of the program."""
        if not _in_shell(ctx):
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
        unlisted = frozenset() if _in_shell(ctx) else _ONLY_LISTED_INSIDE
        return [name for name in super().listed(ctx) if name not in unlisted]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from ftpclient.cli.offers import server_names

        return [
            *super().shell_complete(ctx, incomplete),
            *(server_names(incomplete) if incomplete and not _in_shell(ctx) else ()),
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        light_imports.load_msgspec()  # before a command does it
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            if _in_shell(ctx) or not _is_server(name):
                raise click.UsageError(self._no_command(ctx, name, args[1:]), ctx)
            args = ["connect", *args]
        return super().resolve_command(ctx, args)

    def _no_command(self, ctx: click.Context, name: str, arguments: list[str]) -> str:
        check_no_password(name)  # it would be shown
        if name in SHELL_ONLY:
            return f"{name!r} is for the shell, which ftp connect starts"
        if name in SCRIPT_ONLY:
            return f"{name!r} is no command of the shell: leave it first"
        if not _in_shell(ctx) and (instead := _as_server(name)):
            return f"no command {name!r}: did you mean {instead}?"
        from ftpclient.cli import foreign

        if meant := foreign.COMMANDS.get(name):
            return _unlike_others(ctx, name, arguments, meant)
        return f"no command {name!r}{likeness.hint(name, self.list_commands(ctx))}"


def _is_server(word: str) -> bool:
    """Whether a word that is no command says where to connect to."""
    from ftpclient.cli import locations

    try:
        return locations.read_server(word) is not None
    except FtpError:
        return False


def _unlike_others(ctx: click.Context, name: str, arguments: list[str], meant: str) -> str:
    """What to say of a command of other tools."""
    from ftpclient.cli import foreign, translations

    here = translations.translate(name, arguments, MODULE_OF, in_shell=_in_shell(ctx))
    if here is not None:
        return f"no command {name!r}: {translations.line(name, *arguments)} is {here} here"
    if _in_shell(ctx) and meant.partition(" ")[0] in SCRIPT_ONLY:
        meant = f"ftp {meant}"
    return foreign.hint("command", repr(name), meant)


def _as_server(word: str) -> str | None:
    """What somebody means who names the server first, as with ssh, scp or a browser."""
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


def _in_shell(ctx: click.Context) -> bool:
    return isinstance(ctx.obj, App) and ctx.obj.interactive


class RemoteArgument(click.Argument):
    """Paths on the server. They may name it (see places.py): the command gets them without."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from ftpclient.cli.offers import remote_paths

        return remote_paths(ctx, self, incomplete)


class RemoteOption(click.Option):
    """The same for a path that an option takes."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from ftpclient.cli.offers import remote_paths

        return remote_paths(ctx, self, incomplete)


def _without_server(app: App, command: click.Command, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with paths for words that name a server. It is used from now on."""
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
"""Under which a context has the words after a command, as they were written."""
_APART = frozenset({"restore", "trash", "undo"})
"""Commands that take back what others have done, and so are no part of the same operation."""


def remote_command(
    name: str,
    cls: type[HintingCommand] = HintingCommand,
    *,
    final: str | None = None,
) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command on the App, with the options that people also write after it.

    Args:
        final: The parameter with which nothing is kept of what the command removes and replaces.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def run(**arguments: Any) -> Any:
            context = click.get_current_context()
            app: App = context.obj
            if app.shell.in_rc and name in NOT_IN_RC:
                raise UsageError(f"an rc file can't have {name}: {NOT_IN_RC[name]}")
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
                apart=name in _APART,
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
    """The type of options that take bytes as people write them."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def local_paths(ctx: click.Context, param: click.Parameter, begun: str) -> list[Any]:
    """For the completion of bash, zsh and fish: they know the local files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def offers(kind: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """For the completion of bash, zsh and fish: a function of offers.py, imported when needed."""

    def offer(ctx: click.Context, param: click.Parameter, begun: str) -> list[Any]:
        function = getattr(import_module("ftpclient.cli.offers"), kind)
        return list(function(ctx, param, begun))

    return offer


saved_servers = offers("saved_servers")


def raise_for(exit_code: int) -> None:
    """End the command with a status, when its complaints were printed already."""
    if exit_code:
        raise click.exceptions.Exit(exit_code)
