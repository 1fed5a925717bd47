"""The command check, which compares local and remote files.

Lives here: the options and the output. Lives elsewhere: the comparison (sync/check.py), which of
the two paths is remote (commands/sync.py).
"""

from __future__ import annotations

import click

from ftpclient.cli import records, render
from ftpclient.cli.app import App
from ftpclient.cli.commands.sync import checked_roots, expanded
from ftpclient.cli.filter_options import Patterns, SelectingCommand, filter_options
from ftpclient.cli.group import offers, raise_for, remote_command
from ftpclient.cli.patience import patient_client, retries_option, retry_for_option
from ftpclient.cli.printer import Printer
from ftpclient.transfer.report import Finding
from ftpwire import standard


@remote_command("check", SelectingCommand)
@click.argument("source", metavar="SRC", shell_complete=offers("roots_of_sync"))
@click.argument("target", metavar="DST", shell_complete=offers("roots_of_sync"))
@click.option("--size-only", is_flag=True, help="Compare sizes, not digests.")
@click.option("--one-way", is_flag=True, help="Ignore what is only in DST.")
@filter_options
@click.option("--ignore-files", is_flag=True, help="Skip what .ftpignore files in SRC exclude.")
@retry_for_option
@retries_option
@click.option("-v", "--verbose", is_flag=True, help="Print files that are the same, too.")
def check_command(
    app: App,
    source: str,
    target: str,
    size_only: bool,
    one_way: bool,
    patterns: Patterns,
    ignore_files: bool,
    retry_for: float | None,
    retries: int | None,
    verbose: bool,
) -> None:
    """Compare a local and a remote directory or file.

    Prints one line per difference: * differs, + only in the local one, - only in the remote one,
    ! unreadable. Times are not compared. Nothing is changed.
    """
    source, target = checked_roots(app, source, target, "check")

    from ftpclient.sync.check import CheckOptions

    options = CheckOptions(
        size_only=size_only,
        one_way=one_way,
        patterns=patterns,
        ignore_files=ignore_files,
        same=verbose or app.verbose,
    )
    if app.interactive:
        source, target = expanded(source), expanded(target)
    client = patient_client(app, retry_for, retries, None)
    summary = client.check(source, target, options, listener=_Findings(app))
    if app.as_json:
        app.print_json(records.check_record(summary))
    else:
        app.summarize(render.check_line(summary))
    raise_for(summary.exit_code)


class _Findings(Printer):
    """A listener that prints findings as they come."""

    def found(self, finding: Finding) -> None:
        try:
            if self._app.as_json:
                self._app.print_json(records.finding_record(finding))
            else:
                self._app.print(render.finding_line(finding))
        except standard.ReaderLeft:  # not raised here: the check stops itself
            self.enough = True
