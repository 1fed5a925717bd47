"""The command `ftpd user`, about accounts.

Lives here: the commands and their questions. Lives elsewhere: their options (account_options.py),
output (account_output.py), accounts (accounts/accounts.py), exports (accounts/records.py),
removing homes (accounts/removal.py). The commands work whether the server runs or not; a running
server notices changes by itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpserver.cli.account_names import account_names
from ftpserver.cli.account_options import given, limits_options, new_password, password_options
from ftpserver.cli.account_output import (
    account_details,
    print_accounts,
    print_done,
    print_record,
)
from ftpserver.cli.help import ACCOUNT_HINTS, PASSWORD_HINTS, HintingCommand, UserCommands
from ftpserver.cli.options import (
    EXIT_FAILED,
    echo,
    fail,
    json_option,
    open_root,
    remark,
    root_option,
)
from ftpserver.cli.records import action_record
from ftpserver.cli.trash import agree as agree_to_empty
from ftpserver.cli.trash import emptied_text
from ftpserver.cli.trash import empty as empty_trash
from ftpserver.settings.table import state_of
from ftpwire import paths
from ftpwire.units import human, iso

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ftpserver.accounts.account import Account
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.storage.ownership import Ownership

_SET_HINTS = ACCOUNT_HINTS | {
    **dict.fromkeys(
        ("--home", "--dir", "--directory"),
        "a home cannot be changed: export the account, remove it, and import it with another",
    ),
    "--password": "did you mean ftpd user passwd NAME?",
    "--name": "did you mean ftpd user rename NAME NEW?",
}


@click.group(cls=UserCommands)
def user() -> None:
    """Manage accounts."""


def open_accounts(
    root: Path, *, begin: bool = False, changing: bool = True, trying: bool = False
) -> tuple[Accounts, Engine]:
    """Open the accounts of a root and their database. See `open_root`."""
    from ftpserver.accounts.accounts import Accounts

    engine = open_root(root, begin=begin, changing=changing, trying=trying)
    return Accounts(engine, root.absolute()), engine


# one account -------------------------------------------------------------------------------


@user.command("add", cls=HintingCommand, hints=PASSWORD_HINTS | ACCOUNT_HINTS)
@click.argument("name")
@root_option
@password_options
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Use this directory as the home; its contents become the user's (default: ROOT/NAME).",
)
@limits_options
@json_option
@click.pass_context
def add_user(
    context: click.Context,
    /,
    name: str,
    root: Path,
    password_stdin: bool,
    weak: bool,
    generate: bool,
    home: Path | None,
    as_json: bool,
    **settings: object,
) -> None:
    """Add an account and its home."""
    from ftpserver.accounts.account import check_name

    check_name(name)
    accounts, engine = open_accounts(root, begin=True)
    password = new_password(name, from_stdin=password_stdin, weak=weak, generate=generate)
    shared = [] if home is None else accounts.accounts_with_home(home)
    accounts.add(name, password, home=home, **given(context))
    if home is not None:
        _count_homes(accounts, engine, [name])
    if shared:
        remark(_warning_of(shared))
    print_done(
        "user-add", accounts.get(name), as_json, f"added {name}", password if generate else None
    )


def _warning_of(shared: list[str]) -> str:
    return (
        f"warning: {', '.join(shared)} can see and change the same files; the usage of these "
        "accounts is only exact after ftpd recount"
    )


def _count_homes(accounts: Accounts, engine: Engine, names: Iterable[str]) -> None:
    from ftpserver.storage.home import Home
    from ftpserver.storage.ledger import Ledger
    from ftpserver.storage.recount import recount

    ledger, ownership = Ledger(engine), _ownership(accounts, engine)
    for name in names:
        account = accounts.get(name)
        other = ownership.claim(account.home, use=False)
        if other is None:
            recount(ledger, account.id, Home(account.home), account.inner)
        else:
            text = f"{name}: the home belongs to {other}: it is not counted and log-ins are refused"
            remark(f"{text} until you run: ftpd user set {name} --take-home")


def _ownership(accounts: Accounts, engine: Engine) -> Ownership:
    from ftpserver.storage.ownership import Ownership, identity

    return Ownership(identity(engine), accounts.root)


@user.command("list")
@root_option
@json_option
def list_users(root: Path, as_json: bool) -> None:
    """List all accounts with their used space."""
    accounts, _ = open_accounts(root, changing=False)
    print_accounts(accounts, as_json)


@user.command("show")
@click.argument("name", shell_complete=account_names)
@root_option
@json_option
def show_user(name: str, root: Path, as_json: bool) -> None:
    """Show the settings of an account."""
    from ftpserver.accounts.tokens import Tokens

    accounts, engine = open_accounts(root, changing=False)
    account = accounts.get(name)
    tokens = len(Tokens(engine, accounts).of(account))
    sessions = _sessions_of(name, root)
    if as_json:
        print_record(account, tokens=tokens, sessions=sessions)
        return
    for title, text in account_details(account, tokens, sessions):
        click.echo(f"{title:<12} {text}")


def _sessions_of(name: str, root: Path) -> int | None:
    """Return the number of sessions of an account on the running server; None if unknown."""
    from ftpserver.daemon import control
    from ftpwire.errors import ConnectionLost, Forbidden

    try:
        found = control.running(state_of(root.absolute())).sessions().sessions
    except (ConnectionLost, Forbidden):
        return None  # no server runs, or it belongs to another user
    return sum(one.user == name for one in found)


@user.command("set", cls=HintingCommand, hints=_SET_HINTS)
@click.argument("name", shell_complete=account_names)
@root_option
@limits_options
@click.option(
    "--take-home",
    is_flag=True,
    help="Take over the home from another server, which must not use it any more.",
)
@click.option("-y", "--yes", is_flag=True, help="Empty the trash without asking (--trash-days 0).")
@json_option
@click.pass_context
def set_user(
    context: click.Context,
    /,
    name: str,
    root: Path,
    take_home: bool,
    yes: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Change settings of an account.

    Takes effect at once, also for running sessions. --trash-days 0 empties the trash at once.
    """
    changes = given(context)
    if not changes and not take_home:
        raise click.UsageError("no setting to change")
    accounts, engine = open_accounts(root)
    ends_trash = changes.get("trash_days", 1) == 0
    if ends_trash and not yes:
        agree_to_empty([accounts.get(name)])
    changed = accounts.change(name, **changes) if changes else accounts.get(name)
    if take_home:
        _take_home(accounts, engine, changed)
    left = False
    if ends_trash:
        emptied = empty_trash(root, name)  # after the change, so that nothing is added to it
        left = bool(emptied.left)
        changed = accounts.get(name)
        if emptied.operations:
            remark(emptied_text(emptied))
    print_done("user-set", changed, as_json, f"changed {name}")
    if left:
        sys.exit(EXIT_FAILED)


def _take_home(accounts: Accounts, engine: Engine, account: Account) -> None:
    ownership = _ownership(accounts, engine)
    if ownership.me is None:
        fail("this server was never started: its first start takes homes without an owner")
    try:
        ownership.take(account.home)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail(f"{account.name}: {paths.show(os.fsencode(account.home))}: {reason}")
    _count_homes(accounts, engine, [account.name])


@user.command("passwd", cls=HintingCommand, hints=PASSWORD_HINTS)
@click.argument("name", shell_complete=account_names)
@root_option
@password_options
@json_option
def change_password(
    name: str, root: Path, password_stdin: bool, weak: bool, generate: bool, as_json: bool
) -> None:
    """Set the password of an account.

    Its sessions end and its tokens are revoked.
    """
    accounts, _ = open_accounts(root)
    accounts.get(name)
    password = new_password(name, from_stdin=password_stdin, weak=weak, generate=generate)
    changed = accounts.set_password(name, password)
    text = f"password of {name} changed"
    print_done("user-passwd", changed, as_json, text, password if generate else None)


@user.command("disable")
@click.argument("name", shell_complete=account_names)
@root_option
@json_option
def disable_user(name: str, root: Path, as_json: bool) -> None:
    """Refuse log-ins of an account, and end its sessions."""
    accounts, _ = open_accounts(root)
    print_done("user-disable", accounts.change(name, disabled=True), as_json, f"disabled {name}")


@user.command("enable")
@click.argument("name", shell_complete=account_names)
@root_option
@json_option
def enable_user(name: str, root: Path, as_json: bool) -> None:
    """Allow log-ins of an account again."""
    accounts, _ = open_accounts(root)
    account = accounts.change(name, disabled=False)
    over = f"; but it expired on {iso(account.expires or 0)}" if account.expired else ""
    print_done("user-enable", account, as_json, f"enabled {name}{over}")


@user.command("rename")
@click.argument("name", shell_complete=account_names)
@click.argument("new")
@root_option
@json_option
def rename_user(name: str, new: str, root: Path, as_json: bool) -> None:
    """Rename an account.

    Its home stays where it is; its sessions end.
    """
    accounts, _ = open_accounts(root)
    print_done("user-rename", accounts.rename(name, new), as_json, f"renamed {name} to {new}")


@user.command("remove")
@click.argument("name", shell_complete=account_names)
@root_option
@click.option("--delete-home", is_flag=True, help="Delete the files of the account, too.")
@click.option("-y", "--yes", is_flag=True, help="Delete the files without asking.")
@json_option
def remove_user(name: str, root: Path, delete_home: bool, yes: bool, as_json: bool) -> None:
    """Remove an account, its tokens and its sessions.

    Its files stay, unless --delete-home is given.
    """
    accounts, engine = open_accounts(root)
    gone = accounts.get(name)
    if delete_home:
        if (other := _ownership(accounts, engine).other(gone.home)) is not None:
            fail(f"{name}: the home belongs to {other}: remove the account without --delete-home")
        _agree(gone, accounts, root.absolute(), yes)
    accounts.remove(name)
    home = paths.show(os.fsencode(gone.home))
    if delete_home:
        _remove_home(gone.home, home, name)
        print_done("user-remove", gone, as_json, f"removed {name} and {home}")
    else:
        print_done("user-remove", gone, as_json, f"removed {name}; its files stay in {home}")


def _agree(gone: Account, accounts: Accounts, root: Path, yes: bool) -> None:
    """Check that the home may be removed, and ask."""
    from ftpserver.accounts.removal import check_removable, measure

    check_removable(gone, (other for other in accounts if other.id != gone.id), root)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to confirm deleting the files: use --yes")
    found = measure(gone.home)
    home = paths.show(os.fsencode(gone.home))
    click.confirm(f"Purge {home} with {found.files} files ({human(found.size)})?", abort=True)


def _remove_home(directory: Path, shown: str, name: str) -> None:
    from ftpserver.accounts.removal import remove_home

    try:
        remove_home(directory)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail(f"{name} was removed, but {shown} only in part: {reason}")


# many accounts -----------------------------------------------------------------------------


@user.command("export")
@root_option
@click.option("--no-passwords", is_flag=True, help="Leave out the password hashes.")
@json_option
def export_users(root: Path, no_passwords: bool, as_json: bool) -> None:
    """Print all accounts as JSON, one per line.

    The output contains password hashes: keep it secret.
    """
    from ftpserver.accounts.records import exported

    accounts, _ = open_accounts(root, changing=False)
    for account in accounts:
        hashed = None if no_passwords else accounts.password_hash(account.name)
        click.echo(json.dumps(exported(account, hashed, accounts.root)))


@user.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@root_option
@click.option(
    "--update", is_flag=True, help="Update existing accounts with the values in the file."
)
@json_option
def import_users(file: Any, root: Path, update: bool, as_json: bool) -> None:
    """Add the accounts of an export.

    If a line is wrong, no account is added. Accounts without a password hash cannot log in until
    `ftpd user passwd` sets a password.
    """
    from ftpserver.accounts.records import import_lines

    accounts, engine = open_accounts(root, begin=True)
    done = import_lines(accounts, file, update=update)
    _count_homes(accounts, engine, (name for name in done.added if accounts.get(name).own_home))
    changed = f", {len(done.updated)} updated" if update else ""
    record = action_record("user-import", added=done.added, updated=done.updated)
    echo(record, f"{len(done.added)} added{changed}", as_json)
