"""The command status, about the current connection.

Lives here: collecting and printing it.
Lives elsewhere: commands for each part (df in browsing.py, token and servers in accounts.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpclient.cli import records, render
from ftpclient.cli.app import App
from ftpclient.cli.group import remote_command
from ftpclient.connection.servers import SavedServers
from ftpwire.messages import ListTokens, Space, TokenInfo
from ftpwire.paths import printable, show

if TYPE_CHECKING:
    from ftpclient.client import Client


@remote_command("status")
def status_command(app: App) -> None:
    """Show the server, your account, its token and its space."""
    client = app.client
    client.connection.ask_ahead(ListTokens(), Space())
    token = next((one for one in client.tokens() if one.current), None)
    space = client.space()
    name = _saved_name(client)
    if app.as_json:
        app.print_json(records.connection_record(client, name, token, space))
        return
    endpoint = printable(client.address.endpoint)
    app.print(f"server: {endpoint if name is None else f'{printable(name)} ({endpoint})'}")
    app.print(f"  user: {printable(client.user)}")
    app.print(f"   key: {client.connection.fingerprint or _without_key(client)}")
    app.print(f" login: {_token_words(token)}")
    if app.interactive:
        app.print(f"   cwd: {show(client.cwd)}")
    for at, line in enumerate(render.space_lines(space, app.command)):
        app.print(f"{'' if at else ' space:':>7} {line}")


def _saved_name(client: Client) -> str | None:
    """Return the name under which the server is saved, if any."""
    address = client.address
    return next(
        (
            name
            for name, server, _ in SavedServers().all()
            if server.address == address and name != str(address)
        ),
        None,
    )


def _without_key(client: Client) -> str:
    if client.address.path is not None:
        return "none: a Unix socket of this machine"
    return "none: WITHOUT ENCRYPTION (--plaintext)"


def _token_words(token: TokenInfo | None) -> str:
    if token is None:
        return "by password"
    until = "" if token.expires is None else f", until {render.iso_seconds(token.expires)}"
    return f"by token {printable(token.id)}{until}"
