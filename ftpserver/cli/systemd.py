"""`ftpd service`.

Lives here: options, and what the unit needs to know of accounts and settings.
Lives elsewhere: the text of the units (daemon/systemd.py).
"""

from __future__ import annotations

from pathlib import Path

import click

from ftpserver.cli.config import loaded_from
from ftpserver.settings.table import DATABASE, DEFAULT_ROOT, state_of


@click.command(short_help="Print a unit for systemd.")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FTPD_ROOT",
    help=f"Directory of the homes.  [default: {DEFAULT_ROOT}]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="FTPD_CONFIG",
    help="Settings. Default: ROOT/.ftpd/ftpd.toml, if it is there.",
)
@click.option("--user", metavar="USER", help="System user to run as. Default: whose ROOT is.")
@click.option("--socket", is_flag=True, help="The socket unit, for socket activation, instead.")
def service(root: Path | None, config: Path | None, user: str | None, socket: bool) -> None:
    """Print a systemd unit for this installation, with as few rights as the server can do with.

    \b
    ftpd service --root /srv/files > /etc/systemd/system/ftpd.service
    systemctl daemon-reload && systemctl enable --now ftpd

    Other settings belong in ROOT/.ftpd/ftpd.toml. When a home is added elsewhere, print it again.
    """
    from ftpserver.daemon.systemd import installed, socket_unit, unit

    settings = loaded_from(root, config, {}).settings
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
    )
    click.echo(socket_unit(installation) if socket else unit(installation), nl=False)
    if not socket and installation.user == "root" and not installation.isolated:
        click.echo("ftpd: it would run as root: make a user, and give --user", err=True)


def _homes(root: Path) -> list[Path]:
    """The homes of all accounts, if there are accounts yet."""
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
