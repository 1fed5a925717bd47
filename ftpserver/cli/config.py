"""Settings on the command line, and the command `ftpd config`.

Lives here: an option for each setting, reading the values, `config check`, `config show`.
Lives elsewhere: the table of settings (settings/table.py), reading the file (settings/file.py).

click chooses between flags, variables, the file (its ``default_map``) and defaults. As it stops at
the first wrong value and knows no line numbers, errors in variables and the file are collected
here.
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

from ftpserver.cli.options import (
    EXIT_CONFIGURATION,
    EXIT_DAMAGE,
    echo,
    fail,
    json_option,
    remark,
    typed,
)
from ftpserver.errors import SettingsError, StateError
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

_OTHER_VARIABLES = frozenset({"FTPD_CONFIG", "FTPD_PASSWORD"})
_Command = Callable[..., Any]


class ConfigError(click.ClickException):
    """The settings are invalid.

    Attributes:
        problems: Human-readable descriptions, one line for each problem.
    """

    exit_code = EXIT_CONFIGURATION

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


# options -------------------------------------------------------------------------------------


class _Type(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.1
    """A type that parses text as a setting's kind does, and keeps values parsed already."""

    name = "setting"

    def __init__(self, kind: Kind) -> None:
        self._parse = kind.parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        source, in_variable = ctx.get_parameter_source(param.name), param.default
        if text := os.environ.get(param.envvar):  # click 8.2 takes any text for a flag as true
            try:  # a variable must be valid even if an option overrides it
                in_variable = self._parse(text)
            except ValueError as error:
                ctx.obj.problems.append(f"{param.envvar}: {error}")
        if source is ParameterSource.ENVIRONMENT:
            return in_variable
        return typed(self._parse)(value) if isinstance(value, str) else value


class _Flag(_Type, click.types.BoolParamType):
    """The type of flags, which click requires to be a subclass of its own."""


class _Root(click.Path):
    """A directory. A value from the file or the table is a path already, and isn't checked."""

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
    """Return the help text of a setting, with its default unless it is a flag."""
    default = getattr(Settings, name)
    if default is None or setting.kind.flag:
        return setting.help
    return f"{setting.help.removesuffix('.')} (default: {setting.kind.to_text(default)})."


def _take_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    ctx.obj = SettingsFile()
    ctx.default_map = ctx.obj.values
    if path is not None:
        ctx.obj.read(path)
    return path


def _take_root(ctx: click.Context, _: click.Parameter, given: Path) -> Path:
    """Read the root's settings file, before click looks up options that weren't given."""
    root, file = given.absolute(), ctx.obj
    if file.path is None:
        file.read(state_of(root) / FILE_NAME, or_none=True)
        if file.values.pop(ROOT, None) is not None:
            file.problems.append(f"{file.location(ROOT)}: the root cannot be set in its own file")
    return root


def settings_options(function: _Command, config_variable: str | None = "FTPD_CONFIG") -> _Command:
    """Add an option for each setting, and --root and --config. See `settings_in`."""
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
    """Return the settings of a command. Raises ConfigError if they are invalid."""
    values = {name: ctx.params[name] for name in EVERY}
    problems: list[str] = ctx.obj.problems
    if (values["certificate"] is None) != (values["key"] is None):
        lacking = "key" if values["key"] is None else "certificate"
        problems.append(f"certificate and key must be set together: {lacking} is missing")
    if values["workers"] not in (AUTO, 1) and values["isolation"] == "process":
        problems.append("workers cannot be set with isolation = process")
    if values["no_tcp"] and values["unix"] is None and "LISTEN_FDS" not in os.environ:
        problems.append("no-tcp needs unix = PATH, or no client can connect (--unix PATH)")
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


@click.command(cls=Command)
@functools.partial(settings_options, config_variable=None)
def _no_options() -> None:
    """Parse settings for commands that have no options for them."""


def read_settings(root: Path | None, config: Path | None = None) -> Settings:
    """Return the settings of a root. Raises ConfigError if they are invalid."""
    given = {"root": root, "config": config}
    words = [f"--{name}={path}" for name, path in given.items() if path is not None]
    return settings_in(_no_options.make_context("ftpd", words))


def usable_settings(root: Path) -> Settings | None:
    """Return the settings of a root; None if they are invalid, which `config check` explains."""
    try:
        return read_settings(root)
    except ConfigError:
        return None


def read_again(command: click.Command, words: Iterable[str]) -> Settings:
    """Read the settings of a command line again, for a reload. Raises SettingsError."""
    try:
        return settings_in(command.make_context("ftpd", list(words)))
    except ConfigError as error:
        raise SettingsError(error.problems) from None
    except click.ClickException as error:
        raise SettingsError([error.format_message()]) from None


def warnings_about(settings: Settings) -> list[str]:
    """Return warnings about settings that are valid, but risky or probably wrong."""
    known = {setting.variable for setting in EVERY.values()} | _OTHER_VARIABLES
    strays = sorted({name for name in os.environ if name.startswith("FTPD_")} - known)
    unknown = [f"{name}: unknown variable{likeness.hint(name, known)}" for name in strays]
    return unknown + cautions(settings)


def _origin(ctx: click.Context, name: str, setting: Setting) -> tuple[str, str]:
    match ctx.get_parameter_source(name):
        case ParameterSource.COMMANDLINE:
            return "flag", "" if name == ROOT else f"--{setting.name}"
        case ParameterSource.ENVIRONMENT:
            return "variable", setting.variable
        case ParameterSource.DEFAULT_MAP:
            return "file", ctx.obj.location(setting.name)
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
        echo(record, f"{file or 'no settings file'}: no problems found", as_json)
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
    # numbers, booleans and escapes of JSON are valid TOML
    return printable(json.dumps(value, ensure_ascii=False))
