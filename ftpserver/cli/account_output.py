"""The output of `ftpd user`: JSON, lines, a table, and the details of an account.

Lives here: the texts. Lives elsewhere: the keys of JSON (accounts/records.py), the commands
(users.py).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from ftpserver.cli import tables
from ftpserver.cli.options import counted_as
from ftpserver.cli.records import action_record
from ftpwire import paths
from ftpwire.units import human, iso

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.accounts.accounts import Accounts


def _record(account: Account) -> dict[str, object]:
    from ftpserver.accounts.records import shown  # here, because only JSON needs it

    return shown(account)


def print_record(account: Account, **more: object) -> None:
    """Print an account as JSON."""
    click.echo(json.dumps(_record(account) | more))


def print_done(
    action: str, account: Account, as_json: bool, done: str, generated: str | None = None
) -> None:
    """Print what was done, and a generated password, which is stored nowhere in clear."""
    if as_json:
        from ftpserver.accounts.records import shown

        made = {} if generated is None else {"password": generated}
        click.echo(json.dumps(action_record(action, **shown(account), **made)))
        return
    click.echo(done)
    if generated is not None:
        click.echo(f"password  {generated}")


def _space(account: Account) -> str:
    total = "unlimited" if account.quota is None else human(account.quota)
    return f"{human(account.stored)} of {total}"


def _state(account: Account) -> str:
    if account.disabled:
        return "disabled"
    return "expired" if account.expired else "open"


def _state_color(state: str) -> str:
    return "" if state == "open" else tables.RED


COLUMNS = (
    tables.Column("NAME", is_cut=True),
    tables.Column("USED", right=True),
    tables.Column("TRASH", right=True, rank=3),
    tables.Column("TOTAL", right=True),
    tables.Column("EXPIRES", rank=2),
    tables.Column("STATE", rank=1, color=_state_color),
    tables.Column("PERMISSIONS", rank=4),
    tables.Column("HOME", rank=5, is_cut=True),
)


def print_accounts(accounts: Accounts, as_json: bool) -> None:
    """Print all accounts."""
    tables.print_list(
        accounts, as_json, COLUMNS, "no accounts", row=_row, fields=_fields, record=_record
    )


def _fields(account: Account) -> tuple[object, ...]:
    return (
        account.name,
        account.stored,
        account.trash_bytes,
        account.quota,
        None if account.expires is None else iso(account.expires),
        _state(account),
        account.permissions,
        paths.show(os.fsencode(account.home)),
    )


def _row(account: Account) -> tuple[str, ...]:
    return (
        account.name,
        human(account.stored),
        human(account.trash_bytes),
        "unlimited" if account.quota is None else human(account.quota),
        "never" if account.expires is None else iso(account.expires)[:10],
        _state(account),
        str(account.permissions),
        paths.show(os.fsencode(account.home)),
    )


def _trash(account: Account) -> str:
    """Return the usage of the trash, and the account's own limits for it."""
    held = f"{human(account.trash_bytes)} in {counted_as(account.trash_files, 'file')}"
    match account.trash_days:
        case None:
            kept = "kept as set for the server"
        case 0:
            kept = "removals are final"
        case days:
            kept = f"kept for {counted_as(days, 'day')}"
    most = "" if account.trash_max is None else f", at most {account.trash_max} %"
    return f"{held}, {kept}{most}"


def account_details(account: Account, tokens: int, sessions: int | None) -> list[tuple[str, str]]:
    """Return the titles and texts of `ftpd user show`."""
    now = "" if sessions is None else f"{sessions} now, "
    free = "" if account.free is None else f", {human(account.free)} free"
    held = f", {human(account.held)} reserved for uploads" if account.held else ""
    most = "unlimited" if account.most_files is None else str(account.most_files)
    limit = account.max_sessions
    most_sessions = "unlimited" if limit is None else f"at most {limit}"
    rate = "unlimited" if account.limit_rate is None else f"{human(account.limit_rate)}/s"
    return [
        ("name", account.name),
        ("state", _state(account)),
        ("home", paths.show(os.fsencode(account.home))),
        ("space", f"{_space(account)}{held}{free}"),
        ("files", f"{account.stored_files} of {most}"),
        ("trash", _trash(account)),
        ("permissions", str(account.permissions)),
        ("networks", ", ".join(map(str, account.networks)) or "any"),
        ("expires", "never" if account.expires is None else iso(account.expires)),
        ("sessions", f"{now}{most_sessions}"),
        ("peer user", account.peer_user or "none"),
        ("system user", account.system_user or "none"),
        ("rate", rate),
        ("tokens", str(tokens)),
        ("created", iso(account.created)),
    ]
