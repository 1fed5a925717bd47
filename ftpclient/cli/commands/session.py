"""The connection itself: connect (the shell), batch, forget (a server's key)."""

from __future__ import annotations

import click

from ftpclient.cli.app import App, Script, UsageError
from ftpclient.cli.group import local_paths, raise_for, remote_command, saved_servers
from ftpclient.cli.reachable import servers_in_reach
from ftpclient.connection.addresses import check_no_password
from ftpwire.errors import NotFound


@remote_command(
    "connect",
    meant={
        **dict.fromkeys(("-p", "-P", "--port"), "HOST:PORT"),
        **dict.fromkeys(("-u", "-l", "--user"), "USER@HOST"),
    },
)
@click.argument(
    "server", metavar="[[USER@]HOST[:PORT]]", required=False, shell_complete=servers_in_reach
)
@click.argument("port", required=False, metavar="")
def connect_command(app: App, server: str | None, port: str | None) -> None:
    """Connect, and give commands in a shell."""
    if port is not None:
        check_no_password(server or "")  # it would be shown
        raise UsageError(f"one server, and nothing else: did you mean {server}:{port}?")
    if server is not None:
        app.use(server)
    raise_for(app.run_shell(app, None))


@remote_command("batch")
@click.argument("file", metavar="FILE|-", shell_complete=local_paths)
@click.option("--keep-going", is_flag=True, help="Run all lines; exit with 1 if one failed.")
@click.option("--check", is_flag=True, help="Only look for mistakes, without a connection.")
def batch_command(app: App, file: str, keep_going: bool, check: bool) -> None:
    """Run the lines of FILE as in the shell, until one fails. - is standard input.

    A minus before a line ignores its failure.
    """
    raise_for(app.run_shell(app, Script(path=file, name=file, keep_going=keep_going, check=check)))


@remote_command("forget")
@click.argument("server", metavar="SERVER", shell_complete=saved_servers)
def forget_command(app: App, server: str) -> None:
    """Forget the pinned key of a server, after you learned why it changed."""
    from ftpclient.connection.known_hosts import KnownHosts
    from ftpclient.connection.servers import choose

    endpoint = choose(server).address.endpoint
    if not KnownHosts().remove(endpoint):
        raise NotFound(f"{endpoint}: no key is pinned")
    app.say(f"forgot the key of {endpoint}")
