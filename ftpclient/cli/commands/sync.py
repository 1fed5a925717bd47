"""The command sync, which mirrors a tree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from heapq import nsmallest
from itertools import chain
from typing import TYPE_CHECKING

import click

from ftpclient.cli import locations, operations, proposal, records, render
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.filter_options import (
    Patterns,
    SelectingCommand,
    files_from_options,
    filter_options,
)
from ftpclient.cli.group import offers, raise_for, remote_command, size
from ftpclient.cli.patience import (
    parallel_option,
    patient_client,
    retries_option,
    retry_for_option,
    seconds,
)
from ftpclient.cli.printer import Printer
from ftpclient.cli.progress import listening
from ftpclient.connection.addresses import check_no_password, without_scheme
from ftpclient.transfer.report import Forwarding, Listener, Result
from ftpwire import paths
from ftpwire.units import human

if TYPE_CHECKING:
    from ftpclient.sync.job import SyncSummary
    from ftpclient.sync.plan import Options, Plan, Step


@remote_command("sync", SelectingCommand, final="no_trash")
@click.argument("source", metavar="SRC", shell_complete=offers("roots_of_sync"))
@click.argument("target", metavar="DST", shell_complete=offers("roots_of_sync"))
@click.option("--delete", is_flag=True, help="Delete what is only in DST, too.")
@click.option("--delete-before", is_flag=True, help="Delete before the transfers, to make room.")
@click.option(
    "--max-delete",
    type=click.IntRange(0),
    metavar="N",
    help="Change nothing if more than N entries would be deleted.",
)
@click.option("--force", is_flag=True, help="Delete even if SRC is empty or partly unreadable.")
@click.option("--no-trash", is_flag=True, help="Keep no trash copy of what is deleted or replaced.")
@click.option("-y", "--yes", is_flag=True, help="Delete without asking.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--watch", is_flag=True, help="Mirror again after each change in SRC, until Ctrl-C.")
@click.option("--checksum", is_flag=True, help="Compare digests instead of times.")
@click.option(
    "--size-only", is_flag=True, help="Send only files of another size; fix the times of others."
)
@click.option("-u", "--update", is_flag=True, help="Skip files that are newer in DST.")
@click.option("--existing", is_flag=True, help="Create nothing; only update what is in DST.")
@click.option("--ignore-existing", is_flag=True, help="Skip files that are in DST.")
@click.option("-L", "--copy-links", is_flag=True, help="Follow symbolic links in SRC.")
@filter_options
@files_from_options
@click.option(
    "--min-age",
    type=seconds,
    metavar="TIME",
    help="Transfer only files unchanged for TIME, e.g. 90s or 2d.",
)
@click.option(
    "--max-age",
    type=seconds,
    metavar="TIME",
    help="Transfer only files changed within TIME.",
)
@click.option(
    "--max-size", type=size, metavar="SIZE", help="Skip files larger than SIZE, e.g. 10MiB."
)
@click.option(
    "--resume/--no-resume",
    default=True,
    help="Start over instead of resuming interrupted transfers.",
)
@retry_for_option
@retries_option
@parallel_option
@click.option(
    "--limit-rate", type=size, metavar="SIZE", help="Limit the rate, e.g. 10MiB per second."
)
@click.option("-v", "--verbose", is_flag=True, hidden=True, help="Print the name of every file.")
@click.option(
    "-a",
    "-r",
    "-R",
    "-t",
    "-p",
    "-l",
    "always_so",
    is_flag=True,
    hidden=True,
    help="Do nothing: trees, times, modes and links are always kept.",
)
def sync_command(
    app: App,
    source: str,
    target: str,
    delete: bool,
    delete_before: bool,
    max_delete: int | None,
    force: bool,
    no_trash: bool,
    yes: bool,
    dry_run: bool,
    watch: bool,
    checksum: bool,
    size_only: bool,
    update: bool,
    existing: bool,
    ignore_existing: bool,
    copy_links: bool,
    patterns: Patterns,
    files_from: Iterator[bytes] | None,
    min_age: float | None,
    max_age: float | None,
    max_size: int | None,
    resume: bool,
    retry_for: float | None,
    retries: int | None,
    parallel: int | None,
    limit_rate: int | None,
    verbose: bool,
    always_so: bool,
) -> None:
    """Mirror SRC to DST, one of them on the server.

    Files count as equal if size and time are equal. An .ftpignore file in SRC excludes files.
    """
    source, target = checked_roots(app, source, target, "sync")
    delete |= delete_before
    if not delete:
        for given, name in ((max_delete is not None, "--max-delete"), (force, "--force")):
            if given:
                raise UsageError(f"{name} needs --delete")
    if checksum and size_only:
        raise UsageError("--checksum and --size-only cannot be used together")
    if watch:
        _check_watch(source, delete and not yes, dry_run, files_from is not None, min_age)
    if delete and app.shell.job and not (yes or dry_run):
        raise UsageError("sync --delete asks before it deletes, which a job cannot: add -y")
    app.verbose |= verbose

    from ftpclient.sync.plan import Options

    options = Options(
        delete=delete,
        delete_before=delete_before,
        max_delete=max_delete,
        force=force,
        dry_run=dry_run,
        checksum=checksum,
        size_only=size_only,
        update=update,
        patterns=patterns,
        resume=resume,
        copy_links=copy_links,
        parallel=parallel,
        files_from=files_from,
        min_age=min_age,
        max_age=max_age,
        max_size=max_size,
        existing=existing,
        ignore_existing=ignore_existing,
    )
    if app.interactive:
        source, target = expanded(source), expanded(target)
    ask = app.can_ask and not yes
    client = patient_client(app, retry_for, retries, limit_rate)

    def sync(
        options: Options,
        wrap: Callable[[Listener], Listener] = lambda listener: listener,
        always_told: bool = True,
    ) -> SyncSummary:
        trash = operations.TrashRemark(app)
        with ExitStack() as stack:
            summary = client.sync(
                source,
                target,
                options,
                listener=wrap(_WithBars(app, stack, trash)),
                confirm=(lambda plan: _confirm(app, plan)) if ask else None,
            )
        if app.as_json:
            app.print_json(records.sync_record(summary))
        elif always_told or _has_done_something(summary):
            app.summarize(render.sync_line(summary))
            trash.finish()
        return summary

    if watch:
        from ftpclient.cli.watching import Watch

        patient = retry_for is None and retries is None
        Watch(app, client, source, options, sync, patient=patient).run()
        return
    raise_for(sync(options).exit_code)


def _check_watch(
    source: str, unconfirmed: bool, dry_run: bool, files_from: bool, min_age: float | None
) -> None:
    """Refuse what --watch cannot do. Raises UsageError."""
    if source.startswith(":"):
        raise UsageError("--watch needs a local SRC: a server does not report changes")
    for given, name in ((dry_run, "--dry-run"), (files_from, "--files-from")):
        if given:
            raise UsageError(f"--watch and {name} cannot be used together")
    if min_age is not None:  # no event tells when a file is old enough
        raise UsageError("--watch and --min-age cannot be used together")
    if unconfirmed:
        raise UsageError("--watch with --delete needs -y: its later rounds ask no questions")


def _has_done_something(summary: SyncSummary) -> bool:
    counts = (summary.sent, summary.deleted, summary.renamed, summary.directories)
    return any((*counts, summary.attributes, summary.skipped, summary.failed))


def checked_roots(app: App, source: str, target: str, verb: str) -> tuple[str, str]:
    """Return the two roots of a command, the remote one with a leading colon.

    If it names a server, the command uses that one.

    Args:
        verb: The command's name.

    Raises:
        UsageError: Not exactly one of them is remote.
    """
    source, target = _with_colon(app, source, target, verb)
    _check_roots(app, source, target, verb)
    return source, target


def _with_colon(app: App, source: str, target: str, verb: str) -> tuple[str, str]:
    """Return the roots with a leading colon in place of a server, which is used from now on.

    Raises UsageError.
    """
    named = [path for path in (source, target) if locations.read(path) is not None]
    if len(named) == 2 or named and any(path.startswith(":") for path in (source, target)):
        copies = f" ({app.command('cp -r')} copies on a server)" if verb == "sync" else ""
        raise UsageError(
            f"{source} and {target} are both on a server: one of them must be local{copies}"
        )
    if not named:
        return source, target
    (path,) = locations.taken(app, named)
    return (f":{path}", target) if named == [source] else (source, f":{path}")


def _check_roots(app: App, source: str, target: str, verb: str) -> None:
    """Check that exactly one root is remote; otherwise, suggest what was probably meant."""
    remote = [path for path in (source, target) if path.startswith(":")]
    if len(remote) == 1:
        if remote[0] == ":":
            raise UsageError("nothing follows the colon: write :/ for your home")
        if not (source and target):
            raise UsageError("an empty path")
        return
    if remote:
        meant = "one of them must be local"
        if verb == "sync":
            meant = _did_you_mean(app, "cp", "-r", source[1:], target[1:])
        raise UsageError(f"both paths begin with a colon, so both are on the server: {meant}")
    for path in (source, target):
        check_no_password(path)  # it would be shown
        host, rest = _server_and_path(path)
        if host and "/" not in host and not os.path.lexists(path):
            ways = [f"ftpd://{host}/{rest.lstrip('/')}"]
            if "://" not in path:
                ways.insert(0, f"USER@{path}")
            raise UsageError(
                f"{host} is not a saved server: write {' or '.join(ways)} "
                f"(for a local directory of that name, ./{path})"
            )
    if not os.path.lexists(source) and os.path.isdir(target):
        meant = _did_you_mean(app, verb, f":{source}", target)
    else:
        meant = _did_you_mean(app, verb, source, f":{target}")
    raise UsageError(f"neither path begins with a colon, so neither is on the server: {meant}")


def _did_you_mean(app: App, *words: str) -> str:
    return f"did you mean {app.command(operations.command_line(words[0], words[1:]))}?"


def _server_and_path(word: str) -> tuple[str, str]:
    """Return host and path of HOST:PATH or a URL; empty strings for other words."""
    scheme, place = without_scheme(word)
    host, separator, path = place.partition(":" if scheme is None else "/")
    if scheme is not None:
        return host, f"/{path}"
    return (host, path) if separator else ("", "")


def expanded(path: str) -> str:
    """Return a path with ``~`` expanded if it is a local one."""
    return path if path.startswith(":") else os.path.expanduser(path)


def _confirm(app: App, plan: Plan) -> bool:
    """Show what will be deleted, and ask."""
    total = 0

    def steps() -> Iterator[Step]:
        nonlocal total
        for step in chain(plan.obstacles, plan.deletions):
            total += 1
            yield step

    first = nsmallest(proposal.SHOWN, steps(), key=lambda step: step.path)
    proposal.show(app, map(_row, first), total)
    count = "1 entry" if plan.doomed == 1 else f"{plan.doomed:,} entries"

    def show_list() -> None:
        from ftpclient.sync.plan import Step
        from ftpclient.transfer import spool

        everything = spool.sort(steps(), lambda step: step.path, kind=Step)
        proposal.show_all(map(_row, everything))

    is_cut = total > len(first)
    answers = "yes/no/list" if is_cut else "yes/no"
    question = f"Delete {count} ({human(plan.doomed_size)}) ({answers})? "
    return app.yes_or_no(question, show_list=show_list if is_cut else None)


def _row(step: Step) -> tuple[bytes, str, str]:
    """Return a deletion as a row for `proposal.show`."""
    name = paths.show(step.path)
    if step.type == "dir":
        size = f", {human(step.size)}" if step.size else ""
        return step.path, f"{name}/", f"{step.count:,} in all{size}"
    return step.path, name, human(step.size) if step.type == "file" else ""


class _WithBars(Forwarding):
    """A listener that shows bars only after the trees were compared and questions answered.

    Args:
        stack: The stack that removes the bars at the end.
        trash: The remark about the trash, to which deletions are reported.
    """

    def __init__(self, app: App, stack: ExitStack, trash: operations.TrashRemark) -> None:
        super().__init__(Printer(app))
        self._app = app
        self._trash = trash
        self._stack = stack
        self._shown = False

    def finished(self, result: Result) -> None:
        self._trash.removed(result.removed)
        super().finished(result)

    def totals(self, files: int, size: int) -> None:
        if not self._shown:
            self._shown = True
            self._listener = self._stack.enter_context(listening(self._app))
            super().totals(files, size)
