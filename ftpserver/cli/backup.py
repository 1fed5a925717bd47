"""The command `ftpd backup`.

Lives here: options and output. Lives elsewhere: the work (admin/backup.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpserver.cli.config import read_settings
from ftpserver.cli.options import counted_as, json_option, remark, root_option
from ftpserver.cli.records import action_record
from ftpwire.command_help import Command
from ftpwire.paths import show

if TYPE_CHECKING:
    from ftpserver.settings.table import Settings


@click.command(cls=Command)
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(1),
    help="Copy to a new directory in DIR, named after the time (UTC); keep the last N.",
)
@root_option
@json_option
def backup(place: Path, keep: int | None, root: Path, as_json: bool) -> None:
    """Copy accounts, keys and settings to DIR.

    Works while the server runs. DIR must be new or empty, unless --keep is given. The copy appears
    only when it is complete, as DIR/.ftpd. Users' files, their trash and the audit log are not
    copied.
    """
    from ftpserver.admin.backup import back_up, back_up_in_series

    outside = _outside(read_settings(root))
    if keep is None:
        made = back_up(root.absolute(), place, outside)
    else:
        made = back_up_in_series(root.absolute(), place, keep, outside)
    if as_json:
        record = action_record(
            "backup",
            place=str(made.place),
            accounts=made.accounts,
            files=list(made.files),
            left_out=list(made.left_out),
            removed=[str(path) for path in made.removed],
        )
        click.echo(json.dumps(record))
        return
    accounts = counted_as(made.accounts, "account")
    click.echo(f"backed up {accounts} and {', '.join(made.files)} to {show(str(made.place))}")
    for old in made.removed:
        click.echo(f"removed {show(str(old))}")
    for path in made.left_out:
        remark(f"{show(path)} is not in the backup: back it up separately")


def _outside(settings: Settings) -> tuple[str, ...]:
    """Return the certificate and key in the settings, which may be outside of the root."""
    return tuple(str(one) for one in (settings.certificate, settings.key) if one is not None)
