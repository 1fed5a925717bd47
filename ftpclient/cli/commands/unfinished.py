"""The command resume of the shell, about its unfinished transfers."""

from __future__ import annotations

import sys

import click

from ftpclient.cli import records, unfinished
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import raise_for, remote_command
from ftpclient.cli.render import short_time
from ftpclient.cli.unfinished import Transfer, Transfers
from ftpwire.errors import FtpError, NotFound
from ftpwire.paths import printable


@remote_command("resume")
@click.argument("numbers", metavar="[N]...", nargs=-1, type=click.IntRange(1))
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Act on all transfers of this server."
)
@click.option("--forget", is_flag=True, help="Remove them from the list instead.")
def resume_command(app: App, numbers: tuple[int, ...], everything: bool, forget: bool) -> None:
    """List unfinished transfers, or resume them as jobs.

    A put, get or sync of more than 4 MiB is unfinished if it was stopped, if it lost its
    connection, or if its shell was killed.
    """
    if everything and numbers:
        raise UsageError("resume: --all and N cannot be used together")
    if forget and not (everything or numbers):
        raise UsageError("resume: --forget needs N or --all")
    known = {
        one.number: one for one in sorted(Transfers().unfinished(), key=lambda one: one.number)
    }
    missing = [number for number in numbers if number not in known]
    if missing:
        raise NotFound(f"no unfinished transfer {missing[0]} (resume lists them)")
    if everything:
        wanted = [one for one in known.values() if unfinished.is_of(app.known_client, one)]
    else:
        wanted = [known[number] for number in dict.fromkeys(numbers)]
    if forget:
        for one in wanted:
            Transfers().remove(one)
    elif everything or numbers:
        _resume(app, wanted)
    else:
        _list(app, known)


def _resume(app: App, wanted: list[Transfer]) -> None:
    start = app.shell.resume
    if start is None:
        raise UsageError("transfers can only be resumed in a shell")
    for one in wanted:
        if not unfinished.is_of(app.known_client, one):
            server = printable(one.server)
            raise UsageError(f"this transfer is of {server}: open {server} first")
    status = 0
    for one in wanted:
        try:
            start(one)
        except FtpError as error:
            app.complain(error)
            status = error.exit_code
    raise_for(status)


def _list(app: App, known: dict[int, Transfer]) -> None:
    for number, one in known.items():
        if app.as_json:
            app.print_json(records.unfinished_record(number, one))
            continue
        is_here = unfinished.is_of(app.known_client, one)
        server = "" if is_here else f"  (of {printable(one.server)})"
        when = short_time(one.when * 10**9)
        app.print(f"{number:>3}  {when}  {printable(one.words)}{server}")
    if not known and sys.stdout.isatty():
        app.say("no unfinished transfers")
    elif known and sys.stdout.isatty():
        app.say("resume N or resume -a goes on with them")
