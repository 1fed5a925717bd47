"""The commands `ftpd check`, `ftpd scrub` and `ftpd recount`, which verify what is stored.

Lives here: options, output, exit statuses. Lives elsewhere: the verifier (admin/verify.py),
reading files (admin/scrub.py), counting (storage/recount.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpserver.cli import records, tables
from ftpserver.cli.account_names import account_names
from ftpserver.cli.config import usable_settings
from ftpserver.cli.options import (
    EXIT_DAMAGE,
    EXIT_FAILED,
    counted_as,
    echo,
    json_option,
    open_root,
    remark,
    root_option,
)
from ftpwire import paths
from ftpwire.command_help import Command
from ftpwire.units import human

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ftpserver.accounts.account import Account
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.admin.scrub import Examined, Examiner
    from ftpserver.storage.walk import Usage

_NICE = 10


@click.command(cls=Command)
@root_option
@click.option("--read", is_flag=True, help="Read every file and compare it with its digest.")
@click.option(
    "--strict", is_flag=True, hidden=True, help="Report as damage what the next start repairs."
)
@click.option("--user", metavar="USER", help="Check only this account.")
@json_option
def check(root: Path, read: bool, strict: bool, user: str | None, as_json: bool) -> None:
    """Check that accounts match the disk and files are complete.

    Changes nothing, and prints one line per finding. Works while the server runs; uploads of a
    user wait while the files of that user are counted.

    Of a copy made by `ftpd backup`, check that the copy is complete.
    """
    from ftpserver.admin.backup import BackupVerifier, has_homes, is_backup
    from ftpserver.admin.verify import Verifier, Weight

    verifier: Verifier | BackupVerifier
    copied = is_backup(root)
    without_homes = copied and not has_homes(root)
    if without_homes:
        verifier = BackupVerifier(root.absolute())
    else:
        settings = usable_settings(root)
        verifier = Verifier(root.absolute(), read=read, strict=strict, user=user, settings=settings)
    counts = dict.fromkeys(Weight, 0)
    copy = [BackupVerifier(root.absolute())] if copied and not without_homes else []
    for finding in chain.from_iterable(one.findings() for one in (*copy, verifier)):
        counts[finding.weight] += 1
        echo(records.finding_record(finding), str(finding), as_json)
    if without_homes:
        remark("users' files were not checked: a backup doesn't contain them")
    if verifier.beside is not None:
        remark(f"{verifier.beside}: changes under way were not checked")
    status = EXIT_DAMAGE if counts[Weight.DAMAGE] else 0
    if counts[Weight.UNCHECKED]:
        status = status or EXIT_FAILED
    summary = records.summary_record(
        status,
        accounts=verifier.accounts,
        files=verifier.files,
        size=verifier.size,
        damage=counts[Weight.DAMAGE],
        doubt=counts[Weight.DOUBT],
        unchecked=counts[Weight.UNCHECKED],
        server_runs=verifier.beside is not None,
        homes=not without_homes,
    )
    well = "the copy is complete" if without_homes else "no problems found"
    found = ", ".join(f"{count} {weight.value}" for weight, count in counts.items() if count)
    what = f"{counted_as(verifier.accounts, 'account')}, {counted_as(verifier.files, 'file')}"
    read_too = f" ({human(verifier.size)} read)" if read else ""
    echo(summary, f"checked {what}{read_too}: {found or well}", as_json)
    sys.exit(status)


@click.command(cls=Command)
@click.argument("user", shell_complete=account_names, required=False)
@root_option
@click.option(
    "--no-write", is_flag=True, hidden=True, help="Store no digest for files that have none."
)
@json_option
def scrub(user: str | None, root: Path, no_write: bool, as_json: bool) -> None:
    """Read every file, and report data that changed on disk.

    A file is damaged if its digest differs from the stored one although size and time are the
    same. Files without a digest get one. Works while the server runs.
    """
    from ftpserver.admin.scrub import Examiner, Verdict

    os.nice(_NICE)
    counts = dict.fromkeys(Verdict, 0)
    given = size = 0
    examiner = Examiner(read=True, give=not no_write)
    with _opened(root, changing=False) as (accounts, _):
        for account in _chosen(accounts, user):
            for examined in _examine(examiner, account):
                counts[examined.verdict] += 1
                given += examined.given
                size += examined.size
                if examined.verdict.is_damage or examined.verdict is Verdict.CLOSED:
                    record = records.examined_record(account, examined)
                    echo(record, _text(record, examined.path), as_json)
    rotted = sum(count for verdict, count in counts.items() if verdict.is_damage)
    without = counts[Verdict.UNKNOWN] + counts[Verdict.GARBLED] - given
    status = EXIT_DAMAGE if rotted else EXIT_FAILED if counts[Verdict.CLOSED] else 0
    summary = records.summary_record(
        status,
        files=sum(counts.values()),
        size=size,
        sound=counts[Verdict.SOUND],
        rotted=rotted,
        given=given,
        without_digest=without,
        changed=counts[Verdict.CHANGED],
        unchecked=counts[Verdict.CLOSED],
    )
    parts = [f"{rotted} damaged", f"{counted_as(given, 'digest')} added"]
    parts += [f"{without} without a digest"] if without else []
    parts += [f"{counts[Verdict.CHANGED]} changed meanwhile"] if counts[Verdict.CHANGED] else []
    parts += [f"{counts[Verdict.CLOSED]} unreadable"] if counts[Verdict.CLOSED] else []
    text = f"scrubbed {counted_as(sum(counts.values()), 'file')}, {human(size)}: {', '.join(parts)}"
    echo(summary, text, as_json)
    sys.exit(status)


@click.command(cls=Command)
@click.argument("user", shell_complete=account_names, required=False)
@root_option
@json_option
def recount(user: str | None, root: Path, as_json: bool) -> None:
    """Recount used space and files from the disk.

    Works while the server runs; uploads of a user wait while the files of that user are counted.
    """
    from ftpserver.storage.home import Home
    from ftpserver.storage.ledger import Ledger
    from ftpserver.storage.ownership import Ownership, identity
    from ftpserver.storage.recount import recount as count_again

    left_alone = False
    with _opened(root, changing=True) as (accounts, engine):
        ledger, ownership = Ledger(engine), Ownership(identity(engine), accounts.root)
        for account in _chosen(accounts, user):
            if (other := ownership.claim(account.home, use=False)) is not None:
                remark(f"{account.name}: not counted, as the home belongs to {other}")
                left_alone = True
                continue
            counted = count_again(ledger, account.id, Home(account.home), account.inner)
            record = records.action_record(
                "recount",
                account=account.name,
                used=counted.size,
                before=account.used,
                files=counted.files,
            )
            echo(record, _count_text(accounts.get(account.name), account, counted), as_json)
    if left_alone:
        sys.exit(EXIT_FAILED)


@contextmanager
def _opened(root: Path, *, changing: bool) -> Iterator[tuple[Accounts, Engine]]:
    from ftpserver.accounts.accounts import Accounts

    engine = open_root(root, changing=changing)
    try:
        yield Accounts(engine, root.absolute()), engine
    finally:
        engine.dispose()


def _chosen(accounts: Accounts, name: str | None) -> list[Account]:
    return list(accounts) if name is None else [accounts.get(name)]


def _examine(examiner: Examiner, account: Account) -> Iterator[Examined]:
    from ftpserver.admin.scrub import unread
    from ftpwire.beneath import OPEN_DIRECTORY

    try:
        home = os.open(account.home, OPEN_DIRECTORY)
    except OSError as error:
        yield unread(b"", error)
        return
    try:
        yield from examiner.home(home)
    finally:
        os.close(home)


# printing ----------------------------------------------------------------------------------


def _count_text(now: Account, before: Account, counted: Usage) -> str:
    """Return the line about a recount: rounded sizes on a terminal, raw numbers in a pipe."""
    if not tables.on_terminal():
        was = f" (was {before.used})" if before.used != counted.size else ""
        return f"{now.name}: {counted.size} bytes{was} in {counted_as(counted.files, 'file')}"
    text = f"{paths.show(now.name)}: {human(now.stored)}"
    if before.stored != now.stored:
        text += f" (was {human(before.stored)})"
    if now.trash_files:
        text += f", and {human(now.trash_bytes)} in the trash"
    items = "file or directory" if now.stored_files == 1 else "files and directories"
    return f"{text}; {now.stored_files} {items}"


def _text(record: dict[str, Any], path: bytes) -> str:
    where = f"{record['account']}: {paths.show(b'/' + path)}"
    return f"{record['kind']}: {where} expected {record['expected']}, found {record['found']}"
