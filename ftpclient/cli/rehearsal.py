"""The option --dry-run of put, get, cp, mv and rm: one line or object for each step.

Lives here: the option and its output. Lives elsewhere: the steps of put and get
(transfer/rehearsal.py), of cp, mv and rm (planning.py); lines (render.py), objects (records.py).
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
    """A listener that prints planned steps, and files that are the same or would be skipped."""

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
        app.summarize(f"dry run, nothing changed: {render.summary_line(summary)}")


def explain_no_clobber(app: App) -> None:
    """Print what -n means for a tree: the user may have meant a dry run, as with sync."""
    if sys.stderr.isatty() and not app.quiet and not app.as_json:
        app.say("ftp: -n keeps existing files; --dry-run shows what would be done")
