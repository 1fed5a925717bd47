"""Settings on the command line, and `ftpd config`.

Lives here: the options that the table of settings makes, `config check` and `config show`.
Lives elsewhere: the table (settings/table.py), where values come from (settings/loading.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftpserver.cli.options import EXIT_DAMAGE, fail, json_option
from ftpserver.settings.kinds import NONE, Setting
from ftpserver.settings.table import DEFAULT_ROOT, TABLE, Settings
from ftpwire.paths import printable

if TYPE_CHECKING:
    from ftpserver.settings.loading import Loaded

EXIT_CONFIGURATION = 2
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _reader(setting: Setting) -> Callable[[Any], Any]:
    """What makes of an option's text a value; NONE where there is to be none."""

    def read(text: str) -> Any:
        try:
            parsed = setting.kind.parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        return NONE if parsed is None else parsed

    return read


def settings_options(function: _Function) -> _Function:
    """Every setting as an option, with --root and --config; no value where none is given."""
    for name, setting in reversed(TABLE.items()):
        function = _option(name, setting)(function)
    function = click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="FTPD_CONFIG",
        help="Settings. Default: ROOT/.ftpd/ftpd.toml, if it is there.",
    )(function)
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="FTPD_ROOT",
        help="Directory of the homes; the server's own state is in its .ftpd."
        f"  [default: {DEFAULT_ROOT}]",
    )(function)


def _option(name: str, setting: Setting) -> Callable[[_Function], _Function]:
    default = getattr(Settings, name)
    if setting.kind.flag:
        off = setting.name.removeprefix("no-")
        words = f"--{setting.name}/--{off if off != setting.name else f'no-{off}'}"
        return click.option(words, name, default=None, help=setting.help)
    told = "" if default is None else f"  [default: {setting.kind.tell(default)}]"
    return click.option(
        f"--{setting.name}",
        name,
        type=_reader(setting),
        metavar=setting.kind.metavar,
        help=setting.help + told,
    )


def loaded_from(root: Path | None, config: Path | None, flags: dict[str, Any]) -> Loaded:
    """The settings of a command line; what is wrong with them ends the command."""
    from ftpserver.settings.loading import ConfigError, load

    try:
        return load(flags, root=root, config=config)
    except ConfigError as error:
        *first, last = error.problems
        for problem in first:
            click.echo(f"ftpd: {printable(problem)}", err=True)
        fail(last, EXIT_CONFIGURATION)


def loaded_again(root: Path | None, config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings as they are by now. Raises StateError."""
    from ftpserver.errors import StateError
    from ftpserver.settings.loading import ConfigError, load

    try:
        return load(flags, root=root, config=config).settings
    except ConfigError as error:
        raise StateError(str(error)) from None


@click.group("config")
def config_group() -> None:
    """Settings: check, show."""


@config_group.command(short_help="Check the settings, as ftpd start would take them.")
@settings_options
def check(root: Path | None, config: Path | None, **flags: Any) -> None:
    """Check the settings, as `ftpd start` with the same options would take them.

    Exit status 2 when something is wrong, 8 when others can read or write what they shouldn't, with
    a line for each.
    """
    from ftpserver import modes
    from ftpserver.errors import StateError
    from ftpserver.net.tls import make_context, warnings_about

    loaded = loaded_from(root, config, flags)
    for warning in loaded.warnings:
        click.echo(f"ftpd: {printable(warning)}", err=True)
    if loaded.settings.certificate is not None and loaded.settings.key is not None:
        try:
            make_context(loaded.settings.certificate, loaded.settings.key)
        except StateError as error:
            fail(str(error), EXIT_CONFIGURATION)
        for warning in warnings_about(loaded.settings.certificate):
            click.echo(f"ftpd: {printable(warning)}", err=True)
    loose = list(modes.find(loaded.settings))
    for one in loose:
        click.echo(f"ftpd: {printable(str(one))}", err=True)
    if loose and not loaded.settings.allow_loose_modes:
        sys.exit(EXIT_DAMAGE)
    told = str(loaded.file) if loaded.file is not None else "no file is read"
    click.echo(f"{told}: all is well")


@config_group.command()
@settings_options
@json_option
def show(root: Path | None, config: Path | None, as_json: bool, **flags: Any) -> None:
    """Show every setting, and where its value comes from.

    What is printed can be used as an ftpd.toml.
    """
    loaded = loaded_from(root, config, flags)
    names = {"root": "root"} | {name: setting.name for name, setting in TABLE.items()}
    lines = []
    for name, shown in names.items():
        value, origin = loaded.shown(name), loaded.origins[name]
        if as_json:
            record = {"name": shown, "value": value, "from": origin.kind, "where": origin.where}
            click.echo(json.dumps(record))
            continue
        lines.append((f"# {shown} =" if value is None else f"{shown} = {_toml(value)}", origin))
    width = max((len(text) for text, _ in lines), default=0)
    for text, origin in lines:
        click.echo(f"{text:{width}}  # {printable(str(origin))}")
    sys.stdout.flush()


def _toml(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # JSON's numbers, true and false, and its escapes in text are TOML's
    return printable(json.dumps(value, ensure_ascii=False))
