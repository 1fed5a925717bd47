"""Progress of a running transfer: a line on a terminal, JSON lines, or only error messages.

Lives here: choosing the listener. Lives elsewhere: the listeners (printer.py, bars.py,
job_reports.py), their interface (transfer/report.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpclient.cli.printer import Complaining, Printer
from ftpclient.transfer.report import Listener

if TYPE_CHECKING:
    from ftpclient.cli.app import App


@contextmanager
def listening(app: App, action: str = "", *, typed: bool = False) -> Iterator[Listener]:
    """Yield the listener for the kind of output.

    Args:
        action: See `Printer`.
        typed: True if the terminal is in use, because the user types the data to send.
    """
    if app.shell.job is not None:
        from ftpclient.cli.job_reports import Reports

        with Reports(app, action, app.shell.job) as reports:
            yield reports
        return
    draws = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "")
    if app.quiet or app.as_json or typed or not draws:
        yield Printer(app, action) if app.as_json or app.verbose else Complaining(app, action)
        return
    from ftpclient.cli.bars import Bars

    with Bars(app) as bars:
        yield bars
