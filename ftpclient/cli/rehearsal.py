"""--dry-run of put, get, cp, mv and rm: what would be done, a line or an object for each.

Lives here: the option, what is printed. Lives elsewhere: finding out what put and get would do
(transfer/rehearsal.py), and cp, mv and rm (commands/changing.py); lines and records (render.py).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ftpclient.cli import render
from ftpclient.cli.printer import Printer
from ftpclient.transfer.report import Result, Summary

if TYPE_CHECKING:
    from ftpclient.cli.app import App

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and change nothing."
)


class PlanPrinter(Printer):
    """Prints what is planned, what is the same already, and what would be skipped."""

    def _finished(self, result: Result) -> None:
        skipped = result.status == "skipped" and result.step is not None
        if self._app.as_json or not skipped or result.error is None:
            super()._finished(result)
        else:
            assert result.step is not None
            self._app.flush()
            self._app.print(render.step_line(result.step, "skip", str(result.error)))


def finish(app: App, summary: Summary) -> None:
    """Print the totals."""
    if app.as_json:
        from ftpclient.cli import records

        app.print_json(records.summary_record(summary, dry_run=True))
    else:
        app.summarize(f"dry run, nothing was done: {render.summary_line(summary)}")


def tell_of_n(app: App) -> None:
    """Tell who typed -n for a tree, and may have meant a dry run, as with sync."""
    if sys.stderr.isatty() and not app.quiet and not app.as_json:
        app.say("ftp: -n keeps what is there; --dry-run shows what would be done")
