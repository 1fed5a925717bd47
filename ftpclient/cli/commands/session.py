"""Commands about the connection: connect (the shell), batch, and the old command forget."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from ftpclient.cli import locations
from ftpclient.cli.app import App, Script, UsageError
from ftpclient.cli.group import local_paths, raise_for, remote_command, saved_servers
from ftpclient.cli.reachable import servers_in_reach


@remote_command("connect")
@click.argument(
    "server", metavar="[SERVER[:PATH]]", required=False, shell_complete=servers_in_reach
)
@click.argument("more", nargs=-1, metavar="")
def connect_command(app: App, server: str | None, more: tuple[str, ...]) -> None:
    """Start a shell on a server.

    Without SERVER, use the server of -s or FTP_SERVER, or the default server. `ftp SERVER` is
    short for `ftp connect SERVER`.
    """
    if server is not None:
        location = locations.of_connect(server)
        if more:
            raise UsageError(f"connect takes only a server: {_instead(location, more)}")
        app.use(location.server)
        app.first_directory = location.path or location.start
    raise_for(app.run_shell(app, None))


@remote_command("batch")
@click.argument("file", metavar="FILE|-", shell_complete=local_paths)
@click.option("--keep-going", is_flag=True, help="Run all lines; exit with 1 if one failed.")
@click.option("--check", is_flag=True, help="Check the lines for mistakes without running them.")
def batch_command(app: App, file: str, keep_going: bool, check: bool) -> None:
    """Run a file of shell lines until one fails.

    A minus before a line ignores its failure.
    """
    raise_for(app.run_shell(app, Script(path=file, name=file, keep_going=keep_going, check=check)))


def _instead(location: locations.Location, more: Sequence[str]) -> str:
    """Return the advice for a connect with further words after the server."""
    words = shlex.join(more)
    if more[0].isdigit():
        return f"did you mean {location.server}:{more[0]}?"
    if location.path:
        return f"did you mean ftp get {location.word} {words}?"
    return f"did you mean ftp -s {location.server} {words}?"


@remote_command("forget")
@click.argument("server", metavar="SERVER", shell_complete=saved_servers)
def forget_command(app: App, server: str) -> None:
    """Delete the saved key of a server, as `servers --new-key` does."""
    from ftpclient.cli.commands.accounts import forget_key

    forget_key(app, server)
