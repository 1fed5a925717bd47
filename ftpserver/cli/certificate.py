"""The command `ftpd certificate`, for a certificate by an authority.

Lives here: the command line. Lives elsewhere: keys and requests (net/tls.py), the settings
`certificate` and `key` (settings/table.py).
"""

from __future__ import annotations

from pathlib import Path

import click

from ftpserver.cli.options import echo, fail, json_option, root_option, started
from ftpwire.command_help import Group


@click.group("certificate", cls=Group)
def certificate_group() -> None:
    """Request a certificate for the server's key."""


@certificate_group.command("request")
@root_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def request(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Print a certificate signing request for the server's key.

    When the authority has signed it, set certificate to the signed file and key to
    ROOT/.ftpd/tls/key.pem in ftpd.toml, and run `ftpd reload`. Clients that know the key are not
    asked again.
    """
    from ftpserver.errors import StateError
    from ftpserver.net import tls

    try:
        _, key = tls.ensure_key(started(root))
        pem = tls.signing_request(key, names)
    except StateError as error:
        fail(str(error))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    text = pem.decode("ascii").rstrip("\n")
    echo({"request": text}, text, as_json)
