"""The command discover, which finds servers on the local network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ftpclient.cli import records
from ftpclient.cli.app import App
from ftpclient.cli.group import remote_command
from ftpclient.cli.reachable import PORT_VARIABLE
from ftpclient.connection.addresses import DEFAULT_PORT
from ftpwire.errors import NotFound

if TYPE_CHECKING:
    from ftpclient.connection.discovery import Found

_TIMEOUT = 0.6
"""Seconds to wait; servers of a local network answer within that time."""
_HEADS = ("NAME", "ADDRESS", "VERSION", "KEY FINGERPRINT")


@remote_command("discover")
@click.option(
    "--timeout",
    type=click.FloatRange(0.05, 60),
    default=_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Wait this long for answers.",
)
@click.option(
    "--discovery-port",
    hidden=True,
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    envvar=PORT_VARIABLE,
    metavar="PORT",
    help="Ask servers on this UDP port (variable: FTP_DISCOVERY_PORT).",
)
def discover_command(app: App, timeout: float, discovery_port: int) -> None:
    """Find servers on the local network.

    Only servers that were started with --discoverable answer, and what they say proves nothing:
    compare the fingerprint with what `ftpd fingerprint` prints on the server.
    """
    from ftpclient.connection.discovery import discover

    with app.interrupt.at_once():
        found = discover(timeout, port=discovery_port)
    if not found:
        raise NotFound("no server answered (was one started with --discoverable?)")
    if app.as_json:
        for one in found:
            app.print_json(records.found_record(one))
    elif sys.stdout.isatty():
        _print_table(found)
    else:
        for one in found:
            for cells in _rows(one):
                app.print("\t".join(cells))


def _rows(one: Found) -> Iterator[tuple[str, ...]]:
    key = one.fingerprint or "none: plaintext"
    for endpoint in one.endpoints:
        yield one.name, endpoint, one.version, key


def _print_table(found: list[Found]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in _HEADS:
        table.add_column(head, no_wrap=head == "ADDRESS", overflow="fold")
    for one in found:
        for cells in _rows(one):
            table.add_row(*(Text(cell) for cell in cells))
    Console(highlight=False).print(table)
