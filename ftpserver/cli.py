"""`ftpd`: the server's command line.

Lives here: options, what is printed, exit statuses. Lives elsewhere: everything that is done.
Modules of the server are imported by the command that needs them, so that help stays quick.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpserver import cli_verify
from ftpserver.config import DEFAULT_PORT, Settings, state_of
from ftpserver.options import fail, json_option, root_option, size
from ftpwire import __version__
from ftpwire.errors import FtpError
from ftpwire.units import human

if TYPE_CHECKING:
    from ftpserver.accounts import Account, Accounts


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ftpd")
def cli() -> None:
    """A file server for several users: encrypted, durable, verified."""


@cli.command()
@root_option
@click.option("--host", metavar="HOST", envvar="FTPD_HOST", help="Default: all interfaces.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    envvar="FTPD_PORT",
    help="0 takes a free one.",
)
@click.option("--plaintext", is_flag=True, envvar="FTPD_PLAINTEXT", help="Speak without TLS.")
@click.option(
    "--durability",
    type=click.Choice(["commit", "none"]),
    default="commit",
    show_default=True,
    envvar="FTPD_DURABILITY",
    help="commit: acknowledge uploads once they are on the disk. none: earlier.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    envvar="FTPD_GRACE",
    help="Seconds that running transfers get when the server stops.",
)
@click.option(
    "--limit-rate",
    type=size,
    envvar="FTPD_LIMIT_RATE",
    help="Bytes a second for each session, as 10MiB. Default: no limit.",
)
@click.option(
    "--staging-days",
    type=click.FloatRange(0),
    default=7.0,
    show_default=True,
    envvar="FTPD_STAGING_DAYS",
    help="How long interrupted uploads wait for a resume.",
)
@click.option(
    "--audit-size",
    type=size,
    default="64MiB",
    show_default=True,
    envvar="FTPD_AUDIT_SIZE",
    help="From which on the audit log begins another file; 0 writes none.",
)
@click.option(
    "--audit-keep",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    envvar="FTPD_AUDIT_KEEP",
    help="Earlier files of the audit log that are kept.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def start(
    root: Path,
    host: str | None,
    port: int,
    plaintext: bool,
    durability: str,
    grace: float,
    limit_rate: int | None,
    staging_days: float,
    audit_size: int,
    audit_keep: int,
    verbose: bool,
) -> None:
    """Start the server, and serve until Ctrl-C or SIGTERM."""
    from ftpserver.run import serve

    settings = Settings(
        root=root.absolute(),
        host=host,
        port=port,
        plaintext=plaintext,
        durable=durability == "commit",
        grace=grace,
        limit_rate=limit_rate,
        staging_seconds=int(staging_days * 24 * 3600),
        audit_size=audit_size,
        audit_keep=audit_keep,
    )
    sys.exit(serve(settings, verbose=verbose))


@cli.command()
@root_option
def fingerprint(root: Path) -> None:
    """Print the fingerprint of the server's key, to compare with what a client shows."""
    from ftpserver import tls

    certificate, _ = tls.ensure_key(state_of(root.absolute()))
    click.echo(tls.fingerprint_of(certificate))


@cli.group()
def user() -> None:
    """Accounts: add, list, show, passwd, remove."""


def _accounts(root: Path) -> tuple[Accounts, Any]:
    from ftpserver.accounts import Accounts
    from ftpserver.state import open_state

    engine = open_state(state_of(root.absolute()))
    return Accounts(engine, root.absolute()), engine


def _read_password(from_stdin: bool, name: str) -> str:
    if from_stdin:
        return read_line().rstrip("\r\n")
    if "FTPD_PASSWORD" in os.environ:
        return os.environ["FTPD_PASSWORD"]
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password: use --password-stdin")
    return str(click.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=True))


def read_line() -> str:
    """Exactly one line of standard input, unbuffered: what follows is somebody else's."""
    line = bytearray()
    while byte := os.read(0, 1):
        line += byte
        if byte == b"\n":
            break
    return line.decode("utf-8", "surrogateescape")


password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of stdin."
)


@user.command("add")
@click.argument("name")
@root_option
@password_option
@click.option("--quota", type=size, help="Total space, as 10MiB. Default: unlimited.")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Another directory than ROOT/NAME; its contents become the user's.",
)
@json_option
def add_user(
    name: str,
    root: Path,
    password_stdin: bool,
    quota: int | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Add the account NAME and its home."""
    from ftpserver.accounts import check_name
    from ftpserver.homes import Home
    from ftpserver.ledger import Ledger
    from ftpserver.repair import recount

    check_name(name)
    accounts, engine = _accounts(root)
    added = accounts.add(name, _read_password(password_stdin, name), quota=quota, home=home)
    if home is not None:
        recount(Ledger(engine), added.id, Home(added.home))
    _print_account(accounts.get(name), as_json, f"added {name}")


@user.command("list")
@root_option
@json_option
def list_users(root: Path, as_json: bool) -> None:
    """List all accounts with their space."""
    accounts, _ = _accounts(root)
    for account in accounts:
        _print_account(account, as_json, None)


@user.command("show")
@click.argument("name")
@root_option
@json_option
def show_user(name: str, root: Path, as_json: bool) -> None:
    """Show one account."""
    accounts, _ = _accounts(root)
    _print_account(accounts.get(name), as_json, None)


@user.command("passwd")
@click.argument("name")
@root_option
@password_option
def change_password(name: str, root: Path, password_stdin: bool) -> None:
    """Set the password of NAME."""
    accounts, _ = _accounts(root)
    accounts.get(name)
    accounts.set_password(name, _read_password(password_stdin, name))
    click.echo(f"password of {name} changed")


@user.command("remove")
@click.argument("name")
@root_option
def remove_user(name: str, root: Path) -> None:
    """Remove the account NAME. Its files stay where they are."""
    accounts, _ = _accounts(root)
    removed = accounts.remove(name)
    click.echo(f"removed {name}; its files stay in {removed.home}")


def _print_account(account: Account, as_json: bool, done: str | None) -> None:
    if as_json:
        record = {
            "name": account.name,
            "home": str(account.home),
            "total": account.quota,
            "used": account.used,
            "held": account.held,
            "free": account.free,
        }
        click.echo(json.dumps(record))
    elif done is not None:
        click.echo(done)
    else:
        total = "unlimited" if account.quota is None else human(account.quota)
        click.echo(f"{account.name}  {human(account.used)} of {total}  {account.home}")


for _command in (cli_verify.check, cli_verify.scrub, cli_verify.recount):
    cli.add_command(_command)


def main() -> None:
    """Entry point: errors become one line and an exit status."""
    from ftpserver.state import StateError

    try:
        cli.main(prog_name="ftpd")
    except FtpError as error:
        fail(str(error), error.exit_code)
    except StateError as error:
        fail(str(error))
