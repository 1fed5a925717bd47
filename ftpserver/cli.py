"""`ftpd`: the server's command line.

Lives here: options, what is printed, exit statuses. Lives elsewhere: everything that is done.
Modules of the server are imported by the command that needs them, so that help stays quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from ftpserver import cli_control, cli_log, cli_tokens, cli_user, cli_verify
from ftpserver.config import DEFAULT_PORT, Settings, Startups, state_of
from ftpserver.options import fail, root_option, size, startups
from ftpwire import __version__
from ftpwire.errors import FtpError


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
@click.option(
    "--login-grace",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    envvar="FTPD_LOGIN_GRACE",
    help="Seconds from connecting to being logged in.",
)
@click.option(
    "--stall",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    envvar="FTPD_STALL",
    help="Seconds that a client may take for 64 KiB of a transfer, or for one message.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    envvar="FTPD_IDLE_TIMEOUT",
    help="Seconds without a request after which a session ends; 0: never.",
)
@click.option(
    "--max-startups",
    type=startups,
    default="100:30:400",
    show_default=True,
    metavar="BEGIN:RATE:FULL",
    envvar="FTPD_MAX_STARTUPS",
    help="From BEGIN connections that have not logged in, RATE percent of new ones are "
    "dropped at random, and all from FULL.",
)
@click.option(
    "--max-sessions",
    type=click.IntRange(1),
    envvar="FTPD_MAX_SESSIONS",
    help="Sessions of all users together. Default: no limit.",
)
@click.option(
    "--max-user-sessions",
    type=click.IntRange(1),
    envvar="FTPD_MAX_USER_SESSIONS",
    help="Sessions of a user whose account doesn't say otherwise. Default: no limit.",
)
@click.option(
    "--max-address-sessions",
    type=click.IntRange(1),
    envvar="FTPD_MAX_ADDRESS_SESSIONS",
    help="Sessions from one address. Default: no limit.",
)
@click.option(
    "--ban-after",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    envvar="FTPD_BAN_AFTER",
    help="Failed log-ins to an account that have an address refused for it for a time; "
    "three times as many, to any accounts, for all of them. 0 bans nobody.",
)
@click.option(
    "--ban-time",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    envvar="FTPD_BAN_TIME",
    help="Seconds that a ban lasts.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="FTPD_LOG_FORMAT",
    help="Of the log on stderr.",
)
@click.option(
    "--open-registration",
    is_flag=True,
    envvar="FTPD_OPEN_REGISTRATION",
    help="Let everybody make an account with ftp register; else it takes an invitation.",
)
@click.option(
    "--default-quota",
    type=size,
    envvar="FTPD_DEFAULT_QUOTA",
    help="Of accounts that register, as 1GiB. Default: unlimited.",
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
    log_format: Literal["text", "json"],
    login_grace: float,
    stall: float,
    idle_timeout: float,
    max_startups: Startups,
    max_sessions: int | None,
    max_user_sessions: int | None,
    max_address_sessions: int | None,
    ban_after: int,
    ban_time: float,
    open_registration: bool,
    default_quota: int | None,
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
        log_format=log_format,
        login_grace=login_grace,
        stall=stall,
        idle_timeout=idle_timeout,
        max_startups=max_startups,
        max_sessions=max_sessions,
        max_user_sessions=max_user_sessions,
        max_address_sessions=max_address_sessions,
        ban_after=ban_after,
        ban_time=ban_time,
        open_registration=open_registration,
        default_quota=default_quota,
    )
    sys.exit(serve(settings, verbose=verbose))


@cli.command()
@root_option
def fingerprint(root: Path) -> None:
    """Print the fingerprint of the server's key, to compare with what a client shows."""
    from ftpserver import tls

    certificate, _ = tls.ensure_key(state_of(root.absolute()))
    click.echo(tls.fingerprint_of(certificate))


for _command in (cli_user.user, cli_verify.check, cli_verify.scrub, cli_verify.recount):
    cli.add_command(_command)
cli.add_command(cli_log.log)
cli.add_command(cli_tokens.token)
cli.add_command(cli_tokens.invite)
for _command in cli_control.COMMANDS:
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
