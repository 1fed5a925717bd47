"""Points in time and durations, in the notation of the command line.

Lives here: parsing times given to commands; formatting how long ago or until when.
Lives elsewhere: durations and dates of settings (ftpwire/units.py), times of files (render.py).
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

from ftpwire.units import parse_duration

_NS = 10**9
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_AGO = re.compile(
    r"([0-9]{1,9})\s*(s|m|min|h|d|w|seconds?|minutes?|hours?|days?|weeks?)(?:\s+ago)?"
)
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")


def moment(text: str) -> int:
    """Parse a date, in local time if it has no zone. Returns nanoseconds since 1970.

    Raises ValueError.
    """
    text = text.strip()
    if text == "now":
        return time.time_ns()
    if text.startswith("@"):
        try:
            return int(text[1:]) * _NS
        except ValueError:
            raise ValueError(f"{text!r}: write @ and the seconds since 1970") from None
    try:
        return nanoseconds(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write 2030-12-31, 2030-12-31T18:00Z or @SECONDS"
        ) from None


def past(text: str) -> int:
    """Parse a time in the past. Returns nanoseconds since 1970.

    It may be a date as for `moment`, an age (``2h``, ``10 min ago``), a time of today (``18:00``),
    or ``today`` or ``yesterday``, which stand for midnight at their beginning. Raises ValueError.
    """
    text = text.strip()
    if (match := _AGO.fullmatch(text)) is not None:
        return time.time_ns() - parse_duration(match[1] + match[2][0]) * _NS
    day = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return nanoseconds(day - timedelta(days=text == "yesterday"))
    if (match := _CLOCK.fullmatch(text)) is not None:
        hour, minute, second = (int(part or 0) for part in match.groups())
        return nanoseconds(day.replace(hour=hour, minute=minute, second=second))
    if text.startswith("@"):
        return moment(text)
    try:
        return moment(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write 2h (for 2 hours ago), yesterday, 2030-12-31 or "
            "2030-12-31T18:00"
        ) from None


def nanoseconds(when: datetime) -> int:
    """Return nanoseconds since 1970, from local time if there is no zone. Raises ValueError."""
    try:
        seconds = int(when.replace(microsecond=0).timestamp())
    except (OverflowError, OSError):
        raise ValueError("date out of range") from None
    return seconds * _NS + when.microsecond * 1000


def span(seconds: int) -> str:
    """Format a duration in its largest unit: ``10 min``."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def ago(moment_ns: int) -> str:
    """Format how long ago a time was: ``10 min ago``; ``just now`` within a second."""
    seconds = max(0, time.time_ns() - moment_ns) // _NS
    return f"{span(seconds)} ago" if seconds else "just now"


def until(seconds: int | None) -> str:
    """Format until when something is kept: ``until Dec 5``, or ``until 14:30`` within a day.

    Args:
        seconds: The end in seconds since 1970; None for ever.
    """
    if seconds is None:
        return "for ever"
    try:
        when = datetime.fromtimestamp(seconds)
    except (OverflowError, ValueError, OSError):
        return f"until @{seconds}"  # beyond the range of dates
    if seconds - time.time() < 86400:
        return f"until {when:%H:%M}"
    return f"until {when:%b} {when.day}"
