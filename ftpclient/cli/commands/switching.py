"""Commands of the shell that switch servers: open, close, bookmark."""

from __future__ import annotations

import click

from ftpclient.cli import locations
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import remote_command
from ftpclient.cli.reachable import servers_in_reach
from ftpclient.connection.servers import SavedServers, check_name
from ftpwire import paths
from ftpwire.errors import CommandError


@remote_command("open")
@click.argument(
    "server", metavar="[SERVER[:PATH]]", required=False, shell_complete=servers_in_reach
)
def open_command(app: App, server: str | None) -> None:
    """Switch to another server.

    Each server keeps its directory until you come back. If SERVER cannot be reached, nothing
    changes.
    """
    if server is None:
        if app.known_client is not None:
            raise UsageError("open: already connected; name another SERVER")
        app.reopen()
        _report(app)
        return
    location = locations.of_connect(server)
    app.switch(location.server)
    client = app.client
    if location.path or location.start:
        client.change_dir(location.path or location.start)
    else:
        try:
            client.change_dir(client.cwd)  # check that it still exists
        except CommandError:
            app.remark(f"{paths.show(client.cwd)} no longer exists; the current directory is /")
            client.change_dir("/")
    _report(app)


def _report(app: App) -> None:
    app.report_done("", "open", server=str(app.client.address))


@remote_command("close")
def close_command(app: App) -> None:
    """Close the connection, and stay in the shell."""
    app.leave_server()
    app.report_done("", "close")


@remote_command("bookmark")
@click.argument("name")
def bookmark_command(app: App, name: str) -> None:
    """Save this server and directory under NAME.

    `open NAME` and `ftp connect NAME` lead here.
    """
    check_name(name)
    client = app.client
    try:
        client.cwd.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{paths.show(client.cwd)}: not UTF-8; cannot be saved") from None
    SavedServers().bookmark(app.chosen, name, client.user, paths.to_text(client.cwd))
    app.report_done(
        f"saved as {name}: {client.address}:{paths.show(client.cwd)}",
        "bookmark",
        name=name,
        server=str(client.address),
    )
