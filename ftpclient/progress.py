"""Progress of a transfer, as it runs: bars on a terminal, JSON lines, or complaints only.

Lives here: the listeners. Lives elsewhere: what they hear (reporting.py), texts (render.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpclient import render
from ftpclient.reporting import Listener, Result
from ftpwire import paths
from ftpwire.errors import Cancelled, ConnectionLost

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ftpclient.app import App


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
        elif self._app.verbose:
            self._app.print(f"{paths.show(result.source)} -> {paths.show(result.target)}")


class Bars(Printer):
    """A bar for each large file under way, and one for the total."""

    wants_totals = True
    _EVERY = 0.1

    def __init__(self, app: App, progress: Progress) -> None:
        super().__init__(app)
        self._progress = progress
        self._total: TaskID = progress.add_task("total", total=None, files="")
        self._files: dict[bytes, TaskID] = {}
        self._current: TaskID | None = None
        self._count = 0
        self._all = 0
        self._pending = 0
        self._drawn = 0.0

    def totals(self, files: int, size: int) -> None:
        self._all = files
        self._progress.update(self._total, total=size)

    def started(self, name: bytes, size: int | None) -> None:
        shown = paths.show(paths.name_of(name) or name)
        if len(shown) > 30:
            shown = shown[:29] + "…"
        self._flush()
        self._current = self._progress.add_task(shown, total=size, files="")
        self._files[name] = self._current

    def advanced(self, count: int) -> None:
        self._pending += count
        if time.monotonic() - self._drawn >= self._EVERY:
            self._flush()

    def _flush(self) -> None:
        self._drawn = time.monotonic()
        files = f"{self._count}/{self._all} files" if self._all else f"{self._count} files"
        self._progress.update(self._total, advance=self._pending, files=files)
        if self._current is not None:
            self._progress.update(self._current, advance=self._pending)
        self._pending = 0

    def finished(self, result: Result) -> None:
        self._count += 1
        task = self._files.pop(result.source, None)
        if task is not None:
            self._flush()
            self._progress.remove_task(task)
            if task == self._current:
                self._current = None
        super().finished(result)

    def close(self) -> None:
        """Draw the last figures."""
        self._flush()


@contextmanager
def listening(app: App) -> Iterator[Listener]:
    """The listener that suits where the output goes."""
    if app.quiet or app.as_json or not sys.stderr.isatty():
        yield Printer(app)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[files]}"),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        bars = Bars(app, progress)
        yield bars
        bars.close()
