"""Sizes, durations and moments as people write and read them.

Lives here: text to bytes or seconds and back, the same in both programs.
"""

from __future__ import annotations

import re
import time

_SIZE = r"(?i)([0-9]+)(?:\.([0-9]+))?\s*(?:([KMGT])(?:iB)?|B)?"
_MAX_DIGITS = 20
_NEEDS_UNIT = 4096
"""Bare numbers below this are mistakes for MiB, most likely; 0 is not."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Bytes for what people write: ``10MiB``, ``1.5G``, ``4096``.

    Raises:
        ValueError: It is not a size.
    """
    match = re.fullmatch(_SIZE, text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: use bytes, or KiB, MiB, GiB, TiB")
    whole, part, letter = match[1], match[2] or "", match[3] or ""
    unit = _UNITS[letter.upper()]
    digits = part[:_MAX_DIGITS]  # in whole numbers, because a float forgets bytes beyond 8 PiB
    scale: int = 10 ** len(digits)
    size = int(whole[-_MAX_DIGITS:]) * unit + int(digits or "0") * unit // scale
    if len(whole.lstrip("0")) > _MAX_DIGITS or size >= 2**63:
        raise ValueError(f"{text[:40]!r} is more than any disk has")
    return size


def parse_typed_size(text: str) -> int:
    """The same for what is typed as an option, where ``5`` is a mistake for ``5MiB``.

    Raises:
        ValueError: It is not a size, or a small number without a unit.
    """
    size, bare = parse_size(text), text.strip()
    if bare.isdigit() and 0 < size < _NEEDS_UNIT:
        raise ValueError(f"{text!r} has no unit: write {bare}MiB, or {bare}B for bytes")
    return size


def human(size: int) -> str:
    """Bytes for people: ``1.5 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        # three digits before the dot: it doesn't get wider and narrower while it grows
        if value < (1024 if unit == "B" else 999.95):
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def needed_and_free(needed: int, free: int) -> tuple[str, str]:
    """Two sizes for people, of which one is too much: in bytes, where they would look the same."""
    many, few = human(needed), human(free)
    return (many, few) if many != few else (f"{needed} bytes", f"{free} bytes")


def human_of(done: int, size: int) -> str:
    """A part of some bytes for people, in the unit of the whole: ``7.5 of 20.0 MiB``."""
    number, unit = human(size).split()
    scale = 1 if unit == "B" else _UNITS[unit[0]]
    part = min(done / scale, float(number))
    return f"{part:.0f} of {number} B" if unit == "B" else f"{part:.1f} of {number} {unit}"


_DURATION = r"(?i)([0-9]{1,9})\s*([smhdw])"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def parse_duration(text: str) -> int:
    """Seconds for what people write: ``90s``, ``15m``, ``12h``, ``30d``, ``2w``.

    Raises:
        ValueError: It is not a duration.
    """
    match = re.fullmatch(_DURATION, text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: use a number and s, m, h, d or w, as 30d")
    return int(match[1]) * _SECONDS[match[2].lower()]


def parse_moment(text: str, now: float | None = None) -> int:
    """Seconds since 1970 for a date, a date with a time, or how long from now.

    A date means its beginning. Without a zone it is UTC, as all times that are told.

    Raises:
        ValueError: It is none of these.
    """
    from datetime import UTC, datetime

    if re.fullmatch(_DURATION, text.strip()):
        return int(time.time() if now is None else now) + parse_duration(text)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no date and no duration: use 2030-12-31, 2030-12-31T18:00 or 30d"
        ) from None
    try:
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (OverflowError, ValueError):
        raise ValueError(f"{text!r} lies beyond all dates") from None


_AGO = r"(?i)([0-9]{1,9})\s*(second|minute|hour|day|week)s?\s+ago"
_CLOCK = r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?"


def parse_past(text: str, now: float | None = None) -> float:
    """Seconds since 1970 for a moment of the past: how long ago (``2h``, ``2 hours ago``), ``now``,
    ``today`` and ``yesterday`` (their beginnings), a time of today (``18:00``), or what
    `parse_moment` reads. All of it is UTC.

    Raises:
        ValueError: It is none of these.
    """
    moment, typed = time.time() if now is None else now, text.strip().lower()
    day = 24 * 3600
    midnight = moment // day * day
    words = {"now": moment, "today": midnight, "yesterday": midnight - day}
    if typed in words:
        return words[typed]
    if (found := re.fullmatch(_AGO, typed)) is not None:
        return moment - int(found[1]) * _SECONDS[found[2][0]]
    if (found := re.fullmatch(_CLOCK, typed)) is not None:
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return midnight + hours * 3600 + minutes * 60 + seconds
    if re.fullmatch(_DURATION, typed):
        return moment - parse_duration(typed)
    try:
        return parse_moment(text)
    except ValueError as error:
        if "beyond" in str(error):
            raise
        raise ValueError(
            f"{text!r} is no time: use 2h, yesterday, 18:00, 2030-12-31 or 2030-12-31T18:00"
        ) from None


def iso(seconds: int) -> str:
    """A moment as ISO 8601 in UTC: ``2030-12-31T18:00:00Z``."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)  # beyond the year 9999
