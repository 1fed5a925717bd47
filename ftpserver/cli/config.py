"""Settings on the command line, and `ftpd config`.

Lives here: each setting as an option, the values that these have, `config check`, `config show`.
Lives elsewhere: the table of settings (settings/table.py), reading the file (settings/file.py).

click decides between flags, variables, the file (its ``default_map``) and defaults. It would end at
the first wrong value, and knows no lines: what is wrong with variables and the file is collected.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ftpserver.cli.options import EXIT_DAMAGE, echo, fail, json_option, remark, typed
from ftpserver.errors import StateError
from ftpserver.settings.file import FILE_NAME, SettingsFile
from ftpserver.settings.kinds import Kind, Setting
from ftpserver.settings.table import (
    AUTO,
    DEFAULT_ROOT,
    EVERY,
    ROOT,
    TABLE,
    Settings,
    cautions,
    state_of,
)
from ftpwire import likeness
from ftpwire.command_help import Command, Group
from ftpwire.paths import printable

EXIT_CONFIGURATION = 2
_OTHER_VARIABLES = frozenset({"FTPD_CONFIG", "FTPD_PASSWORD"})
_Command = Callable[..., Any]


class ConfigError(click.ClickException):
    """The settings can't be used. ``problems``: a line each, for people."""

    exit_code = EXIT_CONFIGURATION

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def show(self, file: object = None) -> None:
        """Show every setting and where its value comes from.

        The output is a valid ftpd.toml. Takes all options of start (see --help --all).
        """
        _warn(self.problems)


# options -------------------------------------------------------------------------------------


class _Type(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.1
    """Reads texts as a setting's kind does; what is no text any more is a value already."""

    name = "setting"

    def __init__(self, kind: Kind) -> None:
        self._parse = kind.parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        source, in_variable = ctx.get_parameter_source(param.name), param.default
        if text := os.environ.get(param.envvar):  # click 8.2 takes any text for a flag as true
            try:  # it has to be right where an option stands above it, too
                in_variable = self._parse(text)
            except ValueError as error:
                ctx.obj.problems.append(f"{param.envvar}: {error}")
        if source is ParameterSource.ENVIRONMENT:
            return in_variable
        return typed(self._parse)(value) if isinstance(value, str) else value


class _Flag(_Type, click.types.BoolParamType):
    """The same for flags, which have to have a type of click's."""


class _Root(click.Path):
    """A directory. That of the file or the table is a path already, and isn't looked at."""

    def convert(self, value: Any, *where: Any) -> Any:
        return value if isinstance(value, Path) else super().convert(value, *where)


def _option(name: str, setting: Setting) -> Callable[[_Command], _Command]:
    default, kind, words = getattr(Settings, name), setting.kind, f"--{setting.name}"
    if kind.flag:
        off = setting.name.removeprefix("no-")
        words += f"/--{off if off != setting.name else f'no-{off}'}"
    return click.option(
        words,
        name,
        type=(_Flag if kind.flag else _Type)(kind),
        envvar=setting.variable,
        default=default,
        metavar=kind.metavar or None,
        help=_with_default(name, setting),
    )


def _with_default(name: str, setting: Setting) -> str:
    """What help says of a setting; of a flag, whose default is what isn't given, the text alone."""
    default = getattr(Settings, name)
    if default is None or setting.kind.flag:
        return setting.help
    return f"{setting.help.removesuffix('.')} (default: {setting.kind.tell(default)})."


def _take_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    ctx.obj = SettingsFile()
    ctx.default_map = ctx.obj.values
    if path is not None:
        ctx.obj.read(path)
    return path


def _take_root(ctx: click.Context, _: click.Parameter, given: Path) -> Path:
    """Called before what wasn't given is looked up in the file."""
    root, file = given.absolute(), ctx.obj
    if file.path is None:
        file.read(state_of(root) / FILE_NAME, or_none=True)
        if file.values.pop(ROOT, None) is not None:
            file.problems.append(f"{file.place(ROOT)}: the root can't be set in its own file")
    return root


def settings_options(function: _Command, config_variable: str | None = "FTPD_CONFIG") -> _Command:
    """Every setting as an option, with --root and --config: `settings_in` their context."""
    for name, setting in reversed(TABLE.items()):
        function = _option(name, setting)(function)
    function = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=config_variable,
        is_eager=True,
        callback=_take_config,
        help="Read this file (default: ROOT/.ftpd/ftpd.toml).",
    )(function)
    return click.option(
        "--root",
        type=_Root(file_okay=False, path_type=Path),
        envvar="FTPD_ROOT",
        default=DEFAULT_ROOT,
        callback=_take_root,
        help=f"Keep homes and state here (default: {DEFAULT_ROOT}).",
    )(function)


# values --------------------------------------------------------------------------------------


def settings_in(ctx: click.Context) -> Settings:
    """The settings of a command. What is wrong with them ends it: raises ConfigError."""
    values = {name: ctx.params[name] for name in EVERY}
    problems: list[str] = ctx.obj.problems
    if (values["certificate"] is None) != (values["key"] is None):
        lacking = "key" if values["key"] is None else "certificate"
        problems.append(f"certificate and key belong together: the {lacking} is not given")
    if values["workers"] not in (AUTO, 1) and values["isolation"] == "process":
        problems.append("workers is for sessions in threads: isolation = process needs none")
    if values["no_tcp"] and values["unix"] is None and "LISTEN_FDS" not in os.environ:
        problems.append("no-tcp: give unix a PATH, or nobody can connect (--unix PATH)")
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


@click.command(cls=Command)
@functools.partial(settings_options, config_variable=None)
def _no_options() -> None:
    """What commands read that need settings, and have no options for them."""


def read_settings(root: Path | None, config: Path | None = None) -> Settings:
    """The settings of a root. What is wrong with them ends a command: raises ConfigError."""
    given = {"root": root, "config": config}
    words = [f"--{name}={path}" for name, path in given.items() if path is not None]
    return settings_in(_no_options.make_context("ftpd", words))


def usable_settings(root: Path) -> Settings | None:
    """The same; None where something is wrong with them: `config check` says what."""
    try:
        return read_settings(root)
    except ConfigError:
        return None


def read_again(command: click.Command, words: Iterable[str]) -> Settings:
    """The settings of a command line, as they are by now. Raises StateError."""
    try:
        return settings_in(command.make_context("ftpd", list(words)))
    except click.ClickException as error:
        raise StateError(error.format_message()) from None


def warnings_about(settings: Settings) -> list[str]:
    """What is valid, but risky, or most likely a mistake."""
    known = {setting.variable for setting in EVERY.values()} | _OTHER_VARIABLES
    strays = sorted({name for name in os.environ if name.startswith("FTPD_")} - known)
    told = [f"{name}: means nothing{likeness.hint(name, known)}" for name in strays]
    return told + cautions(settings)


def _origin(ctx: click.Context, name: str, setting: Setting) -> tuple[str, str]:
    match ctx.get_parameter_source(name):
        case ParameterSource.COMMANDLINE:
            return "flag", "" if name == ROOT else f"--{setting.name}"
        case ParameterSource.ENVIRONMENT:
            return "variable", setting.variable
        case ParameterSource.DEFAULT_MAP:
            return "file", ctx.obj.place(setting.name)
    return "default", ""


# the commands --------------------------------------------------------------------------------


@click.group("config", cls=Group)
def config_group() -> None:
    """Check or show the settings."""


@config_group.command()
@settings_options
@json_option
@click.pass_context
def check(ctx: click.Context, /, as_json: bool, **_: Any) -> None:
    """Check the settings, as `ftpd start` would read them.

    Prints one line per problem. Takes all options of start (see --help --all).
    """
    from ftpserver import modes
    from ftpserver.net import tls

    settings = settings_in(ctx)
    warnings = warnings_about(settings)
    _warn(warnings)
    if settings.certificate is not None and settings.key is not None:
        try:
            tls.make_context(settings.certificate, settings.key)
        except StateError as error:
            fail(str(error), EXIT_CONFIGURATION, code="configuration")
        more = tls.warnings_about(settings.certificate)
        _warn(more)
        warnings += more
    loose = list(modes.find(settings))
    _warn(map(str, loose))
    failed = loose and not settings.allow_loose_modes
    file = None if ctx.obj.path is None else str(ctx.obj.path)
    record = {"file": file, "ok": not failed, "warnings": warnings, "loose": list(map(str, loose))}
    if as_json or not failed:
        echo(record, f"{file or 'no file is read'}: all is well", as_json)
    if failed:
        sys.exit(EXIT_DAMAGE)


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        remark(text)


@config_group.command()
@settings_options
@json_option
@click.pass_context
def show(ctx: click.Context, /, as_json: bool, **_: Any) -> None:
    """Show every setting and where its value comes from.

    The output is a valid ftpd.toml. Takes all options of start (see --help --all).
    """
    settings, lines = settings_in(ctx), []
    for name, setting in EVERY.items():
        value, (source, where) = getattr(settings, name), _origin(ctx, name, setting)
        value = None if value is None else setting.kind.show(value)
        if as_json:
            record = {"name": setting.name, "value": value, "from": source, "where": where}
            click.echo(json.dumps(record))
            continue
        written = f"# {setting.name} =" if value is None else f"{setting.name} = {_toml(value)}"
        lines.append((written, where or source))
    width = max((len(text) for text, _ in lines), default=0)
    for text, origin in lines:
        click.echo(f"{text:{width}}  # {printable(origin)}")
    sys.stdout.flush()


def _toml(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # JSON's numbers, true and false, and its escapes in text are TOML's
    return printable(json.dumps(value, ensure_ascii=False))
