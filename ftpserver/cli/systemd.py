"""The command `ftpd service`.

Lives here: options, and the facts about accounts and settings that the unit needs.
Lives elsewhere: the text of the units (daemon/systemd.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ftpserver.cli.config import read_settings
from ftpserver.cli.options import echo, fail, json_option, remark
from ftpserver.errors import StateError
from ftpserver.settings.table import DATABASE, DEFAULT_ROOT, state_of
from ftpwire.command_help import Command
from ftpwire.paths import printable

_UNITS = Path("/etc/systemd/system")


@click.command(cls=Command)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FTPD_ROOT",
    help=f"Serve the homes in this directory (default: {DEFAULT_ROOT}).",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="FTPD_CONFIG",
    help="Read this file (default: ROOT/.ftpd/ftpd.toml).",
)
@click.option(
    "--user",
    metavar="USER",
    help="Run the server as this system user (default: the owner of ROOT).",
)
@click.option("--socket", is_flag=True, help="Print the socket unit, for socket activation.")
@click.option(
    "--check",
    is_flag=True,
    help="Compare the installed unit and its drop-ins with the settings.",
)
@click.option(
    "--installed",
    "unit_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Compare this unit (default: ftpd.service or ftpd.socket in {_UNITS}).",
)
@json_option
def service(
    root: Path | None,
    config: Path | None,
    user: str | None,
    socket: bool,
    check: bool,
    unit_file: Path | None,
    as_json: bool,
) -> None:
    """Print a systemd unit for this installation.

    \b
    ftpd service --root /srv/files > /etc/systemd/system/ftpd.service
    systemctl daemon-reload && systemctl enable --now ftpd

    The unit grants as few rights as possible. Print it again after a change of the address, the
    port, the Unix socket, the grace time or the home of an account; --check compares. All other
    settings belong in ROOT/.ftpd/ftpd.toml.
    """
    from ftpserver.daemon.systemd import installed, socket_unit, unit

    settings = read_settings(root, config)
    named = (config, settings.certificate, settings.key)
    installation = installed(
        settings.root,
        None if config is None else config.absolute(),
        user=user,
        paths=_homes(settings.root),
        reads=[path.absolute() for path in named if path is not None],
        port=settings.port,
        grace=settings.grace,
        isolated=settings.isolation == "process",
        host=settings.host,
        unix=None if settings.unix is None else settings.unix.absolute(),
    )
    if socket and settings.no_tcp:
        fail("with no-tcp, there is nothing for a socket unit to listen on")
    text = socket_unit(installation) if socket else unit(installation)
    if check or unit_file is not None:
        _compare(unit_file or _UNITS / ("ftpd.socket" if socket else "ftpd.service"), text, as_json)
        return
    echo({"unit": text}, text.rstrip("\n"), as_json)
    if not socket and installation.user == "root" and not installation.isolated:
        remark("the server would run as root: create a user, and name it with --user")


def _compare(path: Path, wanted: str, as_json: bool) -> None:
    from ftpserver.daemon.installed_unit import differences, drop_ins

    try:
        found = differences(path, wanted)
        change = ", or change its drop-ins" if drop_ins(path) else ""
    except StateError as error:
        fail(str(error))
    if as_json:
        shown = [printable(line) for line in found]
        click.echo(json.dumps({"file": str(path), "ok": not found, "differences": shown}))
    for line in () if as_json else found:
        click.echo(printable(line))
    if found:
        fail(f"{path}: does not match the settings: print it again{change}")
    if not as_json:
        click.echo(f"{path}: matches the settings")


def _homes(root: Path) -> list[Path]:
    """Return the homes of all accounts, if there are any."""
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.database import open_to_look

    state = state_of(root)
    if not (state / DATABASE).is_file():
        return []
    engine = open_to_look(state)
    try:
        return [account.home for account in Accounts(engine, root)]
    finally:
        engine.dispose()
