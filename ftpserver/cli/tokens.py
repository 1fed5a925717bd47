"""The commands `ftpd user tokens`, `ftpd token` and `ftpd invite`, about access tokens and
invitations.

Lives here: options and output. Lives elsewhere: tokens (accounts/tokens.py), invitations
(accounts/invitations.py). The commands work whether the server runs or not; a session whose token
was revoked ends within a second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpserver.cli import records, tables
from ftpserver.cli.account_names import account_names
from ftpserver.cli.audit import add_details
from ftpserver.cli.help import HintingCommand
from ftpserver.cli.options import (
    counted_as,
    echo,
    json_option,
    limit,
    open_root,
    remark,
    root_option,
)
from ftpserver.cli.users import user
from ftpwire.command_help import Command, Group
from ftpwire.errors import NotFound
from ftpwire.paths import printable
from ftpwire.units import human, iso, parse_duration

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ftpserver.accounts.account import Account
    from ftpserver.accounts.invitations import Invitation, Invitations
    from ftpserver.accounts.tokens import Tokens
    from ftpwire.messages import TokenInfo

NEVER = "never"


@user.command(
    "tokens",
    cls=HintingCommand,
    hints={"--all": "without options, all tokens are listed; --revoke-all revokes them"},
)
@click.argument("name", shell_complete=account_names)
@click.option("--revoke", "token_id", metavar="ID", help="Revoke a token, and all made with it.")
@click.option("--revoke-all", is_flag=True, help="Revoke all tokens of the account.")
@root_option
@json_option
def user_tokens(
    name: str, token_id: str | None, revoke_all: bool, root: Path, as_json: bool
) -> None:
    """List or revoke the access tokens of an account.

    Sessions that use a revoked token end.
    """
    if token_id is not None and revoke_all:
        raise click.UsageError("--revoke and --revoke-all cannot be used together")
    account, tokens = _tokens_of(name, root, changing=token_id is not None or revoke_all)
    if revoke_all:
        _revoke_all(tokens, account, as_json)
    elif token_id is not None:
        _print_revoked("token-revoke", token_id, as_json, tokens.revoke(account, token_id))
    else:
        _print_tokens(tokens.of(account), as_json)


def _tokens_of(name: str, root: Path, *, changing: bool) -> tuple[Account, Tokens]:
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.accounts.tokens import Tokens

    engine = open_root(root, changing=changing)
    accounts = Accounts(engine, root.absolute())
    return accounts.get(name), Tokens(engine, accounts)


def _revoke_all(tokens: Tokens, account: Account, as_json: bool) -> None:
    count = tokens.revoke_all(account)
    record = records.action_record("token-revoke", user=account.name, revoked=count)
    echo(record, f"revoked {counted_as(count, 'token')} of {account.name}", as_json)


_COLUMNS = (
    tables.Column("ID"),
    tables.Column("NAME", is_cut=True),
    tables.Column("CREATED", rank=3),
    tables.Column("USED", rank=2),
    tables.Column("EXPIRES", rank=1),
    tables.Column("MADE WITH", rank=4),
)


def _print_tokens(found: Sequence[TokenInfo], as_json: bool) -> None:
    tables.print_list(
        found,
        as_json,
        _COLUMNS,
        "no tokens",
        row=_cells,
        fields=_fields,
        record=records.token_record,
    )


def _fields(one: TokenInfo) -> tuple[object, ...]:
    times = (iso(one.created), records.moment(one.used), records.moment(one.expires))
    return one.id, one.name, *times, one.parent


def _cells(one: TokenInfo) -> tuple[str, ...]:
    return (
        one.id,
        printable(one.name) or "-",
        iso(one.created),
        records.moment(one.used) or NEVER,
        records.moment(one.expires) or NEVER,
        one.parent or "-",
    )


@click.group(cls=Group)
def token() -> None:
    """List or revoke access tokens; see also ftpd user tokens."""


@token.command("list")
@click.argument("user", shell_complete=account_names)
@root_option
@json_option
def list_tokens(user: str, root: Path, as_json: bool) -> None:
    """List the tokens of a user."""
    account, tokens = _tokens_of(user, root, changing=False)
    _print_tokens(tokens.of(account), as_json)


@token.command("revoke")
@click.argument("token_id", metavar="[ID]", required=False)
@click.option("--all", "user", metavar="USER", help="Revoke all tokens of USER.")
@root_option
@json_option
def revoke_token(token_id: str | None, user: str | None, root: Path, as_json: bool) -> None:
    """Revoke a token, and all tokens made with it.

    Sessions that use them end.
    """
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.accounts.tokens import Tokens

    if (token_id is None) == (user is None):
        raise click.UsageError("name the ID of a token, or use --all USER")
    engine = open_root(root)
    accounts = Accounts(engine, root.absolute())
    tokens = Tokens(engine, accounts)
    if user is not None:
        _revoke_all(tokens, accounts.get(user), as_json)
    elif token_id is not None:
        _print_revoked("token-revoke", token_id, as_json, tokens.revoke(None, token_id))


# invitations -------------------------------------------------------------------------------


def _seconds(text: str) -> int | None:
    if text == NEVER:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; or never") from None


@click.command(cls=Command)
@root_option
@click.option(
    "--quota",
    type=limit,
    metavar="SIZE",
    help="Limit each new account to SIZE (default: the server's default-quota).",
)
@click.option(
    "--uses",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    default=1,
    help="Allow N registrations (default: 1).",
)
@click.option(
    "--expires",
    type=_seconds,
    metavar="DURATION",
    default="7d",
    help="Let it expire after this time, e.g. 12h, or never (default: 7d).",
)
@click.option("--list", "listing", is_flag=True, help="List open invitations.")
@click.option("--revoke", metavar="ID", help="Revoke an invitation.")
@json_option
def invite(
    root: Path,
    quota: int | None,
    uses: int,
    expires: int | None,
    listing: bool,
    revoke: str | None,
    as_json: bool,
) -> None:
    """Create an invitation, and print its code.

    A user registers with `ftp register --invite CODE`.
    """
    from ftpserver.accounts.invitations import Invitations

    if listing and revoke is not None:
        raise click.UsageError("--list and --revoke cannot be used together")
    making = not listing and revoke is None
    if making and not root.is_dir():
        raise NotFound(f"{root}: no such directory")
    engine = open_root(root, begin=making, changing=not listing)
    invitations = Invitations(engine)
    if listing:
        _print_invitations(invitations.all(), as_json)
    elif revoke is not None:
        invitations.revoke(revoke)
        _print_revoked("invite-revoke", revoke, as_json)
    else:
        _make(invitations, quota, uses, expires, as_json)
        _warn(engine, root.absolute())


def _make(
    invitations: Invitations, quota: int | None, uses: int, expires: int | None, as_json: bool
) -> None:
    made, code = invitations.make(quota, uses, expires)
    add_details(id=made.id)  # audit records of registrations name this id
    if as_json:
        record = records.action_record("invite", code=code, **records.invitation_record(made))
        click.echo(json.dumps(record))
        return
    click.echo(code)
    if sys.stderr.isatty():
        click.echo(
            f"{_line(made)}\nregister with: ftp register NAME@HOST --invite {code}", err=True
        )


def _warn(engine: Engine, root: Path) -> None:
    from ftpserver.accounts.registration import overcommitted
    from ftpserver.cli.config import usable_settings

    settings = usable_settings(root)  # None if invalid: then no server can start with them
    default_quota = None if settings is None else settings.default_quota
    for one in overcommitted(engine, root, default_quota):
        remark(f"warning: {one}")


_INVITATION_COLUMNS = (
    tables.Column("ID"),
    tables.Column("USES", right=True),
    tables.Column("QUOTA", right=True),
    tables.Column("CREATED", rank=2),
    tables.Column("EXPIRES", rank=1),
)


def _print_invitations(found: Sequence[Invitation], as_json: bool) -> None:
    tables.print_list(
        found,
        as_json,
        _INVITATION_COLUMNS,
        "no invitations",
        row=_invitation_cells,
        fields=_invitation_fields,
        record=records.invitation_record,
    )


def _invitation_fields(one: Invitation) -> tuple[object, ...]:
    return one.id, one.uses, one.quota, iso(one.created), records.moment(one.expires)


def _invitation_cells(one: Invitation) -> tuple[str, ...]:
    return (
        one.id,
        str(one.uses),
        "default" if one.quota is None else human(one.quota),
        iso(one.created),
        records.moment(one.expires) or NEVER,
    )


def _line(one: Invitation) -> str:
    quota = "the server's quota" if one.quota is None else human(one.quota)
    until = "never expires" if one.expires is None else f"expires {iso(one.expires)}"
    return f"{one.id}  {counted_as(one.uses, 'use')}  {quota}  {until}"


def _print_revoked(action: str, revoked: str, as_json: bool, count: int = 1) -> None:
    others = "" if count == 1 else f", and {counted_as(count - 1, 'token')} made with it"
    record = records.action_record(action, id=revoked, revoked=count)
    echo(record, f"revoked {printable(revoked)}{others}", as_json)
