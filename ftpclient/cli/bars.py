"""Progress: what a transfer looks like on a terminal, in one line.

Lives here: what is counted, and the line's text for each width. Lives elsewhere: drawing it
(status_line.py), when there is one (progress.py).
"""

from __future__ import annotations

import math
import os
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
from ftpwire.cells import begun, cells, padded, shortened
from ftpwire.errors import FtpError
from ftpwire.units import human, human_of

_STALLED_FROM = 5.0
"""Seconds without bytes after which that is shown."""
_OVER_SECONDS = 10.0
"""The rate is that of so many last seconds."""
_SAMPLE_SECONDS = 0.2
_NARROW = 26
"""Columns below which the rate and the time left are written short: 19 are enough then."""
_LEAST_NAME = 8
_SIZES = len("999.9 of 999.9 MiB")
_SIZES_FROM = 60
_BAR_FROM = 90
_BAR_PART = 5
"""A bar takes this part of a wide line."""
_WIDEST_BAR = 40
_GAP = "  "


@dataclass(frozen=True)
class Headway:
    """How far a transfer is.

    Attributes:
        done: Bytes.
        size: Of how many; None when that isn't known.
        files: How many are done, of how many, where there are several.
        name: What is under way, as it is shown.
        rate: Bytes a second; None when that isn't known yet.
        stalled: Seconds for which none came, where that is worth saying.
        waiting: What is said instead of rate and time while there is no connection, and shorter.
    """

    done: int
    size: int | None = None
    files: str = ""
    name: str = ""
    rate: float | None = None
    stalled: int | None = None
    waiting: tuple[str, str] | None = None


def line(headway: Headway, width: int, *, colored: bool = False) -> str:
    """Headway in at most so many columns.

    From 19 on, how much is done, the rate and the time left are there; with more, what there is
    room for: how many files, the name, the sizes, a bar.
    """
    before, bar, after = _parts(headway, width)
    if bar and colored:
        bar = f"\x1b[36m{bar}\x1b[0m"  # where there is one, all has room
    return f"{before}{bar}{after}" if bar else begun(before + after, width)


def _parts(headway: Headway, width: int) -> tuple[str, str, str]:
    """What stands before the bar, the bar, and what follows."""
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
    """The part that is done; how much, when it isn't known of how much."""
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
    """Seconds that it still takes at that rate."""
    if headway.size is None or not headway.rate:
        return None
    return math.ceil(max(0, headway.size - headway.done) / headway.rate)


def _time(seconds: int | None) -> str:
    """``0:05``, ``1:02:03``, ``2d 03h``."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02}h" if hours < 2400 else "> 99d"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short_time(seconds: int | None) -> str:
    """The same in five columns: ``0:05``, ``1h02m``, ``50h``, ``9d``."""
    if seconds is None or seconds < 3600:
        return _time(seconds)
    if seconds < 36000:
        return f"{seconds // 3600}h{seconds // 60 % 60:02}m"
    hours = seconds // 3600
    return f"{hours}h" if hours < 100 else f"{min(hours // 24, 999)}d"


def _short(size: int) -> str:
    """Bytes in six columns: ``3.0M``."""
    number, unit = human(size).split()
    return f"{number}{unit[0]}"


def _sizes(headway: Headway) -> str:
    if headway.size is None:
        return ""  # what is done stands at the beginning
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
    """A large file under way.

    Attributes:
        counted: Bytes of it that are counted.
        has_begun: It was told whether it goes on with what an earlier try has left.
    """

    name: str
    size: int | None
    counted: int = 0
    has_begun: bool = False

    @property
    def left(self) -> float:
        """Those that are still to come: what follows them is of small files."""
        return math.inf if self.size is None else self.size - self.counted


class Bars(Printer):
    """A line of progress of all that is under way.

    As a context manager it draws it, and takes it away at the end.

    Args:
        clock: Seconds, of a clock that runs on.
    """

    wants_totals = True

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app)
        self._clock = clock
        self._lock = threading.Lock()
        self._line = StatusLine(self._text)
        self._has_colors = app.shell.settings["color"] != "never" and not os.environ.get("NO_COLOR")
        self._files: dict[bytes, _File] = {}
        self._lanes: dict[int, _File] = {}
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

    # what is heard ---------------------------------------------------------------------------

    def totals(self, files: int, size: int) -> None:
        with self._lock:
            self._expected += files
            self._size += size

    def lost(self, error: FtpError) -> None:
        """Only how long it takes is shown: `waiting` follows at once."""

    def waiting(self, lost: float, left: float) -> None:
        with self._lock:
            self._waiting = waiting_line(lost, left), f"offline {int(lost)} s"

    def regained(self) -> None:
        with self._lock:
            self._waiting = None
            self._start_anew()

    def _start_anew(self) -> None:
        """The rate of before says nothing any more."""
        self._moved = self._clock()
        self._samples.clear()

    def started(self, name: bytes, size: int | None) -> None:
        super().started(name, size)
        with self._lock:
            self._moved = self._clock()
            before = self._files.pop(name, None)
            if before is not None:  # on a new connection: it is counted once more
                self._done -= before.counted
                self._samples.clear()
            self._files[name] = self._lanes[threading.get_ident()] = _File(_shown(name), size)

    def advanced(self, count: int) -> None:
        with self._lock:
            # each thread has one connection, and its bytes come in order
            file = self._lanes.get(threading.get_ident())
            if file is not None:
                file.counted += int(min(count, file.left))
                if not file.has_begun:  # this is what an earlier try has left: it takes no time
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

    # what is shown ---------------------------------------------------------------------------

    def _text(self, width: int) -> str:
        return line(self.headway(), width, colored=self._has_colors)

    def headway(self) -> Headway:
        """How far it is now."""
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
        """Of the file that began last and isn't only waited for; or what ended last."""
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
        """Seconds without bytes. When all have come only the answer is waited for."""
        silent = now - self._moved
        if silent < _STALLED_FROM or (size is not None and self._done >= size):
            return None
        return int(silent)
