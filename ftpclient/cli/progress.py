"""Progress of a transfer, as it runs: bars on a terminal, JSON lines, or complaints only.

Lives here: who listens. Lives elsewhere: what they hear (transfer/report.py), texts (render.py),
the bars (bars.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpclient.cli import render
from ftpclient.transfer.report import Listener, Result
from ftpwire import paths
from ftpwire.errors import Cancelled, ConnectionLost

if TYPE_CHECKING:
    from ftpclient.cli.app import App


class Printer(Listener):
    """Prints results: JSON, or names with -v; what failed goes to stderr in any case."""

    def __init__(self, app: App) -> None:
        self._app = app

    def finished(self, result: Result) -> None:
        if self._app.as_json:
            self._app.print_json(render.result_record(result))
            return
        if isinstance(result.error, (Cancelled, ConnectionLost)):
            return  # of all files under way: it is told once, as the command's own end
        if result.error is not None and result.status == "failed":
            self._app.complain(result.error)
        elif result.error is not None:
            if result.error.code == "not-regular" or self._app.verbose:
                self._app.say(f"ftp: skipped: {paths.printable(str(result.error))}")
        elif result.step is not None:
            if self._app.verbose or result.status == "planned":
                self._app.print(render.step_line(result.step))
        elif self._app.verbose:
            self._app.print(f"{paths.show(result.source)} -> {paths.show(result.target)}")

    def remark(self, text: str) -> None:
        self._app.say(f"ftp: {paths.printable(text)}")


@contextmanager
def listening(app: App, *, typed: bool = False) -> Iterator[Listener]:
    """The listener that suits where the output goes.

    Args:
        typed: The terminal is busy: what is sent is being typed there.
    """
    if app.quiet or app.as_json or typed or not sys.stderr.isatty():
        yield Printer(app)
        return
    from ftpclient.cli.bars import Bars

    with Bars(app) as bars:
        yield bars
