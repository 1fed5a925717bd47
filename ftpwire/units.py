"""Sizes, durations and times in the form that users read and write.

Lives here: conversion from text to bytes or seconds and back, the same in both programs.
"""

from __future__ import annotations

import re
import time

_SIZE = r"(?i)([0-9]+)(?:\.([0-9]+))?\s*(?:([KMGT])(?:iB)?|B)?"
_MAX_DIGITS = 20
_NEEDS_UNIT = 4096
"""Smallest plausible size without a unit, besides 0: a smaller number was probably meant as MiB."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Return the bytes of a size that a user wrote: ``10MiB``, ``1.5G``, ``4096``.

    Raises:
        ValueError: It is not a size.
    """
    match = re.fullmatch(_SIZE, text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: use bytes, or KiB, MiB, GiB, TiB")
    whole, part, letter = match[1], match[2] or "", match[3] or ""
    unit = _UNITS[letter.upper()]
    digits = part[:_MAX_DIGITS]  # integer arithmetic: a float is inexact beyond 8 PiB
    scale: int = 10 ** len(digits)
    size = int(whole[-_MAX_DIGITS:]) * unit + int(digits or "0") * unit // scale
    if len(whole.lstrip("0")) > _MAX_DIGITS or size >= 2**63:
        raise ValueError(f"{text[:40]!r} is too large")
    return size


def parse_typed_size(text: str) -> int:
    """Return the bytes of a size that was given as an option, where ``5`` is a mistake for
    ``5MiB``.

    Raises:
        ValueError: It is not a size, or a small number without a unit.
    """
    size, bare = parse_size(text), text.strip()
    if bare.isdigit() and 0 < size < _NEEDS_UNIT:
        raise ValueError(f"{text!r} has no unit: write {bare}MiB, or {bare}B for bytes")
    return size


def human(size: int) -> str:
    """Return a size in human-readable form: ``1.5 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        # at most three digits before the point: so the width hardly varies while a number grows
        if value < (1024 if unit == "B" else 999.95):
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def needed_and_free(needed: int, free: int) -> tuple[str, str]:
    """Return two sizes in human-readable form; in bytes if they would look the same otherwise."""
    many, few = human(needed), human(free)
    return (many, few) if many != few else (f"{needed} bytes", f"{free} bytes")


def human_of(done: int, size: int) -> str:
    """Return a part of a size, in the unit of the whole: ``7.5 of 20.0 MiB``."""
    number, unit = human(size).split()
    scale = 1 if unit == "B" else _UNITS[unit[0]]
    part = min(done / scale, float(number))
    return f"{part:.0f} of {number} B" if unit == "B" else f"{part:.1f} of {number} {unit}"


_DURATION = r"(?i)([0-9]{1,9})\s*([smhdw])"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def parse_duration(text: str) -> int:
    """Return the seconds of a duration that a user wrote: ``90s``, ``15m``, ``12h``, ``30d``,
    ``2w``.

    Raises:
        ValueError: It is not a duration.
    """
    match = re.fullmatch(_DURATION, text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: use a number with s, m, h, d or w, e.g. 30d")
    return int(match[1]) * _SECONDS[match[2].lower()]


def span(seconds: float) -> str:
    """Return a duration in human-readable form: ``59 s``, ``3:05``, ``2:03:05``, ``4 d 2 h``."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02}"
    days, hours_of_day = divmod(hours, 24)
    return f"{days} d {hours_of_day} h" if days else f"{hours}:{minutes:02}:{rest:02}"


def parse_moment(text: str, now: float | None = None) -> int:
    """Return the time, in seconds since 1970, of a date, a date with a time, or a duration from
    now.

    A date means its beginning. A time without a zone is in UTC, as all times that are shown.

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
            f"{text!r} is not a date or duration: use 2030-12-31, 2030-12-31T18:00 or 30d"
        ) from None
    try:
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (OverflowError, ValueError):
        raise ValueError(f"{text!r} is beyond the supported dates") from None


_AGO = r"(?i)([0-9]{1,9})\s*(second|minute|hour|day|week)s?\s+ago"
_CLOCK = r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?"


def parse_past(text: str, now: float | None = None) -> float:
    """Return a past time in seconds since 1970: how long ago (``2h``, ``2 hours ago``), ``now``,
    ``today`` and ``yesterday`` (their beginnings), a time of today (``18:00``), or what
    `parse_moment` accepts. All times are in UTC.

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
            f"{text!r} is not a time: use 2h, yesterday, 18:00, 2030-12-31 or 2030-12-31T18:00"
        ) from None


def iso(seconds: int) -> str:
    """Return a time in ISO 8601 in UTC: ``2030-12-31T18:00:00Z``."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)  # beyond the year 9999
