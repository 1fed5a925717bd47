"""Options about accounts: their settings, and where a new password comes from.

Lives here: the options and their values. Lives elsewhere: the commands (users.py), the rules for
passwords (accounts/passwords.py), permissions (storage/permissions.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from ftpserver.cli.options import limit, remark, typed
from ftpserver.settings.table import TABLE
from ftpwire import paths
from ftpwire.units import parse_moment

if TYPE_CHECKING:
    from ftpserver.accounts.account import Changes, Network
    from ftpserver.storage.permissions import Permissions

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NO_LIMIT = frozenset({"none", "unlimited"})
_THE_SERVERS = "default"
"""The value that stands for the server's own setting."""
_SETTINGS = (
    *("quota", "max_files", "permissions", "networks"),
    *("expires", "max_sessions", "limit_rate", "peer_user", "system_user"),
    *("trash_days", "trash_max"),
)


def new_password(name: str, *, from_stdin: bool, weak: bool, generate: bool) -> str:
    """Generate, read or ask for a new password. Raises BadAccount if it is too short."""
    from ftpserver.accounts.passwords import check_new_password, random_password

    if generate:
        if from_stdin or weak:
            raise click.UsageError("--generate cannot be used with --password-stdin or --weak")
        return random_password()
    password = read_password(from_stdin, name)
    if not weak:
        check_new_password(password)
    return password


def read_password(from_stdin: bool, name: str) -> str:
    """Read the password from standard input or FTPD_PASSWORD, or ask for it twice."""
    if from_stdin:
        return read_line().rstrip("\r\n")
    if "FTPD_PASSWORD" in os.environ:
        return os.environ["FTPD_PASSWORD"]
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password: use --password-stdin")
    return str(click.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=True))


def read_line() -> str:
    """Read exactly one line of standard input, unbuffered, and leave the rest to others."""
    line = bytearray()
    while byte := os.read(0, 1):
        line += byte
        if byte == b"\n":
            break
    return line.decode("utf-8", "surrogateescape")


def _size(text: str) -> int | None:
    return None if text.lower() in _NO_LIMIT else limit(text)


def _rate(text: str) -> int | None:
    rate = _size(text)
    if rate == 0:
        raise click.BadParameter("0 would let nothing through: disable the account instead")
    return rate


def _count(text: str) -> int | None:
    if text.lower() in _NO_LIMIT:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise click.BadParameter(f"{text!r} is neither a number nor none")
    return int(text)


def _setting_of(field: str) -> Callable[[str], int | None]:
    """Return a function that parses an account's own value for a setting of the server."""
    kind = TABLE[field].kind

    @typed
    def read(text: str) -> int | None:
        return None if text.lower() == _THE_SERVERS else int(kind.parse(text))

    return read


@typed
def _moment(text: str) -> int | None:
    return None if text.lower() == "never" else parse_moment(text)


def _system_user(text: str) -> str | None:
    if text.lower() in _NO_LIMIT:
        return None
    import pwd

    try:
        pwd.getpwnam(text)
    except (KeyError, ValueError):
        raise click.BadParameter(
            f"{paths.printable(text)!r} is not a user of this system"
        ) from None
    return text


def _peer_user(text: str) -> str | None:
    name = _system_user(text)
    if name is not None:
        from ftpserver.accounts.system_users import can_be_peer

        if not can_be_peer(name):
            remark(f"{name} also stands for users unknown to the system, so it needs a password")
    return name


def _unprivileged_user(text: str) -> str | None:
    name = _system_user(text)
    if name is None:
        return None
    import pwd

    if pwd.getpwnam(name).pw_uid == 0:
        raise click.BadParameter(f"{name!r} is root: name an unprivileged user")
    return name


def _networks(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[Network, ...]:
    if len(given) == 1 and given[0].lower() == "any":
        return ()
    try:
        return tuple(ip_network(text, strict=False) for text in given)
    except ValueError as error:
        raise click.BadParameter(paths.printable(str(error))) from None


def _permissions(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> Permissions:
    from ftpserver.storage.permissions import Permissions
    from ftpwire.errors import BadAccount

    try:
        return Permissions.of(given)
    except BadAccount as error:
        raise click.BadParameter(str(error)) from None


def limits_options(function: _Function) -> _Function:
    """Add the options for the settings of an account."""
    for option in reversed(
        (
            click.option(
                "--quota",
                type=_size,
                metavar="SIZE",
                help="Limit total space, e.g. 10MiB, or none.",
            ),
            click.option(
                "--max-files",
                type=_count,
                metavar="N",
                help="Limit files, directories and links: N or none. With a quota, none means one "
                "per 4 KiB of it, at least 1000.",
            ),
            click.option(
                "--permit",
                "permissions",
                metavar="[PREFIX=]RIGHTS",
                multiple=True,
                callback=_permissions,
                help="Grant all, read-only, upload-only, no-delete or none, everywhere or below "
                "PREFIX; replaces all rules; repeatable.",
            ),
            click.option(
                "--network",
                "networks",
                metavar="CIDR",
                multiple=True,
                callback=_networks,
                help="Allow log-ins only from this network, e.g. 10.0.0.0/8, or any; repeatable.",
            ),
            click.option(
                "--expires",
                type=_moment,
                metavar="DATE",
                help="Let the account expire (UTC): 2030-12-31, 30d or never.",
            ),
            click.option(
                "--max-sessions",
                type=_count,
                metavar="N",
                help="Limit sessions at the same time: N or none.",
            ),
            click.option(
                "--limit-rate",
                type=_rate,
                metavar="SIZE",
                help="Limit the rate of all its sessions together, e.g. 1MiB per second, or none.",
            ),
            click.option(
                "--peer-user",
                type=_peer_user,
                metavar="USER",
                help="Let this system user log in over a Unix socket without a password, or none.",
            ),
            click.option(
                "--system-user",
                type=_unprivileged_user,
                metavar="USER",
                help="Run its sessions as this system user (with --isolation process), or none.",
            ),
            click.option(
                "--trash-days",
                type=_setting_of("trash_days"),
                metavar="DAYS",
                help="Keep removed files this many days; 0: none; default: as the server.",
            ),
            click.option(
                "--trash-max",
                type=_setting_of("trash_max"),
                metavar="PERCENT",
                help="Limit its trash to PERCENT of the quota (or disk); default: as the server.",
            ),
        )
    ):
        function = option(function)
    return function


def given(context: click.Context) -> Changes:
    """Return the settings of an account that were given on the command line."""
    return cast(
        "Changes",
        {
            name: context.params[name]
            for name in _SETTINGS
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT
        },
    )


def password_options(function: _Function) -> _Function:
    """Add the options for a new password."""
    for option in (
        click.option("--generate", is_flag=True, help="Generate a random password and print it."),
        click.option("--weak", is_flag=True, help="Allow a password of fewer than 8 characters."),
        click.option(
            "--password-stdin",
            is_flag=True,
            help="Read the password from the first line of standard input.",
        ),
    ):
        function = option(function)
    return function
