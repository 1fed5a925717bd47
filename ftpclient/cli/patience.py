"""The connections of put, get and sync: how many, and how long they try to reconnect.

Lives here: the options, and a client with these options. Lives elsewhere: waiting and retrying
(transfer/retry.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ftpclient.cli.app import App
from ftpclient.cli.printer import Printer
from ftpwire.units import parse_duration

if TYPE_CHECKING:
    from ftpclient.client import Client

RETRY_FOR = 15 * 60.0
"""The default of --retry-for: seconds without progress."""


def seconds(text: str) -> float:
    """Convert an option's value that is a duration or 0 to seconds."""
    try:
        return float(parse_duration(text)) if text.strip() != "0" else 0.0
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _Connections(click.IntRange):
    """A number of connections. In other tools, -P takes no value and shows progress."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            self.fail(f"{value!r} is not a number of connections (progress is shown without -P)")
        return super().convert(value, param, ctx)


retry_for_option = click.option(
    "--retry-for",
    type=seconds,
    metavar="TIME",
    help="Give up after TIME without progress, e.g. 90s or 2h; 0: at once (default: 15m).",
)
parallel_option = click.option(
    "-P",
    "--parallel",
    type=_Connections(1, 32),
    metavar="N",
    help="Use N connections (default: 1, or 4 on slow links).",
)
retries_option = click.option(
    "--retries", type=click.IntRange(0), hidden=True, help="Give up after N attempts to reconnect."
)


def patient_client(
    app: App, retry_for: float | None, retries: int | None, limit_rate: int | None
) -> Client:
    """Return the client, connected, with these options.

    Without an explicit --retry-for, a first connection that fails is not retried.
    """
    client = app.known_client or app.new_client()
    client.retry_for = RETRY_FOR if retry_for is None else retry_for
    client.retries = retries
    if retry_for:
        from ftpclient.transfer.retry import first_contact

        first_contact(client, Printer(app))
    client.connect()
    client.limit_rate = limit_rate
    return client
