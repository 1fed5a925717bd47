"""The progress of a transfer as one line of text, for each width of a terminal.

Lives here: the text. Lives elsewhere: counting (counting.py), drawing it (bars.py).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ftpwire.cells import begun, cells, padded, shortened
from ftpwire.units import human, human_of

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
        count: The number of files done.
        failed: The number of files that failed.
    """

    done: int
    size: int | None = None
    files: str = ""
    name: str = ""
    rate: float | None = None
    stalled: int | None = None
    waiting: tuple[str, str] | None = None
    count: int = 0
    failed: int = 0


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
    begin = share(headway, width)
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


def share(headway: Headway, width: int) -> str:
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
    return f"{rate:>11}" + (
        "" if headway.size is None else f"{_GAP}{time_text(seconds_left(headway)):>7}"
    )


def _narrow_speed(headway: Headway) -> str:
    if headway.stalled is not None:
        return f"stalled {headway.stalled} s"
    rate = "" if headway.rate is None else f"{_short(int(headway.rate))}/s"
    return f"{rate:>8}" + (
        "" if headway.size is None else f" {_short_time(seconds_left(headway)):>5}"
    )


def seconds_left(headway: Headway) -> int | None:
    """Return the estimated seconds left at the current rate; None if unknown."""
    if headway.size is None or not headway.rate:
        return None
    return math.ceil(max(0, headway.size - headway.done) / headway.rate)


def time_text(seconds: int | None) -> str:
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
        return time_text(seconds)
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
