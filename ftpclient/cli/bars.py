"""Progress bars: what a transfer looks like on a terminal.

Lives here: the bars, drawn with rich. Lives elsewhere: when there are any (progress.py).
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ftpclient.cli.app import App
from ftpclient.cli.printer import Printer
from ftpclient.cli.render import shortened, waiting_line
from ftpclient.transfer.report import Result
from ftpwire import paths
from ftpwire.errors import FtpError
from ftpwire.units import human

_EVERY_SECONDS = 0.1
_FIGURES = 39
"""Columns that sizes and speed take at most, with the blanks between; and three more, so that
the terminal's own ``^C`` doesn't make a line too long."""
_TIME = 9
_TIME_FROM = 70
"""Columns of a terminal that has room for the time as well."""
_STALLED_FROM = 5.0
"""Seconds without bytes after which that is shown."""


@dataclass
class _Lane:
    """What one connection is at: the bar of its file, and bytes that aren't drawn yet.

    Attributes:
        left: Bytes that are still to come of that file: what follows them is of small files.
        of_file: Those of the pending bytes that are the file's.
    """

    task: TaskID | None = None
    left: float = 0
    pending: int = 0
    of_file: int = 0

    def add(self, count: int) -> None:
        """So many bytes more have moved."""
        of_file = int(min(count, self.left))
        self.left -= of_file
        self.of_file += of_file
        self.pending += count


class Bars(Printer):
    """A bar for each large file under way, and one for all where there are several.

    As a context manager it draws them, and takes them away at the end.
    """

    wants_totals = True

    def __init__(self, app: App) -> None:
        super().__init__(app)
        console = Console(stderr=True)
        # their widths are fixed: a bar that fills the line leaves no room for what is typed
        time_left = [_TimeLeft(self)] if console.width >= _TIME_FROM else []
        self._name_width = max(10, min(40, console.width // 4))
        room = console.width - self._name_width - _FIGURES - _TIME * len(time_left)
        self._progress = _Drawing(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(3, min(40, room))),
            _Sizes(),
            _Speed(self),
            *time_left,
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else it is drawn nowhere near them
        )
        self._total: TaskID = self._progress.add_task("", total=None, visible=False)
        self._files: dict[bytes, TaskID] = {}
        self._lanes: dict[int, _Lane] = {}
        self._count = 0
        self._expected = 0
        self._size = 0
        self._drawn = 0.0
        self._moved = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._app.flush()
        self._flush()
        self._progress.stop()

    def totals(self, files: int, size: int) -> None:
        self._expected += files
        self._size += size
        self._flush()

    def lost(self, error: FtpError) -> None:
        """Only how long it takes is shown: `waiting` follows at once."""

    def waiting(self, lost: float, left: float) -> None:
        self._progress.line = waiting_line(lost, left)

    def regained(self) -> None:
        self._progress.line = None
        self._moved = time.monotonic()

    @property
    def moving(self) -> bool:
        """Whether bytes come: else a speed and the time left would be of a moment long ago."""
        return self._progress.line is None and self.stalled() < _STALLED_FROM

    def stalled(self) -> float:
        """Seconds without bytes, while there is a connection."""
        return 0.0 if self._progress.line is not None else time.monotonic() - self._moved

    def started(self, name: bytes, size: int | None) -> None:
        super().started(name, size)
        self._moved = time.monotonic()
        self._flush()
        self._start_again(name)
        shown = "input" if name == b"-" else paths.show(paths.name_of(name) or name)
        shown = shortened(shown, self._name_width)
        task = self._progress.add_task(shown, total=size)
        lane = self._lane()
        if lane.task is not None and not lane.left:  # it only waits for its answer
            self._progress.update(lane.task, visible=False)
        self._files[name] = lane.task = task
        lane.left = math.inf if size is None else size

    def _start_again(self, name: bytes) -> None:
        """On a new connection: what was counted of it is counted once more."""
        task = self._files.get(name)
        counted = sum(one.completed for one in self._progress.tasks if one.id == task)
        self._progress.update(self._total, advance=-counted)
        self._remove(name)

    def advanced(self, count: int) -> None:
        self._lane().add(count)
        self._moved = time.monotonic()
        if self._moved - self._drawn >= _EVERY_SECONDS:
            self._flush()

    def finished(self, result: Result) -> None:
        if result.step is None or result.step.action in ("put", "get"):
            self._count += 1
        self._remove(result.source)
        super().finished(result)

    def _remove(self, name: bytes) -> None:
        task = self._files.pop(name, None)
        if task is None:
            return
        self._flush()
        self._progress.remove_task(task)
        for lane in self._lanes.values():
            if lane.task == task:
                lane.task = None
                lane.left = 0

    def _lane(self) -> _Lane:
        """Of the calling thread: each has one connection, and its bytes come in order."""
        return self._lanes.setdefault(threading.get_ident(), _Lane())

    def _flush(self) -> None:
        self._drawn = time.monotonic()
        several = self._expected > 1 or self._count + len(self._files) > 1
        known = 0 < self._expected >= self._count
        files = f"{self._count}/{self._expected}" if known else f"{self._count}"
        self._progress.update(
            self._total,
            advance=sum(lane.pending for lane in self._lanes.values()),
            total=self._size if known else None,  # None leaves it as it is
            description=f"{files} files",
            visible=several,
        )
        for lane in self._lanes.values():
            if lane.task is not None:
                self._progress.update(lane.task, advance=lane.of_file)
            lane.pending = lane.of_file = 0


class _Sizes(ProgressColumn):
    """Bytes done, and of how many."""

    def render(self, task: Task) -> Text:
        done = human(int(task.completed))
        if task.total is None:
            return Text(done, "progress.download")
        return Text(f"{done}/{human(int(task.total))}", "progress.download")


class _Drawing(Progress):
    """The bars, and below them a line while there is no connection."""

    line: str | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.line is not None:
            yield Text(self.line, overflow="ellipsis", no_wrap=True)


class _Speed(ProgressColumn):
    """Bytes a second, over the last moments; or for how long none have come."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars

    def render(self, task: Task) -> Text:
        stalled = self._bars.stalled()
        if stalled >= _STALLED_FROM and not task.finished:
            return Text(f"stalled {int(stalled)} s", "progress.data.speed")
        speed = task.finished_speed or (task.speed if self._bars.moving else None)
        return Text("" if speed is None else f"{human(int(speed))}/s", "progress.data.speed")


class _TimeLeft(TimeRemainingColumn):
    """The time left at that speed."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars

    def render(self, task: Task) -> Text:
        if task.finished or self._bars.moving:
            return super().render(task)
        return Text("-:--:--", "progress.remaining")
