"""The progress of a transfer on a terminal, in one line.

Lives here: counting bytes and files, and the line's text for each width. Lives elsewhere:
drawing it (status_line.py), deciding whether there is one (progress.py).
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from ftpclient.cli.app import App
from ftpclient.cli.printer import Printer
from ftpclient.cli.render import waiting_line
from ftpclient.cli.status_line import StatusLine
from ftpclient.transfer.report import Result
from ftpwire import paths
from ftpwire.cells import begun, cells, may_color, padded, shortened
from ftpwire.errors import FtpError
from ftpwire.units import human, human_of

_STALLED_FROM = 5.0
"""Seconds without bytes after which the line says ``stalled``."""
_OVER_SECONDS = 10.0
"""The rate is averaged over this many seconds."""
_SAMPLE_SECONDS = 0.2
_NARROW = 26
"""Columns below which rate and remaining time are abbreviated; 19 columns suffice for these."""
_LEAST_NAME = 8
_SIZES = len("999.9 of 999.9 MiB")
_SIZES_FROM = 60
_BAR_FROM = 90
_BAR_PART = 5
"""A bar takes one fifth of a wide line."""
_WIDEST_BAR = 40
_GAP = "  "


@dataclass(frozen=True)
class Headway:
    """The progress of a transfer.

    Attributes:
        done: Bytes transferred.
        size: Bytes in all; None if unknown.
        files: The number of files done and in all, as text; empty if there is only one.
        name: The displayed name of the current file.
        rate: Bytes per second; None if not known yet.
        stalled: Seconds without a byte, once they are worth showing.
        waiting: A long and a short text shown instead of rate and time while there is no
            connection.
    """

    done: int
    size: int | None = None
    files: str = ""
    name: str = ""
    rate: float | None = None
    stalled: int | None = None
    waiting: tuple[str, str] | None = None


def line(headway: Headway, width: int, *, colored: bool = False) -> str:
    """Return the progress line, at most ``width`` columns wide.

    With 19 columns or more it has the percentage, the rate and the remaining time. Wider lines
    add as many as fit of: the number of files, the name, the sizes, a bar.
    """
    before, bar, after = _parts(headway, width)
    if bar and colored:
        bar = f"\x1b[36m{bar}\x1b[0m"  # a line with a bar always fits
    return f"{before}{bar}{after}" if bar else begun(before + after, width)


def _parts(headway: Headway, width: int) -> tuple[str, str, str]:
    """Return the text before the bar, the bar, and the text after it."""
    begin = _share(headway, width)
    if headway.waiting:
        long, short = headway.waiting
        room = width - len(begin) - 1
        return begin, "", f" {long if len(long) <= room else short}"
    if width < _NARROW:
        return begin, "", f" {_narrow_speed(headway)}"
    text = f"{_GAP}{_speed(headway)}"
    bar = _bar(headway, min(_WIDEST_BAR, width // _BAR_PART)) if width >= _BAR_FROM else ""
    if bar:
        begin += _GAP
    left = width - cells(begin + bar + text)
    after: list[str] = []
    for part in (headway.files, _sizes(headway) if width >= _SIZES_FROM else ""):
        if part and cells(part) + len(_GAP) <= left:
            after.append(part)
            left -= cells(part) + len(_GAP)
    if headway.name and left >= _LEAST_NAME + len(_GAP):
        after.append(shortened(headway.name, left - len(_GAP)))
    return begin, bar, "".join([text, *(_GAP + part for part in after)])


def _share(headway: Headway, width: int) -> str:
    """Return the percentage done, or the bytes done if the total is unknown."""
    if headway.size is None:
        return _short(headway.done).rjust(6) if width < _NARROW else human(headway.done).rjust(9)
    if headway.done >= headway.size:
        return "100%"
    return f"{100 * max(0, headway.done) // headway.size}%".rjust(4)


def _speed(headway: Headway) -> str:
    if headway.stalled is not None:
        return padded(f"stalled {headway.stalled} s", 20)
    rate = "" if headway.rate is None else f"{human(int(headway.rate))}/s"
    return f"{rate:>11}" + ("" if headway.size is None else f"{_GAP}{_time(_left(headway)):>7}")


def _narrow_speed(headway: Headway) -> str:
    if headway.stalled is not None:
        return f"stalled {headway.stalled} s"
    rate = "" if headway.rate is None else f"{_short(int(headway.rate))}/s"
    return f"{rate:>8}" + ("" if headway.size is None else f" {_short_time(_left(headway)):>5}")


def _left(headway: Headway) -> int | None:
    """Return the estimated seconds left at the current rate."""
    if headway.size is None or not headway.rate:
        return None
    return math.ceil(max(0, headway.size - headway.done) / headway.rate)


def _time(seconds: int | None) -> str:
    """Format seconds as ``0:05``, ``1:02:03`` or ``2d 03h``."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02}h" if hours < 2400 else "> 99d"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short_time(seconds: int | None) -> str:
    """Format seconds in five columns: ``0:05``, ``1h02m``, ``50h`` or ``9d``."""
    if seconds is None or seconds < 3600:
        return _time(seconds)
    if seconds < 36000:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    hours = seconds // 3600
    return f"{hours}h" if hours < 100 else f"{min(hours // 24, 999)}d"


def _short(size: int) -> str:
    """Format bytes in six columns: ``3.0M``."""
    number, unit = human(size).split()
    return f"{number}{unit[0]}"


def _sizes(headway: Headway) -> str:
    if headway.size is None:
        return ""  # the bytes done are at the beginning of the line
    return human_of(max(0, headway.done), headway.size).rjust(_SIZES)


def _bar(headway: Headway, width: int) -> str:
    if headway.size is None:
        return ""
    filled = width if not headway.size else min(width, width * headway.done // headway.size)
    full, empty = _bar_characters()
    return full * filled + empty * (width - filled)


def _bar_characters() -> Sequence[str]:
    try:
        "━─".encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#-"
    return "━─"


def _shown(name: bytes) -> str:
    return "input" if name == b"-" else paths.show(paths.name_of(name) or name)


@dataclass
class _File:
    """A large file being transferred.

    Attributes:
        counted: Bytes of it that are counted as done.
        has_begun: True once bytes were reported; the first report includes what an earlier
            attempt left.
    """

    name: str
    size: int | None
    counted: int = 0
    has_begun: bool = False

    @property
    def left(self) -> float:
        """Bytes still to come; any further ones on the same connection belong to small files."""
        return math.inf if self.size is None else self.size - self.counted


class Bars(Printer):
    """A progress line for everything being transferred.

    As a context manager it draws the line, and erases it at the end. ``_lock`` guards all counters:
    several threads transfer files, and another one draws. It is never held while drawing.

    Args:
        clock: A monotonic clock, in seconds.
    """

    wants_totals = True

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app)
        self._clock = clock
        self._lock = threading.Lock()
        self._line = StatusLine(self._text)
        self._has_colors = app.shell.settings["color"] != "never" and may_color()
        self._files: dict[bytes, _File] = {}
        self._lanes: dict[int, _File] = {}  # the current large file of each thread
        self._last = b""
        self._done = 0
        self._left_earlier = 0
        self._count = 0
        self._expected = 0
        self._size = 0
        self._waiting: tuple[str, str] | None = None
        self._moved = clock()
        self._samples: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._app.flush()
        self._line.__exit__(*details)

    # reports from the transfer ----------------------------------------------------------------

    def totals(self, files: int, size: int) -> None:
        with self._lock:
            self._expected += files
            self._size += size

    def lost(self, error: FtpError) -> None:
        """Show nothing: `waiting` follows at once, and shows for how long."""

    def waiting(self, lost: float, left: float) -> None:
        with self._lock:
            self._waiting = waiting_line(lost, left), f"offline {int(lost)} s"

    def regained(self) -> None:
        with self._lock:
            self._waiting = None
            self._start_anew()

    def _start_anew(self) -> None:
        """Forget the rate measured so far."""
        self._moved = self._clock()
        self._samples.clear()

    def started(self, name: bytes, size: int | None) -> None:
        super().started(name, size)
        with self._lock:
            self._moved = self._clock()
            before = self._files.pop(name, None)
            if before is not None:  # restarted on a new connection: it is counted again
                self._done -= before.counted
                self._samples.clear()
            self._files[name] = self._lanes[threading.get_ident()] = _File(_shown(name), size)

    def advanced(self, count: int) -> None:
        with self._lock:
            # each thread has one connection, and its bytes come in order
            file = self._lanes.get(threading.get_ident())
            if file is not None:
                file.counted += int(min(count, file.left))
                if not file.has_begun:  # left by an earlier attempt: must not count for the rate
                    file.has_begun = True
                    self._left_earlier += count
            self._done += count
            self._moved = self._clock()

    def finished(self, result: Result) -> None:
        with self._lock:
            if result.step is None or result.step.action in ("put", "get"):
                self._count += 1
                self._last = result.source
            file = self._files.pop(result.source, None)
            if file is not None:
                self._lanes = {key: one for key, one in self._lanes.items() if one is not file}
        super().finished(result)

    # the line's text --------------------------------------------------------------------------

    def _text(self, width: int) -> str:
        return line(self.headway(), width, colored=self._has_colors)

    def headway(self) -> Headway:
        """Return the current progress."""
        with self._lock:
            now = self._clock()
            several = self._expected > 1 or self._count + len(self._files) > 1
            known = 0 < self._expected >= self._count
            size = self._size if known else None
            if size is None and not several:
                size = next((one.size for one in self._files.values()), None)
            expected = str(self._expected) if known else ""
            files = f"{self._count:>{len(expected)}}{f'/{expected}' * known} files"
            return Headway(
                self._done,
                size,
                files if several else "",
                self._name(),
                self._rate(now),
                self._stalled(now, size),
                self._waiting,
            )

    def _name(self) -> str:
        """Return the name of the file that began last and has bytes to come, or of the last one."""
        for file in reversed(self._files.values()):
            if file.left or len(self._files) == 1:
                return file.name
        return _shown(self._last)

    def _rate(self, now: float) -> float | None:
        samples, moved = self._samples, self._done - self._left_earlier
        if not samples or now - samples[-1][0] >= _SAMPLE_SECONDS:
            samples.append((now, moved))
            while now - samples[0][0] > _OVER_SECONDS:
                samples.popleft()
        began, before = samples[0]
        if now - began < _SAMPLE_SECONDS:
            return None
        return max(0, moved - before) / (now - began)

    def _stalled(self, now: float, size: int | None) -> int | None:
        """Return the seconds without bytes; None if few, or if only the reply is missing."""
        silent = now - self._moved
        if silent < _STALLED_FROM or (size is not None and self._done >= size):
            return None
        return int(silent)
