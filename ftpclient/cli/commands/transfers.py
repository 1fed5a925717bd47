"""The commands put and get, which transfer files."""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ftpclient.cli import locations, operands, rehearsal, render
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.at import at_option, version_at
from ftpclient.cli.filter_options import (
    Patterns,
    SelectingCommand,
    files_from_options,
    filter_options,
    lines_of,
)
from ftpclient.cli.group import offers, raise_for, remote_command, size
from ftpclient.cli.patience import parallel_option, patient_client, retries_option, retry_for_option
from ftpclient.cli.progress import listening
from ftpclient.cli.rehearsal import dry_run_option
from ftpclient.transfer.named import is_descriptor
from ftpclient.transfer.report import Listener, Summary
from ftpwire import paths, standard
from ftpwire.command_help import Option
from ftpwire.errors import CommandError, NotFound
from ftpwire.messages import Overwrite

if TYPE_CHECKING:
    from ftpclient.client import Client


class _Choices(msgspec.Struct, frozen=True):
    """The options that put and get share."""

    recursive: bool
    no_clobber: bool
    update: bool
    copy_links: bool
    links: bool
    resume: bool
    retry_for: float | None
    retries: int | None
    fail_fast: bool
    parallel: int | None
    limit_rate: int | None
    preserve: bool
    patterns: Patterns
    files_from: Iterator[bytes] | None
    remove_source: bool
    dry_run: bool

    def check(self) -> None:
        """Refuse options that contradict each other. Raises UsageError."""
        if self.no_clobber and self.update:
            raise UsageError("--no-clobber and --update cannot be used together")
        if self.links and self.copy_links:
            raise UsageError("--links and --copy-links cannot be used together")
        if self.remove_source and self.copy_links:
            raise UsageError(
                "--remove-source and --copy-links cannot be used together: "
                "targets of links are never removed"
            )
        if self.patterns and not self.recursive and self.files_from is None:
            raise UsageError("--exclude and --include need -r")

    def check_one_tree(self, sources: list[str]) -> None:
        """Refuse --files-from with several sources. Raises UsageError."""
        if self.files_from is not None and len(sources) != 1:
            raise UsageError("--files-from needs exactly one SOURCE, the directory of its paths")

    @property
    def overwrite(self) -> Overwrite:
        return "never" if self.no_clobber else "older" if self.update else "always"

    def explain_no_clobber(self, app: App) -> None:
        """Print what -n means, if the user may have meant a dry run."""
        if self.no_clobber and self.recursive and not self.dry_run:
            rehearsal.explain_no_clobber(app)

    def listening(
        self, app: App, action: str, *, typed: bool = False
    ) -> AbstractContextManager[Listener]:
        """Return the listener that shows the transfer."""
        if self.dry_run:
            return nullcontext(rehearsal.PlanPrinter(app))
        return listening(app, action, typed=typed)

    def finish(self, app: App, summary: Summary, *, atomic: bool = False) -> None:
        """Print the totals and end the command with its exit status."""
        if atomic and summary.failed:
            app.complain(CommandError("some files could not be sent, so nothing was replaced"))
        if self.dry_run:
            rehearsal.finish(app, summary)
            raise_for(summary.exit_code)
        else:
            _finish(app, summary)

    def client(self, app: App) -> Client:
        """Return the client, connected."""
        return patient_client(app, self.retry_for, self.retries, self.limit_rate)


def _transfer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `_Choices`, which the command receives as ``choices``."""

    @functools.wraps(command)
    def function(app: App, **arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in _Choices.__struct_fields__}
        command(app, choices=_Choices(**chosen), **arguments)

    for option in reversed(
        (
            operands.recursive_option,
            operands.no_clobber_option,
            click.option(
                "-u", "--update", is_flag=True, help="Replace a file only if the source is newer."
            ),
            click.option(
                "-L",
                "--copy-links",
                is_flag=True,
                help="Follow all symbolic links, also in directories.",
            ),
            click.option(
                "--links",
                is_flag=True,
                help="Transfer a symbolic link itself, not what it points to.",
            ),
            click.option(
                "resume",
                " /--no-resume",
                cls=Option,
                also=("-c", "--resume"),
                default=True,
                help="Start over instead of resuming an interrupted transfer.",
            ),
            retry_for_option,
            retries_option,
            click.option("--fail-fast", is_flag=True, help="Stop at the first failure."),
            parallel_option,
            click.option(
                "--limit-rate",
                type=size,
                metavar="SIZE",
                help="Limit the rate, e.g. 10MiB per second.",
            ),
            dry_run_option,
            click.option(
                "--remove-source",
                cls=Option,
                also=("--remove-source-files",),
                is_flag=True,
                help="Remove each source file after its transfer.",
            ),
            filter_options,
            files_from_options,
            click.option(
                "-p",
                "preserve",
                is_flag=True,
                hidden=True,
                help="Do nothing: times and modes are always kept.",
            ),
        )
    ):
        function = option(function)
    return function


def _finish(app: App, summary: Summary) -> None:
    if app.as_json:
        from ftpclient.cli import records

        app.print_json(records.summary_record(summary))
    elif (sys.stderr.isatty() or app.shell.job) and not _is_one_failure(summary):
        app.summarize(render.summary_line(summary))
    raise_for(summary.exit_code)


def _is_one_failure(summary: Summary) -> bool:
    """Return whether the only file failed, so that its error message says everything."""
    return summary.failed == 1 and not (summary.done or summary.skipped)


@remote_command("put", SelectingCommand, final="no_versions")
@click.argument(
    "arguments",
    metavar="SOURCE... [TARGET]",
    nargs=-1,
    required=True,
    shell_complete=offers("local_or_remote"),
)
@operands.target_options
@_transfer_options
@click.option(
    "--atomic",
    is_flag=True,
    help="Replace the whole directory at once, or not at all (with -r).",
)
@click.option("--no-empty", is_flag=True, help="Refuse empty input.")
@click.option("--no-versions", is_flag=True, help="Keep no trash copy of what is replaced.")
@click.option(
    "--ignore-files",
    is_flag=True,
    help="Skip what .ftpignore files exclude, as sync does (with -r).",
)
def put_command(
    app: App,
    arguments: tuple[str, ...],
    directory: str | None,
    exactly: bool,
    choices: _Choices,
    atomic: bool,
    no_empty: bool,
    no_versions: bool,
    ignore_files: bool,
) -> None:
    """Upload files and directories.

    An interrupted upload resumes when you repeat the command. Existing files are replaced. `put -r
    a b` stores a as b, or as b/a if b already exists; with -T, always as b.
    """
    named = operands.split(arguments, directory, exactly, default=".").target_taken(app)
    sources, target = named.sources, named.target
    if target.endswith(":") and "/" not in target and not named.placed:
        raise UsageError(
            f"{target} doesn't name a saved server: write USER@{target} or "
            f"ftpd://{target[:-1]}/ (for a file of that name, ./{target})"
        )
    choices.check()
    if sources == ["-"]:
        if choices.files_from is not None:
            raise UsageError("--files-from cannot be used with standard input")
        if choices.remove_source:
            raise UsageError("--remove-source cannot be used with standard input")
        if choices.dry_run:
            raise UsageError("--dry-run cannot be used with standard input")
        if len(arguments) == 1:  # also with -t, which names a directory and not the file
            raise UsageError("put - needs the name of the file to write")
        if app.shell.job:
            raise UsageError("put - cannot be a job: it reads standard input")
        if app.shell.on_stdin:
            raise UsageError("put - cannot be used here: standard input holds the commands")
        if standard.was_closed(0):
            raise CommandError("standard input is closed: nothing was stored")
        client = choices.client(app)
        with listening(app, "put", typed=sys.stdin.isatty()) as listener:
            summary = client.put_stream(
                0, target, overwrite=choices.overwrite, no_empty=no_empty, listener=listener
            )
        _finish(app, summary)
        return
    if app.interactive:
        sources = [match for source in sources for match in app.expand(source)]
    if "" in sources:  # probably an unset variable
        raise UsageError("an empty path")
    if len(sources) == 1 and not app.as_json and not os.path.lexists(sources[0]):
        # fail without connecting; of several sources, each is reported in its turn
        locations.check_local(sources[0], "get downloads it, cp copies it on the server")
        raise NotFound(f"{paths.show(sources[0])}: no such local file or directory")
    if ignore_files and not choices.recursive and choices.files_from is None:
        raise UsageError("--ignore-files needs -r")
    choices.check_one_tree(sources)
    if choices.files_from is not None and not os.path.isdir(sources[0]):
        raise UsageError(f"--files-from: {paths.show(sources[0])} is not a directory")
    operands.check_put(app, named)
    if atomic and choices.remove_source:
        raise UsageError("--remove-source and --atomic cannot be used together")
    if atomic and (not choices.recursive or len(sources) != 1 or not os.path.isdir(sources[0])):
        raise UsageError("--atomic needs -r and exactly one directory")
    choices.explain_no_clobber(app)
    client = choices.client(app)
    with choices.listening(app, "put") as listener:
        summary = client.put(
            sources,
            target,
            into=named.into,
            recursive=choices.recursive,
            copy_links=choices.copy_links,
            overwrite=choices.overwrite,
            resume=choices.resume,
            parallel=choices.parallel,
            fail_fast=choices.fail_fast,
            links=choices.links,
            no_empty=no_empty,
            atomic=atomic,
            exclude=lines_of(choices.patterns),
            ignore_files=ignore_files,
            files_from=choices.files_from,
            remove_source=choices.remove_source,
            dry_run=choices.dry_run,
            listener=listener,
        )
    choices.finish(app, summary, atomic=atomic)


@remote_command("get", SelectingCommand)
@click.argument(
    "arguments",
    metavar="SOURCE... [TARGET]",
    nargs=-1,
    required=True,
    shell_complete=offers("sources_of_get"),
)
@operands.target_options
@_transfer_options
@at_option
def get_command(
    app: App,
    arguments: tuple[str, ...],
    directory: str | None,
    exactly: bool,
    choices: _Choices,
    at: str | None,
) -> None:
    """Download files and directories.

    An interrupted download resumes when you repeat the command. Existing files are replaced. `get
    -r a b` stores a as b, or as b/a if b already exists; with -T, always as b.
    """
    named = operands.split(arguments, directory, exactly, default=".").sources_taken(app)
    sources, target = named.sources, named.target
    if not os.path.lexists(target):
        locations.check_local(target, "the target of get is local, e.g. . for this directory")
    choices.check()
    choices.check_one_tree(sources)
    if at is not None:
        _get_version(app, named, choices, at)
        return
    if not named.into and (target == "-" or is_descriptor(os.fsencode(target), 1)):
        if choices.files_from is not None:
            raise UsageError("--files-from cannot be used with standard output")
        if choices.dry_run:
            raise UsageError("--dry-run cannot be used with standard output")
        if choices.remove_source:
            raise UsageError("--remove-source cannot be used with standard output")
        _get_to_stdout(app, sources)
        return
    if app.interactive:
        target = os.path.expanduser(target)
    choices.explain_no_clobber(app)
    client = choices.client(app)
    with (
        choices.listening(app, "get", typed=_is_screen(target)) as listener,
        operands.checked_get(app, client, named, listener, follow=not choices.links),
    ):
        summary = client.get(
            [app.pattern(source) for source in sources],
            target,
            into=named.into,
            recursive=choices.recursive,
            copy_links=choices.copy_links,
            overwrite=choices.overwrite,
            resume=choices.resume,
            parallel=choices.parallel,
            fail_fast=choices.fail_fast,
            links=choices.links,
            exclude=lines_of(choices.patterns),
            files_from=choices.files_from,
            remove_source=choices.remove_source,
            dry_run=choices.dry_run,
            listener=listener,
        )
    choices.finish(app, summary)


def _get_version(app: App, named: operands.Operands, choices: _Choices, at: str) -> None:
    """Download an earlier version of one file, and end the command."""
    from ftpclient.cli import trashed

    if len(named.sources) != 1:
        raise UsageError("--at needs exactly one SOURCE, a file")
    if choices.recursive or choices.files_from is not None or choices.remove_source:
        raise UsageError("--at cannot be used with -r, --files-from or --remove-source")
    path = app.client.resolve(named.sources[0])
    version = version_at(app, path, at)
    place, in_trash = (path, None) if version is None else (version.inner_path, version.in_trash)
    target = named.target
    if not named.into and (target == "-" or is_descriptor(os.fsencode(target), 1)):
        if app.as_json:
            raise UsageError("--json and the file's bytes cannot both go to standard output")
        sys.stdout.flush()
        app.cat(place, in_trash)
        return
    if app.interactive:
        target = os.path.expanduser(target)
    if named.into is not False and (os.path.isdir(target) or target.endswith("/") or named.into):
        # the version's own name is that of the trash
        target = os.path.join(target, os.fsdecode(paths.name_of(path)))
    client = choices.client(app)
    with choices.listening(app, "get", typed=_is_screen(target)) as listener:
        listener = trashed.Renamed(listener, place, path)
        summary = client.get(
            place,
            target,
            into=False,
            copy_links=choices.copy_links,
            overwrite=choices.overwrite,
            resume=choices.resume,
            parallel=choices.parallel,
            links=choices.links,
            dry_run=choices.dry_run,
            in_trash=in_trash,
            listener=listener,
        )
    choices.finish(app, summary)


def _is_screen(target: str) -> bool:
    """Return whether a path may be a terminal, where a progress line would disturb the output."""
    try:
        return stat.S_ISCHR(os.stat(target).st_mode)
    except OSError:
        return False


def _get_to_stdout(app: App, sources: list[str]) -> None:
    if app.as_json:
        raise UsageError("--json and the file's bytes cannot both go to standard output")
    sys.stdout.flush()
    for source in sources:
        for path in app.client.glob(app.pattern(source)):
            app.cat(path)
