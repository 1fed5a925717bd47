"""The command `ftpd trash`, about what users removed and replaced.

Lives here: options, output and questions; choosing whether a running server does the work or this
process, holding the root's lock. Lives elsewhere: listing (admin/trash.py), restoring and emptying
(admin/trash_work.py).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ftpserver.cli import records, tables
from ftpserver.cli.account_names import account_names
from ftpserver.cli.options import (
    EXIT_FAILED,
    complain,
    counted_as,
    echo,
    json_option,
    open_root,
    remark,
    root_option,
    started,
    typed,
)
from ftpserver.settings.table import state_of
from ftpwire import paths, trash_names
from ftpwire.command_help import Group
from ftpwire.errors import Conflict, ConnectFailed
from ftpwire.units import human, iso, parse_duration

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.admin.trash import OperationInTrash
    from ftpserver.daemon.control import TrashControl, TrashEmptied, TrashRestored

_Result = TypeVar("_Result")


@click.group(cls=Group)
def trash() -> None:
    """List, restore or purge what users removed."""


def _accounts(root: Path) -> Accounts:
    from ftpserver.accounts.accounts import Accounts

    return Accounts(open_root(root, changing=False), root.absolute())


# looking -----------------------------------------------------------------------------------


@trash.command("list")
@click.argument("user", shell_complete=account_names, required=False)
@root_option
@json_option
def list_trash(user: str | None, root: Path, as_json: bool) -> None:
    """List the trash of all accounts, or the operations of one."""
    from ftpserver.admin.trash import operations

    accounts = _accounts(root)
    if user is not None:
        found = operations(accounts.get(user))
        _print_operations(user, found, as_json)
        return
    rows: list[tuple[str, ...]] = []
    failed = False
    for account in accounts:
        try:
            found = operations(account)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            complain(f"{account.name}: the trash cannot be read: {reason}")
            failed = True
            continue
        if not found:
            continue
        record = records.trash_of_record(account, found)
        if as_json:
            click.echo(json.dumps(record))
        elif tables.on_terminal():
            oldest = str(record["oldest"])
            rows.append((account.name, _much(found), str(len(found)), oldest))
        else:
            numbers = (record[key] for key in ("size", "files", "operations", "oldest"))
            tables.print_fields(account.name, *numbers, _yes_or_no(record["counted"]))
    if not as_json and tables.on_terminal() and not (failed and not rows):
        tables.print_table(_ACCOUNTS, rows, "the trash is empty")
    if failed:
        sys.exit(EXIT_FAILED)


_ACCOUNTS = (
    tables.Column("NAME", is_cut=True),
    tables.Column("SIZE", right=True),
    tables.Column("OPERATIONS", right=True, rank=1),
    tables.Column("OLDEST", rank=2),
)
_OPERATIONS = (
    tables.Column("ID"),
    tables.Column("TIME", rank=2),
    tables.Column("COMMAND", is_cut=True),
    tables.Column("CONTENTS", rank=1),
)


def _print_operations(user: str, found: list[OperationInTrash], as_json: bool) -> None:
    short = trash_names.short_ids(one.name for one in found)
    tables.print_list(
        found,
        as_json,
        _OPERATIONS,
        "the trash is empty",
        row=lambda one: _operation_cells(short[one.name], one),
        fields=lambda one: _operation_fields(short[one.name], one),
        record=lambda one: records.trashed_record(user, one, short[one.name]),
    )


def _operation_fields(short: str, one: OperationInTrash) -> tuple[object, ...]:
    path = None if one.path is None else paths.show(one.path)
    much = one.size, one.files, _yes_or_no(one.counted)
    return short, iso(one.began), _words(one), path, *much


def _yes_or_no(value: object) -> str:
    return "yes" if value else "no"


def _much(found: list[OperationInTrash]) -> str:
    more = "" if all(one.counted for one in found) else " and more"
    return human(sum(one.size for one in found)) + more


def _operation_cells(short: str, one: OperationInTrash) -> tuple[str, ...]:
    much = f"{counted_as(one.files, 'file')}, {human(one.size)}"
    words = _words(one)
    what = paths.printable(words) if words else paths.show(one.path or b"?")
    return short, iso(one.began), what, much if one.counted else "not counted yet"


def _words(one: OperationInTrash) -> str:
    return "" if one.contents.begin is None else one.contents.begin.words


# acting ------------------------------------------------------------------------------------


@trash.command("restore")
@click.argument("user", shell_complete=account_names)
@click.argument("operation", metavar="ID")
@root_option
@click.option("--to", metavar="DIR", help="Restore into this directory of the user.")
@click.option("--force", is_flag=True, help="Replace what is in the way; it goes to the trash.")
@json_option
def restore_trash(
    user: str, operation: str, root: Path, to: str | None, force: bool, as_json: bool
) -> None:
    """Restore what an operation removed, replaced or moved.

    Without --force, skip files with something in their way. The quota of the account applies, its
    permissions do not.
    """
    from ftpserver.admin.trash import meant

    name = meant(_accounts(root).get(user), operation)
    target = None if to is None else paths.resolve(paths.ROOT, paths.from_text(to))
    done = _done(root, lambda worker: worker.restore_trash(user, name, target, force))
    for one in done.conflicts:
        complain(one.message, code=one.code, path=one.path)
    if done.more_conflicts:
        complain(f"{done.more_conflicts} more conflicts")
    if done.gone:
        remark(f"{_entries(done.gone)} cannot be restored: no longer in the trash")
    echo(records.restored_record(user, done), _restored_text(done), as_json)
    if done.conflicts:
        sys.exit(Conflict.exit_code)


def _restored_text(done: TrashRestored) -> str:
    already = f", {done.already} already restored" if done.already else ""
    return f"restored {_entries(done.items)}{already}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


@trash.command("empty")
@click.argument("user", shell_complete=account_names, required=False)
@root_option
@click.option(
    "--all", "everybody", is_flag=True, help="Purge the trash of all accounts, and of removed ones."
)
@click.option(
    "--older",
    type=typed(parse_duration),
    metavar="DURATION",
    help="Purge only operations older than this, e.g. 3d or 12h.",
)
@click.option("-y", "--yes", is_flag=True, help="Purge without asking.")
@json_option
def empty_trash(
    user: str | None, root: Path, everybody: bool, older: int | None, yes: bool, as_json: bool
) -> None:
    """Purge the trash of an account, or of all.

    Purged files cannot be restored.
    """
    if (user is None) != everybody:
        raise click.UsageError("name a USER, or use --all")
    accounts = _accounts(root)
    chosen = list(accounts) if user is None else [accounts.get(user)]
    before = None if older is None else int(time.time()) - older
    if not yes:
        agree(chosen, before)
    done = empty(root, user, before)
    echo(records.emptied_record(user, done), emptied_text(done), as_json)
    if done.left:
        sys.exit(EXIT_FAILED)


def agree(accounts: Iterable[Account], before: int | None = None) -> None:
    """Ask whether to purge the trash of accounts, unless it is empty."""
    from ftpserver.admin.trash import operations

    found = [one for account in accounts for one in operations(account)]
    found = [one for one in found if before is None or one.began < before]
    if not found:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to confirm emptying the trash: use --yes")
    going = f"{counted_as(len(found), 'operation')} from the trash ({_much(found)})"
    click.confirm(f"Purge {going}?", abort=True)


def empty(root: Path, user: str | None, before: int | None = None) -> TrashEmptied:
    """Empty the trash of an account, or of all, and print what could not be removed."""
    done = _done(root, lambda worker: worker.empty_trash(user, before))
    for line in done.left:
        complain(line)
    return done


def emptied_text(done: TrashEmptied) -> str:
    """Return the result of emptying the trash as text."""
    if not done.operations:
        return "the trash was empty"
    return f"purged {counted_as(done.operations, 'operation')}: {human(done.size)} freed"


def _done(root: Path, work: Callable[[TrashControl], _Result]) -> _Result:
    """Let a running server do work on the trash; without one, do it in this process."""
    from ftpserver.daemon import control

    started(root)
    try:
        return work(control.running(state_of(root.absolute())))
    except ConnectFailed:
        pass  # none runs, or it cannot be reached: taking the lock will show
    from ftpserver.admin.trash_work import TrashWork
    from ftpserver.cli.config import read_settings
    from ftpserver.daemon.trash_answers import TrashAnswers
    from ftpserver.root_lock import RootLock

    settings = read_settings(root)
    with ExitStack() as stack:
        engine = open_root(root)
        stack.callback(engine.dispose)
        stack.callback(RootLock(state_of(root.absolute())).release)
        return work(TrashAnswers(TrashWork.without_server(engine, settings)))
