"""Commands about accounts and saved servers: login, logout, register, passwd, token, servers."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ftpclient.cli import records
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import remote_command
from ftpclient.cli.reachable import servers_in_reach
from ftpclient.connection.credentials import PASSWORD, SavedToken, SavedTokens
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.connection.servers import ENVIRONMENT, SavedServers, check_name, choose, key_of
from ftpwire.command_help import Group
from ftpwire.errors import CommandError, FtpError, LoginRefused, NotFound
from ftpwire.paths import printable
from ftpwire.units import iso, parse_duration

if TYPE_CHECKING:
    from ftpclient.client import Client
    from ftpclient.connection.addresses import ServerAddress
    from ftpwire.messages import TokenInfo


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _server(app: App, server: str | None) -> None:
    """Use the server named as an argument, if there is one."""
    if server is not None:
        app.use(server)


_saving = (
    click.option(
        "--name", metavar="NAME", help="Save the server under NAME, for -s and NAME:PATH."
    ),
    click.option(
        "--token-name",
        hidden=True,
        metavar="NAME",
        help="Name the token in `token list` (default: you@this-machine).",
    ),
    click.option(
        "--expires",
        type=_duration,
        metavar="TIME",
        help="Let the token expire after TIME, e.g. 30d (default: 365d).",
    ),
    click.option("--default", "make_default", is_flag=True, help="Make it the default server."),
)


def _saving_options(function: Any) -> Any:
    for option in reversed(_saving):
        function = option(function)
    return function


@remote_command("login")
@click.argument("server", metavar="[SERVER]", required=False, shell_complete=servers_in_reach)
@_saving_options
def login_command(
    app: App,
    server: str | None,
    name: str | None,
    token_name: str | None,
    expires: int | None,
    make_default: bool,
) -> None:
    """Log in once, and save an access token.

    Later commands need no password. The first server becomes the default; a later one only with
    --default, or after a question.
    """
    _server(app, server)
    if name is not None:
        check_name(name)
    client = app.new_client(saved_token=False)
    client.connect()
    saved = _save(app, client, _Saving(name, token_name, expires, make_default))
    _report(app, client, saved, "login", f"logged in as {client.user}")


@remote_command("register")
@click.argument("server", metavar="[SERVER]", required=False)
@click.option("--invite", metavar="CODE", help="Use this invitation code (see `ftpd invite`).")
@click.option(
    "--no-save", is_flag=True, hidden=True, help="Save no token, and keep the default server."
)
@_saving_options
def register_command(
    app: App,
    server: str | None,
    invite: str | None,
    no_save: bool,
    name: str | None,
    token_name: str | None,
    expires: int | None,
    make_default: bool,
) -> None:
    """Create an account, and log in."""
    _server(app, server)
    if name is not None:
        check_name(name)
    if app.given_password is None and PASSWORD not in os.environ and not app.can_ask:
        raise LoginRefused(f"no password for {app.address}: set {PASSWORD} or use --password-stdin")
    client = app.new_client(saved_token=False)
    client.register(lambda: _new_password(app, app.known_password), invite)
    saving = _Saving(name, token_name, expires, make_default)
    saved = None if no_save else _save(app, client, saving)
    _report(app, client, saved, "register", f"registered {client.user}")


def _new_password(app: App, given: str | None) -> str:
    if given is not None:
        return given
    new = app.ask_secret(f"New password for {app.address}: ")
    if app.ask_secret("Retype new password: ") != new:
        raise CommandError("the passwords do not match")
    return new


class _Saving(NamedTuple):
    """The options about saving a token and its server."""

    name: str | None
    token_name: str | None
    expires: int | None
    make_default: bool


def _save(app: App, client: Client, saving: _Saving) -> SavedToken:
    """Save a new token and its server, and revoke the token saved before."""
    before = SavedTokens().get(client.address)
    saved = _keep_token(app, client, saving.token_name, saving.expires)
    _save_server(app, saving)
    if before is not None:
        try:
            client.revoke_token(before.id)
        except NotFound:
            pass  # expired, or revoked already
    return saved


def _save_server(app: App, saving: _Saving) -> None:
    """Save the server; if another one was the default, print which one is now."""
    servers = SavedServers()
    key, before = key_of(app.chosen, saving.name), servers.default_name()
    make_default = before in (None, key) or saving.make_default or _agreed(app, str(before))
    servers.save(app.chosen, saving.name, default=make_default)
    if before not in (None, key):
        was = printable(str(before))
        app.say(
            f"default server: {printable(key)} (was {was})"
            if make_default
            else f"default server: {was}, as before (--default changes it to {printable(key)})"
        )


def _agreed(app: App, before: str) -> bool:
    return app.can_ask and app.yes_or_no(
        f"The default server is {printable(before)}. Make this the default (yes/no)? "
    )


def _keep_token(
    app: App, client: Client, token_name: str | None, expires: int | None
) -> SavedToken:
    if token_name is None:
        token_name = f"{client.user}@{socket.gethostname()}"
    made = client.issue_token(token_name, expires)
    saved = SavedToken(made.id, made.token, made.expires, app.chosen.plaintext)
    try:
        SavedTokens().save(client.address, saved)
    except BaseException:
        client.revoke_token(made.id)  # it could never be used
        raise
    return saved


def _report(app: App, client: Client, saved: SavedToken | None, action: str, done: str) -> None:
    named = os.environ.get(ENVIRONMENT)
    if saved is not None and named and choose(named).address != client.address:
        app.remark(f"{ENVIRONMENT} names another server and overrides the default server")
    if app.as_json:
        record = records.done_record(
            action,
            user=client.user,
            server=client.address.endpoint,
            token=None if saved is None else saved.id,
            expires=None if saved is None else records.moment(saved.expires),
        )
        app.print_json(record)
    elif saved is None:
        app.say(f"{done} at {client.address.endpoint}")
    else:
        until = "" if saved.expires is None else f" until {iso(saved.expires)}"
        app.say(f"{done} at {client.address.endpoint}; commands need no password{until}")


@remote_command("logout")
@click.argument("server", metavar="[SERVER]", required=False)
@click.option("--local", is_flag=True, help="Delete the local token without contacting the server.")
@click.option("--forget", is_flag=True, help="Delete the saved server and its key, too.")
def logout_command(app: App, server: str | None, local: bool, forget: bool) -> None:
    """Revoke and delete the saved token of a server.

    The server stays saved, unless you use --forget: then its names, its key and that it was the
    default are deleted, too.
    """
    _server(app, server)
    tokens = SavedTokens()
    saved = tokens.get(app.address)
    if saved is not None:
        if not local:
            _revoke_saved(app, saved)
        tokens.forget(app.address)
    forgot = forget and _forget_server(app.address)
    if saved is None and not forgot:
        raise NotFound(f"{app.address}: {'nothing' if forget else 'no token'} is saved")
    app.report_done(
        f"logged out of {app.address}" + "; nothing is saved about it" * forget,
        "logout",
        server=str(app.address),
        **{} if saved is None else {"token": saved.id},
    )


def _forget_server(address: ServerAddress) -> bool:
    """Delete the names of a server, and its key. Return False if neither was saved.

    The key stays while another user at the same server is saved.
    """
    servers = SavedServers()
    names = servers.forget(address)
    others = [one.address for _, one, _ in servers.all()] + SavedTokens().addresses()
    if any(other.endpoint == address.endpoint for other in others):
        return bool(names)
    return KnownHosts().remove(address.endpoint) or bool(names)


def forget_key(app: App, server: str) -> None:
    """Delete the saved key of a server. Raises NotFound, BadAddress."""
    endpoint = choose(server).address.endpoint
    if not KnownHosts().remove(endpoint):
        raise NotFound(f"{endpoint}: no key is saved")
    app.report_done(f"forgot the key of {endpoint}", "forget", server=endpoint)


def _revoke_saved(app: App, saved: SavedToken) -> None:
    """Revoke a saved token on the server, logging in with the token itself."""
    from ftpclient.connection.credentials import Credential

    client = app.new_client()
    try:
        client.log_in(Credential(app.address.login, saved.secret, is_token=True))
        client.revoke_token()
    except LoginRefused:
        app.remark("the token was already revoked")
    except FtpError as error:
        app.remark("the token is still saved and valid; logout --local only deletes it locally")
        raise error


@remote_command("servers")
@click.option("--default", "chosen", metavar="NAME", help="Make NAME the default server.")
@click.option(
    "--remove",
    metavar="NAME",
    help="Remove a saved name; `logout --forget` removes all about a server.",
)
@click.option(
    "--new-key",
    metavar="NAME",
    help="Delete the saved key of a server; the next connection asks about its new one.",
)
def servers_command(app: App, chosen: str | None, remove: str | None, new_key: str | None) -> None:
    """List saved servers.

    Find out why a server's key has changed before you use --new-key.
    """
    saved = SavedServers()
    if chosen is not None:
        saved.make_default(chosen)
        app.report_done("", "server-default", name=chosen)
    if remove is not None:
        saved.remove(remove)
        app.report_done("", "server-remove", name=remove)
    if new_key is not None:
        forget_key(app, new_key)
    if not (chosen is None and remove is None and new_key is None):
        return
    for name, server, is_default in saved.all():
        path = saved.start_of(name)
        if app.as_json:
            app.print_json(records.saved_server_record(name, server, path, is_default))
        else:
            plain = "  plaintext" if server.plaintext else ""
            default = "  (default)" if is_default else ""
            begin = f":{path}" if path else ""
            where = f"{server.address}{begin}"
            # a terminal shows a server without a name once; programs expect two fields
            called = [name] if name == where and sys.stdout.isatty() else [name, where]
            app.print(f"{printable('  '.join(called))}{plain}{default}")


@remote_command("passwd")
def passwd_command(app: App) -> None:
    """Change your password.

    Your other sessions end and all tokens are revoked; the saved token is renewed. With
    --password-stdin, the first line is the old password and the second the new one.
    """
    old, new = app.known_password, None
    if app.given_password is not None and not app.interactive:
        new = app.read_secret_line()
    elif not app.can_ask:
        raise UsageError("no terminal to ask for the new password: use --password-stdin")
    client = app.client
    if old is None:
        old = client.password or app.ask_secret(f"Old password for {client.address}: ")
    client.change_password(old, _new_password(app, new))
    saved = SavedTokens().get(client.address)
    if saved is not None:  # the server revoked it with the old password
        left = None if saved.expires is None else max(60, saved.expires - int(time.time()))
        _keep_token(app, client, None, left)
    text = f"the password of {client.user} was changed"
    app.report_done(text, "passwd", user=client.user, server=client.address.endpoint)


@click.group("token", cls=Group)
def token_command() -> None:
    """List or revoke your access tokens."""


@remote_command("list")
def _list_command(app: App) -> None:
    """List your access tokens."""
    for token in app.client.tokens():
        if app.as_json:
            app.print_json(records.own_token_record(token))
        else:
            app.print(_line(token))


@remote_command("revoke")
@click.argument("token_id", metavar="ID")
def _revoke_command(app: App, token_id: str) -> None:
    """Revoke a token, and all tokens made with it.

    Sessions that use them end, except this one.
    """
    client = app.client
    client.revoke_token(token_id)
    tokens = SavedTokens()
    saved = tokens.get(client.address)
    if saved is not None and saved.id == token_id:
        tokens.forget(client.address)
    app.report_done(f"revoked {printable(token_id)}", "token-revoke", id=token_id)


token_command.add_command(_list_command)
token_command.add_command(_revoke_command)


def _line(token: TokenInfo) -> str:
    used = "never used" if token.used is None else f"used {iso(token.used)}"
    expires = "never expires" if token.expires is None else f"expires {iso(token.expires)}"
    current = "  (this session's)" if token.current else ""
    if token.parent is not None:
        current += f"  (made with {printable(token.parent)})"
    name = printable(token.name) or "-"
    return (
        f"{printable(token.id)}  created {iso(token.created)}  {expires}  {used}  {name}{current}"
    )
